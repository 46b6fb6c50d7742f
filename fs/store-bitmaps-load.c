/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-load.c - named bitmaps and maps of jobs, as an opening finds them
 *
 * What is dirty in a bitmap that recorded when the last end came:
 *
 *   clean, and disk.raw is as weir left it   what its file has
 *   unclean, and the disk was tracked        that, the extents that are hot, and
 *                                            what is on the zero list
 *   anything else                            all: disk.raw may have been written
 *                                            with nobody recording it (by a weir
 *                                            that knew of no bitmaps, too: its
 *                                            state does not say "recorded")
 *
 * Which extents are hot is a question of its own for each file: a sector of the
 * intent file names the checkpoint that made its extents cold, and with a file
 * of an earlier one they are not (store-track.c). A file that is of an earlier
 * checkpoint than the state knows of is an old one that somebody put back, and
 * all of it is dirty.
 *
 * What nothing is recorded in (it is disabled; a job has it, and its successor
 * records) is what its file has, whatever was written; if the file is of the
 * time that the list wants, or of a later one.
 *
 * What a disk has grown by since a file was written is dirty in it. The end of
 * every serve, and of what resizes a store at rest, writes all of them anew, so
 * that this is after a crash only.
 *
 * Nothing of this keeps a store from being opened, but for lack of memory.
 */
#include "snapshot-private.h"
#include "store-bitmaps-private.h"
#include "zero-file.h"

#include "bitmap/intent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define SKIPPED_IDS 1000 /* if the state knows less than the lists do */

BitmapsKept *
bitmaps_kept_new(void)
{
    BitmapsKept *kept = g_new0(BitmapsKept, 1);

    kept->dir_fd = -1;
    kept->bitmaps = g_array_new(FALSE, FALSE, sizeof(struct KeptBitmap));
    kept->gone = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    kept->unsaved = g_array_new(FALSE, FALSE, sizeof(struct UnsavedFile));
    return kept;
}

void
bitmaps_kept_free(StoreIo *io, BitmapsKept *kept)
{
    if (!kept) {
        return;
    }
    if (kept->dir_fd >= 0) {
        io->ops->close(io, kept->dir_fd);
    }
    g_array_unref(kept->bitmaps);
    g_array_unref(kept->gone);
    g_array_unref(kept->unsaved);
    g_free(kept);
}

/*
 * What may have been written since
 */
static enum BitmapsTrust
trust_of(const Store *store, const Disk *disk, const struct StateDisk *known)
{
    struct RawStamp now;

    if (!known || !known->is_recorded ||
        known->size_bytes > atomic_load(&disk->size_bytes)) {
        return BITMAPS_LOST;
    }
    if (!store->was_clean) {
        return BITMAPS_HOT;
    }
    return !store_raw_stamp(disk->map_fd, &now) &&
                   store_raw_is_same(&now, &known->raw, store->rollback != 0)
               ? BITMAPS_EXACT
               : BITMAPS_LOST;
}

