/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * intent.h - which extents of a disk may have been written since a checkpoint
 *
 * Purpose: one bit per extent of 4 MiB, durable before the first write into an
 *          extent whose bit is off. After an end that was not clean, what is
 *          dirty is the last checkpoint and all of the extents that are hot
 *          here. What cannot be believed is hot.
 * Threads: none; pages are encoded and sealed by whoever writes them. The
 *          functions that take a StoreIo block.
 * Units:   extents, sectors of 512 bytes, pages of eight.
 * Shapes:  see "On disk" below. A Bitmap of extents is one whose clusters are
 *          of INTENT_EXTENT_BITS.
 * Errors:  0 or -errno. Loading says what is damaged instead of failing.
 * Source:  rules 1, 3, 11, 23 of the project's correctness rules.
 */
#pragma once

#include "bitmap.h"
#include "store-io.h"

#define INTENT_EXTENT_BITS 22 /* 4 MiB, at least as large as a cluster */

/* What every sector says beside its bits. */
struct IntentMark {
    uint8_t uuid[16];  /* of the store; not written, part of the checksum */
    uint64_t epoch;    /* of the serve */
    uint64_t sequence; /* newest checkpoint that made an extent cold */
};

struct IntentReport {
    uint64_t newest;          /* largest epoch of a sound sector, 0: none */
    uint64_t damaged_extents; /* hot because they cannot be believed */
    const char *what;         /* why, in words; NULL if all is sound */
};

/*
 * On disk
 *
 * All numbers are little-endian. Nothing but sectors; no header, no slots:
 *
 *   offset  size
 *        0     4  magic "WIN1"; the last letter is the version
 *        4     4  number of the sector in the file
 *        8     8  epoch
 *       16     8  sequence of the newest checkpoint that made one of these
 *                 extents cold: with an older one they are hot
 *       24   472  bits: bit i of word w is extent 3776 sector + 64 w + i;
 *                 1 is hot
 *      496    16  XXH3-128, canonical, of the sector with the store's uuid in
 *                 this place
 */
#define INTENT_FILE         "intent"
#define INTENT_MAGIC        0x314e4957u /* "WIN1" */
#define INTENT_WORDS        59u
#define INTENT_SECTOR       512u
#define INTENT_PAGE         4096u
#define INTENT_PAGE_SECTORS 8u
#define INTENT_PAGE_WORDS   (INTENT_PAGE_SECTORS * INTENT_WORDS)
#define INTENT_SECTOR_BITS  (INTENT_WORDS * UINT64_C(64))      /* 3776 */
#define INTENT_PAGE_BITS    (INTENT_PAGE_WORDS * UINT64_C(64)) /* 30208 */

struct IntentSector {
    uint32_t magic;
    uint32_t number;
    uint64_t epoch;
    uint64_t sequence;
    uint64_t words[INTENT_WORDS];
    uint8_t checksum[16];
};

struct IntentPage {
    struct IntentSector sectors[INTENT_PAGE_SECTORS];
};

_Static_assert(offsetof(struct IntentSector, number) == 4, "on disk");
_Static_assert(offsetof(struct IntentSector, epoch) == 8, "on disk");
_Static_assert(offsetof(struct IntentSector, sequence) == 16, "on disk");
_Static_assert(offsetof(struct IntentSector, words) == 24, "on disk");
_Static_assert(offsetof(struct IntentSector, checksum) == 496, "on disk");
_Static_assert(sizeof(struct IntentSector) == INTENT_SECTOR, "on disk");
_Static_assert(sizeof(struct IntentPage) == INTENT_PAGE, "on disk");

static inline uint64_t
intent_pages(uint64_t extents)
{
    return extents / INTENT_PAGE_BITS + (extents % INTENT_PAGE_BITS != 0);
}

/*
 * A page of the data path, in three steps: the words of the extents that are
 * hot now (@count of them, less at the end of the disk), those that are about
 * to be, and what the sectors say of themselves.
 */
void intent_page_fill(struct IntentPage *page, const uint64_t *words,
                      size_t count);
void intent_page_set(struct IntentPage *page, uint64_t number,
                     struct ClusterRun extents);
void intent_page_seal(struct IntentPage *page, uint64_t number,
                      const struct IntentMark *mark);

/* Write all of the file from @hot, in place, every page of it really written;
 * durable when 0 comes back. */
int intent_save(StoreIo *io, int dirfd, const Bitmap *hot,
                const struct IntentMark *mark);

/* A larger disk: pages for it, all cold, behind those of @old_extents; durable
 * when 0 comes back. */
int intent_grow(StoreIo *io, int dirfd, uint64_t old_extents,
                uint64_t new_extents, const struct IntentMark *mark);

/* Read back into @hot, which gives the number of extents and is all clear.
 * @want: the epoch that a sector must at least be of, and the sequence of the
 * checkpoint that there is. */
void intent_load(StoreIo *io, int dirfd, Bitmap *hot,
                 const struct IntentMark *want, struct IntentReport *report);
