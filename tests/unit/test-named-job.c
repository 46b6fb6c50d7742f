/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-named-job.c - a named bitmap while a job works with it, and afterwards
 *
 * The truth table of bitmap contents: S is what it had, N what is written while
 * the job is at work, R what the job has not copied. And what a transaction
 * takes back.
 */
#define SIZE (1024 * GRAIN)

#include "named-rig.h"

#include <errno.h>
#include <string.h>

static void
add(struct Rig *rig, const char *name, bool is_disabled)
{
    const struct NamedSpec spec = {.name = name,
                                   .id = ++rig->last_id,
                                   .grain_bits = 16,
                                   .is_persistent = true,
                                   .is_disabled = is_disabled};

    assert_int_equal(named_add(rig->set, &spec, NULL), NAMED_OK);
}

static void
guest_writes_grains(struct Rig *rig, unsigned first, unsigned count)
{
    guest_writes(rig, first * GRAIN, count * GRAIN);
}

static NamedBitmap *
freeze(struct Rig *rig, const char *name)
{
    NamedBitmap *frozen = NULL;

    assert_int_equal(named_freeze(rig->set, name, &frozen), NAMED_OK);
    assert_ptr_equal(named_frozen(rig->set, name), frozen);
    return frozen;
}

static unsigned
grains(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;

    assert_true(named_find(rig->set, name, &figures));
    assert_int_equal(figures.count_bytes % GRAIN, 0);
    return (unsigned)(figures.count_bytes / GRAIN);
}

/* Exactly the grains @first .. @first + @n - 1 of what @name has are dirty. */
static bool
has(struct Rig *rig, const char *name, unsigned first, unsigned n)
{
    struct NamedFigures figures;
    uint64_t offset, len;

    assert_true(named_find(rig->set, name, &figures));
    return named_next(rig->set, figures.id, first * GRAIN, n * GRAIN, &offset,
                      &len) &&
           offset == first * GRAIN && len == n * GRAIN;
}

/* S: 0..2, N: 10..14; R: 1..2 and one more in a sealed generation, 500. */
static void
end_as(struct Rig *rig, const char *name, enum NamedEnd end)
{
    DiskMap *job = disk_map_new(SIZE, 16);
    NamedBitmap *frozen;

    add(rig, name, false);
    guest_writes_grains(rig, 0, 3);
    frozen = freeze(rig, name);
    disk_map_mark(job, 500 * GRAIN, 1, 1);
    assert_int_equal(disk_map_seal(job), 1);
    disk_map_mark(job, GRAIN, 2 * GRAIN, 1);
    guest_writes_grains(rig, 10, 5);
    named_thaw(frozen, end, end == NAMED_REST ? job : NULL);
    assert_null(named_frozen(rig->set, name));
    disk_map_free(job);
    guest_writes_grains(rig, 700, 1);
}

static void
test_the_end_leaves_what_the_table_says(void **state)
{
    struct Rig *rig = *state;

    end_as(rig, "new", NAMED_NEW);
    assert_int_equal(grains(rig, "new"), 5 + 1);
    assert_true(has(rig, "new", 10, 5) && has(rig, "new", 700, 1));
    assert_int_equal(named_remove(rig->set, "new"), NAMED_OK);

    end_as(rig, "old", NAMED_OLD);
    assert_int_equal(grains(rig, "old"), 3 + 5 + 1);
    assert_true(has(rig, "old", 0, 3) && has(rig, "old", 10, 5));
    assert_int_equal(named_remove(rig->set, "old"), NAMED_OK);

    end_as(rig, "rest", NAMED_REST);
    assert_int_equal(grains(rig, "rest"), 2 + 1 + 5 + 1);
    assert_true(has(rig, "rest", 1, 2) && has(rig, "rest", 500, 1) &&
                has(rig, "rest", 10, 5) && has(rig, "rest", 700, 1));
}

