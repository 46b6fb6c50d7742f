/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-disk.c - a disk of an opened store: its files and its dirty bitmap
 *
 * disk.raw is opened twice: with O_DIRECT for the guest's and the relay's
 * data, and through the page cache for what has no alignment (SEEK_DATA, odd
 * fallocate). Its size is the disk's, rounded up to 4 KiB, so that the last
 * block can be read as a whole; bytes past the disk's end are zero and the
 * face never shows them. Disks are nearly always a multiple anyway, and then
 * disk.raw is exactly the raw image.
 *
 * Which clusters are dirty after opening:
 *
 *   no target                               all: no far side has anything
 *   a state that was lost                   all, and in doubt
 *   never served (not in the state)         all
 *   other target than the state is about    all, first contact
 *   contact none or lost                    all
 *   disk.raw is not as weir left it         all: somebody wrote the image
 *                                           while the store was at rest
 *   clean                                   the checkpoint's, and what the
 *                                           disk has grown by since then
 *   unclean, and it was tracked             that and the hot extents, in doubt
 *   unclean, and it was not                 all, and in doubt
 *
 * (That disk.raw is as weir left it can be said after a clean end only; and not
 * of one that a rollback was at work on: what that writes is dirty before, see
 * rollback.c.)
 *
 * Discards that were accepted and not carried out are dirty in any case.
 *
 * Whatever is wrong with the checkpoint makes clusters dirty, never clean
 * (rule 23).
 */
#include "store-bitmaps-private.h"
#include "store-private.h"

#include "bitmap/bitmap-file.h"
#include "bitmap/intent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Can a block be read with O_DIRECT? */
static bool
can_read_direct(StoreIo *io, int fd)
{
    g_autofree char *space = g_malloc(2 * STORE_BLOCK);
    uintptr_t start =
        ((uintptr_t)space + STORE_BLOCK - 1) & ~(uintptr_t)(STORE_BLOCK - 1);

    return io->ops->pread(io, fd, (void *)start, STORE_BLOCK, 0) >= 0;
}

/*
 * open_direct() - disk.raw for the data path, and its alignments
 *
 * Where the kernel does not say them, a block is right everywhere: what is
 * more than needed costs a read-modify-write now and then, what is less is an
 * error or, on btrfs, a write through the page cache beside direct ones. File
 * systems without O_DIRECT get a plain fd.
 * Return: the fd or -errno.
 */
static int
open_direct(StoreIo *io, Disk *disk)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    int fd = io->ops->open(io, disk->dir_fd, STORE_RAW, flags | O_DIRECT, 0);
    struct statx sx;

    if (fd >= 0) {
        if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
            (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align) {
            disk->offset_align = MAX(sx.stx_dio_offset_align, 512);
            disk->mem_align = MAX(sx.stx_dio_mem_align, 512);
            return fd;
        }
        if (can_read_direct(io, fd)) {
            disk->offset_align = disk->mem_align = STORE_BLOCK;
            return fd;
        }
        io->ops->close(io, fd);
    } else if (fd != -EINVAL) {
        return fd;
    }
    disk->offset_align = disk->mem_align = 512;
    return io->ops->open(io, disk->dir_fd, STORE_RAW, flags, 0);
}

static gboolean
open_files(Store *store, Disk *disk, unsigned flags, GError **error)
{
    const int plain =
        (flags & STORE_OPEN_READ ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC;
    StoreIo *io = store->io;

    disk->dir_fd =
        io->ops->open(io, store->dir_fd, disk->name, STORE_DIR_FLAGS, 0);
    if (disk->dir_fd < 0) {
        store_set_errno(error, STORE_ERROR_DAMAGED, disk->dir_fd,
                        "%s/%s, which weir.conf names, cannot be opened",
                        store->path, disk->name);
        return FALSE;
    }
    disk->map_fd = io->ops->open(io, disk->dir_fd, STORE_RAW, plain, 0);
    if (disk->map_fd >= 0 && !(flags & STORE_OPEN_READ)) {
        disk->fd = open_direct(io, disk);
    } else if (disk->map_fd >= 0) {
        disk->fd = io->ops->open(io, disk->dir_fd, STORE_RAW, plain, 0);
        disk->offset_align = disk->mem_align = 512;
    }
    if (disk->map_fd < 0 || disk->fd < 0) {
        store_set_errno(error, STORE_ERROR_DAMAGED,
                        disk->map_fd < 0 ? disk->map_fd : disk->fd,
                        "%s/%s/" STORE_RAW " cannot be opened", store->path,
                        disk->name);
        return FALSE;
    }
    return TRUE;
}

/* disk.raw has to be a file that holds the disk. */
static gboolean
check_raw(Store *store, Disk *disk, uint64_t size_bytes, GError **error)
{
    struct stat st;

    if (fstat(disk->map_fd, &st)) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "%s/%s/" STORE_RAW " cannot be looked at", store->path,
                        disk->name);
        return FALSE;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < size_bytes) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "%s/%s/" STORE_RAW " has %" G_GINT64_FORMAT
                    " bytes, weir.conf says %" G_GUINT64_FORMAT
                    ": it was cut or replaced; put the right image there",
                    store->path, disk->name, (gint64)st.st_size, size_bytes);
        return FALSE;
    }
    if ((uint64_t)st.st_size < store_raw_bytes(size_bytes) &&
        !store->is_read_only) {
        return store_raw_resize(store->io, disk->map_fd, size_bytes, error);
    }
    return TRUE;
}

