/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for old content: what becomes of a guest's write when there is none for
 * the copy that a snapshot needs of what it overwrites (rule 18).
 *
 *   is there room?   asked when what is to be kept was read and is no zeroes:
 *                    copies for the cut and files of snapshots, of all disks,
 *                    within buffer-size; and none on the host is what a write
 *                    to those files says (ENOSPC)
 *   no               the cut is given up (face-aside.c); is there now?
 *   no               the writer starves: it waits, holding nothing, and is
 *                    tried again every RETRY_US
 *   a copy was made  it starves no more; if it needs another one, its time
 *                    begins anew
 *   full-wait over   ENOSPC; what is being copied for it just then is waited for
 *
 * So that nobody runs into that wall while room is coming back anyway, since
 * snapshots that were deleted are being reaped or the copies of a cut that ended
 * are punched: from NEAR of buffer-size on, or when the host's room is about to
 * end (is_tight), a write that needs a copy for a snapshot waits a little before
 * that is begun, the longer the less there is left, SLOW_MAX_US and a turn of the
 * timer at most. A cut is not spared by that: it is given up first.
 *
 * Nobody else waits for who starves: reads, writes that need no copy, and those
 * for which there is room go on. But the kernel lets no write of the file pass
 * a FALLOCATE that is not answered, so that one does not wait long.
 *
 * The session's end does not wait for room: a write gets its error, a slice that
 * was to be punched stays on the zero list.
 *
 * The files of snapshots are looked at every ROOM_AGE_US, which is a system call
 * for each. In between what is copied for them is added. So the limit may be
 * exceeded by the copies that were under way when they were looked at,
 * FACE_ASIDE_OPS of a disk, and no more.
 */
#include "face-internal.h"

#include <errno.h>

#define RETRY_US    (100 * 1000)
#define ROOM_AGE_US (100 * 1000)
#define HASTY_US    (250 * 1000) /* two tries */
#define NEAR        7            /* of 8 */
#define SLOW_MAX_US (40 * 1000)

/*
 * How much there is
 */
static uint64_t
used_bytes(Face *face)
{
    int64_t now_us = face_now_us();
    struct AsideFigures figures;
    uint64_t bytes;

    if (now_us >= face->point_bytes_us + ROOM_AGE_US) {
        face->point_bytes = store_snapshots_bytes(face->config.store);
        face->point_bytes_us = now_us;
    }
    bytes = face->point_bytes;
    for (unsigned i = 0; i < face->n_disks; i++) {
        const Disk *disk = face->disks[i].disk;

        aside_figures(disk->aside, &figures);
        bytes += figures.kept_clusters << disk->cluster_bits;
    }
    return bytes;
}

bool
face_room_has(Face *face, uint64_t bytes)
{
    uint64_t limit = atomic_load(&face->config.store->settings.buffer_bytes);

    return !limit || used_bytes(face) + bytes <= limit;
}

void
face_room_take(Face *face, uint64_t bytes)
{
    face->point_bytes += bytes;
}

/*
 * Who is slowed
 */
static bool
is_coming_back(const Face *face)
{
    for (unsigned i = 0; i < face->n_disks; i++) {
        if (face->disks[i].aside.is_emptying) {
            return true;
        }
    }
    return atomic_load(&face->config.store->is_reaping);
}

/* Of the last part of the room, so much is used up, of 1000. */
static uint64_t
pressure(Face *face)
{
    Store *store = face->config.store;
    uint64_t limit = atomic_load(&store->settings.buffer_bytes);
    uint64_t near = limit / 8 * NEAR, host = atomic_load(&store->squeeze);
    uint64_t used = limit ? used_bytes(face) : 0;

    return used > near ? MAX(host, MIN(used - near, limit - near) * 1000 /
                                       (limit - near))
                       : host;
}

void
face_room_slow(FaceDisk *disk, FaceAsideWait *wait)
{
    struct ClusterRun run =
        run_outward(wait->offset, wait->len, disk->disk->cluster_bits);
    struct ClusterRun missing;
    uint64_t slow_us;

    if (!is_coming_back(disk->face) || !disk->disk->points ||
        !points_next_missing(disk->disk->points, run.first,
                             run.first + run.count, &missing)) {
        return;
    }
    slow_us = pressure(disk->face) * SLOW_MAX_US / 1000;
    if (slow_us) {
        wait->slowed_us = face_now_us() + (int64_t)slow_us;
        disk->face->count.slowed++;
        disk->face->count.throttled_us += slow_us;
    }
}

/*
 * Who goes without
 */
static bool
is_about(const FaceDisk *disk, const FaceAsideWait *wait, uint64_t cluster)
{
    struct ClusterRun run =
        run_outward(wait->offset, wait->len, disk->disk->cluster_bits);

    return cluster >= run.first && cluster < run.first + run.count;
}

void
face_room_refuse(FaceDisk *disk, uint64_t cluster, int error)
{
    int64_t now_us = face_now_us();

    disk->aside.retry_us = now_us + RETRY_US;
    for (FaceAsideWait *wait = disk->aside.waiting; wait; wait = wait->next) {
        if (!is_about(disk, wait, cluster)) {
            continue;
        }
        if (error != -ENOSPC && error != -EDQUOT) {
            wait->error = error;
        } else if (!wait->starved_us) {
            wait->starved_us = now_us;
            disk->face->count.starved++;
            disk->face->count.starvations++;
        }
    }
}

/* It has waited for nothing but room. */
static void
end_starving(Face *face, FaceAsideWait *wait, int64_t now_us)
{
    if (wait->starved_us) {
        face->count.starved--;
        face->count.throttled_us += (uint64_t)(now_us - wait->starved_us);
        wait->starved_us = 0;
    }
}

void
face_room_found(FaceDisk *disk, uint64_t cluster)
{
    int64_t now_us = face_now_us();

    for (FaceAsideWait *wait = disk->aside.waiting; wait; wait = wait->next) {
        if (wait->starved_us && is_about(disk, wait, cluster)) {
            end_starving(disk->face, wait, now_us);
        }
    }
}

bool
face_room_is_over(const FaceDisk *disk, const FaceAsideWait *wait,
                  int64_t now_us)
{
    const Face *face = disk->face;
    int64_t most_us = atomic_load(&face->config.store->settings.full_wait_s) *
                      INT64_C(1000000);

    most_us = wait->is_hasty ? MIN(most_us, HASTY_US) : most_us;
    return (face->is_ended && !face->is_leaving) ||
           now_us >= wait->starved_us + most_us;
}

void
face_room_left(Face *face, FaceAsideWait *wait, int64_t now_us)
{
    end_starving(face, wait, now_us);
}
