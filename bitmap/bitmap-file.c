/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file.c - reading a checkpoint back
 *
 * A sector of bits is believed only if its sequence is the one that the table
 * says; a sector of the table only if it is the header's, or in an indexed file
 * the one that the index says; a sector of the index only if it is the header's.
 * One that is not believed costs what it speaks of, which is then dirty and
 * counted:
 *
 *   of bits        3776 clusters
 *   of a table     59 pages
 *   of an index    59 groups
 *
 * bitmap-file-save.c says what keeps one checkpoint whole while the next is
 * written.
 */
#include "bitmap-file.h"

#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>

#define SECTOR_CLUSTERS (BITMAP_FILE_WORDS * UINT64_C(64))

struct Loading {
    StoreIo *io;
    int fd;
    const struct BitmapFile *file;
    struct BitmapFileFound found;
    struct BitmapFileReport *report;
};

static void
damaged(const struct Loading *l, struct ClusterRun run, const char *what)
{
    run = bitmap_file_clip(run, bitmap_clusters(l->file->map));
    bitmap_set_run(l->file->map, run);
    l->report->damaged_clusters += run.count;
    if (run.count && !l->report->what) {
        l->report->what = what;
    }
}

static void
load_bits(const struct Loading *l, uint64_t page, unsigned slot,
          uint64_t sequence)
{
    struct BitmapFilePage image;

    bitmap_file_get_page(l->io, l->fd,
                         bitmap_file_bits_in(l->found.is_indexed, page, slot),
                         &image);
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        struct BitmapFileSector *sector = &image.sectors[i];
        uint64_t first =
            page * BITMAP_FILE_PAGE_WORDS + (uint64_t)i * BITMAP_FILE_WORDS;
        uint64_t words[BITMAP_FILE_WORDS];
        size_t n_words;

        if (le64toh(sector->sequence) != sequence ||
            !bitmap_file_is_sound(sector, BITMAP_FILE_BITS, page, i,
                                  l->file->uuid)) {
            damaged(l, (struct ClusterRun){first * 64, SECTOR_CLUSTERS},
                    "a sector of bits is damaged or out of date");
            continue;
        }
        (void)bitmap_words(l->file->map, &n_words);
        if (first >= n_words) {
            return;
        }
        n_words -= first;
        n_words = n_words < BITMAP_FILE_WORDS ? n_words : BITMAP_FILE_WORDS;
        for (size_t w = 0; w < n_words; w++) {
            words[w] = le64toh(sector->words[w]);
        }
        bitmap_load_words(l->file->map, first, words, n_words);
    }
}

static void
load_page(const struct Loading *l, uint64_t page, uint64_t entry)
{
    struct ClusterRun run = bitmap_file_page_run(page, 1);

    switch ((enum BitmapFileState)(entry & 3)) {
    case BITMAP_FILE_CLEAN:
        break;
    case BITMAP_FILE_DIRTY:
        bitmap_set_run(l->file->map,
                       bitmap_file_clip(run, bitmap_clusters(l->file->map)));
        break;
    case BITMAP_FILE_SLOT_0:
        load_bits(l, page, 0, entry >> 2);
        break;
    case BITMAP_FILE_SLOT_1:
        load_bits(l, page, 1, entry >> 2);
        break;
    }
}

/* The entries of a page of tables or of the index; which of its sectors are to be
 * believed. */
static unsigned
get_entries(const struct Loading *l, uint64_t at, enum BitmapFileType type,
            uint64_t number, uint64_t sequence, struct BitmapFilePage *page)
{
    bitmap_file_get_page(l->io, l->fd, at, page);
    return bitmap_file_sound(page, type, number, sequence, l->file->uuid);
}

/* @slot, @sequence: of its table. */
static void
load_group(const struct Loading *l, uint64_t group, uint64_t pages,
           unsigned slot, uint64_t sequence)
{
    struct BitmapFilePage table;
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;
    unsigned sound =
        get_entries(l, bitmap_file_table_in(l->found.is_indexed, group, slot),
                    BITMAP_FILE_TABLE, group, sequence, &table);

    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < pages; i++) {
        if (sound >> i / BITMAP_FILE_WORDS & 1) {
            load_page(l, first + i, bitmap_file_entry(&table, i));
        } else {
            damaged(l, bitmap_file_page_run(first + i, 1),
                    "a sector of its table is damaged or out of date");
        }
    }
}

