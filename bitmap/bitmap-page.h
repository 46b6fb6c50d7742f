/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-page.h - pages and headers of a checkpoint file
 *
 * Purpose: what bitmap_file_save() and bitmap_file_load() share: checksums,
 *          reading and writing a page, and which checkpoint a file holds.
 * Threads: none of its own.
 * Errors:  0 or -errno.
 */
#pragma once

#include "bitmap-file.h"

/* Which checkpoint a file holds. */
struct BitmapFileFound {
    bool is_sound;       /* the header can be relied on */
    const char *what;    /* why not */
    unsigned slot;       /* of the header and the tables */
    uint64_t sequence;   /* ... of it; 0 none */
    uint64_t newest;     /* largest sequence that any header speaks of */
    uint64_t size_bytes; /* ... and what it says of the disk */
    uint32_t cluster_bits;
    uint64_t pages;
    bool is_indexed;
};

/* 0 or -EPROTONOSUPPORT. */
int bitmap_file_find(StoreIo *io, int fd, const uint8_t uuid[16],
                     struct BitmapFileFound *found);

/* @sequence as the checkpoint of @slot. */
int bitmap_file_put_header(StoreIo *io, int fd, unsigned slot,
                           uint64_t sequence,
                           const struct BitmapFileHeader *header);

/* A page of eight sectors, in host byte order but for the payload: what they
 * say of themselves; and written as well. */
void bitmap_file_seal_page(struct BitmapFilePage *page,
                           enum BitmapFileType type, uint64_t number,
                           uint64_t sequence, const uint8_t uuid[16]);
int bitmap_file_put_page(StoreIo *io, int fd, uint64_t at,
                         struct BitmapFilePage *page, enum BitmapFileType type,
                         uint64_t number, uint64_t sequence,
                         const uint8_t uuid[16]);
/* BITMAP_FILE_PAGE bytes of sectors. What is not there reads as zeroes: no
 * sector of it will be sound. Returns a bit for each that cannot be read. */
unsigned bitmap_file_get_page(StoreIo *io, int fd, uint64_t at, void *page);
/* Of a sector of 512 bytes, whose last 16 are for the checksum. */
void bitmap_file_checksum(const void *sector, const uint8_t uuid[16],
                          uint8_t sum[16]);
bool bitmap_file_is_sound(const struct BitmapFileSector *sector,
                          enum BitmapFileType type, uint64_t number,
                          unsigned index, const uint8_t uuid[16]);

/* Which sectors of @page are that, and of @sequence: a bit for each. */
unsigned bitmap_file_sound(const struct BitmapFilePage *page,
                           enum BitmapFileType type, uint64_t number,
                           uint64_t sequence, const uint8_t uuid[16]);
/* Entry @i of a page of tables or of the index. */
uint64_t bitmap_file_entry(const struct BitmapFilePage *page, unsigned i);

/* Number of pages of bits that @clusters need. */
static inline uint64_t
bitmap_file_pages(uint64_t clusters)
{
    uint64_t per_page = BITMAP_FILE_PAGE_WORDS * 64;

    return clusters / per_page + (clusters % per_page != 0);
}

/* Number of groups that hold them; likewise of index pages. */
static inline uint64_t
bitmap_file_groups(uint64_t pages)
{
    return (pages + BITMAP_FILE_PAGE_WORDS - 1) / BITMAP_FILE_PAGE_WORDS;
}

/* Places in the file, in bytes; _in: of a file that is indexed, or is not. */
static inline uint64_t
bitmap_file_index_at(uint64_t page, unsigned slot)
{
    return (2 + page * (2 + BITMAP_FILE_PAGE_WORDS * BITMAP_FILE_GROUP_PAGES) +
            slot) *
           BITMAP_FILE_PAGE;
}

static inline uint64_t
bitmap_file_table_in(bool is_indexed, uint64_t group, unsigned slot)
{
    uint64_t indexes =
        is_indexed ? 2 * (group / BITMAP_FILE_PAGE_WORDS + 1) : 0;

    return (2 + indexes + group * BITMAP_FILE_GROUP_PAGES + slot) *
           BITMAP_FILE_PAGE;
}

static inline uint64_t
bitmap_file_bits_in(bool is_indexed, uint64_t page, unsigned slot)
{
    uint64_t group = page / BITMAP_FILE_PAGE_WORDS;
    uint64_t i = page % BITMAP_FILE_PAGE_WORDS;

    return bitmap_file_table_in(is_indexed, group, 0) +
           (2 + 2 * i + slot) * BITMAP_FILE_PAGE;
}

static inline uint64_t
bitmap_file_bits_at(uint64_t page, unsigned slot)
{
    return bitmap_file_bits_in(false, page, slot);
}

/* The part of @run that is on a disk of @clusters. */
static inline struct ClusterRun
bitmap_file_clip(struct ClusterRun run, uint64_t clusters)
{
    if (run.first >= clusters) {
        return (struct ClusterRun){clusters, 0};
    }
    if (run.count > clusters - run.first) {
        run.count = clusters - run.first;
    }
    return run;
}

/* Clusters of @count pages from @page on. */
static inline struct ClusterRun
bitmap_file_page_run(uint64_t page, uint64_t count)
{
    const uint64_t clusters = BITMAP_FILE_PAGE_WORDS * UINT64_C(64);

    return (struct ClusterRun){page * clusters, count * clusters};
}
