/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does the target hold what it should? A walk over the disk, one op at a time
 * and at the rate that the user gave, beside the drain. What is clean is read
 * on both sides and compared; what is dirty is on its way anyway and passed
 * over. A run that differs is looked at again cluster by cluster, so that the
 * count is of clusters; and a cluster that differs counts only if it has been
 * clean all the time: else the guest wrote it in between, and maybe that is at
 * the target already.
 *
 *   next clean run -> MAP --data--> LOAD -> COMPARE -> equal: go on
 *                      |                       |
 *                      +--hole--> STATUS ------+-> differs: cluster by cluster
 *
 * What cannot be read, on either side, is tried once more cluster by cluster,
 * then counted and left behind: the walk always reaches its end.
 *
 * To repair is to make it dirty. Its sum would say that it need not be sent,
 * so it joins the sent-log, which says that nothing is known of it.
 */
#include "core-internal.h"

#define HOLE_MAX (UINT64_C(256) << 20)

static uint64_t
clusters_of(const RelayCore *core)
{
    return clusters_for(core->size_bytes, core->cluster_bits);
}

static bool
is_clean(const RelayCore *core, uint64_t cluster)
{
    uint64_t offset = cluster << core->cluster_bits;
    uint64_t len = UINT64_C(1) << core->cluster_bits;
    uint64_t room = core->size_bytes - offset;

    return disk_map_is_clean(core->config.map, offset, len < room ? len : room);
}

void
relay_core_verify(RelayCore *core, bool repairs, uint64_t bps)
{
    if (core->config.is_job) {
        return;
    }
    /* What is under way is of another walk: it must not move this one on. */
    for (unsigned i = 0; core->verify.is_busy && i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];

        op->has_failed |= op->state != OP_FREE && op->job == JOB_VERIFY;
    }
    core->verify = (struct Verify){
        .is_active = true,
        /* Whoever asked for it still waits. */
        .repairs = repairs || (core->verify.is_active && core->verify.repairs),
        .bps = bps,
        .is_busy = core->verify.is_busy,
        .done = core->verify.done};
}

/* @run has been looked at. */
static void
advance(RelayCore *core, struct ClusterRun run, uint64_t bytes)
{
    struct Verify *verify = &core->verify;

    verify->cursor = run.first + run.count;
    verify->compared_bytes += bytes;
    if (verify->bps) {
        double us = (double)bytes * 1e6 / (double)verify->bps;

        verify->next_us =
            (verify->next_us > core->now_us ? verify->next_us : core->now_us) +
            (int64_t)us;
    }
}

static void
pass_over(RelayCore *core, uint64_t to)
{
    struct Verify *verify = &core->verify;

    verify->passed_clusters += to - verify->cursor;
    verify->cursor = to;
}

static Op *
new_op(RelayCore *core, struct ClusterRun run)
{
    core->verify.is_busy = true;
    core->verify.is_stale = false;
    core->verify.run = run;
    core->n_checks++;
    return op_new(core, JOB_VERIFY, run);
}

void
verify_claimed(RelayCore *core, struct ClusterRun run)
{
    struct Verify *verify = &core->verify;

    verify->is_stale |= ranges_overlap(run.first, run.count, verify->run.first,
                                       verify->run.count);
}

void
verify_run(RelayCore *core)
{
    struct Verify *verify = &core->verify;
    uint64_t at;

    if (!verify->is_active || verify->is_busy || core->link != RELAY_ONLINE ||
        core->is_stopped || core->n_free <= CORE_CHECKS) {
        return;
    }
    if (core->now_us < verify->next_us) {
        core_at(core, verify->next_us);
        return;
    }
    at = disk_map_next_clean(core->config.map, verify->cursor);
    if (at >= clusters_of(core)) {
        if (verify->cursor < clusters_of(core)) {
            pass_over(core, clusters_of(core));
        }
        verify->is_active = false;
        verify->done++;
        return;
    }
    pass_over(core, at);
    op_map(core, new_op(core, (struct ClusterRun){at, 1}));
}

/* The run at @first to look at, of an extent of @len bytes there. */
static struct ClusterRun
choose_run(const RelayCore *core, uint64_t first, uint64_t len, bool *is_hole)
{
    uint64_t most = *is_hole ? HOLE_MAX : window_op_bytes(core);
    uint64_t offset = first << core->cluster_bits;
    uint64_t room = core->size_bytes - offset;
    struct ClusterRun run;
    uint64_t n = 1;

    len = len < most ? len : most;
    len = len < room ? len : room;
    run = run_inward(offset, len, core->size_bytes, core->cluster_bits);
    if (!run.count) { /* a cluster that is a hole in part is data */
        *is_hole = false;
        return (struct ClusterRun){first, 1};
    }
    if (first < core->verify.narrow_to) {
        return (struct ClusterRun){first, 1};
    }
    while (n < run.count && is_clean(core, first + n)) {
        n++;
    }
    return (struct ClusterRun){first, n};
}

