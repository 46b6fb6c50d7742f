/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the core of a job has that the relay of a disk has not.
 *
 * Its map says what is to be brought, and nothing of the rest: a cluster that
 * is clean in it may be anything at the target. So first contact makes nothing
 * dirty, and a target is known again by the sums of what was brought there.
 *
 * A target that reads as zero where nobody wrote, by its user's word, needs no
 * zeroes where this life has not written either; where an earlier life has,
 * nobody knows any more, and nothing is left out. "Written" is what a request
 * for a change was sent for, whatever came of it.
 *
 * An error that somebody has to judge (the target's answer to a write, zeroes, a
 * trim, a flush, a read that compares before or after one; a local read) halts
 * it: nothing is claimed any more, and what was read is not sent. What is under
 * way ends, and is flushed: a hole with all its pieces, unless it turns out to be
 * one that is sent as data, which is read and waits. A target that has no
 * WRITE_ZEROES, or no block status, though it said so, is no error: there is
 * another way. Nor is a lost connection.
 */
#include "core-internal.h"

#include <errno.h>

bool
job_init(RelayCore *core)
{
    const struct RelayCoreConfig *config = &core->config;
    struct Job *job = &core->job;

    if (!config->is_job) {
        return true;
    }
    job->written = bitmap_new(core->size_bytes, core->cluster_bits);
    job->trusts_zeroes = config->is_zero && config->contact == CONTACT_NONE &&
                         !config->is_in_doubt &&
                         !bitmap_count(core->log.logged);
    return job->written;
}

void
job_deinit(RelayCore *core)
{
    bitmap_free(core->job.written);
}

void
job_wrote(RelayCore *core, const Op *op, uint64_t at, uint64_t len)
{
    if (core->job.written) {
        bitmap_set_run(core->job.written,
                       run_outward(op->offset + at, len, core->cluster_bits));
    }
}

/*
 * Zeroes
 */
bool
job_is_untouched(const RelayCore *core, uint64_t cluster)
{
    return core->job.trusts_zeroes && !bitmap_get(core->job.written, cluster);
}

bool
job_untouched_run(const RelayCore *core, struct ClusterRun *run)
{
    const Bitmap *written = core->job.written;
    bool is_untouched = job_is_untouched(core, run->first);
    uint64_t end;

    if (!core->job.trusts_zeroes) {
        return false;
    }
    end = is_untouched ? bitmap_next_dirty(written, run->first)
                       : bitmap_next_clean(written, run->first);
    run->count = end - run->first < run->count ? end - run->first : run->count;
    return is_untouched;
}

/*
 * Sums
 */
/* What this life has brought, durably: its sum is there. */
static bool
next_brought(const RelayCore *core, uint64_t from, struct ClusterRun *run)
{
    uint64_t at = bitmap_next_dirty(core->job.written, from);

    while (at != UINT64_MAX && bitmap_get(core->log.logged, at)) {
        at = bitmap_next_clean(core->log.logged, at);
        at = at == UINT64_MAX ? at : bitmap_next_dirty(core->job.written, at);
    }
    *run = (struct ClusterRun){at, 1};
    return at != UINT64_MAX;
}

bool
job_next_known(const RelayCore *core, uint64_t from, struct ClusterRun *run)
{
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t most = RELAY_OP_BYTES_MAX >> core->cluster_bits, at;

    if (next_brought(core, from, run)) {
        return true;
    }
    at = from < clusters ? bitmap_next_clean(core->log.logged, from)
                         : UINT64_MAX;
    if (core->config.contact == CONTACT_NONE || at >= clusters) {
        return false;
    }
    /* Of an earlier life: some place, as long as one load. */
    uint64_t logged = bitmap_next_dirty(core->log.logged, at);
    uint64_t end = logged < clusters ? logged : clusters;

    run->first = at;
    run->count = end - at < most ? end - at : most;
    return true;
}

/*
 * An earlier life
 */
Bitmap *
job_dirty_log(const RelayCore *core)
{
    const Bitmap *logged = core->log.logged;
    Bitmap *dirty = bitmap_new(core->size_bytes, core->cluster_bits);
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t at = 0;

    if (!dirty) {
        return NULL;
    }
    disk_map_union(core->config.map, dirty);
    while (at < clusters && (at = bitmap_next_clean(logged, at)) < clusters) {
        uint64_t next = bitmap_next_dirty(logged, at);

        next = next < clusters ? next : clusters;
        bitmap_clear_run(dirty, (struct ClusterRun){at, next - at});
        at = next;
    }
    return dirty;
}

/*
 * Errors
 */
void
job_halt(RelayCore *core, bool is_read, int error)
{
    struct Job *job = &core->job;

    if (core->config.halts && !job->is_halted) {
        job->is_halted = true;
        job->is_read_error = is_read;
        job->error = error ? error : EIO;
        job->halts++;
    }
}

/* Has what was under way ended, and was it flushed? What a target is asked that
 * is met again meanwhile is none of that. */
static bool
rests(const RelayCore *core)
{
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        const Op *op = &core->ops[i];

        if (op->state != OP_FREE && op->state != OP_READY &&
            op->job == JOB_DRAIN) {
            return false;
        }
    }
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        if (core->conns[i].acked.count || core->conns[i].is_flushing) {
            return false;
        }
    }
    return true;
}

/* Until it rests a halt is nobody's news, so that whoever gives the job up knows
 * what it has copied: what is settled then is all that was brought. No answer is
 * waited for beyond its deadline. What was told once stays told. */
void
job_look(RelayCore *core)
{
    struct Job *job = &core->job;

    job->is_told = job->is_halted && (job->is_told || rests(core));
}

/* The next pass has what failed, soon, but not at once: whoever ignores errors
 * says so after each of them. */
void
relay_core_proceed(RelayCore *core)
{
    core->job.is_halted = core->job.is_told = false;
    core->pass.backoff_us = 0;
    core->pass.not_before_us = 0;
}
