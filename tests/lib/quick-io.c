/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * quick-io.c - the kernel's ops but for two
 */
#include "quick-io.h"

#include <fcntl.h>

static int
open_cached(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    StoreIo *kernel = store_io_kernel();

    (void)io;
    return kernel->ops->open(kernel, dirfd, name, flags & ~O_DIRECT, mode);
}

static int
sync_nothing(StoreIo *io, int fd)
{
    (void)io;
    (void)fd;
    return 0;
}

StoreIo *
quick_io(void)
{
    static struct StoreIoOps ops;
    static StoreIo io = {&ops};

    ops = *store_io_kernel()->ops;
    ops.open = open_cached;
    ops.fsync = ops.fdatasync = sync_nothing;
    return &io;
}
