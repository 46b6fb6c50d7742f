/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point-file.c - bits that are set in place
 *
 * A sector that is not sound was damaged by something else than a loss of
 * power. It may have had any of its bits: whether the disk or the data file has
 * the old content of its clusters nobody knows, and to guess would show a
 * snapshot that never was.
 */
#include "point-file.h"

#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SECTOR_BITS (BITMAP_FILE_WORDS * UINT64_C(64))

static const struct BitmapFileSector nothing;

void
point_page_fill(struct BitmapFilePage *page, uint64_t number,
                const Bitmap *kept)
{
    uint64_t first = number * BITMAP_FILE_PAGE_WORDS;
    uint64_t words = (bitmap_clusters(kept) + 63) / 64;

    memset(page, 0, sizeof(*page));
    for (uint64_t i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < words; i++) {
        page->sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS] =
            htole64(bitmap_word(kept, first + i));
    }
}

void
point_page_set(struct BitmapFilePage *page, uint64_t number,
               struct ClusterRun run)
{
    uint64_t first = number * POINT_FILE_PAGE_BITS;
    uint64_t from = run.first > first ? run.first - first : 0;
    uint64_t end = run.first + run.count;

    end = end > first ? end - first : 0;
    end = end < POINT_FILE_PAGE_BITS ? end : POINT_FILE_PAGE_BITS;
    for (uint64_t bit = from; bit < end; bit++) {
        uint64_t w = bit / 64;

        page->sectors[w / BITMAP_FILE_WORDS].words[w % BITMAP_FILE_WORDS] |=
            htole64(UINT64_C(1) << (bit & 63));
    }
}

static uint64_t
sequence_of(const struct PointMark *mark)
{
    assert(mark->id < UINT64_C(1) << POINT_ID_BITS);
    return (uint64_t)mark->disk << POINT_ID_BITS | mark->id;
}

void
point_page_seal(struct BitmapFilePage *page, uint64_t number,
                const struct PointMark *mark)
{
    bitmap_file_seal_page(page, BITMAP_FILE_POINT, number, sequence_of(mark),
                          mark->uuid);
}

static void
load_sector(const struct BitmapFileSector *sector, uint64_t number,
            unsigned index, const struct PointMark *mark, Bitmap *kept,
            Bitmap *unsure)
{
    uint64_t first = number * POINT_FILE_PAGE_BITS + index * SECTOR_BITS;
    uint64_t clusters = bitmap_clusters(kept);
    uint64_t words[BITMAP_FILE_WORDS];
    size_t count;

    if (first >= clusters || !memcmp(sector, &nothing, sizeof(nothing))) {
        return;
    }
    if (!bitmap_file_is_sound(sector, BITMAP_FILE_POINT, number, index,
                              mark->uuid) ||
        le64toh(sector->sequence) != sequence_of(mark)) {
        uint64_t left = clusters - first;

        bitmap_set_run(unsure, (struct ClusterRun){first, left < SECTOR_BITS
                                                              ? left
                                                              : SECTOR_BITS});
        return;
    }
    count = (size_t)((clusters - first + 63) / 64);
    count = count < BITMAP_FILE_WORDS ? count : BITMAP_FILE_WORDS;
    for (size_t i = 0; i < count; i++) {
        words[i] = le64toh(sector->words[i]);
    }
    bitmap_load_words(kept, first / 64, words, count);
}

int
point_file_load(StoreIo *io, int fd, const struct PointMark *mark, Bitmap *kept,
                Bitmap *unsure)
{
    uint64_t pages = point_file_page_of(bitmap_clusters(kept) - 1) + 1;
    struct BitmapFilePage page;
    off_t at = 0;

    for (;;) {
        uint64_t number;

        /* A map is mostly a hole. */
        at = io->ops->lseek(io, fd, at, SEEK_DATA);
        if (at < 0) {
            return at == -ENXIO ? 0 : (int)at;
        }
        number = (uint64_t)at / BITMAP_FILE_PAGE;
        if (number >= pages) {
            return 0;
        }
        bitmap_file_get_page(io, fd, number * BITMAP_FILE_PAGE, &page);
        for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
            load_sector(&page.sectors[i], number, i, mark, kept, unsure);
        }
        at = (off_t)((number + 1) * BITMAP_FILE_PAGE);
    }
}
