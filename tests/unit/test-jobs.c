/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs.c - jobs from their begin to their end: what is asked of the relay,
 * what is told, what a user may ask
 */
#include "jobs-rig.h"

#include <errno.h>

static void
test_backup_of_all(void **state)
{
    GError *error = NULL;

    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_assert_journal("j created\ninstant s1\nadd j cut\nj running\ngo j\n"
                       "started\nallow j s1\n");
    assert_int_equal(rig_left("j"), DISK_CLUSTERS);
    assert_string_equal(jobs_of_disk(rig->jobs, rig_vda()), "j");
    assert_null(jobs_of_disk(rig->jobs, store_disk(rig->store, "vdb")));
    assert_true(jobs_holds_snapshot(rig->jobs, 1));
    /* What the guest writes now is none of it. */
    rig_meet("j");
    rig_settle_some("j", 100);
    rig_write(3, 1);
    assert_int_equal(rig_left("j"), 28);
    rig_assert_journal("");
    rig_settle("j");
    rig_assert_journal("end j\n");
    assert_string_equal(rig_status("j"), "running");
    rig_ended("j");
    rig_assert_journal("forget j\nj waiting\nj pending\n"
                       "BLOCK_JOB_COMPLETED j 128/128\n"
                       "j concluded\ndrop s1\nj null\n");
    assert_string_equal(rig_status("j"), "gone");
    rig_assert_refused(jobs_pause(rig->jobs, "j", &error), &error,
                       "Job not found");
    assert_null(jobs_of_disk(rig->jobs, rig_vda()));
    assert_int_equal(rig_hidden(), 0);
}

/* Nothing is over at a target that nobody has seen. */
static void
test_target_is_met_in_any_case(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_look_after(SECOND);
    assert_string_equal(rig_status("j"), "running");
    assert_int_equal(rig_left("j"), 0);
    rig_meet("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_user_is_asked(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);
    GError *error = NULL;

    (void)state;
    spec.waits_to_finalize = spec.waits_to_dismiss = true;
    rig_start(spec);
    rig_finish("j");
    assert_string_equal(rig_status("j"), "pending");
    rig_forget_journal();
    rig_assert_refused(jobs_dismiss(rig->jobs, "j", &error), &error,
                       "Job 'j' in state 'pending' cannot accept command verb "
                       "'dismiss'");
    rig_look_after(SECOND);
    rig_assert_journal("");
    assert_true(jobs_finalize(rig->jobs, "j", &error));
    rig_assert_journal("BLOCK_JOB_COMPLETED j 128/128\nj concluded\n"
                       "");
    rig_assert_refused(jobs_cancel(rig->jobs, "j", false, &error), &error,
                       "Job 'j' in state 'concluded' cannot accept command "
                       "verb 'cancel'");
    assert_true(jobs_dismiss(rig->jobs, "j", &error));
    rig_assert_journal("j null\n");
}

static void
test_pending_is_told_if_it_is_waited_for(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

    (void)state;
    spec.waits_to_finalize = true;
    rig_start(spec);
    rig_meet("j");
    rig_settle("j");
    rig_forget_journal();
    rig_ended("j");
    rig_assert_journal("forget j\nj waiting\nj pending\n"
                       "BLOCK_JOB_PENDING j backup\ndrop s1\n");
}

/* The answer waits for nothing; the rest does for the relay. */
static void
test_cancel_is_answered_at_once(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_meet("j");
    rig_settle_some("j", 28);
    rig_forget_journal();
    assert_true(jobs_cancel(rig->jobs, "j", true, NULL));
    rig_assert_journal("j aborting\nend j\n");
    rig_look_after(60 * SECOND);
    rig_assert_journal("");
    rig_ended("j");
    rig_assert_journal("forget j\nBLOCK_JOB_CANCELLED j 28/128\nj concluded\n"
                       "drop s1\nj null\n");
}

static void
test_pause_and_resume(void **state)
{
    GError *error = NULL;

    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_meet("j");
    rig_forget_journal();
    assert_true(jobs_pause(rig->jobs, "j", NULL));
    rig_assert_journal("j paused\npause j\n");
    rig_settle("j");
    rig_look_after(SECOND);
    rig_assert_refused(jobs_pause(rig->jobs, "j", &error), &error,
                       "Job is already paused");
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_assert_journal("j running\ngo j\n");
    rig_assert_refused(jobs_resume(rig->jobs, "j", &error), &error,
                       "Can't resume a job that was not paused");
    assert_true(jobs_pause(rig->jobs, "j", NULL));
    rig_forget_journal();
    /* It goes on in name, before it ends. */
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_assert_journal("j running\nj aborting\nend j\n");
}

static void
test_speed(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);
    g_autoptr(JsonArray) all = NULL;

    (void)state;
    spec.speed_bps = 7;
    rig_start(spec);
    assert_int_equal(rig_relay("j")->config.job.bps, 7);
    rig_forget_journal();
    assert_true(jobs_set_speed(rig->jobs, "j", 1000, NULL));
    rig_assert_journal("speed j 1000\n");
    all = jobs_query_block(rig->jobs);
    assert_int_equal(json_object_get_int_member(
                         json_array_get_object_element(all, 0), "speed"),
                     1000);
}

