/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-io.h - the one seam that all storage calls of a store go through
 *
 * Purpose: the product calls the kernel here and nowhere else, so that tests
 *          can record, tear, fail and reorder what a store does (rule 24).
 *          Two faces: plain calls, for threads that may wait, and requests
 *          for an io_uring, for threads that may not.
 * Threads: the ops of the kernel backend hold no state; a test backend says
 *          for itself. A StoreReq belongs to the thread that owns the ring.
 * Units:   bytes.
 * Shapes:  names are single path components, opened beneath @dirfd without
 *          following links (rule 36).
 * Errors:  0 or a count; -errno. A short read or write of a plain call is
 *          finished by the callee, except at the end of the file.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct io_uring_sqe;

typedef struct StoreIo StoreIo;
typedef struct StoreReq StoreReq;

enum StoreOp {
    STORE_READ,
    STORE_WRITE,
    STORE_WRITE_SYNC, /* durable when it is complete, as with O_DSYNC */
    STORE_FDATASYNC,
    STORE_FALLOCATE, /* mode: fallocate(2)'s */
};

/* One request on a ring. Set by the caller; prep() and done() see it. */
struct StoreReq {
    enum StoreOp op;
    int fd;
    int mode;
    void *buf;
    uint64_t offset;
    uint64_t len; /* buf holds it: under 4 GiB, but for FALLOCATE */
};

struct StoreIoOps {
    int (*open)(StoreIo *io, int dirfd, const char *name, int flags,
                mode_t mode);
    int (*close)(StoreIo *io, int fd);
    int (*mkdir)(StoreIo *io, int dirfd, const char *name, mode_t mode);
    ssize_t (*pread)(StoreIo *io, int fd, void *buf, size_t len,
                     uint64_t offset);
    ssize_t (*pwrite)(StoreIo *io, int fd, const void *buf, size_t len,
                      uint64_t offset);
    int (*fdatasync)(StoreIo *io, int fd);
    int (*fsync)(StoreIo *io, int fd); /* also of a directory */
    int (*ftruncate)(StoreIo *io, int fd, uint64_t size);
    int (*fallocate)(StoreIo *io, int fd, int mode, uint64_t offset,
                     uint64_t len);
    int (*rename)(StoreIo *io, int dirfd, const char *from, const char *to);
    /* The two names change places. */
    int (*exchange)(StoreIo *io, int dirfd, const char *a, const char *b);
    int (*unlink)(StoreIo *io, int dirfd, const char *name, int flags);
    off_t (*lseek)(StoreIo *io, int fd, off_t offset, int whence);

    /* Fill @sqe for @req; the caller sets user_data and submits. */
    void (*prep)(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req);
    /* The CQE's result passes through here before anybody believes it. */
    int (*done)(StoreIo *io, const StoreReq *req, int res);
};

struct StoreIo {
    const struct StoreIoOps *ops;
};

/* The kernel itself. One for all; never freed. */
StoreIo *store_io_kernel(void);

/*
 * store_io_replace() - a small file's new content, all of it or none
 * Writes @name.tmp, syncs it, renames it over @name and syncs the directory.
 * Return: 0 or -errno; on error @name is as it was, or, if only the last of
 *         these steps failed, the new content that may not be durable yet.
 */
int store_io_replace(StoreIo *io, int dirfd, const char *name, const void *data,
                     size_t len, mode_t mode);

/*
 * store_io_swap() - the same, without need for room
 * What @name was is kept as @spare, and the next time overwritten in place and
 * exchanged with it. Without a spare of that very length, or on a file system
 * that cannot exchange, the content is replaced, and the spare made if there is
 * room for it: so lengths should seldom change. Who keeps @name open over more
 * than one swap may read a mixture.
 */
int store_io_swap(StoreIo *io, int dirfd, const char *name, const char *spare,
                  const void *data, size_t len, mode_t mode);

/* The whole of a small file, NUL-terminated behind @len, malloc'd; at most
 * @max bytes, else -EFBIG. */
int store_io_load(StoreIo *io, int dirfd, const char *name, size_t max,
                  char **data, size_t *len);
