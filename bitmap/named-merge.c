/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-merge.c - bits of one granularity into those of another
 *
 * What is dirty in one stays dirty in the other: each range of dirty bytes is
 * set outward. From fine to coarse that widens it; from coarse to fine it is
 * the same bytes in more bits.
 *
 * In slices, with the lock given back in between. That is no instant, and need
 * not be: nothing becomes clean meanwhile, since only the main thread clears,
 * and that is here. So whatever was dirty at the beginning arrives; what is
 * marked meanwhile may, or may not. Whoever wants those as well has them marked
 * in both from before the beginning on.
 *
 * A slice costs some ten microseconds: by words, where the granularity is the
 * same, else by ranges, of which one is enough for a coarse grain. A search for
 * the next dirty one skips whatever is clean (bitmap-levels.c).
 */
#include "named-private.h"

#define SLICE_GRAINS_BITS 16 /* by words: of the one that is marked */
#define SLICE_RANGES_BITS 12 /* by ranges: of the coarser one */

bool
named_next_bytes(const Bitmap *bits, uint64_t from, uint64_t *offset,
                 uint64_t *len)
{
    unsigned grain_bits = bitmap_cluster_bits(bits);
    uint64_t size = bitmap_size_bytes(bits);
    struct ClusterRun run;
    uint64_t end;

    if (!bitmap_next_run(bits, from >> grain_bits, UINT64_MAX, &run)) {
        return false;
    }
    end = run.first + run.count == bitmap_clusters(bits)
              ? size
              : (run.first + run.count) << grain_bits;
    *offset = run.first << grain_bits;
    *offset = *offset < from ? from : *offset;
    *len = end - *offset;
    return *offset < end;
}

static unsigned
sink_bits(const struct NamedSink *into)
{
    return into->job ? into->job->cluster_bits
                     : bitmap_cluster_bits(into->bits);
}

static uint64_t
sink_size(const struct NamedSink *into)
{
    return into->job ? into->job->size_bytes : bitmap_size_bytes(into->bits);
}

static void
set_bytes(const struct NamedSink *into, uint64_t offset, uint64_t len)
{
    if (into->job) {
        disk_map_mark_locked(into->job, offset, len, into->now_us);
    } else {
        bitmap_set_bytes(into->bits, offset, len);
    }
}

/* The same granularity: by words, or all at once if all of it is dirty. */
static void
merge_words(const struct NamedSink *into, const Bitmap *from, uint64_t start,
            uint64_t end)
{
    struct ClusterRun run =
        run_outward(start, end - start, bitmap_cluster_bits(from));

    if (bitmap_next_clean(from, run.first) >= run.first + run.count) {
        set_bytes(into, start, end - start);
    } else if (into->job) {
        generations_load(&into->job->gens, from, run, into->now_us);
    } else {
        bitmap_merge_run(into->bits, from, run);
    }
}

/* Another one: by ranges, one for each grain of @into at most. */
static void
merge_ranges(const struct NamedSink *into, const Bitmap *from, uint64_t start,
             uint64_t end)
{
    uint64_t mask = (UINT64_C(1) << sink_bits(into)) - 1;
    uint64_t at = start, offset, len;

    while (at < end && named_next_bytes(from, at, &offset, &len) &&
           offset < end) {
        len = len < end - offset ? len : end - offset;
        set_bytes(into, offset, len);
        at = (offset + len + mask) & ~mask;
    }
}

/* How much at once. */
static uint64_t
slice_bytes(unsigned into_bits, unsigned from_bits)
{
    unsigned coarse = into_bits > from_bits ? into_bits : from_bits;
    unsigned by_grains = into_bits + SLICE_GRAINS_BITS;
    unsigned by_ranges = coarse + SLICE_RANGES_BITS;

    if (into_bits == from_bits || by_grains < by_ranges) {
        return UINT64_C(1) << by_grains;
    }
    return UINT64_C(1) << by_ranges;
}

bool
named_merge_step_locked(const struct NamedSink *into, const Bitmap *const *from,
                        unsigned count, uint64_t *at)
{
    unsigned from_bits = bitmap_cluster_bits(from[0]);
    uint64_t slice = slice_bytes(sink_bits(into), from_bits);
    uint64_t size = sink_size(into);
    uint64_t first = UINT64_MAX, end, offset, len;

    for (unsigned i = 0; i < count; i++) {
        uint64_t its = bitmap_size_bytes(from[i]);

        size = size < its ? size : its;
        if (named_next_bytes(from[i], *at, &offset, &len)) {
            first = first < offset ? first : offset;
        }
    }
    if (first >= size) {
        return false;
    }
    /* Slices end where a grain of @into does, so that none is marked by two; they
     * may end within a coarser one of @from. */
    end = (first & ~(slice - 1)) + slice;
    end = end < size ? end : size;
    for (unsigned i = 0; i < count; i++) {
        if (sink_bits(into) == from_bits) {
            merge_words(into, from[i], first, end);
        } else {
            merge_ranges(into, from[i], first, end);
        }
    }
    *at = end;
    return end < size;
}

void
named_merge_bits(NamedBitmaps *set, Bitmap *into, const Bitmap *from)
{
    struct NamedSink sink = {.bits = into};
    uint64_t at = 0;
    bool more;

    do {
        disk_map_lock(set->map);
        more = named_merge_step_locked(&sink, &from, 1, &at);
        disk_map_unlock(set->map);
    } while (more);
}

void
named_merge_to_job(NamedBitmaps *set, DiskMap *into, const Bitmap *from,
                   int64_t now_us)
{
    struct NamedSink sink = {.job = into, .now_us = now_us};
    uint64_t at = 0;
    bool more;

    do {
        disk_map_lock(set->map);
        disk_map_lock(into);
        more = named_merge_step_locked(&sink, &from, 1, &at);
        disk_map_unlock(into);
        disk_map_unlock(set->map);
    } while (more);
}

void
named_merge_from_job(NamedBitmaps *set, Bitmap *into, DiskMap *from)
{
    const Bitmap *all[DISK_MAP_SEALED_MAX + 1];
    struct NamedSink sink = {.bits = into};
    uint64_t at = 0;
    bool more;

    do {
        unsigned n = 0;

        disk_map_lock(set->map);
        disk_map_lock(from);
        all[n++] = from->gens.open.bits;
        for (unsigned i = 0; i < from->gens.n_sealed; i++) {
            all[n++] = from->gens.sealed[i].bits;
        }
        more = named_merge_step_locked(&sink, all, n, &at);
        disk_map_unlock(from);
        disk_map_unlock(set->map);
    } while (more);
}
