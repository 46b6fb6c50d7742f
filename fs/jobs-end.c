/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-end.c - a job ends: its group, its bitmap, its snapshot, its directory
 *
 *   it succeeds     the relay ends it; then it is waiting, and when all of its
 *                   group are, pending. If the user wants to be asked that is
 *                   where it stays, without its snapshot; else it is committed
 *   it fails, or    aborting, and so are all others of its group; the relay
 *   is cancelled    ends them
 *   it is closed    committed or aborting, all of its group durably so, and the
 *                   relay has let go of it: the bitmap is thawed, durably; told;
 *                   concluded, durably; what it held is dropped
 *   dismissed       the directory goes; null
 *
 * Jobs of one transaction that asked for it (completion-mode=grouped) are one
 * group: either all of their bitmaps are thawed as of a success, or none. That is
 * why all records say so before the first bitmap is touched.
 *
 * No verb waits for the relay: it lets go within the time of a local read, and
 * RELAY_NEWS_ENDED says when (jobs.c has the order of what is durable, and what
 * a crash makes of it).
 */
#include "jobs-private.h"

static bool
is_closing(const Job *job)
{
    return job->phase == JOB_RESTS && !job->is_asking &&
           (job->record.status == JOB_ABORTING ||
            (job->record.status == JOB_PENDING && job->record.is_committed));
}

/* All of the group go the same way, durably. */
static bool
is_decided(Job *job)
{
    g_autoptr(GPtrArray) group = job_group(job);

    for (guint i = 0; i < group->len; i++) {
        const Job *other = g_ptr_array_index(group, i);
        bool is_known = other->record.status == JOB_ABORTING ||
                        other->record.status == JOB_CONCLUDED ||
                        other->record.is_committed;

        if (!is_known || other->is_unsaved) {
            return false;
        }
    }
    return true;
}

/*
 * Closing
 */
/* A job that never began has copied nothing, and was not to. */
static enum NamedEnd
choose_end(const Job *job)
{
    return job->record.begun_us != 0 && job->map != NULL
               ? job_bitmap_end(&job->record.spec, job->record.is_committed)
               : NAMED_OLD;
}

static bool
thaw(Job *job)
{
    Store *store = job->jobs->config.store;
    g_autoptr(GError) error = NULL;

    if (job->frozen != NULL) {
        named_thaw(job->frozen, choose_end(job), job->map);
        job->frozen = NULL;
        job->is_thaw_unsaved = true;
    }
    if (job->is_thaw_unsaved &&
        !store_bitmaps_save(store, job_disk(job), &error)) {
        if (!job->is_warned) {
            g_warning("job %s: its bitmap cannot be kept (%s); that is tried "
                      "again, and the job waits for it",
                      job->record.spec.id, error->message);
        }
        job->is_warned = true;
        return false;
    }
    job->is_thaw_unsaved = false;
    return true;
}

static void
tell_end(Job *job)
{
    JsonObject *data = job_event_object(job);

    if (job->record.has_failed) {
        json_object_set_string_member(data, "error", job->record.error);
    }
    job_tell(job,
             job_was_cancelled(job) ? "BLOCK_JOB_CANCELLED"
                                    : "BLOCK_JOB_COMPLETED",
             data);
}

void
jobs_drop_snapshot(Jobs *jobs, uint64_t id)
{
    g_autoptr(GError) error = NULL;

    if (id != 0 && !jobs_holds_snapshot(jobs, id) &&
        jobs->config.snapshots != NULL &&
        !jobs->ops->drop(jobs->config.snapshots, id, &error)) {
        g_warning("the snapshot of a job that is over cannot be deleted (%s); "
                  "the next start tries again",
                  error->message);
    }
}

static void
close_job(Job *job)
{
    Jobs *jobs = job->jobs;
    uint64_t snapshot = job->record.snapshot;

    if (!is_decided(job) || !thaw(job)) {
        return;
    }
    if (job->record.begun_us != 0) {
        tell_end(job);
    }
    job_move(job, JOB_CONCLUDED);
    job->record.snapshot = 0;
    job_map_drop(job);
    (void)job_save(job);
    jobs_drop_snapshot(jobs, snapshot);
    if (!job->record.spec.waits_to_dismiss) {
        job_dismiss(job);
    }
}

static void
close_group(Job *job)
{
    g_autoptr(GPtrArray) group = job_group(job);

    for (guint i = 0; i < group->len; i++) {
        Job *other = g_ptr_array_index(group, i);

        if (is_closing(other)) {
            close_job(other);
        }
    }
}

void
job_dismiss(Job *job)
{
    job_move(job, JOB_NULL);
    if (!job_is_doubted(job) || !job_save(job)) {
        job_files_delete(job);
    }
    job->is_unsaved = false;
}

