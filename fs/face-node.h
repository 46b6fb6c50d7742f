/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-node.h - what there is in the mount: nodes, names, snapshots, bitmaps
 *
 * Purpose: inode numbers and what they say (rule 35), attributes, the entries of
 *          directories, and all that .snapshots and .bitmaps are made of.
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

/* Node kinds; with the ids of a disk and of snapshots, or of a bitmap, they make
 * the inode number (rule 35). */
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
    FACE_KIND_BITMAPS = 14, /* .bitmaps, and what is in it */
    FACE_KIND_BITMAP_DISK = 15,
    FACE_KIND_BITMAP = 16,
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
/* The same with one or two snapshots, or a bitmap in place of the first, 0: none;
 * and those of a node. */
uint64_t face_node_snap_ino(enum FaceKind kind, unsigned disk_id, uint64_t id,
                            uint64_t other);
uint64_t face_node_snapshot(uint64_t ino);
uint64_t face_node_other(uint64_t ino);
FaceDisk *face_disk_by_id(Face *face, unsigned disk_id);
/* False: there is no such node. */
bool face_node_attr(Face *face, uint64_t ino, struct FaceAttr *attr);
/* Mode and owner of the live disk. */
void face_disk_owner(Face *face, const Disk *disk, struct FaceAttr *attr);
/* Its times, and the blocks that it has locally. */
void face_disk_inode(const Disk *disk, struct FaceAttr *attr);
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

/* face-sparse.c: files that have only some of a disk, and holes elsewhere. Any
 * thread, but for lseek. */
struct FaceRange {
    uint64_t offset, len;
};
struct FaceSparse {
    uint64_t size_bytes; /* of the file */
    /* Of a changed-since file: what was overwritten between the two, and what
     * the other one was too small for. */
    Points *points;
    uint64_t older, younger;
    unsigned cluster_bits;
    uint64_t end, common; /* clusters of the file; that both snapshots have */
    /* Of a bitmap's: what is dirty now. NULL: it is not one. */
    NamedBitmaps *bitmaps;
    uint64_t bitmap;
};
/* False: there is no such node, or it is not one of them. */
bool face_sparse_of(Face *face, uint64_t node, struct FaceSparse *sparse);
/* The first range at or behind @from, maybe not all of it: another one may begin
 * where it ends. False: there is none. */
bool face_sparse_next(const struct FaceSparse *sparse, uint64_t from,
                      struct FaceRange *range);
void face_sparse_lseek(FaceReq *req);
/* Back from the helper, with req->seek_result. */
void face_sought(FaceReq *req);
/* face-snapnode.c's and face-bitmap.c's part of it */
bool face_change_of(Face *face, uint64_t node, struct FaceSparse *sparse);
bool face_bitmap_of(Face *face, uint64_t node, struct FaceSparse *sparse);

/* face-bitmap.c: .bitmaps */
bool face_bitmap_attr(Face *face, uint64_t ino, struct FaceAttr *attr);
/* By the name of its file; and the first one whose id is larger. */
bool face_bitmap_find(const FaceDisk *disk, const char *file, uint64_t *id);
bool face_bitmap_next(const FaceDisk *disk, uint64_t id,
                      struct NamedFigures *figures);
void face_bitmap_read(FaceReq *req);
/* Of what was read of the disk, only what is dirty stays. False: there is no such
 * bitmap any more. */
bool face_bitmap_mask(FaceReq *req);

/* face-snap.c: their data */
void face_snap_read(FaceReq *req);
void face_snap_lseek(FaceReq *req);
