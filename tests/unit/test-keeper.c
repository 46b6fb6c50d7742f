/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-keeper.c - rounds of the keeper beside a real face
 *
 * The store's calls are recorded, so that rule 3's order can be looked at:
 * disk.raw is synced between the moment at which candidates are chosen and the
 * checkpoint, and the intent file comes last.
 */
#include "bitmap/bitmap-file.h"
#include "bitmap/intent.h"
#include "fs/keeper.h"
#include "tests/lib/fake-session.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <fcntl.h>

#define EXTENT    (UINT64_C(1) << INTENT_EXTENT_BITS)
#define SIZE      (256 * MIB)
#define PERIOD_US (20 * 1000)

/* R: disk.raw is synced; B: a page of the bitmap's file is written. */
static struct {
    StoreIo io;
    struct StoreIoOps ops;
    int raw_fd, dirty_fd;
    atomic_uint raw_syncs;
    atomic_bool is_synced; /* since the last checkpoint */
    atomic_uint unsynced;  /* checkpoints without a sync before */
    atomic_int error;      /* of a sync of disk.raw */
    atomic_int save_error;
} seen;

static int
seen_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    int fd = store_io_kernel()->ops->open(io, dirfd, name, flags, mode);

    if (!strcmp(name, "dirty") && fd >= 0) {
        seen.unsynced += !atomic_exchange(&seen.is_synced, false);
        seen.dirty_fd = fd;
    }
    return fd;
}

static int
seen_fdatasync(StoreIo *io, int fd)
{
    if (fd == seen.raw_fd) {
        seen.raw_syncs++;
        seen.is_synced = true;
        if (seen.error) {
            return seen.error;
        }
    }
    return store_io_kernel()->ops->fdatasync(io, fd);
}

static ssize_t
seen_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    if (fd == seen.dirty_fd && seen.save_error) {
        return seen.save_error;
    }
    return store_io_kernel()->ops->pwrite(io, fd, buf, len, offset);
}

static FakeSession *
new_session(void)
{
    FakeSession *session = calloc(1, sizeof(*session));

    memset(&seen, 0, sizeof(seen));
    seen.ops = *store_io_kernel()->ops;
    seen.ops.open = seen_open;
    seen.ops.fdatasync = seen_fdatasync;
    seen.ops.pwrite = seen_pwrite;
    seen.io.ops = &seen.ops;
    seen.dirty_fd = -1;
    fake_session_init(session, &seen.io, SIZE, 512);
    fake_session_track(session);
    seen.raw_fd = session->disk.map_fd;
    return session;
}

static void
end_session(FakeSession *session)
{
    (void)unlinkat(session->disk.dir_fd, "dirty", 0);
    fake_session_deinit(session);
    free(session);
}

static void
write_at(FakeSession *session, uint64_t offset)
{
    char block[4096] = "x";

    assert_int_equal(fake_write(session, block, sizeof(block), offset), 4096);
}

static uint64_t
hot_extents(FakeSession *session)
{
    struct DiskMapFigures figures;

    disk_map_figures(session->disk.map, &figures);
    return figures.hot_extents;
}

/* Time goes by in round trips of a read, at most so much of it. */
static void
pass_time(FakeSession *session, gint64 since_us)
{
    char block[512];

    assert_int_equal(fake_read(session, block, sizeof(block), 0), 512);
    assert_true(g_get_monotonic_time() - since_us < 15 * G_USEC_PER_SEC);
}

#define AWAIT(condition)                                             \
    for (gint64 since_us_ = g_get_monotonic_time(); !(condition);) { \
        pass_time(session, since_us_);                               \
    }

/* What a crash now would find dirty. */
static uint64_t
dirty_after_crash(FakeSession *session)
{
    struct BitmapFile file = {.name = "dirty", .map = bitmap_new(SIZE, 16)};
    struct BitmapFileReport report;
    struct IntentMark want = {.epoch = 1};
    struct IntentReport intent;
    Bitmap *hot = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    uint64_t dirty;

    bitmap_file_load(store_io_kernel(), session->disk.dir_fd, &file, &report);
    assert_null(report.what);
    want.sequence = report.sequence;
    intent_load(store_io_kernel(), session->disk.dir_fd, hot, &want, &intent);
    assert_null(intent.what);
    for (uint64_t i = 0; i < bitmap_clusters(hot); i++) {
        if (bitmap_get(hot, i)) {
            bitmap_set_bytes(file.map, i * EXTENT, EXTENT);
        }
    }
    dirty = bitmap_count(file.map);
    bitmap_free(hot);
    bitmap_free(file.map);
    return dirty;
}

