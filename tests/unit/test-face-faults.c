/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-faults.c - the face over storage that fails: what was not synced is
 * not called synced, and nothing is written after that (rule 20)
 */
#include "fs/store-private.h"
#include "fs/zero-file.h"
#include "tests/lib/fake-session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB   (UINT64_C(1) << 20)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static struct StoreIoOps broken_ops;
static atomic_bool sync_fails;

static int
broken_done(StoreIo *io, const StoreReq *req, int res)
{
    (void)io;
    return req->op == STORE_FDATASYNC && sync_fails ? -EIO : res;
}

static void
test_failed_sync_freezes_writes_and_not_reads(void **state)
{
    StoreIo broken = {&broken_ops};
    FakeSession session;
    unsigned char buf[512] = {1};

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.done = broken_done;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    assert_int_equal(fake_write(&session, buf, 512, 0), 512);
    sync_fails = true;
    assert_int_equal(fake_fsync(&session), -EIO);
    sync_fails = false;
    assert_int_equal(fake_fsync(&session), -EIO);
    assert_int_equal(fake_write(&session, buf, 512, 0), -EIO);
    assert_int_equal(fake_fallocate(&session, PUNCH, 0, 512), -EIO);
    assert_int_equal(fake_read(&session, buf, 512, 0), 512);
    while (!session.frozen) {
        sched_yield();
    }
    fake_session_deinit(&session);
}

static Disk *freezes; /* as the keeper's sync of it fails */

static int
freezing_done(StoreIo *io, const StoreReq *req, int res)
{
    (void)io;
    if (req->op == STORE_FDATASYNC) {
        atomic_store(&freezes->is_frozen, true);
    }
    return res;
}

/* The kernel tells a failure once: to the keeper, and not to the guest. */
static void
test_sync_beside_one_that_fails_is_no_success(void **state)
{
    StoreIo broken = {&broken_ops};
    FakeSession session;
    unsigned char buf[512] = {1};

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.done = freezing_done;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    freezes = &session.disk;
    assert_int_equal(fake_write(&session, buf, 512, 0), 512);
    assert_int_equal(fake_fsync(&session), -EIO);
    fake_session_deinit(&session);
}

static atomic_uint zeroes_syncs;

static bool
is_record(int fd)
{
    char link[64], path[4096] = "";

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof(path) - 1) > 0 &&
           strstr(path, "/" ZERO_FILE);
}

static int
counting_fdatasync(StoreIo *io, int fd)
{
    (void)io;
    zeroes_syncs += is_record(fd);
    return store_io_kernel()->ops->fdatasync(io, fd);
}

/* Whoever killed the life before left it in the page cache, over a list of
 * what the guest is about to write: a power cut would bring that back. */
static void
test_empty_record_is_synced_before_it_is_believed(void **state)
{
    StoreIo counting = {&broken_ops};
    FakeSession session;

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.fdatasync = counting_fdatasync;
    fake_session_init(&session, &counting, FAKE_DISK_BYTES, 512);
    assert_int_equal(fake_fallocate(&session, PUNCH, 0, 8 * MIB), 0);
    assert_int_equal(fake_fsync(&session), 0);
    do {
        sched_yield();
    } while (session.disk.unpunched_bytes);
    fake_session_leave(&session);
    zeroes_syncs = 0;
    fake_session_follow(&session);
    assert_true(zeroes_syncs > 0);
    fake_session_deinit(&session);
}

static atomic_int punch_error;

static int
unpunching_done(StoreIo *io, const StoreReq *req, int res)
{
    (void)io;
    return req->op == STORE_FALLOCATE && punch_error ? punch_error : res;
}

/* As if the relay had brought all that is dirty to the target. */
static void
settle(Disk *disk)
{
    struct ClusterRun run;

    assert_true(disk_map_seal(disk->map) > 0);
    while (disk_map_next_sealed(disk->map, 0, UINT64_MAX, &run)) {
        disk_map_settle(disk->map, run);
    }
    assert_true(disk_map_retire(disk->map));
}

/* What was there before the discard is at the target, and the map clean. */
static void
test_discard_is_owed_until_it_is_punched(void **state)
{
    StoreIo broken = {&broken_ops};
    struct DiskMapFigures figures;
    unsigned char buf[512];
    FakeSession session;
    unsigned times;

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.done = unpunching_done;
    punch_error = -ENOSPC;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    assert_int_equal(fake_fallocate(&session, PUNCH, 0, 8 * MIB), 0);
    while (!session.logs) {
        sched_yield();
    }
    /* Behind it, so the slice has been given back. */
    assert_int_equal(fake_read(&session, buf, 512, 32 * MIB), 512);
    settle(&session.disk);
    disk_map_figures(session.disk.map, &figures);
    assert_int_equal(figures.dirty_clusters, 0);
    store_disk_figures(&session.disk, &figures);
    assert_int_equal(figures.dirty_clusters, 8 * MIB >> 16);

    times = session.disk.times_punched;
    punch_error = 0;
    do {
        face_hurry(session.face);
        sched_yield();
    } while (session.disk.unpunched_bytes);
    assert_int_equal(session.disk.times_punched, times + 1);
    disk_map_figures(session.disk.map, &figures);
    assert_int_equal(figures.dirty_clusters, 8 * MIB >> 16);
    fake_session_deinit(&session);
}

/* By the time of its answer, not of its punching: a slice fails, so none of those
 * behind it is looked at. */
