/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point.c - one point, before it is in a chain
 *
 * Two bitmaps, and what does not change: who it is, how large the disk was, and
 * the files that somebody else opened and closes.
 */
#include "points-private.h"

#include <stdlib.h>

Point *
point_new(uint64_t id, uint64_t size_bytes, unsigned cluster_bits, int map_fd,
          int data_fd)
{
    Point *point = calloc(1, sizeof(*point));

    if (!point) {
        return NULL;
    }
    point->id = id;
    point->size_bytes = size_bytes;
    point->map_fd = map_fd;
    point->data_fd = data_fd;
    point->kept = bitmap_new(size_bytes, cluster_bits);
    point->unsure = bitmap_new(size_bytes, cluster_bits);
    if (!point->kept || !point->unsure) {
        point_free(point);
        return NULL;
    }
    return point;
}

void
point_free(Point *point)
{
    if (point) {
        bitmap_free(point->kept);
        bitmap_free(point->unsure);
        free(point);
    }
}

Bitmap *
point_kept(Point *point)
{
    return point->kept;
}

Bitmap *
point_unsure(Point *point)
{
    return point->unsure;
}

uint64_t
point_id(const Point *point)
{
    return point->id;
}

uint64_t
point_size_bytes(const Point *point)
{
    return point->size_bytes;
}

int
point_map_fd(const Point *point)
{
    return point->map_fd;
}

int
point_data_fd(const Point *point)
{
    return point->data_fd;
}
