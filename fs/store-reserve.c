/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-reserve.c - room for the state on a file system that is full
 *
 * Everything that a store needs room for has it from the start of a serve on:
 * checkpoint, intent, sent-log and zero record are written in place, and the
 * state over the one before it (store_io_swap()). So have named bitmaps and maps
 * of jobs, from when they are made on, unless their grains are so fine that they
 * would take too much; what those cannot write is as store-bitmaps-save.c says.
 * A state that got longer, or a
 * serve that begins, takes a block or two. So that a guest which has filled the
 * file system can neither keep its store from being ended cleanly nor from
 * being mounted again (rule 21), a file of nothing is kept, which is given up
 * when the state meets ENOSPC, or a serve begins without room for its sockets,
 * and made again at once. One that is short, because a crash came while it was
 * made or there was no more room then, is filled up.
 *
 * File systems that write elsewhere, like btrfs, may want more than was freed:
 * there it is no promise, only likely.
 */
#include "store-private.h"

#include "bitmap/bitmap-page.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/statvfs.h>

#define RESERVE_BYTES (1u << 20)
#define AMPLE_BYTES   (1u << 24)
#define LEAST_BYTES   (1u << 16)
#define INDEXED_BYTES (1u << 23) /* 64 KiB of 1.8 TiB */
#define TIGHT_PART    16         /* of the file system ... */
#define TIGHT_BYTES   (1u << 30) /* ... and no more than this */

static bool
has_room(const Store *store, uint64_t bytes)
{
    struct statvfs host;

    return !fstatvfs(store->dir_fd, &host) &&
           (uint64_t)host.f_bavail * host.f_frsize >= bytes;
}

static uint64_t
filled_bytes(int fd)
{
    struct stat st;

    return fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

void
store_reserve_keep(Store *store)
{
    const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    StoreIo *io = store->io;
    int fd = io->ops->open(io, store->dir_fd, STORE_RESERVE, flags, 0600);
    uint64_t had;
    int err = -ENOSPC;

    if (fd < 0) {
        return; /* not to be had */
    }
    had = filled_bytes(fd);
    /* As much of it as there is, before the guest takes it; and not beyond the
     * end of the file, where xfs frees blocks when it runs out of others. What
     * it has is not asked for again: xfs wants room even for that. */
    for (uint64_t bytes = RESERVE_BYTES;
         err && bytes > had && bytes >= LEAST_BYTES; bytes /= 2) {
        err = io->ops->fallocate(io, fd, 0, 0, bytes);
    }
    err = err ? err : io->ops->fsync(io, fd);
    io->ops->close(io, fd);
    if (err && had < LEAST_BYTES) {
        (void)io->ops->unlink(io, store->dir_fd, STORE_RESERVE, 0);
    }
}

bool
store_reserve_give(Store *store)
{
    StoreIo *io = store->io;

    if (io->ops->unlink(io, store->dir_fd, STORE_RESERVE, 0)) {
        return false;
    }
    /* Freed blocks may be had only when the journal has it. */
    return io->ops->fsync(io, store->dir_fd) == 0;
}

void
store_reserve_bits(StoreIo *io, int dir_fd, const char *name, uint64_t clusters,
                   bool is_indexed)
{
    uint64_t pages = bitmap_file_pages(clusters);
    uint64_t bytes = bitmap_file_bits_in(is_indexed, pages, 0);
    int fd;

    if (is_indexed && bytes > INDEXED_BYTES) {
        return;
    }
    fd = io->ops->open(io, dir_fd, name, O_RDWR | O_CLOEXEC, 0);
    if (fd >= 0) {
        (void)io->ops->fallocate(io, fd, FALLOC_FL_KEEP_SIZE, 0, bytes);
        io->ops->close(io, fd);
    }
}

void
store_make_room(Store *store)
{
    if (!has_room(store, AMPLE_BYTES)) {
        (void)store_reserve_give(store);
    }
}

/* Old content that a cut owes can be given up, a guest's write cannot: so it is
 * to end before the room does (rule 18). */
void
store_look_at_room(Store *store)
{
    struct statvfs host;

    if (!fstatvfs(store->dir_fd, &host)) {
        uint64_t all = (uint64_t)host.f_blocks * host.f_frsize;
        uint64_t free = (uint64_t)host.f_bavail * host.f_frsize;
        uint64_t least = MIN(all / TIGHT_PART, TIGHT_BYTES);
        bool is_tight = free < least;

        atomic_store(&store->is_tight, is_tight);
        atomic_store(&store->squeeze,
                     is_tight ? (unsigned)((least - free) * 1000 / least) : 0);
    }
}
