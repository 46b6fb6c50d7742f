/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-error.c - an error: the job fails, stands, or tries again
 *
 * A lost connection is none: the relay makes another one, for ever, and the
 * job's link says so. When the target answers an error, or the local disk does,
 * the relay stands at once and nothing further is begun, so that what follows
 * can be decided here:
 *
 *   report      the job fails
 *   stop        it stands (paused, standby) until somebody resumes it
 *   enospc      stop for want of room, else report
 *   ignore      it is tried again, at most once a second
 *
 * A target that may not be written is told before anything was sent to it, and
 * then the job fails, as one does in QEMU whose target cannot be opened. Once a
 * target was accepted it is the job's: if it is refused later (somebody put
 * another one in its place), the job stays and says so, and goes on when the
 * right one is back.
 */
#include "jobs-private.h"

#include <errno.h>

#define IGNORE_US G_USEC_PER_SEC

static enum JobOnError
choose_action(const Job *job, bool is_read, int error)
{
    const JobSpec *spec = &job->record.spec;
    enum JobOnError action = is_read ? spec->on_source : spec->on_target;

    if (action == JOB_ENOSPC) {
        action = error == ENOSPC ? JOB_STOP : JOB_REPORT;
    }
    return action;
}

static void
tell_error(Job *job, bool is_read, enum JobOnError action)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "device", job->record.spec.id);
    json_object_set_string_member(data, "operation",
                                  is_read ? "read" : "write");
    json_object_set_string_member(data, "action", job_on_error_name(action));
    job_tell(job, "BLOCK_JOB_ERROR", data);
}

void
job_pause(Job *job)
{
    const Jobs *jobs = job->jobs;

    job->record.is_paused_by_user = true;
    if (job->record.status == JOB_RUNNING) {
        job_move(job, JOB_PAUSED);
    } else if (job->record.status == JOB_READY) {
        job_move(job, JOB_STANDBY);
    }
    (void)job_save(job);
    if (job_is_in_relay(job)) {
        jobs->ops->pause(jobs->config.relay, job->relay_name, TRUE);
    }
}

static void
take_halt(Job *job, const struct RelayCoreFigures *core)
{
    bool is_read = core->halt.is_read;
    int error = core->halt.error;
    enum JobOnError action = choose_action(job, is_read, error);

    job->halts = core->halt.count;
    tell_error(job, is_read, action);
    g_message("job %s: %s: %s%s%s: %s", job->record.spec.id,
              is_read ? "the local disk cannot be read" : "the target's error",
              g_strerror(error), core->error[0] != '\0' ? ": " : "",
              core->error, job_on_error_name(action));
    switch (action) {
    case JOB_REPORT:
        job_abort(job, g_strerror(error));
        break;
    case JOB_STOP:
    case JOB_ENOSPC:
        job->is_halted = true;
        job->io_status = error == ENOSPC ? "nospace" : "failed";
        if (!job->record.is_paused_by_user) {
            job_pause(job);
        }
        break;
    case JOB_IGNORE:
        if (!job->is_ignoring) {
            job->is_ignoring = true;
            job->retry_us =
                MAX(job->jobs->ops->now_us(), job->ignored_us + IGNORE_US);
        }
        break;
    }
}

static void
proceed(Job *job)
{
    const Jobs *jobs = job->jobs;

    job->ignored_us = jobs->ops->now_us();
    job->is_ignoring = false;
    jobs->ops->proceed(jobs->config.relay, job->relay_name);
}

bool
job_look_errors(Job *job, const struct RelayFigures *figures)
{
    const struct RelayCoreFigures *core = &figures->core;

    if (core->link == RELAY_REFUSED && !job->record.is_met) {
        job_abort(job, core->error[0] != '\0' ? core->error
                                              : "the target is refused");
        return true;
    }
    if (core->halt.is_halted && core->halt.count != job->halts) {
        take_halt(job, core);
    }
    if (job->is_ignoring && job->jobs->ops->now_us() >= job->retry_us) {
        proceed(job);
    }
    return core->halt.is_halted || job->is_halted || job->phase == JOB_LEAVES ||
           job->phase == JOB_RESTS;
}

void
job_forgive(Job *job)
{
    job->io_status = "ok";
    if (!job_is_in_relay(job)) {
        return;
    }
    if (job->is_halted) {
        job->is_halted = false;
        proceed(job);
    }
    job_go(job);
}
