/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies for snapshots: a copy, and the bit that says that there is one, are
 * durable before the guest overwrites the cluster (rule 14).
 *
 *   read (face-aside.c) -> data written at its own offset
 *       -> sync of the data file -> pages of the map written -> sync of it
 *       -> kept: who waits may write
 *
 * The syncs stand in this order, since a bit without its data would show a hole
 * for what is still on the disk. They are shared: copies whose data is written
 * while a commit is under way wait for the next one. A map page that is the only
 * one of its commit is written and synced in one request.
 *
 * A cluster of nothing but zeroes has no data: a hole in the file is its copy.
 *
 * What fails for want of room is tried again while it may come back, as
 * face-room.c says. A sync that fails freezes the disk, as one of its own does
 * (rule 20): who waits for a copy there gets EIO, and no more are made.
 */
#include "face-wire.h"

#include <errno.h>
#include <stdlib.h>

#include "bitmap/mutant.h"

static FaceDisk *
disk_of(FaceIo *io)
{
    return (FaceDisk *)((char *)io - offsetof(FaceDisk, points) -
                        offsetof(FacePoints, io));
}

void
face_points_open(FaceDisk *disk)
{
    disk->points.page = aligned_alloc(FACE_BLOCK_MAX, BITMAP_FILE_PAGE);
    g_assert(disk->points.page);
}

void
face_points_close(FaceDisk *disk)
{
    free(disk->points.page);
}

/*
 * Data
 */
static void
append(FaceDisk *disk, FaceAsideOp *op)
{
    FaceAsideOp **end = &disk->points.written;

    while (*end) {
        end = &(*end)->next;
    }
    op->next = NULL;
    *end = op;
}

static void
data_written(FaceIo *io, int res)
{
    FaceAsideOp *op = (FaceAsideOp *)((char *)io - offsetof(FaceAsideOp, io));

    if (res == (int)io->store.len) {
        append(op->disk, op);
    } else {
        face_aside_finish(op, res < 0 ? res : -ENOSPC);
    }
}

void
face_points_keep(FaceAsideOp *op)
{
    FaceDisk *disk = op->disk;
    unsigned bits = disk->disk->cluster_bits;

    if (op->is_zero) {
        append(disk, op);
        return;
    }
    op->io.store = (StoreReq){.op = STORE_WRITE,
                              .fd = point_data_fd(op->point),
                              .buf = op->buffer,
                              .offset = op->cluster << bits,
                              .len = UINT64_C(1) << bits};
    face_submit(disk->face, &op->io, data_written);
}

/*
 * Commits
 */
static void
commit_end(FaceDisk *disk)
{
    FacePoints *points = &disk->points;
    FaceAsideOp *op = points->committing, *next;
    int error = points->error;

    for (FaceAsideOp *one = op; one && !error; one = one->next) {
        points_keep(disk->disk->points, points->point,
                    (struct ClusterRun){one->cluster, 1});
    }
    points_done(disk->disk->points, points->point);
    points->point = NULL;
    points->committing = NULL;
    disk->face->count.point_commits++;
    for (; op; op = next) {
        next = op->next;
        disk->face->count.point_clusters += !error;
        face_aside_finish(op, error);
    }
}

static void
commit_failed(FaceDisk *disk, int res, bool is_sync)
{
    disk->points.error = res < 0 ? res : -EIO;
    if (is_sync) {
        face_freeze(disk, disk->points.error);
        disk->points.error = -EIO;
    }
    commit_end(disk);
}

static void
map_synced(FaceIo *io, int res)
{
    FaceDisk *disk = disk_of(io);

    if (res < 0) {
        commit_failed(disk, res, true);
    } else {
        commit_end(disk);
    }
}

/* The first page from next_page on that gets a bit, or UINT64_MAX. */
static uint64_t
find_page(const FacePoints *points)
{
    uint64_t found = UINT64_MAX;

    for (const FaceAsideOp *op = points->committing; op; op = op->next) {
        uint64_t page = point_file_page_of(op->cluster);

        if (page >= points->next_page && page < found) {
            found = page;
        }
    }
    return found;
}

