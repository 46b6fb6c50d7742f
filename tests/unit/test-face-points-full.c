/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-points-full.c - no room for what a snapshot needs, or it cannot be
 * kept: who overwrites it waits, and goes without or gets an error; the snapshot
 * is what it was, and nobody else notices
 */
#include "points-rig.h"

#include "fs/face-internal.h"
#include "fs/snapshot-private.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <linux/falloc.h>
#include <sched.h>
#include <string.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static struct FaceCounters *
count_of(struct PointsRig *rig)
{
    return &rig->session.face->count;
}

static void
fail_for(enum PointsAsked asked, int error)
{
    atomic_store(&points_faults.error[asked], error);
}

/* 4 KiB into @cluster; the reply is somebody else's to take. */
static uint64_t
send_write(struct PointsRig *rig, uint64_t cluster)
{
    static unsigned char data[4096];
    struct fuse_write_in in = {.offset = cluster * CLUSTER,
                               .size = sizeof(data)};

    memset(data, 0x77, sizeof(data));
    return fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
                     data, sizeof(data));
}

static void
was_written(struct PointsRig *rig, uint64_t cluster)
{
    memset(rig->now + cluster * CLUSTER, 0x77, 4096);
}

static int
reply_of(struct PointsRig *rig, uint64_t unique)
{
    int error;

    assert_int_equal(fake_reply(&rig->session, &error), unique);
    return error;
}

static void
await_starving(struct PointsRig *rig, uint64_t writers)
{
    int64_t until_us = face_now_us() + 10 * G_USEC_PER_SEC;

    while (count_of(rig)->starved != writers) {
        assert_true(face_now_us() < until_us);
        sched_yield();
    }
}

static void
assert_reads(struct PointsRig *rig, uint64_t cluster)
{
    unsigned char *buf = aligned_alloc(4096, CLUSTER);

    assert_int_equal(fake_read(&rig->session, buf, CLUSTER, cluster * CLUSTER),
                     CLUSTER);
    assert_memory_equal(buf, rig->now + cluster * CLUSTER, CLUSTER);
    free(buf);
}

/* Of 32 clusters with content, of which 20 is kept already. */
static struct PointsRig *
new_rig(void)
{
    struct PointsRig *rig = points_rig_new();

    points_rig_write(rig, 0, 16 * CLUSTER, 1);
    points_rig_write(rig, 16 * CLUSTER, 16 * CLUSTER, 2);
    points_rig_snapshot(rig);
    points_rig_write(rig, 20 * CLUSTER, 4096, 3);
    return rig;
}

/* What needs no copy goes on, and so does reading. */
static void
assert_others_go_on(struct PointsRig *rig)
{
    points_rig_write(rig, 20 * CLUSTER + 8192, 4096, 4);
    points_rig_discard(rig, 20 * CLUSTER, 4096);
    assert_reads(rig, 3);
    assert_reads(rig, 20);
}

/*
 * No room
 */
static void
test_who_has_no_room_waits_until_there_is_some(void **state)
{
    static const enum PointsAsked kinds[] = {POINTS_DATA_WRITE,
                                             POINTS_MAP_WRITE};

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct PointsRig *rig = new_rig();
        uint64_t unique;

        rig->session.store.settings.full_wait_s = 60;
        fail_for(kinds[i], -ENOSPC);
        unique = send_write(rig, 3);
        await_starving(rig, 1);
        assert_others_go_on(rig);
        assert_int_equal(count_of(rig)->starved, 1);
        fail_for(kinds[i], 0);
        assert_int_equal(reply_of(rig, unique), 0);
        was_written(rig, 3);
        assert_int_equal(count_of(rig)->starved, 0);
        assert_int_equal(count_of(rig)->refused, 0);
        assert_true(count_of(rig)->throttled_us > 0);
        assert_int_equal(rig->session.frozen, 0);
        points_rig_assert_all(rig);
        points_rig_free(rig);
    }
}