static void
test_discard_is_recorded_when_it_is_accepted(void **state)
{
    const struct NamedSpec spec = {.name = "b", .id = 1, .grain_bits = 16};
    StoreIo broken = {&broken_ops};
    struct NamedFigures figures;
    FakeSession session;

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.done = unpunching_done;
    punch_error = -ENOSPC;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    assert_int_equal(named_add(session.disk.bitmaps, &spec, NULL), NAMED_OK);
    assert_int_equal(fake_fallocate(&session, PUNCH, 8 * MIB, 48 * MIB), 0);
    assert_int_equal(session.disk.unpunched_bytes, 48 * MIB);
    assert_true(named_find(session.disk.bitmaps, "b", &figures));
    assert_int_equal(figures.count_bytes, 48 * MIB);
    punch_error = 0;
    fake_session_deinit(&session);
}

/* Calls about the record, from now on. */
static int record_open_error, record_write_error;

static int
unrecording_open(StoreIo *io, int dirfd, const char *name, int flags,
                 mode_t mode)
{
    (void)io;
    if (record_open_error && !strcmp(name, ZERO_FILE)) {
        return record_open_error;
    }
    return store_io_kernel()->ops->open(store_io_kernel(), dirfd, name, flags,
                                        mode);
}

static ssize_t
unrecording_pwrite(StoreIo *io, int fd, const void *buf, size_t len,
                   uint64_t offset)
{
    (void)io;
    if (record_write_error && is_record(fd)) {
        return record_write_error;
    }
    return store_io_kernel()->ops->pwrite(store_io_kernel(), fd, buf, len,
                                          offset);
}

static void
assert_served_without_discards(FakeSession *session)
{
    unsigned char buf[512] = {7}, back[512];

    assert_int_equal(fake_write(session, buf, 512, 32 * MIB), 512);
    assert_int_equal(fake_read(session, back, 512, 32 * MIB), 512);
    assert_memory_equal(buf, back, 512);
    assert_int_equal(fake_fsync(session), 0);
    assert_int_equal(fake_fallocate(session, PUNCH, 0, 8 * MIB), -EOPNOTSUPP);
    assert_int_equal(fake_fallocate(session, PUNCH, 0, 4096), -EOPNOTSUPP);
}

static void
test_disk_without_a_record_is_served(void **state)
{
    StoreIo broken = {&broken_ops};
    FakeSession session;

    (void)state;
    broken_ops = *store_io_kernel()->ops;
    broken_ops.open = unrecording_open;
    record_open_error = -ENOSPC;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    assert_served_without_discards(&session);
    /* Until it can be had. */
    record_open_error = 0;
    fake_session_restart(&session);
    assert_int_equal(fake_fallocate(&session, PUNCH, 0, 8 * MIB), 0);
    fake_session_deinit(&session);
}

/* What is on the list goes on reading as zero, and what is written there later
 * is not zeroed by the old record. Of a disk that is tracked a checkpoint says
 * that it is dirty; another one needs none, and may have no room for it. */
static void
carry_out_record(bool is_tracked)
{
    unsigned char buf[512], back[512] = {1}, zero[512] = {0};
    StoreIo broken = {&broken_ops};
    FakeSession session;

    memset(buf, 3, sizeof(buf));
    broken_ops = *store_io_kernel()->ops;
    broken_ops.done = unpunching_done;
    broken_ops.pwrite = unrecording_pwrite;
    punch_error = 0;
    fake_session_init(&session, &broken, FAKE_DISK_BYTES, 512);
    if (is_tracked) {
        fake_session_track(&session);
    } else {
        assert_int_equal(mkdirat(session.disk.dir_fd, STORE_DIRTY, 0700), 0);
    }
    assert_int_equal(fake_write(&session, buf, 512, 0), 512);
    punch_error = -ENOSPC;
    assert_int_equal(fake_fallocate(&session, PUNCH, 0, 8 * MIB), 0);
    fake_session_leave(&session);
    record_write_error = -EIO;
    fake_session_follow(&session);
    assert_int_equal(session.disk.unpunched_bytes, 0);
    assert_int_equal(session.store.checkpoints, is_tracked);
    assert_int_equal(fake_read(&session, back, 512, 0), 512);
    assert_memory_equal(back, zero, 512);
    assert_served_without_discards(&session);
    assert_int_equal(fake_write(&session, buf, 512, 0), 512);
    record_write_error = 0;
    punch_error = 0;
    fake_session_restart(&session);
    assert_int_equal(fake_read(&session, back, 512, 0), 512);
    assert_memory_equal(back, buf, 512);
    assert_int_equal(unlinkat(session.disk.dir_fd, STORE_DIRTY,
                              is_tracked ? 0 : AT_REMOVEDIR),
                     0);
    fake_session_deinit(&session);
}

static void
test_record_that_cannot_be_renewed_is_carried_out(void **state)
{
    (void)state;
    carry_out_record(false);
    carry_out_record(true);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failed_sync_freezes_writes_and_not_reads),
        cmocka_unit_test(test_sync_beside_one_that_fails_is_no_success),
        cmocka_unit_test(test_empty_record_is_synced_before_it_is_believed),
        cmocka_unit_test(test_discard_is_owed_until_it_is_punched),
        cmocka_unit_test(test_discard_is_recorded_when_it_is_accepted),
        cmocka_unit_test(test_disk_without_a_record_is_served),
        cmocka_unit_test(test_record_that_cannot_be_renewed_is_carried_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
