/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-keep.c - a snapshot that is made while no face serves the store
 *
 * A snapshot of a store at rest is of what a mount of it would show. So discards
 * that are not punched yet are in it, as clusters of zeroes that it keeps from
 * the start. They were accepted after the older snapshots (those of before are
 * in them in the same way), which read the cluster from the disk, or would now
 * find these zeroes instead: for them it is copied aside before.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What is on the zero list is zero in @point, and what it was is kept for the
 * older ones. */
static int
keep_zeroes(Store *store, Disk *disk, Point *point)
{
    struct PointMark mark =
        store_point_mark(store->uuid, disk->id, point_id(point));
    ZeroList list;
    int err = store_zeroes_get(store, disk, &list);

    for (unsigned i = 0; !err && i < list.count; i++) {
        struct ClusterRun run = run_outward(
            list.range[i].offset, list.range[i].len, disk->cluster_bits);

        err = store_keep(store, disk, &run, 1);
        if (!err) {
            bitmap_set_run(point_kept(point), run);
            err = store_point_put(store->io, point, &mark, run);
        }
    }
    return err;
}

static int
settle(Store *store, SnapshotDraft *draft)
{
    int err = 0;

    for (unsigned i = 0; !err && i < store->n_disks; i++) {
        Disk *disk = store->disks[i];

        err = keep_zeroes(store, disk, draft->points[i]);
        err = err ? err : store->io->ops->fdatasync(store->io, disk->map_fd);
    }
    return err;
}

static void
take_instant(Store *store, SnapshotDraft *draft)
{
    Snapshot *snapshot = &draft->snapshot;
    struct stat st;

    snapshot->wall_us = g_get_real_time();
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!fstat(store->disks[i]->map_fd, &st)) {
            snapshot->disks[i].blocks = (uint64_t)st.st_blocks;
        }
        points_add(store->disks[i]->points, draft->points[i]);
    }
}

gboolean
store_snapshot_now(Store *store, const char *name, const char *reason,
                   Snapshot *made, GError **error)
{
    SnapshotDraft *draft = store_snapshot_prepare(store, name, reason, error);
    Snapshot snapshot;
    int err;

    if (!draft) {
        return FALSE;
    }
    err = settle(store, draft);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "snapshot %s cannot be made in %s",
                        draft->snapshot.name, store->path);
        store_snapshot_abandon(store, draft);
        return FALSE;
    }
    take_instant(store, draft);
    snapshot = draft->snapshot;
    if (!store_snapshot_commit(store, draft, error)) {
        (void)store_snapshot_reap_now(store, snapshot.id);
        return FALSE;
    }
    if (made) {
        *made = snapshot;
    }
    return TRUE;
}
