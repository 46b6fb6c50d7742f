/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-share.c - two jobs bring one snapshot: what one of them has read the
 * other need not
 */
#include "relay-snap-rig.h"

#include <stdlib.h>

#include "tests/lib/test.h"

static DiskMap *other_map;

static bool
is_other_copied(void)
{
    struct DiskMapFigures figures;

    disk_map_figures(other_map, &figures);
    return !figures.dirty_clusters;
}

static bool
are_both_online(void)
{
    struct RelayFigures figures;

    return job_is_online() && relay_figures(rig.relay, "job/2", &figures) &&
           figures.core.link == RELAY_ONLINE;
}

static void
assert_other_target(void)
{
    g_autofree char *target = job_image(rig.disks[0].target);

    assert_memory_equal(target, snap.then, DISK_BYTES);
}

/* Paused, and allowed to bring all of it. */
static void
begin_two(unsigned cluster_bits, unsigned other_bits)
{
    rig_new_relay(1);
    assert_true(relay_start(rig.relay, NULL));
    snap_begin();
    snap_take();
    snap_new_job(cluster_bits);
    relay_pause_job(rig.relay, NAME, TRUE);
    other_map = disk_map_new(DISK_BYTES, other_bits);
    job.config.name = "job/2";
    job.config.map = other_map;
    job.config.target = rig.disks[0].target;
    job.config.dir_fd = rig.disks[0].dir_fd;
    job.config.job.is_paused = true;
    job_add();
    job_mark(0, DISK_BYTES);
    snap_allow();
    disk_map_mark_all(other_map, rig_now_us());
    relay_allow(rig.relay, "job/2", disk_map_seal(other_map), ID);
    await(are_both_online);
}

static void
resume_two(void)
{
    relay_pause_job(rig.relay, NAME, FALSE);
    relay_pause_job(rig.relay, "job/2", FALSE);
}

static void
drop_other(void)
{
    relay_stop(rig.relay, 0);
    relay_forget_disk(rig.relay, "job/2");
    disk_map_free(other_map);
}

static void
bring_two(unsigned cluster_bits, unsigned other_bits)
{
    struct RelayFigures other;
    GThread *guest;
    uint64_t shared;

    begin_two(cluster_bits, other_bits);
    guest = snap_begin_guest();
    resume_two();
    await(job_is_copied);
    await(is_other_copied);
    snap_end_guest(guest);
    relay_stop(rig.relay, 0);
    assert_true(relay_figures(rig.relay, "job/2", &other));
    shared = other.shared_bytes + job_figures().shared_bytes;
    print_message("read once: %llu KiB\n", (unsigned long long)(shared >> 10));
    assert_true(shared > 0);
    job_assert_target(snap.then, 0, DISK_BYTES);
    assert_other_target();
    drop_other();
    job_forget();
    snap_drop();
}

static void
test_jobs_of_one_snapshot_read_it_once(void **state)
{
    (void)state;
    bring_two(16, 16);
}

static void
test_jobs_of_other_clusters_read_it_once(void **state)
{
    (void)state;
    bring_two(14, 17);
}

/* What it had read, or was reading, is the other's to do then. */
static void
test_job_that_ends_leaves_the_other_alone(void **state)
{
    (void)state;
    begin_two(16, 16);
    resume_two();
    job_end();
    job_forget();
    await(is_other_copied);
    assert_other_target();
    drop_other();
    snap_drop();
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, job_setup, job_teardown)

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_jobs_of_one_snapshot_read_it_once),
        TEST(test_jobs_of_other_clusters_read_it_once),
        TEST(test_job_that_ends_leaves_the_other_alone),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
