/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The zero list's record file, STORE/NAME/zeroes: opened with the disk, two
 * slots long from the start so that no record ever needs room. What the last
 * end left on the list is on it again, reads as zero at once, and is punched
 * when the face starts.
 *
 * A record is of an epoch, and when a serve begins the state says that older
 * ones are of no use: before that the list is written again, with the new one.
 *
 * A store that is served without a face (drained at rest) settles the list
 * first: the relay reads the image itself and knows of no list.
 *
 * A file with no valid slot is a new one, a damaged one, or of before the last
 * clean end, when nothing was left: the list is empty then. Damage can only cost
 * ranges that were discarded within the last seconds before a crash, and they
 * read as what they held before.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_BYTES (2 * ZERO_RECORD_BYTES)
#define PUNCH      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* @list as the record of both slots, durably. */
static int
write_slots(StoreIo *io, int fd, const ZeroList *list, uint64_t sequence,
            uint64_t epoch, unsigned char *page)
{
    int res = 0;

    zero_record_encode(list, sequence, epoch, page);
    for (unsigned i = 0; res == 0 && i < 2; i++) {
        ssize_t n = io->ops->pwrite(io, fd, page, ZERO_RECORD_BYTES,
                                    ((sequence + i) & 1) * ZERO_RECORD_BYTES);

        res = n == ZERO_RECORD_BYTES ? io->ops->fdatasync(io, fd)
              : n < 0                ? (int)n
                                     : -EIO;
    }
    return res;
}

/* The newest valid slot, or an empty list. @page is room for one. */
static void
load_slots(const Store *store, const Disk *disk, int fd, unsigned char *page,
           ZeroList *zeroes, uint64_t *newest)
{
    StoreIo *io = store->io;
    uint64_t sequence;
    ZeroList list;

    *zeroes = (ZeroList){0};
    *newest = 0;
    for (unsigned slot = 0; slot < 2; slot++) {
        ssize_t n = io->ops->pread(io, fd, page, ZERO_RECORD_BYTES,
                                   slot * ZERO_RECORD_BYTES);

        /* One that cannot be read is none: rule 23. */
        if (n == ZERO_RECORD_BYTES &&
            zero_record_decode(page, disk->size_bytes, store->epoch_before,
                               &list, &sequence) &&
            sequence > *newest) {
            *newest = sequence;
            *zeroes = list;
        }
    }
}

/* What is on the list reads as zero already, whatever the target has: it is
 * dirty, and not only when it is punched. */
static void
mark_list(Disk *disk, const ZeroList *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        disk_map_mark(disk->map, list->range[i].offset, list->range[i].len,
                      face_now_us());
    }
}

int
face_zero_open(FaceDisk *disk)
{
    StoreIo *io = disk->face->config.store->io;
    Disk *of = disk->disk;
    int res = 0;

    disk->record_page = aligned_alloc(4096, ZERO_RECORD_BYTES);
    g_assert(disk->record_page);
    disk->zeroes_fd = io->ops->open(io, of->dir_fd, "zeroes",
                                    O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (disk->zeroes_fd < 0) {
        return disk->zeroes_fd;
    }
    load_slots(disk->face->config.store, of, disk->zeroes_fd, disk->record_page,
               &disk->zeroes, &disk->record_sequence);
    mark_list(of, &disk->zeroes);
    /* An empty one as well: it may be in the page cache only, of a life that
     * was killed, over one that lists what the guest writes from now on. */
    if (disk->record_sequence) {
        res = write_slots(io, disk->zeroes_fd, &disk->zeroes,
                          ++disk->record_sequence,
                          disk->face->config.store->epoch, disk->record_page);
    }
    if (res == 0) {
        /* Room for both slots now, so that a full disk cannot refuse one.
         * File systems that cannot promise room are taken as they are. */
        res = io->ops->fallocate(io, disk->zeroes_fd, 0, 0, FILE_BYTES);
        res = res == -EOPNOTSUPP ? 0 : res;
    }
    /* Behind the end of the file: changes nothing, tells if it can. Not of the
     * disk's, whose times tell whether somebody else wrote it. */
    disk->can_punch = io->ops->fallocate(io, disk->zeroes_fd, PUNCH, FILE_BYTES,
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
            write_slots(io, disk->zeroes_fd, &disk->zeroes,
                        disk->record_sequence + 1, store_end_epoch(store),
                        disk->record_page)) {
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

/* Punch all of @list, then say in the record that nothing is left. */
static int
settle_list(Store *store, Disk *disk, int fd, const ZeroList *list,
            uint64_t sequence, unsigned char *page)
{
    const ZeroList none = {0};
    StoreIo *io = store->io;
    int res = 0;

    for (unsigned i = 0; res == 0 && i < list->count; i++) {
        const struct ZeroRange *range = &list->range[i];

        res = store_heat(store, disk, range->offset, range->len);
        if (res == 0) {
            res = io->ops->fallocate(io, disk->map_fd, PUNCH, range->offset,
                                     range->len);
        }
    }
    mark_list(disk, list);
    if (res == 0) {
        res = io->ops->fdatasync(io, disk->map_fd);
    }
    if (res == 0) {
        res = write_slots(io, fd, &none, sequence + 1, store->epoch, page);
    }
    return res;
}

int
face_renew_zeroes(Store *store, Disk *disk)
{
    unsigned char page[ZERO_RECORD_BYTES];
    StoreIo *io = store->io;
    uint64_t sequence;
    ZeroList list;
    int fd = io->ops->open(io, disk->dir_fd, "zeroes", O_RDWR | O_CLOEXEC, 0);

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    int res = 0;

    load_slots(store, disk, fd, page, &list, &sequence);
    if (list.count) {
        mark_list(disk, &list);
        res = write_slots(io, fd, &list, sequence + 1, store->epoch, page);
    }
    io->ops->close(io, fd);
    return res;
}

int
face_settle_zeroes(Store *store, Disk *disk)
{
    StoreIo *io = store->io;
    unsigned char page[ZERO_RECORD_BYTES];
    uint64_t sequence;
    ZeroList list;
    int fd = io->ops->open(io, disk->dir_fd, "zeroes", O_RDWR | O_CLOEXEC, 0);

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    int res = 0;

    load_slots(store, disk, fd, page, &list, &sequence);
    if (list.count) {
        res = settle_list(store, disk, fd, &list, sequence, page);
    }
    io->ops->close(io, fd);
    return res;
}
