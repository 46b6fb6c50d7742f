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
 * turn its point stays in the chain as far as an older one needs that.
 */
#include "points.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct Point {
    /* set at creation */
    uint64_t id;
    uint64_t size_bytes;
    int map_fd, data_fd;
    /* before it is added its maker's, then guarded by Points.lock; only the
     * writer changes them */
    Bitmap *kept, *unsure;
    Point *older, *younger;
    bool is_live;
    /* guarded by Points.lock */
    unsigned users; /* of its data file */
};

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

Point *
point_new(uint64_t id, uint64_t size_bytes, unsigned cluster_bits, int map_fd,
          int data_fd)
{
    Point *point = calloc(1, sizeof(*point));

    if (!point) {
        return NULL;
    }
    point->id = id;
    point->size_bytes = size_bytes;
    point->map_fd = map_fd;
    point->data_fd = data_fd;
    point->kept = bitmap_new(size_bytes, cluster_bits);
    point->unsure = bitmap_new(size_bytes, cluster_bits);
    if (!point->kept || !point->unsure) {
        point_free(point);
        return NULL;
    }
    return point;
}

void
point_free(Point *point)
{
    if (point) {
        bitmap_free(point->kept);
        bitmap_free(point->unsure);
        free(point);
    }
}

Bitmap *
point_kept(Point *point)
{
    return point->kept;
}

Bitmap *
point_unsure(Point *point)
{
    return point->unsure;
}

uint64_t
point_id(const Point *point)
{
    return point->id;
}

uint64_t
point_size_bytes(const Point *point)
{
    return point->size_bytes;
}

int
point_map_fd(const Point *point)
{
    return point->map_fd;
}

int
point_data_fd(const Point *point)
{
    return point->data_fd;
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
        point->is_live = is_live;
        choose_locked(points);
    }
    unlock(points);
}

/* The next live one that is older, or NULL. */
static Point *
heir_of(const Point *point)
{
    Point *older = point->older;

    while (older && !older->is_live) {
        older = older->older;
    }
    return older;
}

/* Both bitmaps are of the size that the disk had then. */
static bool
has(const Bitmap *map, uint64_t cluster)
{
    return cluster < bitmap_clusters(map) && bitmap_get(map, cluster);
}

static bool
point_has(const Point *point, uint64_t cluster)
{
    return has(point->kept, cluster) || has(point->unsure, cluster);
}

/* First cluster from @from on that @point says something of, or UINT64_MAX. */
static uint64_t
next_in(const Point *point, uint64_t from)
{
    uint64_t kept = UINT64_MAX, unsure = UINT64_MAX;

    if (from < bitmap_clusters(point->kept)) {
        kept = bitmap_next_dirty(point->kept, from);
        unsure = bitmap_next_dirty(point->unsure, from);
    }
    return kept < unsure ? kept : unsure;
}

/* First cluster from @from on that it says nothing of; @from is one of it. */
static uint64_t
next_not_in(const Point *point, uint64_t from)
{
    uint64_t clusters = bitmap_clusters(point->kept);

    while (from < clusters && point_has(point, from)) {
        from = bitmap_get(point->kept, from)
                   ? bitmap_next_clean(point->kept, from)
                   : bitmap_next_clean(point->unsure, from);
    }
    return from < clusters ? from : clusters;
}

/*
 * Of the points from @first up to @last, not included (NULL: all younger ones):
 * the first cluster from @from on that one of them has, or @end; and behind the
 * first run of them, as one of them has it.
 */
static uint64_t
next_in_chain(const Point *first, const Point *last, uint64_t from,
              uint64_t end, uint64_t *behind)
{
    const Point *found = NULL;
    uint64_t at = end;

    for (const Point *p = first; p != last; p = p->younger) {
        uint64_t next = next_in(p, from);

        if (next < at) {
            at = next;
            found = p;
        }
    }
    *behind = found ? next_not_in(found, at) : end;
    *behind = *behind < end ? *behind : end;
    return at;
}

/* The first run within [@from, @end) that none of them has. */
static bool
next_not_in_chain(const Point *first, const Point *last, uint64_t from,
                  uint64_t end, struct ClusterRun *run)
{
    uint64_t behind;

    while (from < end) {
        uint64_t next = next_in_chain(first, last, from, end, &behind);

        if (next > from) {
            *run = (struct ClusterRun){from, next - from};
            return true;
        }
        from = behind;
    }
    return false;
}

/*
 * The writer
 */
Point *
points_youngest(const Points *points)
{
    return points->copied_to;
}

