/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point-file.h - the map file of a point: which clusters its data file has
 *
 * Purpose: a copy that a snapshot needs is durable, and so is the bit that says
 *          so, before the guest overwrites the cluster (rule 14). Bits are only
 *          ever set. What a damaged sector says is not known: those clusters
 *          of the snapshot, and of older ones that resolve to it, cannot be
 *          read; nothing else is affected (rules 19, 23).
 * Threads: none; pages are filled and sealed by whoever writes them. Loading
 *          blocks.
 * Units:   clusters; pages of eight sectors.
 * Shapes:  see "On disk" below.
 * Errors:  0 or -errno. Loading says how much is damaged instead of failing.
 */
#pragma once

#include "bitmap-file.h"
#include "bitmap.h"
#include "store-io.h"

/*
 * On disk
 *
 * Pages as in bitmap-file.h, and no others: page n of the file is at byte
 * 4096 n and has the bits of the clusters from 30208 n on; type is 4, page n,
 * sequence disk << 40 | id of the snapshot. Bit i of word w of a sector's 59 is
 * cluster 3776 sector + 64 w + i of the page; 1 is kept. A sector of nothing
 * but zeroes, as in a hole, has no bits set.
 *
 * There is one place for a page, written over: at most one write of a page is
 * in flight, and a loss of power leaves each sector old or new. One that is old
 * lacks only bits whose clusters nobody has overwritten.
 */
#define POINT_FILE_PAGE_BITS (BITMAP_FILE_PAGE_WORDS * UINT64_C(64))
#define POINT_ID_BITS        40

/* Whose map it is. */
struct PointMark {
    uint8_t uuid[16]; /* of the store */
    uint64_t id;      /* of the snapshot */
    unsigned disk;    /* its id */
};

static inline uint64_t
point_file_page_of(uint64_t cluster)
{
    return cluster / POINT_FILE_PAGE_BITS;
}

/* Page @number as @kept has it; bits beside those; what it says of itself. A
 * sector of which something is @unsure is sealed so that it stays that. */
void point_page_fill(struct BitmapFilePage *page, uint64_t number,
                     const Bitmap *kept);
void point_page_set(struct BitmapFilePage *page, uint64_t number,
                    struct ClusterRun run);
void point_page_seal(struct BitmapFilePage *page, uint64_t number,
                     const struct PointMark *mark, const Bitmap *unsure);

/* Read back what is in the file at @fd into two bitmaps of the size that the
 * disk had then, both all clear. 0 or -errno: it cannot be read at all, and
 * nothing is known. */
int point_file_load(StoreIo *io, int fd, const struct PointMark *mark,
                    Bitmap *kept, Bitmap *unsure);
