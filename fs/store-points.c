/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-points.c - the two files of a point
 *
 *   ID.map    which clusters are kept (bitmap/point-file.h), of its full size
 *             from the start
 *   ID.data   those, each at its own offset; a hole is a cluster of zeroes; as
 *             large as disk.raw was, so that a hole up to its end can be read
 *
 * A file that is shorter than that was cut by somebody else. Of what was in the
 * part that is missing nothing is known: of a map, whether those clusters are
 * kept, of the data, what those that are kept held. It is never guessed, since
 * a snapshot would show what never was.
 *
 * Both are written in blocks of 4 KiB past the page cache, as disk.raw is.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct PointMark
store_point_mark(const uint8_t uuid[16], unsigned disk_id, uint64_t id)
{
    struct PointMark mark = {.id = id, .disk = disk_id};

    memcpy(mark.uuid, uuid, sizeof(mark.uuid));
    return mark;
}

static uint64_t
map_bytes(uint64_t clusters)
{
    return (point_file_page_of(clusters - 1) + 1) * BITMAP_FILE_PAGE;
}

static int
open_one(StoreIo *io, int dir_fd, uint64_t id, const char *suffix, int flags)
{
    char name[SNAPSHOT_NAME_LEN];

    snapshot_file_name(name, id, suffix);
    return store_open_direct(io, dir_fd, name, flags | O_NOFOLLOW | O_CLOEXEC);
}

void
store_point_open(StoreIo *io, int dir_fd, bool is_read_only,
                 struct PointFiles *files)
{
    int flags = is_read_only ? O_RDONLY : O_RDWR;

    files->map_fd = open_one(io, dir_fd, files->id, SNAPSHOT_MAP, flags);
    files->data_fd = open_one(io, dir_fd, files->id, SNAPSHOT_DATA, flags);
}

int
store_point_make(StoreIo *io, int dir_fd, uint64_t size_bytes,
                 unsigned cluster_bits, struct PointFiles *files)
{
    const int flags = O_RDWR | O_CREAT | O_TRUNC;
    uint64_t map = map_bytes(clusters_for(size_bytes, cluster_bits));
    int err;

    files->data_fd = -EBADF;
    files->map_fd = open_one(io, dir_fd, files->id, SNAPSHOT_MAP, flags);
    err = files->map_fd < 0 ? files->map_fd : 0;
    if (!err) {
        files->data_fd = open_one(io, dir_fd, files->id, SNAPSHOT_DATA, flags);
        err = files->data_fd < 0 ? files->data_fd : 0;
    }
    err = err ? err : io->ops->ftruncate(io, files->map_fd, map);
    err = err ? err
              : io->ops->ftruncate(io, files->data_fd,
                                   store_raw_bytes(size_bytes));
    err = err ? err : io->ops->fsync(io, files->map_fd);
    return err ? err : io->ops->fsync(io, files->data_fd);
}

/* The size of the file, 0 if there is none. */
static uint64_t
size_of(int fd)
{
    struct stat st;

    return fd < 0 || fstat(fd, &st) ? 0 : (uint64_t)st.st_size;
}

/* Of what is kept from @first on the content is not there. */
static void
lose_kept(const Bitmap *kept, uint64_t first, Bitmap *unsure)
{
    struct ClusterRun run;

    while (first < bitmap_clusters(kept) &&
           bitmap_next_run(kept, first, UINT64_MAX, &run)) {
        bitmap_set_run(unsure, run);
        first = run.first + run.count;
    }
}

void
store_point_load(StoreIo *io, const struct PointFiles *files,
                 const struct PointMark *mark, Bitmap *kept, Bitmap *unsure)
{
    uint64_t clusters = bitmap_clusters(kept);
    uint64_t data = size_of(files->data_fd);
    uint64_t known =
        size_of(files->map_fd) / BITMAP_FILE_PAGE * POINT_FILE_PAGE_BITS;

    if (files->map_fd < 0 ||
        point_file_load(io, files->map_fd, mark, kept, unsure)) {
        bitmap_set_all(unsure);
        return;
    }
    if (known < clusters) {
        bitmap_set_run(unsure, (struct ClusterRun){known, clusters - known});
    }
    if (data < store_raw_bytes(bitmap_size_bytes(kept))) {
        lose_kept(kept, data >> bitmap_cluster_bits(kept), unsure);
    }
}

bool
store_point_is_begun(const struct PointFiles *files)
{
    return files->map_fd >= 0 && size_of(files->map_fd) == 0;
}

static int
unlink_one(StoreIo *io, int dir_fd, uint64_t id, const char *suffix)
{
    char name[SNAPSHOT_NAME_LEN];
    int err;

    snapshot_file_name(name, id, suffix);
    err = io->ops->unlink(io, dir_fd, name, 0);
    return err == -ENOENT ? 0 : err;
}

/* The map first, durably: without it the rest is nothing, but a map without its
 * data is one that somebody has damaged. */
int
store_point_delete(StoreIo *io, int dir_fd, uint64_t id)
{
    int err = unlink_one(io, dir_fd, id, SNAPSHOT_MAP);

    err = err ? err : io->ops->fsync(io, dir_fd);
    return err ? err : unlink_one(io, dir_fd, id, SNAPSHOT_DATA);
}

int
store_point_put(StoreIo *io, Point *point, const struct PointMark *mark,
                struct ClusterRun run)
{
    struct BitmapFilePage *page =
        aligned_alloc(BITMAP_FILE_PAGE, BITMAP_FILE_PAGE);
    uint64_t last = point_file_page_of(run.first + run.count - 1);
    int err = page ? 0 : -ENOMEM;

    for (uint64_t n = point_file_page_of(run.first); !err && n <= last; n++) {
        ssize_t done;

        point_page_fill(page, n, point_kept(point));
        point_page_set(page, n, run);
        point_page_seal(page, n, mark, point_unsure(point));
        done = io->ops->pwrite(io, point_map_fd(point), page, sizeof(*page),
                               n * BITMAP_FILE_PAGE);
        err = done == (ssize_t)sizeof(*page) ? 0 : done < 0 ? (int)done : -EIO;
    }
    free(page);
    return err ? err : io->ops->fdatasync(io, point_map_fd(point));
}
