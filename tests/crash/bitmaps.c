/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap is a superset if each sector that is not what it was at its base is
 * dirty in it: whether that was written after it, and is here; or before it, and
 * is lost; or in part. While a clearing is under way, or after one that failed,
 * its base is either of two.
 *
 * A job's bitmap gets its base when the job ends well: the instant of its
 * freezing, or of its last renewal. Until then what it had and what its successor
 * has count together; and while the state has it busy the job has not ended.
 *
 * "coarse" is cleared only together with being merged into "sum", which records
 * nothing itself: the two together have all since the base of "sum", whatever is
 * between the merge and the clearing. While "off" is disabled nothing is asked of
 * it. "guest" comes and goes, so what is asked first is whether it is there.
 */
#include "bitmaps.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "fs/store-bitmaps.h"

enum { FINE, COARSE, JOB, SUM, OFF, GUEST };

static const struct {
    const char *name;
    unsigned grain_bits;
    bool is_disabled;
} shapes[BITMAPS] = {
    [FINE] = {"fine", 9, false}, [COARSE] = {"coarse", 16, false},
    [JOB] = {"job", 12, false},  [SUM] = {"sum", 16, true},
    [OFF] = {"off", 12, false},  [GUEST] = {"guest", 12, false},
};

#define CLEARED "bitmap" /* a mark: it has its base */
#define REMOVED "bitmap removed"
#define NO_BASE UINT64_MAX /* of one that records nothing */

/*
 * In a recording
 */
void
bitmaps_create(const char *path)
{
    GError *error = NULL;
    Store *store = store_open(store_io_kernel(), path, 0, &error);
    bool is_good = store != NULL;

    for (unsigned i = 0; is_good && i < GUEST; i++) {
        is_good = store_bitmap_add(store, store->disks[0], shapes[i].name,
                                   shapes[i].grain_bits, true,
                                   shapes[i].is_disabled, &error);
    }
    is_good = is_good && store_close_clean(store, &error);
    if (!is_good) {
        fprintf(stderr, "bitmaps: %s\n", error->message);
    }
    assert(is_good);
    store_free(store);
}

static RecordEntry *
begin(World *world, const char *what, unsigned number)
{
    RecordEntry *entry = record_log_begin(&world->log, RECORD_MARK, RECORD_NONE,
                                          0, number, NULL);

    record_name(entry->name, what);
    entry->offset = entry->begin;
    return entry;
}

static bool
save(World *world)
{
    return store_bitmaps_save(world->served.store, world->disk, NULL);
}

/*
 * Jobs
 */
static void
begin_job(World *world)
{
    NamedBitmap *frozen;
    enum NamedResult result;

    record_log_mark(&world->log, "job begins");
    world->job_tick = world->log.tick;
    result = named_freeze(world->disk->bitmaps, shapes[JOB].name, &frozen);
    if (result == NAMED_MISSING) { /* their list could not be read */
        world->job_tick = 0;
        return;
    }
    assert(result == NAMED_OK);
    (void)save(world);
}

/* As a mirror does before its last instant. */
static void
renew_job(World *world, NamedBitmap *frozen)
{
    record_log_mark(&world->log, "job renews");
    world->job_tick = world->log.tick;
    named_renew(frozen);
    (void)save(world);
}

/* Some of it was not copied. */
static void
leave_rest(World *world, NamedBitmap *frozen, Seed *seed)
{
    uint64_t size = atomic_load(&world->disk->size_bytes);
    DiskMap *rest = disk_map_new(size, shapes[COARSE].grain_bits);

    assert(rest);
    disk_map_mark(rest, seed_below(seed, size), 1, 1);
    named_thaw(frozen, NAMED_REST, rest);
    disk_map_free(rest);
}

/* One of a life that ended in a crash began at some other time. */
static void
end_job(World *world, NamedBitmap *frozen, Seed *seed)
{
    uint64_t end = world->job_tick ? seed_below(seed, 3) : NAMED_OLD;
    RecordEntry *entry = NULL;
    bool is_saved;

    if (end != NAMED_OLD) {
        entry = begin(world, CLEARED, JOB);
        entry->offset = world->job_tick;
    }
    if (end == NAMED_REST) {
        leave_rest(world, frozen, seed);
    } else {
        named_thaw(frozen, (enum NamedEnd)end, NULL);
    }
    is_saved = save(world);
    if (entry) {
        record_log_end(&world->log, entry, is_saved ? 0 : -1);
    }
    world->job_tick = 0;
}

static void
work_job(World *world, Seed *seed)
{
    NamedBitmap *frozen = named_frozen(world->disk->bitmaps, shapes[JOB].name);

    if (!frozen) {
        begin_job(world);
    } else if (world->job_tick && seed_below(seed, 3) == 0) {
        renew_job(world, frozen);
    } else {
        end_job(world, frozen, seed);
    }
}

/*
 * Commands
 */

