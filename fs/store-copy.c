/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-copy.c - copies for snapshots, made by who writes a disk at rest
 *
 * What the face does for a guest (face-points.c) in its plain form: what the
 * youngest snapshot would find on the disk is copied to its point's data file,
 * that is synced, the bits are written and synced, and only then the range may
 * be overwritten (rule 14). A cluster of zeroes is kept as a hole. The syncs
 * are shared by all runs of a call.
 */
#include "bitmap/point-file.h"
#include "image.h"
#include "store-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Keep {
    Store *store;
    Disk *disk;
    Point *point;
    char *buffer;  /* a cluster */
    bool has_data; /* was written */
    /* The page that gets bits; the files are opened for direct I/O. */
    _Alignas(BITMAP_FILE_PAGE) struct BitmapFilePage page;
    uint64_t number;
    bool has_page;
};

static int
copy_cluster(struct Keep *keep, uint64_t cluster)
{
    uint64_t offset = cluster << keep->disk->cluster_bits;
    size_t len = (size_t)1 << keep->disk->cluster_bits;
    StoreIo *io = keep->store->io;
    ssize_t n =
        io->ops->pread(io, keep->disk->map_fd, keep->buffer, len, offset);

    if (n < 0) {
        return (int)n;
    }
    memset(keep->buffer + n, 0, len - (size_t)n);
    if (image_is_zero(keep->buffer, len)) {
        return 0;
    }
    n = io->ops->pwrite(io, point_data_fd(keep->point), keep->buffer, len,
                        offset);
    keep->has_data = true;
    return n == (ssize_t)len ? 0 : n < 0 ? (int)n : -EIO;
}

static int
copy_run(struct Keep *keep, struct ClusterRun run)
{
    unsigned bits = keep->disk->cluster_bits;
    StoreIo *io = keep->store->io;
    int err = 0;

    for (uint64_t at = run.first; !err && at < run.first + run.count; at++) {
        off_t data = io->ops->lseek(io, keep->disk->map_fd, (off_t)(at << bits),
                                    SEEK_DATA);

        if (data < 0) {
            return data == -ENXIO ? 0 : (int)data;
        }
        at = (uint64_t)data >> bits;
        err = at < run.first + run.count ? copy_cluster(keep, at) : 0;
    }
    return err;
}

static int
flush_page(struct Keep *keep)
{
    struct PointMark mark = {.id = point_id(keep->point),
                             .disk = keep->disk->id};
    StoreIo *io = keep->store->io;
    ssize_t n;

    if (!keep->has_page) {
        return 0;
    }
    memcpy(mark.uuid, keep->store->uuid, sizeof(mark.uuid));
    point_page_seal(&keep->page, keep->number, &mark,
                    point_unsure(keep->point));
    n = io->ops->pwrite(io, point_map_fd(keep->point), &keep->page,
                        sizeof(keep->page), keep->number * BITMAP_FILE_PAGE);
    keep->has_page = false;
    return n == (ssize_t)sizeof(keep->page) ? 0 : n < 0 ? (int)n : -EIO;
}

static int
mark_run(struct Keep *keep, struct ClusterRun run)
{
    uint64_t last = point_file_page_of(run.first + run.count - 1);
    int err = 0;

    for (uint64_t n = point_file_page_of(run.first); !err && n <= last; n++) {
        if (keep->has_page && keep->number != n) {
            err = flush_page(keep);
        }
        if (!keep->has_page) {
            point_page_fill(&keep->page, n, point_kept(keep->point));
            keep->number = n;
            keep->has_page = true;
        }
        point_page_set(&keep->page, n, run);
    }
    return err;
}

static int
keep_run(struct Keep *keep, struct ClusterRun run)
{
    points_keep(keep->disk->points, keep->point, run);
    return 0;
}

/* @work on each run of @runs that is missing. */
static int
for_missing(struct Keep *keep, const struct ClusterRun *runs, unsigned count,
            int (*work)(struct Keep *keep, struct ClusterRun run))
{
    int err = 0;

    for (unsigned i = 0; i < count; i++) {
        uint64_t end = runs[i].first + runs[i].count;
        struct ClusterRun run = {runs[i].first, 0};

        while (!err && points_next_missing(keep->disk->points,
                                           run.first + run.count, end, &run)) {
            err = work(keep, run);
        }
    }
    return err;
}

static int
keep_runs(struct Keep *keep, const struct ClusterRun *runs, unsigned count)
{
    StoreIo *io = keep->store->io;
    int err = for_missing(keep, runs, count, copy_run);

    if (!err && keep->has_data) {
        err = io->ops->fdatasync(io, point_data_fd(keep->point));
    }
    if (!err) {
        err = for_missing(keep, runs, count, mark_run);
    }
    if (!err) {
        err = flush_page(keep);
    }
    if (!err) {
        err = io->ops->fdatasync(io, point_map_fd(keep->point));
    }
    return err ? err : for_missing(keep, runs, count, keep_run);
}

int
store_keep(Store *store, Disk *disk, const struct ClusterRun *runs,
           unsigned count)
{
    struct Keep keep = {.store = store, .disk = disk};
    struct ClusterRun missing;
    bool is_any = false;
    int err;

    keep.point = disk->points ? points_youngest(disk->points) : NULL;
    for (unsigned i = 0; keep.point && !is_any && i < count; i++) {
        is_any = points_next_missing(disk->points, runs[i].first,
                                     runs[i].first + runs[i].count, &missing);
    }
    if (!is_any) {
        return 0;
    }
    keep.buffer = aligned_alloc(STORE_BLOCK, (size_t)1 << disk->cluster_bits);
    err = keep.buffer ? keep_runs(&keep, runs, count) : -ENOMEM;
    free(keep.buffer);
    return err;
}
