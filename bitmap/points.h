/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * points.h - where the content of a disk's snapshots is
 *
 * Purpose: a point is one snapshot of one disk: the clusters that the guest
 *          has overwritten since, with what was there before. A snapshot is
 *          read through its point and the younger ones: the first of them that
 *          has the cluster, else the disk itself. So a copy is made once,
 *          for the youngest snapshot, and serves all the older ones.
 * Threads: one writer, the fs thread (main while there is none), for add, keep,
 *          set_live and remove; whatever else it says "any thread" of takes the
 *          lock inside. No call does any I/O.
 * Units:   clusters; ids of snapshots, which only grow.
 * Shapes:  a copy is at its own offset of the point's data file, which is
 *          sparse: a hole in it is a cluster that was zero. Which clusters are
 *          there says the map file (point-file.h).
 * Errors:  NULL, -ENOMEM.
 */
#pragma once

#include "bitmap.h"

typedef struct Point Point;
typedef struct Points Points;

/*
 * A point, before it is added: nothing is kept, and nobody else knows it. The
 * fds stay the caller's; -1: there is no such file, and nothing is kept in it.
 */
Point *point_new(uint64_t id, uint64_t size_bytes, unsigned cluster_bits,
                 int map_fd, int data_fd);
void point_free(Point *point);
/* To be filled by whoever reads the map file: what is kept, and of what that is
 * not known because the file is damaged. */
Bitmap *point_kept(Point *point);
Bitmap *point_unsure(Point *point);

uint64_t point_id(const Point *point);
uint64_t point_size_bytes(const Point *point); /* of the disk, then */
int point_map_fd(const Point *point);
int point_data_fd(const Point *point);

Points *points_new(void);
void points_free(Points *points); /* and what was added */

/* The youngest one; live: a snapshot that somebody may read. */
void points_add(Points *points, Point *point);
/* Not live: nothing is kept for it any more, and it is there only as far as
 * older ones resolve to it. That is for good. */
void points_set_live(Points *points, uint64_t id, bool is_live);
/* Nobody resolves to it any more, and nobody reads there: NULL while somebody
 * does. Else the caller's. */
Point *points_remove(Points *points, uint64_t id);

/* For the writer: the youngest live point, which gets the copies, or NULL. */
Point *points_youngest(const Points *points);
/* ... and the first run within [@from, @end) whose content it would need if it
 * were overwritten now. */
bool points_next_missing(const Points *points, uint64_t from, uint64_t end,
                         struct ClusterRun *run);
/* It has them, durably: may they be overwritten. */
void points_keep(Points *points, Point *point, struct ClusterRun run);

/* For the writer: it is at work in the point's files, until points_done(). */
void points_use(Points *points, Point *point);

/*
 * Any thread
 */
enum PointsPlace {
    POINTS_DISK,   /* not overwritten since: on the disk itself */
    POINTS_FILE,   /* in *@point's data file; points_done() when it is read */
    POINTS_UNSURE, /* nobody knows: the map file is damaged */
    POINTS_GONE,   /* there is no such snapshot (any more) */
};
/* Where snapshot @id has @cluster, and how many of @max from there on are alike
 * (of the same point, if it is a file). What is read from a file counts if the
 * snapshot is live after that as well: its place may have been given back.
 * Beyond the size of then nothing is promised. */
enum PointsPlace points_find(Points *points, uint64_t id, uint64_t cluster,
                             uint64_t max, Point **point, uint64_t *count);
void points_done(Points *points, Point *point);

bool points_is_live(Points *points, uint64_t id);
unsigned points_count(Points *points); /* live or not */

/* First run within [@from, @end) that was, or may have been, overwritten between
 * the snapshots @a and @b, @a < @b; @b 0: now. It may go on behind its end.
 * False: none; nor if there is no such snapshot. @a is live. */
bool points_next_changed(Points *points, uint64_t a, uint64_t b, uint64_t from,
                         uint64_t end, struct ClusterRun *run);

/* Of a point that is not live: first run within [@from, @end) that it keeps and
 * no snapshot resolves to; its place in the file can be given back. It may go on
 * behind its end. Not useless: what is only covered by something unsure. */
bool points_next_useless(Points *points, uint64_t id, uint64_t from,
                         uint64_t end, struct ClusterRun *run);
/* Does some live snapshot resolve to something in it, or is it not known what
 * it has? A live one: yes. */
bool points_is_needed(Points *points, uint64_t id);

struct PointFigures {
    uint64_t size_bytes;    /* of the disk, then */
    uint64_t kept_clusters; /* those of zeroes, too */
    uint64_t unsure_clusters;
    unsigned cluster_bits;
    bool is_live;
};
/* False: there is none. */
bool points_figures(Points *points, uint64_t id, struct PointFigures *figures);
