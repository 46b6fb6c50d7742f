/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-job-snapshot.c - a job brings a snapshot, in clusters of its own,
 * while the guest overwrites what it is of
 */
#include "relay-snap-rig.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitmap/point-marks.h"
#include "tests/lib/test.h"

/* Not every grain, so that what is loaded begins and ends anywhere in the
 * snapshot's clusters. */
static void
mark_most(const Bitmap *left_out)
{
    uint64_t grain = UINT64_C(1) << bitmap_cluster_bits(left_out);

    for (uint64_t i = 0; i < bitmap_clusters(left_out); i++) {
        if (!bitmap_get(left_out, i)) {
            job_mark(i * grain, MIN(grain, DISK_BYTES - i * grain));
        }
    }
}

static void
bring_snapshot(unsigned cluster_bits)
{
    GThread *guest;
    Bitmap *left_out = bitmap_new(DISK_BYTES, cluster_bits);
    uint64_t grain = UINT64_C(1) << cluster_bits;
    Seed seed = {rig_seed};

    for (uint64_t i = 1; i < bitmap_clusters(left_out); i++) {
        if (seed_below(&seed, 16) == 0) {
            bitmap_set_run(left_out, (struct ClusterRun){i, 1});
        }
    }

    job_blank_target();
    snap_new_job(cluster_bits);
    mark_most(left_out);
    await(job_is_online);
    guest = snap_begin_guest();
    snap_allow();
    await(job_is_copied);
    snap_end_guest(guest);
    assert_int_equal(job_figures().lost_snapshot, 0);
    job_end();
    job_forget();
    for (uint64_t i = 0; i < bitmap_clusters(left_out); i++) {
        memset(snap.then + i * grain, 0,
               bitmap_get(left_out, i) ? MIN(grain, DISK_BYTES - i * grain)
                                       : 0);
    }
    bitmap_free(left_out);
    job_assert_target(snap.then, 0, DISK_BYTES);
}

static void
test_snapshot_is_read_in_the_jobs_own_clusters(void **state)
{
    (void)state;
    rig_start(1, NULL);
    for (unsigned i = 0; i < 8; i++) {
        snap_begin();
        snap_take();
        bring_snapshot(12 + i % 4 * 3);
        snap_drop();
    }
}

static bool
is_one_left(void)
{
    return job_left() == 1;
}

/* What was in flight at the instant is read when it is over, and not before,
 * whatever else is read meanwhile. */
static void
test_snapshot_waits_for_writes_in_flight(void **state)
{
    static const char last[] = "the last word of then";
    RangeHold writer = {
        .offset = 5 * CLUSTER + 4096, .len = 4096, .kind = RANGE_WRITE};
    struct ClusterRun run;

    (void)state;
    rig_start(1, NULL);
    snap_begin();
    snap_take();
    assert_int_equal(disk_map_begin(rig.disks[0].map, &writer, rig_now_us()),
                     DISK_MAP_BEGUN);
    snap_new_job(16);
    job_mark(5 * CLUSTER, CLUSTER);
    job_mark(100 * CLUSTER, CLUSTER);
    snap_allow();
    await(is_one_left);
    assert_true(disk_map_next_sealed(job.map, 0, 1, &run));
    assert_int_equal(run.first, 5);
    assert_int_equal(
        pwrite(snap.raw_fd, last, sizeof(last), (off_t)writer.offset),
        sizeof(last));
    disk_map_end(rig.disks[0].map, &writer, rig_now_us());
    memcpy(snap.then + writer.offset, last, sizeof(last));
    await(job_is_copied);
    job_assert_target(snap.then, 5 * CLUSTER, 6 * CLUSTER);
    job_assert_target(snap.then, 100 * CLUSTER, 101 * CLUSTER);
    job_end();
    job_forget();
    snap_drop();
}

/* All of it once more: by its sums it is there, once they are durable. */
static bool
snap_is_skipped(void)
{
    uint64_t sent = job_figures().core.sent_bytes;

    job_mark(0, DISK_BYTES);
    snap_allow();
    await(job_is_copied);
    job_assert_target(snap.then, 0, DISK_BYTES);
    return job_figures().core.sent_bytes == sent;
}

/* Again and again, until the sums of what is there keep it from being sent. */
static void
test_snapshot_stays_what_it_is(void **state)
{
    Seed seed = {rig_seed};

    (void)state;
    rig_start(1, NULL);
    snap_begin();
    snap_take();
    snap_new_job(16);
    for (unsigned i = 0; i < 3; i++) {
        job_mark(0, DISK_BYTES);
        snap_allow();
        await(job_is_copied);
        job_assert_target(snap.then, 0, DISK_BYTES);
        for (unsigned n = 0; n < 50; n++) {
            snap_write_some(&seed);
        }
    }
    await(snap_is_skipped);
    job_end();
    job_forget();
    snap_drop();
}

/*
 * A mirror: what is brought is the present, and in the end an instant of it.
 */
static uint64_t goal;

static bool
is_settled(void)
{
    return disk_map_settled_seq(job.map) >= goal;
}

static bool
is_begun(void)
{
    return job_figures().core.sent_bytes > 0;
}

static bool
is_cut(void)
{
    return job_figures().core.is_cut;
}

static void
complete(void)
{
    DiskMap *map = job.map;
    GThread *guest;

    relay_set_cut(rig.relay, NAME, TRUE);
    await(is_cut);
    (void)point_marks_before(snap.points, ID, map, rig_now_us());
    guest =
        snap_begin_guest(); /* before, it would mark all of that by itself */
    goal = disk_map_seal(map);
    assert_true(goal > 0);
    point_marks_after(snap.points, ID, map, rig_now_us());
    relay_allow(rig.relay, NAME, goal, ID);
    await(is_settled);
    snap_end_guest(guest);
}

static void
mirror(unsigned cluster_bits)
{
    DiskMapRecorder recorder = {0};
    Seed seed = {rig_seed + 1};
    GThread *guest;

    job_blank_target();
    snap_begin();
    job_new(cluster_bits, rig.disks[1].target);
    job.config.points = snap.points;
    recorder.job = job.map;
    disk_map_attach(rig.disks[0].map, &recorder);
    job_mark(0, DISK_BYTES);
    guest = snap_begin_guest();
    job_add();
    await(is_begun);
    snap_end_guest(guest);
    snap_take();
    for (unsigned n = 0; n < 30; n++) {
        snap_write_some(&seed);
    }
    relay_hurry(rig.relay);
    await(job_is_copied); /* what was overwritten since, too */
    complete();
    assert_int_equal(job_figures().lost_snapshot, 0);
    job_end();
    disk_map_detach(rig.disks[0].map, &recorder);
    job_forget();
    job_assert_target(snap.then, 0, DISK_BYTES);
    snap_drop();
}

static void
test_mirror_ends_at_an_instant(void **state)
{
    (void)state;
    rig_start(1, NULL);
    for (unsigned bits = 12; bits <= 21; bits += 3) {
        mirror(bits);
    }
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, job_setup, job_teardown)

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_snapshot_is_read_in_the_jobs_own_clusters),
        TEST(test_snapshot_waits_for_writes_in_flight),
        TEST(test_snapshot_stays_what_it_is),
        TEST(test_mirror_ends_at_an_instant),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
