/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map.c - generations and ranges of a disk, behind one short lock
 *
 * A guest write takes its range and marks the open generation in one step,
 * before it is submitted; when it is complete it marks again, in whatever
 * generation is open by then, and drops its range, in one step (rule 1). What
 * the relay read between a seal and the completion may be old, and the second
 * mark says so. The relay clears bits of the oldest sealed generation only
 * (rule 2). generations.c has the bits, range-table.c the ranges.
 *
 * A hold that had to wait is marked when it is granted, by whoever dropped the
 * one in its way and at that moment, before its owner hears of it.
 *
 * Extents that are hot, and how they get cold: disk-map-heat.c. Who else is
 * told what the guest changes: disk-map-record.c.
 *
 * The lock is held for the words that a call touches. What goes over a whole
 * disk (mark_all, load, union, next_clean) goes in slices and lets others in
 * between: each cluster is then seen at an instant of its own during the call.
 * That is enough for a checkpoint, which may hold more than is dirty, and for
 * which a mark made meanwhile is the marker's own to make durable.
 *
 * Memory is taken and given back outside the lock: a seal finds the spare
 * bitmap there, a retired bitmap is emptied before it becomes the spare one.
 */
#include "disk-map-private.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>

/* 64 Ki clusters: 8 KiB of bits per generation, some ten microseconds. */
#define SLICE_CLUSTERS (UINT64_C(1) << 16)

void
disk_map_mark_locked(DiskMap *map, uint64_t offset, uint64_t len,
                     int64_t now_us)
{
    uint64_t end;

    assert(range_end(offset, len, map->size_bytes, &end));
    generations_mark(&map->gens, run_outward(offset, len, map->cluster_bits),
                     now_us);
}

/* One of the two marks of a guest's write. */
static void
changed_locked(DiskMap *map, const RangeHold *hold, int64_t now_us,
               bool is_unrecorded)
{
    disk_map_mark_locked(map, hold->offset, hold->len, now_us);
    if (!is_unrecorded) {
        disk_map_record_locked(map, hold->offset, hold->len, now_us);
    }
}

/* A writer has got its range: the first mark (rule 1). */
static void
begin_marks_locked(DiskMap *map, const RangeHold *hold, int64_t now_us)
{
    if (!range_kind_writes(hold->kind)) {
        return;
    }
    if (!mutant(MUTANT_NO_FIRST_MARKING)) {
        changed_locked(map, hold, now_us,
                       mutant(MUTANT_RECORDER_NO_FIRST_MARK));
    }
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        bitmap_set_bytes(map->begun, hold->offset, hold->len);
    }
    disk_map_touch_locked(map, hold->offset, hold->len);
}

static void
granted_locked(RangeTable *ranges, RangeHold *hold)
{
    DiskMap *map = (DiskMap *)((char *)ranges - offsetof(DiskMap, ranges));

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
    map->ranges.on_grant = granted_locked;
    map->spare = bitmap_new(size_bytes, cluster_bits);
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        map->begun = bitmap_new(size_bytes, cluster_bits);
    }
    if (generations_init(&map->gens, size_bytes, cluster_bits) < 0 ||
        !map->spare) {
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
    generations_deinit(&map->gens);
    bitmap_free(map->spare);
    bitmap_free(map->begun);
    bitmap_free(map->hot);
    bitmap_free(map->touched);
    pthread_mutex_destroy(&map->lock);
    free(map);
}

uint64_t
disk_map_size_bytes(DiskMap *map)
{
    uint64_t size;

    disk_map_lock(map);
    size = map->size_bytes;
    disk_map_unlock(map);
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

    disk_map_lock(map);
    clusters = generations_clusters(&map->gens);
    disk_map_unlock(map);
    return clusters;
}

int
disk_map_grow(DiskMap *map, uint64_t size_bytes, int64_t now_us)
{
    Bitmap *spare = NULL;
    uint64_t old;
    int r = 0;

    disk_map_lock(map);
    old = map->size_bytes;
    assert(size_bytes >= old);
    if (map->begun) {
        r = bitmap_grow(map->begun, size_bytes);
    }
    r = r < 0 ? r : disk_map_reserve_heat_locked(map, size_bytes);
    r = r < 0 ? r : disk_map_reserve_records_locked(map, size_bytes);
    r = r < 0 ? r : generations_grow(&map->gens, size_bytes);
    if (r == 0) {
        disk_map_grow_heat_locked(map, size_bytes);
        disk_map_grow_records_locked(map, size_bytes);
        map->size_bytes = size_bytes;
        /* In one step with the size, or the relay would see a clean tail. */
        disk_map_mark_locked(map, old, size_bytes - old, now_us);
        spare = map->spare;
        map->spare = NULL;
    }
    disk_map_unlock(map);
    bitmap_free(spare);
    return r;
}

