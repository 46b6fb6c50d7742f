/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-job-snapshot.c - a job brings a snapshot, in clusters of its own,
 * while the guest overwrites what it is of
 */
#include "relay-job-rig.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitmap/point-marks.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#define ID 7

static struct {
    Points *points;
    Point *point;
    int raw_fd, data_fd;
    char *then;
    atomic_bool is_over;
} snap;

static void
begin_points(void)
{
    g_autofree char *path = g_build_filename(rig.dir, "data", NULL);

    snap.points = points_new();
    snap.raw_fd = open(rig.disks[0].raw, O_RDWR | O_CLOEXEC);
    snap.data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

/* Nobody writes. */
static void
take_snapshot(void)
{
    snap.point = point_new(ID, DISK_BYTES, CLUSTER_BITS, -1, snap.data_fd);
    points_add(snap.points, snap.point);
    snap.then = job_image(rig.disks[0].raw);
}

static void
drop_snapshot(void)
{
    points_free(snap.points);
    close(snap.raw_fd);
    close(snap.data_fd);
    g_free(snap.then);
}

static void
granted(RangeHold *hold)
{
    atomic_store((atomic_bool *)(hold + 1), true);
}

/* A guest, which copies before it writes; sometimes a part of a cluster. */
static void
write_some(Seed *seed)
{
    uint64_t cluster = seed_below(seed, CLUSTERS / 3) * 3; /* others stay */
    uint64_t at = cluster * CLUSTER, room = MIN(CLUSTER, DISK_BYTES - at);
    uint64_t skip = seed_below(seed, 2) * 8192;
    struct {
        RangeHold hold;
        atomic_bool is_granted;
    } writer = {.hold = {.offset = at + skip,
                         .len = room - skip,
                         .kind = RANGE_WRITE,
                         .granted = granted}};
    struct ClusterRun run;
    uint8_t bytes[CLUSTER];
    ssize_t done;

    if (points_next_missing(snap.points, cluster, cluster + 1, &run)) {
        done = pread(snap.raw_fd, bytes, room, (off_t)at);
        assert(done == (ssize_t)room);
        if (bytes[0] || memcmp(bytes, bytes + 1, room - 1)) {
            done = pwrite(snap.data_fd, bytes, room, (off_t)at);
            assert(done == (ssize_t)room);
        }
        points_keep(snap.points, snap.point, run);
    }
    if (disk_map_begin(rig.disks[0].map, &writer.hold, rig_now_us()) !=
        DISK_MAP_BEGUN) {
        while (!atomic_load(&writer.is_granted)) {
            sched_yield();
        }
    }
    memset(bytes, (int)(1 + seed_below(seed, 255)), sizeof(bytes));
    done = pwrite(snap.raw_fd, bytes, room - skip, (off_t)(at + skip));
    assert(done == (ssize_t)(room - skip));
    disk_map_end(rig.disks[0].map, &writer.hold, rig_now_us());
}

static gpointer
guest_thread(gpointer unused)
{
    Seed seed = {rig_seed};

    (void)unused;
    while (!atomic_load(&snap.is_over)) {
        write_some(&seed);
    }
    return NULL;
}

static GThread *
begin_guest(void)
{
    atomic_store(&snap.is_over, false);
    return g_thread_new("guest", guest_thread, NULL);
}

static void
end_guest(GThread *guest)
{
    atomic_store(&snap.is_over, true);
    (void)g_thread_join(guest);
}

static void
new_snapshot_job(unsigned cluster_bits)
{
    job_new(cluster_bits, rig.disks[1].target);
    job.config.is_cut = true;
    job.config.points = snap.points;
    job_add();
}

static void
allow(void)
{
    uint64_t seq = disk_map_seal(job.map);

    assert_true(seq > 0);
    relay_allow(rig.relay, NAME, seq, ID);
}

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

static bool
is_online(void)
{
    return job_figures().core.link == RELAY_ONLINE;
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
    new_snapshot_job(cluster_bits);
    mark_most(left_out);
    await(is_online);
    guest = begin_guest();
    allow();
    await(job_is_copied);
    end_guest(guest);
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
        begin_points();
        take_snapshot();
        bring_snapshot(12 + i % 4 * 3);
        drop_snapshot();
    }
}

