/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store.c - opening a store, serving it, and ending cleanly
 *
 * Life of a store's state file, and what each end in between leaves:
 *
 *   open        lock, weir.conf, state, disks, bitmaps    nothing written
 *   serve       state "unclean", durable                  from here on every
 *                                                         end but the last
 *                                                         is an unclean one
 *   (work)      guest writes, uploads, settings
 *   close_clean 1 sync every disk.raw      still unclean
 *               2 write every bitmap       still unclean
 *               3 state "clean"            clean: the bitmaps are exact
 *
 * The order of the three is rule 3: a bit that is clear on disk says that the
 * target has what disk.raw has, so disk.raw's data is durable before. The
 * sync is an fsync, as its time of last change has to be durable too: with it
 * the next opening sees whether somebody else wrote the image meanwhile.
 *
 * A bitmap that is all dirty or all clean is a word in the state and no file:
 * a new 64 TiB disk costs nothing to open. An old checkpoint that was not
 * read back is removed before a new one is written, so that no page of it can
 * pass for a newer one (rule 11).
 *
 * What only resizes or sets something opens, works and closes cleanly without
 * serving: the state stays "clean" over it, and a crash in the middle leaves
 * either the old checkpoint with the old numbers, or one whose number is not
 * the state's, which counts as all dirty.
 */
#include "store-private.h"

#include "bitmap/bitmap-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
store_say(const Store *store, const char *format, ...)
{
    va_list args;

    if (store->is_read_only) {
        return;
    }
    va_start(args, format);
    g_logv(G_LOG_DOMAIN, G_LOG_LEVEL_MESSAGE, format, args);
    va_end(args);
}

gboolean
store_load_conf(StoreIo *io, int dir_fd, const char *path, struct Conf *conf,
                GError **error)
{
    char *text = NULL;
    size_t len;
    int err =
        store_io_load(io, dir_fd, STORE_CONF, STORE_FILE_MAX, &text, &len);
    gboolean ok;

    *conf = (struct Conf){0};
    if (err == -ENOENT) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s is not a weir store (it has no " STORE_CONF
                    "): make one with weir create %s/vda --size 20G",
                    path, path);
        return FALSE;
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_DAMAGED, err,
                        "%s/" STORE_CONF " cannot be read", path);
        return FALSE;
    }
    ok = conf_parse(text, len, conf, error);
    free(text);
    if (!ok) {
        g_prefix_error(error, "store %s: ", path);
        conf_deinit(conf);
    }
    return ok;
}

gboolean
store_save_conf_in(StoreIo *io, int dir_fd, const char *path,
                   const struct Conf *conf, GError **error)
{
    g_autofree char *text = conf_format(conf);
    int err =
        store_io_replace(io, dir_fd, STORE_CONF, text, strlen(text), 0600);

    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "%s/" STORE_CONF " cannot be written", path);
        return FALSE;
    }
    return TRUE;
}

void
store_to_conf(const Store *store, struct Conf *conf)
{
    *conf = (struct Conf){
        .next_id = store->next_id,
        .settings = store->settings,
        .n_disks = store->n_disks,
    };
    memcpy(conf->uuid, store->uuid, sizeof(conf->uuid));
    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];
        struct ConfDisk *to = &conf->disks[i];

        g_strlcpy(to->name, disk->name, sizeof(to->name));
        to->id = disk->id;
        to->size_bytes = atomic_load(&disk->size_bytes);
        to->cluster_bits = disk->cluster_bits;
        to->target = disk->target;
        to->accept = disk->accept;
    }
}

gboolean
store_save_conf(Store *store, GError **error)
{
    struct Conf conf;

    store_to_conf(store, &conf);
    return store_save_conf_in(store->io, store->dir_fd, store->path, &conf,
                              error);
}

const char *
store_load_state(StoreIo *io, int dir_fd, const struct Conf *conf,
                 struct State *state)
{
    char *text = NULL;
    size_t len;
    int err =
        store_io_load(io, dir_fd, STORE_STATE, STORE_FILE_MAX, &text, &len);
    const char *why;

