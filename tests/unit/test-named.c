/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-named.c - what a user may do with named bitmaps
 *
 * As in QEMU: what is refused, what counts, what a merge widens, how growth is
 * clean. test-named-job.c has what a job does with one.
 */
#define SIZE (100 * GRAIN + 512) /* the last grain is 512 bytes */

#include "named-rig.h"

#include "tests/lib/seed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint64_t seed0;

static enum NamedResult
add(struct Rig *rig, const char *name, unsigned grain_bits)
{
    const struct NamedSpec spec = {
        .name = name, .id = ++rig->last_id, .grain_bits = grain_bits};

    return named_add(rig->set, &spec, NULL);
}

static uint64_t
count(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;

    assert_true(named_find(rig->set, name, &figures));
    return figures.count_bytes;
}

static uint64_t
id_of(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;

    assert_true(named_find(rig->set, name, &figures));
    return figures.id;
}

static void
test_it_records_while_it_is_enabled(void **state)
{
    struct Rig *rig = *state;
    struct NamedFigures figures;

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(count(rig, "a"), 0);
    guest_writes(rig, 0, 512);
    guest_writes(rig, 3 * GRAIN - 1, 2);
    assert_int_equal(count(rig, "a"), 3 * GRAIN);
    assert_int_equal(named_disable(rig->set, "a"), NAMED_OK);
    guest_writes(rig, 50 * GRAIN, 512);
    assert_int_equal(count(rig, "a"), 3 * GRAIN);
    assert_true(named_find(rig->set, "a", &figures));
    assert_false(figures.is_enabled || figures.is_busy);
    assert_int_equal(named_enable(rig->set, "a"), NAMED_OK);
    guest_writes(rig, 51 * GRAIN, 512);
    assert_int_equal(count(rig, "a"), 4 * GRAIN);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    assert_int_equal(count(rig, "a"), 0);
    guest_writes(rig, 52 * GRAIN, 512);
    assert_int_equal(count(rig, "a"), GRAIN);
    assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    assert_false(named_find(rig->set, "a", &figures));
    guest_writes(rig, 53 * GRAIN, 512);
    assert_int_equal(named_count(rig->set), 0);
}

static void
test_what_is_asked_for_is_refused_with_its_reason(void **state)
{
    struct Rig *rig = *state;
    const char *sources[] = {"a", "none"};
    struct NamedSpec spec = {.name = "b", .id = 1, .grain_bits = 16};

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(add(rig, "a", 9), NAMED_EXISTS);
    assert_int_equal(named_add(rig->set, &spec, NULL), NAMED_EXISTS);
    assert_int_equal(add(rig, "b", 8), NAMED_BAD_GRAIN);
    assert_int_equal(add(rig, "b", 32), NAMED_BAD_GRAIN);
    assert_int_equal(named_remove(rig->set, "none"), NAMED_MISSING);
    assert_int_equal(named_clear(rig->set, "none"), NAMED_MISSING);
    assert_int_equal(named_enable(rig->set, "none"), NAMED_MISSING);
    assert_int_equal(named_disable(rig->set, "none"), NAMED_MISSING);
    assert_int_equal(named_mark(rig->set, "none", 0, 1), NAMED_MISSING);
    assert_int_equal(named_merge(rig->set, "none", sources, 1), NAMED_MISSING);
    assert_int_equal(named_merge(rig->set, "a", sources, 2), NAMED_MISSING);
    assert_int_equal(named_count(rig->set), 1);
}

/* Bits from elsewhere, of a smaller disk or a larger one, in other grains. */
static void
test_bits_are_marked(void **state)
{
    static const uint64_t sizes[] = {SIZE - 5 * GRAIN, SIZE, SIZE + 9 * GRAIN};
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    for (unsigned i = 0; i < 3; i++) {
        Bitmap *bits = bitmap_new(sizes[i], 12);

        bitmap_set_bytes(bits, 0, 1);
        bitmap_set_bytes(bits, 7 * GRAIN - 1, 2);
        bitmap_set_bytes(bits, sizes[i] - 1, 1);
        assert_int_equal(named_mark_bits(rig->set, "a", bits), NAMED_MISSING);
        assert_int_equal(add(rig, "a", 16), NAMED_OK);
        assert_int_equal(named_mark(rig->set, "a", 20 * GRAIN, 1), NAMED_OK);
        assert_int_equal(named_mark_bits(rig->set, "a", bits), NAMED_OK);
        assert_int_equal(count(rig, "a"), 4 * GRAIN + (sizes[i] < SIZE ? GRAIN
                                                       : sizes[i] == SIZE ? 512
                                                                          : 0));
        assert_int_equal(named_freeze(rig->set, "a", &frozen), NAMED_OK);
        assert_int_equal(named_mark_bits(rig->set, "a", bits), NAMED_BUSY);
        named_thaw(frozen, NAMED_OLD, NULL);
        assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
        bitmap_free(bits);
    }
}