/*
 * Two of one snapshot
 */
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

    return is_online() && relay_figures(rig.relay, "job/2", &figures) &&
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
    begin_points();
    take_snapshot();
    new_snapshot_job(cluster_bits);
    relay_pause_job(rig.relay, NAME, TRUE);
    other_map = disk_map_new(DISK_BYTES, other_bits);
    job.config.name = "job/2";
    job.config.map = other_map;
    job.config.target = rig.disks[0].target;
    job.config.dir_fd = rig.disks[0].dir_fd;
    job.config.job.is_paused = true;
    job_add();
    job_mark(0, DISK_BYTES);
    allow();
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
    guest = begin_guest();
    resume_two();
    await(job_is_copied);
    await(is_other_copied);
    end_guest(guest);
    relay_stop(rig.relay, 0);
    assert_true(relay_figures(rig.relay, "job/2", &other));
    shared = other.shared_bytes + job_figures().shared_bytes;
    print_message("read once: %llu KiB\n", (unsigned long long)(shared >> 10));
    assert_true(shared > 0);
    job_assert_target(snap.then, 0, DISK_BYTES);
    assert_other_target();
    drop_other();
    job_forget();
    drop_snapshot();
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
    drop_snapshot();
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
    begin_points();
    take_snapshot();
    assert_int_equal(disk_map_begin(rig.disks[0].map, &writer, rig_now_us()),
                     DISK_MAP_BEGUN);
    new_snapshot_job(16);
    job_mark(5 * CLUSTER, CLUSTER);
    job_mark(100 * CLUSTER, CLUSTER);
    allow();
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
    drop_snapshot();
}

/* Again and again, while the sums of what is there keep it from being sent. */
static void
test_snapshot_stays_what_it_is(void **state)
{
    uint64_t sent;
    Seed seed = {rig_seed};

    (void)state;
    rig_start(1, NULL);
    begin_points();
    take_snapshot();
    new_snapshot_job(16);
    for (unsigned i = 0; i < 3; i++) {
        job_mark(0, DISK_BYTES);
        allow();
        await(job_is_copied);
        job_assert_target(snap.then, 0, DISK_BYTES);
        sent = i ? sent : job_figures().core.sent_bytes;
        for (unsigned n = 0; n < 50; n++) {
            write_some(&seed);
        }
    }
    assert_int_equal(job_figures().core.sent_bytes, sent);
    job_end();
    job_forget();
    drop_snapshot();
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
    guest = begin_guest(); /* before, it would mark all of that by itself */
    goal = disk_map_seal(map);
    assert_true(goal > 0);
    point_marks_after(snap.points, ID, map, rig_now_us());
    relay_allow(rig.relay, NAME, goal, ID);
    await(is_settled);
    end_guest(guest);
}

static void
mirror(unsigned cluster_bits)
{
    DiskMapRecorder recorder = {0};
    Seed seed = {rig_seed + 1};
    GThread *guest;

    job_blank_target();
    begin_points();
    job_new(cluster_bits, rig.disks[1].target);
    job.config.points = snap.points;
    recorder.job = job.map;
    disk_map_attach(rig.disks[0].map, &recorder);
    job_mark(0, DISK_BYTES);
    guest = begin_guest();
    job_add();
    await(is_begun);
    end_guest(guest);
    take_snapshot();
    for (unsigned n = 0; n < 30; n++) {
        write_some(&seed);
    }
    relay_hurry(rig.relay);
    await(job_is_copied); /* what was overwritten since, too */
    complete();
    assert_int_equal(job_figures().lost_snapshot, 0);
    job_end();
    disk_map_detach(rig.disks[0].map, &recorder);
    job_forget();
    job_assert_target(snap.then, 0, DISK_BYTES);
    drop_snapshot();
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
        TEST(test_jobs_of_one_snapshot_read_it_once),
        TEST(test_jobs_of_other_clusters_read_it_once),
        TEST(test_job_that_ends_leaves_the_other_alone),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
