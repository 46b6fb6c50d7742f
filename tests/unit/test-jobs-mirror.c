/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs-mirror.c - a mirror: ready, completed at an instant, and what stands
 * in its way
 */
#include "jobs-rig.h"

#include <errno.h>

/* Two passes: what was there, and what was written meanwhile. */
static void
test_ready_when_the_bulk_is_over(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_FULL));
    rig_assert_journal("j created\nadd j\nj running\ngo j\nstarted\n");
    rig_meet("j");
    (void)disk_map_seal(rig_relay("j")->config.map);
    rig_write(7, 3); /* while the first pass is under way */
    rig_settle_some("j", 127);
    rig_assert_journal("");
    rig_settle_some("j", 1);
    rig_assert_journal("");
    rig_settle("j");
    rig_assert_journal("j ready\nBLOCK_JOB_READY j 131/131\n");
    assert_int_equal(rig_left("j"), 0);
    rig_write(9, 1);
    assert_int_equal(rig_left("j"), 1);
}

static void
test_ready_needs_a_target(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_NONE));
    rig_look_after(SECOND);
    assert_string_equal(rig_status("j"), "running");
    rig_meet("j");
    assert_string_equal(rig_status("j"), "ready");
}

static void
get_ready(enum JobSync sync)
{
    rig_start(rig_spec(JOB_MIRROR, "j", sync));
    rig_meet("j");
    rig_settle("j");
    rig_settle("j");
    assert_string_equal(rig_status("j"), "ready");
    rig_forget_journal();
}

/* It asks for its instant, which is the test's to give. */
static void
complete_later(void)
{
    rig->lets_wait = true;
    assert_true(jobs_complete(rig->jobs, "j", NULL));
}

static void
test_completed_at_an_instant(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    rig_write(1, 2);
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_assert_journal("instant s1\ncut j\n");
    assert_true(jobs_holds_snapshot(rig->jobs, 1));
    rig_write(2, 3); /* after the instant: it is marked, and sent as it was */
    rig_settle("j"); /* the relay's own are over */
    rig_assert_journal("allow j s1\n");
    rig_write(6, 1);
    rig_settle("j");
    rig_assert_journal("end j\n");
    rig_ended("j");
    rig_assert_journal("forget j\nj waiting\nj pending\n"
                       "BLOCK_JOB_COMPLETED j 136/136\nj concluded\n"
                       "drop s1\nj null\n");
}

/* All that was overwritten since the instant is in what is sealed last. */
static void
test_marks_are_before_the_last_seal(void **state)
{
    DiskMap *map;

    (void)state;
    get_ready(JOB_FULL);
    complete_later();
    map = rig_relay("j")->config.map;
    rig_assert_journal("asked\n");
    rig_instant();
    rig_write(5, 2);
    (void)disk_map_seal(map);
    rig_relay("j")->config.is_cut = true;
    rig_settle("j"); /* 5 and 6, newer than the instant: clean, for now */
    rig_assert_journal("instant s1\ncut j\nallow j s1\n");
    assert_int_equal(disk_map_sealed_seq(map), disk_map_open_seq(map) - 1);
    assert_int_equal(rig_left("j"), 2);
}

static void
test_no_instant_is_tried_again(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    rig->refuses = true;
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_look_after(SECOND / 2);
    rig_assert_journal("");
    rig->refuses = false;
    rig_look_after(SECOND / 2);
    rig_assert_journal("instant s1\ncut j\n");
}

/* The snapshot cannot be read: another one. */
static void
test_lost_instant_is_another(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_write(1, 1);
    rig_settle("j");
    rig_relay("j")->figures.lost_snapshot = 1;
    rig_settle("j");
    rig_assert_journal("instant s1\ncut j\nallow j s1\ndrop s1\nuncut j\n");
    rig_look_after(SECOND);
    rig_assert_journal("instant s2\ncut j\n");
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_hidden(), 0);
}

