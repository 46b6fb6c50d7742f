/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Draining. Policy `none`: seal what is open, bring all of it to the target,
 * settle it, drop it, seal again.
 *
 * A sealed generation is drained in passes. A cursor walks over its dirty
 * runs; each cluster is claimed at most once in a pass, so that no cluster is
 * ever in two ops: what is behind the cursor is in flight, acknowledged,
 * settled, failed or in quarantine. A pass ends when all its ops have ended
 * and what was acknowledged is flushed. If something is still dirty then, the
 * next pass starts over: after a pause that doubles if the target answered
 * errors, at the end of the quarantine if that is all that is left.
 *
 * Clusters that the guest overwrites meanwhile may go first (core-ahead.c).
 *
 * The local extent that was seen last is kept, so that a long one costs one
 * look at the file system. It is forgotten with each seal: an extent seen
 * before may have been a hole that a write of this generation filled.
 *
 * Policy `cut`: the same, but somebody else seals, on all disks at once, and
 * says when a generation may be sent; what is loaded is then what was there at
 * that instant (perform-load.c).
 *
 * After an unclean end more is dirty than differs. While there is no target to
 * write, one pass is made all the same, in which what is equal by its sum is
 * settled and the rest left for the next one.
 *
 * FLUSH (rule 2): a connection has two lists of acknowledged runs, those
 * since its last flush was sent and those that the flush under way covers.
 * Only the latter settle when it is acknowledged.
 *
 * It is due a settle interval after the last one, and sooner where much waits
 * for it and it is quick: what is settled need not be kept aside before the
 * guest overwrites it, nor sent again by whoever comes after us. So it costs
 * the target a tenth of its time at most (core_settle_interval()).
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <stdlib.h>

#define RUNS_MAX      4096
#define ACKED_MAX     (UINT64_C(1) << 30)
#define ACKED_OPS_MAX 32
#define LOAD_MAX      (UINT64_C(4) << 20)
#define STREAK_MAX    16
#define REST_LOOK_US  50000 /* the guest may be silent before a rest is over */

/*
 * Acknowledged runs
 */
void
run_list_add(struct RunList *list, struct ClusterRun run)
{
    struct ClusterRun *last = list->count ? &list->list[list->count - 1] : NULL;

    if (last && last->first + last->count == run.first) {
        last->count += run.count;
        return;
    }
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 64;
        list->list = realloc(list->list, list->room * sizeof(*list->list));
        assert(list->list);
    }
    list->list[list->count++] = run;
}

/*
 * Settling
 */
void
pass_settle(RelayCore *core, struct ClusterRun run)
{
    core->figures.settled_bytes += run.count << core->cluster_bits;
    disk_map_settle(core->config.map, run);
    doubt_settled(core, run);
    log_settled(core, run);
}

void
pass_settle_known(RelayCore *core, struct ClusterRun run)
{
    uint64_t bytes = run.count << core->cluster_bits;

    core->figures.settled_bytes += bytes;
    core->figures.skipped_bytes += bytes;
    disk_map_settle(core->config.map, run);
}

static void
settle_list(RelayCore *core, struct RunList *list)
{
    for (size_t i = 0; i < list->count; i++) {
        pass_settle(core, list->list[i]);
    }
    list->count = 0;
}

static void
verify_flushed(RelayCore *core, Conn *conn)
{
    unsigned index = (unsigned)(conn - core->conns);

    for (unsigned i = 0; conn->n_acked_ops && i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];
        if (op->state == OP_ACKED && op->conn == index &&
            op->flush_need <= conn->flushes_sent) {
            op_verify(core, op);
        }
    }
}

void
pass_flushed(RelayCore *core, Conn *conn)
{
    conn->flush_took_us = core->now_us - conn->flush_us;
    settle_list(core, &conn->flushing);
    if (mutant(MUTANT_FLUSH_EARLY)) {
        settle_list(core, &conn->acked);
    }
    verify_flushed(core, conn);
}

/*
 * What the target has cached may be gone, also what it took since, and what
 * it has executed without an answer so far.
 */
void
pass_flush_failed(RelayCore *core, Conn *conn)
{
    unsigned index = (unsigned)(conn - core->conns);

    conn->acked.count = conn->flushing.count = 0;
    conn->acked_bytes = 0;
    for (unsigned i = 0; conn->n_ops && i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];
        if (op->state != OP_FREE && op->conn == index) {
            op_fail(core, op);
        }
    }
    pass_failure(core);
}

