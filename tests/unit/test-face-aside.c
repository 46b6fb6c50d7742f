/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-aside.c - what a cut owes is kept before the guest overwrites it
 */
#include "aside-rig.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static uint64_t seed0;

/*
 * One kind of write at a time
 */
static void
test_each_kind_of_write_keeps_what_is_owed(void **state)
{
    struct AsideRig *rig = aside_rig_new(64);

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    aside_rig_write(rig, 3 * CLUSTER, 4096, 2);
    assert_int_equal(aside_rig_copied(rig), 1);
    aside_rig_write(rig, 4 * CLUSTER + 100, 512, 3); /* read, modify, write */
    assert_int_equal(aside_rig_copied(rig), 2);
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 5 * CLUSTER, 4096),
                     0);
    memset(rig->now + 5 * CLUSTER, 0, 4096);
    assert_int_equal(aside_rig_copied(rig), 3);
    aside_rig_write(rig, 3 * CLUSTER + 4096, 4096, 4); /* kept already */
    aside_rig_write(rig, 100 * CLUSTER, 4096, 5);      /* not owed */
    assert_int_equal(aside_rig_copied(rig), 3);
    aside_rig_write(rig, 8 * CLUSTER - 4096, 1 << 20,
                    6); /* over the end of it */
    assert_int_equal(aside_rig_copied(rig), 3 + 9);
    aside_rig_assert_whole(rig);
    aside_rig_end_cut(rig);
    aside_rig_write(rig, 0, 4096, 7);
    assert_int_equal(aside_rig_copied(rig), 12);
    aside_rig_free(rig);
}

static void
test_slices_of_a_discard_keep_what_is_owed(void **state)
{
    struct AsideRig *rig = aside_rig_new(8);
    int64_t until_us = 0;

    (void)state;
    aside_rig_write(rig, 10 * CLUSTER, 16 * CLUSTER, 1);
    aside_rig_write(rig, 40 * CLUSTER, 16 * CLUSTER, 2);
    aside_rig_cut(rig);
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 0, 200 * CLUSTER), 0);
    memset(rig->now, 0, 200 * CLUSTER);
    aside_rig_assert_whole(rig);
    while (rig->disk->unpunched_bytes) {
        aside_rig_wait(&until_us);
    }
    aside_rig_assert_whole(rig);
    assert_int_equal(aside_rig_copied(rig), 32);
    aside_rig_free(rig);
}

static void
test_zeroes_need_no_buffer(void **state)
{
    struct AsideRig *rig = aside_rig_new(2);

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 0);
    aside_rig_cut(rig);
    aside_rig_write_many(rig, 0, 16, 1);
    assert_int_equal(aside_rig_copied(rig), 16);
    assert_int_equal(aside_rig_kept(rig, NULL), 0);
    aside_rig_assert_whole(rig);
    aside_rig_free(rig);
}

/*
 * Everything at once
 */
static void
random_write(struct AsideRig *rig, Seed *seed)
{
    static const uint64_t lens[] = {512, 700, 4096, 3 * CLUSTER, 1 << 20};
    uint64_t len = lens[seed_below(seed, G_N_ELEMENTS(lens))];
    uint64_t offset = seed_below(seed, SIZE - len);

    if (seed_below(seed, 8) == 0) {
        len = 1 + seed_below(seed, SIZE - offset);
        assert_int_equal(fake_fallocate(&rig->session, PUNCH, offset, len), 0);
        memset(rig->now + offset, 0, len);
        return;
    }
    offset &= seed_below(seed, 2) ? ~UINT64_C(4095) : ~UINT64_C(0);
    aside_rig_write(rig, offset, len, (unsigned char)seed_next(seed));
}

/* The relay settles a part of what is owed while the guest goes on. */
static void
settle_some(struct AsideRig *rig, Seed *seed)
{
    struct ClusterRun run;

    if (disk_map_next_sealed(rig->disk->map, seed_below(seed, CLUSTERS), 9,
                             &run)) {
        disk_map_settle(rig->disk->map, run);
        memset(rig->owed + run.first, 0, run.count * sizeof(bool));
    }
}

