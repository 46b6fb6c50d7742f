/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-private.h - the named bitmaps of a disk, from within
 *
 * Purpose: what the named*.c share.
 * Threads: the lock of the disk's map guards all that is not set at creation.
 *          Only the main thread changes anything but bits, so that it may look
 *          at the rest without the lock; *_locked: with it.
 * Units:   bytes.
 */
#pragma once

#include "disk-map-private.h"
#include "named.h"

struct NamedBitmap {
    /* set at creation */
    NamedBitmaps *set;
    char name[NAMED_NAME_MAX + 1];
    uint64_t id;
    unsigned grain_bits;
    bool is_persistent;

    /* guarded by the map's lock */
    NamedBitmap *next;
    bool is_enabled; /* as the user said */
    uint64_t version;
    DiskMapRecorder now;   /* S, or all of it */
    DiskMapRecorder later; /* N; no bits: it is not busy */
};

struct NamedBitmaps {
    DiskMap *map;
    /* guarded by its lock */
    NamedBitmap *first; /* in the order of their ids, which is their age */
    unsigned count;
    uint64_t version; /* the last one given out */
};

static inline bool
named_is_busy(const NamedBitmap *bitmap)
{
    return bitmap->later.bits;
}

/* named.c */
NamedBitmap *named_by_name(const NamedBitmaps *set, const char *name);
NamedBitmap *named_by_id(const NamedBitmaps *set, uint64_t id);
/* Not in the list, and its recorders are not attached; takes nothing if it is
 * NULL. It has no bits yet. */
NamedBitmap *named_bitmap_new(NamedBitmaps *set, const struct NamedSpec *spec);
void named_bitmap_free(NamedBitmap *bitmap);
void named_insert_locked(NamedBitmap *bitmap);
/* Out of the list; its recorders are detached. */
void named_take_out_locked(NamedBitmap *bitmap);
/* Who records follows from what it is. */
void named_changed_locked(NamedBitmap *bitmap);
/* @of begins with @fresh, which may be NULL or of an earlier size: then it is
 * emptied where it is. Returns what is to be freed, without the lock. */
Bitmap *named_renew_locked(DiskMapRecorder *of, Bitmap *fresh);
/* All clean, of the size that the disk has now. */
Bitmap *named_bits_new(const NamedBitmaps *set, unsigned grain_bits);

/* named-merge.c: bits of one granularity into those of another */
struct NamedSink {
    Bitmap *bits; /* or */
    DiskMap *job; /* its open generation; its lock is held, too */
    int64_t now_us;
};
/* The next slice from byte *@at on, which moves on; false: it was the last. All
 * of @from have one granularity. */
bool named_merge_step_locked(const struct NamedSink *into,
                             const Bitmap *const *from, unsigned count,
                             uint64_t *at);
/* All of it, letting others in between. @from has to stay. */
void named_merge_bits(NamedBitmaps *set, Bitmap *into, const Bitmap *from);
/* The same for a job's map, @from or @into which. */
void named_merge_to_job(NamedBitmaps *set, DiskMap *into, const Bitmap *from,
                        int64_t now_us);
void named_merge_from_job(NamedBitmaps *set, Bitmap *into, DiskMap *from);
/* The bytes of a dirty grain or more, at or behind @from; at most those of the
 * disk. */
bool named_next_bytes(const Bitmap *bits, uint64_t from, uint64_t *offset,
                      uint64_t *len);
