/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-json.c - the jobs as clients see them
 *
 *   query-jobs         QEMU's JobInfo
 *   query-block-jobs   QEMU's BlockJobInfo; device: the job's id
 *   status.json        ours: what it copies where, how far it is, what its link
 *                      to the target says, and what is in its way
 *
 * Progress counts what was to be copied, and what of that is settled at the
 * target. A mirror's total grows with what the guest writes.
 */
#include "jobs-private.h"
#include "status.h"

/* QEMU's optional member: there only if there is one. */
static void
add_error(JsonObject *object, const Job *job)
{
    if (job->record.error[0] != '\0') {
        status_set_text(object, "error", job->record.error);
    }
}

static JsonObject *
job_info(Job *job)
{
    const JobRecord *record = &job->record;
    JsonObject *object = json_object_new();
    uint64_t offset, len;

    job_progress(job, &offset, &len);
    json_object_set_string_member(object, "id", record->spec.id);
    json_object_set_string_member(object, "type",
                                  job_kind_name(record->spec.kind));
    json_object_set_string_member(object, "status",
                                  job_status_name(record->status));
    status_set_size(object, "current-progress", offset);
    status_set_size(object, "total-progress", len);
    add_error(object, job);
    return object;
}

static bool
is_ready(const Job *job)
{
    return job->record.status == JOB_READY || job->record.status == JOB_STANDBY;
}

static JsonObject *
block_job_info(Job *job)
{
    const JobRecord *record = &job->record;
    JsonObject *object = json_object_new();
    bool is_busy = record->status == JOB_RUNNING || record->status == JOB_READY;
    uint64_t offset, len;

    job_progress(job, &offset, &len);
    json_object_set_string_member(object, "type",
                                  job_kind_name(record->spec.kind));
    json_object_set_string_member(object, "device", record->spec.id);
    status_set_size(object, "len", len);
    status_set_size(object, "offset", offset);
    json_object_set_boolean_member(object, "busy", is_busy);
    json_object_set_boolean_member(object, "paused", job_is_paused(job));
    status_set_size(object, "speed", record->spec.speed_bps);
    json_object_set_string_member(object, "io-status", job->io_status);
    json_object_set_boolean_member(object, "ready", is_ready(job));
    json_object_set_string_member(object, "status",
                                  job_status_name(record->status));
    json_object_set_boolean_member(object, "auto-finalize",
                                   !record->spec.waits_to_finalize);
    json_object_set_boolean_member(object, "auto-dismiss",
                                   !record->spec.waits_to_dismiss);
    if (record->spec.kind == JOB_MIRROR) {
        json_object_set_boolean_member(object, "actively-synced", FALSE);
    }
    add_error(object, job);
    return object;
}

static void
add_link(JsonObject *object, Job *job)
{
    struct RelayFigures figures;
    bool is_known = job_is_in_relay(job) && job_figures(job, &figures);

    status_set_text(object, "target_state",
                    is_known ? relay_link_name(figures.core.link) : "stopped");
    status_set_text(object, "target_error",
                    job->words[0] != '\0' ? job->words
                    : is_known            ? figures.core.error
                                          : NULL);
    status_set_size(object, "upload_bps", is_known ? figures.upload_bps : 0);
    status_set_size(object, "sent_bytes",
                    is_known ? figures.core.sent_bytes : 0);
    status_set_size(object, "inflight_bytes",
                    is_known ? figures.core.inflight_bytes : 0);
}

/* `id` to `done_bytes` as in the entries of the relays. */
static JsonObject *
status_info(Job *job)
{
    const JobSpec *spec = &job->record.spec;
    JsonObject *object = json_object_new();
    uint64_t offset, len;

    job_progress(job, &offset, &len);
    json_object_set_string_member(object, "id", spec->id);
    json_object_set_string_member(object, "type", job_kind_name(spec->kind));
    json_object_set_string_member(object, "disk", spec->disk->name);
    json_object_set_string_member(object, "status",
                                  job_status_name(job->record.status));
    status_set_size(object, "remaining_bytes", len - offset);
    status_set_size(object, "done_bytes", offset);
    status_set_size(object, "total_bytes", len);
    json_object_set_string_member(object, "sync", job_sync_name(spec->sync));
    status_set_text(object, "bitmap", spec->bitmap);
    status_set_text(object, "target", spec->target);
    add_link(object, job);
    json_object_set_boolean_member(object, "target_accepted",
                                   job->record.is_met);
    status_set_size(object, "speed_bps", spec->speed_bps);
    json_object_set_string_member(object, "io_status", job->io_status);
    json_object_set_boolean_member(object, "completing",
                                   job->record.is_completing);
    json_object_set_boolean_member(object, "keeps_old_content",
                                   job->record.snapshot != 0);
    status_set_text(object, "error", job->record.error);
    json_object_set_boolean_member(object, "cancelled", job_was_cancelled(job));
    return object;
}

static JsonArray *
build(const Jobs *jobs, JsonObject *(*info)(Job *job))
{
    JsonArray *all = json_array_new();

    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);

        if (job->record.status != JOB_NULL) {
            json_array_add_object_element(all, info(job));
        }
    }
    return all;
}

JsonArray *
jobs_query(const Jobs *jobs)
{
    return build(jobs, job_info);
}

JsonArray *
jobs_query_block(const Jobs *jobs)
{
    return build(jobs, block_job_info);
}

JsonArray *
jobs_status(const Jobs *jobs)
{
    return build(jobs, status_info);
}
