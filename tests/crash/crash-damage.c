/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-damage [OPTION VALUE]... - metadata that is not what was written
 *
 *   --clean 0|1    damage a store after an unclean end, or after a clean one
 *   --bits N       of each byte flip that many bits in turn; default 1, drawn
 *   --one-in N     of small files one byte of so many, drawn; default 1; of
 *                  large ones four times as many are passed over, and 16 at least
 *   --seed N
 *
 * A store that has a past is recorded: two lives that ended cleanly with
 * something left to upload, a third that did not end. Of each of its files
 * but disk.raw, and the reserve and the spare state, which nothing reads: every
 * byte is flipped (of large files one of sixteen, drawn, unless all bits are
 * asked for), every page is zeroed, and the file is replaced by what it was at
 * earlier instants, before the last clean end. The store has to open (a damaged
 * weir.conf may be refused, as damage), nothing wrong may be read, and no
 * cluster may be called clean that is not equal.
 */
#include "judge.h"
#include "tests/lib/command.h"

#include <stdlib.h>
#include <string.h>

#define MIB          (UINT64_C(1) << 20)
#define SIZE         (16 * MIB)
#define CLUSTER_BITS 16
#define PAGE         4096
#define LIVES        3
#define OPS          60
#define HELD_OPS     12
#define LIVE_ONE_IN  64
#define DRAIN_US     3000000
#define COPIES_MAX   160
#define LARGE        16384 /* bytes of a file */
#define LARGE_STRIDE 16

/* A file as it was at some instant. */
struct Copy {
    char name[RECORD_NAME];
    uint32_t dir;
    uint64_t tick, size;
    uint8_t *data;
};

struct Damage {
    Judge judge;
    Seed random;
    unsigned bits, one_in;
    struct Copy copies[COPIES_MAX];
    unsigned n_copies;
    uint64_t flips, pages, swaps, refused;
    const char *what; /* is being done */
    const char *file;
    uint64_t at;
};

/* Something is left to be uploaded when a life ends. */
static void
record(World *world)
{
    for (unsigned life = 0; life < LIVES; life++) {
        bool is_good = world_begin(world);

        if (!is_good) {
            fprintf(stderr, "a life does not begin: %s\n", world->served.why);
            abort();
        }
        (void)world_drain(world, DRAIN_US);
        guest_life(world, OPS);
        (void)world_drain(world, DRAIN_US);
        record_log_mark(&world->log, "held");
        record_target_hold(world->target, true);
        guest_life(world, HELD_OPS);
        world_end(world, life + 1 < LIVES);
        record_target_hold(world->target, false);
        record_target_settle(world->target);
    }
}

static bool
is_metadata(const Judge *judge, const struct CrashName *name)
{
    const struct CrashFile *file = &judge->states.files[name->node];

    return file->base && file != judge->states.raw &&
           strcmp(name->name, "reserve") != 0 &&
           strcmp(name->name, "state.spare") != 0;
}

/*
 * One damaged state
 */
static bool
judge_damaged(struct Damage *damage)
{
    Judge *judge = &damage->judge;
    bool is_conf = !strcmp(damage->file, "weir.conf");

    judge->may_be_refused = is_conf;
    judge->was_refused = false;
    judge->is_brief = is_conf || seed_below(&damage->random, LIVE_ONE_IN) != 0;
    if (!judge_chosen(judge)) {
        printf("FAILED: seed %llu, tick %llu, %s %s at %llu: %s\n",
               (unsigned long long)judge->seed,
               (unsigned long long)judge->states.tick, damage->what,
               damage->file, (unsigned long long)damage->at, judge->why);
        return false;
    }
    damage->refused += judge->was_refused;
    return true;
}

/* The state as it is, about to be damaged: the file of name @index. */
static struct CrashFile *
choose(struct Damage *damage, size_t index)
{
    CrashStates *states = &damage->judge.states;

    crash_states_choose(states, 0);
    damage->file = states->now_names.list[index].name;
    struct CrashFile *file = &states->files[states->now_names.list[index].node];

    crash_states_touch(states, file, 0, file->room);
    return file;
}

static bool
flip_bytes(struct Damage *damage, size_t index)
{
    struct CrashFile *file = choose(damage, index);
    uint64_t size = file->now_size;
    unsigned stride = size < LARGE ? damage->one_in
                      : damage->bits == 8
                          ? 1
                          : MAX(LARGE_STRIDE, 4 * damage->one_in);
    bool is_good = true;

    crash_states_undo(&damage->judge.states);
    damage->what = "flipped byte of";
    damage->judge.is_rotten = true;
    for (uint64_t block = 0; is_good && block < size; block += stride) {
        uint64_t at = block + seed_below(&damage->random, stride);

        for (unsigned i = 0; is_good && at < size && i < damage->bits; i++) {
            unsigned bit = damage->bits == 8
                               ? i
                               : (unsigned)seed_below(&damage->random, 8);

            file = choose(damage, index);
            file->now[at] ^= (uint8_t)(1u << bit);
            damage->at = at;
            damage->flips++;
            is_good = judge_damaged(damage);
        }
    }
    return is_good;
}

static bool
drop_pages(struct Damage *damage, size_t index)
{
    struct CrashFile *file = choose(damage, index);
    uint64_t size = file->now_size;
    bool is_good = true;

    crash_states_undo(&damage->judge.states);
    damage->what = "zeroed page of";
    for (uint64_t at = 0; is_good && at < size; at += PAGE) {
        file = choose(damage, index);
        memset(file->now + at, 0, MIN(PAGE, file->room - at));
        damage->at = at;
        damage->pages++;
        is_good = judge_damaged(damage);
    }
    return is_good;
}

