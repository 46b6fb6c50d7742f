/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-track.c - what a crash may cost: checkpoints, and hot extents
 *
 * After an end that was not clean
 *
 *     dirty = the last checkpoint, and every cluster of the hot extents
 *
 * and that is never less than what differs, because
 *
 *   - an extent is hot in `intent`, durably, before its first write;
 *   - it gets cold on the strength of a checkpoint that was made after its
 *     last write ended (disk-map-heat.c has the steps), and which its sector
 *     names: an older one is not good enough for it. A checkpoint is of `dirty`,
 *     of all that records beside it (store-bitmaps-save.c) and of the maps of
 *     jobs, under one sequence, each file of which is there before any sector
 *     names it; `dirty` is the last one of them. One that could not be written
 *     is of an earlier sequence, and for it the extents are hot;
 *   - the relay clears bits in memory only, and what it cleared is clear in a
 *     checkpoint after a sync of disk.raw only (rule 3).
 *
 * A serve begins, per disk, in an order in which each step can be the last:
 *
 *   1. checkpoint of what was loaded     what is found is as before
 *   2. intent file of the new epoch      newer than the state: store.c says
 *                                        what that means at the next opening
 *   3. (store.c) state "unclean, epoch"  from here on 1 and 2 count
 *
 * After an unclean end the epoch stays and so do the hot bits: 1 adds to the
 * checkpoint what was recovered, and 2 mends sectors that were not believed. A
 * file that was believed is synced: a killed process may have left in the page
 * cache only what was read, and what is hot is written from now on without
 * another word.
 *
 * A disk without a target is all dirty in any case; it is tracked for its named
 * bitmaps. One whose files cannot be written is not tracked: the state says that
 * all of it is dirty and that nobody records, and that holds until it is ended
 * cleanly, whatever target and contact it gets meanwhile.
 */
#include "bitmap/bitmap-file.h"
#include "bitmap/bitmap-page.h"
#include "bitmap/intent.h"
#include "bitmap/mutant.h"
#include "store-bitmaps-private.h"
#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static Bitmap *
new_extents(const Disk *disk)
{
    return bitmap_new(atomic_load(&disk->size_bytes), INTENT_EXTENT_BITS);
}

static struct IntentMark
mark_of(const Store *store, uint64_t epoch, uint64_t sequence)
{
    struct IntentMark mark = {.epoch = epoch, .sequence = sequence};

    memcpy(mark.uuid, store->uuid, sizeof(mark.uuid));
    return mark;
}

/* Every cluster of the extents in @hot. */
static void
mark_extents(Disk *disk, const Bitmap *hot)
{
    uint64_t size = atomic_load(&disk->size_bytes);
    int64_t now_us = g_get_monotonic_time();
    struct ClusterRun run = {0, 0};

    while (bitmap_next_run(hot, run.first + run.count, 1 << 16, &run)) {
        uint64_t from = run.first << INTENT_EXTENT_BITS;
        uint64_t len = run.count << INTENT_EXTENT_BITS;

        disk_map_mark(disk->map, from, MIN(len, size - from), now_us);
    }
}

Bitmap *
store_track_hot(Store *store, const Disk *disk, uint64_t sequence,
                struct IntentReport *report)
{
    struct IntentMark want = mark_of(store, store->epoch, sequence);
    struct IntentReport own;
    Bitmap *hot = new_extents(disk);

    if (hot) {
        intent_load(store->io, disk->dir_fd, hot, &want,
                    report ? report : &own);
    }
    return hot;
}

int
store_track_recover(Store *store, Disk *disk, uint64_t sequence)
{
    struct IntentReport report;

    disk->hot = store_track_hot(store, disk, sequence, &report);
    if (!disk->hot) {
        return -ENOMEM;
    }
    if (report.what) {
        store_say(store,
                  "disk %s: " INTENT_FILE ": %s: %" G_GUINT64_FORMAT
                  " extents count as written",
                  disk->name, report.what, report.damaged_extents);
    }
    disk->is_intent_sound = !report.what;
    mark_extents(disk, disk->hot);
    return 0;
}

/*
 * Checkpoints
 */

/* Takes the sequence; the caller has the checkpoint_lock. @bits, @copies: of before
 * the sync, so that what is clear in them was written before it. @copies is taken;
 * NULL: no memory. @rest: what comes of all that is not @bits. */
static int
save_locked(Store *store, Disk *disk, Bitmap *bits, GArray *copies, int *rest)
{
    struct BitmapFile file = {.name = STORE_DIRTY, .map = bits};
    StoreIo *io = store->io;
    BitmapsSaving *saving =
        copies ? bitmaps_saving_new(store, disk, copies, rest) : NULL;
    uint64_t sequence = atomic_fetch_add(&store->sequence, 1) + 1;
    int err;

    *rest = copies ? *rest : -ENOMEM;
    if (saving) {
        *rest = bitmaps_saving_run(saving, sequence);
        bitmaps_saving_free(saving);
    }
    bitmaps_say_unsaved(store, disk, *rest);
    /* One that was not read back is not built upon (rule 11). */
    if (!disk->has_checkpoint) {
        err = io->ops->unlink(io, disk->dir_fd, STORE_DIRTY, 0);
        if (err && err != -ENOENT) {
            return err;
        }
    }
    memcpy(file.uuid, store->uuid, sizeof(file.uuid));
    err = bitmap_file_save(io, disk->dir_fd, &file, 1, sequence);
    if (err) {
        return err;
    }
    disk->has_checkpoint = true;
    atomic_store(&disk->checkpoint_sequence, sequence);
    if (!*rest) {
        bitmaps_kept_raise(store, disk, sequence);
    }
    atomic_fetch_add(&store->checkpoints, 1);
    return 0;
}

