/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * points-private.h - a point, for those who make one and who have it in a chain
 *
 * Purpose: what point.c and points.c share, and nobody else sees.
 * Threads: see points.h.
 */
#pragma once

#include "points.h"

struct Point {
    /* set at creation */
    uint64_t id;
    uint64_t size_bytes;
    int map_fd, data_fd;
    /* before it is added its maker's, then guarded by Points.lock; only the
     * writer changes them */
    Bitmap *kept, *unsure;
    Point *older, *younger;
    bool is_live;
    /* guarded by Points.lock */
    unsigned users; /* of its data file */
};
