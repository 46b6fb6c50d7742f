/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MNT/.bitmaps: the named bitmaps of each disk, as files.
 *
 *   .bitmaps/vda/NAME.raw   of the size of the disk; what is dirty in the bitmap
 *                           is data, as the disk has it now; the rest is holes
 *
 * Nothing is copied and nothing kept: the bitmap is looked at, and the disk read,
 * when somebody asks. So the file changes with every write that the bitmap
 * records, and with each command about it; the kernel caches nothing of it. Who
 * wants one that stays disables the bitmap, or merges it into another one.
 *
 * A part with nothing dirty in it is answered from memory. Else the disk is read
 * as by any reader, and what is clean is made zero after that: what the guest
 * writes meanwhile may be in or out, as with every read that overlaps a write.
 *
 * The main thread changes the list of bitmaps at any time; it is asked again for
 * each request, and ids are never used twice.
 */
#include "face-wire.h"

#include <errno.h>
#include <string.h>

#define SUFFIX ".raw"

/* The disk of a bitmap's node, and the bitmap as it is now. */
static FaceDisk *
find_bitmap(Face *face, uint64_t node, struct NamedFigures *figures)
{
    FaceDisk *disk = face_disk_by_id(face, face_node_disk_id(node));
    bool is_bitmap =
        face_node_kind(node) == FACE_KIND_BITMAP && face_node_other(node) == 0;

    return is_bitmap && disk && disk->disk->bitmaps &&
                   named_get(disk->disk->bitmaps, face_node_snapshot(node),
                             figures)
               ? disk
               : NULL;
}

/*
 * Names
 */

/* QEMU's clients may give names that cannot be those of files. */
static bool
is_file_name(const char *name)
{
    return *name && !strchr(name, '/');
}

bool
face_bitmap_find(const FaceDisk *disk, const char *file, uint64_t *id)
{
    size_t len = strlen(file);
    char name[NAMED_NAME_MAX + sizeof(SUFFIX)];
    struct NamedFigures figures;

    if (!disk->disk->bitmaps || len >= sizeof(name) || len < strlen(SUFFIX) ||
        strcmp(file + len - strlen(SUFFIX), SUFFIX) != 0) {
        return false;
    }
    memcpy(name, file, len - strlen(SUFFIX));
    name[len - strlen(SUFFIX)] = '\0';
    if (!is_file_name(name) ||
        !named_find(disk->disk->bitmaps, name, &figures)) {
        return false;
    }
    *id = figures.id;
    return true;
}

bool
face_bitmap_next(const FaceDisk *disk, uint64_t id,
                 struct NamedFigures *figures)
{
    NamedBitmaps *set = disk->disk->bitmaps;
    bool is_found = set && named_after(set, id, figures);

    while (is_found && !is_file_name(figures->name)) {
        is_found = named_after(set, figures->id, figures);
    }
    return is_found;
}

/*
 * Attributes
 */

static bool
folder_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    enum FaceKind kind = face_node_kind(ino);
    unsigned disk_id = face_node_disk_id(ino);

    attr->mode = face_dir_mode(face) & ~(mode_t)0222;
    attr->nlink = 2;
    return ino == face_node_ino(kind, disk_id) &&
           (kind == FACE_KIND_BITMAPS ? disk_id == 0
                                      : face_disk_by_id(face, disk_id) != NULL);
}

/* Who may read the disk may read it. */
bool
face_bitmap_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    struct NamedFigures figures;
    FaceDisk *disk;

    if (face_node_kind(ino) != FACE_KIND_BITMAP) {
        return folder_attr(face, ino, attr);
    }
    disk = find_bitmap(face, ino, &figures);
    if (!disk) {
        return false;
    }
    face_disk_owner(face, disk->disk, attr);
    face_disk_inode(disk->disk, attr);
    attr->mode &= S_IFMT | 0444;
    attr->size_bytes = disk->disk->size_bytes;
    attr->blocks = (figures.count_bytes + 511) / 512;
    return true;
}

/*
 * Data
 */

bool
face_bitmap_of(Face *face, uint64_t node, struct FaceSparse *sparse)
{
    struct NamedFigures figures;
    FaceDisk *disk = find_bitmap(face, node, &figures);

    if (disk) {
        *sparse = (struct FaceSparse){
            .size_bytes = disk->disk->size_bytes,
            .bitmaps = disk->disk->bitmaps,
            .bitmap = figures.id,
        };
    }
    return disk != NULL;
}

bool
face_bitmap_mask(FaceReq *req)
{
    unsigned char *data =
        req->buffer + FACE_BLOCK_MAX + (req->offset - req->io_offset);
    uint64_t at = req->offset, end = req->offset + req->len, clean;
    struct FaceSparse sparse;
    struct FaceRange range;

    if (!face_bitmap_of(req->face, req->node, &sparse)) {
        return false;
    }
    while (at < end) {
        clean = face_sparse_next(&sparse, at, &range) ? range.offset : end;
        if (clean >= end) {
            memset(data + (at - req->offset), 0, end - at);
            break;
        }
        memset(data + (at - req->offset), 0, clean - at);
        at = clean + range.len;
    }
    return true;
}

void
face_bitmap_read(FaceReq *req)
{
    struct FaceSparse sparse;
    struct FaceRange range;

    if (!face_bitmap_of(req->face, req->node, &sparse)) {
        face_reply_error(req, ESTALE);
        return;
    }
    req->disk = face_disk_by_id(req->face, face_node_disk_id(req->node));
    if (req->offset < sparse.size_bytes && req->len > 0 &&
        (!face_sparse_next(&sparse, req->offset, &range) ||
         range.offset >= req->offset + req->len)) {
        req->len = MIN(req->len, sparse.size_bytes - req->offset);
        memset(req->buffer + FACE_BLOCK_MAX, 0, req->len);
        face_reply_data(req, req->buffer + FACE_BLOCK_MAX, req->len);
        return;
    }
    face_read_disk(req);
}
