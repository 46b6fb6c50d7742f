/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A target that does everything an NBD server and the network before it may
 * do, short of lying. A request is executed at one instant between its
 * arrival and its answer; requests overtake each other.
 *
 * Writes go to a volatile cache: one for all connections if it can multi-conn
 * and one each if not. Any cell of a cache may become durable at any time. A
 * FLUSH makes durable what the cache of its connection held when it was
 * executed; one that fails may lose all of that, and the next flush of every
 * other connection fails, too. A server without flush writes through.
 *
 * A connection that is lost leaves its unexecuted writes behind as zombies:
 * they may execute until the quarantine is over, counted from when the relay
 * knew. A restart loses caches, connections and zombies.
 */
#include "sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_US 30000
#define NOTICE_US  200000

static unsigned
cell_of(const Sim *sim, uint64_t offset)
{
    return (unsigned)(offset / sim->cell_bytes);
}

static bool
is_write(enum RelayActionKind kind)
{
    return kind == RELAY_SEND_DATA || kind == RELAY_SEND_ZERO ||
           kind == RELAY_SEND_TRIM;
}

/*
 * Contents
 */
static uint32_t *
cache_of(Sim *sim, unsigned conn)
{
    struct SimTarget *target = &sim->target;

    return target->caps.can_multi_conn ? target->shared
                                       : target->conns[conn].cache;
}

static uint32_t
seen_value(Sim *sim, unsigned conn, unsigned cell)
{
    uint32_t cached = cache_of(sim, conn)[cell];

    return cached != SIM_NOTHING ? cached : sim->target.durable[cell];
}

static void
destage(Sim *sim, uint32_t *cache, unsigned per_mille, bool is_rest_lost)
{
    for (unsigned i = 0; i < SIM_TARGET_MAX; i++) {
        if (cache[i] != SIM_NOTHING && sim_chance(sim, per_mille)) {
            sim->target.durable[i] = cache[i];
            cache[i] = SIM_NOTHING;
        } else if (is_rest_lost) {
            cache[i] = SIM_NOTHING;
        }
    }
}

static void
put_cell(Sim *sim, const struct SimReq *req, unsigned cell, uint32_t value)
{
    bool is_through = !sim->target.caps.can_flush ||
                      (req->is_zombie && !sim->target.caps.can_multi_conn);

    if (is_through) {
        sim->target.durable[cell] = value;
    } else {
        cache_of(sim, req->action.conn)[cell] = value;
    }
}

static void
execute_write(Sim *sim, const struct SimReq *req, unsigned per_mille)
{
    const struct RelayAction *action = &req->action;
    unsigned first = cell_of(sim, action->offset);

    for (unsigned i = 0; i < cell_of(sim, action->len); i++) {
        uint32_t value = action->kind == RELAY_SEND_DATA ? req->values[i] : 0;
        if (per_mille == 1000 || sim_chance(sim, per_mille)) {
            put_cell(sim, req, first + i, value);
        }
    }
}

/*
 * Requests
 */
static void
count_writes(Sim *sim, const struct SimReq *req, unsigned *counts, int by)
{
    unsigned first = cell_of(sim, req->action.offset);

    for (unsigned i = 0; i < cell_of(sim, req->action.len); i++) {
        counts[first + i] += (unsigned)by;
    }
}

static void
req_free(Sim *sim, struct SimReq *req)
{
    struct SimTarget *target = &sim->target;

    if (req->is_writing) {
        count_writes(sim, req,
                     req->is_zombie ? target->zombies : target->pending, -1);
    }
    req->is_used = false;
    req->life++;
}

static void
check_request(Sim *sim, const struct RelayAction *action)
{
    const struct SimTarget *target = &sim->target;
    bool is_data =
        action->kind == RELAY_SEND_DATA || action->kind == RELAY_SEND_COMPARE;

    if (action->kind == RELAY_SEND_FLUSH) {
        return;
    }
    if (!action->len ||
        action->offset + action->len > sim->cells * sim->cell_bytes) {
        sim_fail(sim, "request outside the disk");
    }
    if ((action->offset | action->len) % target->caps.min_block ||
        (is_data && action->len > target->caps.max_payload)) {
        sim_fail(sim, "request against the server's limits");
    }
    for (unsigned i = 0;
         is_write(action->kind) && i < cell_of(sim, action->len); i++) {
        unsigned cell = cell_of(sim, action->offset) + i;
        if (target->pending[cell] || target->zombies[cell]) {
            sim_fail(sim, "cell %u: a write beside %u others and %u zombies",
                     cell, target->pending[cell], target->zombies[cell]);
        }
    }
}