void
store_disk_free(StoreIo *io, Disk *disk)
{
    const int fds[] = {disk->fd, disk->map_fd, disk->dir_fd, disk->aside_fd};

    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0) {
            io->ops->close(io, fds[i]);
        }
    }
    named_bitmaps_free(disk->bitmaps); /* they record what the map is told */
    if (disk->map) {
        disk_map_free(disk->map);
    }
    if (disk->bits) {
        g_ptr_array_unref(disk->bits);
    }
    bitmaps_kept_free(io, disk->kept);
    if (disk->hot) {
        bitmap_free(disk->hot);
    }
    aside_free(disk->aside);
    points_free(disk->points);
    pthread_mutex_destroy(&disk->attr_lock);
    g_free(disk->target);
    g_free(disk);
}

Disk *
store_disk_open(Store *store, const struct ConfDisk *conf, unsigned flags,
                GError **error)
{
    Disk *disk = g_new0(Disk, 1);

    g_strlcpy(disk->name, conf->name, sizeof(disk->name));
    disk->id = conf->id;
    disk->cluster_bits = conf->cluster_bits;
    disk->dir_fd = disk->fd = disk->map_fd = disk->aside_fd = -1;
    pthread_mutex_init(&disk->attr_lock, NULL);
    disk->attr.uid = (uid_t)-1;
    disk->attr.gid = (gid_t)-1;
    disk->target = g_strdup(conf->target);
    disk->accept = conf->accept;
    disk->is_alone = conf->is_alone;
    atomic_init(&disk->size_bytes, conf->size_bytes);
    atomic_init(&disk->is_frozen, false);
    if (open_files(store, disk, flags, error) &&
        check_raw(store, disk, conf->size_bytes, error)) {
        disk->map = disk_map_new(conf->size_bytes, conf->cluster_bits);
        disk->points = points_new();
        disk->bitmaps = disk->map ? named_bitmaps_new(disk->map) : NULL;
        disk->bits = g_ptr_array_new();
        disk->kept = bitmaps_kept_new();
        if (disk->map && disk->points && disk->bitmaps) {
            return disk;
        }
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no memory for the bitmap of disk %s", disk->name);
    }
    store_disk_free(store->io, disk);
    return NULL;
}

int
store_raw_stamp(int fd, struct RawStamp *stamp)
{
    struct stat st;

    if (fstat(fd, &st)) {
        return -errno;
    }
    *stamp = (struct RawStamp){st.st_ino, (uint64_t)st.st_size, st.st_mtim};
    return 0;
}

bool
store_raw_is_same(const struct RawStamp *now, const struct RawStamp *then,
                  bool is_rolling)
{
    return now->inode == then->inode && now->size_bytes == then->size_bytes &&
           (is_rolling || (now->mtime.tv_sec == then->mtime.tv_sec &&
                           now->mtime.tv_nsec == then->mtime.tv_nsec));
}

static bool
is_raw_untouched(const Store *store, const Disk *disk,
                 const struct StateDisk *known)
{
    struct RawStamp now;

    return !store_raw_stamp(disk->map_fd, &now) &&
           store_raw_is_same(&now, &known->raw, store->rollback != 0);
}

/* Why no bitmap of before can be used, or NULL. */
static const char *
why_all_dirty(const Store *store, const Disk *disk,
              const struct StateDisk *known)
{
    if (!disk->target) {
        return "it has no target";
    }
    if (!known) {
        return "it was never served";
    }
    if (g_strcmp0(known->target, disk->target) != 0) {
        return "its target is another one";
    }
    if (known->contact != CONTACT_KNOWN) {
        return "its target is not known";
    }
    if (known->cluster_bits != disk->cluster_bits ||
        known->size_bytes > atomic_load(&disk->size_bytes)) {
        return "its size or cluster size was changed";
    }
    if (store->was_clean && !is_raw_untouched(store, disk, known)) {
        return "disk.raw was written or replaced while the store was at rest";
    }
    return NULL;
}

/* The checkpoint into the map; everything if it cannot be believed. @sequence:
 * of the one found, 0 if there is none. */
