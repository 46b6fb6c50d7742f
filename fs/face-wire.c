/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FUSE's wire format, by hand. libfuse mounts for us and then stays out of
 * the way: the transport reads the kernel's requests itself, which gives
 * batches, payloads that lie where O_DIRECT wants them, flags that an older
 * libfuse does not know (shared mmap under direct_io), and a session that can
 * be handed over. What there is to decode is a dozen operations.
 *
 * A table says for each opcode how many argument bytes it must have and which
 * function takes them apart. Opcodes that are not in the table get ENOSYS,
 * which the kernel remembers where that makes sense (ACCESS, xattrs, STATX,
 * POLL). Locks are left out on purpose: without GETLK and SETLK the kernel
 * keeps QEMU's OFD locks itself. What changes names is not taken apart, but for
 * mkdir and rmdir: it is forbidden everywhere.
 */
#include "face-wire.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>

/* Newer than the headers of the oldest system that we build on. */
#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif

_Static_assert(sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) ==
                   FACE_WRITE_HEAD,
               "a WRITE's payload lands on the block boundary");

typedef bool (*Decode)(FaceReq *req, const void *arg, size_t len);

/*
 * Requests
 */

static bool
decode_nothing(FaceReq *req, const void *arg, size_t len)
{
    (void)req;
    (void)arg;
    (void)len;
    return true;
}

/* All of the rest is one name. */
static bool
decode_name(FaceReq *req, const void *arg, size_t len)
{
    req->name = arg;
    return len > 0 && memchr(arg, 0, len) == (const char *)arg + len - 1;
}

static bool
decode_mkdir(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_mkdir_in *in = arg;

    return decode_name(req, in + 1, len - sizeof(*in));
}

static bool
decode_open(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_open_in *in = arg;

    (void)len;
    req->mode = (int)in->flags;
    return true;
}

static bool
decode_setattr(FaceReq *req, const void *arg, size_t len)
{
    static const struct {
        uint32_t wire;
        unsigned set;
    } bits[] = {
        {FATTR_MODE, FACE_SET_MODE},
        {FATTR_UID, FACE_SET_UID},
        {FATTR_GID, FACE_SET_GID},
        {FATTR_SIZE, FACE_SET_SIZE},
        {FATTR_ATIME, FACE_SET_ATIME},
        {FATTR_MTIME, FACE_SET_MTIME},
        {FATTR_ATIME_NOW, FACE_SET_ATIME_NOW},
        {FATTR_MTIME_NOW, FACE_SET_MTIME_NOW},
        {FATTR_FH, FACE_SET_BY_HANDLE},
    };
    const struct fuse_setattr_in *in = arg;

    (void)len;
    req->set = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(bits); i++) {
        req->set |= (in->valid & bits[i].wire) ? bits[i].set : 0;
    }
    req->attr = (struct FaceAttr){
        .size_bytes = in->size,
        .mode = in->mode & 07777,
        .uid = in->uid,
        .gid = in->gid,
        .atime = {(time_t)in->atime, in->atimensec},
        .mtime = {(time_t)in->mtime, in->mtimensec},
    };
    return true;
}

static bool
decode_release(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_release_in *in = arg;

    (void)len;
    req->fh = in->fh;
    return true;
}

static bool
decode_read(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_read_in *in = arg;

    (void)len;
    req->fh = in->fh;
    req->offset = in->offset;
    req->len = in->size;
    return in->size <= FACE_MAX_WRITE && in->offset <= INT64_MAX;
}

static bool
decode_write(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_write_in *in = arg;

    req->fh = in->fh;
    req->offset = in->offset;
    req->len = in->size;
    return in->size <= len - sizeof(*in) && in->size <= FACE_MAX_WRITE &&
           in->offset <= INT64_MAX;
}

static bool
decode_fallocate(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_fallocate_in *in = arg;

    (void)len;
    req->offset = in->offset;
    req->len = in->length;
    req->mode = (int)in->mode;
    return in->offset <= INT64_MAX && in->length <= INT64_MAX;
}

static bool
decode_lseek(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_lseek_in *in = arg;

    (void)len;
    req->offset = in->offset;
    req->mode = (int)in->whence;
    return in->offset <= INT64_MAX;
}

static bool
decode_ioctl(FaceReq *req, const void *arg, size_t len)
{
    const struct fuse_ioctl_in *in = arg;

    (void)len;
    req->command = in->cmd;
    req->len = in->out_size;
    return true;
}

