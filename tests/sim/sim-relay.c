/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sim-relay [SEED [COUNT]] - one seed, one run of the relay in a bad world
 *
 * Each run draws a disk, a target, and rates for everything that can go
 * wrong; lets a guest write and trouble happen for at least a thousand steps,
 * checking after each what must hold; then ends all trouble and waits for
 * the disk to be clean and the two images to be identical. A run that fails
 * prints its seed and the last events; SEED alone prints all events.
 *
 * sim-mutants MUTANT [SEED [COUNT]] is the same with one rule broken: it
 * succeeds when a run fails, and stops there.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/mutants.h"

#define STEPS_MIN 1000
#define CALM_US   (600 * SIM_SECOND)
#define KEEP_US   50000

/*
 * The daemon
 */
void
sim_daemon_start(Sim *sim)
{
    for (unsigned i = 0; i < RELAY_OPS; i++) {
        sim->local[i].is_busy = sim->local[i].is_pinned = false;
    }
    sim->core = relay_core_new(&sim->config);
    if (!sim->core) {
        sim_fail(sim, "no memory");
    }
}

/* What the store knows after a crash: all that was dirty, all that may have
 * been lost with the power, and some more. */
static DiskMap *
recovered_map(Sim *sim)
{
    uint64_t bytes = sim->cells * sim->cell_bytes;
    uint64_t cluster = UINT64_C(1) << sim->cluster_bits;
    DiskMap *map = disk_map_new(bytes, sim->cluster_bits);
    unsigned more = sim_chance(sim, 300) ? 1000 : 200;
    Bitmap *was = bitmap_new(bytes, sim->cluster_bits);

    disk_map_union(sim->map, was);
    disk_map_load(map, was, sim->now_us);
    bitmap_free(was);
    for (unsigned cell = 0; cell < sim->cells; cell++) {
        if (sim->synced[cell] != sim->disk[cell] ||
            (cell % SIM_CELLS == 0 && sim_chance(sim, more))) {
            uint64_t at = cell * sim->cell_bytes & ~(cluster - 1);
            uint64_t room = bytes - at;
            disk_map_mark(map, at, room < cluster ? room : cluster,
                          sim->now_us);
        }
    }
    return map;
}

/* It is killed, or the power goes: RAM is gone, what was under way becomes
 * what it may. */
static void
daemon_crash(Sim *sim)
{
    bool is_power_cut = sim_chance(sim, 500);
    DiskMap *map;

    sim_log(sim, "daemon crashes", is_power_cut, 0, 0);
    sim->life++;
    guest_finish(sim);
    target_crashed(sim);
    cuts_crashed(sim);
    map = recovered_map(sim);
    jobs_crashed(sim, is_power_cut);
    if (is_power_cut) {
        guest_power_cut(sim);
    }
    books_crashed(sim, is_power_cut);
    memcpy(sim->synced, sim->disk, sizeof(sim->synced));
    relay_core_free(sim->core);
    disk_map_free(sim->map);
    sim->actions.count = 0;
    sim->map = map;
    if (!sim->is_contact_kept) {
        disk_map_mark_all(map, sim->now_us);
    }
    sim->config.map = sim->map;
    sim->config.contact = sim->is_contact_kept ? CONTACT_KNOWN : CONTACT_NONE;
    sim->is_keeping = false;
    sim->config.logged = sim->logged;
    sim->config.is_in_doubt = true;
    sim->config.recovers = true;
    sim->bucket = (RateBucket){0};
    sim_daemon_start(sim);
}

static void
perform(Sim *sim, const struct RelayAction *action)
{
    if (sim->host) {
        jobs_check_action(sim, action);
    }
    if (action->kind == RELAY_MAP || action->kind == RELAY_LOAD) {
        local_perform(sim, action);
        return;
    }
    if (action->kind == RELAY_LOG || action->kind == RELAY_NOTE ||
        action->kind == RELAY_SYNC || action->kind == RELAY_FORGET) {
        books_perform(sim, action);
        return;
    }
    sim_log(sim, "action", action->kind, action->conn,
            action->offset / sim->cell_bytes);
    target_perform(sim, action);
}

