/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-jobs-resume.c - jobs over the end of their daemon, whichever it is
 */
#include "jobs-rig.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <unistd.h>

static void
start_backup(void)
{
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_write(10, 2);
    rig_meet("j");
    rig_settle_some("j", 2);
    rig_forget_journal();
}

/* A clean end: exact. */
static void
test_backup_goes_on(void **state)
{
    (void)state;
    start_backup();
    rig_restart();
    rig_assert_journal("pause j\nadd j cut known\ngo j\nallow j s1\n");
    assert_string_equal(rig_status("j"), "running");
    assert_int_equal(rig_left("j"), 4);
    assert_int_equal(rig_relay("j")->config.contact, CONTACT_KNOWN);
    assert_false(rig_relay("j")->config.is_in_doubt);
    assert_true(rig_relay("j")->config.epoch_before > 0);
    assert_true(rig_is_busy("b"));
    assert_int_equal(rig_dirty("b"), 6);
    rig_write(20, 1);
    rig_finish("j");
    rig_assert_journal("end j\nforget j\nj waiting\nj pending\n"
                       "BLOCK_JOB_COMPLETED j 6/6\nj concluded\ndrop s1\n"
                       "j null\n");
    assert_int_equal(rig_dirty("b"), 3);
}

static void
test_killed_backup_goes_on(void **state)
{
    (void)state;
    start_backup();
    rig_crash();
    rig_assert_journal("add j cut known\ngo j\nallow j s1\n");
    assert_true(rig_left("j") >= 4);
    assert_true(rig_relay("j")->config.is_in_doubt);
    rig_finish("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_true(rig_dirty("b") >= 2);
    assert_false(rig_is_busy("b"));
}

/* Nothing but the order itself has told the disk that the bitmap is frozen. */
static void
test_bitmap_is_frozen_durably(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);

    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    spec.bitmap = g_strdup("b");
    spec.has_mode = true;
    rig_start(spec);
    rig_crash();
    assert_true(rig_is_busy("b"));
    rig_finish("j");
    assert_false(rig_is_busy("b"));
}

/* Uploads without an answer when the daemon ended may still come. */
static void
test_doubt_is_kept(void **state)
{
    (void)state;
    start_backup();
    rig_relay("j")->figures.core.unanswered = 1;
    rig_restart();
    assert_true(rig_relay("j")->config.is_in_doubt);
}

static void
test_paused_stays_paused(void **state)
{
    (void)state;
    start_backup();
    assert_true(jobs_pause(rig->jobs, "j", NULL));
    rig_forget_journal();
    rig_crash();
    rig_assert_journal("add j cut known\n");
    assert_string_equal(rig_status("j"), "paused");
    assert_true(jobs_resume(rig->jobs, "j", NULL));
    rig_assert_journal("j running\ngo j\nallow j s1\n");
}

static void
test_never_begun_is_forgotten(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    rig->lets_wait = true;
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_write(10, 2);
    assert_true(rig_is_busy("b"));
    rig_crash();
    assert_string_equal(rig_status("j"), "gone");
    assert_false(rig_is_busy("b"));
    assert_true(rig_dirty("b") >= 8);
    rig_crash(); /* and so it stays */
    assert_false(rig_is_busy("b"));
}

static void
test_snapshot_of_nobody_goes(void **state)
{
    (void)state;
    start_backup();
    rig_finish("j");
    snapshot_list_put(rig->store->snapshots,
                      &(Snapshot){.id = 9, .name = "x", .reason = "job"});
    snapshot_list_put(rig->store->snapshots,
                      &(Snapshot){.id = 10, .name = "y", .reason = "user"});
    rig_forget_journal();
    rig_crash();
    rig_assert_journal("drop s9\n");
}

static void
test_backup_without_its_snapshot_fails(void **state)
{
    (void)state;
    start_backup();
    snapshot_list_remove(rig->store->snapshots, 1);
    rig_restart();
    rig_assert_journal("pause j\nadd j cut known\nj aborting\nend j\n");
    rig_ended("j");
    rig_assert_journal("forget j\nBLOCK_JOB_COMPLETED j 2/6 the snapshot that "
                       "it copies is gone, or damaged: begin it again\n"
                       "j concluded\ndrop s1\nj null\n");
    assert_int_equal(rig_dirty("b"), 8);
}

static void
test_allocation_is_looked_for_again(void **state)
{
    (void)state;
    rig_hold_scan(true);
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_TOP));
    rig_hold_scan(false);
    rig_forget_journal();
    rig_crash();
    while (strstr(rig->journal->str, "go j") == NULL) {
        g_main_context_iteration(NULL, TRUE);
    }
    rig_assert_journal("add j cut\ngo j\n");
    assert_int_equal(rig_left("j"), 0);
}

/*
 * Mirrors
 */
static void
test_mirror_stays_ready(void **state)
{
    (void)state;
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_FULL));
    rig_meet("j");
    rig_settle("j");
    rig_settle("j");
    rig_write(3, 1);
    rig_forget_journal();
    rig_restart();
    rig_assert_journal("pause j\nadd j known\ngo j\n");
    assert_string_equal(rig_status("j"), "ready");
    assert_int_equal(rig_left("j"), 1);
    rig_write(5, 1);
    assert_int_equal(rig_left("j"), 2);
}