static void
test_cuts_under_load_with_few_buffers(void **state)
{
    struct AsideRig *rig = aside_rig_new(5);
    Seed seed = {seed0};
    uint64_t in_file, most = 0;

    (void)state;
    for (unsigned round = 0; round < 12; round++) {
        for (unsigned i = 0; i < 30; i++) {
            random_write(rig, &seed);
        }
        aside_rig_cut(rig);
        for (unsigned i = 0; i < 40; i++) {
            random_write(rig, &seed);
            settle_some(rig, &seed);
            if (i % 8 == 0) {
                aside_rig_assert_whole(rig);
            }
        }
        aside_rig_assert_whole(rig);
        aside_rig_kept(rig, &in_file);
        most = MAX(most, in_file);
        aside_rig_end_cut(rig);
    }
    assert_true(most > 5);
    aside_rig_free(rig);
}

/*
 * Who waits
 */
static void
ignore_grant(RangeHold *hold)
{
    (void)hold;
}

static void
await_parked(struct AsideRig *rig)
{
    struct DiskMapFigures figures = {0};
    int64_t until_us = 0;

    while (!figures.parked) {
        aside_rig_wait(&until_us);
        disk_map_figures(rig->disk->map, &figures);
    }
}

/* Parked before the cut, granted after it. */
static void
test_a_granted_write_looks_again(void **state)
{
    RangeHold pin = {
        .len = CLUSTER, .kind = RANGE_PIN, .granted = ignore_grant};
    struct AsideRig *rig = aside_rig_new(8);
    struct fuse_write_in in = {.size = 4096};
    int error;

    (void)state;
    aside_rig_write(rig, 0, CLUSTER, 1);
    assert_true(disk_map_hold(rig->disk->map, &pin));
    memset(rig->now, 2, 4096);
    fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
              rig->now, 4096);
    await_parked(rig);
    aside_rig_cut(rig);
    memset(rig->then, 1, 4096); /* it was not answered before */
    disk_map_end(rig->disk->map, &pin, 1);
    fake_reply(&rig->session, &error);
    assert_int_equal(error, 0);
    assert_int_equal(aside_rig_copied(rig), 1);
    aside_rig_assert_whole(rig);
    aside_rig_free(rig);
}

/* It is read when the cut is over and there is no other one. */
static void
test_a_copy_may_come_too_late(void **state)
{
    struct AsideRig *rig = aside_rig_new(8);
    struct fuse_write_in in = {.size = 4096};
    int64_t until_us = 0;
    int error;

    (void)state;
    aside_rig_write(rig, 0, CLUSTER, 1);
    aside_rig_cut(rig);
    aside_faults.gates_copies = true;
    memset(rig->now, 2, 4096);
    fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
              rig->now, 4096);
    while (!aside_faults.gated) {
        aside_rig_wait(&until_us);
    }
    aside_faults.gates_copies = false;
    aside_rig_end_cut(rig);
    aside_rig_open_gate();
    fake_reply(&rig->session, &error);
    assert_int_equal(error, 0);
    assert_int_equal(aside_rig_copied(rig), 0);
    assert_int_equal(aside_rig_kept(rig, NULL), 0);
    aside_rig_free(rig);
}

/* A copy waits for the write that was in flight at the cut; the cut ends, and
 * another one begins, before it was made. */
static void
test_a_copy_of_an_ended_cut_is_nobodys(void **state)
{
    RangeHold writer = {
        .len = CLUSTER, .kind = RANGE_WRITE, .granted = ignore_grant};
    struct AsideRig *rig = aside_rig_new(8);
    struct fuse_write_in in = {.size = 4096};
    int error;

    (void)state;
    aside_rig_write(rig, 0, CLUSTER, 1);
    assert_int_equal(disk_map_begin(rig->disk->map, &writer, 1),
                     DISK_MAP_BEGUN);
    aside_rig_cut(rig);
    memset(rig->now, 2, 4096);
    fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
              rig->now, 4096);
    await_parked(rig); /* the copy */
    assert_int_equal(aside_rig_copied(rig), 0);
    aside_rig_end_cut(rig);
    disk_map_end(rig->disk->map, &writer, 1);
    fake_reply(&rig->session, &error);
    assert_int_equal(error, 0);
    aside_rig_cut(rig);
    aside_rig_write(rig, 100, 512, 3);
    aside_rig_assert_whole(rig);
    assert_int_equal(aside_rig_copied(rig), 1);
    aside_rig_free(rig);
}

