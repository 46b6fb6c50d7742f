/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-node.h - what there is in the mount: nodes, names, snapshots' files
 *
 * Purpose: inode numbers and what they say (rule 35), attributes, the entries of
 *          directories, and all that .snapshots is made of.
 * Threads: the fs thread's, but for what says otherwise.
 * Units:   bytes; blocks of 512 bytes; clusters.
 * Shapes:  see face-node.c for the numbers, face-dir.c for the tree.
 * Errors:  requests are answered with a positive errno.
 */
#pragma once

#include "face.h"
#include "snapshot.h"

typedef struct FaceReq FaceReq;
typedef struct FaceDisk FaceDisk;

/* Node kinds; with the ids of a disk and of snapshots they make the inode number
 * (rule 35). */
enum FaceKind {
    FACE_KIND_ROOT = 0,
    FACE_KIND_DISK = 1,
    FACE_KIND_WEIR = 2, /* .weir */
    FACE_KIND_STATUS = 3,
    FACE_KIND_METRICS = 4,
    FACE_KIND_SNAPS = 5, /* .snapshots, and what is in it */
    FACE_KIND_LATEST = 6,
    FACE_KIND_UPLOADED = 7,
    FACE_KIND_SNAP = 8,
    FACE_KIND_SNAP_DISK = 9,
    FACE_KIND_SNAP_INFO = 10,
    FACE_KIND_SINCE = 11, /* changed-since, and what is in it */
    FACE_KIND_CHANGED = 12,
    FACE_KIND_CHANGED_DISK = 13,
    FACE_KINDS
};

struct FaceAttr {
    uint64_t ino, size_bytes, blocks;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    unsigned nlink;
    struct timespec atime, mtime;
};

/* face-node.c */
uint64_t face_node_ino(enum FaceKind kind, unsigned disk_id);
enum FaceKind face_node_kind(uint64_t ino);
unsigned face_node_disk_id(uint64_t ino);
/* The same with one or two snapshots, 0: none; and those of a node. */
uint64_t face_node_snap_ino(enum FaceKind kind, unsigned disk_id, uint64_t id,
                            uint64_t other);
uint64_t face_node_snapshot(uint64_t ino);
uint64_t face_node_other(uint64_t ino);
FaceDisk *face_disk_by_id(Face *face, unsigned disk_id);
/* False: there is no such node. */
bool face_node_attr(Face *face, uint64_t ino, struct FaceAttr *attr);
/* Mode and owner of the live disk. */
void face_disk_owner(Face *face, const Disk *disk, struct FaceAttr *attr);
mode_t face_dir_mode(const Face *face);

/* face-dir.c */
/* The child of @dir by name; 0 if there is none. It may be gone already. */
uint64_t face_dir_child(Face *face, uint64_t dir, const char *name);
void face_readdir(FaceReq *req);

/* face-snapnode.c: .snapshots, but for data */
bool face_snap_attr(Face *face, uint64_t ino, struct FaceAttr *attr);
void face_readlink(FaceReq *req);
void face_mkdir(FaceReq *req);
void face_rmdir(FaceReq *req);
void face_forbidden(FaceReq *req);
/* The main thread has, or has not: a positive errno. */
void face_snap_answered(FaceReq *req, int error);
/* Some attributes of @req->shown have to be asked for: face_show_measured()
 * follows. False: they have not. */
bool face_snap_measure(FaceReq *req);
bool face_node_is_snap_file(uint64_t node);
/* Of such a file: which snapshot of which disk; @other 0, or the one that it is
 * compared with. False: it is none, or of no disk. Whether the snapshots exist
 * is not looked at. */
bool face_snap_of(Face *face, uint64_t node, FaceDisk **disk, uint64_t *id,
                  uint64_t *other);
/* Where a changed-since file has data: what was overwritten between the two, and
 * what the other one was too small for. Any thread. */
struct FaceChange {
    Points *points;
    uint64_t older, younger;
    unsigned cluster_bits;
    uint64_t size_bytes;  /* of the file */
    uint64_t end, common; /* clusters of the file; that both snapshots have */
};
bool face_change_of(Face *face, uint64_t node, struct FaceChange *change);
/* The first run at or behind @from; false: there is none. */
bool face_change_next(const struct FaceChange *change, uint64_t from,
                      struct ClusterRun *run);

/* face-snap.c: their data */
void face_snap_read(FaceReq *req);
void face_snap_lseek(FaceReq *req);
