/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-io.c - the kernel behind the storage seam, and small files on top
 *
 * The kernel backend adds three things to the system calls: EINTR is retried,
 * short reads and writes are finished, and a name is one path component that
 * openat2(2) resolves beneath its directory without following any link, also
 * not those of /proc. openat2 has no wrapper in Debian 12's C library.
 *
 * A small file is replaced in four steps, each of which can fail or be the
 * last before a power cut:
 *
 *   write NAME.tmp | fsync it | rename over NAME | fsync the directory
 *
 * Up to the rename NAME is what it was, from then on it is the new content as
 * a whole; after the last step it stays so. An error of the last step leaves
 * the new content in view, and which of the two a power cut leaves is open.
 *
 * That takes a block, which a full file system does not have. Swapped, it takes
 * none: a spare of the same length has its blocks, and both have their names:
 *
 *   fsync the directory | write over SPARE | fsync it | exchange SPARE and NAME
 *   | fsync the directory
 */
#include "store-io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool
is_component(const char *name)
{
    return name[0] && !strchr(name, '/') && strcmp(name, "..") != 0;
}

static int
kernel_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = flags & (O_CREAT | __O_TMPFILE) ? mode : 0,
        .resolve =
            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd;

    (void)io;
    if (!is_component(name)) {
        return -EINVAL;
    }
    do {
        fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : (int)fd;
}

