/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inode numbers and attributes. A node is never stored: its number says what
 * it is (rule 35), so that a live session can be handed to another process, and
 * FORGET means nothing.
 *
 *   63      56 55      40 39         20 19          0
 *   |  kind   | disk id  | snapshot 2  | snapshot 1  |
 *   |  kind   | disk id  |      0      |   bitmap    |
 *
 * Snapshots and bitmaps are by id, 0 is none; the second snapshot is what the
 * first one is compared with (changed-since). The root's number is 1, as FUSE
 * wants it. Names are in face-dir.c, what is special about snapshots in
 * face-snapnode.c, about bitmaps in face-bitmap.c.
 */
#include "face-wire.h"

#include <time.h>

#define ROOT_INO      1
#define KIND_SHIFT    56
#define DISK_SHIFT    40
#define DISK_MASK     0xffff
#define OTHER_SHIFT   20
#define SNAPSHOT_MASK SNAPSHOT_ID_MAX

_Static_assert(SNAPSHOT_ID_MAX < UINT64_C(1) << OTHER_SHIFT &&
                   2 * OTHER_SHIFT <= DISK_SHIFT,
               "two snapshots fit an inode number");
_Static_assert(NAMED_ID_MAX <= SNAPSHOT_MASK, "and so does a bitmap");

uint64_t
face_node_ino(enum FaceKind kind, unsigned disk_id)
{
    return face_node_snap_ino(kind, disk_id, 0, 0);
}

uint64_t
face_node_snap_ino(enum FaceKind kind, unsigned disk_id, uint64_t id,
                   uint64_t other)
{
    assert(disk_id <= DISK_MASK);
    assert(id <= SNAPSHOT_ID_MAX);
    assert(other <= SNAPSHOT_ID_MAX);
    if (kind == FACE_KIND_ROOT) {
        return ROOT_INO;
    }
    return (uint64_t)kind << KIND_SHIFT | (uint64_t)disk_id << DISK_SHIFT |
           other << OTHER_SHIFT | id;
}

enum FaceKind
face_node_kind(uint64_t ino)
{
    return (enum FaceKind)(ino >> KIND_SHIFT);
}

unsigned
face_node_disk_id(uint64_t ino)
{
    return (ino >> DISK_SHIFT) & DISK_MASK;
}

uint64_t
face_node_snapshot(uint64_t ino)
{
    return face_node_kind(ino) == FACE_KIND_ROOT ? 0 : ino & SNAPSHOT_MASK;
}

uint64_t
face_node_other(uint64_t ino)
{
    return ino >> OTHER_SHIFT & SNAPSHOT_MASK;
}

FaceDisk *
face_disk_by_id(Face *face, unsigned disk_id)
{
    for (unsigned i = 0; i < face->n_disks; i++) {
        if (face->disks[i].disk->id == disk_id) {
            return &face->disks[i];
        }
    }
    return NULL;
}

FaceDisk *
face_disk_of(Face *face, uint64_t node)
{
    if (face_node_kind(node) != FACE_KIND_DISK) {
        return NULL;
    }
    return face_disk_by_id(face, face_node_disk_id(node));
}

void
face_disk_owner(Face *face, const Disk *disk, struct FaceAttr *attr)
{
    const struct FaceConfig *config = &face->config;

    attr->mode = S_IFREG | (disk->attr.mode ? disk->attr.mode : config->mode);
    attr->uid = disk->attr.uid != (uid_t)-1 ? disk->attr.uid : config->uid;
    attr->gid = disk->attr.gid != (gid_t)-1 ? disk->attr.gid : config->gid;
}

void
face_disk_inode(const Disk *disk, struct FaceAttr *attr)
{
    struct stat st = {0};

    /* An inode's figures, from memory: no I/O. */
    if (fstat(disk->map_fd, &st) < 0) {
        st = (struct stat){0};
    }
    attr->blocks = (uint64_t)st.st_blocks;
    attr->atime = disk->attr.atime.tv_sec ? disk->attr.atime : st.st_mtim;
    attr->mtime = disk->attr.mtime.tv_sec ? disk->attr.mtime : st.st_mtim;
}

static bool
disk_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    FaceDisk *of = face_disk_of(face, ino);

    if (!of || ino != face_node_ino(FACE_KIND_DISK, of->disk->id)) {
        return false;
    }
    face_disk_owner(face, of->disk, attr);
    face_disk_inode(of->disk, attr);
    attr->size_bytes = of->disk->size_bytes;
    return true;
}

mode_t
face_dir_mode(const Face *face)
{
    mode_t mode = face->config.mode;

    /* Whoever may open the disks may come in. */
    return S_IFDIR | S_IRUSR | S_IXUSR | mode | (mode & 0444) >> 2;
}

bool
face_node_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    enum FaceKind kind = face_node_kind(ino);

    *attr = (struct FaceAttr){
        .ino = ino,
        .uid = face->config.uid,
        .gid = face->config.gid,
        .nlink = 1,
    };
    clock_gettime(CLOCK_REALTIME_COARSE, &attr->mtime);
    attr->atime = attr->mtime;
    switch (kind) {
    case FACE_KIND_DISK:
        return disk_attr(face, ino, attr);
    case FACE_KIND_ROOT:
    case FACE_KIND_WEIR:
        attr->mode = face_dir_mode(face) & ~(mode_t)0222;
        attr->nlink = 2;
        return ino == face_node_ino(kind, 0);
    case FACE_KIND_STATUS:
    case FACE_KIND_METRICS:
        attr->mode = S_IFREG | (face->config.mode & 0444);
        /* Made at open; this is how long it was last time. */
        attr->size_bytes = face->last_text_len[kind == FACE_KIND_METRICS];
        return ino == face_node_ino(kind, 0);
    case FACE_KIND_SNAPS:
    case FACE_KIND_LATEST:
    case FACE_KIND_UPLOADED:
    case FACE_KIND_SNAP:
    case FACE_KIND_SNAP_DISK:
    case FACE_KIND_SNAP_INFO:
    case FACE_KIND_SINCE:
    case FACE_KIND_CHANGED:
    case FACE_KIND_CHANGED_DISK:
        return face_snap_attr(face, ino, attr);
    case FACE_KIND_BITMAPS:
    case FACE_KIND_BITMAP_DISK:
    case FACE_KIND_BITMAP:
        return face_bitmap_attr(face, ino, attr);
    case FACE_KINDS:
    default:
        return false;
    }
}