/* What is at the cursor of a hole. */
static void
look_at_hole(RelayCore *core, Op *op)
{
    if (core_has_status(core)) {
        op_move(core, op, OP_ASKING);
        op_ask(core, op);
    } else {
        op_move(core, op, OP_COMPARING);
        op_compare(core, op, op->len - op->cursor, true);
    }
}

void
verify_mapped(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    bool is_hole = event->kind == RELAY_MAPPED && event->is_hole;
    struct ClusterRun run = op->run;

    if (op->has_failed || core->link != RELAY_ONLINE) {
        op_free(core, op);
        return;
    }
    run = choose_run(core, run.first,
                     event->kind == RELAY_MAPPED ? event->len : 1, &is_hole);
    op_free(core, op);
    op = new_op(core, run);
    op->is_hole = is_hole;
    if (is_hole) {
        op_bind(core, op, link_pick(core));
        look_at_hole(core, op);
    } else {
        op_load(core, op);
    }
}

void
verify_loaded(RelayCore *core, Op *op)
{
    if (core->link != RELAY_ONLINE) {
        op_free(core, op);
        return;
    }
    op_bind(core, op, link_pick(core));
    op_move(core, op, OP_COMPARING);
    op_compare(core, op, op->len, false);
}

/* Again, one cluster at a time? */
static bool
narrow(RelayCore *core, struct ClusterRun run)
{
    if (run.count > 1) {
        core->verify.narrow_to = run.first + run.count;
    }
    return run.count > 1;
}

/* One of the sides does not give it. A fault that passes gets a rest. */
void
verify_unreadable(RelayCore *core, Op *op)
{
    struct ClusterRun run = op->run;

    op_free(core, op);
    if (narrow(core, run)) {
        core->verify.next_us = core->now_us + core->config.settle_us;
    } else {
        core->verify.unread_clusters++;
        core->verify.cursor = run.first + 1;
    }
}

static void
differs(RelayCore *core, Op *op)
{
    struct Verify *verify = &core->verify;
    struct ClusterRun run = op->run;

    op_free(core, op);
    if (narrow(core, run)) {
        return;
    }
    if (verify->is_stale || !is_clean(core, run.first)) {
        pass_over(core, run.first + 1);
        return;
    }
    verify->other_clusters++;
    if (verify->repairs) {
        uint64_t offset = run.first << core->cluster_bits;

        log_distrust(core, run);
        disk_map_mark(core->config.map, offset, 1, core->now_us);
    }
    advance(core, run, UINT64_C(1) << core->cluster_bits);
}

/* The piece that was asked for is as it should be. */
static void
piece_is_equal(RelayCore *core, Op *op, uint64_t len)
{
    op->cursor += len;
    if (op->cursor == op->len) {
        struct ClusterRun run = op->run;
        uint64_t bytes = op->len;

        op_free(core, op);
        advance(core, run, bytes);
    } else if (op->is_hole) {
        look_at_hole(core, op);
    } else {
        op_compare(core, op, op->len - op->cursor, false);
    }
}

/* What cannot be asked about is read. */
static void
failed(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    core->figures.errors++;
    core_error(core, "%s",
               event->kind == RELAY_FAILED ? event->text
                                           : "block status that says nothing");
    if (op->state == OP_ASKING) {
        core->has_no_status = true;
        op_free(core, op);
    } else {
        verify_unreadable(core, op);
    }
}

void
verify_event(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    uint64_t len = event->len < op->asked ? event->len : op->asked;

    if (op->has_failed) {
        op_fail(core, op);
    } else if (event->kind == RELAY_STATUS && len && event->is_zero) {
        piece_is_equal(core, op, len);
    } else if (event->kind == RELAY_STATUS && len) {
        op_move(core, op, OP_COMPARING);
        op_compare(core, op, len, true);
    } else if (event->kind == RELAY_COMPARED && event->is_equal) {
        piece_is_equal(core, op, op->asked);
    } else if (event->kind == RELAY_COMPARED) {
        differs(core, op);
    } else {
        failed(core, op, event);
    }
}
