/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-snapshot.c - a snapshot is what arrives, while its disk is another
 * by now and goes on changing
 *
 * The test is the guest, which copies before it writes, and the coordinator,
 * which marks and seals. What has to arrive is a copy of the image.
 */
#include "relay-rig.h"

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
    struct Disk *disk;
    Points *points;
    Point *point;
    int raw_fd, data_fd;
    char *then; /* the image, as the snapshot has it */
    uint64_t seq;
    atomic_bool is_over; /* for the guest's own thread */
} snap;

static bool
is_online(void)
{
    return rig_figures(0).core.link == RELAY_ONLINE &&
           rig_figures(0).core.is_cut;
}

static bool
is_sent(void)
{
    return disk_map_sealed_seq(snap.disk->map) == 0;
}

static uint64_t
count_dirty(void)
{
    struct DiskMapFigures figures;

    disk_map_figures(snap.disk->map, &figures);
    return figures.dirty_clusters;
}

static bool
is_dirty(void)
{
    return count_dirty() > 0;
}

static char *
image(const char *path)
{
    char *bytes;
    gsize len;

    assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    assert_true(len >= DISK_BYTES);
    return bytes;
}

/*
 * The coordinator
 */
static void
send(uint64_t id)
{
    DiskMap *map = snap.disk->map;

    if (id) {
        (void)point_marks_before(snap.points, id, map, rig_now_us());
    }
    snap.seq = disk_map_seal(map);
    assert_true(snap.seq > 0);
    if (id) {
        point_marks_after(snap.points, id, map, rig_now_us());
    }
    relay_allow(rig.relay, snap.disk->name, snap.seq, id);
    relay_hurry(rig.relay);
}

static void
assert_target(const char *want)
{
    g_autofree char *target = image(snap.disk->target);

    for (uint64_t at = 0; at < DISK_BYTES; at += 512) {
        if (memcmp(target + at, want + at, 512)) {
            fail_msg("cluster %llu is not what it was",
                     (unsigned long long)(at / CLUSTER));
        }
    }
}

static void
bring(uint64_t id, const char *want)
{
    send(id);
    await(is_sent);
    assert_target(want);
}

/*
 * The guest
 */
static void
granted(RangeHold *hold)
{
    atomic_bool *is_granted = (atomic_bool *)(hold + 1);

    atomic_store(is_granted, true);
}

/* May run on another thread: no assertions of cmocka's. */
static void
write_cluster(uint64_t cluster, uint8_t what)
{
    struct {
        RangeHold hold;
        atomic_bool is_granted;
    } writer = {.hold = {.offset = cluster * CLUSTER,
                         .len = MIN(CLUSTER, DISK_BYTES - cluster * CLUSTER),
                         .kind = RANGE_WRITE,
                         .granted = granted}};
    off_t at = (off_t)writer.hold.offset;
    size_t len = writer.hold.len;
    struct ClusterRun run;
    uint8_t bytes[CLUSTER];
    ssize_t done;

    if (points_next_missing(snap.points, cluster, cluster + 1, &run)) {
        done = pread(snap.raw_fd, bytes, len, at);
        assert(done == (ssize_t)len);
        if (bytes[0] || memcmp(bytes, bytes + 1, len - 1)) {
            done = pwrite(snap.data_fd, bytes, len, at);
            assert(done == (ssize_t)len);
        }
        points_keep(snap.points, snap.point, run);
    }
    if (disk_map_begin(snap.disk->map, &writer.hold, rig_now_us()) !=
        DISK_MAP_BEGUN) {
        while (!atomic_load(&writer.is_granted)) {
            sched_yield();
        }
    }
    memset(bytes, what, len);
    done = pwrite(snap.raw_fd, bytes, len, at);
    assert(done == (ssize_t)len);
    disk_map_end(snap.disk->map, &writer.hold, rig_now_us());
}

static gpointer
guest_thread(gpointer unused)
{
    Seed seed = {rig_seed};

    (void)unused;
    for (unsigned i = 0; !atomic_load(&snap.is_over); i++) {
        write_cluster(seed_below(&seed, CLUSTERS), (uint8_t)(1 + i % 255));
    }
    return NULL;
}

/*
 * Rig: a target that holds a cut, and a snapshot of just then
 */
static void
take_snapshot(uint64_t size_bytes)
{
    g_autofree char *path = g_build_filename(rig.dir, "data", NULL);

    snap.raw_fd = open(snap.disk->raw, O_RDWR | O_CLOEXEC);
    snap.data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    snap.point = point_new(ID, size_bytes, CLUSTER_BITS, -1, snap.data_fd);
    points_add(snap.points, snap.point);
    g_free(snap.then);
    snap.then = image(snap.disk->raw);
}

static int
setup(void **state)
{
    (void)rig_setup(state);
    snap.disk = &rig.disks[0];
    snap.points = snap.disk->points = points_new();
    snap.disk->is_cut = true;
    snap.raw_fd = snap.data_fd = -1;
    snap.then = image(snap.disk->raw);
    atomic_store(&snap.is_over, false);
    rig_start(4, snap.disk->target);
    await(is_online);
    bring(0, snap.then);
    return 0;
}

static int
teardown(void **state)
{
    int r;

    relay_stop(rig.relay, 0);
    points_free(snap.points);
    close(snap.raw_fd);
    close(snap.data_fd);
    g_free(snap.then);
    r = rig_teardown(state);
    return r;
}

/*
 * Tests
 */

/* Data that was zeroes, a hole or other data; next to what nobody touched, and
 * the last cluster, which is partial. */