void
sim_step(Sim *sim, const struct RelayEvent *event)
{
    struct RelayCoreFigures figures;
    size_t done = 0;

    sim->steps++;
    relay_core_figures(sim->core, &figures);
    sim->job.is_halted = figures.halt.is_halted;
    relay_core_step(sim->core, sim->now_us, event, &sim->actions);
    while (done < sim->actions.count) {
        struct RelayAction action = sim->actions.list[done++];
        perform(sim, &action);
    }
    sim->actions.count = 0;
    relay_core_figures(sim->core, &figures);
    if (figures.contact == CONTACT_KNOWN && !sim->is_contact_kept &&
        !sim->is_keeping) {
        sim->is_keeping = true;
        sim_at(sim, sim->now_us + sim_delay(sim, KEEP_US), SIM_KEPT, 0, 0);
    }
    if (figures.link == RELAY_REFUSED && sim->is_refusal_due) {
        sim->config.accept = ACCEPT_OVERWRITE;
        relay_core_set(sim->core, sim->config.max_conns, ACCEPT_OVERWRITE,
                       true);
        sim->is_refusal_due = false;
        sim_step(sim, NULL);
    }
}

/* Somebody turns a knob. */
static void
user_event(Sim *sim)
{
    if (sim->is_quiet) {
        return;
    }
    sim_at(sim, sim->now_us + sim_delay(sim, 8 * SIM_SECOND), SIM_USER, 0, 0);
    if (sim_chance(sim, sim->rates.crash)) {
        daemon_crash(sim);
    } else if (sim_chance(sim, 150)) {
        relay_core_verify(sim->core, sim_chance(sim, 500), 0);
    } else if (sim_chance(sim, 300)) {
        relay_core_hurry(sim->core);
    } else if (sim_chance(sim, 300)) {
        relay_core_pause(sim->core, sim_chance(sim, 500));
    } else if (sim_chance(sim, 300)) {
        relay_core_yield(sim->core, 2 * (unsigned)sim_below(sim, 8));
    } else if (sim_chance(sim, 300)) {
        /* Also of what nobody overwrites, or what is not there. */
        relay_core_hint(sim->core, sim_below(sim, SIM_CLUSTERS_MAX + 2));
    } else if (sim_chance(sim, 100)) {
        unsigned conns = 1 + (unsigned)sim_below(sim, sim->config.max_conns);
        relay_core_set(sim->core, conns, sim->config.accept, true);
    } else if (sim_chance(sim, 100)) {
        uint64_t bps = sim_chance(sim, 500) ? 0 : 1 << (18 + sim_below(sim, 8));
        rate_bucket_set(&sim->bucket, bps, sim->now_us);
    } else if (sim_chance(sim, sim->rates.grow) && !sim->beside &&
               sim->cells < sim->cells_last) {
        sim->cells = sim->cells_last;
        sim_log(sim, "disk grows", sim->cells, 0, 0);
        if (disk_map_grow(sim->map, sim->cells * sim->cell_bytes, sim->now_us) <
            0) {
            sim_fail(sim, "no memory");
        }
    }
    sim_step(sim, NULL);
}

/*
 * One run
 */
static void
draw_rates(Sim *sim)
{
    struct SimRates *rates = &sim->rates;
    bool is_kind = sim_chance(sim, 100);

    *rates = (struct SimRates){
        .error = (unsigned)sim_below(sim, sim_chance(sim, 500) ? 5 : 60),
        .flush_error = (unsigned)sim_below(sim, 60),
        .hang = (unsigned)sim_below(sim, 60),
        .lose = (unsigned)sim_below(sim, 250),
        .restart = (unsigned)sim_below(sim, 100),
        .refuse = (unsigned)sim_below(sim, 60),
        .zombie = (unsigned)sim_below(sim, 1000),
        .sticky = (unsigned)sim_below(sim, 60),
        .destage = (unsigned)sim_below(sim, 300),
        .crash = (unsigned)sim_below(sim, 100),
        .grow = 300,
        .read_error = (unsigned)sim_below(sim, 20),
        .sync_error = sim_chance(sim, 250) ? 300 : 10,
        .delay_us = INT64_C(1) << (8 + sim_below(sim, 11)),
    };
    if (is_kind) {
        *rates = (struct SimRates){.delay_us = 2000};
    }
}

static void
draw_target(Sim *sim)
{
    struct SimTarget *target = &sim->target;
    bool can_flush = !sim_chance(sim, 100);

    target->cells = sim->cells_last + (unsigned)sim_below(sim, SIM_TAIL + 1);
    target->is_child = sim_chance(sim, 300);
    target->caps = (struct TargetCaps){
        .size_bytes = target->cells * sim->cell_bytes,
        .can_flush = can_flush,
        .can_fua = !can_flush && sim_chance(sim, 500),
        .can_zero = sim_chance(sim, 600),
        .can_trim = sim_chance(sim, 500),
        .can_multi_conn = can_flush && sim_chance(sim, 500),
        .has_block_status = sim_chance(sim, 600),
        .min_block = sim_chance(sim, 500) ? 1 : 512,
        .max_payload = (uint32_t)sim->cell_bytes << sim_below(sim, 6),
    };
    for (unsigned i = 0; i < SIM_TARGET_MAX; i++) {
        target->shared[i] = SIM_NOTHING;
        for (unsigned c = 0; c < RELAY_CONNS; c++) {
            target->conns[c].cache[i] = SIM_NOTHING;
        }
    }
}

