/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps-faults.c - named bitmaps when calls fail
 *
 * The n-th of the work, for each n. After a crash it is as before or as behind
 * it; with the marks of the guest in any case, those of before the next
 * checkpoint that succeeds, and those of after it.
 */
#include "bitmaps-rig.h"

#include <errno.h>

struct FaultCase {
    bool (*work)(struct Rig *rig);
    void (*judge)(struct Rig *rig, bool is_done);
    bool is_served;
    int error;
    bool is_sticky, is_torn;
};

static unsigned
strike(const struct FaultCase *fault, unsigned n)
{
    bool is_done;
    struct Rig *rig;
    void *state;
    unsigned failed;

    rig_setup(&state);
    rig = state;
    rig_make(rig);
    if (!fault->is_served) {
        rig_again(rig, true);
    }
    fault_io_arm(&rig->fault, n, fault->is_sticky, fault->error);
    rig->fault.is_torn = fault->is_torn;
    is_done = fault->work(rig);
    failed = fault_io_disarm(&rig->fault);
    assert_true(is_done || failed);
    if (fault->is_served && n % 3) {
        bool is_there = rig_count(rig, "b") != UINT64_MAX;

        rig_write(rig, 5 * EXTENT, 1);
        if (n % 3 == 1) {
            rig_cool(rig);
            rig_cool(rig);
        }
        rig_again(rig, false);
        if (is_there && rig_count(rig, "b") != UINT64_MAX) {
            assert_true(rig_is_dirty(rig, "b", 5 * EXTENT, 512) ||
                        rig_figures(rig, "b").new_bytes);
        }
        /* A checkpoint has what the command's failure has left in memory. */
        assert_true(n % 3 != 1 ||
                    is_there == (rig_count(rig, "b") != UINT64_MAX));
    } else {
        rig_again(rig, false);
    }
    fault->judge(rig, is_done);
    if (rig_count(rig, "b") != UINT64_MAX) {
        assert_true(rig_clear(rig, "b")); /* it can be used */
    }
    rig_teardown(&state);
    return failed;
}

static void
walk(bool (*work)(struct Rig *rig), void (*judge)(struct Rig *rig, bool))
{
    for (unsigned round = 1; round < 5; round++) {
        struct FaultCase fault = {
            .work = work,
            .judge = judge,
            .is_served = round & 1,
            .error = round & 2 ? -ENOSPC : -EIO,
            .is_sticky = round & 2,
            .is_torn = round & 4,
        };

        for (unsigned n = 1; strike(&fault, n); n++) {
        }
    }
}

static bool
work_add(struct Rig *rig)
{
    return rig_add(rig, "new", 12);
}

static void
judge_add(struct Rig *rig, bool is_done)
{
    uint64_t count = rig_count(rig, "new");

    assert_true(!is_done || count != UINT64_MAX);
    assert_true(rig_is_dirty(rig, "b", 3 * EXTENT, 512));
    assert_true(rig_has_only(rig, "still", CLUSTER));
}

static void
test_add_with_faults(void **state)
{
    (void)state;
    walk(work_add, judge_add);
}

static bool
work_remove(struct Rig *rig)
{
    return store_bitmap_remove(rig->store, rig->disk, "b", NULL);
}

static void
judge_remove(struct Rig *rig, bool is_done)
{
    assert_true(!is_done || rig_count(rig, "b") == UINT64_MAX);
    assert_true(rig_count(rig, "b") == UINT64_MAX ||
                rig_is_dirty(rig, "b", 3 * EXTENT, 512));
    assert_true(rig_has_only(rig, "still", CLUSTER));
}

static void
test_remove_with_faults(void **state)
{
    (void)state;
    walk(work_remove, judge_remove);
}

static bool
work_clear(struct Rig *rig)
{
    return rig_clear(rig, "b");
}

static void
judge_clear(struct Rig *rig, bool is_done)
{
    assert_true(rig_count(rig, "b") != UINT64_MAX);
    assert_true(!is_done || !rig_is_dirty(rig, "b", 3 * EXTENT, 512));
    assert_true(rig_has_only(rig, "still", CLUSTER));
}

static void
test_clear_with_faults(void **state)
{
    (void)state;
    walk(work_clear, judge_clear);
}

static bool
work_merge(struct Rig *rig)
{
    const char *const sources[] = {"b"};

    return store_bitmap_clear(rig->store, rig->disk, "still", NULL) &&
           store_bitmap_merge(rig->store, rig->disk, "still", sources, 1, NULL);
}

