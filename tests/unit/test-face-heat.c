/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-heat.c - writes into cold extents: what is in the intent file when
 * the reply is here, what it costs, and what happens if it cannot be written
 */
#include "bitmap/intent.h"
#include "fs/face-internal.h"
#include "tests/lib/fake-session.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#define EXTENT (UINT64_C(1) << INTENT_EXTENT_BITS)
#define MIB    (UINT64_C(1) << 20)
#define TIB    (UINT64_C(1) << 40)

static char block[4096];

static FakeSession *
new_session(StoreIo *io, uint64_t size)
{
    FakeSession *session = calloc(1, sizeof(*session));

    fake_session_init(session, io, size, 512);
    fake_session_track(session);
    memset(block, 'x', sizeof(block));
    return session;
}

static void
end_session(FakeSession *session)
{
    fake_session_deinit(session);
    free(session);
}

/* What a crash now would find hot. */
static Bitmap *
load_hot(FakeSession *session)
{
    struct IntentMark want = {.epoch = 1, .sequence = UINT64_MAX};
    Bitmap *hot = bitmap_new(session->disk.size_bytes, INTENT_EXTENT_BITS);
    struct IntentReport report;

    intent_load(store_io_kernel(), session->disk.dir_fd, hot, &want, &report);
    assert_null(report.what);
    return hot;
}

static void
assert_hot_on_disk(FakeSession *session, uint64_t offset, uint64_t len)
{
    Bitmap *hot = load_hot(session);
    struct ClusterRun run = run_outward(offset, len, INTENT_EXTENT_BITS);

    assert_int_equal(bitmap_count_run(hot, run), run.count);
    bitmap_free(hot);
}

static uint64_t
intent_writes(FakeSession *session)
{
    struct FaceFigures figures;

    face_figures(session->face, &figures);
    return figures.intent_writes;
}

static uint64_t
hot_extents(FakeSession *session)
{
    struct DiskMapFigures figures;

    disk_map_figures(session->disk.map, &figures);
    return figures.hot_extents;
}

static void
test_cold_is_heated_once_and_hot_costs_nothing(void **state)
{
    FakeSession *session = new_session(NULL, 64 * MIB);

    (void)state;
    assert_int_equal(hot_extents(session), 0);
    assert_int_equal(fake_write(session, block, 4096, 5 * MIB), 4096);
    assert_hot_on_disk(session, 5 * MIB, 4096);
    assert_int_equal(intent_writes(session), 1);
    assert_int_equal(hot_extents(session), 1);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(
            fake_write(session, block, 4096, 4 * MIB + i % 1024 * 4096), 4096);
    }
    assert_int_equal(intent_writes(session), 1);
    /* Over the edge of two extents, and not aligned: read, modify, write. */
    assert_int_equal(fake_write(session, block, 1000, 16 * MIB - 10), 1000);
    assert_hot_on_disk(session, 16 * MIB - 10, 1000);
    assert_int_equal(intent_writes(session), 2);
    end_session(session);
}

static void
test_what_waits_together_is_one_commit(void **state)
{
    FakeSession *session = new_session(NULL, 64 * MIB);
    struct fuse_write_in in = {.size = 4096};
    int error;

    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        in.offset = i * EXTENT;
        fake_send(session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in), block,
                  sizeof(block));
    }
    for (unsigned i = 0; i < 16; i++) {
        fake_reply(session, &error);
        assert_int_equal(error, 0);
    }
    assert_hot_on_disk(session, 0, 64 * MIB);
    /* Sixteen only if each came after the one before was written. */
    assert_in_range(intent_writes(session), 1, 8);
    end_session(session);
}

/* The page cannot be written: the guest hears it, the data is as it was, and
 * the next write goes through. */
