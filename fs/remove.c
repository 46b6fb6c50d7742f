/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * remove.c - a disk, or a whole store, goes
 *
 * What is not at the target is not thrown away unasked. A disk is gone as
 * soon as weir.conf does not name it; its files follow:
 *
 *   STORE/weir.conf   replaced, without the disk
 *   STORE/.old-vda    renamed from vda
 *   its files         unlinked, the directory too
 *
 * Its part of the snapshots goes with it; their records stay, for the disks that
 * are left. A crash in between leaves files that no opening looks at. A store
 * goes disk by disk, then the snapshots, weir.conf, the rest, and last the lock,
 * which is held throughout. Files that weir does not know are nobody's to delete:
 * the directory that holds them stays.
 */
#include "snapshot-private.h"
#include "store-bitmaps-private.h"
#include "store-private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Removal {
    StoreIo *io;
    char *path, *name; /* name: NULL for the whole store */
    int dir_fd, lock_fd;
    struct Conf conf;
};

/* "STORE/vda" or "STORE", told apart by where weir.conf is. */
static gboolean
resolve(struct Removal *removal, const char *address, GError **error)
{
    g_autofree char *conf = g_build_filename(address, STORE_CONF, NULL);
    char *real;

    if (!g_file_test(conf, G_FILE_TEST_EXISTS)) {
        return store_split_address(address, &removal->path, &removal->name,
                                   error);
    }
    real = realpath(address, NULL);
    if (!real) {
        store_set_errno(error, STORE_ERROR_FAILED, errno, "store %s", address);
        return FALSE;
    }
    removal->path = g_strdup(real);
    free(real);
    return TRUE;
}

static gboolean
enter(struct Removal *removal, GError **error)
{
    gboolean ok;

    removal->dir_fd = open(removal->path, STORE_DIR_FLAGS);
    if (removal->dir_fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "store %s cannot be opened", removal->path);
        return FALSE;
    }
    /* No lock file into what is no store. */
    ok = store_load_conf(removal->io, removal->dir_fd, removal->path,
                         &removal->conf, error);
    conf_deinit(&removal->conf);
    if (!ok) {
        return FALSE;
    }
    removal->lock_fd =
        store_lock_take(removal->io, removal->dir_fd, removal->path, error);
    return removal->lock_fd >= 0 &&
           store_load_conf(removal->io, removal->dir_fd, removal->path,
                           &removal->conf, error);
}

static gboolean
find_disk(const struct Removal *removal, unsigned *index, GError **error)
{
    for (*index = 0; *index < removal->conf.n_disks; (*index)++) {
        if (!strcmp(removal->conf.disks[*index].name, removal->name)) {
            return TRUE;
        }
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "store %s has no disk %s: weir status %s lists them",
                removal->path, removal->name, removal->path);
    return FALSE;
}

/* Nothing of the disk may be missing at its target. */
static gboolean
check_drained(const struct Removal *removal, Disk *disk, GError **error)
{
    struct DiskMapFigures figures;

    store_disk_figures(disk, &figures);
    if (!disk->target) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "disk %s has no target, so this is all there is of it: "
                    "--discard removes it",
                    disk->name);
        return FALSE;
    }
    if (figures.dirty_clusters) {
        uint64_t bytes = MIN(figures.dirty_clusters << disk->cluster_bits,
                             atomic_load(&disk->size_bytes));

        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "disk %s has %" G_GUINT64_FORMAT " bytes that are not at "
                    "its target: weir drain %s --wait brings them there, "
                    "--discard removes it all the same",
                    disk->name, bytes, removal->path);
        return FALSE;
    }
    return TRUE;
}

static gboolean
check_dirty(const struct Removal *removal, GError **error)
{
    Store *store =
        store_open(removal->io, removal->path, STORE_OPEN_READ, error);
    gboolean ok = store != NULL;

    for (unsigned i = 0; ok && i < store->n_disks; i++) {
        Disk *disk = store->disks[i];

        if (!removal->name || !strcmp(removal->name, disk->name)) {
            ok = check_drained(removal, disk, error);
        }
    }
    if (store) {
        store_free(store);
    }
    return ok;
}

static bool
is_point_file(const char *name)
{
    static const char *const suffixes[] = {"", SNAPSHOT_GONE, SNAPSHOT_MAP,
                                           SNAPSHOT_DATA};
    bool is_known = false;

    for (unsigned i = 0; !is_known && i < G_N_ELEMENTS(suffixes); i++) {
        is_known = snapshot_file_id(name, suffixes[i]) != 0;
    }
    return is_known;
}

static bool
is_bitmap_file(const char *name)
{
    return bitmaps_file_id(name) || !strcmp(name, STORE_BITMAPS_LIST);
}