static void
test_what_is_left_alone_gets_cold(void **state)
{
    FakeSession *session = new_session();
    Keeper *keeper;

    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        write_at(session, i * EXTENT);
    }
    keeper = keeper_new(&session->store, session->face, PERIOD_US);
    AWAIT(hot_extents(session) == 0);
    keeper_free(keeper);
    assert_int_equal(dirty_after_crash(session), 10);
    assert_true(seen.raw_syncs > 0);
    assert_int_equal(seen.unsynced, 0);
    assert_true(session->store.checkpoints > 0);
    end_session(session);
}

/* Always written: neither a checkpoint nor a page, round after round. */
static void
test_what_is_written_all_the_time_costs_nothing(void **state)
{
    FakeSession *session = new_session();
    struct FaceFigures figures;
    Keeper *keeper;
    gint64 end_us, last_us, gap_us = 0;

    (void)state;
    write_at(session, 0);
    keeper = keeper_new(&session->store, session->face, G_USEC_PER_SEC);
    end_us = g_get_monotonic_time() + 4 * G_USEC_PER_SEC;
    do {
        last_us = g_get_monotonic_time();
        write_at(session, 0);
        gap_us = MAX(gap_us, g_get_monotonic_time() - last_us);
    } while (last_us < end_us);
    keeper_free(keeper);
    face_figures(session->face, &figures);
    /* Unless the machine stood still for longer than a period. */
    if (gap_us < G_USEC_PER_SEC / 2) {
        assert_int_equal(figures.intent_writes, 1);
        assert_int_equal(session->store.checkpoints, 0);
        assert_int_equal(hot_extents(session), 1);
    }
    end_session(session);
}

/* A guest writes all over while it is kept: whatever a crash would find, all
 * that is dirty is in it. */
static void
test_keeping_under_writes_never_loses_a_cluster(void **state)
{
    FakeSession *session = new_session();
    Keeper *keeper = keeper_new(&session->store, session->face, 2000);
    struct DiskMapFigures figures;
    uint64_t x = 1;

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        write_at(session, (x >> 20) % (SIZE / 4096) * 4096);
    }
    keeper_free(keeper);
    disk_map_figures(session->disk.map, &figures);
    if (session->store.checkpoints) {
        assert_true(dirty_after_crash(session) >= figures.dirty_clusters);
    }
    assert_int_equal(seen.unsynced, 0);
    end_session(session);
}

static void
test_failing_checkpoint_keeps_extents_hot(void **state)
{
    FakeSession *session = new_session();
    Keeper *keeper;
    unsigned syncs;

    (void)state;
    write_at(session, 0);
    atomic_store(&seen.save_error, -ENOSPC);
    keeper = keeper_new(&session->store, session->face, PERIOD_US);
    syncs = seen.raw_syncs;
    AWAIT(seen.raw_syncs >= syncs + 3);
    assert_int_equal(hot_extents(session), 1);
    assert_false(session->disk.is_frozen);
    /* Room again: it is tried again. */
    atomic_store(&seen.save_error, 0);
    AWAIT(hot_extents(session) == 0);
    keeper_free(keeper);
    assert_int_equal(dirty_after_crash(session), 1);
    end_session(session);
}

static void
test_failing_sync_freezes(void **state)
{
    FakeSession *session = new_session();
    char block[512] = "y";
    Keeper *keeper;

    (void)state;
    write_at(session, 0);
    atomic_store(&seen.error, -EIO);
    keeper = keeper_new(&session->store, session->face, PERIOD_US);
    AWAIT(session->disk.is_frozen);
    keeper_free(keeper);
    assert_int_equal(hot_extents(session), 1);
    assert_int_equal(fake_write(session, block, sizeof(block), 0), -EIO);
    assert_int_equal(session->store.checkpoints, 0);
    end_session(session);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_left_alone_gets_cold),
        cmocka_unit_test(test_what_is_written_all_the_time_costs_nothing),
        cmocka_unit_test(test_keeping_under_writes_never_loses_a_cluster),
        cmocka_unit_test(test_failing_checkpoint_keeps_extents_hot),
        cmocka_unit_test(test_failing_sync_freezes),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
