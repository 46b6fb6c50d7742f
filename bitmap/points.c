/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * points.c - a chain of points, and what each of them is still good for
 *
 *      snapshot 1         snapshot 4         snapshot 5
 *          |                  |                  |
 *     ---[ point 1 ]------[ point 4 ]------[ point 5 ]------ the disk
 *
 * Point 4 has what was overwritten between 4 and 5, as it was at 4. Snapshot 1
 * reads a cluster in the first of 1, 4, 5 that has it, else from the disk.
 *
 * A copy is needed before a write if the youngest live snapshot would find the
 * cluster on the disk. It goes to that snapshot's own point, so those that are
 * not live never get more.
 *
 * A snapshot that is deleted leaves its point to the next older live one, call
 * it O, which resolves to it in whatever no point from O on, and before this
 * one, has. All else in it is useless, and stays so: when O is deleted in its
 * turn its point stays in the chain as far as an older one needs that. So who
 * looks for what is (not) needed may let go of the lock on the way.
 *
 * What is unsure is in nobody's way here: a point that may have a cluster ends
 * the search of a reader, and of a write, but an older copy is not thrown away
 * for it. The file may be readable another time.
 *
 * The lock is in the way of guest writes. Under it each bitmap of the chain is
 * searched once, by its summaries, or LOOK_WORDS words are looked at.
 */
#include "points.h"

#include "points-private.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define LOOK_WORDS 1024 /* of 64 clusters, at a time */

struct Points {
    pthread_mutex_t lock;
    /* guarded by lock; only the writer changes them */
    Point *oldest, *youngest;
    Point *copied_to; /* the youngest live one */
};

static void
lock(Points *points)
{
    int r = pthread_mutex_lock(&points->lock);

    assert(r == 0);
}

static void
unlock(Points *points)
{
    int r = pthread_mutex_unlock(&points->lock);

    assert(r == 0);
}

Points *
points_new(void)
{
    Points *points = calloc(1, sizeof(*points));

    if (points && pthread_mutex_init(&points->lock, NULL)) {
        free(points);
        return NULL;
    }
    return points;
}

void
points_free(Points *points)
{
    Point *point, *next;

    if (!points) {
        return;
    }
    for (point = points->oldest; point; point = next) {
        next = point->younger;
        point_free(point);
    }
    pthread_mutex_destroy(&points->lock);
    free(points);
}

/*
 * The chain
 */
static Point *
find_locked(const Points *points, uint64_t id)
{
    Point *point = points->youngest;

    /* Whoever asks asks mostly for a young one. */
    while (point && point->id > id) {
        point = point->older;
    }
    return point && point->id == id ? point : NULL;
}

static void
choose_locked(Points *points)
{
    Point *point = points->youngest;

    while (point && !point->is_live) {
        point = point->older;
    }
    points->copied_to = point;
}

void
points_add(Points *points, Point *point)
{
    lock(points);
    assert(!points->youngest || points->youngest->id < point->id);
    point->is_live = true;
    point->older = points->youngest;
    *(point->older ? &point->older->younger : &points->oldest) = point;
    points->youngest = point;
    points->copied_to = point;
    unlock(points);
}

void
points_set_live(Points *points, uint64_t id, bool is_live)
{
    Point *point;

    lock(points);
    point = find_locked(points, id);
    if (point) {
        assert(point->is_live || !is_live);
        point->is_live = is_live;
        choose_locked(points);
    }
    unlock(points);
}

/*
 * Bitmaps of a part of the chain. They are of the size that the disk had then.
 */
struct Chain {
    const Point *first, *last; /* without the last; NULL: all younger ones */
};

static uint64_t
word_of(const Bitmap *map, uint64_t w)
{
    return bitmap_count(map) && w << 6 < bitmap_clusters(map)
               ? bitmap_word(map, w)
               : 0;
}

static bool
has(const Bitmap *map, uint64_t cluster)
{
    return (word_of(map, cluster >> 6) >> (cluster & 63)) & 1;
}

static uint64_t
min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* First cluster within [@from, @end) that is in @map, or @end. Most of what is
 * asked ends within a word or two: no need to know what comes behind. */
static uint64_t
next_in(const Bitmap *map, uint64_t from, uint64_t end)
{
    if (!bitmap_count(map)) {
        return end;
    }
    for (unsigned i = 0; i < 2 && from < end; i++) {
        uint64_t near = word_of(map, from >> 6) >> (from & 63);

        if (near) {
            return min(end, from + (unsigned)__builtin_ctzll(near));
        }
        from = (from | 63) + 1;
    }
    return from < end ? min(end, bitmap_next_dirty(map, from)) : end;
}

