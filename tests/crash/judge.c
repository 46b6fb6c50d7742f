/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One state: chosen, placed as files, opened by the real code, looked at, and
 * lived on to the end; then everything is put back.
 *
 *   choose -> place -> store_open -> clean implies equal
 *          -> store_serve, discards punched -> oracle, clean implies equal
 *          -> the relay's pass -> close -> images are equal
 *
 * What the target holds at the crash is not one state but all that it may
 * still become: each sector has its durable value and those of the writes
 * that are not durable, or not even executed. A cluster that is called clean
 * must equal all of them. For the life after it one outcome is drawn: either
 * the target has lost some of what was not flushed, or it has not and then
 * requests that are still on their way execute at any time of the quarantine.
 */
#include "bitmaps.h"
#include "judge-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/face.h"
#include "place.h"
#include "tests/lib/scratch.h"

#define ZOMBIES_MAX   128
#define NESTED_STATES 16
#define QUIET_FACTOR  6

#define JUDGE_EXIT_DAMAGED 4

bool
seen_add(struct Seen *seen, uint64_t hash)
{
    if (2 * seen->count >= seen->room) {
        struct Seen old = *seen;

        seen->room = old.room ? 2 * old.room : 1 << 14;
        seen->slots = calloc(seen->room, sizeof(*seen->slots));
        assert(seen->slots);
        seen->count = 0;
        for (size_t i = 0; i < old.room; i++) {
            if (old.slots[i]) {
                seen_add(seen, old.slots[i]);
            }
        }
        free(old.slots);
    }
    hash = hash ? hash : 1;
    size_t at = hash & (seen->room - 1);

    while (seen->slots[at] && seen->slots[at] != hash) {
        at = (at + 1) & (seen->room - 1);
    }
    if (seen->slots[at]) {
        return false;
    }
    seen->slots[at] = hash;
    seen->count++;
    return true;
}

/*
 * Which clusters matter
 */
static void
touch(Judge *judge, uint64_t offset, uint64_t len)
{
    uint64_t cluster = UINT64_C(1) << judge->cluster_bits;

    for (uint64_t i = offset / cluster;
         i < judge->clusters && i * cluster < offset + len; i++) {
        judge->touched[i] = true;
    }
}

static void
find_touched(Judge *judge)
{
    for (size_t i = 0; i < judge->log->count; i++) {
        const RecordEntry *entry = judge->log->entries[i];

        if (((entry->kind == RECORD_WRITE || entry->kind == RECORD_ZERO) &&
             &judge->states.files[entry->node] == judge->states.raw) ||
            (entry->kind == RECORD_SEND && entry->data)) {
            touch(judge, entry->offset, entry->len);
        }
    }
    for (uint64_t i = 0; i < judge->clusters; i++) {
        if (judge->touched[i]) {
            judge->list[judge->n_list++] = i;
        }
    }
}

static void
copy_touched(Judge *judge, uint8_t *to, uint8_t *from)
{
    for (uint64_t i = 0; i < judge->n_list; i++) {
        memcpy(cluster_of(judge, to, judge->list[i]),
               cluster_of(judge, from, judge->list[i]), cluster_bytes(judge));
    }
}

/*
 * The target's outcome
 */
/* @torn: only some of its sectors. */
static void
put_send(Judge *judge, const struct CrashUnit *send, Seed *torn)
{
    const RecordEntry *entry = send->entry;
    uint64_t offset, len;

    for (uint64_t at = entry->offset; crash_unit_run(send, at, &offset, &len);
         at = offset + len) {
        uint64_t index = offset >> judge->cluster_bits;

        len = MIN(len, ((index + 1) << judge->cluster_bits) - offset);
        if (!judge->touched[index]) {
            continue;
        }
        len = MIN(len, torn ? SECTOR : len);
        if (torn && seed_next(torn) & 1) {
            continue;
        }
        if (entry->data) {
            memcpy(judge->target + offset,
                   entry->data + (offset - entry->offset), len);
        } else {
            memset(judge->target + offset, 0, len);
        }
        judge->changed[index] = true;
    }
}