/* As a transaction: sum |= coarse, and coarse is cleared, with one save. */
static bool
move_to_sum(World *world)
{
    static const char *const names[] = {"sum", "coarse"};
    GMutex *lock = &world->served.store->checkpoint_lock;
    NamedBitmaps *set = world->disk->bitmaps;
    NamedUndo *undo[] = {named_undo_new(set, names[0]),
                         named_undo_new(set, names[1])};
    bool is_done;

    assert(undo[0] && undo[1]);
    g_mutex_lock(lock);
    is_done = named_merge(set, names[0], &names[1], 1) == NAMED_OK &&
              named_clear(set, names[1]) == NAMED_OK;
    g_mutex_unlock(lock);
    is_done = is_done && save(world);
    g_mutex_lock(lock);
    for (unsigned i = 0; i < G_N_ELEMENTS(undo); i++) {
        if (is_done) {
            named_undo_free(undo[i]);
        } else {
            named_undo_run(undo[i]);
        }
    }
    g_mutex_unlock(lock);
    return is_done || (save(world), false);
}

static bool
clear(World *world, unsigned number)
{
    return store_bitmap_clear(world->served.store, world->disk,
                              shapes[number].name, NULL);
}

static void
work_off(World *world)
{
    RecordEntry *entry = begin(world, CLEARED, OFF);
    struct NamedFigures figures = {0};
    bool is_done;

    (void)named_find(world->disk->bitmaps, shapes[OFF].name, &figures);
    if (figures.is_enabled) {
        entry->offset = NO_BASE;
    }
    is_done = store_bitmap_enable(world->served.store, world->disk,
                                  shapes[OFF].name, !figures.is_enabled, NULL);
    record_log_end(&world->log, entry, is_done ? 0 : -1);
}

static void
work_guest(World *world)
{
    const char *name = shapes[GUEST].name;
    Store *store = world->served.store;
    struct NamedFigures figures;
    bool is_there = named_find(world->disk->bitmaps, name, &figures);
    RecordEntry *entry = begin(world, is_there ? REMOVED : CLEARED, GUEST);
    bool is_done =
        is_there
            ? store_bitmap_remove(store, world->disk, name, NULL)
            : store_bitmap_add(store, world->disk, name,
                               shapes[GUEST].grain_bits, true, false, NULL);

    record_log_end(&world->log, entry, is_done ? 0 : -1);
}

void
bitmaps_work(World *world)
{
    Seed seed = {seed_next(&world->seed)};
    unsigned number = (unsigned)seed_below(&seed, BITMAPS);
    RecordEntry *entry;
    bool is_done;

    assert(world->n_flight == 0);
    switch (number) {
    case JOB:
        work_job(world, &seed);
        return;
    case OFF:
        work_off(world);
        return;
    case GUEST:
        work_guest(world);
        return;
    default:
        break;
    }
    entry = begin(world, CLEARED, number);
    if (number == COARSE) {
        world->coarse_tick = entry->offset;
    } else if (number == SUM) {
        entry->offset = world->coarse_tick; /* the two of them are asked */
    }
    is_done = number == COARSE ? move_to_sum(world) : clear(world, number);
    record_log_end(&world->log, entry, is_done ? 0 : -1);
}

/*
 * What they are
 */
static Bitmap *
copy_of(Disk *disk, unsigned number, bool *is_busy)
{
    struct NamedFigures figures;
    Bitmap *bits, *successor;

    if (!named_find(disk->bitmaps, shapes[number].name, &figures) ||
        named_copy(disk->bitmaps, figures.id, &bits, &successor)) {
        return NULL;
    }
    *is_busy = figures.is_busy;
    if (successor) {
        bitmap_merge(bits, successor);
        bitmap_free(successor);
    }
    return bits;
}

static uint64_t
sum_of(Disk *disk, unsigned number, bool *is_full)
{
    struct NamedFigures figures;
    struct ClusterRun run = {0, 0};
    uint64_t sum = 0;
    bool is_busy;
    Bitmap *bits = copy_of(disk, number, &is_busy);

    *is_full = bits && bitmap_count(bits) == bitmap_clusters(bits);
    while (bits &&
           bitmap_next_run(bits, run.first + run.count, UINT64_MAX, &run)) {
        sum = XXH3_64bits_withSeed(&run, sizeof(run), sum);
    }
    if (bits && named_find(disk->bitmaps, shapes[number].name, &figures)) {
        figures.version = 0;
        sum = XXH3_64bits_withSeed(&figures, sizeof(figures), sum);
    }
    bitmap_free(bits);
    return sum;
}

bool
bitmaps_sums(Disk *disk, uint64_t sums[BITMAPS])
{
    bool has_some = false;

    for (unsigned i = 0; i < BITMAPS; i++) {
        bool is_full;

        sums[i] = sum_of(disk, i, &is_full);
        has_some |= sums[i] != 0;
    }
    return has_some;
}

