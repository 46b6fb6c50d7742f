/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest and the local disk. A guest write is begun in the DiskMap, its
 * data reaches the disk in up to three parts at instants of their own, then
 * it ends. A discard does the same with zeroes and leaves holes. What the
 * relay reads locally is seen part by part between LOAD and READ: any mix of
 * old and new. A job has no disk: it reads that of the world that it is in.
 */
#include "sim.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define LAND_US  20000
#define THINK_US 400000
#define READ_US  5000

static void
hold_begin(Sim *sim, struct SimHold *hold)
{
    unsigned index = (unsigned)(hold - sim->holds);
    int64_t last = sim->now_us;

    hold->is_begun = true;
    jobs_changed(sim, hold->hold.offset, hold->hold.len);
    for (unsigned part = 0; part < SIM_PARTS; part++) {
        int64_t at = sim->now_us + sim_delay(sim, LAND_US);
        sim_at(sim, at, SIM_LAND, index, part);
        last = at > last ? at : last;
    }
    sim_at(sim, last + sim_delay(sim, LAND_US), SIM_END, index, 0);
}

/* Called under the DiskMap's lock: only passes the news on. */
static void
granted_cb(RangeHold *range)
{
    struct SimHold *hold = (struct SimHold *)range;

    sim_log(hold->sim, "guest granted", hold->first, hold->count, 0);
    hold_begin(hold->sim, hold);
}

/* Rule 1: marked before a byte of it can reach the disk. */
static void
check_marked(Sim *sim, const struct SimHold *hold)
{
    struct ClusterRun run =
        run_outward(hold->hold.offset, hold->hold.len, sim->cluster_bits);

    if (disk_map_next_clean(sim->map, run.first) < run.first + run.count) {
        sim_fail(sim, "a guest write was begun and is not marked");
    }
}

static void
guest_new(Sim *sim)
{
    struct SimHold *hold = &sim->holds[sim_below(sim, SIM_HOLDS)];

    if (hold->is_used) {
        return;
    }
    unsigned first = (unsigned)sim_below(sim, sim->cells);
    unsigned most = sim_chance(sim, 900) ? 6 : 40;
    unsigned count = 1 + (unsigned)sim_below(sim, most);
    unsigned room = sim->cells - first;
    count = count < room ? count : room;
    if (!cuts_keep(sim, first, count)) {
        return;
    }
    snapshots_keep(sim, first, count);
    *hold = (struct SimHold){
        .hold = {.offset = first * sim->cell_bytes,
                 .len = count * sim->cell_bytes,
                 .granted = granted_cb},
        .sim = sim,
        .is_used = true,
        .is_discard = sim_chance(sim, 250),
        .first = first,
        .count = count,
        .value = sim_chance(sim, 250) ? sim->synced[first] : ++sim->value,
    };
    hold->value = hold->value ? hold->value : ++sim->value;
    hold->hold.kind = hold->is_discard ? RANGE_PUNCH : RANGE_WRITE;
    sim_log(sim, hold->is_discard ? "guest discards" : "guest writes", first,
            count, hold->value);
    if (disk_map_begin(sim->map, &hold->hold, sim->now_us) == DISK_MAP_BEGUN) {
        hold_begin(sim, hold);
        check_marked(sim, hold);
    }
}

static void
guest_land(Sim *sim, struct SimHold *hold, unsigned part)
{
    for (unsigned i = part; i < hold->count; i += SIM_PARTS) {
        unsigned cell = hold->first + i;
        sim->disk[cell] = hold->is_discard ? 0 : hold->value;
        sim->is_hole[cell] = hold->is_discard;
    }
}