static const struct {
    Decode decode;
    size_t min;
    enum FaceOp op;
} operations[] = {
    [FUSE_LOOKUP] = {decode_name, 1, FACE_LOOKUP},
    [FUSE_GETATTR] = {decode_nothing, 0, FACE_GETATTR},
    [FUSE_SETATTR] = {decode_setattr, sizeof(struct fuse_setattr_in),
                      FACE_SETATTR},
    [FUSE_READLINK] = {decode_nothing, 0, FACE_READLINK},
    [FUSE_MKDIR] = {decode_mkdir, sizeof(struct fuse_mkdir_in), FACE_MKDIR},
    [FUSE_RMDIR] = {decode_name, 1, FACE_RMDIR},
    [FUSE_CREATE] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_MKNOD] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_UNLINK] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_RENAME] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_RENAME2] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_LINK] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_SYMLINK] = {decode_nothing, 0, FACE_FORBIDDEN},
    [FUSE_OPEN] = {decode_open, sizeof(struct fuse_open_in), FACE_OPEN},
    [FUSE_READ] = {decode_read, sizeof(struct fuse_read_in), FACE_READ},
    [FUSE_WRITE] = {decode_write, sizeof(struct fuse_write_in), FACE_WRITE},
    [FUSE_STATFS] = {decode_nothing, 0, FACE_STATFS},
    [FUSE_RELEASE] = {decode_release, sizeof(struct fuse_release_in),
                      FACE_RELEASE},
    [FUSE_FSYNC] = {decode_nothing, sizeof(struct fuse_fsync_in), FACE_FSYNC},
    [FUSE_FLUSH] = {decode_nothing, 0, FACE_FLUSH},
    [FUSE_OPENDIR] = {decode_nothing, 0, FACE_OPENDIR},
    [FUSE_READDIR] = {decode_read, sizeof(struct fuse_read_in), FACE_READDIR},
    [FUSE_RELEASEDIR] = {decode_nothing, 0, FACE_RELEASEDIR},
    [FUSE_FSYNCDIR] = {decode_nothing, 0, FACE_FSYNCDIR},
    [FUSE_IOCTL] = {decode_ioctl, sizeof(struct fuse_ioctl_in), FACE_IOCTL},
    [FUSE_FALLOCATE] = {decode_fallocate, sizeof(struct fuse_fallocate_in),
                        FACE_FALLOCATE},
    [FUSE_LSEEK] = {decode_lseek, sizeof(struct fuse_lseek_in), FACE_LSEEK},
};

static void
answer_init(FaceReq *req, const struct fuse_init_in *in, size_t len)
{
    const uint64_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO |
                            FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                            FUSE_INIT_EXT | FUSE_DIRECT_IO_ALLOW_MMAP;
    uint64_t offered = in->flags;

    if (in->major != FUSE_KERNEL_VERSION) {
        /* A newer kernel offers its major first and then takes ours. */
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                    .minor = FUSE_KERNEL_MINOR_VERSION};

        req->way->send(req, in->major < FUSE_KERNEL_VERSION ? EPROTO : 0, &out,
                       sizeof(out), NULL, 0);
        return;
    }
    if ((in->flags & FUSE_INIT_EXT) && len >= sizeof(*in)) {
        offered |= (uint64_t)in->flags2 << 32;
    }
    uint64_t flags = (wanted & offered) | face_uring_wanted(req->face, offered);
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = MIN(in->minor, FUSE_KERNEL_MINOR_VERSION),
        .max_readahead = in->max_readahead,
        .flags = (uint32_t)flags,
        .flags2 = (uint32_t)(flags >> 32),
        .max_background = FACE_MAX_BACKGROUND,
        .congestion_threshold = FACE_MAX_BACKGROUND,
        .max_write = FACE_MAX_WRITE,
        .time_gran = 1,
        .max_pages = FACE_MAX_WRITE / 4096,
    };
    Face *face = req->face;

    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
    face_uring_start(face, face_uring_wanted(face, offered) != 0);
}

/* Opcodes that are not in the table. */
static enum FaceDecoded
answer_other(FaceReq *req, uint32_t opcode, const void *arg, size_t len)
{
    switch (opcode) {
    case FUSE_INIT:
        if (len < offsetof(struct fuse_init_in, flags2)) {
            face_reply_error(req, EPROTO);
        } else {
            answer_init(req, arg, len);
        }
        return FACE_ANSWERED;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        /* Nodes are derived, not counted; requests end by themselves. These
         * three have no reply. */
        req->way->drop(req);
        return FACE_ANSWERED;
    case FUSE_DESTROY:
        face_reply_error(req, 0);
        return FACE_DESTROYED;
    default:
        face_reply_error(req, ENOSYS);
        return FACE_ANSWERED;
    }
}

