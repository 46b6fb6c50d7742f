/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-range-table.c - holds, the queue behind them, and nobody forgotten
 *
 * The table of conflicts is written down here a second time, pair by pair.
 * The seeded test keeps its own list of who came when, and after each step
 * asks: does nothing that is held conflict; has every parked hold something in
 * its way, held or parked before it; was every grant told exactly once?
 */
#include "bitmap/range-table.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>

static uint64_t seed0;

struct TestHold {
    RangeHold hold;
    unsigned granted;
    unsigned born;
    bool is_used;
};

static unsigned n_grants;
static RangeHold *last_granted;

static void
on_granted(RangeHold *hold)
{
    assert(!hold->is_parked);
    ((struct TestHold *)hold)->granted++;
    last_granted = hold;
    n_grants++;
}

static struct TestHold
make(enum RangeKind kind, uint64_t offset, uint64_t len)
{
    return (struct TestHold){
        .hold = {
            .offset = offset, .len = len, .kind = kind, .granted = on_granted}};
}

/* In the order of the enum: W R P pin aside. */
static const char *const matrix[RANGE_KINDS] = {
    [RANGE_WRITE] = "-xxxx", [RANGE_RMW] = "xxxxx",   [RANGE_PUNCH] = "xxxxx",
    [RANGE_PIN] = "xxx--",   [RANGE_ASIDE] = "xxx-x",
};

static void
test_pairs_conflict_as_the_table_says(void **state)
{
    (void)state;
    for (unsigned pair = 0; pair < RANGE_KINDS * RANGE_KINDS; pair++) {
        enum RangeKind a = (enum RangeKind)(pair / RANGE_KINDS);
        enum RangeKind b = (enum RangeKind)(pair % RANGE_KINDS);
        RangeTable table = RANGE_TABLE_INIT;
        struct TestHold first = make(a, 100, 50), second = make(b, 149, 1);
        struct TestHold beside = make(b, 150, 50);
        bool conflict = matrix[a][b] == 'x';

        assert_int_equal(matrix[a][b], matrix[b][a]);
        assert_true(range_table_take(&table, &first.hold));
        assert_true(range_table_has(&table, a, 0, 101));
        assert_false(range_table_has(&table, a, 0, 100));
        assert_int_equal(range_table_take(&table, &second.hold), !conflict);
        assert_true(range_table_take(&table, &beside.hold));
        assert_int_equal(second.hold.is_parked, conflict);
        range_table_drop(&table, &first.hold);
        assert_int_equal(second.granted, conflict);
        assert_true(range_table_has(&table, b, 149, 1));
        range_table_drop(&table, &second.hold);
        range_table_drop(&table, &beside.hold);
        assert_null(table.held);
        assert_null(table.parked);
    }
}

static void
test_writers_are_the_kinds_that_change_bytes(void **state)
{
    (void)state;
    assert_true(range_kind_writes(RANGE_WRITE));
    assert_true(range_kind_writes(RANGE_RMW));
    assert_true(range_kind_writes(RANGE_PUNCH));
    assert_false(range_kind_writes(RANGE_PIN));
    assert_false(range_kind_writes(RANGE_ASIDE));
}

static void
test_parked_hold_is_not_overtaken(void **state)
{
    RangeTable table = RANGE_TABLE_INIT;
    struct TestHold write = make(RANGE_WRITE, 0, 10);
    struct TestHold rmw = make(RANGE_RMW, 5, 10);
    struct TestHold late = make(RANGE_WRITE, 12, 10);
    struct TestHold aside = make(RANGE_WRITE, 30, 10);

    (void)state;
    assert_true(range_table_take(&table, &write.hold));
    assert_false(range_table_take(&table, &rmw.hold));
    /* Free bytes, but the one before it waits for some of them. */
    assert_false(range_table_take(&table, &late.hold));
    assert_true(range_table_take(&table, &aside.hold));
    assert_int_equal(table.n_parked, 2);
    range_table_drop(&table, &write.hold);
    assert_int_equal(rmw.granted, 1);
    assert_int_equal(late.granted, 0);
    range_table_drop(&table, &rmw.hold);
    assert_int_equal(late.granted, 1);
    range_table_drop(&table, &late.hold);
    range_table_drop(&table, &aside.hold);
    assert_int_equal(table.n_held[RANGE_WRITE], 0);
}

static void
test_one_drop_grants_all_that_fit_oldest_first(void **state)
{
    RangeTable table = RANGE_TABLE_INIT;
    struct TestHold pin = make(RANGE_PIN, 0, 100);
    struct TestHold w[3] = {make(RANGE_WRITE, 0, 10), make(RANGE_WRITE, 5, 10),
                            make(RANGE_WRITE, 90, 10)};
    struct TestHold punch = make(RANGE_PUNCH, 8, 90);

    (void)state;
    assert_true(range_table_take(&table, &pin.hold));
    assert_false(range_table_take(&table, &w[0].hold));
    assert_false(range_table_take(&table, &w[1].hold));
    assert_false(range_table_take(&table, &punch.hold));
    assert_false(range_table_take(&table, &w[2].hold));
    range_table_drop(&table, &pin.hold);
    assert_int_equal(w[0].granted + w[1].granted, 2);
    assert_int_equal(punch.granted + w[2].granted, 0);
    assert_ptr_equal(last_granted, &w[1].hold);
    range_table_drop(&table, &w[0].hold);
    range_table_drop(&table, &w[1].hold);
    assert_int_equal(punch.granted, 1);
    range_table_drop(&table, &punch.hold);
    assert_int_equal(w[2].granted, 1);
}

