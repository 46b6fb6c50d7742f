/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map-private.h - the DiskMap itself, and its lock
 *
 * Purpose: what disk-map.c, disk-map-heat.c and disk-map-record.c share, and
 *          named bitmaps, whose bits its lock guards.
 * Threads: *_locked functions are called with the lock held. Of two maps the
 *          disk's is locked before a job's.
 * Units:   bytes; hot and touched are bitmaps of extents (intent.h).
 */
#pragma once

#include "disk-map.h"
#include "generations.h"

#include <pthread.h>

struct DiskMap {
    /* set at creation */
    unsigned cluster_bits;

    pthread_mutex_t lock;
    /* guarded by lock */
    uint64_t size_bytes;
    Generations gens;
    RangeTable ranges;
    int64_t grant_us; /* now, for holds granted by the drop in progress */
    Bitmap *spare;    /* all clean, of this size; may be NULL */
    Bitmap *begun;    /* mutant: writes begun since the last seal */
    Bitmap *hot;      /* NULL: not tracked, all counts as hot */
    Bitmap *touched;  /* begun or ended in since the last disk_map_cool_begin();
                         there is one if there is hot */
    DiskMapRecorder *recorders; /* list */
};

static inline void
disk_map_lock(DiskMap *map)
{
    int r = pthread_mutex_lock(&map->lock);

    assert(r == 0);
}

static inline void
disk_map_unlock(DiskMap *map)
{
    int r = pthread_mutex_unlock(&map->lock);

    assert(r == 0);
}

/* disk-map.c: in the open generation, and nowhere else. */
void disk_map_mark_locked(DiskMap *map, uint64_t offset, uint64_t len,
                          int64_t now_us);

/* disk-map-record.c */
void disk_map_attach_locked(DiskMap *map, DiskMapRecorder *recorder);
void disk_map_detach_locked(DiskMap *map, DiskMapRecorder *recorder);
void disk_map_record_locked(DiskMap *map, uint64_t offset, uint64_t len,
                            int64_t now_us);
/* Memory first, so that growing cannot fail. */
int disk_map_reserve_records_locked(DiskMap *map, uint64_t size_bytes);
void disk_map_grow_records_locked(DiskMap *map, uint64_t size_bytes);

/* disk-map-heat.c */
bool disk_map_is_hot_locked(const DiskMap *map, uint64_t offset, uint64_t len);
void disk_map_touch_locked(DiskMap *map, uint64_t offset, uint64_t len);
/* Memory first, so that growing cannot fail. */
int disk_map_reserve_heat_locked(DiskMap *map, uint64_t size_bytes);
void disk_map_grow_heat_locked(DiskMap *map, uint64_t size_bytes);
