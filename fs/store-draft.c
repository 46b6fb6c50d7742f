/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-draft.c - a snapshot is made, is uploaded, is deleted
 *
 * Each step may be the last before a crash:
 *
 *   prepare   1 its files, durable           left over
 *             2 record ID.gone, durable      deleted already, keeps nothing
 *   instant     old content goes to its      deleted already; but older ones
 *               points and nowhere else      resolve to what its points keep
 *   commit    3 record ID, durable           there it is
 *             4 ID.gone goes                 at the next tidy, if need be
 *   drop      5 ID becomes ID.gone           there, or deleted
 *   reap      6 files, then ID.gone          see store-reap.c
 *
 * Without 2 a crash between instant and commit would take with it what the
 * older snapshots need: from the instant on the youngest one gets the copies.
 *
 * If the sync in 3 fails nobody knows whether ID will be there after a crash.
 * It is taken away again; if that cannot be made sure of either, the snapshot
 * counts as made, since with its copies kept it is right in both cases, and
 * without them it would be there and wrong. So for 5: in doubt it is not
 * deleted.
 *
 * An id is given once. So that it is not given again when all files of it are
 * gone and the state is not the last one, the state of a serve is always ahead
 * by a few.
 */
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define IDS_AHEAD 16

/*
 * Name and id
 */
static bool
is_free(Store *store, const char *name, bool is_hidden)
{
    Snapshot other;

    if (!is_hidden) {
        return !snapshot_list_find(store->snapshots, name, NULL);
    }
    for (unsigned i = 0; snapshot_list_hidden_at(store->snapshots, i, &other);
         i++) {
        if (strcmp(other.name, name) == 0) {
            return false;
        }
    }
    return true;
}

static gboolean
check_name(Store *store, const char *name, GError **error)
{
    static const char *const links[] = {"latest", "uploaded", NULL};

    if (!store_name_is_valid(name)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "'%s' does not name a snapshot: use up to %d of "
                    "A-Z a-z 0-9 . _ - and begin with no dot",
                    name, STORE_NAME_MAX);
        return FALSE;
    }
    if (g_strv_contains(links, name) ||
        g_str_has_prefix(name, SNAPSHOT_DAMAGED)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "a snapshot cannot be called '%s', which has a meaning of "
                    "its own: choose another name",
                    name);
        return FALSE;
    }
    if (!is_free(store, name, false)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "there is a snapshot '%s' already: choose another name, or "
                    "delete it first",
                    name);
        return FALSE;
    }
    return TRUE;
}

/* Of the present time; more than one in a second are numbered. */
static void
choose_name(Store *store, bool is_hidden, char name[STORE_NAME_MAX + 1])
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *text = g_date_time_format(now, "%Y%m%dT%H%M%SZ");

    g_strlcpy(name, text, STORE_NAME_MAX + 1);
    for (unsigned n = 2; !is_free(store, name, is_hidden); n++) {
        g_snprintf(name, STORE_NAME_MAX + 1, "%s-%u", text, n);
    }
}

static gboolean
take_id(Store *store, uint64_t *id, GError **error)
{
    uint64_t saved = store->saved_snapshot;

    *id = store->last_snapshot + 1;
    if (*id > SNAPSHOT_ID_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "store %s has used up its numbers of snapshots",
                    store->path);
        return FALSE;
    }
    if (store->is_served && *id > saved) {
        store->saved_snapshot = MIN(*id + IDS_AHEAD, SNAPSHOT_ID_MAX);
        if (!store_save_state(store, error)) {
            store->saved_snapshot = saved;
            return FALSE;
        }
    }
    store->last_snapshot = *id;
    return TRUE;
}

/*
 * Records
 */
static int
put_record(Store *store, const Snapshot *snapshot, const char *suffix)
{
    char name[SNAPSHOT_NAME_LEN];
    g_autofree char *text = NULL;
    size_t len;

    snapshot_file_name(name, snapshot->id, suffix);
    text = snapshot_format(snapshot, store->uuid, &len);
    return store_io_replace(store->io, snapshot_files_dir(store), name, text,
                            len, 0600);
}

static int
unlink_record(Store *store, uint64_t id, const char *suffix)
{
    char name[SNAPSHOT_NAME_LEN];

    snapshot_file_name(name, id, suffix);
    return store->io->ops->unlink(store->io, snapshot_files_dir(store), name,
                                  0);
}

int
store_record_forget(Store *store, uint64_t id)
{
    int err = snapshot_files_dir(store) < 0
                  ? -ENOENT
                  : unlink_record(store, id, SNAPSHOT_GONE);

    return err == -ENOENT ? 0 : err;
}

/*
 * prepare
 */
static int
make_point(Store *store, SnapshotDraft *draft, const Disk *disk)
{
    struct PointFiles files = {.disk = disk->index, .id = draft->snapshot.id};
    uint64_t size = atomic_load(&disk->size_bytes);
    int err = snapshot_files_make_points(store, disk);
    int dir_fd = snapshot_files_points(store, disk);

    if (err) {
        return err;
    }
    err = store_point_make(store->io, dir_fd, size, disk->cluster_bits, &files);
    /* Whatever there is of them is this draft's to delete. */
    snapshot_files_add(store, &files);
    err = err ? err : store->io->ops->fsync(store->io, dir_fd);
    if (err) {
        return err;
    }
    draft->points[disk->index] = point_new(files.id, size, disk->cluster_bits,
                                           files.map_fd, files.data_fd);
    draft->snapshot.disks[draft->snapshot.n_disks++] =
        (struct SnapshotDisk){.id = disk->id, .size_bytes = size};
    return draft->points[disk->index] ? 0 : -ENOMEM;
}

