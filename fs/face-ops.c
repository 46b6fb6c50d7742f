/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that move no data: names, attributes, statfs, ioctl, lseek.
 *
 * Most are answered from memory at once. Some go elsewhere and come back:
 * a change of attributes waits until the main thread has saved it in the
 * store's state, and lseek, which the kernel has no asynchronous form of,
 * goes to the helper thread; so do some attributes of what is in a snapshot
 * (face-snapnode.c). None holds up anything else.
 *
 * What libvirt, QEMU and file managers do here, and what they must get:
 * chown and chmod work and are kept (libvirtd changes the owner when a VM
 * starts); truncate to the same size is harmless; so is O_TRUNC, which
 * arrives as "size 0, not through a handle" and is answered with the true
 * size, so that the kernel never believes in an empty disk; every other size
 * is refused with a line in the log that names `weir resize`.
 */
#include "face-wire.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Names of disks never change while they are served; the folders of ours are
 * asked for again each time (rule 31). A disk may grow: attributes expire. */
#define ENTRY_DISK_S 3600
#define ATTR_DISK_S  1

/* XFS_IOC_DIOINFO, _IOR('X', 30, struct dioattr): without an answer QEMU
 * takes 4096 as the request alignment and turns the guest's 512-byte writes
 * into its own read-modify-write. */
#define DIOINFO 0x800c581e
struct DioInfo {
    uint32_t mem, min_io, max_io;
};

void
face_show_measured(FaceReq *req, uint64_t measure)
{
    enum FaceKind kind = face_node_kind(req->shown);
    bool is_disk = kind == FACE_KIND_DISK;
    struct FaceAttr attr;

    if (!face_node_attr(req->face, req->shown, &attr)) {
        face_reply_error(req, ENOENT);
        return;
    }
    if (kind == FACE_KIND_SNAP_INFO) {
        attr.size_bytes = measure;
    }
    if (kind == FACE_KIND_SNAP_INFO || kind == FACE_KIND_CHANGED_DISK) {
        attr.blocks = (measure + 511) / 512;
    }
    if (req->op == FACE_LOOKUP || req->op == FACE_MKDIR) {
        face_reply_entry(req, &attr, is_disk ? ENTRY_DISK_S : 0,
                         is_disk ? ATTR_DISK_S : 0);
    } else {
        face_reply_attr(req, &attr, is_disk ? ATTR_DISK_S : 0);
    }
}

void
face_show(FaceReq *req, uint64_t ino)
{
    req->shown = ino;
    if (!face_snap_measure(req)) {
        face_show_measured(req, 0);
    }
}

void
face_lookup(FaceReq *req)
{
    uint64_t ino = face_dir_child(req->face, req->node, req->name);

    if (ino) {
        face_show(req, ino);
    } else {
        face_reply_error(req, ENOENT);
    }
}

void
face_getattr(FaceReq *req)
{
    face_show(req, req->node);
}

static bool
size_is_harmless(const FaceReq *req, const Disk *disk)
{
    return req->attr.size_bytes == disk->size_bytes ||
           (req->attr.size_bytes == 0 && !(req->set & FACE_SET_BY_HANDLE));
}

static void
take_attr(struct DiskAttr *to, const struct FaceAttr *from, unsigned set)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (set & FACE_SET_MODE) {
        to->mode = from->mode & 07777;
    }
    if (set & FACE_SET_UID) {
        to->uid = from->uid;
    }
    if (set & FACE_SET_GID) {
        to->gid = from->gid;
    }
    if (set & FACE_SET_ATIME) {
        to->atime = set & FACE_SET_ATIME_NOW ? now : from->atime;
    }
    if (set & FACE_SET_MTIME) {
        to->mtime = set & FACE_SET_MTIME_NOW ? now : from->mtime;
    }
}

