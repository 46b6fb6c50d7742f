/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a snapshot's file, a part at a time: each is where points_find() says.
 *
 *   in a point's file    read there; the point is in use meanwhile
 *   on the disk          the range is pinned first, so that writes in flight
 *                        end, and looked up again: a writer that came before the
 *                        pin has made a copy. While it is pinned nobody writes.
 *   nobody knows         EIO: the map is damaged there
 *
 * The disk is read as it is, whatever is on its zero list: that was discarded
 * after the instant, and what was there still is as long as no copy was made.
 *
 * A file that shows only what differs from another snapshot reads as zeroes
 * elsewhere, and has its data where something differs, zero or not.
 *
 * Seeking asks the file systems, on the helper's thread, which can be late: a
 * copy that was made meanwhile is seen afterwards, and it is asked again.
 */
#include "face-wire.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bitmap/mutant.h"

static void part_next(FaceReq *req);

static unsigned char *
place_of(const FaceReq *req)
{
    return req->buffer + FACE_BLOCK_MAX + req->io_done;
}

static void
part_fail(FaceReq *req, int error)
{
    req->face->count.errors++;
    face_reply_error(req, -error);
}

/* The next @len bytes are there. */
static void
part_done(FaceReq *req, uint64_t len)
{
    req->io_done += len;
    part_next(req);
}

static void
part_read(FaceIo *io, int res)
{
    FaceReq *req = (FaceReq *)((char *)io - offsetof(FaceReq, io));
    Points *points = req->disk->disk->points;
    uint64_t len = req->io[0].store.len;

    if (req->point) {
        points_done(points, req->point);
        /* Of a snapshot that was deleted it may have been punched. */
        res = points_is_live(points, req->snapshot) ? res : -EIO;
    } else if (!mutant(MUTANT_SNAP_NO_PIN)) {
        disk_map_end(req->disk->disk->map, &req->hold, face_now_us());
    }
    if (res < 0) {
        part_fail(req, res);
    } else if (res > 0 && (unsigned)res < len &&
               (unsigned)res % req->disk->disk->offset_align == 0) {
        part_done(req, (unsigned)res); /* the rest is another part */
    } else {
        memset(place_of(req) + res, 0,
               len - (unsigned)res); /* the file's end */
        part_done(req, len);
    }
}

static void
part_submit(FaceReq *req, int fd, uint64_t len)
{
    uint64_t block = req->disk->disk->offset_align;

    req->io[0].store = (StoreReq){.op = STORE_READ,
                                  .fd = fd,
                                  .buf = place_of(req),
                                  .offset = req->io_offset + req->io_done,
                                  .len = (len + block - 1) & ~(block - 1)};
    face_submit(req->face, &req->io[0], part_read);
}

static struct ClusterRun
rest_of(const FaceReq *req)
{
    return run_outward(req->io_offset + req->io_done,
                       req->io_len - req->io_done,
                       req->disk->disk->cluster_bits);
}

/* Bytes of the rest up to cluster @end, which is behind its begin. */
static uint64_t
bytes_up_to(const FaceReq *req, uint64_t end)
{
    uint64_t at = req->io_offset + req->io_done;

    return MIN(req->io_len - req->io_done,
               (end << req->disk->disk->cluster_bits) - at);
}

static void
pin_granted(RangeHold *hold)
{
    FaceReq *req = (FaceReq *)((char *)hold - offsetof(FaceReq, hold));

    req->msg.kind = FACE_MSG_SNAP_PINNED;
    inbox_post(&req->face->inbox, &req->msg);
}

void
face_snap_pinned(FaceReq *req)
{
    Disk *disk = req->disk->disk;
    struct ClusterRun rest = rest_of(req);
    uint64_t most =
        clusters_for(req->hold.offset + req->hold.len, disk->cluster_bits) -
        rest.first;
    uint64_t count;
    enum PointsPlace place = points_find(disk->points, req->snapshot,
                                         rest.first, most, &req->point, &count);

    if (place == POINTS_DISK && !mutant(MUTANT_SNAP_NO_PIN)) {
        part_submit(req, disk->fd, bytes_up_to(req, rest.first + count));
        return;
    }
    if (req->point) {
        points_done(disk->points, req->point);
    }
    disk_map_end(disk->map, &req->hold, face_now_us());
    part_next(req);
}

static void
pin(FaceReq *req, uint64_t len)
{
    uint64_t at = req->io_offset + req->io_done;
    Disk *disk = req->disk->disk;

    if (mutant(MUTANT_SNAP_NO_PIN)) {
        part_submit(req, disk->fd, len);
        return;
    }
    /* Blocks may reach behind the disk's end; the map does not. */
    req->hold = (RangeHold){.offset = at,
                            .len = MIN(len, disk->size_bytes - at),
                            .kind = RANGE_PIN,
                            .granted = pin_granted};
    if (disk_map_hold(disk->map, &req->hold)) {
        face_snap_pinned(req);
    }
}

/* Of a file that shows differences: the next part is one, *@rest long at most;
 * false: it is zeroes. */
static bool
differs(FaceReq *req, struct ClusterRun *rest)
{
    unsigned bits = req->disk->disk->cluster_bits;
    struct FaceSparse change;
    struct FaceRange range;
    struct ClusterRun run;

    if (!req->other) {
        return true;
    }
    if (!face_sparse_of(req->face, req->node, &change) ||
        !face_sparse_next(&change, rest->first << bits, &range)) {
        return false;
    }
    run = run_outward(range.offset, range.len, bits);
    if (run.first > rest->first) {
        rest->count = MIN(rest->count, run.first - rest->first);
        return false;
    }
    rest->count = MIN(rest->count, run.count);
    return true;
}

