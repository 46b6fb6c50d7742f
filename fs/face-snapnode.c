/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MNT/.snapshots: all but the data of snapshots (face-snap.c has that), and the
 * lists of names (face-dir.c).
 *
 * The main thread changes the list of snapshots at any time; here it is asked
 * again for each request. A node whose snapshot is gone is not found any more,
 * and as ids are never used twice its number never means another one.
 *
 * What is in a snapshot never changes, and nothing can be changed in it: EROFS.
 * mkdir and rmdir in .snapshots make and delete one; the main thread does that,
 * and the request waits for its word. So does whoever wants attributes of
 * info.json, whose text it makes: tar and rsync copy as much as the size says.
 *
 *   changed-since/OTHER/vda.raw   has blocks where the two snapshots differ.
 *                                 How many is counted on the helper thread, a
 *                                 slice at a time: on a large disk it may be
 *                                 millions of runs.
 */
#include "face-wire.h"

#include <errno.h>
#include <string.h>

#define RUNS_AT_A_TIME 1024

/* A request that a process before us took, and did not answer. */
#define RESENT (UINT64_C(1) << 63)

static SnapshotList *
list_of(const Face *face)
{
    return face->config.store->snapshots;
}

/*
 * Nodes
 */

bool
face_node_is_snap_file(uint64_t node)
{
    return face_node_kind(node) == FACE_KIND_SNAP_DISK ||
           face_node_kind(node) == FACE_KIND_CHANGED_DISK;
}

bool
face_snap_of(Face *face, uint64_t node, FaceDisk **disk, uint64_t *id,
             uint64_t *other)
{
    *disk = face_disk_by_id(face, face_node_disk_id(node));
    *id = face_node_snapshot(node);
    *other = face_node_other(node);
    return face_node_is_snap_file(node) && *disk && *id;
}

/* What a node's number must name, and what it then stands for. */
struct Named {
    Disk *disk;
    Snapshot snapshot, other;
    const struct SnapshotDisk *then; /* the disk in the snapshot */
};

static bool
find_named(Face *face, uint64_t ino, struct Named *named)
{
    enum FaceKind kind = face_node_kind(ino);
    bool is_changed =
        kind == FACE_KIND_CHANGED || kind == FACE_KIND_CHANGED_DISK;
    uint64_t id = face_node_snapshot(ino), other = face_node_other(ino);

    named->disk = NULL;
    named->then = NULL;
    if (!snapshot_list_get(list_of(face), id, &named->snapshot) ||
        snapshot_is_hidden(&named->snapshot) || is_changed != (other != 0)) {
        return false;
    }
    if (is_changed && (other == id || !snapshot_list_get(list_of(face), other,
                                                         &named->other))) {
        return false;
    }
    if (!face_node_is_snap_file(ino)) {
        return face_node_disk_id(ino) == 0;
    }
    FaceDisk *disk = face_disk_by_id(face, face_node_disk_id(ino));

    if (disk && (!is_changed || snapshot_disk(&named->other, disk->disk->id))) {
        named->disk = disk->disk;
        named->then = snapshot_disk(&named->snapshot, disk->disk->id);
    }
    return named->then != NULL;
}

/* The link's snapshot; false: there is none. */
static bool
find_linked(Face *face, uint64_t ino, Snapshot *snapshot)
{
    if (ino == face_node_ino(FACE_KIND_LATEST, 0)) {
        return snapshot_list_latest(list_of(face), snapshot);
    }
    return ino == face_node_ino(FACE_KIND_UPLOADED, 0) &&
           snapshot_list_uploaded(list_of(face), snapshot);
}

/*
 * Attributes
 */

static void
set_times(struct FaceAttr *attr, const Snapshot *snapshot)
{
    int64_t us = MAX(snapshot->wall_us, 0);

    attr->mtime = (struct timespec){us / 1000000, us % 1000000 * 1000};
    attr->atime = attr->mtime;
}

static bool
top_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    Snapshot latest;

    attr->mode = face_dir_mode(face);
    if (snapshot_list_latest(list_of(face), &latest)) {
        set_times(attr, &latest);
    }
    return ino == face_node_ino(FACE_KIND_SNAPS, 0);
}

static bool
link_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    Snapshot snapshot;

    if (!find_linked(face, ino, &snapshot)) {
        return false;
    }
    attr->mode = S_IFLNK | 0777;
    attr->size_bytes = strlen(snapshot.name);
    set_times(attr, &snapshot);
    return true;
}

/* Who may read the disk may read what it was. */
static void
file_attr(Face *face, const struct Named *named, bool is_whole,
          struct FaceAttr *attr)
{
    face_disk_owner(face, named->disk, attr);
    attr->mode &= S_IFMT | 0444;
    attr->size_bytes = named->then->size_bytes;
    attr->blocks = is_whole ? named->then->blocks : 0;
}

