/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-cuts.c - when disks are cut, and what is durable by then
 */
#include "cuts-rig.h"

#include <errno.h>

static unsigned n_warnings;

static GLogWriterOutput
count_log(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer user)
{
    n_warnings += level == G_LOG_LEVEL_WARNING;
    return quiet_log(level, fields, n, user);
}

static void
test_each_step_is_durable_before_the_next(void **state)
{
    (void)state;
    cuts_look(rig->cuts);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nallow vda a1h0\n"
                       "allow vdb a1h0\n");
    rig_send(0);
    rig_look_after(100);
    rig_assert_journal("");
    assert_false(store_is_in_place(rig->store));
    rig_send(1);
    cuts_look(rig->cuts);
    rig_assert_journal("end vda a1h0\nend vdb a1h0\nWEIR_CUT_WHOLE 1\n");
    assert_int_equal(rig_kept().holds_us, 1700000000 * SECOND);
    assert_int_equal(rig_kept().pinned, 0);
    assert_true(store_is_in_place(rig->store));
    assert_int_equal(rig_figures().state, CUTS_REST);
}

static void
test_cut_begins_when_it_is_due_and_something_is_dirty(void **state)
{
    (void)state;
    rig_first_cut();
    rig_look_after(1000);
    rig_assert_journal("");
    rig_dirty(0);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
    rig_send(0);
    rig_look_after(1);
    assert_int_equal(rig_kept().holds, 2);
    g_string_truncate(rig->journal, 0);
    rig_dirty(1);
    rig_look_after(8); /* 9 s since it began */
    assert_true(rig_figures().is_waiting);
    rig_assert_journal("");
    rig_look_after(1);
    rig_assert_journal("cut a3h2\nWEIR_CUT_BEGUN 3\nallow vdb a3h2\n");
}

/* Discards are under way: again shortly, and no number is used up by that. */
static void
test_cut_that_is_not_to_be_had_is_tried_again(void **state)
{
    (void)state;
    rig->refuses = true;
    cuts_look(rig->cuts);
    cuts_look(rig->cuts);
    rig_assert_journal("refused a1h0\n");
    rig_look_after(1);
    rig_assert_journal("refused a1h0\n");
    assert_int_equal(rig_figures().state, CUTS_REST);
    rig->refuses = false;
    rig_look_after(1);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nallow vda a1h0\n"
                       "allow vdb a1h0\n");
}