void
guest_event(Sim *sim, const struct SimEvent *event)
{
    struct SimHold *hold = &sim->holds[event->a];

    if (event->kind == SIM_GUEST) {
        if (!sim->is_quiet) {
            if (sim_chance(sim, 100)) {
                memcpy(sim->synced, sim->disk, sizeof(sim->synced));
            }
            guest_new(sim);
            int64_t pause = sim_chance(sim, 50) ? 8 * SIM_SECOND : THINK_US;
            sim_at(sim, sim->now_us + sim_delay(sim, pause), SIM_GUEST, 0, 0);
        }
        return;
    }
    if (event->life != sim->life || !hold->is_used) {
        return; /* the daemon crashed under it */
    }
    if (event->kind == SIM_LAND) {
        guest_land(sim, hold, event->b);
        return;
    }
    sim_log(sim, "guest done", hold->first, hold->count, hold->value);
    disk_map_end(sim->map, &hold->hold, sim->now_us);
    jobs_changed(sim, hold->hold.offset, hold->hold.len);
    hold->is_used = false;
}

/* The daemon died: what was under way has landed, or not. */
void
guest_finish(Sim *sim)
{
    for (unsigned i = 0; i < SIM_HOLDS; i++) {
        struct SimHold *hold = &sim->holds[i];
        for (unsigned part = 0; part < SIM_PARTS; part++) {
            if (hold->is_used && hold->is_begun && sim_chance(sim, 500)) {
                guest_land(sim, hold, part);
            }
        }
        hold->is_used = false;
    }
}

void
guest_power_cut(Sim *sim)
{
    for (unsigned i = 0; i < sim->cells; i++) {
        if (sim->disk[i] != sim->synced[i] && sim_chance(sim, 500)) {
            sim->disk[i] = sim->synced[i];
            sim->is_hole[i] &= !sim->disk[i];
        }
    }
}

bool
guest_is_idle(const Sim *sim)
{
    for (unsigned i = 0; i < SIM_HOLDS; i++) {
        if (sim->holds[i].is_used) {
            return false;
        }
    }
    return true;
}

/*
 * Local reads
 */
static const Sim *
disk_of(const Sim *sim)
{
    return sim->host ? sim->host : sim;
}

static uint64_t
snapshot_now(const Sim *sim)
{
    return sim->host ? jobs_snapshot(sim) : snapshots_now(sim);
}

static void
read_parts(Sim *sim, unsigned op)
{
    uint64_t id = snapshot_now(sim);
    struct SimLocal *local = &sim->local[op];
    unsigned first = (unsigned)(local->offset / sim->cell_bytes);
    int64_t last = sim->now_us;

    for (unsigned i = 0; i < local->len / sim->cell_bytes; i++) {
        local->is_aside[i] = !sim->host && cuts_is_kept(sim, first + i);
        local->is_there[i] =
            local->is_pinned &&
            snapshots_has(disk_of(sim), id, first + i, &local->values[i]);
    }
    for (unsigned part = 0; part < SIM_PARTS; part++) {
        int64_t at = sim->now_us + sim_delay(sim, READ_US);
        sim_at(sim, at, SIM_READ_PART, op, part);
        last = at > last ? at : last;
    }
    sim_at(sim, last + 1, SIM_READ, op, 0);
}

/* Called under the DiskMap's lock. */
static void
pin_granted_cb(RangeHold *range)
{
    struct SimLocal *local =
        (struct SimLocal *)((char *)range - offsetof(struct SimLocal, pin));

    read_parts(local->sim, (unsigned)(local - local->sim->local));
}

/* What is read of a cut is what the writes of before have left. */
static void
local_pin(Sim *sim, unsigned op)
{
    struct SimLocal *local = &sim->local[op];

    local->is_pinned = sim->config.is_cut;
    local->sim = sim;
    local->pin = (RangeHold){.offset = local->offset,
                             .len = local->len,
                             .kind = RANGE_PIN,
                             .granted = pin_granted_cb};
    if (!local->is_pinned || disk_map_hold(disk_of(sim)->map, &local->pin)) {
        read_parts(sim, op);
    }
}

