/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-start.c - jobs begin: all of one order, or none
 *
 *   1  each is looked at: its name, its target                  nothing is there
 *   2  each gets its directory and record: created
 *   3  bitmaps are frozen, durably, unless one is busy or gone by now; recorders
 *      are attached, so that nothing is missed from here on
 *   4  if there is a backup: one snapshot, the instant of all of them, with the
 *      guest frozen around it if there are hooks
 *   5  each gets what it is to copy into its map; a checkpoint has that. What is
 *      allocated takes a thread its time: that job follows by itself
 *      (jobs-copy.c), and is not in the relay before
 *   6  each of the others is one of the relay's, standing
 *   7  each is running, durably
 *   8  they go, but for those that were cancelled or paused meanwhile, or are
 *      held back (jobs-doubt.c); whoever asked gets the answer
 *
 * What fails in 1 has changed nothing. What fails in 2 to 7 ends all of them:
 * aborting, concluded, null, their bitmaps as if nothing had been. After a crash
 * before 7 that is what the next life does; in 7, some may be running and others
 * have never begun, and of a group that ends those that run.
 *
 * A bitmap that was cleared, or added, before the order was given records from
 * before the instant: it may have a little more than what the backup lacks,
 * never less.
 */
#include "jobs-private.h"
#include "store-private.h"

#include <string.h>

struct Start {
    Jobs *jobs;
    GPtrArray *list; /* Job, borrowed */
    JobsDone done;
    void *user;
};

/*
 * 1
 */
static gboolean
refuse_target(const JobSpec *spec, const char *whose, const char *who,
              GError **error)
{
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                "%s is the target of %s %s: a job needs one of its own",
                spec->target, whose, who);
    return FALSE;
}

const char *
jobs_of_target(const Jobs *jobs, const char *target)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        if (job->record.status < JOB_CONCLUDED &&
            relay_target_is_same(job->record.spec.target, target)) {
            return job->record.spec.id;
        }
    }
    return NULL;
}

/* It is nobody's: of no disk, of no job, and of none that is ordered with it. */
static gboolean
check_target(const Jobs *jobs, const JobSpec *specs, unsigned at,
             GError **error)
{
    const Store *store = jobs->config.store;
    const JobSpec *spec = &specs[at];
    const char *id = jobs_of_target(jobs, spec->target);

    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];

        if (disk->target != NULL &&
            relay_target_is_same(disk->target, spec->target)) {
            return refuse_target(spec, "disk", disk->name, error);
        }
    }
    if (id != NULL) {
        return refuse_target(spec, "job", id, error);
    }
    for (unsigned i = 0; i < at; i++) {
        if (relay_target_is_same(specs[i].target, spec->target)) {
            return refuse_target(spec, "job", specs[i].id, error);
        }
    }
    return relay_target_check(spec->target, store->settings.insecure, error);
}

static gboolean
check_id(const Jobs *jobs, const JobSpec *specs, unsigned at, GError **error)
{
    const char *id = specs[at].id;
    bool is_taken = jobs_has(jobs, id);

    for (unsigned i = 0; i < at; i++) {
        is_taken = is_taken || strcmp(specs[i].id, id) == 0;
    }
    if (!job_id_is_valid(id)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Invalid job ID '%s': it begins with a letter, and has up "
                    "to %d of A-Z a-z 0-9 - . _",
                    id, JOB_ID_MAX);
        return FALSE;
    }
    if (is_taken) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Job ID '%s' already in use", id);
    }
    return !is_taken;
}