static void
req_send(Sim *sim, const struct RelayAction *action)
{
    struct SimTarget *target = &sim->target;
    unsigned slot = 0;

    check_request(sim, action);
    while (target->reqs[slot].is_used) {
        if (++slot == SIM_REQS) {
            sim_fail(sim, "more than %u requests", SIM_REQS);
        }
    }
    struct SimReq *req = &target->reqs[slot];
    req->is_used = true;
    req->is_executed = req->is_zombie = req->is_doomed = false;
    req->action = *action;
    req->is_writing = is_write(action->kind);
    if (req->is_writing) {
        count_writes(sim, req, target->pending, 1);
    }
    if (action->is_sum) {
        const struct SimSum *sum = &sim->local[action->op].known[0];

        sum += action->buf_offset >> sim->cluster_bits;
        memcpy(req->values, sum->values, sizeof(sum->values));
    } else if (action->kind == RELAY_SEND_DATA ||
               (action->kind == RELAY_SEND_COMPARE && !action->is_zero_run)) {
        memcpy(req->values,
               sim->local[action->op].values + cell_of(sim, action->buf_offset),
               cell_of(sim, action->len) * sizeof(*req->values));
    } else {
        memset(req->values, 0, sizeof(req->values));
    }
    sim_at(sim, sim->now_us + sim_delay(sim, sim->rates.delay_us), SIM_EXECUTE,
           slot, req->life);
}

static struct RelayEvent
answer_status(Sim *sim, const struct SimReq *req)
{
    unsigned first = cell_of(sim, req->action.offset);
    unsigned count = cell_of(sim, req->action.len);
    unsigned conn = req->action.conn;
    bool is_zero = !seen_value(sim, conn, first);
    unsigned n = 1;

    while (n < count && !seen_value(sim, conn, first + n) == is_zero) {
        n++;
    }
    if (sim_chance(sim, 200)) {
        n = 1 + (unsigned)sim_below(sim, n);
    }
    return (struct RelayEvent){.kind = RELAY_STATUS,
                               .len = n * sim->cell_bytes,
                               /* zeroes may be called data */
                               .is_zero = is_zero && !sim_chance(sim, 100)};
}

static struct RelayEvent
answer_compare(Sim *sim, const struct SimReq *req)
{
    struct RelayEvent event = {.kind = RELAY_COMPARED, .is_equal = true};
    unsigned first = cell_of(sim, req->action.offset);

    for (unsigned i = 0; i < cell_of(sim, req->action.len); i++) {
        event.is_equal &=
            seen_value(sim, req->action.conn, first + i) == req->values[i];
    }
    return event;
}

static struct RelayEvent
answer_error(Sim *sim, const struct SimReq *req)
{
    static const int errors[] = {EIO, ENOSPC, EPERM, EOPNOTSUPP, ESHUTDOWN};
    struct RelayEvent event = {.kind = RELAY_FAILED};

    event.error = errors[sim_below(sim, 5)];
    snprintf(event.text, sizeof(event.text), "simulated error %d", event.error);
    if (is_write(req->action.kind)) {
        execute_write(sim, req, sim_chance(sim, 500) ? 500 : 0);
    }
    return event;
}

static struct RelayEvent
answer_flush(Sim *sim, const struct SimReq *req)
{
    struct SimTarget *target = &sim->target;
    struct SimConn *conn = &target->conns[req->action.conn];
    unsigned chance = target->is_sticky ? 300 : sim->rates.flush_error;
    bool is_bad = !sim->is_quiet && sim_chance(sim, chance);

    if (!is_bad && !conn->owes_error) {
        destage(sim, cache_of(sim, req->action.conn), 1000, false);
        return (struct RelayEvent){.kind = RELAY_FLUSHED};
    }
    if (is_bad) {
        destage(sim, cache_of(sim, req->action.conn), 500, true);
    }
    for (unsigned i = 0;
         is_bad && target->caps.can_multi_conn && i < RELAY_CONNS; i++) {
        target->conns[i].owes_error = true;
    }
    conn->owes_error = false;
    return (struct RelayEvent){
        .kind = RELAY_FLUSH_FAILED, .error = EIO, .text = "simulated flush"};
}

