/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs-start.c - jobs begin: all of an order, or none
 */
#include "jobs-rig.h"

#include "fs/jobs-private.h"

static void
start_group_slowly(void)
{
    rig->lets_wait = true;
    rig_start_two(rig_spec(JOB_BACKUP, "j", JOB_FULL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), true);
    rig_forget_journal();
}

/* Whoever is cancelled takes along the one that was to be paused, whichever is
 * the first. */
static void
test_cancelled_peer_of_a_paused_one(void **state)
{
    static const char *const rows[][2] = {{"j", "k"}, {"k", "j"}};

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        start_group_slowly();
        assert_true(jobs_cancel(rig->jobs, rows[i][0], false, NULL));
        assert_true(jobs_pause(rig->jobs, rows[i][1], NULL));
        rig_instant();
        assert_int_equal(rig->answers, 0);
        assert_string_equal(rig_status("j"), "aborting");
        assert_string_equal(rig_status("k"), "aborting");
        rig_ended("j");
        rig_ended("k");
        assert_string_equal(rig_status("j"), "gone");
        assert_string_equal(rig_status("k"), "gone");
        assert_int_equal(rig_hidden(), 0);
    }
}

static JobSpec
aimed(const char *id, const char *target)
{
    JobSpec spec = rig_spec(JOB_BACKUP, id, JOB_FULL);

    g_free(spec.target);
    spec.target = g_strdup(target);
    return spec;
}

/* However it is written. */
static void
test_target_of_another_is_refused(void **state)
{
    static const struct {
        const char *target, *of;
    } rows[] = {
        {"nbd://127.0.0.1:10809/x", "disk vda"},
        {"nbd://LOCALHOST/j", "job j"},
        {"nbd://[::1]/k", "job k"},
    };

    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *words = g_strdup_printf(
            "refused: %s is the target of %s: a job needs one of its own\n",
            rows[i].target, rows[i].of);

        rig_forget_journal();
        rig_start_two(rig_spec(JOB_BACKUP, "k", JOB_FULL),
                      aimed("l", rows[i].target), false);
        rig_assert_journal(words);
    }
}

static void
let_go(const char *id)
{
    if (strcmp(rig_status(id), "aborting") == 0) {
        rig_ended(id);
    }
}

/* What is written before the instant is recorded up to it, whatever for. */
static void
test_gap_ends_at_the_instant(void **state)
{
    static const enum JobSync syncs[] = {JOB_FULL, JOB_TOP, JOB_INCREMENTAL};

    (void)state;
    rig_bitmap("b");
    for (unsigned i = 0; i < G_N_ELEMENTS(syncs); i++) {
        JobSpec spec = rig_spec(JOB_BACKUP, "j", syncs[i]);

        if (spec.bitmap == NULL) {
            spec.bitmap = g_strdup("b");
        }
        spec.gap = job_gap_new(rig_vda()->map);
        assert_non_null(spec.gap);
        rig->lets_wait = true;
        rig_start(spec);
        assert_non_null(jobs_find(rig->jobs, "j")->record.spec.gap);
        rig_instant();
        assert_null(jobs_find(rig->jobs, "j")->record.spec.gap);
        assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
        let_go("j");
        assert_string_equal(rig_status("j"), "gone");
    }
}

/*
 * After one that has left requests in flight
 */
static void
cancel_in_flight(JobSpec spec)
{
    rig_start(spec);
    rig_meet("j");
    rig_relay("j")->figures.core.doubt_clusters = 1;
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_ended("j");
    rig_forget_journal();
}

