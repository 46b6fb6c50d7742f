/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmaps.h - named bitmaps in a recording, and in what a crash leaves of it
 *
 * Purpose: a world's disk has some from the beginning on: "fine" is cleared now
 *          and then, "coarse" with being merged into "sum" by one save, "off" is
 *          disabled and enabled, jobs take "job" and give it back; "guest" is
 *          added and removed. What each has to say is known from the log: it is
 *          dirty wherever the disk is not what it was at its *base*, the instant
 *          of its last clearing.
 * Threads: the world's, the test's.
 * Units:   ticks.
 * Shapes:  in the log each clearing, and each removal, is a mark that begins and
 *          ends; offset is the tick of the base, len the number of the bitmap.
 * Errors:  as of the files that are asked.
 */
#pragma once

#include "judge-internal.h"
#include "world.h"

#define BITMAPS 6

/* Of a store at rest, before anything is recorded. */
void bitmaps_create(const char *path);
/* One of all these; nothing may be in flight. */
void bitmaps_work(World *world);
/* A number for all that each is, as @disk has them; false: it has none. */
bool bitmaps_sums(Disk *disk, uint64_t sums[BITMAPS]);
/* The store at @path, which was ended cleanly, has exactly @sums; @may_be_full:
 * or one that is all dirty, since its file could not be written. */
bool bitmaps_are_kept(StoreIo *io, const char *path,
                      const uint64_t sums[BITMAPS], bool may_be_full);

/* In the state that was chosen: each is there, usable, and a superset. */
bool judge_check_bitmaps(Judge *judge, Disk *disk);
