/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named.h - the named dirty bitmaps of a disk
 *
 * Purpose: bitmaps that a user asks for by name: each says what the guest has
 *          changed since it was made, or cleared, at a granularity of its own.
 *          Adding, removing, clearing, enabling, disabling, merging, and what
 *          a job does with one: QEMU's semantics, but for damage.
 * Threads: changes are the main thread's alone; whatever else it says "any
 *          thread" of takes the lock of the disk's map inside. Recording is
 *          done by whoever writes, under that lock (disk-map.h). No call does
 *          any I/O; long ones let others in between.
 * Units:   bytes; granularity is a power of two of bytes, as its logarithm.
 * Shapes:  ids are of the store, count up and are never used twice; they fit
 *          an inode number.
 * Errors:  enum NamedResult; whatever is not NAMED_OK has changed nothing.
 * Source:  QEMU's bitmaps.rst, iotests 236, 246, 257.
 *
 * While a job works with one
 *
 *   named_freeze()     S stays what it is; a successor records what is changed
 *                      from now on, N, if the bitmap did
 *   named_thaw()       NAMED_NEW    it becomes N
 *                      NAMED_OLD    it becomes S | N
 *                      NAMED_REST   it becomes R | N, R: what the job has not
 *                                   copied
 *
 * and in between it is busy: nobody but the job may change it.
 */
#pragma once

#include "disk-map.h"

#define NAMED_ID_MAX   ((UINT64_C(1) << 20) - 1)
#define NAMED_NAME_MAX 64
#define NAMED_MOST \
    1000 /* of a disk: each is marked by each write, and is \
                                   looked for in a list */
#define NAMED_GRAIN_LEAST  9  /* 512 B */
#define NAMED_GRAIN_MOST   31 /* 2 GiB */
#define NAMED_GRAIN_COMMON 16

typedef struct NamedBitmaps NamedBitmaps;
typedef struct NamedBitmap NamedBitmap;

enum NamedResult {
    NAMED_OK,
    NAMED_EXISTS,
    NAMED_MISSING,
    NAMED_BUSY, /* a job's */
    NAMED_BAD_GRAIN,
    NAMED_NO_MEMORY,
    NAMED_TOO_MANY,
};

struct NamedSpec {
    const char *name;
    uint64_t id;
    unsigned grain_bits;
    bool is_persistent; /* else it ends with the daemon */
    bool is_disabled;   /* records nothing until it is enabled */
};

/* Those of the disk of @map, which must outlive them. */
NamedBitmaps *named_bitmaps_new(DiskMap *map);
void named_bitmaps_free(NamedBitmaps *set);

/*
 * Changes: the main thread
 */
enum NamedResult named_add(NamedBitmaps *set, const struct NamedSpec *spec,
                           NamedBitmap **made); /* @made may be NULL */
enum NamedResult named_remove(NamedBitmaps *set, const char *name);
enum NamedResult named_clear(NamedBitmaps *set, const char *name);
enum NamedResult named_enable(NamedBitmaps *set, const char *name);
enum NamedResult named_disable(NamedBitmaps *set, const char *name);
/* @target |= each of @sources (of this disk), all or nothing; what has coarser
 * grains is widened. Sources stay as they are. */
enum NamedResult named_merge(NamedBitmaps *set, const char *target,
                             const char *const *sources, unsigned count);
/* Mark what @run of bytes touches; not of a busy one. */
enum NamedResult named_mark(NamedBitmaps *set, const char *name,
                            uint64_t offset, uint64_t len);
/* ... what @bits has, which are the caller's, of this disk's size or another one,
 * in any grains. */
enum NamedResult named_mark_bits(NamedBitmaps *set, const char *name,
                                 const Bitmap *bits);

/* A copy of what it is now, and back, for a transaction that fails in the
 * middle: of one that was added that removes it, of one that was removed that
 * brings it back (what was written meanwhile, too: removed ones go on recording
 * until their undo is freed). NULL: no memory. */
typedef struct NamedUndo NamedUndo;
NamedUndo *named_undo_new(NamedBitmaps *set, const char *name);
void named_undo_run(NamedUndo *undo); /* and frees it */
void named_undo_free(NamedUndo *undo);

/* For a job. The pointer is good until named_thaw(). */
enum NamedResult named_freeze(NamedBitmaps *set, const char *name,
                              NamedBitmap **frozen);
/* One that is busy, as named_restore() has it again, for the job that it is of;
 * NULL: there is no such bitmap, or it is not. */
NamedBitmap *named_frozen(NamedBitmaps *set, const char *name);
/* What the job is to copy of it: S, and N as it is now, into @into, which may
 * have other grains. The successor keeps N. */
void named_merge_into(NamedBitmap *frozen, DiskMap *into, int64_t now_us);
/* What was changed so far is in what the job brings: N begins anew, and S has
 * what N had, for NAMED_OLD. To be called before the instant that the job's end
 * is of. */
void named_renew(NamedBitmap *frozen);
enum NamedEnd { NAMED_NEW, NAMED_OLD, NAMED_REST };
/* @rest: of the job's map, all generations; may be NULL unless NAMED_REST. */
void named_thaw(NamedBitmap *frozen, enum NamedEnd end, DiskMap *rest);

/* Of a store that is opened: a bitmap as it was kept, of this disk's size or a
 * smaller one. @bits and @successor (NULL: it was not busy; with one it is busy
 * again) are taken if it is NAMED_OK. NAMED_EXISTS: the name, or the id. */
enum NamedResult named_restore(NamedBitmaps *set, const struct NamedSpec *spec,
                               Bitmap *bits, Bitmap *successor);

/*
 * Any thread
 */
struct NamedFigures {
    char name[NAMED_NAME_MAX + 1];
    uint64_t id;
    uint64_t count_bytes; /* dirty; at most the size of the disk */
    unsigned grain_bits;
    bool is_enabled; /* it records, or its successor does */
    bool is_busy;    /* it has a successor */
    bool is_persistent;
    uint64_t new_bytes; /* what the successor has */
    uint64_t version;   /* changes with each that is not recording */
};
unsigned named_count(NamedBitmaps *set);
/* By place, in the order in which they were added; by name; by id. False: there
 * is none. */
bool named_at(NamedBitmaps *set, unsigned index, struct NamedFigures *figures);
bool named_find(NamedBitmaps *set, const char *name,
                struct NamedFigures *figures);
bool named_get(NamedBitmaps *set, uint64_t id, struct NamedFigures *figures);
/* The one with the next larger id, that is the next younger one. */
bool named_after(NamedBitmaps *set, uint64_t id, struct NamedFigures *figures);
/* The first range of bytes at or behind @from that is dirty in bitmap @id; it is
 * cut at @most bytes. False: there is none, or no such bitmap. */
bool named_next(NamedBitmaps *set, uint64_t id, uint64_t from, uint64_t most,
                uint64_t *offset, uint64_t *len);
/* Copies for a checkpoint, of the size that it has now; @successor NULL if there
 * is none. -ENOENT: no such bitmap; -ENOMEM. They are the caller's. */
int named_copy(NamedBitmaps *set, uint64_t id, Bitmap **bits,
               Bitmap **successor);