static int
make_files(Store *store, SnapshotDraft *draft)
{
    int err = snapshot_files_make_dir(store);

    snapshot_files_allow(store, 1);
    for (unsigned i = 0; !err && i < store->n_disks; i++) {
        err = make_point(store, draft, store->disks[i]);
    }
    return err ? err : put_record(store, &draft->snapshot, SNAPSHOT_GONE);
}

static void
delete_files(Store *store, SnapshotDraft *draft)
{
    uint64_t id = draft->snapshot.id;

    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];
        int dir_fd = snapshot_files_points(store, disk);

        point_free(draft->points[i]);
        snapshot_files_drop(store, disk, id);
        if (dir_fd >= 0) {
            (void)store_point_delete(store->io, dir_fd, id);
        }
    }
    (void)store_record_forget(store, id);
}

SnapshotDraft *
store_snapshot_prepare(Store *store, const char *name, const char *reason,
                       GError **error)
{
    g_autofree SnapshotDraft *draft = g_new0(SnapshotDraft, 1);
    Snapshot *snapshot = &draft->snapshot;
    int err;

    assert(!store->is_read_only);
    if ((name && !check_name(store, name, error)) ||
        !take_id(store, &snapshot->id, error)) {
        return NULL;
    }
    g_strlcpy(snapshot->reason, reason, sizeof(snapshot->reason));
    if (name) {
        g_strlcpy(snapshot->name, name, sizeof(snapshot->name));
    } else {
        choose_name(store, snapshot_is_hidden(snapshot), snapshot->name);
    }
    err = make_files(store, draft);
    if (err) {
        delete_files(store, draft);
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "snapshot %s cannot be made in %s", snapshot->name,
                        store->path);
        return NULL;
    }
    return g_steal_pointer(&draft);
}

void
store_snapshot_abandon(Store *store, SnapshotDraft *draft)
{
    delete_files(store, draft);
    g_free(draft);
}

/*
 * commit
 */

/* After an error: is there, for certain, no record? */
static bool
is_undone(Store *store, uint64_t id)
{
    int dir_fd = snapshot_files_dir(store);
    char name[SNAPSHOT_NAME_LEN];
    struct stat st;

    snapshot_file_name(name, id, "");
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) && errno == ENOENT) {
        return true; /* it did not come so far */
    }
    return !unlink_record(store, id, "") &&
           !store->io->ops->fsync(store->io, dir_fd);
}

gboolean
store_snapshot_commit(Store *store, SnapshotDraft *draft, GError **error)
{
    g_autofree SnapshotDraft *own = draft;
    const Snapshot *snapshot = &own->snapshot;
    int err = put_record(store, snapshot, "");

    if (err && is_undone(store, snapshot->id)) {
        snapshot_files_set_gone(store, snapshot->id, true);
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "snapshot %s cannot be kept in %s", snapshot->name,
                        store->path);
        return FALSE;
    }
    if (err) {
        store_say(store,
                  "snapshot %s: nobody knows whether its record is durable "
                  "(%s): check the file system",
                  snapshot->name, g_strerror(-err));
    } else {
        (void)store_record_forget(store, snapshot->id);
    }
    snapshot_list_put(store->snapshots, snapshot);
    return TRUE;
}

void
store_snapshot_uploaded(Store *store, uint64_t id, uint64_t cut)
{
    Snapshot snapshot;
    int err;

    if (!snapshot_list_get(store->snapshots, id, &snapshot)) {
        return;
    }
    snapshot.cut = cut;
    snapshot_list_put(store->snapshots, &snapshot);
    /* What was damaged about a record is not to look sound. */
    err = snapshot.is_damaged ? 0 : put_record(store, &snapshot, "");
    if (err) {
        store_say(store,
                  "snapshot %s: that it is uploaded cannot be kept in its "
                  "record: %s",
                  snapshot.name, g_strerror(-err));
    }
}

/*
 * drop
 */

/* Not there: an earlier attempt came so far. */
static int
rename_gone(Store *store, uint64_t id)
{
    char name[SNAPSHOT_NAME_LEN], gone[SNAPSHOT_NAME_LEN];
    int dir_fd = snapshot_files_dir(store);
    StoreIo *io = store->io;
    int err;

    if (dir_fd < 0) {
        return dir_fd;
    }
    snapshot_file_name(name, id, "");
    snapshot_file_name(gone, id, SNAPSHOT_GONE);
    err = io->ops->rename(io, dir_fd, name, gone);
    if (err && err != -ENOENT) {
        return err;
    }
    err = io->ops->fsync(io, dir_fd);
    if (err) {
        (void)io->ops->rename(io, dir_fd, gone, name);
    }
    return err;
}

gboolean
store_snapshot_drop(Store *store, uint64_t id, GError **error)
{
    int err = rename_gone(store, id);

    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "snapshot %" G_GUINT64_FORMAT " of %s cannot be "
                        "deleted",
                        id, store->path);
        return FALSE;
    }
    snapshot_list_remove(store->snapshots, id);
    snapshot_files_set_gone(store, id, true);
    return TRUE;
}