static bool
flush_is_due(RelayCore *core, Conn *conn, bool is_all_sent)
{
    bool is_full = conn->acked.count >= RUNS_MAX ||
                   conn->acked_bytes >= ACKED_MAX ||
                   core->n_acked >= ACKED_OPS_MAX;
    int64_t due_us =
        conn->flush_us +
        core_settle_interval(core, conn->flush_took_us, conn->acked_bytes);

    if (!is_all_sent && !is_full && core->now_us < due_us) {
        core_at(core, due_us);
        return false;
    }
    return true;
}

/* Flush what is due. One at a time for each connection. */
void
pass_flush(RelayCore *core)
{
    unsigned n_waiting = core->job.is_halted ? core->n_ready : 0;
    unsigned n_busy = RELAY_OPS - core->n_free - core->n_acked - n_waiting;
    bool is_all_sent = !n_busy; /* nothing else to do until it is flushed */

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        Conn *conn = &core->conns[i];
        bool is_owed = conn->acked.count || conn->n_acked_ops;

        if (conn->state != CONN_UP || conn->is_flushing || !is_owed ||
            !flush_is_due(core, conn, is_all_sent)) {
            continue;
        }
        struct RunList empty = conn->flushing;
        conn->flushing = conn->acked;
        conn->acked = empty;
        conn->acked_bytes = 0;
        conn->is_flushing = true;
        conn->flush_us = core->now_us;
        conn->flushes_sent++;
        /* Everything cached has to reach a disk: more patience. */
        conn->flush_deadline_us = core->now_us + 4 * core->config.deadline_us;
        core_at(core, conn->flush_deadline_us);
        struct RelayAction *action = core_emit(core, RELAY_SEND_FLUSH);
        action->conn = i;
        action->epoch = conn->epoch;
        action->deadline_us = conn->flush_deadline_us;
    }
}

/*
 * Claiming
 */
static bool
extent_covers(const RelayCore *core, uint64_t cluster)
{
    const struct ClusterRun *run = &core->extent.run;

    return cluster >= run->first && cluster - run->first < run->count;
}

/* @len 0: not known, taken as data. */
void
pass_mapped(RelayCore *core, struct ClusterRun run, uint64_t len, bool is_hole)
{
    uint64_t offset = run.first << core->cluster_bits;
    uint64_t room = core->size_bytes - offset;

    len = len < room ? len : room;
    if (is_hole) {
        run = run_inward(offset, len, core->size_bytes, core->cluster_bits);
    }
    if (!is_hole || !run.count) {
        /* A cluster that is a hole in part is data. */
        uint64_t least = window_op_bytes(core);
        bool is_mixed = is_hole;
        uint64_t bytes = is_mixed ? 1 : len ? len : least;
        bytes = bytes < room ? bytes : room;
        run = run_outward(offset, bytes, core->cluster_bits);
        is_hole = false;
    }
    core->extent = (struct Extent){run, is_hole};
}

/* Largest run that one op may take, were it at @cluster. */
static uint64_t
claim_max(const RelayCore *core, uint64_t cluster)
{
    if (!extent_covers(core, cluster)) {
        return 1;
    }
    bool is_large = core->extent.is_hole && core_can_zero(core);
    uint64_t bytes = is_large ? window_zero_bytes(core) : window_op_bytes(core);
    uint64_t most = bytes >> core->cluster_bits;
    uint64_t left = core->extent.run.first + core->extent.run.count - cluster;

    return most < left ? most : left;
}

static Op *
claim(RelayCore *core, struct ClusterRun run)
{
    Op *op = op_new(core, JOB_DRAIN, run);

    core->pass.n_claimed++;
    op->is_suspect = log_claim(core, op);
    return op;
}

static void
claim_run(RelayCore *core, struct ClusterRun run)
{
    Op *op = claim(core, run);

    core->pass.cursor = run.first + run.count;
    op->is_hole = core->extent.is_hole;
    core->n_holes += op->is_hole;
    if (op->is_hole) {
        op_take_cost(core, op, window_hole_cost(core, op->len));
        op_ready(core, op);
    } else {
        op_load(core, op);
    }
}

/* The window is for the target; the local disk needs no deep queue to run at
 * full speed. While the guest is at work there is one load at a time, and a rest
 * after each. */
