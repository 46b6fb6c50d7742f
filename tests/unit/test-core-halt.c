/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-halt.c - the core of a job stands at an error, with no more in flight
 * than its window says
 */
#include "core-job-rig.h"

static struct {
    enum RelayActionKind kind; /* of which ... */
    unsigned nth;              /* ... this one fails, from 1 on; 0: none */
    int error;
    unsigned seen;
} bad;

static bool
fails(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_FAILED, .error = bad.error};

    if (action->kind != bad.kind || ++bad.seen != bad.nth) {
        return false;
    }
    event.kind = bad.kind == RELAY_LOAD         ? RELAY_READ_FAILED
                 : bad.kind == RELAY_SEND_FLUSH ? RELAY_FLUSH_FAILED
                                                : RELAY_FAILED;
    snprintf(event.text, sizeof(event.text), "no luck");
    reply(rig, action, event);
    return true;
}

static void
start_failing(struct Rig *rig, enum RelayActionKind kind, unsigned nth,
              int error)
{
    bad.kind = kind;
    bad.nth = nth;
    bad.error = error;
    bad.seen = 0;
    rig->bend = fails;
    rig->n_seen = 0;
    start_job(rig);
}

/* It stands, for however long; then it goes on and is done. */
static void
assert_halts_and_proceeds(struct Rig *rig, bool is_read, int error)
{
    size_t n, loads;

    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.is_read, is_read);
    assert_int_equal(figures(rig).halt.error, error);
    assert_int_equal(figures(rig).halt.count, 1);
    n = written(rig);
    loads = seen(rig, RELAY_LOAD);
    pass_time(rig, 1000 * SECOND);
    assert_int_equal(written(rig), n);
    assert_int_equal(seen(rig, RELAY_LOAD), loads);
    assert_true(dirty(rig) > 0);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);

    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_false(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.count, 1);
    assert_int_equal(dirty(rig), 0);
}

static void
test_job_halts_at_an_error_of_the_target(void **state)
{
    static const enum RelayActionKind kinds[] = {
        RELAY_SEND_DATA, RELAY_SEND_FLUSH, RELAY_SEND_ZERO, RELAY_SEND_TRIM};
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 4; i++) {
        rig->hole_from = i < 2 ? SIZE : 0;
        rig->target_is_zero = false;
        rig->caps.can_zero = kinds[i] != RELAY_SEND_TRIM;
        rig->caps.can_trim = true;
        write_clusters(rig, 0, 8);
        start_failing(rig, kinds[i], 1, ENOSPC);
        assert_halts_and_proceeds(rig, false, ENOSPC);
    }
}

static void
test_job_halts_at_an_error_of_the_local_disk(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_LOAD, 1, EIO);
    assert_halts_and_proceeds(rig, true, EIO);
}

static void
test_job_halts_at_each_error_anew(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 4); /* one op */
    start_failing(rig, RELAY_SEND_DATA, 1, EIO);
    for (unsigned i = 2; i < 10; i++) {
        bad.nth = bad.seen + 1;
        relay_core_proceed(rig->core);
        pass_time(rig, SECOND);
        assert_true(figures(rig).halt.is_halted);
        assert_int_equal(figures(rig).halt.count, i);
        assert_int_equal(seen(rig, RELAY_SEND_DATA), i);
    }
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* There is another way, or another time; none of it is its owner's to judge. */
static void
test_job_does_not_halt_where_it_can_help_itself(void **state)
{
    struct Rig *rig = *state;

    rig->hole_from = 0;
    rig->target_is_zero = false;
    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_STATUS, 1, EIO);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_ZERO, 1, EOPNOTSUPP);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_ZERO, 0, 0);
    lose(rig);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    rig->hole_from = SIZE;
    rig->config.halts = false;
    start_failing(rig, RELAY_SEND_DATA, 1, EIO);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);
}

/* Zeroes among data, at a target that has no WRITE_ZEROES after all. */
static bool
loads_zeroes_and_fails(struct Rig *rig, const struct RelayAction *action)
{
    return loads_zeroes(rig, action) || fails(rig, action);
}