void
sim_draw(Sim *sim)
{
    draw_rates(sim);
    draw_target(sim);
    sim->config = (struct RelayCoreConfig){
        .map = sim->map,
        .bucket = &sim->bucket,
        .seed = sim->seed,
        .accept_unflushed = true,
        .max_conns = 1 + (unsigned)sim_below(sim, 4),
        .settle_us = INT64_C(1) << (14 + sim_below(sim, 7)),
        .deadline_us = 2 * SIM_SECOND,
        .connect_deadline_us = SIM_SECOND,
        .backoff_min_us = SIM_SECOND / 20,
        .backoff_max_us = 2 * SIM_SECOND,
        .is_cut = sim_chance(sim, 500),
    };
}

/* What is on the two sides at the beginning. */
static void
draw_contents(Sim *sim)
{
    struct SimTarget *target = &sim->target;
    bool is_known = sim_chance(sim, 400);
    bool is_garbage = sim_chance(sim, 600);

    for (unsigned i = 0; i < sim->cells; i++) {
        bool is_data = sim_below(sim, 8 * SIM_CELLS) > i % (8 * SIM_CELLS);
        sim->disk[i] = is_data ? ++sim->value : 0;
        sim->is_hole[i] = !is_data && !sim_chance(sim, 100);
    }
    for (unsigned i = 0; i < target->cells; i++) {
        bool is_same = i < sim->cells && (is_known || sim_chance(sim, 500));
        target->durable[i] = target->tail[i] = is_same      ? sim->disk[i]
                                               : is_garbage ? ++sim->value
                                                            : 0;
    }
    sim->config.contact = is_known ? CONTACT_KNOWN : CONTACT_NONE;
    sim->is_contact_kept = is_known;
    sim->config.accept = (enum TargetAccept)sim_below(sim, 3);
    sim->is_refusal_due = !is_known && sim->config.accept == ACCEPT_EMPTY;
    if (!is_known) {
        disk_map_mark_all(sim->map, sim->now_us);
    }
}

static void
sim_begin(Sim *sim)
{
    unsigned clusters = 1 + (unsigned)sim_below(sim, SIM_CLUSTERS_MAX);
    bool is_fixed = sim_chance(sim, 800);

    sim->now_us = SIM_SECOND;
    sim->cluster_bits = 12 + (unsigned)sim_below(sim, 9);
    sim->cell_bytes = (UINT64_C(1) << sim->cluster_bits) / SIM_CELLS;
    sim->cells_last =
        clusters * SIM_CELLS - (unsigned)sim_below(sim, SIM_CELLS);
    sim->cells = is_fixed ? sim->cells_last
                          : 1 + (unsigned)sim_below(sim, sim->cells_last);
    sim->map = disk_map_new(sim->cells * sim->cell_bytes, sim->cluster_bits);
    sim_draw(sim);
    draw_contents(sim);
    memcpy(sim->synced, sim->disk, sizeof(sim->synced));
    books_begin(sim);
    sim_daemon_start(sim);
    sim_at(sim, sim->now_us, SIM_GUEST, 0, 0);
    sim_at(sim, sim->now_us + SIM_SECOND, SIM_TROUBLE, 0, 0);
    sim_at(sim, sim->now_us + SIM_SECOND, SIM_USER, 0, 0);
    if (sim->config.is_cut) {
        sim_at(sim, sim->now_us, SIM_CUT, 0, 0);
    }
    snapshots_begin(sim);
}

static void
dispatch(Sim *sim, const struct SimEvent *event)
{
    switch (event->kind) {
    case SIM_GUEST:
    case SIM_LAND:
    case SIM_END:
        guest_event(sim, event);
        if (event->kind != SIM_LAND) {
            sim_step(sim, NULL);
        }
        if (event->kind != SIM_LAND && sim->beside) {
            sim_step(sim->beside, NULL);
        }
        break;
    case SIM_OWNER:
        if (event->life == sim->life) {
            jobs_event(sim);
        }
        break;
    case SIM_MAPPED:
    case SIM_READ_PART:
    case SIM_READ:
        local_event(sim, event);
        break;
    case SIM_NOTED:
    case SIM_SYNCED:
    case SIM_LOGGED:
    case SIM_FORGOTTEN:
        books_event(sim, event);
        break;
    case SIM_USER:
        user_event(sim);
        break;
    case SIM_CUT:
        cuts_event(sim);
        break;
    case SIM_SNAPSHOT:
        snapshots_event(sim);
        break;
    case SIM_KEPT:
        if (event->life == sim->life) {
            sim->is_contact_kept = true;
            relay_core_contact_kept(sim->core);
            sim_step(sim, NULL);
        }
        break;
    case SIM_EXECUTE:
    case SIM_ANSWER:
    case SIM_CONNECTED:
    case SIM_BROKEN:
    case SIM_TROUBLE:
        target_event(sim, event);
        break;
    case SIM_EVENT_KINDS:
        break;
    }
}