enum DiskMapBegin
disk_map_begin(DiskMap *map, RangeHold *hold, int64_t now_us)
{
    enum DiskMapBegin begin = DISK_MAP_PARKED;
    uint64_t end;

    disk_map_lock(map);
    assert(range_end(hold->offset, hold->len, map->size_bytes, &end));
    if (range_kind_writes(hold->kind) && !mutant(MUTANT_NO_INTENT) &&
        !disk_map_is_hot_locked(map, hold->offset, hold->len)) {
        begin = DISK_MAP_COLD;
    } else if (range_table_take(&map->ranges, hold)) {
        begin_marks_locked(map, hold, now_us);
        begin = DISK_MAP_BEGUN;
    }
    disk_map_unlock(map);
    return begin;
}

void
disk_map_end(DiskMap *map, RangeHold *hold, int64_t now_us)
{
    disk_map_lock(map);
    if (range_kind_writes(hold->kind) && !hold->is_parked) {
        if (!mutant(MUTANT_NO_SECOND_MARKING)) {
            changed_locked(map, hold, now_us,
                           mutant(MUTANT_RECORDER_NO_SECOND_MARK));
        }
        disk_map_touch_locked(map, hold->offset, hold->len);
    }
    map->grant_us = now_us;
    range_table_drop(&map->ranges, hold);
    disk_map_unlock(map);
}

void
disk_map_mark(DiskMap *map, uint64_t offset, uint64_t len, int64_t now_us)
{
    disk_map_lock(map);
    disk_map_mark_locked(map, offset, len, now_us);
    disk_map_unlock(map);
}

/* The next slice of the disk, or false at its end or at @end. */
static bool
slice_locked(const DiskMap *map, uint64_t from, uint64_t end,
             struct ClusterRun *slice)
{
    uint64_t clusters = generations_clusters(&map->gens);

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
        disk_map_lock(map);
        more = slice_locked(map, slice.first + slice.count, UINT64_MAX, &slice);
        if (more) {
            generations_mark(&map->gens, slice, now_us);
        }
        disk_map_unlock(map);
    } while (more);
}

/* Make @bits, or if it is NULL a new one, the spare one where there is none.
 * It is not to be had without memory. */
static void
provide_spare(DiskMap *map, Bitmap *bits)
{
    uint64_t size;
    bool is_wanted;

    disk_map_lock(map);
    size = map->size_bytes;
    is_wanted = !map->spare;
    disk_map_unlock(map);
    if (is_wanted && !bits) {
        bits = bitmap_new(size, map->cluster_bits);
    }
    disk_map_lock(map);
    if (bits && !map->spare && bitmap_size_bytes(bits) == map->size_bytes) {
        map->spare = bits;
        bits = NULL;
    }
    disk_map_unlock(map);
    bitmap_free(bits);
}

bool
disk_map_provide(DiskMap *map)
{
    bool is_there;

    provide_spare(map, NULL);
    disk_map_lock(map);
    is_there = map->spare;
    disk_map_unlock(map);
    return is_there;
}

uint64_t
disk_map_seal(DiskMap *map)
{
    uint64_t seq = 0;

    (void)disk_map_provide(map);
    disk_map_lock(map);
    if (map->spare && generations_can_seal(&map->gens)) {
        seq = generations_seal(&map->gens, map->spare);
        map->spare = NULL;
        if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
            bitmap_clear_all(map->begun);
        }
    }
    disk_map_unlock(map);
    return seq;
}

uint64_t
disk_map_open_seq(DiskMap *map)
{
    uint64_t seq;

    disk_map_lock(map);
    seq = map->gens.open.seq;
    disk_map_unlock(map);
    return seq;
}

uint64_t
disk_map_settled_seq(DiskMap *map)
{
    uint64_t seq;

    disk_map_lock(map);
    seq = generations_settled_seq(&map->gens);
    disk_map_unlock(map);
    return seq;
}

uint64_t
disk_map_sealed_seq(DiskMap *map)
{
    uint64_t seq;

    disk_map_lock(map);
    seq = map->gens.n_sealed ? map->gens.sealed[0].seq : 0;
    disk_map_unlock(map);
    return seq;
}

bool
disk_map_next_sealed(DiskMap *map, uint64_t from, uint64_t max,
                     struct ClusterRun *run)
{
    bool found;

    disk_map_lock(map);
    found = map->gens.n_sealed &&
            bitmap_next_run(map->gens.sealed[0].bits, from, max, run);
    disk_map_unlock(map);
    return found;
}

/* Mutant: "no write was begun since, so what I sent is what is there". */
static void
clear_open_locked(DiskMap *map, struct ClusterRun run)
{
    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        struct ClusterRun one = {c, 1};

        if (!bitmap_get(map->begun, c) &&
            bitmap_clear_run(map->gens.open.bits, one)) {
            map->gens.dirty_clusters -=
                generations_count_clean(&map->gens, one);
        }
    }
}