/* So many and no more; from each one the next is found, also from one that has
 * gone. */
static void
test_there_are_so_many(void **state)
{
    struct Rig *rig = *state;
    struct NamedFigures figures;
    uint64_t id = 0;
    char name[8];

    for (unsigned i = 0; i < NAMED_MOST; i++) {
        snprintf(name, sizeof(name), "b%u", i);
        assert_int_equal(add(rig, name, 16), NAMED_OK);
    }
    assert_int_equal(add(rig, "more", 16), NAMED_TOO_MANY);
    assert_int_equal(named_remove(rig->set, "b4"), NAMED_OK);
    assert_int_equal(add(rig, "more", 16), NAMED_OK);
    assert_int_equal(add(rig, "b4", 16), NAMED_TOO_MANY);
    for (unsigned i = 0; i < NAMED_MOST; i++) {
        struct NamedFigures at;

        assert_true(named_at(rig->set, i, &at));
        assert_true(named_after(rig->set, id, &figures));
        assert_int_equal(figures.id, at.id);
        id = figures.id;
    }
    assert_false(named_after(rig->set, id, &figures));
    assert_true(named_find(rig->set, "b3", &figures));
    assert_true(named_after(rig->set, figures.id + 1, &figures));
    assert_string_equal(figures.name, "b5");
}

/* The last grain is smaller than the others; the count says bytes. */
static void
test_figures_count_bytes_of_the_disk(void **state)
{
    static const unsigned bits[] = {9, 12, 16, 20, 31};
    struct Rig *rig = *state;
    uint64_t offset, len;

    for (unsigned i = 0; i < 5; i++) {
        const uint64_t grain = UINT64_C(1) << bits[i];
        uint64_t last = SIZE & ~(grain - 1);

        last -= last == SIZE ? grain : 0;
        assert_int_equal(add(rig, "x", bits[i]), NAMED_OK);
        guest_writes(rig, SIZE - 1, 1);
        assert_int_equal(count(rig, "x"), SIZE - last);
        assert_true(
            named_next(rig->set, rig->last_id, 0, UINT64_MAX, &offset, &len));
        assert_int_equal(offset, last);
        assert_int_equal(len, SIZE - last);
        guest_writes(rig, 0, SIZE);
        assert_int_equal(count(rig, "x"), SIZE);
        assert_int_equal(named_remove(rig->set, "x"), NAMED_OK);
    }
}

static void
test_all_of_them_are_listed_by_age(void **state)
{
    struct Rig *rig = *state;
    struct NamedFigures figures;
    NamedBitmap *made = NULL;
    const struct NamedSpec spec = {.name = "Kept.1_x-y",
                                   .id = 40,
                                   .grain_bits = 12,
                                   .is_persistent = true,
                                   .is_disabled = true};

    assert_int_equal(named_add(rig->set, &spec, &made), NAMED_OK);
    assert_non_null(made);
    assert_int_equal(add(rig, "z", 9), NAMED_OK);
    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(named_count(rig->set), 3);
    assert_true(named_at(rig->set, 0, &figures));
    assert_string_equal(figures.name, "z");
    assert_true(figures.is_enabled);
    assert_false(figures.is_persistent);
    assert_true(named_at(rig->set, 1, &figures));
    assert_string_equal(figures.name, "a");
    assert_true(named_at(rig->set, 2, &figures));
    assert_string_equal(figures.name, "Kept.1_x-y");
    assert_int_equal(figures.id, 40);
    assert_int_equal(figures.grain_bits, 12);
    assert_true(figures.is_persistent);
    assert_false(figures.is_enabled || figures.is_busy);
    assert_false(named_at(rig->set, 3, &figures));
    assert_true(named_get(rig->set, 2, &figures));
    assert_string_equal(figures.name, "a");
    assert_false(named_get(rig->set, 3, &figures));
}