static int
sync_raw(Store *store, Disk *disk)
{
    int err = 0;

    if (!mutant(MUTANT_COOL_WITHOUT_SYNC)) {
        /* Not through the guest's open file: a failure is told to each
         * open file once, and its FSYNC must hear of it, too. */
        err = store->io->ops->fdatasync(store->io, disk->map_fd);
    }
    if (err) {
        atomic_store(&disk->is_frozen, true);
    }
    return err || !atomic_load(&disk->is_frozen) ? err : -EIO;
}

/* The sync takes its time. Commands save bitmaps meanwhile, so the named ones are
 * looked at behind it: the marks of what gets cold on the strength of this are
 * older than all of it, and there. */
int
store_track_checkpoint(Store *store, Disk *disk, int *rest)
{
    GArray *copies;
    Bitmap *bits;
    int err = -ENOMEM;

    *rest = 0;
    g_mutex_lock(&store->round_lock);
    g_mutex_lock(&store->checkpoint_lock);
    copies = bits_copies_new(disk);
    g_mutex_unlock(&store->checkpoint_lock);
    bits = bitmap_new(disk_map_size_bytes(disk->map), disk->cluster_bits);
    if (bits) {
        disk_map_union(disk->map, bits);
        err = sync_raw(store, disk);
    }
    if (!err) {
        g_mutex_lock(&store->checkpoint_lock);
        err = save_locked(store, disk, bits, g_steal_pointer(&copies), rest);
        g_mutex_unlock(&store->checkpoint_lock);
    }
    g_clear_pointer(&copies, g_array_unref);
    bitmap_free(bits);
    g_mutex_unlock(&store->round_lock);
    return err;
}

int
store_checkpoint(Store *store, Disk *disk)
{
    int rest;
    int err = store_track_checkpoint(store, disk, &rest);

    return err ? err : rest;
}

int
store_checkpoint_map(Store *store, Disk *disk)
{
    int rest;

    return store_track_checkpoint(store, disk, &rest);
}

/*
 * A serve begins
 */

/* The intent file as it was read, durably. */
static int
sync_intent(Store *store, Disk *disk)
{
    StoreIo *io = store->io;
    int fd =
        io->ops->open(io, disk->dir_fd, INTENT_FILE, O_RDWR | O_CLOEXEC, 0);
    int err = fd < 0 ? fd : io->ops->fsync(io, fd);

    if (fd >= 0) {
        io->ops->close(io, fd);
    }
    return err ? err : io->ops->fsync(io, disk->dir_fd);
}

int
store_track_begin(Store *store, Disk *disk)
{
    Bitmap *hot = g_steal_pointer(&disk->hot);
    int err = store_checkpoint_map(store, disk);
    struct IntentMark mark =
        mark_of(store, store->epoch, atomic_load(&disk->checkpoint_sequence));
    bool is_sound = hot && disk->is_intent_sound;

    if (!hot) {
        hot = new_extents(disk);
    }
    if (!hot) {
        return err ? err : -ENOMEM;
    }
    if (!err) {
        store_reserve_bits(store->io, disk->dir_fd, STORE_DIRTY,
                           disk_map_clusters(disk->map), false);
    }
    if (!err) {
        err = is_sound ? sync_intent(store, disk)
                       : intent_save(store->io, disk->dir_fd, hot, &mark);
    }
    if (!err) {
        err = disk_map_track(disk->map, hot);
    }
    if (err) {
        bitmap_free(hot);
    }
    disk->is_tracked = !err;
    return err;
}

int
store_track_grow(Store *store, Disk *disk, uint64_t size_bytes)
{
    struct IntentMark mark =
        mark_of(store, store->epoch, atomic_load(&disk->checkpoint_sequence));

    if (!disk->is_tracked) {
        return 0;
    }
    return intent_grow(
        store->io, disk->dir_fd,
        clusters_for(atomic_load(&disk->size_bytes), INTENT_EXTENT_BITS),
        clusters_for(size_bytes, INTENT_EXTENT_BITS), &mark);
}

int
store_heat(Store *store, Disk *disk, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = run_outward(offset, len, INTENT_EXTENT_BITS);
    struct IntentMark mark =
        mark_of(store, store->epoch, atomic_load(&disk->checkpoint_sequence));
    uint64_t words[INTENT_PAGE_WORDS];
    struct IntentPage page;
    StoreIo *io = store->io;
    int err = 0, fd;

    if (disk_map_is_hot(disk->map, offset, len)) {
        return 0;
    }
    fd = io->ops->open(io, disk->dir_fd, INTENT_FILE, O_RDWR | O_CLOEXEC, 0);
    for (uint64_t n = run.first / INTENT_PAGE_BITS;
         fd >= 0 && !err && n * INTENT_PAGE_BITS < run.first + run.count; n++) {
        ssize_t done;

        intent_page_fill(&page, words,
                         disk_map_hot_words(disk->map, n * INTENT_PAGE_WORDS,
                                            words, INTENT_PAGE_WORDS));
        intent_page_set(&page, n, run);
        intent_page_seal(&page, n, &mark);
        done = io->ops->pwrite(io, fd, &page, sizeof(page), n * INTENT_PAGE);
        err = done == (ssize_t)sizeof(page) ? 0 : done < 0 ? (int)done : -EIO;
    }
    if (fd >= 0) {
        err = err ? err : io->ops->fdatasync(io, fd);
        io->ops->close(io, fd);
    }
    if (fd >= 0 && !err) {
        disk_map_heat(disk->map, run);
    }
    return fd < 0 ? fd : err;
}
