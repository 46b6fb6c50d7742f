/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-job-record.c - records of jobs round trip, and no damage passes
 */
#include "fs/job.h"
#include "tests/lib/test.h"

#include <string.h>
#include <xxhash.h>

static const uint8_t uuid[16] = {0xa5, 1, 2, 3};
static Disk disk = {.name = "vda", .id = 7};

static void
fill(JobRecord *record)
{
    *record = (JobRecord){
        .spec = {.kind = JOB_BACKUP,
                 .id = g_strdup("backup-1"),
                 .disk = &disk,
                 .target = g_strdup("[ nbdkit \"file\" dir=/a b ]"),
                 .sync = JOB_BITMAP,
                 .has_mode = true,
                 .mode = JOB_ALWAYS,
                 .bitmap = g_strdup("b;0"),
                 .speed_bps = 1000001,
                 .granularity = 65536,
                 .buf_bytes = 16u << 20,
                 .on_source = JOB_STOP,
                 .on_target = JOB_ENOSPC,
                 .waits_to_finalize = true,
                 .is_target_zero = true,
                 .is_exact = true,
                 .accept = ACCEPT_OVERWRITE},
        .number = 12,
        .status = JOB_STANDBY,
        .is_paused_by_user = true,
        .error = "a = b\n[c]",
        .snapshot = 33,
        .is_mapped = true,
        .is_met = true,
        .is_in_doubt = true,
        .group = 1700000000000009,
        .members = 3,
        .total_bytes = UINT64_C(64) << 40,
        .done_bytes = 4096,
        .begun_us = 1700000000000001,
    };
}

static void
assert_same(const JobRecord *a, const JobRecord *b)
{
    assert_string_equal(a->spec.id, b->spec.id);
    assert_string_equal(a->spec.target, b->spec.target);
    assert_int_equal(g_strcmp0(a->spec.bitmap, b->spec.bitmap), 0);
    assert_int_equal(a->spec.kind, b->spec.kind);
    assert_int_equal(a->spec.sync, b->spec.sync);
    assert_int_equal(a->spec.has_mode, b->spec.has_mode);
    assert_int_equal(a->spec.mode, b->spec.mode);
    assert_int_equal(a->spec.speed_bps, b->spec.speed_bps);
    assert_int_equal(a->spec.granularity, b->spec.granularity);
    assert_int_equal(a->spec.buf_bytes, b->spec.buf_bytes);
    assert_int_equal(a->spec.on_source, b->spec.on_source);
    assert_int_equal(a->spec.on_target, b->spec.on_target);
    assert_int_equal(a->spec.waits_to_finalize, b->spec.waits_to_finalize);
    assert_int_equal(a->spec.waits_to_dismiss, b->spec.waits_to_dismiss);
    assert_int_equal(a->spec.is_target_zero, b->spec.is_target_zero);
    assert_int_equal(a->spec.keeps_zeroes, b->spec.keeps_zeroes);
    assert_int_equal(a->spec.is_exact, b->spec.is_exact);
    assert_int_equal(a->spec.accept, b->spec.accept);
    assert_int_equal(a->number, b->number);
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->is_paused_by_user, b->is_paused_by_user);
    assert_int_equal(a->has_failed, b->has_failed);
    assert_string_equal(a->error, b->error);
    assert_int_equal(a->snapshot, b->snapshot);
    assert_int_equal(a->is_mapped, b->is_mapped);
    assert_int_equal(a->is_completing, b->is_completing);
    assert_int_equal(a->is_committed, b->is_committed);
    assert_int_equal(a->is_met, b->is_met);
    assert_int_equal(a->is_in_doubt, b->is_in_doubt);
    assert_int_equal(a->group, b->group);
    assert_int_equal(a->members, b->members);
    assert_int_equal(a->total_bytes, b->total_bytes);
    assert_int_equal(a->done_bytes, b->done_bytes);
    assert_int_equal(a->begun_us, b->begun_us);
}

static void
test_record_round_trips(void **unused)
{
    JobRecord record, back;
    unsigned disk_id;
    size_t len;
    char *text;

    (void)unused;
    fill(&record);
    text = job_record_format(&record, uuid, &len);
    assert_null(job_record_parse(text, len, uuid, &back, &disk_id));
    assert_int_equal(disk_id, 7);
    assert_same(&record, &back);
    g_free(text);
    job_record_clear(&back);

    /* What is optional is not there; every flag the other way. */
    g_clear_pointer(&record.spec.bitmap, g_free);
    record.spec.kind = JOB_MIRROR;
    record.spec.has_mode = false;
    record.spec.mode = JOB_ON_SUCCESS;
    record.spec.waits_to_dismiss = record.spec.keeps_zeroes = true;
    record.spec.waits_to_finalize = record.spec.is_exact = false;
    record.has_failed = record.is_completing = record.is_committed = true;
    record.is_paused_by_user = record.is_met = record.is_in_doubt = false;
    record.is_mapped = record.spec.is_target_zero = false;
    record.error[0] = '\0';
    text = job_record_format(&record, uuid, &len);
    assert_null(job_record_parse(text, len, uuid, &back, &disk_id));
    assert_same(&record, &back);
    g_free(text);
    job_record_clear(&back);
    job_record_clear(&record);
}

