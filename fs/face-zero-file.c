/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The zero list's record file, STORE/NAME/zeroes: opened with the disk, two
 * slots long from the start so that no record ever needs room. What the last
 * end left on the list is on it again, reads as zero at once, and is punched
 * when the face starts.
 *
 * A file with no valid slot is a new one, or a damaged one: the list is empty
 * then. Damage can only cost ranges that were discarded within the last
 * seconds before a crash, and they read as what they held before.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_BYTES (2 * ZERO_RECORD_BYTES)
#define PUNCH      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static int
load_slots(FaceDisk *disk)
{
    StoreIo *io = disk->face->config.store->io;
    uint64_t best = 0, sequence;
    ZeroList list;

    for (unsigned slot = 0; slot < 2; slot++) {
        ssize_t n = io->ops->pread(io, disk->zeroes_fd, disk->record_page,
                                   ZERO_RECORD_BYTES, slot * ZERO_RECORD_BYTES);

        if (n < 0) {
            return (int)n;
        }
        if (n == ZERO_RECORD_BYTES &&
            zero_record_decode(disk->record_page, disk->disk->size_bytes, &list,
                               &sequence) &&
            sequence > best) {
            best = sequence;
            disk->zeroes = list;
        }
    }
    disk->record_sequence = best;
    return 0;
}

int
face_zero_open(FaceDisk *disk)
{
    StoreIo *io = disk->face->config.store->io;
    Disk *of = disk->disk;
    int res;

    disk->record_page = aligned_alloc(4096, ZERO_RECORD_BYTES);
    g_assert(disk->record_page);
    disk->zeroes_fd = io->ops->open(io, of->dir_fd, "zeroes",
                                    O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (disk->zeroes_fd < 0) {
        return disk->zeroes_fd;
    }
    res = load_slots(disk);
    if (res == 0) {
        /* Room for both slots now, so that a full disk cannot refuse one.
         * File systems that cannot promise room are taken as they are. */
        res = io->ops->fallocate(io, disk->zeroes_fd, 0, 0, FILE_BYTES);
        res = res == -EOPNOTSUPP ? 0 : res;
    }
    /* Behind the end of the file: changes nothing, tells if it can. */
    disk->can_punch =
        io->ops->fallocate(io, of->map_fd, PUNCH,
                           (of->size_bytes | (ZERO_RECORD_BYTES - 1)) + 1,
                           ZERO_RECORD_BYTES) == 0;
    return res;
}

void
face_zero_close(FaceDisk *disk)
{
    StoreIo *io = disk->face->config.store->io;

    if (disk->zeroes_fd >= 0) {
        if (disk->written_version != disk->durable_version) {
            io->ops->fdatasync(io, disk->zeroes_fd);
        }
        io->ops->close(io, disk->zeroes_fd);
    }
    free(disk->record_page);
}
