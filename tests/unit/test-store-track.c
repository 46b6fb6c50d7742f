/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-track.c - what is dirty after an end that was not clean
 *
 * A model beside the store: for each cluster, whether disk and target may
 * differ. Seeded steps write (heating first, as the face does), settle, make
 * checkpoints, cool, set the contact, crash, end cleanly. Whatever is opened
 * afterwards has every cluster dirty that differs.
 */
#include "bitmap/intent.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define EXTENT          (UINT64_C(1) << INTENT_EXTENT_BITS)
#define BIG             (64 * MIB)
#define BIG_CLUSTERS    (BIG / CLUSTER)
#define EXTENT_CLUSTERS (EXTENT / CLUSTER)

static uint64_t seed0;

/* A second disk, of 16 extents, is what these tests are about. */
static int
setup(void **state)
{
    struct StoreFixture *fixture;
    char *address;

    fixture_setup(state);
    fixture = *state;
    address = g_build_filename(fixture->path, "vdb", NULL);
    struct StoreCreate ask = {.address = address,
                              .size_bytes = BIG,
                              .target = TARGET "b",
                              .cluster_bits = STORE_CLUSTER_BITS};

    assert_true(store_create_disk(store_io_kernel(), &ask, NULL));
    g_free(address);
    return 0;
}

static void
write_at(Store *store, Disk *disk, uint64_t offset, uint64_t len)
{
    RangeHold hold = {.offset = offset, .len = len, .kind = RANGE_WRITE};

    if (disk_map_begin(disk->map, &hold, 1) == DISK_MAP_COLD) {
        if (store_heat(store, disk, offset, len)) {
            return; /* the guest's write failed */
        }
        assert_int_equal(disk_map_begin(disk->map, &hold, 1), DISK_MAP_BEGUN);
    }
    disk_map_end(disk->map, &hold, 1);
}

/* Rule 3's steps, by hand. */
static void
cool(Store *store, Disk *disk)
{
    uint64_t size = disk_map_size_bytes(disk->map);
    Bitmap *candidates = bitmap_new(size, INTENT_EXTENT_BITS);
    Bitmap *cooled = bitmap_new(size, INTENT_EXTENT_BITS);

    if (disk_map_cool_begin(disk->map, candidates) &&
        store_checkpoint(store, disk) == 0 &&
        disk_map_cool_end(disk->map, candidates, cooled)) {
        struct IntentMark mark = {.epoch = store->epoch,
                                  .sequence = disk->checkpoint_sequence};
        Bitmap *hot = bitmap_new(size, INTENT_EXTENT_BITS);
        uint64_t words[INTENT_PAGE_WORDS];

        memcpy(mark.uuid, store->uuid, sizeof(mark.uuid));
        bitmap_load_words(
            hot, 0, words,
            disk_map_hot_words(disk->map, 0, words, INTENT_PAGE_WORDS));
        (void)intent_save(store->io, disk->dir_fd, hot, &mark);
        bitmap_free(hot);
    }
    bitmap_free(candidates);
    bitmap_free(cooled);
}

/* What the map says now must be said after a crash. */
static void
remember(Disk *disk, Bitmap *truth)
{
    disk_map_union(disk->map, truth);
}

static void
assert_covers(Disk *disk, const Bitmap *truth)
{
    uint64_t at = 0;

    while ((at = bitmap_next_dirty(truth, at)) != UINT64_MAX) {
        assert_false(disk_map_is_clean(disk->map, at * CLUSTER, 1));
        at++;
    }
}

static Disk *
open_vdb(const struct StoreFixture *fixture, Store **store)
{
    *store = fixture_open(fixture, 0);
    return store_disk(*store, "vdb");
}

/* vdb is clean at its target, and the store at rest. */
static void
make_clean(const struct StoreFixture *fixture)
{
    Store *store;
    Disk *disk = open_vdb(fixture, &store);

    assert_true(store_serve(store, NULL));
    settle_all(disk);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
}

static void
test_hot_extents_are_dirty_after_a_crash(void **state)
{
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    assert_int_equal(dirty_clusters(disk), 0);
    write_at(store, disk, 3 * EXTENT + 100, 10);
    write_at(store, disk, 6 * EXTENT - 1, 2);
    store_free(store);
    for (unsigned crash = 0; crash < 3; crash++) {
        disk = open_vdb(*state, &store);
        assert_true(disk->recovers && disk->all_in_doubt);
        assert_int_equal(disk->contact, CONTACT_KNOWN);
        assert_int_equal(dirty_clusters(disk), 3 * EXTENT_CLUSTERS);
        assert_int_equal(bitmap_count(disk->hot), 3);
        /* A crash while serving again finds the same. */
        if (crash) {
            assert_true(store_serve(store, NULL));
            assert_true(disk_map_is_hot(disk->map, 3 * EXTENT, 1));
            assert_false(disk_map_is_hot(disk->map, 4 * EXTENT, 1));
        }
        store_free(store);
    }
    /* A clean end of what was recovered is exact again. */
    disk = open_vdb(*state, &store);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_true(store->was_clean);
    assert_false(disk->recovers);
    assert_int_equal(dirty_clusters(disk), 3 * EXTENT_CLUSTERS);
    store_free(store);
}

