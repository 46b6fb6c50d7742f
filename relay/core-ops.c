/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of an op: one run of clusters on its way to the target.
 *
 *   state      | entered by                 | left by
 *   -----------+----------------------------+-------------------------------
 *   LOADING    | a run of local data        | READ -> READY
 *   READY      | read, or a hole claimed    | a connection, tokens
 *   ASKING     | a hole, block status there | zero: next extent, at the end
 *              |                            | ACKED; else SENDING or LOADING
 *   COMPARING  | target-accept=same         | equal: ACKED; else READY
 *   SENDING    | segments of data and zeroes| all answered: ACKED
 *   ACKED      | (if to be read back)       | flushed: VERIFYING
 *   VERIFYING  | flushed                    | equal: settled; else dirty
 *
 * All requests of an op go over one connection, the one with the least in
 * flight when it is sent. A run that needs no reading back gives its slot up
 * when it is acknowledged: the connection's list of runs waits for the flush.
 *
 * Whatever fails leaves the run as dirty as it was in the DiskMap; an op that
 * failed with answers outstanding stays until they are there or the
 * connection is lost, because until then its writes may execute.
 *
 * Holes go as WRITE_ZEROES in large pieces. A target that has none is given
 * TRIM where its block status can confirm the zeroes, else the zeroes as
 * data; these ops are no larger than a buffer.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <errno.h>
#include <string.h>

#define MAP_BYTES_MAX (UINT64_C(1) << 30)

/*
 * Requests
 */
/* How far does what is at the op's offset go? Also beyond the op. */
void
op_map(RelayCore *core, Op *op)
{
    struct RelayAction *action = core_emit(core, RELAY_MAP);

    uint64_t left = core->size_bytes - op->offset;

    op_move(core, op, OP_MAPPING);
    action->op = op_index(core, op);
    action->offset = op->offset;
    action->len = left < MAP_BYTES_MAX ? left : MAP_BYTES_MAX;
}

void
op_load(RelayCore *core, Op *op)
{
    struct RelayAction *action = core_emit(core, RELAY_LOAD);

    op_move(core, op, OP_LOADING);
    op->load_us = core->now_us;
    core->loading_bytes += op->len;
    if (op->job == JOB_DRAIN) {
        op->cost = op->len;
        core->inflight_bytes += op->cost;
    }
    action->op = op_index(core, op);
    action->offset = op->offset;
    action->len = op->len;
}

void
op_ready(RelayCore *core, Op *op)
{
    op_move(core, op, OP_READY);
}

static struct RelayAction *
op_request(RelayCore *core, Op *op, enum RelayActionKind kind, uint64_t at,
           uint64_t len)
{
    struct RelayAction *action = core_emit(core, kind);

    op->pending++;
    op->deadline_us = link_deadline(core, &core->conns[op->conn], len);
    if (op->deadline_us < core->deadline_us) {
        core->deadline_us = op->deadline_us;
    }
    core_at(core, op->deadline_us);
    action->op = op_index(core, op);
    action->conn = op->conn;
    action->epoch = op->epoch;
    action->offset = op->offset + at;
    action->len = len;
    action->buf_offset = at;
    action->deadline_us = op->deadline_us;
    return action;
}

static void
op_write(RelayCore *core, Op *op, enum RelayActionKind kind, uint64_t at,
         uint64_t len)
{
    struct RelayAction *action = op_request(core, op, kind, at, len);

    op->writes++;
    action->is_fua = !core->caps.can_flush && core->caps.can_fua;
}

/* A read at the target, of what is at @op->cursor. */
void
op_compare(RelayCore *core, Op *op, uint64_t len, bool is_zero_run)
{
    uint64_t piece = core->caps.max_payload;

    piece = piece < RELAY_OP_BYTES_MAX ? piece : RELAY_OP_BYTES_MAX;
    op->asked = len < piece ? len : piece;
    op_request(core, op, RELAY_SEND_COMPARE, op->cursor, op->asked)
        ->is_zero_run = is_zero_run;
}

