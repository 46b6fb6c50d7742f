/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-snapshots.c - snapshots after every crash
 *
 * A script makes snapshots of a store's one disk, writes it, with a copy before
 * each write as the face makes it, and deletes snapshots, over a recording
 * StoreIo. Of every instant of the recording states are built that a loss of
 * power may leave, and a store is opened on each:
 *
 *   - a snapshot whose making had ended is there, unless its deletion had begun;
 *   - one whose deletion had ended is not;
 *   - each that is there reads as what the disk was at its instant, before and
 *     after a serve has tidied; only where a sector of a map was torn in itself
 *     it may say that it does not know;
 *   - so do the others when they are deleted one by one, and then nothing is
 *     left of any.
 *
 *     crash-snapshots [--seed N] [--runs N] [--steps N] [--states N]
 *                     [--forget FILE]
 *
 * --forget leaves out the data syncs of files whose name ends in that (".data",
 * ".map", "disk.raw"), which has to be seen: then it fails as it should.
 */
#include "fs/snapshot-private.h"
#include "place.h"
#include "tests/lib/command.h"
#include "tests/lib/quick-io.h"
#include "tests/lib/record-io.h"
#include "tests/lib/scratch.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#define BITS     12
#define CLUSTER  (1u << BITS)
#define CLUSTERS 24u
#define IDS      4096u

struct Content {
    uint64_t of[CLUSTERS]; /* number of the write; 0: zeroes */
};

/* By id: ticks of the recording, 0: not yet. */
struct Life {
    struct Content then;
    bool is_begun;
    uint64_t made, dropping, dropped;
};

struct Run {
    RecordLog log;
    RecordIo record;
    Store *store;
    Disk *disk;
    Seed seed;
    struct Content now;
    uint64_t writes;
    struct Life lives[IDS];
    bool has_junk; /* the state that is judged: a sector of a file but disk.raw
                      is neither old nor new */
    char why[200];
    uint64_t states;
};

static void
fill(uint64_t *words, uint64_t number)
{
    for (unsigned i = 0; i < CLUSTER / sizeof(*words); i++) {
        words[i] = number ? number << 16 | i : 0;
    }
}

/*
 * The recording
 */
static void
overwrite(struct Run *run, bool is_discard)
{
    uint64_t cluster = seed_below(&run->seed, CLUSTERS);
    struct ClusterRun one = {cluster, 1};
    uint64_t *words = aligned_alloc(4096, CLUSTER);
    StoreIo *io = &run->record.io;
    int err = store_keep(run->store, run->disk, &one, 1);
    ssize_t n;

    assert(!err);
    run->now.of[cluster] = is_discard ? 0 : ++run->writes;
    if (is_discard) {
        n = io->ops->fallocate(io, run->disk->map_fd,
                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               cluster * CLUSTER, CLUSTER);
        assert(n == 0);
    } else {
        fill(words, run->writes);
        n = io->ops->pwrite(io, run->disk->fd, words, CLUSTER,
                            cluster * CLUSTER);
        assert(n == CLUSTER);
    }
    free(words);
}

/* As it goes while a face is at work: writes between the instant and the
 * record. */
static void
make(struct Run *run)
{
    SnapshotDraft *draft =
        store_snapshot_prepare(run->store, NULL, "user", NULL);
    struct Life *life;
    int err;
    gboolean ok;

    assert(draft && draft->snapshot.id < IDS);
    life = &run->lives[draft->snapshot.id];
    life->then = run->now;
    life->is_begun = true;
    points_add(run->disk->points, draft->points[0]);
    for (uint64_t left = seed_below(&run->seed, 4); left > 0; left--) {
        overwrite(run, false);
    }
    err = run->record.io.ops->fdatasync(&run->record.io, run->disk->map_fd);
    ok = store_snapshot_commit(run->store, draft, NULL);
    assert(!err && ok);
    life->made = run->log.tick;
}

static void
drop(struct Run *run)
{
    unsigned count = snapshot_list_count(run->store->snapshots);
    Snapshot snapshot;
    gboolean ok;

    if (count &&
        snapshot_list_at(run->store->snapshots,
                         (unsigned)seed_below(&run->seed, count), &snapshot)) {
        run->lives[snapshot.id].dropping = run->log.tick + 1;
        ok = store_snapshot_delete_now(run->store, snapshot.id, NULL);
        assert(ok);
        run->lives[snapshot.id].dropped = run->log.tick;
    }
}

static void
begin(struct Run *run, const char *path)
{
    gboolean ok;

    run->store = store_open(&run->record.io, path, 0, NULL);
    assert(run->store);
    run->disk = run->store->disks[0];
    ok = store_serve(run->store, NULL);
    assert(ok);
}