void
face_setattr(FaceReq *req)
{
    FaceDisk *disk = face_disk_of(req->face, req->node);

    if (!disk) {
        face_forbidden(req);
        return;
    }
    if ((req->set & FACE_SET_SIZE) && !size_is_harmless(req, disk->disk)) {
        face_log(req->face,
                 "%s.raw: a change of its size to %" G_GUINT64_FORMAT
                 " bytes was refused; use `weir resize %s/%s SIZE`",
                 disk->disk->name, req->attr.size_bytes,
                 req->face->config.store->path, disk->disk->name);
        face_reply_error(req, EPERM);
        return;
    }
    if (!(req->set & ~(FACE_SET_SIZE | FACE_SET_BY_HANDLE))) {
        face_getattr(req);
        return;
    }
    req->disk = disk;
    pthread_mutex_lock(&disk->disk->attr_lock);
    take_attr(&disk->disk->attr, &req->attr, req->set);
    pthread_mutex_unlock(&disk->disk->attr_lock);
    face_ask(req, FACE_NOTE_ATTR, 0, NULL);
}

/* The buffer: what the disks hold locally, and what the host has room for. */
void
face_statfs(FaceReq *req)
{
    struct statvfs host, out;
    uint64_t used = 0;

    if (fstatvfs(req->face->config.store->dir_fd, &host) < 0) {
        face_reply_error(req, errno);
        return;
    }
    for (unsigned i = 0; i < req->face->n_disks; i++) {
        struct stat st;

        if (fstat(req->face->disks[i].disk->map_fd, &st) == 0) {
            used += (uint64_t)st.st_blocks * 512;
        }
    }
    out = (struct statvfs){
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_bavail = host.f_bavail * host.f_frsize / 4096,
        .f_namemax = STORE_NAME_MAX,
        .f_files = req->face->n_disks,
    };
    out.f_bfree = out.f_bavail;
    out.f_blocks = out.f_bavail + (used + 4095) / 4096;
    face_reply_statfs(req, &out);
}

void
face_ioctl(FaceReq *req)
{
    const struct DioInfo info = {512, 512, FACE_MAX_WRITE};

    if (req->command != DIOINFO ||
        (!face_disk_of(req->face, req->node) &&
         !face_node_is_snap_file(req->node) &&
         face_node_kind(req->node) != FACE_KIND_BITMAP)) {
        face_reply_error(req, ENOTTY);
    } else if (req->len < sizeof(info)) {
        face_reply_error(req, EINVAL);
    } else {
        face_reply_ioctl(req, &info, sizeof(info));
    }
}

/*
 * lseek: what is allocated, less what is zeroed and not punched yet
 */

static bool
seek(FaceReq *req)
{
    StoreIo *io = req->face->config.store->io;

    req->seek_result = io->ops->lseek(io, req->disk->disk->map_fd,
                                      (off_t)req->offset, req->mode);
    return true;
}

/* Back from the helper thread. */
static void
sought(FaceReq *req)
{
    uint64_t size = req->disk->disk->size_bytes;
    struct ZeroRange zero;

    if (req->seek_result < 0 && req->seek_result != -ENXIO) {
        face_reply_error(req, (int)-req->seek_result);
        return;
    }
    uint64_t at = req->seek_result < 0 ? size : (uint64_t)req->seek_result;

    at = MIN(at, size);
    if (req->mode == SEEK_HOLE) {
        if (zero_list_first(&req->disk->zeroes, req->offset, at - req->offset,
                            &zero)) {
            at = zero.offset;
        }
        face_reply_lseek(req, at);
        return;
    }
    if (at < size && zero_list_first(&req->disk->zeroes, at, 1, &zero)) {
        /* Data on disk, but zeroed: look again behind the zeroes. */
        zero_list_first(&req->disk->zeroes, at, size - at, &zero);
        req->offset = at = zero.offset + zero.len;
        if (at < size) {
            face_help(req, seek, sought);
            return;
        }
    }
    if (at >= size) {
        face_reply_error(req, ENXIO);
    } else {
        face_reply_lseek(req, at);
    }
}

void
face_lseek(FaceReq *req)
{
    if (face_node_is_snap_file(req->node)) {
        face_snap_lseek(req);
        return;
    }
    if (face_node_kind(req->node) == FACE_KIND_BITMAP) {
        face_sparse_lseek(req);
        return;
    }
    req->disk = face_disk_of(req->face, req->node);
    if (!req->disk || (req->mode != SEEK_DATA && req->mode != SEEK_HOLE)) {
        face_reply_error(req, EINVAL);
        return;
    }
    if (req->offset >= req->disk->disk->size_bytes) {
        face_reply_error(req, ENXIO);
        return;
    }
    face_help(req, seek, sought);
}
