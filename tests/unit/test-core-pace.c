/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How often what was sent is settled: with each interval at least, and much
 * sooner where a flush, or a sync of the sums, is quick and much waits for it.
 * And how the local disk is shared with a guest at work: what is small is read
 * together, and few commits of the sent-log are asked for.
 */
#include "core-rig.h"

#define MIB        (UINT64_C(1) << 20)
#define LARGE      (256 * MIB)
#define BPS        (32 * MIB)
#define NEVER      (1000 * SECOND)
#define MUCH       (8 * MIB)
#define SOONEST_US (SECOND / 20)

/* All of a large disk is dirty, and goes out at BPS. */
static void
start_large(struct Rig *rig, int64_t settle_us)
{
    disk_map_free(rig->map);
    rig->map = disk_map_new(LARGE, BITS);
    rig->config.map = rig->map;
    rig->config.settle_us = settle_us;
    rig->caps.size_bytes = rig->hole_from = LARGE;
    rate_bucket_set(&rig->bucket, BPS, rig->now_us);
    write_clusters(rig, 0, LARGE / CLUSTER);
    start(rig);
}

static uint64_t
settled_bytes(const struct Rig *rig)
{
    return LARGE - dirty(rig) * CLUSTER;
}

static void
test_core_settles_as_it_goes(void **state)
{
    struct Rig *rig = *state;
    uint64_t sent;

    start_large(rig, NEVER);
    pass_time(rig, 4 * SECOND);
    sent = figures(rig).sent_bytes;
    assert_in_range(sent, 3 * BPS, LARGE / 2 + LARGE / 4);
    assert_true(settled_bytes(rig) + 2 * MUCH >= sent);
    /* ... but not for a trifle */
    assert_true(seen(rig, RELAY_SEND_FLUSH) <= sent / MUCH);
    /* The log has what nobody has seen to be durable, and little else. */
    assert_true(bitmap_count(relay_core_logged(rig->core)) <=
                5 * MUCH / CLUSTER);
    assert_true(seen(rig, RELAY_SYNC) <= sent / MUCH);
}

static struct RelayAction slow; /* the one that is not answered yet */
static int64_t sent_us, gap_us; /* when it was asked for; least time between */
static enum RelayActionKind slow_kind;

static bool
is_slow(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != slow_kind) {
        return false;
    }
    if (sent_us && rig->now_us - sent_us < gap_us) {
        gap_us = rig->now_us - sent_us;
    }
    sent_us = rig->now_us;
    slow = *action;
    return true;
}

/* What takes @takes_us has a tenth of the time. */
static void
gap_is_wide(struct Rig *rig, enum RelayActionKind kind, int64_t takes_us)
{
    const enum RelayEventKind answers[RELAY_ACTION_KINDS] = {
        [RELAY_SEND_FLUSH] = RELAY_FLUSHED,
        [RELAY_SYNC] = RELAY_SYNCED,
        [RELAY_LOG] = RELAY_LOGGED,
    };
    unsigned n = 0;

    slow_kind = kind;
    sent_us = 0;
    gap_us = INT64_MAX;
    rig->bend = is_slow;
    start_large(rig, NEVER);
    relay_core_yield(rig->core, 4);
    for (int64_t end_us = rig->now_us + 35 * takes_us; rig->now_us < end_us;) {
        pass_time(rig, takes_us / 20);
        if (slow.kind == kind && rig->now_us - sent_us >= takes_us) {
            struct RelayEvent event = {.kind = answers[kind]};

            reply(rig, &slow, event);
            slow = (struct RelayAction){0};
            n++;
        }
    }
    assert_true(n >= 2);
    assert_in_range(gap_us, 10 * takes_us, 11 * takes_us);
}

static void
test_core_does_not_press_a_slow_flush(void **state)
{
    gap_is_wide(*state, RELAY_SEND_FLUSH, SECOND / 5);
}