static void
req_execute(Sim *sim, struct SimReq *req)
{
    enum RelayActionKind kind = req->action.kind;
    unsigned chance = sim->target.is_sticky ? 600 : sim->rates.error;

    req->is_executed = true;
    if (kind == RELAY_SEND_FLUSH) {
        req->answer = answer_flush(sim, req);
    } else if (!req->is_zombie && !sim->is_quiet && sim_chance(sim, chance)) {
        req->answer = answer_error(sim, req);
    } else if (kind == RELAY_SEND_STATUS) {
        req->answer = answer_status(sim, req);
    } else if (kind == RELAY_SEND_COMPARE) {
        req->answer = answer_compare(sim, req);
    } else {
        /* TRIM is advice; it is taken for all, for a part, not at all */
        bool is_advice = kind == RELAY_SEND_TRIM;
        unsigned most = is_advice ? (unsigned)sim_below(sim, 3) * 500 : 1000;
        execute_write(sim, req, most);
        req->answer =
            (struct RelayEvent){.kind = RELAY_ACKED, .len = req->action.len};
    }
}

/* The relay knows now that the connection is dead. */
static void
conn_dead(Sim *sim, unsigned index)
{
    struct SimTarget *target = &sim->target;
    struct SimConn *conn = &target->conns[index];
    int64_t quarantine = 4 * sim->config.deadline_us;

    for (unsigned i = 0; i < SIM_REQS; i++) {
        struct SimReq *req = &target->reqs[i];
        if (!req->is_used || req->is_zombie || req->action.conn != index) {
            continue;
        }
        if (req->is_executed || req->is_doomed || !req->is_writing ||
            conn->is_reset || !sim_chance(sim, sim->rates.zombie)) {
            req_free(sim, req);
            continue;
        }
        count_writes(sim, req, target->pending, -1);
        count_writes(sim, req, target->zombies, 1);
        req->is_zombie = true;
        req->life++;
        sim_log(sim, "zombie", cell_of(sim, req->action.offset),
                cell_of(sim, req->action.len), req->values[0]);
        sim_at(sim,
               sim->now_us + 1 +
                   (int64_t)sim_below(sim, (uint64_t)quarantine - 1),
               SIM_EXECUTE, i, req->life);
    }
    destage(sim, conn->cache, 500, true);
    conn->state = SIM_CONN_DOWN;
}

/*
 * The target's troubles
 */
static void
conn_break(Sim *sim, unsigned index, bool is_reset)
{
    struct SimConn *conn = &sim->target.conns[index];

    if (conn->state != SIM_CONN_UP) {
        return;
    }
    conn->is_reset |= is_reset;
    if (!conn->is_broken) {
        conn->is_broken = true;
        sim_log(sim, "conn breaks", index, conn->epoch, is_reset);
        sim_at(sim, sim->now_us + sim_delay(sim, NOTICE_US), SIM_BROKEN, index,
               conn->epoch);
    }
}

static void
target_restart(Sim *sim)
{
    struct SimTarget *target = &sim->target;

    sim_log(sim, "restart", 0, 0, 0);
    destage(sim, target->shared, 500, true);
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        destage(sim, target->conns[i].cache, 500, true);
        conn_break(sim, i, true);
    }
    for (unsigned i = 0; i < SIM_REQS; i++) {
        struct SimReq *req = &target->reqs[i];
        if (req->is_used && req->is_zombie) {
            req_free(sim, req);
        } else if (req->is_used && !req->is_executed) {
            req->is_doomed = true;
        }
    }
    target->is_new = target->is_child;
}

static void
target_trouble(Sim *sim)
{
    struct SimTarget *target = &sim->target;
    const struct SimRates *rates = &sim->rates;
    unsigned conn = (unsigned)sim_below(sim, sim->config.max_conns);

    if (sim_chance(sim, rates->destage)) {
        destage(sim, target->shared, 300, false);
        destage(sim, target->conns[conn].cache, 300, false);
    }
    if (sim_chance(sim, rates->lose)) {
        conn_break(sim, conn, false);
    }
    if (sim_chance(sim, rates->hang) &&
        target->conns[conn].state == SIM_CONN_UP) {
        sim_log(sim, "conn hangs", conn, 0, 0);
        target->conns[conn].is_hung = true;
    }
    if (sim_chance(sim, rates->restart)) {
        target_restart(sim);
    }
    if (sim_chance(sim, target->is_sticky ? 300 : rates->sticky)) {
        target->is_sticky = !target->is_sticky;
        sim_log(sim, "sticky errors", target->is_sticky, 0, 0);
    }
    if (sim_chance(sim, target->is_refusing ? 300 : rates->refuse)) {
        target->is_refusing = !target->is_refusing;
    }
}

void
target_crashed(Sim *sim)
{
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        if (sim->target.conns[i].state != SIM_CONN_DOWN) {
            conn_dead(sim, i);
        }
    }
    if (sim->target.is_child) {
        target_restart(sim);
    }
}

