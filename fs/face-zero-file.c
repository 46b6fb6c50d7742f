/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The zero list's record file while a face is at work: opened with the disk,
 * two slots long from the start so that no record ever needs room. What the
 * last end left on the list is on it again, reads as zero at once, and is
 * punched when the face starts; store-zeroes.c says what it has to be before.
 *
 * A file with no valid slot is a new one, a damaged one, or of before the last
 * clean end, when nothing was left: the list is empty then. Damage can only cost
 * ranges that were discarded within the last seconds before a crash, and they
 * read as what they held before.
 */
#include "face-wire.h"
#include "zero-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

int
face_zero_open(FaceDisk *disk)
{
    Store *store = disk->face->config.store;
    StoreIo *io = store->io;
    Disk *of = disk->disk;
    int res = 0;

    disk->record_page = aligned_alloc(4096, ZERO_RECORD_BYTES);
    g_assert(disk->record_page);
    disk->zeroes_fd =
        io->ops->open(io, of->dir_fd, ZERO_FILE,
                      O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (disk->zeroes_fd < 0) {
        return disk->zeroes_fd;
    }
    store_zeroes_load(store, of, disk->zeroes_fd, &disk->zeroes,
                      &disk->record_sequence);
    /* An empty one as well: it may be in the page cache only, of a life that
     * was killed, over one that lists what the guest writes from now on. */
    if (disk->record_sequence) {
        res = zero_file_save(io, disk->zeroes_fd, &disk->zeroes,
                             ++disk->record_sequence, store->epoch);
    }
    if (res == 0) {
        /* Room for both slots now, so that a full disk cannot refuse one.
         * File systems that cannot promise room are taken as they are. */
        res = io->ops->fallocate(io, disk->zeroes_fd, 0, 0, ZERO_FILE_BYTES);
        res = res == -EOPNOTSUPP ? 0 : res;
    }
    /* Behind the end of the file: changes nothing, tells if it can. Not of the
     * disk's, whose times tell whether somebody else wrote it. */
    disk->can_punch =
        io->ops->fallocate(io, disk->zeroes_fd, PUNCH, ZERO_FILE_BYTES,
                           ZERO_RECORD_BYTES) == 0;
    return res;
}

void
face_zero_close(FaceDisk *disk)
{
    Store *store = disk->face->config.store;
    StoreIo *io = store->io;

    if (disk->zeroes_fd >= 0) {
        /* What could not be punched goes on after a clean end, too. */
        if (disk->zeroes.count &&
            zero_file_save(io, disk->zeroes_fd, &disk->zeroes,
                           disk->record_sequence + 1, store_end_epoch(store))) {
            /* No clean end, after which the record would be of no use. */
            atomic_store(&disk->disk->is_frozen, true);
        } else if (!disk->zeroes.count &&
                   disk->written_version != disk->durable_version) {
            io->ops->fdatasync(io, disk->zeroes_fd);
        }
        io->ops->close(io, disk->zeroes_fd);
    }
    free(disk->record_page);
}