    *state = (struct State){0};
    if (err) {
        return err == -ENOENT ? "it is missing" : g_strerror(-err);
    }
    why = state_parse(text, len, state);
    free(text);
    if (!why && memcmp(state->uuid, conf->uuid, sizeof(state->uuid)) != 0) {
        state_deinit(state);
        why = "it is another store's";
    }
    return why;
}

/* How the disk's bits are kept, by @map's figures. */
static enum StateDirty
dirty_kind(Disk *disk)
{
    struct DiskMapFigures figures;

    disk_map_figures(disk->map, &figures);
    if (figures.dirty_clusters == 0) {
        return STATE_DIRTY_NONE;
    }
    return figures.dirty_clusters == disk_map_clusters(disk->map)
               ? STATE_DIRTY_ALL
               : STATE_DIRTY_FILE;
}

static gboolean
write_state(Store *store, bool is_clean, GError **error)
{
    struct State state = {
        .is_clean = is_clean,
        .sequence = store->sequence,
        .epoch = store->is_served || !store->epoch_before ? store->epoch
                                                          : store->epoch_before,
        .n_disks = store->n_disks,
    };
    g_autofree char *text = NULL;
    size_t len;
    int err;

    memcpy(state.uuid, store->uuid, sizeof(state.uuid));
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        struct StateDisk *to = &state.disks[i];

        *to = (struct StateDisk){
            .id = disk->id,
            .size_bytes = atomic_load(&disk->size_bytes),
            .cluster_bits = disk->cluster_bits,
            .target = disk->target,
            .contact = disk->contact,
            .dirty = dirty_kind(disk),
            .is_in_doubt = disk->all_in_doubt,
            .attr = disk->attr,
        };
        (void)store_raw_stamp(disk->map_fd, &to->raw);
    }
    text = state_format(&state, &len);
    err = store_io_replace(store->io, store->dir_fd, STORE_STATE, text, len,
                           0600);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "%s/" STORE_STATE " cannot be written", store->path);
    }
    return err == 0;
}

gboolean
store_save_state(Store *store, GError **error)
{
    assert(store->is_served);
    return write_state(store, false, error);
}

gboolean
store_serve(Store *store, GError **error)
{
    assert(!store->is_read_only);
    store_lock_sign(store->io, store->lock_fd);
    store->is_served = true;
    store->is_served = write_state(store, false, error);
    return store->is_served;
}

/* One disk's bits as checkpoint @sequence. */
static int
save_bitmap(Store *store, Disk *disk, uint64_t sequence)
{
    StoreIo *io = store->io;
    struct BitmapFile file = {.name = STORE_DIRTY};
    bool is_file = dirty_kind(disk) == STATE_DIRTY_FILE;
    int err;

    if (!disk->has_checkpoint || !is_file) {
        disk->has_checkpoint = false;
        err = io->ops->unlink(io, disk->dir_fd, STORE_DIRTY, 0);
        if (err && err != -ENOENT) {
            return err;
        }
    }
    if (!is_file) {
        return 0;
    }
    memcpy(file.uuid, store->uuid, sizeof(file.uuid));
    file.map = bitmap_new(atomic_load(&disk->size_bytes), disk->cluster_bits);
    if (!file.map) {
        return -ENOMEM;
    }
    disk_map_union(disk->map, file.map);
    err = bitmap_file_save(io, disk->dir_fd, &file, 1, sequence);
    disk->has_checkpoint = !err;
    bitmap_free(file.map);
    return err;
}

static gboolean
sync_disk(Store *store, Disk *disk, GError **error)
{
    int err = store->io->ops->fsync(store->io, disk->fd);

    if (atomic_load(&disk->is_frozen)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "disk %s: a sync of disk.raw failed earlier, so the store "
                    "cannot be ended cleanly: check the file system",
                    disk->name);
        return FALSE;
    }
    if (err) {
        atomic_store(&disk->is_frozen, true);
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk %s: disk.raw cannot be synced, the store is not "
                        "ended cleanly: check the file system",
                        disk->name);
    }
    return err == 0;
}

