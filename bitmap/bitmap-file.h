/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file.h - checkpoints: a set of bitmaps on disk, as of one moment
 *
 * Purpose: keeps the dirty bitmap of a disk, its named bitmaps and the maps of
 *          jobs over restarts. Damage never takes more than its own sector: what
 *          cannot be read back is dirty (rule 23), and an older image of a
 *          page never stands in for a newer one (rule 11).
 * Threads: one at a time per file; blocking calls, never on a data path.
 * Units:   bytes; sequence numbers count checkpoints of the set.
 * Shapes:  see "On disk" below.
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
    bool is_indexed;  /* how it is saved: of fine grains on a large disk */
};

struct BitmapFileReport {
    uint64_t sequence;         /* of the checkpoint found, 0 if none; whoever
                                  knows of a later one takes all as dirty */
    uint64_t newest;           /* largest that the file speaks of: the next
                                  save needs a larger one */
    uint64_t damaged_clusters; /* taken as dirty because unreadable */
    const char *what;          /* what is wrong, in words; NULL if sound */
};

/* Write all of @set as checkpoint @sequence (larger than any before, else
 * -EINVAL), pages first, then headers; durable when 0 comes back. Pages of
 * bits that are as they were cost a read and no write; of an indexed file groups
 * that are all clean or all dirty cost nothing, and tables that are as they were
 * no write either. On error each file still holds the checkpoint that it held, or
 * this one. A file stays indexed or not: else it is written as a new one. */
int bitmap_file_save(StoreIo *io, int dirfd, struct BitmapFile *set,
                     size_t count, uint64_t sequence);

/* Read one back into @file->map (which gives the size expected and is all
 * clean at the call). A larger map than the file's: the tail is dirty. No
 * file, or one of another store or granularity: all of it is dirty. */
int bitmap_file_load(StoreIo *io, int dirfd, struct BitmapFile *file,
                     struct BitmapFileReport *report);

/* Is it a file of this store, in a format that is newer than this program? */
bool bitmap_file_is_newer(StoreIo *io, int dirfd, const char *name,
                          const uint8_t uuid[16]);

/*
 * On disk
 *
 * All numbers are little-endian. The file is made of pages of 4096 bytes, a
 * page of eight sectors, each sector with a checksum of its own:
 *
 *   offset  size
 *        0     4  magic "WBMP"
 *        4     1  type: 1 header, 2 table, 3 bits, 5 index (4: point-file.h)
 *        5     1  number of the sector in its page, 0 .. 7
 *        6     2  zero
 *        8     8  page: header: slot; table: group; bits: page of the bitmap
 *       16     8  sequence of the checkpoint that wrote it
 *       24   472  payload
 *      496    16  XXH3-128, canonical, of the sector with the store's uuid in
 *                 this place (of a header: with zeroes in this place)
 *
 * Pages of the file:
 *
 *   0       header, slot 0        2 + 946 g      table of group g, slot 0
 *   1       header, slot 1        2 + 946 g + 1  table of group g, slot 1
 *   2 + 946 g + 2 + 2 i + s       bits of page 472 g + i, slot s
 *
 * Bits: 59 words per sector, 472 per page, 30208 clusters.
 * Table: 59 entries per sector, 472 per page: sequence << 2 | state, one for
 * each page of bits of the group. Pages that are all clean or all dirty are
 * not written. A larger disk adds groups at the end; nothing moves.
 *
 * An indexed file (a feature) has two more pages before each 472 groups, from
 * the first one on, which all lie so much further behind: of index page k, slot 0
 * and slot 1. Its entries are of groups, as a table's are of pages: one that is
 * all clean or all dirty has no table, and another one's table is in the slot and
 * of the sequence that the entry says. Of a file without an index they are those
 * of the header.
 *
 * Header: eight equal copies, one per sector:
 *
 *   offset in the payload
 *        0     4  version, 1
 *        4     4  incompatible features: 1: indexed; unknown ones are refused
 *        8    16  uuid of the store
 *       24     8  size of the disk in bytes
 *       32     4  cluster_bits
 *       36     4  zero
 *       40     8  number of pages of bits
 *       48     8  superseded by: sequence of the checkpoint that took this
 *                 one's place in the other slot, 0 if none is known to
 *       56   416  zero
 */
#define BITMAP_FILE_MAGIC       0x504d4257u /* "WBMP" */
#define BITMAP_FILE_VERSION     1u
#define BITMAP_FILE_PAGE        4096u
#define BITMAP_FILE_SECTORS     8u
#define BITMAP_FILE_WORDS       59u
#define BITMAP_FILE_PAGE_WORDS  (BITMAP_FILE_SECTORS * BITMAP_FILE_WORDS)
#define BITMAP_FILE_GROUP_PAGES (2u + 2u * BITMAP_FILE_PAGE_WORDS)

enum BitmapFileType {
    BITMAP_FILE_HEADER = 1,
    BITMAP_FILE_TABLE = 2,
    BITMAP_FILE_BITS = 3,
    BITMAP_FILE_POINT = 4, /* point-file.h */
    BITMAP_FILE_INDEX = 5,
};

/* Features. */
#define BITMAP_FILE_INDEXED 1u

/* State of a page of bits in the table, of a group in the index. */
enum BitmapFileState {
    BITMAP_FILE_CLEAN = 0,
    BITMAP_FILE_DIRTY = 1,
    BITMAP_FILE_SLOT_0 = 2, /* mixed; the image is in slot 0 */
    BITMAP_FILE_SLOT_1 = 3,
};

struct BitmapFileHeader {
    uint32_t version;
    uint32_t incompat;
    uint8_t uuid[16];
    uint64_t size_bytes;
    uint32_t cluster_bits;
    uint32_t zero;
    uint64_t pages;
    uint64_t superseded_by;
};

struct BitmapFileSector {
    uint32_t magic;
    uint8_t type;
    uint8_t sector;
    uint16_t zero;
    uint64_t page;
    uint64_t sequence;
    union {
        struct BitmapFileHeader header;
        uint64_t words[BITMAP_FILE_WORDS]; /* bits or table entries */
    };
    uint8_t checksum[16];
};

struct BitmapFilePage {
    struct BitmapFileSector sectors[BITMAP_FILE_SECTORS];
};

_Static_assert(offsetof(struct BitmapFileHeader, uuid) == 8, "on disk");
_Static_assert(offsetof(struct BitmapFileHeader, size_bytes) == 24, "on disk");
_Static_assert(offsetof(struct BitmapFileHeader, cluster_bits) == 32,
               "on disk");
_Static_assert(offsetof(struct BitmapFileHeader, pages) == 40, "on disk");
_Static_assert(offsetof(struct BitmapFileHeader, superseded_by) == 48,
               "on disk");
_Static_assert(sizeof(struct BitmapFileHeader) == 56, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, type) == 4, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, sector) == 5, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, page) == 8, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, sequence) == 16, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, words) == 24, "on disk");
_Static_assert(offsetof(struct BitmapFileSector, checksum) == 496, "on disk");
_Static_assert(sizeof(struct BitmapFileSector) == 512, "on disk");
_Static_assert(sizeof(struct BitmapFilePage) == BITMAP_FILE_PAGE, "on disk");
_Static_assert(BITMAP_FILE_PAGE_WORDS == 472, "on disk");
_Static_assert(BITMAP_FILE_GROUP_PAGES == 946, "on disk");
