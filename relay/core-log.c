/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sent-log and the sums (rule 5): what the next process must not believe.
 *
 *   claimed --> logged --commit--> sent --> acknowledged --> settled (flushed)
 *                                    |                           |
 *                                    +- note its sums            v
 *   out of the log <--next commit-- left <--sums are durable-- leaving
 *
 * One commit is under way at a time, and holds everything that is logged when
 * it is asked for, also ops that are still being read locally: an op that is
 * ready is then nearly always covered already. Nothing of an op is sent before
 * the commit that covers it is durable.
 *
 * What has a bit here is in a state at the target that nobody has seen to be
 * durable, so that its sum, whatever the file says, is not believed; a cluster
 * that is claimed while it is here is sent without a look at the sums.
 *
 * An op that turns out to be equal, or fails before a byte of it was sent,
 * takes its bits back. What failed later stays until it is settled.
 *
 * Sums that could not be written leave their clusters in the log for good: they
 * may be old. After a sync that failed none leaves it any more, since the
 * kernel drops what it could not write, and says so once. That costs a resend
 * after a crash, no more.
 *
 * Before another target is written to all sums are forgotten. If that cannot
 * be had, all clusters join the log, durably, which says the same of them.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <string.h>

#define PAUSE_MAX_US (20 * 1000)

bool
log_init(RelayCore *core)
{
    Log *log = &core->log;

    log->logged = bitmap_new(core->size_bytes, core->cluster_bits);
    log->leaving = bitmap_new(core->size_bytes, core->cluster_bits);
    log->syncing = bitmap_new(core->size_bytes, core->cluster_bits);
    log->unnoted = bitmap_new(core->size_bytes, core->cluster_bits);
    if (!log->logged || !log->leaving || !log->syncing || !log->unnoted) {
        return false;
    }
    if (core->config.logged) {
        uint64_t here = bitmap_clusters(log->logged);
        uint64_t then = bitmap_clusters(core->config.logged);

        bitmap_merge_run(log->logged, core->config.logged,
                         (struct ClusterRun){0, then < here ? then : here});
    }
    return true;
}

void
log_deinit(RelayCore *core)
{
    bitmap_free(core->log.logged);
    bitmap_free(core->log.leaving);
    bitmap_free(core->log.syncing);
    bitmap_free(core->log.unnoted);
}

static void
clear_run(Bitmap *map, struct ClusterRun run)
{
    if (bitmap_count(map)) {
        bitmap_clear_run(map, run);
    }
}

/* What was the last cluster may have been a partial one: its sum is of less
 * than what is in it now. */
bool
log_grow(RelayCore *core, uint64_t size_bytes)
{
    Log *log = &core->log;
    struct ClusterRun last = {bitmap_clusters(log->logged) - 1, 1};

    if (bitmap_grow(log->logged, size_bytes) < 0 ||
        bitmap_grow(log->leaving, size_bytes) < 0 ||
        bitmap_grow(log->syncing, size_bytes) < 0 ||
        bitmap_grow(log->unnoted, size_bytes) < 0) {
        return false;
    }
    log_distrust(core, last);
    return true;
}

const Bitmap *
relay_core_logged(const RelayCore *core)
{
    return core->log.logged;
}

static void
leave_out(const Bitmap *what, Bitmap *map)
{
    struct ClusterRun run;

    for (uint64_t at = 0; bitmap_next_run(what, at, UINT64_MAX, &run);
         at = run.first + run.count) {
        bitmap_clear_run(map, run);
    }
}

void
relay_core_last_log(const RelayCore *core, bool sums_are_durable, Bitmap *into)
{
    bitmap_merge_run(into, core->log.logged,
                     (struct ClusterRun){0, bitmap_clusters(core->log.logged)});
    if (sums_are_durable && !core->log.is_unsound) {
        leave_out(core->log.leaving, into);
        leave_out(core->log.syncing, into);
    }
}

void
log_distrust(RelayCore *core, struct ClusterRun run)
{
    Log *log = &core->log;

    bitmap_set_run(log->logged, run);
    clear_run(log->leaving, run);
    clear_run(log->syncing, run);
    log->is_stale = true;
}

bool
log_claim(RelayCore *core, Op *op)
{
    Log *log = &core->log;
    bool was_logged = bitmap_set_run(log->logged, op->run) < op->run.count;

    clear_run(log->leaving, op->run);
    clear_run(log->syncing, op->run);
    clear_run(log->unnoted, op->run);
    verify_claimed(core, op->run);
    op->log_need = log->commit + 1;
    op->sums_life = log->sums_life;
    return was_logged && !mutant(MUTANT_TRUST_LOGGED);
}

void
log_unclaim(RelayCore *core, const Op *op)
{
    if (!op->is_suspect) {
        bitmap_clear_run(core->log.logged, op->run);
        core->log.is_stale = true;
    }
}

bool
log_covers(const RelayCore *core, const Op *op)
{
    return op->log_need <= core->log.durable || mutant(MUTANT_NO_LOG);
}

void
log_unnoted(RelayCore *core, const Op *op)
{
    bitmap_set_run(core->log.unnoted, op->run);
}