static gboolean
load_file(Store *store, Disk *disk, const struct StateDisk *known,
          uint64_t *sequence, GError **error)
{
    uint64_t size = atomic_load(&disk->size_bytes);
    Bitmap *bits = bitmap_new(size, disk->cluster_bits);
    struct BitmapFile file = {.name = STORE_DIRTY, .map = bits};
    struct BitmapFileReport report = {0};
    int err = bits ? 0 : -ENOMEM;

    *sequence = 0;
    if (!err) {
        memcpy(file.uuid, store->uuid, sizeof(file.uuid));
        err = bitmap_file_load(store->io, disk->dir_fd, &file, &report);
    }
    if (err == -ENOMEM || err == -EPROTONOSUPPORT) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "the bitmap of disk %s cannot be loaded", disk->name);
    } else if (err || !report.sequence || report.sequence < known->sequence) {
        store_say(store,
                  "disk %s: the dirty bitmap is %s: all of it is sent "
                  "again",
                  disk->name,
                  err           ? g_strerror(-err)
                  : report.what ? report.what
                                : "not that of the last checkpoint");
        disk_map_mark_all(disk->map, g_get_monotonic_time());
        err = 0;
    } else {
        if (report.what) {
            store_say(
                store,
                "disk %s: the dirty bitmap is damaged (%s): %" G_GUINT64_FORMAT
                " clusters are sent again",
                disk->name, report.what, report.damaged_clusters);
        }
        disk_map_load(disk->map, bits, g_get_monotonic_time());
        disk->has_checkpoint = true;
        *sequence = report.sequence;
        atomic_store(&disk->checkpoint_sequence, report.sequence);
        atomic_store(&store->sequence,
                     MAX(atomic_load(&store->sequence), report.newest));
    }
    if (bits) {
        bitmap_free(bits);
    }
    return err == 0;
}

static gboolean
load_clean(Store *store, Disk *disk, const struct StateDisk *known,
           GError **error)
{
    uint64_t size = atomic_load(&disk->size_bytes);
    int64_t now_us = g_get_monotonic_time();
    uint64_t sequence;

    switch (known->dirty) {
    case STATE_DIRTY_FILE:
        return load_file(store, disk, known, &sequence, error);
    case STATE_DIRTY_NONE:
        if (known->size_bytes < size) {
            disk_map_mark(disk->map, known->size_bytes,
                          size - known->size_bytes, now_us);
        }
        return TRUE;
    case STATE_DIRTY_ALL:
        break;
    }
    disk_map_mark_all(disk->map, now_us);
    return TRUE;
}

/* The last checkpoint, and what may have been written since. */
static gboolean
load_unclean(Store *store, Disk *disk, const struct StateDisk *known,
             GError **error)
{
    uint64_t sequence;
    int err;

    /* NONE: a clean state of before this serve, which made a file. */
    if (known->dirty == STATE_DIRTY_ALL) {
        disk_map_mark_all(disk->map, g_get_monotonic_time());
        return TRUE;
    }
    if (!load_file(store, disk, known, &sequence, error)) {
        return FALSE;
    }
    err = store_track_recover(store, disk, sequence);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "the hot extents of disk %s cannot be loaded",
                        disk->name);
    }
    return err == 0;
}

static gboolean
load_map(Store *store, Disk *disk, const struct State *state, GError **error)
{
    const struct StateDisk *known = state_disk(state, disk->id);
    bool is_clean = store->was_clean;
    const char *why = why_all_dirty(store, disk, known);

    if (known) {
        disk->attr = known->attr;
        disk->all_in_doubt = known->is_in_doubt;
        if (!g_strcmp0(known->target, disk->target)) {
            disk->contact = disk->saved_contact = known->contact;
            disk->cut = known->cut;
        }
    }
    if (!is_clean) {
        disk->all_in_doubt = disk->recovers = true;
    }
    if (!why) {
        return is_clean ? load_clean(store, disk, known, error)
                        : load_unclean(store, disk, known, error);
    }
    if (is_clean && disk->target && known && known->contact == CONTACT_KNOWN) {
        store_say(store, "disk %s: %s: all of it is sent again", disk->name,
                  why);
    }
    disk_map_mark_all(disk->map, g_get_monotonic_time());
    return TRUE;
}

gboolean
store_disk_load(Store *store, Disk *disk, const struct State *state,
                GError **error)
{
    if (!load_map(store, disk, state, error)) {
        return FALSE;
    }
    store_zeroes_recover(store, disk);
    return TRUE;
}

void
store_disk_figures(Disk *disk, struct DiskMapFigures *figures)
{
    /* First: a slice is dirty in the map before it leaves the list. */
    uint64_t unpunched =
        clusters_for(atomic_load(&disk->unpunched_bytes), disk->cluster_bits);

    disk_map_figures(disk->map, figures);
    figures->dirty_clusters = MAX(figures->dirty_clusters, unpunched);
}
