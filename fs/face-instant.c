/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The instant of a snapshot: a step of the fs thread between two requests, at
 * which all disks get a new youngest point. What was answered before is in the
 * snapshot, what is answered later is not, what is in flight is in or out.
 *
 * From then on writes go on, and copies are made. But the snapshot is not to be
 * relied on before it cannot change any more, by a loss of power or otherwise:
 *
 *   step   waits for                                  then
 *   DRAIN  the writes that were in flight at the
 *          instant: they may still come in            sync of disk.raw
 *   SYNC   that: what the snapshot finds on the disk
 *          is durable                                 DONE
 *
 * A failed sync freezes the disk, and the snapshot is none.
 *
 * What was discarded and is not punched yet reads as zero, but an older snapshot
 * still finds its old content on the disk: there is no instant while the list of
 * a disk is not empty. Whoever asks is told so at once, and asks again.
 */
#include "face-wire.h"

#include <errno.h>

#include "bitmap/mutant.h"

/* One of main's, or of whoever may wait, at a time. */
static void
answer(Face *face, bool *is_done)
{
    pthread_mutex_lock(&face->lock);
    *is_done = true;
    pthread_cond_broadcast(&face->cond);
    pthread_mutex_unlock(&face->lock);
}

static void
post_and_wait(Face *face, InboxMsg *msg, const bool *is_done)
{
    inbox_post(&face->inbox, msg);
    pthread_mutex_lock(&face->lock);
    while (!*is_done) {
        pthread_cond_wait(&face->cond, &face->lock);
    }
    pthread_mutex_unlock(&face->lock);
}

/*
 * Between two requests
 */
void
face_between_take(struct FaceBetween *between)
{
    between->work(between->user);
    answer(between->face, &between->is_done);
}

void
face_between(Face *face, void (*work)(void *user), void *user)
{
    struct FaceBetween between = {
        .msg.kind = FACE_MSG_BETWEEN, .face = face, .work = work, .user = user};

    if (face->is_started) {
        post_and_wait(face, &between.msg, &between.is_done);
    } else {
        work(user); /* nobody serves */
    }
}

/*
 * The instant
 */
static bool
is_ready(const Face *face)
{
    for (unsigned i = 0; i < face->n_disks; i++) {
        if (face->disks[i].zeroes.count && !mutant(MUTANT_SNAP_NO_ZEROES)) {
            return false;
        }
    }
    return true;
}

void
face_instant_take(FaceInstant *instant)
{
    struct FaceSnapshot *snapshot = instant->snapshot;
    Face *face = instant->face;

    if (!is_ready(face)) {
        instant->error = -EAGAIN;
        answer(face, &instant->is_done);
        return;
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        FaceDisk *disk = &face->disks[i];
        struct stat st;

        points_add(disk->disk->points, snapshot->points[i]);
        disk->epoch = !disk->epoch;
        disk->instant_step = FACE_INSTANT_DRAIN;
        snapshot->blocks[i] =
            fstat(disk->disk->map_fd, &st) ? 0 : (uint64_t)st.st_blocks;
    }
    snapshot->wall_us = g_get_real_time();
    face->instant = instant;
}

static void
synced(FaceIo *io, int res)
{
    FaceDisk *disk = (FaceDisk *)((char *)io - offsetof(FaceDisk, instant_io));

    disk->instant_step = FACE_INSTANT_DONE;
    if (res < 0) {
        face_freeze(disk, res);
        disk->face->instant->error = -EIO;
    }
}

static void
drain(FaceDisk *disk)
{
    if (disk->holding[!disk->epoch] && !mutant(MUTANT_SNAP_NO_DRAIN)) {
        return;
    }
    disk->instant_step = FACE_INSTANT_SYNC;
    disk->instant_io.store =
        (StoreReq){.op = STORE_FDATASYNC, .fd = disk->disk->fd};
    face_submit(disk->face, &disk->instant_io, synced);
}

void
face_instant_run(Face *face)
{
    FaceInstant *instant = face->instant;
    bool is_done = true;

    if (!instant) {
        return;
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        FaceDisk *disk = &face->disks[i];

        if (disk->instant_step == FACE_INSTANT_DRAIN) {
            drain(disk);
        }
        is_done = is_done && disk->instant_step == FACE_INSTANT_DONE;
    }
    if (is_done) {
        face->instant = NULL;
        answer(face, &instant->is_done);
    }
}

int
face_snapshot(Face *face, struct FaceSnapshot *snapshot)
{
    FaceInstant instant = {
        .msg.kind = FACE_MSG_INSTANT, .face = face, .snapshot = snapshot};

    post_and_wait(face, &instant.msg, &instant.is_done);
    return instant.error;
}
