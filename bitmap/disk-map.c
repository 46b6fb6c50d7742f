/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map.c - generations of the dirty bitmap, behind one short lock
 *
 *     guest marks            relay clears
 *         |                       |
 *         v        seal           v      retire (nothing dirty in it)
 *      [ open ] ---------> [ sealed ... oldest ] ---------> spare
 *
 * A guest write marks the open generation before it is submitted and again
 * when it is complete, in the generation that is open by then (rule 1): what
 * the relay read between seal and completion may be old, and the second mark
 * says so. The relay clears bits of the oldest sealed generation only (rule
 * 2). Sealing moves the open bitmap to the end of the queue and opens the
 * spare one: no bit is copied, whatever the size of the disk.
 *
 * dirty_clusters is the size of the union of all generations. It changes by
 * the clusters of a run that no generation has: all of them when the run is
 * marked, the difference before and after when it is settled. count_clean()
 * finds them word by word, for the run alone.
 *
 * What touches a whole disk (mark_all, load, union, next_clean) goes in slices
 * and lets others in between. Each cluster is then seen at an instant of its
 * own during the call, which is enough: a checkpoint may hold more than is
 * dirty, and a mark made meanwhile is the marker's to make durable.
 *
 * A hold that had to wait is marked when it is granted, by whoever dropped the
 * one in its way and at that moment, before its owner hears of it.
 */
#include "disk-map.h"

#include "mutant.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* 64 K clusters: 8 KiB of bits per generation, some ten microseconds. */
#define SLICE_CLUSTERS (UINT64_C(1) << 16)

struct Generation {
    Bitmap *bits;
    uint64_t seq;
    int64_t first_mark_us; /* meaningless while bits are all clean */
};

struct DiskMap {
    /* set at creation */
    unsigned cluster_bits;

    pthread_mutex_t lock;
    /* guarded by lock */
    uint64_t size_bytes;
    struct Generation open;
    struct Generation sealed[DISK_MAP_SEALED_MAX]; /* [0] is the oldest */
    unsigned n_sealed;
    Bitmap *spare; /* all clean, of this size; may be NULL */
    Bitmap *begun; /* mutant: writes begun since the last seal */
    RangeTable ranges;
    int64_t grant_us; /* now, for holds granted by the drop in progress */
    uint64_t dirty_clusters;
    uint64_t dirtied_clusters;
};

static void
lock(DiskMap *map)
{
    int r = pthread_mutex_lock(&map->lock);

    assert(r == 0);
}

static void
unlock(DiskMap *map)
{
    int r = pthread_mutex_unlock(&map->lock);

    assert(r == 0);
}

static uint64_t
clusters_locked(const DiskMap *map)
{
    return bitmap_clusters(map->open.bits);
}

/* Word @w of the union. */
static uint64_t
union_word_locked(const DiskMap *map, uint64_t w)
{
    uint64_t word = bitmap_word(map->open.bits, w);

    for (unsigned i = 0; i < map->n_sealed; i++) {
        word |= bitmap_word(map->sealed[i].bits, w);
    }
    return word;
}

/* How many clusters of @run are clean in every generation. */
static uint64_t
count_clean_locked(const DiskMap *map, struct ClusterRun run)
{
    uint64_t at = run.first;
    uint64_t end = run.first + run.count;
    uint64_t dirty = 0;

    while (at < end) {
        uint64_t word_end = (at | 63) + 1;
        uint64_t stop = word_end < end ? word_end : end;
        uint64_t word = union_word_locked(map, at >> 6) >> (at & 63);

        word &= UINT64_MAX >> (64 - (stop - at));
        dirty += (unsigned)__builtin_popcountll(word);
        at = stop;
    }
    return run.count - dirty;
}

static void
mark_run_locked(DiskMap *map, struct ClusterRun run, int64_t now_us)
{
    uint64_t clean;

    /* The hot case: a cluster that is dirty in the open generation. */
    if (!run.count ||
        (run.count == 1 && bitmap_get(map->open.bits, run.first))) {
        return;
    }
    clean = count_clean_locked(map, run);
    if (!bitmap_count(map->open.bits)) {
        map->open.first_mark_us = now_us;
    }
    map->dirtied_clusters += bitmap_set_run(map->open.bits, run);
    map->dirty_clusters += clean;
}

static void
mark_locked(DiskMap *map, uint64_t offset, uint64_t len, int64_t now_us)
{
    uint64_t end;

    assert(range_end(offset, len, map->size_bytes, &end));
    mark_run_locked(map, run_outward(offset, len, map->cluster_bits), now_us);
}

