/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * power-cut.c - takes the power from one file system
 *
 *   power-cut MOUNTPOINT
 *
 * From the moment of the ioctl no block of it reaches its device any more,
 * not even the log's: what was fsynced is there after the next mount, the
 * rest is as far as it came. ext4 and xfs have it, btrfs does not (exit 1).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Both file systems' own headers have these under names of their own. */
#define GOING_DOWN   _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2

int
main(int argc, char **argv)
{
    uint32_t how = NO_LOG_FLUSH;
    int fd;

    if (argc != 2) {
        fprintf(stderr, "usage: power-cut MOUNTPOINT\n");
        return 2;
    }
    fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, GOING_DOWN, &how)) {
        fprintf(stderr, "power-cut: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    close(fd);
    return 0;
}
