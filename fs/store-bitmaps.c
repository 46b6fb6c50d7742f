/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps.c - what a user does with named bitmaps, durably
 *
 * Each command changes what is in memory (bitmap/named.h), which is what counts
 * from then on, and then what is on disk (store-bitmaps-save.c). If that fails
 * the change is taken back. Of a store at rest it is the same; its opening has
 * loaded them, and the caller ends it with store_close_clean().
 *
 * Numbers are given as those of snapshots are: one that was given is not given
 * again, not even after a crash, as inode numbers of the mount are made of it.
 * While the store is served the state says a larger one than was given, so that
 * it need not be written for each.
 */
#include "store-bitmaps-private.h"

#include "snapshot-private.h"

#include <errno.h>
#include <string.h>

#define IDS_AHEAD 100

/*
 * Words
 */
void
store_bitmap_set_error(GError **error, enum NamedResult result,
                       const Disk *disk, const char *name)
{
    switch (result) {
    case NAMED_OK:
        break;
    case NAMED_EXISTS:
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Bitmap already exists: %s: remove it first, or choose "
                    "another name",
                    name);
        break;
    case NAMED_MISSING:
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Bitmap '%s' could not be found: disk %s has none of this "
                    "name",
                    name, disk->name);
        break;
    case NAMED_BUSY:
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Bitmap '%s' is currently in use by another operation and "
                    "cannot be used: wait for its job to end, or cancel it",
                    name);
        break;
    case NAMED_BAD_GRAIN:
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Granularity must be power of 2, and between 512 and 2G");
        break;
    case NAMED_NO_MEMORY:
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no memory for bitmap '%s' of disk %s: a coarser "
                    "granularity needs less",
                    name, disk->name);
        break;
    case NAMED_TOO_MANY:
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no bitmap '%s': disk %s has %d, which is the most: remove "
                    "some first",
                    name, disk->name, NAMED_MOST);
        break;
    }
}

const char *
store_bitmaps_unsaved(const Disk *disk)
{
    const GArray *unsaved = disk->kept->unsaved;

    return unsaved->len ? g_array_index(unsaved, struct UnsavedFile, 0).name
                        : STORE_BITMAPS;
}

static void
set_save_error(GError **error, const Disk *disk, int err)
{
    store_set_errno(error, STORE_ERROR_FAILED, err,
                    "disk %s: %s cannot be saved", disk->name,
                    store_bitmaps_unsaved(disk));
}

static gboolean
check_name(const char *name, GError **error)
{
    if (store_name_is_valid(name)) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "a bitmap cannot be called '%s': use up to %d of A-Z a-z 0-9 "
                ". _ - and begin with no dot",
                name, NAMED_NAME_MAX);
    return FALSE;
}

/*
 * Ids
 */
static gboolean
take_id(Store *store, uint64_t *id, GError **error)
{
    uint64_t saved = store->saved_bitmap;

    *id = store->last_bitmap + 1;
    if (*id > NAMED_ID_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "store %s has used up its numbers of bitmaps", store->path);
        return FALSE;
    }
    if (store->is_served && *id > saved) {
        store->saved_bitmap = MIN(*id + IDS_AHEAD, NAMED_ID_MAX);
        if (!store_save_state(store, error)) {
            store->saved_bitmap = saved;
            return FALSE;
        }
    }
    store->last_bitmap = *id;
    return TRUE;
}

int64_t
store_bitmap_next_id(Store *store)
{
    g_autoptr(GError) error = NULL;
    uint64_t id;

    if (!take_id(store, &id, &error)) {
        store_say(store, "%s", error->message);
        return -1;
    }
    return (int64_t)id;
}

/*
 * Saving
 */
static int
save_locked(Store *store, Disk *disk, GArray *copies, uint64_t *sequence)
{
    int err;
    BitmapsSaving *saving = bitmaps_saving_new(store, disk, copies, &err);

    *sequence = atomic_load(&store->sequence);
    if (saving || copies) {
        *sequence = atomic_fetch_add(&store->sequence, 1) + 1;
    }
    if (saving) {
        err = bitmaps_saving_run(saving, *sequence);
    }
    bitmaps_saving_free(saving);
    return err;
}

gboolean
store_bitmaps_save(Store *store, Disk *disk, GError **error)
{
    uint64_t sequence;
    int err;

    assert(!store->is_read_only);
    g_mutex_lock(&store->checkpoint_lock);
    err = save_locked(store, disk, NULL, &sequence);
    if (err) {
        set_save_error(error, disk, err);
    }
    g_mutex_unlock(&store->checkpoint_lock);
    return !err;
}

void
bitmaps_say_unsaved(const Store *store, Disk *disk, int err)
{
    if (err && !disk->kept->has_said) {
        store_say(store,
                  "disk %s: %s cannot be saved: %s: after a crash all that it "
                  "is of counts as changed; it is tried again",
                  disk->name, store_bitmaps_unsaved(disk), g_strerror(-err));
    }
    disk->kept->has_said = err != 0;
}

