/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * generations.h - the open bitmap of a disk and the sealed ones behind it
 *
 * Purpose: the bits of a DiskMap and their figures, apart from its lock.
 * Threads: none of its own; the DiskMap that embeds it guards it.
 * Units:   clusters; *_us are monotonic microseconds.
 * Shapes:  sealed[0] is the oldest; all bitmaps have one size.
 * Errors:  0 or -ENOMEM; runs outside the disk are asserted.
 */
#pragma once

#include "disk-map.h"

struct Generation {
    Bitmap *bits;
    uint64_t seq;
    int64_t first_mark_us; /* meaningless while bits are all clean */
};

typedef struct Generations {
    struct Generation open;
    struct Generation sealed[DISK_MAP_SEALED_MAX];
    unsigned n_sealed;
    uint64_t dirty_clusters;   /* in some generation */
    uint64_t dirtied_clusters; /* ever newly marked in the open one */
} Generations;

int generations_init(Generations *gens, uint64_t size_bytes,
                     unsigned cluster_bits);
void generations_deinit(Generations *gens);

/* A larger disk for all bitmaps, or for none of them. */
int generations_grow(Generations *gens, uint64_t size_bytes);

void generations_mark(Generations *gens, struct ClusterRun run, int64_t now_us);
/* Mark what is dirty in @from, for the clusters of @run. */
void generations_load(Generations *gens, const Bitmap *from,
                      struct ClusterRun run, int64_t now_us);

/* May the open generation be sealed: is something in it, and room? */
bool generations_can_seal(const Generations *gens);
/* Takes @spare, which is all clean, as the open one; returns the seq sealed. */
uint64_t generations_seal(Generations *gens, Bitmap *spare);
/* @run of the oldest sealed one becomes clean. */
void generations_settle(Generations *gens, struct ClusterRun run);
/* Hands over the bitmap of the oldest sealed one if it is all clean. */
Bitmap *generations_retire(Generations *gens);

/* Taking back: @slice by slice the open one gets what the sealed ones have,
 * then they are dropped, the newest first; NULL when none is left. */
void generations_reopen(Generations *gens, struct ClusterRun slice);
Bitmap *generations_drop_sealed(Generations *gens);
/* First run within [@from, @end) that some sealed one has. */
bool generations_next_sealed(const Generations *gens, uint64_t from,
                             uint64_t end, struct ClusterRun *run);

bool generations_is_clean(const Generations *gens, struct ClusterRun run);
/* How many clusters of @run are clean in every generation. */
uint64_t generations_count_clean(const Generations *gens,
                                 struct ClusterRun run);
/* First cluster of @slice that is clean everywhere; if there is none (!*found)
 * the place to go on from, UINT64_MAX at the end of the disk. */
uint64_t generations_next_clean(const Generations *gens,
                                struct ClusterRun slice, bool *found);
/* @into |= all of them, for the clusters of @run. */
void generations_merge(const Generations *gens, Bitmap *into,
                       struct ClusterRun run);

uint64_t generations_settled_seq(const Generations *gens);
uint64_t generations_sealed_clusters(const Generations *gens);
int64_t generations_oldest_mark_us(const Generations *gens);

static inline uint64_t
generations_clusters(const Generations *gens)
{
    return bitmap_clusters(gens->open.bits);
}