/*
 * The instant
 */
static void
test_created_until_the_instant(void **state)
{
    (void)state;
    rig->lets_wait = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_assert_journal("j created\nasked\n");
    rig_look_after(SECOND);
    assert_true(jobs_pause(rig->jobs, "j", NULL));
    assert_true(jobs_set_speed(rig->jobs, "j", 5, NULL));
    rig_instant();
    rig_assert_journal("instant s1\nadd j cut\nj running\nj paused\nstarted\n");
    assert_int_equal(rig_relay("j")->config.job.bps, 5);
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_finish("j");
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_cancelled_before_the_instant(void **state)
{
    (void)state;
    rig->lets_wait = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_forget_journal();
    rig_instant();
    rig_assert_journal("instant s1\nadd j cut\nj running\ngo j\nj aborting\n"
                       "end j\nstarted\n");
}

static void
test_no_instant(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 3);
    rig->refuses = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_assert_journal("j created\nj aborting\nj concluded\nj null\n"
                       "refused: no instant\n");
    assert_false(rig_is_busy("b"));
    assert_int_equal(rig_dirty("b"), 3);
}

/*
 * None or all
 */
static void
test_bad_orders_change_nothing(void **state)
{
    JobSpec spec;

    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_forget_journal();
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_FULL));
    rig_assert_journal("refused: Job ID 'j' already in use\n");
    spec = rig_spec(JOB_BACKUP, "k", JOB_FULL);
    g_free(spec.target);
    spec.target = g_strdup("nbd://localhost/j");
    rig_start(spec);
    rig_assert_journal("refused: nbd://localhost/j is the target of job j: a "
                       "job needs one of its own\n");
    spec = rig_spec(JOB_BACKUP, "l", JOB_FULL);
    g_free(spec.target);
    spec.target = g_strdup("nbd://localhost/k");
    rig_start_two(rig_spec(JOB_BACKUP, "k", JOB_FULL), spec, false);
    rig_assert_journal("refused: nbd://localhost/k is the target of job k: a "
                       "job needs one of its own\n");
    spec = rig_spec(JOB_BACKUP, "k", JOB_FULL);
    g_free(spec.target);
    spec.target = g_strdup(TARGET);
    rig_start(spec);
    rig_assert_journal("refused: " TARGET " is the target of disk vda: a job "
                       "needs one of its own\n");
    rig_start_two(rig_spec(JOB_BACKUP, "k", JOB_FULL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), false);
    rig_assert_journal("refused: Job ID 'k' already in use\n");
    rig_start_two(rig_spec(JOB_BACKUP, "k", JOB_FULL),
                  rig_spec(JOB_BACKUP, "9", JOB_FULL), false);
    rig_assert_journal("refused: Invalid job ID '9': it begins with a letter, "
                       "and has up to 64 of A-Z a-z 0-9 - . _\n");
    assert_int_equal(rig_hidden(), 1);
}

static void
test_bitmap_that_is_not_to_be_had(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_forget_journal();
    rig_start_two(rig_spec(JOB_MIRROR, "k", JOB_FULL),
                  rig_spec(JOB_BACKUP, "l", JOB_INCREMENTAL), true);
    rig_assert_journal(
        "k created\nl created\nk aborting\nl aborting\nk concluded\nk null\n"
        "l concluded\nl null\n"
        "refused: Bitmap 'b' is currently in use by another operation and "
        "cannot be used: wait for its job to end, or cancel it\n");
    assert_string_equal(rig_status("k"), "gone");
    assert_true(rig_is_busy("b"));
}

static void
test_relay_takes_none(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 2);
    rig->bars = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_assert_journal("j created\ninstant s1\nj aborting\nj concluded\n"
                       "drop s1\nj null\nrefused: no memory\ndrop s1\n");
    assert_int_equal(rig_dirty("b"), 2);
    assert_false(rig_is_busy("b"));
}

static void
test_two_of_one_instant(void **state)
{
    (void)state;
    rig_start_two(rig_spec(JOB_BACKUP, "j", JOB_FULL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), false);
    rig_assert_journal("j created\nk created\ninstant s1\nadd j cut\n"
                       "add k cut\nj running\nk running\ngo j\ngo k\nstarted\n"
                       "allow j s1\nallow k s1\n");
    rig_finish("j");
    assert_int_equal(rig_hidden(), 1);
    assert_string_equal(rig_status("j"), "gone");
    rig_finish("k");
    assert_int_equal(rig_hidden(), 0);
}

