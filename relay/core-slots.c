/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The slots that ops live in, and what is counted of them: bytes in the
 * window, ops and bytes of each connection, how many ops are in the states
 * that somebody asks for. Every change of an op that is counted goes through
 * here, so that the counts cannot differ from the ops.
 *
 * Free slots are a stack: a slot's number is the number of the loop's buffer,
 * and with a small window the same few buffers are used again and again.
 *
 * An op is bound to a connection from its first request on; its cost is
 * counted in the window from the local read on, and given back when it is
 * acknowledged.
 */
#include "core-internal.h"

unsigned
op_index(const RelayCore *core, const Op *op)
{
    return (unsigned)(op - core->ops);
}

/* The caller has seen that a slot is free, and moves the op to a state. */
Op *
op_new(RelayCore *core, enum OpJob job, struct ClusterRun run)
{
    assert(core->n_free);
    Op *op = &core->ops[core->free_ops[--core->n_free]];
    uint64_t offset = run.first << core->cluster_bits;
    uint64_t end = (run.first + run.count) << core->cluster_bits;

    *op = (Op){
        .job = job,
        .run = run,
        .offset = offset,
        .len = (end < core->size_bytes ? end : core->size_bytes) - offset,
        .conn = RELAY_CONNS,
        .serial = ++core->serial,
        .deadline_us = CORE_NEVER,
    };
    return op;
}

/* Before it is bound. */
void
op_take_cost(RelayCore *core, Op *op, uint64_t bytes)
{
    assert(!op->cost && op->conn == RELAY_CONNS);
    op->cost = bytes;
    core->inflight_bytes += bytes;
}

void
op_release_cost(RelayCore *core, Op *op)
{
    core->inflight_bytes -= op->cost;
    if (op->conn < RELAY_CONNS) {
        core->conns[op->conn].inflight_bytes -= op->cost;
    }
    op->cost = 0;
}

void
op_unbind(RelayCore *core, Op *op)
{
    if (op->conn < RELAY_CONNS) {
        core->conns[op->conn].inflight_bytes -= op->cost;
        core->conns[op->conn].n_ops--;
        op->conn = RELAY_CONNS;
    }
}

void
op_bind(RelayCore *core, Op *op, Conn *conn)
{
    op->conn = (unsigned)(conn - core->conns);
    op->epoch = conn->epoch;
    conn->inflight_bytes += op->cost;
    conn->n_ops++;
}

void
op_move(RelayCore *core, Op *op, enum OpState state)
{
    unsigned *counts[] = {[OP_READY] = &core->n_ready,
                          [OP_MAPPING] = &core->n_mapping,
                          [OP_ACKED] = &core->n_acked};
    const size_t n = sizeof(counts) / sizeof(*counts);

    if (op->state < n && counts[op->state]) {
        (*counts[op->state])--;
    }
    if (state < n && counts[state]) {
        (*counts[state])++;
    }
    if (op->conn < RELAY_CONNS) {
        Conn *conn = &core->conns[op->conn];
        conn->n_acked_ops += (state == OP_ACKED);
        conn->n_acked_ops -= (op->state == OP_ACKED);
    }
    op->state = state;
}

void
op_free(RelayCore *core, Op *op)
{
    op_move(core, op, OP_FREE);
    op_release_cost(core, op);
    op_unbind(core, op);
    if (op->job == JOB_DRAIN) {
        core->n_holes -= op->is_hole;
    } else {
        core->n_checks--;
        core->verify.is_busy &= op->job != JOB_VERIFY;
    }
    core->free_ops[core->n_free++] = op_index(core, op);
}
