/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-replay [OPTION VALUE]... - record a store at work, judge its crashes
 *
 *   --seed N      of the world and of what is drawn; default: the clock
 *   --shape N     which size and cluster size, see below
 *   --states N    distinct crash states wanted; fewer is a failure
 *   --each N      at most so many of one recording; default: all
 *   --seconds N   stop after so long, whatever was reached
 *   --nest N      one of so many states has its recovery judged, too
 *   --log FILE --tick N --variant N    look at one state of a saved recording
 *
 * Recordings are made and judged until enough distinct states were seen. A
 * state that fails is described, and the recording is kept; it takes
 * threads and their luck to make one, so the seed alone does not bring it
 * back.
 *
 * crash-mutants MUTANT [OPTION VALUE]... is the same with one rule broken: it
 * succeeds when a state fails.
 */
#include "judge.h"
#include "tests/lib/command.h"
#include "tests/lib/mutants.h"

#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static const struct Shape {
    uint64_t size_bytes;
    unsigned cluster_bits;
    unsigned lives, ops, hot;
    bool is_troubled;
} shapes[] = {
    {16 * MIB, 16, 4, 150, 18, true},
    {8 * MIB, 12, 4, 200, 30, true},
    {64 * MIB, 14, 5, 150, 36, true},
    {24 * MIB, 16, 4, 150, 12, false},
};

struct Options {
    uint64_t seed, states, each, seconds, tick, variant;
    unsigned shape, nest;
    const char *log;
};

struct Session {
    struct Options options;
    const struct Shape *shape;
    struct Seen seen, seen_local;
    struct JudgeCounts counts;
    unsigned recordings;
    int64_t begin_us;
};

static double
seconds_since(int64_t begin_us)
{
    return (double)(g_get_monotonic_time() - begin_us) / 1e6;
}

static void
print_failure(const struct Session *session, const Judge *judge,
              const char *path)
{
    printf("FAILED: seed %llu, tick %llu of %llu, variant %llu: %s\n",
           (unsigned long long)judge->seed,
           (unsigned long long)judge->states.tick,
           (unsigned long long)judge->log->tick,
           (unsigned long long)judge->variant, judge->why);
    crash_states_print(&judge->states);
    printf("again: crash-replay --shape %u --seed %llu --nest %u --log %s "
           "--tick %llu --variant %llu\n",
           session->options.shape, (unsigned long long)judge->seed,
           judge->nest_one_in, path, (unsigned long long)judge->states.tick,
           (unsigned long long)judge->variant);
}

static struct JudgeConfig
judge_config(struct Session *session, const RecordLog *log, uint64_t seed)
{
    return (struct JudgeConfig){
        .log = log,
        .seed = seed,
        .size_bytes = session->shape->size_bytes,
        .cluster_bits = session->shape->cluster_bits,
        .seen = &session->seen,
        .seen_local = &session->seen_local,
        .counts = &session->counts,
        .nest_one_in = session->options.nest,
        .has_bitmaps = true,
    };
}

static bool
is_enough(const struct Session *session, uint64_t want)
{
    return session->counts.states >= want ||
           seconds_since(session->begin_us) > (double)session->options.seconds;
}

/* Walks over one recording, until they bring little that is new. */
static bool
judge_log(struct Session *session, const RecordLog *log, uint64_t seed)
{
    const struct Options *options = &session->options;
    uint64_t budget = 1 + options->states / (3 * log->tick);
    uint64_t want =
        MIN(options->states, session->counts.states + options->each);
    uint64_t before, visited;
    bool is_good = true;

    do {
        struct JudgeConfig config = judge_config(session, log, seed++);
        Judge judge;

        before = session->counts.states;
        visited = log->tick / judge_stride(log, want - before);
        judge_init(&judge, &config);
        is_good = judge_walk(&judge, budget, want);
        if (!is_good && !mutant_is_chosen()) {
            g_autofree char *path =
                g_strdup_printf("%s/weir-crash-%llu.log", g_get_tmp_dir(),
                                (unsigned long long)seed);

            record_log_save(log, path);
            print_failure(session, &judge, path);
        } else if (!is_good) {
            printf("seen after %llu states: %s\n",
                   (unsigned long long)session->counts.states, judge.why);
        }
        judge_deinit(&judge);
    } while (is_good && !is_enough(session, want) &&
             session->counts.states - before > visited * budget / 4);
    return is_good;
}

/* In turns: a flush that forgets a connection is seen without it only. */
static bool
is_multi_conn(const struct Session *session)
{
    return (session->recordings + session->options.shape) % 2;
}

