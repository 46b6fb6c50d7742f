/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-levels.c - summary levels over the flat words of a bitmap
 *
 * The bits themselves are one flat array of words, level 0. Two hierarchies of
 * 64 to 1 stand on it, so that a search skips what it need not see:
 *
 *   ANY   a cell is set if some bit below it is set      (finds dirty ones)
 *   FULL  a cell is set if no bit below it is clear      (finds clean ones)
 *
 * "Some bit below is clear" is FULL read backwards. It is kept this way round
 * because an array of zeroes costs nothing: every array is anonymous memory
 * that nobody has touched, and neither hierarchy touches any for a map that is
 * all clean. A search goes up until a word has what it wants at or after the
 * place it came from, then down along first hits: at most twice the number of
 * levels in words read, wherever the hit is.
 *
 * Keeping them: when a run of cells takes a value, each cell above that says
 * "some below has this value" takes it too, certainly (`spread`); a cell above
 * that says "all below have this value" takes it only if its whole word is so
 * now (`gather`), which needs a look at the two words at the ends of the run.
 * Setting spreads in ANY and gathers in FULL; clearing the other way round.
 *
 * Bits beyond the last cell of a level are zero everywhere. levels_valid()
 * masks them where a zero would read as "clean below".
 */
#include "bitmap-levels.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Debian 12's headers have it; it works on mlock()ed memory, too. */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

static unsigned
cells_of_levels(uint64_t clusters, uint64_t cells[LEVELS_MAX])
{
    unsigned top = 0;

    assert(clusters > 0);
    memset(cells, 0, LEVELS_MAX * sizeof(cells[0]));
    cells[0] = clusters;
    while (cells[top] > 64) {
        assert(top + 1 < LEVELS_MAX);
        cells[top + 1] = (cells[top] + 63) >> 6;
        top++;
    }
    return top;
}

