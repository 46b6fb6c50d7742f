/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-snapshots.c - the snapshots that an opening finds
 *
 * What there may be of the snapshot ID, and what it is taken for:
 *
 *   record ID                      a snapshot, whatever else there is
 *   record ID.gone only            deleted, or never finished: nobody sees it,
 *                                  but older ones may resolve to its points
 *   a map that keeps something,    somebody took the record away; likewise
 *   and no record
 *   any other file of a point      left of one that was never made, or of one
 *                                  whose end was interrupted
 *
 * Damage never costs another snapshot more than it must (rules 19, 23). Of one
 * whose record is damaged the id is the file's name, and its disks are those
 * that have files of it; its maps are as good as before. Where a file is
 * missing or damaged, what was kept in it is unsure: to this snapshot and to
 * the older ones that resolve to it. Only of one that is gone a map may be
 * missing: then nobody needed it any more.
 *
 * If the directory of records cannot be read, what is there counts as damaged
 * and not as gone: it is kept, until somebody has mended that.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* Ids beyond those found, if the state knows less than the records do: others
 * may have been given and be gone again. */
#define SKIPPED_IDS 1000

struct Found {
    Snapshot snapshot; /* id only, if the record is damaged */
    bool is_gone;
    bool is_lost;    /* there is no record */
    const char *why; /* the record is damaged */
};

static gint
compare_found(gconstpointer a, gconstpointer b)
{
    const struct Found *one = a, *other = b;

    if (one->snapshot.id != other->snapshot.id) {
        return one->snapshot.id < other->snapshot.id ? -1 : 1;
    }
    /* A record counts more than its ".gone", and that more than none. */
    return one->is_gone != other->is_gone ? one->is_gone - other->is_gone
                                          : one->is_lost - other->is_lost;
}

/* Each id once. */
static void
sort_found(GArray *all)
{
    g_array_sort(all, compare_found);
    for (guint i = all->len; i > 1; i--) {
        uint64_t id = g_array_index(all, struct Found, i - 1).snapshot.id;

        if (g_array_index(all, struct Found, i - 2).snapshot.id == id) {
            g_array_remove_index(all, i - 1);
        }
    }
}

static void
load_record(Store *store, int dir_fd, const char *name, struct Found *found)
{
    uint64_t id = found->snapshot.id;
    char *text = NULL;
    size_t len;
    int err = store_io_load(store->io, dir_fd, name, SNAPSHOT_RECORD_MAX, &text,
                            &len);

    if (err) {
        found->why = g_strerror(-err);
    } else {
        found->why = snapshot_parse(text, len, store->uuid, &found->snapshot);
        free(text);
    }
    if (!found->why && found->snapshot.id != id) {
        found->why = "it is another snapshot's";
    }
    if (found->why) {
        found->snapshot = (Snapshot){.id = id};
    }
}

struct Search {
    Store *store;
    GArray *all; /* Found */
    int dir_fd;
    bool is_blind; /* nobody knows which records there are */
    uint64_t last; /* largest id of any file */
};

static void
see_record(const char *name, void *user)
{
    struct Search *search = user;
    uint64_t id = snapshot_file_id(name, "");
    struct Found found = {.is_gone = id == 0};

    id = id ? id : snapshot_file_id(name, SNAPSHOT_GONE);
    if (id) {
        found.snapshot.id = id;
        load_record(search->store, search->dir_fd, name, &found);
        g_array_append_val(search->all, found);
        search->last = MAX(search->last, id);
    }
}

static void
see_point(const char *name, void *user)
{
    struct Search *search = user;
    uint64_t map = snapshot_file_id(name, SNAPSHOT_MAP);
    uint64_t data = snapshot_file_id(name, SNAPSHOT_DATA);
    struct Found found = {.snapshot.id = map,
                          .is_gone = !search->is_blind,
                          .is_lost = true,
                          .why = "it is missing"};
    struct stat st;

    search->last = MAX(search->last, MAX(map, data));
    if (search->store->is_read_only) {
        if ((map || data) && !fstatat(search->dir_fd, name, &st, 0)) {
            search->store->snapshot_files->read_bytes +=
                (uint64_t)st.st_blocks * 512;
        }
    } else if (map) {
        g_array_append_val(search->all, found);
    }
}

