/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create.c - a new disk, and a new store around the first one
 *
 * The disk is made under a name that no opening looks at, and comes into
 * being with the line in weir.conf, which is the last thing written:
 *
 *   STORE/              mkdir, lock             (a new store)
 *   STORE/.new-vda/     mkdir, disk.raw: size, content, fsync
 *   STORE/vda/          rename, fsync STORE
 *   STORE/state         "clean", no disks       (a new store)
 *   STORE/weir.conf     replaced: now the disk exists
 *
 * Whatever fails on the way takes everything back. What a crash leaves is
 * either not seen (.new-vda, a directory without weir.conf) and made anew by
 * the next create, or a directory vda that weir.conf does not name: that one
 * may be anybody's, so it is refused by name and not touched.
 *
 * A weir.conf whose replacement failed late may be the old one or the new one.
 * The old one is put back before the disk is deleted; if that fails as well,
 * the disk stays, so that no weir.conf ever names a disk that is gone.
 *
 * The state does not list a new disk: a disk that was never served is all
 * dirty, and not in doubt.
 */
#include "image.h"
#include "store-private.h"
#include "store-target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Making {
    StoreIo *io;
    const struct StoreCreate *ask;
    char *path, *name;
    uint64_t size_bytes;
    int seed_fd; /* -1: none */
    uint64_t seed_bytes;
    struct StoreTarget target;

    int dir_fd, lock_fd;
    bool made_store; /* the directory is ours to remove */
    bool is_new_store;
    struct Conf before, after; /* borrowed strings in after */
};

gboolean
store_check_size(uint64_t size_bytes, unsigned cluster_bits, GError **error)
{
    if (cluster_bits < CONF_CLUSTER_BITS_MIN ||
        cluster_bits > CONF_CLUSTER_BITS_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "the cluster size has to be a power of two from 4K to 2M");
        return FALSE;
    }
    if (size_bytes == 0 || size_bytes % 512) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "a disk of %" G_GUINT64_FORMAT " bytes is not possible: "
                    "the size has to be a multiple of 512, and not 0",
                    size_bytes);
        return FALSE;
    }
    if (size_bytes > CONF_DISK_CLUSTERS_MAX << cluster_bits) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "a disk of %" G_GUINT64_FORMAT " bytes is too large for "
                    "clusters of %u KiB (at most 2^34 clusters): make it "
                    "smaller, or the clusters larger",
                    size_bytes, (1u << cluster_bits) >> 10);
        return FALSE;
    }
    return TRUE;
}

gboolean
store_raw_resize(StoreIo *io, int fd, uint64_t size_bytes, GError **error)
{
    int err = io->ops->ftruncate(io, fd, store_raw_bytes(size_bytes));

    if (err == -EFBIG) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "a disk of %" G_GUINT64_FORMAT " bytes exceeds the largest "
                    "file of this file system (16 TiB less 4 KiB on ext4): "
                    "make it smaller, or put the store on xfs",
                    size_bytes);
    } else if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk.raw cannot be made %" G_GUINT64_FORMAT
                        " bytes large",
                        size_bytes);
    }
    return err == 0;
}

/* Names that are files of the store itself. */
static bool
is_reserved(const char *name)
{
    return store_is_own_file(name) || g_str_has_suffix(name, ".tmp") ||
           g_str_has_suffix(name, ".sock");
}

/* Everything that can be said before anything is touched. */
static gboolean
check_ask(struct Making *making, GError **error)
{
    const struct StoreCreate *ask = making->ask;
    uint64_t size = ask->size_bytes;

    if (is_reserved(making->name)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "a disk cannot be called '%s', which is a file of the "
                    "store: choose another name",
                    making->name);
        return FALSE;
    }
    if (ask->from) {
        making->seed_fd = image_open(ask->from, &making->seed_bytes, error);
        if (making->seed_fd < 0) {
            return FALSE;
        }
        if (size == 0) {
            size = (making->seed_bytes + 511) & ~UINT64_C(511);
        } else if (size < making->seed_bytes) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "image %s has %" G_GUINT64_FORMAT " bytes, more than "
                        "the size asked for: leave --size out, or make it "
                        "larger",
                        ask->from, making->seed_bytes);
            return FALSE;
        }
    }
    making->size_bytes = size;
    if (!store_check_size(size, ask->cluster_bits, error)) {
        return FALSE;
    }
    return !ask->target ||
           store_target_prepare(&making->target, ask->target, making->path,
                                size, ask->insecure, error);
}

/* May @name lie in a directory that becomes a store? What an interrupted
 * create or remove left may. */
static bool
may_stay(int dir_fd, const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..") ||
           store_is_own_file(name) || store_is_leftover(name) ||
           store_is_socket(dir_fd, name);
}