void
disk_map_settle(DiskMap *map, struct ClusterRun run)
{
    disk_map_lock(map);
    generations_settle(&map->gens, run);
    if (mutant(MUTANT_CLEAR_BY_GENERATION)) {
        clear_open_locked(map, run);
    }
    disk_map_unlock(map);
}

bool
disk_map_retire(DiskMap *map)
{
    Bitmap *bits;

    disk_map_lock(map);
    bits = generations_retire(&map->gens);
    disk_map_unlock(map);
    if (!bits) {
        return false;
    }
    /* Its memory goes back to the system with nobody waiting. */
    bitmap_clear_all(bits);
    provide_spare(map, bits);
    return true;
}

/* A slice at a time: until the last one the sealed bits stay, so that nothing
 * is clean in between. */
void
disk_map_unseal(DiskMap *map)
{
    struct ClusterRun slice = {0, 0};
    Bitmap *bits;
    bool more;

    do {
        disk_map_lock(map);
        more = slice_locked(map, slice.first + slice.count, UINT64_MAX, &slice);
        if (more && !mutant(MUTANT_FORGET_UNSEALED)) {
            generations_reopen(&map->gens, slice);
        }
        disk_map_unlock(map);
    } while (more);
    do {
        disk_map_lock(map);
        bits = generations_drop_sealed(&map->gens);
        disk_map_unlock(map);
        if (bits) {
            bitmap_clear_all(bits);
            provide_spare(map, bits);
        }
    } while (bits);
}

bool
disk_map_next_owed(DiskMap *map, uint64_t from, uint64_t end,
                   struct ClusterRun *run)
{
    bool found;

    disk_map_lock(map);
    found = generations_next_sealed(&map->gens, from, end, run);
    disk_map_unlock(map);
    return found;
}

bool
disk_map_hold(DiskMap *map, RangeHold *hold)
{
    bool is_held;

    assert(!range_kind_writes(hold->kind));
    disk_map_lock(map);
    is_held = range_table_take(&map->ranges, hold);
    disk_map_unlock(map);
    return is_held;
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

    disk_map_lock(map);
    assert(range_end(offset, len, map->size_bytes, &end));
    run = run_outward(offset, len, map->cluster_bits);
    is_clean =
        generations_is_clean(&map->gens, run) && !has_writer_locked(map, run);
    disk_map_unlock(map);
    return is_clean;
}

uint64_t
disk_map_next_clean(DiskMap *map, uint64_t from)
{
    struct ClusterRun slice;
    bool found = false;

    while (!found && from != UINT64_MAX) {
        disk_map_lock(map);
        if (slice_locked(map, from, UINT64_MAX, &slice)) {
            from = generations_next_clean(&map->gens, slice, &found);
        } else {
            from = UINT64_MAX;
        }
        disk_map_unlock(map);
    }
    return from;
}

void
disk_map_figures(DiskMap *map, struct DiskMapFigures *figures)
{
    *figures = (struct DiskMapFigures){0};
    disk_map_lock(map);
    figures->dirty_clusters = map->gens.dirty_clusters;
    figures->sealed_clusters = generations_sealed_clusters(&map->gens);
    figures->dirtied_clusters = map->gens.dirtied_clusters;
    figures->sealed = map->gens.n_sealed;
    for (unsigned k = 0; k < RANGE_KINDS; k++) {
        figures->holds += map->ranges.n_held[k];
    }
    figures->parked = map->ranges.n_parked;
    figures->hot_extents = map->hot ? bitmap_count(map->hot) : 0;
    figures->oldest_mark_us = generations_oldest_mark_us(&map->gens);
    disk_map_unlock(map);
}

void
disk_map_union(DiskMap *map, Bitmap *into)
{
    struct ClusterRun slice = {0, 0};
    bool more;

    bitmap_clear_all(into);
    do {
        disk_map_lock(map);
        more = slice_locked(map, slice.first + slice.count,
                            bitmap_clusters(into), &slice);
        if (more) {
            generations_merge(&map->gens, into, slice);
        }
        disk_map_unlock(map);
    } while (more);
}

void
disk_map_load(DiskMap *map, const Bitmap *from, int64_t now_us)
{
    struct ClusterRun slice = {0, 0};
    uint64_t end = bitmap_clusters(from);
    uint64_t at = bitmap_next_dirty(from, 0);
    bool more = true;

    assert(bitmap_cluster_bits(from) == map->cluster_bits);
    while (more && at < end) {
        disk_map_lock(map);
        more = slice_locked(map, at, end, &slice);
        if (more) {
            generations_load(&map->gens, from, slice, now_us);
        }
        disk_map_unlock(map);
        /* To the word that has the next one: what is clean is not read. */
        at = bitmap_next_dirty(from, slice.first + slice.count);
        at = at == UINT64_MAX ? at : at & ~UINT64_C(63);
    }
}