/* A writer has got its range: the first mark (rule 1). */
static void
begin_marks_locked(DiskMap *map, const RangeHold *hold, int64_t now_us)
{
    if (!range_kind_writes(hold->kind)) {
        return;
    }
    if (!mutant(MUTANT_NO_FIRST_MARKING)) {
        mark_locked(map, hold->offset, hold->len, now_us);
    }
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        bitmap_set_bytes(map->begun, hold->offset, hold->len);
    }
}

static void
granted_locked(RangeTable *ranges, RangeHold *hold)
{
    DiskMap *map =
        (DiskMap *)((char *)ranges - __builtin_offsetof(DiskMap, ranges));

    begin_marks_locked(map, hold, map->grant_us);
}

DiskMap *
disk_map_new(uint64_t size_bytes, unsigned cluster_bits)
{
    DiskMap *map = calloc(1, sizeof(*map));

    if (!map) {
        return NULL;
    }
    if (pthread_mutex_init(&map->lock, NULL)) {
        free(map);
        return NULL;
    }
    map->size_bytes = size_bytes;
    map->cluster_bits = cluster_bits;
    map->open.seq = 1;
    map->open.bits = bitmap_new(size_bytes, cluster_bits);
    map->spare = bitmap_new(size_bytes, cluster_bits);
    map->ranges.on_grant = granted_locked;
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        map->begun = bitmap_new(size_bytes, cluster_bits);
    }
    if (!map->open.bits || !map->spare) {
        disk_map_free(map);
        return NULL;
    }
    return map;
}

void
disk_map_free(DiskMap *map)
{
    if (!map) {
        return;
    }
    for (unsigned i = 0; i < map->n_sealed; i++) {
        bitmap_free(map->sealed[i].bits);
    }
    bitmap_free(map->open.bits);
    bitmap_free(map->spare);
    bitmap_free(map->begun);
    pthread_mutex_destroy(&map->lock);
    free(map);
}

uint64_t
disk_map_size_bytes(DiskMap *map)
{
    uint64_t size;

    lock(map);
    size = map->size_bytes;
    unlock(map);
    return size;
}

unsigned
disk_map_cluster_bits(DiskMap *map)
{
    return map->cluster_bits;
}

uint64_t
disk_map_clusters(DiskMap *map)
{
    uint64_t clusters;

    lock(map);
    clusters = clusters_locked(map);
    unlock(map);
    return clusters;
}

static int
reserve_locked(DiskMap *map, uint64_t size_bytes)
{
    int r = bitmap_reserve(map->open.bits, size_bytes);

    for (unsigned i = 0; r == 0 && i < map->n_sealed; i++) {
        r = bitmap_reserve(map->sealed[i].bits, size_bytes);
    }
    if (r == 0 && map->begun) {
        r = bitmap_reserve(map->begun, size_bytes);
    }
    return r;
}

static void
grow_bits(Bitmap *bits, uint64_t size_bytes)
{
    int r = bits ? bitmap_grow(bits, size_bytes) : 0;

    assert(r == 0); /* it was reserved */
}

int
disk_map_grow(DiskMap *map, uint64_t size_bytes, int64_t now_us)
{
    Bitmap *spare;
    uint64_t old;
    int r;

    lock(map);
    old = map->size_bytes;
    assert(size_bytes >= old);
    r = reserve_locked(map, size_bytes);
    if (r < 0) {
        unlock(map);
        return r;
    }
    grow_bits(map->open.bits, size_bytes);
    grow_bits(map->begun, size_bytes);
    for (unsigned i = 0; i < map->n_sealed; i++) {
        grow_bits(map->sealed[i].bits, size_bytes);
    }
    spare = map->spare;
    map->spare = NULL;
    map->size_bytes = size_bytes;
    /* In one step with the size, or the relay saw the tail clean. */
    mark_locked(map, old, size_bytes - old, now_us);
    unlock(map);
    bitmap_free(spare);
    return 0;
}

bool
disk_map_begin(DiskMap *map, RangeHold *hold, int64_t now_us)
{
    bool taken;
    uint64_t end;

    lock(map);
    assert(range_end(hold->offset, hold->len, map->size_bytes, &end));
    taken = range_table_take(&map->ranges, hold);
    if (taken) {
        begin_marks_locked(map, hold, now_us);
    }
    unlock(map);
    return taken;
}

void
disk_map_end(DiskMap *map, RangeHold *hold, int64_t now_us)
{
    lock(map);
    if (range_kind_writes(hold->kind) && !hold->is_parked &&
        !mutant(MUTANT_NO_SECOND_MARKING)) {
        mark_locked(map, hold->offset, hold->len, now_us);
    }
    map->grant_us = now_us;
    range_table_drop(&map->ranges, hold);
    unlock(map);
}