static int
kernel_close(StoreIo *io, int fd)
{
    (void)io;
    /* On Linux the descriptor is gone after EINTR, too. */
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static int
kernel_mkdir(StoreIo *io, int dirfd, const char *name, mode_t mode)
{
    (void)io;
    if (!is_component(name)) {
        return -EINVAL;
    }
    return mkdirat(dirfd, name, mode) < 0 ? -errno : 0;
}

static ssize_t
kernel_pread(StoreIo *io, int fd, void *buf, size_t len, uint64_t offset)
{
    size_t done = 0;

    (void)io;
    while (done < len) {
        ssize_t n =
            pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static ssize_t
kernel_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    size_t done = 0;

    (void)io;
    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done,
                           (off_t)(offset + done));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* The result of a call that may be interrupted, until it is not. */
#define RETRY(call)                               \
    ({                                            \
        int retry_r_;                             \
        do {                                      \
            retry_r_ = (call);                    \
        } while (retry_r_ < 0 && errno == EINTR); \
        retry_r_ < 0 ? -errno : 0;                \
    })

static int
kernel_fdatasync(StoreIo *io, int fd)
{
    (void)io;
    return RETRY(fdatasync(fd));
}

static int
kernel_fsync(StoreIo *io, int fd)
{
    (void)io;
    return RETRY(fsync(fd));
}

static int
kernel_ftruncate(StoreIo *io, int fd, uint64_t size)
{
    (void)io;
    return RETRY(ftruncate(fd, (off_t)size));
}

static int
kernel_fallocate(StoreIo *io, int fd, int mode, uint64_t offset, uint64_t len)
{
    (void)io;
    return RETRY(fallocate(fd, mode, (off_t)offset, (off_t)len));
}

static int
kernel_rename(StoreIo *io, int dirfd, const char *from, const char *to)
{
    (void)io;
    if (!is_component(from) || !is_component(to)) {
        return -EINVAL;
    }
    return renameat(dirfd, from, dirfd, to) < 0 ? -errno : 0;
}

static int
kernel_exchange(StoreIo *io, int dirfd, const char *a, const char *b)
{
    (void)io;
    if (!is_component(a) || !is_component(b)) {
        return -EINVAL;
    }
    return renameat2(dirfd, a, dirfd, b, RENAME_EXCHANGE) < 0 ? -errno : 0;
}

static int
kernel_unlink(StoreIo *io, int dirfd, const char *name, int flags)
{
    (void)io;
    if (!is_component(name)) {
        return -EINVAL;
    }
    return unlinkat(dirfd, name, flags) < 0 ? -errno : 0;
}

static off_t
kernel_lseek(StoreIo *io, int fd, off_t offset, int whence)
{
    off_t at = lseek(fd, offset, whence);

    (void)io;
    return at < 0 ? -errno : at;
}

static void
kernel_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    (void)io;
    switch (req->op) {
    case STORE_READ:
        assert(req->len <= UINT32_MAX);
        io_uring_prep_read(sqe, req->fd, req->buf, (unsigned)req->len,
                           req->offset);
        break;
    case STORE_WRITE:
    case STORE_WRITE_SYNC:
        assert(req->len <= UINT32_MAX);
        io_uring_prep_write(sqe, req->fd, req->buf, (unsigned)req->len,
                            req->offset);
        sqe->rw_flags = req->op == STORE_WRITE_SYNC ? RWF_DSYNC : 0;
        break;
    case STORE_FDATASYNC:
        io_uring_prep_fsync(sqe, req->fd, IORING_FSYNC_DATASYNC);
        break;
    case STORE_FALLOCATE:
        io_uring_prep_fallocate(sqe, req->fd, req->mode, (off_t)req->offset,
                                (off_t)req->len);
        break;
    }
}

static int
kernel_done(StoreIo *io, const StoreReq *req, int res)
{
    (void)io;
    (void)req;
    return res;
}

static const struct StoreIoOps kernel_ops = {
    .open = kernel_open,
    .close = kernel_close,
    .mkdir = kernel_mkdir,
    .pread = kernel_pread,
    .pwrite = kernel_pwrite,
    .fdatasync = kernel_fdatasync,
    .fsync = kernel_fsync,
    .ftruncate = kernel_ftruncate,
    .fallocate = kernel_fallocate,
    .rename = kernel_rename,
    .exchange = kernel_exchange,
    .unlink = kernel_unlink,
    .lseek = kernel_lseek,
    .prep = kernel_prep,
    .done = kernel_done,
};

StoreIo *
store_io_kernel(void)
{
    static StoreIo kernel = {&kernel_ops};

    return &kernel;
}

/* @data into a new file @name, durable in itself. */
static int
write_synced(StoreIo *io, int dirfd, const char *name, const void *data,
             size_t len, mode_t mode)
{
    int fd = io->ops->open(io, dirfd, name, O_WRONLY | O_CREAT | O_TRUNC, mode);
    ssize_t n;
    int r = 0;
    int close_r;

    if (fd < 0) {
        return fd;
    }
    n = io->ops->pwrite(io, fd, data, len, 0);
    if (n < 0) {
        r = (int)n;
    } else if ((size_t)n != len) {
        r = -EIO;
    } else {
        r = io->ops->fsync(io, fd);
    }
    close_r = io->ops->close(io, fd);
    return r < 0 ? r : close_r;
}

int
store_io_replace(StoreIo *io, int dirfd, const char *name, const void *data,
                 size_t len, mode_t mode)
{
    char tmp[NAME_MAX + 1];
    int n = snprintf(tmp, sizeof(tmp), "%s.tmp", name);
    int r;

    if (n < 0 || (size_t)n >= sizeof(tmp)) {
        return -ENAMETOOLONG;
    }
    r = write_synced(io, dirfd, tmp, data, len, mode);
    if (r == 0) {
        r = io->ops->rename(io, dirfd, tmp, name);
    }
    if (r < 0) {
        (void)io->ops->unlink(io, dirfd, tmp, 0);
        return r;
    }
    return io->ops->fsync(io, dirfd);
}

/* @data over the content of @name, if that has the same length; durable. */
static int
overwrite_synced(StoreIo *io, int dirfd, const char *name, const void *data,
                 size_t len)
{
    int fd = io->ops->open(io, dirfd, name, O_WRONLY, 0);
    ssize_t n;
    int r = -EINVAL;

    if (fd < 0) {
        return fd;
    }
    if (io->ops->lseek(io, fd, 0, SEEK_END) == (off_t)len) {
        n = io->ops->pwrite(io, fd, data, len, 0);
        r = n < 0 ? (int)n : (size_t)n != len ? -EIO : 0;
    }
    r = r < 0 ? r : io->ops->fsync(io, fd);
    (void)io->ops->close(io, fd);
    return r;
}

int
store_io_swap(StoreIo *io, int dirfd, const char *name, const char *spare,
              const void *data, size_t len, mode_t mode)
{
    /* Before it is overwritten the spare has to be the spare on disk, too: an
     * exchange that nobody synced may have left it under the other name. */
    int r = io->ops->fsync(io, dirfd);

    if (r == 0 && overwrite_synced(io, dirfd, spare, data, len) == 0 &&
        io->ops->exchange(io, dirfd, spare, name) == 0) {
        r = io->ops->fsync(io, dirfd);
        if (r == 0) {
            return 0;
        }
    }
    /* For the same reason it goes when the directory cannot be synced: the
     * next sync that succeeds would not make that one good (rule 20). */
    (void)io->ops->unlink(io, dirfd, spare, 0);
    if (r < 0) {
        return r;
    }
    r = store_io_replace(io, dirfd, name, data, len, mode);
    if (r == 0 && write_synced(io, dirfd, spare, data, len, mode) < 0) {
        (void)io->ops->unlink(io, dirfd, spare, 0);
    }
    return r;
}

/* The content of @fd behind a NUL, malloc'd. */
static int
load_fd(StoreIo *io, int fd, size_t max, char **data, size_t *len)
{
    off_t size = io->ops->lseek(io, fd, 0, SEEK_END);
    ssize_t n;
    char *buf;

    if (size < 0) {
        return (int)size;
    }
    if ((uint64_t)size > max) {
        return -EFBIG;
    }
    buf = malloc((size_t)size + 1);
    if (!buf) {
        return -ENOMEM;
    }
    n = io->ops->pread(io, fd, buf, (size_t)size, 0);
    if (n < 0) {
        free(buf);
        return (int)n;
    }
    buf[n] = '\0';
    *data = buf;
    *len = (size_t)n;
    return 0;
}

int
store_io_load(StoreIo *io, int dirfd, const char *name, size_t max, char **data,
              size_t *len)
{
    int fd = io->ops->open(io, dirfd, name, O_RDONLY, 0);
    int r;

    if (fd < 0) {
        return fd;
    }
    r = load_fd(io, fd, max, data, len);
    (void)io->ops->close(io, fd);
    return r;
}
