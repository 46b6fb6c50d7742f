/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directories: which names there are, and what they stand for.
 *
 *   MNT/                                root
 *     vda.raw                           disks
 *     .weir/                            status.json, metrics
 *     .snapshots/                       latest, uploaded, one for each snapshot
 *       NAME/                           info.json, disks
 *         changed-since/                one for each other snapshot
 *           OTHER/                      disks that both have
 *     .bitmaps/                         one for each disk
 *       vda/                            NAME.raw, one for each bitmap
 *
 * All are alike: a few fixed names, then the disks, then snapshots or bitmaps. A
 * table says what kind of node each of those is in each directory, and an entry is there
 * if its node has attributes. Names with a dot are hidden from the root's list
 * and found by name; entries of those folders have no time-out, so that nothing
 * ever has to be invalidated (rule 31).
 *
 * A list that is read in pieces goes on behind what it gave last, whatever
 * comes and goes meanwhile: the offset of a snapshot's entry is its id, and so is
 * a bitmap's.
 *
 *   0, 1  . and ..      16 ..  disks, by their place in the store
 *   2 ..  fixed names   80 ..  snapshots, bitmaps: the next one that is younger
 *                              than the offset less 80
 */
#include "face-wire.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FIXED_MAX 3
#define FIXED_AT  2
#define DISKS_AT  16
#define SNAPS_AT  (DISKS_AT + STORE_DISKS_MAX)

#define NAME_ROOM (STORE_NAME_MAX + sizeof(".raw"))

/* FACE_KIND_ROOT, which is nobody's entry: no such entries. */
struct Dir {
    enum FaceKind parent;
    struct {
        const char *name;
        enum FaceKind kind;
    } fixed[FIXED_MAX];
    enum FaceKind disk, folder; /* of a disk: vda.raw, vda */
    enum FaceKind snapshot, bitmap;
    bool is_dir;
};

static const struct Dir dirs[FACE_KINDS] = {
    [FACE_KIND_ROOT] = {.is_dir = true,
                        .fixed = {{".weir", FACE_KIND_WEIR},
                                  {".snapshots", FACE_KIND_SNAPS},
                                  {".bitmaps", FACE_KIND_BITMAPS}},
                        .disk = FACE_KIND_DISK},
    [FACE_KIND_WEIR] = {.is_dir = true,
                        .fixed = {{"status.json", FACE_KIND_STATUS},
                                  {"metrics", FACE_KIND_METRICS}}},
    [FACE_KIND_SNAPS] = {.is_dir = true,
                         .fixed = {{"latest", FACE_KIND_LATEST},
                                   {"uploaded", FACE_KIND_UPLOADED}},
                         .snapshot = FACE_KIND_SNAP},
    [FACE_KIND_SNAP] = {.is_dir = true,
                        .parent = FACE_KIND_SNAPS,
                        .fixed = {{"info.json", FACE_KIND_SNAP_INFO},
                                  {"changed-since", FACE_KIND_SINCE}},
                        .disk = FACE_KIND_SNAP_DISK},
    [FACE_KIND_SINCE] = {.is_dir = true,
                         .parent = FACE_KIND_SNAP,
                         .snapshot = FACE_KIND_CHANGED},
    [FACE_KIND_CHANGED] = {.is_dir = true,
                           .parent = FACE_KIND_SINCE,
                           .disk = FACE_KIND_CHANGED_DISK},
    [FACE_KIND_BITMAPS] = {.is_dir = true, .folder = FACE_KIND_BITMAP_DISK},
    [FACE_KIND_BITMAP_DISK] = {.is_dir = true,
                               .parent = FACE_KIND_BITMAPS,
                               .bitmap = FACE_KIND_BITMAP},
};

static const struct Dir *
dir_of(uint64_t ino)
{
    enum FaceKind kind = face_node_kind(ino);

    return kind < FACE_KINDS && dirs[kind].is_dir ? &dirs[kind] : NULL;
}

/* What is in @dir is of the same snapshots, and of @snapshot beside if that is
 * not 0. */
static uint64_t
child_ino(uint64_t dir, enum FaceKind kind, unsigned disk_id, uint64_t snapshot)
{
    uint64_t id = face_node_snapshot(dir), other = face_node_other(dir);

    return face_node_snap_ino(kind, disk_id, id ? id : snapshot,
                              id && snapshot ? snapshot : other);
}

static uint64_t
parent_ino(uint64_t dir)
{
    enum FaceKind kind = dir_of(dir)->parent;
    bool is_of_snapshot = kind == FACE_KIND_SNAP || kind == FACE_KIND_SINCE;

    return face_node_snap_ino(kind, 0,
                              is_of_snapshot ? face_node_snapshot(dir) : 0, 0);
}

/* What a disk is called in it, and its node; 0: it has no disks. */
static uint64_t
disk_child(uint64_t dir, const Disk *disk, char name[NAME_ROOM])
{
    const struct Dir *of = dir_of(dir);
    enum FaceKind kind = of->folder ? of->folder : of->disk;

    snprintf(name, NAME_ROOM, "%s%s", disk->name, of->folder ? "" : ".raw");
    return kind ? child_ino(dir, kind, disk->id, 0) : 0;
}

static uint64_t
bitmap_child(uint64_t dir, uint64_t id)
{
    return face_node_snap_ino(dir_of(dir)->bitmap, face_node_disk_id(dir), id,
                              0);
}

/* Whose bitmaps are in it, or NULL. */
static FaceDisk *
disk_of_dir(Face *face, uint64_t dir)
{
    return dir_of(dir)->bitmap ? face_disk_by_id(face, face_node_disk_id(dir))
                               : NULL;
}

