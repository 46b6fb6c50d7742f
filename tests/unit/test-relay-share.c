/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-share.c - two jobs bring one snapshot: what one of them has read the
 * other need not
 */
#include "relay-snap-rig.h"

#include <errno.h>
#include <inttypes.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/lib/test.h"

#define PLACE    UINT64_C(5) /* a cluster that has data */
#define AT       (PLACE * CLUSTER)
#define OTHER    "job/2"
#define BUFFERS  (UINT64_C(256) << 20) /* of a disk of the relay */
#define NOW_BYTE 0xaa

static DiskMap *other_map;

/*
 * Reads of PLACE: one of them may fail, one may be late
 */
static struct {
    StoreIo io;
    struct StoreIoOps ops;
    int event_fd; /* the late one waits for this */
    atomic_uint reads;
    unsigned fails, waits; /* which, from 1 on; 0: none */
    bool fails_late;
    /* relay thread only */
    const StoreReq *failing, *waiting, *again;
} gate;

static void
gate_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    StoreIo *kernel = store_io_kernel();
    unsigned n = 0;

    (void)io;
    if (req->op == STORE_READ && req->offset == AT && req != gate.again) {
        n = atomic_fetch_add(&gate.reads, 1) + 1;
    }
    gate.again = NULL;
    if (n && n == gate.waits) {
        gate.waiting = req;
        io_uring_prep_poll_add(sqe, gate.event_fd, POLLIN);
        return;
    }
    gate.failing = n && n == gate.fails ? req : gate.failing;
    kernel->ops->prep(kernel, sqe, req);
}

static int
gate_done(StoreIo *io, const StoreReq *req, int res)
{
    StoreIo *kernel = store_io_kernel();

    (void)io;
    if (req == gate.waiting) {
        gate.waiting = NULL;
        gate.again = gate.fails_late ? NULL : req;
        return gate.fails_late ? -EIO : -EAGAIN;
    }
    if (req == gate.failing) {
        gate.failing = NULL;
        return -EIO;
    }
    return kernel->ops->done(kernel, req, res);
}

static void
gate_init(void)
{
    gate.ops = *store_io_kernel()->ops;
    gate.ops.prep = gate_prep;
    gate.ops.done = gate_done;
    gate.io.ops = &gate.ops;
    gate.event_fd = eventfd(0, EFD_CLOEXEC);
    gate.fails = gate.waits = 0;
    gate.fails_late = false;
    atomic_store(&gate.reads, 0);
    rig.io = &gate.io;
}

static bool
gate_has_one(void)
{
    return atomic_load(&gate.reads) == gate.waits;
}

static void
gate_open(void)
{
    assert_int_equal(eventfd_write(gate.event_fd, 1), 0);
}

/*
 * Two jobs
 */
static bool
is_other_copied(void)
{
    struct DiskMapFigures figures;

    disk_map_figures(other_map, &figures);
    return !figures.dirty_clusters;
}

static struct RelayFigures
other_figures(void)
{
    struct RelayFigures figures = {0};

    assert_true(relay_figures(rig.relay, OTHER, &figures));
    return figures;
}

static bool
are_both_online(void)
{
    return job_is_online() && other_figures().core.link == RELAY_ONLINE;
}

static bool
does_other_load(void)
{
    return other_figures().core.inflight_bytes > 0;
}

static void
assert_other_target(const char *want, uint64_t from, uint64_t to)
{
    g_autofree char *target = job_image(rig.disks[0].target);

    assert_memory_equal(target + from, want + from, to - from);
}

static void
add_other(unsigned cluster_bits)
{
    other_map = disk_map_new(DISK_BYTES, cluster_bits);
    job.config.name = OTHER;
    job.config.map = other_map;
    job.config.target = rig.disks[0].target;
    job.config.dir_fd = rig.disks[0].dir_fd;
    job.config.job.is_paused = true;
    job_add();
}

static void
begin_one(unsigned cluster_bits)
{
    gate_init();
    rig_new_relay(1);
    assert_true(relay_start(rig.relay, NULL));
    snap_begin();
    snap_take();
    snap_new_job(cluster_bits);
    relay_pause_job(rig.relay, NAME, TRUE);
}

/* Paused. */
static void
begin_two(unsigned cluster_bits, unsigned other_bits)
{
    begin_one(cluster_bits);
    add_other(other_bits);
}

