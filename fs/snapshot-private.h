/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot-private.h - what the files behind snapshot.h share
 *
 * Purpose: the directories of an opened store that snapshots are in, and the
 *          files of points that are open.
 * Threads: main and the one that reaps; what both use is behind the lock.
 * Units:   bytes.
 * Shapes:  STORE/snapshots/ID, ID.gone; STORE/NAME/points/ID.map, ID.data
 * Errors:  0 or -errno.
 */
#pragma once

#include "bitmap/point-file.h"
#include "snapshot.h"
#include "store-private.h"

#define SNAPSHOT_RECORD_MAX (64u << 10)
#define SNAPSHOT_GONE       ".gone"
#define SNAPSHOT_MAP        ".map"
#define SNAPSHOT_DATA       ".data"
#define SNAPSHOT_DAMAGED    "damaged-" /* and the id: in place of a name */
#define SNAPSHOT_NAME_LEN   32         /* of a file of these, with its NUL */

/* The files of one point; an fd is -errno if there is none. */
struct PointFiles {
    unsigned disk; /* Disk.index */
    uint64_t id;
    int map_fd, data_fd;
};

struct SnapshotFiles {
    GMutex lock;
    /* guarded by lock; only main changes the directories */
    int dir_fd;                     /* STORE/snapshots; -1: there is none */
    int points_fd[STORE_DISKS_MAX]; /* by Disk.index, likewise */
    GArray *open;                   /* PointFiles, all that are in a chain */
    GArray *gone;                   /* ids, oldest first */
    /* main's */
    bool is_dir_made; /* durably */
    bool are_points_made[STORE_DISKS_MAX];
    uint64_t read_bytes; /* of a store that is opened to read */
};

struct SnapshotFiles *snapshot_files_new(void);
void snapshot_files_free(StoreIo *io, struct SnapshotFiles *files);

int snapshot_files_dir(Store *store);
int snapshot_files_points(Store *store, const Disk *disk);
/* The directories, made and durable. */
int snapshot_files_make_dir(Store *store);
int snapshot_files_make_points(Store *store, const Disk *disk);

/* The fds of a point are kept from here on, and closed by the last one. */
void snapshot_files_add(Store *store, const struct PointFiles *point);
void snapshot_files_get(Store *store, const Disk *disk, uint64_t id,
                        struct PointFiles *point);
void snapshot_files_drop(Store *store, const Disk *disk, uint64_t id);
void snapshot_files_set_gone(Store *store, uint64_t id, bool is_gone);

/* Before the files of that many more snapshots are opened: the process may have
 * so many, if it may allow that itself. */
void snapshot_files_allow(Store *store, unsigned points);

/* @call for each name in a directory. 0 or -errno: not all were seen. */
int snapshot_files_names(int dir_fd, void (*call)(const char *name, void *user),
                         void *user);

/* "5.map" of 5 and ".map"; 5 of it, or 0 if it is something else. */
void snapshot_file_name(char name[SNAPSHOT_NAME_LEN], uint64_t id,
                        const char *suffix);
uint64_t snapshot_file_id(const char *name, const char *suffix);

/* store-draft.c: the record of one that is gone goes. */
int store_record_forget(Store *store, uint64_t id);

/* store-points.c */
struct PointMark store_point_mark(const uint8_t uuid[16], unsigned disk_id,
                                  uint64_t id);
void store_point_open(StoreIo *io, int dir_fd, bool is_read_only,
                      struct PointFiles *files);
/* New ones, empty, of the size that the disk has; durable but for their names.
 */
int store_point_make(StoreIo *io, int dir_fd, uint64_t size_bytes,
                     unsigned cluster_bits, struct PointFiles *files);
void store_point_close(StoreIo *io, struct PointFiles *files);
/* What they say is kept, and of what that is not known: all that was kept in a
 * file that is missing or cut. */
void store_point_load(StoreIo *io, const struct PointFiles *files,
                      const struct PointMark *mark, Bitmap *kept,
                      Bitmap *unsure);
/* Was the process ended while it made them? Then nothing is kept. */
bool store_point_is_begun(const struct PointFiles *files);
/* The files of @id in @dir_fd go, whether they are there or not. */
int store_point_delete(StoreIo *io, int dir_fd, uint64_t id);
/* @run is kept, beside what @point has: that in the map, durably. */
int store_point_put(StoreIo *io, Point *point, const struct PointMark *mark,
                    struct ClusterRun run);
