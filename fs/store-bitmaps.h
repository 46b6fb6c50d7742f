/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps.h - named bitmaps in the store, and what checkpoints hold
 *
 * Purpose: keeps the named bitmaps of the disks, and the maps of jobs, over
 *          restarts and crashes: after a clean end they are exact, or all dirty
 *          if their file could not be written; after any other a superset of
 *          what the guest changed, never "inconsistent".
 * Threads: main, but for what says "any thread".
 * Units:   bytes.
 * Shapes:  STORE/NAME/bitmaps/list     the persistent ones: sealed-text.h
 *          STORE/NAME/bitmaps/ID.bits  bitmap-file.h, clusters: its grains
 *          STORE/NAME/bitmaps/ID.new   its successor's, while a job has it; the
 *                                      two change places with each job
 *          Each checkpoint of a disk (store_checkpoint()) holds `dirty`, these,
 *          and every StoreBits, as one set under one sequence. What is there
 *          under an earlier one than the state, or an extent of the intent file,
 *          wants has missed something, and is dirty there.
 * Errors:  gboolean + GError of STORE_ERROR. A damaged file makes its own bitmap
 *          all dirty, which is said; a damaged list loses the bitmaps, and says
 *          so; the disk opens in any case.
 */
#pragma once

#include "bitmap/named.h"
#include "state.h"
#include "store.h"

#include <json-glib/json-glib.h>

/* Of an opening, after store_disk_load(): all into disk->bitmaps, with what a
 * crash, a discard or a stranger's write may have changed since. */
gboolean store_bitmaps_load(Store *store, Disk *disk, const struct State *state,
                            GError **error);

/* What the command is about is durable when it returns; on error the bitmaps are
 * as they were. Words of errors are QEMU's where it has them. Served or not. */
gboolean store_bitmap_add(Store *store, Disk *disk, const char *name,
                          unsigned grain_bits, bool is_persistent,
                          bool is_disabled, GError **error);
gboolean store_bitmap_remove(Store *store, Disk *disk, const char *name,
                             GError **error);
gboolean store_bitmap_clear(Store *store, Disk *disk, const char *name,
                            GError **error);
gboolean store_bitmap_enable(Store *store, Disk *disk, const char *name,
                             bool is_enabled, GError **error);
gboolean store_bitmap_merge(Store *store, Disk *disk, const char *target,
                            const char *const *sources, unsigned count,
                            GError **error);
/* @name also has what @bits have, which are the caller's. */
gboolean store_bitmap_import(Store *store, Disk *disk, const char *name,
                             const Bitmap *bits, GError **error);
/* What was changed through bitmap/named.h (a transaction, marks, a job's freeze or
 * end) becomes durable. */
gboolean store_bitmaps_save(Store *store, Disk *disk, GError **error);
/* QEMU's words for what bitmap/named.h said about bitmap @name of @disk. */
void store_bitmap_set_error(GError **error, enum NamedResult result,
                            const Disk *disk, const char *name);
/* The next id; -1 if there is none left. */
int64_t store_bitmap_next_id(Store *store);

/* All of them: the members of QEMU's BlockDirtyInfo, and ours beside them: id,
 * enabled. Behind one that is busy there is what records meanwhile, with no name.
 * Served or not. */
JsonArray *store_bitmaps_json(Disk *disk);
/* {name, granularity, count, recording, enabled, busy, persistent, extents:
 * [{offset, length}], next}: from byte @start on; next: it goes on there. */
JsonObject *store_bitmap_extents(Disk *disk, const char *name, uint64_t start,
                                 GError **error);

/*
 * One more map that each checkpoint of the disk holds, and that a crash makes a
 * superset (a job's).
 */
typedef struct StoreBits {
    char file[STORE_NAME_MAX + 32]; /* below the disk's directory */
    DiskMap *map;                   /* all generations count */
    bool has_file;                  /* the store's own */
} StoreBits;
void store_bits_add(Store *store, Disk *disk, StoreBits *bits);
void store_bits_remove(Store *store, Disk *disk, StoreBits *bits);
/* What the last checkpoint had, into bits->map, which is all clean; and, unless
 * the end was clean, what the guest may have written since if @is_recording.
 * All of it, if there is nothing to be believed. Before store_serve(). */
gboolean store_bits_load(Store *store, Disk *disk, StoreBits *bits,
                         bool is_recording, GError **error);
