/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-levels.h - the memory of a Bitmap and the steps between its levels
 *
 * Purpose: what bitmap.c builds on, and nobody else: two hierarchies over one
 *          level 0, searched and kept up to date word by word.
 * Threads: none of its own.
 * Units:   cells: a cell of level 0 is a cluster, a cell of level l + 1 is a
 *          word of level l.
 * Shapes:  level l has cells[l] cells in 64-bit words; the top one fits one
 *          word. 2^30 clusters: levels of 128 MiB, 2 MiB, 32 KiB, 512 B, 8 B.
 * Errors:  -ENOMEM from levels_reserve().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 2^64 bytes in clusters of 512: 2^55 cells, ten levels. */
#define LEVELS_MAX 10

/*
 * Which of the two hierarchies. Both are all zero for a map that is all clean,
 * so that neither costs memory then: a cell of LEVELS_ANY says "some bit below
 * is set", one of LEVELS_FULL says "no bit below is clear".
 */
enum LevelsKind { LEVELS_ANY, LEVELS_FULL, LEVELS_KINDS };

struct Levels {
    unsigned top; /* highest level, 0 when there are no summaries */
    uint64_t cells[LEVELS_MAX];
    size_t mapped[LEVELS_MAX]; /* bytes, per array */
    /* words[ANY][0] and words[FULL][0] are the same array: the bits. */
    uint64_t *words[LEVELS_KINDS][LEVELS_MAX];
};

/* Memory for @clusters; nothing else changes. 0 or -ENOMEM. */
int levels_reserve(struct Levels *levels, uint64_t clusters);
/* The number of clusters becomes @clusters, which has been reserved. */
void levels_resize(struct Levels *levels, uint64_t clusters);
void levels_free(struct Levels *levels);
/* All clean; the memory goes back. */
void levels_drop(struct Levels *levels);

/*
 * First cell of @level at or after @from below which something is dirty
 * (@dirty) or clean (!@dirty), or UINT64_MAX.
 */
uint64_t levels_next(const struct Levels *levels, bool dirty, unsigned level,
                     uint64_t from);

/* The cells @first .. @last of level 0 have just become @value: tell the
 * levels above. */
void levels_update(struct Levels *levels, uint64_t first, uint64_t last,
                   bool value);

/* The bits of word @w of @level that stand for cells. */
static inline uint64_t
levels_valid(const struct Levels *levels, unsigned level, uint64_t w)
{
    uint64_t cells = levels->cells[level];

    if (cells - (w << 6) >= 64) {
        return UINT64_MAX;
    }
    return (UINT64_C(1) << (cells & 63)) - 1;
}

/* Does word @w of level 0 hold a dirty (clean) bit? Reads the summary only,
 * if there is one. */
static inline bool
levels_word_has(const struct Levels *levels, bool dirty, uint64_t w)
{
    const uint64_t *sum;

    if (!levels->top) {
        return true;
    }
    sum = levels->words[dirty ? LEVELS_ANY : LEVELS_FULL][1];
    return ((sum[w >> 6] >> (w & 63)) & 1) == dirty;
}

static inline uint64_t
levels_words(const struct Levels *levels, unsigned level)
{
    return (levels->cells[level] + 63) >> 6;
}
