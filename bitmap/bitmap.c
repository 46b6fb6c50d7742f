/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap.c - one dirty bitmap
 *
 * Level 0, one bit per cluster, is the truth; what stands above it
 * (bitmap-levels.c) says where to look. Every change goes through
 * change_word() or change_run(), which alter level 0, the count, and tell the
 * levels above; nothing else writes a bit.
 *
 * A change of a run skips by the summary whatever has its value already, so
 * clearing a clean disk of 64 TiB, or setting it a second time, reads a few
 * words and no more. Marking one cluster reads its word, the summary bit above
 * it, and writes the word.
 *
 * In the last word the bits beyond the disk are never set: masks made of
 * cluster numbers cannot name them, and words from outside
 * (bitmap_load_words()) are masked. They do not count as clean clusters
 * either; the searches mask them.
 */
#include "bitmap.h"

#include "bitmap-levels.h"

#include <errno.h>
#include <stdlib.h>

struct Bitmap {
    uint64_t size_bytes;
    unsigned cluster_bits;
    uint64_t count; /* bits set in level 0 */
    struct Levels levels;
};

Bitmap *
bitmap_new(uint64_t size_bytes, unsigned cluster_bits)
{
    Bitmap *map;

    assert(size_bytes > 0);
    assert(cluster_bits >= 9 && cluster_bits < 64);
    map = calloc(1, sizeof(*map));
    if (!map) {
        return NULL;
    }
    map->cluster_bits = cluster_bits;
    if (bitmap_grow(map, size_bytes) < 0) {
        bitmap_free(map);
        return NULL;
    }
    return map;
}

void
bitmap_free(Bitmap *map)
{
    if (map) {
        levels_free(&map->levels);
        free(map);
    }
}

int
bitmap_reserve(Bitmap *map, uint64_t size_bytes)
{
    return levels_reserve(&map->levels,
                          clusters_for(size_bytes, map->cluster_bits));
}

int
bitmap_grow(Bitmap *map, uint64_t size_bytes)
{
    int r = bitmap_reserve(map, size_bytes);

    if (r < 0) {
        return r;
    }
    assert(size_bytes >= map->size_bytes);
    map->size_bytes = size_bytes;
    levels_resize(&map->levels, clusters_for(size_bytes, map->cluster_bits));
    return 0;
}

uint64_t
bitmap_size_bytes(const Bitmap *map)
{
    return map->size_bytes;
}

unsigned
bitmap_cluster_bits(const Bitmap *map)
{
    return map->cluster_bits;
}

uint64_t
bitmap_clusters(const Bitmap *map)
{
    return map->levels.cells[0];
}

uint64_t
bitmap_count(const Bitmap *map)
{
    return map->count;
}

bool
bitmap_get(const Bitmap *map, uint64_t cluster)
{
    assert(cluster < bitmap_clusters(map));
    return (bitmap_word(map, cluster >> 6) >> (cluster & 63)) & 1;
}

void
bitmap_expect(const Bitmap *map, uint64_t cluster)
{
    __builtin_prefetch(&map->levels.words[LEVELS_ANY][0][cluster >> 6], 1);
    if (map->levels.top) {
        __builtin_prefetch(&map->levels.words[LEVELS_ANY][1][cluster >> 12], 1);
    }
}

uint64_t
bitmap_word(const Bitmap *map, uint64_t w)
{
    assert(w < levels_words(&map->levels, 0));
    if (!levels_word_has(&map->levels, true, w)) {
        return 0;
    }
    return map->levels.words[LEVELS_ANY][0][w];
}

/* The bits of @run that are in word @w; @run touches it. */
static inline uint64_t
run_mask(struct ClusterRun run, uint64_t w)
{
    uint64_t first = run.first;
    uint64_t last = run.first + run.count - 1;
    uint64_t mask = UINT64_MAX;

    if (w == first >> 6) {
        mask &= UINT64_MAX << (first & 63);
    }
    if (w == last >> 6) {
        mask &= UINT64_MAX >> (63 - (last & 63));
    }
    return mask;
}

