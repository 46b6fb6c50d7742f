/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cut-truth [OPTION VALUE]... - is what targets hold after a cut an instant?
 *
 *   --seed N      of all that is drawn; default: the clock
 *   --cuts N      to be judged; fewer is a failure
 *   --disks N     2 or 3
 *   --life N      about so many cuts to a life of weir
 *   --policy cut|none    none: it has to be seen that this is no instant
 *
 * It takes threads and their luck to make a failure, so the seed alone may not
 * bring it back. Exit 1: no instant; 99: the rig does not work.
 *
 * cut-mutants MUTANT [OPTION VALUE]... is the same with one rule broken: it
 * succeeds when that is seen.
 */
#include "rig.h"
#include "tests/lib/command.h"
#include "tests/lib/mutants.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_RIG 99

struct Totals {
    uint64_t judged, degraded, dead;
    uint64_t life; /* cuts of this one so far */
};

/* How weir ends, if it does: it dies between two cuts or in one, or it is
 * ended cleanly. */
static bool
live_on(Rig *rig, struct Totals *totals, bool is_dead, uint64_t life_cuts)
{
    bool is_over = is_dead || (totals->life >= life_cuts / 2 &&
                               seed_below(&rig->seed, life_cuts / 2 + 1) == 0);

    if (!is_over) {
        return true;
    }
    rig_end(rig, !is_dead && seed_below(&rig->seed, 3) == 0);
    totals->life = 0;
    return rig_begin(rig);
}

static bool
judge(Rig *rig, uint64_t begin, uint64_t end)
{
    return history_judge(&rig->history, rig->images, begin, end, rig->why,
                         sizeof(rig->why));
}

/* EXIT_SUCCESS, or why is in the rig. */
static int
run(Rig *rig, struct Totals *totals, uint64_t cuts, uint64_t life_cuts)
{
    if (!rig_begin(rig)) {
        return EXIT_RIG;
    }
    while (totals->judged < cuts) {
        bool is_deadly = seed_below(&rig->seed, 2 * life_cuts) == 0;
        uint64_t begin, end;
        enum Take take = take_cut(rig, is_deadly, &begin, &end);

        totals->life++;
        totals->dead += take == TAKE_DEAD;
        totals->degraded += take == TAKE_DEGRADED;
        if (take == TAKE_FAILED) {
            return EXIT_FAILURE;
        }
        if (take == TAKE_WHOLE) {
            if (!judge(rig, begin, end)) {
                return EXIT_FAILURE;
            }
            totals->judged++;
        }
        record_log_forget(&rig->log);
        if (!live_on(rig, totals, take == TAKE_DEAD, life_cuts)) {
            return EXIT_RIG;
        }
    }
    return EXIT_SUCCESS;
}

static void
print(Rig *rig, const struct Totals *totals, int64_t begin_us)
{
    printf("%llu cuts judged, %llu degraded, %llu weir died in, %llu tried "
           "again; %llu sectors, "
           "%llu requests, %llu clusters copied aside, %u connections lost, "
           "%llu lives, %.1f s\n",
           (unsigned long long)totals->judged,
           (unsigned long long)totals->degraded,
           (unsigned long long)totals->dead, (unsigned long long)rig->refusals,
           (unsigned long long)rig->history.judged,
           (unsigned long long)rig->history.n_ops - 1,
           (unsigned long long)rig_aside_clusters(rig), rig_losses(rig),
           (unsigned long long)rig->lives,
           (double)(g_get_monotonic_time() - begin_us) / 1e6);
}

static bool
is_policy_cut(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--policy")) {
            return strcmp(argv[i + 1], "none") != 0;
        }
    }
    return true;
}

/* What was found, and what is wanted of it. */
static int
conclude(Rig *rig, const struct Totals *totals, int result, bool must_fail)
{
    if (result != EXIT_SUCCESS) {
        printf("%s: cut %llu, %llu of this life, seed %llu: %s\n",
               must_fail ? "seen" : "FAILED",
               (unsigned long long)totals->judged + 1,
               (unsigned long long)totals->life,
               (unsigned long long)rig->config.seed, rig->why);
    } else if (must_fail) {
        printf("NOT SEEN\n");
    }
    fflush(stdout);
    if (result == EXIT_RIG) {
        return result;
    }
    return (result == EXIT_FAILURE) == must_fail ? EXIT_SUCCESS : EXIT_FAILURE;
}

int
main(int argc, char **argv)
{
    bool must_fail = mutant_choose(&argc, &argv);
    int64_t begin_us = g_get_monotonic_time();
    struct RigConfig config = {
        .seed = command_option(argc, argv, "--seed", (uint64_t)begin_us),
        .n_disks = (unsigned)command_option(argc, argv, "--disks", 3),
        .is_cut = is_policy_cut(argc, argv),
    };
    uint64_t cuts = command_option(argc, argv, "--cuts", 500);
    uint64_t life_cuts = command_option(argc, argv, "--life", 60);
    Rig *rig = g_new0(Rig, 1);
    struct Totals totals = {0};
    int result;

    command_begin();
    printf("seed %llu\n", (unsigned long long)config.seed);
    rig_init(rig, &config);
    result = run(rig, &totals, cuts, life_cuts);
    if (result == EXIT_SUCCESS && config.is_cut && !rig_aside_clusters(rig)) {
        snprintf(rig->why, sizeof(rig->why), "nothing was copied aside");
        result = EXIT_FAILURE;
    }
    print(rig, &totals, begin_us);
    if (result != EXIT_SUCCESS) {
        /* Whatever hangs is left hanging. */
        rig_abandon(rig);
        _exit(conclude(rig, &totals, result, must_fail));
    }
    result = conclude(rig, &totals, result, must_fail);
    rig_end(rig, true);
    rig_deinit(rig);
    g_free(rig);
    return result;
}
