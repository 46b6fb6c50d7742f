/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-copy.c - what is done for a job while the relay has it
 *
 *   phase    when                            what                         then
 *   BEGINS   its instant is there            jobs-start.c          MAPS, STANDS
 *   MAPS     the thread has ended            added to the relay          STANDS
 *   STANDS   all of its order are running    job_copy()                  COPIES
 *   COPIES   an error, a refusal             jobs-error.c
 *            an earlier job's requests       jobs-doubt.c; nothing else before
 *            backup: all is settled                                      LEAVES
 *            ... with sync=none: each second sealed, may be sent
 *            mirror: all of the first        a second pass begins
 *            ... and that is settled, too    ready
 *            ... ready, to be completed      its instant is asked for      ASKS
 *   ASKS     the snapshot is made            the relay seals no more       CUTS
 *            ... cannot be made              again after a second        COPIES
 *   CUTS     nothing is sealed any more      marked, sealed, marked,
 *                                            may be sent                SETTLES
 *            the marks cannot be kept                                    COPIES
 *   SETTLES  all of that is settled                                      LEAVES
 *            the snapshot was not all read                               COPIES
 *   LEAVES   the relay has ended it          jobs-end.c                   RESTS
 *
 * Any that is in the relay may LEAVE as it fails or is cancelled (jobs-end.c); one
 * that is not yet comes to RESTS at once, and so does one of an earlier life that
 * cannot go on.
 *
 * A backup's map is sealed once, and sent as its snapshot has it. With
 * sync=none the map is what the guest has overwritten since, sealed each second:
 * what it brings is again the content of the snapshot, so that equal sums keep
 * the second time from being sent. That never ends by itself.
 *
 * A mirror is the newest content, sealed and sent by the relay itself. It is
 * ready when what was dirty in the beginning is over, and what got dirty during
 * that as well: from there on the target is as near as it comes.
 *
 * To end in sync is what a snapshot of the disk is to its own target
 * (bitmap/point-marks.h): N of the bitmap begins anew, then comes the instant,
 * a snapshot that nobody sees. The relay brings what it has sealed by itself, and
 * then one more generation, each cluster as the snapshot has it. When that is
 * settled the target is the disk at the instant. What the first marking finds
 * clean is in a checkpoint before anything older than the disk is sent. A crash
 * in between gives up the instant; the next life asks for another.
 *
 * Settled is flushed at the target. Nothing is over before the target was met:
 * a job with nothing to copy does not succeed for a target that is not there.
 */
#include "bitmap/point-marks.h"
#include "jobs-private.h"

#define SEAL_US  G_USEC_PER_SEC /* sync=none */
#define AGAIN_US G_USEC_PER_SEC /* no instant was to be had */

static bool
is_dirty(Job *job)
{
    struct DiskMapFigures figures;

    disk_map_figures(job->map, &figures);
    return figures.dirty_clusters > 0;
}

/* What is open may be sent, as the snapshot has it. False: not now. */
static bool
seal(Job *job)
{
    const Jobs *jobs = job->jobs;
    uint64_t seq = disk_map_seal(job->map);

    if (seq == 0 && is_dirty(job)) {
        return false; /* no memory, or the queue is full */
    }
    job->goal = seq;
    if (seq != 0) {
        jobs->ops->allow(jobs->config.relay, job->relay_name, seq,
                         job->record.snapshot);
    }
    return true;
}

void
job_go(const Job *job)
{
    const Jobs *jobs = job->jobs;

    if (!job->record.is_paused_by_user && !job->is_held_back) {
        jobs->ops->pause(jobs->config.relay, job->relay_name, FALSE);
    }
}

void
job_copy(Job *job)
{
    job->phase = JOB_COPIES;
    job->is_second_pass = false;
    job->goal = 0;
    if (job->record.spec.kind == JOB_MIRROR) {
        job->goal = disk_map_open_seq(job->map);
    }
    job_go(job);
}

/* The target was accepted: it is written once a later life will know it again;
 * a record that cannot be saved is tried again with the next look. */
static void
look_at_contact(Job *job, const struct RelayFigures *figures)
{
    if (figures->core.contact == CONTACT_KNOWN && !job->record.is_met) {
        job->record.is_met = true;
        if (job_save(job)) {
            job->jobs->ops->contact_kept(job->jobs->config.relay,
                                         job->relay_name);
        } else {
            job->record.is_met = false;
        }
    }
}

/* Something of the snapshot could not be read: what was sent in its place is not
 * what the job is about. */
static bool
is_lost(const Job *job, const struct RelayFigures *figures)
{
    return job->record.snapshot != 0 &&
           figures->lost_snapshot == job->record.snapshot;
}

/*
 * Backup
 */
static void
step_backup(Job *job, const struct RelayFigures *figures)
{
    if (is_lost(job, figures)) {
        job_abort(job, "not all of its instant can be read: see the log");
        return;
    }
    if (job->record.spec.sync == JOB_NONE) {
        if (job->jobs->ops->now_us() >= job->again_us) {
            job->again_us = job->jobs->ops->now_us() + SEAL_US;
            (void)seal(job);
        }
        return;
    }
    if (!job->is_sealed) {
        job->is_sealed = seal(job);
    }
    if (job->is_sealed && job->record.is_met &&
        disk_map_settled_seq(job->map) >= job->goal) {
        job_succeed(job);
    }
}

/*
 * Mirror
 */
static void
become_ready(Job *job)
{
    job_move(job, JOB_READY);
    job_tell(job, "BLOCK_JOB_READY", job_event_object(job));
    (void)job_save(job);
}

