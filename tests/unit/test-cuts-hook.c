/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-cuts-hook.c - the hook of a whole cut, and what restarts leave of cuts
 *
 * The commands are real, and so is their environment.
 */
#include "cuts-rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The hook
 */
static char *
file_of(const char *name)
{
    return g_build_filename(rig->fixture->dir, name, NULL);
}

/* Writes what it was given to `ran`, and fails while `bad` is there. */
static void
set_hook(void)
{
    g_autofree char *ran = file_of("ran");
    g_autofree char *bad = file_of("bad");
    g_autofree char *command =
        g_strdup_printf("echo $WEIR_CUT $WEIR_TIME $WEIR_STORE $WEIR_DISKS >>%s"
                        "; echo first >&2; echo last word >&2; test ! -e %s",
                        ran, bad);

    assert_true(g_file_set_contents(bad, "", 0, NULL));
    rig_set(NULL, "on-cut", command);
}

static void
mend_hook(void)
{
    g_autofree char *bad = file_of("bad");

    assert_int_equal(unlink(bad), 0);
}

static void
wait_for_hook(void)
{
    assert_true(rig_figures().is_hook_running);
    while (rig_figures().is_hook_running) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void
assert_ran(const char *lines)
{
    g_autofree char *ran = file_of("ran");
    g_autofree char *text = NULL;

    assert_true(g_file_get_contents(ran, &text, NULL, NULL));
    assert_string_equal(text, lines);
}

static void
test_hook_holds_the_next_cut_until_it_succeeds(void **state)
{
    g_autofree char *line = g_strdup_printf(
        "1 2023-11-14T22:13:20Z %s vda vdb\n", rig->store->path);
    g_autofree char *twice = g_strconcat(line, line, NULL);
    g_autofree char *thrice = g_strconcat(twice, line, NULL);

    (void)state;
    set_hook();
    cuts_look(rig->cuts);
    g_string_truncate(rig->journal, 0);
    rig_finish_cut();
    rig_assert_journal("end vda a1h0\nend vdb a1h0\nWEIR_CUT_WHOLE 1\n");
    wait_for_hook();
    rig_assert_journal("WEIR_HOOK_FAILED 1\n");
    assert_string_equal(rig_figures().hook_error, "exit status 1: last word");
    assert_int_equal(rig_figures().hook_failures, 1);
    rig_dirty(0);
    rig->now_us += SECOND - 1;
    cuts_look(rig->cuts);
    assert_false(rig_figures().is_hook_running);
    rig->now_us++;
    cuts_look(rig->cuts);
    wait_for_hook();
    assert_int_equal(rig_figures().hook_failures, 2);
    rig_assert_journal("WEIR_HOOK_FAILED 1\n");
    assert_ran(twice);
    assert_int_equal(rig_kept().pinned, 0);

    mend_hook();
    rig_look_after(1);
    assert_false(rig_figures().is_hook_running);
    rig_look_after(100);
    wait_for_hook();
    assert_ran(thrice);
    assert_int_equal(rig_figures().hook_failures, 0);
    assert_string_equal(rig_figures().hook_error, "");
    assert_int_equal(rig_kept().pinned, 1);
    assert_int_equal(rig_kept().pinned_us, 1700000000 * SECOND);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
}

static void
test_hook_is_tried_again_within_a_minute(void **state)
{
    (void)state;
    rig_set(NULL, "on-cut", "kill -9 $$");
    cuts_look(rig->cuts);
    rig_finish_cut();
    for (unsigned i = 1; i < 10; i++) {
        wait_for_hook();
        assert_int_equal(rig_figures().hook_failures, i);
        assert_string_equal(rig_figures().hook_error, "killed by signal 9");
        rig_look_after(60);
    }
    wait_for_hook();
    /* Without the setting there is nothing to wait for. */
    rig_set(NULL, "on-cut", "none");
    rig_dirty(0);
    g_string_truncate(rig->journal, 0);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
    assert_int_equal(rig_figures().hook_failures, 0);
    assert_int_equal(rig_kept().pinned, 0);
}

/* A FIFO, and our end of it. */
static int
open_fifo(char **path)
{
    int fd;

    *path = file_of("fifo");
    assert_int_equal(mkfifo(*path, 0600), 0);
    fd = open(*path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* More than a pipe holds, and a child that keeps it open. */
static void
test_hook_may_say_much_and_leave_somebody_behind(void **state)
{
    g_autofree char *fifo = NULL;
    int fd = open_fifo(&fifo);
    g_autofree char *command = g_strdup_printf(
        "head -c 1000000 /dev/zero | tr '\\0' x >&2; cat <%s >/dev/null & "
        "echo >&2; echo end >&2; exit 3",
        fifo);

    (void)state;
    rig_set(NULL, "on-cut", command);
    cuts_look(rig->cuts);
    rig_finish_cut();
    wait_for_hook();
    assert_string_equal(rig_figures().hook_error, "exit status 3: end");
    close(fd); /* and the child ends */
}

/* It would hold up every cut to come. */
static void
test_hook_that_hangs_can_be_taken_away(void **state)
{
    (void)state;
    rig_set(NULL, "on-cut", "tail -f /dev/null");
    cuts_look(rig->cuts);
    rig_finish_cut();
    assert_true(rig_figures().is_hook_running);
    rig_set(NULL, "on-cut", "exit 0");
    cuts_look(rig->cuts);
    wait_for_hook();
    assert_int_equal(rig_kept().pinned, 1);
    rig_set(NULL, "on-cut", "tail -f /dev/null");
    rig_dirty(0);
    rig_look_after(10);
    rig_send(0);
    cuts_look(rig->cuts);
    assert_true(rig_figures().is_hook_running);
    rig_set(NULL, "on-cut", "none");
    cuts_look(rig->cuts);
    assert_false(rig_figures().is_hook_running);
    assert_int_equal(rig_figures().state, CUTS_REST);
    assert_int_equal(rig_kept().pinned, 1);
}

/* A process of the hook's own, too: until nobody holds the FIFO any more. */
static void
test_hook_ends_with_the_daemon(void **state)
{
    g_autofree char *fifo = NULL;
    int ours = open_fifo(&fifo);
    int fd = open(fifo, O_RDONLY | O_CLOEXEC);
    g_autofree char *command = g_strdup_printf(
        "exec 3>%s; (echo up >&3; tail -f /dev/null) & wait", fifo);
    char text[8];

    (void)state;
    rig_set(NULL, "on-cut", command);
    cuts_look(rig->cuts);
    rig_finish_cut();
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    close(ours);
    rig_crash(rig);
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    close(fd);
    rig_start(rig);
}

/*
 * Restarts
 */
static void
test_abandoned_number_is_skipped(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    rig_look_after(10);
    assert_int_equal(rig_kept().advancing, 2);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig_kept().advancing, 2);
    assert_int_equal(rig_kept().holds, 1);
    assert_false(store_is_in_place(rig->store));
    rig_dirty(0);
    cuts_look(rig->cuts);
    assert_true(g_str_has_prefix(rig->journal->str, "cut a3h1\n"));
    /* Whole at the targets, and nobody wrote that down. */
    rig_send(0);
    rig_send(1);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig_kept().holds, 1);
    /* Nothing differs, but nobody knows which cut the targets are. */
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().holds, 4);
    assert_int_equal(rig_kept().advancing, 0);
    assert_true(store_is_in_place(rig->store));
}

