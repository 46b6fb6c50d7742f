/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay core: draining, and what happens when something fails.
 */
#include "core-rig.h"

/*
 * Draining
 */
static void
test_core_drains_what_is_dirty(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 3, 5);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(figures(rig).settled_bytes, 5 * CLUSTER);
    assert_int_equal(figures(rig).sent_bytes, 5 * CLUSTER);
    assert_int_equal(seen(rig, RELAY_SEND_FLUSH), 1);
}

static void
test_core_sends_zeroes_only_where_data_is(void **state)
{
    struct Rig *rig = *state;

    rig->hole_from = 8 * CLUSTER;
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 0); /* it said zero */
    assert_int_equal(figures(rig).zeroed_bytes, 56 * CLUSTER);

    rig->target_is_zero = false;
    write_clusters(rig, 0, 64);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_true(seen(rig, RELAY_SEND_ZERO) > 0);
}

static void
test_core_without_zero_trims_then_sends_data(void **state)
{
    struct Rig *rig = *state;

    rig->hole_from = 0;
    rig->target_is_zero = false; /* TRIM does nothing there */
    rig->caps.can_zero = false;
    rig->caps.can_trim = true;
    write_clusters(rig, 0, 2);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_TRIM), 1);
    assert_int_equal(seen(rig, RELAY_SEND_STATUS), 2);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 0);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
}

static void
test_core_honours_max_payload(void **state)
{
    struct Rig *rig = *state;

    rig->caps.max_payload = 10000;
    rig->caps.min_block = 4096;
    write_clusters(rig, 0, 3);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];
        if (action->kind == RELAY_SEND_DATA) {
            assert_true(action->len <= 8192);
            assert_int_equal((action->offset | action->len) % 4096, 0);
        }
    }
}

static void
test_core_fua_settles_without_flush(void **state)
{
    struct Rig *rig = *state;

    rig->caps.can_flush = false;
    rig->caps.can_fua = true;
    rig->hole_from = 4 * CLUSTER;
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_FLUSH), 0);
    assert_int_equal(seen(rig, RELAY_SEND_STATUS), 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        enum RelayActionKind kind = rig->seen[i].kind;
        bool is_write = kind == RELAY_SEND_DATA || kind == RELAY_SEND_ZERO;
        assert_int_equal(rig->seen[i].is_fua, is_write);
    }
}

static void
test_core_pause_holds_back(void **state)
{
    struct Rig *rig = *state;

    start(rig);
    relay_core_pause(rig->core, true);
    write_clusters(rig, 0, 2);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(dirty(rig), 2);
    assert_true(figures(rig).is_paused);
    relay_core_pause(rig->core, false);
    pass_time(rig, 0);
    assert_int_equal(dirty(rig), 0);
}

static struct RelayAction held[RELAY_OPS];
static unsigned n_held;

static bool
hold_writes(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    if (action->kind != RELAY_SEND_DATA) {
        return false;
    }
    held[n_held++] = *action;
    return true;
}

/* A paused core with nothing unanswered will write nothing any more: what was
 * loaded waits. That is how an end knows that nothing is in doubt. */
