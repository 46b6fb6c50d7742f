/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-doubt.c - what a job has left in flight, and those that come after it
 *
 * A job that is cancelled drops its connections. A request that was not answered
 * by then may still execute (rule 5), also in what another job of the same target
 * has brought there since, and has called settled. So the target of a job that
 * ended with such requests is remembered until they are over, and a job that
 * begins meanwhile stands in the relay until then, whatever its status. Who
 * cancels a backup to begin it anew waits for nothing else.
 *
 * For how long is the relay's to say: the quarantine of a lost connection, or what
 * a server of ours takes to end.
 *
 * The next life finds it in the job's record, which says "null" and stays until
 * the time is over; there that begins anew. A job that was aborting has left what
 * nobody knows.
 *
 * A disk that is given another target may have left something at the old one,
 * and is not given one where a job has.
 */
#include "jobs-private.h"

struct Doubt {
    char *target;
    int64_t until_us;
    Disk *disk;      /* of the job ... */
    uint64_t number; /* ... and its directory; 0: there is none */
};

static void
doubt_clear(struct Doubt *doubt)
{
    g_free(doubt->target);
}

GArray *
jobs_doubts_new(void)
{
    GArray *doubts = g_array_new(FALSE, FALSE, sizeof(struct Doubt));

    g_array_set_clear_func(doubts, (GDestroyNotify)doubt_clear);
    return doubts;
}

static const struct Doubt *
doubt_at(const Jobs *jobs, guint i)
{
    return &g_array_index(jobs->doubts, struct Doubt, i);
}

/*
 * Who leaves something
 */
static void
add(Jobs *jobs, const char *target, Disk *disk, uint64_t number)
{
    struct Doubt doubt = {
        .target = g_strdup(target),
        .until_us = jobs->ops->now_us() +
                    relay_target_doubt_us(target, jobs->deadline_us),
        .disk = disk,
        .number = number,
    };

    g_array_append_val(jobs->doubts, doubt);
}

void
jobs_doubt_target(Jobs *jobs, const char *target)
{
    add(jobs, target, NULL, 0);
}

void
jobs_doubt_record(Jobs *jobs, Disk *disk, const JobRecord *record)
{
    add(jobs, record->spec.target, disk, record->number);
}

void
job_leave_doubt(Job *job)
{
    job->record.is_in_doubt = true;
    jobs_doubt_record(job->jobs, job_disk(job), &job->record);
}

bool
job_is_doubted(const Job *job)
{
    const Jobs *jobs = job->jobs;

    for (guint i = 0; i < jobs->doubts->len; i++) {
        const struct Doubt *doubt = doubt_at(jobs, i);

        if (doubt->disk == job_disk(job) &&
            doubt->number == job->record.number) {
            return true;
        }
    }
    return false;
}

/*
 * When it is over
 */

/* The record says so no more. */
static void
end_record(Jobs *jobs, const struct Doubt *doubt)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);

        if (job->record.status != JOB_NULL && job_disk(job) == doubt->disk &&
            job->record.number == doubt->number) {
            job->record.is_in_doubt = false;
            (void)job_save(job);
            return;
        }
    }
    job_files_delete_number(jobs, doubt->disk, doubt->number);
}

void
jobs_end_doubts(Jobs *jobs)
{
    int64_t now_us = jobs->ops->now_us();

    for (guint i = jobs->doubts->len; i > 0; i--) {
        const struct Doubt *doubt = doubt_at(jobs, i - 1);

        if (doubt->until_us > now_us) {
            continue;
        }
        if (doubt->number != 0) {
            end_record(jobs, doubt);
        }
        g_array_remove_index(jobs->doubts, i - 1);
    }
}

/*
 * Who comes after it
 */
int64_t
jobs_doubt_us(const Jobs *jobs, const char *target)
{
    int64_t now_us = jobs->ops->now_us(), end_us = now_us;

    for (guint i = 0; i < jobs->doubts->len; i++) {
        const struct Doubt *doubt = doubt_at(jobs, i);

        if (doubt->until_us > end_us &&
            relay_target_is_same(doubt->target, target)) {
            end_us = doubt->until_us;
        }
    }
    return end_us - now_us;
}

void
job_heed_doubt(Job *job)
{
    Jobs *jobs = job->jobs;
    int64_t wait_us = jobs_doubt_us(jobs, job->record.spec.target);

    job->safe_us = jobs->ops->now_us() + wait_us;
    job->is_held_back = wait_us > 0;
    if (job->is_held_back) {
        g_snprintf(job->words, sizeof(job->words),
                   "requests of a job that has ended may still execute at its "
                   "target: it begins in %d s",
                   (int)(wait_us / G_USEC_PER_SEC) + 1);
        g_message("job %s: %s", job->record.spec.id, job->words);
    }
}

bool
job_look_doubt(Job *job)
{
    if (job->is_held_back && job->jobs->ops->now_us() >= job->safe_us) {
        job->is_held_back = false;
        job->words[0] = '\0';
        job_go(job);
    }
    return job->is_held_back;
}
