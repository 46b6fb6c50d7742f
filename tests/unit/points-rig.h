/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * points-rig.h - a face over a fake session, with snapshots
 *
 * Purpose: the test is the guest, and makes snapshots; a shadow of the disk as
 *          of each says what has to be found, through the points in memory, and
 *          through those that are read back from their files.
 * Threads: the test's; storage requests fail on the face's.
 * Errors:  cmocka's assertions.
 */
#pragma once

#include "tests/lib/fake-session.h"

#define BITS      16
#define CLUSTER   (UINT64_C(1) << BITS)
#define CLUSTERS  96
#define SIZE      (CLUSTERS * CLUSTER)
#define SNAPSHOTS 12

/* What is asked of the storage for a copy. */
enum PointsAsked {
    POINTS_COPY_READ,
    POINTS_DATA_WRITE,
    POINTS_DATA_SYNC,
    POINTS_MAP_WRITE, /* and synced, in one request */
    POINTS_ASKED
};

/* What it is to do, of one rig at a time. */
extern struct PointsFaults {
    StoreIo io;
    struct StoreIoOps ops;
    Disk *disk;
    atomic_int map_fd[SNAPSHOTS], data_fd[SNAPSHOTS];
    atomic_int error[POINTS_ASKED]; /* -errno: nothing of it is performed */
    int failed[POINTS_ASKED];       /* the face's: what the last one got */
    atomic_ullong bad_cluster;      /* ... of COPY_READ: of this one only */
    atomic_uint asked[POINTS_ASKED];
} points_faults;

struct PointsRig {
    FakeSession session;
    Disk *disk;
    unsigned char *now;
    unsigned char *then[SNAPSHOTS]; /* of snapshot i + 1; NULL: none */
    unsigned n;
    RangeHold *pin; /* given back when a snapshot had to wait; or NULL */
};

struct PointsRig *points_rig_new(void);
void points_rig_free(struct PointsRig *rig);

uint64_t points_rig_snapshot(struct PointsRig *rig); /* its id */
void points_rig_write(struct PointsRig *rig, uint64_t offset, uint64_t len,
                      unsigned char what);
void points_rig_discard(struct PointsRig *rig, uint64_t offset, uint64_t len);
/* When nobody is at work: who reads here takes no pins. */
void points_rig_assert_all(struct PointsRig *rig);
