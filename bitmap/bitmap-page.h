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

/* Number of pages of bits that @clusters need. */
static inline uint64_t
bitmap_file_pages(uint64_t clusters)
{
    uint64_t per_page = BITMAP_FILE_PAGE_WORDS * 64;

    return clusters / per_page + (clusters % per_page != 0);
}

/* Places in the file, in bytes. */
static inline uint64_t
bitmap_file_table_at(uint64_t group, unsigned slot)
{
    return (2 + group * BITMAP_FILE_GROUP_PAGES + slot) * BITMAP_FILE_PAGE;
}

static inline uint64_t
bitmap_file_bits_at(uint64_t page, unsigned slot)
{
    uint64_t group = page / BITMAP_FILE_PAGE_WORDS;
    uint64_t i = page % BITMAP_FILE_PAGE_WORDS;

    return (2 + group * BITMAP_FILE_GROUP_PAGES + 2 + 2 * i + slot) *
           BITMAP_FILE_PAGE;
}