/* The directory @name in @dir_fd; -1: there is none, or *@err. */
static int
open_dir(Store *store, int dir_fd, const char *name, int *err)
{
    int fd = store->io->ops->open(store->io, dir_fd, name, STORE_DIR_FLAGS, 0);

    *err = fd < 0 && fd != -ENOENT ? fd : 0;
    return fd < 0 ? -1 : fd;
}

static void
search_all(Store *store, struct Search *search)
{
    struct SnapshotFiles *files = store->snapshot_files;
    int err;

    files->dir_fd = open_dir(store, store->dir_fd, STORE_SNAPSHOTS, &err);
    search->dir_fd = files->dir_fd;
    if (files->dir_fd >= 0) {
        err = snapshot_files_names(files->dir_fd, see_record, search);
    }
    if (err) {
        search->is_blind = true;
        store_say(store,
                  "store %s: " STORE_SNAPSHOTS " cannot be read (%s): what "
                  "there is of snapshots is kept",
                  store->path, g_strerror(-err));
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];

        files->points_fd[i] = open_dir(store, disk->dir_fd, STORE_POINTS, &err);
        search->dir_fd = files->points_fd[i];
        if (files->points_fd[i] >= 0) {
            err = snapshot_files_names(files->points_fd[i], see_point, search);
        }
        if (err) {
            store_say(store, "disk %s: " STORE_POINTS " cannot be read: %s",
                      disk->name, g_strerror(-err));
        }
    }
    sort_found(search->all);
}

/*
 * Points
 */

/* Is @disk part of the snapshot @at, whose record does not say so? It is, if an
 * older one has it or if there are files. */
static bool
has_disk(const struct Search *search, guint at, const Disk *disk,
         const struct PointFiles *files)
{
    for (guint i = 0; i < at; i++) {
        const struct Found *older =
            &g_array_index(search->all, struct Found, i);

        if (snapshot_disk(&older->snapshot, disk->id)) {
            return true;
        }
    }
    return files->map_fd >= 0 || files->data_fd >= 0;
}

static void
guess_disk(struct Search *search, guint at, const Disk *disk,
           const struct PointFiles *files)
{
    Snapshot *snapshot = &g_array_index(search->all, struct Found, at).snapshot;
    uint64_t size = atomic_load(&disk->size_bytes);
    struct stat st;

    if (!has_disk(search, at, disk, files)) {
        return;
    }
    if (files->data_fd >= 0 && !fstat(files->data_fd, &st) && st.st_size > 0) {
        size = MIN(size, (uint64_t)st.st_size);
    }
    snapshot->disks[snapshot->n_disks++] =
        (struct SnapshotDisk){.id = disk->id, .size_bytes = size};
}

/* Takes @files. */
static gboolean
add_point(Store *store, struct Found *found, Disk *disk, uint64_t size_bytes,
          struct PointFiles *files, GError **error)
{
    struct PointMark mark = store_point_mark(store->uuid, disk->id, files->id);
    Point *point = point_new(files->id, size_bytes, disk->cluster_bits,
                             MAX(files->map_fd, -1), MAX(files->data_fd, -1));
    uint64_t unsure;

    if (!point) {
        store_point_close(store->io, files);
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no memory for the snapshots of disk %s", disk->name);
        return FALSE;
    }
    store_point_load(store->io, files, &mark, point_kept(point),
                     point_unsure(point));
    unsure = bitmap_count(point_unsure(point));
    if (unsure || files->data_fd < 0) {
        found->snapshot.is_damaged = true;
        store_say(store,
                  "disk %s: the files of snapshot %s are damaged: "
                  "%" G_GUINT64_FORMAT " clusters of it cannot be read",
                  disk->name, found->snapshot.name, unsure);
    }
    snapshot_files_add(store, files);
    points_add(disk->points, point);
    points_set_live(disk->points, files->id, !found->is_gone);
    return TRUE;
}

static gboolean
load_point(struct Search *search, guint at, Disk *disk, GError **error)
{
    struct Found *found = &g_array_index(search->all, struct Found, at);
    Store *store = search->store;
    struct PointFiles files = {.disk = disk->index,
                               .id = found->snapshot.id,
                               .map_fd = -ENOENT,
                               .data_fd = -ENOENT};
    const struct SnapshotDisk *of;
    int dir_fd = snapshot_files_points(store, disk);
    uint64_t size;

    if (dir_fd >= 0) {
        store_point_open(store->io, dir_fd, false, &files);
    }
    if (found->why) {
        guess_disk(search, at, disk, &files);
    }
    of = snapshot_disk(&found->snapshot, disk->id);
    if (!of || (found->is_gone && files.map_fd == -ENOENT) ||
        (found->is_lost && store_point_is_begun(&files))) {
        store_point_close(store->io, &files);
        return TRUE;
    }
    /* Disks only grow. */
    size = MIN(of->size_bytes, atomic_load(&disk->size_bytes));
    return add_point(store, found, disk, size, &files, error);
}