static gboolean
check_empty(const char *path, GError **error)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    gboolean ok = TRUE;

    if (!dir) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "%s cannot be looked into", path);
        return FALSE;
    }
    while (ok && (entry = readdir(dir))) {
        if (!may_stay(dirfd(dir), entry->d_name)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "%s is no store and not empty (it holds '%s'): name a "
                        "new or an empty directory",
                        path, entry->d_name);
            ok = FALSE;
        }
    }
    closedir(dir);
    return ok;
}

/* The store's directory, made if it is not there. */
static gboolean
enter_directory(struct Making *making, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(making->path);
    g_autofree char *base = g_path_get_basename(making->path);
    StoreIo *io = making->io;
    int parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err;

    if (parent_fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "%s, where the store is to be, cannot be opened",
                        parent);
        return FALSE;
    }
    err = io->ops->mkdir(io, parent_fd, base, 0700);
    making->made_store = !err;
    if (!err) {
        err = io->ops->fsync(io, parent_fd);
    }
    if (!err || err == -EEXIST) {
        making->dir_fd = io->ops->open(io, parent_fd, base, STORE_DIR_FLAGS, 0);
        err = making->dir_fd < 0 ? making->dir_fd : 0;
    }
    close(parent_fd);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "store %s cannot be made", making->path);
    }
    return err == 0;
}

/* Lock the store and learn what it holds already. */
static gboolean
enter_store(struct Making *making, GError **error)
{
    g_autofree char *base = g_path_get_basename(making->path);
    g_autofree char *conf_path =
        g_build_filename(making->path, STORE_CONF, NULL);

    if (!g_file_test(making->path, G_FILE_TEST_EXISTS)) {
        if (!store_name_is_valid(base)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "a store cannot be called '%s': use up to %d of "
                        "A-Z a-z 0-9 . _ - and begin with no dot",
                        base, STORE_NAME_MAX);
            return FALSE;
        }
    } else if (!g_file_test(conf_path, G_FILE_TEST_EXISTS) &&
               !check_empty(making->path, error)) {
        return FALSE;
    }
    if (!enter_directory(making, error)) {
        return FALSE;
    }
    making->lock_fd =
        store_lock_take(making->io, making->dir_fd, making->path, error);
    if (making->lock_fd < 0) {
        return FALSE;
    }
    if (!g_file_test(conf_path, G_FILE_TEST_EXISTS)) {
        making->is_new_store = true;
        conf_init(&making->before);
        (void)fchmod(making->dir_fd, 0700); /* it may have been there */
        return TRUE;
    }
    return store_load_conf(making->io, making->dir_fd, making->path,
                           &making->before, error);
}

/* weir.conf as it will be. */
static gboolean
add_to_conf(struct Making *making, GError **error)
{
    struct Conf *conf = &making->after;
    struct ConfDisk *disk;
    struct stat st;

    for (unsigned i = 0; i < making->before.n_disks; i++) {
        if (!strcmp(making->before.disks[i].name, making->name)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "store %s has a disk %s already: choose another name, "
                        "or weir remove it",
                        making->path, making->name);
            return FALSE;
        }
    }
    if (making->before.n_disks == STORE_DISKS_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "store %s has %d disks, which is the most", making->path,
                    STORE_DISKS_MAX);
        return FALSE;
    }
    if (!fstatat(making->dir_fd, making->name, &st, AT_SYMLINK_NOFOLLOW)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s/%s is there but no disk of the store (left by an "
                    "interrupted create or remove?): move it away or delete it",
                    making->path, making->name);
        return FALSE;
    }
    *conf = making->before;
    conf->settings.insecure |= making->ask->insecure;
    disk = &conf->disks[conf->n_disks++];
    *disk = (struct ConfDisk){
        .id = conf->next_id++,
        .size_bytes = making->size_bytes,
        .cluster_bits = making->ask->cluster_bits,
        .target = making->target.text,
    };
    g_strlcpy(disk->name, making->name, sizeof(disk->name));
    return TRUE;
}

/* disk.raw in @dir_fd: size, content, durable. */
static gboolean
make_raw(struct Making *making, int dir_fd, GError **error)
{
    StoreIo *io = making->io;
    int fd =
        io->ops->open(io, dir_fd, STORE_RAW,
                      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    gboolean ok;
    int err;

    if (fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, fd,
                        "disk.raw cannot be made");
        return FALSE;
    }
    /* The size first: what cannot fit is refused before hours of copying. */
    ok = store_raw_resize(io, fd, making->size_bytes, error);
    if (ok && making->seed_fd >= 0) {
        ok = image_copy(io, making->seed_fd, fd, making->seed_bytes, error) &&
             store_raw_resize(io, fd, making->size_bytes, error);
    }
    err = ok ? io->ops->fsync(io, fd) : 0;
    if (!err && ok) {
        err = io->ops->fsync(io, dir_fd);
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk.raw cannot be synced");
    }
    io->ops->close(io, fd);
    return ok && !err;
}