/* Who only sets something at rest does not load the maps of jobs. What they do
 * not have is: what was hot after a crash, of which nobody knows after a clean
 * end; what a rollback wrote. */
void
bitmaps_kept_raise(const Store *store, const Disk *disk, uint64_t sequence)
{
    if (store->is_served || disk->is_overwritten ||
        disk->kept->trust != BITMAPS_EXACT) {
        atomic_store(&disk->kept->sequence, sequence);
    }
}

int
store_bitmaps_checkpoint(Store *store, Disk *disk)
{
    uint64_t sequence;
    GArray *copies;
    int err;

    g_mutex_lock(&store->round_lock);
    g_mutex_lock(&store->checkpoint_lock);
    copies = bits_copies_new(disk);
    err = copies ? save_locked(store, disk, copies, &sequence) : -ENOMEM;
    if (!err) {
        bitmaps_kept_raise(store, disk, sequence);
    }
    bitmaps_say_unsaved(store, disk, err);
    g_mutex_unlock(&store->checkpoint_lock);
    g_mutex_unlock(&store->round_lock);
    return err;
}

int
store_bitmaps_abandon(Store *store, Disk *disk)
{
    const BitmapsKept *kept = disk->kept;
    int err;

    g_mutex_lock(&store->checkpoint_lock);
    err = bitmaps_delete_unsaved(store, disk);
    for (guint i = 0; !err && i < kept->unsaved->len; i++) {
        const struct UnsavedFile *file =
            &g_array_index(kept->unsaved, struct UnsavedFile, i);

        store_say(store, "disk %s: %s %s: all that it is of counts as changed",
                  disk->name, file->name,
                  file->err == -EPROTONOSUPPORT
                      ? "is a newer weir's and stays as it was"
                      : "could not be saved and was deleted");
    }
    if (!err) {
        bitmaps_kept_raise(store, disk, kept->run);
    }
    g_mutex_unlock(&store->checkpoint_lock);
    return err;
}

uint64_t
store_bitmaps_sequence(const Disk *disk)
{
    return atomic_load(&disk->kept->sequence);
}

/*
 * Commands
 */
/* What could not be saved is taken back, and some of it may have been. If that
 * cannot be mended now, the next checkpoint does: which comes before or after all
 * of this, and sees no bitmap on its way back. */
static gboolean
finish(Store *store, Disk *disk, NamedUndo *undo, GError **error)
{
    uint64_t sequence;
    int err;

    g_mutex_lock(&store->checkpoint_lock);
    err = save_locked(store, disk, NULL, &sequence);
    if (err) {
        set_save_error(error, disk, err);
        named_undo_run(undo);
        (void)save_locked(store, disk, NULL, &sequence);
    } else {
        named_undo_free(undo);
    }
    g_mutex_unlock(&store->checkpoint_lock);
    return !err;
}

/* What takes @name's content back, if it is there and nobody is at it. */
static NamedUndo *
begin(Disk *disk, const char *name, GError **error)
{
    struct NamedFigures figures;
    NamedUndo *undo = NULL;

    if (!named_find(disk->bitmaps, name, &figures)) {
        store_bitmap_set_error(error, NAMED_MISSING, disk, name);
    } else if (figures.is_busy) {
        store_bitmap_set_error(error, NAMED_BUSY, disk, name);
    } else {
        undo = named_undo_new(disk->bitmaps, name);
        if (!undo) {
            store_bitmap_set_error(error, NAMED_NO_MEMORY, disk, name);
        }
    }
    return undo;
}

/* @result is of the change that @undo takes back. */
static gboolean
end(Store *store, Disk *disk, const char *name, NamedUndo *undo,
    enum NamedResult result, GError **error)
{
    if (result != NAMED_OK) {
        named_undo_free(undo);
        store_bitmap_set_error(error, result, disk, name);
        return FALSE;
    }
    return finish(store, disk, undo, error);
}

/* Can there be one of this name? */
static enum NamedResult
check_new(Disk *disk, const char *name, unsigned grain_bits)
{
    struct NamedFigures figures;

    if (named_find(disk->bitmaps, name, &figures)) {
        return NAMED_EXISTS;
    }
    return grain_bits < NAMED_GRAIN_LEAST || grain_bits > NAMED_GRAIN_MOST
               ? NAMED_BAD_GRAIN
               : NAMED_OK;
}

gboolean
store_bitmap_add(Store *store, Disk *disk, const char *name,
                 unsigned grain_bits, bool is_persistent, bool is_disabled,
                 GError **error)
{
    struct NamedSpec spec = {.name = name,
                             .grain_bits = grain_bits,
                             .is_persistent = is_persistent,
                             .is_disabled = is_disabled};
    NamedUndo *undo = NULL;
    enum NamedResult result;

    if (!check_name(name, error)) {
        return FALSE;
    }
    result = check_new(disk, name, grain_bits);
    if (result == NAMED_OK) {
        if (!take_id(store, &spec.id, error)) {
            return FALSE;
        }
        undo = named_undo_new(disk->bitmaps, name);
        result = undo ? named_add(disk->bitmaps, &spec, NULL) : NAMED_NO_MEMORY;
    }
    return end(store, disk, name, undo, result, error);
}

