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
 *
 * A file that cannot be opened or written keeps nobody from his data: the disk
 * is served without a list. What was on it is punched before, and the file
 * deleted, so that it cannot speak again; discards are not supported then. If
 * that fails as well, after an unclean end, the disk is served frozen.
 */
#include "face-wire.h"
#include "zero-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* The record as this serve begins with it: readable, ours, with room. */
static int
open_record(FaceDisk *disk)
{
    Store *store = disk->face->config.store;
    StoreIo *io = store->io;
    bool is_found;
    int res = 0;

    disk->zeroes_fd =
        io->ops->open(io, disk->disk->dir_fd, ZERO_FILE,
                      O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (disk->zeroes_fd < 0) {
        return disk->zeroes_fd;
    }
    is_found = store_zeroes_load(store, disk->disk, disk->zeroes_fd,
                                 &disk->zeroes, &disk->record_sequence);
    /* An empty one as well: it may be in the page cache only, of a life that
     * was killed, over one that lists what the guest writes from now on. */
    if (disk->record_sequence || !is_found) {
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

/* What cannot be recorded must not be on the list, and what was recorded must
 * not be found again when the guest has written there. */
static int
end_record(FaceDisk *disk)
{
    Store *store = disk->face->config.store;
    const ZeroList none = {0};
    StoreIo *io = store->io;
    Disk *of = disk->disk;
    int res = store_zeroes_punch(store, of, &disk->zeroes);

    /* It was dirty by the record; nothing else on disk says so yet, unless all of
     * the disk is. */
    if (res == 0 && disk->zeroes.count && of->is_tracked) {
        res = store_checkpoint(store, of);
    }
    if (res) {
        return res;
    }
    disk->zeroes = none;
    store_zeroes_changed(of, &none);
    res = io->ops->unlink(io, of->dir_fd, ZERO_FILE, 0);
    if (res == -ENOENT || res == -EISDIR) {
        return 0;
    }
    res = res ? res : io->ops->fsync(io, of->dir_fd);
    /* After a clean end it is of an epoch that is over. */
    return store->was_clean ? 0 : res;
}

void
face_zero_open(FaceDisk *disk)
{
    Store *store = disk->face->config.store;
    StoreIo *io = store->io;
    int res, end_res;

    disk->record_page = aligned_alloc(4096, ZERO_RECORD_BYTES);
    g_assert(disk->record_page);
    res = open_record(disk);
    if (res == 0) {
        return;
    }
    disk->can_punch = false;
    if (disk->zeroes_fd >= 0) {
        io->ops->close(io, disk->zeroes_fd);
        disk->zeroes_fd = -1;
    }
    end_res = end_record(disk);
    g_message("disk %s: " ZERO_FILE " cannot be had (%s): %s until the next "
              "mount",
              disk->disk->name, g_strerror(-res),
              end_res ? "nothing can be written" : "discards are refused");
    if (end_res) {
        atomic_store(&disk->disk->is_frozen, true);
    }
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