static void
test_snapshot_arrives_and_then_the_present(void **state)
{
    static const uint64_t overwritten[] = {0,  3,  11, 12, 14, 15,          20,
                                           21, 22, 23, 31, 47, CLUSTERS - 1};
    g_autofree char *now = NULL;

    (void)state;
    take_snapshot(DISK_BYTES);
    for (unsigned i = 0; i < G_N_ELEMENTS(overwritten); i++) {
        write_cluster(overwritten[i], 0xaa);
    }
    now = image(snap.disk->raw);
    bring(ID, snap.then);
    assert_int_equal(rig_figures(0).lost_snapshot, 0);
    assert_int_equal(count_dirty(), G_N_ELEMENTS(overwritten));
    bring(0, now);
    assert_int_equal(count_dirty(), 0);
    /* And back: all that was overwritten is clean by now. */
    bring(ID, snap.then);
    assert_int_equal(count_dirty(), G_N_ELEMENTS(overwritten));
    bring(0, now);
}

/* A copy of zeroes takes no room, and is not read cluster by cluster. */
static void
test_zeroes_of_a_snapshot_are_sent_as_such(void **state)
{
    uint64_t sent, zeroed;

    (void)state;
    take_snapshot(DISK_BYTES);
    for (uint64_t c = 14; c < CLUSTERS; c += 16) {
        write_cluster(c, 0xbb);
        write_cluster(c + 1, 0xbb);
    }
    /* So that the target has to be made zero again. */
    send(0);
    await(is_sent);
    sent = rig_figures(0).core.sent_bytes;
    zeroed = rig_figures(0).core.zeroed_bytes;
    bring(ID, snap.then);
    assert_int_equal(rig_figures(0).core.sent_bytes, sent);
    assert_true(rig_figures(0).core.zeroed_bytes >
                zeroed + CLUSTERS / 16 * CLUSTER);
}

static void
test_snapshot_arrives_while_the_guest_goes_on(void **state)
{
    GThread *guest;

    (void)state;
    take_snapshot(DISK_BYTES);
    guest = g_thread_new("guest", guest_thread, NULL);
    for (unsigned times = 0; times < 4; times++) {
        await(is_dirty);
        send(ID);
        await(is_sent);
        assert_target(snap.then);
        send(0); /* a present of no instant: there are no copies for it */
        await(is_sent);
    }
    atomic_store(&snap.is_over, true);
    (void)g_thread_join(guest);
    assert_int_equal(rig_figures(0).lost_snapshot, 0);
    send(0);
    await(is_sent);
    assert_int_equal(count_dirty(), 0);
    rig_assert_equal(0);
}

/* What was there at the seal and is overwritten before it is loaded. */
static void
test_copy_of_after_the_seal_is_found(void **state)
{
    (void)state;
    take_snapshot(DISK_BYTES);
    disk_map_mark(snap.disk->map, 4 * CLUSTER, CLUSTER, rig_now_us());
    relay_pause(rig.relay, true);
    send(ID);
    write_cluster(4, 0xcc);
    relay_pause(rig.relay, false);
    await(is_sent);
    assert_target(snap.then);
    assert_int_equal(count_dirty(), 1);
}

/* The disk was half as large then. */
static void
test_what_is_behind_its_end_is_the_disks(void **state)
{
    g_autofree char *now = NULL;

    (void)state;
    take_snapshot(DISK_BYTES / 2);
    write_cluster(1, 0xdd);
    write_cluster(CLUSTERS - 2, 0xdd);
    now = image(snap.disk->raw);
    memcpy(now + CLUSTER, snap.then + CLUSTER, CLUSTER);
    bring(ID, now);
}

/* Nobody knows what a damaged map had to say; what is dirty drains. */
static void
test_snapshot_that_is_not_known_is_lost(void **state)
{
    g_autofree char *now = NULL;

    (void)state;
    take_snapshot(DISK_BYTES);
    bitmap_set_run(point_unsure(snap.point), (struct ClusterRun){9, 1});
    write_cluster(8, 0xee);
    now = image(snap.disk->raw);
    send(ID);
    await(is_sent);
    assert_int_equal(rig_figures(0).lost_snapshot, ID);
    bring(0, now);
    assert_int_equal(count_dirty(), 0);
}

static void
test_snapshot_that_is_gone_is_lost(void **state)
{
    (void)state;
    take_snapshot(DISK_BYTES);
    write_cluster(8, 0xee);
    points_set_live(snap.points, ID, false);
    send(ID);
    await(is_sent);
    assert_int_equal(rig_figures(0).lost_snapshot, ID);
    assert_int_equal(points_count(snap.points), 1);
    assert_ptr_equal(points_remove(snap.points, ID), snap.point); /* unused */
    point_free(snap.point);
}

/* A directory cannot be read like a file. */
static void
test_file_that_cannot_be_read_is_lost(void **state)
{
    (void)state;
    take_snapshot(DISK_BYTES);
    write_cluster(8, 0xee);
    assert_true(dup2(snap.disk->dir_fd, snap.data_fd) >= 0);
    send(ID);
    await(is_sent);
    assert_int_equal(rig_figures(0).lost_snapshot, ID);
    send(0);
    await(is_sent);
    rig_assert_equal(0);
    assert_ptr_equal(points_remove(snap.points, ID), snap.point); /* unused */
    point_free(snap.point);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_snapshot_arrives_and_then_the_present),
        TEST(test_zeroes_of_a_snapshot_are_sent_as_such),
        TEST(test_snapshot_arrives_while_the_guest_goes_on),
        TEST(test_copy_of_after_the_seal_is_found),
        TEST(test_what_is_behind_its_end_is_the_disks),
        TEST(test_snapshot_that_is_not_known_is_lost),
        TEST(test_snapshot_that_is_gone_is_lost),
        TEST(test_file_that_cannot_be_read_is_lost),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