static void
test_core_pause_leaves_nothing_to_be_written(void **state)
{
    struct Rig *rig = *state;

    start(rig);
    n_held = 0;
    rig->bend = hold_writes;
    write_clusters(rig, 0, 64);
    pass_time(rig, 2 * SECOND);
    assert_true(n_held > 0);
    assert_int_equal(figures(rig).unanswered, n_held);
    relay_core_pause(rig->core, true);

    unsigned n_sent = n_held;

    for (unsigned i = 0; i < n_sent; i++) {
        answer(rig, &held[i]);
        settle_actions(rig);
    }
    pass_time(rig, 10 * SECOND);
    assert_int_equal(figures(rig).unanswered, 0);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    assert_int_equal(n_held, n_sent);
    assert_true(dirty(rig) > 0);
    rig->bend = NULL;
    relay_core_pause(rig->core, false);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_hurry_does_not_wait_for_the_interval(void **state)
{
    struct Rig *rig = *state;

    rig->config.settle_us = 1000 * SECOND;
    write_clusters(rig, 0, 1);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    write_clusters(rig, 0, 1);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 1); /* sealed a moment ago */
    relay_core_hurry(rig->core);
    pass_time(rig, 0);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_bucket_spaces_data_out(void **state)
{
    struct Rig *rig = *state;

    rate_bucket_set(&rig->bucket, 4 * CLUSTER, rig->now_us);
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, 5 * SECOND);
    assert_in_range(figures(rig).sent_bytes, 16 * CLUSTER, 28 * CLUSTER);
    pass_time(rig, 15 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

/*
 * Failures
 */
static bool
silence(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    return action->kind == RELAY_SEND_DATA;
}

static void
test_core_unanswered_write_waits_out_the_quarantine(void **state)
{
    struct Rig *rig = *state;

    rig->bend = silence;
    write_clusters(rig, 5, 1);
    start(rig);
    pass_time(rig, 14 * SECOND);
    assert_int_equal(seen(rig, RELAY_DISCONNECT), 0);
    pass_time(rig, 20 * SECOND); /* 15 s, and some for what is queued */
    assert_int_equal(seen(rig, RELAY_DISCONNECT), 1);
    assert_int_equal(figures(rig).doubt_clusters, 1);
    rig->bend = NULL;
    rig->n_seen = 0;
    write_clusters(rig, 9, 1); /* others go on */
    relay_core_hurry(rig->core);
    pass_time(rig, 30 * SECOND);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    assert_int_equal(dirty(rig), 2);
    pass_time(rig, 40 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 0); /* read back */
}

static void
test_core_new_process_has_no_quarantine(void **state)
{
    struct Rig *rig = *state;

    rig->bend = silence;
    rig->caps.is_new_process = true;
    write_clusters(rig, 5, 1);
    start(rig);
    step(rig, NULL);
    while (!seen(rig, RELAY_DISCONNECT)) {
        settle_actions(rig);
        rig->now_us += SECOND;
        step(rig, NULL);
        rig->bend = seen(rig, RELAY_DISCONNECT) ? NULL : silence;
        settle_actions(rig);
    }
    rig->bend = NULL;
    pass_time(rig, 2 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 0);
}

static bool
fail_writes(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {
        .kind = RELAY_FAILED, .error = EIO, .text = "write: EIO"};

    if (action->kind != RELAY_SEND_DATA) {
        return false;
    }
    reply(rig, action, event);
    return true;
}

static void
test_core_sticky_errors_back_off(void **state)
{
    struct Rig *rig = *state;

    rig->bend = fail_writes;
    write_clusters(rig, 5, 1);
    start(rig);
    pass_time(rig, 600 * SECOND);
    /* 1/4, 1/2, 1, ... 60, 60 seconds apart */
    assert_in_range(seen(rig, RELAY_SEND_DATA), 10, 25);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_string_equal(figures(rig).error, "write: EIO");
    assert_true(figures(rig).errors >= 10);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    rig->bend = NULL;
    pass_time(rig, 80 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_string_equal(figures(rig).error, "");
}

static bool
lose_connects(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_LINK_LOST, .text = "refused"};

    if (action->kind != RELAY_CONNECT) {
        return false;
    }
    reply(rig, action, event);
    return true;
}

static void
test_core_connects_back_off(void **state)
{
    struct Rig *rig = *state;

    rig->bend = lose_connects;
    start(rig);
    pass_time(rig, 600 * SECOND);
    assert_in_range(seen(rig, RELAY_CONNECT), 10, 25);
    assert_int_equal(figures(rig).link, RELAY_OFFLINE);
    assert_string_equal(figures(rig).error, "refused");
    assert_true(figures(rig).retry_us > rig->now_us);
    rig->bend = NULL;
    relay_core_set(rig->core, 1, ACCEPT_EMPTY, false);
    pass_time(rig, 0);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
}

static bool
hang_connects(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    return action->kind == RELAY_CONNECT;
}

static void
test_core_connect_has_a_deadline(void **state)
{
    struct Rig *rig = *state;

    rig->bend = hang_connects;
    start(rig);
    pass_time(rig, 9 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_CONNECTING);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(seen(rig, RELAY_DISCONNECT), 1);
}

static bool
lose_flushes(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_LINK_LOST, .text = "gone"};

    if (action->kind != RELAY_SEND_FLUSH) {
        return false;
    }
    rig->bend = NULL;
    reply(rig, action, event);
    return true;
}

static void
test_core_unflushed_writes_are_sent_again(void **state)
{
    struct Rig *rig = *state;

    rig->bend = lose_flushes;
    write_clusters(rig, 5, 2);
    start(rig);
    pass_time(rig, 0);
    assert_int_equal(dirty(rig), 2);
    assert_int_equal(figures(rig).doubt_clusters, 0); /* all was answered */
    pass_time(rig, 2 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).resent_clusters, 2);
    assert_int_equal(figures(rig).losses, 1);
}

static void
test_core_widens_only_with_multi_conn(void **state)
{
    struct Rig *rig = *state;

    rig->config.max_conns = 4;
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).conns, 1);
    rig->caps.can_multi_conn = true;
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).conns, 4);
    relay_core_set(rig->core, 2, ACCEPT_EMPTY, false);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).conns, 2);
}

static bool
differ_later(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind == RELAY_CONNECT && action->conn) {
        rig->caps.size_bytes = SIZE / 2;
    }
    return false;
}

static void
test_core_mismatched_conn_is_another_target(void **state)
{
    struct Rig *rig = *state;

    rig->config.max_conns = 2;
    rig->caps.can_multi_conn = true;
    rig->bend = differ_later;
    start(rig);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(figures(rig).conns, 0);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
}

static void
test_core_stop_leaves_nothing_behind(void **state)
{
    struct Rig *rig = *state;

    rig->bend = silence;
    write_clusters(rig, 5, 1);
    start(rig);
    pass_time(rig, SECOND);
    assert_false(relay_core_is_idle(rig->core));
    relay_core_stop(rig->core);
    pass_time(rig, SECOND);
    assert_true(relay_core_is_idle(rig->core));
    assert_int_equal(figures(rig).link, RELAY_STOPPED);
    assert_int_equal(figures(rig).doubt_clusters, 1); /* for the next life */
    assert_int_equal(seen(rig, RELAY_DISCONNECT), 1);
    assert_int_equal(relay_core_next_us(rig->core) > 3600 * SECOND, true);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_core_drains_what_is_dirty),
        CASE(test_core_sends_zeroes_only_where_data_is),
        CASE(test_core_without_zero_trims_then_sends_data),
        CASE(test_core_honours_max_payload),
        CASE(test_core_fua_settles_without_flush),
        CASE(test_core_pause_holds_back),
        CASE(test_core_pause_leaves_nothing_to_be_written),
        CASE(test_core_hurry_does_not_wait_for_the_interval),
        CASE(test_core_bucket_spaces_data_out),
        CASE(test_core_unanswered_write_waits_out_the_quarantine),
        CASE(test_core_new_process_has_no_quarantine),
        CASE(test_core_sticky_errors_back_off),
        CASE(test_core_connects_back_off),
        CASE(test_core_connect_has_a_deadline),
        CASE(test_core_unflushed_writes_are_sent_again),
        CASE(test_core_widens_only_with_multi_conn),
        CASE(test_core_mismatched_conn_is_another_target),
        CASE(test_core_stop_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