/* ... that one of them has, or may have; or @end. */
static uint64_t
next_in_chain(struct Chain chain, uint64_t from, uint64_t end)
{
    for (const Point *p = chain.first; p != chain.last && from < end;
         p = p->younger) {
        end = next_in(p->kept, from, end);
        end = next_in(p->unsure, from, end);
    }
    return end;
}

/* ... that none of them has; or @end. Cost: words. */
static uint64_t
next_not_in_chain(struct Chain chain, uint64_t from, uint64_t end)
{
    while (from < end) {
        uint64_t w = from >> 6;
        uint64_t lacks = UINT64_MAX << (from & 63);

        for (const Point *p = chain.first; p != chain.last && lacks;
             p = p->younger) {
            lacks &= ~(word_of(p->kept, w) | word_of(p->unsure, w));
        }
        if (lacks) {
            return min(end, (w << 6) + (unsigned)__builtin_ctzll(lacks));
        }
        from = (w + 1) << 6;
    }
    return end;
}

/*
 * The writer
 */
Point *
points_youngest(const Points *points)
{
    return points->copied_to;
}

static bool
next_missing(const Point *point, uint64_t from, uint64_t end,
             struct ClusterRun *run)
{
    struct Chain chain = {point, NULL};

    end = min(end, bitmap_clusters(point->kept));
    from = next_not_in_chain(chain, from, end);
    *run = (struct ClusterRun){from, next_in_chain(chain, from, end) - from};
    return from < end;
}

bool
points_next_missing(const Points *points, uint64_t from, uint64_t end,
                    struct ClusterRun *run)
{
    return points->copied_to && next_missing(points->copied_to, from, end, run);
}

void
points_keep(Points *points, Point *point, struct ClusterRun run)
{
    lock(points);
    bitmap_set_run(point->kept, run);
    unlock(points);
}

void
points_use(Points *points, Point *point)
{
    lock(points);
    point->users++;
    unlock(points);
}

Point *
points_remove(Points *points, uint64_t id)
{
    Point *point;

    lock(points);
    point = find_locked(points, id);
    if (point && !point->users) {
        *(point->older ? &point->older->younger : &points->oldest) =
            point->younger;
        *(point->younger ? &point->younger->older : &points->youngest) =
            point->older;
        point->older = point->younger = NULL;
        choose_locked(points);
    } else {
        point = NULL;
    }
    unlock(points);
    return point;
}

/*
 * Looking
 */
static enum PointsPlace
find_in_chain(const Point *first, uint64_t cluster, uint64_t max, Point **found,
              uint64_t *count)
{
    uint64_t end = cluster + min(max, UINT64_MAX - cluster);
    const Point *p = first;
    bool is_unsure = false;

    while (p && !(is_unsure = has(p->unsure, cluster)) &&
           !has(p->kept, cluster)) {
        p = p->younger;
    }
    /* As far as none before it does, and it says the same. */
    end = next_in_chain((struct Chain){first, p}, cluster, end);
    if (is_unsure) {
        end = min(end, bitmap_next_clean(p->unsure, cluster));
    } else if (p) {
        end = min(end, bitmap_next_clean(p->kept, cluster));
        end = next_in(p->unsure, cluster, end);
    }
    if (p) {
        end = min(end, bitmap_clusters(p->kept));
    }
    *count = end - cluster;
    *found = is_unsure ? NULL : (Point *)p;
    return is_unsure ? POINTS_UNSURE : p ? POINTS_FILE : POINTS_DISK;
}

enum PointsPlace
points_find(Points *points, uint64_t id, uint64_t cluster, uint64_t max,
            Point **point, uint64_t *count)
{
    enum PointsPlace place = POINTS_GONE;
    const Point *first;

    *point = NULL;
    *count = max;
    lock(points);
    first = find_locked(points, id);
    if (first && first->is_live) {
        place = find_in_chain(first, cluster, max, point, count);
        if (*point) {
            (*point)->users++;
        }
    }
    unlock(points);
    return place;
}

void
points_done(Points *points, Point *point)
{
    lock(points);
    assert(point->users);
    point->users--;
    unlock(points);
}

bool
points_is_live(Points *points, uint64_t id)
{
    const Point *point;
    bool is_live;

    lock(points);
    point = find_locked(points, id);
    is_live = point && point->is_live;
    unlock(points);
    return is_live;
}

unsigned
points_count(Points *points)
{
    unsigned count = 0;

    lock(points);
    for (const Point *p = points->oldest; p; p = p->younger) {
        count++;
    }
    unlock(points);
    return count;
}

bool
points_next_changed(Points *points, uint64_t a, uint64_t b, uint64_t from,
                    uint64_t end, struct ClusterRun *run)
{
    struct Chain chain;
    uint64_t at = end, behind = end;

    lock(points);
    chain.first = find_locked(points, a);
    chain.last = b ? find_locked(points, b) : NULL;
    if (chain.first && (chain.last || !b)) {
        at = next_in_chain(chain, from, end);
        behind = min(end, at + min(LOOK_WORDS << 6, UINT64_MAX - at));
        behind = next_not_in_chain(chain, at, behind);
    }
    unlock(points);
    *run = (struct ClusterRun){at, behind - at};
    return at < end;
}

