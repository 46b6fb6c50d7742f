/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs.c - the jobs of a store: their list, their states, what users ask of them
 *
 * What a job copies is a map of its own (jobs-map.c) that the relay drains to the
 * job's target, as it drains the disk's to the disk's: a job is a disk of the
 * relay, "job/ID". Its status is QEMU's (job.c), and says what a user may ask;
 * its phase says what is being done (jobs-copy.c). Each second, and whenever the
 * relay has news, all of them are looked at, and each takes the steps that are
 * possible then. Nothing waits.
 *
 * Each has a record (jobs-files.c), saved before what it says is acted on. A
 * daemon that follows finds records, maps and frozen bitmaps, and goes on
 * (jobs-resume.c).
 *
 * Named bitmaps, and a crash between any two of these, as to what a job does
 * with one:
 *
 *   1 the record is there, created         nothing is frozen: the directory goes
 *   2 the bitmap is frozen, durably        thawed OLD: it is S and N again
 *   3 running, durably                     the job goes on, with S frozen
 *   4 all is settled: waiting, pending     likewise; it waits as before
 *   5 committed, or aborting, durably,     what is frozen is thawed at the
 *     for all of its group                 opening, as that says
 *   6 thawed, durably                      it is not busy any more: so 6 was done,
 *                                          and is not done again
 *   7 concluded, durably                   nothing is left to be done
 *
 * N is on the way from 2 to 6 and kept by every checkpoint; what was written
 * since the last one is found by the store, as for any bitmap. S is given up in 6
 * only, by a job of which all is flushed at the target. Between 6 and 7 another
 * job cannot have taken the bitmap, since this one is before it on the main
 * thread; but if 7 could not be saved, it can: so a bitmap that is busy belongs
 * to the youngest of the jobs that name it.
 */
#include "jobs-private.h"

#include <string.h>

#define RELAY_PREFIX "job/"
#define POLL_MS      20 /* while the relay is to say soon that it seals no more */

static const struct JobsOps real_ops = {
    .add = relay_add_disk,
    .figures = relay_figures,
    .pause = relay_pause_job,
    .set_speed = relay_set_speed,
    .set_cut = relay_set_cut,
    .allow = relay_allow,
    .contact_kept = relay_contact_kept,
    .hurry = relay_hurry,
    .proceed = relay_proceed,
    .end = relay_end_disk,
    .forget = relay_forget_disk,
    .snapshot = snapshots_create,
    .drop = snapshots_delete_hidden,
    .now_us = g_get_monotonic_time,
};

/*
 * One job
 */
Job *
job_new(Jobs *jobs, JobSpec *spec)
{
    Job *job = g_new0(Job, 1);

    job->jobs = jobs;
    job->record.spec = *spec;
    *spec = (JobSpec){0};
    job->relay_name = g_strconcat(RELAY_PREFIX, job->record.spec.id, NULL);
    job->dir_fd = -1;
    job->io_status = "ok";
    return job;
}

void
job_free(Job *job)
{
    StoreIo *io = job->jobs->config.store->io;

    job_map_drop(job);
    if (job->dir_fd >= 0) {
        io->ops->close(io, job->dir_fd);
    }
    job_record_clear(&job->record);
    g_free(job->relay_name);
    g_free(job->doom);
    g_free(job);
}

bool
job_figures(const Job *job, struct RelayFigures *figures)
{
    const Jobs *jobs = job->jobs;

    *figures = (struct RelayFigures){0};
    return jobs->ops->figures(jobs->config.relay, job->relay_name, figures);
}

void
job_progress(Job *job, uint64_t *offset, uint64_t *len)
{
    struct DiskMapFigures figures;
    uint64_t left, ever;
    unsigned bits;

    if (job->map == NULL || job->phase == JOB_LEAVES ||
        job->phase == JOB_RESTS) {
        *offset = job->record.done_bytes;
        *len = job->record.total_bytes;
        return;
    }
    bits = disk_map_cluster_bits(job->map);
    disk_map_figures(job->map, &figures);
    left = figures.dirty_clusters << bits;
    ever = job->base_bytes + (figures.dirtied_clusters << bits);
    job->offset_bytes = MAX(job->offset_bytes, ever - MIN(ever, left));
    *offset = job->offset_bytes;
    *len = job->offset_bytes + left;
}

void
job_tell(Job *job, const char *name, JsonObject *data)
{
    const struct JobsConfig *config = &job->jobs->config;

    config->event(config->user, name, data);
}

void
job_move(Job *job, enum JobStatus to)
{
    JsonObject *data = json_object_new();

    if (!job_may_become(job->record.status, to)) {
        g_error("job %s: from %s to %s", job->record.spec.id,
                job_status_name(job->record.status), job_status_name(to));
    }
    job->record.status = to;
    json_object_set_string_member(data, "id", job->record.spec.id);
    json_object_set_string_member(data, "status", job_status_name(to));
    job_tell(job, "JOB_STATUS_CHANGE", data);
}

