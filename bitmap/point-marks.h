/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point-marks.h - what has to be dirty for a snapshot to be brought to a target
 *
 * Purpose: the two markings that make such a cut exact, see point-marks.c.
 * Threads: any one; locks are taken a run at a time, so that whoever writes is
 *          not held up, however much was overwritten.
 * Units:   clusters.
 * Errors:  none; there is no I/O, and no memory is needed.
 */
#pragma once

#include "disk-map.h"
#include "points.h"

/* Before the seal. True: something was marked that was clean. What follows the
 * seal must not begin before that is durable. */
bool point_marks_before(Points *points, uint64_t id, DiskMap *map,
                        int64_t now_us);
/* After it, and before anything of what was sealed may be settled. */
void point_marks_after(Points *points, uint64_t id, DiskMap *map,
                       int64_t now_us);
