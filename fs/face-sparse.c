/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that have only some of a disk, and holes elsewhere, which read as zeroes:
 *
 *   .snapshots/NAME/changed-since/OTHER/vda.raw   what two snapshots differ in
 *   .bitmaps/vda/NAME.raw                         what is dirty in a bitmap
 *
 * Here is which ranges those are, and seeking, which needs nothing else: in such
 * a file all of a range is data, zero or not. What is in it is read elsewhere
 * (face-snap.c, face-bitmap.c).
 *
 * Seeking is done on the helper's thread, some ranges at a time: where one ends
 * another may begin, and on a large disk there may be millions. A file that goes
 * away meanwhile has no more data.
 */
#include "face-wire.h"

#include <errno.h>
#include <unistd.h>

#define RANGES_AT_A_TIME 64
#define RANGE_BYTES_MAX  (UINT64_C(1) << 30) /* a longer one is given in parts */

bool
face_sparse_of(Face *face, uint64_t node, struct FaceSparse *sparse)
{
    return face_change_of(face, node, sparse) ||
           face_bitmap_of(face, node, sparse);
}

static bool
next_changed(const struct FaceSparse *sparse, uint64_t from,
             struct ClusterRun *run)
{
    if (from < sparse->common &&
        points_next_changed(sparse->points, sparse->older, sparse->younger,
                            from, sparse->common, run)) {
        return true;
    }
    from = MAX(from, sparse->common);
    *run = (struct ClusterRun){from, sparse->end - MIN(from, sparse->end)};
    return run->count > 0;
}

bool
face_sparse_next(const struct FaceSparse *sparse, uint64_t from,
                 struct FaceRange *range)
{
    uint64_t begin, end;
    struct ClusterRun run;

    if (sparse->bitmaps) {
        if (!named_next(sparse->bitmaps, sparse->bitmap, from, RANGE_BYTES_MAX,
                        &begin, &end)) {
            return false;
        }
        end += begin;
    } else {
        if (!next_changed(sparse, from >> sparse->cluster_bits, &run)) {
            return false;
        }
        begin = run.first << sparse->cluster_bits;
        end = (run.first + run.count) << sparse->cluster_bits;
    }
    begin = MAX(begin, from);
    end = MIN(end, sparse->size_bytes);
    *range = (struct FaceRange){begin, end - MIN(begin, end)};
    return range->len > 0;
}

static bool
seek_ranges(FaceReq *req)
{
    uint64_t size = req->len, at = req->offset + req->io_done;
    struct FaceSparse sparse;
    struct FaceRange range;
    bool is_there = face_sparse_of(req->face, req->node, &sparse);

    if (req->mode == SEEK_DATA) {
        bool is_found = is_there && face_sparse_next(&sparse, at, &range);

        req->seek_result = is_found ? (int64_t)range.offset : -ENXIO;
        return true;
    }
    for (unsigned i = 0; i < RANGES_AT_A_TIME; i++) {
        if (!is_there || at >= size || !face_sparse_next(&sparse, at, &range) ||
            range.offset > at) {
            req->seek_result = (int64_t)MIN(at, size);
            return true;
        }
        at = range.offset + range.len;
    }
    req->io_done = at - req->offset;
    return false;
}

void
face_sought(FaceReq *req)
{
    if (req->seek_result < 0) {
        face_reply_error(req, (int)-req->seek_result);
    } else {
        face_reply_lseek(req, (uint64_t)req->seek_result);
    }
}

void
face_sparse_lseek(FaceReq *req)
{
    struct FaceSparse sparse;

    if (req->mode != SEEK_DATA && req->mode != SEEK_HOLE) {
        face_reply_error(req, EINVAL);
    } else if (!face_sparse_of(req->face, req->node, &sparse)) {
        face_reply_error(req, ESTALE);
    } else if (req->offset >= sparse.size_bytes) {
        face_reply_error(req, ENXIO);
    } else {
        req->len = sparse.size_bytes;
        req->io_done = 0;
        face_help(req, seek_ranges, face_sought);
    }
}
