/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job-gap.h - what is written between an order and the instant of its job
 *
 * Purpose: a transaction changes bitmaps at one instant, and the job that it
 *          begins with one of them has its own a little later. What the guest
 *          writes in between is brought as well, whether the bitmap records or
 *          not: else the copy would be of no instant at all.
 * Threads: main; the guest's writes mark it under the lock of the disk's map.
 * Errors:  NULL: no memory.
 */
#pragma once

#include "bitmap/disk-map.h"

typedef struct JobGap JobGap;

JobGap *job_gap_new(DiskMap *disk); /* records from here on */
void job_gap_free(JobGap *gap);
/* It ends, and what was written is dirty in @job as well. NULL: nothing was. */
void job_gap_merge(JobGap *gap, DiskMap *job, int64_t now_us);
