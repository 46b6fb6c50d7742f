/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections to the target.
 *
 *   link       | left when
 *   -----------+-------------------------------------------------------
 *   OFFLINE    | back-off is over: CONNECTING
 *   CONNECTING | up: CHECKING; failed: OFFLINE; barred: REFUSED
 *   CHECKING   | the target is ours: ONLINE; is not: REFUSED; lost: OFFLINE
 *   ONLINE     | the last connection is lost: OFFLINE
 *   REFUSED    | the user's word, or the longest back-off: CONNECTING
 *   STOPPED    | never
 *
 * One connection is made and checked first; further ones follow if the server
 * can multi-conn, in slots of their own with back-offs of their own. One
 * that says other things of the target than the first did is no connection
 * to that target: all are dropped and it is looked at anew.
 *
 * Losing a connection: what it acknowledged and did not flush never happened
 * (rule 4), what it did not answer is in doubt (rule 5) if it was to change
 * the target. The back-off starts over only when a flush was acknowledged, or
 * after a long life: a server that dies of our writes is not hammered.
 *
 * Deadlines are the loop's to watch; the core looks, too, and disconnects.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <string.h>

#define RATE_UNKNOWN 65536 /* bytes per second, for the first deadlines */
#define SECOND_US    1000000

/*
 * Helpers
 */
int64_t
link_deadline(const RelayCore *core, const Conn *conn, uint64_t len)
{
    uint64_t bps = window_bps(core);
    double queued = (double)conn->inflight_bytes + (double)len;
    int64_t patience = core->config.deadline_us * (conn->is_flushing ? 4 : 1);

    /* WRITE_ZEROES and block status carry no payload. */
    queued = queued < (128 << 20) ? queued : (128 << 20);
    queued *= bps ? 2.0 / (double)bps : 1.0 / RATE_UNKNOWN;
    if (queued > 600) {
        queued = 600;
    }
    return core->now_us + patience + (int64_t)(queued * SECOND_US);
}

/* The connection with the least to do. There is one. */
Conn *
link_pick(RelayCore *core)
{
    Conn *best = NULL;

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        Conn *conn = &core->conns[i];
        if (conn->state == CONN_UP && (i < core->config.max_conns || !best) &&
            (!best || conn->inflight_bytes < best->inflight_bytes ||
             (conn->inflight_bytes == best->inflight_bytes &&
              conn->n_ops < best->n_ops))) {
            best = conn;
        }
    }
    assert(best);
    return best;
}

static int64_t
next_backoff(const RelayCore *core, int64_t backoff_us)
{
    int64_t least = core->config.backoff_min_us;
    int64_t most = core->config.backoff_max_us;

    return backoff_us * 2 < least  ? least
           : backoff_us * 2 < most ? backoff_us * 2
                                   : most;
}

/* Proof that the target is any good. */
void
link_proved(RelayCore *core, Conn *conn)
{
    core->backoff_us = 0;
    conn->backoff_us = 0;
}

/*
 * Losing connections
 */
/* The end of an op whose connection is gone. */
static void
lose_op(RelayCore *core, Op *op)
{
    if (op->job == JOB_DRAIN && op->writes) {
        uint64_t sent = op->is_trimmed ? op->len : op->cursor;
        doubt_add(core, run_outward(op->offset, sent, core->cluster_bits));
    }
    op->pending = 0;
    op_fail(core, op);
}

static void
lose_acked(RelayCore *core, struct RunList *list)
{
    for (size_t i = 0; i < list->count; i++) {
        core->figures.resent_clusters += list->list[i].count;
    }
    if (!mutant(MUTANT_NO_EPOCH)) {
        list->count = 0;
    }
}

void
link_lose(RelayCore *core, Conn *conn)
{
    unsigned index = (unsigned)(conn - core->conns);

    core->n_up -= conn->state == CONN_UP;
    conn->state = CONN_DOWN;
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        if (core->ops[i].state != OP_FREE && core->ops[i].conn == index) {
            lose_op(core, &core->ops[i]);
        }
    }
    lose_acked(core, &conn->acked);
    lose_acked(core, &conn->flushing);
    conn->acked_bytes = 0;
    conn->is_flushing = false;
    conn->backoff_us = next_backoff(core, conn->backoff_us);
    conn->retry_us = core->now_us + core_jitter(core, conn->backoff_us);
    assert(!conn->n_ops && !conn->n_acked_ops && !conn->inflight_bytes);
}

