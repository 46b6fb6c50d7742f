/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file-save.c - writing a checkpoint
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
 * Every page has a sequence of its own in the table, so that a checkpoint
 * leaves out what has not changed since an earlier one: a page whose image is
 * in its slot already, every sector of it sound, stays where it is. Likewise the
 * tables of an indexed file, whose slots and sequences are in the index; and a
 * group that is all clean or all dirty has no table at all, so that fine grains
 * on a large disk cost what is dirty, and a few pages of index.
 */
#include "bitmap-file.h"

#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Of one file, while its set is saved. */
struct Saving {
    StoreIo *io;
    int fd;
    const struct BitmapFile *file;
    uint64_t sequence;
    unsigned slot; /* for the header, and the tables or the index */
    struct BitmapFileFound found;
    /* First dirty and first clean cluster at or behind what was looked at. */
    uint64_t next_dirty, next_clean;
};

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

    bitmap_file_get_page(s->io, s->fd,
                         bitmap_file_bits_in(s->file->is_indexed, page,
                                             (was & 3) == BITMAP_FILE_SLOT_1),
                         &old);
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
    return bitmap_file_put_page(
        s->io, s->fd, bitmap_file_bits_in(s->file->is_indexed, page, slot),
        &image, BITMAP_FILE_BITS, page, s->sequence, s->file->uuid);
}

/* CLEAN or DIRTY if @run is that as a whole, else SLOT_0. Runs come in order. */
static enum BitmapFileState
run_state(struct Saving *s, struct ClusterRun run)
{
    const Bitmap *map = s->file->map;
    uint64_t end;

    run = bitmap_file_clip(run, bitmap_clusters(map));
    end = run.first + run.count;
    if (s->next_dirty < run.first) {
        s->next_dirty = bitmap_next_dirty(map, run.first);
    }
    if (s->next_dirty >= end) {
        return BITMAP_FILE_CLEAN;
    }
    if (s->next_clean < run.first) {
        s->next_clean = bitmap_next_clean(map, run.first);
    }
    return s->next_clean >= end ? BITMAP_FILE_DIRTY : BITMAP_FILE_SLOT_0;
}

/* A page of tables or of the index, of the checkpoint before. */
struct Entries {
    enum BitmapFileType type;
    uint64_t number;
    unsigned slot;
    uint64_t sequence; /* 0: there was none */
    unsigned sound;    /* sectors that can be believed */
    struct BitmapFilePage page;
};

static uint64_t
entries_at(const struct Saving *s, const struct Entries *entries, unsigned slot)
{
    return entries->type == BITMAP_FILE_INDEX
               ? bitmap_file_index_at(entries->number, slot)
               : bitmap_file_table_in(s->file->is_indexed, entries->number,
                                      slot);
}

static void
get_entries(const struct Saving *s, struct Entries *entries)
{
    if (s->found.is_sound && entries->sequence) {
        bitmap_file_get_page(s->io, s->fd,
                             entries_at(s, entries, entries->slot),
                             &entries->page);
        entries->sound =
            bitmap_file_sound(&entries->page, entries->type, entries->number,
                              entries->sequence, s->file->uuid);
    }
}

/* Entry @i, 0 if there is none that could be believed: the checkpoint before
 * uses neither slot then. */
static uint64_t
old_entry(const struct Entries *entries, unsigned i)
{
    return entries->sound >> i / BITMAP_FILE_WORDS & 1
               ? bitmap_file_entry(&entries->page, i)
               : 0;
}

/* The pages of @group that are mixed, and @new, its table. @is_same: @old says
 * the same. */
static int
save_pages(struct Saving *s, uint64_t group, uint64_t pages,
           const struct Entries *old, struct BitmapFilePage *new, bool *is_same)
{
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;

    memset(new, 0, sizeof(*new));
    *is_same = true;
    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < pages; i++) {
        enum BitmapFileState state =
            run_state(s, bitmap_file_page_run(first + i, 1));
        uint64_t was = old_entry(old, i);
        uint64_t entry =
            was && (was & 3) == state ? was : s->sequence << 2 | state;
        int r = 0;

        if (state == BITMAP_FILE_SLOT_0) {
            r = save_bits(s, first + i, was, &entry);
        }
        if (r < 0) {
            return r;
        }
        *is_same &= entry == was;
        new->sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS] =
            htole64(entry);
    }
    return 0;
}

static int
put_entries(const struct Saving *s, const struct Entries *entries,
            unsigned slot, struct BitmapFilePage *page)
{
    return bitmap_file_put_page(s->io, s->fd, entries_at(s, entries, slot),
                                page, entries->type, entries->number,
                                s->sequence, s->file->uuid);
}

