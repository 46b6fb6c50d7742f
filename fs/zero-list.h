/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * zero-list.h - ranges that read as zero and are not punched yet (rule 25)
 *
 * Purpose: a discard of a GiB takes the file system most of a second, and
 *          FUSE holds the inode lock until the one reply. So whole clusters
 *          go on this list, which is small enough to be made durable by one
 *          page write; the reply goes out, and punching follows in slices.
 * Threads: none of its own.
 * Units:   bytes.
 * Shapes:  sorted, disjoint, not touching. The record file STORE/NAME/zeroes
 *          is two slots of ZERO_RECORD_BYTES, written one after the other with
 *          the same record, so that one that is damaged is not missed:
 *
 *            offset size
 *                 0    8  magic "WEIRZERO"
 *                 8    4  version, 1
 *                12    4  count of ranges
 *                16    8  sequence; the valid slot with the larger one counts
 *                24    8  epoch of the store: an older record is of no use
 *                32 16*n  ranges: offset, length
 *              4088    8  XXH3-64 of bytes 0 .. 4087
 *
 *          all little-endian, unused bytes zero.
 * Errors:  false when the list is full; a damaged slot is no slot.
 */
#pragma once

#include "bitmap/range.h"

#include <stddef.h>

#define ZERO_LIST_MAX     252 /* as many as a record holds */
#define ZERO_LIST_ADD_MAX 128 /* room is kept for splits */
#define ZERO_RECORD_BYTES 4096

struct ZeroRange {
    uint64_t offset;
    uint64_t len;
};

typedef struct ZeroList {
    struct ZeroRange range[ZERO_LIST_MAX];
    unsigned count;
    uint64_t bytes;
    uint64_t version; /* changes with every change */
} ZeroList;

bool zero_list_add(ZeroList *list, uint64_t offset, uint64_t len);
/* False, and nothing changed, if a split finds no room. */
bool zero_list_remove(ZeroList *list, uint64_t offset, uint64_t len);
/* First part of the list inside [@offset, @len). */
bool zero_list_first(const ZeroList *list, uint64_t offset, uint64_t len,
                     struct ZeroRange *part);

void zero_record_encode(const ZeroList *list, uint64_t sequence, uint64_t epoch,
                        unsigned char page[ZERO_RECORD_BYTES]);
/* False too for one of before @epoch_before. */
bool zero_record_decode(const unsigned char page[ZERO_RECORD_BYTES],
                        uint64_t size_bytes, uint64_t epoch_before,
                        ZeroList *list, uint64_t *sequence);
