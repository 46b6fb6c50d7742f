/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-save.c - what there is in memory becomes what is found
 *
 * Whoever saves does not say what was changed: what is in memory is compared
 * with what is known of the files. So it does not matter who saves first, the
 * command that changed something or a checkpoint on another thread; nor what a
 * command that failed has left: the next save brings what is true by then.
 *
 *   1 the files of what was changed, and in a checkpoint of all that records
 *   2 the list, if it is another one       true from here on
 *   3 files that nobody needs any more are deleted
 *
 * Each file holds what it held, or the new bits, at any instant. But what is one
 * change to its user may be several here, and a crash in the middle must not
 * lose a mark, whatever the change was ("a |= b, then clear b"). So:
 *
 *   - The end of a job (now.bits and later.bits become one) goes into the file
 *     of the successor, of which the result always has all; the list then says
 *     that this is the bitmap's own. Until that the other one is as it was.
 *   - If more than one bitmap was changed, step 1 gives those that shrink what
 *     they had and what they have, and a step 4 what they have.
 *
 * If the list cannot be written nobody knows which one is there. The next save
 * begins with the one that there was.
 *
 * A file that cannot be written keeps no other one from it, nor `dirty`. What it
 * has is older then than what makes extents cold, which are hot for it, so that
 * it goes on being a superset. A clean end has no hot extents: there it is
 * deleted, and all that it was of counts as changed. Where the bits are recorded
 * in no more, a file of before could be one that has less (what a command did
 * that failed, and could not be taken back on disk). One of a newer weir stays:
 * that finds it older than the last checkpoint, or as it left it.
 *
 * The bits of what is not recorded in (it is disabled, or a job has it) are
 * written if they were changed, and stay where they are else: their file may be
 * older than the last checkpoint (store-bitmaps-load.c says what is demanded).
 */
#include "store-bitmaps-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/*
 * Files
 */

/* @err is why @name, below the disk's directory, could not be written, if it was
 * not. */
static int
note(const BitmapsSaving *saving, const char *name, bool is_bits, int err)
{
    struct UnsavedFile file = {.is_bits = is_bits, .err = err};

    if (err) {
        g_strlcpy(file.name, name, sizeof(file.name));
        g_array_append_val(saving->disk->kept->unsaved, file);
    }
    return err;
}

static int
note_bitmap(const BitmapsSaving *saving, const char *name, bool is_bits,
            int err)
{
    char path[STORE_BITS_NAME];

    g_snprintf(path, sizeof(path), STORE_BITMAPS "/%s", name);
    return note(saving, path, is_bits, err);
}

/* The directory, durably. */
static int
make_dir(const BitmapsSaving *saving)
{
    StoreIo *io = saving->store->io;
    BitmapsKept *kept = saving->disk->kept;
    int dir_fd = saving->disk->dir_fd;
    int err =
        kept->dir_fd >= 0 ? 0 : io->ops->mkdir(io, dir_fd, STORE_BITMAPS, 0700);

    if (kept->dir_fd >= 0) {
        return 0;
    }
    err = err == -EEXIST ? 0 : err;
    err = err ? err : io->ops->fsync(io, dir_fd);
    if (!err) {
        int fd = io->ops->open(io, dir_fd, STORE_BITMAPS, STORE_DIR_FLAGS, 0);

        err = fd < 0 ? fd : 0;
        kept->dir_fd = MAX(fd, -1);
    }
    return note(saving, STORE_BITMAPS, false, err);
}

/* A file that was not read back is not built upon (rule 11). One that a newer weir
 * wrote is not this one's to delete. */
static int
make_way(const BitmapsSaving *saving, int dir_fd, const char *name)
{
    StoreIo *io = saving->store->io;
    int err;

    if (bitmap_file_is_newer(io, dir_fd, name, saving->store->uuid)) {
        return -EPROTONOSUPPORT;
    }
    err = io->ops->unlink(io, dir_fd, name, 0);
    return err == -ENOENT ? 0 : err;
}

