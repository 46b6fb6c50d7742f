/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-cut.c - policy `cut`: somebody else seals, and says what may be
 * sent
 */
#include "core-rig.h"

/* Everything that changes something at the target. */
static size_t
written(const struct Rig *rig)
{
    return seen(rig, RELAY_SEND_DATA) + seen(rig, RELAY_SEND_ZERO) +
           seen(rig, RELAY_SEND_TRIM);
}

static uint64_t
sealed(const struct Rig *rig)
{
    struct DiskMapFigures out;

    disk_map_figures(rig->map, &out);
    return out.sealed_clusters;
}

static void
start_cut(struct Rig *rig)
{
    rig->config.is_cut = true;
    start(rig);
    pass_time(rig, SECOND);
    rig->n_seen = 0; /* the check of the target reads as well */
}

static void
test_core_does_not_seal_a_cut(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 3, 5);
    start_cut(rig);
    relay_core_allow(rig->core, 100);
    relay_core_hurry(rig->core);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(disk_map_sealed_seq(rig->map), 0);
    assert_int_equal(disk_map_open_seq(rig->map), 1);
    assert_int_equal(seen(rig, RELAY_LOAD), 0);
    assert_int_equal(written(rig), 0);
}

/* Nor does it look at the disk, or say what it may be about to send. */
static void
test_core_sends_nothing_before_it_is_allowed(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 3, 5);
    start_cut(rig);
    assert_int_equal(disk_map_seal(rig->map), 1);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(sealed(rig), 5);
    assert_int_equal(written(rig), 0);
    assert_int_equal(seen(rig, RELAY_LOAD), 0);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);

    relay_core_allow(rig->core, 1);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 5 * CLUSTER);
    assert_int_equal(disk_map_sealed_seq(rig->map), 0);
}

/* One that is allowed does not allow the next one; an older word changes
 * nothing. What is written later waits for its own cut. */
static void
test_core_is_allowed_up_to_a_number(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 2);
    start_cut(rig);
    assert_int_equal(disk_map_seal(rig->map), 1);
    relay_core_allow(rig->core, 1);
    write_clusters(rig, 10, 3);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(dirty(rig), 3);
    assert_int_equal(disk_map_seal(rig->map), 2);
    pass_time(rig, 2 * SECOND);
    relay_core_allow(rig->core, 1);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(sealed(rig), 3);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
    relay_core_allow(rig->core, 2);
    relay_core_allow(rig->core, 1);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 5 * CLUSTER);
}

/* All but 8 and 9 is equal by its sums. */
static bool
loads_differ(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_READ};

    if (action->kind != RELAY_LOAD) {
        return false;
    }
    for (uint64_t i = 0; i < action->len / CLUSTER; i++) {
        uint64_t bit = ((action->offset / CLUSTER + i) & ~UINT64_C(1)) != 8;

        event.equal[i / 64] |= bit << i % 64;
        event.known[i / 64] |= bit << i % 64;
    }
    reply(rig, action, event);
    return true;
}

/* Whether the target is there or not: what differs is no cut, so it goes back
 * to the open generation, under the number that it had. */
static void
test_core_recovers_without_sending(void **state)
{
    struct Rig *rig = *state;

    rig->config.recovers = true;
    rig->bend = loads_differ;
    write_clusters(rig, 0, 64);
    rig->config.is_cut = true;
    start(rig);
    step(rig, NULL);
    assert_true(figures(rig).is_recovering);
    assert_int_equal(disk_map_sealed_seq(rig->map), 1);
    pass_time(rig, 100 * SECOND);
    assert_false(figures(rig).is_recovering);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(figures(rig).skipped_bytes, 62 * CLUSTER);
    assert_int_equal(written(rig), 0);
    assert_int_equal(dirty(rig), 2);
    assert_int_equal(sealed(rig), 0);
    assert_int_equal(disk_map_open_seq(rig->map), 1);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);

    assert_int_equal(disk_map_seal(rig->map), 1);
    relay_core_allow(rig->core, 1);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
}

/* What is to be answered later. */
static struct RelayAction held[64];
static unsigned n_held;
static enum RelayActionKind holds;

static bool
hold_back(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    if (action->kind != holds) {
        return false;
    }
    assert_true(n_held < sizeof(held) / sizeof(*held));
    held[n_held++] = *action;
    return true;
}