static void
test_ranges_are_found_from_any_byte(void **state)
{
    struct Rig *rig = *state;
    uint64_t offset, len, id;

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    id = rig->last_id;
    guest_writes(rig, 5 * GRAIN, 3 * GRAIN);
    assert_true(named_next(rig->set, id, 0, UINT64_MAX, &offset, &len));
    assert_int_equal(offset, 5 * GRAIN);
    assert_int_equal(len, 3 * GRAIN);
    assert_true(named_next(rig->set, id, 6 * GRAIN + 7, 5, &offset, &len));
    assert_int_equal(offset, 6 * GRAIN + 7);
    assert_int_equal(len, 5);
    assert_true(named_next(rig->set, id, 8 * GRAIN - 1, 5, &offset, &len));
    assert_int_equal(len, 1);
    assert_false(named_next(rig->set, id, 8 * GRAIN, 5, &offset, &len));
    assert_false(named_next(rig->set, id, SIZE, 5, &offset, &len));
    assert_false(named_next(rig->set, id, UINT64_MAX, 5, &offset, &len));
    assert_false(named_next(rig->set, id, 0, 0, &offset, &len));
    assert_false(named_next(rig->set, id + 1, 0, 5, &offset, &len));
}

static void
mark_numbers(struct Rig *rig, const char *name, const unsigned *grains)
{
    for (; *grains != UINT32_MAX; grains++) {
        assert_int_equal(named_mark(rig->set, name, *grains * GRAIN, 1),
                         NAMED_OK);
    }
}

static void
test_merge_is_a_union_and_leaves_sources(void **state)
{
    struct Rig *rig = *state;
    const char *sources[] = {"b", "c", "b", "a"};

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(add(rig, "b", 16), NAMED_OK);
    assert_int_equal(add(rig, "c", 16), NAMED_OK);
    mark_numbers(rig, "a", (const unsigned[]){0, 1, 99, UINT32_MAX});
    mark_numbers(rig, "b", (const unsigned[]){1, 2, 63, 64, UINT32_MAX});
    mark_numbers(rig, "c", (const unsigned[]){2, 100, UINT32_MAX});
    assert_int_equal(named_merge(rig->set, "a", sources, 4), NAMED_OK);
    assert_int_equal(count(rig, "a"), 6 * GRAIN + 512);
    assert_int_equal(count(rig, "b"), 4 * GRAIN);
    assert_int_equal(count(rig, "c"), GRAIN + 512);
    assert_int_equal(named_merge(rig->set, "a", sources, 0), NAMED_OK);
}

/* One that cannot be had, and the target is what it was. */
static void
test_merge_is_all_or_nothing(void **state)
{
    struct Rig *rig = *state;
    const char *sources[] = {"b", "c"};
    NamedBitmap *frozen;

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(add(rig, "b", 16), NAMED_OK);
    guest_writes(rig, 0, 5 * GRAIN);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    assert_int_equal(named_merge(rig->set, "a", sources, 2), NAMED_MISSING);
    assert_int_equal(count(rig, "a"), 0);
    assert_int_equal(add(rig, "c", 16), NAMED_OK);
    assert_int_equal(named_freeze(rig->set, "c", &frozen), NAMED_OK);
    assert_int_equal(named_merge(rig->set, "a", sources, 2), NAMED_BUSY);
    assert_int_equal(count(rig, "a"), 0);
    named_thaw(frozen, NAMED_OLD, NULL);
    assert_int_equal(named_merge(rig->set, "a", sources, 2), NAMED_OK);
    assert_int_equal(count(rig, "a"), 5 * GRAIN);
}

/* Every pair of granularities; what a grain touches is dirty, and no more. */
static void
test_merge_widens_other_granularities(void **state)
{
    static const unsigned bits[] = {9, 12, 13, 16, 17, 20, 31};
    static const struct {
        uint64_t offset, len;
    } marks[] = {{0, 1},
                 {3 * GRAIN + 5000, 300},
                 {10 * GRAIN - 1, 2},
                 {30 * GRAIN, 33 * GRAIN},
                 {SIZE - 1, 1}};
    struct Rig *rig = *state;
    const char *fine = "from";

    for (unsigned f = 0; f < 7; f++) {
        for (unsigned t = 0; t < 7; t++) {
            Bitmap *want = bitmap_new(SIZE, bits[t]);
            Bitmap *got, *none;

            assert_int_equal(add(rig, "from", bits[f]), NAMED_OK);
            assert_int_equal(add(rig, "to", bits[t]), NAMED_OK);
            for (unsigned i = 0; i < 5; i++) {
                uint64_t mask = (UINT64_C(1) << bits[f]) - 1;
                uint64_t start = marks[i].offset & ~mask;
                uint64_t end = (marks[i].offset + marks[i].len + mask) & ~mask;

                end = end < SIZE ? end : SIZE;
                assert_int_equal(
                    named_mark(rig->set, "from", marks[i].offset, marks[i].len),
                    NAMED_OK);
                bitmap_set_bytes(want, start, end - start);
            }
            assert_int_equal(named_merge(rig->set, "to", &fine, 1), NAMED_OK);
            assert_int_equal(
                named_copy(rig->set, id_of(rig, "to"), &got, &none), 0);
            assert_null(none);
            bitmap_check(got);
            assert_int_equal(bitmap_count(got), bitmap_count(want));
            assert_int_equal(bitmap_merge(got, want), 0);
            bitmap_free(got);
            bitmap_free(want);
            assert_int_equal(named_remove(rig->set, "from"), NAMED_OK);
            assert_int_equal(named_remove(rig->set, "to"), NAMED_OK);
        }
    }
}