/* Its own timer, with no tick of the daemon's. */
static void
test_cut_begins_by_itself(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    cuts_look(rig->cuts);
    rig_assert_journal("");
    rig_set(NULL, "cut-interval", "1");
    cuts_look(rig->cuts);
    rig->now_us += SECOND;
    while (rig_figures().state == CUTS_REST) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void
test_nobody_is_cut_while_one_target_is_away(void **state)
{
    struct RelayCoreFigures *core = &rig->figures[1].core;

    (void)state;
    core->link = RELAY_OFFLINE;
    cuts_look(rig->cuts);
    rig_assert_journal("");
    assert_string_equal(rig_figures().waits_for, "vdb");
    rig->figures[0].core.is_paused = true;
    core->link = RELAY_ONLINE;
    cuts_look(rig->cuts);
    rig_assert_journal("");
    assert_string_equal(rig_figures().waits_for, "");
    rig->figures[0].core.is_paused = false;
    core->is_recovering = true;
    cuts_look(rig->cuts);
    rig_assert_journal("");
    core->is_recovering = false;
    rig->figures[1].is_current = FALSE;
    cuts_look(rig->cuts);
    rig_assert_journal("");
    /* Rule 17: the user takes it out, and the rest goes on. */
    rig_set("vdb", "group", "no");
    cuts_look(rig->cuts);
    rig_assert_journal("leave vdb a0h0\ncut a1h0\nWEIR_CUT_BEGUN 1\n"
                       "allow vda a1h0\n");
}

/* A guest that goes on like this would fill the log. */
static void
test_cuts_that_break_in_a_row_are_warned_of_once(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    rig_look_after(10);
    n_warnings = 0;
    for (unsigned times = 1; times <= 4; times++) {
        if (times != 3) {
            rig_degrade(0, -ENOSPC);
        }
        rig_dirty(0);
        rig_send(0);
        rig_look_after(10); /* the next one begins */
        assert_int_equal(n_warnings, times < 4 ? 1 : 2); /* one was whole */
    }
    assert_int_equal(rig_figures().degraded, 3);
}

static void
test_broken_cut_is_not_whole_and_the_next_one_is_due(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    rig_dirty(1);
    rig_look_after(10);
    g_string_truncate(rig->journal, 0);
    rig_degrade(0, -ENOSPC);
    rig_degrade(1, -ENOSPC);
    /* At once, on all disks: nothing of it is of use any more. */
    rig_assert_journal("WEIR_CUT_DEGRADED 2\nend vda a2h1\nend vdb a2h1\n");
    assert_true(rig_figures().is_degraded);
    rig_send(0);
    rig_send(1);
    rig_dirty(1);
    cuts_look(rig->cuts);
    /* Once more when all is sent: the room is given back. */
    rig_assert_journal("end vda a2h1\nend vdb a2h1\n"
                       "cut a3h1\nWEIR_CUT_BEGUN 3\nallow vdb a3h1\n");
    assert_true(rig_figures().is_degraded);
    rig_send(1);
    cuts_look(rig->cuts);
    rig_assert_journal("end vda a3h1\nend vdb a3h1\nWEIR_CUT_WHOLE 3\n");
    assert_false(rig_figures().is_degraded);
    assert_int_equal(rig_figures().whole, 2);
    assert_int_equal(rig_figures().degraded, 1);
    rig_degrade(0, -ENOSPC); /* of nothing */
    rig_assert_journal("");
}

/* The face's word is in the inbox when the last cluster is seen settled. */
static void
test_news_is_heard_before_the_verdict(void **state)
{
    (void)state;
    cuts_look(rig->cuts);
    g_string_truncate(rig->journal, 0);
    rig->breaks = rig_disk_of(1);
    rig_send(0);
    rig_send(1);
    rig_dirty(0);
    cuts_look(rig->cuts);
    rig_assert_journal("WEIR_CUT_DEGRADED 1\nend vda a1h0\nend vdb a1h0\n"
                       "end vda a1h0\nend vdb a1h0\n"
                       "cut a2h0\nWEIR_CUT_BEGUN 2\nallow vda a2h0\n");
}

/* There was no memory for its next generation. */
static void
test_unsealed_disk_breaks_the_cut(void **state)
{
    (void)state;
    rig->unsealed = rig_disk_of(0);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nWEIR_CUT_DEGRADED 1\n"
                       "end vda a1h0\nend vdb a1h0\nallow vdb a1h0\n");
    rig->unsealed = NULL;
    rig_finish_cut();
    rig_assert_journal("end vda a1h0\nend vdb a1h0\n"
                       "cut a2h0\nWEIR_CUT_BEGUN 2\nallow vda a2h0\n");
}

/* What was sealed went back to what is dirty: nothing of it was sent. */
static void
test_cut_that_is_taken_back_is_not_whole(void **state)
{
    (void)state;
    cuts_look(rig->cuts);
    rig_send(0);
    disk_map_unseal(rig_disk_of(1)->map);
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().holds, 0);
    assert_int_equal(rig_figures().degraded, 1);
}

/* The face spoke of the cut before this one. */
static void
test_late_news_breaks_no_other_cut(void **state)
{
    uint64_t before;

    (void)state;
    rig_first_cut();
    before = disk_map_open_seq(rig_disk_of(0)->map) - 1;
    rig_dirty(0);
    rig_look_after(10);
    cuts_degraded(rig->cuts, rig_disk_of(0), before, -ENOSPC);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
}

/* In its place is a target that nobody has written: it holds no cut. */
static void
test_target_met_anew_holds_no_cut(void **state)
{
    (void)state;
    rig_first_cut();
    assert_true(store_is_in_place(rig->store));
    cuts_recontacted(rig->cuts, rig_disk_of(1));
    assert_false(store_is_in_place(rig->store));
    rig_dirty(0);
    rig_dirty(1);
    rig_look_after(10);
    cuts_recontacted(rig->cuts, rig_disk_of(0));
    rig_send(0);
    rig_send(1);
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().holds, 1);
    assert_false(store_is_in_place(rig->store));
}

/* The relay says when it has taken that a disk is cut, and nothing of its own
 * is under way; until then, and while a target met anew is not heard of, and
 * while discards are owed, there is no cut. */