static void
test_hook_that_was_owed_runs_first(void **state)
{
    (void)state;
    set_hook();
    mend_hook();
    cuts_look(rig->cuts);
    rig_finish_cut();
    rig_crash(rig);
    rig_start(rig);
    rig_dirty(0);
    cuts_look(rig->cuts);
    assert_int_equal(rig_figures().state, CUTS_HOOK);
    rig_assert_journal("");
    wait_for_hook();
    assert_int_equal(rig_kept().pinned, 1);
    assert_true(g_str_has_prefix(rig->journal->str, "cut a2h1\n"));
    /* In mid-advance there is nothing to pin. */
    rig_crash(rig);
    rig_start(rig);
    rig_dirty(0);
    cuts_look(rig->cuts);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
}

static void
test_clean_end_keeps_what_is_held(void **state)
{
    (void)state;
    rig_first_cut();
    cuts_free(rig->cuts);
    assert_true(store_close_clean(rig->store, NULL));
    store_free(rig->store);
    rig_start(rig);
    assert_true(store_is_in_place(rig->store));
    rig_look_after(100);
    rig_assert_journal("");
}

static void
test_drain_waits_for_the_hook(void **state)
{
    (void)state;
    set_hook();
    cuts_look(rig->cuts);
    rig_finish_cut();
    assert_int_equal(cuts_hurry(rig->cuts), 1);
    wait_for_hook();
    assert_false(cuts_is_done(rig->cuts, 1));
    mend_hook();
    rig_look_after(1);
    wait_for_hook();
    assert_true(cuts_is_done(rig->cuts, 1));
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, cuts_rig_setup, cuts_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_hook_holds_the_next_cut_until_it_succeeds),
        TEST(test_hook_is_tried_again_within_a_minute),
        TEST(test_hook_may_say_much_and_leave_somebody_behind),
        TEST(test_hook_that_hangs_can_be_taken_away),
        TEST(test_hook_ends_with_the_daemon),
        TEST(test_abandoned_number_is_skipped),
        TEST(test_hook_that_was_owed_runs_first),
        TEST(test_clean_end_keeps_what_is_held),
        TEST(test_drain_waits_for_the_hook),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