/* Old copies that are still being written to the file when the next cut has
 * begun do not land over its own. */
static void
test_a_spill_of_an_ended_cut_is_nobodys(void **state)
{
    struct AsideRig *rig = aside_rig_new(4);
    struct fuse_write_in in = {.size = 4096};
    int error;

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    aside_faults.gates_spills = true;
    aside_rig_write_many(rig, 0, 3, 2);
    assert_true(aside_faults.gated > 0);
    aside_rig_end_cut(rig);
    aside_faults.gates_spills = false;
    aside_rig_write(rig, 0, 16 * CLUSTER, 3);
    aside_rig_cut(rig);
    for (uint64_t c = 0; c < 8; c++) {
        in.offset = c * CLUSTER;
        memset(rig->now + in.offset, 4, 4096);
        fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
                  rig->now + in.offset, 4096);
    }
    aside_rig_open_gate();
    for (uint64_t c = 0; c < 8; c++) {
        fake_reply(&rig->session, &error);
        assert_int_equal(error, 0);
    }
    aside_rig_assert_whole(rig);
    aside_rig_free(rig);
}

/*
 * What cannot be kept
 */

/* The guest hears nothing of it, and the next cut is whole. */
static void
assert_next_cut_is_whole(struct AsideRig *rig)
{
    unsigned degraded = rig->session.degraded;

    aside_rig_end_cut(rig);
    aside_rig_write(rig, 0, 16 * CLUSTER, 7);
    rig->session.degraded = 0;
    aside_rig_cut(rig);
    aside_rig_write_many(rig, 0, 16, 8);
    aside_rig_assert_whole(rig);
    rig->session.degraded += degraded;
}

static void
test_full_file_degrades(void **state)
{
    struct AsideRig *rig = aside_rig_new(4);

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    aside_faults.spill_error = -ENOSPC;
    aside_rig_write_many(rig, 0, 16, 2);
    aside_rig_await_degraded(rig, 1);
    aside_faults.spill_error = 0;
    assert_next_cut_is_whole(rig);
    assert_int_equal(rig->session.degraded, 1);
    aside_rig_free(rig);
}

static void
test_no_file_degrades_when_memory_ends(void **state)
{
    struct AsideRig *rig = aside_rig_new(4);
    int fd = rig->disk->aside_fd;

    (void)state;
    rig->disk->aside_fd = -1;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    for (unsigned i = 0; i < 4; i++) {
        aside_rig_write(rig, i * CLUSTER, 4096, 2);
    }
    aside_rig_assert_whole(rig);
    aside_rig_write(rig, 4 * CLUSTER, 4096, 2);
    aside_rig_await_degraded(rig, 1);
    rig->disk->aside_fd = fd;
    assert_next_cut_is_whole(rig);
    aside_rig_free(rig);
}

/* What is in the file is given up before a guest's write meets the end of the
 * room; memory may still be used. */
static void
test_tight_host_degrades(void **state)
{
    struct AsideRig *rig = aside_rig_new(4);

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    for (unsigned i = 0; i < 8; i++) {
        aside_rig_write(rig, i * CLUSTER, 4096, 2);
    }
    aside_rig_assert_whole(rig);
    atomic_store(&rig->session.store.is_tight, true);
    aside_rig_write(rig, 8 * CLUSTER, 4096, 2);
    aside_rig_await_degraded(rig, 1);
    aside_rig_end_cut(rig);

    rig->session.degraded = 0;
    aside_rig_write(rig, 0, 16 * CLUSTER, 3);
    aside_rig_cut(rig);
    for (unsigned i = 0; i < 4; i++) {
        aside_rig_write(rig, i * CLUSTER, 4096, 4);
    }
    aside_rig_assert_whole(rig);
    aside_rig_write(rig, 4 * CLUSTER, 4096, 4);
    aside_rig_await_degraded(rig, 1);
    atomic_store(&rig->session.store.is_tight, false);
    aside_rig_free(rig);
}

