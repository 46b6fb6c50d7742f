/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map-heat.c - hot extents: which writes need nobody's leave
 *
 *             disk_map_heat(), when the bit is durable in the intent file
 *      cold ------------------------------------------------------------> hot
 *           <------------------------------------------------------------
 *             disk_map_cool_end(), when all that was written in it is
 *
 * A write that finds a cold extent takes and marks nothing; it comes again
 * when the extent is hot. In a hot one it costs two look-ups.
 *
 * Cooling, and why it never loses a bit or gets ahead of the disk (rule 3):
 *
 *   1. cool_begin   candidates: hot, and not touched since the last time.
 *                   touched starts anew.
 *   2. the caller takes the union of the generations, then syncs disk.raw,
 *      then writes the union as a checkpoint and syncs that
 *   3. cool_end     candidates that are still not touched, and in which no
 *                   write is in flight, are cold from now on
 *
 * A write touches at its beginning and at its end, in one step with its marks.
 * So in an extent that becomes cold no write was in flight at any time from 1
 * to 3: what is dirty in it was dirty at the union, and what was clean at the
 * union is the content of writes that were complete before the sync began.
 * The union has to be taken before the sync, and not after it, for the other
 * extents of the checkpoint: a cluster that is written after the sync, brought
 * to the target and settled would be clean in it, ahead of the disk. (Its
 * extent is hot, so that alone would do no harm until it gets cold on the
 * strength of an earlier checkpoint; the order leaves nothing to argue.)
 *
 * Each slice is an instant of its own, as in the rest of the map: nothing here
 * relates one extent to another.
 */
#include "disk-map-private.h"
#include "intent.h"
#include "mutant.h"

#include <errno.h>

#define SLICE_WORDS UINT64_C(1024) /* 256 GiB: some ten microseconds */

static struct ClusterRun
extents_of(uint64_t offset, uint64_t len)
{
    return run_outward(offset, len, INTENT_EXTENT_BITS);
}

bool
disk_map_is_hot_locked(const DiskMap *map, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = extents_of(offset, len);
    bool is_hot = true;

    if (!map->hot) {
        return true;
    }
    if (run.count > 8) {
        return bitmap_next_clean(map->hot, run.first) >= run.first + run.count;
    }
    for (uint64_t i = 0; i < run.count; i++) {
        is_hot = is_hot && bitmap_get(map->hot, run.first + i);
    }
    return is_hot;
}

void
disk_map_touch_locked(DiskMap *map, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = extents_of(offset, len);

    if (!map->hot) {
        return;
    }
    if (run.count != 1 || !bitmap_get(map->touched, run.first)) {
        bitmap_set_run(map->touched, run);
    }
}

int
disk_map_reserve_heat_locked(DiskMap *map, uint64_t size_bytes)
{
    int r = map->hot ? bitmap_reserve(map->hot, size_bytes) : 0;

    return r < 0 || !map->hot ? r : bitmap_reserve(map->touched, size_bytes);
}

void
disk_map_grow_heat_locked(DiskMap *map, uint64_t size_bytes)
{
    if (map->hot) {
        int r = bitmap_grow(map->hot, size_bytes);

        r = r < 0 ? r : bitmap_grow(map->touched, size_bytes);
        assert(r == 0); /* it was reserved */
    }
}

int
disk_map_track(DiskMap *map, Bitmap *hot)
{
    Bitmap *touched =
        bitmap_new(bitmap_size_bytes(hot), bitmap_cluster_bits(hot));

    if (!touched) {
        return -ENOMEM;
    }
    assert(bitmap_cluster_bits(hot) == INTENT_EXTENT_BITS);
    assert(map->cluster_bits <= INTENT_EXTENT_BITS);
    disk_map_lock(map);
    assert(!map->hot && bitmap_size_bytes(hot) == map->size_bytes);
    map->hot = hot;
    map->touched = touched;
    disk_map_unlock(map);
    return 0;
}

bool
disk_map_is_tracked(DiskMap *map)
{
    bool is_tracked;

    disk_map_lock(map);
    is_tracked = map->hot != NULL;
    disk_map_unlock(map);
    return is_tracked;
}

bool
disk_map_is_hot(DiskMap *map, uint64_t offset, uint64_t len)
{
    bool is_hot;

    disk_map_lock(map);
    is_hot = disk_map_is_hot_locked(map, offset, len);
    disk_map_unlock(map);
    return is_hot;
}