bool
points_next_missing(const Points *points, uint64_t from, uint64_t end,
                    struct ClusterRun *run)
{
    const Point *point = points->copied_to;
    uint64_t clusters;

    if (!point) {
        return false;
    }
    clusters = bitmap_clusters(point->kept);
    return next_not_in_chain(point, NULL, from, end < clusters ? end : clusters,
                             run);
}

void
points_keep(Points *points, Point *point, struct ClusterRun run)
{
    lock(points);
    bitmap_set_run(point->kept, run);
    unlock(points);
}

void
points_keep_missing(Points *points, Point *point, struct ClusterRun run)
{
    uint64_t clusters = bitmap_clusters(point->kept);
    uint64_t end = run.first + run.count;

    end = end < clusters ? end : clusters;
    while (next_not_in_chain(point, NULL, run.first, end, &run)) {
        points_keep(points, point, run);
        run.first += run.count;
    }
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
    const Point *p = first;
    uint64_t end = cluster + max, behind;

    *found = NULL;
    while (p && !point_has(p, cluster)) {
        p = p->younger;
    }
    if (!p) {
        *count = next_in_chain(first, NULL, cluster, end, &behind) - cluster;
        return POINTS_DISK;
    }
    /* As far as it has them, and none before it does. */
    behind = next_not_in(p, cluster);
    end = behind < end ? behind : end;
    *count = next_in_chain(first, p, cluster, end, &behind) - cluster;
    if (has(p->unsure, cluster)) {
        *count = 1;
        return POINTS_UNSURE;
    }
    behind = bitmap_next_dirty(p->unsure, cluster);
    *count = behind - cluster < *count ? behind - cluster : *count;
    *found = (Point *)p;
    return POINTS_FILE;
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
    const Point *first, *last;
    uint64_t at = end, behind = end;

    lock(points);
    first = find_locked(points, a);
    last = b ? find_locked(points, b) : NULL;
    if (first && (last || !b)) {
        at = next_in_chain(first, last, from, end, &behind);
        /* Others may go on where it ends. */
        for (uint64_t next = behind, to; next == behind && next < end;
             behind = to) {
            next = next_in_chain(first, last, behind, end, &to);
            to = next == behind ? to : behind;
        }
    }
    unlock(points);
    *run = (struct ClusterRun){at, behind - at};
    return at < end;
}

/* First run in @point that nobody (@is_useless) or somebody resolves to. */
static bool
next_locked(const Point *point, bool is_useless, uint64_t from, uint64_t end,
            struct ClusterRun *run)
{
    const Point *heir = heir_of(point);

    while (bitmap_next_run(point->kept, from, UINT64_MAX, run)) {
        uint64_t stop = run->first + run->count;
        uint64_t first, behind;

        stop = stop < end ? stop : end;
        if (run->first >= stop) {
            return false;
        }
        if (!heir) {
            run->count = stop - run->first;
            return is_useless;
        }
        if (!is_useless) {
            if (next_not_in_chain(heir, point, run->first, stop, run)) {
                return true;
            }
        } else {
            first = next_in_chain(heir, point, run->first, stop, &behind);
            if (first < stop) {
                *run = (struct ClusterRun){first, behind - first};
                return true;
            }
        }
        from = stop;
    }
    return false;
}

bool
points_next_useless(Points *points, uint64_t id, uint64_t from, uint64_t end,
                    struct ClusterRun *run)
{
    const Point *point;
    bool is_found = false;

    lock(points);
    point = find_locked(points, id);
    if (point && !point->is_live && from < bitmap_clusters(point->kept)) {
        is_found = next_locked(point, true, from, end, run);
    }
    unlock(points);
    return is_found;
}

bool
points_is_needed(Points *points, uint64_t id)
{
    const Point *point;
    struct ClusterRun run;
    bool is_needed = false;

    lock(points);
    point = find_locked(points, id);
    if (point) {
        /* Of what is not known the heir must not be told otherwise. */
        is_needed = point->is_live ||
                    (heir_of(point) && bitmap_count(point->unsure)) ||
                    next_locked(point, false, 0, UINT64_MAX, &run);
    }
    unlock(points);
    return is_needed;
}

bool
points_figures(Points *points, uint64_t id, struct PointFigures *figures)
{
    const Point *point;

    lock(points);
    point = find_locked(points, id);
    if (point) {
        *figures = (struct PointFigures){
            .kept_clusters = bitmap_count(point->kept),
            .unsure_clusters = bitmap_count(point->unsure),
            .is_live = point->is_live,
        };
    }
    unlock(points);
    return point != NULL;
}