/* Drop every connection, without a word about what comes next. */
static void
drop_all(RelayCore *core)
{
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        Conn *conn = &core->conns[i];
        if (conn->state != CONN_DOWN) {
            struct RelayAction *action = core_emit(core, RELAY_DISCONNECT);
            action->conn = i;
            action->epoch = conn->epoch;
            link_lose(core, conn);
        }
    }
    /* What a check still reads locally is for a target that is gone. */
    for (unsigned i = 0; core->n_checks && i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];
        op->has_failed |=
            (op->state == OP_LOADING || op->state == OP_MAPPING) &&
            op->job != JOB_DRAIN;
    }
}

static void
go_offline(RelayCore *core)
{
    drop_all(core);
    if (core->link == RELAY_ONLINE &&
        core->now_us - core->online_us > core->config.backoff_max_us) {
        core->backoff_us = 0;
    }
    core->link = RELAY_OFFLINE;
    core->backoff_us = next_backoff(core, core->backoff_us);
    core->retry_us = core->now_us + core_jitter(core, core->backoff_us);
    window_init(core);
}

void
link_drop(RelayCore *core)
{
    core->figures.losses++;
    go_offline(core);
}

/* core_error() has said why. */
void
link_refuse(RelayCore *core)
{
    drop_all(core);
    core->link = RELAY_REFUSED;
    core->retry_us = core->now_us + core->config.backoff_max_us;
}

void
link_online(RelayCore *core)
{
    core->link = RELAY_ONLINE;
    core->figures.error[0] = '\0';
    core->online_us = core->now_us;
}

/* One connection is gone, with or without the loop's word. */
static void
lost(RelayCore *core, Conn *conn)
{
    core->figures.losses += conn->state == CONN_UP;
    link_lose(core, conn);
    if (!core->n_up) {
        go_offline(core);
    }
}

/*
 * Events
 */
static bool
caps_agree(const struct TargetCaps *a, const struct TargetCaps *b)
{
    return a->size_bytes == b->size_bytes &&
           a->is_read_only == b->is_read_only && a->can_flush == b->can_flush &&
           a->can_fua == b->can_fua && a->can_zero == b->can_zero &&
           a->can_trim == b->can_trim &&
           a->can_multi_conn == b->can_multi_conn &&
           a->has_block_status == b->has_block_status &&
           a->min_block == b->min_block && a->max_payload == b->max_payload;
}

static void
link_up(RelayCore *core, Conn *conn, const struct TargetCaps *caps)
{
    bool is_first = !core->n_up;

    conn->state = CONN_UP;
    conn->flush_us = core->now_us;
    core->n_up++;
    core->figures.connects++;
    if (caps->is_new_process) {
        doubt_new_process(core);
    }
    if (!is_first) {
        if (!caps_agree(&core->caps, caps)) {
            core_error(core, "target changed between two connections: "
                             "looking at it again");
            link_drop(core);
        }
        return;
    }
    core->caps = *caps;
    core->has_no_status = core->has_no_zero = false;
    core->link = RELAY_CHECKING;
    if (check_caps(core)) {
        check_begin(core);
    } else {
        link_refuse(core);
    }
}

static void
flush_failed(RelayCore *core, Conn *conn, const struct RelayEvent *event)
{
    core->figures.errors++;
    core_error(core, "%s", event->text);
    conn->is_flushing = false;
    pass_flush_failed(core, conn);
    job_halt(core, false, event->error);
}

void
link_event(RelayCore *core, const struct RelayEvent *event)
{
    assert(event->conn < RELAY_CONNS);
    Conn *conn = &core->conns[event->conn];

    if (conn->state == CONN_DOWN || conn->epoch != event->epoch) {
        return;
    }
    if (event->kind == RELAY_LINK_UP) {
        assert(conn->state == CONN_CONNECTING);
        link_up(core, conn, &event->caps);
    } else if (event->kind == RELAY_LINK_LOST) {
        core_error(core, "%s", event->text);
        lost(core, conn);
    } else if (event->kind == RELAY_LINK_BARRED) {
        core_error(core, "%s", event->text);
        link_refuse(core);
    } else if (conn->is_flushing && event->kind == RELAY_FLUSHED) {
        core->figures.flushes++;
        conn->is_flushing = false;
        link_proved(core, conn);
        pass_flushed(core, conn);
    } else if (conn->is_flushing) {
        flush_failed(core, conn, event);
    }
}