/* What the target holds, and which zombies are still to come. */
static size_t
draw_outcome(Judge *judge, Seed *seed, struct LifeZombie *zombies)
{
    const CrashStates *states = &judge->states;
    bool has_lost = seed_next(seed) & 1;
    size_t count = 0;

    for (size_t i = 0; i < states->n_sends; i++) {
        const RecordEntry *entry = states->sends[i].entry;

        if (entry->executed <= states->tick) {
            put_send(judge, &states->sends[i], has_lost ? seed : NULL);
        } else if (!has_lost && seed_next(seed) % 4 && count < ZOMBIES_MAX) {
            zombies[count++] = (struct LifeZombie){
                entry, (int64_t)seed_below(seed, LIFE_ZOMBIE_US)};
        }
    }
    return count;
}

static void
restore_target(Judge *judge)
{
    for (uint64_t i = 0; i < judge->n_list; i++) {
        uint64_t index = judge->list[i];

        if (judge->changed[index]) {
            memcpy(cluster_of(judge, judge->target, index),
                   cluster_of(judge, judge->states.target, index),
                   cluster_bytes(judge));
            judge->changed[index] = false;
        }
    }
}

/*
 * One state
 */
static Life
life_of(Judge *judge, Store *store, RecordLog *log, Seed *seed)
{
    return (Life){
        .store = store,
        .disk = store->disks[0],
        .raw = judge->states.raw->now,
        .target = judge->target,
        .touched = judge->touched,
        .changed = judge->changed,
        .log = log,
        .is_told_overwrite = judge->is_damaged,
        .seed = seed_next(seed),
    };
}

static bool
live_on(Judge *judge, Life *life)
{
    judge->counts->zombies += life->n_zombies > 0;
    bool is_good = life_run(life);
    judge->counts->steps += life->steps;
    if (!is_good) {
        return judge_refuse(judge, "%s", life->why);
    }
    if (judge->has_bitmaps) {
        uint64_t sums[BITMAPS];

        (void)bitmaps_sums(life->disk, sums);
        if (!bitmaps_are_kept(store_io_kernel(), judge->path, sums, false)) {
            return judge_refuse(judge, "a clean end does not keep the bitmaps");
        }
    }
    return judge_check_equal(judge, "after a life") &&
           judge_check_oracle(judge);
}

/* From the opening on, as the daemon does it. */
static bool
serve(Judge *judge, Life *life)
{
    GError *error = NULL;
    bool is_good = judge_check_clean(judge, life->disk, "after the open");

    if (!life_open_books(life)) {
        return judge_refuse(judge, "the sent-log cannot be had");
    }
    is_good = is_good && judge_check_sums(judge, life) &&
              judge_check_bitmaps(judge, life->disk);
    if (is_good && (store_zeroes_renew(life->store, life->disk) < 0 ||
                    !store_serve(life->store, &error) ||
                    store_zeroes_settle(life->store, life->disk) < 0)) {
        is_good = judge_refuse(judge, "the store cannot be served: %s",
                               error ? error->message : "zeroes");
        g_clear_error(&error);
    }
    is_good =
        is_good && judge_check_oracle(judge) &&
        judge_check_clean(judge, life->disk, "after discards were punched") &&
        judge_check_bitmaps(judge, life->disk) &&
        (judge->is_brief || live_on(judge, life));
    life_close_books(life);
    return is_good;
}

static bool
survives(Judge *judge, StoreIo *io, RecordLog *log, Seed *seed,
         const struct LifeZombie *zombies, size_t n_zombies)
{
    GError *error = NULL;
    Store *store = store_open(io, judge->path, 0, &error);
    bool is_good;

    if (!store) {
        is_good = judge->may_be_refused &&
                  (store_exit_code(error) == JUDGE_EXIT_DAMAGED ||
                   strstr(error->message, "use a newer weir"));
        judge->was_refused = true;
        judge_refuse(judge, "the store does not open: %s", error->message);
        g_clear_error(&error);
        return is_good;
    }
    if (!store->n_disks) {
        store_free(store);
        return judge_refuse(judge, "the store opens without its disk");
    }
    Life life = life_of(judge, store, log, seed);

    life.zombies = zombies;
    life.n_zombies = n_zombies;
    is_good = serve(judge, &life);
    store_free(store);
    return is_good;
}