/* Level 0 only: @mask of word @w becomes @value. Returns how many changed. */
static inline uint64_t
put_word(Bitmap *map, uint64_t w, uint64_t mask, bool value)
{
    uint64_t *word = &map->levels.words[LEVELS_ANY][0][w];
    uint64_t change = value ? mask & ~*word : mask & *word;

    if (change) {
        *word ^= change;
    }
    return (unsigned)__builtin_popcountll(change);
}

static void
account(Bitmap *map, uint64_t changed, bool value)
{
    map->count = value ? map->count + changed : map->count - changed;
}

/*
 * change_word() - one word, and the levels above only if it matters to them
 *
 * Not when a word that had dirty bits gets more, and is still not full: that
 * is what marking does nearly always.
 */
static uint64_t
change_word(Bitmap *map, uint64_t w, uint64_t mask, bool value)
{
    uint64_t *word = &map->levels.words[LEVELS_ANY][0][w];
    uint64_t valid = levels_valid(&map->levels, 0, w);
    uint64_t old = *word;
    uint64_t new = value ? old | mask : old & ~mask;
    uint64_t changed;

    if (new == old) {
        return 0;
    }
    *word = new;
    changed = (unsigned)__builtin_popcountll(new ^ old);
    account(map, changed, value);
    if (old == 0 || old == valid || new == 0 || new == valid) {
        levels_update(&map->levels, w << 6, w << 6, value);
    }
    return changed;
}

/* Many words at once: the levels above hear of it once. */
static uint64_t
change_run(Bitmap *map, struct ClusterRun run, bool value)
{
    uint64_t last_w = (run.first + run.count - 1) >> 6;
    uint64_t changed = 0;
    uint64_t w = run.first >> 6;

    while (w <= last_w) {
        if (levels_word_has(&map->levels, !value, w)) {
            changed += put_word(map, w, run_mask(run, w), value);
            w++;
        } else {
            w = levels_next(&map->levels, !value, map->levels.top ? 1 : 0, w);
        }
    }
    if (changed) {
        account(map, changed, value);
        levels_update(&map->levels, run.first, run.first + run.count - 1,
                      value);
    }
    return changed;
}

static uint64_t
change(Bitmap *map, struct ClusterRun run, bool value)
{
    uint64_t end;

    assert(range_end(run.first, run.count, bitmap_clusters(map), &end));
    if (!run.count) {
        return 0;
    }
    if (run.first >> 6 == (end - 1) >> 6) {
        return change_word(map, run.first >> 6, run_mask(run, run.first >> 6),
                           value);
    }
    return change_run(map, run, value);
}

uint64_t
bitmap_set_run(Bitmap *map, struct ClusterRun run)
{
    return change(map, run, true);
}

uint64_t
bitmap_clear_run(Bitmap *map, struct ClusterRun run)
{
    return change(map, run, false);
}

uint64_t
bitmap_set_bytes(Bitmap *map, uint64_t offset, uint64_t len)
{
    uint64_t end;

    assert(range_end(offset, len, map->size_bytes, &end));
    return change(map, run_outward(offset, len, map->cluster_bits), true);
}

uint64_t
bitmap_clear_bytes(Bitmap *map, uint64_t offset, uint64_t len)
{
    uint64_t end;

    assert(range_end(offset, len, map->size_bytes, &end));
    return change(map,
                  run_inward(offset, len, map->size_bytes, map->cluster_bits),
                  false);
}

void
bitmap_set_all(Bitmap *map)
{
    change(map, (struct ClusterRun){0, bitmap_clusters(map)}, true);
}

void
bitmap_clear_all(Bitmap *map)
{
    levels_drop(&map->levels);
    map->count = 0;
}

uint64_t
bitmap_count_run(const Bitmap *map, struct ClusterRun run)
{
    const struct Levels *levels = &map->levels;
    uint64_t sum = 0;
    uint64_t end;
    uint64_t w = run.first >> 6;
    uint64_t end_w;

    assert(range_end(run.first, run.count, bitmap_clusters(map), &end));
    if (run.count == bitmap_clusters(map)) {
        return map->count;
    }
    end_w = run.count ? ((end - 1) >> 6) + 1 : 0;
    while (w < end_w) {
        uint64_t mask = run_mask(run, w);

        if (!levels_word_has(levels, true, w)) {
            w = levels_next(levels, true, 1, w);
        } else if (!levels_word_has(levels, false, w) && mask == UINT64_MAX) {
            uint64_t next = levels_next(levels, false, 1, w);

            /* The last word may be cut short by the run: not counted here. */
            next = next < end_w - 1 ? next : end_w - 1;
            next = next > w ? next : w + 1;
            sum += (next - w) << 6;
            w = next;
        } else {
            sum += (unsigned)__builtin_popcountll(
                levels->words[LEVELS_ANY][0][w] & mask);
            w++;
        }
    }
    return sum;
}