bool
bitmaps_are_kept(StoreIo *io, const char *path, const uint64_t sums[BITMAPS],
                 bool may_be_full)
{
    Store *store = store_open(io, path, STORE_OPEN_READ, NULL);
    bool are_kept = store && store->n_disks;

    for (unsigned i = 0; are_kept && i < BITMAPS; i++) {
        bool is_full;

        are_kept = sum_of(store->disks[0], i, &is_full) == sums[i] ||
                   (may_be_full && is_full);
    }
    if (store) {
        store_free(store);
    }
    return are_kept;
}

/*
 * In a state
 */

/* Where @bits do not say what has changed since @base; UINT64_MAX: nowhere. */
static uint64_t
find_missing(Judge *judge, const Bitmap *bits, uint64_t base)
{
    const uint64_t *numbers;
    uint64_t count = oracle_count(judge->oracle, &numbers);
    unsigned shift = bitmap_cluster_bits(bits);
    const uint8_t *raw = judge->states.raw->now;

    if (base == NO_BASE) {
        return UINT64_MAX;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = numbers[i] * SECTOR;

        if (!bitmap_get(bits, offset >> shift) &&
            !oracle_was(judge->oracle, offset, base, raw + offset)) {
            return offset;
        }
    }
    return UINT64_MAX;
}

/* The recording that the guest is in, and how far it had come. */
static const Judge *
root_of(const Judge *judge)
{
    while (judge->parent) {
        judge = judge->parent;
    }
    return judge;
}

/* Since the last clearing that is done, and for each that may be. */
static bool
check_one(Judge *judge, const Bitmap *bits, unsigned number, bool is_busy)
{
    const Judge *root = root_of(judge);
    uint64_t base = 0, missing;
    bool is_good;

    for (size_t i = 0; i < root->log->count; i++) {
        const RecordEntry *entry = root->log->entries[i];

        if (entry->kind == RECORD_MARK && !strcmp(entry->name, CLEARED) &&
            entry->len == number && entry->end <= root->states.tick &&
            entry->result == 0) {
            base = entry->offset;
        }
    }
    missing = find_missing(judge, bits, base);
    is_good = missing == UINT64_MAX;
    for (size_t i = 0; !is_good && i < root->log->count; i++) {
        const RecordEntry *entry = root->log->entries[i];

        is_good = entry->kind == RECORD_MARK && !strcmp(entry->name, CLEARED) &&
                  entry->len == number && entry->begin <= root->states.tick &&
                  entry->offset > base &&
                  !(is_busy && entry->end > root->states.tick) &&
                  find_missing(judge, bits, entry->offset) == UINT64_MAX;
    }
    return is_good ||
           judge_refuse(judge,
                        "bitmap %s is clean at %llu, which is not what it was "
                        "at tick %llu",
                        shapes[number].name, (unsigned long long)missing,
                        (unsigned long long)base);
}

/* Is it a guest's, which need not be there; or must not? */
static bool
check_there(Judge *judge, unsigned number, bool is_there)
{
    const Judge *root = root_of(judge);
    bool may_be_there = number != GUEST, may_be_away = number == GUEST;

    for (size_t i = 0; number == GUEST && i < root->log->count; i++) {
        const RecordEntry *entry = root->log->entries[i];
        bool is_removal = !strcmp(entry->name, REMOVED);
        bool is_done = entry->end <= root->states.tick && entry->result == 0;

        if (entry->kind != RECORD_MARK || entry->begin > root->states.tick ||
            entry->len != number ||
            (!is_removal && strcmp(entry->name, CLEARED) != 0)) {
            continue;
        }
        may_be_away = is_removal || (may_be_away && !is_done);
        may_be_there = !is_removal || (may_be_there && !is_done);
    }
    return (is_there ? may_be_there : may_be_away || judge->is_damaged) ||
           judge_refuse(judge, "bitmap %s is %sthere", shapes[number].name,
                        is_there ? "" : "not ");
}

/* What is asked of it; NULL: it is not there. */
static Bitmap *
asked_of(Disk *disk, unsigned number, bool *is_busy)
{
    Bitmap *bits = copy_of(disk, number, is_busy);
    Bitmap *other = number == SUM ? copy_of(disk, COARSE, is_busy) : NULL;

    if (bits && other) {
        bitmap_merge(bits, other);
    } else if (number == SUM) {
        g_clear_pointer(&bits, bitmap_free);
    }
    bitmap_free(other);
    return bits;
}

bool
judge_check_bitmaps(Judge *judge, Disk *disk)
{
    bool is_good = true;

    for (unsigned i = 0; judge->has_bitmaps && is_good && i < BITMAPS; i++) {
        bool is_busy;
        Bitmap *bits = asked_of(disk, i, &is_busy);

        is_good = check_there(judge, i, bits != NULL);
        if (bits && is_good) {
            is_good = check_one(judge, bits, i, is_busy);
            judge->counts->bitmaps +=
                bitmap_count(bits) < bitmap_clusters(bits);
        }
        bitmap_free(bits);
    }
    return is_good;
}
