/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The clock, the dice, the log, and what must hold after every step:
 *
 * - a cluster that is clean here (in no generation, held by no guest write)
 *   is equal in the durable content of the target, nothing else for it lies
 *   in a cache there, and no request that could change it is outstanding,
 *   alive or dead;
 * - the DiskMap's figures agree with its bits;
 * - what is in flight, and over how many connections, stays in bounds.
 *
 * At the end of a run, when nothing fails any more and the guest is silent,
 * everything has to become clean and equal within a bounded time.
 */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Dice
 */
uint64_t
sim_random(Sim *sim)
{
    uint64_t x = sim->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t
sim_below(Sim *sim, uint64_t limit)
{
    return limit ? sim_random(sim) % limit : 0;
}

bool
sim_chance(Sim *sim, unsigned per_mille)
{
    return sim_below(sim, 1000) < per_mille;
}

/* Mostly short, sometimes long: that is what reorders things. */
int64_t
sim_delay(Sim *sim, int64_t most_us)
{
    int64_t most = sim_chance(sim, 800) ? most_us / 16 : most_us;

    return 1 + (int64_t)sim_below(sim, (uint64_t)most + 1);
}

/*
 * The heap, smallest time first; equal times in order of entry
 */
static bool
is_before(const struct SimEvent *a, const struct SimEvent *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void
sim_at(Sim *sim, int64_t at_us, enum SimEventKind kind, unsigned a, uint32_t b)
{
    if (sim->n_events == sim->room) {
        sim->room = sim->room ? sim->room * 2 : 1024;
        sim->events = realloc(sim->events, sim->room * sizeof(*sim->events));
        assert(sim->events);
    }
    struct SimEvent event = {at_us, ++sim->order, kind, a, b, sim->life};
    size_t i = sim->n_events++;
    while (i && is_before(&event, &sim->events[(i - 1) / 2])) {
        sim->events[i] = sim->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    sim->events[i] = event;
}

bool
sim_pop(Sim *sim, struct SimEvent *event)
{
    if (!sim->n_events) {
        return false;
    }
    *event = sim->events[0];
    struct SimEvent last = sim->events[--sim->n_events];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= sim->n_events) {
            break;
        }
        if (child + 1 < sim->n_events &&
            is_before(&sim->events[child + 1], &sim->events[child])) {
            child++;
        }
        if (!is_before(&sim->events[child], &last)) {
            break;
        }
        sim->events[i] = sim->events[child];
        i = child;
    }
    sim->events[i] = last;
    return true;
}

/*
 * Saying what happened
 */
void
sim_log(Sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    sim = sim->host ? sim->host : sim;
    size_t i = sim->n_log++ % SIM_LOG;

    sim->log[i].at_us = sim->now_us;
    sim->log[i].what = what;
    sim->log[i].a = a;
    sim->log[i].b = b;
    sim->log[i].c = c;
    if (sim->is_verbose) {
        printf("%12lld  %-16s %6llu %6llu %6llu\n", (long long)sim->now_us,
               what, (unsigned long long)a, (unsigned long long)b,
               (unsigned long long)c);
    }
}

void
sim_print(const Sim *sim)
{
    uint64_t from = sim->n_log > SIM_LOG ? sim->n_log - SIM_LOG : 0;

    for (uint64_t i = from; i < sim->n_log; i++) {
        size_t at = i % SIM_LOG;
        printf("%12lld  %-16s %6llu %6llu %6llu\n",
               (long long)sim->log[at].at_us, sim->log[at].what,
               (unsigned long long)sim->log[at].a,
               (unsigned long long)sim->log[at].b,
               (unsigned long long)sim->log[at].c);
    }
}

void
sim_fail(Sim *sim, const char *format, ...)
{
    va_list args;

    sim = sim->host ? sim->host : sim;
    va_start(args, format);
    vsnprintf(sim->why, sizeof(sim->why), format, args);
    va_end(args);
    longjmp(sim->failed, 1);
}

/*
 * What must hold
 */
/* Does a cache hold something else than @value for @cell? */
static bool
is_cached_otherwise(const struct SimTarget *target, unsigned cell,
                    uint32_t value)
{
    if (target->shared[cell] != SIM_NOTHING && target->shared[cell] != value) {
        return true;
    }
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        uint32_t cached = target->conns[i].cache[cell];
        if (cached != SIM_NOTHING && cached != value) {
            return true;
        }
    }
    return false;
}

