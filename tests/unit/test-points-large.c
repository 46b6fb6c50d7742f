/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-points-large.c - many points of a large disk
 *
 * What looked at each of its clusters, or of its words for each question, would
 * not come back within the time of a test; what touched the memory of all its
 * bits would be seen in what is resident.
 */
#include "bitmap/points.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <unistd.h>

#define BITS     16
#define CLUSTERS (UINT64_C(10) << (40 - BITS))
#define MANY     100

static long
resident_kib(void)
{
    long total, resident;
    FILE *f = fopen("/proc/self/statm", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &total, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static Point *
add_point(Points *points, uint64_t id)
{
    Point *point = point_new(id, CLUSTERS << BITS, BITS, -1, -1);

    assert_non_null(point);
    points_add(points, point);
    return point;
}

static void
test_many_points_of_a_large_disk_cost_what_they_keep(void **state)
{
    long before = resident_kib();
    Points *points = points_new();
    struct ClusterRun run;
    uint64_t count, end = CLUSTERS;
    Point *point;

    (void)state;
    for (uint64_t id = 1; id <= MANY; id++) {
        points_keep(points, add_point(points, id),
                    (struct ClusterRun){end / 2 + id, 1});
    }
    assert_int_equal(points_find(points, 1, 0, UINT64_MAX, &point, &count),
                     POINTS_DISK);
    assert_int_equal(count, end / 2 + 1);
    assert_int_equal(
        points_find(points, 1, end / 2 + MANY, UINT64_MAX, &point, &count),
        POINTS_FILE);
    assert_int_equal(count, 1);
    assert_int_equal(point_id(point), MANY);
    points_done(points, point);
    assert_true(points_next_missing(points, 0, end, &run));
    assert_int_equal(run.count, end / 2 + MANY);
    /* The older ones' are one run together. */
    assert_true(points_next_changed(points, 2, 0, 0, end, &run));
    assert_int_equal(run.first, end / 2 + 2);
    assert_int_equal(run.count, MANY - 1);
    for (uint64_t id = 2; id <= MANY; id++) {
        points_set_live(points, id, false);
    }
    for (uint64_t id = 2; id <= MANY; id++) {
        assert_true(points_is_needed(points, id));
        assert_false(points_next_useless(points, id, 0, end, &run));
    }
    assert_true(points_next_missing(points, end / 2, end, &run));
    assert_int_equal(run.count, 1);
    assert_true(TEST_IS_SANITIZED || resident_kib() - before <= 4 << 10);
    points_free(points);
}

/* More than is looked at in one hold of the lock. */
static void
test_what_a_full_point_is_good_for_is_found_in_pieces(void **state)
{
    Points *points = points_new();
    uint64_t end = CLUSTERS, at = 0;
    Point *older = add_point(points, 1);
    struct ClusterRun run;

    (void)state;
    points_keep(points, older, (struct ClusterRun){1, end - 2});
    points_keep(points, add_point(points, 2), (struct ClusterRun){0, end});
    while (points_next_changed(points, 1, 0, at, end, &run)) {
        assert_int_equal(run.first, at);
        assert_true(run.count);
        at += run.count;
    }
    assert_int_equal(at, end);
    points_set_live(points, 2, false);
    assert_true(points_is_needed(points, 2));
    points_keep(points, older, (struct ClusterRun){0, 1});
    assert_true(points_is_needed(points, 2));
    for (at = 0; points_next_useless(points, 2, at, end, &run);) {
        assert_int_equal(run.first, at);
        assert_true(run.count);
        at += run.count;
    }
    assert_int_equal(at, end - 1);
    points_keep(points, older, (struct ClusterRun){end - 1, 1});
    assert_false(points_is_needed(points, 2));
    points_free(points);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_points_of_a_large_disk_cost_what_they_keep),
        cmocka_unit_test(test_what_a_full_point_is_good_for_is_found_in_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
