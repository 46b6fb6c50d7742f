/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps-full.c - one file that cannot be written, beside others
 *
 * The others are saved, `dirty` is, extents get cold, and a serve ends cleanly.
 * What the file is of is a superset at any end.
 */
#include "bitmaps-rig.h"

#include "bitmap/bitmap-page.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

static struct {
    StoreIo io;
    struct StoreIoOps ops;
    StoreIo *inner;
    const char *name; /* cannot be written; NULL: there is room for all */
    unsigned kept;    /* files that got their room */
} full;

static int
full_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    (void)io;
    return full.name && (flags & O_ACCMODE) != O_RDONLY &&
                   g_str_has_prefix(name, full.name)
               ? -ENOSPC
               : full.inner->ops->open(full.inner, dirfd, name, flags, mode);
}

static int
full_fallocate(StoreIo *io, int fd, int mode, uint64_t offset, uint64_t len)
{
    (void)io;
    full.kept += mode == FALLOC_FL_KEEP_SIZE;
    return full.inner->ops->fallocate(full.inner, fd, mode, offset, len);
}

static int
setup(void **state)
{
    int err = rig_setup(state);
    struct Rig *rig = *state;

    full.inner = rig->fault.inner;
    full.ops = *full.inner->ops;
    full.ops.open = full_open;
    full.ops.fallocate = full_fallocate;
    full.io.ops = &full.ops;
    full.name = NULL;
    rig->fault.inner = &full.io;
    return err;
}

/* Bitmaps 1, of which no save succeeds from here on, and 2. */
static void
fill(struct Rig *rig)
{
    rig_serve(rig);
    assert_true(rig_add(rig, "one", 16) && rig_add(rig, "two", 16));
    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    full.name = "1.bits";
    rig_write(rig, 2 * EXTENT, 1);
}

static uint64_t
hot_extents(struct Rig *rig)
{
    struct DiskMapFigures figures;

    disk_map_figures(rig->disk->map, &figures);
    return figures.hot_extents;
}

static void
test_extents_get_cold_without_it(void **state)
{
    struct Rig *rig = *state;
    uint64_t sequence;

    fill(rig);
    assert_int_equal(hot_extents(rig), 1);
    sequence = rig->disk->checkpoint_sequence;
    assert_true(store_checkpoint(rig->store, rig->disk) == -ENOSPC);
    assert_true(rig->disk->checkpoint_sequence > sequence);
    assert_int_equal(store_checkpoint_map(rig->store, rig->disk), 0);
    rig_cool(rig);
    rig_cool(rig);
    assert_int_equal(hot_extents(rig), 0);
    rig_again(rig, false);
    assert_true(rig_is_dirty(rig, "one", EXTENT, CLUSTER));
    assert_true(rig_is_dirty(rig, "one", 2 * EXTENT, CLUSTER));
    assert_int_equal(rig_count(rig, "two"), 2 * CLUSTER);
    assert_true(rig_is_dirty(rig, "two", 2 * EXTENT, CLUSTER));

    /* There is no room at the next begin, either. */
    rig_serve(rig);
    assert_true(rig->disk->is_tracked);
    rig_write(rig, 3 * EXTENT, 1);
    rig_again(rig, false);
    assert_true(rig_is_dirty(rig, "one", 2 * EXTENT, EXTENT + CLUSTER));
    assert_int_equal(rig_count(rig, "two"), 2 * CLUSTER + EXTENT);

    /* Then there is. */
    full.name = NULL;
    rig_serve(rig);
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "two"), 2 * CLUSTER + EXTENT);
}

static void
test_serve_ends_cleanly_without_it(void **state)
{
    struct Rig *rig = *state;

    fill(rig);
    rig_again(rig, true);
    assert_true(rig->store->was_clean);
    assert_int_equal(rig_count(rig, "one"), BIG);
    assert_int_equal(rig_count(rig, "two"), 2 * CLUSTER);
    full.name = NULL;
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "one"), BIG);
}

/* What got cold without it is hot for it, but not for the newer one that mending
 * writes. */