/* R in grains of the job's own, finer and coarser. */
static void
test_what_is_left_has_other_grains(void **state)
{
    static const struct {
        unsigned bits, want;
    } cases[] = {{12, 2}, {16, 2}, {17, 4}, {21, 64}};
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 4; i++) {
        DiskMap *job = disk_map_new(SIZE, cases[i].bits);
        NamedBitmap *frozen;

        add(rig, "a", false);
        frozen = freeze(rig, "a");
        disk_map_mark(job, 5 * GRAIN + 1, 1, 1);
        disk_map_seal(job);
        disk_map_mark(job, 64 * GRAIN + 1, 1, 1);
        named_thaw(frozen, NAMED_REST, job);
        assert_int_equal(grains(rig, "a"), cases[i].want);
        assert_true(has(rig, "a", 5, 1) && has(rig, "a", 64, 1));
        assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
        disk_map_free(job);
    }
}

static void
test_a_busy_one_is_nobody_elses(void **state)
{
    struct Rig *rig = *state;
    const char *busy = "a", *other = "b";
    NamedBitmap *frozen, *again = NULL;
    struct NamedFigures figures;

    add(rig, "a", false);
    add(rig, "b", false);
    guest_writes_grains(rig, 0, 3);
    frozen = freeze(rig, "a");
    assert_int_equal(named_freeze(rig->set, "a", &again), NAMED_BUSY);
    assert_int_equal(named_freeze(rig->set, "none", &again), NAMED_MISSING);
    assert_null(again);
    assert_int_equal(named_remove(rig->set, "a"), NAMED_BUSY);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_BUSY);
    assert_int_equal(named_enable(rig->set, "a"), NAMED_BUSY);
    assert_int_equal(named_disable(rig->set, "a"), NAMED_BUSY);
    assert_int_equal(named_mark(rig->set, "a", 0, 1), NAMED_BUSY);
    assert_int_equal(named_merge(rig->set, "a", &other, 1), NAMED_BUSY);
    assert_int_equal(named_merge(rig->set, "b", &busy, 1), NAMED_BUSY);
    guest_writes_grains(rig, 20, 6);
    assert_true(named_find(rig->set, "a", &figures));
    assert_true(figures.is_busy);
    assert_true(figures.is_enabled);
    assert_true(figures.is_persistent);
    assert_int_equal(figures.count_bytes, 3 * GRAIN);
    assert_int_equal(figures.new_bytes, 6 * GRAIN);
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
}

static void
test_a_disabled_one_stays_so(void **state)
{
    static const enum NamedEnd ends[] = {NAMED_NEW, NAMED_OLD};
    static const unsigned want[] = {0, 2};
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 2; i++) {
        struct NamedFigures figures;
        NamedBitmap *frozen;

        add(rig, "a", true);
        assert_int_equal(named_mark(rig->set, "a", 0, 2 * GRAIN), NAMED_OK);
        frozen = freeze(rig, "a");
        guest_writes_grains(rig, 5, 1);
        assert_true(named_find(rig->set, "a", &figures));
        assert_true(figures.is_busy);
        assert_false(figures.is_enabled);
        assert_int_equal(figures.new_bytes, 0);
        named_thaw(frozen, ends[i], NULL);
        guest_writes_grains(rig, 6, 1);
        assert_int_equal(grains(rig, "a"), want[i]);
        assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    }
}

/* A write that is under way when the line is drawn is on both sides. */
static void
test_writes_in_flight_cross_the_line(void **state)
{
    struct Rig *rig = *state;
    DiskMap *job = disk_map_new(SIZE, 16);
    RangeHold hold = {.offset = 7 * GRAIN,
                      .len = 1,
                      .kind = RANGE_WRITE,
                      .granted = on_granted};
    NamedBitmap *frozen;
    struct DiskMapFigures figures;

    add(rig, "a", false);
    disk_map_begin(rig->map, &hold, 1);
    frozen = freeze(rig, "a");
    assert_int_equal(grains(rig, "a"), 1);
    disk_map_end(rig->map, &hold, 2);
    named_merge_into(frozen, job, 3);
    disk_map_figures(job, &figures);
    assert_int_equal(figures.dirty_clusters, 1);
    disk_map_begin(rig->map, &hold, 1);
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    disk_map_end(rig->map, &hold, 2);
    assert_true(has(rig, "a", 7, 1));
    disk_map_free(job);
}