/* Does snapshot @id have something in @disk that nobody knows? */
static bool
is_unsure(Disk *disk, uint64_t id)
{
    uint64_t end =
        clusters_for(atomic_load(&disk->size_bytes), disk->cluster_bits);
    uint64_t cluster = 0, count;
    Point *point;

    while (cluster < end) {
        switch (points_find(disk->points, id, cluster, end - cluster, &point,
                            &count)) {
        case POINTS_UNSURE:
            return true;
        case POINTS_GONE:
            return false;
        case POINTS_FILE:
            points_done(disk->points, point);
            break;
        case POINTS_DISK:
            break;
        }
        cluster += count;
    }
    return false;
}

/* Some point is damaged: older snapshots may resolve to it. */
static void
mark_damaged(struct Search *search)
{
    Store *store = search->store;

    for (guint i = 0; i < search->all->len; i++) {
        struct Found *found = &g_array_index(search->all, struct Found, i);

        for (unsigned d = 0; d < store->n_disks; d++) {
            found->snapshot.is_damaged |=
                is_unsure(store->disks[d], found->snapshot.id);
        }
    }
}

static gboolean
load_points(struct Search *search, GError **error)
{
    Store *store = search->store;
    bool is_damaged = false;

    snapshot_files_allow(store, search->all->len);
    for (guint i = 0; i < search->all->len; i++) {
        for (unsigned d = 0; d < store->n_disks; d++) {
            if (!load_point(search, i, store->disks[d], error)) {
                return FALSE;
            }
        }
        is_damaged |=
            g_array_index(search->all, struct Found, i).snapshot.is_damaged;
    }
    if (is_damaged) {
        mark_damaged(search);
    }
    return TRUE;
}

/*
 * The opening
 */
static void
name_damaged(Store *store, struct Found *found)
{
    Snapshot *snapshot = &found->snapshot;

    g_snprintf(snapshot->name, sizeof(snapshot->name),
               SNAPSHOT_DAMAGED "%" G_GUINT64_FORMAT, snapshot->id);
    if (!found->is_gone) {
        snapshot->is_damaged = true;
        g_strlcpy(snapshot->reason, "unknown", sizeof(snapshot->reason));
        store_say(store,
                  "the record of snapshot %" G_GUINT64_FORMAT
                  " is damaged (%s): it is called %s now",
                  snapshot->id, found->why, snapshot->name);
    }
}

static void
tell_all(struct Search *search)
{
    Store *store = search->store;

    for (guint i = 0; i < search->all->len; i++) {
        struct Found *found = &g_array_index(search->all, struct Found, i);

        if (found->is_gone) {
            snapshot_files_set_gone(store, found->snapshot.id, true);
        } else {
            snapshot_list_put(store->snapshots, &found->snapshot);
        }
    }
    if (search->last > store->last_snapshot) {
        store->last_snapshot = MIN(search->last + SKIPPED_IDS, SNAPSHOT_ID_MAX);
    }
    store->cuts.past = MIN(store->cuts.past, store->last_snapshot);
}

gboolean
store_snapshots_open(Store *store, GError **error)
{
    struct Search search = {.store = store};
    gboolean ok = TRUE;

    search.all = g_array_new(FALSE, FALSE, sizeof(struct Found));
    search_all(store, &search);
    for (guint i = 0; i < search.all->len; i++) {
        struct Found *found = &g_array_index(search.all, struct Found, i);

        if (found->why) {
            name_damaged(store, found);
        }
    }
    if (!store->is_read_only) {
        ok = load_points(&search, error);
    }
    if (ok) {
        tell_all(&search);
    }
    g_array_unref(search.all);
    return ok;
}

void
store_snapshots_close(Store *store)
{
    snapshot_files_free(store->io, store->snapshot_files);
    snapshot_list_free(store->snapshots);
}
