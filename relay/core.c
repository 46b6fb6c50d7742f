/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay core of one disk: a pure step function. Each step takes one event
 * and then looks at everything that may go on: connections, checks,
 * quarantines, the pass over the sealed generation, what is ready to be sent,
 * flushes. What is due later ends up in next_us; nothing is kept elsewhere,
 * so that a step too many never does harm and one too few only delays.
 *
 *   step -> event      (core-ops.c, core-link.c, core-check.c)
 *        -> deadlines  (core-link.c)
 *        -> link_run   back-off, connects           (core-link.c)
 *        -> check_run  is the target ours?          (core-check.c)
 *        -> link_widen further connections           (core-link.c)
 *        -> doubt_run  quarantines                  (core-doubt.c)
 *        -> verify_run does it hold what it should? (core-verify.c)
 *        -> pass_run   seal, claim, send, flush     (core-pass.c, core-ops.c)
 *        -> log_run    the sent-log, the sums       (core-log.c)
 *        -> job_look   may a halt be told?          (core-job.c)
 *
 * What must hold after each step, and is asserted by the simulation: no
 * cluster in two ops; nothing is cleared in the DiskMap but by pass_settle(),
 * which runs when a FLUSH is acknowledged that was sent, on the same epoch of
 * the same connection, after the last write of the run was, and by
 * pass_settle_known(), for what the target holds already: by its sum, or because
 * it is zero and nobody has written there (core-job.c).
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <stdio.h>
#include <stdlib.h>

#define MUCH_BYTES (UINT64_C(8) << 20) /* to be settled sooner ... */
#define SOONEST_US (50 * 1000)         /* ... than the settle interval */

/*
 * Shared helpers
 */
struct RelayAction *
core_emit(RelayCore *core, enum RelayActionKind kind)
{
    struct RelayActions *actions = core->actions;

    if (actions->count == actions->room) {
        actions->room = actions->room ? actions->room * 2 : 64;
        actions->list =
            realloc(actions->list, actions->room * sizeof(*actions->list));
        assert(actions->list);
    }
    struct RelayAction *action = &actions->list[actions->count++];
    *action = (struct RelayAction){.kind = kind, .deadline_us = CORE_NEVER};
    return action;
}

/* splitmix64: any seed is good, also 0. */
uint64_t
core_random(RelayCore *core)
{
    uint64_t x = core->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 75 % to 125 % of @us. */
int64_t
core_jitter(RelayCore *core, int64_t us)
{
    return us - us / 4 + (int64_t)(core_random(core) % (uint64_t)(us / 2 + 1));
}

void
core_error(RelayCore *core, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(core->figures.error, sizeof(core->figures.error), format, args);
    va_end(args);
}

bool
core_may_write(const RelayCore *core)
{
    return core->link == RELAY_ONLINE && core->is_contact_kept;
}

bool
core_is_allowed(const RelayCore *core, uint64_t seq)
{
    return seq <= core->allowed_seq || mutant(MUTANT_SEND_UNALLOWED);
}

bool
core_may_send(const RelayCore *core)
{
    return core_may_write(core) &&
           (!core->config.is_cut ||
            (core->sealed_seq && core_is_allowed(core, core->sealed_seq)));
}

/* No flush can or need be had: an acknowledgement is all there is. */
bool
core_ack_settles(const RelayCore *core)
{
    return !core->caps.can_flush;
}

/*
 * What is zero without our doing is not known to be durable without a flush:
 * then all is written.
 */
bool
core_has_status(const RelayCore *core)
{
    return core->caps.has_block_status && !core->has_no_status &&
           !core_ack_settles(core);
}

bool
core_can_zero(const RelayCore *core)
{
    return core->caps.can_zero && !core->has_no_zero;
}

int64_t
core_settle_interval(const RelayCore *core, int64_t took_us, uint64_t bytes)
{
    int64_t interval_us = core->config.settle_us;
    int64_t sooner_us = took_us * CORE_SHARE;

    if (bytes < MUCH_BYTES) {
        return interval_us;
    }
    sooner_us = sooner_us > SOONEST_US ? sooner_us : SOONEST_US;
    return sooner_us < interval_us ? sooner_us : interval_us;
}

/*
 * Life
 */
RelayCore *
relay_core_new(const struct RelayCoreConfig *config)
{
    RelayCore *core = calloc(1, sizeof(*core));

    assert(config->max_conns >= 1 && config->max_conns <= RELAY_CONNS);
    if (!core) {
        return NULL;
    }
    core->config = *config;
    core->random = config->seed;
    core->size_bytes = disk_map_size_bytes(config->map);
    core->cluster_bits = disk_map_cluster_bits(config->map);
    assert(UINT64_C(1) << core->cluster_bits <= RELAY_OP_BYTES_MAX);
    core->contact = config->contact;
    core->is_contact_kept = config->contact == CONTACT_KNOWN;
    core->next_us = 0;
    core->deadline_us = CORE_NEVER;
    core->n_free = RELAY_OPS;
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        core->free_ops[i] = RELAY_OPS - 1 - i;
    }
    window_init(core);
    /* A job's cut has content of its own, which nobody has named so far: what
     * would be compared is the disk, and another content may have its sums. */
    core->is_recovering = config->recovers && core->is_contact_kept &&
                          !(config->is_job && config->is_cut);
    if (!doubt_init(core) || !ahead_init(core) || !log_init(core) ||
        !job_init(core)) {
        relay_core_free(core);
        return NULL;
    }
    return core;
}

