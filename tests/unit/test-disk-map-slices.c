/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-disk-map-slices.c - disks so large that the lock is given back in
 * between: what is seen there is never less than the truth
 */
#include "bitmap/disk-map.h"
#include "tests/lib/test.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define BITS    12
#define CLUSTER (UINT64_C(1) << BITS)

static void
test_64_tib_is_marked_sealed_and_settled_in_slices(void **state)
{
    DiskMap *map = disk_map_new(UINT64_C(64) << 40, 16);
    uint64_t n = disk_map_clusters(map);
    struct DiskMapFigures figures;
    struct ClusterRun run;

    (void)state;
    assert_int_equal(disk_map_next_clean(map, 5), 5);
    disk_map_mark_all(map, 9);
    disk_map_figures(map, &figures);
    assert_int_equal(figures.dirty_clusters, n);
    assert_int_equal(figures.dirtied_clusters, n);
    assert_int_equal(disk_map_next_clean(map, 0), UINT64_MAX);
    assert_int_equal(disk_map_seal(map), 1);
    assert_true(disk_map_next_sealed(map, 0, UINT64_MAX, &run));
    assert_int_equal(run.count, n);
    disk_map_settle(map, (struct ClusterRun){n - 7, 3});
    assert_int_equal(disk_map_next_clean(map, 0), n - 7);
    disk_map_figures(map, &figures);
    assert_int_equal(figures.dirty_clusters, n - 3);
    disk_map_free(map);
}

/* While another thread takes back what is sealed, slice by slice, nothing of it
 * is clean for a moment, and a write that comes between is not lost. */
struct Looker {
    DiskMap *map;
    uint64_t n;
    atomic_bool is_done;
    atomic_uint looks;
};

static void *
looker_thread(void *user)
{
    struct Looker *looker = user;
    struct DiskMapFigures figures;

    while (!atomic_load(&looker->is_done)) {
        assert(disk_map_next_clean(looker->map, 0) == UINT64_MAX);
        disk_map_figures(looker->map, &figures);
        assert(figures.dirty_clusters == looker->n);
        disk_map_mark(looker->map, 5 * CLUSTER, 1, 3);
        atomic_fetch_add(&looker->looks, 1);
    }
    return NULL;
}

static void
test_nothing_is_clean_while_it_is_unsealed(void **state)
{
    struct Looker looker = {.n = UINT64_C(1) << 21};
    struct DiskMapFigures figures;
    pthread_t thread;

    (void)state;
    looker.map = disk_map_new(looker.n * CLUSTER, BITS);
    disk_map_mark_all(looker.map, 2);
    assert_int_equal(disk_map_seal(looker.map), 1);
    assert_int_equal(pthread_create(&thread, NULL, looker_thread, &looker), 0);
    for (unsigned i = 0; i < 30; i++) {
        unsigned looks = atomic_load(&looker.looks);

        while (atomic_load(&looker.looks) == looks) {
            sched_yield();
        }
        disk_map_unseal(looker.map);
        assert_int_equal(disk_map_sealed_seq(looker.map), 0);
        assert_int_equal(disk_map_open_seq(looker.map), 1);
        disk_map_figures(looker.map, &figures);
        assert_int_equal(figures.oldest_mark_us, 2);
        assert_int_equal(disk_map_seal(looker.map), 1);
    }
    atomic_store(&looker.is_done, true);
    pthread_join(thread, NULL);
    disk_map_free(looker.map);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_64_tib_is_marked_sealed_and_settled_in_slices),
        cmocka_unit_test(test_nothing_is_clean_while_it_is_unsealed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