/*
 * Time
 */
static bool
is_late(RelayCore *core, int64_t deadline_us)
{
    if (core->now_us >= deadline_us) {
        return true;
    }
    core_at(core, deadline_us);
    return false;
}

static void
give_up(RelayCore *core, Conn *conn, const char *what)
{
    struct RelayAction *action = core_emit(core, RELAY_DISCONNECT);

    action->conn = (unsigned)(conn - core->conns);
    action->epoch = conn->epoch;
    core_error(core, "target did not %s in time: trying again", what);
    lost(core, conn);
}

static void
watch_deadlines(RelayCore *core)
{
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        Conn *conn = &core->conns[i];
        if (conn->state == CONN_CONNECTING &&
            is_late(core, conn->deadline_us)) {
            give_up(core, conn, "take the connection");
        } else if (conn->state == CONN_UP && conn->is_flushing &&
                   is_late(core, conn->flush_deadline_us)) {
            give_up(core, conn, "flush");
        }
    }
    if (!is_late(core, core->deadline_us)) {
        return; /* spares a look at every op in every step */
    }
    core->deadline_us = CORE_NEVER;
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        Op *op = &core->ops[i];
        if (op->state == OP_FREE || !op->pending) {
            continue;
        }
        if (is_late(core, op->deadline_us)) {
            give_up(core, &core->conns[op->conn], "answer");
        } else if (op->deadline_us < core->deadline_us) {
            core->deadline_us = op->deadline_us;
        }
    }
}

static void
connect_slot(RelayCore *core, Conn *conn)
{
    struct RelayAction *action = core_emit(core, RELAY_CONNECT);

    conn->state = CONN_CONNECTING;
    conn->epoch++;
    conn->deadline_us = core->now_us + core->config.connect_deadline_us;
    core_at(core, conn->deadline_us);
    action->conn = (unsigned)(conn - core->conns);
    action->epoch = conn->epoch;
    action->deadline_us = conn->deadline_us;
}

/* Further connections, and those that are too many. */
void
link_widen(RelayCore *core)
{
    if (core->link != RELAY_ONLINE) {
        return;
    }
    bool is_wide = core->caps.can_multi_conn || mutant(MUTANT_FLUSH_ONE);

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        Conn *conn = &core->conns[i];
        bool is_wanted = is_wide && i < core->config.max_conns;

        if (conn->state == CONN_DOWN && is_wanted) {
            if (core->now_us >= conn->retry_us) {
                connect_slot(core, conn);
            } else {
                core_at(core, conn->retry_us);
            }
        } else if (conn->state != CONN_DOWN && i >= core->config.max_conns &&
                   core->n_up > 1 && !conn->n_ops && !conn->acked.count &&
                   !conn->is_flushing) {
            struct RelayAction *action = core_emit(core, RELAY_DISCONNECT);
            action->conn = i;
            action->epoch = conn->epoch;
            link_lose(core, conn);
        }
    }
}

static void
link_stop(RelayCore *core)
{
    drop_all(core);
    core->link = RELAY_STOPPED;
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        if (core->ops[i].state == OP_READY) {
            op_fail(core, &core->ops[i]);
        }
    }
}

void
link_run(RelayCore *core)
{
    if (core->is_stopped) {
        if (core->link != RELAY_STOPPED) {
            link_stop(core);
        }
        return;
    }
    if (core->is_retargeted) {
        core->is_retargeted = false;
        drop_all(core);
        core->link = RELAY_OFFLINE;
        core->retry_us = core->backoff_us = 0;
    }
    watch_deadlines(core);
    if (core->link == RELAY_OFFLINE || core->link == RELAY_REFUSED) {
        if (core->now_us < core->retry_us) {
            core_at(core, core->retry_us);
            return;
        }
        core->link = RELAY_CONNECTING;
        connect_slot(core, &core->conns[0]);
    }
}
