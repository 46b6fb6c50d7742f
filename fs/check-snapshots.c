/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check-snapshots.c - `weir check`: records and points of snapshots
 *
 * A record says which disks a snapshot has; each of them has a map, whose
 * sectors have to be sound, and data as large as the disk was. Nothing of a
 * snapshot can be mended: what is damaged is to be read no more, and all else
 * can be. With --repair only what is left of interrupted work goes.
 */
#include "check-private.h"
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

struct Records {
    struct Check *check;
    int dir_fd;
    GHashTable *all; /* id: Snapshot, of those that can be read; NULL: of
                        those that cannot, or are being deleted */
};

static void
check_record(const char *name, void *user)
{
    struct Records *records = user;
    struct Check *check = records->check;
    uint64_t id = snapshot_file_id(name, "");
    uint64_t gone = snapshot_file_id(name, SNAPSHOT_GONE);
    g_autofree Snapshot *snapshot = g_new0(Snapshot, 1);
    char *text = NULL;
    const char *why;
    size_t len;
    int err;

    if (!id) {
        if (gone && !g_hash_table_contains(records->all,
                                           GSIZE_TO_POINTER((gsize)gone))) {
            g_hash_table_insert(records->all, GSIZE_TO_POINTER((gsize)gone),
                                NULL);
        }
        return;
    }
    err = store_io_load(check->io, records->dir_fd, name, SNAPSHOT_RECORD_MAX,
                        &text, &len);
    why = err ? g_strerror(-err)
              : snapshot_parse(text, len, check->conf.uuid, snapshot);
    free(text);
    if (!why && snapshot->id != id) {
        why = "it is another snapshot's";
    }
    if (why) {
        check_tell(check, CHECK_DAMAGE,
                   STORE_SNAPSHOTS "/%s: %s: the name and time of this "
                                   "snapshot are lost",
                   name, why);
    }
    g_hash_table_insert(records->all, GSIZE_TO_POINTER((gsize)id),
                        why ? NULL : g_steal_pointer(&snapshot));
}

static bool
is_record_name(const struct Check *check, const char *name)
{
    (void)check;
    return snapshot_file_id(name, "") || snapshot_file_id(name, SNAPSHOT_GONE);
}

static bool
is_point_name(const struct Check *check, const char *name)
{
    (void)check;
    return snapshot_file_id(name, SNAPSHOT_MAP) ||
           snapshot_file_id(name, SNAPSHOT_DATA);
}

/* One disk's points. */
struct PointsCheck {
    const struct Records *records;
    const struct ConfDisk *disk;
    int dir_fd;
    GHashTable *kept; /* ids without a record that keep something */
};

/* Clusters that are kept and that nobody knows, UINT64_MAX for no memory. */
static uint64_t
load_point(const struct PointsCheck *points, uint64_t id, uint64_t size_bytes,
           struct PointFiles *files, uint64_t *unsure)
{
    StoreIo *io = points->records->check->io;
    struct PointMark mark = store_point_mark(points->records->check->conf.uuid,
                                             points->disk->id, id);
    Bitmap *kept = bitmap_new(size_bytes, points->disk->cluster_bits);
    Bitmap *lost = bitmap_new(size_bytes, points->disk->cluster_bits);
    uint64_t count = UINT64_MAX;

    *files = (struct PointFiles){.id = id};
    store_point_open(io, points->dir_fd, true, files);
    if (kept && lost) {
        store_point_load(io, files, &mark, kept, lost);
        count = bitmap_count(kept);
        *unsure = bitmap_count(lost);
    }
    bitmap_free(kept);
    bitmap_free(lost);
    return count;
}

static void
check_point(const struct PointsCheck *points, const Snapshot *snapshot)
{
    const struct SnapshotDisk *of = snapshot_disk(snapshot, points->disk->id);
    struct Check *check = points->records->check;
    struct PointFiles files;
    uint64_t unsure = 0;

    if (!of) {
        return;
    }
    if (load_point(points, snapshot->id,
                   MIN(of->size_bytes, points->disk->size_bytes), &files,
                   &unsure) == UINT64_MAX) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: no memory to check its snapshots",
                   points->disk->name);
    } else if (unsure || files.data_fd < 0) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: the files of snapshot %s: %" G_GUINT64_FORMAT
                   " clusters of it cannot be read, nor of older snapshots "
                   "that need them",
                   points->disk->name, snapshot->name, unsure);
    }
    store_point_close(check->io, &files);
}

