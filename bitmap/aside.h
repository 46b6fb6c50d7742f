/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * aside.h - old content of clusters that a cut still owes to the target
 *
 * Purpose: before a guest's write changes a cluster that a sealed generation
 *          owes, what was there is kept here; who reads the cluster for the
 *          target takes it from here. It need not survive a crash: after one,
 *          what was not settled is sealed again.
 * Threads: one writer, the fs thread, for all but the functions that say "any
 *          thread"; those take the lock inside, and no call does any I/O.
 * Units:   clusters; a buffer is one cluster, and aligned for O_DIRECT.
 * Shapes:  a copy is in a buffer, or at its own offset of a temporary file
 *          that its owner has (STORE/NAME/cow, sparse, without a name), or
 *          known to be all zeroes. Buffers are few; the file takes the rest:
 *
 *            take -> put -> (spill -> spilled) ... end
 *
 * Errors:  NULL, -ENOMEM; no buffer left is no error.
 */
#pragma once

#include "bitmap.h"

#define ASIDE_ALIGN 4096

typedef struct Aside Aside;

enum AsidePlace {
    ASIDE_NONE, /* not kept: what is on the disk is what was there */
    ASIDE_ZERO,
    ASIDE_RAM,
    ASIDE_FILE,
};

/* @ram_bytes: for all buffers, two at least. */
Aside *aside_new(uint64_t size_bytes, unsigned cluster_bits, size_t ram_bytes);
void aside_free(Aside *aside);
/* 0 or -ENOMEM, then unchanged. */
int aside_grow(Aside *aside, uint64_t size_bytes);

/* From here on copies are kept; nothing is kept yet. */
void aside_begin(Aside *aside);
/* All copies are dropped, and no more kept. Buffers that were taken and not
 * put, or are being spilled, are still their taker's. */
void aside_end(Aside *aside);
bool aside_is_on(const Aside *aside); /* NULL: no */

/* First run within [@from, @end) of clusters that are not kept. */
bool aside_next_missing(const Aside *aside, uint64_t from, uint64_t end,
                        struct ClusterRun *run);

/* An empty buffer, or NULL if there is none now. */
void *aside_take(Aside *aside);
void aside_give(Aside *aside, void *buffer); /* back, unused */
/* @buffer, which is the Aside's again, has the content of @cluster. */
void aside_put(Aside *aside, uint64_t cluster, void *buffer);
void aside_put_zeroes(Aside *aside, struct ClusterRun run);

/* The oldest copy that is in a buffer, to be written to the file; NULL: none,
 * or all are under way. */
const void *aside_spill(Aside *aside, uint64_t *cluster);
/* It is there, so that its buffer is free; or it could not be written, and
 * stays where it is. */
void aside_spilled(Aside *aside, const void *buffer, bool is_written);

/* Nobody needs the copy that is being spilled any more: it is no longer kept. */
void aside_drop(Aside *aside, const void *buffer);

/* Any thread: where the copies of a run from @cluster on are, of @max at most;
 * *@count are alike. What is in buffers is copied to @to, if that is not NULL,
 * one at a time. */
enum AsidePlace aside_fetch(Aside *aside, uint64_t cluster, uint64_t max,
                            void *to, uint64_t *count);
/* Any thread: first kept cluster within [@from, @end), or @end. */
uint64_t aside_next_kept(Aside *aside, uint64_t from, uint64_t end);

/* Any thread: the cluster that was put into a buffer next after *@mark, a number
 * of puts, and whose copy is still there; *@mark is moved up to it. False: none. */
bool aside_next_put(Aside *aside, uint64_t *mark, uint64_t *cluster);

struct AsideFigures {
    uint64_t kept_clusters; /* now, but for zeroes */
    uint64_t file_clusters; /* ... of them in the file */
    unsigned free_buffers, buffers;
};
void aside_figures(Aside *aside, struct AsideFigures *figures); /* any thread */