/* To bring this as snapshot @id has it. */
static uint64_t
order(DiskMap *map, const char *name, uint64_t id, uint64_t from, uint64_t to)
{
    uint64_t seq;

    disk_map_mark(map, from, to - from, rig_now_us());
    seq = disk_map_seal(map);
    assert_true(seq > 0);
    relay_allow(rig.relay, name, seq, id);
    return seq;
}

static void
order_both(uint64_t from, uint64_t to)
{
    order(job.map, NAME, ID, from, to);
    order(other_map, OTHER, ID, from, to);
    await(are_both_online);
}

static void
resume(const char *name)
{
    relay_pause_job(rig.relay, name, FALSE);
}

static void
bring(void)
{
    resume(NAME);
    await(job_is_copied);
}

static void
bring_other(void)
{
    resume(OTHER);
    await(is_other_copied);
}

static void
drop_other(void)
{
    relay_stop(rig.relay, 0);
    relay_forget_disk(rig.relay, OTHER);
    disk_map_free(other_map);
    close(gate.event_fd);
}

static void
drop_two(void)
{
    drop_other();
    job_forget();
    snap_drop();
}

/*
 * At the same time
 */
static void
bring_two(unsigned cluster_bits, unsigned other_bits)
{
    GThread *guest;
    uint64_t shared;

    begin_two(cluster_bits, other_bits);
    order_both(0, DISK_BYTES);
    guest = snap_begin_guest();
    resume(NAME);
    bring_other();
    await(job_is_copied);
    snap_end_guest(guest);
    relay_stop(rig.relay, 0);
    shared = other_figures().shared_bytes + job_figures().shared_bytes;
    print_message("read once: %llu KiB\n", (unsigned long long)(shared >> 10));
    assert_true(shared > 0);
    job_assert_target(snap.then, 0, DISK_BYTES);
    assert_other_target(snap.then, 0, DISK_BYTES);
    drop_two();
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
    order_both(0, DISK_BYTES);
    resume(NAME);
    resume(OTHER);
    job_end();
    job_forget();
    await(is_other_copied);
    assert_other_target(snap.then, 0, DISK_BYTES);
    drop_other();
    snap_drop();
}

/*
 * One after the other
 */
static void
assert_other_has(const char *want, uint64_t shared)
{
    assert_other_target(want, AT, AT + CLUSTER);
    assert_int_equal(other_figures().shared_bytes, shared);
    assert_int_equal(atomic_load(&gate.reads), shared ? 1 : 2);
}

static void
test_what_is_still_there_is_copied(void **state)
{
    (void)state;
    begin_two(16, 16);
    order_both(AT, AT + CLUSTER);
    bring();
    bring_other();
    assert_other_has(snap.then, CLUSTER);
    drop_two();
}

/* Its buffers are about to be somebody else's. */
static void
test_nothing_is_copied_of_what_has_ended(void **state)
{
    (void)state;
    begin_two(16, 16);
    order_both(AT, AT + CLUSTER);
    bring();
    job_end();
    bring_other();
    assert_other_has(snap.then, 0);
    drop_two();
}

/* Of what is mapped as buffers are, how much is in memory? What is beside them
 * may be in the same mapping. */
static uint64_t
resident_bytes(void)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t sum = 0, size = 0, resident = 0;

    assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        (void)sscanf(*line, "Size: %" SCNu64, &size);
        (void)sscanf(*line, "Rss: %" SCNu64, &resident);
        if (g_str_has_prefix(*line, "VmFlags:") && strstr(*line, " dc") &&
            size << 10 >= BUFFERS) {
            sum += resident << 10;
        }
    }
    return sum;
}

static uint64_t resident_before;

static bool
is_memory_given_back(void)
{
    return resident_bytes() < resident_before + 2 * CLUSTER;
}

static void
test_nothing_is_copied_of_memory_that_was_given_back(void **state)
{
    (void)state;
    begin_two(16, 16);
    order_both(AT, AT + 7 * CLUSTER);
    resident_before = resident_bytes();
    bring();
    assert_false(is_memory_given_back());
    await(is_memory_given_back);
    bring_other();
    assert_other_has(snap.then, 0);
    drop_two();
}

