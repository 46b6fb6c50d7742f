/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps.c - named bitmaps over ends of all kinds
 */
#include "bitmaps-rig.h"

#include "fs/rollback.h"
#include "fs/snapshot.h"

#include <errno.h>
#include <unistd.h>

static uint64_t seed0;

static bool
remove_bitmap(struct Rig *rig, const char *name)
{
    GError *error = NULL;
    gboolean ok = store_bitmap_remove(rig->store, rig->disk, name, &error);

    return rig_did(rig, ok, error);
}

static bool
merge(struct Rig *rig, const char *target, const char *source)
{
    const char *const sources[] = {source};
    GError *error = NULL;
    gboolean ok =
        store_bitmap_merge(rig->store, rig->disk, target, sources, 1, &error);

    return rig_did(rig, ok, error);
}

/*
 * Ends
 */
static void
test_clean_end_is_exact(void **state)
{
    static const unsigned grains[] = {9, 12, 16, 20, 31};
    struct Rig *rig = *state;
    uint64_t sums[G_N_ELEMENTS(grains)];
    Seed seed = {seed0};

    rig_serve(rig);
    for (unsigned i = 0; i < G_N_ELEMENTS(grains); i++) {
        char name[] = {(char)('a' + i), '\0'};

        assert_true(rig_add(rig, name, grains[i]));
    }
    assert_true(store_bitmap_add(rig->store, rig->disk, "passing", 16, false,
                                 false, NULL));
    for (unsigned life = 0; life < 4; life++) {
        for (unsigned i = 0; i < 50; i++) {
            rig_write(rig, seed_below(&seed, BIG - 5000),
                      1 + seed_below(&seed, 5000));
        }
        if (life == 1) {
            assert_true(rig_enable(rig, "b", false));
            assert_true(rig_clear(rig, "c"));
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(grains); i++) {
            char name[] = {(char)('a' + i), '\0'};

            sums[i] = rig_sum(rig, name);
        }
        rig_again(rig, true);
        assert_int_equal(rig_count(rig, "passing"), UINT64_MAX);
        for (unsigned i = 0; i < G_N_ELEMENTS(grains); i++) {
            char name[] = {(char)('a' + i), '\0'};

            assert_int_equal(rig_sum(rig, name), sums[i]);
        }
        if (life % 2) {
            rig_again(rig, true); /* nothing was done */
        }
        rig_serve(rig);
    }
    assert_int_equal(rig_count(rig, "e"), BIG);
    assert_false(rig_figures(rig, "b").is_enabled);
    assert_int_equal(rig_files(rig), 6);
}

