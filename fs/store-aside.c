/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-aside.c - where a disk keeps what a cut still owes
 *
 * Copies in memory are few, and all disks of the store share the room for
 * them; the others go to a file in the disk's directory that has no name: it is
 * of no use to another process, and gone with this one. Each copy lies at its
 * cluster's own offset, so that the file is sparse and needs no index.
 *
 * Without the file, on a file system that is full, there is memory only, and a
 * cut that needs more is given up.
 */
#include "store-private.h"

#include <errno.h>
#include <fcntl.h>

#define RAM_BYTES (64u << 20) /* of all disks */
#define RAM_LEAST (1u << 20)  /* of one */

int
store_open_direct(StoreIo *io, int dir_fd, const char *name, int flags)
{
    int fd = io->ops->open(io, dir_fd, name, flags | O_DIRECT, 0600);

    return fd == -EINVAL ? io->ops->open(io, dir_fd, name, flags, 0600) : fd;
}

static void
open_file(Store *store, Disk *disk)
{
    const int flags = O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
    StoreIo *io = store->io;
    int fd = store_open_direct(io, disk->dir_fd, STORE_COW, flags);

    disk->aside_fd = fd;
    if (fd >= 0) {
        (void)io->ops->unlink(io, disk->dir_fd, STORE_COW, 0);
    }
}

gboolean
store_aside_open(Store *store, Disk *disk, GError **error)
{
    size_t ram = MAX(RAM_BYTES / store->n_disks, RAM_LEAST);

    disk->aside = aside_new(disk->size_bytes, disk->cluster_bits, ram);
    if (!disk->aside) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "disk %s: no memory for its copies", disk->name);
        return FALSE;
    }
    open_file(store, disk);
    return TRUE;
}