bool
face_snap_attr(Face *face, uint64_t ino, struct FaceAttr *attr)
{
    enum FaceKind kind = face_node_kind(ino);
    struct Named named;

    if (kind == FACE_KIND_SNAPS) {
        return top_attr(face, ino, attr);
    }
    if (kind == FACE_KIND_LATEST || kind == FACE_KIND_UPLOADED) {
        return link_attr(face, ino, attr);
    }
    if (!find_named(face, ino, &named)) {
        return false;
    }
    set_times(attr, &named.snapshot);
    if (named.disk) {
        file_attr(face, &named, kind == FACE_KIND_SNAP_DISK, attr);
    } else if (kind == FACE_KIND_SNAP_INFO) {
        attr->mode = S_IFREG | (face->config.mode & 0444);
    } else {
        attr->mode = face_dir_mode(face) & ~(mode_t)0222;
    }
    return true;
}

/*
 * What differs
 */

bool
face_change_of(Face *face, uint64_t node, struct FaceSparse *change)
{
    struct Named named;

    if (face_node_kind(node) != FACE_KIND_CHANGED_DISK ||
        !find_named(face, node, &named)) {
        return false;
    }
    unsigned bits = named.disk->cluster_bits;
    uint64_t round = (UINT64_C(1) << bits) - 1;
    uint64_t other_bytes =
        snapshot_disk(&named.other, named.disk->id)->size_bytes;

    *change = (struct FaceSparse){
        .points = named.disk->points,
        .older = MIN(named.snapshot.id, named.other.id),
        .younger = MAX(named.snapshot.id, named.other.id),
        .cluster_bits = bits,
        .size_bytes = named.then->size_bytes,
        .end = (named.then->size_bytes + round) >> bits,
    };
    change->common = MIN(change->end, (other_bytes + round) >> bits);
    return true;
}

/* A slice of it; req->io_offset: where to go on. */
static bool
count_changed(FaceReq *req)
{
    struct FaceSparse change;
    struct FaceRange range;

    if (!face_sparse_of(req->face, req->shown, &change)) {
        return true;
    }
    for (unsigned i = 0; i < RUNS_AT_A_TIME; i++) {
        if (!face_sparse_next(&change, req->io_offset, &range)) {
            return true;
        }
        req->io_offset = range.offset + range.len;
        req->measure += range.len;
    }
    return false;
}

static void
changed_counted(FaceReq *req)
{
    face_show_measured(req, req->measure);
}

bool
face_snap_measure(FaceReq *req)
{
    enum FaceKind kind = face_node_kind(req->shown);

    if (kind == FACE_KIND_SNAP_INFO) {
        face_ask(req, FACE_NOTE_SNAPSHOT_INFO, face_node_snapshot(req->shown),
                 NULL);
    } else if (kind == FACE_KIND_CHANGED_DISK) {
        req->io_offset = req->measure = 0;
        face_help(req, count_changed, changed_counted);
    } else {
        return false;
    }
    return true;
}

/*
 * Requests
 */

void
face_readlink(FaceReq *req)
{
    Snapshot snapshot;

    if (find_linked(req->face, req->node, &snapshot)) {
        face_reply_data(req, snapshot.name, strlen(snapshot.name));
    } else {
        face_reply_error(req, ENOENT);
    }
}

void
face_forbidden(FaceReq *req)
{
    face_reply_error(req, face_node_snapshot(req->node) ? EROFS : EPERM);
}

/* 0, or why .snapshots/NAME cannot be made or deleted: a positive errno. */
static int
check_request(const FaceReq *req)
{
    if (face_node_kind(req->node) != FACE_KIND_SNAPS) {
        return EPERM;
    }
    return req->face->config.read_only ? EROFS : 0;
}

static int
check_new(const FaceReq *req)
{
    int error = check_request(req);

    if (error) {
        return error;
    }
    if (strlen(req->name) > STORE_NAME_MAX) {
        return ENAMETOOLONG;
    }
    if (!store_name_is_valid(req->name)) {
        return EINVAL;
    }
    return face_dir_child(req->face, req->node, req->name) ? EEXIST : 0;
}

static void
made(FaceReq *req, int error)
{
    Snapshot snapshot;

    bool is_made = !error || (error == EEXIST && (req->unique & RESENT));

    if (is_made &&
        snapshot_list_find(list_of(req->face), req->name, &snapshot)) {
        face_show(req, face_node_snap_ino(FACE_KIND_SNAP, 0, snapshot.id, 0));
    } else {
        face_reply_error(req, error ? error : ENOENT);
    }
}

void
face_mkdir(FaceReq *req)
{
    int error = check_new(req);

    if (error) {
        made(req, error);
    } else {
        face_ask(req, FACE_NOTE_SNAPSHOT_CREATE, 0, req->name);
    }
}

static void
deleted(FaceReq *req, int error)
{
    face_reply_error(req,
                     error == ENOENT && (req->unique & RESENT) ? 0 : error);
}

void
face_rmdir(FaceReq *req)
{
    int error = check_request(req);
    uint64_t ino = error ? 0 : face_dir_child(req->face, req->node, req->name);

    if (!error && !ino) {
        error = ENOENT;
    } else if (!error && face_node_kind(ino) != FACE_KIND_SNAP) {
        error = ENOTDIR;
    }
    if (error) {
        deleted(req, error);
    } else {
        face_ask(req, FACE_NOTE_SNAPSHOT_DELETE, face_node_snapshot(ino), NULL);
    }
}

void
face_snap_answered(FaceReq *req, int error)
{
    if (req->op == FACE_MKDIR) {
        made(req, error);
    } else {
        deleted(req, error);
    }
}