/* The pages of @group and its table, which is of the header's slot. */
static int
save_group(struct Saving *s, uint64_t group, uint64_t pages)
{
    struct Entries old = {.type = BITMAP_FILE_TABLE,
                          .number = group,
                          .slot = s->found.slot,
                          .sequence = s->found.sequence};
    struct BitmapFilePage new;
    bool is_same;
    int r;

    get_entries(s, &old);
    r = save_pages(s, group, pages, &old, &new, &is_same);
    return r < 0 ? r : put_entries(s, &old, s->slot, &new);
}

/* The same by the index: @was is its entry of before, @entry what it becomes. */
static int
save_indexed_group(struct Saving *s, uint64_t group, uint64_t pages,
                   uint64_t was, uint64_t *entry)
{
    bool has_table =
        (was & 3) == BITMAP_FILE_SLOT_0 || (was & 3) == BITMAP_FILE_SLOT_1;
    struct Entries old = {.type = BITMAP_FILE_TABLE,
                          .number = group,
                          .slot = (was & 3) == BITMAP_FILE_SLOT_1,
                          .sequence = has_table ? was >> 2 : 0};
    uint64_t first = group * BITMAP_FILE_PAGE_WORDS;
    enum BitmapFileState state =
        run_state(s, bitmap_file_page_run(first, BITMAP_FILE_PAGE_WORDS));
    unsigned slot = (was & 3) == BITMAP_FILE_SLOT_0;
    struct BitmapFilePage new;
    bool is_same;
    int r;

    *entry = s->sequence << 2 | state;
    if (state != BITMAP_FILE_SLOT_0) {
        return 0;
    }
    get_entries(s, &old);
    r = save_pages(s, group, pages, &old, &new, &is_same);
    if (r < 0) {
        return r;
    }
    if (is_same) {
        *entry = was;
        return 0;
    }
    *entry =
        s->sequence << 2 | (slot ? BITMAP_FILE_SLOT_1 : BITMAP_FILE_SLOT_0);
    return put_entries(s, &old, slot, &new);
}

static int
save_index(struct Saving *s, uint64_t number, uint64_t pages)
{
    struct Entries old = {.type = BITMAP_FILE_INDEX,
                          .number = number,
                          .slot = s->found.slot,
                          .sequence = s->found.sequence};
    uint64_t groups = bitmap_file_groups(pages);
    uint64_t first = number * BITMAP_FILE_PAGE_WORDS;
    struct BitmapFilePage new;

    memset(&new, 0, sizeof(new));
    get_entries(s, &old);
    for (unsigned i = 0; i < BITMAP_FILE_PAGE_WORDS && first + i < groups;
         i++) {
        uint64_t entry;
        int r =
            save_indexed_group(s, first + i, pages, old_entry(&old, i), &entry);

        if (r < 0) {
            return r;
        }
        new.sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS] =
            htole64(entry);
    }
    return put_entries(s, &old, s->slot, &new);
}

static int
save_bitmap(struct Saving *s)
{
    uint64_t pages = bitmap_file_pages(bitmap_clusters(s->file->map));
    uint64_t groups = bitmap_file_groups(pages);
    uint64_t count = s->file->is_indexed ? bitmap_file_groups(groups) : groups;
    int r = 0;

    s->next_dirty = bitmap_next_dirty(s->file->map, 0);
    s->next_clean = bitmap_next_clean(s->file->map, 0);
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        r = s->file->is_indexed ? save_index(s, i, pages)
                                : save_group(s, i, pages);
    }
    return r;
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
    s->found.is_sound &= s->found.is_indexed == s->file->is_indexed;
    s->slot = s->found.is_sound ? !s->found.slot : 0;
    return 0;
}

/* Everything but the header, durable. */
static int
save_body(struct Saving *s, int dirfd, bool *is_new)
{
    int r = save_open(s, dirfd, is_new);

    if (r == 0 && !s->found.is_sound) {
        struct BitmapFileHeader empty = {.superseded_by = s->sequence};

        memcpy(empty.uuid, s->file->uuid, sizeof(empty.uuid));
        r = bitmap_file_put_header(s->io, s->fd, 1, 0, &empty);
    }
    r = r < 0 ? r : save_bitmap(s);
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
        .incompat = s->file->is_indexed ? BITMAP_FILE_INDEXED : 0,
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
        .incompat = s->found.is_indexed ? BITMAP_FILE_INDEXED : 0,
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