void
target_calm(Sim *sim)
{
    sim->target.is_sticky = sim->target.is_refusing = false;
}

/*
 * Connections
 */
static void
connect_answer(Sim *sim, unsigned index)
{
    struct SimTarget *target = &sim->target;
    struct SimConn *conn = &target->conns[index];
    struct RelayEvent event = {
        .kind = RELAY_LINK_UP, .conn = index, .epoch = conn->epoch};

    if (!sim->is_quiet && sim_chance(sim, 20)) {
        return; /* never answers */
    }
    if (target->is_refusing || (!sim->is_quiet && sim_chance(sim, 50))) {
        conn->state = SIM_CONN_DOWN;
        event.kind = RELAY_LINK_LOST;
        snprintf(event.text, sizeof(event.text), "connection refused");
    } else {
        conn->state = SIM_CONN_UP;
        conn->is_hung = conn->is_broken = conn->is_reset = false;
        conn->owes_error = false;
        event.caps = target->caps;
        event.caps.is_new_process = target->is_new;
        target->is_new = false;
    }
    sim_log(sim, "connected", index, conn->epoch, event.kind == RELAY_LINK_UP);
    sim_step(sim, &event);
}

void
target_perform(Sim *sim, const struct RelayAction *action)
{
    struct SimConn *conn = &sim->target.conns[action->conn];

    if (action->kind == RELAY_CONNECT) {
        if (conn->state != SIM_CONN_DOWN) {
            sim_fail(sim, "conn %u connected twice", action->conn);
        }
        conn->state = SIM_CONN_MAKING;
        conn->epoch = action->epoch;
        sim_at(sim, sim->now_us + sim_delay(sim, CONNECT_US), SIM_CONNECTED,
               action->conn, action->epoch);
        return;
    }
    if (conn->state == SIM_CONN_DOWN || conn->epoch != action->epoch) {
        if (action->kind != RELAY_DISCONNECT) {
            sim_fail(sim, "request on conn %u which is gone", action->conn);
        }
    } else if (action->kind == RELAY_DISCONNECT) {
        conn_dead(sim, action->conn);
    } else {
        req_send(sim, action);
    }
}

static void
req_event(Sim *sim, const struct SimEvent *event)
{
    struct SimReq *req = &sim->target.reqs[event->a];
    struct SimConn *conn = &sim->target.conns[req->action.conn];
    bool is_mute = conn->is_hung || conn->is_broken;

    if (!req->is_used || req->life != event->b) {
        return;
    }
    if (event->kind == SIM_ANSWER) {
        if (!is_mute) {
            struct RelayEvent answer = req->answer;
            answer.conn = req->action.conn;
            answer.epoch = req->action.epoch;
            answer.op = req->action.op;
            req_free(sim, req);
            sim_step(sim, &answer);
        }
        return;
    }
    /* A connection that is broken or hung may still execute, or later. */
    if (req->is_doomed || (is_mute && !req->is_zombie &&
                           (conn->is_reset || sim_chance(sim, 500)))) {
        return;
    }
    req_execute(sim, req);
    sim_log(sim, req->is_zombie ? "zombie executes" : "executes",
            req->action.kind, cell_of(sim, req->action.offset),
            cell_of(sim, req->action.len));
    if (req->is_zombie) {
        req_free(sim, req);
    } else {
        sim_at(sim, sim->now_us + sim_delay(sim, sim->rates.delay_us),
               SIM_ANSWER, event->a, event->b);
    }
}

void
target_event(Sim *sim, const struct SimEvent *event)
{
    struct SimConn *conn = &sim->target.conns[event->a % RELAY_CONNS];

    if (event->kind == SIM_EXECUTE || event->kind == SIM_ANSWER) {
        req_event(sim, event);
    } else if (event->kind == SIM_TROUBLE) {
        if (!sim->is_quiet) {
            target_trouble(sim);
            sim_at(sim, sim->now_us + sim_delay(sim, SIM_SECOND), SIM_TROUBLE,
                   0, 0);
        }
    } else if (conn->epoch == event->b && event->life == sim->life) {
        if (event->kind == SIM_CONNECTED && conn->state == SIM_CONN_MAKING) {
            connect_answer(sim, event->a);
        } else if (event->kind == SIM_BROKEN && conn->state == SIM_CONN_UP) {
            struct RelayEvent lost = {.kind = RELAY_LINK_LOST,
                                      .conn = event->a,
                                      .epoch = conn->epoch,
                                      .text = "connection lost"};
            conn_dead(sim, event->a);
            sim_step(sim, &lost);
        }
    }
}