static void
test_nothing_is_copied_of_another_snapshot(void **state)
{
    g_autofree char *now = NULL;

    (void)state;
    begin_two(16, 16);
    snap_write(PLACE, 0, NOW_BYTE);
    now = job_image(rig.disks[0].raw);
    points_add(snap.points,
               point_new(ID + 1, DISK_BYTES, CLUSTER_BITS, -1, snap.data_fd));
    order(job.map, NAME, ID, AT, AT + CLUSTER);
    order(other_map, OTHER, ID + 1, AT, AT + CLUSTER);
    await(are_both_online);
    bring();
    bring_other();
    assert_other_has(now, 0);
    job_assert_target(snap.then, AT, AT + CLUSTER);
    drop_two();
}

/* A snapshot is of all disks, and has one number. */
static void
test_nothing_is_copied_of_another_disk(void **state)
{
    g_autofree char *its = job_image(rig.disks[1].raw);
    Points *points = points_new();

    (void)state;
    begin_one(16);
    points_add(points,
               point_new(ID, DISK_BYTES, CLUSTER_BITS, -1, snap.data_fd));
    job.config.fd = rig.disks[1].fd;
    job.config.map_fd = rig.disks[1].map_fd;
    job.config.job.pins = rig.disks[1].map;
    job.config.points = points;
    add_other(16);
    order_both(AT, AT + CLUSTER);
    bring();
    bring_other();
    assert_other_has(its, 0);
    drop_two();
    points_free(points);
}

/*
 * While the other waits for it
 */
static void
let_other_wait(void)
{
    await(gate_has_one);
    resume(OTHER);
    await(does_other_load);
    assert_int_equal(atomic_load(&gate.reads), gate.waits);
}

static void
test_what_is_on_its_way_is_waited_for(void **state)
{
    (void)state;
    begin_two(16, 16);
    gate.waits = 1;
    order_both(AT, AT + CLUSTER);
    resume(NAME);
    let_other_wait();
    gate_open();
    await(job_is_copied);
    await(is_other_copied);
    assert_other_has(snap.then, CLUSTER);
    drop_two();
}

static void
test_what_could_not_be_read_is_read_by_who_waited(void **state)
{
    (void)state;
    begin_two(16, 16);
    gate.waits = 1;
    gate.fails_late = true;
    order_both(AT, AT + CLUSTER);
    resume(NAME);
    let_other_wait();
    gate_open();
    await(is_other_copied);
    assert_other_has(snap.then, 0);
    assert_int_equal(job_left(), 1);
    drop_two();
}

static bool
is_snapshot_lost(void)
{
    return job_figures().lost_snapshot == ID;
}

/* What it reads then is the present, whatever it is told to bring meanwhile. */
static void
lose_it_while_the_other_waits(bool is_allowed_again)
{
    g_autofree char *now = NULL;
    uint64_t seq;

    begin_two(16, 16);
    snap_write(PLACE, 0, NOW_BYTE);
    now = job_image(rig.disks[0].raw);
    gate.fails = 1; /* of the point's file; then it turns to the disk */
    gate.waits = 2;
    seq = order(job.map, NAME, ID, AT, AT + CLUSTER);
    order(other_map, OTHER, ID, AT, AT + CLUSTER);
    await(are_both_online);
    resume(NAME);
    await(is_snapshot_lost);
    if (is_allowed_again) {
        relay_allow(rig.relay, NAME, seq, ID);
    }
    let_other_wait();
    gate_open();
    await(job_is_copied);
    await(is_other_copied);
    job_assert_target(now, AT, AT + CLUSTER);
    assert_other_target(snap.then, AT, AT + CLUSTER);
    assert_int_equal(other_figures().shared_bytes, 0);
    assert_int_equal(other_figures().lost_snapshot, 0);
    drop_two();
}

static void
test_nothing_is_copied_of_a_snapshot_that_was_lost(void **state)
{
    (void)state;
    lose_it_while_the_other_waits(false);
}

static void
test_nothing_is_copied_of_one_lost_and_allowed_again(void **state)
{
    (void)state;
    lose_it_while_the_other_waits(true);
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
        TEST(test_what_is_still_there_is_copied),
        TEST(test_nothing_is_copied_of_what_has_ended),
        TEST(test_nothing_is_copied_of_memory_that_was_given_back),
        TEST(test_nothing_is_copied_of_another_snapshot),
        TEST(test_nothing_is_copied_of_another_disk),
        TEST(test_what_is_on_its_way_is_waited_for),
        TEST(test_what_could_not_be_read_is_read_by_who_waited),
        TEST(test_nothing_is_copied_of_a_snapshot_that_was_lost),
        TEST(test_nothing_is_copied_of_one_lost_and_allowed_again),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