static bool
load_may_begin(RelayCore *core, uint64_t bytes)
{
    if (!core->yields) {
        return !core->loading_bytes || core->loading_bytes + bytes <= LOAD_MAX;
    }
    if (core->loading_bytes) {
        return core->batch_bytes + bytes <= RELAY_OP_BYTES_MAX;
    }
    if (core->now_us < core->load_rest_us) {
        core_at(core, core->load_rest_us);
        core_at(core, core->now_us + REST_LOOK_US);
        return false;
    }
    return true;
}

/* Recovering: what the sums can say nothing of waits for the target. */
static bool
claim_is_for_later(RelayCore *core, struct ClusterRun *run)
{
    const Bitmap *logged = core->log.logged;
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t next;

    if (core_may_send(core)) {
        return false;
    }
    if (bitmap_get(logged, run->first)) {
        next = bitmap_next_clean(logged, run->first);
    } else if (extent_covers(core, run->first) && core->extent.is_hole) {
        next = core->extent.run.first + core->extent.run.count;
    } else {
        next = bitmap_count(logged) ? bitmap_next_dirty(logged, run->first)
                                    : UINT64_MAX;
        run->count =
            next - run->first < run->count ? next - run->first : run->count;
        return false;
    }
    core->pass.cursor = next < clusters ? next : clusters;
    core->pass.is_at_end = next >= clusters;
    return true;
}

/* A hole where the target is one: nothing has to be done about it. Nothing of it
 * was ever sent, so that nothing can be late, though it may have been in an op of
 * which something was. It stays in the log then: that op may have noted a sum. */
static bool
claim_is_needless(RelayCore *core, struct ClusterRun *run)
{
    if (!core->extent.is_hole || !job_untouched_run(core, run)) {
        return false;
    }
    core->pass.cursor = run->first + run->count;
    pass_settle_known(core, *run);
    doubt_settled(core, *run);
    return true;
}

static bool
claim_may_begin(RelayCore *core, uint64_t bytes)
{
    uint64_t cost = window_hole_cost(core, bytes);

    if (core->extent.is_hole) {
        return core->n_holes < CORE_HOLES_MAX &&
               (!cost || window_take(core, cost));
    }
    return load_may_begin(core, bytes) && window_take(core, bytes);
}

/* Claim the next run; false when nothing more can be done now. */
static bool
claim_next(RelayCore *core)
{
    struct Pass *pass = &core->pass;
    uint64_t most = claim_max(core, pass->cursor);
    struct ClusterRun run;

    if (!disk_map_next_sealed(core->config.map, pass->cursor, most, &run)) {
        pass->is_at_end = true;
        return false;
    }
    doubt_skip(core, &run);
    ahead_skip(core, &run);
    if (!run.count) {
        pass->is_at_end =
            run.first >= clusters_for(core->size_bytes, core->cluster_bits);
        pass->cursor = run.first;
        return !pass->is_at_end;
    }
    if (claim_is_for_later(core, &run)) {
        return !pass->is_at_end;
    }
    if (!extent_covers(core, run.first)) {
        op_map(core,
               op_new(core, JOB_DRAIN, (struct ClusterRun){run.first, 1}));
        return false;
    }
    most = claim_max(core, run.first);
    run.count = run.count < most ? run.count : most;
    if (claim_is_needless(core, &run)) {
        return true;
    }
    if (!claim_may_begin(core, run.count << core->cluster_bits)) {
        return false;
    }
    claim_run(core, run);
    return true;
}

/* Before its turn. It is in memory, so that the disk needs no rest from it. */
static bool
claim_ahead(RelayCore *core)
{
    uint64_t cluster;
    Op *op;

    if (!core_may_send(core) || !ahead_next(core, &cluster) ||
        !window_take(core, UINT64_C(1) << core->cluster_bits)) {
        return false;
    }
    ahead_claimed(core, cluster);
    op = claim(core, (struct ClusterRun){cluster, 1});
    op->is_ahead = true;
    core->figures.ahead_bytes += op->len;
    op_load(core, op);
    return true;
}

/* An op failed at the target or at the local disk. */
void
pass_failure(RelayCore *core)
{
    struct Pass *pass = &core->pass;

    pass->has_failed = true;
    /* A target that refuses everything need not be offered everything. */
    if (++pass->streak >= STREAK_MAX && !pass->is_at_end) {
        pass->is_at_end = true;
        pass->is_cut_short = true;
    }
}

static bool
pass_is_over(const RelayCore *core)
{
    if (!core->pass.is_at_end) {
        return false;
    }
    if (mutant(MUTANT_TWO_IN_FLIGHT)) {
        return true;
    }
    if (core->n_free + core->n_checks < RELAY_OPS) {
        return false;
    }
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        if (core->conns[i].acked.count || core->conns[i].is_flushing) {
            return false;
        }
    }
    return true;
}