static void
part_next(FaceReq *req)
{
    Disk *disk = req->disk->disk;
    struct ClusterRun rest;
    uint64_t count;

    while (req->io_done < req->io_len) {
        rest = rest_of(req);
        if (!differs(req, &rest)) {
            uint64_t len = bytes_up_to(req, rest.first + rest.count);

            memset(place_of(req), 0, len);
            req->io_done += len;
            continue;
        }
        switch (points_find(disk->points, req->snapshot, rest.first, rest.count,
                            &req->point, &count)) {
        case POINTS_DISK:
            pin(req, bytes_up_to(req, rest.first + count));
            return;
        case POINTS_FILE:
            part_submit(req, point_data_fd(req->point),
                        bytes_up_to(req, rest.first + count));
            return;
        case POINTS_UNSURE:
        case POINTS_GONE:
            part_fail(req, -EIO);
            return;
        }
    }
    req->face->count.read_requests++;
    req->face->count.read_bytes += req->len;
    face_reply_data(
        req, req->buffer + FACE_BLOCK_MAX + (req->offset - req->io_offset),
        req->len);
}

/* Sets disk, snapshot and other of a file's request, and *@size. */
static bool
find_file(FaceReq *req, uint64_t *size)
{
    struct PointFigures figures;

    if (!face_snap_of(req->face, req->node, &req->disk, &req->snapshot,
                      &req->other) ||
        !points_figures(req->disk->disk->points, req->snapshot, &figures)) {
        return false;
    }
    *size = figures.size_bytes;
    return true;
}

void
face_snap_read(FaceReq *req)
{
    uint64_t size, block;

    if (!find_file(req, &size)) {
        face_reply_error(req, ESTALE);
        return;
    }
    if (req->offset >= size || req->len == 0) {
        face_reply_data(req, NULL, 0);
        return;
    }
    req->len = MIN(req->len, size - req->offset);
    block = req->disk->disk->offset_align;
    req->io_offset = req->offset & ~(block - 1);
    req->io_len =
        ((req->offset + req->len + block - 1) & ~(block - 1)) - req->io_offset;
    req->io_done = 0;
    part_next(req);
}

/*
 * Seeking, on the helper's thread
 */

/* What the file system says of [@at, @end) of @fd: the first data or hole in it,
 * @end, or -errno. */
static int64_t
seek_part(FaceReq *req, int fd, uint64_t at, uint64_t end)
{
    StoreIo *io = req->face->config.store->io;
    int64_t found = io->ops->lseek(io, fd, (off_t)at, req->mode);

    if (found == -ENXIO) {
        /* Behind the last data, or the end of the file. */
        return (int64_t)(req->mode == SEEK_DATA ? end : at);
    }
    return found < 0 ? found : MIN(found, (int64_t)end);
}

/* The same for a part of the snapshot from @at on; *@end: where it ends. */
static int64_t
seek_in(FaceReq *req, uint64_t at, uint64_t *end)
{
    Disk *disk = req->disk->disk;
    unsigned bits = disk->cluster_bits;
    struct ClusterRun run = run_outward(at, *end - at, bits);
    enum PointsPlace place;
    uint64_t count, again;
    int64_t found;
    Point *point;

    place = points_find(disk->points, req->snapshot, run.first, run.count,
                        &point, &count);
    *end = MIN(*end, (run.first + count) << bits);
    if (place == POINTS_FILE) {
        found = seek_part(req, point_data_fd(point), at, *end);
        points_done(disk->points, point);
        return found;
    }
    if (place != POINTS_DISK) {
        return (int64_t)(req->mode == SEEK_DATA ? at : *end);
    }
    found = seek_part(req, disk->map_fd, at, *end);
    /* What was copied since is there and may be gone from the disk. */
    if (points_find(disk->points, req->snapshot, run.first, count, &point,
                    &again) != POINTS_DISK) {
        if (point) {
            points_done(disk->points, point);
        }
        *end = at;
        return (int64_t)at;
    }
    *end = MIN(*end, (run.first + again) << bits);
    return MIN(found, (int64_t)*end);
}

/* A part at a time. */
static bool
seek_snapshot(FaceReq *req)
{
    uint64_t at = req->offset + req->io_done, size = req->len, end = size;
    int64_t found;

    if (at >= size) {
        req->seek_result = req->mode == SEEK_DATA ? -ENXIO : (int64_t)size;
        return true;
    }
    found = seek_in(req, at, &end);
    if (found < 0 || (uint64_t)found < end) {
        req->seek_result = found;
        return true;
    }
    req->io_done = end - req->offset;
    return false;
}

void
face_snap_lseek(FaceReq *req)
{
    uint64_t size;

    if (face_node_kind(req->node) == FACE_KIND_CHANGED_DISK) {
        face_sparse_lseek(req);
    } else if (req->mode != SEEK_DATA && req->mode != SEEK_HOLE) {
        face_reply_error(req, EINVAL);
    } else if (!find_file(req, &size)) {
        face_reply_error(req, ESTALE);
    } else if (req->offset >= size) {
        face_reply_error(req, ENXIO);
    } else {
        req->len = size;
        req->io_done = 0;
        face_help(req, seek_snapshot, face_sought);
    }
}