/* What the store did to disk.raw is to be undone, too. */
static void
touch_raw(Judge *judge, const RecordLog *log)
{
    CrashStates *states = &judge->states;
    uint64_t inode = judge->log->nodes[states->raw->node]->inode;

    for (size_t i = 0; i < log->count; i++) {
        const RecordEntry *entry = log->entries[i];

        if (entry->kind <= RECORD_SIZE &&
            log->nodes[entry->node]->inode == inode) {
            crash_states_touch(states, states->raw, entry->offset, entry->len);
        }
    }
}

static bool
judge_nested(Judge *judge, const RecordLog *log)
{
    struct JudgeConfig config = {
        .log = log,
        .seed = judge->seed ^ judge->variant,
        .size_bytes = judge->size_bytes,
        .cluster_bits = judge->cluster_bits,
        .seen = judge->seen,
        .seen_local = judge->seen_local,
        .counts = judge->counts,
        .has_bitmaps = judge->has_bitmaps,
        .parent = judge,
    };
    uint64_t before = judge->counts->states;
    Judge nested;

    judge_init(&nested, &config);
    bool is_good = judge_walk(&nested, 1 + NESTED_STATES / (log->tick + 1),
                              judge->counts->states + NESTED_STATES);

    judge->counts->nested += judge->counts->states - before;
    if (!is_good) {
        judge_refuse(judge, "a second crash, at tick %llu of %llu: %s",
                     (unsigned long long)nested.states.tick,
                     (unsigned long long)log->tick, nested.why);
        crash_states_print(&nested.states);
    }
    judge_deinit(&nested);
    return is_good;
}

static uint64_t
target_key(const CrashStates *states)
{
    uint64_t key = states->target_hash;

    for (size_t i = 0; i < states->n_sends; i++) {
        const RecordEntry *entry = states->sends[i].entry;
        uint64_t of[2] = {entry->begin, entry->executed <= states->tick};

        key ^= crash_hash(of, sizeof(of), 7);
    }
    return key;
}

bool
judge_chosen(Judge *judge)
{
    Seed seed = {judge->seed ^
                 crash_hash(&judge->variant, 8, judge->states.tick + 1)};
    bool is_recorded =
        judge->nest_one_in && seed_below(&seed, judge->nest_one_in) == 0;
    struct LifeZombie zombies[ZOMBIES_MAX];
    g_autofree char *root = g_build_filename(judge->dir, "root", NULL);
    RecordLog log;
    RecordIo io;

    place_state(&judge->states);
    record_log_init(&log);
    if (is_recorded) {
        record_log_attach(&log, root);
    }
    record_io_init(&io, store_io_kernel(), &log);
    size_t count = draw_outcome(judge, &seed, zombies);

    if (is_recorded) {
        copy_touched(judge, judge->outcome, judge->target);
    }
    bool is_good = survives(judge, &io.io, &log, &seed, zombies, count);

    touch_raw(judge, &log);
    crash_states_undo(&judge->states);
    restore_target(judge);
    if (is_good && is_recorded) {
        is_good = judge_nested(judge, &log);
    }
    record_log_deinit(&log);
    return is_good;
}

bool
judge_state(Judge *judge, uint64_t variant)
{
    CrashStates *states = &judge->states;

    judge->variant = variant;
    judge->counts->tried++;
    crash_states_choose(states, variant);
    if (!seen_add(judge->seen, states->local_hash ^ target_key(states))) {
        crash_states_undo(states);
        return true;
    }
    judge->counts->states++;
    judge->counts->local += seen_add(judge->seen_local, states->local_hash);
    return judge_chosen(judge);
}

/*
 * A walk
 */
static void
follow_target(Judge *judge)
{
    if (judge->states.is_target_new) {
        copy_touched(judge, judge->target, judge->states.target);
        judge->states.is_target_new = false;
    }
}