static bool
is_job_number(const char *name)
{
    return name[0] && strspn(name, "0123456789") == strlen(name);
}

static bool
is_job_file(const char *name)
{
    static const char *const own[] = {STORE_JOB,      STORE_JOB_SPARE,
                                      STORE_JOB_LEFT, STORE_SUMS,
                                      STORE_SENT,     NULL};

    return g_strv_contains(own, name);
}

/* A directory of weir's, and what it keeps in it. */
struct Kind {
    const char *name; /* NULL: a number */
    bool (*is_file)(const char *name);
    const struct Kind *inner[4]; /* NULL at the end */
};

static const struct Kind points_kind = {STORE_POINTS, is_point_file, {NULL}};
static const struct Kind snapshots_kind = {STORE_SNAPSHOTS,
                                           is_point_file,
                                           {NULL}};
static const struct Kind bitmaps_kind = {STORE_BITMAPS, is_bitmap_file, {NULL}};
static const struct Kind job_kind = {NULL, is_job_file, {NULL}};
static const struct Kind jobs_kind = {STORE_JOBS,
                                      is_job_number,
                                      {&job_kind, NULL}};
/* Of any name. */
static const struct Kind disk_kind = {
    "",
    store_is_disk_file,
    {&points_kind, &bitmaps_kind, &jobs_kind, NULL}};

static const struct Kind *
inner_kind(const struct Kind *kind, const char *name)
{
    for (const struct Kind *const *inner = kind->inner; *inner; inner++) {
        if ((*inner)->name ? !strcmp((*inner)->name, name)
                           : kind->is_file(name)) {
            return *inner;
        }
    }
    return NULL;
}

static int delete_directory(StoreIo *io, int dir_fd, const char *path,
                            const char *name, const struct Kind *kind);

static int
delete_entry(StoreIo *io, int fd, const char *path, const char *name,
             const struct Kind *kind)
{
    const struct Kind *inner = inner_kind(kind, name);

    if (inner) {
        return delete_directory(io, fd, path, name, inner);
    }
    return g_str_has_suffix(name, ".tmp") || kind->is_file(name)
               ? io->ops->unlink(io, fd, name, 0)
               : 0;
}

static int
delete_directory(StoreIo *io, int dir_fd, const char *path, const char *name,
                 const struct Kind *kind)
{
    g_autofree char *own = g_build_filename(path, name, NULL);
    int fd = io->ops->open(io, dir_fd, name, STORE_DIR_FLAGS, 0);
    int err = 0;
    struct dirent *entry;
    DIR *dir;

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    dir = fdopendir(fd);
    if (!dir) {
        io->ops->close(io, fd);
        return -ENOMEM;
    }
    while (!err && (entry = readdir(dir))) {
        err = delete_entry(io, fd, own, entry->d_name, kind);
    }
    closedir(dir);
    if (!err) {
        err = io->ops->unlink(io, dir_fd, name, AT_REMOVEDIR);
    }
    if (err == -ENOTEMPTY || err == -EEXIST) {
        g_message("%s stays: it holds files that are not weir's", own);
        return 0;
    }
    return err;
}

int
store_delete_directory(StoreIo *io, int dir_fd, const char *path,
                       const char *name)
{
    return delete_directory(io, dir_fd, path, name,
                            strcmp(name, STORE_SNAPSHOTS) ? &disk_kind
                                                          : &snapshots_kind);
}

static gboolean
remove_disk(struct Removal *removal, unsigned index, GError **error)
{
    StoreIo *io = removal->io;
    struct Conf *conf = &removal->conf;
    g_autofree char *name = g_strdup(conf->disks[index].name);
    g_autofree char *old = g_strconcat(STORE_OLD, name, NULL);
    int err;

    g_free(conf->disks[index].target);
    conf->n_disks--;
    memmove(&conf->disks[index], &conf->disks[index + 1],
            (conf->n_disks - index) * sizeof(conf->disks[0]));
    conf->disks[conf->n_disks] = (struct ConfDisk){0};
    if (!store_save_conf_in(io, removal->dir_fd, removal->path, conf, error)) {
        return FALSE;
    }
    err = store_delete_directory(io, removal->dir_fd, removal->path,
                                 old); /* left by an earlier one */
    if (!err) {
        err = io->ops->rename(io, removal->dir_fd, name, old);
        err = err == -ENOENT ? 0 : err;
    }
    if (!err) {
        err = store_delete_directory(io, removal->dir_fd, removal->path, old);
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk %s is out of the store, but its files in %s "
                        "cannot be deleted",
                        name, removal->path);
    }
    return err == 0;
}

