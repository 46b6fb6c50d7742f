/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots, in every other world with cuts: taken and deleted at instants of
 * the world's own choice, kept by the guest before it overwrites, and brought
 * to the target in their order, before any cut of the present.
 *
 * What must hold: when the cut of a snapshot is retired, the target is the disk
 * as it was at that instant, cell by cell, whatever happened since; and what is
 * clean then is equal on both sides all the same (sim_check()).
 *
 * They are durable: a crash takes none, and what was on the disk at the instant
 * no loss of power takes. Nothing is in flight at it, as the face waits for that
 * before it says that there is a snapshot.
 */
#include "sim.h"

#include "bitmap/point-marks.h"

#include <string.h>

#define SNAPSHOT_US (12 * SIM_SECOND)

void
snapshots_begin(Sim *sim)
{
    /* No throw of the dice: other worlds stay as they are. */
    if (sim->config.is_cut && sim->seed % 2) {
        sim->points = points_new();
        sim_at(sim, sim->now_us, SIM_SNAPSHOT, 0, 0);
    }
}

void
snapshots_end(Sim *sim)
{
    points_free(sim->points);
}

uint64_t
snapshots_take(Sim *sim)
{
    struct SimSnapshot *snapshot = &sim->snapshots[sim->n_snapshots];
    Point *point = point_new(sim->n_snapshots + 1, sim->cells * sim->cell_bytes,
                             sim->cluster_bits, -1, -1);

    sim->n_snapshots++;
    snapshot->cells = sim->cells;
    memcpy(snapshot->then, sim->disk, sizeof(snapshot->then));
    memcpy(sim->synced, sim->disk, sizeof(sim->synced));
    points_add(sim->points, point);
    sim_log(sim, "snapshot", point_id(point), sim->cells, 0);
    return sim->n_snapshots;
}

static void delete (Sim *sim)
{
    uint64_t id = 1 + sim_below(sim, sim->n_snapshots);

    if ((!sim->cut.is_active || sim->cut.snapshot != id) &&
        !jobs_holds(sim, id)) {
        sim_log(sim, "snapshot is deleted", id, 0, 0);
        points_set_live(sim->points, id, false);
    }
}

void
snapshots_event(Sim *sim)
{
    if (sim->is_quiet) {
        return;
    }
    if (sim->n_snapshots && sim_chance(sim, 150)) {
        delete (sim);
    } else if (sim->n_snapshots < SIM_SNAPSHOTS && guest_is_idle(sim)) {
        (void)snapshots_take(sim);
    }
    sim_at(sim, sim->now_us + sim_delay(sim, SNAPSHOT_US), SIM_SNAPSHOT, 0, 0);
}

void
snapshots_keep(Sim *sim, unsigned first, unsigned count)
{
    uint64_t end = (first + count - 1) / SIM_CELLS + 1;
    struct ClusterRun run;

    while (sim->points &&
           points_next_missing(sim->points, first / SIM_CELLS, end, &run)) {
        Point *point = points_youngest(sim->points);
        struct SimSnapshot *snapshot = &sim->snapshots[point_id(point) - 1];
        uint64_t at = run.first * SIM_CELLS;

        memcpy(&snapshot->kept[at], &sim->disk[at],
               run.count * SIM_CELLS * sizeof(*sim->disk));
        points_keep(sim->points, point, run);
    }
}

uint64_t
snapshots_next(const Sim *sim)
{
    for (uint64_t id = sim->past + 1; id <= sim->n_snapshots; id++) {
        if (points_is_live(sim->points, id)) {
            return id;
        }
    }
    return 0;
}

uint64_t
snapshots_now(const Sim *sim)
{
    return sim->cut.is_active && sim->cut.is_allowed ? sim->cut.snapshot : 0;
}

bool
snapshots_has(const Sim *sim, uint64_t id, unsigned cell, uint32_t *value)
{
    uint64_t count;
    bool is_kept = false;
    Point *point;

    if (id && points_find(sim->points, id, cell / SIM_CELLS, 1, &point,
                          &count) == POINTS_FILE) {
        *value = sim->snapshots[point_id(point) - 1].kept[cell];
        points_done(sim->points, point);
        is_kept = true;
    }
    return is_kept;
}

uint64_t
snapshots_seal(Sim *sim, uint64_t id)
{
    const struct SimSnapshot *snapshot = &sim->snapshots[id - 1];
    uint64_t seq;

    (void)point_marks_before(sim->points, id, sim->map, sim->now_us);
    seq = disk_map_seal(sim->map);
    point_marks_after(sim->points, id, sim->map, sim->now_us);
    sim->cut.cells = snapshot->cells;
    memcpy(sim->cut.then, snapshot->then, sizeof(sim->cut.then));
    memset(sim->cut.in_flight, 0, sizeof(sim->cut.in_flight));
    return seq;
}