static void
test_parked_hold_that_leaves_makes_way(void **state)
{
    RangeTable table = RANGE_TABLE_INIT;
    struct TestHold write = make(RANGE_WRITE, 0, 10);
    struct TestHold rmw = make(RANGE_RMW, 0, 20);
    struct TestHold late = make(RANGE_WRITE, 15, 1);

    (void)state;
    assert_true(range_table_take(&table, &write.hold));
    assert_false(range_table_take(&table, &rmw.hold));
    assert_false(range_table_take(&table, &late.hold));
    range_table_drop(&table, &rmw.hold);
    assert_int_equal(rmw.granted, 0);
    assert_int_equal(late.granted, 1);
    assert_int_equal(table.n_parked, 0);
}

static RangeHold *hooked;

static void
on_grant(RangeTable *table, RangeHold *hold)
{
    assert(table->n_held[hold->kind] > 0);
    assert(!((struct TestHold *)hold)->granted);
    hooked = hold;
}

static void
test_owner_hears_of_a_grant_before_the_hold_does(void **state)
{
    RangeTable table = RANGE_TABLE_INIT;
    struct TestHold pin = make(RANGE_PIN, 0, 10);
    struct TestHold write = make(RANGE_WRITE, 0, 10);

    (void)state;
    table.on_grant = on_grant;
    assert_true(range_table_take(&table, &pin.hold));
    assert_null(hooked);
    assert_false(range_table_take(&table, &write.hold));
    range_table_drop(&table, &pin.hold);
    assert_ptr_equal(hooked, &write.hold);
    assert_int_equal(write.granted, 1);
}

#define HOLDS 40

static bool
conflict(const RangeHold *a, const RangeHold *b)
{
    return matrix[a->kind][b->kind] == 'x' && a->len && b->len &&
           a->offset < b->offset + b->len && b->offset < a->offset + a->len;
}

static void
check(const RangeTable *table, const struct TestHold *holds)
{
    unsigned held = 0, parked = 0, counted = 0;

    for (unsigned i = 0; i < HOLDS; i++) {
        const struct TestHold *a = &holds[i];
        bool has_reason = false;

        if (!a->is_used) {
            continue;
        }
        held += !a->hold.is_parked;
        parked += a->hold.is_parked;
        assert_true(a->granted <= 1);
        for (unsigned j = 0; j < HOLDS; j++) {
            const struct TestHold *b = &holds[j];

            if (i == j || !b->is_used || !conflict(&a->hold, &b->hold)) {
                continue;
            }
            assert_true(a->hold.is_parked || b->hold.is_parked);
            has_reason |= !b->hold.is_parked || b->born < a->born;
        }
        assert_true(!a->hold.is_parked || has_reason);
    }
    for (unsigned k = 0; k < RANGE_KINDS; k++) {
        counted += table->n_held[k];
    }
    assert_int_equal(counted, held);
    assert_int_equal(table->n_parked, parked);
}

static void
test_seeded_steps_keep_every_promise(void **state)
{
    struct TestHold holds[HOLDS];
    RangeTable table = RANGE_TABLE_INIT;
    Seed seed = {seed0};
    unsigned parked = 0;

    (void)state;
    memset(holds, 0, sizeof(holds));
    n_grants = 0;
    for (unsigned step = 1; step < 30000; step++) {
        struct TestHold *t = &holds[seed_below(&seed, HOLDS)];

        if (t->is_used) {
            parked -= t->hold.is_parked;
            t->is_used = false;
            range_table_drop(&table, &t->hold);
        } else {
            *t = make((enum RangeKind)seed_below(&seed, RANGE_KINDS),
                      seed_below(&seed, 300), seed_below(&seed, 20));
            t->is_used = true;
            t->born = step;
            parked += !range_table_take(&table, &t->hold);
        }
        check(&table, holds);
        assert_int_equal(parked - n_grants, table.n_parked);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs_conflict_as_the_table_says),
        cmocka_unit_test(test_writers_are_the_kinds_that_change_bytes),
        cmocka_unit_test(test_parked_hold_is_not_overtaken),
        cmocka_unit_test(test_one_drop_grants_all_that_fit_oldest_first),
        cmocka_unit_test(test_parked_hold_that_leaves_makes_way),
        cmocka_unit_test(test_owner_hears_of_a_grant_before_the_hold_does),
        cmocka_unit_test(test_seeded_steps_keep_every_promise),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