void
disk_map_mark(DiskMap *map, uint64_t offset, uint64_t len, int64_t now_us)
{
    lock(map);
    mark_locked(map, offset, len, now_us);
    unlock(map);
}

/* The next slice of the disk, or false at its end or at @end. */
static bool
slice_locked(const DiskMap *map, uint64_t from, uint64_t end,
             struct ClusterRun *slice)
{
    uint64_t clusters = clusters_locked(map);

    end = end < clusters ? end : clusters;
    if (from >= end) {
        return false;
    }
    slice->first = from;
    slice->count = end - from < SLICE_CLUSTERS ? end - from : SLICE_CLUSTERS;
    return true;
}

void
disk_map_mark_all(DiskMap *map, int64_t now_us)
{
    struct ClusterRun slice = {0, 0};
    bool more;

    do {
        lock(map);
        more = slice_locked(map, slice.first + slice.count, UINT64_MAX, &slice);
        if (more) {
            mark_run_locked(map, slice, now_us);
        }
        unlock(map);
    } while (more);
}

/* A clean bitmap as the spare one, unless there is one or it cannot be. */
static void
provide_spare(DiskMap *map)
{
    uint64_t size = 0;
    Bitmap *spare;

    lock(map);
    if (!map->spare) {
        size = map->size_bytes;
    }
    unlock(map);
    if (!size) {
        return;
    }
    spare = bitmap_new(size, map->cluster_bits);
    lock(map);
    if (spare && !map->spare && size == map->size_bytes) {
        map->spare = spare;
        spare = NULL;
    }
    unlock(map);
    bitmap_free(spare);
}

uint64_t
disk_map_seal(DiskMap *map)
{
    uint64_t seq = 0;

    provide_spare(map);
    lock(map);
    if (bitmap_count(map->open.bits) && map->spare &&
        map->n_sealed < DISK_MAP_SEALED_MAX) {
        seq = map->open.seq;
        map->sealed[map->n_sealed++] = map->open;
        map->open.bits = map->spare;
        map->open.seq = seq + 1;
        map->open.first_mark_us = 0;
        map->spare = NULL;
        if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
            bitmap_clear_all(map->begun);
        }
    }
    unlock(map);
    return seq;
}

uint64_t
disk_map_open_seq(DiskMap *map)
{
    uint64_t seq;

    lock(map);
    seq = map->open.seq;
    unlock(map);
    return seq;
}

uint64_t
disk_map_settled_seq(DiskMap *map)
{
    uint64_t seq;

    lock(map);
    if (map->n_sealed) {
        seq = map->sealed[0].seq - 1;
    } else if (bitmap_count(map->open.bits)) {
        seq = map->open.seq - 1;
    } else {
        seq = map->open.seq; /* nothing was marked in it yet */
    }
    unlock(map);
    return seq;
}

uint64_t
disk_map_sealed_seq(DiskMap *map)
{
    uint64_t seq;

    lock(map);
    seq = map->n_sealed ? map->sealed[0].seq : 0;
    unlock(map);
    return seq;
}

bool
disk_map_next_sealed(DiskMap *map, uint64_t from, uint64_t max,
                     struct ClusterRun *run)
{
    bool found;

    lock(map);
    found =
        map->n_sealed && bitmap_next_run(map->sealed[0].bits, from, max, run);
    unlock(map);
    return found;
}

/* Mutant: "no write was begun since, so what I sent is what is there". */
static void
clear_open_locked(DiskMap *map, struct ClusterRun run)
{
    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        if (!bitmap_get(map->begun, c)) {
            bitmap_clear_run(map->open.bits, (struct ClusterRun){c, 1});
        }
    }
}

void
disk_map_settle(DiskMap *map, struct ClusterRun run)
{
    uint64_t clean;

    lock(map);
    assert(map->n_sealed);
    clean = count_clean_locked(map, run);
    bitmap_clear_run(map->sealed[0].bits, run);
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        clear_open_locked(map, run);
    }
    map->dirty_clusters -= count_clean_locked(map, run) - clean;
    unlock(map);
}

bool
disk_map_retire(DiskMap *map)
{
    Bitmap *bits;

    lock(map);
    if (!map->n_sealed || bitmap_count(map->sealed[0].bits)) {
        unlock(map);
        return false;
    }
    bits = map->sealed[0].bits;
    map->n_sealed--;
    for (unsigned i = 0; i < map->n_sealed; i++) {
        map->sealed[i] = map->sealed[i + 1];
    }
    unlock(map);

    /* Its memory goes back to the system with nobody waiting. */
    bitmap_clear_all(bits);
    lock(map);
    if (!map->spare && bitmap_size_bytes(bits) == map->size_bytes) {
        map->spare = bits;
        bits = NULL;
    }
    unlock(map);
    bitmap_free(bits);
    return true;
}