static bool
record_and_judge(struct Session *session, uint64_t seed)
{
    const struct Shape *shape = session->shape;
    int64_t begin_us = g_get_monotonic_time();
    World *world = g_new0(World, 1);
    bool is_good;

    world_init(world,
               &(struct WorldConfig){.seed = seed,
                                     .size_bytes = shape->size_bytes,
                                     .cluster_bits = shape->cluster_bits,
                                     .lives = shape->lives,
                                     .ops = shape->ops,
                                     .hot = shape->hot,
                                     .is_troubled = shape->is_troubled,
                                     .has_bitmaps = true,
                                     .can_multi_conn = is_multi_conn(session)});
    world->io.forget = mutant_forgets();
    world_run(world);
    struct RecordTargetFigures figures = record_target_figures(world->target);

    printf("recording %u: seed %llu, %llu ticks in %.1f s; target: %u writes, "
           "%u flushes, %u drops, %u zombies, %u of them executed\n",
           ++session->recordings, (unsigned long long)seed,
           (unsigned long long)world->log.tick, seconds_since(begin_us),
           figures.sends, figures.flushes, figures.drops, figures.zombies,
           figures.executed_zombies);
    is_good = judge_log(session, &world->log, seed);
    world_deinit(world);
    g_free(world);
    return is_good;
}

static bool
look_at_one(struct Session *session)
{
    struct Options *options = &session->options;
    RecordLog log;
    Judge judge;

    if (!record_log_load(&log, options->log)) {
        printf("%s: no recording of this program\n", options->log);
        return false;
    }
    struct JudgeConfig config = judge_config(session, &log, options->seed);

    judge_init(&judge, &config);
    judge_seek(&judge, options->tick);
    bool is_good = judge_state(&judge, options->variant);

    if (!is_good) {
        print_failure(session, &judge, options->log);
    } else {
        printf("nothing is wrong with it\n");
    }
    judge_deinit(&judge);
    record_log_deinit(&log);
    return is_good;
}

static void
report(const struct Session *session)
{
    const struct JudgeCounts *counts = &session->counts;
    double took = seconds_since(session->begin_us);

    printf(
        "%llu distinct crash states (%llu of the local side alone), %llu "
        "of them during a recovery, %llu with clean clusters, %llu with "
        "zombies; %llu sums and %llu bitmaps believed; %u recordings, %.1f s, "
        "%.0f "
        "states/s, %llu steps\n",
        (unsigned long long)counts->states, (unsigned long long)counts->local,
        (unsigned long long)counts->nested,
        (unsigned long long)counts->with_clean,
        (unsigned long long)counts->zombies, (unsigned long long)counts->sums,
        (unsigned long long)counts->bitmaps, session->recordings, took,
        (double)counts->states / took, (unsigned long long)counts->steps);
}

static void
parse(struct Options *options, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        uint64_t value = strtoull(argv[i + 1], NULL, 0);

        if (!strcmp(name, "--seed")) {
            options->seed = value;
        } else if (!strcmp(name, "--shape")) {
            options->shape = (unsigned)value % G_N_ELEMENTS(shapes);
        } else if (!strcmp(name, "--states")) {
            options->states = value;
        } else if (!strcmp(name, "--each")) {
            options->each = value;
        } else if (!strcmp(name, "--seconds")) {
            options->seconds = value;
        } else if (!strcmp(name, "--nest")) {
            options->nest = (unsigned)value;
        } else if (!strcmp(name, "--log")) {
            options->log = argv[i + 1];
        } else if (!strcmp(name, "--tick")) {
            options->tick = value;
        } else if (!strcmp(name, "--variant")) {
            options->variant = value;
        } else {
            fprintf(stderr, "%s: no such option\n", name);
            exit(2);
        }
    }
}

int
main(int argc, char **argv)
{
    bool must_fail = mutant_choose(&argc, &argv);
    struct Session session = {.options = {.seed = (uint64_t)g_get_real_time(),
                                          .states = 6000,
                                          .each = UINT64_MAX / 2,
                                          .seconds = 3600,
                                          .nest = 100}};
    bool is_good = true;

    command_begin();
    parse(&session.options, argc, argv);
    session.shape = &shapes[session.options.shape];
    session.begin_us = g_get_monotonic_time();
    if (session.options.log) {
        return look_at_one(&session) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    for (unsigned i = 0;
         is_good && !is_enough(&session, session.options.states); i++) {
        is_good = record_and_judge(&session, session.options.seed + i * 1000);
    }
    report(&session);
    free(session.seen.slots);
    free(session.seen_local.slots);
    if (must_fail) {
        return is_good ? EXIT_FAILURE : EXIT_SUCCESS;
    }
    /* States in which nothing is clean cannot be wrong about it. */
    return is_good && session.counts.states >= session.options.states &&
                   session.counts.with_clean > 0 && session.counts.sums > 0 &&
                   session.counts.bitmaps > 0
               ? EXIT_SUCCESS
               : EXIT_FAILURE;
}
