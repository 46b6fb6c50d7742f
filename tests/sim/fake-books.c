/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay's own files: remote-sums and sent-log, on a disk that keeps what
 * was written when the daemon dies, and when the power goes only what was
 * synced, and of the rest what it likes. A sum is the content itself, so that
 * no two hash alike. Writes and syncs take their time, and may fail.
 *
 * A sync that fails is as the kernel's: of what it had to write some is on the
 * disk and some is not, and nothing is left to be written. All of it can still
 * be read, and the next sync, which has no part of it, succeeds; until the
 * power goes.
 */
#include "sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BOOKS_US 8000

static unsigned
first_cluster(const Sim *sim, unsigned op)
{
    return (unsigned)(sim->local[op].offset / sim->cell_bytes / SIM_CELLS);
}

static unsigned
count_cells(const Sim *sim, unsigned op)
{
    return (unsigned)(sim->local[op].len / sim->cell_bytes);
}

static unsigned
count_clusters(const Sim *sim, unsigned op)
{
    return (count_cells(sim, op) + SIM_CELLS - 1) / SIM_CELLS;
}

/* The sum of cluster @i of what @op has loaded. */
static struct SimSum
sum_of(const Sim *sim, unsigned op, unsigned i)
{
    unsigned left = count_cells(sim, op) - i * SIM_CELLS;
    struct SimSum sum = {true, left < SIM_CELLS ? left : SIM_CELLS, {0}};

    memcpy(sum.values, sim->local[op].values + i * SIM_CELLS,
           sum.count * sizeof(*sum.values));
    return sum;
}

static bool
is_same(const struct SimSum *a, const struct SimSum *b)
{
    return a->is_known && b->is_known && a->count == b->count &&
           !memcmp(a->values, b->values, a->count * sizeof(*a->values));
}

static Bitmap *
new_log(const Sim *sim)
{
    Bitmap *log =
        bitmap_new(sim->cells_last * sim->cell_bytes, sim->cluster_bits);

    assert(log);
    return log;
}

void
books_begin(Sim *sim)
{
    sim->sent_log = new_log(sim);
    sim->log_next = new_log(sim);
    sim->logged = new_log(sim);
}

void
books_end(Sim *sim)
{
    bitmap_free(sim->sent_log);
    bitmap_free(sim->log_next);
    bitmap_free(sim->logged);
}

void
books_look(Sim *sim, unsigned op)
{
    memcpy(sim->local[op].known, sim->sums + first_cluster(sim, op),
           count_clusters(sim, op) * sizeof(*sim->sums));
}

void
books_compare(Sim *sim, unsigned op, struct RelayEvent *event)
{
    for (unsigned i = 0; i < count_clusters(sim, op); i++) {
        const struct SimSum *known = &sim->local[op].known[i];
        struct SimSum now = sum_of(sim, op, i);

        event->known[i / 64] |= (uint64_t)known->is_known << i % 64;
        event->equal[i / 64] |= (uint64_t)is_same(known, &now) << i % 64;
    }
}

static void
copy_bits(const Bitmap *from, Bitmap *into)
{
    bitmap_clear_all(into);
    bitmap_merge_run(into, from, (struct ClusterRun){0, bitmap_clusters(from)});
}

static void
note(Sim *sim, unsigned op, unsigned i)
{
    struct SimSum *sum = &sim->sums[first_cluster(sim, op) + i];

    *sum =
        sim->local[op].is_forgetful ? (struct SimSum){0} : sum_of(sim, op, i);
    sim->is_unsynced[first_cluster(sim, op) + i] = true;
}

void
books_perform(Sim *sim, const struct RelayAction *action)
{
    enum SimEventKind kind = SIM_SYNCED;

    if (action->kind == RELAY_NOTE) {
        kind = SIM_NOTED;
        sim->local[action->op].is_noting = true;
        sim->local[action->op].is_forgetful = action->is_zero_run;
        if (action->is_zero_run) {
            sim->local[action->op].offset = action->offset;
            sim->local[action->op].len = action->len;
        }
    } else if (action->kind == RELAY_LOG) {
        kind = SIM_LOGGED;
        copy_bits(relay_core_logged(sim->core), sim->log_next);
    } else if (action->kind == RELAY_SYNC) {
        memcpy(sim->syncing, sim->sums, sizeof(sim->syncing));
        memcpy(sim->is_syncing, sim->is_unsynced, sizeof(sim->is_syncing));
        memset(sim->is_unsynced, 0, sizeof(sim->is_unsynced));
    } else {
        kind = SIM_FORGOTTEN;
    }
    sim_at(sim, sim->now_us + sim_delay(sim, BOOKS_US), kind, action->op, 0);
}