static void
asked_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    Job *job = user;
    Jobs *jobs = job->jobs;

    job->is_asking = false;
    if (job->phase != JOB_ASKS || jobs->is_stopping) {
        /* It was cancelled meanwhile. */
        if (snapshot != NULL) {
            jobs_drop_snapshot(jobs, snapshot->id);
        }
        job_step(job);
        return;
    }
    if (snapshot == NULL) {
        g_warning("job %s cannot be completed now: %s", job->record.spec.id,
                  error->message);
        g_strlcpy(job->words, error->message, sizeof(job->words));
        job->again_us = jobs->ops->now_us() + AGAIN_US;
        job->phase = JOB_COPIES;
        return;
    }
    job->words[0] = '\0';
    job->record.snapshot = snapshot->id;
    (void)job_save(job);
    job->phase = JOB_CUTS;
    jobs->ops->set_cut(jobs->config.relay, job->relay_name, TRUE);
    jobs->ops->hurry(jobs->config.relay);
    jobs_look(jobs);
}

static void
ask(Job *job)
{
    const Jobs *jobs = job->jobs;

    if (job->frozen != NULL) {
        named_renew(job->frozen);
    }
    job->phase = JOB_ASKS;
    job->is_asking = true;
    jobs->ops->snapshot(jobs->config.snapshots, NULL, SNAPSHOT_JOB, asked_cb,
                        job);
}

static void
step_mirror(Job *job, const struct RelayFigures *figures)
{
    bool is_there = job->record.is_met && figures->core.link == RELAY_ONLINE;

    if (is_there && job->record.status == JOB_RUNNING && !job->is_second_pass &&
        disk_map_settled_seq(job->map) >= job->goal) {
        job->is_second_pass = true;
        job->goal = disk_map_open_seq(job->map);
    }
    if (is_there && job->record.status == JOB_RUNNING && job->is_second_pass &&
        disk_map_settled_seq(job->map) >= job->goal) {
        become_ready(job);
    }
    if (is_there && job->record.status == JOB_READY &&
        job->record.is_completing && !job->is_asking &&
        job->jobs->ops->now_us() >= job->again_us) {
        ask(job);
    }
}

static void
step_cut(Job *job, const struct RelayFigures *figures)
{
    Jobs *jobs = job->jobs;
    Disk *disk = job_disk(job);
    int64_t now_us = jobs->ops->now_us();

    if (!figures->core.is_cut || disk_map_sealed_seq(job->map) != 0) {
        return;
    }
    job->is_mark_unsaved |= point_marks_before(
        disk->points, job->record.snapshot, job->map, now_us);
    if (job->is_mark_unsaved &&
        store_checkpoint(jobs->config.store, disk) < 0) {
        g_strlcpy(job->words,
                  "cannot be completed now, as what is to be sent cannot be "
                  "kept: see the log",
                  sizeof(job->words));
        job_uncut(job);
        return;
    }
    job->is_mark_unsaved = false;
    if (!seal(job)) {
        return;
    }
    point_marks_after(disk->points, job->record.snapshot, job->map, now_us);
    job->phase = JOB_SETTLES;
    jobs->ops->hurry(jobs->config.relay);
}

void
job_uncut(Job *job)
{
    Jobs *jobs = job->jobs;
    uint64_t id = job->record.snapshot;

    job->record.snapshot = 0;
    (void)job_save(job);
    jobs_drop_snapshot(jobs, id);
    job->phase = JOB_COPIES;
    job->again_us = jobs->ops->now_us() + AGAIN_US;
    jobs->ops->set_cut(jobs->config.relay, job->relay_name, FALSE);
}

static void
step_settling(Job *job, const struct RelayFigures *figures)
{
    if (disk_map_settled_seq(job->map) < job->goal) {
        return;
    }
    if (is_lost(job, figures)) {
        g_warning("job %s: not all of its instant can be read: another one is "
                  "taken",
                  job->record.spec.id);
        job_uncut(job);
        return;
    }
    job_succeed(job);
}

/*
 * Any
 */
static void
step_mapped(Job *job)
{
    g_autoptr(GError) error = NULL;

    if (!job_map_is_found(job)) {
        return;
    }
    job->record.is_mapped = true;
    if (store_checkpoint(job->jobs->config.store, job_disk(job)) < 0 ||
        !job_save(job)) {
        job_abort(job, "what it is to copy cannot be kept: see the log");
    } else if (!job_add(job, &error)) {
        job_abort(job, error->message);
    } else {
        job_copy(job);
        job_step(job);
    }
}

void
job_step_copy(Job *job)
{
    struct RelayFigures figures;

    if (job->phase == JOB_MAPS) {
        step_mapped(job);
        return;
    }
    if (!job_figures(job, &figures)) {
        return;
    }
    look_at_contact(job, &figures);
    if (job_look_errors(job, &figures) || job_look_doubt(job) ||
        job_is_paused(job)) {
        return;
    }
    switch (job->phase) {
    case JOB_COPIES:
        if (job->record.spec.kind == JOB_BACKUP) {
            step_backup(job, &figures);
        } else {
            step_mirror(job, &figures);
        }
        break;
    case JOB_CUTS:
        step_cut(job, &figures);
        break;
    case JOB_SETTLES:
        step_settling(job, &figures);
        break;
    case JOB_BEGINS:
    case JOB_MAPS:
    case JOB_STANDS:
    case JOB_ASKS:
    case JOB_LEAVES:
    case JOB_RESTS:
        break;
    }
}