static uint64_t
numbered_child(Face *face, uint64_t dir, const char *name)
{
    FaceDisk *disk = disk_of_dir(face, dir);
    Snapshot snapshot;
    uint64_t id;

    if (disk && face_bitmap_find(disk, name, &id)) {
        return bitmap_child(dir, id);
    }
    if (dir_of(dir)->snapshot &&
        snapshot_list_find(face->config.store->snapshots, name, &snapshot)) {
        return child_ino(dir, dir_of(dir)->snapshot, 0, snapshot.id);
    }
    return 0;
}

uint64_t
face_dir_child(Face *face, uint64_t dir, const char *name)
{
    const struct Dir *of = dir_of(dir);
    char file[NAME_ROOM];
    uint64_t ino;

    if (!of) {
        return 0;
    }
    for (unsigned i = 0; i < FIXED_MAX; i++) {
        if (of->fixed[i].name && !strcmp(name, of->fixed[i].name)) {
            return child_ino(dir, of->fixed[i].kind, 0, 0);
        }
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        ino = disk_child(dir, face->disks[i].disk, file);
        if (ino && !strcmp(name, file)) {
            return ino;
        }
    }
    return numbered_child(face, dir, name);
}

/*
 * READDIR
 */
struct Entry {
    uint64_t ino;
    char name[NAME_ROOM];
    mode_t type;
    uint64_t next; /* offset behind it */
};

/* Fills in @entry's type; false: it is not there. */
static bool
is_there(Face *face, struct Entry *entry)
{
    struct FaceAttr attr;
    bool is = face_node_attr(face, entry->ino, &attr);

    entry->type = attr.mode;
    return is;
}

static bool
is_hidden(const Face *face, enum FaceKind kind)
{
    return kind == FACE_KIND_WEIR || kind == FACE_KIND_BITMAPS ||
           (kind == FACE_KIND_SNAPS && !face->config.shows_snapshots);
}

static bool
fixed_entry(Face *face, uint64_t dir, uint64_t index, struct Entry *entry)
{
    const struct Dir *of = dir_of(dir);

    if (index >= FIXED_MAX || !of->fixed[index].name ||
        is_hidden(face, of->fixed[index].kind)) {
        return false;
    }
    entry->ino = child_ino(dir, of->fixed[index].kind, 0, 0);
    strcpy(entry->name, of->fixed[index].name);
    return is_there(face, entry);
}

static bool
disk_entry(Face *face, uint64_t dir, uint64_t index, struct Entry *entry)
{
    if (index >= face->n_disks) {
        return false;
    }
    entry->ino = disk_child(dir, face->disks[index].disk, entry->name);
    return entry->ino && is_there(face, entry);
}

/* The oldest one that is younger than @id; of those to compare with, only what
 * is older than the directory's own is listed. */
static bool
snapshot_entry(Face *face, uint64_t dir, uint64_t id, struct Entry *entry)
{
    const struct Dir *of = dir_of(dir);
    uint64_t own = face_node_snapshot(dir);
    Snapshot snapshot;

    if (!of->snapshot ||
        !snapshot_list_next(face->config.store->snapshots, id, &snapshot) ||
        (own && snapshot.id >= own)) {
        return false;
    }
    *entry = (struct Entry){
        .ino = child_ino(dir, of->snapshot, 0, snapshot.id),
        .type = S_IFDIR,
        .next = SNAPS_AT + snapshot.id,
    };
    strcpy(entry->name, snapshot.name);
    return true;
}

static bool
bitmap_entry(Face *face, uint64_t dir, uint64_t id, struct Entry *entry)
{
    FaceDisk *disk = disk_of_dir(face, dir);
    struct NamedFigures figures;

    if (!disk || !face_bitmap_next(disk, id, &figures)) {
        return false;
    }
    *entry = (struct Entry){
        .ino = bitmap_child(dir, figures.id),
        .type = S_IFREG,
        .next = SNAPS_AT + figures.id,
    };
    snprintf(entry->name, NAME_ROOM, "%s.raw", figures.name);
    return true;
}

/* The first one at @at or behind; false: there is none. */
static bool
next_entry(Face *face, uint64_t dir, uint64_t at, struct Entry *entry)
{
    if (at < FIXED_AT) {
        *entry = (struct Entry){
            .ino = at ? parent_ino(dir) : dir, .type = S_IFDIR, .next = at + 1};
        strcpy(entry->name, at ? ".." : ".");
        return true;
    }
    for (; at < SNAPS_AT; at++) {
        if (at < DISKS_AT ? fixed_entry(face, dir, at - FIXED_AT, entry)
                          : disk_entry(face, dir, at - DISKS_AT, entry)) {
            entry->next = at + 1;
            return true;
        }
    }
    return snapshot_entry(face, dir, at - SNAPS_AT, entry) ||
           bitmap_entry(face, dir, at - SNAPS_AT, entry);
}

void
face_readdir(FaceReq *req)
{
    unsigned char *buf = req->buffer + FACE_BLOCK_MAX;
    struct FaceAttr attr;
    struct Entry entry;
    size_t used = 0;

    if (!dir_of(req->node)) {
        face_reply_error(req, ENOTDIR);
        return;
    }
    if (!face_node_attr(req->face, req->node, &attr)) {
        face_reply_error(req, ENOENT);
        return;
    }
    while (next_entry(req->face, req->node, req->offset, &entry) &&
           face_wire_dirent(buf, &used, req->len, entry.ino, entry.name,
                            entry.type, entry.next)) {
        req->offset = entry.next;
    }
    face_reply_data(req, buf, used);
}