static void
test_completion_begins_again(void **state)
{
    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    rig_start(rig_spec(JOB_MIRROR, "j", JOB_INCREMENTAL));
    rig_meet("j");
    rig_settle("j");
    rig_settle("j");
    assert_true(jobs_complete(rig->jobs, "j", NULL));
    rig_write(10, 2);
    rig_forget_journal();
    rig_restart();
    rig_assert_journal("pause j\nadd j known\ngo j\ndrop s1\n");
    rig_meet("j");
    rig_assert_journal("instant s2\ncut j\n");
    rig_write(20, 1);
    rig_settle("j");
    rig_settle("j");
    rig_ended("j");
    assert_string_equal(rig_status("j"), "gone");
    assert_int_equal(rig_dirty("b"), 1);
    assert_int_equal(rig_hidden(), 0);
}

/*
 * Ends
 */
static void
test_pending_waits_on(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL);

    (void)state;
    rig_bitmap("b");
    rig_write(0, 6);
    spec.waits_to_finalize = spec.waits_to_dismiss = true;
    rig_start(spec);
    rig_finish("j");
    rig_write(10, 2);
    rig_forget_journal();
    rig_restart();
    rig_assert_journal("");
    assert_string_equal(rig_status("j"), "pending");
    assert_true(rig_is_busy("b"));
    assert_true(jobs_finalize(rig->jobs, "j", NULL));
    rig_assert_journal("BLOCK_JOB_COMPLETED j 6/6\nj concluded\n");
    assert_int_equal(rig_dirty("b"), 2);
    rig_crash();
    assert_string_equal(rig_status("j"), "concluded");
    assert_true(jobs_dismiss(rig->jobs, "j", NULL));
    rig_crash();
    assert_string_equal(rig_status("j"), "gone");
}

/* Whoever finds the store at rest sees that its disk is needed as it is. */
static void
test_records_say_who_goes_on(void **state)
{
    JobSpec spec = rig_spec(JOB_BACKUP, "j", JOB_FULL);
    g_autofree char *found = NULL, *writer = NULL;

    (void)state;
    assert_null(job_at_rest(rig->store, rig_vda()));
    spec.waits_to_dismiss = true;
    rig_start(spec);
    found = job_at_rest(rig->store, rig_vda());
    assert_string_equal(found, "j");
    assert_null(job_at_rest(rig->store, store_disk(rig->store, "vdb")));
    writer = job_of_target_at_rest(rig->store, "nbd://127.0.0.1:10809/j");
    assert_string_equal(writer, "j");
    assert_null(job_of_target_at_rest(rig->store, "nbd://localhost/k"));
    rig_finish("j");
    assert_string_equal(rig_status("j"), "concluded");
    assert_null(job_at_rest(rig->store, rig_vda()));
    assert_null(job_of_target_at_rest(rig->store, "nbd://localhost/j"));
}

static void
test_aborting_is_closed(void **state)
{
    (void)state;
    start_backup();
    assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    rig_forget_journal();
    rig_restart();
    rig_assert_journal("BLOCK_JOB_CANCELLED j 2/6\nj concluded\ndrop s1\n"
                       "j null\n");
    assert_int_equal(rig_dirty("b"), 8);
}

/* Whatever was saved of it, all of a group go the same way. */
static bool
cancel_group_at(unsigned n)
{
    bool is_hit, is_running;

    assert_true(store_bitmap_clear(rig->store, rig_vda(), "b", NULL));
    rig_write(0, 6);
    rig_start_two(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL),
                  rig_spec(JOB_BACKUP, "k", JOB_FULL), true);
    rig_finish("j");
    rig_meet("k");
    fault_io_arm(&rig->fault, n, true, -EIO);
    assert_true(jobs_cancel(rig->jobs, "k", false, NULL));
    is_hit = fault_io_disarm(&rig->fault);
    rig_forget_journal();
    rig_crash();
    is_running = strcmp(rig_status("k"), "running") == 0;
    assert_string_equal(rig_status("j"), is_running ? "waiting" : "gone");
    if (strcmp(rig_status("k"), "gone") != 0) {
        rig_finish("k");
        assert_non_null(strstr(rig->journal->str, "COMPLETED j 6/6\n"));
    } else {
        assert_null(strstr(rig->journal->str, "COMPLETED j"));
        assert_true(rig_dirty("b") >= 6);
    }
    assert_string_equal(rig_status("j"), "gone");
    assert_string_equal(rig_status("k"), "gone");
    assert_false(rig_is_busy("b"));
    return is_hit;
}

static void
test_group_goes_one_way(void **state)
{
    unsigned n = 1;

    (void)state;
    rig_bitmap("b");
    while (cancel_group_at(n)) {
        n++;
    }
    assert_true(n > 10);
}