static void
judge_merge(struct Rig *rig, bool is_done)
{
    assert_true(rig_is_dirty(rig, "b", 3 * EXTENT, 512));
    assert_true(rig_has_only(rig, "still", CLUSTER) ||
                (!is_done && rig_has_only(rig, "still", 0)));
}

static void
test_merge_with_faults(void **state)
{
    (void)state;
    walk(work_merge, judge_merge);
}

/* Two places far apart, in other grains: both of them or none. */
static bool
work_import(struct Rig *rig)
{
    Bitmap *bits = bitmap_new(rig->disk->size_bytes, 12);
    bool is_done;

    assert_non_null(bits);
    (void)bitmap_set_bytes(bits, 8 * EXTENT, CLUSTER);
    (void)bitmap_set_bytes(bits, 14 * EXTENT, CLUSTER);
    is_done = store_bitmap_import(rig->store, rig->disk, "still", bits, NULL);
    bitmap_free(bits);
    assert_int_equal(rig_count(rig, "still"), is_done ? 3 * CLUSTER : CLUSTER);
    return is_done;
}

static void
judge_import(struct Rig *rig, bool is_done)
{
    bool has_first = rig_is_dirty(rig, "still", 8 * EXTENT, CLUSTER);

    assert_int_equal(rig_is_dirty(rig, "still", 14 * EXTENT, CLUSTER),
                     has_first);
    assert_true(has_first || !is_done);
    assert_true(rig_is_dirty(rig, "still", 3 * EXTENT, 512));
}

static void
test_import_with_faults(void **state)
{
    (void)state;
    walk(work_import, judge_import);
}

/* Still is empty; from here on calls fail. */
static void
begin_transaction(struct Rig *rig)
{
    unsigned n = rig->fault.fail_at;
    bool is_sticky = rig->fault.is_sticky;
    int error = rig->fault.error;

    (void)fault_io_disarm(&rig->fault);
    assert_true(rig_clear(rig, "still"));
    fault_io_arm(&rig->fault, n, is_sticky, error);
}

/* What only a save of them all keeps whole: still |= b, then b is cleared. */
static bool
work_transaction(struct Rig *rig)
{
    const char *const sources[] = {"b"};

    begin_transaction(rig);
    NamedUndo *undo[2] = {named_undo_new(rig->disk->bitmaps, "still"),
                          named_undo_new(rig->disk->bitmaps, "b")};
    bool is_done;

    named_merge(rig->disk->bitmaps, "still", sources, 1);
    named_clear(rig->disk->bitmaps, "b");
    is_done = rig_save(rig);
    for (unsigned i = 2; i-- > 0;) {
        if (is_done) {
            named_undo_free(undo[i]);
        } else {
            named_undo_run(undo[i]);
        }
    }
    return is_done;
}

static void
judge_transaction(struct Rig *rig, bool is_done)
{
    assert_true(rig_is_dirty(rig, "still", 3 * EXTENT, 512) ||
                (!is_done && rig_is_dirty(rig, "b", 3 * EXTENT, 512)));
    assert_true(!is_done || !rig_is_dirty(rig, "b", 3 * EXTENT, 512));
}

static void
test_transaction_with_faults(void **state)
{
    (void)state;
    walk(work_transaction, judge_transaction);
}

/* A job's begin, writes, and its end, which fails. */
static bool
work_job(struct Rig *rig)
{
    NamedBitmap *frozen;
    bool is_done;

    assert_int_equal(named_freeze(rig->disk->bitmaps, "b", &frozen), NAMED_OK);
    is_done = rig_save(rig);
    if (rig->store->is_served) {
        rig_write(rig, 7 * EXTENT, 1);
    }
    named_thaw(frozen, rig->fault.fail_at % 2 ? NAMED_OLD : NAMED_NEW, NULL);
    return rig_save(rig) && is_done;
}

static void
judge_job(struct Rig *rig, bool is_done)
{
    struct NamedFigures figures;

    assert_true(named_find(rig->disk->bitmaps, "b", &figures));
    assert_true(!is_done || !figures.is_busy);
    if (figures.is_busy) {
        assert_true(rig_is_dirty(rig, "b", 3 * EXTENT, 512));
        named_thaw(named_frozen(rig->disk->bitmaps, "b"), NAMED_OLD, NULL);
        assert_true(rig_save(rig));
    }
}

static void
test_job_with_faults(void **state)
{
    (void)state;
    walk(work_job, judge_job);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_with_faults),
        cmocka_unit_test(test_remove_with_faults),
        cmocka_unit_test(test_clear_with_faults),
        cmocka_unit_test(test_merge_with_faults),
        cmocka_unit_test(test_import_with_faults),
        cmocka_unit_test(test_transaction_with_faults),
        cmocka_unit_test(test_job_with_faults),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