static void
test_no_cut_before_all_is_ready(void **state)
{
    struct RelayCoreFigures *core = &rig->figures[1].core;

    (void)state;
    core->is_cut = false;
    cuts_look(rig->cuts);
    core->is_cut = true;
    core->contact = CONTACT_KNOWN;
    rig_look_after(1);
    rig_disk_of(1)->contact = CONTACT_KNOWN;
    atomic_store(&rig_disk_of(0)->unpunched_bytes, 4096);
    rig_look_after(1);
    rig_assert_journal("");
    assert_int_equal(rig_kept().advancing, 0);
    atomic_store(&rig_disk_of(0)->unpunched_bytes, 0);
    rig_look_after(1);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nallow vda a1h0\n"
                       "allow vdb a1h0\n");
}

static void
test_nothing_goes_on_while_the_state_cannot_be_kept(void **state)
{
    (void)state;
    fault_io_arm(&rig->fault, 1, true, -ENOSPC);
    cuts_look(rig->cuts);
    cuts_look(rig->cuts);
    rig_assert_journal("");
    (void)fault_io_disarm(&rig->fault);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nallow vda a1h0\n"
                       "allow vdb a1h0\n");
    /* Contacts are kept by now: what fails is the state alone. */
    rig_disk_of(0)->contact = rig_disk_of(1)->contact = CONTACT_KNOWN;
    assert_true(store_save_state(rig->store, NULL));
    fault_io_arm(&rig->fault, 1, true, -ENOSPC);
    rig_finish_cut();
    /* What was kept aside is given up first: a full disk needs its room. */
    rig_assert_journal("end vda a1h0\nend vdb a1h0\n");
    assert_int_equal(rig_figures().state, CUTS_REST);
    assert_false(store_is_in_place(rig->store));
    /* Nobody has heard of it: what was written since has its number, and goes
     * to the targets though no state can be kept. */
    rig_dirty(0);
    rig_look_after(10);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nallow vda a1h0\n");
    rig_finish_cut();
    rig_assert_journal("end vda a1h0\nend vdb a1h0\n");
    (void)fault_io_disarm(&rig->fault);
    rig_look_after(10);
    rig_assert_journal("cut a1h0\nWEIR_CUT_BEGUN 1\nend vda a1h0\n"
                       "end vdb a1h0\nWEIR_CUT_WHOLE 1\n");
    assert_true(store_is_in_place(rig->store));
}

/*
 * Who waits
 */
static void
test_drain_waits_for_the_cut_that_has_it_all(void **state)
{
    uint64_t number;

    (void)state;
    number = cuts_hurry(rig->cuts);
    assert_int_equal(number, 1);
    cuts_look(rig->cuts);
    assert_false(cuts_is_done(rig->cuts, number));
    rig_finish_cut();
    assert_true(cuts_is_done(rig->cuts, number));
    assert_int_equal(cuts_hurry(rig->cuts), 0);

    rig_dirty(0);
    number = cuts_hurry(rig->cuts);
    assert_int_equal(number, 2);
    rig_look_after(1); /* cut-interval is not waited for */
    rig_dirty(0);
    assert_int_equal(cuts_hurry(rig->cuts), 3);
    rig_degrade(0, -EIO);
    rig_finish_cut();
    assert_false(cuts_is_done(rig->cuts, 2));
    rig_finish_cut();
    assert_int_equal(rig_kept().holds, 3);
    assert_true(cuts_is_done(rig->cuts, 2));
    assert_true(cuts_is_done(rig->cuts, 3));
    /* Asked for while 4 was under way, which had it all. */
    rig_dirty(0);
    rig_look_after(100);
    number = cuts_hurry(rig->cuts);
    assert_int_equal(number, 5);
    rig_finish_cut();
    assert_true(cuts_is_done(rig->cuts, number));
}

static void
test_store_at_rest_is_sealed_without_a_face(void **state)
{
    (void)state;
    rig_crash(rig);
    rig->has_face = false;
    rig_start(rig);
    cuts_look(rig->cuts);
    rig_assert_journal("WEIR_CUT_BEGUN 1\nallow vda a1h0\nallow vdb a1h0\n");
    rig_finish_cut();
    rig_assert_journal("WEIR_CUT_WHOLE 1\n");
    assert_true(rig_kept().holds_us > 1700000000 * SECOND);
}