void
op_ask(RelayCore *core, Op *op)
{
    op->asked = op->len - op->cursor;
    op_request(core, op, RELAY_SEND_STATUS, op->cursor, op->asked);
}

/*
 * Ends
 */
/* The run is dirty again; it never stopped being so in the DiskMap. */
void
op_fail(RelayCore *core, Op *op)
{
    op->has_failed = true;
    if (op->pending) {
        return;
    }
    if (op->job == JOB_DRAIN && op->sent_us) {
        core->figures.resent_clusters += op->run.count;
    }
    op_free(core, op);
}

static void
op_acked(RelayCore *core, Op *op)
{
    Conn *conn = &core->conns[op->conn];
    bool is_settled =
        core_ack_settles(core) || mutant(MUTANT_CLEAR_BEFORE_FLUSH);

    if (op->is_hole) {
        core->figures.zeroed_bytes += op->len;
    } else {
        window_acked(core, op);
    }
    core->pass.streak = 0;
    op_release_cost(core, op);
    if (op->is_doubtful) {
        op->flush_need = conn->flushes_sent + 1;
        op_move(core, op, OP_ACKED);
        if (is_settled) {
            op_verify(core, op);
        }
        return;
    }
    if (is_settled) {
        pass_settle(core, op->run);
    } else {
        Conn *owner = mutant(MUTANT_FLUSH_ONE) ? core->conns : conn;
        run_list_add(&owner->acked, op->run);
        conn->acked_bytes += op->is_hole ? 0 : op->len;
    }
    op_free(core, op);
}

/*
 * Holes
 */
static void
op_hole_step(RelayCore *core, Op *op)
{
    if (op->cursor == op->len || mutant(MUTANT_TRUST_HOLES)) {
        op_acked(core, op);
    } else if (core_has_status(core)) {
        op_move(core, op, OP_ASKING);
        op_ask(core, op);
    } else if (core_can_zero(core)) {
        uint64_t at = op->cursor;
        op_move(core, op, OP_SENDING);
        op->cursor = op->len;
        op_write(core, op, RELAY_SEND_ZERO, at, op->len - at);
    } else if (op->len > RELAY_OP_BYTES_MAX) {
        op_fail(core, op); /* made for a target that could zero */
    } else {
        op_unbind(core, op);
        op->is_hole = false;
        op->cursor = 0;
        core->n_holes--;
        op_load(core, op);
    }
}

/* The target's extent at the cursor; what is zero there needs no sending. */
static void
op_hole_asked(RelayCore *core, Op *op, uint64_t len, bool is_zero)
{
    uint64_t at = op->cursor;

    if (is_zero) {
        op->cursor += len;
        op_hole_step(core, op);
    } else if (core_can_zero(core)) {
        op_move(core, op, OP_SENDING);
        op->cursor += len;
        op_write(core, op, RELAY_SEND_ZERO, at, len);
    } else if (core->caps.can_trim && !op->is_trimmed) {
        op_move(core, op, OP_SENDING);
        op->is_trimmed = true;
        op->cursor = 0; /* all of it is asked again */
        op_write(core, op, RELAY_SEND_TRIM, 0, op->len);
    } else if (op->len > RELAY_OP_BYTES_MAX) {
        op_fail(core, op);
    } else {
        op_unbind(core, op);
        op->is_hole = false;
        op->cursor = 0;
        core->n_holes--;
        op_load(core, op);
    }
}

/*
 * Data
 */
static bool
op_is_zero(const Op *op, uint64_t cluster)
{
    return op->zero[cluster / 64] >> (cluster % 64) & 1;
}

/* Bytes behind @at that are all zero clusters, or all not. */
static uint64_t
op_segment(const RelayCore *core, const Op *op, uint64_t at, bool *is_zero)
{
    uint64_t first = at >> core->cluster_bits;
    uint64_t i = first;

    *is_zero = core_can_zero(core) && op_is_zero(op, first);
    while (i < op->run.count &&
           (core_can_zero(core) && op_is_zero(op, i)) == *is_zero) {
        i++;
    }
    uint64_t end = i << core->cluster_bits;
    return (end < op->len ? end : op->len) - at;
}

