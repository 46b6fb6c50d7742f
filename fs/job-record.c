/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job-record.c - what is remembered of a job, as text and back
 *
 *   [job]     version, uuid of the store, number, status, group, members, begun
 *             paused, failed, error, snapshot
 *             mapped, completing, committed, met, in-doubt: see job.h
 *             total, done     in bytes, as of the save
 *   [order]   what was asked for: id, disk (its id), type, target, sync, mode,
 *             bitmap, speed, granularity, buffer, on-source-error,
 *             on-target-error, waits-to-finalize, waits-to-dismiss,
 *             target-is-zero, keep-zeroes, exact-size, accept
 *
 * in the form of sealed-text.h. mode and bitmap are not there if there are none.
 * The disk is the caller's to find: a record says its id, which is never used
 * for another one.
 */
#include "job.h"
#include "sealed-text.h"

#include <string.h>

#define RECORD_VERSION 1
#define GROUP          "job"
#define ORDER          "order"

static const char *const accept_names[] = {
    [ACCEPT_EMPTY] = "empty",
    [ACCEPT_OVERWRITE] = "overwrite",
    [ACCEPT_SAME] = "same",
};

void
job_record_clear(JobRecord *record)
{
    job_spec_clear(&record->spec);
    *record = (JobRecord){0};
}

/* Words of a server may be in any encoding, and a record that is not UTF-8 could
 * not be read again. */
void
job_record_set_error(JobRecord *record, const char *error)
{
    g_autofree char *valid = g_utf8_make_valid(error, -1);
    const char *end;

    g_strlcpy(record->error, valid, sizeof(record->error));
    (void)g_utf8_validate(record->error, -1, &end);
    record->error[end - record->error] = '\0';
}

/*
 * From text
 */
static bool
parse_accept(const char *text, enum TargetAccept *accept)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(accept_names); i++) {
        if (strcmp(text, accept_names[i]) == 0) {
            *accept = (enum TargetAccept)i;
            return true;
        }
    }
    return false;
}

/* NULL: it is not there. */
static char *
get_word(GKeyFile *file, const char *key)
{
    return g_key_file_get_string(file, ORDER, key, NULL);
}

static bool
parse_names(GKeyFile *file, JobSpec *spec)
{
    g_autofree char *kind = get_word(file, "type");
    g_autofree char *sync = get_word(file, "sync");
    g_autofree char *mode = get_word(file, "mode");
    g_autofree char *on_source = get_word(file, "on-source-error");
    g_autofree char *on_target = get_word(file, "on-target-error");
    g_autofree char *accept = get_word(file, "accept");

    spec->has_mode = mode != NULL;
    return kind != NULL && job_kind_parse(kind, &spec->kind) && sync != NULL &&
           job_sync_parse(sync, &spec->sync) &&
           (mode == NULL || job_mode_parse(mode, &spec->mode)) &&
           on_source != NULL &&
           job_on_error_parse(on_source, &spec->on_source) &&
           on_target != NULL &&
           job_on_error_parse(on_target, &spec->on_target) && accept != NULL &&
           parse_accept(accept, &spec->accept);
}

static bool
parse_order(GKeyFile *file, JobSpec *spec, unsigned *disk_id)
{
    uint64_t id;

    spec->id = get_word(file, "id");
    spec->target = get_word(file, "target");
    spec->bitmap = get_word(file, "bitmap");
    if (spec->id == NULL || !job_id_is_valid(spec->id) ||
        spec->target == NULL ||
        !sealed_text_number(file, ORDER, "disk", UINT_MAX, &id)) {
        return false;
    }
    *disk_id = (unsigned)id;
    return parse_names(file, spec) &&
           sealed_text_number(file, ORDER, "speed", INT64_MAX,
                              &spec->speed_bps) &&
           sealed_text_number(file, ORDER, "granularity", INT64_MAX,
                              &spec->granularity) &&
           sealed_text_number(file, ORDER, "buffer", INT64_MAX,
                              &spec->buf_bytes) &&
           sealed_text_bool(file, ORDER, "waits-to-finalize",
                            &spec->waits_to_finalize) &&
           sealed_text_bool(file, ORDER, "waits-to-dismiss",
                            &spec->waits_to_dismiss) &&
           sealed_text_bool(file, ORDER, "target-is-zero",
                            &spec->is_target_zero) &&
           sealed_text_bool(file, ORDER, "keep-zeroes", &spec->keeps_zeroes) &&
           sealed_text_bool(file, ORDER, "exact-size", &spec->is_exact);
}

static bool
parse_flags(GKeyFile *file, JobRecord *record)
{
    return sealed_text_bool(file, GROUP, "paused",
                            &record->is_paused_by_user) &&
           sealed_text_bool(file, GROUP, "failed", &record->has_failed) &&
           sealed_text_bool(file, GROUP, "mapped", &record->is_mapped) &&
           sealed_text_bool(file, GROUP, "completing",
                            &record->is_completing) &&
           sealed_text_bool(file, GROUP, "committed", &record->is_committed) &&
           sealed_text_bool(file, GROUP, "met", &record->is_met) &&
           sealed_text_bool(file, GROUP, "in-doubt", &record->is_in_doubt);
}

