/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point-file.c - bits that are set in place
 *
 * A sector that is not sound was damaged by something else than a loss of
 * power. It may have had any of its bits: whether the disk or the data file has
 * the old content of its clusters nobody knows, and to guess would show a
 * snapshot that never was. When its page is written again it is written
 * unsound: what nobody knows now nobody will know later.
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
    while (from < end) {
        uint64_t w = from / 64;
        uint64_t stop = end < (w + 1) * 64 ? end : (w + 1) * 64;
        uint64_t bits = UINT64_MAX >> (64 - (stop - from));

        page->sectors[w / BITMAP_FILE_WORDS].words[w % BITMAP_FILE_WORDS] |=
            htole64(bits << (from & 63));
        from = stop;
    }
}

static uint64_t
sequence_of(const struct PointMark *mark)
{
    assert(mark->id < UINT64_C(1) << POINT_ID_BITS);
    return (uint64_t)mark->disk << POINT_ID_BITS | mark->id;
}

/* The clusters of a sector, as far as the disk has them. */
static struct ClusterRun
run_of(uint64_t number, unsigned index, uint64_t clusters)
{
    uint64_t first = number * POINT_FILE_PAGE_BITS + index * SECTOR_BITS;
    uint64_t left;

    first = first < clusters ? first : clusters;
    left = clusters - first;
    return (struct ClusterRun){first, left < SECTOR_BITS ? left : SECTOR_BITS};
}

void
point_page_seal(struct BitmapFilePage *page, uint64_t number,
                const struct PointMark *mark, const Bitmap *unsure)
{
    bitmap_file_seal_page(page, BITMAP_FILE_POINT, number, sequence_of(mark),
                          mark->uuid);
    for (unsigned i = 0; bitmap_count(unsure) && i < BITMAP_FILE_SECTORS; i++) {
        struct ClusterRun run = run_of(number, i, bitmap_clusters(unsure));

        if (run.count && bitmap_count_run(unsure, run)) {
            page->sectors[i].checksum[0] ^= 0xff;
        }
    }
}

static void
load_sector(const struct BitmapFileSector *sector, uint64_t number,
            unsigned index, const struct PointMark *mark, Bitmap *kept,
            Bitmap *unsure)
{
    struct ClusterRun run = run_of(number, index, bitmap_clusters(kept));
    uint64_t words[BITMAP_FILE_WORDS];
    size_t count = (size_t)((run.count + 63) / 64);

    if (!run.count || !memcmp(sector, &nothing, sizeof(nothing))) {
        return;
    }
    if (!bitmap_file_is_sound(sector, BITMAP_FILE_POINT, number, index,
                              mark->uuid) ||
        le64toh(sector->sequence) != sequence_of(mark)) {
        bitmap_set_run(unsure, run);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        words[i] = le64toh(sector->words[i]);
    }
    bitmap_load_words(kept, run.first / 64, words, count);
}

static void
load_page(StoreIo *io, int fd, uint64_t number, const struct PointMark *mark,
          Bitmap *kept, Bitmap *unsure)
{
    /* The file may have been opened for direct I/O. */
    _Alignas(BITMAP_FILE_PAGE) struct BitmapFilePage page;
    unsigned unread =
        bitmap_file_get_page(io, fd, number * BITMAP_FILE_PAGE, &page);

    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        if (unread & 1u << i) {
            bitmap_set_run(unsure, run_of(number, i, bitmap_clusters(kept)));
        } else {
            load_sector(&page.sectors[i], number, i, mark, kept, unsure);
        }
    }
}

int
point_file_load(StoreIo *io, int fd, const struct PointMark *mark, Bitmap *kept,
                Bitmap *unsure)
{
    uint64_t pages = point_file_page_of(bitmap_clusters(kept) - 1) + 1;
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
        load_page(io, fd, number, mark, kept, unsure);
        at = (off_t)((number + 1) * BITMAP_FILE_PAGE);
    }
}