gboolean
store_bitmap_remove(Store *store, Disk *disk, const char *name, GError **error)
{
    NamedUndo *undo = begin(disk, name, error);

    return undo && end(store, disk, name, undo,
                       named_remove(disk->bitmaps, name), error);
}

gboolean
store_bitmap_clear(Store *store, Disk *disk, const char *name, GError **error)
{
    NamedUndo *undo = begin(disk, name, error);

    return undo && end(store, disk, name, undo,
                       named_clear(disk->bitmaps, name), error);
}

gboolean
store_bitmap_enable(Store *store, Disk *disk, const char *name, bool is_enabled,
                    GError **error)
{
    NamedUndo *undo = begin(disk, name, error);

    return undo && end(store, disk, name, undo,
                       is_enabled ? named_enable(disk->bitmaps, name)
                                  : named_disable(disk->bitmaps, name),
                       error);
}

/* Which of the two or more that a merge takes is why it is refused. */
static const char *
name_refused(Disk *disk, const char *target, const char *const *sources,
             unsigned count, enum NamedResult result)
{
    struct NamedFigures figures;

    for (unsigned i = 0; i < count; i++) {
        bool is_there = named_find(disk->bitmaps, sources[i], &figures);

        if ((result == NAMED_MISSING && !is_there) ||
            (result == NAMED_BUSY && is_there && figures.is_busy)) {
            return sources[i];
        }
    }
    return target;
}

gboolean
store_bitmap_merge(Store *store, Disk *disk, const char *target,
                   const char *const *sources, unsigned count, GError **error)
{
    NamedUndo *undo = begin(disk, target, error);
    enum NamedResult result;

    if (!undo) {
        return FALSE;
    }
    result = named_merge(disk->bitmaps, target, sources, count);
    return end(store, disk, name_refused(disk, target, sources, count, result),
               undo, result, error);
}

gboolean
store_bitmap_import(Store *store, Disk *disk, const char *name,
                    const Bitmap *bits, GError **error)
{
    NamedUndo *undo = begin(disk, name, error);

    return undo && end(store, disk, name, undo,
                       named_mark_bits(disk->bitmaps, name, bits), error);
}

/*
 * Maps of jobs
 */
void
store_bits_add(Store *store, Disk *disk, StoreBits *bits)
{
    g_mutex_lock(&store->checkpoint_lock);
    g_ptr_array_add(disk->bits, bits);
    g_mutex_unlock(&store->checkpoint_lock);
}

void
store_bits_remove(Store *store, Disk *disk, StoreBits *bits)
{
    g_mutex_lock(&store->checkpoint_lock);
    (void)g_ptr_array_remove(disk->bits, bits);
    g_mutex_unlock(&store->checkpoint_lock);
}

/*
 * The begin of a serve
 */
struct Tidying {
    StoreIo *io;
    const BitmapsKept *kept;
};

static void
tidy_file(const char *name, void *user)
{
    const struct Tidying *tidying = user;

    if (g_str_has_suffix(name, ".tmp") ||
        (bitmaps_file_id(name) &&
         !bitmaps_list_needs(tidying->kept->bitmaps, name))) {
        (void)tidying->io->ops->unlink(tidying->io, tidying->kept->dir_fd, name,
                                       0);
    }
}

/* Those that a serve before could not reserve, or that are of one that did not. */
static void
reserve_files(const Store *store, const Disk *disk)
{
    const BitmapsKept *kept = disk->kept;

    for (guint i = 0; i < kept->bitmaps->len; i++) {
        const struct KeptBitmap *at =
            &g_array_index(kept->bitmaps, struct KeptBitmap, i);
        uint64_t grains =
            clusters_for(atomic_load(&disk->size_bytes), at->listed.grain_bits);

        for (unsigned slot = 0; slot < G_N_ELEMENTS(at->has_file); slot++) {
            char name[STORE_BITMAP_NAME];

            bitmaps_file_name(name, at->listed.id, slot);
            if (at->has_file[slot]) {
                store_reserve_bits(store->io, kept->dir_fd, name, grains, true);
            }
        }
    }
}

void
store_bitmaps_tidy(Store *store, Disk *disk)
{
    const BitmapsKept *kept = disk->kept;
    struct Tidying tidying = {store->io, kept};

    if (kept->dir_fd >= 0 && !kept->is_foreign && !kept->is_damaged &&
        !kept->is_unsure) {
        (void)snapshot_files_names(kept->dir_fd, tidy_file, &tidying);
    }
    reserve_files(store, disk);
}