/* Files of a store that has no disks any more, but for the lock. */
static gboolean
delete_leftovers(struct Removal *removal, GError **error)
{
    StoreIo *io = removal->io;
    DIR *dir = opendir(removal->path);
    struct dirent *entry;
    int err = dir ? 0 : -errno;

    if (!err) {
        err = store_delete_directory(io, removal->dir_fd, removal->path,
                                     STORE_SNAPSHOTS);
    }
    if (!err) {
        err = io->ops->unlink(io, removal->dir_fd, STORE_CONF, 0);
    }

    while (!err && (entry = readdir(dir))) {
        const char *name = entry->d_name;

        if (!strcmp(name, STORE_LOCK) || !strcmp(name, STORE_SNAPSHOTS)) {
            continue;
        }
        if (store_is_own_file(name) || g_str_has_suffix(name, ".tmp") ||
            store_is_socket(removal->dir_fd, name)) {
            err = io->ops->unlink(io, removal->dir_fd, name, 0);
        } else if (store_is_leftover(name)) {
            err = store_delete_directory(io, removal->dir_fd, removal->path,
                                         name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "the files in %s cannot be deleted", removal->path);
    }
    return err == 0;
}

static gboolean
remove_store(struct Removal *removal, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(removal->path);
    g_autofree char *base = g_path_get_basename(removal->path);
    StoreIo *io = removal->io;
    int parent_fd, err;

    while (removal->conf.n_disks) {
        if (!remove_disk(removal, removal->conf.n_disks - 1, error)) {
            return FALSE;
        }
    }
    if (!delete_leftovers(removal, error)) {
        return FALSE;
    }
    parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    err = parent_fd < 0 ? -errno
                        : io->ops->unlink(io, removal->dir_fd, STORE_LOCK, 0);
    if (!err) {
        err = io->ops->unlink(io, parent_fd, base, AT_REMOVEDIR);
    }
    if (parent_fd >= 0) {
        close(parent_fd);
    }
    if (err == -ENOTEMPTY || err == -EEXIST) {
        g_message("%s stays: it holds files that are not weir's",
                  removal->path);
        err = 0;
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "directory %s cannot be deleted", removal->path);
    }
    return err == 0;
}

/* How many snapshots there are, or of a disk: are kept in its points. */
struct Counting {
    int dir_fd; /* of records */
    bool is_disk;
    unsigned count;
};

static void
count_snapshot(const char *name, void *user)
{
    struct Counting *counting = user;
    uint64_t id = snapshot_file_id(name, counting->is_disk ? SNAPSHOT_MAP : "");
    char record[SNAPSHOT_NAME_LEN];
    struct stat st;

    snapshot_file_name(record, id, "");
    counting->count +=
        id && !fstatat(counting->dir_fd, record, &st, AT_SYMLINK_NOFOLLOW);
}

static void
say_snapshots(const struct Removal *removal)
{
    g_autofree char *records =
        g_build_filename(removal->path, STORE_SNAPSHOTS, NULL);
    g_autofree char *points =
        removal->name
            ? g_build_filename(removal->path, removal->name, STORE_POINTS, NULL)
            : NULL;
    struct Counting counting = {.dir_fd = open(records, STORE_DIR_FLAGS),
                                .is_disk = removal->name != NULL};
    int fd = open(points ? points : records, STORE_DIR_FLAGS);

    if (counting.dir_fd >= 0 && fd >= 0) {
        (void)snapshot_files_names(fd, count_snapshot, &counting);
    }
    if (counting.count && removal->name) {
        g_message("disk %s: what it was in %u snapshots goes with it",
                  removal->name, counting.count);
    } else if (counting.count) {
        g_message("%u snapshots go with store %s", counting.count,
                  removal->path);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (counting.dir_fd >= 0) {
        close(counting.dir_fd);
    }
}

gboolean
store_remove(StoreIo *io, const char *address, gboolean discard, GError **error)
{
    struct Removal removal = {.io = io, .dir_fd = -1, .lock_fd = -1};
    unsigned index = 0;
    gboolean ok;

    store_private_umask();
    ok = resolve(&removal, address, error) && enter(&removal, error) &&
         (!removal.name || find_disk(&removal, &index, error)) &&
         (discard || check_dirty(&removal, error));
    if (ok) {
        say_snapshots(&removal);
        ok = removal.name ? remove_disk(&removal, index, error)
                          : remove_store(&removal, error);
    }
    if (removal.lock_fd >= 0) {
        io->ops->close(io, removal.lock_fd);
    }
    if (removal.dir_fd >= 0) {
        io->ops->close(io, removal.dir_fd);
    }
    conf_deinit(&removal.conf);
    g_free(removal.path);
    g_free(removal.name);
    return ok;
}