static void
write_notes(Sim *sim, unsigned op, unsigned per_mille)
{
    for (unsigned i = 0; i < count_clusters(sim, op); i++) {
        if (sim_chance(sim, per_mille)) {
            note(sim, op, i);
        }
    }
    sim->local[op].is_noting = false;
}

static void
synced(Sim *sim, unsigned per_mille)
{
    for (unsigned i = 0; i < SIM_CLUSTERS_MAX; i++) {
        if (sim->is_syncing[i] && sim_chance(sim, per_mille)) {
            sim->durable[i] = sim->syncing[i];
        }
    }
    memset(sim->is_syncing, 0, sizeof(sim->is_syncing));
}

static void
forgotten(Sim *sim)
{
    memset(sim->sums, 0, sizeof(sim->sums));
    memset(sim->durable, 0, sizeof(sim->durable));
    memset(sim->is_unsynced, 0, sizeof(sim->is_unsynced));
}

void
books_event(Sim *sim, const struct SimEvent *event)
{
    bool is_bad =
        !sim->is_quiet &&
        sim_chance(sim, event->kind == SIM_SYNCED ? sim->rates.sync_error
                                                  : sim->rates.read_error);
    struct RelayEvent answer = {.error = is_bad ? EIO : 0};

    if (event->life != sim->life) {
        return;
    }
    if (event->kind == SIM_NOTED) {
        answer.kind = RELAY_NOTED;
        answer.op = event->a;
        write_notes(sim, event->a, is_bad ? 500 : 1000);
    } else if (event->kind == SIM_LOGGED) {
        answer.kind = is_bad ? RELAY_LOG_FAILED : RELAY_LOGGED;
        snprintf(answer.text, sizeof(answer.text), "simulated");
        if (!is_bad) {
            copy_bits(sim->log_next, sim->sent_log);
        }
    } else if (event->kind == SIM_SYNCED) {
        answer.kind = RELAY_SYNCED;
        synced(sim, is_bad ? 500 : 1000);
    } else {
        answer.kind = RELAY_FORGOTTEN;
        if (!is_bad) {
            forgotten(sim);
        }
    }
    sim_log(sim, "books", event->kind, event->a, is_bad);
    sim_step(sim, &answer);
}

/* A commit under way is there, or not, or both are in part. */
static void
log_crashed(Sim *sim)
{
    if (!bitmap_count(sim->log_next) || sim_chance(sim, 500)) {
        copy_bits(sim->sent_log, sim->logged);
        return;
    }
    copy_bits(sim->log_next, sim->logged);
    if (sim_chance(sim, 500)) {
        bitmap_merge(sim->logged, sim->sent_log);
    }
}

void
books_crashed(Sim *sim, bool is_power_cut)
{
    log_crashed(sim);
    for (unsigned op = 0; op < RELAY_OPS; op++) {
        if (sim->local[op].is_noting) {
            write_notes(sim, op, 500);
        }
    }
    copy_bits(sim->logged, sim->sent_log);
    copy_bits(sim->logged, sim->log_next);
    /* What can be written yet is, by now or by the next life's first sync. */
    for (unsigned i = 0; i < SIM_CLUSTERS_MAX; i++) {
        bool is_writable = sim->is_unsynced[i] || sim->is_syncing[i];

        if (is_power_cut && (!is_writable || sim_chance(sim, 500))) {
            sim->sums[i] = sim->durable[i];
        } else if (is_writable) {
            sim->durable[i] = sim->sums[i];
        }
    }
    memset(sim->is_unsynced, 0, sizeof(sim->is_unsynced));
    memset(sim->is_syncing, 0, sizeof(sim->is_syncing));
}