static void
test_unreadable_content_degrades(void **state)
{
    struct AsideRig *rig = aside_rig_new(8);

    (void)state;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    aside_rig_write(rig, 0, 4096, 2);
    aside_rig_assert_whole(rig);
    aside_faults.read_error = -EIO;
    aside_rig_write_many(rig, 0, 16, 3);
    aside_rig_await_degraded(rig, 1);
    aside_faults.read_error = 0;
    assert_int_equal(rig->session.frozen, 0);
    assert_next_cut_is_whole(rig);
    assert_int_equal(rig->session.degraded, 1);
    aside_rig_free(rig);
}

static void
test_buffer_size_is_kept_to(void **state)
{
    struct AsideRig *rig = aside_rig_new(64);

    (void)state;
    rig->session.store.settings.buffer_bytes = 4 * CLUSTER + 1;
    aside_rig_write(rig, 0, 16 * CLUSTER, 1);
    aside_rig_cut(rig);
    for (unsigned i = 0; i < 4; i++) {
        aside_rig_write(rig, i * CLUSTER, 4096, 2);
    }
    assert_int_equal(aside_rig_kept(rig, NULL), 4);
    aside_rig_assert_whole(rig);
    aside_rig_write(rig, 4 * CLUSTER, 4096, 2);
    aside_rig_await_degraded(rig, 1);
    assert_int_equal(aside_faults.most_kept, 4 * CLUSTER);

    /* Many at once: more by those that were under way, no more. */
    aside_rig_end_cut(rig);
    aside_rig_write(rig, 0, 16 * CLUSTER, 3);
    aside_rig_write(rig, 16 * CLUSTER, 16 * CLUSTER, 3);
    aside_rig_write(rig, 32 * CLUSTER, 16 * CLUSTER, 3);
    aside_rig_cut(rig);
    aside_rig_write_many(rig, 0, 48, 4);
    aside_rig_await_degraded(rig, 2);
    assert_in_range(aside_faults.most_kept, 4 * CLUSTER, (4 + 32) * CLUSTER);
    aside_rig_free(rig);
}

/* A snapshot has its content already, and what was discarded since is no part of
 * it: face-cut.c. */
static void
test_a_snapshots_cut_is_a_seal(void **state)
{
    struct AsideRig *rig = aside_rig_new(8);
    struct ClusterRun run;
    int64_t until_us = 0;

    (void)state;
    aside_rig_write(rig, 0, CLUSTER, 1);
    aside_rig_cut(rig);
    aside_faults.gates_copies = true;
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 0, 32 * CLUSTER), 0);
    while (!aside_faults.gated) {
        aside_rig_wait(&until_us);
    }
    aside_faults.gates_copies = false;
    aside_rig_end_cut(rig);
    /* The discard waits for the copy that is under way. */
    assert_false(face_cut(rig->session.face, &rig->cut));
    rig->cut.snapshot = 1;
    rig->cut.wall_us = 5;
    assert_true(face_cut(rig->session.face, &rig->cut));
    assert_int_equal(rig->cut.wall_us, 5);
    assert_int_equal(disk_map_sealed_seq(rig->disk->map), rig->cut.seq[0]);
    aside_rig_open_gate();
    aside_rig_write(rig, 0, CLUSTER, 2);
    assert_true(disk_map_next_owed(rig->disk->map, 0, 1, &run));
    assert_int_equal(aside_rig_kept(rig, NULL), 0);
    aside_rig_free(rig);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_write_keeps_what_is_owed),
        cmocka_unit_test(test_slices_of_a_discard_keep_what_is_owed),
        cmocka_unit_test(test_zeroes_need_no_buffer),
        cmocka_unit_test(test_cuts_under_load_with_few_buffers),
        cmocka_unit_test(test_a_granted_write_looks_again),
        cmocka_unit_test(test_a_copy_may_come_too_late),
        cmocka_unit_test(test_a_copy_of_an_ended_cut_is_nobodys),
        cmocka_unit_test(test_a_spill_of_an_ended_cut_is_nobodys),
        cmocka_unit_test(test_full_file_degrades),
        cmocka_unit_test(test_no_file_degrades_when_memory_ends),
        cmocka_unit_test(test_unreadable_content_degrades),
        cmocka_unit_test(test_tight_host_degrades),
        cmocka_unit_test(test_buffer_size_is_kept_to),
        cmocka_unit_test(test_a_snapshots_cut_is_a_seal),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
