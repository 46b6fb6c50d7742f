/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot-files.c - where the snapshots of an opened store lie
 *
 * The directories come with the first snapshot. One that is found may be there
 * in the page cache only, made by a process that was killed: so its name is
 * made durable once in each opening, before anything in it is relied on.
 *
 * The files of all points stay open, those of deleted snapshots too until they
 * are unlinked: old content is read and written without a look-up, and what
 * they take on the host is asked of the fds.
 */
#include "snapshot-private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FDS_BESIDE 512 /* that a daemon needs for other things */

struct SnapshotFiles *
snapshot_files_new(void)
{
    struct SnapshotFiles *files = g_new0(struct SnapshotFiles, 1);

    g_mutex_init(&files->lock);
    files->open = g_array_new(FALSE, FALSE, sizeof(struct PointFiles));
    files->gone = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    files->dir_fd = -1;
    for (unsigned i = 0; i < STORE_DISKS_MAX; i++) {
        files->points_fd[i] = -1;
    }
    return files;
}

static void
close_fd(StoreIo *io, int fd)
{
    if (fd >= 0) {
        io->ops->close(io, fd);
    }
}

void
store_point_close(StoreIo *io, struct PointFiles *files)
{
    close_fd(io, files->map_fd);
    close_fd(io, files->data_fd);
    files->map_fd = files->data_fd = -EBADF;
}

void
snapshot_files_free(StoreIo *io, struct SnapshotFiles *files)
{
    if (!files) {
        return;
    }
    for (guint i = 0; i < files->open->len; i++) {
        store_point_close(io,
                          &g_array_index(files->open, struct PointFiles, i));
    }
    for (unsigned i = 0; i < STORE_DISKS_MAX; i++) {
        close_fd(io, files->points_fd[i]);
    }
    close_fd(io, files->dir_fd);
    g_array_unref(files->open);
    g_array_unref(files->gone);
    g_mutex_clear(&files->lock);
    g_free(files);
}

/*
 * Directories
 */
static int
get_fd(struct SnapshotFiles *files, const int *fd)
{
    int found;

    g_mutex_lock(&files->lock);
    found = *fd;
    g_mutex_unlock(&files->lock);
    return found;
}

int
snapshot_files_dir(Store *store)
{
    return get_fd(store->snapshot_files, &store->snapshot_files->dir_fd);
}

int
snapshot_files_points(Store *store, const Disk *disk)
{
    return get_fd(store->snapshot_files,
                  &store->snapshot_files->points_fd[disk->index]);
}

/* @name in @dir_fd, into *@fd if that is none yet. */
static int
make(Store *store, int dir_fd, const char *name, int *fd)
{
    struct SnapshotFiles *files = store->snapshot_files;
    StoreIo *io = store->io;
    int err = io->ops->mkdir(io, dir_fd, name, 0700);
    int made = -1;

    err = err == -EEXIST ? 0 : err;
    err = err ? err : io->ops->fsync(io, dir_fd);
    if (!err && get_fd(files, fd) < 0) {
        made = io->ops->open(io, dir_fd, name, STORE_DIR_FLAGS, 0);
        err = made < 0 ? made : 0;
    }
    if (made >= 0) {
        g_mutex_lock(&files->lock);
        *fd = made;
        g_mutex_unlock(&files->lock);
    }
    return err;
}

int
snapshot_files_make_dir(Store *store)
{
    struct SnapshotFiles *files = store->snapshot_files;
    int err = 0;

    if (!files->is_dir_made) {
        err = make(store, store->dir_fd, STORE_SNAPSHOTS, &files->dir_fd);
        files->is_dir_made = !err;
    }
    return err;
}

int
snapshot_files_make_points(Store *store, const Disk *disk)
{
    struct SnapshotFiles *files = store->snapshot_files;
    bool *is_made = &files->are_points_made[disk->index];
    int err = 0;

    if (!*is_made) {
        err = make(store, disk->dir_fd, STORE_POINTS,
                   &files->points_fd[disk->index]);
        *is_made = !err;
    }
    return err;
}

/*
 * Points
 */
void
snapshot_files_add(Store *store, const struct PointFiles *point)
{
    struct SnapshotFiles *files = store->snapshot_files;

    g_mutex_lock(&files->lock);
    g_array_append_val(files->open, *point);
    g_mutex_unlock(&files->lock);
}

/* The place in the list, or its length. */
static guint
find_locked(const struct SnapshotFiles *files, const Disk *disk, uint64_t id)
{
    guint at = 0;

    while (at < files->open->len) {
        const struct PointFiles *point =
            &g_array_index(files->open, struct PointFiles, at);

        if (point->disk == disk->index && point->id == id) {
            break;
        }
        at++;
    }
    return at;
}