static void
record(struct Run *run, const char *path, uint64_t steps)
{
    begin(run, path);
    for (uint64_t i = 0; i < steps; i++) {
        uint64_t what = seed_below(&run->seed, 20);

        if (what < 12) {
            overwrite(run, what == 0);
        } else if (what < 16) {
            make(run);
        } else if (what < 19) {
            drop(run);
        } else {
            gboolean ok = seed_below(&run->seed, 2) == 0 ||
                          store_close_clean(run->store, NULL);

            assert(ok);
            store_free(run->store);
            begin(run, path);
        }
    }
    store_free(run->store);
}

/*
 * The judgement
 */
static bool
refuse(struct Run *run, const char *what, uint64_t id, uint64_t cluster)
{
    snprintf(run->why, sizeof(run->why), "snapshot %llu, cluster %llu: %s",
             (unsigned long long)id, (unsigned long long)cluster, what);
    return false;
}

static bool
judge_cluster(struct Run *run, Disk *disk, uint64_t id, uint64_t cluster)
{
    uint64_t *words = aligned_alloc(4096, 2 * CLUSTER);
    uint64_t *want = words + CLUSTER / sizeof(*words);
    Point *point = NULL;
    uint64_t count;
    enum PointsPlace place =
        points_find(disk->points, id, cluster, 1, &point, &count);
    ssize_t n = pread(point ? point_data_fd(point) : disk->fd, words, CLUSTER,
                      (off_t)(cluster * CLUSTER));
    bool is_good;

    if (point) {
        points_done(disk->points, point);
    }
    fill(want, run->lives[id].then.of[cluster]);
    is_good = place == POINTS_UNSURE ? run->has_junk
                                     : place != POINTS_GONE && n == CLUSTER &&
                                           memcmp(words, want, CLUSTER) == 0;
    if (!is_good) {
        (void)refuse(run,
                     place == POINTS_UNSURE ? "unsure"
                     : place == POINTS_FILE ? "kept, and something else"
                                            : "on the disk, and not so",
                     id, cluster);
    }
    free(words);
    return is_good;
}

/* Each that is listed. */
static bool
judge_content(struct Run *run, Store *store)
{
    Snapshot snapshot;

    for (unsigned i = 0; snapshot_list_at(store->snapshots, i, &snapshot);
         i++) {
        if (!run->lives[snapshot.id].is_begun ||
            (snapshot.is_damaged && !run->has_junk)) {
            return refuse(run, "damaged, or never begun", snapshot.id, 0);
        }
        for (uint64_t cluster = 0; cluster < CLUSTERS; cluster++) {
            if (!judge_cluster(run, store->disks[0], snapshot.id, cluster)) {
                return false;
            }
        }
    }
    return true;
}

static bool
judge_list(struct Run *run, Store *store, uint64_t tick)
{
    for (uint64_t id = 1; id < IDS; id++) {
        const struct Life *life = &run->lives[id];
        bool is_there = snapshot_list_get(store->snapshots, id, NULL);
        bool was_made = life->made && life->made <= tick;

        if (is_there && life->dropped && life->dropped <= tick) {
            return refuse(run, "is there again", id, 0);
        }
        if (!is_there && was_made &&
            !(life->dropping && life->dropping <= tick)) {
            return refuse(run, "is not there", id, 0);
        }
        if (was_made && id > store->last_snapshot) {
            return refuse(run, "has an id that would be given again", id, 0);
        }
    }
    return true;
}