enum FaceDecoded
face_wire_decode(FaceReq *req, const struct fuse_in_header *in, const void *arg,
                 size_t len)
{
    req->unique = in->unique;
    req->node = in->nodeid;
    req->fh = req->offset = req->len = 0;
    if (in->opcode >= G_N_ELEMENTS(operations) ||
        !operations[in->opcode].decode) {
        return answer_other(req, in->opcode, arg, len);
    }
    req->op = operations[in->opcode].op;
    if (len < operations[in->opcode].min ||
        !operations[in->opcode].decode(req, arg, len)) {
        face_reply_error(req, EINVAL);
        return FACE_ANSWERED;
    }
    return FACE_DECODED;
}

/*
 * Replies
 */

void
face_reply_error(FaceReq *req, int error)
{
    assert(error >= 0);
    req->way->send(req, error, NULL, 0, NULL, 0);
}

void
face_reply_data(FaceReq *req, const void *data, size_t len)
{
    req->way->send(req, 0, NULL, 0, data, len);
}

void
face_reply_written(FaceReq *req, uint32_t len)
{
    struct fuse_write_out out = {.size = len};

    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

static void
encode_attr(const struct FaceAttr *attr, struct fuse_attr *out)
{
    *out = (struct fuse_attr){
        .ino = attr->ino,
        .size = attr->size_bytes,
        .blocks = attr->blocks,
        .atime = (uint64_t)attr->atime.tv_sec,
        .mtime = (uint64_t)attr->mtime.tv_sec,
        .ctime = (uint64_t)attr->mtime.tv_sec,
        .atimensec = (uint32_t)attr->atime.tv_nsec,
        .mtimensec = (uint32_t)attr->mtime.tv_nsec,
        .ctimensec = (uint32_t)attr->mtime.tv_nsec,
        .mode = attr->mode,
        .nlink = attr->nlink,
        .uid = attr->uid,
        .gid = attr->gid,
        .blksize = 4096,
    };
}

void
face_reply_entry(FaceReq *req, const struct FaceAttr *attr, unsigned entry_s,
                 unsigned attr_s)
{
    struct fuse_entry_out out = {
        .nodeid = attr->ino,
        .entry_valid = entry_s,
        .attr_valid = attr_s,
    };

    encode_attr(attr, &out.attr);
    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

void
face_reply_attr(FaceReq *req, const struct FaceAttr *attr, unsigned attr_s)
{
    struct fuse_attr_out out = {.attr_valid = attr_s};

    encode_attr(attr, &out.attr);
    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

void
face_reply_open(FaceReq *req, uint64_t fh, enum FaceOpened how)
{
    static const uint32_t flags[] = {
        [FACE_OPENED_TEXT] = FOPEN_DIRECT_IO,
        [FACE_OPENED_DISK] = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
        [FACE_OPENED_SNAPSHOT] = FOPEN_KEEP_CACHE,
    };
    struct fuse_open_out out = {.fh = fh, .open_flags = flags[how]};

    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

void
face_reply_statfs(FaceReq *req, const struct statvfs *st)
{
    struct fuse_statfs_out out = {
        .st = {.blocks = st->f_blocks,
               .bfree = st->f_bfree,
               .bavail = st->f_bavail,
               .files = st->f_files,
               .ffree = st->f_ffree,
               .bsize = (uint32_t)st->f_bsize,
               .namelen = (uint32_t)st->f_namemax,
               .frsize = (uint32_t)st->f_frsize},
    };

    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

void
face_reply_lseek(FaceReq *req, uint64_t offset)
{
    struct fuse_lseek_out out = {.offset = offset};

    req->way->send(req, 0, &out, sizeof(out), NULL, 0);
}

void
face_reply_ioctl(FaceReq *req, const void *data, size_t len)
{
    struct fuse_ioctl_out out = {.result = 0};

    req->way->send(req, 0, &out, sizeof(out), data, len);
}

bool
face_wire_dirent(unsigned char *buf, size_t *used, size_t room, uint64_t ino,
                 const char *name, mode_t type, uint64_t next_offset)
{
    struct fuse_dirent entry = {
        .ino = ino,
        .off = next_offset,
        .namelen = (uint32_t)strlen(name),
        .type = (type & S_IFMT) >> 12,
    };
    size_t bytes = FUSE_NAME_OFFSET + entry.namelen;
    size_t padded = FUSE_DIRENT_ALIGN(bytes);

    if (room - *used < padded) {
        return false;
    }
    memset(buf + *used, 0, padded);
    memcpy(buf + *used, &entry, FUSE_NAME_OFFSET);
    memcpy(buf + *used + FUSE_NAME_OFFSET, name, entry.namelen);
    *used += padded;
    return true;
}