gboolean
store_close_clean(Store *store, GError **error)
{
    uint64_t sequence = store->sequence + 1;

    assert(!store->is_read_only);
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!sync_disk(store, store->disks[i], error)) {
            return FALSE;
        }
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        int err = save_bitmap(store, store->disks[i], sequence);

        if (err) {
            store_set_errno(error, STORE_ERROR_FAILED, err,
                            "disk %s: the dirty bitmap cannot be saved, the "
                            "store is not ended cleanly",
                            store->disks[i]->name);
            return FALSE;
        }
    }
    store->sequence = sequence;
    if (!write_state(store, true, error)) {
        return FALSE;
    }
    store->is_served = false;
    return TRUE;
}

Disk *
store_disk(Store *store, const char *name)
{
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!strcmp(store->disks[i]->name, name)) {
            return store->disks[i];
        }
    }
    return NULL;
}

static gboolean
open_disks(Store *store, const struct Conf *conf, unsigned flags,
           GError **error)
{
    struct State state;
    const char *why = store_load_state(store->io, store->dir_fd, conf, &state);
    gboolean ok = TRUE;

    store->sequence = state.sequence;
    store->was_clean = state.is_clean;
    store->epoch_before = state.epoch;
    store->epoch = state.epoch + (why || state.is_clean);
    if (why) {
        store_say(store,
                  "store %s: the state is of no use (%s): everything is sent "
                  "again",
                  store->path, why);
    } else if (!state.is_clean) {
        store_say(store,
                  "store %s was not ended cleanly: everything is sent again",
                  store->path);
    }
    for (unsigned i = 0; ok && i < conf->n_disks; i++) {
        Disk *disk = store_disk_open(store, &conf->disks[i], flags, error);

        ok = disk != NULL;
        if (ok) {
            disk->index = store->n_disks;
            store->disks[store->n_disks++] = disk;
            ok = store_disk_load(store, disk, why ? NULL : &state, error);
        }
    }
    state_deinit(&state);
    return ok;
}

static gboolean
open_store(Store *store, unsigned flags, GError **error)
{
    struct Conf conf;
    gboolean ok;

    store->dir_fd = open(store->path, STORE_DIR_FLAGS);
    if (store->dir_fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "store %s cannot be opened", store->path);
        return FALSE;
    }
    /* Before the lock, which would leave its file in a foreign directory;
     * what counts is read again, under the lock. */
    if (!store_load_conf(store->io, store->dir_fd, store->path, &conf, error)) {
        return FALSE;
    }
    if (!(flags & STORE_OPEN_READ)) {
        conf_deinit(&conf);
        store->lock_fd =
            store_lock_take(store->io, store->dir_fd, store->path, error);
        if (store->lock_fd < 0 || !store_load_conf(store->io, store->dir_fd,
                                                   store->path, &conf, error)) {
            return FALSE;
        }
    }
    memcpy(store->uuid, conf.uuid, sizeof(store->uuid));
    store->next_id = conf.next_id;
    store->settings = conf.settings;
    conf.settings.bwlimit = NULL;
    ok = open_disks(store, &conf, flags, error);
    conf_deinit(&conf);
    return ok;
}

Store *
store_open(StoreIo *io, const char *path, unsigned flags, GError **error)
{
    Store *store = g_new0(Store, 1);
    char *real = realpath(path, NULL);

    store->io = io;
    store->dir_fd = store->lock_fd = -1;
    store->is_read_only = flags & STORE_OPEN_READ;
    if (!real) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "store %s cannot be opened", path);
        store_free(store);
        return NULL;
    }
    store->path = g_strdup(real);
    free(real);
    if (!store->is_read_only) {
        store_private_umask();
    }
    if (!open_store(store, flags, error)) {
        store_free(store);
        return NULL;
    }
    return store;
}

void
store_free(Store *store)
{
    StoreIo *io = store->io;

    for (unsigned i = 0; i < store->n_disks; i++) {
        store_disk_free(io, store->disks[i]);
    }
    if (store->lock_fd >= 0) {
        io->ops->close(io, store->lock_fd);
    }
    if (store->dir_fd >= 0) {
        io->ops->close(io, store->dir_fd);
    }
    g_free(store->settings.bwlimit);
    g_free(store->path);
    g_free(store);
}