static void
test_requests_of_an_earlier_job_are_waited_for(void **state)
{
    (void)state;
    cancel_in_flight(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_start(aimed("k", "nbd://localhost/k"));
    rig_assert_journal("k created\ninstant s2\nadd k cut\nk running\ngo k\n"
                       "started\nallow k s2\n");
    rig_start(aimed("l", "nbd://127.0.0.1/j"));
    rig_meet("l");
    assert_true(jobs_pause(rig->jobs, "l", NULL));
    assert_true(jobs_resume(rig->jobs, "l", NULL));
    rig_assert_journal("l created\ninstant s3\nadd l cut\nl running\n"
                       "started\nl paused\npause l\nl running\n");
    rig_look_after(59 * SECOND);
    rig_assert_journal("");
    rig_look_after(SECOND);
    rig_assert_journal("go l\nallow l s3\n");
    rig_finish("l");
    assert_string_equal(rig_status("l"), "gone");
    /* It had answers to all, and the others' time is over. */
    rig_start(aimed("l", "nbd://127.0.0.1/j"));
    assert_non_null(strstr(rig->journal->str, "go l\n"));
}

static void
test_server_of_ours_has_ended_soon(void **state)
{
    (void)state;
    cancel_in_flight(aimed("j", "/nowhere/x.raw"));
    rig_start(aimed("k", "[ nbdkit file /nowhere/x.raw ]"));
    rig_assert_journal(
        "k created\ninstant s2\nadd k cut\nk running\nstarted\n");
    rig_look_after(3 * SECOND);
    rig_assert_journal("go k\nallow k s2\n");
}

/* It is gone, but for its record, until the time is over, which begins anew. */
static void
test_record_of_a_dismissed_job_stays_a_while(void **state)
{
    g_autofree char *dir =
        g_build_filename(rig->fixture->address, "jobs", "1", NULL);

    (void)state;
    cancel_in_flight(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    assert_string_equal(rig_status("j"), "gone");
    rig_look_after(30 * SECOND);
    rig_restart();
    assert_string_equal(rig_status("j"), "gone");
    assert_true(jobs_doubt_us(rig->jobs, "nbd://localhost/j") == 60 * SECOND);
    rig_forget_journal();
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    assert_null(strstr(rig->journal->str, "go j\n"));
    assert_true(g_file_test(dir, G_FILE_TEST_EXISTS));
    rig_look_after(60 * SECOND);
    assert_non_null(strstr(rig->journal->str, "go j\n"));
    assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
}

/* ... and one that the user has still to dismiss keeps its record. */
static void
test_concluded_job_is_not_deleted_with_its_doubt(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

    (void)state;
    spec.waits_to_dismiss = true;
    cancel_in_flight(spec);
    rig_restart();
    assert_true(jobs_doubt_us(rig->jobs, "nbd://localhost/j") == 60 * SECOND);
    rig_look_after(60 * SECOND);
    assert_true(jobs_doubt_us(rig->jobs, "nbd://localhost/j") == 0);
    rig_restart();
    assert_string_equal(rig_status("j"), "concluded");
    assert_true(jobs_doubt_us(rig->jobs, "nbd://localhost/j") == 0);
    assert_true(jobs_dismiss(rig->jobs, "j", NULL));
    rig_restart();
    assert_true(jobs_doubt_us(rig->jobs, "nbd://localhost/j") == 0);
}

/* It was about to end, and nobody knows what it had in flight. */
static void
test_requests_of_an_earlier_life_are_waited_for(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    rig_meet("j");
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_crash();
    rig_forget_journal();
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_FULL));
    assert_null(strstr(rig->journal->str, "go j\n"));
    rig_look_after(60 * SECOND);
    assert_non_null(strstr(rig->journal->str, "go j\n"));
}

/*
 * All or none, whatever a crash leaves
 */
static JobSpec
asking(const char *id, enum JobSync sync)
{
    JobSpec spec = rig_spec(JOB_BACKUP, id, sync);

    spec.waits_to_finalize = true;
    return spec;
}

/* The process ends behind each call that the begin of a group makes. */
static void
test_crash_at_each_point_of_a_group(void **state)
{
    bool is_hit = true;
    unsigned n, both = 0;

    (void)state;
    rig_bitmap("b");
    for (n = 1; is_hit; n++) {
        rig_write(0, 6);
        fault_io_arm(&rig->fault, n, true, -EIO);
        rig_start_two(asking("j", JOB_INCREMENTAL), asking("k", JOB_FULL),
                      true);
        is_hit = fault_io_disarm(&rig->fault);
        rig_crash();
        if (strcmp(rig_status("j"), "running") == 0) {
            assert_string_equal(rig_status("k"), "running");
            assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
            both++;
        }
        let_go("j");
        let_go("k");
        assert_string_equal(rig_status("j"), "gone");
        assert_string_equal(rig_status("k"), "gone");
        assert_true(rig_dirty("b") >= 6);
        assert_false(rig_is_busy("b"));
        assert_int_equal(rig_hidden(), 0);
    }
    assert_true(n > 10 && both > 0);
}

static void
test_damaged_record_costs_its_group(void **state)
{
    g_autofree char *record =
        g_build_filename(rig->fixture->address, "jobs", "2", "job", NULL);

    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start_two(asking("j", JOB_INCREMENTAL), asking("k", JOB_FULL), true);
    rig_finish("j");
    assert_string_equal(rig_status("j"), "waiting");
    rig_forget_journal();
    rig_restart_with(record, "x");
    assert_non_null(strstr(rig->journal->str,
                           "BLOCK_JOB_COMPLETED j 6/6 not all jobs of its "
                           "group are there any more: begin them again\n"));
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_dirty("b"), 6);
    assert_false(rig_is_busy("b"));
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_cancelled_peer_of_a_paused_one),
        TEST(test_target_of_another_is_refused),
        TEST(test_gap_ends_at_the_instant),
        TEST(test_requests_of_an_earlier_job_are_waited_for),
        TEST(test_server_of_ours_has_ended_soon),
        TEST(test_requests_of_an_earlier_life_are_waited_for),
        TEST(test_record_of_a_dismissed_job_stays_a_while),
        TEST(test_concluded_job_is_not_deleted_with_its_doubt),
        TEST(test_crash_at_each_point_of_a_group),
        TEST(test_damaged_record_costs_its_group),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
