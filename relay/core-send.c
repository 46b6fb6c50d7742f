/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an op asks of the target: segments of data and of zeroes, extents of a
 * hole. What is equal by its sum is left out.
 *
 * Holes go as WRITE_ZEROES in large pieces. A target that has none is given
 * TRIM where its block status can confirm the zeroes, else the zeroes as
 * data; these ops are no larger than a buffer.
 *
 * Ops are sent oldest first, as soon as the sent-log covers them and there are
 * tokens; holes need none.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

/*
 * Holes
 */
/* Its zeroes have to be sent as data. */
static void
op_hole_load(RelayCore *core, Op *op)
{
    op_unbind(core, op);
    op->is_hole = op->is_noted = op->has_zeroed = false;
    op->is_suspect = true; /* its sums are just being written */
    op->cursor = 0;
    core->n_holes--;
    op_load(core, op);
}

void
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
        op_hole_load(core, op);
    }
}

/* The target's extent at the cursor; what is zero there needs no sending. */
void
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
    } else if (core->caps.can_trim && !op->is_trimmed &&
               !core->config.keeps_zeroes) {
        op_move(core, op, OP_SENDING);
        op->is_trimmed = true;
        op->cursor = 0; /* all of it is asked again */
        op_write(core, op, RELAY_SEND_TRIM, 0, op->len);
    } else if (op->len > RELAY_OP_BYTES_MAX) {
        op_fail(core, op);
    } else {
        op_hole_load(core, op);
    }
}

/*
 * Data
 */
enum Segment { SEGMENT_DATA, SEGMENT_ZERO, SEGMENT_EQUAL };

static enum Segment
op_kind_at(const RelayCore *core, const Op *op, uint64_t cluster)
{
    if (op_has_bit(op->equal, cluster)) {
        return SEGMENT_EQUAL;
    }
    return core_can_zero(core) && op_has_bit(op->zero, cluster) ? SEGMENT_ZERO
                                                                : SEGMENT_DATA;
}

/* Bytes behind @at that are clusters of one kind. */
static uint64_t
op_segment(const RelayCore *core, const Op *op, uint64_t at, enum Segment *kind)
{
    uint64_t i = at >> core->cluster_bits;

    *kind = op_kind_at(core, op, i);
    while (i < op->run.count && op_kind_at(core, op, i) == *kind) {
        i++;
    }
    uint64_t end = i << core->cluster_bits;
    return (end < op->len ? end : op->len) - at;
}

uint64_t
op_payload(const RelayCore *core, const Op *op)
{
    uint64_t bytes = 0;
    enum Segment kind;

    for (uint64_t at = 0, len; at < op->len; at += len) {
        len = op_segment(core, op, at, &kind);
        bytes += kind == SEGMENT_DATA ? len : 0;
    }
    return bytes;
}

static void
op_send_data(RelayCore *core, Op *op)
{
    enum Segment kind;

    op_move(core, op, OP_SENDING);
    for (uint64_t at = 0, len; at < op->len; at += len) {
        len = op_segment(core, op, at, &kind);
        if (kind == SEGMENT_EQUAL) {
            core->figures.skipped_bytes += len;
            continue;
        }
        if (kind == SEGMENT_DATA && len > core->caps.max_payload) {
            len = core->caps.max_payload;
        }
        op_write(core, op,
                 kind == SEGMENT_ZERO ? RELAY_SEND_ZERO : RELAY_SEND_DATA, at,
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
    op_note(core, op);
    if (op->is_hole) {
        op_move(core, op, OP_SENDING);
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
            log_covers(core, op) && (!core->is_token_blocked || op->is_hole) &&
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