/* What the job is to copy: S and N, in its own grains; N stays N. */
static void
test_the_jobs_map_gets_both(void **state)
{
    static const struct {
        unsigned bits;
        uint64_t want;
    } cases[] = {{12, 8 * 16}, {16, 8}, {17, 5}, {21, 2}};
    struct Rig *rig = *state;
    NamedBitmap *frozen;

    add(rig, "a", false);
    guest_writes_grains(rig, 0, 3);
    frozen = freeze(rig, "a");
    guest_writes_grains(rig, 100, 5);
    for (unsigned i = 0; i < 4; i++) {
        DiskMap *job = disk_map_new(SIZE, cases[i].bits);
        struct DiskMapFigures figures;

        named_merge_into(frozen, job, 77);
        disk_map_figures(job, &figures);
        assert_int_equal(figures.dirty_clusters, cases[i].want);
        assert_int_equal(figures.oldest_mark_us, 77);
        disk_map_free(job);
    }
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_int_equal(grains(rig, "a"), 5);
}

/* A mirror that completes: what was written before its last instant is at the
 * target, or if it fails is not forgotten. */
static void
test_renewed_it_forgets_only_on_success(void **state)
{
    static const enum NamedEnd ends[] = {NAMED_NEW, NAMED_OLD};
    static const unsigned want[] = {2, 3 + 5 + 2};
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 2; i++) {
        struct NamedFigures figures;
        NamedBitmap *frozen;

        add(rig, "a", false);
        guest_writes_grains(rig, 0, 3);
        frozen = freeze(rig, "a");
        guest_writes_grains(rig, 100, 5);
        named_renew(frozen);
        guest_writes_grains(rig, 200, 1);
        named_renew(frozen);
        guest_writes_grains(rig, 200, 2);
        assert_true(named_find(rig->set, "a", &figures));
        assert_int_equal(figures.new_bytes, 2 * GRAIN);
        named_thaw(frozen, ends[i], NULL);
        assert_int_equal(grains(rig, "a"), want[i]);
        assert_true(has(rig, "a", 200, 2));
        assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    }
}

/* Killed in the middle of a job: it is the job's again. */
static void
test_a_busy_one_is_restored_as_such(void **state)
{
    struct Rig *rig = *state;
    const struct NamedSpec spec = {.name = "a", .id = 3, .grain_bits = 16};
    const struct NamedSpec off = {
        .name = "off", .id = 4, .grain_bits = 16, .is_disabled = true};
    Bitmap *bits, *later;
    NamedBitmap *frozen;

    add(rig, "a", false);
    guest_writes_grains(rig, 0, 3);
    freeze(rig, "a");
    guest_writes_grains(rig, 100, 5);
    assert_int_equal(named_copy(rig->set, 1, &bits, &later), 0);
    assert_int_equal(bitmap_count(bits), 3);
    assert_int_equal(bitmap_count(later), 5);
    named_bitmaps_free(rig->set);
    rig->set = named_bitmaps_new(rig->map);
    assert_int_equal(named_restore(rig->set, &spec, bits, later), NAMED_OK);
    assert_int_equal(named_restore(rig->set, &off, bitmap_new(SIZE, 16),
                                   bitmap_new(SIZE, 16)),
                     NAMED_OK);
    assert_int_equal(named_clear(rig->set, "a"), NAMED_BUSY);
    guest_writes_grains(rig, 300, 7);
    guest_writes_grains(rig, 400, 1);
    assert_null(named_frozen(rig->set, "none"));
    frozen = named_frozen(rig->set, "a");
    assert_non_null(frozen);
    assert_int_equal(grains(rig, "a"), 3);
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_int_equal(grains(rig, "a"), 5 + 7 + 1);
    named_thaw(named_frozen(rig->set, "off"), NAMED_OLD, NULL);
    assert_int_equal(grains(rig, "off"), 0);
}

