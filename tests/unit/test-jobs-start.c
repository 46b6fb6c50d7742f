/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs-start.c - what is asked of jobs while they are created
 */
#include "jobs-rig.h"

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
        JobSpec spec = rig_spec(JOB_BACKUP, "l", JOB_FULL);
        g_autofree char *words = g_strdup_printf(
            "refused: %s is the target of %s: a job needs one of its own\n",
            rows[i].target, rows[i].of);

        g_free(spec.target);
        spec.target = g_strdup(rows[i].target);
        rig_forget_journal();
        rig_start_two(rig_spec(JOB_BACKUP, "k", JOB_FULL), spec, false);
        rig_assert_journal(words);
    }
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, jobs_rig_setup, jobs_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_cancelled_peer_of_a_paused_one),
        TEST(test_target_of_another_is_refused),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