/* Random marks, dense and sparse, over many slices; grain by grain. */
static void
test_merge_equals_the_model(void **state)
{
    static const unsigned bits[][2] = {{9, 9},   {9, 10},  {9, 16}, {16, 9},
                                       {12, 13}, {13, 12}, {9, 31}, {20, 9}};
    const char *from = "from";
    Seed seed = {seed0};

    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t size = (UINT64_C(90) << 20) + seed_below(&seed, 9999);
        struct Rig rig = {.map = disk_map_new(size, 16)};
        Bitmap *want = bitmap_new(size, bits[i][1]);
        Bitmap *had, *got, *none;

        rig.set = named_bitmaps_new(rig.map);
        assert_int_equal(add(&rig, "from", bits[i][0]), NAMED_OK);
        assert_int_equal(add(&rig, "to", bits[i][1]), NAMED_OK);
        for (uint64_t at = 0; at < size;) {
            uint64_t gap = seed_below(&seed, 3) ? 2000 : UINT64_C(1) << 21;
            uint64_t len = 1 + seed_below(&seed, gap);

            len = len < size - at ? len : size - at;
            named_mark(rig.set, "from", at, len);
            at += len + seed_below(&seed, gap);
        }
        assert_int_equal(named_copy(rig.set, 1, &had, &none), 0);
        for (uint64_t g = 0; g < bitmap_clusters(had); g++) {
            uint64_t at = g << bits[i][0];
            uint64_t len = UINT64_C(1) << bits[i][0];

            if (bitmap_get(had, g)) {
                bitmap_set_bytes(want, at, len < size - at ? len : size - at);
            }
        }
        assert_int_equal(named_merge(rig.set, "to", &from, 1), NAMED_OK);
        assert_int_equal(named_copy(rig.set, 2, &got, &none), 0);
        bitmap_check(got);
        assert_int_equal(bitmap_count(got), bitmap_count(want));
        assert_int_equal(bitmap_merge(got, want), 0);
        bitmap_free(had);
        bitmap_free(got);
        bitmap_free(want);
        named_bitmaps_free(rig.set);
        disk_map_free(rig.map);
    }
}

static void
test_growth_is_clean_until_it_is_written(void **state)
{
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_int_equal(add(rig, "off", 16), NAMED_OK);
    assert_int_equal(add(rig, "fine", 9), NAMED_OK);
    assert_int_equal(add(rig, "busy", 9), NAMED_OK);
    guest_writes(rig, SIZE - 1, 1);
    assert_int_equal(named_disable(rig->set, "off"), NAMED_OK);
    assert_int_equal(named_freeze(rig->set, "busy", &frozen), NAMED_OK);
    assert_int_equal(disk_map_grow(rig->map, 1009 * GRAIN, 3), 0);
    assert_int_equal(count(rig, "a"), GRAIN);
    assert_int_equal(count(rig, "off"), GRAIN);
    assert_int_equal(count(rig, "fine"), 512);
    guest_writes(rig, 1008 * GRAIN, GRAIN);
    assert_int_equal(count(rig, "a"), 2 * GRAIN);
    assert_int_equal(count(rig, "off"), GRAIN);
    assert_int_equal(count(rig, "busy"), 512);
    named_thaw(frozen, NAMED_OLD, NULL);
    assert_int_equal(count(rig, "busy"), GRAIN + 512);
    assert_int_equal(named_enable(rig->set, "off"), NAMED_OK);
    guest_writes(rig, 1000 * GRAIN, 1);
    assert_int_equal(count(rig, "off"), 2 * GRAIN);
}