/* Whatever a server says can be read again, up to a whole character. */
static void
test_record_keeps_any_words(void **unused)
{
    static const struct {
        const char *head, *tail; /* around 198 times "x" */
        size_t kept;
    } rows[] = {
        {"", "\xc3\xa4", 198},  /* would be cut in two */
        {"x", "\xc3\xa4", 199}, /* there is room for none of it */
        {"\xc3\xa4", "", 199},  /* there is for this one, and less for "x" */
        {"\xff", "\xff", 199},  /* becomes three bytes */
        {"", "", 198},
    };

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *middle = g_strnfill(198, 'x');
        g_autofree char *words =
            g_strconcat(rows[i].head, middle, rows[i].tail, NULL);
        g_autofree char *text = NULL;
        JobRecord record, back;
        unsigned disk_id;
        size_t len;

        fill(&record);
        job_record_set_error(&record, words);
        assert_int_equal(strlen(record.error), rows[i].kept);
        assert_true(g_utf8_validate(record.error, -1, NULL));
        text = job_record_format(&record, uuid, &len);
        assert_null(job_record_parse(text, len, uuid, &back, &disk_id));
        assert_same(&record, &back);
        job_record_clear(&back);
        job_record_clear(&record);
    }
}

static void
test_record_of_another_store_is_none(void **unused)
{
    static const uint8_t other[16] = {0xa5, 1, 2, 4};
    JobRecord record, back;
    unsigned disk_id;
    size_t len;
    char *text;

    (void)unused;
    fill(&record);
    text = job_record_format(&record, other, &len);
    assert_non_null(
        strstr(job_record_parse(text, len, uuid, &back, &disk_id), "another"));
    assert_null(back.spec.id);
    g_free(text);
    job_record_clear(&record);
}

/* Every flipped bit and every cut is seen. */
static void
test_record_damage_is_seen(void **unused)
{
    JobRecord record, back;
    unsigned disk_id;
    size_t len;
    char *text;

    (void)unused;
    fill(&record);
    text = job_record_format(&record, uuid, &len);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
        assert_non_null(job_record_parse(text, len, uuid, &back, &disk_id));
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        assert_non_null(job_record_parse(text, cut, uuid, &back, &disk_id));
    }
    g_free(text);
    job_record_clear(&record);
}

/* What passes the checksum may still be nonsense. */
static void
test_record_values_are_strict(void **unused)
{
    static const char *const cases[][2] = {
        {"number=12", "number=0"},
        {"version=1", "version=2"},
        {"status=standby", "status=asleep"},
        {"paused=yes", "paused=1"},
        {"snapshot=33", "snapshot=-1"},
        {"members=3", "members=some"},
        {"begun=1700000000000001", ""},
        {"id=backup-1", "id=../x"},
        {"disk=7", "disk=x"},
        {"type=backup", "type=commit"},
        {"sync=bitmap", "sync=some"},
        {"mode=always", "mode=sometimes"},
        {"on-source-error=stop", "on-source-error=go"},
        {"on-target-error=enospc", ""},
        {"speed=1000001", "speed=fast"},
        {"exact-size=yes", ""},
        {"accept=overwrite", "accept=all"},
        {"target=", "tarket="},
    };
    JobRecord record, back;
    unsigned disk_id;

    (void)unused;
    fill(&record);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t len;
        char *text = job_record_format(&record, uuid, &len);
        char *end = strstr(text, "# checksum");
        g_auto(GStrv) parts = NULL;
        g_autofree char *body = NULL, *whole = NULL;

        *end = '\0';
        parts = g_strsplit(text, cases[i][0], 2);
        assert_non_null(parts[1]);
        body = g_strjoinv(cases[i][1], parts);
        whole = g_strdup_printf(
            "%s# checksum %016llx\n", body,
            (unsigned long long)XXH3_64bits(body, strlen(body)));
        if (!job_record_parse(whole, strlen(whole), uuid, &back, &disk_id)) {
            fail_msg("case %u passed", i);
        }
        assert_null(back.spec.id);
        g_free(text);
    }
    job_record_clear(&record);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_round_trips),
        cmocka_unit_test(test_record_keeps_any_words),
        cmocka_unit_test(test_record_of_another_store_is_none),
        cmocka_unit_test(test_record_damage_is_seen),
        cmocka_unit_test(test_record_values_are_strict),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