static void
test_job_sends_zeroes_as_data_if_it_has_to(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 2);
    bad.kind = RELAY_SEND_ZERO;
    bad.nth = 1;
    bad.seen = 0;
    bad.error = EOPNOTSUPP;
    rig->bend = loads_zeroes_and_fails;
    start_job(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 1);
    assert_int_equal(dirty(rig), 0);
}

/* It would not do with data either. */
static bool
refuses_all(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {
        .kind = RELAY_FAILED, .error = EINVAL, .text = "no luck"};

    if (loads_zeroes(rig, action)) {
        return true;
    }
    if (action->kind != RELAY_SEND_DATA && action->kind != RELAY_SEND_ZERO &&
        action->kind != RELAY_SEND_TRIM) {
        return false;
    }
    reply(rig, action, event);
    return true;
}

static void
test_job_halts_at_a_target_that_refuses_all(void **state)
{
    struct Rig *rig = *state;

    rig->target_is_zero = false;
    rig->bend = refuses_all;
    for (unsigned i = 0; i < 4; i++) {
        rig->hole_from = i % 2 ? 0 : SIZE;
        rig->caps.can_trim = i / 2;
        rig->n_seen = 0;
        write_clusters(rig, 0, 2);
        start_job(rig);
        pass_time(rig, 10 * SECOND);
        assert_true(figures(rig).halt.is_halted);
        assert_int_equal(figures(rig).halt.error, EINVAL);
        assert_true(seen(rig, RELAY_SEND_ZERO) > 0);
    }
}

/* What was sent before ends, and counts; what was read before is not sent. */
static struct RelayAction held[64];
static unsigned n_held;

static bool
hold_back(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    if (action->kind != RELAY_SEND_DATA && action->kind != RELAY_LOAD) {
        return false;
    }
    assert_true(n_held < sizeof(held) / sizeof(*held));
    held[n_held++] = *action;
    return true;
}

static void
test_job_lets_end_what_is_in_flight(void **state)
{
    struct Rig *rig = *state;
    struct RelayAction loads[8], sends[2];

    n_held = 0;
    rig->config.window_bytes = 4 * CLUSTER; /* an op has one cluster then */
    rig->bend = hold_back;
    write_clusters(rig, 0, 8);
    start_job(rig);
    assert_int_equal(n_held, 4);
    memcpy(loads, held, sizeof(loads));
    n_held = 0;
    answer(rig, &loads[0]);
    answer(rig, &loads[1]);
    pass_time(rig, SECOND / 10);
    assert_int_equal(n_held, 2);
    memcpy(sends, held, sizeof(sends));
    assert_int_equal(sends[0].kind, RELAY_SEND_DATA);
    n_held = 0;
    reply(rig, &sends[0],
          (struct RelayEvent){.kind = RELAY_FAILED, .error = EIO});
    answer(rig, &sends[1]);
    answer(rig, &loads[2]);
    answer(rig, &loads[3]);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(n_held, 0);
    assert_int_equal(figures(rig).settled_bytes, CLUSTER);
    assert_int_equal(dirty(rig), 7);

    rig->bend = NULL;
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).halt.count, 1);
}

/*
 * The window
 */
/* Of all that is asked and not answered. */
static bool
is_alone(struct Rig *rig, const struct RelayAction *action)
{
    assert_true(figures(rig).inflight_bytes <= CLUSTER);
    assert_true(figures(rig).unanswered <= 1);
    if (action->kind != RELAY_MAP) {
        return false;
    }
    reply(rig, action, /* two and two */
          (struct RelayEvent){.kind = RELAY_MAPPED,
                              .is_hole = action->offset / CLUSTER % 4 > 1,
                              .len = 2 * CLUSTER -
                                     action->offset % (2 * CLUSTER)});
    return true;
}

static void
test_job_with_a_window_of_one_does_one_thing_at_a_time(void **state)
{
    struct Rig *rig = *state;
    uint64_t at = 0;

    rig->config.window_bytes = CLUSTER;
    rig->target_is_zero = false;
    rig->bend = is_alone;
    write_clusters(rig, 0, 64);
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).window_bytes, CLUSTER);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];

        if (action->kind == RELAY_LOAD) {
            assert_int_equal(action->len, CLUSTER);
            assert_int_equal(action->offset, at);
        } else if (action->kind == RELAY_SEND_DATA ||
                   action->kind == RELAY_SEND_ZERO) {
            assert_int_equal(action->offset, at);
            at += action->len;
        }
    }
    assert_int_equal(at, SIZE);
}

