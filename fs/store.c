/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store.c - opening a store, serving it, and ending cleanly
 *
 * Life of a store's state file, and what each end in between leaves:
 *
 *   open        lock, weir.conf, state, disks, bitmaps    nothing written
 *   serve       1 checkpoint and intent of each disk      see below
 *               2 state "unclean", durable                from here on every
 *                                                         end but the last
 *                                                         is an unclean one
 *   (work)      guest writes, uploads, settings
 *   close_clean 1 sync every disk.raw      still unclean
 *               2 write the bitmaps        still unclean
 *               3 state "clean"            clean: the bitmaps are exact
 *
 * The order of the three is rule 3: a bit that is clear on disk says that the
 * target has what disk.raw has, so disk.raw's data is durable before. The
 * sync is an fsync, as its time of last change has to be durable too: with it
 * the next opening sees whether somebody else wrote the image meanwhile.
 *
 * At a clean end a disk's bitmap that is all dirty or all clean is a word in the
 * state and no file: a new 64 TiB disk costs nothing to open. (Named bitmaps and
 * maps of jobs are files always.) An old
 * checkpoint that was not read back is removed before a new one is written, so
 * that no page of it can pass for a newer one (rule 11).
 *
 * Which state an opening goes on from, if the file is not what was written
 * last, is in store-state.c.
 *
 * What only resizes or sets something opens, works and closes cleanly without
 * serving: the state stays "clean" over it. A crash in the middle leaves it
 * beside the checkpoint that it names, or beside a newer one, and both are
 * believed: nothing is uploaded meanwhile, so that a newer one has the same
 * bits or more.
 */
#include "snapshot-private.h"
#include "store-bitmaps.h"
#include "store-private.h"

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
        to->is_alone = disk->is_alone;
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
        .sequence = atomic_load(&store->sequence),
        .epoch = store->saved_epoch,
        .epoch_before = store->saved_before,
        .cuts = store->cuts,
        .rollback = store->rollback,
        .n_disks = store->n_disks,
    };
    int err;

    if (store->is_served) {
        state.epoch = is_clean ? store_end_epoch(store) : store->epoch;
        state.epoch_before = state.epoch;
    }
    if (is_clean) {
        store->saved_snapshot = store->saved_bitmap = 0; /* the exact ones */
    }
    state.last_snapshot = MAX(store->last_snapshot, store->saved_snapshot);
    state.last_bitmap = MAX(store->last_bitmap, store->saved_bitmap);
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
            .dirty = is_clean           ? dirty_kind(disk)
                     : disk->is_tracked ? STATE_DIRTY_FILE
                                        : STATE_DIRTY_ALL,
            .sequence = atomic_load(&disk->checkpoint_sequence),
            .is_in_doubt = disk->all_in_doubt,
            .is_recorded = is_clean || disk->is_tracked,
            .recorded = store_bitmaps_sequence(disk),
            .cut = disk->cut,
        };
        pthread_mutex_lock(&disk->attr_lock);
        to->attr = disk->attr;
        pthread_mutex_unlock(&disk->attr_lock);
        (void)store_raw_stamp(disk->map_fd, &to->raw);
    }
    err = store_put_state(store->io, store->dir_fd, &state);
    if (err == -ENOSPC && store_reserve_give(store)) {
        err = store_put_state(store->io, store->dir_fd, &state);
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "%s/" STORE_STATE " cannot be written", store->path);
        return FALSE;
    }
    store_reserve_keep(store);
    store->saved_epoch = state.epoch;
    store->saved_before = state.epoch_before;
    for (unsigned i = 0; i < store->n_disks; i++) {
        store->disks[i]->saved_contact = store->disks[i]->contact;
    }
    return TRUE;
}

/* A target is known from now on. What an earlier checkpoint says was about
 * another target, or none; now everything is dirty, and that has to be what a
 * crash finds before the state believes in it. */