static void
test_failing_page_fails_the_write_alone(void **state)
{
    static const int errors[] = {-EIO, -ENOSPC};
    char back[4096], zeroes[4096] = {0};
    FaultIo fault;
    FakeSession *session;

    (void)state;
    fault_io_init(&fault, store_io_kernel());
    session = new_session(&fault.io, 64 * MIB);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t at = (i + 1) * 8 * MIB;

        fault_io_arm(&fault, 1, true, errors[i]);
        assert_int_equal(fake_write(session, block, 4096, at), errors[i]);
        assert_int_equal(fake_write(session, block, 4096, at), errors[i]);
        /* For the second one it is the punch that waits. */
        assert_int_equal(
            fake_fallocate(session, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           at, 4096),
            errors[i]);
        assert_true(fault_io_disarm(&fault) >= 3);
        assert_int_equal(fake_read(session, back, 4096, at), 4096);
        assert_memory_equal(back, zeroes, 4096);
        assert_true(disk_map_is_clean(session->disk.map, at, 4096));
        assert_int_equal(fake_write(session, block, 4096, at), 4096);
        assert_hot_on_disk(session, at, 4096);
        assert_int_equal(session->frozen, 0);
    }
    end_session(session);
}

static void
test_discards_heat_what_they_punch(void **state)
{
    const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    FakeSession *session = new_session(NULL, 2048 * MIB);
    struct DiskMapFigures figures;

    (void)state;
    assert_int_equal(fake_fallocate(session, punch, 3 * MIB, 4096), 0);
    assert_hot_on_disk(session, 3 * MIB, 4096);
    assert_int_equal(fake_fallocate(session, punch, 100 * MIB + 5, 1500 * MIB),
                     0);
    fake_session_restart(session); /* all slices are punched */
    assert_hot_on_disk(session, 100 * MIB + 5, 1500 * MIB);
    disk_map_figures(session->disk.map, &figures);
    assert_int_equal(figures.dirty_clusters, 1500 * 16 + 2);
    assert_in_range(hot_extents(session), 376, 400);
    end_session(session);
}

static Bitmap *
cool(FakeSession *session, Bitmap *candidates)
{
    Bitmap *cooled = bitmap_new(session->disk.size_bytes, INTENT_EXTENT_BITS);

    face_cool(session->face, &session->disk, candidates, cooled);
    return cooled;
}

/* Two rounds without a write: cold, on disk as well; then all over again. */
static void
test_cooling_turns_bits_off_on_disk(void **state)
{
    FakeSession *session = new_session(NULL, 64 * MIB);
    Bitmap *candidates = bitmap_new(64 * MIB, INTENT_EXTENT_BITS);
    Bitmap *cooled, *hot;

    (void)state;
    assert_int_equal(fake_write(session, block, 4096, 0), 4096);
    assert_int_equal(fake_write(session, block, 4096, 5 * EXTENT), 4096);
    assert_int_equal(disk_map_cool_begin(session->disk.map, candidates), 0);
    assert_int_equal(fake_write(session, block, 4096, 0), 4096);
    assert_int_equal(disk_map_cool_begin(session->disk.map, candidates), 1);
    cooled = cool(session, candidates);
    assert_int_equal(bitmap_count(cooled), 1);
    assert_true(bitmap_get(cooled, 5));
    hot = load_hot(session);
    assert_int_equal(bitmap_count(hot), 1);
    assert_true(bitmap_get(hot, 0));
    assert_int_equal(intent_writes(session), 3);
    assert_int_equal(fake_write(session, block, 4096, 5 * EXTENT), 4096);
    assert_hot_on_disk(session, 5 * EXTENT, 4096);
    assert_int_equal(intent_writes(session), 4);
    bitmap_free(hot);
    bitmap_free(cooled);
    bitmap_free(candidates);
    end_session(session);
}

static void
ignore_grant(RangeHold *hold)
{
    (void)hold;
}

/* A parked write holds nothing, so its extent may get cold under it. */
static void
test_a_granted_write_looks_again(void **state)
{
    FakeSession *session = new_session(NULL, 64 * MIB);
    Bitmap *candidates = bitmap_new(64 * MIB, INTENT_EXTENT_BITS);
    RangeHold pin = {
        .offset = 0, .len = 4096, .kind = RANGE_PIN, .granted = ignore_grant};
    struct fuse_write_in in = {.size = 4096};
    struct DiskMapFigures figures = {0};
    Bitmap *cooled;
    int error;

    (void)state;
    assert_int_equal(fake_write(session, block, 4096, 0), 4096);
    disk_map_cool_begin(session->disk.map, candidates);
    assert_int_equal(disk_map_begin(session->disk.map, &pin, 1),
                     DISK_MAP_BEGUN);
    fake_send(session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in), block,
              sizeof(block));
    while (!figures.parked) {
        disk_map_figures(session->disk.map, &figures);
    }
    assert_int_equal(disk_map_cool_begin(session->disk.map, candidates), 1);
    cooled = cool(session, candidates);
    assert_int_equal(bitmap_count(cooled), 1);
    disk_map_end(session->disk.map, &pin, 1);
    fake_reply(session, &error);
    assert_int_equal(error, 0);
    assert_hot_on_disk(session, 0, 4096);
    assert_int_equal(intent_writes(session), 3);
    bitmap_free(cooled);
    bitmap_free(candidates);
    end_session(session);
}

