/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps-jobs.c - named bitmaps that jobs have, and maps of jobs,
 * over ends of all kinds
 */
#include "bitmaps-rig.h"

/*
 * Jobs
 */

/* S: extent 1, cold; N: extent 2. */
static NamedBitmap *
begin_job(struct Rig *rig, const char *name)
{
    NamedBitmap *frozen;

    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    assert_int_equal(named_freeze(rig->disk->bitmaps, name, &frozen), NAMED_OK);
    assert_true(rig_save(rig));
    rig_write(rig, 2 * EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    return frozen;
}

/* Whoever lists them sees the successor, too, with no job and no daemon there. */
static void
assert_successor_is_listed(struct Rig *rig)
{
    g_autoptr(JsonArray) all = store_bitmaps_json(rig->disk);
    JsonObject *first, *second;

    assert_int_equal(json_array_get_length(all), 2);
    first = json_array_get_object_element(all, 0);
    second = json_array_get_object_element(all, 1);
    assert_string_equal(json_object_get_string_member(first, "name"), "b");
    assert_true(json_object_get_boolean_member(first, "busy"));
    assert_false(json_object_has_member(second, "name"));
    assert_int_equal(json_object_get_int_member(second, "count"), CLUSTER);
}

static void
test_busy_bitmap_is_busy_again(void **state)
{
    struct Rig *rig = *state;
    struct NamedFigures figures;

    rig_serve(rig);
    assert_true(rig_add(rig, "b", 16));
    (void)begin_job(rig, "b");
    for (unsigned i = 0; i < 4; i++) {
        rig_again(rig, i % 2);
        figures = rig_figures(rig, "b");
        assert_true(figures.is_busy && figures.is_enabled);
        assert_int_equal(figures.count_bytes, CLUSTER);
        assert_int_equal(figures.new_bytes, CLUSTER);
        assert_true(rig_is_dirty(rig, "b", EXTENT, CLUSTER));
        assert_successor_is_listed(rig);
        rig_serve(rig);
    }
    rig_write(rig, 4 * EXTENT, 1);
    rig_again(rig, false);
    figures = rig_figures(rig, "b");
    assert_int_equal(figures.count_bytes, CLUSTER);
    assert_int_equal(figures.new_bytes, CLUSTER + EXTENT);
    /* Nothing was written between its freezing and its end. */
    named_thaw(named_frozen(rig->disk->bitmaps, "b"), NAMED_NEW, NULL);
    assert_true(rig_save(rig));
    rig_again(rig, true);
    assert_false(rig_figures(rig, "b").is_busy);
    assert_int_equal(rig_count(rig, "b"), CLUSTER + EXTENT);
    assert_int_equal(rig_files(rig), 2);
}

/* The same one twice, so that its files change places; the ends, with a crash
 * before they are saved, and behind it. */
static void
test_ends_of_jobs(void **state)
{
    static const enum NamedEnd ends[] = {NAMED_NEW, NAMED_OLD, NAMED_REST};
    struct Rig *rig = *state;

    rig_serve(rig);
    assert_true(rig_add(rig, "b", 16));
    for (unsigned i = 0; i < 12; i++) {
        enum NamedEnd end = ends[i / 2 % 3];
        DiskMap *rest = disk_map_new(BIG, 18);
        bool is_saved = i % 2;
        NamedBitmap *frozen;

        assert_true(rig_clear(rig, "b"));
        frozen = begin_job(rig, "b");
        disk_map_mark(rest, 3 * EXTENT, 1, 1);
        named_thaw(frozen, end, rest);
        if (is_saved) {
            assert_true(rig_save(rig));
        }
        rig_again(rig, false);
        assert_int_equal(rig_figures(rig, "b").is_busy, !is_saved);
        if (!is_saved) {
            /* As before its end; N is there, whatever else is. */
            assert_true(rig_is_dirty(rig, "b", EXTENT, CLUSTER));
            assert_true(rig_figures(rig, "b").new_bytes >= CLUSTER);
            named_thaw(named_frozen(rig->disk->bitmaps, "b"), end, rest);
            assert_true(rig_save(rig));
        }
        assert_int_equal(rig_is_dirty(rig, "b", EXTENT, CLUSTER),
                         end == NAMED_OLD);
        assert_true(rig_is_dirty(rig, "b", 2 * EXTENT, CLUSTER));
        assert_int_equal(rig_is_dirty(rig, "b", 3 * EXTENT, CLUSTER),
                         end == NAMED_REST);
        disk_map_free(rest);
        rig_serve(rig);
    }
}

static unsigned
calls_of_a_checkpoint(struct Rig *rig)
{
    fault_io_arm(&rig->fault, 0, false, 0);
    assert_int_equal(store_checkpoint(rig->store, rig->disk), 0);
    return atomic_load(&rig->fault.calls);
}

/* The successor's file is gone, once. */
static void
test_checkpoints_forget_a_job(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;
    unsigned calls;

    rig_serve(rig);
    assert_true(rig_add(rig, "b", 16));
    (void)calls_of_a_checkpoint(rig);
    calls = calls_of_a_checkpoint(rig);
    assert_int_equal(named_freeze(rig->disk->bitmaps, "b", &frozen), NAMED_OK);
    assert_true(rig_save(rig));
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_true(rig_save(rig));
    assert_int_equal(rig_files(rig), 2);
    (void)calls_of_a_checkpoint(rig);
    assert_int_equal(calls_of_a_checkpoint(rig), calls);
}

static void
test_renewed_successor_is_kept(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    rig_serve(rig);
    assert_true(rig_add(rig, "b", 16));
    frozen = begin_job(rig, "b");
    named_renew(frozen);
    assert_true(rig_save(rig));
    rig_again(rig, false);
    assert_int_equal(rig_figures(rig, "b").new_bytes, 0);
    assert_int_equal(rig_count(rig, "b"), 2 * CLUSTER);
}

/*
 * Maps of jobs
 */
static void
test_maps_of_jobs_are_in_checkpoints(void **state)
{
    struct Rig *rig = *state;

    for (unsigned is_recording = 0; is_recording < 2; is_recording++) {
        StoreBits bits = {.file = STORE_JOBS "/1/" STORE_JOB_LEFT,
                          .map = disk_map_new(BIG, 16)};
        char *path = rig_file(rig, STORE_JOBS "/1");
        struct DiskMapFigures figures;

        assert_int_equal(g_mkdir_with_parents(path, 0700), 0);
        g_free(path);
        rig_serve(rig);
        store_bits_add(rig->store, rig->disk, &bits);
        disk_map_mark(bits.map, 5 * CLUSTER, 3 * CLUSTER, 1);
        assert_int_equal(store_checkpoint(rig->store, rig->disk), 0);
        disk_map_mark(bits.map, 50 * CLUSTER, 1, 1); /* too late */
        rig_write(rig, 8 * EXTENT, 1);
        store_bits_remove(rig->store, rig->disk, &bits);
        for (unsigned i = 0; i < 3; i++) {
            rig_again(rig, i == 1);
            disk_map_free(bits.map);
            bits = (StoreBits){.file = STORE_JOBS "/1/" STORE_JOB_LEFT,
                               .map = disk_map_new(BIG, 16)};
            assert_true(store_bits_load(rig->store, rig->disk, &bits,
                                        is_recording, NULL));
            disk_map_figures(bits.map, &figures);
            assert_int_equal(figures.dirty_clusters,
                             3 + is_recording * EXTENT / CLUSTER);
            store_bits_add(rig->store, rig->disk, &bits);
            rig_serve(rig);
            store_bits_remove(rig->store, rig->disk, &bits);
            if (i == 0) {
                store_bits_add(rig->store, rig->disk, &bits);
            }
        }
        disk_map_free(bits.map);
        rig_end(rig);
    }
}

static uint64_t
load_map(struct Rig *rig, bool is_recording)
{
    StoreBits bits = {.file = STORE_JOBS "/1/" STORE_JOB_LEFT,
                      .map = disk_map_new(BIG, 16)};
    struct DiskMapFigures figures;

    assert_true(
        store_bits_load(rig->store, rig->disk, &bits, is_recording, NULL));
    disk_map_figures(bits.map, &figures);
    disk_map_free(bits.map);
    return figures.dirty_clusters;
}

/* Who opens a store at rest does not load them, and ends it cleanly. What they
 * lack by then is seen, and only that makes them of no use. */
static void
test_maps_that_were_left_out_of_an_end(void **state)
{
    struct Rig *rig = *state;
    char *path = rig_file(rig, STORE_JOBS "/1");

    assert_int_equal(g_mkdir_with_parents(path, 0700), 0);
    g_free(path);
    for (unsigned i = 0; i < 8; i++) {
        bool is_clean = i & 1, has_target = i & 2, is_rolled = i & 4;
        StoreBits bits = {.file = STORE_JOBS "/1/" STORE_JOB_LEFT,
                          .map = disk_map_new(BIG, 16)};
        const char *target = has_target ? "nbd://localhost/b" : "none";

        rig_open(rig);
        assert_true(store_set(rig->store, rig->disk, "target", target, NULL));
        rig_serve(rig);
        if (has_target) {
            settle_all(rig->disk);
            disk_map_mark(rig->disk->map, 0, 1, 1);
        }
        store_bits_add(rig->store, rig->disk, &bits);
        disk_map_mark(bits.map, 5 * CLUSTER, 3 * CLUSTER, 1);
        assert_int_equal(store_checkpoint(rig->store, rig->disk), 0);
        rig_write(rig, 8 * EXTENT, 1);
        rig_again(rig, is_clean);
        disk_map_free(bits.map);
        rig->disk->is_overwritten = is_rolled;
        rig_end(rig);
        rig_open(rig);
        assert_int_equal(load_map(rig, false), 3);
        assert_int_equal(load_map(rig, true),
                         is_clean && !is_rolled ? 3 : BIG / CLUSTER);
        rig_end(rig);
    }
}

static void
test_map_without_its_file_is_all_dirty(void **state)
{
    struct Rig *rig = *state;
    StoreBits bits = {.file = STORE_JOBS "/7/" STORE_JOB_LEFT,
                      .map = disk_map_new(BIG, 12)};

    rig_open(rig);
    assert_true(store_bits_load(rig->store, rig->disk, &bits, false, NULL));
    assert_int_equal(disk_map_next_clean(bits.map, 0), UINT64_MAX);
    disk_map_free(bits.map);
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_busy_bitmap_is_busy_again),
        WITH_RIG(test_ends_of_jobs),
        WITH_RIG(test_checkpoints_forget_a_job),
        WITH_RIG(test_renewed_successor_is_kept),
        WITH_RIG(test_maps_of_jobs_are_in_checkpoints),
        WITH_RIG(test_maps_that_were_left_out_of_an_end),
        WITH_RIG(test_map_without_its_file_is_all_dirty),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
