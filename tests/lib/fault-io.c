/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fault-io.c - counts the calls of a store and fails some of them
 *
 * Each op asks strike() first, which counts. An op that is struck does not
 * reach the inner StoreIo, but for two: close, whose descriptor must not stay
 * open whatever it returns, and a torn pwrite, which writes the first half. A
 * request on a ring counts when its result comes by; the kernel has performed
 * it by then, and the store is told that it failed.
 */
#include "fault-io.h"

#include <assert.h>
#include <liburing.h>

static bool
strike(StoreIo *io)
{
    FaultIo *fault = (FaultIo *)io;
    unsigned call = atomic_fetch_add(&fault->calls, 1) + 1;
    bool hit = fault->fail_at && (fault->is_sticky ? call >= fault->fail_at
                                                   : call == fault->fail_at);

    if (hit) {
        atomic_fetch_add(&fault->failed, 1);
    }
    return hit;
}

static StoreIo *
inner(StoreIo *io)
{
    return ((FaultIo *)io)->inner;
}

/* Either the error armed or what the inner op returns. */
#define PASS(io, op, ...)                  \
    (strike(io) ? ((FaultIo *)(io))->error \
                : inner(io)->ops->op(inner(io), __VA_ARGS__))

static int
fault_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    return PASS(io, open, dirfd, name, flags, mode);
}

static int
fault_close(StoreIo *io, int fd)
{
    int r = inner(io)->ops->close(inner(io), fd);

    return strike(io) ? ((FaultIo *)io)->error : r;
}

static int
fault_mkdir(StoreIo *io, int dirfd, const char *name, mode_t mode)
{
    return PASS(io, mkdir, dirfd, name, mode);
}

static ssize_t
fault_pread(StoreIo *io, int fd, void *buf, size_t len, uint64_t offset)
{
    return PASS(io, pread, fd, buf, len, offset);
}

static ssize_t
fault_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    FaultIo *fault = (FaultIo *)io;

    if (!strike(io)) {
        return inner(io)->ops->pwrite(inner(io), fd, buf, len, offset);
    }
    if (fault->is_torn) {
        (void)inner(io)->ops->pwrite(inner(io), fd, buf, len / 2, offset);
    }
    return fault->error;
}

static int
fault_fdatasync(StoreIo *io, int fd)
{
    return PASS(io, fdatasync, fd);
}

static int
fault_fsync(StoreIo *io, int fd)
{
    return PASS(io, fsync, fd);
}

static int
fault_ftruncate(StoreIo *io, int fd, uint64_t size)
{
    return PASS(io, ftruncate, fd, size);
}

static int
fault_fallocate(StoreIo *io, int fd, int mode, uint64_t offset, uint64_t len)
{
    return PASS(io, fallocate, fd, mode, offset, len);
}

static int
fault_rename(StoreIo *io, int dirfd, const char *from, const char *to)
{
    return PASS(io, rename, dirfd, from, to);
}

static int
fault_exchange(StoreIo *io, int dirfd, const char *a, const char *b)
{
    return PASS(io, exchange, dirfd, a, b);
}

static int
fault_unlink(StoreIo *io, int dirfd, const char *name, int flags)
{
    return PASS(io, unlink, dirfd, name, flags);
}

static off_t
fault_lseek(StoreIo *io, int fd, off_t offset, int whence)
{
    return PASS(io, lseek, fd, offset, whence);
}

/* A place for @req, or the one that it has. */
static struct FaultRing *
ring_place(FaultIo *fault, const StoreReq *old, const StoreReq *req)
{
    struct FaultRing *place = NULL;

    pthread_mutex_lock(&fault->lock);
    for (unsigned i = 0; i < FAULT_RING && !place; i++) {
        if (fault->ring[i].req == old) {
            place = &fault->ring[i];
            place->req = req;
        }
    }
    pthread_mutex_unlock(&fault->lock);
    return place;
}

static void
fault_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    FaultIo *fault = (FaultIo *)io;
    bool is_write = req->op == STORE_WRITE || req->op == STORE_WRITE_SYNC;
    uint64_t half = req->len / 2 & ~UINT64_C(511);

    if (!fault->is_early || !strike(io)) {
        inner(io)->ops->prep(inner(io), sqe, req);
        return;
    }
    struct FaultRing *place = ring_place(fault, NULL, req);

    assert(place);
    place->half = *req;
    place->half.len =
        is_write && (fault->is_torn || fault->is_short) ? half : 0;
    if (place->half.len) {
        inner(io)->ops->prep(inner(io), sqe, &place->half);
    } else {
        io_uring_prep_nop(sqe);
    }
}

static int
fault_done(StoreIo *io, const StoreReq *req, int res)
{
    FaultIo *fault = (FaultIo *)io;
    struct FaultRing *place;

    if (!fault->is_early) {
        return PASS(io, done, req, res);
    }
    place = ring_place(fault, req, req);
    if (!place) {
        return inner(io)->ops->done(inner(io), req, res);
    }
    if (place->half.len) {
        res = inner(io)->ops->done(inner(io), &place->half, res);
        res = fault->is_short ? res : fault->error;
    } else {
        res = fault->error;
    }
    (void)ring_place(fault, req, NULL);
    return res;
}

static const struct StoreIoOps fault_ops = {
    .open = fault_open,
    .close = fault_close,
    .mkdir = fault_mkdir,
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .fdatasync = fault_fdatasync,
    .fsync = fault_fsync,
    .ftruncate = fault_ftruncate,
    .fallocate = fault_fallocate,
    .rename = fault_rename,
    .exchange = fault_exchange,
    .unlink = fault_unlink,
    .lseek = fault_lseek,
    .prep = fault_prep,
    .done = fault_done,
};

void
fault_io_init(FaultIo *fault, StoreIo *inner_io)
{
    *fault = (FaultIo){.io = {&fault_ops}, .inner = inner_io};
    pthread_mutex_init(&fault->lock, NULL);
}

void
fault_io_arm(FaultIo *fault, unsigned n, bool is_sticky, int error)
{
    fault->fail_at = n;
    fault->is_sticky = is_sticky;
    fault->error = error;
    atomic_store(&fault->calls, 0);
    atomic_store(&fault->failed, 0);
}

unsigned
fault_io_disarm(FaultIo *fault)
{
    fault->fail_at = 0;
    return atomic_load(&fault->failed);
}
