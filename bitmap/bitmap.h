/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap.h - one dirty bitmap: flat words under summary levels
 *
 * Purpose: says of each cluster of a disk whether it is dirty; finds the next
 *          dirty or clean run without reading the whole map.
 * Threads: none of its own; whoever embeds a Bitmap guards it.
 * Units:   public offsets in bytes or clusters, as each name says.
 * Shapes:  level 0 has one bit per cluster (64 TiB at 64 KiB: 128 MiB). Above
 *          it stand two summaries of 64 to 1: "some bit below is set" and
 *          "some bit below is clear". All levels are anonymous memory that
 *          is touched where it is used: an all-clean map costs nothing.
 *          The second is stored the other way round ("no bit below is clear")
 *          so that zeroes stand for all clean.
 * Errors:  NULL or -ENOMEM when there is no memory; ranges outside the disk
 *          are a caller's bug and are asserted.
 */
#pragma once

#include "range.h"

#include <stddef.h>

typedef struct Bitmap Bitmap;

Bitmap *bitmap_new(uint64_t size_bytes, unsigned cluster_bits);
void bitmap_free(Bitmap *map);

/* A larger disk: new clusters are clean. 0 or -ENOMEM, then unchanged. */
int bitmap_grow(Bitmap *map, uint64_t size_bytes);
/* The memory for that, so that bitmap_grow() cannot fail. 0 or -ENOMEM. */
int bitmap_reserve(Bitmap *map, uint64_t size_bytes);

uint64_t bitmap_size_bytes(const Bitmap *map);
unsigned bitmap_cluster_bits(const Bitmap *map);
uint64_t bitmap_clusters(const Bitmap *map); /* in the disk */
uint64_t bitmap_count(const Bitmap *map);    /* dirty ones, kept up to date */

bool bitmap_get(const Bitmap *map, uint64_t cluster);
/* It will be set soon: the processor may fetch what that needs. */
void bitmap_expect(const Bitmap *map, uint64_t cluster);

/* Both return how many bits they changed. */
uint64_t bitmap_set_run(Bitmap *map, struct ClusterRun run);
uint64_t bitmap_clear_run(Bitmap *map, struct ClusterRun run);

/* Bytes to clusters: set outward, clear inward (rule 7). */
uint64_t bitmap_set_bytes(Bitmap *map, uint64_t offset, uint64_t len);
uint64_t bitmap_clear_bytes(Bitmap *map, uint64_t offset, uint64_t len);

void bitmap_set_all(Bitmap *map);
void bitmap_clear_all(Bitmap *map); /* gives the memory back */

/* Number of dirty clusters in @run. */
uint64_t bitmap_count_run(const Bitmap *map, struct ClusterRun run);

/* First dirty (clean) cluster at or after @from, or UINT64_MAX. */
uint64_t bitmap_next_dirty(const Bitmap *map, uint64_t from);
uint64_t bitmap_next_clean(const Bitmap *map, uint64_t from);

/* First dirty run at or after @from, at most @max long; false if none. */
bool bitmap_next_run(const Bitmap *map, uint64_t from, uint64_t max,
                     struct ClusterRun *run);

/* @map |= @other. Same size and granularity. Returns bits newly set. */
uint64_t bitmap_merge(Bitmap *map, const Bitmap *other);
/* The same for the clusters of @run only, which both maps have. */
uint64_t bitmap_merge_run(Bitmap *map, const Bitmap *other,
                          struct ClusterRun run);

/* Word @w of level 0, read only if the summary says that it is not zero. */
uint64_t bitmap_word(const Bitmap *map, uint64_t w);

/* The words of level 0, for the on-disk form; bit i of word w is cluster
 * 64 * w + i. bitmap_load_words() sets @count words from @first_word on. */
const uint64_t *bitmap_words(const Bitmap *map, size_t *count);
void bitmap_load_words(Bitmap *map, size_t first_word, const uint64_t *words,
                       size_t count);

/* Counters and summaries recomputed and compared; asserts. For tests. */
void bitmap_check(const Bitmap *map);