void
local_perform(Sim *sim, const struct RelayAction *action)
{
    unsigned op = action->op;

    if (sim->local[op].is_busy) {
        sim_fail(sim, "op %u reads twice", op);
    }
    if (action->offset + action->len > sim->cells * sim->cell_bytes) {
        sim_fail(sim, "local read behind the end");
    }
    sim->local[op].is_busy = true;
    sim->local[op].offset = action->offset;
    sim->local[op].len = action->len;
    if (action->kind == RELAY_MAP) {
        sim_at(sim, sim->now_us + sim_delay(sim, READ_US), SIM_MAPPED, op, 0);
        return;
    }
    if (action->len > RELAY_OP_BYTES_MAX) {
        sim_fail(sim, "op %u is larger than a buffer", op);
    }
    books_look(sim, op);
    local_pin(sim, op);
}

static bool
is_hole(const Sim *sim, unsigned cell)
{
    uint32_t value;

    if (!sim->host) {
        return cuts_is_hole(sim, cell);
    }
    return snapshots_has(sim->host, jobs_snapshot(sim), cell, &value)
               ? value == 0
               : sim->host->is_hole[cell];
}

/* The extent at the op's offset as it is now. */
static void
local_mapped(Sim *sim, unsigned op)
{
    unsigned first = (unsigned)(sim->local[op].offset / sim->cell_bytes);
    unsigned count = (unsigned)(sim->local[op].len / sim->cell_bytes);
    unsigned n = 1;
    struct RelayEvent event = {.kind = RELAY_MAPPED, .op = op};

    while (n < count && is_hole(sim, first + n) == is_hole(sim, first)) {
        n++;
    }
    event.len = n * sim->cell_bytes;
    event.is_hole = is_hole(sim, first);
    if (!sim->is_quiet && sim_chance(sim, sim->rates.read_error)) {
        event = (struct RelayEvent){.kind = RELAY_MAP_FAILED, .op = op};
    }
    sim_step(sim, &event);
}

static void
local_read(Sim *sim, unsigned op)
{
    struct RelayEvent event = {.kind = RELAY_READ, .op = op};
    unsigned count = (unsigned)(sim->local[op].len / sim->cell_bytes);

    for (unsigned i = 0; i < count; i += SIM_CELLS) {
        bool is_zero = true;
        for (unsigned j = i; j < i + SIM_CELLS && j < count; j++) {
            is_zero &= !sim->local[op].values[j];
        }
        if (is_zero) {
            unsigned cluster = i / SIM_CELLS;
            event.zero[cluster / 64] |= UINT64_C(1) << cluster % 64;
        }
    }
    books_compare(sim, op, &event);
    if (!sim->is_quiet && sim_chance(sim, sim->rates.read_error)) {
        event = (struct RelayEvent){
            .kind = RELAY_READ_FAILED, .op = op, .error = EIO};
    }
    sim_step(sim, &event);
}

void
local_event(Sim *sim, const struct SimEvent *event)
{
    unsigned op = event->a;
    unsigned first = (unsigned)(sim->local[op].offset / sim->cell_bytes);
    unsigned count = (unsigned)(sim->local[op].len / sim->cell_bytes);

    if (event->life != sim->life) {
        return;
    }
    if (event->kind == SIM_READ_PART) {
        for (unsigned i = event->b; i < count; i += SIM_PARTS) {
            struct SimLocal *local = &sim->local[op];

            if (!local->is_there[i]) {
                local->values[i] = local->is_aside[i]
                                       ? sim->cut.kept[first + i]
                                       : disk_of(sim)->disk[first + i];
            }
        }
        return;
    }
    sim->local[op].is_busy = false;
    if (event->kind == SIM_READ && sim->local[op].is_pinned) {
        sim->local[op].is_pinned = false;
        disk_map_end(disk_of(sim)->map, &sim->local[op].pin, sim->now_us);
    }
    if (event->kind == SIM_MAPPED) {
        local_mapped(sim, op);
    } else {
        local_read(sim, op);
    }
}
