/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file.c - writing a checkpoint, and reading one back
 *
 * Saving checkpoint N never touches what checkpoint N - 1 consists of, until N
 * is durable:
 *
 *   1. Pages of bits that are neither all clean nor all dirty go to the slot
 *      that N - 1 does not use; the tables, which say of each page what it is
 *      and where, go to the slot of the header to be written.
 *   2. fdatasync of each file of the set.
 *   3. The header of N, over the one of N - 2; fdatasync of each file. From
 *      the first sector of it on the file holds N, all of which is there.
 *   4. The header of N - 1 is told that it was superseded; nobody waits.
 *
 * A file that holds no sound checkpoint (new, damaged, of another store) gets
 * an empty header in slot 1 with step 1, which announces N: until N is there,
 * the file says that something is missing, whatever slot 0 still holds.
 *
 * Loading believes a sector of bits only if its sequence is the one that the
 * table says; a sector of the table only if it is the header's. A sector that
 * is not believed costs its 3776 clusters (of bits) or its 59 pages (of the
 * table), which are then dirty and counted.
 *
 * Every page has a sequence of its own in the table, so that a checkpoint
 * leaves out what has not changed since an earlier one: a page whose image is
 * in its slot already, every sector of it sound, stays where it is.
 */
#include "bitmap-file.h"

#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_CLUSTERS   (BITMAP_FILE_PAGE_WORDS * UINT64_C(64))
#define SECTOR_CLUSTERS (BITMAP_FILE_WORDS * UINT64_C(64))

/* Of one file, while its set is saved. */
struct Saving {
    StoreIo *io;
    int fd;
    const struct BitmapFile *file;
    uint64_t sequence;
    unsigned slot; /* for the header and the tables */
    struct BitmapFileFound found;
};

/* The part of @run that is on a disk of @clusters. */
static struct ClusterRun
clip(struct ClusterRun run, uint64_t clusters)
{
    if (run.first >= clusters) {
        return (struct ClusterRun){clusters, 0};
    }
    if (run.count > clusters - run.first) {
        run.count = clusters - run.first;
    }
    return run;
}

static struct ClusterRun
page_run(uint64_t page)
{
    return (struct ClusterRun){page * PAGE_CLUSTERS, PAGE_CLUSTERS};
}

/*
 * Saving
 */

/* The bits of @page; the rest of its sectors is zero. */
static void
encode_bits(const struct Saving *s, uint64_t page, struct BitmapFilePage *image)
{
    uint64_t first = page * BITMAP_FILE_PAGE_WORDS;
    size_t n_words;
    const uint64_t *words = bitmap_words(s->file->map, &n_words);

    memset(image, 0, sizeof(*image));
    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS; i++) {
        if (first + i < n_words) {
            image->sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS] =
                htole64(words[first + i]);
        }
    }
}

/* Is @image what the checkpoint before has in the slot that @was names? */
static bool
is_saved(const struct Saving *s, uint64_t page, uint64_t was,
         const struct BitmapFilePage *image)
{
    struct BitmapFilePage old;

    bitmap_file_get_page(
        s->io, s->fd,
        bitmap_file_bits_at(page, (was & 3) == BITMAP_FILE_SLOT_1), &old);
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        const struct BitmapFileSector *sector = &old.sectors[i];

        if (le64toh(sector->sequence) != was >> 2 ||
            !bitmap_file_is_sound(sector, BITMAP_FILE_BITS, page, i,
                                  s->file->uuid) ||
            memcmp(sector->words, image->sectors[i].words,
                   sizeof(sector->words)) != 0) {
            return false;
        }
    }
    return true;
}

/* @page is mixed: its entry for the table, where @was is the one before. */
static int
save_bits(const struct Saving *s, uint64_t page, uint64_t was, uint64_t *entry)
{
    unsigned slot = (was & 3) == BITMAP_FILE_SLOT_0;
    struct BitmapFilePage image;

    encode_bits(s, page, &image);
    if (((was & 3) == BITMAP_FILE_SLOT_0 || (was & 3) == BITMAP_FILE_SLOT_1) &&
        is_saved(s, page, was, &image)) {
        *entry = was;
        return 0;
    }
    *entry =
        s->sequence << 2 | (slot ? BITMAP_FILE_SLOT_1 : BITMAP_FILE_SLOT_0);
    return bitmap_file_put_page(s->io, s->fd, bitmap_file_bits_at(page, slot),
                                &image, BITMAP_FILE_BITS, page, s->sequence,
                                s->file->uuid);
}

