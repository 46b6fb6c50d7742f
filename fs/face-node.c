/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inode numbers, attributes and names. A node is never stored: its number
 * says what it is (rule 35), so that a live session can be handed to another
 * process, and FORGET means nothing.
 *
 *   63      56 55      40 39                     0
 *   |  kind   | disk id  | snapshot id, 0 = live |
 *
 * The root's number is 1, as FUSE wants it. MNT/.weir is hidden from readdir
 * and found by name; entries of that folder have no time-out, so that nothing
 * ever has to be invalidated (rule 31).
 */
#include "face-wire.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ROOT_INO   1
#define KIND_SHIFT 56
#define DISK_SHIFT 40
#define DISK_MASK  0xffff

uint64_t
face_node_ino(enum FaceKind kind, unsigned disk_id)
{
    assert(disk_id <= DISK_MASK);
    if (kind == FACE_KIND_ROOT) {
        return ROOT_INO;
    }
    return (uint64_t)kind << KIND_SHIFT | (uint64_t)disk_id << DISK_SHIFT;
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

FaceDisk *
face_disk_of(Face *face, uint64_t node)
{
    if (face_node_kind(node) != FACE_KIND_DISK) {
        return NULL;
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        if (face->disks[i].disk->id == face_node_disk_id(node)) {
            return &face->disks[i];
        }
    }
    return NULL;
}

static void
disk_attr(Face *face, Disk *disk, struct FaceAttr *attr)
{
    const struct FaceConfig *config = &face->config;
    struct stat st = {0};

    /* An inode's figures, from memory: no I/O. */
    if (fstat(disk->map_fd, &st) < 0) {
        st = (struct stat){0};
    }
    attr->size_bytes = disk->size_bytes;
    attr->blocks = (uint64_t)st.st_blocks;
    attr->mode = S_IFREG | (disk->attr.mode ? disk->attr.mode : config->mode);
    attr->uid = disk->attr.uid != (uid_t)-1 ? disk->attr.uid : config->uid;
    attr->gid = disk->attr.gid != (gid_t)-1 ? disk->attr.gid : config->gid;
    attr->atime = disk->attr.atime.tv_sec ? disk->attr.atime : st.st_mtim;
    attr->mtime = disk->attr.mtime.tv_sec ? disk->attr.mtime : st.st_mtim;
}

bool
face_node_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    FaceDisk *disk = face_disk_of(face, ino);
    enum FaceKind kind = face_node_kind(ino);
    /* Whoever may open the disks may come in. */
    mode_t dir_mode = face->config.mode | (face->config.mode & 0444) >> 2;

    *attr = (struct FaceAttr){
        .ino = ino,
        .uid = face->config.uid,
        .gid = face->config.gid,
        .nlink = 1,
    };
    clock_gettime(CLOCK_REALTIME_COARSE, &attr->mtime);
    attr->atime = attr->mtime;
    if (disk) {
        disk_attr(face, disk->disk, attr);
        return true;
    }
    switch (kind) {
    case FACE_KIND_ROOT:
    case FACE_KIND_WEIR:
        attr->mode = S_IFDIR | (dir_mode & 0555) | 0500;
        attr->nlink = 2;
        return ino == face_node_ino(kind, 0);
    case FACE_KIND_STATUS:
    case FACE_KIND_METRICS:
        attr->mode = S_IFREG | (face->config.mode & 0444);
        /* Made at open; this is how long it was last time. */
        attr->size_bytes = face->last_text_len[kind == FACE_KIND_METRICS];
        return ino == face_node_ino(kind, 0);
    case FACE_KIND_DISK:
    default:
        return false;
    }
}

uint64_t
face_node_child(Face *face, uint64_t dir, const char *name)
{
    char file[STORE_NAME_MAX + 5];

    if (face_node_kind(dir) == FACE_KIND_ROOT) {
        if (!strcmp(name, ".weir")) {
            return face_node_ino(FACE_KIND_WEIR, 0);
        }
        for (unsigned i = 0; i < face->n_disks; i++) {
            Disk *disk = face->disks[i].disk;

            snprintf(file, sizeof(file), "%s.raw", disk->name);
            if (!strcmp(name, file)) {
                return face_node_ino(FACE_KIND_DISK, disk->id);
            }
        }
    } else if (face_node_kind(dir) == FACE_KIND_WEIR) {
        if (!strcmp(name, "status.json")) {
            return face_node_ino(FACE_KIND_STATUS, 0);
        }
        if (!strcmp(name, "metrics")) {
            return face_node_ino(FACE_KIND_METRICS, 0);
        }
    }
    return 0;
}

/* Entry @index of @dir; false behind the last one. */
static bool
entry_at(Face *face, uint64_t dir, uint64_t index, uint64_t *ino,
         char name[STORE_NAME_MAX + 5])
{
    static const struct {
        enum FaceKind kind;
        const char *name;
    } weir[] = {
        {FACE_KIND_STATUS, "status.json"},
        {FACE_KIND_METRICS, "metrics"},
    };

    if (index < 2) {
        *ino = index ? face_node_ino(FACE_KIND_ROOT, 0) : dir;
        strcpy(name, index ? ".." : ".");
        return true;
    }
    index -= 2;
    if (face_node_kind(dir) == FACE_KIND_WEIR) {
        if (index >= G_N_ELEMENTS(weir)) {
            return false;
        }
        *ino = face_node_ino(weir[index].kind, 0);
        strcpy(name, weir[index].name);
        return true;
    }
    if (index >= face->n_disks) {
        return false;
    }
    *ino = face_node_ino(FACE_KIND_DISK, face->disks[index].disk->id);
    snprintf(name, STORE_NAME_MAX + 5, "%s.raw", face->disks[index].disk->name);
    return true;
}

void
face_readdir(FaceReq *req)
{
    unsigned char *buf = req->buffer + FACE_BLOCK_MAX;
    char name[STORE_NAME_MAX + 5];
    uint64_t ino, index = req->offset;
    size_t used = 0;

    if (face_node_kind(req->node) != FACE_KIND_ROOT &&
        face_node_kind(req->node) != FACE_KIND_WEIR) {
        face_reply_error(req, ENOTDIR);
        return;
    }
    while (entry_at(req->face, req->node, index, &ino, name)) {
        bool is_dir = name[0] == '.';

        index++;
        if (!face_wire_dirent(buf, &used, req->len, ino, name, is_dir, index)) {
            break;
        }
    }
    face_reply_data(req, buf, used);
}
