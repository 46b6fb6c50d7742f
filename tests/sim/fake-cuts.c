/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Policy `cut`: the world seals at instants of its own choice, allows what it
 * sealed a while later, and keeps aside what a write is about to change of it.
 *
 * What must hold: when all of a cut is retired, the target is the disk as it
 * was at the instant; a write that was in flight then may be in it or not,
 * cell by cell. From there until the next one is allowed the target stays as
 * it is. A crash ends the cut; what comes next is a new one.
 */
#include "sim.h"

#include <string.h>

#define CUT_US 1000000

/* Is a guest write at work in @cluster? */
bool
cuts_has_writer(const Sim *sim, unsigned cluster)
{
    for (unsigned i = 0; i < SIM_HOLDS; i++) {
        const struct SimHold *hold = &sim->holds[i];

        if (hold->is_used && hold->is_begun &&
            hold->first / SIM_CELLS <= cluster &&
            (hold->first + hold->count - 1) / SIM_CELLS >= cluster) {
            return true;
        }
    }
    return false;
}

static bool
is_owed(Sim *sim, unsigned cluster)
{
    struct ClusterRun run;

    return sim->cut.is_active && !sim->cut.snapshot &&
           !sim->cut.is_kept[cluster] &&
           disk_map_next_owed(sim->map, cluster, cluster + 1, &run);
}

bool
cuts_keep(Sim *sim, unsigned first, unsigned count)
{
    unsigned from = first / SIM_CELLS;
    unsigned to = (first + count - 1) / SIM_CELLS;

    for (unsigned c = from; c <= to; c++) {
        if (is_owed(sim, c) && cuts_has_writer(sim, c)) {
            return false;
        }
    }
    for (unsigned c = from; c <= to; c++) {
        if (is_owed(sim, c)) {
            unsigned at = c * SIM_CELLS;

            memcpy(&sim->cut.kept[at], &sim->disk[at],
                   SIM_CELLS * sizeof(*sim->disk));
            memcpy(&sim->cut.is_hole[at], &sim->is_hole[at],
                   SIM_CELLS * sizeof(*sim->is_hole));
            sim->cut.is_kept[c] = true;
            relay_core_hint(sim->core, c);
        }
    }
    return true;
}

bool
cuts_is_kept(const Sim *sim, unsigned cell)
{
    return sim->cut.is_active && sim->cut.is_kept[cell / SIM_CELLS];
}

bool
cuts_is_hole(const Sim *sim, unsigned cell)
{
    uint32_t value;

    if (snapshots_has(sim, snapshots_now(sim), cell, &value)) {
        return value == 0;
    }
    return cuts_is_kept(sim, cell) ? sim->cut.is_hole[cell]
                                   : sim->is_hole[cell];
}

void
cuts_crashed(Sim *sim)
{
    sim->cut.is_active = sim->cut.is_whole = false;
}

/* A write that is parked would have to look again when it is granted. */
static bool
has_parked(const Sim *sim)
{
    for (unsigned i = 0; i < SIM_HOLDS; i++) {
        if (sim->holds[i].is_used && !sim->holds[i].is_begun) {
            return true;
        }
    }
    return false;
}

static uint64_t
seal(Sim *sim)
{
    sim->cut.cells = sim->cells;
    memcpy(sim->cut.then, sim->disk, sizeof(sim->cut.then));
    memcpy(sim->cut.in_flight, sim->holds, sizeof(sim->cut.in_flight));
    return disk_map_seal(sim->map);
}

static void
cut(Sim *sim, uint64_t snapshot)
{
    uint64_t seq = snapshot ? snapshots_seal(sim, snapshot) : seal(sim);

    sim_log(sim, "cut", seq, snapshot, 0);
    sim->cut.past = snapshot ? snapshot : sim->n_snapshots;
    if (!seq && !snapshot) {
        return;
    }
    sim->cut.is_active = true;
    sim->cut.is_allowed = false;
    sim->cut.seq = seq;
    sim->cut.snapshot = snapshot;
    memset(sim->cut.is_kept, 0, sizeof(sim->cut.is_kept));
}

void
cuts_event(Sim *sim)
{
    struct RelayCoreFigures figures;

    sim_at(sim, sim->now_us + sim_delay(sim, CUT_US), SIM_CUT, 0, 0);
    relay_core_figures(sim->core, &figures);
    if (!sim->cut.is_active) {
        uint64_t snapshot = snapshots_next(sim);

        if (!figures.is_recovering && !disk_map_sealed_seq(sim->map) &&
            (snapshot || !has_parked(sim))) {
            cut(sim, snapshot);
        }
    } else if (!sim->cut.is_allowed) {
        sim_log(sim, "allowed", sim->cut.seq, 0, 0);
        sim->cut.is_allowed = true;
        sim->cut.is_whole = false;
        relay_core_allow(sim->core, sim->cut.seq);
    }
    sim_step(sim, NULL);
}

/* May @cell have @value, as of the cut? */
static bool
may_be(const Sim *sim, unsigned cell, uint32_t value)
{
    bool may = sim->cut.then[cell] == value;

    for (unsigned i = 0; i < SIM_HOLDS && !may; i++) {
        const struct SimHold *hold = &sim->cut.in_flight[i];

        may = hold->is_used && cell >= hold->first &&
              cell < hold->first + hold->count &&
              value == (hold->is_discard ? 0 : hold->value);
    }
    return may;
}

static void
check_whole(Sim *sim)
{
    const struct SimTarget *target = &sim->target;

    for (unsigned cell = 0; cell < sim->cut.cells; cell++) {
        if (!may_be(sim, cell, target->durable[cell])) {
            sim_fail(sim, "cell %u of the cut: %u then, %u at the target", cell,
                     sim->cut.then[cell], target->durable[cell]);
        }
    }
    sim_log(sim, "whole", sim->cut.seq, 0, 0);
    sim->cut.is_active = false;
    sim->cut.is_whole = true;
    sim->past = sim->cut.past;
    memcpy(sim->cut.held, target->durable, sizeof(sim->cut.held));
}

void
cuts_check(Sim *sim)
{
    const struct SimTarget *target = &sim->target;

    if (sim->cut.is_active && sim->cut.is_allowed &&
        !disk_map_sealed_seq(sim->map)) {
        check_whole(sim);
    }
    for (unsigned cell = 0; sim->cut.is_whole && cell < target->cells; cell++) {
        if (target->durable[cell] != sim->cut.held[cell] ||
            target->pending[cell]) {
            sim_fail(sim, "cell %u changes and no cut was allowed", cell);
        }
    }
}
