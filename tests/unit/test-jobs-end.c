/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs-end.c - errors, groups, and what is left of a bitmap
 */
#include "jobs-rig.h"

#include <errno.h>

/*
 * The table of a backup's bitmap: S of 6, N of 7, both of 3
 */
enum Ending { SUCCESS, CANCELLED, FAILED };

static unsigned
end_with(enum JobBitmapMode mode, enum JobSync sync, enum Ending ending)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", sync);

    if (!spec.bitmap) {
        spec.bitmap = g_strdup("b");
    }
    spec.has_mode = true;
    spec.mode = mode;
    assert_true(store_bitmap_clear(rig->store, rig_vda(), "b", NULL));
    rig_write(0, 6);
    rig_start(spec);
    rig_write(3, 7);
    rig_meet("j");
    rig_settle_some("j", 1);
    if (ending == SUCCESS) {
        rig_settle("j");
    } else if (ending == CANCELLED) {
        assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    } else {
        rig_halt("j", true, EIO);
    }
    assert_int_equal(rig_dirty("b"), 6);
    assert_true(rig_is_busy("b"));
    rig_ended("j");
    assert_false(rig_is_busy("b"));
    assert_string_equal(rig_status("j"), "gone");
    return rig_dirty("b");
}

static void
test_truth_table(void **state)
{
    static const struct {
        enum JobBitmapMode mode;
        enum JobSync sync;
        unsigned success, failure;
    } rows[] = {
        {JOB_ON_SUCCESS, JOB_INCREMENTAL, 7, 10},
        {JOB_ON_SUCCESS, JOB_BITMAP, 7, 10},
        {JOB_NEVER, JOB_BITMAP, 10, 10},
        {JOB_ALWAYS, JOB_BITMAP, 7, 9}, /* 1 to 5, and N */
        {JOB_ON_SUCCESS, JOB_FULL, 7, 10},
        {JOB_ALWAYS, JOB_FULL, 7, 127},
    };

    (void)state;
    rig_bitmap("b");
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        assert_int_equal(end_with(rows[i].mode, rows[i].sync, SUCCESS),
                         rows[i].success);
        assert_int_equal(end_with(rows[i].mode, rows[i].sync, CANCELLED),
                         rows[i].failure);
        assert_int_equal(end_with(rows[i].mode, rows[i].sync, FAILED),
                         rows[i].failure);
    }
}

/* All was copied, and yet it is none. */
static void
test_cancelled_when_pending(void **state)
{
    static const struct {
        enum JobBitmapMode mode;
        unsigned left;
    } rows[] = {{JOB_ON_SUCCESS, 10}, {JOB_NEVER, 10}, {JOB_ALWAYS, 7}};

    (void)state;
    rig_bitmap("b");
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_BITMAP);

        spec.has_mode = spec.waits_to_finalize = true;
        spec.mode = rows[i].mode;
        assert_true(store_bitmap_clear(rig->store, rig_vda(), "b", NULL));
        rig_write(0, 6);
        rig_start(spec);
        rig_write(3, 7);
        rig_finish("j");
        assert_string_equal(rig_status("j"), "pending");
        rig_forget_journal();
        assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
        rig_assert_journal("j aborting\nBLOCK_JOB_CANCELLED j 6/6\n"
                           "j concluded\nj null\n");
        assert_int_equal(rig_dirty("b"), rows[i].left);
    }
}

/* Who looks later tells the two apart by a member, not by words; so does the next
 * life. */
static bool
says_cancelled(void)
{
    g_autoptr(JsonArray) all = jobs_status(rig->jobs);

    return json_object_get_boolean_member(json_array_get_object_element(all, 0),
                                          "cancelled");
}

static void
test_says_whether_it_was_cancelled(void **state)
{
    static const enum Ending endings[] = {SUCCESS, CANCELLED, FAILED};

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(endings); i++) {
        JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

        spec.waits_to_dismiss = true;
        rig_start(spec);
        rig_meet("j");
        assert_false(says_cancelled());
        if (endings[i] == SUCCESS) {
            rig_finish("j");
        } else if (endings[i] == CANCELLED) {
            assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
            rig_ended("j");
        } else {
            rig_halt("j", true, ECANCELED); /* its words are the same */
            rig_ended("j");
        }
        assert_string_equal(rig_status("j"), "concluded");
        assert_int_equal(says_cancelled(), endings[i] == CANCELLED);
        rig_restart();
        assert_int_equal(says_cancelled(), endings[i] == CANCELLED);
        assert_true(jobs_dismiss(rig->jobs, "j", NULL));
    }
}

/*
 * Groups
 */
static void
start_group(bool is_grouped)
{
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start_two(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), is_grouped);
    rig_write(10, 2);
    rig_forget_journal();
}

static void
test_group_ends_together(void **state)
{
    (void)state;
    start_group(true);
    rig_finish("j");
    rig_look_after(SECOND);
    rig_assert_journal("end j\nforget j\nj waiting\n");
    assert_true(rig_is_busy("b"));
    rig_finish("k");
    rig_assert_journal("end k\nforget k\nk waiting\nj pending\nk pending\n"
                       "BLOCK_JOB_COMPLETED j 6/6\nj concluded\nj null\n"
                       "BLOCK_JOB_COMPLETED k 128/128\nk concluded\ndrop s1\n"
                       "k null\n");
    assert_int_equal(rig_dirty("b"), 2);
}