void
sim_check_cell(Sim *sim, unsigned cell, uint32_t value)
{
    const struct SimTarget *target = &sim->target;

    if (target->durable[cell] != value) {
        sim_fail(sim, "cell %u is clean: %u here, %u durable at the target",
                 cell, value, target->durable[cell]);
    }
    if (target->pending[cell] || target->zombies[cell]) {
        sim_fail(sim, "cell %u is clean with %u writes and %u zombies about",
                 cell, target->pending[cell], target->zombies[cell]);
    }
    if (is_cached_otherwise(target, cell, value)) {
        sim_fail(sim, "cell %u is clean and cached otherwise", cell);
    }
}

static void
check_figures(Sim *sim)
{
    uint64_t bytes = disk_map_size_bytes(sim->map);
    Bitmap *all = bitmap_new(bytes, sim->cluster_bits);
    struct DiskMapFigures figures;

    disk_map_union(sim->map, all);
    disk_map_figures(sim->map, &figures);
    uint64_t count = bitmap_count(all);
    bitmap_free(all);
    if (count != figures.dirty_clusters) {
        sim_fail(sim, "%llu clusters are dirty, %llu counted",
                 (unsigned long long)count,
                 (unsigned long long)figures.dirty_clusters);
    }
}

void
sim_check_bounds(Sim *sim)
{
    uint64_t cluster = UINT64_C(1) << sim->cluster_bits;
    uint64_t most = sim->config.window_bytes;
    struct RelayCoreFigures figures;
    unsigned up = 0;

    relay_core_figures(sim->core, &figures);
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        up += sim->target.conns[i].state != SIM_CONN_DOWN;
    }
    most = !most ? 130u << 20 : most > cluster ? most : cluster;
    if (figures.inflight_bytes > most || figures.window_bytes > (128u << 20) ||
        !figures.window_bytes) {
        sim_fail(sim, "%llu bytes in flight, window %llu",
                 (unsigned long long)figures.inflight_bytes,
                 (unsigned long long)figures.window_bytes);
    }
    if (up > sim->config.max_conns ||
        (up > 1 && !sim->target.caps.can_multi_conn &&
         !mutant(MUTANT_FLUSH_ONE))) {
        sim_fail(sim, "%u connections", up);
    }
    if (figures.verify.other_clusters) {
        sim_fail(sim, "%llu clean clusters differ",
                 (unsigned long long)figures.verify.other_clusters);
    }
    if (figures.link == RELAY_REFUSED && !sim->is_refusal_due) {
        sim_fail(sim, "refused: %s", figures.error);
    }
}

void
sim_check(Sim *sim)
{
    uint64_t cluster = UINT64_C(1) << sim->cluster_bits;

    for (unsigned cell = 0; cell < sim->cells; cell += SIM_CELLS) {
        uint64_t offset = (uint64_t)cell * sim->cell_bytes;
        uint64_t room = sim->cells * sim->cell_bytes - offset;
        uint64_t len = room < cluster ? room : cluster;

        if (!disk_map_is_clean(sim->map, offset, len)) {
            continue;
        }
        for (unsigned i = 0; i < len / sim->cell_bytes; i++) {
            sim_check_cell(sim, cell + i, sim->disk[cell + i]);
        }
    }
    sim_check_bounds(sim);
    cuts_check(sim);
    jobs_check(sim);
    if (sim->steps % 128 == 0) {
        check_figures(sim);
    }
}

/* At the end: all is clean, so that the disk was compared; the rest of the
 * target is as it was. */
void
sim_check_equal(Sim *sim)
{
    struct DiskMapFigures figures;

    disk_map_figures(sim->map, &figures);
    if (figures.dirty_clusters) {
        sim_fail(sim, "%llu clusters stay dirty",
                 (unsigned long long)figures.dirty_clusters);
    }
    for (unsigned i = 0; i < sim->target.cells; i++) {
        uint32_t want = i < sim->cells ? sim->disk[i] : sim->target.tail[i];
        if (sim->target.durable[i] != want) {
            sim_fail(sim, "cell %u: %u wanted, %u at the target", i, want,
                     sim->target.durable[i]);
        }
    }
}
