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
 * a server of ours takes to end. The first job of a life has nothing to wait for
 * but what jobs that were aborting when the last one ended may have left.
 */
#include "jobs-private.h"

struct Doubt {
    char *target;
    int64_t until_us;
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

void
job_leave_doubt(Job *job)
{
    Jobs *jobs = job->jobs;
    const char *target = job->record.spec.target;
    struct Doubt doubt = {.target = g_strdup(target),
                          .until_us =
                              jobs->ops->now_us() +
                              relay_target_doubt_us(target, jobs->deadline_us)};

    g_array_append_val(jobs->doubts, doubt);
}

/* Until when requests of others may execute at @target; those that are over are
 * forgotten. */
static int64_t
find_end(Jobs *jobs, const char *target)
{
    int64_t now_us = jobs->ops->now_us(), end_us = now_us;

    for (guint i = jobs->doubts->len; i > 0; i--) {
        const struct Doubt *doubt =
            &g_array_index(jobs->doubts, struct Doubt, i - 1);

        if (doubt->until_us <= now_us) {
            g_array_remove_index(jobs->doubts, i - 1);
        } else if (relay_target_is_same(doubt->target, target)) {
            end_us = MAX(end_us, doubt->until_us);
        }
    }
    return end_us;
}

void
job_heed_doubt(Job *job)
{
    Jobs *jobs = job->jobs;
    int64_t now_us = jobs->ops->now_us();

    job->safe_us = find_end(jobs, job->record.spec.target);
    job->is_held_back = job->safe_us > now_us;
    if (job->is_held_back) {
        g_snprintf(job->words, sizeof(job->words),
                   "requests of a job that has ended may still execute at its "
                   "target: it begins in %d s",
                   (int)((job->safe_us - now_us) / G_USEC_PER_SEC) + 1);
        g_message("job %s: %s", job->record.spec.id, job->words);
    }
}

bool
job_look_doubt(Job *job)
{
    Jobs *jobs = job->jobs;

    if (job->is_held_back && jobs->ops->now_us() >= job->safe_us) {
        job->is_held_back = false;
        job->words[0] = '\0';
        job_go(job);
    }
    return job->is_held_back;
}