static bool
parse_job(GKeyFile *file, JobRecord *record)
{
    g_autofree char *status =
        g_key_file_get_string(file, GROUP, "status", NULL);
    g_autofree char *error = g_key_file_get_string(file, GROUP, "error", NULL);
    uint64_t begun;

    if (status == NULL || !job_status_parse(status, &record->status) ||
        error == NULL || !parse_flags(file, record) ||
        !sealed_text_number(file, GROUP, "number", INT64_MAX,
                            &record->number) ||
        record->number == 0 ||
        !sealed_text_number(file, GROUP, "snapshot", INT64_MAX,
                            &record->snapshot) ||
        !sealed_text_number(file, GROUP, "group", INT64_MAX, &record->group) ||
        !sealed_text_later_number(file, GROUP, "members", INT64_MAX,
                                  &record->members) ||
        !sealed_text_number(file, GROUP, "total", INT64_MAX,
                            &record->total_bytes) ||
        !sealed_text_number(file, GROUP, "done", INT64_MAX,
                            &record->done_bytes) ||
        !sealed_text_number(file, GROUP, "begun", INT64_MAX, &begun)) {
        return false;
    }
    job_record_set_error(record, error);
    record->begun_us = (int64_t)begun;
    return true;
}

static const char *
parse_file(GKeyFile *file, const uint8_t uuid[16], JobRecord *record,
           unsigned *disk_id)
{
    uint8_t found[16];
    uint64_t version;

    if (!sealed_text_number(file, GROUP, "version", UINT_MAX, &version) ||
        version != RECORD_VERSION) {
        return "another version wrote it";
    }
    if (!sealed_text_uuid(file, GROUP, found) ||
        memcmp(found, uuid, sizeof(found)) != 0) {
        return "it is another store's";
    }
    if (!parse_job(file, record) ||
        !parse_order(file, &record->spec, disk_id)) {
        return "a value is missing or malformed";
    }
    return NULL;
}

const char *
job_record_parse(const char *text, size_t len, const uint8_t uuid[16],
                 JobRecord *record, unsigned *disk_id)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    const char *why = sealed_text_parse(text, len, file);

    *record = (JobRecord){0};
    if (why == NULL) {
        why = parse_file(file, uuid, record, disk_id);
    }
    if (why != NULL) {
        job_record_clear(record);
    }
    return why;
}

/*
 * To text
 */
static void
set_word(GKeyFile *file, const char *key, const char *value)
{
    if (value != NULL) {
        g_key_file_set_string(file, ORDER, key, value);
    }
}

static void
format_order(GKeyFile *file, const JobSpec *spec)
{
    set_word(file, "id", spec->id);
    g_key_file_set_uint64(file, ORDER, "disk", spec->disk->id);
    set_word(file, "type", job_kind_name(spec->kind));
    set_word(file, "target", spec->target);
    set_word(file, "sync", job_sync_name(spec->sync));
    set_word(file, "mode", spec->has_mode ? job_mode_name(spec->mode) : NULL);
    set_word(file, "bitmap", spec->bitmap);
    g_key_file_set_uint64(file, ORDER, "speed", spec->speed_bps);
    g_key_file_set_uint64(file, ORDER, "granularity", spec->granularity);
    g_key_file_set_uint64(file, ORDER, "buffer", spec->buf_bytes);
    set_word(file, "on-source-error", job_on_error_name(spec->on_source));
    set_word(file, "on-target-error", job_on_error_name(spec->on_target));
    sealed_text_set_bool(file, ORDER, "waits-to-finalize",
                         spec->waits_to_finalize);
    sealed_text_set_bool(file, ORDER, "waits-to-dismiss",
                         spec->waits_to_dismiss);
    sealed_text_set_bool(file, ORDER, "target-is-zero", spec->is_target_zero);
    sealed_text_set_bool(file, ORDER, "keep-zeroes", spec->keeps_zeroes);
    sealed_text_set_bool(file, ORDER, "exact-size", spec->is_exact);
    set_word(file, "accept", accept_names[spec->accept]);
}

static void
format_job(GKeyFile *file, const JobRecord *record)
{
    g_key_file_set_uint64(file, GROUP, "number", record->number);
    g_key_file_set_string(file, GROUP, "status",
                          job_status_name(record->status));
    g_key_file_set_uint64(file, GROUP, "group", record->group);
    g_key_file_set_uint64(file, GROUP, "members", record->members);
    g_key_file_set_int64(file, GROUP, "begun", record->begun_us);
    sealed_text_set_bool(file, GROUP, "paused", record->is_paused_by_user);
    sealed_text_set_bool(file, GROUP, "failed", record->has_failed);
    g_key_file_set_string(file, GROUP, "error", record->error);
    g_key_file_set_uint64(file, GROUP, "snapshot", record->snapshot);
    sealed_text_set_bool(file, GROUP, "mapped", record->is_mapped);
    sealed_text_set_bool(file, GROUP, "completing", record->is_completing);
    sealed_text_set_bool(file, GROUP, "committed", record->is_committed);
    sealed_text_set_bool(file, GROUP, "met", record->is_met);
    sealed_text_set_bool(file, GROUP, "in-doubt", record->is_in_doubt);
    g_key_file_set_uint64(file, GROUP, "total",
                          MIN(record->total_bytes, INT64_MAX));
    g_key_file_set_uint64(file, GROUP, "done",
                          MIN(record->done_bytes, INT64_MAX));
}

char *
job_record_format(const JobRecord *record, const uint8_t uuid[16], size_t *len)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_key_file_set_uint64(file, GROUP, "version", RECORD_VERSION);
    sealed_text_set_uuid(file, GROUP, uuid);
    format_job(file, record);
    format_order(file, &record->spec);
    return sealed_text_format(file, len);
}
