/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-instant.c - a snapshot with a request on its way to the disk
 *
 * Storage requests of one kind wait at a gate: each is a poll of an eventfd in
 * its place, and is performed when that is over.
 */
#include "points-rig.h"

#include "fs/face-internal.h"
#include "tests/lib/test.h"

#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BLOCK   4096
#define PLACE   (3 * CLUSTER)
#define A_WHILE 100 /* ms: what must not come has not come by then */
#define WAIT_US (10 * 1000000)

static struct Gate {
    void (*prep)(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req);
    int (*done)(StoreIo *io, const StoreReq *req, int res);
    int fd;
    atomic_int op; /* of enum StoreOp: one of BLOCK bytes of the disk */
    atomic_uint waiting, syncs;
} gate;

static bool
is_gated(const StoreReq *req)
{
    return (int)req->op == gate.op && req->fd == points_faults.disk->fd &&
           req->len == BLOCK;
}

static void
gate_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    if (is_gated(req)) {
        io_uring_prep_poll_add(sqe, gate.fd, POLLIN);
        gate.waiting++;
        return;
    }
    gate.syncs +=
        req->op == STORE_FDATASYNC && req->fd == points_faults.disk->fd;
    gate.prep(io, sqe, req);
}

static int
gate_done(StoreIo *io, const StoreReq *req, int res)
{
    if (!is_gated(req)) {
        return gate.done(io, req, res);
    }
    return (int)(req->op == STORE_WRITE
                     ? pwrite(req->fd, req->buf, req->len, (off_t)req->offset)
                     : pread(req->fd, req->buf, req->len, (off_t)req->offset));
}

static struct PointsRig *
rig_new(enum StoreOp op)
{
    struct PointsRig *rig = points_rig_new();

    points_rig_write(rig, PLACE, CLUSTER, 1);
    gate = (struct Gate){.prep = points_faults.ops.prep,
                         .done = points_faults.ops.done,
                         .fd = eventfd(0, EFD_CLOEXEC),
                         .op = (int)op};
    points_faults.ops.prep = gate_prep;
    points_faults.ops.done = gate_done;
    return rig;
}

static void
rig_free(struct PointsRig *rig)
{
    points_rig_free(rig);
    close(gate.fd);
}

static void
open_gate(void)
{
    eventfd_write(gate.fd, 1);
}

static void
await_gated(void)
{
    int64_t until = g_get_monotonic_time() + WAIT_US;

    while (!gate.waiting) {
        assert_true(g_get_monotonic_time() < until);
        sched_yield();
    }
}

static uint64_t
send_write(struct PointsRig *rig, unsigned char what)
{
    struct fuse_write_in in = {.offset = PLACE, .size = BLOCK};

    memset(rig->now + PLACE, what, BLOCK);
    return fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
                     rig->now + PLACE, BLOCK);
}

static void *
take_snapshot(void *rig)
{
    points_rig_snapshot(rig);
    return NULL;
}

/* Before it can be relied on, what was in flight is there, and durable. */
static void
test_a_write_in_flight_ends_first(void **state)
{
    struct PointsRig *rig = rig_new(STORE_WRITE);
    uint64_t sent = send_write(rig, 2);
    unsigned early;
    pthread_t taker;
    int error;

    (void)state;
    await_gated();
    assert_int_equal(pthread_create(&taker, NULL, take_snapshot, rig), 0);
    while (!points_is_live(rig->disk->points, 1)) {
        sched_yield();
    }
    poll(NULL, 0, A_WHILE);
    early = gate.syncs;
    open_gate();
    assert_true(fake_reply(&rig->session, &error) == sent);
    assert_int_equal(error, 0);
    assert_int_equal(pthread_join(taker, NULL), 0);
    assert_int_equal(early, 0);
    assert_int_equal(gate.syncs, 1);
    points_rig_assert_all(rig);
    rig_free(rig);
}

/* When it is on its way, what it overwrites is kept, and synced. */
static void
test_a_copy_is_durable_before_the_write(void **state)
{
    struct PointsRig *rig = rig_new(STORE_WRITE);
    unsigned syncs, maps;
    int error;

    (void)state;
    points_rig_snapshot(rig);
    send_write(rig, 2);
    await_gated();
    syncs = points_faults.asked[POINTS_DATA_SYNC];
    maps = points_faults.asked[POINTS_MAP_WRITE];
    open_gate();
    fake_reply(&rig->session, &error);
    assert_int_equal(error, 0);
    assert_int_equal(syncs, 1);
    assert_int_equal(maps, 1);
    points_rig_assert_all(rig);
    rig_free(rig);
}

/* It has found it on the disk, and reads there; nobody writes meanwhile. */
static void
test_what_is_read_is_not_overwritten(void **state)
{
    struct PointsRig *rig = rig_new(STORE_READ);
    struct fuse_read_in in = {.offset = PLACE, .size = BLOCK};
    struct pollfd kernel = {.fd = rig->session.fd, .events = POLLIN};
    uint64_t id = points_rig_snapshot(rig);
    uint64_t reading =
        fake_send(&rig->session, FUSE_READ,
                  face_node_snap_ino(FACE_KIND_SNAP_DISK, rig->disk->id, id, 0),
                  &in, sizeof(in), NULL, 0);
    unsigned reads = 0;
    int error;

    (void)state;
    await_gated();
    send_write(rig, 2);
    poll(&kernel, 1, A_WHILE); /* may be answered only if it may be written */
    open_gate();
    for (int i = 0; i < 2; i++) {
        bool is_read = fake_reply(&rig->session, &error) == reading;

        assert_int_equal(error, 0);
        if (is_read) {
            assert_int_equal(rig->session.reply_len, BLOCK);
            assert_memory_equal(rig->session.reply, rig->then[id - 1] + PLACE,
                                BLOCK);
            reads++;
        }
    }
    assert_int_equal(reads, 1);
    points_rig_assert_all(rig);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_in_flight_ends_first),
        cmocka_unit_test(test_a_copy_is_durable_before_the_write),
        cmocka_unit_test(test_what_is_read_is_not_overwritten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
