/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap is a superset if each sector that is not what it was at its base is
 * dirty in it: whether that was written after it, and is here; or before it, and
 * is lost; or in part. While a clearing is under way, or after one that failed,
 * its base is either of two.
 *
 * A job's bitmap gets its base when the job ends well: the instant of its
 * freezing. Until then what it had and what its successor has count together;
 * and while the state has it busy the job has not ended.
 */
#include "bitmaps.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "fs/store-bitmaps.h"

static const struct {
    const char *name;
    unsigned grain_bits;
} shapes[BITMAPS] = {{"fine", 9}, {"coarse", 16}, {"job", 12}};

#define JOB 2

/*
 * In a recording
 */
void
bitmaps_create(const char *path)
{
    GError *error = NULL;
    Store *store = store_open(store_io_kernel(), path, 0, &error);
    bool is_good = store != NULL;

    for (unsigned i = 0; is_good && i < BITMAPS; i++) {
        is_good = store_bitmap_add(store, store->disks[0], shapes[i].name,
                                   shapes[i].grain_bits, true, false, &error);
    }
    is_good = is_good && store_close_clean(store, &error);
    if (!is_good) {
        fprintf(stderr, "bitmaps: %s\n", error->message);
    }
    assert(is_good);
    store_free(store);
}

static RecordEntry *
begin(World *world, unsigned number)
{
    RecordEntry *entry = record_log_begin(&world->log, RECORD_MARK, RECORD_NONE,
                                          0, number, NULL);

    record_name(entry->name, "bitmap");
    entry->offset = entry->begin;
    return entry;
}

static void
begin_job(World *world)
{
    Store *store = world->served.store;
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
    (void)store_bitmaps_save(store, world->disk, NULL);
}

/* One of a life that ended in a crash began at some other time. */
static void
end_job(World *world, NamedBitmap *frozen)
{
    bool is_done = world->job_tick && seed_below(&world->seed, 2);
    RecordEntry *entry = NULL;
    gboolean is_saved;

    if (is_done) {
        entry = begin(world, JOB);
        entry->offset = world->job_tick;
    }
    named_thaw(frozen, is_done ? NAMED_NEW : NAMED_OLD, NULL);
    is_saved = store_bitmaps_save(world->served.store, world->disk, NULL);
    if (entry) {
        record_log_end(&world->log, entry, is_saved ? 0 : -1);
    }
    world->job_tick = 0;
}

void
bitmaps_work(World *world)
{
    unsigned number = (unsigned)seed_below(&world->seed, BITMAPS);
    NamedBitmap *frozen;
    RecordEntry *entry;
    gboolean is_cleared;

    assert(world->n_flight == 0);
    if (number == JOB) {
        frozen = named_frozen(world->disk->bitmaps, shapes[JOB].name);
        if (frozen) {
            end_job(world, frozen);
        } else {
            begin_job(world);
        }
        return;
    }
    entry = begin(world, number);
    is_cleared = store_bitmap_clear(world->served.store, world->disk,
                                    shapes[number].name, NULL);
    record_log_end(&world->log, entry, is_cleared ? 0 : -1);
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

        if (entry->kind == RECORD_MARK && !strcmp(entry->name, "bitmap") &&
            entry->len == number && entry->end <= root->states.tick &&
            entry->result == 0) {
            base = entry->offset;
        }
    }
    missing = find_missing(judge, bits, base);
    is_good = missing == UINT64_MAX;
    for (size_t i = 0; !is_good && i < root->log->count; i++) {
        const RecordEntry *entry = root->log->entries[i];

        is_good = entry->kind == RECORD_MARK &&
                  !strcmp(entry->name, "bitmap") && entry->len == number &&
                  entry->begin <= root->states.tick && entry->offset > base &&
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

bool
judge_check_bitmaps(Judge *judge, Disk *disk)
{
    bool is_good = true;

    for (unsigned i = 0; judge->has_bitmaps && is_good && i < BITMAPS; i++) {
        bool is_busy;
        Bitmap *bits = copy_of(disk, i, &is_busy);

        if (bits) {
            is_good = check_one(judge, bits, i, is_busy);
            judge->counts->bitmaps +=
                bitmap_count(bits) < bitmap_clusters(bits);
        } else if (!judge->is_damaged) {
            is_good =
                judge_refuse(judge, "bitmap %s is not there", shapes[i].name);
        }
        bitmap_free(bits);
    }
    return is_good;
}