static int64_t
next_us(const Sim *sim)
{
    int64_t due = relay_core_next_us(sim->core);

    return sim->n_events && sim->events[0].at_us < due ? sim->events[0].at_us
                                                       : due;
}

/* The next thing that happens in it, or in its core's own time. */
static void
turn_of(Sim *sim)
{
    int64_t due = relay_core_next_us(sim->core);
    struct SimEvent event;

    if (!sim->n_events || due < sim->events[0].at_us) {
        if (due == INT64_MAX) {
            sim_fail(sim, "nothing will ever happen");
        }
        sim->now_us = due > sim->now_us ? due : sim->now_us + 1;
        sim_step(sim, NULL);
    } else {
        sim_pop(sim, &event);
        sim->now_us = event.at_us > sim->now_us ? event.at_us : sim->now_us;
        dispatch(sim, &event);
    }
}

static void
sim_turn(Sim *sim)
{
    Sim *job;

    jobs_look(sim);
    job = sim->beside;
    if (job && next_us(job) < next_us(sim)) {
        turn_of(job);
        sim->now_us = job->now_us;
    } else {
        turn_of(sim);
    }
    if (sim->beside) {
        sim->beside->now_us = sim->now_us;
    }
    sim_check(sim);
}

static bool
is_done(const Sim *sim)
{
    struct DiskMapFigures figures;

    disk_map_figures(sim->map, &figures);
    return guest_is_idle(sim) && !figures.dirty_clusters;
}

static void
sim_run(Sim *sim)
{
    unsigned steps = STEPS_MIN + (unsigned)sim_below(sim, STEPS_MIN);

    sim_begin(sim);
    while (sim->steps < steps) {
        sim_turn(sim);
    }
    sim_log(sim, "calm", 0, 0, 0);
    sim->is_quiet = true;
    target_calm(sim);
    rate_bucket_set(&sim->bucket, 0, sim->now_us);
    relay_core_pause(sim->core, false);
    jobs_calm(sim);
    int64_t end = sim->now_us + CALM_US;
    while (!is_done(sim) || !jobs_are_done(sim)) {
        sim_turn(sim);
        if (sim->now_us > end) {
            sim_fail(sim, "not clean after %lld s of calm",
                     (long long)(CALM_US / SIM_SECOND));
        }
    }
    sim_check_equal(sim);
}

static Sim *
sim_new(uint64_t seed)
{
    Sim *sim = calloc(1, sizeof(*sim));

    assert(sim);
    sim->seed = sim->random = seed;
    return sim;
}

static void
sim_free(Sim *sim)
{
    jobs_end(sim);
    relay_core_free(sim->core);
    disk_map_free(sim->map);
    books_end(sim);
    snapshots_end(sim);
    free(sim->actions.list);
    free(sim->events);
    free(sim);
}

/* True: all that must hold held. */
static bool
sim_survives(Sim *sim)
{
    if (setjmp(sim->failed)) {
        return false;
    }
    sim_run(sim);
    return true;
}

static bool
run_seed(uint64_t seed, bool is_verbose, uint64_t *steps)
{
    Sim *sim = sim_new(seed);

    sim->is_verbose = is_verbose;
    bool is_good = sim_survives(sim);
    *steps += sim->steps;
    if (!is_good) {
        sim_print(sim);
        printf("seed %llu, step %u: %s\n", (unsigned long long)seed, sim->steps,
               sim->why);
    }
    sim_free(sim);
    return is_good;
}

int
main(int argc, char **argv)
{
    bool must_fail = mutant_choose(&argc, &argv);
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : argc > 1 ? 1 : 500;
    uint64_t steps = 0;

    for (uint64_t i = 0; i < count; i++) {
        if (!run_seed(first + i, argc == 2, &steps)) {
            return must_fail ? EXIT_SUCCESS : EXIT_FAILURE;
        }
    }
    printf("%llu seeds from %llu: %llu steps%s\n", (unsigned long long)count,
           (unsigned long long)first, (unsigned long long)steps,
           must_fail ? ", and nobody saw the mutant" : "");
    return must_fail ? EXIT_FAILURE : EXIT_SUCCESS;
}
