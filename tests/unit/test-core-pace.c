/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How often what was sent is settled: with each interval at least, and much
 * sooner where a flush, or a sync of the sums, is quick and much waits for it.
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

/* What takes a fifth of a second is not asked for ten times a second. */
static void
gap_is_wide(struct Rig *rig, enum RelayActionKind kind)
{
    const int64_t takes_us = SECOND / 5;
    unsigned n = 0;

    slow_kind = kind;
    sent_us = 0;
    gap_us = INT64_MAX;
    rig->bend = is_slow;
    start_large(rig, NEVER);
    for (int64_t end_us = rig->now_us + 7 * SECOND; rig->now_us < end_us;) {
        pass_time(rig, SECOND / 100);
        if (slow.kind == kind && rig->now_us - sent_us >= takes_us) {
            struct RelayEvent event = {
                .kind = kind == RELAY_SYNC ? RELAY_SYNCED : RELAY_FLUSHED};

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
    gap_is_wide(*state, RELAY_SEND_FLUSH);
}

static void
test_core_does_not_press_a_slow_sync(void **state)
{
    gap_is_wide(*state, RELAY_SYNC);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
