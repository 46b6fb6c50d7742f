/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map.h - what the guest's side and the relay share about one disk
 *
 * Purpose: the generations of the dirty bitmap (one open, the sealed ones in
 *          a queue, oldest first) and the range table, behind one short lock.
 *          Guest writes mark the open generation, before submission and again
 *          at completion; the relay clears only sealed bits. Sealing is O(1).
 * Threads: any thread may call; each call takes the lock itself, never blocks
 *          on anything else and costs at most the words it touches. The
 *          `granted` callback of a hold runs under the lock.
 * Units:   bytes at the guest's face, clusters at the relay's; *_us are
 *          monotonic microseconds that the caller brings.
 * Shapes:  generation seq numbers count up from 1 and are never reused in
 *          one run; at most DISK_MAP_SEALED_MAX sealed ones at a time.
 * Errors:  NULL, -ENOMEM; ranges outside the disk are asserted.
 */
#pragma once

#include "bitmap.h"
#include "range-table.h"

#define DISK_MAP_SEALED_MAX 8

typedef struct DiskMap DiskMap;

DiskMap *disk_map_new(uint64_t size_bytes, unsigned cluster_bits);
void disk_map_free(DiskMap *map);

uint64_t disk_map_size_bytes(DiskMap *map);
unsigned disk_map_cluster_bits(DiskMap *map);
uint64_t disk_map_clusters(DiskMap *map);

/* New clusters are dirty in the open generation: the target's tail may hold
 * anything. */
int disk_map_grow(DiskMap *map, uint64_t size_bytes, int64_t now_us);

/*
 * The guest's side. begin: takes the range and marks what it touches (rule 1),
 * or parks it (it is marked when it is granted). If some extent of a range to
 * be written is cold nothing is taken or marked, and nobody is called back. A
 * hold that was parked may find its range cold when it is granted; its owner
 * looks with disk_map_is_hot(), and drops it then. While it is held it stays
 * hot. end: marks again and drops the range, in one step. Reads take nothing.
 */
enum DiskMapBegin {
    DISK_MAP_BEGUN,
    DISK_MAP_PARKED,
    DISK_MAP_COLD,
};
enum DiskMapBegin disk_map_begin(DiskMap *map, RangeHold *hold, int64_t now_us);
void disk_map_end(DiskMap *map, RangeHold *hold, int64_t now_us);

/*
 * Extents (intent.h) that may be written without asking anybody. Off until
 * disk_map_track(): then everything counts as hot, and the functions about
 * extents, but for is_hot and is_tracked, must not be called.
 */

/* Takes @hot, extents of this size. 0 or -ENOMEM, then @hot is the caller's. */
int disk_map_track(DiskMap *map, Bitmap *hot);
bool disk_map_is_tracked(DiskMap *map);
bool disk_map_is_hot(DiskMap *map, uint64_t offset, uint64_t len);
/* They are in the intent file, durably. */
void disk_map_heat(DiskMap *map, struct ClusterRun extents);
/* Words of hot extents from word @first on; fewer at the end of the disk. */
size_t disk_map_hot_words(DiskMap *map, uint64_t first, uint64_t *words,
                          size_t count);

/* Which extents might become cold: disk-map-heat.c says what has to happen
 * between the two. Bitmaps of extents; a disk that grew meanwhile does not
 * matter. Both return how many they found. */
uint64_t disk_map_cool_begin(DiskMap *map, Bitmap *candidates);
uint64_t disk_map_cool_end(DiskMap *map, const Bitmap *candidates,
                           Bitmap *cooled);

/*
 * Recorders: who else wants to know what the guest changes. They are marked
 * where the open generation is, in the same step and under the same lock, which
 * guards what they mark as well; but not by what marks the map for its own
 * purposes (disk_map_mark() and the like). One has bits of its own, or the map
 * of a job, or both, or neither.
 */
