/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-tidy.c - what interrupted work on snapshots has left, at the begin of a
 * serve
 *
 * A snapshot that was deleted, or never got its record, and keeps nothing is
 * reaped at once; one that keeps something is for who reaps while the store is
 * served. Then what is left is what nobody will ask for: temporary files, the
 * ".gone" of a snapshot that got its record, data without a map.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>

struct Tidying {
    Store *store;
    int dir_fd;
};

static void
tidy_record(const char *name, void *user)
{
    const struct Tidying *tidying = user;
    Store *store = tidying->store;
    uint64_t id = snapshot_file_id(name, SNAPSHOT_GONE);

    if (g_str_has_suffix(name, ".tmp") ||
        (id && snapshot_list_get(store->snapshots, id, NULL))) {
        (void)store->io->ops->unlink(store->io, tidying->dir_fd, name, 0);
    }
}

/* Data without a map is nothing. */
static void
tidy_point(const char *name, void *user)
{
    const struct Tidying *tidying = user;
    uint64_t id = snapshot_file_id(name, SNAPSHOT_DATA);
    char map[SNAPSHOT_NAME_LEN];
    struct stat st;

    snapshot_file_name(map, id, SNAPSHOT_MAP);
    if (id && !snapshot_list_get(tidying->store->snapshots, id, NULL) &&
        fstatat(tidying->dir_fd, map, &st, AT_SYMLINK_NOFOLLOW) &&
        errno == ENOENT) {
        (void)tidying->store->io->ops->unlink(tidying->store->io,
                                              tidying->dir_fd, name, 0);
    }
}

/* Does a point of @id keep anything? */
static bool
keeps(const Store *store, uint64_t id)
{
    struct PointFigures figures;

    for (unsigned i = 0; i < store->n_disks; i++) {
        if (points_figures(store->disks[i]->points, id, &figures) &&
            (figures.kept_clusters || figures.unsure_clusters)) {
            return true;
        }
    }
    return false;
}

void
store_snapshots_tidy(Store *store)
{
    GArray *gone = store_snapshots_gone(store);
    struct Tidying tidying = {.store = store};

    for (guint i = 0; i < gone->len; i++) {
        uint64_t id = g_array_index(gone, uint64_t, i);

        if (!keeps(store, id)) {
            store_snapshot_reap_now(store, id);
        }
    }
    g_array_unref(gone);
    tidying.dir_fd = snapshot_files_dir(store);
    if (tidying.dir_fd >= 0) {
        (void)snapshot_files_names(tidying.dir_fd, tidy_record, &tidying);
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        tidying.dir_fd = snapshot_files_points(store, store->disks[i]);
        if (tidying.dir_fd >= 0) {
            (void)snapshot_files_names(tidying.dir_fd, tidy_point, &tidying);
        }
    }
}