static int
put_file(const BitmapsSaving *saving, struct SavedBitmap *item, unsigned slot,
         Bitmap *bits, uint64_t sequence)
{
    StoreIo *io = saving->store->io;
    int dir_fd = saving->disk->kept->dir_fd;
    char name[STORE_BITMAP_NAME];
    struct BitmapFile file = {.name = name, .map = bits, .is_indexed = true};
    int err = 0;

    bitmaps_file_name(name, item->now.listed.id, slot);
    memcpy(file.uuid, saving->store->uuid, sizeof(file.uuid));
    if (!item->now.has_file[slot]) {
        err = make_way(saving, dir_fd, name);
    }
    err = err ? err : bitmap_file_save(io, dir_fd, &file, 1, sequence);
    if (!err && !item->now.has_file[slot]) {
        store_reserve_bits(io, dir_fd, name, bitmap_clusters(bits), true);
    }
    item->now.has_file[slot] = !err;
    return note_bitmap(saving, name, true, err);
}

/* The bitmap's own before its successor's, and not without it: what a successor
 * has no more is there by then. */
static int
put_item(const BitmapsSaving *saving, struct SavedBitmap *item, bool is_wide,
         uint64_t sequence)
{
    struct ListedBitmap *listed = &item->now.listed;
    Bitmap *bits = is_wide && item->wide ? item->wide : item->bits;
    char name[STORE_BITMAP_NAME];
    int err = 0;

    if (item->saves_bits) {
        err = put_file(saving, item, listed->slot, bits, sequence);
        if (listed->is_busy || !listed->is_enabled) {
            listed->sequence = sequence;
        }
    }
    if (!item->saves_successor) {
        return err;
    }
    if (err) {
        bitmaps_file_name(name, listed->id, !listed->slot);
        return note_bitmap(saving, name, true, err);
    }
    return put_file(saving, item, !listed->slot, item->successor, sequence);
}

/* What its file has beside what it has now, if anything: for step 1. */
static int
widen(const BitmapsSaving *saving, struct SavedBitmap *item)
{
    const struct ListedBitmap *listed = &item->now.listed;
    struct BitmapFileReport report;
    Bitmap *wide;

    if (!item->saves_bits || !item->now.has_file[listed->slot]) {
        return 0;
    }
    wide = bitmap_new(bitmap_size_bytes(item->bits), listed->grain_bits);
    if (!wide) {
        return note(saving, STORE_BITMAPS, false, -ENOMEM);
    }
    (void)bitmaps_file_load(saving->store->io, saving->disk->kept->dir_fd,
                            saving->store->uuid, listed, listed->slot, 0, wide,
                            &report);
    bitmap_merge(wide, item->bits);
    if (bitmap_count(wide) == bitmap_count(item->bits)) {
        bitmap_free(wide);
        return 0;
    }
    item->wide = wide;
    return 0;
}

static int
widen_all(BitmapsSaving *saving)
{
    BitmapsKept *kept = saving->disk->kept;
    unsigned changes = saving->changes;
    int err = 0;

    for (guint i = 0; i < kept->bitmaps->len; i++) {
        changes += !bitmaps_saving_has(
            saving,
            g_array_index(kept->bitmaps, struct KeptBitmap, i).listed.id);
    }
    for (guint i = 0; !err && changes > 1 && i < saving->items->len; i++) {
        err =
            widen(saving, &g_array_index(saving->items, struct SavedBitmap, i));
    }
    return err;
}

/* As many as can be. */
static int
put_all(BitmapsSaving *saving, uint64_t sequence)
{
    int first_err = 0;

    for (guint i = 0; i < saving->items->len; i++) {
        int err = put_item(saving,
                           &g_array_index(saving->items, struct SavedBitmap, i),
                           true, sequence);

        first_err = first_err ? first_err : err;
    }
    return first_err;
}

/* Step 4. */
static int
put_narrow(BitmapsSaving *saving)
{
    uint64_t sequence = 0;
    int err = 0;

    for (guint i = 0; !err && i < saving->items->len; i++) {
        struct SavedBitmap *item =
            &g_array_index(saving->items, struct SavedBitmap, i);

        if (item->wide) {
            sequence = sequence
                           ? sequence
                           : atomic_fetch_add(&saving->store->sequence, 1) + 1;
            err = put_file(saving, item, item->now.listed.slot, item->bits,
                           sequence);
        }
    }
    return err;
}

/*
 * The list
 */