/* CLEAN or DIRTY if the page is that as a whole, else SLOT_0. */
static enum BitmapFileState
page_state(const Bitmap *map, uint64_t page)
{
    struct ClusterRun run = clip(page_run(page), bitmap_clusters(map));
    uint64_t end = run.first + run.count;

    if (bitmap_next_dirty(map, run.first) >= end) {
        return BITMAP_FILE_CLEAN;
    }
    if (bitmap_next_clean(map, run.first) >= end) {
        return BITMAP_FILE_DIRTY;
    }
    return BITMAP_FILE_SLOT_0;
}

/* Entry @i of a table page as the checkpoint before has it, 0 if it has none
 * that could be believed: that one uses neither slot then. */
static uint64_t
old_entry(const struct Saving *s, const struct BitmapFilePage *old,
          uint64_t group, unsigned i)
{
    const struct BitmapFileSector *sector =
        &old->sectors[i / BITMAP_FILE_WORDS];

    if (!s->found.is_sound || le64toh(sector->sequence) != s->found.sequence ||
        !bitmap_file_is_sound(sector, BITMAP_FILE_TABLE, group,
                              i / BITMAP_FILE_WORDS, s->file->uuid)) {
        return 0;
    }
    return le64toh(sector->words[i % BITMAP_FILE_WORDS]);
}

/* The pages of @group and its table. */
static int
save_group(const struct Saving *s, uint64_t group, uint64_t pages)
{
    struct BitmapFilePage old, new;
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;

    memset(&new, 0, sizeof(new));
    bitmap_file_get_page(s->io, s->fd,
                         bitmap_file_table_at(group, s->found.slot), &old);
    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < pages; i++) {
        enum BitmapFileState state = page_state(s->file->map, first + i);
        uint64_t entry = s->sequence << 2 | state;
        int r = 0;

        if (state == BITMAP_FILE_SLOT_0) {
            r = save_bits(s, first + i, old_entry(s, &old, group, i), &entry);
        }
        if (r < 0) {
            return r;
        }
        new.sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS] =
            htole64(entry);
    }
    return bitmap_file_put_page(
        s->io, s->fd, bitmap_file_table_at(group, s->slot), &new,
        BITMAP_FILE_TABLE, group, s->sequence, s->file->uuid);
}

static int
save_open(struct Saving *s, int dirfd, bool *is_new)
{
    const struct StoreIoOps *ops = s->io->ops;
    int r;

    s->fd = ops->open(s->io, dirfd, s->file->name, O_RDWR, 0);
    if (s->fd == -ENOENT) {
        *is_new = true;
        s->fd = ops->open(s->io, dirfd, s->file->name, O_RDWR | O_CREAT, 0600);
    }
    if (s->fd < 0) {
        return s->fd;
    }
    r = bitmap_file_find(s->io, s->fd, s->file->uuid, &s->found);
    if (r < 0) {
        return r;
    }
    if (s->found.newest >= s->sequence) {
        return -EINVAL;
    }
    s->slot = s->found.is_sound ? !s->found.slot : 0;
    return 0;
}

/* Everything but the header, durable. */
static int
save_body(struct Saving *s, int dirfd, bool *is_new)
{
    uint64_t pages = bitmap_file_pages(bitmap_clusters(s->file->map));
    uint64_t groups =
        (pages + BITMAP_FILE_PAGE_WORDS - 1) / BITMAP_FILE_PAGE_WORDS;
    int r = save_open(s, dirfd, is_new);

    if (r == 0 && !s->found.is_sound) {
        struct BitmapFileHeader empty = {.superseded_by = s->sequence};

        memcpy(empty.uuid, s->file->uuid, sizeof(empty.uuid));
        r = bitmap_file_put_header(s->io, s->fd, 1, 0, &empty);
    }
    for (uint64_t group = 0; r == 0 && group < groups; group++) {
        r = save_group(s, group, pages);
    }
    return r < 0 ? r : s->io->ops->fdatasync(s->io, s->fd);
}

