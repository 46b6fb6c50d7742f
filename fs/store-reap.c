/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-reap.c - the room of deleted snapshots comes back
 *
 * Of a point that is not live, what no live snapshot resolves to is useless, and
 * stays so (bitmap/points.c). It is punched in slices, so that the guest's own
 * requests get their turn at the file system; what was punched before is a hole
 * and skipped. Its map is left as it is: a point is asked only for what somebody
 * resolves to.
 *
 * When nobody resolves to anything in it the point leaves the chain, then its
 * files go, the map first. When that is so on all disks the record goes. A crash
 * in between leaves one that is gone still, with less of it.
 *
 * Nothing of this needs room.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#define PUNCH       (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define SLICE_BYTES (UINT64_C(16) << 20)

/* Of one disk. */
struct Reaping {
    Store *store;
    Disk *disk;
    uint64_t id;
    const struct SnapshotReap *reap;
    int data_fd;
};

static bool
is_stopping(const struct Reaping *reaping)
{
    const struct SnapshotReap *reap = reaping->reap;

    return reap->is_stopping && reap->is_stopping(reap->user);
}

static int
punch(const struct Reaping *reaping, uint64_t at, uint64_t end)
{
    StoreIo *io = reaping->store->io;
    int err = 0;

    while (!err && at < end) {
        off_t data = io->ops->lseek(io, reaping->data_fd, (off_t)at, SEEK_DATA);
        uint64_t len;

        if (data == -ENXIO || (data >= 0 && (uint64_t)data >= end)) {
            return 0;
        }
        at = data < 0 ? at : (uint64_t)data;
        len = MIN(end - at, SLICE_BYTES);
        err = is_stopping(reaping)
                  ? -EINTR
                  : io->ops->fallocate(io, reaping->data_fd, PUNCH, at, len);
        at += len;
    }
    return err == -EOPNOTSUPP ? 0 : err;
}

static int
punch_useless(const struct Reaping *reaping)
{
    unsigned bits = reaping->disk->cluster_bits;
    struct ClusterRun run = {0, 0};
    int err = 0;

    while (!err && reaping->data_fd >= 0 &&
           points_next_useless(reaping->disk->points, reaping->id,
                               run.first + run.count, UINT64_MAX, &run)) {
        err =
            punch(reaping, run.first << bits, (run.first + run.count) << bits);
    }
    return err;
}

static enum SnapshotReaped
reap_point(struct Reaping *reaping)
{
    Points *points = reaping->disk->points;
    Store *store = reaping->store;
    int dir_fd = snapshot_files_points(store, reaping->disk);
    struct PointFigures figures;
    struct PointFiles files;
    Point *point;

    if (points_figures(points, reaping->id, &figures)) {
        snapshot_files_get(store, reaping->disk, reaping->id, &files);
        reaping->data_fd = files.data_fd;
        if (punch_useless(reaping)) {
            return SNAPSHOT_STOPPED;
        }
        if (points_is_needed(points, reaping->id)) {
            return SNAPSHOT_NEEDED;
        }
        point = reaping->reap->remove(reaping->reap->user, reaping->disk,
                                      reaping->id);
        if (!point) {
            return SNAPSHOT_IN_USE;
        }
        point_free(point);
        snapshot_files_drop(store, reaping->disk, reaping->id);
    }
    return dir_fd >= 0 && store_point_delete(store->io, dir_fd, reaping->id)
               ? SNAPSHOT_STOPPED
               : SNAPSHOT_REAPED;
}

enum SnapshotReaped
store_snapshot_reap(Store *store, uint64_t id, const struct SnapshotReap *reap)
{
    enum SnapshotReaped all = SNAPSHOT_REAPED;

    for (unsigned i = 0; i < store->n_disks; i++) {
        struct Reaping reaping = {
            .store = store, .disk = store->disks[i], .id = id, .reap = reap};
        enum SnapshotReaped one =
            is_stopping(&reaping) ? SNAPSHOT_STOPPED : reap_point(&reaping);

        /* In the order of how soon it is worth another try. */
        all = MAX(all, one);
    }
    if (all == SNAPSHOT_REAPED && store_record_forget(store, id)) {
        all = SNAPSHOT_STOPPED;
    }
    if (all == SNAPSHOT_REAPED) {
        snapshot_files_set_gone(store, id, false);
    }
    return all;
}

/*
 * While nobody else is at the chains
 */
static Point *
remove_now(void *user, Disk *disk, uint64_t id)
{
    (void)user;
    return points_remove(disk->points, id);
}

enum SnapshotReaped
store_snapshot_reap_now(Store *store, uint64_t id)
{
    const struct SnapshotReap reap = {.remove = remove_now};

    for (unsigned i = 0; i < store->n_disks; i++) {
        points_set_live(store->disks[i]->points, id, false);
    }
    return store_snapshot_reap(store, id, &reap);
}

gboolean
store_snapshot_delete_now(Store *store, uint64_t id, GError **error)
{
    GArray *gone;

    if (!store_snapshot_drop(store, id, error)) {
        return FALSE;
    }
    gone = store_snapshots_gone(store);
    for (guint i = 0; i < gone->len; i++) {
        (void)store_snapshot_reap_now(store, g_array_index(gone, uint64_t, i));
    }
    g_array_unref(gone);
    return TRUE;
}