/* What the list says from now on. */
static void
keep_items(BitmapsSaving *saving)
{
    BitmapsKept *kept = saving->disk->kept;

    for (guint i = 0; i < kept->bitmaps->len; i++) {
        uint64_t id =
            g_array_index(kept->bitmaps, struct KeptBitmap, i).listed.id;

        if (!bitmaps_saving_has(saving, id)) {
            g_array_append_val(kept->gone, id);
        }
    }
    g_array_set_size(kept->bitmaps, 0);
    for (guint i = 0; i < saving->items->len; i++) {
        g_array_append_val(
            kept->bitmaps,
            g_array_index(saving->items, struct SavedBitmap, i).now);
    }
}

static int
put_list(const BitmapsSaving *saving, GArray *bitmaps)
{
    BitmapsKept *kept = saving->disk->kept;
    size_t len;
    g_autofree char *text = bitmaps_list_format(bitmaps, saving->store->uuid,
                                                saving->disk->id, &len);
    int err = store_io_replace(saving->store->io, kept->dir_fd,
                               STORE_BITMAPS_LIST, text, len, 0600);

    kept->is_unsure = err != 0;
    kept->is_damaged &= err != 0;
    return note_bitmap(saving, STORE_BITMAPS_LIST, false, err);
}

static int
put_items(const BitmapsSaving *saving)
{
    g_autoptr(GArray) next =
        g_array_new(FALSE, FALSE, sizeof(struct KeptBitmap));

    for (guint i = 0; i < saving->items->len; i++) {
        g_array_append_val(
            next, g_array_index(saving->items, struct SavedBitmap, i).now);
    }
    return put_list(saving, next);
}

static void
delete_file(const BitmapsSaving *saving, uint64_t id, unsigned slot)
{
    StoreIo *io = saving->store->io;
    char name[STORE_BITMAP_NAME];

    bitmaps_file_name(name, id, slot);
    (void)io->ops->unlink(io, saving->disk->kept->dir_fd, name, 0);
}

/* Step 3. What stays for once is left over, and deleted by the next serve. */
static void
delete_unneeded(BitmapsSaving *saving)
{
    BitmapsKept *kept = saving->disk->kept;

    for (guint i = 0; i < kept->gone->len; i++) {
        uint64_t id = g_array_index(kept->gone, uint64_t, i);

        /* It was to be added, that failed, and now it is there. */
        if (!bitmaps_kept_find(kept, id)) {
            delete_file(saving, id, 0);
            delete_file(saving, id, 1);
        }
    }
    g_array_set_size(kept->gone, 0);
    for (guint i = 0; i < kept->bitmaps->len; i++) {
        struct KeptBitmap *at =
            &g_array_index(kept->bitmaps, struct KeptBitmap, i);
        unsigned other = !at->listed.slot;

        if (!at->listed.is_busy && at->has_file[other]) {
            delete_file(saving, at->listed.id, other);
            at->has_file[other] = false;
        }
    }
}

/* Files that were written may be there in part: what was read of them before is
 * not built upon. */
static void
forget_items(BitmapsSaving *saving)
{
    BitmapsKept *kept = saving->disk->kept;

    for (guint i = 0; i < kept->bitmaps->len; i++) {
        struct KeptBitmap *at =
            &g_array_index(kept->bitmaps, struct KeptBitmap, i);

        at->is_saved = false;
    }
    for (guint i = 0; i < saving->items->len; i++) {
        uint64_t id =
            g_array_index(saving->items, struct SavedBitmap, i).now.listed.id;

        if (!bitmaps_kept_find(kept, id)) {
            g_array_append_val(kept->gone, id);
        }
    }
}

static int
save_named(BitmapsSaving *saving, uint64_t sequence)
{
    BitmapsKept *kept = saving->disk->kept;
    int err = make_dir(saving);

    /* Which one is there must be known before a file is touched. */
    if (!err && kept->is_unsure) {
        err = put_list(saving, kept->bitmaps);
    }
    err = err ? err : widen_all(saving);
    err = err ? err : put_all(saving, sequence);
    if (!err && bitmaps_saving_lists(saving)) {
        err = put_items(saving);
    }
    if (err) {
        return err;
    }
    keep_items(saving);
    delete_unneeded(saving);
    return put_narrow(saving);
}