void
relay_core_free(RelayCore *core)
{
    if (!core) {
        return;
    }
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        free(core->conns[i].acked.list);
        free(core->conns[i].flushing.list);
    }
    doubt_deinit(core);
    ahead_deinit(core);
    log_deinit(core);
    job_deinit(core);
    free(core);
}

/* What needs a clock. */
static void
core_begin(RelayCore *core)
{
    core->has_begun = true;
    window_init(core);
    if (core->config.is_in_doubt && !mutant(MUTANT_NO_LOG_DOUBT)) {
        doubt_begin(core);
    }
}

static void
core_event(RelayCore *core, const struct RelayEvent *event)
{
    assert(event->kind < RELAY_EVENT_KINDS);
    switch (event->kind) {
    case RELAY_TICK:
        break;
    case RELAY_LINK_UP:
    case RELAY_LINK_LOST:
    case RELAY_LINK_BARRED:
    case RELAY_FLUSHED:
    case RELAY_FLUSH_FAILED:
        link_event(core, event);
        break;
    case RELAY_MAPPED:
    case RELAY_MAP_FAILED:
    case RELAY_READ:
    case RELAY_READ_FAILED:
    case RELAY_ACKED:
    case RELAY_FAILED:
    case RELAY_STATUS:
    case RELAY_COMPARED:
    case RELAY_NOTED:
        op_event(core, event);
        break;
    case RELAY_LOGGED:
    case RELAY_LOG_FAILED:
    case RELAY_SYNCED:
    case RELAY_FORGOTTEN:
        log_event(core, event);
        break;
    case RELAY_EVENT_KINDS:
        break;
    }
}

void
relay_core_step(RelayCore *core, int64_t now_us, const struct RelayEvent *event,
                struct RelayActions *actions)
{
    core->now_us = now_us;
    core->actions = actions;
    core->next_us = CORE_NEVER;
    if (!core->has_begun) {
        core_begin(core);
    }
    if (event) {
        core_event(core, event);
    }
    link_run(core);
    check_run(core);
    link_widen(core);
    doubt_run(core);
    verify_run(core);
    pass_run(core);
    log_run(core);
    job_look(core);
    core->actions = NULL;
    if (core->link == RELAY_STOPPED) {
        core->next_us = CORE_NEVER;
    }
    if (core->n_free == RELAY_OPS) {
        assert(!core->inflight_bytes && !core->n_holes && !core->n_checks);
        assert(!core->n_ready && !core->n_mapping && !core->n_acked);
    }
}

int64_t
relay_core_next_us(const RelayCore *core)
{
    return core->next_us;
}

/*
 * The user's word
 */
static void
core_try_again(RelayCore *core)
{
    if (core->link == RELAY_REFUSED || core->link == RELAY_OFFLINE) {
        core->retry_us = 0;
        core->backoff_us = 0;
    }
}

void
relay_core_pause(RelayCore *core, bool pause)
{
    core->is_paused = pause;
    if (!pause) {
        core_try_again(core);
    }
}

void
relay_core_yield(RelayCore *core, unsigned parts)
{
    assert(parts != 1);
    core->yields = parts;
}

bool
relay_core_is_reading(const RelayCore *core, int64_t now_us)
{
    return core->loading_bytes || now_us < core->load_rest_us;
}

void
relay_core_hurry(RelayCore *core)
{
    core->hurry_seq = disk_map_open_seq(core->config.map);
}