static void
answer_held(struct Rig *rig)
{
    rig->bend = NULL;
    for (unsigned i = 0; i < n_held; i++) {
        answer(rig, &held[i]);
    }
    n_held = 0;
}

/* In the middle of what it sealed for itself: what has begun ends, nothing more
 * begins, and the rest goes back, to be in the next cut. */
static void
turn_to_cut_while(struct Rig *rig, enum RelayActionKind kind)
{
    size_t before;

    n_held = 0;
    holds = kind;
    rig->config.is_cut = false;
    start(rig);
    pass_time(rig, SECOND);
    rig->bend = hold_back;
    write_clusters(rig, 0, SIZE / CLUSTER);
    pass_time(rig, SECOND / 4);
    assert_true(n_held > 0);
    assert_int_equal(sealed(rig), 64);

    before = seen(rig, RELAY_LOAD);
    relay_core_set_cut(rig->core, true);
    answer_held(rig);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(seen(rig, RELAY_LOAD), before);
    assert_int_equal(sealed(rig), 0);
    assert_true(relay_core_is_idle(rig->core));

    write_clusters(rig, 5, 1);
    pass_time(rig, 10 * SECOND);
    assert_true(dirty(rig) > 0);
    relay_core_allow(rig->core, disk_map_seal(rig->map));
    pass_time(rig, 10 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_turns_to_cuts_while_it_loads(void **state)
{
    turn_to_cut_while(*state, RELAY_LOAD);
}

static void
test_core_turns_to_cuts_while_it_sends(void **state)
{
    turn_to_cut_while(*state, RELAY_SEND_DATA);
}

static void
test_core_turns_to_cuts_while_it_flushes(void **state)
{
    turn_to_cut_while(*state, RELAY_SEND_FLUSH);
}

/* A cut that was not allowed is then like anything that is owed. */
static void
test_core_turns_from_cuts_in_the_middle(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 4);
    start_cut(rig);
    assert_int_equal(disk_map_seal(rig->map), 1);
    write_clusters(rig, 20, 4);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(written(rig), 0);
    relay_core_set_cut(rig->core, false);
    pass_time(rig, 5 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 8 * CLUSTER);
    assert_int_equal(disk_map_settled_seq(rig->map), 3);
}

/* Another target owes all of the disk, which waits for a cut as well; what was
 * allowed before does not count for it. */
static void
test_core_another_target_waits_for_its_cut(void **state)
{
    struct Rig *rig = *state;
    uint64_t seq;

    start_cut(rig);
    write_clusters(rig, 0, 2);
    relay_core_allow(rig->core, disk_map_seal(rig->map));
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    relay_core_retarget(rig->core, ACCEPT_OVERWRITE, rig->now_us);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    relay_core_contact_kept(rig->core);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
    assert_int_equal(dirty(rig), SIZE / CLUSTER);
    seq = disk_map_seal(rig->map);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(sealed(rig), SIZE / CLUSTER);
    relay_core_allow(rig->core, seq);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* A link that is lost in the middle: the same cut goes on, and nothing else. */
static void
test_core_goes_on_with_its_cut_after_a_loss(void **state)
{
    struct Rig *rig = *state;
    struct RelayEvent lost = {.kind = RELAY_LINK_LOST};

    n_held = 0;
    holds = RELAY_SEND_FLUSH;
    rig->bend = hold_back;
    start_cut(rig);
    write_clusters(rig, 0, 2);
    relay_core_allow(rig->core, disk_map_seal(rig->map));
    write_clusters(rig, 1, 3);
    pass_time(rig, 2 * SECOND);
    assert_true(n_held > 0);
    rig->bend = NULL;
    reply(rig, &held[0], lost);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(sealed(rig), 0);
    assert_int_equal(dirty(rig), 3);
    assert_int_equal(figures(rig).resent_clusters, 2);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_core_does_not_seal_a_cut),
        CASE(test_core_sends_nothing_before_it_is_allowed),
        CASE(test_core_is_allowed_up_to_a_number),
        CASE(test_core_recovers_without_sending),
        CASE(test_core_turns_to_cuts_while_it_loads),
        CASE(test_core_turns_to_cuts_while_it_sends),
        CASE(test_core_turns_to_cuts_while_it_flushes),
        CASE(test_core_turns_from_cuts_in_the_middle),
        CASE(test_core_another_target_waits_for_its_cut),
        CASE(test_core_goes_on_with_its_cut_after_a_loss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