static void
load_indexed_group(const struct Loading *l, uint64_t group, uint64_t pages,
                   uint64_t entry)
{
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;
    struct ClusterRun run = bitmap_file_page_run(first, BITMAP_FILE_PAGE_WORDS);
    uint64_t end = bitmap_file_page_run(pages, 0).first;

    switch ((enum BitmapFileState)(entry & 3)) {
    case BITMAP_FILE_CLEAN:
        break;
    case BITMAP_FILE_DIRTY:
        run = bitmap_file_clip(run, end);
        bitmap_set_run(l->file->map,
                       bitmap_file_clip(run, bitmap_clusters(l->file->map)));
        break;
    case BITMAP_FILE_SLOT_0:
        load_group(l, group, pages, 0, entry >> 2);
        break;
    case BITMAP_FILE_SLOT_1:
        load_group(l, group, pages, 1, entry >> 2);
        break;
    }
}

static void
load_index(const struct Loading *l, uint64_t number, uint64_t pages)
{
    struct BitmapFilePage index;
    uint64_t groups = bitmap_file_groups(pages);
    uint64_t first = number * BITMAP_FILE_PAGE_WORDS;
    unsigned sound =
        get_entries(l, bitmap_file_index_at(number, l->found.slot),
                    BITMAP_FILE_INDEX, number, l->found.sequence, &index);

    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < groups;
         i++) {
        if (sound >> i / BITMAP_FILE_WORDS & 1) {
            load_indexed_group(l, first + i, pages,
                               bitmap_file_entry(&index, i));
        } else {
            damaged(l,
                    bitmap_file_page_run((first + i) * BITMAP_FILE_PAGE_WORDS,
                                         BITMAP_FILE_PAGE_WORDS),
                    "a sector of its index is damaged or out of date");
        }
    }
}

static void
load_all(const struct Loading *l)
{
    Bitmap *map = l->file->map;
    uint64_t size = bitmap_size_bytes(map);
    uint64_t pages = bitmap_file_pages(bitmap_clusters(map));
    uint64_t groups;

    pages = pages < l->found.pages ? pages : l->found.pages;
    groups = bitmap_file_groups(pages);
    if (l->found.is_indexed) {
        for (uint64_t i = 0; i < bitmap_file_groups(groups); i++) {
            load_index(l, i, pages);
        }
    } else {
        for (uint64_t group = 0; group < groups; group++) {
            load_group(l, group, pages, l->found.slot, l->found.sequence);
        }
    }
    if (l->found.size_bytes < size) {
        bitmap_set_bytes(map, l->found.size_bytes, size - l->found.size_bytes);
    }
}

int
bitmap_file_load(StoreIo *io, int dirfd, struct BitmapFile *file,
                 struct BitmapFileReport *report)
{
    struct Loading l = {.io = io, .file = file, .report = report};
    struct ClusterRun all = {0, bitmap_clusters(file->map)};
    int r = 0;

    assert(bitmap_count(file->map) == 0);
    *report = (struct BitmapFileReport){0};
    l.fd = io->ops->open(io, dirfd, file->name, O_RDONLY, 0);
    if (l.fd < 0) {
        damaged(&l, all,
                l.fd == -ENOENT ? "there is no file" : "it cannot be opened");
        return 0;
    }
    r = bitmap_file_find(io, l.fd, file->uuid, &l.found);
    report->newest = l.found.newest;
    if (r < 0) {
        damaged(&l, all, "its format is newer than this program");
    } else if (!l.found.is_sound) {
        damaged(&l, all, l.found.what);
    } else if (l.found.cluster_bits != bitmap_cluster_bits(file->map)) {
        report->sequence = l.found.sequence;
        damaged(&l, all, "it has clusters of another size");
    } else {
        report->sequence = l.found.sequence;
        load_all(&l);
    }
    (void)io->ops->close(io, l.fd);
    return r;
}

bool
bitmap_file_is_newer(StoreIo *io, int dirfd, const char *name,
                     const uint8_t uuid[16])
{
    int fd = io->ops->open(io, dirfd, name, O_RDONLY, 0);
    struct BitmapFileFound found;
    bool is_newer;

    if (fd < 0) {
        return false;
    }
    is_newer = bitmap_file_find(io, fd, uuid, &found) == -EPROTONOSUPPORT;
    (void)io->ops->close(io, fd);
    return is_newer;
}