void
judge_seek(Judge *judge, uint64_t tick)
{
    crash_states_seek(&judge->states, tick);
    follow_target(judge);
}

/* Between two lives nothing is under way but the store's own records: few
 * ticks, in which everything is decided. */
static bool
is_quiet(Judge *judge)
{
    const RecordEntry *entry = judge->states.events[judge->states.tick].entry;

    if (entry && entry->kind == RECORD_MARK) {
        judge->is_quiet = true;
    } else if (entry && entry->kind == RECORD_GUEST) {
        judge->is_quiet = false;
    }
    return judge->is_quiet;
}

static uint64_t
draw_variant(Seed *seed, uint64_t systematic)
{
    uint64_t kind = seed_below(seed, 8);

    return kind < 2   ? kind
           : kind < 5 ? seed_below(seed, systematic)
                      : systematic + seed_below(seed, UINT32_MAX);
}

uint64_t
judge_stride(const RecordLog *log, uint64_t states)
{
    return MAX(log->tick / MAX(states, 1), 1);
}

bool
judge_walk(Judge *judge, uint64_t budget, uint64_t want)
{
    uint64_t stride = judge_stride(judge->log, want - judge->counts->states);
    uint64_t end = judge->log->tick;
    Seed seed = {judge->seed};

    while (judge->states.tick < end && judge->counts->states < want) {
        uint64_t next =
            judge->states.tick + 1 + seed_below(&seed, 2 * stride - 1);

        judge_seek(judge, MIN(next, end));
        uint64_t systematic = crash_states_systematic(&judge->states);
        uint64_t here = is_quiet(judge) ? QUIET_FACTOR * budget : budget;

        for (uint64_t i = 0; i < here; i++) {
            /* All of the systematic ones if they fit, else some of them. */
            uint64_t variant =
                systematic <= here ? i : draw_variant(&seed, systematic);

            if (!judge_state(judge, variant)) {
                return false;
            }
        }
    }
    return true;
}

void
judge_init(Judge *judge, const struct JudgeConfig *config)
{
    const Judge *parent = config->parent;
    uint64_t clusters = config->size_bytes >> config->cluster_bits;

    *judge = (Judge){
        .log = config->log,
        .oracle = parent ? parent->oracle : oracle_new(config->size_bytes),
        .dir = strdup("/dev/shm/weir-judge-XXXXXX"),
        .cluster_bits = config->cluster_bits,
        .size_bytes = config->size_bytes,
        .clusters = clusters,
        .touched = calloc(clusters, sizeof(bool)),
        .list = calloc(clusters, sizeof(uint64_t)),
        .target = calloc(1, config->size_bytes),
        .outcome = calloc(1, config->size_bytes),
        .changed = calloc(clusters, sizeof(bool)),
        .was_clean = calloc(clusters, sizeof(bool)),
        .seen = config->seen,
        .seen_local = config->seen_local,
        .counts = config->counts,
        .seed = config->seed,
        .nest_one_in = config->nest_one_in,
        .has_bitmaps = config->has_bitmaps,
        .parent = parent,
    };
    assert(mkdtemp(judge->dir));
    judge->path = g_build_filename(judge->dir, "root", "vm", NULL);
    crash_states_init(&judge->states, config->log,
                      &(struct CrashBegin){
                          .dir = judge->dir,
                          .seed = config->seed,
                          .target = parent ? parent->outcome : NULL,
                          .target_bytes = config->size_bytes,
                          .oracle = judge->oracle,
                      });
    if (parent) {
        memcpy(judge->touched, parent->touched, clusters * sizeof(bool));
    }
    find_touched(judge);
    follow_target(judge);
}

void
judge_deinit(Judge *judge)
{
    place_forget(&judge->states);
    crash_states_deinit(&judge->states);
    if (!judge->parent) {
        oracle_free(judge->oracle);
    }
    scratch_free(judge->dir);
    g_free(judge->path);
    free(judge->touched);
    free(judge->list);
    free(judge->target);
    free(judge->outcome);
    free(judge->changed);
    free(judge->was_clean);
}
