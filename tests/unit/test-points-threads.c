/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-points-threads.c - snapshots are read while the disk is written
 *
 * One writer does what the fs thread does: what a snapshot needs goes to its
 * file before it is overwritten; snapshots come and go, and what is useless of
 * them becomes garbage. Readers read them meanwhile: what they find in a file,
 * if the snapshot is live afterwards, and on the disk, if they find that again,
 * is what was there at its instant. Another thread looks for what is needed and
 * what was changed. For the thread sanitizer as well.
 */
#include "bitmap/points.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define BITS     12
#define CLUSTERS 200
#define IDS      150
#define KEPT     6 /* points at a time */
#define WRITES   60
#define READERS  3
#define GARBAGE  UINT32_MAX

static uint64_t seed0;

struct Stage {
    Points *points;
    atomic_uint disk[CLUSTERS];
    atomic_uint file[IDS + 1][CLUSTERS];
    unsigned says[IDS + 1][CLUSTERS]; /* the writer's until it is added */
    atomic_uint last;                 /* that was added */
    atomic_bool is_over;
    atomic_uint wrong;
    atomic_uint from_disk, from_file; /* that counted */
};

struct Reader {
    struct Stage *stage;
    Seed seed;
};

static void
read_one(struct Stage *s, uint64_t id, uint64_t cluster)
{
    enum PointsPlace place;
    uint64_t count;
    unsigned got;
    Point *point;

    place =
        points_find(s->points, id, cluster, CLUSTERS - cluster, &point, &count);
    if (place == POINTS_FILE) {
        got = atomic_load_explicit(&s->file[point_id(point)][cluster],
                                   memory_order_acquire);
        points_done(s->points, point);
        if (points_is_live(s->points, id)) {
            s->wrong += got != s->says[id][cluster];
            s->from_file++;
        }
    } else if (place == POINTS_DISK) {
        got = atomic_load_explicit(&s->disk[cluster], memory_order_acquire);
        place = points_find(s->points, id, cluster, 1, &point, &count);
        if (place == POINTS_DISK) {
            s->wrong += got != s->says[id][cluster];
            s->from_disk++;
        } else if (place == POINTS_FILE) {
            points_done(s->points, point);
        }
    } else {
        s->wrong += place != POINTS_GONE;
    }
}

static void *
reader_thread(void *data)
{
    struct Reader *r = data;
    struct Stage *s = r->stage;

    while (!s->is_over) {
        unsigned last = s->last;
        unsigned back = (unsigned)seed_below(&r->seed, 2 * KEPT);

        if (last > back) {
            read_one(s, last - back, seed_below(&r->seed, CLUSTERS));
        }
        (void)sched_yield(); /* the writer, too, wants the lock */
    }
    return NULL;
}

/* What it is told may be old news, but makes sense. */
static void *
looker_thread(void *data)
{
    struct Reader *r = data;
    struct Stage *s = r->stage;
    struct PointFigures figures;
    struct ClusterRun run;

    while (!s->is_over) {
        unsigned last = s->last;
        uint64_t id = last - seed_below(&r->seed, last < KEPT ? 1 : KEPT);

        if (points_next_useless(s->points, id, 0, CLUSTERS, &run)) {
            s->wrong += run.first + run.count > CLUSTERS || !run.count;
        }
        if (points_next_changed(s->points, id, 0, 0, CLUSTERS, &run)) {
            s->wrong += run.first + run.count > CLUSTERS || !run.count;
        }
        if (points_figures(s->points, id, &figures)) {
            s->wrong += figures.kept_clusters > CLUSTERS;
        }
        s->wrong += points_count(s->points) > IDS;
        (void)points_is_needed(s->points, id);
        (void)sched_yield();
    }
    return NULL;
}

static void
write_one(struct Stage *s, uint64_t first, uint64_t end, unsigned says)
{
    Point *point = points_youngest(s->points);
    struct ClusterRun run;

    for (uint64_t at = first; points_next_missing(s->points, at, end, &run);
         at = run.first + run.count) {
        for (uint64_t c = run.first; c < run.first + run.count; c++) {
            atomic_store_explicit(&s->file[point_id(point)][c],
                                  atomic_load(&s->disk[c]),
                                  memory_order_release);
        }
        points_keep(s->points, point, run);
    }
    for (uint64_t c = first; c < end; c++) {
        atomic_store_explicit(&s->disk[c], says, memory_order_release);
    }
}

static void
add(struct Stage *s, unsigned id)
{
    Point *point = point_new(id, (uint64_t)CLUSTERS << BITS, BITS, (int)id, -1);

    assert_non_null(point);
    for (unsigned c = 0; c < CLUSTERS; c++) {
        s->says[id][c] = s->disk[c];
    }
    points_add(s->points, point);
    s->last = id;
}

/* Deletes one and gives back what is useless of all that are deleted. */
static void
reap(struct Stage *s, Seed *seed)
{
    unsigned last = s->last;
    unsigned back = (unsigned)seed_below(seed, KEPT);
    struct ClusterRun run;

    if (last > back) {
        points_set_live(s->points, last - back, false);
    }
    for (unsigned id = last; id > 0 && id + 3 * KEPT > last; id--) {
        Point *point;

        for (uint64_t at = 0;
             points_next_useless(s->points, id, at, CLUSTERS, &run);
             at = run.first + run.count) {
            for (uint64_t c = run.first; c < run.first + run.count; c++) {
                atomic_store_explicit(&s->file[id][c], GARBAGE,
                                      memory_order_release);
            }
        }
        if (!points_is_needed(s->points, id)) {
            point = points_remove(s->points, id);
            point_free(point);
        }
    }
}

static void
test_readers_never_see_what_was_written_later(void **state)
{
    struct Stage *s = test_calloc(1, sizeof(*s));
    struct Reader readers[READERS + 1];
    pthread_t threads[READERS + 1];
    Seed seed = {seed0};
    unsigned says = 0;

    (void)state;
    s->points = points_new();
    add(s, 1);
    for (unsigned i = 0; i <= READERS; i++) {
        readers[i] = (struct Reader){s, {seed_next(&seed)}};
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i ? reader_thread : looker_thread,
                                        &readers[i]),
                         0);
    }
    for (unsigned id = 2; id <= IDS; id++) {
        for (unsigned i = 0; i < WRITES; i++) {
            uint64_t first = seed_below(&seed, CLUSTERS);
            uint64_t end = first + 1 + seed_below(&seed, 4);

            write_one(s, first, end < CLUSTERS ? end : CLUSTERS, ++says);
        }
        reap(s, &seed);
        add(s, id);
    }
    s->is_over = true;
    for (unsigned i = 0; i <= READERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(s->wrong, 0);
    assert_true(s->from_disk > 100 && s->from_file > 100);
    points_free(s->points);
    test_free(s);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readers_never_see_what_was_written_later),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