static gboolean
keep_contacts(Store *store, GError **error)
{
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        int err = 0;

        if (disk->is_tracked && disk->contact == CONTACT_KNOWN &&
            disk->saved_contact != CONTACT_KNOWN) {
            err = store_checkpoint_map(store, disk);
        }
        if (err) {
            store_set_errno(error, STORE_ERROR_FAILED, err,
                            "disk %s: the dirty bitmap cannot be saved",
                            disk->name);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
store_save_state(Store *store, GError **error)
{
    assert(store->is_served);
    return keep_contacts(store, error) && write_state(store, false, error);
}

gboolean
store_serve(Store *store, GError **error)
{
    assert(!store->is_read_only);
    store_lock_sign(store->io, store->lock_fd);
    store_snapshots_tidy(store);
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        int err = store_track_begin(store, disk);

        store_bitmaps_tidy(store, disk);
        if (!store_is_cut(store, disk)) {
            disk->cut = 0; /* its target is written as it comes */
        }
        if (err) {
            store_say(store,
                      "disk %s: what is written cannot be kept track of (%s): "
                      "after a crash %sits bitmaps are all dirty",
                      disk->name, g_strerror(-err),
                      disk->target ? "all of it is compared or sent again, and "
                                   : "");
        }
    }
    store->is_served = true;
    store->is_served = write_state(store, false, error);
    return store->is_served;
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

/* The bitmap of a disk that is all dirty or all clean is in the state. What is
 * still in the file must not be taken for it later. */
static void
drop_bitmaps(Store *store)
{
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];

        if (dirty_kind(disk) != STATE_DIRTY_FILE) {
            disk->has_checkpoint = false;
            (void)store->io->ops->unlink(store->io, disk->dir_fd, STORE_DIRTY,
                                         0);
        }
    }
}

/* The last checkpoint; @rest: the error of what is not the map's own. */
static int
save_disk(Store *store, Disk *disk, int *rest)
{
    if (dirty_kind(disk) == STATE_DIRTY_FILE) {
        return store_track_checkpoint(store, disk, rest);
    }
    *rest = store_bitmaps_checkpoint(store, disk);
    return 0;
}

/* A guest that has filled the file system does not keep its store from being ended
 * cleanly: what has no room at the end of a serve is given up. */
static gboolean
end_disk(Store *store, Disk *disk, GError **error)
{
    int rest;
    int err = save_disk(store, disk, &rest);

    if (!err && rest == -ENOSPC && store_reserve_give(store)) {
        err = save_disk(store, disk, &rest);
    }
    if (!err && rest && !store_bitmaps_abandon(store, disk)) {
        rest = 0;
    }
    if (err || rest) {
        store_set_errno(error, STORE_ERROR_FAILED, err ? err : rest,
                        "disk %s: %s cannot be saved, the store is not ended "
                        "cleanly",
                        disk->name,
                        err ? "the dirty bitmap" : store_bitmaps_unsaved(disk));
    }
    return !err && !rest;
}

gboolean
store_close_clean(Store *store, GError **error)
{
    assert(!store->is_read_only);
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!sync_disk(store, store->disks[i], error)) {
            return FALSE;
        }
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!end_disk(store, store->disks[i], error)) {
            return FALSE;
        }
    }
    if (!write_state(store, true, error)) {
        return FALSE;
    }
    store->is_served = false;
    drop_bitmaps(store);
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

/* One line about what a crash has left. */
static void
say_recovered(const Store *store)
{
    uint64_t hot = 0, dirty = 0;
    g_autofree char *size = NULL;

    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        struct DiskMapFigures figures;

        disk_map_figures(disk->map, &figures);
        hot += disk->hot ? bitmap_count(disk->hot) : 0;
        dirty += disk->target
                     ? MIN(figures.dirty_clusters << disk->cluster_bits,
                           atomic_load(&disk->size_bytes))
                     : 0;
    }
    size = g_format_size_full(dirty, G_FORMAT_SIZE_IEC_UNITS);
    store_say(store,
              "store %s was not ended cleanly: %" G_GUINT64_FORMAT
              " extents were hot, %s may differ and are compared in the "
              "background",
              store->path, hot, size);
}