/* Maps of before a record keep nothing; others are kept by an opening, too. */
static void
see_map(const char *name, void *user)
{
    struct PointsCheck *points = user;
    gpointer id = GSIZE_TO_POINTER((gsize)snapshot_file_id(name, SNAPSHOT_MAP));
    struct PointFiles files;
    uint64_t unsure = 0;

    if (!id || g_hash_table_contains(points->records->all, id)) {
        return;
    }
    if ((load_point(points, (uint64_t)GPOINTER_TO_SIZE(id),
                    points->disk->size_bytes, &files, &unsure) ||
         unsure) &&
        !store_point_is_begun(&files)) {
        check_tell(points->records->check, CHECK_NOTE,
                   "%s/" STORE_POINTS "/%s: the record of this snapshot was "
                   "deleted; what older ones need of it is kept",
                   points->disk->name, name);
        g_hash_table_add(points->kept, id);
    }
    store_point_close(points->records->check->io, &files);
}

static void
see_leftover(const char *name, void *user)
{
    const struct PointsCheck *points = user;
    uint64_t map = snapshot_file_id(name, SNAPSHOT_MAP);
    uint64_t data = snapshot_file_id(name, SNAPSHOT_DATA);
    gpointer id = GSIZE_TO_POINTER((gsize)MAX(map, data));
    g_autofree char *where =
        g_strconcat(points->disk->name, "/" STORE_POINTS "/", NULL);

    if (id && !g_hash_table_contains(points->records->all, id) &&
        !g_hash_table_contains(points->kept, id)) {
        check_leftover(points->records->check, where, points->dir_fd, name);
    }
}

static void
check_points(struct Records *records, const struct ConfDisk *disk, int dir_fd)
{
    struct PointsCheck points = {
        .records = records, .disk = disk, .dir_fd = dir_fd};
    g_autofree char *where =
        g_strconcat(disk->name, "/" STORE_POINTS "/", NULL);
    GHashTableIter iter;
    gpointer snapshot;

    g_hash_table_iter_init(&iter, records->all);
    while (g_hash_table_iter_next(&iter, NULL, &snapshot)) {
        if (snapshot) {
            check_point(&points, snapshot);
        }
    }
    if (dir_fd < 0) {
        return;
    }
    points.kept = g_hash_table_new(NULL, NULL);
    (void)snapshot_files_names(dir_fd, see_map, &points);
    (void)snapshot_files_names(dir_fd, see_leftover, &points);
    g_hash_table_unref(points.kept);
    check_names(records->check, where, dir_fd, is_point_name);
}

void
check_snapshots(struct Check *check)
{
    StoreIo *io = check->io;
    struct Records records = {.check = check};

    records.all = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    records.dir_fd =
        io->ops->open(io, check->dir_fd, STORE_SNAPSHOTS, STORE_DIR_FLAGS, 0);
    if (records.dir_fd >= 0) {
        (void)snapshot_files_names(records.dir_fd, check_record, &records);
    } else if (records.dir_fd != -ENOENT) {
        check_tell(check, CHECK_DAMAGE, STORE_SNAPSHOTS " cannot be opened: %s",
                   g_strerror(-records.dir_fd));
    }
    for (unsigned i = 0; i < check->conf.n_disks; i++) {
        const struct ConfDisk *disk = &check->conf.disks[i];
        int fd =
            io->ops->open(io, check->dir_fd, disk->name, STORE_DIR_FLAGS, 0);

        if (fd >= 0) {
            check_points(
                &records, disk,
                io->ops->open(io, fd, STORE_POINTS, STORE_DIR_FLAGS, 0));
            io->ops->close(io, fd);
        }
    }
    if (records.dir_fd >= 0) {
        check_names(check, STORE_SNAPSHOTS "/", records.dir_fd, is_record_name);
    }
    g_hash_table_unref(records.all);
}