static bool
is_dirty(const char *name, uint64_t cluster)
{
    struct NamedFigures figures;
    uint64_t offset, len;

    assert_true(named_find(rig_vda()->bitmaps, name, &figures));
    return named_next(rig_vda()->bitmaps, figures.id, cluster * CLUSTER,
                      CLUSTER, &offset, &len) &&
           offset == cluster * CLUSTER;
}

/* The process ends behind each call that an end makes of the disk: what was
 * written during the job is never lost, and what it may not have brought. */
static bool
end_at(unsigned n, bool is_cancelled)
{
    bool is_hit;

    assert_true(store_bitmap_clear(rig->store, rig_vda(), "b", NULL));
    rig_write(0, 6);
    rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
    rig_write(10, 2);
    rig_meet("j");
    if (!is_cancelled) {
        rig_settle("j");
    }
    fault_io_arm(&rig->fault, n, true, -EIO);
    if (is_cancelled) {
        assert_true(jobs_cancel(rig->jobs, "j", false, NULL));
    }
    rig_ended("j");
    is_hit = fault_io_disarm(&rig->fault);
    rig_crash();
    if (strcmp(rig_status("j"), "gone") != 0) {
        rig_finish("j");
    }
    assert_string_equal(rig_status("j"), "gone");
    assert_false(rig_is_busy("b"));
    assert_true(is_dirty("b", 10) && is_dirty("b", 11));
    assert_true(!is_cancelled || !is_hit || rig_dirty("b") >= 2);
    assert_int_equal(rig_hidden(), 0);
    return is_hit;
}

static void
test_crash_at_each_point_of_a_success(void **state)
{
    unsigned n = 1;

    (void)state;
    rig_bitmap("b");
    while (end_at(n, false)) {
        n++;
    }
    assert_true(n > 10);
}

static void
test_crash_at_each_point_of_a_cancel(void **state)
{
    unsigned n = 1;

    (void)state;
    rig_bitmap("b");
    while (end_at(n, true)) {
        n++;
    }
    assert_true(n > 10);
}

/* ... and of the begin: it never was, or it goes on. */
static void
test_crash_at_each_point_of_a_start(void **state)
{
    bool is_hit = true;
    unsigned n;

    (void)state;
    rig_bitmap("b");
    for (n = 1; is_hit; n++) {
        assert_true(store_bitmap_clear(rig->store, rig_vda(), "b", NULL));
        rig_write(0, 6);
        fault_io_arm(&rig->fault, n, true, -EIO);
        rig_start(rig_spec(JOB_BACKUP, "j", JOB_INCREMENTAL));
        is_hit = fault_io_disarm(&rig->fault);
        rig_crash();
        if (strcmp(rig_status("j"), "gone") == 0) {
            assert_true(is_dirty("b", 0) && is_dirty("b", 5));
        } else {
            assert_true(rig_left("j") >= 6);
            rig_finish("j");
        }
        assert_string_equal(rig_status("j"), "gone");
        assert_false(rig_is_busy("b"));
        assert_int_equal(rig_hidden(), 0);
    }
    assert_true(n > 10);
}

/*
 * Damage
 */
static char *
job_path(const char *name)
{
    return g_build_filename(rig->fixture->address, "jobs", "1", name, NULL);
}

static void
test_damaged_record_costs_its_job(void **state)
{
    g_autofree char *record = job_path("job");
    g_autofree char *dir = job_path(NULL);

    (void)state;
    start_backup();
    rig_restart_with(record, "x");
    assert_string_equal(rig_status("j"), "gone");
    assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
    assert_false(rig_is_busy("b"));
    assert_int_equal(rig_dirty("b"), 8);
    assert_int_equal(rig_hidden(), 0);
}

static void
test_directory_without_a_record_goes(void **state)
{
    g_autofree char *record = job_path("job");
    g_autofree char *dir = job_path(NULL);

    (void)state;
    start_backup();
    rig_restart_with(record, NULL);
    assert_string_equal(rig_status("j"), "gone");
    assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
    /* Its number is not given again in this life. */
    rig_start(rig_spec(JOB_BACKUP, "k", JOB_FULL));
    assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_backup_goes_on),
        TEST(test_killed_backup_goes_on),
        TEST(test_bitmap_is_frozen_durably),
        TEST(test_doubt_is_kept),
        TEST(test_paused_stays_paused),
        TEST(test_never_begun_is_forgotten),
        TEST(test_snapshot_of_nobody_goes),
        TEST(test_backup_without_its_snapshot_fails),
        TEST(test_allocation_is_looked_for_again),
        TEST(test_mirror_stays_ready),
        TEST(test_completion_begins_again),
        TEST(test_pending_waits_on),
        TEST(test_records_say_who_goes_on),
        TEST(test_aborting_is_closed),
        TEST(test_group_goes_one_way),
        TEST(test_crash_at_each_point_of_a_success),
        TEST(test_crash_at_each_point_of_a_cancel),
        TEST(test_crash_at_each_point_of_a_start),
        TEST(test_damaged_record_costs_its_job),
        TEST(test_directory_without_a_record_goes),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