static void
test_undo_takes_back_what_was_done(void **state)
{
    struct Rig *rig = *state;
    const char *other = "b";
    NamedUndo *undo;
    struct NamedFigures figures;

    add(rig, "a", false);
    guest_writes_grains(rig, 0, 3);
    add(rig, "b", false);
    guest_writes_grains(rig, 50, 4);
    undo = named_undo_new(rig->set, "a");
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    guest_writes_grains(rig, 100, 1);
    named_undo_run(undo);
    assert_int_equal(grains(rig, "a"), 3 + 4 + 1);

    undo = named_undo_new(rig->set, "b");
    assert_int_equal(named_disable(rig->set, "b"), NAMED_OK);
    guest_writes_grains(rig, 110, 1);
    named_undo_run(undo);
    assert_true(named_find(rig->set, "b", &figures));
    assert_true(figures.is_enabled);
    assert_true(has(rig, "b", 110, 1));

    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    undo = named_undo_new(rig->set, "a");
    assert_int_equal(named_merge(rig->set, "a", &other, 1), NAMED_OK);
    assert_int_equal(disk_map_grow(rig->map, SIZE + GRAIN, 1), 0);
    guest_writes_grains(rig, 1024, 1);
    named_undo_run(undo);
    assert_int_equal(grains(rig, "a"), 1);
    assert_true(has(rig, "a", 1024, 1));
    guest_writes_grains(rig, 1, 1);
    assert_int_equal(grains(rig, "a"), 2);

    /* One that was disabled has missed what was written: it is as it was. */
    assert_int_equal(named_disable(rig->set, "a"), NAMED_OK);
    undo = named_undo_new(rig->set, "a");
    assert_int_equal(named_enable(rig->set, "a"), NAMED_OK);
    guest_writes_grains(rig, 5, 1);
    named_undo_run(undo);
    guest_writes_grains(rig, 6, 1);
    assert_int_equal(grains(rig, "a"), 2);
}

static void
test_undo_of_comings_and_goings(void **state)
{
    struct Rig *rig = *state;
    NamedUndo *removed, *added;
    struct NamedFigures figures;

    add(rig, "a", false);
    add(rig, "b", false);
    guest_writes_grains(rig, 0, 3);
    removed = named_undo_new(rig->set, "a");
    assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    added = named_undo_new(rig->set, "a");
    add(rig, "a", true);
    guest_writes_grains(rig, 100, 1);
    assert_int_equal(named_count(rig->set), 2);
    named_undo_run(added);
    assert_int_equal(named_count(rig->set), 1);
    guest_writes_grains(rig, 101, 1);
    named_undo_run(removed);
    assert_int_equal(named_count(rig->set), 2);
    assert_true(named_at(rig->set, 0, &figures));
    assert_string_equal(figures.name, "a");
    assert_int_equal(figures.id, 1);
    assert_true(figures.is_enabled && figures.is_persistent);
    assert_int_equal(grains(rig, "a"), 5);
    guest_writes_grains(rig, 102, 1);
    assert_int_equal(grains(rig, "a"), 6);
}

/* What others did meanwhile stays. */
static void
test_undo_leaves_what_is_not_its_own(void **state)
{
    struct Rig *rig = *state;
    NamedUndo *undo;
    NamedBitmap *frozen;

    add(rig, "a", false);
    guest_writes_grains(rig, 0, 3);
    undo = named_undo_new(rig->set, "a");
    named_undo_free(undo);
    assert_int_equal(grains(rig, "a"), 3);

    undo = named_undo_new(rig->set, "a");
    assert_int_equal(named_remove(rig->set, "a"), NAMED_OK);
    add(rig, "a", false);
    named_undo_run(undo);
    assert_int_equal(named_count(rig->set), 1);
    assert_int_equal(grains(rig, "a"), 0);

    frozen = freeze(rig, "a");
    undo = named_undo_new(rig->set, "a");
    guest_writes_grains(rig, 0, 1);
    named_undo_run(undo);
    named_thaw(frozen, NAMED_OLD, NULL);
    assert_int_equal(grains(rig, "a"), 1);

    undo = named_undo_new(rig->set, "a");
    assert_int_equal(named_clear(rig->set, "a"), NAMED_OK);
    frozen = freeze(rig, "a");
    named_undo_run(undo);
    named_thaw(frozen, NAMED_OLD, NULL);
    assert_int_equal(grains(rig, "a"), 0);

    undo = named_undo_new(rig->set, "none");
    named_undo_run(undo);
    named_undo_free(NULL);
    assert_int_equal(named_count(rig->set), 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_the_end_leaves_what_the_table_says),
        T(test_what_is_left_has_other_grains),
        T(test_a_busy_one_is_nobody_elses),
        T(test_a_disabled_one_stays_so),
        T(test_writes_in_flight_cross_the_line),
        T(test_the_jobs_map_gets_both),
        T(test_renewed_it_forgets_only_on_success),
        T(test_a_busy_one_is_restored_as_such),
        T(test_undo_takes_back_what_was_done),
        T(test_undo_of_comings_and_goings),
        T(test_undo_leaves_what_is_not_its_own),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