static gboolean
check_all(const Jobs *jobs, const JobSpec *specs, unsigned count,
          GError **error)
{
    if (jobs->is_stopping) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "no job: the daemon ends; try again when another one is "
                    "there");
        return FALSE;
    }
    if (jobs->list->len + count > JOBS_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "there are %u jobs, and %d is the most: dismiss some",
                    jobs->list->len, JOBS_MAX);
        return FALSE;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!check_id(jobs, specs, i, error) ||
            !check_target(jobs, specs, i, error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/*
 * Any end of it
 */
static void
start_free(struct Start *start)
{
    g_ptr_array_unref(start->list);
    g_free(start);
}

/* None of them begins. Takes @error. */
static void
fail(struct Start *start, GError *error)
{
    Jobs *jobs = start->jobs;

    for (guint i = 0; i < start->list->len; i++) {
        Job *job = g_ptr_array_index(start->list, i);

        job->record.spec.waits_to_dismiss = false;
        job->record.begun_us = 0;
    }
    for (guint i = 0; i < start->list->len; i++) {
        job_abort(g_ptr_array_index(start->list, i), error->message);
    }
    jobs_sweep(jobs);
    start->done(start->user, error);
    start_free(start);
    g_error_free(error);
}

/*
 * 2, 3
 */
static gboolean
create(struct Start *start, JobSpec *spec, uint64_t group, unsigned count,
       GError **error)
{
    Job *job = job_new(start->jobs, spec);

    job->record.group = group;
    job->record.members = group != 0 ? count : 0;
    job->record.is_paused_by_user = false;
    job->phase = JOB_BEGINS;
    g_ptr_array_add(start->jobs->list, job);
    g_ptr_array_add(start->list, job);
    job_move(job, JOB_CREATED);
    return job_files_make(job, error) && job_map_make(job, error);
}

static gboolean
freeze(Job *job, GError **error)
{
    const JobSpec *spec = &job->record.spec;
    Disk *disk = spec->disk;
    enum NamedResult result;

    if (spec->bitmap == NULL) {
        return TRUE;
    }
    result = named_freeze(disk->bitmaps, spec->bitmap, &job->frozen);
    if (result != NAMED_OK) {
        job->frozen = NULL;
        store_bitmap_set_error(error, result, disk, spec->bitmap);
        return FALSE;
    }
    return store_bitmaps_save(job->jobs->config.store, disk, error);
}

static gboolean
create_all(struct Start *start, JobSpec *specs, unsigned count, uint64_t group,
           GError **error)
{
    for (unsigned i = 0; i < count; i++) {
        if (!create(start, &specs[i], group, count, error)) {
            return FALSE;
        }
    }
    for (guint i = 0; i < start->list->len; i++) {
        Job *job = g_ptr_array_index(start->list, i);

        if (!freeze(job, error)) {
            return FALSE;
        }
        job_map_record(job);
        job_map_hold(job);
    }
    return TRUE;
}

/*
 * 5 to 8
 */
static struct RelayJobConfig
relay_config(const Job *job)
{
    const JobSpec *spec = &job->record.spec;

    return (struct RelayJobConfig){
        .is_job = true,
        .pins = spec->disk->map,
        .is_exact = spec->is_exact,
        .is_zero = spec->is_target_zero,
        .keeps_zeroes = spec->keeps_zeroes,
        .is_paused = true,
        .halts = true,
        .bps = spec->speed_bps,
        .window_bytes = spec->buf_bytes,
    };
}

gboolean
job_add(Job *job, GError **error)
{
    const Jobs *jobs = job->jobs;
    const JobSpec *spec = &job->record.spec;
    Store *store = jobs->config.store;
    struct RelayDiskConfig config = store_relay_config(store, spec->disk);

    config.name = job->relay_name;
    config.map = job->map;
    config.target = spec->target;
    config.contact = job->record.is_met ? CONTACT_KNOWN
                     : job->is_recalled ? CONTACT_LOST
                                        : CONTACT_NONE;
    config.accept = spec->accept;
    config.is_cut = spec->kind == JOB_BACKUP;
    config.aside = NULL;
    config.aside_fd = -1;
    config.dir_fd = job->dir_fd;
    config.epoch_before =
        job->is_recalled
            ? store_books_epoch(config.contact, store->epoch_before)
            : 0;
    config.is_in_doubt =
        job->is_recalled && (!store->was_clean || job->record.is_in_doubt);
    config.recovers = false;
    config.job = relay_config(job);
    if (!jobs->ops->add(jobs->config.relay, &config, error)) {
        return FALSE;
    }
    job_heed_doubt(job);
    job->phase = JOB_STANDS;
    return TRUE;
}

/* A checkpoint has what is to be copied, unless that is all, as whoever finds
 * none takes it to be. */
static gboolean
checkpoint(const struct Start *start, GError **error)
{
    Store *store = start->jobs->config.store;
    bool is_done[STORE_DISKS_MAX] = {false};

    for (guint i = 0; i < start->list->len; i++) {
        const Job *job = g_ptr_array_index(start->list, i);
        Disk *disk = job_disk(job);
        int err;

        if (job->record.spec.sync == JOB_FULL || !job->record.is_mapped ||
            is_done[disk->index]) {
            continue;
        }
        is_done[disk->index] = true;
        err = store_checkpoint(store, disk);
        if (err < 0) {
            store_set_errno(error, STORE_ERROR_FAILED, err,
                            "job %s: what it is to copy cannot be kept",
                            job->record.spec.id);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
run(Job *job, GError **error)
{
    job->record.begun_us = g_get_real_time();
    job_move(job, JOB_RUNNING);
    if (!job_save(job)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "job %s: its record cannot be kept: see the log",
                    job->record.spec.id);
        return FALSE;
    }
    return TRUE;
}

static gboolean
prepare_all(struct Start *start, uint64_t snapshot, GError **error)
{
    for (guint i = 0; i < start->list->len; i++) {
        Job *job = g_ptr_array_index(start->list, i);

        if (job->record.spec.kind == JOB_BACKUP) {
            job->record.snapshot = snapshot;
        }
        job->record.is_mapped = job_map_fill(job);
        if (!job->record.is_mapped) {
            job->phase = JOB_MAPS;
        }
    }
    if (!checkpoint(start, error)) {
        return FALSE;
    }
    for (guint i = 0; i < start->list->len; i++) {
        Job *job = g_ptr_array_index(start->list, i);

        if (job->record.is_mapped && !job_add(job, error)) {
            return FALSE;
        }
    }
    for (guint i = 0; i < start->list->len; i++) {
        if (!run(g_ptr_array_index(start->list, i), error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/* What was asked for while it was created is done now. One that was cancelled
 * has taken the others of its group along, which do nothing any more. */
static void
go(Job *job)
{
    if (job->record.status != JOB_RUNNING) {
        return;
    }
    if (job->phase == JOB_STANDS) {
        job_copy(job);
    }
    if (job->is_unwanted) {
        job_abort(job, NULL);
    } else if (job->record.is_paused_by_user) {
        job_move(job, JOB_PAUSED);
        (void)job_save(job);
    }
}

static void
begin_all(struct Start *start, uint64_t snapshot)
{
    Jobs *jobs = start->jobs;
    GError *error = NULL;

    if (!prepare_all(start, snapshot, &error)) {
        fail(start, error);
        jobs_drop_snapshot(jobs, snapshot);
        return;
    }
    for (guint i = 0; i < start->list->len; i++) {
        go(g_ptr_array_index(start->list, i));
    }
    start->done(start->user, NULL);
    start_free(start);
    jobs_look(jobs);
}

/* 4 */
static void
instant_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    struct Start *start = user;

    if (snapshot == NULL) {
        fail(start, g_error_copy(error));
    } else {
        begin_all(start, snapshot->id);
    }
}

static bool
needs_instant(const struct Start *start)
{
    for (guint i = 0; i < start->list->len; i++) {
        const Job *job = g_ptr_array_index(start->list, i);

        if (job->record.spec.kind == JOB_BACKUP) {
            return true;
        }
    }
    return false;
}

void
jobs_start(Jobs *jobs, JobSpec *specs, unsigned count, bool is_grouped,
           JobsDone done, void *user)
{
    struct Start *start = g_new0(struct Start, 1);
    uint64_t group = is_grouped && count > 1 ? (uint64_t)g_get_real_time() : 0;
    GError *error = NULL;

    start->jobs = jobs;
    start->list = g_ptr_array_new();
    start->done = done;
    start->user = user;
    if (!check_all(jobs, specs, count, &error) ||
        !create_all(start, specs, count, group, &error)) {
        fail(start, error);
    } else if (needs_instant(start)) {
        jobs->ops->snapshot(jobs->config.snapshots, NULL, SNAPSHOT_JOB,
                            instant_cb, start);
    } else {
        begin_all(start, 0);
    }
    for (unsigned i = 0; i < count; i++) {
        job_spec_clear(&specs[i]);
    }
}