static gboolean
load_disks(Store *store, const struct State *state, const char *why,
           GError **error)
{
    if (why) {
        store_say(store,
                  "store %s: the state is of no use (%s): everything is sent "
                  "again",
                  store->path, why);
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!store_disk_load(store, store->disks[i], state, error) ||
            !store_bitmaps_load(store, store->disks[i], state, error)) {
            return FALSE;
        }
    }
    if (!why && !store->was_clean) {
        say_recovered(store);
    }
    return TRUE;
}

static void
take_epochs(Store *store, const struct State *state)
{
    store->was_clean = state->is_clean;
    store->epoch = state->is_clean ? state->epoch + 1 : MAX(state->epoch, 1);
    store->epoch_before = store->saved_before = state->epoch_before;
    store->saved_epoch = state->is_clean ? state->epoch : store->epoch;
}

static gboolean
open_disks(Store *store, const struct Conf *conf, unsigned flags,
           GError **error)
{
    struct State state;
    const char *why;
    int err = store_find_state(store->io, store->dir_fd, conf, &state, &why);
    gboolean ok = TRUE;

    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "store %s: its intent files cannot be loaded",
                        store->path);
        return FALSE;
    }
    atomic_store(&store->sequence, state.sequence);
    take_epochs(store, &state);
    store->cuts = state.cuts;
    store->last_snapshot = state.last_snapshot;
    store->last_bitmap = state.last_bitmap;
    store->rollback = state.rollback;
    for (unsigned i = 0; ok && i < conf->n_disks; i++) {
        Disk *disk = store_disk_open(store, &conf->disks[i], flags, error);

        ok = disk != NULL;
        if (ok) {
            disk->index = store->n_disks;
            store->disks[store->n_disks++] = disk;
        }
    }
    ok = ok && load_disks(store, &state, why, error) &&
         store_snapshots_open(store, error);
    state_deinit(&state);
    return ok;
}

/* Whose disks are half of one instant and half of another is nobody's. */
static gboolean
check_rollback(const Store *store, unsigned flags, GError **error)
{
    g_autofree Snapshot *to = g_new0(Snapshot, 1);

    if (!store->rollback || (flags & (STORE_OPEN_READ | STORE_OPEN_ROLLBACK))) {
        return TRUE;
    }
    if (!snapshot_list_get(store->snapshots, store->rollback, to)) {
        g_strlcpy(to->name, "SNAPSHOT", sizeof(to->name));
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                "store %s: an interrupted rollback; run weir rollback %s %s "
                "again, which finishes it",
                store->path, store->path, to->name);
    return FALSE;
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
            flags & STORE_OPEN_MOUNTED
                ? store_lock_take_over(store->io, store->dir_fd, store->path,
                                       error)
                : store_lock_take(store->io, store->dir_fd, store->path, error);
        if (store->lock_fd < 0 || !store_load_conf(store->io, store->dir_fd,
                                                   store->path, &conf, error)) {
            return FALSE;
        }
    }
    memcpy(store->uuid, conf.uuid, sizeof(store->uuid));
    store->next_id = conf.next_id;
    conf_move_settings(&conf, &store->settings);
    ok = open_disks(store, &conf, flags, error);
    conf_deinit(&conf);
    return ok && check_rollback(store, flags, error);
}

Store *
store_open(StoreIo *io, const char *path, unsigned flags, GError **error)
{
    Store *store = g_new0(Store, 1);
    char *real = realpath(path, NULL);

    g_mutex_init(&store->round_lock);
    g_mutex_init(&store->checkpoint_lock);
    store->io = io;
    store->dir_fd = store->lock_fd = -1;
    store->snapshots = snapshot_list_new();
    store->snapshot_files = snapshot_files_new();
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

    store_snapshots_close(store);
    for (unsigned i = 0; i < store->n_disks; i++) {
        store_disk_free(io, store->disks[i]);
    }
    if (store->lock_fd >= 0) {
        io->ops->close(io, store->lock_fd);
    }
    if (store->dir_fd >= 0) {
        io->ops->close(io, store->dir_fd);
    }
    g_mutex_clear(&store->checkpoint_lock);
    g_mutex_clear(&store->round_lock);
    conf_clear_settings(&store->settings);
    g_free(store->path);
    g_free(store);
}
