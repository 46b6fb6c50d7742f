/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map-private.h - the DiskMap itself, and its lock
 *
 * Purpose: what disk-map.c and disk-map-heat.c share.
 * Threads: *_locked functions are called with the lock held.
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

/* disk-map-heat.c */
bool disk_map_is_hot_locked(const DiskMap *map, uint64_t offset, uint64_t len);
void disk_map_touch_locked(DiskMap *map, uint64_t offset, uint64_t len);
/* Memory first, so that growing cannot fail. */
int disk_map_reserve_heat_locked(DiskMap *map, uint64_t size_bytes);
void disk_map_grow_heat_locked(DiskMap *map, uint64_t size_bytes);