/* @run is settled, and its sums are noted, but for those that are not. */
void
log_settled(RelayCore *core, struct ClusterRun run)
{
    Log *log = &core->log;

    if (mutant(MUTANT_DROP_UNSYNCED)) {
        bitmap_clear_run(log->logged, run);
        log->is_stale = true;
        return;
    }
    bitmap_set_run(log->leaving, run);
    if (bitmap_count(log->unnoted)) {
        struct ClusterRun stays;
        uint64_t at = run.first, end = run.first + run.count;

        while (bitmap_next_run(log->unnoted, at, end - at, &stays) &&
               stays.first < end) {
            bitmap_clear_run(log->leaving, stays);
            at = stays.first + stays.count;
            if (at >= end) {
                break;
            }
        }
    }
}

/* Is some op ready that no commit covers, or is asked to? */
static bool
is_wanted(const RelayCore *core)
{
    for (unsigned i = 0; core->n_ready && i < RELAY_OPS; i++) {
        const Op *op = &core->ops[i];

        if (op->state == OP_READY && op->job == JOB_DRAIN &&
            op->log_need > core->log.commit) {
            return true;
        }
    }
    return false;
}

/* While the guest is at work its writes wait for each sync of ours: then what is
 * ready waits a little, for more to be covered by one. */
static int64_t
commit_pause(const RelayCore *core)
{
    int64_t pause_us = core->yields ? core->log.commit_took_us * CORE_SHARE : 0;

    return pause_us < PAUSE_MAX_US ? pause_us : PAUSE_MAX_US;
}

static void
run_commit(RelayCore *core)
{
    Log *log = &core->log;
    int64_t due_us = log->commit_us + core->config.settle_us;
    int64_t paused_us = log->commit_us + commit_pause(core);
    int64_t not_before_us =
        log->retry_us > paused_us ? log->retry_us : paused_us;

    if (log->is_committing) {
        return;
    }
    if (!is_wanted(core)) {
        if (!log->is_stale) {
            return;
        }
        if (core->now_us < due_us) {
            core_at(core, due_us);
            return;
        }
    }
    if (core->now_us < not_before_us) {
        core_at(core, not_before_us);
        return;
    }
    log->is_committing = true;
    log->is_stale = false;
    log->commit_us = core->now_us;
    log->commit++;
    core->figures.log_commits++;
    core_emit(core, RELAY_LOG);
}

static void
run_sync(RelayCore *core)
{
    Log *log = &core->log;
    uint64_t bytes = bitmap_count(log->leaving) << core->cluster_bits;
    int64_t due_us =
        log->sync_us + core_settle_interval(core, log->sync_took_us, bytes);
    Bitmap *empty = log->syncing;

    if (log->is_syncing || log->is_unsound || !bytes) {
        return;
    }
    if (core->now_us < due_us) {
        core_at(core, due_us);
        return;
    }
    assert(!bitmap_count(log->syncing));
    log->syncing = log->leaving;
    log->leaving = empty;
    log->is_syncing = true;
    log->sync_us = core->now_us;
    core_emit(core, RELAY_SYNC);
}

void
log_run(RelayCore *core)
{
    if (core->is_stopped) {
        return;
    }
    run_sync(core);
    run_commit(core);
}

/* Another target: is all that was known of the old one forgotten? */
bool
log_forget(RelayCore *core)
{
    Log *log = &core->log;

    if (log->is_forgotten) {
        return !log->is_all_logged || (!log->is_stale && !log->is_committing);
    }
    if (log->is_forgetting) {
        return false;
    }
    log->is_forgetting = true;
    log->sums_life++;
    core_emit(core, RELAY_FORGET);
    return false;
}

static void
committed(RelayCore *core, const struct RelayEvent *event)
{
    Log *log = &core->log;

    assert(log->is_committing);
    log->is_committing = false;
    log->commit_took_us = core->now_us - log->commit_us;
    if (event->kind == RELAY_LOGGED) {
        log->durable = log->commit;
        return;
    }
    /* What waits for it is covered by the next one; so is what was to leave. */
    log->is_stale = true;
    log->retry_us = core->now_us + core->config.settle_us;
    core->figures.errors++;
    core_error(core, "cannot write the local sent-log: %s", event->text);
    log->commit--;
}

static void
synced(RelayCore *core, const struct RelayEvent *event)
{
    Log *log = &core->log;

    assert(log->is_syncing);
    log->is_syncing = false;
    log->sync_took_us = core->now_us - log->sync_us;
    if (!event->error) {
        leave_out(log->syncing, log->logged);
        log->is_stale = true;
    } else if (mutant(MUTANT_RETRY_SYNC)) {
        bitmap_merge(log->leaving, log->syncing);
    } else {
        log->is_unsound = true;
        core->figures.errors++;
        core_error(core,
                   "cannot sync the local remote-sums: %s; until the next "
                   "mount they are not believed",
                   strerror(event->error));
    }
    bitmap_clear_all(log->syncing);
}

static void
forgotten(RelayCore *core, const struct RelayEvent *event)
{
    Log *log = &core->log;

    log->is_forgetting = false;
    log->is_forgotten = true;
    log->is_all_logged = event->error != 0;
    if (event->error) {
        log->is_unsound = true;
        log_distrust(core,
                     (struct ClusterRun){0, bitmap_clusters(log->logged)});
        core->figures.errors++;
        core_error(core,
                   "cannot reset the local remote-sums: %s; until the next "
                   "mount they are not believed",
                   strerror(event->error));
    }
}

void
log_event(RelayCore *core, const struct RelayEvent *event)
{
    if (event->kind == RELAY_SYNCED) {
        synced(core, event);
    } else if (event->kind == RELAY_FORGOTTEN) {
        forgotten(core, event);
    } else {
        committed(core, event);
    }
}