static void
test_core_does_not_press_a_slow_sync(void **state)
{
    gap_is_wide(*state, RELAY_SYNC, SECOND / 5);
}

static void
test_core_logs_seldom_while_the_guest_works(void **state)
{
    gap_is_wide(*state, RELAY_LOG, SECOND / 1000);
}

static struct RelayAction held[RELAY_OPS]; /* not answered yet */
static unsigned n_held;
static enum RelayActionKind held_kind;

static bool
holds(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != held_kind || figures(rig).link != RELAY_ONLINE) {
        return false; /* or of a check */
    }
    assert_true(n_held < RELAY_OPS);
    held[n_held++] = *action;
    return true;
}

static void
answer_held(struct Rig *rig)
{
    struct RelayAction now[RELAY_OPS];
    unsigned n = n_held;

    memcpy(now, held, sizeof(now));
    n_held = 0;
    for (unsigned i = 0; i < n; i++) {
        answer(rig, &now[i]);
    }
}

static uint64_t
held_bytes(void)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < n_held; i++) {
        bytes += held[i].len;
    }
    return bytes;
}

/* A link that has shown what it takes, and a guest at work; loads are held. */
static void
start_wide(struct Rig *rig, unsigned parts)
{
    start_large(rig, SECOND);
    rate_bucket_set(&rig->bucket, 0, rig->now_us);
    held_kind = RELAY_SEND_DATA;
    rig->bend = holds;
    for (unsigned i = 0; dirty(rig); i++) {
        assert_true(i < 10000);
        pass_time(rig, SECOND / 1000);
        answer_held(rig);
    }
    assert_true(figures(rig).window_bytes >= 2 * RELAY_OP_BYTES_MAX);
    held_kind = RELAY_LOAD;
    relay_core_yield(rig->core, parts);
}

/* Every second cluster: as much at once as one large load would be. */
static void
test_core_reads_small_ones_together(void **state)
{
    struct Rig *rig = *state;

    start_wide(rig, 4);
    for (uint64_t i = 0; i < 256; i += 2) {
        write_clusters(rig, i, 1);
    }
    pass_time(rig, 2 * SECOND);
    assert_int_equal(n_held, RELAY_OP_BYTES_MAX / CLUSTER);
    n_held = 0;
}

static void
test_core_reads_with_restraint_while_the_guest_works(void **state)
{
    for (unsigned parts = 0; parts <= 4; parts += 4) {
        struct Rig *rig = *state;

        start_wide(rig, parts);
        write_clusters(rig, 0, LARGE / CLUSTER);
        pass_time(rig, 2 * SECOND);
        if (parts) {
            assert_int_equal(held_bytes(), RELAY_OP_BYTES_MAX);
        } else {
            assert_true(held_bytes() > RELAY_OP_BYTES_MAX);
        }
        n_held = 0;
        teardown(state);
        setup(state);
    }
}

/* However long it had the disk for itself, it does not rest for long when a guest
 * comes. */
static void
test_core_rests_from_one_batch_only(void **state)
{
    struct Rig *rig = *state;
    int64_t end_us;

    start_wide(rig, 0);
    write_clusters(rig, 0, LARGE / CLUSTER);
    pass_time(rig, 2 * SECOND);
    for (unsigned i = 0; i < 50; i++) { /* never is nothing loading */
        struct RelayAction first = held[0];

        assert_true(n_held > 1);
        pass_time(rig, SECOND / 10);
        memmove(held, held + 1, --n_held * sizeof(held[0]));
        answer(rig, &first);
        settle_actions(rig);
    }
    relay_core_yield(rig->core, 4);
    answer_held(rig);
    end_us = rig->now_us + 2 * SECOND;
    while (!n_held) {
        assert_true(rig->now_us < end_us);
        pass_time(rig, SECOND / 100);
    }
    n_held = 0;
}

