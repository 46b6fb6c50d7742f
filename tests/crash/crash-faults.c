/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-faults [OPTION VALUE]... - every storage call fails once
 *
 *   --from N, --step N    call numbers: N, N + step, ...; default 1, 1
 *   --all 1               every kind of fault at each number; else the first
 *                         and, in turn, one of the others
 *   --variants N          states of the end of a run; default 12
 *   --stride N            ticks between the states before it, at most; 40
 *   --seed N              of what is drawn
 *
 * A script of two short lives runs again and again. The n-th call of the seam,
 * plain or of a ring, fails in one of these ways:
 *
 *   killed     this call and all after it do not happen
 *   EIO        once, or from then on
 *   ENOSPC     once, or from then on; writes had written half
 *   short      a write of a ring returns half; a plain one, which must not,
 *              has written half and says ENOSPC
 *
 * The recording under the fault is then judged like any other: at its end as
 * a killed process leaves it and as power cuts leave it, and at instants
 * before that. So nothing wrong is ever believed, the store opens, and an
 * fsync that failed was not acknowledged: what was acknowledged is demanded.
 *
 * The numbers are walked until a run has none that fails.
 */
#include "bitmaps.h"
#include "tests/lib/command.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/fault-io.h"

#define MIB          (UINT64_C(1) << 20)
#define DRAIN_US     1500000
#define CLUSTER_BITS 16
#define CLUSTER      (UINT64_C(1) << CLUSTER_BITS)
#define SIZE         (16 * MIB)

static const struct Kind {
    const char *name;
    int error;
    bool is_sticky, is_torn, is_short;
} kinds[] = {
    {"killed", -EIO, true, false, false},
    {"EIO once", -EIO, false, false, false},
    {"EIO from then on", -EIO, true, false, false},
    {"ENOSPC once", -ENOSPC, false, true, false},
    {"ENOSPC from then on", -ENOSPC, true, true, false},
    {"short write", -ENOSPC, false, true, true},
};

struct Totals {
    struct Seen seen, seen_local;
    struct JudgeCounts counts;
    uint64_t runs, variants, stride;
};

/* A world whose storage is gone for good need not be waited for. */
static void
drain(World *world, FaultIo *fault)
{
    if (atomic_load(&fault->failed) == 0 || !fault->is_sticky) {
        (void)world_drain(world, DRAIN_US);
    }
}

/* Every call site of the store, the face and the relay is passed. */
static void
script_life(World *world, FaultIo *fault, uint64_t first)
{
    guest_write(world, first, 4096);
    guest_write(world, first + 3 * SECTOR, SECTOR);
    guest_sync(world);
    guest_write(world, first + CLUSTER, 65536);
    guest_discard(world, first, CLUSTER);
    guest_discard(world, first + CLUSTER + 4096, 8192);
    guest_sync(world);
    guest_finish(world);
    bitmaps_work(world);
    drain(world, fault);
    bitmaps_work(world);
    guest_write(world, first + CLUSTER + SECTOR, 2 * SECTOR);
    guest_write(world, first + 4 * MIB, 4096);
    guest_sync(world);
    guest_finish(world);
}

static void
script(World *world, FaultIo *fault)
{
    for (unsigned life = 0; life < 2; life++) {
        if (!world_begin(world)) {
            return;
        }
        drain(world, fault);
        script_life(world, fault, life * 2 * MIB);
        world_end(world, true);
    }
}

/* The end of the recording, and instants before it. */
static bool
judge_run(World *world, struct Totals *totals, uint64_t seed)
{
    struct JudgeConfig config = {
        .log = &world->log,
        .seed = seed,
        .size_bytes = SIZE,
        .cluster_bits = CLUSTER_BITS,
        .seen = &totals->seen,
        .seen_local = &totals->seen_local,
        .counts = &totals->counts,
        .has_bitmaps = true,
    };
    Judge judge;
    Seed random = {seed};
    bool is_good = true;

    judge_init(&judge, &config);
    while (is_good && judge.states.tick < world->log.tick) {
        uint64_t left = world->log.tick - judge.states.tick;

        judge_seek(&judge, judge.states.tick + 1 +
                               seed_below(&random, MIN(left, totals->stride)));
        is_good = judge_state(&judge, seed_next(&random) >> 1);
    }
    for (unsigned i = 0; is_good && i < totals->variants; i++) {
        is_good = judge_state(&judge, i < 2 ? i : seed_next(&random) >> 1);
    }
    if (!is_good) {
        printf("FAILED: tick %llu of %llu, variant %llu: %s\n",
               (unsigned long long)judge.states.tick,
               (unsigned long long)world->log.tick,
               (unsigned long long)judge.variant, judge.why);
        crash_states_print(&judge.states);
    }
    judge_deinit(&judge);
    return is_good;
}

/* *@more: call number @n was reached. */
static bool
run(uint64_t n, const struct Kind *kind, struct Totals *totals, uint64_t seed,
    bool *more)
{
    World *world = g_new0(World, 1);
    FaultIo *fault = g_new0(FaultIo, 1);

    world_init(world, &(struct WorldConfig){.seed = seed,
                                            .size_bytes = SIZE,
                                            .cluster_bits = CLUSTER_BITS,
                                            .has_bitmaps = true,
                                            .has_faults = true});
    fault_io_init(fault, world->served.io);
    fault->is_early = true;
    fault->is_torn = kind->is_torn;
    fault->is_short = kind->is_short;
    world->served.io = &fault->io;
    fault_io_arm(fault, (unsigned)n, kind->is_sticky, kind->error);
    script(world, fault);
    *more = fault_io_disarm(fault) > 0;
    record_target_settle(world->target);
    bool is_good = judge_run(world, totals, seed);

    if (!is_good) {
        printf("call %llu, %s\n", (unsigned long long)n, kind->name);
    }
    totals->runs++;
    world_deinit(world);
    g_free(world);
    g_free(fault);
    return is_good;
}

int
main(int argc, char **argv)
{
    uint64_t from = command_option(argc, argv, "--from", 1);
    uint64_t by = command_option(argc, argv, "--step", 1);
    uint64_t seed = command_option(argc, argv, "--seed", 1);
    bool is_all = command_option(argc, argv, "--all", 0);
    struct Totals totals = {
        .variants = command_option(argc, argv, "--variants", 12),
        .stride = command_option(argc, argv, "--stride", 40),
    };
    int64_t begin_us = g_get_monotonic_time();
    bool is_good = true, more = true;
    uint64_t n = from;

    command_begin();
    for (; is_good && more; n += by) {
        unsigned next = 1 + (unsigned)(n / by) % (G_N_ELEMENTS(kinds) - 1);

        more = false;
        for (unsigned i = 0; is_good && i < G_N_ELEMENTS(kinds); i++) {
            bool was_reached = false;

            if (is_all || i == 0 || i == next) {
                is_good = run(n, &kinds[i], &totals, seed + n, &was_reached);
            }
            more |= was_reached;
        }
    }
    printf("%llu runs up to call %llu, %llu distinct crash states, %.1f s\n",
           (unsigned long long)totals.runs, (unsigned long long)(n - by),
           (unsigned long long)totals.counts.states,
           (double)(g_get_monotonic_time() - begin_us) / 1e6);
    free(totals.seen.slots);
    free(totals.seen_local.slots);
    return is_good ? EXIT_SUCCESS : EXIT_FAILURE;
}
