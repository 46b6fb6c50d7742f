/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle of cuts, on images that are made by hand: what is an instant is
 * taken as one, and each way not to be one is seen.
 */
#include "tests/lib/test.h"

#include "history.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/stamp.h"

#define SECTORS 8

struct Fixture {
    History history;
    uint8_t *images[2];
    char why[512];
};

static int
setup(void **state)
{
    struct Fixture *fix = calloc(1, sizeof(*fix));

    history_init(&fix->history);
    for (unsigned i = 0; i < 2; i++) {
        history_add_disk(&fix->history, i + 1, SECTORS * STAMP_SECTOR);
        fix->images[i] = calloc(SECTORS, STAMP_SECTOR);
    }
    *state = fix;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *fix = *state;

    history_deinit(&fix->history);
    free(fix->images[0]);
    free(fix->images[1]);
    free(fix);
    return 0;
}

static uint64_t
sent(struct Fixture *fix, unsigned disk, uint64_t sector)
{
    return history_send(&fix->history, disk, sector, 1, false);
}

static uint64_t
written(struct Fixture *fix, unsigned disk, uint64_t sector)
{
    uint64_t sequence = sent(fix, disk, sector);

    history_answer(&fix->history, sequence);
    return sequence;
}

static void
discarded(struct Fixture *fix, unsigned disk, uint64_t sector)
{
    history_answer(&fix->history,
                   history_send(&fix->history, disk, sector, 1, true));
}

static void
show(struct Fixture *fix, unsigned disk, uint64_t sector, uint64_t sequence)
{
    stamp_fill(fix->images[disk] + sector * STAMP_SECTOR, disk + 1, sector,
               sequence);
}

static bool
is_instant(struct Fixture *fix, uint64_t begin, uint64_t end)
{
    return history_judge(&fix->history, fix->images, begin, end, fix->why,
                         sizeof(fix->why));
}

/* At once: nothing is sent meanwhile. */
static bool
is_now(struct Fixture *fix)
{
    uint64_t begin = history_now(&fix->history);

    return is_instant(fix, begin, history_now(&fix->history));
}

static void
assert_seen(struct Fixture *fix, const char *what)
{
    assert_false(is_now(fix));
    assert_non_null(strstr(fix->why, what));
}

static void
test_answered_is_in(void **state)
{
    struct Fixture *fix = *state;

    show(fix, 0, 3, written(fix, 0, 3));
    show(fix, 1, 3, written(fix, 1, 3));
    assert_true(is_now(fix));
    written(fix, 1, 3);
    assert_seen(fix, "older write");
}

static void
test_answered_zeroes_are_in(void **state)
{
    struct Fixture *fix = *state;

    show(fix, 0, 3, written(fix, 0, 3));
    discarded(fix, 0, 3);
    assert_seen(fix, "older write");
    memset(fix->images[0], 0, SECTORS * STAMP_SECTOR);
    assert_true(is_now(fix));
    written(fix, 0, 3);
    assert_seen(fix, "zeroes");
}

static void
test_in_flight_is_in_or_out(void **state)
{
    struct Fixture *fix = *state;
    uint64_t first = sent(fix, 0, 1), second = sent(fix, 1, 1);

    show(fix, 1, 1, second);
    assert_true(is_now(fix)); /* one is in, one is out */
    show(fix, 0, 1, first);
    assert_true(is_now(fix));
    memset(fix->images[1], 0, SECTORS * STAMP_SECTOR);
    assert_seen(fix, "zeroes"); /* once in, in for ever */
}

static void
test_later_is_seen(void **state)
{
    struct Fixture *fix = *state;
    uint64_t begin = history_now(&fix->history);
    uint64_t end = history_now(&fix->history);

    show(fix, 0, 7, written(fix, 0, 7));
    assert_false(is_instant(fix, begin, end));
    assert_non_null(strstr(fix->why, "sent after the cut"));
}

static void
test_earlier_than_last_is_seen(void **state)
{
    struct Fixture *fix = *state;
    uint64_t old = written(fix, 0, 7);

    show(fix, 0, 7, written(fix, 0, 7));
    assert_true(is_now(fix));
    show(fix, 0, 7, old);
    assert_seen(fix, "before the last cut");
}

/* All of it within the cut's time, so that only the order tells. */
static void
test_order_is_kept(void **state)
{
    struct Fixture *fix = *state;
    uint64_t begin = history_now(&fix->history);
    uint64_t first = written(fix, 0, 2), then = sent(fix, 1, 5);
    uint64_t end = history_now(&fix->history);

    assert_true(is_instant(fix, begin, end)); /* neither */
    show(fix, 1, 5, then);
    assert_false(is_instant(fix, begin, end));
    assert_non_null(strstr(fix->why, "no instant"));
    show(fix, 0, 2, first);
    assert_true(is_instant(fix, begin, end));
}

/* The same with a discard that comes first. */
static void
test_order_of_zeroes_is_kept(void **state)
{
    struct Fixture *fix = *state;

    show(fix, 0, 2, written(fix, 0, 2));
    assert_true(is_now(fix));
    uint64_t begin = history_now(&fix->history);
    discarded(fix, 0, 2);
    show(fix, 1, 5, sent(fix, 1, 5));
    assert_false(is_instant(fix, begin, history_now(&fix->history)));
    assert_non_null(strstr(fix->why, "no instant"));
}

/* Zeroes before and after a write: either may be what is seen. */
static void
test_zeroes_may_be_anyones(void **state)
{
    struct Fixture *fix = *state;
    uint64_t begin = history_now(&fix->history);

    written(fix, 0, 2);
    discarded(fix, 0, 2);
    show(fix, 1, 5, written(fix, 1, 5));
    assert_true(is_instant(fix, begin, history_now(&fix->history)));
}

static void
test_garbage_is_seen(void **state)
{
    struct Fixture *fix = *state;
    uint64_t sequence = written(fix, 0, 2);

    show(fix, 0, 2, sequence);
    fix->images[0][2 * STAMP_SECTOR + 77] ^= 1;
    assert_seen(fix, "torn");
    stamp_fill(fix->images[0] + 2 * STAMP_SECTOR, 2, 2, sequence);
    assert_seen(fix, "misplaced");
    stamp_fill(fix->images[0] + 2 * STAMP_SECTOR, 1, 3, sequence);
    assert_seen(fix, "misplaced");
    memset(fix->images[0] + 2 * STAMP_SECTOR, 7, STAMP_SECTOR);
    assert_seen(fix, "garbage");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_answered_is_in),
        TEST(test_answered_zeroes_are_in),
        TEST(test_in_flight_is_in_or_out),
        TEST(test_later_is_seen),
        TEST(test_earlier_than_last_is_seen),
        TEST(test_order_is_kept),
        TEST(test_order_of_zeroes_is_kept),
        TEST(test_zeroes_may_be_anyones),
        TEST(test_garbage_is_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
