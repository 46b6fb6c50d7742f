/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-cuts-before.c - the hook that runs before the far side leaves a whole cut
 * for one that may be given up
 *
 * The commands are real, and so is their environment.
 */
#include "cuts-rig.h"

#include <errno.h>

static void
set_hook(const char *then)
{
    g_autofree char *command = g_strdup_printf(
        "echo $WEIR_CUT $WEIR_TIME $WEIR_DISKS $WEIR_SNAPSHOT >>%s/ran; %s",
        rig->fixture->dir, then);

    rig_set(NULL, "before-degrade", command);
}

static void
assert_ran(const char *lines)
{
    g_autofree char *ran = g_build_filename(rig->fixture->dir, "ran", NULL);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(ran, &text, NULL, NULL)) {
        text = g_strdup("");
    }
    assert_string_equal(text, lines);
}

static void
wait_for_hook(void)
{
    assert_int_equal(rig_figures().state, CUTS_BEFORE);
    assert_true(rig_figures().is_hook_running);
    while (rig_figures().is_hook_running) {
        g_main_context_iteration(NULL, TRUE);
    }
}

/* Cut 1 is held, cut 2 was given up, cut 3 is held. */
static void
degrade_once(void)
{
    rig_first_cut();
    rig_dirty(0);
    rig_look_after(10);
    rig_degrade(0, -ENOSPC);
    rig_finish_cut(); /* and the next one begins at once */
    rig_finish_cut();
    assert_int_equal(rig_kept().holds, 3);
    assert_true(store_is_in_place(rig->store));
    g_string_truncate(rig->journal, 0);
}

#define LINE3 "3 2023-11-14T22:13:20Z vda vdb\n"

static void
test_it_runs_before_the_next_cut_and_once(void **state)
{
    (void)state;
    set_hook("true");
    degrade_once();
    assert_ran("");
    rig_dirty(0);
    rig_look_after(10);
    rig_assert_journal(""); /* not even reserved */
    assert_int_equal(rig_kept().advancing, 0);
    wait_for_hook();
    assert_ran(LINE3);
    rig_assert_journal("cut a4h3\nWEIR_CUT_BEGUN 4\nallow vda a4h3\n");
    assert_string_equal(rig_figures().before_error, "");
    /* Cut 4 is whole, and was no trouble. */
    rig_finish_cut();
    rig_dirty(0);
    rig_look_after(10);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_ran(LINE3);
}

static void
test_it_is_not_run_again_for_what_is_still_held(void **state)
{
    (void)state;
    set_hook("true");
    degrade_once();
    rig->refuses = true;
    rig_dirty(0);
    rig_look_after(10);
    wait_for_hook();
    rig_look_after(1);
    assert_int_equal(rig_figures().state, CUTS_REST);
    rig->refuses = false;
    rig_look_after(1);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_ran(LINE3);
}

static void
test_failure_is_shown_and_stops_nothing(void **state)
{
    (void)state;
    set_hook("echo no room there >&2; exit 4");
    degrade_once();
    rig_dirty(0);
    rig_look_after(10);
    wait_for_hook();
    assert_string_equal(rig_figures().before_error,
                        "exit status 4: no room there");
    assert_int_equal(rig_figures().hook_failures, 0);
    rig_assert_journal("WEIR_HOOK_FAILED 3\ncut a4h3\nWEIR_CUT_BEGUN 4\n"
                       "allow vda a4h3\n");
}

static void
test_one_that_hangs_has_a_minute(void **state)
{
    (void)state;
    set_hook("tail -f /dev/null");
    degrade_once();
    rig_dirty(0);
    rig_look_after(10);
    rig_look_after(59);
    assert_int_equal(rig_figures().state, CUTS_BEFORE);
    rig_look_after(1);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_false(rig_figures().is_hook_running);
    assert_string_equal(rig_figures().before_error, "not done after 60 s");
    /* Or it is taken away. */
    rig_degrade(0, -ENOSPC);
    rig_finish_cut();
    rig_finish_cut();
    rig_dirty(0);
    rig_look_after(10);
    assert_int_equal(rig_figures().state, CUTS_BEFORE);
    rig_set(NULL, "before-degrade", "none");
    cuts_look(rig->cuts);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
}

static void
test_what_is_pinned_needs_none(void **state)
{
    (void)state;
    set_hook("true");
    degrade_once();
    rig_set(NULL, "on-cut", "true");
    rig_dirty(0);
    cuts_look(rig->cuts);
    while (rig_figures().is_hook_running) {
        g_main_context_iteration(NULL, TRUE);
    }
    assert_int_equal(rig_kept().pinned, 3);
    rig_look_after(10);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_ran("");
}

/* What the cut kept, of a limit of 8 clusters; nothing was given up. */
static void
hold_a_cut_that_kept(unsigned clusters)
{
    Disk *disk = rig_disk_of(0);

    disk->aside = aside_new(disk->size_bytes, disk->cluster_bits, 8 * CLUSTER);
    rig_set(NULL, "buffer-size", "512K");
    rig_first_cut();
    rig_dirty(0);
    rig_look_after(10);
    aside_begin(disk->aside);
    for (unsigned i = 0; i < clusters; i++) {
        aside_put(disk->aside, i, aside_take(disk->aside));
    }
    rig_finish_cut();
    aside_end(disk->aside);
    assert_int_equal(rig_kept().holds, 2);
    rig_dirty(0);
    rig_look_after(10);
}

static void
test_a_cut_that_needed_much_room_is_reason_enough(void **state)
{
    (void)state;
    set_hook("true");
    hold_a_cut_that_kept(7);
    wait_for_hook();
    assert_ran("2 2023-11-14T22:13:20Z vda vdb\n");
}

static void
test_a_cut_that_needed_less_is_none(void **state)
{
    (void)state;
    set_hook("true");
    hold_a_cut_that_kept(6);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_ran("");
}

static void
test_who_leaves_the_group_is_not_in_it(void **state)
{
    (void)state;
    set_hook("tail -f /dev/null");
    degrade_once();
    rig_dirty(0);
    rig_look_after(10);
    assert_int_equal(rig_figures().state, CUTS_BEFORE);
    rig_set("vda", "group", "no");
    rig_set("vdb", "group", "no");
    cuts_look(rig->cuts);
    assert_int_equal(rig_figures().state, CUTS_REST);
    assert_false(rig_figures().is_hook_running);
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, cuts_rig_setup, cuts_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_it_runs_before_the_next_cut_and_once),
        TEST(test_it_is_not_run_again_for_what_is_still_held),
        TEST(test_failure_is_shown_and_stops_nothing),
        TEST(test_one_that_hangs_has_a_minute),
        TEST(test_what_is_pinned_needs_none),
        TEST(test_a_cut_that_needed_much_room_is_reason_enough),
        TEST(test_a_cut_that_needed_less_is_none),
        TEST(test_who_leaves_the_group_is_not_in_it),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