/* What is marked for it finds no room: no reason to give the mirror up. */
static void
test_marks_that_cannot_be_kept_are_made_again(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    complete_later();
    rig_instant();
    rig->lets_wait = false;
    rig_write(5, 2);
    (void)disk_map_seal(rig_relay("j")->config.map);
    rig_forget_journal();
    fault_io_arm(&rig->fault, 2, true, -ENOSPC); /* behind the disk's sync */
    rig_settle("j");
    assert_true(fault_io_disarm(&rig->fault));
    rig_assert_journal("drop s1\nuncut j\n");
    assert_string_equal(rig_status("j"), "ready");
    rig_look_after(SECOND);
    rig_assert_journal("instant s2\ncut j\n");
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_hidden(), 0);
}

static void
test_soft_cancel_completes(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    assert_true(jobs_cancel(rig->jobs, "j", true, NULL));
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    rig_assert_journal("instant s1\ncut j\nend j\nforget j\nj waiting\n"
                       "j pending\nBLOCK_JOB_COMPLETED j 128/128\n"
                       "j concluded\ndrop s1\nj null\n");
}

static void
test_forced_cancel_does_not(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    rig_write(0, 1);
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_ended("j");
    rig_assert_journal("j aborting\nend j\nforget j\n"
                       "BLOCK_JOB_CANCELLED j 128/129\nj concluded\nj null\n");
}

static void
test_soft_cancel_before_ready_is_forced(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_FULL));
    rig_forget_journal();
    assert_true(jobs_cancel(rig->jobs, "j", true, NULL));
    rig_assert_journal("j aborting\nend j\n");
}

/* While it completes, and while its instant is being made. */
static void
test_cancelled_while_it_completes(void **state)
{
    (void)state;
    get_ready(JOB_FULL);
    complete_later();
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_ended("j");
    rig_assert_journal("asked\nj aborting\nend j\nforget j\n");
    rig_instant();
    rig_assert_journal("instant s1\ndrop s1\nBLOCK_JOB_CANCELLED j 128/128\n"
                       "j concluded\nj null\n");
    rig_look_after(SECOND);
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_complete_in_standby_waits(void **state)
{
    GError *error = NULL;

    (void)state;
    rig_start(rig_spec(JOB_MIRROR, "k", JOB_FULL));
    rig_assert_refused(jobs_complete(rig->jobs, "k", &error), &error,
                       "Job 'k' in state 'running' cannot accept command verb "
                       "'complete'");
    get_ready(JOB_FULL);
    assert_true(jobs_pause(rig->jobs, "j", NULL));
    assert_string_equal(rig_status("j"), "standby");
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_look_after(SECOND);
    rig_assert_journal("j standby\npause j\n");
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_assert_journal("j ready\ngo j\ninstant s1\ncut j\n");
}

/*
 * Bitmaps
 */
static void
complete_now(void)
{
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_incremental_takes_what_it_brings(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_INCREMENTAL));
    assert_int_equal(rig_left("j"), 6);
    rig_write(10, 2);
    assert_int_equal(rig_left("j"), 8);
    rig_meet("j");
    rig_settle("j");
    rig_settle("j");
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_write(20, 3); /* after the instant */
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_dirty("b"), 3);
}

static void
test_incremental_that_is_cancelled_takes_nothing(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    get_ready(JOB_INCREMENTAL);
    rig_write(10, 2);
    complete_later(); /* N began anew */
    rig_write(20, 3);
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_ended("j");
    rig_instant();
    rig_look_after(0);
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_dirty("b"), 11);
}

static void
test_differential_takes_nothing(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    get_ready(JOB_DIFFERENTIAL);
    rig_write(10, 2);
    complete_now();
    assert_int_equal(rig_dirty("b"), 8);
    assert_false(rig_is_busy("b"));
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_ready_when_the_bulk_is_over),
        TEST(test_ready_needs_a_target),
        TEST(test_completed_at_an_instant),
        TEST(test_marks_are_before_the_last_seal),
        TEST(test_no_instant_is_tried_again),
        TEST(test_lost_instant_is_another),
        TEST(test_marks_that_cannot_be_kept_are_made_again),
        TEST(test_soft_cancel_completes),
        TEST(test_forced_cancel_does_not),
        TEST(test_soft_cancel_before_ready_is_forced),
        TEST(test_cancelled_while_it_completes),
        TEST(test_complete_in_standby_waits),
        TEST(test_incremental_takes_what_it_brings),
        TEST(test_incremental_that_is_cancelled_takes_nothing),
        TEST(test_differential_takes_nothing),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