static uint64_t
op_payload(const RelayCore *core, const Op *op)
{
    uint64_t bytes = 0;
    bool is_zero;

    for (uint64_t at = 0, len; at < op->len; at += len) {
        len = op_segment(core, op, at, &is_zero);
        bytes += is_zero ? 0 : len;
    }
    return bytes;
}

static void
op_send_data(RelayCore *core, Op *op)
{
    bool is_zero;

    op_move(core, op, OP_SENDING);
    for (uint64_t at = 0, len; at < op->len; at += len) {
        len = op_segment(core, op, at, &is_zero);
        if (!is_zero && len > core->caps.max_payload) {
            len = core->caps.max_payload;
        }
        op_write(core, op, is_zero ? RELAY_SEND_ZERO : RELAY_SEND_DATA, at,
                 len);
    }
    op->cursor = op->len;
}

static bool
op_compares_first(const RelayCore *core, const Op *op)
{
    return core->same_seq && !op->is_compared && !core_ack_settles(core);
}

/* False: no tokens for it now. */
static bool
op_send(RelayCore *core, Op *op)
{
    bool is_free = op->is_hole || op_compares_first(core, op);

    if (!is_free && !rate_bucket_take(core->config.bucket, op_payload(core, op),
                                      core->now_us)) {
        return false;
    }
    op_bind(core, op, link_pick(core));
    op->is_doubtful = doubt_must_verify(core, op->run);
    op->cursor = 0;
    window_sent(core, op);
    if (op->is_hole) {
        op_hole_step(core, op);
    } else if (op_compares_first(core, op)) {
        op_move(core, op, OP_COMPARING);
        op_compare(core, op, op->len, false);
    } else {
        op_send_data(core, op);
    }
    return true;
}

static Op *
op_oldest_ready(RelayCore *core)
{
    Op *oldest = NULL;

    for (unsigned i = 0; core->n_ready && i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];
        if (op->state == OP_READY && op->job == JOB_DRAIN &&
            (!core->is_token_blocked || op->is_hole) &&
            (!oldest || op->serial < oldest->serial)) {
            oldest = op;
        }
    }
    return oldest;
}

/* Send what waits, oldest first, as far as there are tokens. */
void
op_send_ready(RelayCore *core)
{
    Op *op;

    core->is_token_blocked = false;
    while (core_may_write(core) && (op = op_oldest_ready(core))) {
        core->is_token_blocked |= !op_send(core, op);
    }
    if (core->is_token_blocked) {
        core_at(core, rate_bucket_next_us(core->config.bucket, core->now_us));
    }
}

/*
 * Reading back
 */
static void
op_verify_step(RelayCore *core, Op *op)
{
    if (op->cursor == op->len) {
        pass_settle(core, op->run);
        op_free(core, op);
    } else if (op->is_hole && core_has_status(core)) {
        op_ask(core, op);
    } else {
        op_compare(core, op, op->len - op->cursor, op->is_hole);
    }
}

void
op_verify(RelayCore *core, Op *op)
{
    op_move(core, op, OP_VERIFYING);
    op->cursor = 0;
    op_verify_step(core, op);
}

static void
op_differs(RelayCore *core, Op *op)
{
    core->figures.errors++;
    core_error(core,
               "target gave back other bytes at %llu than were written: "
               "sent again; is somebody else writing there?",
               (unsigned long long)(op->offset + op->cursor));
    pass_failure(core);
    op_fail(core, op);
}

static void
op_compared(RelayCore *core, Op *op, bool is_equal)
{
    if (op->state == OP_VERIFYING) {
        op->cursor += op->asked;
        is_equal ? op_verify_step(core, op) : op_differs(core, op);
        return;
    }
    op->cursor += op->asked;
    if (!is_equal) {
        op->is_compared = true;
        op_unbind(core, op);
        op_ready(core, op);
    } else if (op->cursor < op->len) {
        op_compare(core, op, op->len - op->cursor, false);
    } else {
        core->figures.equal_bytes += op->len;
        op_release_cost(core, op); /* says nothing about sending */
        op_acked(core, op);
    }
}