typedef struct DiskMapRecorder {
    /* NULL: none. Any granularity, of this size; it grows with the disk, and
     * what it grows by is clean. */
    Bitmap *bits;
    /* NULL: none. Marked in its open generation, as far as it goes: it does not
     * grow. Its lock is taken under this map's, never the other way round. */
    DiskMap *job;
    bool is_idle;                 /* it grows, but nothing marks it */
    struct DiskMapRecorder *next; /* the map's */
} DiskMapRecorder;
void disk_map_attach(DiskMap *map, DiskMapRecorder *recorder);
void disk_map_detach(DiskMap *map, DiskMapRecorder *recorder);
/* The guest changed it, or may have, and holds nothing: a discard that is on its
 * list, what a crash makes doubtful, a rollback. The open generation and all
 * recorders; a large range in slices. */
void disk_map_changed(DiskMap *map, uint64_t offset, uint64_t len,
                      int64_t now_us);

/* Mark without holding: imports, target changes. */
void disk_map_mark(DiskMap *map, uint64_t offset, uint64_t len, int64_t now_us);
void disk_map_mark_all(DiskMap *map, int64_t now_us);

/*
 * The relay's side.
 */

/* Seal the open generation; returns its seq. 0 when the open one is empty, the
 * queue is full, or there is no memory for the next one. */
uint64_t disk_map_seal(DiskMap *map);
/* The memory for the next seal; false if there is none. For who must not be
 * delayed by it, or has to seal several maps or none. */
bool disk_map_provide(DiskMap *map);
/* Nothing of what is sealed was brought anywhere: it is open again, under the
 * oldest number that was sealed. For who settles and retires, and nobody else. */
void disk_map_unseal(DiskMap *map);

/* Seq of the open generation: what is marked now will be settled once
 * disk_map_settled_seq() has reached it. While nothing is marked in it the open
 * one counts as settled: whoever asked then has nothing to wait for. */
uint64_t disk_map_open_seq(DiskMap *map);
uint64_t disk_map_settled_seq(DiskMap *map);
/* Seq of the oldest sealed generation, 0 when there is none. */
uint64_t disk_map_sealed_seq(DiskMap *map);

/* Next dirty run of the oldest sealed generation; false if none. */
bool disk_map_next_sealed(DiskMap *map, uint64_t from, uint64_t max,
                          struct ClusterRun *run);

/* @run of the oldest sealed generation is settled at the target. */
void disk_map_settle(DiskMap *map, struct ClusterRun run);

/* Drop the oldest sealed generation if nothing in it is dirty any more;
 * returns whether it did. */
bool disk_map_retire(DiskMap *map);

/* First run, within [@from, @end), that some sealed generation still owes. */
bool disk_map_next_owed(DiskMap *map, uint64_t from, uint64_t end,
                        struct ClusterRun *run);
/* Hold a range without writing: pins, copies aside. True: it is held; false:
 * it is parked. Given back with disk_map_end(). */
bool disk_map_hold(DiskMap *map, RangeHold *hold);

/* Neither dirty in any generation nor held by a writer. */
bool disk_map_is_clean(DiskMap *map, uint64_t offset, uint64_t len);
/* First cluster at or after @from that is clean in every generation, or
 * UINT64_MAX. */
uint64_t disk_map_next_clean(DiskMap *map, uint64_t from);

struct DiskMapFigures {
    uint64_t dirty_clusters;   /* in the open or a sealed generation */
    uint64_t sealed_clusters;  /* owed: in the sealed ones */
    uint64_t dirtied_clusters; /* ever newly marked; only grows */
    unsigned sealed;           /* sealed generations */
    unsigned holds;            /* ranges held now */
    unsigned parked;           /* ... and parked */
    uint64_t hot_extents;      /* 0 when they are not tracked */
    int64_t oldest_mark_us;    /* first mark of the oldest generation that is
                                 not empty, 0 when all is clean */
};
void disk_map_figures(DiskMap *map, struct DiskMapFigures *figures);

/* The union of all generations: what a checkpoint holds. Same size and
 * granularity. */
void disk_map_union(DiskMap *map, Bitmap *into);
/* Mark what is dirty in @from (a checkpoint that was read back). */
void disk_map_load(DiskMap *map, const Bitmap *from, int64_t now_us);