static void
count_cb(const char *name, void *user)
{
    *(unsigned *)user += strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* All are deleted, and what is gone already is reaped. */
static bool
judge_end(struct Run *run, Store *store)
{
    unsigned left = 0;
    Snapshot snapshot;
    GArray *gone;

    while (snapshot_list_at(store->snapshots, 0, &snapshot)) {
        unsigned count = snapshot_list_count(store->snapshots);

        (void)snapshot_list_at(store->snapshots,
                               (unsigned)seed_below(&run->seed, count),
                               &snapshot);
        if (!store_snapshot_delete_now(store, snapshot.id, NULL)) {
            return refuse(run, "cannot be deleted", snapshot.id, 0);
        }
        if (!judge_content(run, store)) {
            return false;
        }
    }
    gone = store_snapshots_gone(store);
    for (guint i = 0; i < gone->len; i++) {
        (void)store_snapshot_reap_now(store, g_array_index(gone, uint64_t, i));
    }
    g_array_unref(gone);
    if (snapshot_files_dir(store) >= 0) {
        (void)snapshot_files_names(snapshot_files_dir(store), count_cb, &left);
    }
    if (snapshot_files_points(store, store->disks[0]) >= 0) {
        (void)snapshot_files_names(
            snapshot_files_points(store, store->disks[0]), count_cb, &left);
    }
    return left == 0 || refuse(run, "files are left", left, 0);
}

static bool
judge_state(struct Run *run, CrashStates *states, const char *root)
{
    GError *error = NULL;
    Store *store;
    bool is_good;

    place_state(states);
    run->has_junk = states->has_junk;
    run->states++;
    store = store_open(quick_io(), root, 0, &error);
    if (!store) {
        snprintf(run->why, sizeof(run->why), "%s", error->message);
        g_error_free(error);
        return false;
    }
    is_good = judge_list(run, store, states->tick) && judge_content(run, store);
    if (is_good && store_serve(store, NULL)) {
        is_good = judge_list(run, store, states->tick) &&
                  judge_content(run, store) && judge_end(run, store);
    }
    store_free(store);
    return is_good;
}

/* Some states of the instant that was sought. */
static bool
judge_instant(struct Run *run, CrashStates *states, const char *root,
              uint64_t each)
{
    uint64_t systematic = crash_states_systematic(states);
    bool is_good = true;

    for (uint64_t n = 0; is_good && n < each; n++) {
        uint64_t random = seed_next(&run->seed) >> 1;
        uint64_t variant = n < 2 ? n : n % 2 ? random % systematic : random;

        crash_states_choose(states, variant);
        is_good = judge_state(run, states, root);
        if (!is_good) {
            printf("tick %llu of %llu, variant %llu: %s\n",
                   (unsigned long long)states->tick,
                   (unsigned long long)run->log.tick,
                   (unsigned long long)variant, run->why);
            crash_states_print(states);
        }
        crash_states_undo(states);
    }
    return is_good;
}

static bool
judge_all(struct Run *run, const char *dir, uint64_t each)
{
    const struct CrashBegin from = {.dir = dir,
                                    .seed = seed_next(&run->seed),
                                    .target_bytes = SECTOR_BYTES};
    g_autofree char *root = g_build_filename(dir, "root", NULL);
    CrashStates states;
    bool is_good = true;

    crash_states_init(&states, &run->log, &from);
    for (uint64_t tick = 1; is_good && tick <= run->log.tick; tick++) {
        crash_states_seek(&states, tick);
        is_good = judge_instant(run, &states, root, each);
    }
    place_forget(&states);
    crash_states_deinit(&states);
    return is_good;
}

static bool
run_one(struct Run *run, const char *forget, uint64_t steps, uint64_t each)
{
    char *dir = scratch_new(), *place = scratch_new();
    g_autofree char *path = g_build_filename(dir, "vm", NULL);
    g_autofree char *address = g_build_filename(path, "vda", NULL);
    const struct StoreCreate ask = {.address = address,
                                    .size_bytes = CLUSTERS * CLUSTER,
                                    .cluster_bits = BITS};
    gboolean ok = store_create_disk(quick_io(), &ask, NULL);
    bool is_good;

    assert(ok);
    record_log_init(&run->log);
    record_log_attach(&run->log, path);
    record_io_init(&run->record, quick_io(), &run->log);
    run->record.forget = forget;
    record(run, path, steps);
    is_good = judge_all(run, place, each);
    record_log_deinit(&run->log);
    scratch_free(dir);
    scratch_free(place);
    return is_good;
}

int
main(int argc, char **argv)
{
    uint64_t seed = command_option(argc, argv, "--seed", 1);
    uint64_t runs = command_option(argc, argv, "--runs", 3);
    uint64_t steps = command_option(argc, argv, "--steps", 40);
    uint64_t each = command_option(argc, argv, "--states", 4);
    const char *forget = NULL;
    uint64_t states = 0;
    bool is_good = true;

    command_begin();
    for (int i = 1; i + 1 < argc; i += 2) {
        forget = strcmp(argv[i], "--forget") ? forget : argv[i + 1];
    }
    for (uint64_t i = 0; is_good && i < runs; i++) {
        g_autofree struct Run *run = g_new0(struct Run, 1);

        printf("seed %llu\n", (unsigned long long)(seed + i));
        run->seed.state = seed + i;
        is_good = run_one(run, forget, steps, each);
        states += run->states;
    }
    printf("%llu crash states\n", (unsigned long long)states);
    return is_good ? EXIT_SUCCESS : EXIT_FAILURE;
}
