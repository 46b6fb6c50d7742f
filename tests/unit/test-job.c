/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-job.c - every cell of the tables of a job
 */
#include "fs/job.h"
#include "tests/lib/test.h"

#include <string.h>

/* In the order of enum JobStatus: what it is, in rows, and what it may become. */
static void
test_transitions(void **unused)
{
    static const char *const rows[JOB_STATUSES] = {
        /* u c r p y s w d a e n */
        ". x . . . . . . . . .", /* undefined */
        ". . x . . . . . x . x", /* created */
        ". . . x x . x . x . .", /* running */
        ". . x . . . . . . . .", /* paused */
        ". . . . . x x . x . .", /* ready */
        ". . . . x . . . . . .", /* standby */
        ". . . . . . . x x . .", /* waiting */
        ". . . . . . . . x x .", /* pending */
        ". . . . . . . . x x .", /* aborting */
        ". . . . . . . . . . x", /* concluded */
        ". . . . . . . . . . .", /* null */
    };

    (void)unused;
    for (unsigned from = 0; from < JOB_STATUSES; from++) {
        for (unsigned to = 0; to < JOB_STATUSES; to++) {
            assert_int_equal(job_may_become(from, to),
                             rows[from][2 * to] == 'x');
        }
    }
}

static void
test_verbs(void **unused)
{
    static const char *const rows[JOB_VERBS] = {
        /* u c r p y s w d a e n */
        ". x x x x x x x . . .", /* cancel */
        ". x x x x x . . . . .", /* pause */
        ". x x x x x . . . . .", /* resume */
        ". x x x x x . . . . .", /* set-speed */
        ". . . . x x . . . . .", /* complete */
        ". . . . . . . x . . .", /* finalize */
        ". . . . . . . . . x .", /* dismiss */
        ". x x x x x . . . . .", /* change */
    };

    (void)unused;
    for (unsigned verb = 0; verb < JOB_VERBS; verb++) {
        for (unsigned status = 0; status < JOB_STATUSES; status++) {
            assert_int_equal(job_takes(status, verb),
                             rows[verb][2 * status] == 'x');
        }
    }
}

static void
test_names(void **unused)
{
    static const char *const statuses[] = {
        "undefined", "created", "running",  "paused",    "ready", "standby",
        "waiting",   "pending", "aborting", "concluded", "null"};
    static const char *const verbs[] = {"cancel",    "pause",    "resume",
                                        "set-speed", "complete", "finalize",
                                        "dismiss",   "change"};
    static const char *const syncs[] = {
        "full", "top", "none", "incremental", "bitmap", "differential"};
    static const char *const modes[] = {"on-success", "never", "always"};
    static const char *const actions[] = {"report", "ignore", "enospc", "stop"};
    enum JobStatus status;
    enum JobSync sync;
    enum JobBitmapMode mode;
    enum JobOnError action;
    enum JobKind kind;

    (void)unused;
    for (unsigned i = 0; i < JOB_STATUSES; i++) {
        assert_string_equal(job_status_name(i), statuses[i]);
        assert_true(job_status_parse(statuses[i], &status));
        assert_int_equal(status, i);
    }
    for (unsigned i = 0; i < JOB_VERBS; i++) {
        assert_string_equal(job_verb_name(i), verbs[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(syncs); i++) {
        assert_string_equal(job_sync_name(i), syncs[i]);
        assert_true(job_sync_parse(syncs[i], &sync));
        assert_int_equal(sync, i);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        assert_string_equal(job_mode_name(i), modes[i]);
        assert_true(job_mode_parse(modes[i], &mode));
        assert_int_equal(mode, i);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++) {
        assert_string_equal(job_on_error_name(i), actions[i]);
        assert_true(job_on_error_parse(actions[i], &action));
        assert_int_equal(action, i);
    }
    assert_string_equal(job_kind_name(JOB_BACKUP), "backup");
    assert_true(job_kind_parse("mirror", &kind));
    assert_int_equal(kind, JOB_MIRROR);
    assert_false(job_kind_parse("commit", &kind));
    assert_false(job_status_parse("", &status));
    assert_false(job_sync_parse("Full", &sync));
    assert_false(job_mode_parse("on-succes", &mode));
    assert_false(job_on_error_parse("auto", &action));
}

static void
test_ids(void **unused)
{
    static const char *const good[] = {"j", "J0", "a-._9", "backup.vda"};
    static const char *const bad[] = {"", "0j", "-j", "#block1", "a/b", "a b"};
    char *longest = g_strnfill(JOB_ID_MAX, 'a');
    char *longer = g_strnfill(JOB_ID_MAX + 1, 'a');

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_true(job_id_is_valid(good[i]));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(job_id_is_valid(bad[i]));
    }
    assert_true(job_id_is_valid(longest));
    assert_false(job_id_is_valid(longer));
    g_free(longest);
    g_free(longer);
}

static void
test_bitmap_ends(void **unused)
{
    static const struct {
        JobSpec spec;
        enum NamedEnd success, failure;
    } cases[] = {
        {{.kind = JOB_BACKUP, .sync = JOB_INCREMENTAL}, NAMED_NEW, NAMED_OLD},
        {{.kind = JOB_BACKUP, .sync = JOB_BITMAP, .mode = JOB_ON_SUCCESS},
         NAMED_NEW,
         NAMED_OLD},
        {{.kind = JOB_BACKUP, .sync = JOB_BITMAP, .mode = JOB_NEVER},
         NAMED_OLD,
         NAMED_OLD},
        {{.kind = JOB_BACKUP, .sync = JOB_BITMAP, .mode = JOB_ALWAYS},
         NAMED_NEW,
         NAMED_REST},
        {{.kind = JOB_BACKUP, .sync = JOB_FULL, .mode = JOB_ON_SUCCESS},
         NAMED_NEW,
         NAMED_OLD},
        {{.kind = JOB_BACKUP, .sync = JOB_FULL, .mode = JOB_ALWAYS},
         NAMED_NEW,
         NAMED_REST},
        {{.kind = JOB_BACKUP, .sync = JOB_TOP, .mode = JOB_ALWAYS},
         NAMED_NEW,
         NAMED_REST},
        {{.kind = JOB_MIRROR, .sync = JOB_INCREMENTAL}, NAMED_NEW, NAMED_OLD},
        {{.kind = JOB_MIRROR, .sync = JOB_DIFFERENTIAL}, NAMED_OLD, NAMED_OLD},
    };

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_int_equal(job_bitmap_end(&cases[i].spec, true),
                         cases[i].success);
        assert_int_equal(job_bitmap_end(&cases[i].spec, false),
                         cases[i].failure);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transitions), cmocka_unit_test(test_verbs),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_ids),
        cmocka_unit_test(test_bitmap_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