/* What is on the zero list: false: nobody knows. */
static bool
load_zeroes(Store *store, Disk *disk, ZeroList *list)
{
    StoreIo *io = store->io;
    int fd = io->ops->open(io, disk->dir_fd, ZERO_FILE,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    bool is_found = fd == -ENOENT;
    uint64_t sequence;

    *list = (ZeroList){0};
    if (fd >= 0) {
        is_found = zero_file_load(io, fd, atomic_load(&disk->size_bytes),
                                  store->epoch_before, list, &sequence);
        io->ops->close(io, fd);
    }
    return is_found;
}

/* As far as @bits go. */
static void
mark(Bitmap *bits, uint64_t offset, uint64_t len)
{
    uint64_t size = bitmap_size_bytes(bits);

    if (offset < size) {
        bitmap_set_bytes(bits, offset, MIN(len, size - offset));
    }
}

/* @bits recorded, and are those of checkpoint @sequence. 0 or -ENOMEM. */
static int
mark_doubts(Store *store, Disk *disk, uint64_t sequence, Bitmap *bits)
{
    struct ClusterRun run = {0, 0};
    ZeroList zeroes;
    Bitmap *hot;

    if (disk->kept->trust == BITMAPS_LOST ||
        !load_zeroes(store, disk, &zeroes)) {
        bitmap_set_all(bits);
        return 0;
    }
    if (disk->kept->trust == BITMAPS_EXACT) {
        return 0;
    }
    hot = store_track_hot(store, disk, sequence, NULL);
    if (!hot) {
        return -ENOMEM;
    }
    while (bitmap_next_run(hot, run.first + run.count, UINT64_MAX, &run)) {
        mark(bits, run.first << INTENT_EXTENT_BITS,
             run.count << INTENT_EXTENT_BITS);
    }
    for (unsigned i = 0; i < zeroes.count; i++) {
        mark(bits, zeroes.range[i].offset, zeroes.range[i].len);
    }
    bitmap_free(hot);
    return 0;
}

/*
 * Files
 */
uint64_t
bitmaps_file_least(const struct ListedBitmap *listed, unsigned slot,
                   uint64_t sequence)
{
    return MAX(slot == listed->slot ? listed->sequence : 0,
               bitmaps_records_in(listed, slot) ? sequence : 0);
}

const char *
bitmaps_file_load(StoreIo *io, int dir_fd, const uint8_t uuid[16],
                  const struct ListedBitmap *listed, unsigned slot,
                  uint64_t least, Bitmap *bits, struct BitmapFileReport *report)
{
    char name[STORE_BITMAP_NAME];
    struct BitmapFile file = {.name = name, .map = bits};
    int err;

    bitmaps_file_name(name, listed->id, slot);
    memcpy(file.uuid, uuid, sizeof(file.uuid));
    err = bitmap_file_load(io, dir_fd, &file, report);
    if (err) {
        bitmap_set_all(bits);
        report->sequence = 0;
        return err == -EPROTONOSUPPORT ? "its format is newer than this program"
                                       : g_strerror(-err);
    }
    if (report->sequence < least && !report->what) {
        report->what = "it is older than the last checkpoint";
    }
    if (report->sequence < least) {
        bitmap_set_all(bits);
    }
    return report->what;
}

static void
raise_sequence(Store *store, uint64_t newest)
{
    atomic_store(&store->sequence, MAX(atomic_load(&store->sequence), newest));
}

/* The bits in @slot of @of, with what is in doubt; NULL: no memory. */
static Bitmap *
load_bits(Store *store, Disk *disk, struct KeptBitmap *of, unsigned slot)
{
    BitmapsKept *kept = disk->kept;
    const struct ListedBitmap *listed = &of->listed;
    Bitmap *bits =
        bitmap_new(atomic_load(&disk->size_bytes), listed->grain_bits);
    struct BitmapFileReport report;
    const char *what;

    if (!bits) {
        return NULL;
    }
    what = bitmaps_file_load(store->io, kept->dir_fd, store->uuid, listed, slot,
                             bitmaps_file_least(listed, slot, kept->sequence),
                             bits, &report);
    raise_sequence(store, report.newest);
    of->has_file[slot] = report.sequence != 0;
    of->is_saved &= !what;
    if (what) {
        store_say(store,
                  "disk %s: the file of bitmap %s: %s: what it does not say "
                  "counts as changed",
                  disk->name, listed->name, what);
    }
    if (bitmaps_records_in(listed, slot) &&
        mark_doubts(store, disk, report.sequence, bits)) {
        bitmap_free(bits);
        return NULL;
    }
    return bits;
}

static enum NamedResult
restore(Disk *disk, struct KeptBitmap *of, Bitmap *bits, Bitmap *successor)
{
    struct NamedSpec spec = {.name = of->listed.name,
                             .id = of->listed.id,
                             .grain_bits = of->listed.grain_bits,
                             .is_persistent = true,
                             .is_disabled = !of->listed.is_enabled};
    enum NamedResult result =
        named_restore(disk->bitmaps, &spec, bits, successor);
    struct NamedFigures figures;

    if (result != NAMED_OK) {
        return result;
    }
    if (named_get(disk->bitmaps, of->listed.id, &figures)) {
        of->version = figures.version;
    }
    of->size_bytes = atomic_load(&disk->size_bytes);
    return NAMED_OK;
}

static gboolean
load_bitmap(Store *store, Disk *disk, struct KeptBitmap *of, GError **error)
{
    Bitmap *bits, *successor = NULL;
    bool ok;

    of->is_saved = true;
    bits = load_bits(store, disk, of, of->listed.slot);
    ok = bits != NULL;
    if (ok && of->listed.is_busy) {
        successor = load_bits(store, disk, of, !of->listed.slot);
        ok = successor != NULL;
    }
    ok = ok && restore(disk, of, bits, successor) == NAMED_OK;
    if (!ok) {
        bitmap_free(bits);
        bitmap_free(successor);
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no memory for bitmap %s of disk %s", of->listed.name,
                    disk->name);
    }
    return ok;
}

/*
 * Ids
 */
static void
see_file(const char *name, void *user)
{
    uint64_t *largest = user;

    *largest = MAX(*largest, bitmaps_file_id(name));
}

static uint64_t
largest_file(const BitmapsKept *kept)
{
    uint64_t largest = 0;

    (void)snapshot_files_names(kept->dir_fd, see_file, &largest);
    return largest;
}