void
snapshot_files_get(Store *store, const Disk *disk, uint64_t id,
                   struct PointFiles *point)
{
    struct SnapshotFiles *files = store->snapshot_files;
    guint at;

    *point = (struct PointFiles){.map_fd = -ENOENT, .data_fd = -ENOENT};
    g_mutex_lock(&files->lock);
    at = find_locked(files, disk, id);
    if (at < files->open->len) {
        *point = g_array_index(files->open, struct PointFiles, at);
    }
    g_mutex_unlock(&files->lock);
}

void
snapshot_files_drop(Store *store, const Disk *disk, uint64_t id)
{
    struct SnapshotFiles *files = store->snapshot_files;
    struct PointFiles found = {.map_fd = -ENOENT, .data_fd = -ENOENT};
    guint at;

    g_mutex_lock(&files->lock);
    at = find_locked(files, disk, id);
    if (at < files->open->len) {
        found = g_array_index(files->open, struct PointFiles, at);
        g_array_remove_index(files->open, at);
    }
    g_mutex_unlock(&files->lock);
    store_point_close(store->io, &found);
}

void
snapshot_files_set_gone(Store *store, uint64_t id, bool is_gone)
{
    struct SnapshotFiles *files = store->snapshot_files;
    guint at = 0;
    bool is_there;

    g_mutex_lock(&files->lock);
    while (at < files->gone->len &&
           g_array_index(files->gone, uint64_t, at) < id) {
        at++;
    }
    is_there =
        at < files->gone->len && g_array_index(files->gone, uint64_t, at) == id;
    if (is_gone && !is_there) {
        g_array_insert_val(files->gone, at, id);
    } else if (!is_gone && is_there) {
        g_array_remove_index(files->gone, at);
    }
    g_mutex_unlock(&files->lock);
}

GArray *
store_snapshots_gone(Store *store)
{
    struct SnapshotFiles *files = store->snapshot_files;
    GArray *gone;

    g_mutex_lock(&files->lock);
    gone = g_array_copy(files->gone);
    g_mutex_unlock(&files->lock);
    return gone;
}

void
snapshot_files_allow(Store *store, unsigned points)
{
    rlim_t need = FDS_BESIDE + (rlim_t)points * 2 * store->n_disks;
    struct rlimit limit;

    g_mutex_lock(&store->snapshot_files->lock);
    need += (rlim_t)store->snapshot_files->open->len * 2;
    g_mutex_unlock(&store->snapshot_files->lock);
    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < need) {
        limit.rlim_cur = MIN(2 * need, limit.rlim_max);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static uint64_t
bytes_of(int fd)
{
    struct stat st;

    return fd < 0 || fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

uint64_t
store_snapshots_bytes(Store *store)
{
    struct SnapshotFiles *files = store->snapshot_files;
    uint64_t bytes;

    if (!files) {
        return 0; /* nothing was opened */
    }
    bytes = files->read_bytes;
    g_mutex_lock(&files->lock);
    for (guint i = 0; i < files->open->len; i++) {
        const struct PointFiles *at =
            &g_array_index(files->open, struct PointFiles, i);

        bytes += bytes_of(at->map_fd) + bytes_of(at->data_fd);
    }
    g_mutex_unlock(&files->lock);
    return bytes;
}

/*
 * Names
 */
void
snapshot_file_name(char name[SNAPSHOT_NAME_LEN], uint64_t id,
                   const char *suffix)
{
    snprintf(name, SNAPSHOT_NAME_LEN, "%" PRIu64 "%s", id, suffix);
}

uint64_t
snapshot_file_id(const char *name, const char *suffix)
{
    size_t digits = strspn(name, "0123456789");
    g_autofree char *number = g_strndup(name, digits);
    char again[SNAPSHOT_NAME_LEN];
    uint64_t id;

    if (!conf_number_parse(number, 1, SNAPSHOT_ID_MAX, &id)) {
        return 0;
    }
    snapshot_file_name(again, id, suffix);
    return strcmp(name, again) == 0 ? id : 0;
}

int
snapshot_files_names(int dir_fd, void (*call)(const char *name, void *user),
                     void *user)
{
    int fd = openat(dir_fd, ".", STORE_DIR_FLAGS);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int err;

    if (!dir) {
        err = -errno;
        if (fd >= 0) {
            close(fd);
        }
        return err;
    }
    errno = 0;
    while ((entry = readdir(dir))) {
        call(entry->d_name, user);
        errno = 0;
    }
    err = -errno;
    closedir(dir);
    return err;
}