static int
reserve_array(uint64_t **words, size_t mapped, size_t want)
{
    void *mem;

    if (*words) {
        mem = mremap(*words, mapped, want, MREMAP_MAYMOVE);
    } else {
        mem = mmap(NULL, want, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (mem == MAP_FAILED) {
        return -ENOMEM;
    }
    /* One bit should cost 4 KiB, not 2 MiB; refusal costs only memory. */
    (void)madvise(mem, want, MADV_NOHUGEPAGE);
    *words = mem;
    return 0;
}

/* Both arrays of @level. They keep one size, also when one cannot grow. */
static int
reserve_level(struct Levels *levels, unsigned level, size_t want)
{
    uint64_t **any = &levels->words[LEVELS_ANY][level];
    uint64_t **full = &levels->words[LEVELS_FULL][level];
    size_t mapped = levels->mapped[level];

    if (reserve_array(any, mapped, want)) {
        return -ENOMEM;
    }
    if (level == 0) {
        *full = *any;
    } else if (reserve_array(full, mapped, want)) {
        munmap((char *)*any + mapped, want - mapped);
        *any = mapped ? *any : NULL;
        return -ENOMEM;
    }
    levels->mapped[level] = want;
    return 0;
}

/*
 * levels_reserve() - memory for a map of @clusters
 *
 * Arrays only grow. When one of them cannot, the others that have grown keep
 * their room: nobody sees it until levels_resize().
 */
int
levels_reserve(struct Levels *levels, uint64_t clusters)
{
    uint64_t cells[LEVELS_MAX];
    unsigned top = cells_of_levels(clusters, cells);

    for (unsigned l = 0; l <= top; l++) {
        size_t want = (((cells[l] + 63) >> 6) * 8 + 4095) & ~(size_t)4095;

        if (want > levels->mapped[l] && reserve_level(levels, l, want)) {
            return -ENOMEM;
        }
    }
    return 0;
}

static void
put_cell(struct Levels *levels, enum LevelsKind kind, unsigned level,
         uint64_t cell, bool value)
{
    uint64_t *word = &levels->words[kind][level][cell >> 6];
    uint64_t bit = UINT64_C(1) << (cell & 63);

    *word = value ? *word | bit : *word & ~bit;
}

/*
 * levels_resize() - more clusters, the new ones clean
 *
 * Only the words on the way up from the old last cluster mean something else
 * than before: they were last of their level and may have been full.
 */
void
levels_resize(struct Levels *levels, uint64_t clusters)
{
    uint64_t old = levels->cells[0];
    uint64_t cell;

    assert(clusters >= old);
    levels->top = cells_of_levels(clusters, levels->cells);
    if (!old) {
        return;
    }
    cell = old - 1;
    for (unsigned l = 0; l < levels->top; l++) {
        uint64_t w = cell >> 6;
        uint64_t valid = levels_valid(levels, l, w);

        put_cell(levels, LEVELS_ANY, l + 1, w,
                 levels->words[LEVELS_ANY][l][w] != 0);
        put_cell(levels, LEVELS_FULL, l + 1, w,
                 levels->words[LEVELS_FULL][l][w] == valid);
        cell = w;
    }
}

void
levels_free(struct Levels *levels)
{
    for (unsigned l = 0; l < LEVELS_MAX; l++) {
        if (levels->mapped[l]) {
            munmap(levels->words[LEVELS_ANY][l], levels->mapped[l]);
        }
        if (levels->mapped[l] && l > 0) {
            munmap(levels->words[LEVELS_FULL][l], levels->mapped[l]);
        }
    }
    memset(levels, 0, sizeof(*levels));
}

static void
drop_array(uint64_t *words, size_t mapped)
{
    if (madvise(words, mapped, MADV_DONTNEED_LOCKED) &&
        madvise(words, mapped, MADV_DONTNEED)) {
        memset(words, 0, mapped);
    }
}

void
levels_drop(struct Levels *levels)
{
    for (unsigned l = 0; l <= levels->top; l++) {
        drop_array(levels->words[LEVELS_ANY][l], levels->mapped[l]);
        if (l > 0) {
            drop_array(levels->words[LEVELS_FULL][l], levels->mapped[l]);
        }
    }
}

/* The cells of word @w of @level that have what is wanted below them. */
static inline uint64_t
wanted(const struct Levels *levels, bool dirty, unsigned level, uint64_t w)
{
    if (dirty) {
        return levels->words[LEVELS_ANY][level][w];
    }
    return ~levels->words[LEVELS_FULL][level][w] &
           levels_valid(levels, level, w);
}

uint64_t
levels_next(const struct Levels *levels, bool dirty, unsigned level,
            uint64_t from)
{
    unsigned l = level;

    for (;; l++) {
        uint64_t w = from >> 6;
        uint64_t hits;

        if (l > levels->top || from >= levels->cells[l]) {
            return UINT64_MAX;
        }
        /* Level 0 stays untouched where its summary says that it is. */
        if (l > 0 || levels_word_has(levels, dirty, w)) {
            hits = wanted(levels, dirty, l, w) & (UINT64_MAX << (from & 63));
            if (hits) {
                from = (w << 6) + (unsigned)__builtin_ctzll(hits);
                break;
            }
        }
        from = w + 1;
    }
    while (l > level) {
        uint64_t hits = wanted(levels, dirty, --l, from);

        assert(hits);
        from = (from << 6) + (unsigned)__builtin_ctzll(hits);
    }
    return from;
}

/* Cells @first .. @last become @value; memory that has it is not written. */
static void
fill(uint64_t *words, uint64_t first, uint64_t last, bool value)
{
    for (uint64_t w = first >> 6; w <= last >> 6; w++) {
        uint64_t mask = UINT64_MAX;
        uint64_t word;

        if (w == first >> 6) {
            mask &= UINT64_MAX << (first & 63);
        }
        if (w == last >> 6) {
            mask &= UINT64_MAX >> (63 - (last & 63));
        }
        word = value ? words[w] | mask : words[w] & ~mask;
        if (word != words[w]) {
            words[w] = word;
        }
    }
}

/* Each cell above @first .. @last says "some below is @value". */
static void
spread(struct Levels *levels, uint64_t first, uint64_t last, bool value)
{
    uint64_t **words = levels->words[value ? LEVELS_ANY : LEVELS_FULL];

    for (unsigned l = 1; l <= levels->top; l++) {
        first >>= 6;
        last >>= 6;
        if (first != last) {
            fill(words[l], first, last, value);
        } else if (((words[l][first >> 6] >> (first & 63)) & 1) != value) {
            words[l][first >> 6] ^= UINT64_C(1) << (first & 63);
        } else {
            return; /* old news, and so it is further up */
        }
    }
}

/* Each cell above @first .. @last says "all below are @value" if they are. */
static void
gather(struct Levels *levels, uint64_t first, uint64_t last, bool value)
{
    uint64_t **words = levels->words[value ? LEVELS_FULL : LEVELS_ANY];

    for (unsigned l = 0; l < levels->top; l++) {
        uint64_t w = first >> 6;
        uint64_t end = (last >> 6) + 1;

        if (words[l][w] != (value ? levels_valid(levels, l, w) : 0)) {
            w++;
        }
        if (end > w && words[l][end - 1] !=
                           (value ? levels_valid(levels, l, end - 1) : 0)) {
            end--;
        }
        if (w >= end) {
            return;
        }
        first = w;
        last = end - 1;
        fill(words[l + 1], first, last, value);
    }
}

void
levels_update(struct Levels *levels, uint64_t first, uint64_t last, bool value)
{
    spread(levels, first, last, value);
    gather(levels, first, last, value);
}
