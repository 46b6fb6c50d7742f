/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-awake.c - the fs thread looks on while that finds something
 *
 * The thread's rounds are played here: one every microsecond of a clock of ours
 * while it is awake, and a sleep that ends when the next thing to do is there.
 */
#include "fs/face-awake.h"
#include "tests/lib/test.h"

#define POLL_US 50

struct Life {
    FaceAwake awake;
    int64_t now_us;
    int64_t looked_us; /* awake, with nothing to do */
    unsigned sleeps;
};

/* It has just done something; the next thing comes in @wait_us. */
static void
wait_for_work(struct Life *life, int64_t wait_us)
{
    int64_t then_us = life->now_us + wait_us;
    bool has_worked = true;

    while (face_awake(&life->awake, life->now_us, has_worked)) {
        has_worked = false;
        life->now_us++;
        life->looked_us++;
        if (life->now_us == then_us) {
            return;
        }
    }
    face_awake_sleeps(&life->awake);
    life->sleeps++;
    life->now_us = then_us;
}

static void
wait_often(struct Life *life, unsigned times, int64_t wait_us)
{
    life->looked_us = 0;
    life->sleeps = 0;
    for (unsigned i = 0; i < times; i++) {
        wait_for_work(life, wait_us);
    }
}

static void
test_what_comes_soon_is_not_slept_for(void **state)
{
    struct Life life = {.awake.poll_us = POLL_US};

    (void)state;
    wait_often(&life, 1, 1000000); /* so it begins: with a sleep */
    wait_often(&life, 100, POLL_US - 1);
    assert_int_equal(life.sleeps, 1); /* the nap after that */
}

static void
test_looks_in_vain_become_rare(void **state)
{
    struct Life life = {.awake.poll_us = POLL_US};

    (void)state;
    wait_often(&life, 1000, POLL_US + 30);
    assert_int_equal(life.sleeps, 1000);
    /* After 1, 3, 7, ... 63 naps, and then every 64th time. */
    assert_in_range(life.looked_us, 15 * POLL_US, 22 * POLL_US);
    /* One that finds something is enough. */
    wait_often(&life, 64, 20);
    assert_in_range(life.sleeps, 0, 63);
    wait_often(&life, 100, 20);
    assert_int_equal(life.sleeps, 0);
}

static void
test_now_and_then_a_long_wait_costs_one_nap(void **state)
{
    struct Life life = {.awake.poll_us = POLL_US};

    (void)state;
    wait_often(&life, 10, 20);
    for (unsigned i = 0; i < 10; i++) {
        wait_often(&life, 1, 5000);
        assert_int_equal(life.sleeps, 1);
        assert_int_equal(life.looked_us, POLL_US);
        wait_often(&life, 10, 20);
        assert_int_equal(life.sleeps, 1);
    }
}

static void
test_without_looks_it_sleeps(void **state)
{
    struct Life life = {.awake.poll_us = 0};

    (void)state;
    wait_often(&life, 100, 1);
    assert_int_equal(life.sleeps, 100);
    assert_int_equal(life.looked_us, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_comes_soon_is_not_slept_for),
        cmocka_unit_test(test_looks_in_vain_become_rare),
        cmocka_unit_test(test_now_and_then_a_long_wait_costs_one_nap),
        cmocka_unit_test(test_without_looks_it_sleeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