static int
save_header(const struct Saving *s)
{
    const Bitmap *map = s->file->map;
    struct BitmapFileHeader header = {
        .size_bytes = bitmap_size_bytes(map),
        .cluster_bits = bitmap_cluster_bits(map),
        .pages = bitmap_file_pages(bitmap_clusters(map)),
    };
    int r;

    memcpy(header.uuid, s->file->uuid, sizeof(header.uuid));
    r = bitmap_file_put_header(s->io, s->fd, s->slot, s->sequence, &header);
    return r < 0 ? r : s->io->ops->fdatasync(s->io, s->fd);
}

/* The checkpoint is durable; if this gets lost it is still found. */
static void
save_superseded(const struct Saving *s)
{
    struct BitmapFileHeader header = {
        .size_bytes = s->found.size_bytes,
        .cluster_bits = s->found.cluster_bits,
        .pages = s->found.pages,
        .superseded_by = s->sequence,
    };

    if (s->found.is_sound) {
        memcpy(header.uuid, s->file->uuid, sizeof(header.uuid));
        (void)bitmap_file_put_header(s->io, s->fd, s->found.slot,
                                     s->found.sequence, &header);
    }
}

static int
save_all(struct Saving *all, size_t count, StoreIo *io, int dirfd)
{
    bool is_new = false;
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++) {
        r = save_body(&all[i], dirfd, &is_new);
    }
    if (r == 0 && is_new) {
        r = io->ops->fsync(io, dirfd);
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = save_header(&all[i]);
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        save_superseded(&all[i]);
    }
    return r;
}

int
bitmap_file_save(StoreIo *io, int dirfd, struct BitmapFile *set, size_t count,
                 uint64_t sequence)
{
    struct Saving *all = calloc(count ? count : 1, sizeof(*all));
    int r;

    if (!all) {
        return -ENOMEM;
    }
    assert(sequence > 0 && sequence >> 62 == 0);
    for (size_t i = 0; i < count; i++) {
        all[i] = (struct Saving){
            .io = io, .fd = -1, .file = &set[i], .sequence = sequence};
    }
    r = save_all(all, count, io, dirfd);
    for (size_t i = 0; i < count; i++) {
        int close_r = all[i].fd >= 0 ? io->ops->close(io, all[i].fd) : 0;

        r = r < 0 ? r : close_r;
    }
    free(all);
    return r;
}

/*
 * Loading
 */

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
    run = clip(run, bitmap_clusters(l->file->map));
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

    bitmap_file_get_page(l->io, l->fd, bitmap_file_bits_at(page, slot), &image);
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
    struct ClusterRun run = clip(page_run(page), bitmap_clusters(l->file->map));

    switch ((enum BitmapFileState)(entry & 3)) {
    case BITMAP_FILE_CLEAN:
        break;
    case BITMAP_FILE_DIRTY:
        bitmap_set_run(l->file->map, run);
        break;
    case BITMAP_FILE_SLOT_0:
        load_bits(l, page, 0, entry >> 2);
        break;
    case BITMAP_FILE_SLOT_1:
        load_bits(l, page, 1, entry >> 2);
        break;
    }
}

static void
load_group(const struct Loading *l, uint64_t group, uint64_t pages)
{
    struct BitmapFilePage table;
    bool sound[BITMAP_FILE_SECTORS];
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;

    bitmap_file_get_page(l->io, l->fd,
                         bitmap_file_table_at(group, l->found.slot), &table);
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        const struct BitmapFileSector *sector = &table.sectors[i];

        sound[i] = le64toh(sector->sequence) == l->found.sequence &&
                   bitmap_file_is_sound(sector, BITMAP_FILE_TABLE, group, i,
                                        l->file->uuid);
    }
    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < pages; i++) {
        const struct BitmapFileSector *sector =
            &table.sectors[i / BITMAP_FILE_WORDS];

        if (sound[i / BITMAP_FILE_WORDS]) {
            load_page(l, first + i,
                      le64toh(sector->words[i % BITMAP_FILE_WORDS]));
        } else {
            damaged(l, page_run(first + i),
                    "a sector of its table is damaged or out of date");
        }
    }
}

static void
load_all(const struct Loading *l)
{
    Bitmap *map = l->file->map;
    uint64_t size = bitmap_size_bytes(map);
    uint64_t pages = bitmap_file_pages(bitmap_clusters(map));

    pages = pages < l->found.pages ? pages : l->found.pages;
    for (uint64_t group = 0; group * BITMAP_FILE_PAGE_WORDS < pages; group++) {
        load_group(l, group, pages);
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