/* No id that any file speaks of is given again. */
static void
raise_id(Store *store, const BitmapsKept *kept)
{
    uint64_t largest = largest_file(kept);

    for (guint i = 0; i < kept->bitmaps->len; i++) {
        largest =
            MAX(largest,
                g_array_index(kept->bitmaps, struct KeptBitmap, i).listed.id);
    }
    if (largest > store->last_bitmap) {
        store->last_bitmap = MIN(largest + SKIPPED_IDS, NAMED_ID_MAX);
    }
}

/*
 * The opening
 */
/* The first bitmap's file is there before the list is: for that instant only. */
static bool
is_list_missing(const Store *store, const BitmapsKept *kept)
{
    int fd = store->io->ops->open(store->io, kept->dir_fd, STORE_BITMAPS_LIST,
                                  O_RDONLY, 0);

    if (fd >= 0) {
        store->io->ops->close(store->io, fd);
    }
    return fd == -ENOENT && largest_file(kept);
}

static void
load_list(Store *store, Disk *disk)
{
    BitmapsKept *kept = disk->kept;
    const char *why =
        bitmaps_list_load(store->io, kept->dir_fd, store->uuid, disk->id,
                          kept->bitmaps, &kept->is_foreign);

    if (!why && is_list_missing(store, kept)) {
        store_say(store,
                  "disk %s: " STORE_BITMAPS "/" STORE_BITMAPS_LIST
                  " is missing beside files of bitmaps: it has none of its "
                  "bitmaps; weir check %s says more",
                  disk->name, store->path);
    } else if (why) {
        kept->is_damaged = true;
        store_say(store,
                  "disk %s: " STORE_BITMAPS "/" STORE_BITMAPS_LIST
                  ": %s: it has none of its bitmaps; weir check %s says more",
                  disk->name, why, store->path);
    }
}

gboolean
store_bitmaps_load(Store *store, Disk *disk, const struct State *state,
                   GError **error)
{
    const struct StateDisk *known = state_disk(state, disk->id);
    BitmapsKept *kept = disk->kept;
    gboolean ok = TRUE;
    int fd;

    kept->trust = trust_of(store, disk, known);
    kept->sequence = known ? known->recorded : 0;
    fd = store->io->ops->open(store->io, disk->dir_fd, STORE_BITMAPS,
                              STORE_DIR_FLAGS, 0);
    if (fd < 0) {
        if (fd != -ENOENT) {
            kept->is_foreign = true;
            store_say(store, "disk %s: " STORE_BITMAPS " cannot be opened: %s",
                      disk->name, g_strerror(-fd));
        }
        return TRUE;
    }
    kept->dir_fd = fd;
    load_list(store, disk);
    for (guint i = 0; ok && i < kept->bitmaps->len; i++) {
        ok = load_bitmap(store, disk,
                         &g_array_index(kept->bitmaps, struct KeptBitmap, i),
                         error);
    }
    raise_id(store, kept);
    return ok;
}

/*
 * Maps of jobs
 */
gboolean
store_bits_load(Store *store, Disk *disk, StoreBits *bits, bool is_recording,
                GError **error)
{
    Bitmap *found = bitmap_new(disk_map_size_bytes(bits->map),
                               disk_map_cluster_bits(bits->map));
    struct BitmapFile file = {.map = found};
    struct BitmapFileReport report = {0};
    uint64_t least = is_recording ? disk->kept->sequence : 0;
    int err = found ? 0 : -ENOMEM;
    int dir_fd = -1;

    if (!err) {
        dir_fd = bits_open_dir(store->io, disk, bits->file, &file.name);
        memcpy(file.uuid, store->uuid, sizeof(file.uuid));
        err = dir_fd < 0 ? dir_fd
                         : bitmap_file_load(store->io, dir_fd, &file, &report);
        raise_sequence(store, report.newest);
        bits->has_file = !err && report.sequence;
    }
    if (found && (err || report.what || report.sequence < least)) {
        store_say(store, "disk %s: %s: %s: what it does not say is copied",
                  disk->name, bits->file,
                  err           ? g_strerror(-err)
                  : report.what ? report.what
                                : "it is older than the last checkpoint");
        if (err || report.sequence < least) {
            bitmap_set_all(found);
        }
        err = 0;
    }
    if (!err && is_recording) {
        err = mark_doubts(store, disk, report.sequence, found);
    }
    if (!err) {
        disk_map_load(bits->map, found, g_get_monotonic_time());
    } else {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk %s: %s cannot be loaded", disk->name, bits->file);
    }
    if (dir_fd >= 0) {
        store->io->ops->close(store->io, dir_fd);
    }
    bitmap_free(found);
    return err == 0;
}