static bool
is_named_saved(const BitmapsSaving *saving)
{
    const BitmapsKept *kept = saving->disk->kept;

    return !saving->items->len && !kept->bitmaps->len && !kept->is_unsure &&
           !kept->gone->len;
}

/*
 * Maps of jobs
 */
int
bits_open_dir(StoreIo *io, const Disk *disk, const char *file,
              const char **name)
{
    g_auto(GStrv) parts = g_strsplit(file, "/", 8);
    guint last = g_strv_length(parts) - 1;
    int fd = io->ops->open(io, disk->dir_fd, ".", STORE_DIR_FLAGS, 0);

    for (guint i = 0; fd >= 0 && i < last; i++) {
        int next = io->ops->open(io, fd, parts[i], STORE_DIR_FLAGS, 0);

        io->ops->close(io, fd);
        fd = next;
    }
    *name = strrchr(file, '/');
    *name = *name ? *name + 1 : file;
    return fd;
}

static int
save_bits(const BitmapsSaving *saving, const struct BitsCopy *copy,
          uint64_t sequence)
{
    StoreIo *io = saving->store->io;
    struct BitmapFile file = {.map = copy->bits, .is_indexed = true};
    int dir_fd = bits_open_dir(io, saving->disk, copy->file, &file.name);
    int err = dir_fd < 0 ? dir_fd : 0;

    if (!err && !copy->of->has_file) {
        err = make_way(saving, dir_fd, file.name);
    }
    memcpy(file.uuid, saving->store->uuid, sizeof(file.uuid));
    err = err ? err : bitmap_file_save(io, dir_fd, &file, 1, sequence);
    if (!err && !copy->of->has_file) {
        store_reserve_bits(io, dir_fd, file.name, bitmap_clusters(copy->bits),
                           true);
    }
    copy->of->has_file |= !err;
    if (dir_fd >= 0) {
        io->ops->close(io, dir_fd);
    }
    return note(saving, copy->file, true, err);
}

/* Files are of numbers that are given once. */
static bool
is_held(const Disk *disk, const struct BitsCopy *copy)
{
    return g_ptr_array_find(disk->bits, copy->of, NULL) &&
           strcmp(copy->of->file, copy->file) == 0;
}

int
bitmaps_saving_run(BitmapsSaving *saving, uint64_t sequence)
{
    int first_err = 0;

    saving->disk->kept->run = sequence;
    if (saving->disk->kept->is_foreign && saving->items->len) {
        first_err =
            note_bitmap(saving, STORE_BITMAPS_LIST, false, -EPROTONOSUPPORT);
    } else if (!is_named_saved(saving)) {
        first_err = save_named(saving, sequence);
        if (first_err) {
            forget_items(saving);
        }
    }
    for (guint i = 0; i < saving->copies->len; i++) {
        const struct BitsCopy *copy =
            &g_array_index(saving->copies, struct BitsCopy, i);
        int err =
            is_held(saving->disk, copy) ? save_bits(saving, copy, sequence) : 0;

        first_err = first_err ? first_err : err;
    }
    return first_err;
}

/*
 * What could not be
 */
static int
delete_unsaved(StoreIo *io, const Disk *disk, const char *file)
{
    const char *name;
    int dir_fd = bits_open_dir(io, disk, file, &name);
    int err;

    if (dir_fd < 0) {
        return dir_fd;
    }
    err = io->ops->unlink(io, dir_fd, name, 0);
    err = err && err != -ENOENT ? err : io->ops->fsync(io, dir_fd);
    io->ops->close(io, dir_fd);
    return err;
}

int
bitmaps_delete_unsaved(Store *store, Disk *disk)
{
    GArray *unsaved = disk->kept->unsaved;
    int err = unsaved->len ? 0 : -EBUSY;

    for (guint i = 0; !err && i < unsaved->len; i++) {
        const struct UnsavedFile *file =
            &g_array_index(unsaved, struct UnsavedFile, i);

        if (!file->is_bits) {
            err = -EBUSY;
        } else if (file->err != -EPROTONOSUPPORT) {
            err = store->is_served ? delete_unsaved(store->io, disk, file->name)
                                   : -EBUSY;
        }
    }
    return err;
}