/*
 * What is copied
 */
static void
test_bitmap_says_what_is_copied(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(5, 6);
    rig->lets_wait = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_write(20, 2); /* between the freeze and the instant */
    rig_instant();
    assert_int_equal(rig_left("j"), 8);
    assert_int_equal(rig_dirty("b"), 6);
    rig_write(40, 7);
    assert_int_equal(rig_left("j"), 8);
    rig_finish("j");
    assert_int_equal(rig_dirty("b"), 9); /* 20, 21 once more: no less */
}

static void
await_mapped(const char *id)
{
    while (strcmp(rig_status(id), "running") == 0 &&
           strstr(rig->journal->str, "allow") == NULL) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void
test_top_is_what_is_allocated(void **state)
{
    static const char data[2 * CLUSTER] = {1};

    (void)state;
    assert_int_equal(
        pwrite(rig_vda()->map_fd, data, sizeof(data), (off_t)(10 * CLUSTER)),
        sizeof(data));
    rig_hold_scan(true);
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_TOP));
    rig_assert_journal("j created\ninstant s1\nj running\nstarted\n");
    rig_write(50, 1); /* while the thread looks: maybe it was there before */
    rig_hold_scan(false);
    await_mapped("j");
    rig_assert_journal("add j cut\ngo j\nallow j s1\n");
    assert_int_equal(rig_left("j"), 3);
    rig_finish("j");
    assert_string_equal(rig_status("j"), "gone");
}

static void
test_top_is_cancelled_while_it_is_looked_for(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_TOP);

    (void)state;
    rig_bitmap("b");
    spec.bitmap = g_strdup("b");
    spec.has_mode = true;
    spec.mode = JOB_ALWAYS;
    rig_hold_scan(true);
    rig_start(spec);
    rig_forget_journal();
    rig_hold_scan(false);
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_assert_journal("j aborting\nBLOCK_JOB_CANCELLED j 0/0\nj concluded\n"
                       "drop s1\nj null\n");
    /* Nobody knows what it was to copy. */
    assert_int_equal(rig_dirty("b"), DISK_CLUSTERS);
}

/* Each second, what was overwritten; for ever. */
static void
test_none_follows_the_guest(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_NONE));
    rig_meet("j");
    rig_forget_journal();
    assert_int_equal(rig_left("j"), 0);
    rig_write(1, 2);
    assert_int_equal(rig_left("j"), 2);
    rig_look_after(SECOND);
    rig_assert_journal("allow j s1\n");
    rig_settle("j");
    rig_write(1, 2);
    rig_look_after(SECOND / 2);
    rig_assert_journal("");
    rig_look_after(SECOND / 2);
    rig_assert_journal("allow j s1\n");
    rig_settle("j");
    rig_look_after(1000 * SECOND);
    rig_assert_journal("");
    assert_true(jobs_cancel(rig->jobs, "j", true, NULL));
    rig_ended("j");
    rig_assert_journal("j aborting\nend j\nforget j\n"
                       "BLOCK_JOB_CANCELLED j 4/4\nj concluded\ndrop s1\n"
                       "j null\n");
}

static void
test_grains(void **state)
{
    JobSpec spec = rig_spec(JOB_MIRROR, "j", JOB_FULL);

    (void)state;
    spec.granularity = 512;
    rig_start(spec);
    assert_int_equal(disk_map_cluster_bits(rig_relay("j")->config.map), 12);
    spec = rig_spec(JOB_MIRROR, "k", JOB_FULL);
    spec.granularity = 64u << 20;
    rig_start(spec);
    assert_int_equal(disk_map_cluster_bits(rig_relay("k")->config.map), 21);
    assert_true(
        store_bitmap_add(rig->store, rig_vda(), "b", 15, true, false, NULL));
    rig_start(rig_spec(JOB_MIRROR, "l", JOB_DIFFERENTIAL));
    assert_int_equal(disk_map_cluster_bits(rig_relay("l")->config.map), 15);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_backup_of_all),
        TEST(test_target_is_met_in_any_case),
        TEST(test_user_is_asked),
        TEST(test_pending_is_told_if_it_is_waited_for),
        TEST(test_cancel_is_answered_at_once),
        TEST(test_pause_and_resume),
        TEST(test_speed),
        TEST(test_created_until_the_instant),
        TEST(test_cancelled_before_the_instant),
        TEST(test_no_instant),
        TEST(test_bad_orders_change_nothing),
        TEST(test_bitmap_that_is_not_to_be_had),
        TEST(test_relay_takes_none),
        TEST(test_two_of_one_instant),
        TEST(test_bitmap_says_what_is_copied),
        TEST(test_top_is_what_is_allocated),
        TEST(test_top_is_cancelled_while_it_is_looked_for),
        TEST(test_none_follows_the_guest),
        TEST(test_grains),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