static void
test_mending_loses_nothing_that_got_cold(void **state)
{
    struct Rig *rig = *state;
    char *report;

    rig_serve(rig);
    assert_true(rig_add(rig, "one", 9));
    rig_write(rig, 15 * EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    full.name = "1.bits";
    rig_write(rig, 2 * EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    assert_int_equal(hot_extents(rig), 0);
    rig_crash(rig);
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        rig_flip(rig, STORE_BITMAPS "/1.bits",
                 (off_t)(bitmap_file_bits_in(true, 4, 0) + i * 512 + 40));
    }
    full.name = NULL;
    assert_int_equal(fixture_check(rig->fixture, true, &report), STORE_SOUND);
    assert_non_null(strstr(report, "repaired: disk vdb: bitmap one: "));
    g_free(report);
    rig_open(rig);
    assert_true(rig_is_dirty(rig, "one", 2 * EXTENT, 512));
}

/* A file of before has less than the bitmap, which does not record: cleared, and
 * that taken back. */
static void
test_bitmap_at_rest_is_no_less_after_a_clean_end(void **state)
{
    struct Rig *rig = *state;

    fill(rig);
    full.name = NULL;
    assert_true(rig_enable(rig, "one", false));
    named_clear(rig->disk->bitmaps, "one");
    assert_true(rig_save(rig));
    assert_int_equal(named_mark(rig->disk->bitmaps, "one", 0, 1), NAMED_OK);
    full.name = "1.bits";
    rig_again(rig, true);
    assert_true(rig_is_dirty(rig, "one", 0, CLUSTER));
}

/* The successor's file does not come before the bitmap's. */
static void
test_busy_bitmap_without_its_file(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    fill(rig);
    full.name = NULL;
    assert_int_equal(named_freeze(rig->disk->bitmaps, "one", &frozen),
                     NAMED_OK);
    assert_true(rig_save(rig));
    rig_write(rig, 4 * EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    full.name = "1.";
    named_renew(frozen);
    rig_write(rig, 5 * EXTENT, 1);
    for (unsigned is_clean = 0; is_clean < 2; is_clean++) {
        rig_again(rig, is_clean);
        assert_true(rig_figures(rig, "one").is_busy);
        named_thaw(named_frozen(rig->disk->bitmaps, "one"), NAMED_OLD, NULL);
        assert_true(rig_is_dirty(rig, "one", EXTENT, CLUSTER));
        assert_true(rig_is_dirty(rig, "one", 4 * EXTENT, CLUSTER));
        assert_true(rig_is_dirty(rig, "one", 5 * EXTENT, CLUSTER));
        rig_crash(rig);
        rig_serve(rig);
    }
}

static void
test_map_of_a_job_without_its_file(void **state)
{
    struct Rig *rig = *state;
    StoreBits bits = {.file = "left", .map = disk_map_new(BIG, 16)};

    fill(rig);
    full.name = "left";
    disk_map_mark(bits.map, 3 * EXTENT, 1, 1);
    store_bits_add(rig->store, rig->disk, &bits);
    assert_int_equal(store_checkpoint(rig->store, rig->disk), -ENOSPC);
    assert_int_equal(store_checkpoint_map(rig->store, rig->disk), 0);
    rig_end(rig);
    disk_map_free(bits.map);
    bits = (StoreBits){.file = "left", .map = disk_map_new(BIG, 16)};
    full.name = NULL;
    rig_open(rig);
    assert_int_equal(rig_count(rig, "one"), 2 * CLUSTER);
    assert_true(store_bits_load(rig->store, rig->disk, &bits, false, NULL));
    assert_int_equal(disk_map_next_clean(bits.map, 0), UINT64_MAX);
    disk_map_free(bits.map);
}

/* Nobody knows which list is there: that is no clean end. */
static void
test_no_clean_end_without_the_list(void **state)
{
    struct Rig *rig = *state;
    GError *error = NULL;

    fill(rig);
    full.name = STORE_BITMAPS_LIST;
    assert_int_equal(named_disable(rig->disk->bitmaps, "two"), NAMED_OK);
    assert_false(store_close_clean(rig->store, &error));
    assert_non_null(strstr(error->message, "disk vdb: bitmaps/list cannot"));
    g_clear_error(&error);
    rig_again(rig, false);
    assert_true(rig_is_dirty(rig, "two", 2 * EXTENT, EXTENT));
}

static void
test_error_names_the_file(void **state)
{
    struct Rig *rig = *state;

    fill(rig);
    assert_false(rig_clear(rig, "one"));
    assert_non_null(strstr(rig->why, "disk vdb: bitmaps/1.bits cannot be "
                                     "saved: No space left on device"));
    assert_int_equal(rig_count(rig, "one"), 2 * CLUSTER);
    assert_true(store_bitmap_remove(rig->store, rig->disk, "one", NULL));
    assert_true(rig_clear(rig, "two"));
}

/* When it is made, when a job begins, and for what was made without. */
static void
test_files_get_their_room(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    rig_serve(rig);
    full.kept = 0;
    assert_true(rig_add(rig, "one", 16));
    assert_int_equal(full.kept, 1);
    rig_cool(rig);
    assert_int_equal(full.kept, 1);
    assert_int_equal(named_freeze(rig->disk->bitmaps, "one", &frozen),
                     NAMED_OK);
    assert_true(rig_save(rig));
    assert_int_equal(full.kept, 2);
    rig_again(rig, true);
    full.kept = 0;
    rig_serve(rig);
    assert_int_equal(full.kept, 2 + rig->store->n_disks);
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_extents_get_cold_without_it),
        WITH_RIG(test_serve_ends_cleanly_without_it),
        WITH_RIG(test_mending_loses_nothing_that_got_cold),
        WITH_RIG(test_bitmap_at_rest_is_no_less_after_a_clean_end),
        WITH_RIG(test_busy_bitmap_without_its_file),
        WITH_RIG(test_map_of_a_job_without_its_file),
        WITH_RIG(test_no_clean_end_without_the_list),
        WITH_RIG(test_error_names_the_file),
        WITH_RIG(test_files_get_their_room),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