/* What is loading takes a second, one of so many parts of the time. */
static void
load_for_a_second(struct Rig *rig, unsigned parts)
{
    unsigned n = n_held;

    relay_core_yield(rig->core, parts);
    pass_time(rig, SECOND);
    assert_int_equal(n_held, n);
    assert_true(relay_core_is_reading(rig->core, rig->now_us));
    answer_held(rig);
    assert_true(relay_core_is_reading(rig->core, rig->now_us));
}

static void
test_core_has_its_part_of_the_time(void **state)
{
    struct Rig *rig = *state;

    start_wide(rig, 4);
    assert_false(relay_core_is_reading(rig->core, rig->now_us));
    write_clusters(rig, 0, LARGE / CLUSTER);
    pass_time(rig, 2 * SECOND);
    assert_true(n_held > 0);
    for (unsigned parts = 2; parts < 20; parts += 3) {
        int64_t read_us, rest_us = (parts - 1) * SECOND;

        answer_held(rig); /* of longer ago */
        while (!n_held) {
            pass_time(rig, SECOND / 100);
        }
        load_for_a_second(rig, parts);
        read_us = rig->now_us;
        while (!n_held) {
            pass_time(rig, SECOND / 100);
        }
        assert_in_range(rig->now_us - read_us, rest_us, rest_us + SECOND / 6);
    }
    load_for_a_second(rig, 8);
    /* It looks now and then whether the guest is silent by now. */
    assert_in_range(relay_core_next_us(rig->core), rig->now_us,
                    rig->now_us + SECOND / 10);
    relay_core_yield(rig->core, 0);
    pass_time(rig, SECOND / 10);
    assert_true(n_held > 0);
    n_held = 0;
}

/* One before its turn needs no rest; it is sent once, whatever is said of it. */
static void
test_core_sends_first_what_is_overwritten(void **state)
{
    struct Rig *rig = *state;
    uint64_t sent = 0, last = LARGE / CLUSTER - 1;

    start_wide(rig, 4);
    write_clusters(rig, 0, LARGE / CLUSTER);
    pass_time(rig, 2 * SECOND);
    sent = figures(rig).sent_bytes;
    assert_true(held_bytes() < LARGE / 2);
    for (unsigned i = 0; i < 2; i++) {
        unsigned n = n_held;

        relay_core_hint(rig->core, last);
        relay_core_hint(rig->core, last + 1); /* not there */
        relay_core_hint(rig->core, 0);        /* under way */
        pass_time(rig, SECOND / 100);
        assert_int_equal(n_held, n + 1 - i);
    }
    assert_int_equal(held[n_held - 1].offset, last * CLUSTER);
    assert_int_equal(held[n_held - 1].len, CLUSTER);
    for (unsigned i = 0; dirty(rig); i++) {
        assert_true(i < 10000);
        answer_held(rig);
        pass_time(rig, SECOND / 10);
    }
    assert_int_equal(figures(rig).sent_bytes - sent, LARGE);
}

/* The interval that was set is what nothing waits longer than. */
static void
test_core_settles_with_the_interval(void **state)
{
    struct Rig *rig = *state;

    start_large(rig, SOONEST_US / 2);
    pass_time(rig, 4 * SECOND);
    assert_true(settled_bytes(rig) + BPS / 20 + RELAY_OP_BYTES_MAX >=
                figures(rig).sent_bytes);
}

#define CASE(function) \
    cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_core_settles_as_it_goes),
        CASE(test_core_does_not_press_a_slow_flush),
        CASE(test_core_does_not_press_a_slow_sync),
        CASE(test_core_settles_with_the_interval),
        CASE(test_core_logs_seldom_while_the_guest_works),
        CASE(test_core_reads_small_ones_together),
        CASE(test_core_reads_with_restraint_while_the_guest_works),
        CASE(test_core_rests_from_one_batch_only),
        CASE(test_core_has_its_part_of_the_time),
        CASE(test_core_sends_first_what_is_overwritten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
