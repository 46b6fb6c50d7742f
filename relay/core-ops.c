/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of an op: one run of clusters on its way to the target.
 *
 *   state      | entered by                 | left by
 *   -----------+----------------------------+-------------------------------
 *   LOADING    | a run of local data        | READ -> READY; equal: settled
 *   READY      | read, or a hole claimed    | the log, a connection, tokens
 *   ASKING     | a hole, block status there | zero: next extent, at the end
 *              |                            | ACKED; else SENDING or LOADING
 *   COMPARING  | target-accept=same         | equal: ACKED; else READY
 *   SENDING    | segments of data and zeroes| all answered: ACKED
 *   ACKED      | (if to be read back)       | flushed: VERIFYING
 *   VERIFYING  | flushed                    | equal: settled; else dirty
 *   ENDING     | failed, its sums under way | NOTED
 *
 * Clusters whose content is what their sums say the target holds are not sent
 * (core-log.c says when sums are believed). While an op is sent its own sums
 * are written beside it; it is acknowledged when both are done.
 *
 * All requests of an op go over one connection, the one with the least in
 * flight when it is sent. A run that needs no reading back gives its slot up
 * when it is acknowledged: the connection's list of runs waits for the flush.
 *
 * Whatever fails leaves the run as dirty as it was in the DiskMap; an op that
 * failed with answers outstanding stays until they are there or the
 * connection is lost, because until then its writes may execute.
 * core-send.c has what is sent.
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
    /* With the guest silent they follow each other without an end: a batch is
     * one of them then, or a guest that comes would be left alone for as long. */
    if (!op->is_ahead && (!core->loading_bytes || !core->yields)) {
        core->batch_us = core->now_us;
        core->batch_bytes = 0;
    }
    core->batch_bytes += op->is_ahead ? 0 : op->len;
    core->loading_bytes += op->is_ahead ? 0 : op->len;
    if (op->job == JOB_DRAIN) {
        op_release_cost(core, op); /* of a hole that has to be data */
        op_take_cost(core, op, op->len);
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
    op->is_asked = kind == RELAY_SEND_STATUS;
    /* An answer about extents carries none of them. */
    op->deadline_us = link_deadline(core, &core->conns[op->conn],
                                    kind == RELAY_SEND_STATUS ? 0 : len);
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

void
op_write(RelayCore *core, Op *op, enum RelayActionKind kind, uint64_t at,
         uint64_t len)
{
    struct RelayAction *action = op_request(core, op, kind, at, len);

    op->writes++;
    op->has_zeroed |= kind == RELAY_SEND_ZERO;
    action->is_fua = !core->caps.can_flush && core->caps.can_fua;
    action->keeps_room = core->config.keeps_zeroes && kind == RELAY_SEND_ZERO;
    job_wrote(core, op, at, len);
}

/* A read at the target, of what is at @op->cursor. */
void
op_compare(RelayCore *core, Op *op, uint64_t len, bool is_zero_run)
{
    uint64_t piece = core->caps.max_payload;
    struct RelayAction *action;

    piece = piece < RELAY_OP_BYTES_MAX ? piece : RELAY_OP_BYTES_MAX;
    op->asked = len < piece ? len : piece;
    action = op_request(core, op, RELAY_SEND_COMPARE, op->cursor, op->asked);
    action->is_zero_run = is_zero_run;
    action->is_sum = op->is_by_sum;
}

/* What the target will hold when this op is settled, for remote-sums. */
void
op_note(RelayCore *core, Op *op)
{
    if (!op->is_noting && !op->is_noted) {
        struct RelayAction *action = core_emit(core, RELAY_NOTE);

        action->op = op_index(core, op);
        action->offset = op->offset;
        action->len = op->len;
        action->is_zero_run = op->is_hole;
        op->is_noting = true;
    }
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
    if (op->pending || op->state == OP_ENDING) {
        return;
    }
    if (op->job == JOB_DRAIN && op->sent_us) {
        core->figures.resent_clusters += op->run.count;
    } else if (op->job == JOB_DRAIN && op->log_need) {
        log_unclaim(core, op);
    }
    if (op->is_noting) {
        op_move(core, op, OP_ENDING);
        op_release_cost(core, op);
        op_unbind(core, op);
        return;
    }
    op_free(core, op);
}

void
op_acked(RelayCore *core, Op *op)
{
    Conn *conn = &core->conns[op->conn];
    bool is_settled =
        core_ack_settles(core) || mutant(MUTANT_CLEAR_BEFORE_FLUSH);

    if (op->is_noting) {
        op->is_answered = true;
        return;
    }
    if (mutant(MUTANT_SUM_EARLY)) {
        log_settled(core, op->run);
    }
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
 * Sums
 */
/* Which clusters are equal, if the sums may be believed at all; or zero there
 * as well, without any. */
static bool
op_take_equal(RelayCore *core, Op *op, const uint64_t *equal)
{
    bool is_believed =
        !op->is_suspect && op->sums_life == core->log.sums_life &&
        core->contact == CONTACT_KNOWN && !doubt_must_verify(core, op->run);
    uint64_t n = 0;

    memset(op->equal, 0, sizeof(op->equal));
    for (uint64_t i = 0; i < op->run.count; i++) {
        bool is_zero_there = !op->is_suspect && op_has_bit(op->zero, i) &&
                             job_is_untouched(core, op->run.first + i);

        if (is_zero_there || (is_believed && op_has_bit(equal, i))) {
            op->equal[i / 64] |= UINT64_C(1) << i % 64;
            n++;
        }
    }
    return n == op->run.count;
}

/* There is nobody to send the rest to. */
static void
op_settle_equal(RelayCore *core, Op *op)
{
    for (uint64_t i = 0; i < op->run.count; i++) {
        if (op_has_bit(op->equal, i)) {
            pass_settle_known(core, (struct ClusterRun){op->run.first + i, 1});
        }
    }
    log_unclaim(core, op);
    op_free(core, op);
}

static void
op_loaded(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    memcpy(op->zero, event->zero, sizeof(op->zero));
    bool is_all_equal = op_take_equal(core, op, event->equal);

    /* One that has noted what it is about to send has to send it. */
    bool has_begun = op->is_noting || op->is_noted;

    if (is_all_equal ||
        (core->is_recovering && !core_may_send(core) && !has_begun)) {
        op_settle_equal(core, op);
    } else {
        op_ready(core, op);
    }
}

static void
op_was_noted(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    assert(op->is_noting);
    op->is_noting = false;
    op->is_noted = true;
    if (event->error) {
        log_unnoted(core, op);
    }
    if (op->state == OP_ENDING) {
        op_free(core, op);
    } else if (op->is_answered) {
        op->is_answered = false;
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

/* Is it WRITE_ZEROES that the target has not, whatever it said? */
static bool
op_lacks_zero(const Op *op, const struct RelayEvent *event)
{
    bool is_unsupported = event->error == EOPNOTSUPP || event->error == EINVAL;

    return is_unsupported && op->state == OP_SENDING && op->has_zeroed &&
           !op->is_trimmed;
}

static void
op_was_refused(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    bool lacks_zero = op_lacks_zero(op, event);

    core->figures.errors++;
    core_error(core, "%s", event->text);
    if (op->state == OP_ASKING || (op->state == OP_VERIFYING && op->is_hole)) {
        core->has_no_status = true;
    }
    op->writes -= op->state == OP_SENDING;
    core->has_no_zero |= lacks_zero;
    pass_failure(core);
    if (!op->is_asked && !lacks_zero) {
        job_halt(core, false, event->error);
    }
    op_fail(core, op);
}

/* While the guest is at work we have one part of the time: one batch of loads,
 * then a rest as long as the other parts. */
static int64_t
load_rest(const RelayCore *core, int64_t took_us)
{
    return took_us * (core->yields ? (int64_t)core->yields - 1 : 1);
}

/* Answers of the local disk. */
static void
op_local_event(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    bool is_map =
        event->kind == RELAY_MAPPED || event->kind == RELAY_MAP_FAILED;

    if (is_map && op->job != JOB_DRAIN) {
        op->job == JOB_VERIFY ? verify_mapped(core, op, event)
                              : check_mapped(core, op, event);
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
    if (!op->is_ahead) {
        core->loading_bytes -= op->len;
        core->load_rest_us =
            core->now_us + load_rest(core, core->now_us - core->batch_us);
    }
    if (op->has_failed || core->is_stopped) {
        op_fail(core, op);
    } else if (event->kind == RELAY_READ_FAILED) {
        core->figures.errors++;
        core_error(core, "cannot read the local disk at %llu: %s",
                   (unsigned long long)op->offset, strerror(event->error));
        if (op->job == JOB_VERIFY) {
            verify_unreadable(core, op);
            return;
        }
        if (op->job == JOB_DRAIN) {
            pass_failure(core);
            job_halt(core, true, event->error);
        }
        op_fail(core, op);
    } else if (op->job == JOB_DRAIN) {
        op_loaded(core, op, event);
    } else if (op->job == JOB_VERIFY) {
        verify_loaded(core, op);
    } else {
        check_loaded(core, op, event);
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
    if (op->job == JOB_VERIFY) {
        verify_event(core, op, event);
    } else if (op->job != JOB_DRAIN) {
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
    } else if (event->kind == RELAY_NOTED) {
        op_was_noted(core, op, event);
    } else if (op->state != OP_FREE) {
        op_remote_event(core, op, event);
    }
}