/*
 * The group changes
 */
static void
test_disk_that_leaves_holds_no_cut_before_it_is_sent(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    rig_dirty(1);
    rig_look_after(10);
    g_string_truncate(rig->journal, 0);
    rig_set("vdb", "group", "no");
    cuts_look(rig->cuts);
    assert_int_equal(rig_disk_of(1)->cut, 0);
    rig_assert_journal("end vdb a2h1\nleave vdb a2h1\n");
    rig_send(0);
    cuts_look(rig->cuts);
    rig_assert_journal("end vda a2h1\nWEIR_CUT_WHOLE 2\n");
    assert_true(store_is_in_place(rig->store));
    /* Back: what it has sealed meanwhile is sent, and then it is cut. */
    rig_set("vdb", "group", "yes");
    assert_false(store_is_in_place(rig->store));
    rig_look_after(100);
    rig_assert_journal("join vdb a0h2\nallow vdb a0h2\n");
    rig_send(1);
    cuts_look(rig->cuts);
    rig_assert_journal(
        "cut a3h2\nWEIR_CUT_BEGUN 3\nend vda a3h2\nend vdb a3h2\n"
        "WEIR_CUT_WHOLE 3\n");
    assert_true(store_is_in_place(rig->store));
}

static void
test_disk_leaves_only_when_that_is_kept(void **state)
{
    (void)state;
    rig_first_cut();
    rig_set("vdb", "group", "no");
    fault_io_arm(&rig->fault, 1, true, -ENOSPC);
    cuts_look(rig->cuts);
    rig_assert_journal("");
    (void)fault_io_disarm(&rig->fault);
    cuts_look(rig->cuts);
    rig_assert_journal("leave vdb a0h1\n");
}

static void
test_policy_none_ends_the_cut(void **state)
{
    (void)state;
    cuts_look(rig->cuts);
    g_string_truncate(rig->journal, 0);
    rig_set(NULL, "policy", "none");
    rig_look_after(100);
    rig_assert_journal("end vda a1h0\nleave vda a1h0\nend vdb a1h0\n"
                       "leave vdb a1h0\n");
    assert_int_equal(rig_figures().state, CUTS_REST);
    assert_int_equal(cuts_hurry(rig->cuts), 0);
}

static void
test_another_target_breaks_the_cut(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    rig_dirty(1);
    rig_look_after(10);
    g_string_truncate(rig->journal, 0);
    rig_set("vdb", "target", "nbd://localhost/y");
    cuts_retargeted(rig->cuts, rig_disk_of(1));
    rig_assert_journal("end vdb a2h1\nend vda a2h1\n");
    rig_send(0);
    rig_send(1);
    cuts_look(rig->cuts);
    rig_assert_journal("end vda a2h1\n");
    rig_look_after(10);
    rig_assert_journal("cut a3h1\nWEIR_CUT_BEGUN 3\nallow vdb a3h1\n");
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, cuts_rig_setup, cuts_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_each_step_is_durable_before_the_next),
        TEST(test_cut_begins_when_it_is_due_and_something_is_dirty),
        TEST(test_cut_that_is_not_to_be_had_is_tried_again),
        TEST(test_cut_begins_by_itself),
        TEST(test_nobody_is_cut_while_one_target_is_away),
        TEST(test_broken_cut_is_not_whole_and_the_next_one_is_due),
        TEST(test_cuts_that_break_in_a_row_are_warned_of_once),
        TEST(test_news_is_heard_before_the_verdict),
        TEST(test_unsealed_disk_breaks_the_cut),
        TEST(test_cut_that_is_taken_back_is_not_whole),
        TEST(test_late_news_breaks_no_other_cut),
        TEST(test_target_met_anew_holds_no_cut),
        TEST(test_no_cut_before_all_is_ready),
        TEST(test_nothing_goes_on_while_the_state_cannot_be_kept),
        TEST(test_drain_waits_for_the_cut_that_has_it_all),
        TEST(test_store_at_rest_is_sealed_without_a_face),
        TEST(test_disk_that_leaves_holds_no_cut_before_it_is_sent),
        TEST(test_disk_leaves_only_when_that_is_kept),
        TEST(test_policy_none_ends_the_cut),
        TEST(test_another_target_breaks_the_cut),
    };

    g_log_set_writer_func(count_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