void
disk_map_heat(DiskMap *map, struct ClusterRun extents)
{
    disk_map_lock(map);
    bitmap_set_run(map->hot, extents);
    /* Somebody is about to write: not a candidate of a cooling under way. */
    bitmap_set_run(map->touched, extents);
    disk_map_unlock(map);
}

size_t
disk_map_hot_words(DiskMap *map, uint64_t first, uint64_t *words, size_t count)
{
    size_t n = 0;

    disk_map_lock(map);
    uint64_t all = (bitmap_clusters(map->hot) + 63) / 64;

    for (; n < count && first + n < all; n++) {
        words[n] = bitmap_word(map->hot, first + n);
    }
    disk_map_unlock(map);
    return n;
}

/* The next slice, in words of extents, of the map and @other; false at the
 * end of either. */
static bool
words_locked(const DiskMap *map, const Bitmap *other, uint64_t *from,
             uint64_t *end)
{
    uint64_t extents = bitmap_clusters(map->hot);

    if (extents > bitmap_clusters(other)) {
        extents = bitmap_clusters(other);
    }
    *from = *end;
    *end = *from + SLICE_WORDS;
    *end = *end < (extents + 63) / 64 ? *end : (extents + 63) / 64;
    return *from < *end;
}

static struct ClusterRun
clip_to(const Bitmap *map, uint64_t from_word, uint64_t end_word)
{
    uint64_t extents = bitmap_clusters(map);
    uint64_t end = end_word * 64 < extents ? end_word * 64 : extents;

    return (struct ClusterRun){from_word * 64, end - from_word * 64};
}

uint64_t
disk_map_cool_begin(DiskMap *map, Bitmap *candidates)
{
    uint64_t from = 0, end = 0;
    bool more;

    bitmap_clear_all(candidates);
    do {
        disk_map_lock(map);
        more = words_locked(map, candidates, &from, &end);
        for (uint64_t w = from; more && w < end; w++) {
            uint64_t word = bitmap_word(map->hot, w);

            word &= ~bitmap_word(map->touched, w);
            if (word) {
                bitmap_load_words(candidates, w, &word, 1);
            }
        }
        if (more) {
            bitmap_clear_run(map->touched, clip_to(map->touched, from, end));
        }
        disk_map_unlock(map);
    } while (more);
    return bitmap_count(candidates);
}

/* Extents in which a write is in flight are not @cooled. */
static void
leave_writers_locked(const DiskMap *map, Bitmap *cooled)
{
    for (const RangeHold *hold = map->ranges.held; hold; hold = hold->next) {
        struct ClusterRun run = extents_of(hold->offset, hold->len);

        if (range_kind_writes(hold->kind) &&
            run.first + run.count <= bitmap_clusters(cooled)) {
            bitmap_clear_run(cooled, run);
        }
    }
}

static void
cool_locked(DiskMap *map, const Bitmap *candidates, Bitmap *cooled,
            uint64_t from, uint64_t end)
{
    for (uint64_t w = from; w < end; w++) {
        uint64_t word = bitmap_word(candidates, w) & bitmap_word(map->hot, w);

        if (!mutant(MUTANT_COOL_TOUCHED)) {
            word &= ~bitmap_word(map->touched, w);
        }
        if (word) {
            bitmap_load_words(cooled, w, &word, 1);
        }
    }
    if (!mutant(MUTANT_COOL_TOUCHED)) {
        leave_writers_locked(map, cooled);
    }
    for (uint64_t w = from; w < end; w++) {
        uint64_t off = bitmap_word(cooled, w);
        uint64_t word = bitmap_word(map->hot, w) & ~off;

        if (off) {
            bitmap_load_words(map->hot, w, &word, 1);
        }
    }
}

uint64_t
disk_map_cool_end(DiskMap *map, const Bitmap *candidates, Bitmap *cooled)
{
    uint64_t from = 0, end = 0;
    bool more;

    assert(bitmap_clusters(candidates) == bitmap_clusters(cooled));
    bitmap_clear_all(cooled);
    do {
        disk_map_lock(map);
        more = words_locked(map, candidates, &from, &end);
        if (more) {
            cool_locked(map, candidates, cooled, from, end);
        }
        disk_map_unlock(map);
    } while (more);
    return bitmap_count(cooled);
}