uint64_t
bitmap_next_dirty(const Bitmap *map, uint64_t from)
{
    return levels_next(&map->levels, true, 0, from);
}

uint64_t
bitmap_next_clean(const Bitmap *map, uint64_t from)
{
    return levels_next(&map->levels, false, 0, from);
}

bool
bitmap_next_run(const Bitmap *map, uint64_t from, uint64_t max,
                struct ClusterRun *run)
{
    uint64_t first = bitmap_next_dirty(map, from);
    uint64_t end;

    if (first == UINT64_MAX || !max) {
        return false;
    }
    end = bitmap_next_clean(map, first);
    if (end == UINT64_MAX) {
        end = bitmap_clusters(map);
    }
    run->first = first;
    run->count = end - first < max ? end - first : max;
    return true;
}

uint64_t
bitmap_merge_run(Bitmap *map, const Bitmap *other, struct ClusterRun run)
{
    uint64_t changed = 0;
    uint64_t end;
    uint64_t from = run.first;

    assert(map->cluster_bits == other->cluster_bits);
    assert(range_end(run.first, run.count, bitmap_clusters(map), &end));
    assert(end <= bitmap_clusters(other));
    while (from < end) {
        uint64_t dirty = bitmap_next_dirty(other, from);

        if (dirty >= end) {
            break;
        }
        changed += change_word(
            map, dirty >> 6,
            bitmap_word(other, dirty >> 6) & run_mask(run, dirty >> 6), true);
        from = ((dirty >> 6) + 1) << 6;
    }
    return changed;
}

uint64_t
bitmap_merge(Bitmap *map, const Bitmap *other)
{
    assert(map->size_bytes == other->size_bytes);
    return bitmap_merge_run(map, other,
                            (struct ClusterRun){0, bitmap_clusters(map)});
}

const uint64_t *
bitmap_words(const Bitmap *map, size_t *count)
{
    *count = levels_words(&map->levels, 0);
    return map->levels.words[LEVELS_ANY][0];
}

void
bitmap_load_words(Bitmap *map, size_t first_word, const uint64_t *words,
                  size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t w = first_word + i;
        uint64_t valid = levels_valid(&map->levels, 0, w);

        assert(w < levels_words(&map->levels, 0));
        change_word(map, w, valid & words[i], true);
        change_word(map, w, valid & ~words[i], false);
    }
}

void
bitmap_check(const Bitmap *map)
{
    const struct Levels *levels = &map->levels;
    uint64_t count = 0;

    for (uint64_t w = 0; w < levels_words(levels, 0); w++) {
        uint64_t word = levels->words[LEVELS_ANY][0][w];

        assert(!(word & ~levels_valid(levels, 0, w)));
        count += (unsigned)__builtin_popcountll(word);
    }
    assert(count == map->count);
    assert(levels->words[LEVELS_ANY][0] == levels->words[LEVELS_FULL][0]);
    for (unsigned l = 0; l < levels->top; l++) {
        for (uint64_t c = 0; c < levels_words(levels, l + 1) << 6; c++) {
            uint64_t any = levels->words[LEVELS_ANY][l + 1][c >> 6];
            uint64_t full = levels->words[LEVELS_FULL][l + 1][c >> 6];
            bool in = c < levels->cells[l + 1];

            assert(((any >> (c & 63)) & 1) ==
                   (in && levels->words[LEVELS_ANY][l][c] != 0));
            assert(((full >> (c & 63)) & 1) ==
                   (in && levels->words[LEVELS_FULL][l][c] ==
                              levels_valid(levels, l, c)));
        }
    }
}