static void
test_who_has_no_room_is_refused_in_the_end(void **state)
{
    struct PointsRig *rig = new_rig();
    int64_t begun_us = face_now_us();
    uint64_t unique;

    (void)state;
    fail_for(POINTS_DATA_WRITE, -ENOSPC);
    unique = send_write(rig, 3);
    await_starving(rig, 1);
    assert_others_go_on(rig);
    assert_int_equal(reply_of(rig, unique), -ENOSPC);
    assert_in_range(face_now_us() - begun_us, G_USEC_PER_SEC,
                    8 * G_USEC_PER_SEC);
    assert_int_equal(count_of(rig)->refused, 1);
    assert_int_equal(count_of(rig)->starved, 0);
    assert_reads(rig, 3);
    points_rig_assert_all(rig);
    fail_for(POINTS_DATA_WRITE, 0);
    points_rig_write(rig, 3 * CLUSTER, 4096, 5);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

static void
test_nobody_waits_without_a_full_wait(void **state)
{
    struct PointsRig *rig = new_rig();

    (void)state;
    rig->session.store.settings.full_wait_s = 0;
    fail_for(POINTS_DATA_WRITE, -EDQUOT);
    assert_int_equal(reply_of(rig, send_write(rig, 3)), -ENOSPC);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* What was zeroes is a bit in the map. */
static void
test_zeroes_need_no_room(void **state)
{
    struct PointsRig *rig = new_rig();

    (void)state;
    rig->session.store.settings.full_wait_s = 0;
    atomic_store(&rig->session.store.settings.buffer_bytes, 1);
    assert_int_equal(reply_of(rig, send_write(rig, 3)), -ENOSPC);
    points_rig_write(rig, 40 * CLUSTER, 8 * CLUSTER, 4);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* Each copy that is made is progress: time begins anew. */
static void
test_a_large_write_goes_on_where_it_was(void **state)
{
    struct PointsRig *rig = new_rig();
    struct fuse_write_in in = {.size = 8 * CLUSTER};
    uint64_t limit = store_snapshots_bytes(&rig->session.store);
    uint64_t unique;

    (void)state;
    rig->session.store.settings.full_wait_s = 60;
    atomic_store(&rig->session.store.settings.buffer_bytes,
                 limit + 4 * CLUSTER);
    memset(rig->now, 9, 8 * CLUSTER);
    unique = fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in,
                       sizeof(in), rig->now, 8 * CLUSTER);
    await_starving(rig, 1);
    atomic_store(&rig->session.store.settings.buffer_bytes, 0);
    assert_int_equal(reply_of(rig, unique), 0);
    assert_int_equal(count_of(rig)->refused, 0);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* More by what was under way, no more. */
static void
test_buffer_size_is_kept_to(void **state)
{
    struct PointsRig *rig = new_rig();
    Store *store = &rig->session.store;
    uint64_t limit = store_snapshots_bytes(store) + 4 * CLUSTER;
    unsigned refused = 0;

    (void)state;
    points_rig_write(rig, 32 * CLUSTER, 16 * CLUSTER, 1);
    points_rig_write(rig, 48 * CLUSTER, 16 * CLUSTER, 1);
    points_rig_snapshot(rig);
    atomic_store(&store->settings.buffer_bytes, limit);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t sent[16];

        for (unsigned j = 0; j < 16; j++) {
            sent[j] = send_write(rig, i * 16 + j);
        }
        for (unsigned j = 0; j < 16; j++) {
            int error;
            uint64_t unique = fake_reply(&rig->session, &error);

            for (unsigned k = 0; k < 16 && !error; k++) {
                if (sent[k] == unique) {
                    was_written(rig, i * 16 + k);
                }
            }
            assert_true(error == 0 || error == -ENOSPC);
            refused += error != 0;
        }
        assert_in_range(store_snapshots_bytes(store), 0,
                        limit + FACE_ASIDE_OPS * CLUSTER);
    }
    assert_in_range(refused, 64 - 4 - FACE_ASIDE_OPS, 64);
    assert_int_equal(count_of(rig)->refused, refused);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

static void
give_back_first(void *user)
{
    struct PointsRig *rig = user;

    points_set_live(rig->disk->points, 1, false);
}

static void
test_room_of_a_deleted_snapshot_is_had(void **state)
{
    struct PointsRig *rig = new_rig();
    Store *store = &rig->session.store;
    uint64_t unique;

    (void)state;
    rig->session.store.settings.full_wait_s = 60;
    points_rig_write(rig, 0, 8 * CLUSTER, 4);
    points_rig_snapshot(rig);
    atomic_store(&store->settings.buffer_bytes,
                 store_snapshots_bytes(store) + 1);
    unique = send_write(rig, 3);
    await_starving(rig, 1);
    face_between(rig->session.face, give_back_first, rig);
    assert_int_equal(store->io->ops->fallocate(store->io,
                                               points_faults.data_fd[0], PUNCH,
                                               0, 8 * CLUSTER),
                     0);
    assert_int_equal(reply_of(rig, unique), 0);
    was_written(rig, 3);
    assert_int_equal(count_of(rig)->refused, 0);
    points_rig_free(rig);
}

static int64_t
time_of_write(struct PointsRig *rig, uint64_t cluster)
{
    int64_t begun_us = face_now_us();

    points_rig_write(rig, cluster * CLUSTER, 4096, 8);
    return face_now_us() - begun_us;
}

/* The less there is left, the more; and only if it comes back, and only who needs
 * some. */
static void
test_writes_are_slowed_while_room_comes_back(void **state)
{
    struct PointsRig *rig = new_rig();
    Store *store = &rig->session.store;

    (void)state;
    points_rig_write(rig, 0, 8 * CLUSTER, 4); /* 9 clusters, and the map */
    atomic_store(&store->squeeze, 990);
    (void)time_of_write(rig, 16);
    assert_int_equal(count_of(rig)->slowed, 0);
    atomic_store(&store->is_reaping, true);
    (void)time_of_write(rig, 20); /* is kept */
    assert_int_equal(count_of(rig)->slowed, 0);
    assert_true(time_of_write(rig, 18) >= 39600);
    assert_int_equal(count_of(rig)->slowed, 1);
    assert_int_equal(count_of(rig)->throttled_us, 39600);

    atomic_store(&store->squeeze, 0);
    atomic_store(&store->settings.buffer_bytes, 16 * CLUSTER);
    (void)time_of_write(rig, 22);
    assert_int_equal(count_of(rig)->slowed, 1);
    atomic_store(&store->settings.buffer_bytes, 13 * CLUSTER + 3 * 4096);
    (void)time_of_write(rig, 24);
    assert_int_equal(count_of(rig)->slowed, 2);
    assert_in_range(count_of(rig)->throttled_us, 39600 + 1, 39600 + 40000);
    assert_int_equal(count_of(rig)->starvations, 0);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* Which is owed there as well, and kept by the snapshot before. */
static void
test_a_cut_is_given_up_before_a_writer_starves(void **state)
{
    struct PointsRig *rig = new_rig();
    Store *store = &rig->session.store;
    struct FaceCut cut = {.disks = {rig->disk}, .n_disks = 1};
    struct AsideFigures figures;

    (void)state;
    rig->session.store.settings.full_wait_s = 0;
    points_rig_write(rig, 0, 4 * CLUSTER, 4);
    assert_true(face_cut(rig->session.face, &cut));
    for (unsigned i = 0; i < 4; i++) {
        points_rig_write(rig, (3 - i) * CLUSTER, 4096, 5);
    }
    aside_figures(rig->disk->aside, &figures);
    assert_int_equal(figures.kept_clusters, 4);
    atomic_store(&store->settings.buffer_bytes,
                 store_snapshots_bytes(store) + 4 * CLUSTER + 1);
    points_rig_write(rig, 5 * CLUSTER, 4096, 6);
    assert_int_equal(count_of(rig)->starvations, 0);
    aside_figures(rig->disk->aside, &figures);
    assert_int_equal(figures.kept_clusters, 0);
    points_rig_write(rig, 6 * CLUSTER, 4096, 6);
    while (!rig->session.degraded) {
        sched_yield(); /* the note is on its way */
    }
    assert_int_equal(rig->session.degraded, 1);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/*
 * Discards
 */
static void
test_a_discard_that_starves_stays_on_its_list(void **state)
{
    struct PointsRig *rig = new_rig();
    int64_t until_us = face_now_us() + 10 * G_USEC_PER_SEC;

    (void)state;
    fail_for(POINTS_DATA_WRITE, -ENOSPC);
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 0, 18 * CLUSTER), 0);
    memset(rig->now, 0, 18 * CLUSTER);
    await_starving(rig, 1);
    assert_reads(rig, 3);
    points_rig_write(rig, 20 * CLUSTER, 4096, 4);
    while (!rig->session.logs) { /* it has waited long enough */
        assert_true(face_now_us() < until_us);
        sched_yield();
    }
    assert_true(rig->disk->unpunched_bytes > 0);
    fail_for(POINTS_DATA_WRITE, 0);
    face_hurry(rig->session.face);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* No write passes it in the kernel. */
static void
test_a_small_discard_does_not_wait_long(void **state)
{
    struct PointsRig *rig = new_rig();
    int64_t begun_us = face_now_us();

    (void)state;
    rig->session.store.settings.full_wait_s = 60;
    fail_for(POINTS_DATA_WRITE, -ENOSPC);
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 3 * CLUSTER, 4096),
                     -ENOSPC);
    assert_true(face_now_us() - begun_us < 10 * G_USEC_PER_SEC);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* It would hold up the end of the mount. */
static void
test_the_end_does_not_wait_for_room(void **state)
{
    struct PointsRig *rig = new_rig();
    int64_t begun_us = face_now_us();

    (void)state;
    rig->session.store.settings.full_wait_s = 60;
    fail_for(POINTS_DATA_WRITE, -ENOSPC);
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, 0, 18 * CLUSTER), 0);
    send_write(rig, 20 + 1);
    await_starving(rig, 2);
    points_rig_free(rig);
    assert_true(face_now_us() - begun_us < 20 * G_USEC_PER_SEC);
}

/*
 * Errors
 */
static void
test_unreadable_content_is_not_overwritten(void **state)
{
    struct PointsRig *rig = new_rig();

    (void)state;
    points_faults.bad_cluster = 3;
    fail_for(POINTS_COPY_READ, -EIO);
    assert_int_equal(reply_of(rig, send_write(rig, 3)), -EIO);
    points_rig_write(rig, 4 * CLUSTER, 4096, 5);
    points_rig_write(rig, 20 * CLUSTER, 4096, 5);
    fail_for(POINTS_COPY_READ, 0);
    assert_int_equal(rig->session.frozen, 0);
    points_rig_assert_all(rig);
    points_rig_write(rig, 3 * CLUSTER, 4096, 6);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

/* Rule 20: the copy is not made again and believed. */
static void
test_a_failed_sync_freezes_the_disk(void **state)
{
    static const enum PointsAsked kinds[] = {POINTS_DATA_SYNC,
                                             POINTS_MAP_WRITE};

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct PointsRig *rig = new_rig();
        unsigned asked;

        fail_for(kinds[i], -EIO);
        for (unsigned j = 0; j < 8; j++) {
            send_write(rig, j);
        }
        for (unsigned j = 0; j < 8; j++) {
            int error;

            fake_reply(&rig->session, &error);
            assert_int_equal(error, -EIO);
        }
        assert_true(rig->disk->is_frozen);
        fail_for(kinds[i], 0);
        asked = points_faults.asked[kinds[i]];
        assert_int_equal(reply_of(rig, send_write(rig, 9)), -EIO);
        assert_int_equal(points_faults.asked[kinds[i]], asked);
        assert_reads(rig, 3);
        points_rig_assert_all(rig);
        points_rig_free(rig);
    }
}

/* What starves there does not wait any longer. */
static void
test_a_frozen_disk_lets_nobody_starve(void **state)
{
    struct PointsRig *rig = new_rig();
    uint64_t unique;

    (void)state;
    rig->session.store.settings.full_wait_s = 60;
    fail_for(POINTS_DATA_WRITE, -ENOSPC);
    unique = send_write(rig, 3);
    await_starving(rig, 1);
    atomic_store(&rig->disk->is_frozen, true);
    assert_int_equal(reply_of(rig, unique), -EIO);
    assert_int_equal(count_of(rig)->refused, 0);
    points_rig_assert_all(rig);
    points_rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_has_no_room_waits_until_there_is_some),
        cmocka_unit_test(test_who_has_no_room_is_refused_in_the_end),
        cmocka_unit_test(test_nobody_waits_without_a_full_wait),
        cmocka_unit_test(test_zeroes_need_no_room),
        cmocka_unit_test(test_a_large_write_goes_on_where_it_was),
        cmocka_unit_test(test_buffer_size_is_kept_to),
        cmocka_unit_test(test_room_of_a_deleted_snapshot_is_had),
        cmocka_unit_test(test_writes_are_slowed_while_room_comes_back),
        cmocka_unit_test(test_a_cut_is_given_up_before_a_writer_starves),
        cmocka_unit_test(test_a_discard_that_starves_stays_on_its_list),
        cmocka_unit_test(test_a_small_discard_does_not_wait_long),
        cmocka_unit_test(test_the_end_does_not_wait_for_room),
        cmocka_unit_test(test_unreadable_content_is_not_overwritten),
        cmocka_unit_test(test_a_failed_sync_freezes_the_disk),
        cmocka_unit_test(test_a_frozen_disk_lets_nobody_starve),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