static bool
swap_copies(struct Damage *damage, size_t index)
{
    bool is_good = true;

    damage->what = "older copy of";
    damage->judge.is_rotten = false;
    for (unsigned i = 0; is_good && i < damage->n_copies; i++) {
        const struct Copy *copy = &damage->copies[i];
        struct CrashFile *file = choose(damage, index);
        const struct CrashName *name =
            &damage->judge.states.now_names.list[index];

        if (copy->dir != name->dir || strcmp(copy->name, name->name) != 0 ||
            copy->size > file->room) {
            crash_states_undo(&damage->judge.states);
            continue;
        }
        memset(file->now, 0, file->room);
        memcpy(file->now, copy->data, copy->size);
        file->now_size = copy->size;
        damage->at = copy->tick;
        damage->swaps++;
        is_good = judge_damaged(damage);
    }
    return is_good;
}

/*
 * Walking to the instant
 */
static void
keep_copies(struct Damage *damage)
{
    CrashStates *states = &damage->judge.states;

    crash_states_choose(states, 0);
    for (size_t i = 0; i < states->now_names.count; i++) {
        const struct CrashName *name = &states->now_names.list[i];
        const struct CrashFile *file = &states->files[name->node];
        struct Copy *copy = &damage->copies[damage->n_copies];

        if (!is_metadata(&damage->judge, name) ||
            damage->n_copies == COPIES_MAX) {
            continue;
        }
        *copy = (struct Copy){.dir = name->dir,
                              .tick = states->tick,
                              .size = file->now_size,
                              .data = g_memdup2(file->now, file->now_size + 1)};
        record_name(copy->name, name->name);
        damage->n_copies++;
    }
    crash_states_undo(states);
}

/* Copies of all that is before the last clean end are kept on the way. */
static void
walk(struct Damage *damage, const RecordLog *log, bool is_clean)
{
    unsigned begun = 0;

    for (size_t i = 0; i < log->count; i++) {
        const RecordEntry *entry = log->entries[i];

        if (entry->kind != RECORD_MARK || !strcmp(entry->name, "end, clean")) {
            continue;
        }
        begun += !strcmp(entry->name, "begin");
        if (!strcmp(entry->name, "end, as a crash") ||
            (is_clean && begun == LIVES)) {
            judge_seek(&damage->judge, entry->begin - 1);
            return;
        }
        if (begun < LIVES) {
            judge_seek(&damage->judge, entry->begin - 1);
            keep_copies(damage);
        }
    }
}

static bool
damage_all(struct Damage *damage)
{
    CrashStates *states = &damage->judge.states;
    bool is_good = true;

    crash_states_choose(states, 0);
    size_t count = states->now_names.count;

    crash_states_undo(states);
    for (size_t i = 0; is_good && i < count; i++) {
        if (!is_metadata(&damage->judge, &states->now_names.list[i])) {
            continue;
        }
        is_good = flip_bytes(damage, i) && drop_pages(damage, i) &&
                  swap_copies(damage, i);
    }
    return is_good;
}

static bool
run(struct Damage *damage, uint64_t seed, bool is_clean)
{
    struct Seen seen = {NULL, 0, 0}, seen_local = {NULL, 0, 0};
    struct JudgeCounts counts = {0};
    World *world = g_new0(World, 1);

    world_init(world, &(struct WorldConfig){.seed = seed,
                                            .size_bytes = SIZE,
                                            .cluster_bits = CLUSTER_BITS,
                                            .hot = 12,
                                            .has_bitmaps = true});
    record(world);
    judge_init(&damage->judge, &(struct JudgeConfig){
                                   .log = &world->log,
                                   .seed = seed,
                                   .size_bytes = SIZE,
                                   .cluster_bits = CLUSTER_BITS,
                                   .has_bitmaps = true,
                                   .seen = &seen,
                                   .seen_local = &seen_local,
                                   .counts = &counts,
                               });
    damage->judge.is_damaged = true;
    walk(damage, &world->log, is_clean);
    bool is_good = damage_all(damage);

    printf("%s store, tick %llu: %llu bytes flipped, %llu pages zeroed, %llu "
           "older copies; %llu opened with clean clusters, %llu refused as "
           "damaged\n",
           is_clean ? "clean" : "unclean",
           (unsigned long long)damage->judge.states.tick,
           (unsigned long long)damage->flips, (unsigned long long)damage->pages,
           (unsigned long long)damage->swaps,
           (unsigned long long)counts.with_clean,
           (unsigned long long)damage->refused);
    judge_deinit(&damage->judge);
    world_deinit(world);
    g_free(world);
    return is_good;
}

int
main(int argc, char **argv)
{
    uint64_t seed = command_option(argc, argv, "--seed", 1);
    struct Damage *damage = g_new0(struct Damage, 1);
    bool is_good;

    command_begin();
    damage->bits = (unsigned)command_option(argc, argv, "--bits", 1);
    damage->one_in = (unsigned)command_option(argc, argv, "--one-in", 1);
    damage->random.state = seed;
    is_good = run(damage, seed, command_option(argc, argv, "--clean", 0));
    for (unsigned i = 0; i < damage->n_copies; i++) {
        g_free(damage->copies[i].data);
    }
    g_free(damage);
    return is_good ? EXIT_SUCCESS : EXIT_FAILURE;
}