JsonObject *
job_event_object(Job *job)
{
    const JobSpec *spec = &job->record.spec;
    JsonObject *data = json_object_new();
    uint64_t offset, len;

    job_progress(job, &offset, &len);
    json_object_set_string_member(data, "type", job_kind_name(spec->kind));
    json_object_set_string_member(data, "device", spec->id);
    json_object_set_int_member(data, "len", (gint64)len);
    json_object_set_int_member(data, "offset", (gint64)offset);
    json_object_set_int_member(data, "speed", (gint64)spec->speed_bps);
    return data;
}

void
job_stand_up(Job *job)
{
    if (job_is_paused(job)) {
        job_move(job,
                 job->record.status == JOB_PAUSED ? JOB_RUNNING : JOB_READY);
    }
}

void
job_step(Job *job)
{
    if (job->jobs->is_stopping || (job->is_unsaved && !job_save(job))) {
        return;
    }
    switch (job->phase) {
    case JOB_BEGINS:
    case JOB_STANDS:
        break;
    case JOB_MAPS:
    case JOB_COPIES:
    case JOB_ASKS:
    case JOB_CUTS:
    case JOB_SETTLES:
        job_step_copy(job);
        break;
    case JOB_LEAVES:
    case JOB_RESTS:
        job_step_end(job);
        break;
    }
}

/*
 * All of them
 */
Job *
jobs_find(const Jobs *jobs, const char *id)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);

        if (job->record.status != JOB_NULL &&
            strcmp(job->record.spec.id, id) == 0) {
            return job;
        }
    }
    return NULL;
}

bool
jobs_has(const Jobs *jobs, const char *id)
{
    return jobs_find(jobs, id) != NULL;
}

GPtrArray *
job_group(Job *job)
{
    GPtrArray *group = g_ptr_array_new();
    const Jobs *jobs = job->jobs;

    for (guint i = 0; i < jobs->list->len; i++) {
        Job *other = g_ptr_array_index(jobs->list, i);

        if (other == job ||
            (job->record.group != 0 && other->record.status != JOB_NULL &&
             other->record.group == job->record.group)) {
            g_ptr_array_add(group, other);
        }
    }
    return group;
}

void
jobs_sweep(Jobs *jobs)
{
    for (guint i = jobs->list->len; !jobs->is_looking && i > 0; i--) {
        const Job *job = g_ptr_array_index(jobs->list, i - 1);

        if (job->record.status == JOB_NULL) {
            g_ptr_array_remove_index(jobs->list, i - 1);
        }
    }
}

static gboolean
poll_cb(gpointer data)
{
    Jobs *jobs = data;

    jobs->poll = 0;
    jobs_look(jobs);
    return G_SOURCE_REMOVE;
}

static void
keep_polling(Jobs *jobs)
{
    bool is_near = false;

    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        is_near = is_near || (job->phase == JOB_CUTS && !job_is_paused(job));
    }
    if (is_near && jobs->poll == 0 && !jobs->is_stopping) {
        jobs->poll = g_timeout_add(POLL_MS, poll_cb, jobs);
    }
}

void
jobs_look(Jobs *jobs)
{
    if (jobs->is_looking || !jobs->has_begun) {
        return;
    }
    jobs_end_doubts(jobs);
    jobs->is_looking = true;
    for (guint i = 0; i < jobs->list->len; i++) {
        job_step(g_ptr_array_index(jobs->list, i));
    }
    jobs->is_looking = false;
    jobs_sweep(jobs);
    keep_polling(jobs);
}

bool
jobs_is_job(const char *relay_name)
{
    return g_str_has_prefix(relay_name, RELAY_PREFIX);
}

void
jobs_news(Jobs *jobs, const char *relay_name, enum RelayNews news)
{
    Job *job = jobs_find(jobs, relay_name + strlen(RELAY_PREFIX));

    if (job != NULL && news == RELAY_NEWS_ENDED && job->phase == JOB_LEAVES) {
        job_ended(job);
        jobs_sweep(jobs);
    }
}

static bool
is_over(const Job *job)
{
    return job->record.status == JOB_CONCLUDED ||
           job->record.status == JOB_NULL;
}

const char *
jobs_of_disk(const Jobs *jobs, const Disk *disk)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        if (job_disk(job) == disk && !is_over(job)) {
            return job->record.spec.id;
        }
    }
    return NULL;
}

bool
jobs_holds_snapshot(const Jobs *jobs, uint64_t id)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        if (job->record.snapshot == id && !is_over(job)) {
            return true;
        }
    }
    return false;
}

/*
 * Verbs
 */

/* One that was committed is a success of its group, though its record or its
 * bitmap cannot be saved yet. */
static bool
takes(const Job *job, enum JobVerb verb)
{
    return job_takes(job->record.status, verb) &&
           !(verb == JOB_VERB_CANCEL && job->record.is_committed);
}