/* What got cold is as exact as its checkpoint. */
static void
test_cold_extents_are_exact(void **state)
{
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    write_at(store, disk, 3 * EXTENT, 1);
    write_at(store, disk, 9 * EXTENT, 1);
    cool(store, disk);
    write_at(store, disk, 9 * EXTENT, 1);
    cool(store, disk);
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(dirty_clusters(disk), 1 + EXTENT_CLUSTERS);
    assert_false(disk_map_is_clean(disk->map, 3 * EXTENT, CLUSTER));
    store_free(store);
}

/* An unsound sector, no file, a file of the serve before, an older
 * checkpoint: more is dirty, never less; and it is mended by serving. */
static void
test_damage_before_recovery_is_dirty(void **state)
{
    static const char *const how[] = {"flip", "unlink", "old intent",
                                      "old checkpoint", "both"};
    struct StoreFixture *fixture = *state;
    char *intent = g_build_filename(fixture->path, "vdb", INTENT_FILE, NULL);
    char *dirty = g_build_filename(fixture->path, "vdb", STORE_DIRTY, NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(how); i++) {
        char *old_intent, *old_dirty;
        size_t len, dirty_len;
        Store *store;
        Disk *disk;

        make_clean(fixture);
        disk = open_vdb(fixture, &store);
        assert_true(store_serve(store, NULL));
        assert_true(g_file_get_contents(dirty, &old_dirty, &dirty_len, NULL));
        assert_true(store_close_clean(store, NULL));
        store_free(store);
        assert_true(g_file_get_contents(intent, &old_intent, &len, NULL));
        disk = open_vdb(fixture, &store);
        assert_true(store_serve(store, NULL));
        write_at(store, disk, 3 * EXTENT, 1);
        cool(store, disk);
        cool(store, disk);
        store_free(store);
        if (i == 0) {
            int fd = open(intent, O_WRONLY | O_CLOEXEC);

            assert_int_equal(pwrite(fd, "X", 1, 99), 1);
            close(fd);
        } else if (i == 1) {
            assert_int_equal(unlink(intent), 0);
        }
        if (i == 2 || i == 4) {
            assert_true(
                g_file_set_contents(intent, old_intent, (gssize)len, NULL));
        }
        if (i >= 3) {
            assert_true(
                g_file_set_contents(dirty, old_dirty, (gssize)dirty_len, NULL));
        }
        for (unsigned crash = 0; crash < 2; crash++) {
            disk = open_vdb(fixture, &store);
            assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
            assert_true(disk->recovers);
            assert_true(store_serve(store, NULL));
            store_free(store);
        }
        g_free(old_intent);
        g_free(old_dirty);
    }
    g_free(intent);
    g_free(dirty);
}

/* A state that somebody put back: it was clean once. */
static void
test_old_state_is_seen_through(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->path, STORE_STATE, NULL);
    uint64_t epoch;
    char *old;
    size_t len;
    Store *store;
    Disk *disk;

    make_clean(fixture);
    assert_true(g_file_get_contents(path, &old, &len, NULL));
    disk = open_vdb(fixture, &store);
    assert_true(store_serve(store, NULL));
    write_at(store, disk, 3 * EXTENT, 1);
    store_free(store);
    /* By one serve: its files say it all, and there is a doubt. */
    assert_true(g_file_set_contents(path, old, (gssize)len, NULL));
    disk = open_vdb(fixture, &store);
    assert_false(store->was_clean);
    assert_true(disk->recovers && disk->all_in_doubt);
    assert_int_equal(dirty_clusters(disk), EXTENT_CLUSTERS);
    assert_int_equal(store->epoch, store->epoch_before + 1);
    assert_true(store_serve(store, NULL));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    /* By more: of no use. */
    disk = open_vdb(fixture, &store);
    assert_true(store_serve(store, NULL));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    assert_true(g_file_set_contents(path, old, (gssize)len, NULL));
    disk = open_vdb(fixture, &store);
    assert_false(store->was_clean);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    assert_int_equal(disk->contact, CONTACT_LOST); /* the sums may know it */
    assert_int_equal(store->epoch_before, store->epoch - 2);
    /* Nor does a clean end of what only sets something say more. */
    epoch = store->epoch;
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    disk = open_vdb(fixture, &store);
    assert_true(store->was_clean);
    assert_int_equal(disk->contact, CONTACT_LOST);
    assert_int_equal(store->epoch_before, epoch - 2);
    assert_int_equal(store->epoch, epoch + 1);
    store_free(store);
    g_free(old);
    g_free(path);
}

