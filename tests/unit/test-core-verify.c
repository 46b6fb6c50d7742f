/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-verify.c - the walk that compares disk and target
 */
#include "core-rig.h"

/* Clusters that differ at the target. */
static uint64_t others;

static bool
some_differ(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_COMPARED, .is_equal = true};

    if (action->kind != RELAY_SEND_COMPARE) {
        return false;
    }
    for (uint64_t at = 0; at < action->len; at += CLUSTER) {
        event.is_equal &= !(others >> ((action->offset + at) / CLUSTER) & 1);
    }
    reply(rig, action, event);
    return true;
}

static void
begin(struct Rig *rig, bool repairs, uint64_t bps)
{
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    rig->n_seen = 0;
    rig->bend = some_differ;
    relay_core_verify(rig->core, repairs, bps);
}

static void
test_verify_looks_at_all_of_the_disk(void **state)
{
    struct Rig *rig = *state;

    others = 0;
    rig->hole_from = 40 * CLUSTER;
    begin(rig, false, 0);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.compared_bytes, SIZE);
    assert_int_equal(figures(rig).verify.other_clusters, 0);
    assert_int_equal(seen(rig, RELAY_SEND_STATUS), 1); /* of the hole */
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
}

static void
test_verify_counts_clusters_that_differ(void **state)
{
    struct Rig *rig = *state;

    others = UINT64_C(0x8000000000000013); /* 0, 1, 4, 63 */
    begin(rig, false, 0);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.other_clusters, 4);
    assert_int_equal(dirty(rig), 0);
}

static void
test_verify_repairs_what_differs(void **state)
{
    struct Rig *rig = *state;

    others = 0x30;
    begin(rig, true, 0);
    relay_core_pause(rig->core, true);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.other_clusters, 2);
    assert_int_equal(dirty(rig), 2);
    /* Its sum would say that it need not be sent. */
    assert_true(bitmap_get(relay_core_logged(rig->core), 4));
    assert_true(bitmap_get(relay_core_logged(rig->core), 5));
    rig->bend = NULL;
    relay_core_pause(rig->core, false);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_true(seen(rig, RELAY_SEND_DATA) > 0);
}

static void
test_verify_passes_over_what_is_dirty(void **state)
{
    struct Rig *rig = *state;

    others = 0xff00;
    begin(rig, false, 0);
    relay_core_pause(rig->core, true);
    write_clusters(rig, 8, 8);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.passed_bytes, 8 * CLUSTER);
    assert_int_equal(figures(rig).verify.other_clusters, 0);
}

static void
test_verify_keeps_its_rate(void **state)
{
    struct Rig *rig = *state;

    others = 0;
    begin(rig, false, SIZE / 4);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.done, 0);
    assert_in_range(figures(rig).verify.compared_bytes, SIZE / 8, SIZE / 2);
    pass_time(rig, 4 * SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static struct RelayAction held;

static bool
first_compare_waits(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != RELAY_SEND_COMPARE || held.kind) {
        return some_differ(rig, action);
    }
    held = *action;
    return true;
}

static void
test_second_verify_begins_at_the_start(void **state)
{
    struct RelayEvent event = {.kind = RELAY_COMPARED, .is_equal = true};
    struct Rig *rig = *state;

    others = 1;
    memset(&held, 0, sizeof(held));
    begin(rig, false, 0);
    rig->bend = first_compare_waits;
    pass_time(rig, SECOND);
    assert_int_equal(held.kind, RELAY_SEND_COMPARE);
    relay_core_verify(rig->core, false, 0);
    reply(rig, &held, event);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.compared_bytes, SIZE);
    assert_int_equal(figures(rig).verify.other_clusters, 1);
}

static bool
first_cluster_is_unreadable(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_READ_FAILED, .error = EIO};

    if (action->kind != RELAY_LOAD || action->offset >= CLUSTER) {
        return some_differ(rig, action);
    }
    reply(rig, action, event);
    return true;
}

static void
test_verify_ends_at_what_cannot_be_read(void **state)
{
    struct Rig *rig = *state;

    others = 0;
    begin(rig, false, 0);
    rig->bend = first_cluster_is_unreadable;
    pass_time(rig, 10 * SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.compared_bytes, SIZE - CLUSTER);
    assert_int_equal(figures(rig).verify.unread_clusters, 1);
    assert_int_equal(figures(rig).verify.passed_bytes, 0);
    assert_true(figures(rig).errors >= 1 && figures(rig).errors <= 2);
}

/* Clusters that the target does not give. */
static uint64_t rotten;

static bool
some_are_rotten(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {
        .kind = RELAY_FAILED, .error = EIO, .text = "read: EIO"};
    bool is_rotten = false;

    for (uint64_t at = 0; at < action->len; at += CLUSTER) {
        is_rotten |= rotten >> ((action->offset + at) / CLUSTER) & 1;
    }
    if (action->kind == RELAY_SEND_STATUS) {
        reply(rig, action, event);
    } else if (action->kind == RELAY_SEND_COMPARE && is_rotten) {
        reply(rig, action, event);
    } else {
        return some_differ(rig, action);
    }
    return true;
}

static void
test_verify_counts_what_the_target_does_not_give(void **state)
{
    struct Rig *rig = *state;

    others = 0x20;
    rotten = UINT64_C(0x8000000000000011); /* 0, 4, 63: of a hole */
    rig->hole_from = 60 * CLUSTER;
    begin(rig, true, 0);
    relay_core_pause(rig->core, true);
    rig->bend = some_are_rotten;
    pass_time(rig, 10 * SECOND);
    assert_int_equal(figures(rig).verify.done, 1);
    assert_int_equal(figures(rig).verify.unread_clusters, 3);
    assert_int_equal(figures(rig).verify.other_clusters, 1);
    assert_int_equal(figures(rig).verify.compared_bytes, SIZE - 3 * CLUSTER);
    assert_non_null(strstr(figures(rig).error, "EIO"));
    assert_int_equal(dirty(rig), 1); /* what differs, and no more */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_verify_looks_at_all_of_the_disk),
        CASE(test_verify_counts_clusters_that_differ),
        CASE(test_verify_repairs_what_differs),
        CASE(test_verify_passes_over_what_is_dirty),
        CASE(test_verify_keeps_its_rate),
        CASE(test_second_verify_begins_at_the_start),
        CASE(test_verify_ends_at_what_cannot_be_read),
        CASE(test_verify_counts_what_the_target_does_not_give),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