static void
pass_restart(RelayCore *core)
{
    struct Pass *pass = &core->pass;
    struct Pass next = {.backoff_us = 0, .not_before_us = core->now_us};

    if (pass->has_failed) {
        int64_t twice = pass->backoff_us * 2;
        int64_t most = core->config.backoff_max_us;
        int64_t least = core->config.backoff_min_us;

        next.backoff_us = twice < least ? least : twice < most ? twice : most;
        next.not_before_us += core_jitter(core, next.backoff_us);
    } else if (!pass->n_claimed) {
        next.not_before_us = doubt_next_us(core);
    }
    next.cursor = pass->is_cut_short ? pass->cursor : 0;
    *pass = next;
    ahead_begin(core);
}

/* Of a cut nothing is touched before it is allowed: others may still have to
 * be ready. What recovers seals for itself, to compare. */
static bool
pass_is_barred(const RelayCore *core, uint64_t seq)
{
    return core->config.is_cut && !core->is_recovering &&
           (!seq || !core_is_allowed(core, seq));
}

/* Seal what is open, if it is time. */
static bool
pass_seal(RelayCore *core)
{
    DiskMap *map = core->config.map;
    uint64_t seq = disk_map_sealed_seq(map);

    if (pass_is_barred(core, seq)) {
        return false;
    }
    if (!seq) {
        struct DiskMapFigures figures;
        int64_t due_us = core->seal_us + core->config.settle_us;

        disk_map_figures(map, &figures);
        if (!figures.dirty_clusters) {
            core->is_recovering = false;
            return false;
        }
        if (core->seal_us && core->now_us < due_us &&
            disk_map_settled_seq(map) >= core->hurry_seq) {
            core_at(core, due_us);
            return false;
        }
        seq = disk_map_seal(map);
        core->seal_us = core->now_us;
    }
    /* After sealing: the disk may have grown until then. */
    if (!seq || !doubt_grow(core)) {
        core_at(core, core->now_us + core->config.settle_us);
        return false;
    }
    core->sealed_seq = seq;
    core->extent = (struct Extent){0};
    core->pass = (struct Pass){.backoff_us = core->pass.backoff_us};
    ahead_begin(core);
    if (core_may_write(core) && core->size_bytes > core->caps.size_bytes) {
        link_drop(core); /* the check after the connect has the words */
        return false;
    }
    return true;
}

/* All of a generation is at the target. */
static void
pass_retired(RelayCore *core)
{
    core->sealed_seq = 0;
    core->pass = (struct Pass){0};
    core->figures.error[0] = '\0';
    if (core->same_seq &&
        disk_map_settled_seq(core->config.map) >= core->same_seq) {
        core->same_seq = 0;
    }
    core->is_recovering = false;
}

/* All that can be known without a target is. What differs waits for it, or
 * goes back for the cut that will have it. */
static void
pass_recovered(RelayCore *core)
{
    core->is_recovering = false;
    core->pass = (struct Pass){0};
    if (core->config.is_cut) {
        core->sealed_seq = 0;
        disk_map_unseal(core->config.map);
    }
}

/* One thing that a pass can do; false when there is none. */
static bool
pass_step(RelayCore *core)
{
    struct Pass *pass = &core->pass;

    if (!core->sealed_seq) {
        return pass_seal(core);
    }
    if (pass_is_over(core)) {
        if (disk_map_retire(core->config.map)) {
            pass_retired(core);
            return true;
        }
        if (!core_may_send(core)) {
            pass_recovered(core);
            return false;
        }
        pass_restart(core);
    }
    if (core->now_us < pass->not_before_us) {
        core_at(core, pass->not_before_us);
        return false;
    }
    if (pass->is_at_end || core->n_free <= CORE_CHECKS) {
        return false;
    }
    return claim_ahead(core) || (!core->n_mapping && claim_next(core));
}

static bool
pass_may_go_on(const RelayCore *core)
{
    if (core->job.is_halted) {
        return false;
    }
    return (core_may_write(core) && !core->is_paused) || core->is_recovering;
}

void
pass_run(RelayCore *core)
{
    if (core->is_stopped) {
        core->is_recovering = false;
    }
    while (pass_may_go_on(core) && pass_step(core)) {
    }
    if (!job_stands(core)) {
        op_send_ready(core);
    }
    pass_flush(core);
}
