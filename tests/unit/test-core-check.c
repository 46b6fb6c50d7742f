/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay core: which targets it writes to, and which it refuses.
 */
#include "core-rig.h"

/*
 * Checks
 */
static void
refused(struct Rig *rig, const char *word)
{
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_non_null(strstr(figures(rig).error, word));
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 0);
    rig->n_seen = 0;
}

static void
test_core_refuses_what_it_cannot_use(void **state)
{
    struct Rig *rig = *state;
    struct TargetCaps good = rig->caps;

    write_clusters(rig, 0, 64);
    rig->caps.size_bytes = SIZE - 512;
    refused(rig, "enlarge it or choose another with `weir set STORE target=");
    rig->caps = good;
    rig->caps.is_read_only = true;
    refused(rig, "read-only");
    rig->caps = good;
    rig->caps.min_block = 3 * 512;
    refused(rig, "blocks");
    rig->caps = good;
    rig->caps.can_flush = false;
    refused(rig, "`weir set STORE target-unflushed=yes` if it is safe");
    relay_core_set(rig->core, 1, rig->config.accept, true);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_accepts_a_larger_target(void **state)
{
    struct Rig *rig = *state;

    rig->caps.size_bytes = SIZE + 12345;
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_first_contact_refuses_data(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_NONE;
    rig->target_is_zero = false;
    refused(rig, "target-accept=overwrite");
    rig->caps.has_block_status = false; /* by reading, then */
    rig->compare_fails = true;
    refused(rig, "target-accept=overwrite");
    assert_int_equal(figures(rig).contact, CONTACT_NONE);
    relay_core_set(rig->core, 1, ACCEPT_OVERWRITE, false);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
}

static void
test_core_writes_nothing_before_contact_is_kept(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_NONE;
    start(rig);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    assert_int_equal(dirty(rig), 64); /* at first contact all counts */
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    relay_core_contact_kept(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

static void
test_core_same_sends_only_what_differs(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_NONE;
    rig->config.accept = ACCEPT_SAME;
    start(rig);
    pass_time(rig, 0);
    relay_core_contact_kept(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    assert_true(seen(rig, RELAY_SEND_FLUSH) > 0);
    assert_int_equal(figures(rig).equal_bytes, SIZE);
    write_clusters(rig, 1, 1); /* later writes are sent, not compared */
    pass_time(rig, 2 * SECOND);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 1);
}

static void
test_core_estranged_target_needs_a_word(void **state)
{
    struct Rig *rig = *state;

    rig->compare_fails = true;
    rig->config.accept = ACCEPT_OVERWRITE; /* said long ago */
    refused(rig, "not what was written");
    relay_core_set(rig->core, 4, ACCEPT_OVERWRITE, false);
    pass_time(rig, 200 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    relay_core_trust(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    relay_core_contact_kept(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).settled_bytes, SIZE); /* every cluster */
}

static bool
dirty_before_compare(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind == RELAY_SEND_COMPARE) {
        disk_map_mark(rig->map, action->offset, action->len, rig->now_us);
    }
    return false;
}

static void
test_core_readback_ignores_what_was_written_since(void **state)
{
    struct Rig *rig = *state;

    rig->compare_fails = true;
    rig->bend = dirty_before_compare;
    start(rig);
    pass_time(rig, 0);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 0);
}

static void
test_core_retarget_starts_over(void **state)
{
    struct Rig *rig = *state;

    start(rig);
    pass_time(rig, SECOND);
    relay_core_retarget(rig->core, ACCEPT_EMPTY, rig->now_us);
    pass_time(rig, SECOND);
    assert_int_equal(seen(rig, RELAY_DISCONNECT), 1);
    assert_int_equal(seen(rig, RELAY_CONNECT), 2);
    assert_int_equal(dirty(rig), 64);
    relay_core_contact_kept(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_core_refuses_what_it_cannot_use),
        CASE(test_core_accepts_a_larger_target),
        CASE(test_core_first_contact_refuses_data),
        CASE(test_core_writes_nothing_before_contact_is_kept),
        CASE(test_core_same_sends_only_what_differs),
        CASE(test_core_estranged_target_needs_a_word),
        CASE(test_core_readback_ignores_what_was_written_since),
        CASE(test_core_retarget_starts_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