/* Random writes all over 1 TiB: soon all of it is hot. */
static void
test_a_burst_heats_ahead(void **state)
{
    FakeSession *session = new_session(NULL, TIB);
    struct fuse_write_in in = {.size = 4096};
    Seed seed = {5};
    int error;

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        if (i >= 32) {
            fake_reply(session, &error);
            assert_int_equal(error, 0);
        }
        in.offset = seed_below(&seed, TIB / 4096) * 4096;
        fake_send(session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in), block,
                  sizeof(block));
    }
    for (unsigned i = 0; i < 32; i++) {
        fake_reply(session, &error);
    }
    print_message("%llu pages, %llu extents hot\n",
                  (unsigned long long)intent_writes(session),
                  (unsigned long long)hot_extents(session));
    assert_in_range(intent_writes(session), 9, 1000);
    assert_in_range(hot_extents(session), 3000, TIB / EXTENT);
    end_session(session);
}

/* Synced writes, which here are commits, take 5 ms. */
static int
slow_done(StoreIo *io, const StoreReq *req, int res)
{
    int64_t until_us = face_now_us() + 5000;

    while (req->op == STORE_WRITE_SYNC && face_now_us() < until_us) {
    }
    return store_io_kernel()->ops->done(io, req, res);
}

/* One write at a time, far from each other: what waits for commits most of its
 * time gets more of each, within bounds. */
static void
test_a_lone_guest_is_not_held_up_for_long(void **state)
{
    const unsigned count = 64;
    struct StoreIoOps ops = *store_io_kernel()->ops;
    StoreIo slow = {.ops = &ops};
    FakeSession *session;
    uint64_t hot;

    (void)state;
    ops.done = slow_done;
    session = new_session(&slow, TIB);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(fake_write(session, block, 4096, i * 64 * EXTENT),
                         4096);
    }
    hot = hot_extents(session);
    print_message("%llu extents hot\n", (unsigned long long)hot);
    assert_in_range(hot, count * 8, count * 16);
    assert_int_equal(intent_writes(session), count);
    assert_int_equal(
        fake_write(session, block, 4096, ((count - 1) * 64 + 15) * EXTENT),
        4096);
    assert_int_equal(intent_writes(session), count);
    assert_hot_on_disk(session, (count - 1) * 64 * EXTENT, 16 * EXTENT);
    end_session(session);
}

/* The same with time between them: each gets what it asked for. */
static void
test_a_calm_guest_heats_what_it_writes(void **state)
{
    const unsigned count = 12;
    struct StoreIoOps ops = *store_io_kernel()->ops;
    StoreIo slow = {.ops = &ops};
    FakeSession *session;

    (void)state;
    ops.done = slow_done;
    session = new_session(&slow, TIB);
    for (unsigned i = 0; i < count; i++) {
        int64_t until_us = face_now_us() + 60000;

        while (face_now_us() < until_us) {
        }
        assert_int_equal(fake_write(session, block, 4096, i * 64 * EXTENT),
                         4096);
    }
    assert_int_equal(hot_extents(session), count);
    end_session(session);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_is_heated_once_and_hot_costs_nothing),
        cmocka_unit_test(test_what_waits_together_is_one_commit),
        cmocka_unit_test(test_failing_page_fails_the_write_alone),
        cmocka_unit_test(test_discards_heat_what_they_punch),
        cmocka_unit_test(test_cooling_turns_bits_off_on_disk),
        cmocka_unit_test(test_a_granted_write_looks_again),
        cmocka_unit_test(test_a_burst_heats_ahead),
        cmocka_unit_test(test_a_lone_guest_is_not_held_up_for_long),
        cmocka_unit_test(test_a_calm_guest_heats_what_it_writes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