static bool
has_writer_locked(const DiskMap *map, struct ClusterRun run)
{
    uint64_t offset = run.first << map->cluster_bits;
    uint64_t len = run.count << map->cluster_bits;

    return range_table_has(&map->ranges, RANGE_WRITE, offset, len) ||
           range_table_has(&map->ranges, RANGE_RMW, offset, len) ||
           range_table_has(&map->ranges, RANGE_PUNCH, offset, len);
}

bool
disk_map_is_clean(DiskMap *map, uint64_t offset, uint64_t len)
{
    struct ClusterRun run;
    uint64_t end;
    bool is_clean;

    lock(map);
    assert(range_end(offset, len, map->size_bytes, &end));
    run = run_outward(offset, len, map->cluster_bits);
    end = run.first + run.count;
    is_clean = bitmap_next_dirty(map->open.bits, run.first) >= end;
    for (unsigned i = 0; is_clean && i < map->n_sealed; i++) {
        is_clean = bitmap_next_dirty(map->sealed[i].bits, run.first) >= end;
    }
    is_clean = is_clean && !has_writer_locked(map, run);
    unlock(map);
    return is_clean;
}

/* The first cluster of @slice that is clean everywhere, or a later place to go
 * on from; UINT64_MAX if some generation has nothing clean from there on. */
static uint64_t
next_clean_locked(const DiskMap *map, struct ClusterRun slice, bool *found)
{
    uint64_t at = bitmap_next_clean(map->open.bits, slice.first);

    for (unsigned i = 0; i < map->n_sealed && at != UINT64_MAX; i++) {
        at = bitmap_next_clean(map->sealed[i].bits, at);
    }
    *found = false;
    if (at >= slice.first + slice.count) {
        return at;
    }
    for (; at < slice.first + slice.count; at = (at | 63) + 1) {
        uint64_t word = ~union_word_locked(map, at >> 6) >> (at & 63);

        if (word) {
            at += (unsigned)__builtin_ctzll(word);
            *found = at < slice.first + slice.count;
            return at;
        }
    }
    return at;
}

uint64_t
disk_map_next_clean(DiskMap *map, uint64_t from)
{
    struct ClusterRun slice;
    bool found = false;

    while (!found && from != UINT64_MAX) {
        lock(map);
        if (slice_locked(map, from, UINT64_MAX, &slice)) {
            from = next_clean_locked(map, slice, &found);
        } else {
            from = UINT64_MAX;
        }
        unlock(map);
    }
    return from;
}

static int64_t
oldest_mark_locked(const DiskMap *map)
{
    for (unsigned i = 0; i < map->n_sealed; i++) {
        if (bitmap_count(map->sealed[i].bits)) {
            return map->sealed[i].first_mark_us;
        }
    }
    return bitmap_count(map->open.bits) ? map->open.first_mark_us : 0;
}

void
disk_map_figures(DiskMap *map, struct DiskMapFigures *figures)
{
    *figures = (struct DiskMapFigures){0};
    lock(map);
    figures->dirty_clusters = map->dirty_clusters;
    figures->dirtied_clusters = map->dirtied_clusters;
    figures->sealed = map->n_sealed;
    for (unsigned i = 0; i < map->n_sealed; i++) {
        figures->sealed_clusters += bitmap_count(map->sealed[i].bits);
    }
    for (unsigned k = 0; k < RANGE_KINDS; k++) {
        figures->holds += map->ranges.n_held[k];
    }
    figures->parked = map->ranges.n_parked;
    figures->oldest_mark_us = oldest_mark_locked(map);
    unlock(map);
}

void
disk_map_union(DiskMap *map, Bitmap *into)
{
    struct ClusterRun slice = {0, 0};
    bool more;

    bitmap_clear_all(into);
    do {
        lock(map);
        more = slice_locked(map, slice.first + slice.count,
                            bitmap_clusters(into), &slice);
        if (more) {
            bitmap_merge_run(into, map->open.bits, slice);
        }
        for (unsigned i = 0; more && i < map->n_sealed; i++) {
            bitmap_merge_run(into, map->sealed[i].bits, slice);
        }
        unlock(map);
    } while (more);
}

void
disk_map_load(DiskMap *map, const Bitmap *from, int64_t now_us)
{
    struct ClusterRun run = {0, 0};

    assert(bitmap_cluster_bits(from) == map->cluster_bits);
    while (bitmap_next_run(from, run.first + run.count, SLICE_CLUSTERS, &run)) {
        lock(map);
        mark_run_locked(map, run, now_us);
        unlock(map);
    }
}