static void
test_job_halts_after_exactly_what_was_copied(void **state)
{
    struct Rig *rig = *state;

    rig->config.window_bytes = CLUSTER;
    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_LOAD, 2, EIO);
    pass_time(rig, 10 * SECOND);
    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 1);
    assert_int_equal(figures(rig).sent_bytes, CLUSTER);
    assert_int_equal(figures(rig).settled_bytes, CLUSTER);
    assert_int_equal(dirty(rig), 7);
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 8 * CLUSTER);
}

/* Told when nothing of what it copied is still to be flushed. */
static bool was_told_early;

static bool
watches_flushes(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind == RELAY_SEND_FLUSH) {
        was_told_early |=
            figures(rig).halt.is_halted || figures(rig).halt.count;
    }
    return fails(rig, action);
}

static void
test_job_tells_of_a_halt_when_what_it_sent_is_settled(void **state)
{
    struct Rig *rig = *state;

    was_told_early = false;
    rig->config.window_bytes = CLUSTER;
    write_clusters(rig, 0, 1);
    write_clusters(rig, 10, 1);
    write_clusters(rig, 20, 1);
    bad.nth = 3;
    bad.kind = RELAY_LOAD;
    bad.error = EIO;
    bad.seen = 0;
    rig->bend = watches_flushes;
    rig->n_seen = 0;
    start_job(rig);
    pass_time(rig, 10 * SECOND);
    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.count, 1);
    assert_true(seen(rig, RELAY_SEND_FLUSH) > 0);
    assert_int_equal(dirty(rig), 1);
    assert_false(was_told_early);
}

/* What a check of the target reads is never there; nor is an answer to a write. */
static bool is_mute;

static bool
holds_loads(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind == RELAY_LOAD && action->offset != 9 * CLUSTER) {
        held[n_held++] = *action;
        return true;
    }
    (void)rig;
    return is_mute && action->kind == RELAY_SEND_DATA;
}

static void
halt_and_lose(struct Rig *rig)
{
    write_clusters(rig, 0, 4);
    start_job(rig);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(dirty(rig), 0);

    n_held = 0;
    rig->bend = holds_loads;
    write_clusters(rig, 9, 1);
    write_clusters(rig, 19, 1);
    relay_core_hurry(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(n_held, 1);
    reply(rig, &held[0],
          (struct RelayEvent){.kind = RELAY_READ_FAILED, .error = EIO});
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).halt.is_halted, !is_mute);
    assert_int_equal(figures(rig).halt.count, !is_mute);

    n_held = 0;
    lose(rig);
    assert_int_equal(figures(rig).link, RELAY_CHECKING);
    assert_true(n_held > 0);
    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.count, 1);
}

/* What is asked of a target that is met again is none of what it did. */
static void
test_job_tells_of_a_halt_once(void **state)
{
    is_mute = false;
    halt_and_lose(*state);
}

static void
test_job_tells_of_a_halt_before_it_knows_its_target_again(void **state)
{
    is_mute = true;
    halt_and_lose(*state);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup_job, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_job_halts_at_an_error_of_the_target),
        CASE(test_job_halts_at_an_error_of_the_local_disk),
        CASE(test_job_halts_at_each_error_anew),
        CASE(test_job_does_not_halt_where_it_can_help_itself),
        CASE(test_job_sends_zeroes_as_data_if_it_has_to),
        CASE(test_job_halts_at_a_target_that_refuses_all),
        CASE(test_job_lets_end_what_is_in_flight),
        CASE(test_job_with_a_window_of_one_does_one_thing_at_a_time),
        CASE(test_job_halts_after_exactly_what_was_copied),
        CASE(test_job_tells_of_a_halt_when_what_it_sent_is_settled),
        CASE(test_job_tells_of_a_halt_once),
        CASE(test_job_tells_of_a_halt_before_it_knows_its_target_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
