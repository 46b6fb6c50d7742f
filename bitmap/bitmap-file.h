/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file.h - checkpoints: a set of bitmaps on disk, as of one moment
 *
 * Purpose: keeps the dirty bitmap of a disk (and later its named bitmaps)
 *          over restarts. Damage never takes more than its own sector: what
 *          cannot be read back is dirty (rule 23), and an older image of a
 *          page never stands in for a newer one (rule 11).
 * Threads: one at a time per file; blocking calls, never on a data path.
 * Units:   bytes; sequence numbers count checkpoints of the set.
 * Shapes:  see the byte tables in bitmap-file.c's twin, below "On disk".
 * Errors:  0 or -errno. Loading says how much was damaged instead of failing;
 *          -EPROTONOSUPPORT for a format that is newer than this program.
 * Source:  rules 7, 11, 23 of the project's correctness rules.
 */
#pragma once

#include "bitmap.h"
#include "store-io.h"

/* One bitmap of a set, and the file that it lives in. */
struct BitmapFile {
    const char *name; /* file in the set's directory */
    Bitmap *map;
    uint8_t uuid[16]; /* of the store; another store's file is no good */
};

struct BitmapFileReport {
    uint64_t sequence;         /* of the checkpoint found, 0 if none */
    uint64_t damaged_clusters; /* taken as dirty because unreadable */
    const char *what;          /* what is wrong, in words; NULL if sound */
};

/* Write all of @set as checkpoint @sequence (larger than any before), pages
 * first, then headers; durable when 0 comes back. */
int bitmap_file_save(StoreIo *io, int dirfd, struct BitmapFile *set,
                     size_t count, uint64_t sequence);

/* Read one back into @file->map (which gives the size expected and is all
 * clean at the call). A larger map than the file's: the tail is dirty. */
int bitmap_file_load(StoreIo *io, int dirfd, struct BitmapFile *file,
                     struct BitmapFileReport *report);