/*
 * What a point is still good for
 */
struct Look {
    const Point *point;
    bool is_needed; /* look for what is needed; or for what is not */
    unsigned budget;
    /* Who resolves to it first, NULL: nobody; of the clusters up to this. */
    const Point *heir;
    uint64_t heir_end;
};

/* The next older one that is live and has such a cluster. */
static void
choose_heir(struct Look *look, uint64_t cluster)
{
    const Point *p = look->point->older;

    while (p && (!p->is_live || cluster >= bitmap_clusters(p->kept))) {
        p = p->older;
    }
    look->heir = p;
    look->heir_end = p ? bitmap_clusters(p->kept) : UINT64_MAX;
}

/* Those looked for in the word of @cluster, from there up to *@end. */
static uint64_t
look_at(struct Look *look, uint64_t cluster, uint64_t *end)
{
    const Point *point = look->point;
    uint64_t w = cluster >> 6, covered, bits;

    if (cluster >= look->heir_end) {
        choose_heir(look, cluster);
    }
    *end = min((w + 1) << 6, look->heir_end);
    covered = look->heir ? 0 : UINT64_MAX;
    for (const Point *p = look->heir; p && p != point; p = p->younger) {
        covered |= word_of(p->kept, w);
        look->budget -= look->budget > 0;
    }
    look->budget -= look->budget > 0;
    bits = word_of(point->kept, w);
    if (look->is_needed) {
        bits = (bits | word_of(point->unsure, w)) & ~covered;
    } else {
        bits &= covered;
    }
    return bits & (UINT64_MAX << (cluster & 63)) &
           (UINT64_MAX >> (63 - ((*end - 1) & 63)));
}

/* The first run of @bits, of word @w. */
static struct ClusterRun
run_of(uint64_t w, uint64_t bits)
{
    unsigned first = (unsigned)__builtin_ctzll(bits);
    uint64_t rest = ~(bits >> first);

    return (struct ClusterRun){(w << 6) + first,
                               rest ? (unsigned)__builtin_ctzll(rest) : 64};
}

/* The first run from *@from on; or false, and there is none up to there. */
static bool
look_locked(struct Look *look, uint64_t *from, struct ClusterRun *run)
{
    struct Chain self = {look->point, look->point->younger};
    uint64_t bits = 0;

    while (!bits) {
        *from = next_in_chain(self, *from, UINT64_MAX);
        if (!look->budget || *from == UINT64_MAX) {
            return false;
        }
        bits = look_at(look, *from, from);
        *run = bits ? run_of((*from - 1) >> 6, bits) : *run;
    }
    while (run->first + run->count == *from && look->budget) {
        uint64_t at = *from;

        bits = look_at(look, at, from);
        if (!((bits >> (at & 63)) & 1)) {
            break;
        }
        run->count += run_of(at >> 6, bits).count;
    }
    return true;
}

/* In one that is not live. It is found anew after each time the lock was let
 * go. */
static bool
look_for(Points *points, uint64_t id, bool is_needed, uint64_t from,
         uint64_t end, struct ClusterRun *run)
{
    bool is_found = false;

    while (!is_found && from < end) {
        struct Look look = {.is_needed = is_needed, .budget = LOOK_WORDS};

        lock(points);
        look.point = find_locked(points, id);
        if (look.point && !look.point->is_live) {
            is_found = look_locked(&look, &from, run);
        } else {
            from = end;
        }
        unlock(points);
        /* Not to be stopped with the lock in hand the next time. */
        (void)sched_yield();
    }
    return is_found;
}

bool
points_next_useless(Points *points, uint64_t id, uint64_t from, uint64_t end,
                    struct ClusterRun *run)
{
    if (!look_for(points, id, false, from, end, run) || run->first >= end) {
        return false;
    }
    run->count = min(run->count, end - run->first);
    return true;
}

bool
points_is_needed(Points *points, uint64_t id)
{
    struct ClusterRun run;

    return points_is_live(points, id) ||
           look_for(points, id, true, 0, UINT64_MAX, &run);
}

bool
points_figures(Points *points, uint64_t id, struct PointFigures *figures)
{
    const Point *point;

    lock(points);
    point = find_locked(points, id);
    if (point) {
        *figures = (struct PointFigures){
            .size_bytes = point->size_bytes,
            .kept_clusters = bitmap_count(point->kept),
            .unsure_clusters = bitmap_count(point->unsure),
            .cluster_bits = bitmap_cluster_bits(point->kept),
            .is_live = point->is_live,
        };
    }
    unlock(points);
    return point != NULL;
}