/* A target that was set while the store was served, and the first contact
 * with it: no checkpoint of before may speak for it. */
static void
test_new_target_is_all_dirty_after_a_crash(void **state)
{
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    assert_true(store_set(store, disk, "target", "nbd://localhost/new", NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_true(store_serve(store, NULL));
    assert_true(
        store_set(store, disk, "target", "nbd://localhost/newer", NULL));
    disk->contact = CONTACT_KNOWN;
    assert_true(store_save_state(store, NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    store_free(store);
}

/* The checkpoint at the start of the serve says that all is clean, of a target
 * that is not this one. */
static void
test_first_contact_has_its_own_checkpoint(void **state)
{
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    assert_int_equal(dirty_clusters(disk), 0);
    assert_true(store_set(store, disk, "target", "nbd://localhost/new", NULL));
    disk->contact = CONTACT_KNOWN;
    assert_true(store_save_state(store, NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    store_free(store);
}

/* Away and back before anything else is saved: the contact is not that of
 * before, for nobody knows what became of the target meanwhile. */
static void
test_target_changed_and_changed_back(void **state)
{
    Store *store;
    Disk *disk;
    char *target;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    target = g_strdup(disk->target);
    assert_true(store_serve(store, NULL));
    assert_true(store_set(store, disk, "target", "nbd://localhost/new", NULL));
    assert_true(store_set(store, disk, "target", target, NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    assert_int_equal(disk->contact, CONTACT_NONE);
    store_free(store);
    g_free(target);
}

/* It is tracked for its bitmaps; the target that it gets while it is served has
 * a checkpoint to rely on. */
static void
test_disk_without_target_is_tracked(void **state)
{
    Store *store;
    Disk *disk;

    disk = open_vdb(*state, &store);
    assert_true(store_set(store, disk, "target", "none", NULL));
    assert_true(store_serve(store, NULL));
    assert_true(disk->is_tracked);
    assert_false(disk_map_is_hot(disk->map, 0, 1));
    write_at(store, disk, 3 * EXTENT, 1);
    cool(store, disk);
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    assert_true(store_serve(store, NULL));
    assert_true(store_set(store, disk, "target", "nbd://localhost/new", NULL));
    disk->contact = CONTACT_KNOWN;
    assert_true(store_save_state(store, NULL));
    settle_all(disk);
    assert_int_equal(store_checkpoint(store, disk), 0);
    write_at(store, disk, 3 * EXTENT, 1);
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(dirty_clusters(disk), EXTENT_CLUSTERS);
    store_free(store);
}

/* Untracked for a while, in the epoch of files that are still there, with a
 * target of that while. */
static void
test_files_of_a_tracked_time_do_not_speak_for_later(void **state)
{
    struct BlockedIntent blocked;
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    store_free(store);
    disk = open_vdb(*state, &store);
    assert_int_equal(dirty_clusters(disk), 0);
    blocked = fixture_block_intent(*state, "vdb");
    assert_true(store_serve(store, NULL));
    assert_false(disk->is_tracked);
    assert_true(store_set(store, disk, "target", "nbd://localhost/new", NULL));
    disk->contact = CONTACT_KNOWN;
    assert_true(store_save_state(store, NULL));
    settle_all(disk);
    write_at(store, disk, 5 * EXTENT, 1);
    store_free(store);
    fixture_unblock_intent(&blocked);
    disk = open_vdb(*state, &store);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(dirty_clusters(disk), BIG_CLUSTERS);
    assert_true(store_serve(store, NULL));
    assert_true(disk->is_tracked);
    store_free(store);
}

static void
test_growing_is_tracked(void **state)
{
    Store *store;
    Disk *disk;

    make_clean(*state);
    disk = open_vdb(*state, &store);
    assert_true(store_serve(store, NULL));
    assert_true(store_resize_disk(store, disk, 2 * BIG, NULL));
    write_at(store, disk, 2 * BIG - 1, 1);
    settle_all(disk);
    assert_int_equal(store_checkpoint(store, disk), 0);
    write_at(store, disk, BIG + EXTENT, 1);
    store_free(store);
    disk = open_vdb(*state, &store);
    /* The checkpoint is of the larger disk; two extents are hot. */
    assert_int_equal(dirty_clusters(disk), 2 * EXTENT_CLUSTERS);
    store_free(store);
}

/*
 * The model
 */

static void
step(Store *store, Disk *disk, Seed *seed)
{
    uint64_t offset = seed_below(seed, BIG);
    uint64_t len = 1 + seed_below(seed, 3 * CLUSTER);
    struct ClusterRun run;

    switch (seed_below(seed, 8)) {
    default:
        write_at(store, disk, offset, MIN(len, BIG - offset));
        break;
    case 5:
        (void)disk_map_seal(disk->map);
        if (disk_map_next_sealed(disk->map, offset / CLUSTER, 50, &run)) {
            disk_map_settle(disk->map, run);
        }
        (void)disk_map_retire(disk->map);
        break;
    case 6:
        if (disk->is_tracked) {
            cool(store, disk);
        }
        break;
    case 7:
        (void)store_checkpoint(store, disk);
        break;
    }
}

/* One life of the store over @io: whatever fails in it, fails. What @truth
 * has at the end must be dirty at the next opening. */
static void
live(StoreIo *io, const char *path, Seed *seed, Bitmap *truth)
{
    Store *store = store_open(io, path, 0, NULL);
    Disk *disk = store ? store_disk(store, "vdb") : NULL;

    if (store && store_serve(store, NULL)) {
        for (uint64_t i = seed_below(seed, 12); i > 0; i--) {
            step(store, disk, seed);
        }
        remember(disk, truth);
        if (seed_below(seed, 3) == 0) {
            (void)store_close_clean(store, NULL);
        }
    }
    if (store) {
        store_free(store);
    }
}

static void
test_any_life_leaves_a_superset(void **state)
{
    struct StoreFixture *fixture = *state;
    Bitmap *truth = bitmap_new(BIG, STORE_CLUSTER_BITS);
    Seed seed = {seed0};
    uint64_t exact = 0;

    make_clean(fixture);
    for (unsigned i = 0; i < 100; i++) {
        Store *store;
        Disk *disk;

        live(store_io_kernel(), fixture->path, &seed, truth);
        disk = open_vdb(fixture, &store);
        assert_covers(disk, truth);
        assert_true(dirty_clusters(disk) <=
                    bitmap_count(truth) + 17 * EXTENT_CLUSTERS);
        exact += dirty_clusters(disk) == bitmap_count(truth);
        if (seed_below(&seed, 10) == 0) {
            assert_true(store_serve(store, NULL));
            settle_all(disk);
            assert_true(store_close_clean(store, NULL));
            bitmap_clear_all(truth);
        }
        store_free(store);
    }
    assert_true(exact > 5);
    bitmap_free(truth);
}

/* The same with the n-th storage call of a life failing, once or from then on,
 * torn. */
static void
test_any_failing_call_leaves_a_superset(void **state)
{
    static const int errors[] = {-EIO, -ENOSPC};
    struct StoreFixture *fixture = *state;
    Bitmap *truth = bitmap_new(BIG, STORE_CLUSTER_BITS);
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    fault.is_torn = true;
    for (unsigned round = 0; round < 4; round++) {
        unsigned failed = 1;

        make_clean(fixture);
        bitmap_clear_all(truth);
        for (unsigned n = 1; failed; n++) {
            Seed seed = {seed0 + n % 2};
            Store *store;
            Disk *disk;

            fault_io_arm(&fault, n, round & 1, errors[round / 2]);
            live(&fault.io, fixture->path, &seed, truth);
            failed = fault_io_disarm(&fault);
            disk = open_vdb(fixture, &store);
            assert_covers(disk, truth);
            store_free(store);
        }
    }
    bitmap_free(truth);
}

int
main(int argc, char **argv)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_hot_extents_are_dirty_after_a_crash),
        WITH_STORE(test_cold_extents_are_exact),
        WITH_STORE(test_damage_before_recovery_is_dirty),
        WITH_STORE(test_old_state_is_seen_through),
        WITH_STORE(test_new_target_is_all_dirty_after_a_crash),
        WITH_STORE(test_first_contact_has_its_own_checkpoint),
        WITH_STORE(test_target_changed_and_changed_back),
        WITH_STORE(test_disk_without_target_is_tracked),
        WITH_STORE(test_files_of_a_tracked_time_do_not_speak_for_later),
        WITH_STORE(test_growing_is_tracked),
        WITH_STORE(test_any_life_leaves_a_superset),
        WITH_STORE(test_any_failing_call_leaves_a_superset),
    };

    seed0 = seed_from_args(argc, argv);
    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