/*
 * Success
 */
void
job_commit(Job *job)
{
    g_autoptr(GPtrArray) group = job_group(job);

    for (guint i = 0; i < group->len; i++) {
        Job *other = g_ptr_array_index(group, i);

        if (other->record.status == JOB_PENDING) {
            other->record.is_committed = true;
            (void)job_save(other);
        }
    }
    close_group(job);
}

static void
tell_pending(Job *job)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "type",
                                  job_kind_name(job->record.spec.kind));
    json_object_set_string_member(data, "id", job->record.spec.id);
    job_tell(job, "BLOCK_JOB_PENDING", data);
}

static bool
is_waiting(const Job *job)
{
    return job->record.status == JOB_WAITING ||
           (job->record.status == JOB_PENDING && !job->record.is_committed);
}

/* It is waiting; if all of its group are, they are pending. After a crash some
 * of them may be already. */
static void
meet_group(Job *job)
{
    g_autoptr(GPtrArray) group = job_group(job);
    bool has_to_ask = false;

    for (guint i = 0; i < group->len; i++) {
        const Job *other = g_ptr_array_index(group, i);

        if (!is_waiting(other) || other->is_unsaved) {
            return;
        }
        has_to_ask = has_to_ask || other->record.spec.waits_to_finalize;
    }
    for (guint i = 0; i < group->len; i++) {
        Job *other = g_ptr_array_index(group, i);

        if (other->record.status == JOB_PENDING) {
            continue;
        }
        job_move(other, JOB_PENDING);
        (void)job_save(other);
        if (other->record.spec.waits_to_finalize) {
            tell_pending(other);
        }
    }
    if (!has_to_ask) {
        job_commit(job);
    }
}

static void
leave(Job *job)
{
    Jobs *jobs = job->jobs;

    if (job->phase == JOB_MAPS) { /* nobody knows what is left: all */
        job_map_stop(job);
        disk_map_mark_all(job->map, jobs->ops->now_us());
    }
    if (job->phase == JOB_BEGINS || job->phase == JOB_MAPS) {
        job->phase = JOB_RESTS;
    } else if (job_is_in_relay(job)) {
        job->phase = JOB_LEAVES;
        jobs->ops->end(jobs->config.relay, job->relay_name);
    }
}

void
job_succeed(Job *job)
{
    uint64_t offset, len;

    job_progress(job, &offset, &len);
    job->record.done_bytes = job->record.total_bytes = len;
    job_map_detach(job);
    leave(job);
}

/*
 * Failure
 */
static void
abort_one(Job *job, const char *error)
{
    JobRecord *record = &job->record;

    if (record->status == JOB_ABORTING || record->status == JOB_CONCLUDED ||
        record->status == JOB_NULL) {
        return;
    }
    job_progress(job, &record->done_bytes, &record->total_bytes);
    record->has_failed = error != NULL;
    job_record_set_error(record, error != NULL ? error : "Operation canceled");
    job_stand_up(job);
    job_move(job, JOB_ABORTING);
    leave(job);
    (void)job_save(job);
}

void
job_abort(Job *job, const char *error)
{
    g_autoptr(GPtrArray) group = job_group(job);

    abort_one(job, error);
    for (guint i = 0; i < group->len; i++) {
        abort_one(g_ptr_array_index(group, i), NULL);
    }
    close_group(job);
}

/*
 * In time
 */

/* All is at the target, and the guest need not pay for the instant any more,
 * however long the group, or the user, takes. */
static void
give_up_instant(Job *job)
{
    uint64_t snapshot = job->record.snapshot;

    if (snapshot != 0 && !job->is_unsaved) {
        job->record.snapshot = 0;
        (void)job_save(job);
        jobs_drop_snapshot(job->jobs, snapshot);
    }
}

void
job_step_end(Job *job)
{
    if (job->phase != JOB_RESTS || job->is_asking) {
        return;
    }
    if (is_waiting(job)) {
        meet_group(job);
        if (is_waiting(job)) {
            give_up_instant(job);
        }
    } else if (is_closing(job)) {
        close_job(job);
    }
}

void
job_ended(Job *job)
{
    Jobs *jobs = job->jobs;
    struct RelayFigures figures;

    if (job_figures(job, &figures) && figures.core.doubt_clusters > 0) {
        job_leave_doubt(job);
    }
    jobs->ops->forget(jobs->config.relay, job->relay_name);
    job->phase = JOB_RESTS;
    job_map_detach(job);
    job_stand_up(job); /* too late to stand */
    if (job->record.status == JOB_RUNNING || job->record.status == JOB_READY) {
        job_move(job, JOB_WAITING);
        (void)job_save(job);
    }
    job_step_end(job);
}