static void
fill_page(FaceDisk *disk, uint64_t number)
{
    FacePoints *points = &disk->points;
    struct PointMark mark = {.id = point_id(points->point),
                             .disk = disk->disk->id};

    memcpy(mark.uuid, disk->face->config.store->uuid, sizeof(mark.uuid));
    point_page_fill(points->page, number, point_kept(points->point));
    for (const FaceAsideOp *op = points->committing; op; op = op->next) {
        if (point_file_page_of(op->cluster) == number) {
            point_page_set(points->page, number,
                           (struct ClusterRun){op->cluster, 1});
        }
    }
    point_page_seal(points->page, number, &mark, point_unsure(points->point));
}

static void next_page(FaceDisk *disk);

static void
page_written(FaceIo *io, int res)
{
    FaceDisk *disk = disk_of(io);
    bool is_synced = io->store.op == STORE_WRITE_SYNC;
    bool is_full = res >= 0 || res == -ENOSPC || res == -EDQUOT;

    if (res != BITMAP_FILE_PAGE) {
        commit_failed(disk, res < 0 ? res : -ENOSPC, is_synced && !is_full);
    } else if (is_synced) {
        commit_end(disk);
    } else {
        disk->points.n_pages++;
        next_page(disk);
    }
}

/* The next page, or the sync behind the last one. */
static void
next_page(FaceDisk *disk)
{
    FacePoints *points = &disk->points;
    uint64_t number = find_page(points);
    bool is_only;

    if (number == UINT64_MAX) {
        points->io.store = (StoreReq){.op = STORE_FDATASYNC,
                                      .fd = point_map_fd(points->point)};
        face_submit(disk->face, &points->io, map_synced);
        return;
    }
    fill_page(disk, number);
    points->next_page = number + 1;
    is_only = points->n_pages == 0 && find_page(points) == UINT64_MAX;
    points->io.store = (StoreReq){.op = is_only && !mutant(MUTANT_SNAP_UNSYNCED)
                                            ? STORE_WRITE_SYNC
                                            : STORE_WRITE,
                                  .fd = point_map_fd(points->point),
                                  .buf = points->page,
                                  .offset = number * BITMAP_FILE_PAGE,
                                  .len = BITMAP_FILE_PAGE};
    face_submit(disk->face, &points->io, page_written);
}

static void
data_synced(FaceIo *io, int res)
{
    FaceDisk *disk = disk_of(io);

    if (res < 0) {
        commit_failed(disk, res, true);
    } else {
        next_page(disk);
    }
}

/* What is written of the commit's point. */
static bool
take_written(FacePoints *points)
{
    FaceAsideOp **from = &points->written, **to = &points->committing;
    bool has_data = false;

    while (*from) {
        FaceAsideOp *op = *from;

        if (op->point != points->point) {
            from = &op->next;
            continue;
        }
        *from = op->next;
        op->next = NULL;
        *to = op;
        to = &op->next;
        has_data = has_data || !op->is_zero;
    }
    return has_data;
}

/* What a sync that failed may have lost is not made good by the next one. */
static void
refuse_written(FaceDisk *disk)
{
    FaceAsideOp *op = disk->points.written, *next;

    disk->points.written = NULL;
    for (; op; op = next) {
        next = op->next;
        face_aside_finish(op, -EIO);
    }
}

void
face_points_run(FaceDisk *disk)
{
    FacePoints *points = &disk->points;

    if (points->point || !points->written) {
        return;
    }
    if (atomic_load(&disk->disk->is_frozen)) {
        refuse_written(disk);
        return;
    }
    points->point = points->written->point;
    points_use(disk->disk->points, points->point);
    points->next_page = 0;
    points->n_pages = 0;
    points->error = 0;
    if (take_written(points) && !mutant(MUTANT_SNAP_UNSYNCED)) {
        points->io.store = (StoreReq){.op = STORE_FDATASYNC,
                                      .fd = point_data_fd(points->point)};
        face_submit(disk->face, &points->io, data_synced);
    } else {
        next_page(disk);
    }
}
