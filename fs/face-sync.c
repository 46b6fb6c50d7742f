/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FSYNC: promise 1. The reply says that every write acknowledged before is
 * safe from loss of power, so it goes out only after
 *
 *   fdatasync of disk.raw returned 0     (the data; buffers are O_DIRECT, so
 *                                        this is the device's cache and the
 *                                        file's extents), and
 *   fdatasync of the zero record did too, if the list has changed since the
 *                                        last one (rule 25).
 *
 * Both run at once: a range leaves the record only after its punch is
 * durable, see face-zero.c. FUSE holds the inode's lock until this reply,
 * and every write of the guest waits meanwhile: nothing slow is done here.
 *
 * A failed sync is never retried and believed (rule 20): the kernel has
 * dropped the error and maybe the data. The disk is frozen for writes until
 * a person has looked at it; reads and uploads go on.
 */
#include "face-wire.h"

#include <errno.h>

static void sync_begin(FaceReq *req);

static FaceDisk *
disk_of_sync(FaceIo *io, unsigned index)
{
    return (FaceDisk *)((char *)io - offsetof(FaceDisk, sync) -
                        index * sizeof(FaceIo));
}

static void
sync_next(FaceDisk *disk)
{
    FaceReq *next = disk->sync_waiting;

    disk->syncing = NULL;
    if (next) {
        disk->sync_waiting = next->next_waiting;
        sync_begin(next);
    }
}

static void
sync_part_done(FaceDisk *disk, int res)
{
    FaceReq *req = disk->syncing;

    disk->sync_error = res < 0 ? res : disk->sync_error;
    if (--disk->sync_pending) {
        return;
    }
    req->face->count.sync_requests++;
    /* Another sync failed meanwhile: what it was about may be ours. */
    if (!disk->sync_error && atomic_load(&disk->disk->is_frozen)) {
        disk->sync_error = -EIO;
    }
    if (disk->sync_error) {
        req->face->count.errors++;
        face_freeze(disk, disk->sync_error);
        face_reply_error(req, EIO);
    } else {
        disk->durable_version = MAX(disk->durable_version, disk->sync_version);
        face_reply_error(req, 0);
    }
    sync_next(disk);
}

static void
data_synced(FaceIo *io, int res)
{
    sync_part_done(disk_of_sync(io, 0), res);
}

static void
record_synced(FaceIo *io, int res)
{
    sync_part_done(disk_of_sync(io, 1), res);
}

static void
sync_begin(FaceReq *req)
{
    FaceDisk *disk = req->disk;
    bool has_record = disk->written_version != disk->durable_version;

    disk->syncing = req;
    disk->sync_error = 0;
    disk->sync_pending = has_record ? 2 : 1;
    disk->sync_version = disk->written_version;
    disk->sync[0].store =
        (StoreReq){.op = STORE_FDATASYNC, .fd = disk->disk->fd};
    disk->sync[1].store =
        (StoreReq){.op = STORE_FDATASYNC, .fd = disk->zeroes_fd};
    face_submit(req->face, &disk->sync[0], data_synced);
    if (has_record) {
        face_submit(req->face, &disk->sync[1], record_synced);
    }
}

void
face_fsync(FaceReq *req)
{
    req->disk = face_disk_of(req->face, req->node);
    if (!req->disk) {
        face_reply_error(req, 0);
        return;
    }
    if (req->disk->disk->is_frozen) {
        face_reply_error(req, EIO);
        return;
    }
    if (req->disk->syncing) {
        FaceReq **last = &req->disk->sync_waiting;

        while (*last) {
            last = &(*last)->next_waiting;
        }
        req->next_waiting = NULL;
        *last = req;
        return;
    }
    sync_begin(req);
}
