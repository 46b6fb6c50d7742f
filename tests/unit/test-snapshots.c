/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-snapshots.c - how snapshots are made: the hooks, the order, the failures
 *
 * The commands are real, and so is their environment.
 */
#include "snapshots-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char *
file_of(const char *name)
{
    return g_build_filename(rig->fixture->dir, name, NULL);
}

/* @key adds a line to `ran`, and then does @more. */
static void
set_hook(const char *key, const char *word, const char *more)
{
    g_autofree char *ran = file_of("ran");
    g_autofree char *command = g_strdup_printf(
        "echo %s $WEIR_SNAPSHOT $WEIR_DISKS ${WEIR_STORE##*/}$WEIR_CUT >>%s; "
        "%s",
        word, ran, more);

    rig_set(key, command);
}

static void
assert_ran(const char *lines)
{
    g_autofree char *ran = file_of("ran");
    g_autofree char *text = NULL;

    if (!g_file_get_contents(ran, &text, NULL, NULL)) {
        text = g_strdup("");
    }
    assert_string_equal(text, lines);
}

static struct SnapshotsFigures
figures(void)
{
    struct SnapshotsFigures now;

    snapshots_figures(rig->snapshots, &now);
    return now;
}

static void
test_without_hooks_it_is_made_at_once(void **state)
{
    Snapshot snapshot;

    (void)state;
    rig_create("a");
    rig_assert_journal("prepared a\ninstant\nrecord a\n"
                       "WEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_true(snapshots_is_quiet(rig->snapshots));
    assert_true(snapshot_list_find(rig->store->snapshots, "a", &snapshot));
    assert_int_equal(snapshot.wall_us, rig->wall_us);
    assert_false(snapshot.is_frozen);
    assert_string_equal(snapshot.reason, "user");
    rig_create(NULL);
    rig_assert_list("a t1700000000");
}

static void
test_instant_is_between_freeze_and_thaw(void **state)
{
    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_assert_journal("prepared a\n"); /* nothing slow while it is frozen */
    assert_true(figures().is_busy);
    rig_finish();
    rig_assert_journal("instant\nrecord a frozen\n"
                       "WEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n");
    assert_false(figures().is_busy);
    assert_string_equal(figures().hook_error, "");
}

static void
test_failing_freeze_costs_only_the_promise(void **state)
{
    (void)state;
    set_hook("on-freeze", "freeze", "echo no agent >&2; false");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_finish();
    rig_assert_journal("prepared a\nWEIR_HOOK_FAILED on-freeze\ninstant\n"
                       "record a\nWEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n");
    assert_string_equal(figures().hook_error,
                        "on-freeze: exit status 1: no agent");
    rig_set("on-freeze", "true");
    rig_create("b");
    rig_finish();
    assert_string_equal(figures().hook_error, "");
}

static void
test_freeze_that_hangs_is_stopped(void **state)
{
    (void)state;
    rig_set("on-freeze", "tail -f /dev/null");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_look_after(10 * SECOND - 1);
    rig_assert_journal("prepared a\n");
    rig_look_after(1);
    rig_finish();
    rig_assert_journal("WEIR_HOOK_FAILED on-freeze\ninstant\nrecord a\n"
                       "WEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_ran("thaw a vda vdb vm\n");
    assert_string_equal(figures().hook_error, "on-freeze: stopped after 10 s");
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

static void
test_freeze_that_does_not_end_is_killed(void **state)
{
    g_autofree char *fifo = NULL;
    int fd = open_fifo(&fifo);
    g_autofree char *command =
        g_strdup_printf("trap '' TERM; echo up >%s; tail -f /dev/null", fifo);
    char text[8];

    (void)state;
    rig_set("on-freeze", command);
    rig_create("a");
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    rig_look_after(10 * SECOND);
    rig_look_after(SECOND - 1);
    rig_assert_journal("prepared a\n");
    rig_look_after(1);
    rig_assert_journal("WEIR_HOOK_FAILED on-freeze\ninstant\nrecord a\n"
                       "WEIR_SNAPSHOT_CREATED a\nmade a\n");
    close(fd);
}

static void
test_command_of_thaw_is_that_of_the_freeze(void **state)
{
    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_set("on-thaw", "none");
    rig_set("on-freeze", "none");
    rig_finish();
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n");
}

static void
test_thaw_is_tried_three_times(void **state)
{
    (void)state;
    rig_set("on-freeze", "true");
    set_hook("on-thaw", "thaw", "false");
    rig_create("a");
    while (rig->answers > 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_string_truncate(rig->journal, 0);
    for (unsigned i = 1; i <= 3; i++) {
        assert_true(figures().is_busy);
        while (strlen(rig->journal->str) == 0) {
            g_main_context_iteration(NULL, TRUE);
        }
        rig_assert_journal("WEIR_HOOK_FAILED on-thaw\n");
        rig_look_after(SECOND - 1);
        rig_look_after(1);
    }
    assert_false(figures().is_busy);
    assert_ran("thaw a vda vdb vm\nthaw a vda vdb vm\nthaw a vda vdb vm\n");
    assert_string_equal(figures().hook_error, "on-thaw: exit status 1");
}

static void
test_thaw_that_hangs_is_stopped(void **state)
{
    (void)state;
    rig_set("on-freeze", "true");
    rig_set("on-thaw", "tail -f /dev/null");
    rig_create("a");
    while (rig->answers > 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    rig_create("b"); /* waits */
    rig_set("on-thaw", "true");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(rig->answers, 1);
        rig_look_after(60 * SECOND);
        rig_look_after(SECOND);
    }
    rig_finish();
    rig_assert_list("a b");
}

static void
test_others_wait_for_their_turn(void **state)
{
    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_create("b");
    rig_create("c");
    rig_assert_journal("prepared a\n");
    rig_finish();
    rig_assert_list("a b c");
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n"
               "freeze b vda vdb vm\nthaw b vda vdb vm\n"
               "freeze c vda vdb vm\nthaw c vda vdb vm\n");
}

static void
test_what_cannot_be_prepared_is_told(void **state)
{
    (void)state;
    rig->refuses = true;
    set_hook("on-freeze", "freeze", "true");
    rig_create("a");
    rig_assert_journal("refused\nWEIR_SNAPSHOT_FAILED a\nnot made: no room\n");
    assert_ran("");
    rig->refuses = false;
    rig_create("b");
    rig_finish();
    rig_assert_list("b");
}

/* Thawed all the same, and put away as one that was deleted. */
static void
test_instant_that_fails_is_taken_back(void **state)
{
    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    rig->instant_error = -EIO;
    rig_create("a");
    rig_finish();
    rig_assert_journal(
        "prepared a\ninstant\nrecord a frozen damaged\ndropped 1\n"
        "WEIR_SNAPSHOT_FAILED a\nnot made: snapshot a: the disks cannot be "
        "synced: Input/output error\n");
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n");
    rig_assert_list("");
    rig_await_reaped("reaped 1\n");
    assert_int_equal(points_count(rig->store->disks[0]->points), 0);
}

static void
test_record_that_fails_keeps_nothing_live(void **state)
{
    (void)state;
    rig->forgets = true;
    rig_create("a");
    rig_assert_journal("prepared a\ninstant\nrecord a\nWEIR_SNAPSHOT_FAILED a\n"
                       "not made: snapshot a: no record\n");
    rig_assert_list("");
    assert_false(points_is_live(rig->store->disks[0]->points, 1));
}

static void
test_discards_come_before_the_freeze(void **state)
{
    Disk *disk = store_disk(rig->store, "vda");

    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    atomic_store(&disk->unpunched_bytes, 1);
    rig_create("a");
    for (unsigned i = 0; i < 3; i++) {
        g_main_context_iteration(NULL, TRUE);
    }
    rig_assert_journal("prepared a\n");
    assert_ran("");
    atomic_store(&disk->unpunched_bytes, 0);
    rig->discards = 2; /* the last ones before the guest was frozen */
    rig_finish();
    rig_assert_journal("not now\nnot now\ninstant\nrecord a frozen\n"
                       "WEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_ran("freeze a vda vdb vm\nthaw a vda vdb vm\n");
}

static void
test_discards_that_do_not_end_are_given_up(void **state)
{
    Disk *disk = store_disk(rig->store, "vda");

    (void)state;
    set_hook("on-freeze", "freeze", "true");
    set_hook("on-thaw", "thaw", "true");
    atomic_store(&disk->unpunched_bytes, 1);
    rig_create("a");
    rig->now_us += 30 * SECOND;
    rig_finish();
    rig_assert_journal("prepared a\nabandoned a\nWEIR_SNAPSHOT_FAILED a\n"
                       "not made: snapshot a: the guest discards all the time: "
                       "try again when it has ended\n");
    assert_ran("");
    atomic_store(&disk->unpunched_bytes, 0);
    rig->discards = 1000;
    rig_create("b");
    rig_create("c");
    while (rig->discards == 1000) {
        g_main_context_iteration(NULL, TRUE);
    }
    rig->now_us += 10 * SECOND;
    while (rig->answers == 2) {
        g_main_context_iteration(NULL, TRUE);
    }
    rig->discards = 0;
    rig_finish();
    assert_ran("freeze b vda vdb vm\nthaw b vda vdb vm\n"
               "freeze c vda vdb vm\nthaw c vda vdb vm\n");
    rig_assert_list("c");
}

static void
test_stop_gives_up_what_was_not_yet(void **state)
{
    (void)state;
    rig_set("on-freeze", "tail -f /dev/null");
    set_hook("on-thaw", "thaw", "true");
    rig_create("a");
    rig_create("b");
    g_string_truncate(rig->journal, 0);
    snapshots_stop(rig->snapshots);
    rig_assert_journal(
        "abandoned a\nWEIR_SNAPSHOT_FAILED a\nnot made: no snapshot: the "
        "daemon ends; try again when another one is there\n"
        "WEIR_SNAPSHOT_FAILED b\nnot made: no snapshot: the daemon ends; try "
        "again when another one is there\n");
    assert_false(snapshots_is_quiet(rig->snapshots));
    rig_create("c");
    rig_finish();
    assert_ran("thaw a vda vdb vm\n");
    rig_assert_list("");
}

/* It is not cut off by the end of the daemon. */
static void
test_end_leaves_no_guest_frozen(void **state)
{
    g_autofree char *ran = file_of("ran");

    (void)state;
    rig_set("on-freeze", "tail -f /dev/null");
    set_hook("on-thaw", "thaw", "echo said >&2; echo done >>$OUT");
    g_setenv("OUT", ran, TRUE);
    rig_create("a");
    rig_end();
    assert_ran("thaw a vda vdb vm\ndone\n");
}

static void
test_at_rest_there_is_nobody_to_be_frozen(void **state)
{
    (void)state;
    rig_end();
    rig_start(false);
    set_hook("on-freeze", "freeze", "true");
    rig_create("a");
    rig_assert_journal("at rest a\nWEIR_SNAPSHOT_CREATED a\nmade a\n");
    assert_ran("");
    rig_delete("a");
    rig_assert_journal("dropped 1\nWEIR_SNAPSHOT_DELETED a\n");
    rig_await_reaped("reaped 1\n");
}

#define TEST(NAME)                                             \
    cmocka_unit_test_setup_teardown(NAME, snapshots_rig_setup, \
                                    snapshots_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_without_hooks_it_is_made_at_once),
        TEST(test_instant_is_between_freeze_and_thaw),
        TEST(test_failing_freeze_costs_only_the_promise),
        TEST(test_freeze_that_hangs_is_stopped),
        TEST(test_freeze_that_does_not_end_is_killed),
        TEST(test_command_of_thaw_is_that_of_the_freeze),
        TEST(test_thaw_is_tried_three_times),
        TEST(test_thaw_that_hangs_is_stopped),
        TEST(test_others_wait_for_their_turn),
        TEST(test_what_cannot_be_prepared_is_told),
        TEST(test_instant_that_fails_is_taken_back),
        TEST(test_record_that_fails_keeps_nothing_live),
        TEST(test_discards_come_before_the_freeze),
        TEST(test_discards_that_do_not_end_are_given_up),
        TEST(test_stop_gives_up_what_was_not_yet),
        TEST(test_end_leaves_no_guest_frozen),
        TEST(test_at_rest_there_is_nobody_to_be_frozen),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