static void
test_group_fails_together(void **state)
{
    (void)state;
    start_group(true);
    rig_finish("j");
    rig_forget_journal();
    rig_meet("k");
    rig_halt("k", false, EIO);
    rig_assert_journal("BLOCK_JOB_ERROR k write report\nk aborting\nend k\n"
                       "j aborting\nBLOCK_JOB_CANCELLED j 6/6\nj concluded\n"
                       "j null\n");
    assert_int_equal(rig_dirty("b"), 8);
    rig_ended("k");
    rig_assert_journal("forget k\n"
                       "BLOCK_JOB_COMPLETED k 0/128 Input/output error\n"
                       "k concluded\ndrop s1\nk null\n");
}

static void
test_group_is_cancelled_together(void **state)
{
    (void)state;
    start_group(true);
    rig_finish("k");
    rig_forget_journal();
    assert_true(jobs_cancel(rig->jobs, "k", false, NULL));
    rig_assert_journal("k aborting\nj aborting\nend j\n"
                       "BLOCK_JOB_CANCELLED k 128/128\nk concluded\n"
                       "k null\n");
    rig_ended("j");
    assert_int_equal(rig_dirty("b"), 8);
    assert_int_equal(rig_hidden(), 0);
}

static void
test_individuals_do_not_care(void **state)
{
    (void)state;
    start_group(false);
    rig_meet("k");
    rig_halt("k", false, EIO);
    rig_ended("k");
    rig_finish("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_dirty("b"), 2);
}

/* One of them wants to be asked: then all of them wait for that. */
static void
test_group_is_finalized_together(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

    (void)state;
    spec.waits_to_finalize = true;
    rig_start_two(spec, rig_spec(JOB_BACKUP, "k", JOB_FULL), true);
    rig_finish("j");
    rig_forget_journal();
    rig_finish("k");
    rig_assert_journal("end k\nforget k\nk waiting\nj pending\n"
                       "BLOCK_JOB_PENDING j backup\nk pending\ndrop s1\n");
    assert_true(jobs_finalize(rig->jobs, "k", NULL));
    assert_string_equal(rig_status("j"), "gone");
    assert_string_equal(rig_status("k"), "gone");
}

/* Whoever has brought all of it keeps the instant no longer than the others
 * need it, also over a crash before it was let go. */
static void
test_waiting_job_has_no_snapshot(void **state)
{
    (void)state;
    rig_start_two(rig_spec(JOB_MIRROR, "j", JOB_FULL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), true);
    rig_finish("k");
    assert_string_equal(rig_status("k"), "waiting");
    assert_int_equal(rig_hidden(), 0);
    rig_restart();
    assert_string_equal(rig_status("k"), "waiting");
    assert_true(jobs_cancel(rig->jobs, "k", false, NULL));
    rig_ended("j");
    assert_string_equal(rig_status("k"), "gone");
}

static void
test_snapshot_is_kept_until_a_record_says_waiting(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

    (void)state;
    spec.waits_to_finalize = true;
    rig_start(spec);
    rig_meet("j");
    rig_settle("j");
    fault_io_arm(&rig->fault, 1, true, -EIO);
    rig_ended("j");
    assert_true(fault_io_disarm(&rig->fault));
    assert_int_equal(rig_hidden(), 1);
    rig_look_after(SECOND);
    assert_string_equal(rig_status("j"), "pending");
    assert_int_equal(rig_hidden(), 0);
}

/*
 * Errors
 */
static void
start_with(enum JobOnError on_source, enum JobOnError on_target)
{
    JobSpec spec = rig_spec(JOB_MIRROR, "j", JOB_FULL);

    spec.on_source = on_source;
    spec.on_target = on_target;
    rig_start(spec);
    rig_meet("j");
    rig_settle_some("j", 28);
    rig_forget_journal();
}

static const char *
io_status(void)
{
    static char status[16];
    g_autoptr(JsonArray) all = jobs_query_block(rig->jobs);

    g_strlcpy(status,
              json_object_get_string_member(
                  json_array_get_object_element(all, 0), "io-status"),
              sizeof(status));
    return status;
}

static void
test_report(void **state)
{
    (void)state;
    start_with(JOB_REPORT, JOB_STOP);
    rig_halt("j", true, EIO);
    rig_ended("j");
    rig_assert_journal("BLOCK_JOB_ERROR j read report\nj aborting\nend j\n"
                       "forget j\n"
                       "BLOCK_JOB_COMPLETED j 28/128 Input/output error\n"
                       "j concluded\nj null\n");
}

static void
test_stop_and_resume(void **state)
{
    (void)state;
    start_with(JOB_REPORT, JOB_STOP);
    rig_halt("j", false, EIO);
    rig_assert_journal("BLOCK_JOB_ERROR j write stop\nj paused\npause j\n");
    assert_string_equal(io_status(), "failed");
    rig_look_after(100 * SECOND);
    rig_assert_journal("");
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_assert_journal("j running\nproceed j\ngo j\n");
    assert_string_equal(io_status(), "ok");
    rig_settle("j");
    rig_settle("j");
    assert_string_equal(rig_status("j"), "ready");
    rig_halt("j", false, ENOSPC);
    assert_string_equal(rig_status("j"), "standby");
    assert_string_equal(io_status(), "nospace");
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
}

static void
test_enospc(void **state)
{
    (void)state;
    start_with(JOB_ENOSPC, JOB_ENOSPC);
    rig_halt("j", false, ENOSPC);
    rig_assert_journal("BLOCK_JOB_ERROR j write stop\nj paused\npause j\n");
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_forget_journal();
    rig_halt("j", true, EIO);
    rig_assert_journal("BLOCK_JOB_ERROR j read report\nj aborting\nend j\n");
}

static void
test_ignore_is_not_a_storm(void **state)
{
    (void)state;
    start_with(JOB_IGNORE, JOB_IGNORE);
    rig_halt("j", true, EIO);
    rig_assert_journal("BLOCK_JOB_ERROR j read ignore\nproceed j\n");
    rig_halt("j", true, EIO);
    rig_assert_journal("BLOCK_JOB_ERROR j read ignore\n");
    rig_look_after(SECOND / 2);
    rig_assert_journal("");
    rig_look_after(SECOND / 2);
    rig_assert_journal("proceed j\n");
    rig_settle("j");
    rig_settle("j");
    assert_string_equal(rig_status("j"), "ready");
}

static void
test_foreign_target_fails_the_job(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_forget_journal();
    rig_relay("j")->figures.core.link = RELAY_REFUSED;
    g_strlcpy(rig_relay("j")->figures.core.error, "it holds data", 20);
    rig_look_after(0);
    rig_ended("j");
    rig_assert_journal("j aborting\nend j\nforget j\n"
                       "BLOCK_JOB_COMPLETED j 0/128 it holds data\n"
                       "j concluded\ndrop s1\nj null\n");
}

/* Neither a lost link nor a target that is another one now ends it. */
static void
test_known_target_is_waited_for(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_meet("j");
    rig_forget_journal();
    rig_relay("j")->figures.core.link = RELAY_OFFLINE;
    rig_look_after(SECOND);
    rig_relay("j")->figures.core.link = RELAY_REFUSED;
    rig_look_after(SECOND);
    rig_assert_journal("");
    rig_finish("j");
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_instant_that_cannot_be_read_fails(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_meet("j");
    rig_forget_journal();
    rig_relay("j")->figures.lost_snapshot = 1;
    rig_settle("j");
    rig_assert_journal("j aborting\nend j\n");
}

/*
 * A record, or a bitmap, that cannot be kept
 */
static void
test_nothing_is_thawed_before_its_record(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_meet("j");
    rig_forget_journal();
    fault_io_arm(&rig->fault, 1, true, -EIO);
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_ended("j");
    rig_look_after(SECOND);
    rig_assert_journal("j aborting\nend j\nforget j\n");
    assert_true(rig_is_busy("b"));
    (void)fault_io_disarm(&rig->fault);
    rig_look_after(SECOND);
    assert_false(rig_is_busy("b"));
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_committed_job_is_not_cancelled(void **state)
{
    JobSpec spec = rig_spec(JOB_MIRROR, "j", JOB_INCREMENTAL);
    g_autoptr(GError) error = NULL;

    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    spec.waits_to_finalize = true;
    rig_start(spec);
    rig_meet("j");
    rig_settle("j");
    rig_settle("j");
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    rig_write(10, 1);
    fault_io_arm(&rig->fault, 1, true, -EIO);
    assert_true(jobs_finalize(rig->jobs, "j", NULL));
    rig_forget_journal();
    rig_assert_refused(jobs_cancel(rig->jobs, "j", false, &error), &error,
                       "Job 'j' in state 'pending' cannot accept command verb "
                       "'cancel'");
    (void)fault_io_disarm(&rig->fault);
    rig_look_after(SECOND);
    rig_assert_journal("BLOCK_JOB_COMPLETED j 6/6\nj concluded\nj null\n");
    assert_int_equal(rig_dirty("b"), 1);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_truth_table),
        TEST(test_cancelled_when_pending),
        TEST(test_says_whether_it_was_cancelled),
        TEST(test_group_ends_together),
        TEST(test_group_fails_together),
        TEST(test_group_is_cancelled_together),
        TEST(test_individuals_do_not_care),
        TEST(test_group_is_finalized_together),
        TEST(test_waiting_job_has_no_snapshot),
        TEST(test_snapshot_is_kept_until_a_record_says_waiting),
        TEST(test_report),
        TEST(test_stop_and_resume),
        TEST(test_enospc),
        TEST(test_ignore_is_not_a_storm),
        TEST(test_foreign_target_fails_the_job),
        TEST(test_known_target_is_waited_for),
        TEST(test_instant_that_cannot_be_read_fails),
        TEST(test_nothing_is_thawed_before_its_record),
        TEST(test_committed_job_is_not_cancelled),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