/* The job, if it may be asked for @verb. */
static Job *
find_for(const Jobs *jobs, const char *id, enum JobVerb verb, GError **error)
{
    Job *job = jobs_find(jobs, id);

    if (job == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "Job not found");
    } else if (!takes(job, verb)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Job '%s' in state '%s' cannot accept command verb '%s'",
                    id, job_status_name(job->record.status),
                    job_verb_name(verb));
        job = NULL;
    }
    return job;
}

gboolean
jobs_pause(Jobs *jobs, const char *id, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_PAUSE, error);

    if (job == NULL) {
        return FALSE;
    }
    if (job->record.is_paused_by_user) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Job is already paused");
        return FALSE;
    }
    job_pause(job);
    return TRUE;
}

gboolean
jobs_resume(Jobs *jobs, const char *id, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_RESUME, error);

    if (job == NULL) {
        return FALSE;
    }
    if (!job->record.is_paused_by_user) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Can't resume a job that was not paused");
        return FALSE;
    }
    job->record.is_paused_by_user = false;
    job_stand_up(job);
    (void)job_save(job);
    job_forgive(job);
    jobs_look(jobs);
    return TRUE;
}

gboolean
jobs_set_speed(Jobs *jobs, const char *id, uint64_t bps, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_SET_SPEED, error);

    if (job == NULL) {
        return FALSE;
    }
    job->record.spec.speed_bps = bps;
    (void)job_save(job);
    if (job_is_in_relay(job)) {
        jobs->ops->set_speed(jobs->config.relay, job->relay_name, bps);
    }
    return TRUE;
}

/* The mirror ends in sync, as soon as it may. */
static void
complete(Job *job)
{
    if (!job->record.is_completing) {
        job->record.is_completing = true;
        (void)job_save(job);
    }
    jobs_look(job->jobs);
}

gboolean
jobs_complete(Jobs *jobs, const char *id, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_COMPLETE, error);

    if (job == NULL) {
        return FALSE;
    }
    complete(job);
    return TRUE;
}

gboolean
jobs_cancel(Jobs *jobs, const char *id, bool is_soft, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_CANCEL, error);

    if (job == NULL) {
        return FALSE;
    }
    if (job->record.status == JOB_CREATED) {
        job->is_unwanted = true;
    } else if (is_soft && job_takes(job->record.status, JOB_VERB_COMPLETE)) {
        complete(job);
    } else {
        job_abort(job, NULL);
        jobs_sweep(jobs);
    }
    return TRUE;
}

gboolean
jobs_finalize(Jobs *jobs, const char *id, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_FINALIZE, error);

    if (job == NULL) {
        return FALSE;
    }
    job_commit(job);
    jobs_sweep(jobs);
    return TRUE;
}

gboolean
jobs_dismiss(Jobs *jobs, const char *id, GError **error)
{
    Job *job = find_for(jobs, id, JOB_VERB_DISMISS, error);

    if (job == NULL) {
        return FALSE;
    }
    job_dismiss(job);
    jobs_sweep(jobs);
    return TRUE;
}

/*
 * Begin and end
 */
Jobs *
jobs_new(const struct JobsConfig *config)
{
    Jobs *jobs = g_new0(Jobs, 1);

    jobs->config = *config;
    jobs->ops = config->ops ? config->ops : &real_ops;
    jobs->list = g_ptr_array_new_with_free_func((GDestroyNotify)job_free);
    jobs->doubts = jobs_doubts_new();
    jobs->deadline_us =
        config->store->settings.request_deadline_s * G_USEC_PER_SEC;
    jobs_recall(jobs);
    return jobs;
}

void
jobs_begin(Jobs *jobs, Snapshots *snapshots)
{
    jobs->config.snapshots = snapshots;
    jobs->has_begun = true;
    jobs_recall_begin(jobs);
    jobs_look(jobs);
}

void
jobs_stop(Jobs *jobs)
{
    if (jobs->is_stopping) {
        return;
    }
    jobs->is_stopping = true;
    jobs->config.snapshots = NULL; /* the next life drops what is left */
    g_clear_handle_id(&jobs->poll, g_source_remove);
    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        if (job_is_in_relay(job)) {
            jobs->ops->pause(jobs->config.relay, job->relay_name, TRUE);
        }
    }
}

bool
jobs_is_quiet(Jobs *jobs)
{
    bool is_quiet = true;

    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);
        struct RelayFigures figures;

        if (job_is_in_relay(job) && job_figures(job, &figures)) {
            job->record.is_in_doubt = !figures.core.is_paused ||
                                      figures.core.unanswered > 0 ||
                                      figures.core.doubt_clusters > 0;
            is_quiet = is_quiet && !job->record.is_in_doubt;
        }
    }
    return is_quiet;
}

void
jobs_keep(Jobs *jobs)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);

        if (!is_over(job)) {
            (void)job_save(job);
        }
    }
}

void
jobs_free(Jobs *jobs)
{
    if (jobs != NULL) {
        g_clear_handle_id(&jobs->poll, g_source_remove);
        g_ptr_array_unref(jobs->list);
        g_array_unref(jobs->doubts);
        g_free(jobs);
    }
}