/* Delete a disk's directory that has nothing but disk.raw in it. */
static void
unmake_directory(struct Making *making, const char *name)
{
    StoreIo *io = making->io;
    int fd = io->ops->open(io, making->dir_fd, name, STORE_DIR_FLAGS, 0);

    if (fd >= 0) {
        (void)io->ops->unlink(io, fd, STORE_RAW, 0);
        io->ops->close(io, fd);
        (void)io->ops->unlink(io, making->dir_fd, name, AT_REMOVEDIR);
    }
}

/* STORE/NAME with its disk.raw, by way of STORE/.new-NAME. */
static gboolean
make_directory(struct Making *making, GError **error)
{
    g_autofree char *temp = g_strconcat(STORE_NEW, making->name, NULL);
    StoreIo *io = making->io;
    gboolean ok;
    int fd, err;

    unmake_directory(making, temp);
    err = io->ops->mkdir(io, making->dir_fd, temp, 0700);
    fd =
        err ? err : io->ops->open(io, making->dir_fd, temp, STORE_DIR_FLAGS, 0);
    if (fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, fd, "%s/%s cannot be made",
                        making->path, temp);
        unmake_directory(making, temp);
        return FALSE;
    }
    ok = make_raw(making, fd, error);
    io->ops->close(io, fd);
    if (ok) {
        err = io->ops->rename(io, making->dir_fd, temp, making->name);
        if (!err) {
            err = io->ops->fsync(io, making->dir_fd);
        }
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err, "%s/%s cannot be made",
                        making->path, making->name);
        unmake_directory(making, making->name);
    }
    if (err || !ok) {
        unmake_directory(making, temp);
    }
    return ok && !err;
}

/* The state of a store that was never served. */
static gboolean
make_state(struct Making *making, GError **error)
{
    struct State state = {.is_clean = true};
    int err;

    memcpy(state.uuid, making->after.uuid, sizeof(state.uuid));
    err = store_put_state(making->io, making->dir_fd, &state);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "%s/" STORE_STATE " cannot be written", making->path);
    }
    return err == 0;
}

/* weir.conf may be the new one now: make it the old one. */
static bool
restore_conf(struct Making *making)
{
    StoreIo *io = making->io;

    if (making->is_new_store) {
        int err = io->ops->unlink(io, making->dir_fd, STORE_CONF, 0);

        return !err || err == -ENOENT;
    }
    return store_save_conf_in(io, making->dir_fd, making->path, &making->before,
                              NULL);
}

static gboolean
make_disk(struct Making *making, GError **error)
{
    if (!add_to_conf(making, error) || !make_directory(making, error)) {
        return FALSE;
    }
    if ((making->is_new_store && !make_state(making, error)) ||
        !store_target_make(&making->target, error)) {
        unmake_directory(making, making->name);
        return FALSE;
    }
    if (!store_save_conf_in(making->io, making->dir_fd, making->path,
                            &making->after, error)) {
        if (restore_conf(making)) {
            unmake_directory(making, making->name);
        }
        return FALSE;
    }
    return TRUE;
}

/* Take back a store that did not come to be. */
static void
unmake_store(struct Making *making)
{
    g_autofree char *parent = g_path_get_dirname(making->path);
    g_autofree char *base = g_path_get_basename(making->path);
    static const char *const own[] = {STORE_STATE, STORE_SPARE, STORE_LOCK};
    StoreIo *io = making->io;
    int parent_fd;

    for (unsigned i = 0; making->dir_fd >= 0 && i < G_N_ELEMENTS(own); i++) {
        (void)io->ops->unlink(io, making->dir_fd, own[i], 0);
    }
    parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent_fd >= 0) {
        (void)io->ops->unlink(io, parent_fd, base, AT_REMOVEDIR);
        close(parent_fd);
    }
}

gboolean
store_create_disk(StoreIo *io, const struct StoreCreate *create, GError **error)
{
    struct Making making = {
        .io = io, .ask = create, .seed_fd = -1, .dir_fd = -1, .lock_fd = -1};
    gboolean ok;

    store_private_umask();
    ok = store_split_address(create->address, &making.path, &making.name,
                             error) &&
         check_ask(&making, error) && enter_store(&making, error) &&
         make_disk(&making, error);
    if (!ok) {
        store_target_unmake(&making.target);
        if (making.made_store) {
            unmake_store(&making);
        }
    }
    if (making.lock_fd >= 0) {
        io->ops->close(io, making.lock_fd);
    }
    if (making.dir_fd >= 0) {
        io->ops->close(io, making.dir_fd);
    }
    if (making.seed_fd >= 0) {
        close(making.seed_fd);
    }
    store_target_deinit(&making.target);
    conf_deinit(&making.before);
    g_free(making.path);
    g_free(making.name);
    return ok;
}