void
relay_core_set(RelayCore *core, unsigned max_conns, enum TargetAccept accept,
               bool accept_unflushed)
{
    assert(max_conns >= 1 && max_conns <= RELAY_CONNS);
    if (accept != core->config.accept) {
        relay_core_trust(core);
    }
    core->config.max_conns = max_conns;
    core->config.accept = accept;
    core->config.accept_unflushed = accept_unflushed;
    core_try_again(core);
}

void
relay_core_trust(RelayCore *core)
{
    /* A job does not know all that it would have to bring to another one. */
    if (core->is_estranged && !core->config.is_job) {
        core->is_estranged = false;
        core->contact = CONTACT_NONE;
        core->is_contact_kept = false;
        core_try_again(core);
    }
}

void
relay_core_retarget(RelayCore *core, enum TargetAccept accept, int64_t now_us)
{
    core->config.accept = accept;
    core->contact = CONTACT_NONE;
    core->is_contact_kept = false;
    core->is_estranged = false;
    core->same_seq = 0;
    disk_map_mark_all(core->config.map, now_us);
    core->is_retargeted = true;
}

void
relay_core_contact_kept(RelayCore *core)
{
    core->is_contact_kept = core->contact == CONTACT_KNOWN;
}

void
relay_core_set_cut(RelayCore *core, bool is_cut)
{
    /* What it sealed for itself goes back when its ops have ended. */
    if (is_cut && !core->config.is_cut && core->sealed_seq) {
        core->pass.is_at_end = true;
    }
    if (is_cut && core->config.is_job && !core->sealed_seq) {
        core->is_recovering = false; /* see relay_core_new() */
    }
    core->config.is_cut = is_cut;
}

void
relay_core_allow(RelayCore *core, uint64_t seq)
{
    core->allowed_seq = seq > core->allowed_seq ? seq : core->allowed_seq;
}

void
relay_core_stop(RelayCore *core)
{
    core->is_stopped = true;
}

bool
relay_core_is_idle(const RelayCore *core)
{
    return core->n_free == RELAY_OPS;
}

/*
 * Figures
 */
const char *
relay_link_name(enum RelayLink link)
{
    static const char *const names[RELAY_LINKS] = {
        [RELAY_OFFLINE] = "offline",   [RELAY_CONNECTING] = "connecting",
        [RELAY_CHECKING] = "checking", [RELAY_ONLINE] = "online",
        [RELAY_REFUSED] = "refused",   [RELAY_STOPPED] = "stopped",
    };

    assert(link < RELAY_LINKS);
    return names[link];
}

static unsigned
count_unanswered(const RelayCore *core)
{
    unsigned n = 0;

    for (unsigned i = 0; i < RELAY_OPS; i++) {
        const Op *op = &core->ops[i];

        n += op->state != OP_FREE && op->job == JOB_DRAIN && op->pending;
    }
    return n;
}

void
relay_core_figures(const RelayCore *core, struct RelayCoreFigures *figures)
{
    bool is_waiting =
        core->link == RELAY_OFFLINE || core->link == RELAY_REFUSED;

    *figures = core->figures;
    figures->link = core->link;
    figures->is_paused = core->is_paused;
    figures->contact = core->contact;
    figures->conns = core->n_up;
    figures->inflight_bytes = core->inflight_bytes;
    figures->unanswered = count_unanswered(core);
    figures->doubt_clusters = doubt_count(core);
    figures->is_recovering = core->is_recovering;
    figures->is_cut = core->config.is_cut && !core->sealed_seq;
    figures->halt.is_halted = core->job.is_told;
    figures->halt.is_read = core->job.is_read_error;
    figures->halt.error = core->job.error;
    figures->halt.count =
        core->job.halts - (core->job.is_halted && !core->job.is_told);
    figures->verify.is_active = core->verify.is_active;
    figures->verify.done = core->verify.done;
    figures->verify.cursor_bytes = core->verify.cursor << core->cluster_bits;
    figures->verify.compared_bytes = core->verify.compared_bytes;
    figures->verify.passed_bytes = core->verify.passed_clusters
                                   << core->cluster_bits;
    figures->verify.other_clusters = core->verify.other_clusters;
    figures->verify.unread_clusters = core->verify.unread_clusters;
    figures->window_bytes = window_bytes(core);
    figures->rtt_us = window_latency_us(core);
    figures->retry_us = is_waiting ? core->retry_us : 0;
}