/*
 * Events
 */
static void
op_status(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    uint64_t len = event->len < op->asked ? event->len : op->asked;

    if (!len) {
        core->has_no_status = true; /* an answer that says nothing */
        pass_failure(core);
        op_fail(core, op);
    } else if (op->state == OP_ASKING) {
        op_hole_asked(core, op, len, event->is_zero);
    } else if (event->is_zero) {
        op->cursor += len;
        op_verify_step(core, op);
    } else {
        op_compare(core, op, len, true);
    }
}

static void
op_was_acked(RelayCore *core, Op *op)
{
    op->writes--;
    if (op->pending) {
        return;
    }
    if (!op->is_hole) {
        core->figures.sent_bytes += op_payload(core, op);
        op_acked(core, op);
        return;
    }
    window_zeroed(core, core->now_us - op->sent_us, op->len);
    op_hole_step(core, op);
}

static void
op_was_refused(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    bool is_unsupported = event->error == EOPNOTSUPP || event->error == EINVAL;

    core->figures.errors++;
    core_error(core, "%s", event->text);
    if (op->state == OP_ASKING || (op->state == OP_VERIFYING && op->is_hole)) {
        core->has_no_status = true;
    }
    if (op->state == OP_SENDING) {
        op->writes--;
        core->has_no_zero |= op->is_hole && is_unsupported;
    }
    pass_failure(core);
    op_fail(core, op);
}

/* Answers of the local disk. */
static void
op_local_event(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    bool is_map =
        event->kind == RELAY_MAPPED || event->kind == RELAY_MAP_FAILED;

    if (is_map && op->job != JOB_DRAIN) {
        check_mapped(core, op, event);
        return;
    }
    if (is_map) {
        struct ClusterRun run = op->run;
        op_free(core, op);
        pass_mapped(core, run, event->kind == RELAY_MAPPED ? event->len : 0,
                    event->is_hole);
        return;
    }
    op->load_us = core->now_us - op->load_us;
    core->loading_bytes -= op->len;
    core->load_rest_us = core->now_us + op->load_us;
    if (op->has_failed || core->is_stopped) {
        op_fail(core, op);
    } else if (event->kind == RELAY_READ_FAILED) {
        core->figures.errors++;
        core_error(core, "cannot read the local disk at %llu: %s",
                   (unsigned long long)op->offset, strerror(event->error));
        if (op->job == JOB_DRAIN) {
            pass_failure(core);
        }
        op_fail(core, op);
    } else if (op->job == JOB_DRAIN) {
        memcpy(op->zero, event->zero, sizeof(op->zero));
        op_ready(core, op);
    } else {
        check_loaded(core, op);
    }
}

/* Answers of the target. */
static void
op_remote_event(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    if (op->conn != event->conn || op->epoch != event->epoch || !op->pending) {
        return; /* of a connection that is gone */
    }
    op->pending--;
    if (op->job != JOB_DRAIN) {
        check_event(core, op, event);
    } else if (op->has_failed) {
        op->writes -= (op->state == OP_SENDING);
        op_fail(core, op);
    } else if (event->kind == RELAY_ACKED) {
        op_was_acked(core, op);
    } else if (event->kind == RELAY_STATUS) {
        op_status(core, op, event);
    } else if (event->kind == RELAY_COMPARED) {
        op_compared(core, op, event->is_equal);
    } else {
        op_was_refused(core, op, event);
    }
}

void
op_event(RelayCore *core, const struct RelayEvent *event)
{
    assert(event->op < RELAY_OPS);
    Op *op = &core->ops[event->op];

    if (event->kind == RELAY_MAPPED || event->kind == RELAY_MAP_FAILED ||
        event->kind == RELAY_READ || event->kind == RELAY_READ_FAILED) {
        assert(op->state == OP_MAPPING || op->state == OP_LOADING);
        op_local_event(core, op, event);
    } else if (op->state != OP_FREE) {
        op_remote_event(core, op, event);
    }
}
