/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-points.c - what a snapshot needs is durable before it is overwritten
 */
#include "points-rig.h"

#include "fs/face-internal.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

static uint64_t seed0;

static void
test_each_kind_of_write_keeps_what_is_needed(void **state)
{
    struct PointsRig *rig = points_rig_new();
    struct PointFigures figures;

    (void)state;
    points_rig_write(rig, 0, 32 * CLUSTER / 2, 1);
    points_rig_snapshot(rig);
    points_rig_write(rig, 3 * CLUSTER, 4096, 2);
    points_rig_write(rig, 4 * CLUSTER + 100, 512, 3);
    points_rig_discard(rig, 5 * CLUSTER, 4096);
    points_rig_write(rig, 3 * CLUSTER + 8192, 4096, 4);
    points_rig_write(rig, 60 * CLUSTER, 4096, 5); /* zeroes before */
    assert_true(points_figures(rig->disk->points, 1, &figures));
    assert_int_equal(figures.kept_clusters, 4);
    points_rig_assert_all(rig);
    points_rig_snapshot(rig);
    points_rig_write(rig, 3 * CLUSTER, 2 * CLUSTER, 6);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

static void
ignore_grant(RangeHold *hold)
{
    (void)hold;
}

static void
test_discards_before_are_in_it(void **state)
{
    RangeHold pin = {
        .len = CLUSTER, .kind = RANGE_PIN, .granted = ignore_grant};
    struct PointsRig *rig = points_rig_new();

    (void)state;
    points_rig_write(rig, 0, 1 << 20, 1);
    points_rig_write(rig, 40 * CLUSTER, 1 << 20, 2);
    assert_true(disk_map_hold(rig->disk->map, &pin)); /* nothing is punched */
    rig->pin = &pin;
    points_rig_discard(rig, 0, 80 * CLUSTER);
    points_rig_snapshot(rig);
    assert_null(rig->pin);
    points_rig_assert_all(rig);
    points_rig_write(rig, 41 * CLUSTER, 4096, 3);
    points_rig_write(rig, 0, 512, 4);
    points_rig_assert_all(rig);
    points_rig_discard(rig, 0, 80 * CLUSTER);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

static void
test_snapshots_under_load(void **state)
{
    static const uint64_t lens[] = {512, 700, 4096, 3 * CLUSTER, 1 << 20};

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        Seed seed = {seed0 + round};
        struct PointsRig *rig = points_rig_new();

        while (rig->n < SNAPSHOTS) {
            uint64_t len = lens[seed_below(&seed, G_N_ELEMENTS(lens))];
            uint64_t offset = seed_below(&seed, SIZE - len);

            if (seed_below(&seed, 12) == 0) {
                points_rig_snapshot(rig);
            } else if (seed_below(&seed, 10) == 0) {
                points_rig_discard(rig, offset,
                                   1 + seed_below(&seed, SIZE - offset));
            } else {
                points_rig_write(rig, offset, len,
                                 (unsigned char)seed_next(&seed));
            }
        }
        assert_int_equal(rig->session.face->count.starved, 0);
        points_rig_assert_all(rig);
        points_rig_free(rig);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_write_keeps_what_is_needed),
        cmocka_unit_test(test_discards_before_are_in_it),
        cmocka_unit_test(test_snapshots_under_load),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