static void
test_crash_adds_hot_extents_to_what_records(void **state)
{
    struct Rig *rig = *state;
    uint64_t sum;

    rig_serve(rig);
    assert_true(rig_add(rig, "fine", 9) && rig_add(rig, "still", 16));
    rig_write(rig, EXTENT, 1);
    assert_true(rig_enable(rig, "still", false));
    sum = rig_sum(rig, "still");
    rig_write(rig, 5 * EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    rig_write(rig, 9 * EXTENT + 700, 1);
    assert_int_equal(rig_count(rig, "fine"), 3 * 512);
    for (unsigned crash = 0; crash < 3; crash++) {
        rig_again(rig, false);
        assert_int_equal(rig_count(rig, "fine"), 2 * 512 + EXTENT);
        assert_true(rig_is_dirty(rig, "fine", EXTENT, 512));
        assert_true(rig_is_dirty(rig, "fine", 9 * EXTENT, EXTENT));
        assert_int_equal(rig_sum(rig, "still"), sum);
        if (crash) {
            rig_serve(rig);
        }
    }
    /* At rest a clean end makes that what there is. */
    sum = rig_sum(rig, "fine");
    rig_again(rig, true);
    assert_int_equal(rig_sum(rig, "fine"), sum);
}

/* What each command did is there after a crash right behind it. */
static void
test_commands_are_durable(void **state)
{
    struct Rig *rig = *state;

    for (unsigned is_served = 0; is_served < 2; is_served++) {
        rig_serve(rig);
        assert_true(rig_add(rig, "a", 16) && rig_add(rig, "b", 12));
        rig_write(rig, 3 * EXTENT, 1);
        rig_write(rig, 7 * EXTENT, 1);
        rig_cool(rig);
        rig_cool(rig);
        rig_again(rig, !is_served);
        if (is_served) {
            rig_serve(rig);
        }
        assert_true(rig_clear(rig, "a"));
        rig_again(rig, false);
        assert_int_equal(rig_count(rig, "a"), 0);
        assert_int_equal(rig_count(rig, "b"), 2 * 4096);
        if (is_served) {
            rig_serve(rig);
        }
        assert_true(merge(rig, "a", "b"));
        rig_again(rig, false);
        assert_int_equal(rig_count(rig, "a"), 2 * CLUSTER);
        assert_true(rig_enable(rig, "a", false));
        rig_again(rig, false);
        assert_false(rig_figures(rig, "a").is_enabled);
        assert_true(rig_enable(rig, "a", true));
        rig_again(rig, false);
        assert_true(rig_figures(rig, "a").is_enabled);
        assert_true(remove_bitmap(rig, "a"));
        rig_again(rig, false);
        assert_int_equal(rig_count(rig, "a"), UINT64_MAX);
        assert_true(remove_bitmap(rig, "b"));
        rig_end(rig);
        assert_int_equal(rig_files(rig), 1);
    }
}

/*
 * Words, ids
 */
static void
test_refusals_change_nothing(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;
    uint64_t sum;

    rig_open(rig);
    assert_true(rig_add(rig, "b", 16));
    sum = rig_sum(rig, "b");
    assert_false(rig_add(rig, "b", 12));
    assert_non_null(strstr(rig->why, "Bitmap already exists: b"));
    assert_false(rig_add(rig, "c", 8));
    assert_non_null(strstr(rig->why, "Granularity must be power of 2"));
    assert_false(rig_add(rig, "c", 32));
    assert_non_null(strstr(rig->why, "between 512 and 2G"));
    assert_false(rig_add(rig, "../c", 16));
    assert_false(rig_add(rig, "", 16));
    assert_false(rig_clear(rig, "c"));
    assert_non_null(strstr(rig->why, "Bitmap 'c' could not be found"));
    assert_false(merge(rig, "b", "c"));
    assert_non_null(strstr(rig->why, "Bitmap 'c' could not be found"));
    assert_false(merge(rig, "c", "b"));
    assert_int_equal(named_freeze(rig->disk->bitmaps, "b", &frozen), NAMED_OK);
    assert_true(rig_add(rig, "d", 16));
    assert_false(rig_clear(rig, "b"));
    assert_non_null(
        strstr(rig->why, "Bitmap 'b' is currently in use by another operation "
                         "and cannot be used"));
    assert_false(merge(rig, "d", "b"));
    assert_non_null(strstr(rig->why, "Bitmap 'b' is currently"));
    assert_false(remove_bitmap(rig, "b") || rig_enable(rig, "b", false));
    named_thaw(frozen, NAMED_OLD, NULL);
    assert_int_equal(rig_sum(rig, "b"), sum);
    assert_int_equal(named_count(rig->disk->bitmaps), 2);
}

static void
test_one_too_many_is_refused(void **state)
{
    struct Rig *rig = *state;
    struct NamedSpec spec = {.grain_bits = 16};
    char name[16];

    rig_open(rig);
    for (unsigned i = 0; i < NAMED_MOST; i++) {
        snprintf(name, sizeof(name), "b%u", i);
        spec.name = name;
        spec.id = (uint64_t)store_bitmap_next_id(rig->store);
        assert_int_equal(named_add(rig->disk->bitmaps, &spec, NULL), NAMED_OK);
    }
    assert_false(rig_add(rig, "more", 16));
    assert_string_equal(rig->why, "no bitmap 'more': disk vdb has 1000, which "
                                  "is the most: remove some first");
    assert_true(remove_bitmap(rig, "b7"));
    assert_true(rig_add(rig, "more", 16));
}

static void
test_ids_are_never_given_twice(void **state)
{
    struct Rig *rig = *state;
    uint64_t last = 0;

    for (unsigned life = 0; life < 6; life++) {
        rig_open(rig);
        if (life % 2) {
            rig_serve(rig);
        }
        for (unsigned i = 0; i < 3; i++) {
            assert_true(store_bitmap_add(rig->store, rig->disk, "x", 16,
                                         i % 2 == 0, false, NULL));
            assert_true(rig_figures(rig, "x").id > last);
            last = rig_figures(rig, "x").id;
            assert_true(remove_bitmap(rig, "x"));
        }
        if (life == 3) {
            char *path =
                g_build_filename(rig->fixture->path, STORE_STATE, NULL);

            assert_true(rig_add(rig, "y", 16));
            last = rig_figures(rig, "y").id;
            assert_int_equal(unlink(path), 0);
            g_free(path);
        }
        if (life % 2) {
            rig_crash(rig);
        } else {
            rig_end(rig);
        }
    }
    rig_open(rig);
    rig->store->last_bitmap = NAMED_ID_MAX - 1;
    assert_int_equal(store_bitmap_next_id(rig->store), NAMED_ID_MAX);
    assert_int_equal(store_bitmap_next_id(rig->store), -1);
    assert_false(rig_add(rig, "z", 16));
    assert_non_null(strstr(rig->why, "used up"));
}

/*
 * Sizes
 */
static void
test_bitmaps_follow_a_resize(void **state)
{
    struct Rig *rig = *state;
    uint64_t size = BIG;

    for (unsigned i = 0; i < 4; i++) {
        bool is_served = i % 2, is_clean = i / 2;

        rig_open(rig);
        if (i == 0) {
            assert_true(rig_add(rig, "b", 9) && rig_add(rig, "still", 16));
            assert_true(rig_enable(rig, "still", false));
        }
        if (is_served) {
            rig_serve(rig);
        }
        size += 3 * MIB + 512;
        assert_true(store_resize_disk(rig->store, rig->disk, size, NULL));
        if (is_served) {
            rig_write(rig, size - 1, 1);
            assert_true(rig_is_dirty(rig, "b", size - 512, 512));
        }
        if (!is_clean) {
            rig_again(rig, false);
            assert_true(rig_count(rig, "b") >= 3 * MIB);
            assert_true(rig_clear(rig, "b") && rig_clear(rig, "still"));
        }
        rig_again(rig, true);
        assert_int_equal(rig_count(rig, "still"), 0);
        assert_int_equal(rig_count(rig, "b"), is_clean ? is_served * 512u : 0u);
        assert_true(rig_clear(rig, "b"));
        rig_end(rig);
    }
}

/* What a rollback wrote is dirty, and no more, also if it was interrupted. */
static void
test_rollback_is_recorded(void **state)
{
    struct Rig *rig = *state;
    const struct Rollback ask = {.path = rig->fixture->path, .name = "then"};
    const struct ClusterRun run = {5, 1};
    StoreBits bits = {.file = "left", .map = disk_map_new(BIG, 16)};
    unsigned failed = 1;

    rig_open(rig);
    store_bits_add(rig->store, rig->disk, &bits);
    assert_true(rig_add(rig, "b", 16));
    assert_true(store_snapshot_now(rig->store, "then", "user", NULL, NULL));
    rig_end(rig);
    for (unsigned n = 1; failed; n += 1 + n / 4) {
        rig_open(rig);
        assert_int_equal(store_keep(rig->store, rig->disk, &run, 1), 0);
        assert_int_equal(pwrite(rig->disk->map_fd, "X", 1, 5 * CLUSTER), 1);
        assert_true(rig_clear(rig, "b"));
        rig_end(rig);
        fault_io_arm(&rig->fault, n, true, -EIO);
        (void)store_rollback(&rig->fault.io, &ask, NULL);
        failed = fault_io_disarm(&rig->fault);
        if (failed) {
            assert_true(store_rollback(&rig->fault.io, &ask, NULL));
        }
        rig_open(rig);
        assert_true(rig_is_dirty(rig, "b", 5 * CLUSTER, CLUSTER));
        assert_int_equal(rig_count(rig, "b"), CLUSTER);
        rig_end(rig);
    }
    /* A job that was not there has missed it. */
    rig_open(rig);
    assert_true(store_bits_load(rig->store, rig->disk, &bits, true, NULL));
    assert_int_equal(disk_map_next_clean(bits.map, 0), UINT64_MAX);
    disk_map_free(bits.map);
}

/*
 * For programs
 */
static void
test_extents_come_in_parts(void **state)
{
    struct Rig *rig = *state;
    JsonObject *object;
    JsonArray *extents;

    rig_open(rig);
    assert_true(rig_add(rig, "b", 9));
    for (unsigned i = 0; i < 8200; i++) {
        rig_write(rig, i * 1024u, 1);
    }
    object = store_bitmap_extents(rig->disk, "b", 0, NULL);
    extents = json_object_get_array_member(object, "extents");
    assert_int_equal(json_array_get_length(extents), 8192);
    assert_int_equal(json_object_get_int_member(object, "next"), 8192 * 1024);
    assert_int_equal(json_object_get_int_member(object, "count"), 8200 * 512);
    assert_int_equal(json_object_get_int_member(object, "granularity"), 512);
    json_object_unref(object);
    object = store_bitmap_extents(rig->disk, "b", 8192 * 1024 + 1, NULL);
    extents = json_object_get_array_member(object, "extents");
    assert_int_equal(json_array_get_length(extents), 8);
    assert_int_equal(json_object_get_int_member(
                         json_array_get_object_element(extents, 0), "length"),
                     511);
    assert_false(json_object_has_member(object, "next"));
    json_object_unref(object);
    assert_null(store_bitmap_extents(rig->disk, "c", 0, NULL));
}

/* Some of QEMU's and some of ours. */
static void
test_json_says_what_it_is(void **state)
{
    struct Rig *rig = *state;
    g_autoptr(JsonArray) all = NULL;
    JsonObject *object;

    rig_open(rig);
    assert_true(rig_add(rig, "b", 17) && rig_enable(rig, "b", false));
    all = store_bitmaps_json(rig->disk);
    assert_int_equal(json_array_get_length(all), 1);
    object = json_array_get_object_element(all, 0);
    assert_string_equal(json_object_get_string_member(object, "name"), "b");
    assert_int_equal(json_object_get_int_member(object, "granularity"), 131072);
    assert_int_equal(json_object_get_int_member(object, "count"), 0);
    assert_int_equal(json_object_get_int_member(object, "id"),
                     (gint64)rig_figures(rig, "b").id);
    assert_false(json_object_get_boolean_member(object, "recording"));
    assert_false(json_object_get_boolean_member(object, "enabled"));
    assert_false(json_object_get_boolean_member(object, "busy"));
    assert_true(json_object_get_boolean_member(object, "persistent"));
    assert_false(json_object_has_member(object, "inconsistent"));
}

/*
 * The model
 */
#define MODEL 3

struct Model {
    struct Rig *rig;
    Seed *seed;
    Bitmap *truth[MODEL]; /* of 512 bytes: what must be dirty */
    bool is_recording[MODEL];
};

static const char *const model_names[MODEL] = {"a", "b", "c"};

static void
model_step(struct Model *m)
{
    unsigned i = (unsigned)seed_below(m->seed, MODEL);
    unsigned j = (unsigned)seed_below(m->seed, MODEL);
    uint64_t offset = seed_below(m->seed, BIG - 70000);
    uint64_t len = 1 + seed_below(m->seed, 70000);

    switch (seed_below(m->seed, 12)) {
    default:
        if (rig_write(m->rig, offset, len)) {
            for (unsigned k = 0; k < MODEL; k++) {
                if (m->is_recording[k]) {
                    bitmap_set_bytes(m->truth[k], offset, len);
                }
            }
        }
        break;
    case 6:
        if (rig_clear(m->rig, model_names[i])) {
            bitmap_clear_all(m->truth[i]);
        }
        break;
    case 7:
        if (merge(m->rig, model_names[i], model_names[j]) && i != j) {
            bitmap_merge(m->truth[i], m->truth[j]);
        }
        break;
    case 8:
        if (rig_enable(m->rig, model_names[i], !m->is_recording[i])) {
            m->is_recording[i] = !m->is_recording[i];
        }
        break;
    case 9:
    case 10:
        if (m->rig->disk->is_tracked) {
            rig_cool(m->rig);
        }
        break;
    case 11:
        (void)store_checkpoint(m->rig->store, m->rig->disk);
        break;
    }
}

static void
model_judge(struct Model *m)
{
    for (unsigned i = 0; i < MODEL; i++) {
        struct ClusterRun run = {0, 0};

        assert_int_equal(rig_figures(m->rig, model_names[i]).is_enabled,
                         m->is_recording[i]);
        while (bitmap_next_run(m->truth[i], run.first + run.count, UINT64_MAX,
                               &run)) {
            assert_true(rig_is_dirty(m->rig, model_names[i], run.first * 512,
                                     run.count * 512));
        }
    }
}

static void
test_any_life_leaves_supersets(void **state)
{
    static const unsigned grains[MODEL] = {9, 13, 20};
    Seed seed = {seed0};
    struct Model m = {.rig = *state, .seed = &seed};
    struct Rig *rig = m.rig;

    rig_open(rig);
    for (unsigned i = 0; i < MODEL; i++) {
        assert_true(rig_add(rig, model_names[i], grains[i]));
        m.truth[i] = bitmap_new(BIG, 9);
        m.is_recording[i] = true;
    }
    for (unsigned life = 0; life < 120; life++) {
        uint64_t sums[MODEL] = {0};
        bool is_clean = seed_below(&seed, 2);

        rig_serve(rig);
        for (uint64_t i = seed_below(&seed, 25); i > 0; i--) {
            model_step(&m);
        }
        for (unsigned i = 0; i < MODEL; i++) {
            sums[i] = rig_sum(rig, model_names[i]);
        }
        rig_again(rig, is_clean);
        model_judge(&m);
        for (unsigned i = 0; i < MODEL; i++) {
            if (is_clean || !m.is_recording[i]) {
                assert_int_equal(rig_sum(rig, model_names[i]), sums[i]);
            }
        }
    }
    for (unsigned i = 0; i < MODEL; i++) {
        bitmap_free(m.truth[i]);
    }
}

int
main(int argc, char **argv)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_clean_end_is_exact),
        WITH_RIG(test_crash_adds_hot_extents_to_what_records),
        WITH_RIG(test_commands_are_durable),
        WITH_RIG(test_refusals_change_nothing),
        WITH_RIG(test_one_too_many_is_refused),
        WITH_RIG(test_ids_are_never_given_twice),
        WITH_RIG(test_bitmaps_follow_a_resize),
        WITH_RIG(test_rollback_is_recorded),
        WITH_RIG(test_extents_come_in_parts),
        WITH_RIG(test_json_says_what_it_is),
        WITH_RIG(test_any_life_leaves_supersets),
    };

    seed0 = seed_from_args(argc, argv);
    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