static void
test_versions_say_what_was_changed(void **state)
{
    struct Rig *rig = *state;
    struct NamedFigures first, a, b;
    NamedBitmap *frozen;

    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_true(named_find(rig->set, "a", &first));
    a = first;
    guest_writes(rig, 0, 1);
    assert_true(named_find(rig->set, "a", &b));
    assert_int_equal(a.version, b.version);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    assert_true(named_find(rig->set, "a", &a));
    assert_int_not_equal(a.version, b.version);
    assert_int_equal(named_freeze(rig->set, "a", &frozen), NAMED_OK);
    assert_true(named_find(rig->set, "a", &b));
    assert_int_not_equal(a.version, b.version);
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_true(named_find(rig->set, "a", &a));
    assert_int_not_equal(a.version, b.version);
    assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    assert_int_equal(add(rig, "a", 16), NAMED_OK);
    assert_true(named_find(rig->set, "a", &b));
    assert_int_not_equal(first.version, b.version);
}

/* The figures of a store that was ended and opened again. */
static void
test_what_was_kept_is_there_again(void **state)
{
    struct Rig *rig = *state;
    struct NamedSpec spec = {
        .name = "a", .id = 7, .grain_bits = 9, .is_persistent = true};
    Bitmap *bits = bitmap_new(SIZE - 512, 9);
    Bitmap *none = NULL;
    struct NamedFigures figures;

    bitmap_set_bytes(bits, 1024, 1024);
    assert_int_equal(named_restore(rig->set, &spec, bits, NULL), NAMED_OK);
    assert_true(named_find(rig->set, "a", &figures));
    assert_int_equal(figures.count_bytes, 1024);
    assert_int_equal(figures.id, 7);
    assert_true(figures.is_enabled && figures.is_persistent);
    guest_writes(rig, SIZE - 512, 512);
    assert_int_equal(count(rig, "a"), 1024 + 512);
    bits = bitmap_new(SIZE, 9);
    assert_int_equal(named_restore(rig->set, &spec, bits, NULL), NAMED_EXISTS);
    spec.name = "b";
    assert_int_equal(named_restore(rig->set, &spec, bits, NULL), NAMED_EXISTS);
    spec.id = 8;
    spec.is_disabled = true;
    assert_int_equal(named_restore(rig->set, &spec, bits, NULL), NAMED_OK);
    guest_writes(rig, 0, 4096);
    assert_int_equal(count(rig, "a"), 4096 + 512);
    assert_int_equal(count(rig, "b"), 0);
    assert_int_equal(named_copy(rig->set, 9, &bits, &none), -ENOENT);
    assert_null(bits);
    assert_null(none);
}

/* 64 TiB with grains of 512 bytes: memory only where something is. */
static void
test_fine_grains_of_a_large_disk_are_sparse(void **state)
{
    const uint64_t size = UINT64_C(64) << 40;
    struct Rig rig = {.map = disk_map_new(size, 16)};
    const char *fine = "fine";
    Bitmap *bits, *none;

    (void)state;
    rig.set = named_bitmaps_new(rig.map);
    assert_int_equal(add(&rig, "fine", 9), NAMED_OK);
    assert_int_equal(add(&rig, "common", 16), NAMED_OK);
    for (uint64_t at = 0; at < size; at += UINT64_C(1) << 40) {
        guest_writes(&rig, at + 511, 2);
    }
    guest_writes(&rig, size - 1, 1);
    assert_int_equal(count(&rig, "fine"), 129 * 512);
    assert_int_equal(named_copy(rig.set, id_of(&rig, "fine"), &bits, &none), 0);
    assert_int_equal(bitmap_count(bits), 129);
    bitmap_free(bits);
    assert_int_equal(named_clear(rig.set, "common"), NAMED_OK);
    assert_int_equal(named_merge(rig.set, "common", &fine, 1), NAMED_OK);
    assert_int_equal(count(&rig, "common"), 65 * GRAIN);
    assert_int_equal(named_clear(rig.set, "fine"), NAMED_OK);
    assert_int_equal(count(&rig, "fine"), 0);
    named_bitmaps_free(rig.set);
    disk_map_free(rig.map);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_it_records_while_it_is_enabled),
        T(test_what_is_asked_for_is_refused_with_its_reason),
        T(test_bits_are_marked),
        T(test_there_are_so_many),
        T(test_figures_count_bytes_of_the_disk),
        T(test_all_of_them_are_listed_by_age),
        T(test_ranges_are_found_from_any_byte),
        T(test_merge_is_a_union_and_leaves_sources),
        T(test_merge_is_all_or_nothing),
        T(test_merge_widens_other_granularities),
        T(test_growth_is_clean_until_it_is_written),
        T(test_versions_say_what_was_changed),
        T(test_what_was_kept_is_there_again),
#undef T
        cmocka_unit_test(test_merge_equals_the_model),
        cmocka_unit_test(test_fine_grains_of_a_large_disk_are_sparse),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
