/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Discards that the last serve accepted and did not carry out (rule 25), as a
 * store finds them.
 *
 * They read as zero already, whatever disk.raw and the target hold: they are
 * dirty from the opening on, so that a store at rest owes them, too. Of a record
 * that cannot be had or is damaged nobody knows what it held: everything may
 * have been on it, and is dirty, to be compared.
 *
 * A record is of an epoch, and when a serve begins the state says that older
 * ones are of no use: before that the list is written again, with the new one.
 * A store that is served without a face (drained at rest) then punches them
 * before anything is read: the relay reads the image itself and knows of no
 * list.
 */
#include "snapshot.h"
#include "store-private.h"
#include "zero-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

void
store_zeroes_changed(Disk *disk, const ZeroList *list)
{
    if (atomic_exchange(&disk->unpunched_bytes, list->bytes) && !list->bytes) {
        atomic_fetch_add(&disk->times_punched, 1);
    }
}

bool
store_zeroes_load(Store *store, Disk *disk, int fd, ZeroList *list,
                  uint64_t *sequence)
{
    bool is_found =
        zero_file_load(store->io, fd, atomic_load(&disk->size_bytes),
                       store->epoch_before, list, sequence);

    for (unsigned i = 0; i < list->count; i++) {
        disk_map_mark(disk->map, list->range[i].offset, list->range[i].len,
                      g_get_monotonic_time());
    }
    store_zeroes_changed(disk, list);
    return is_found;
}

void
store_zeroes_recover(Store *store, Disk *disk)
{
    StoreIo *io = store->io;
    int fd = io->ops->open(io, disk->dir_fd, ZERO_FILE,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    bool is_found = fd == -ENOENT;
    uint64_t sequence;
    ZeroList list;

    if (fd >= 0) {
        is_found = store_zeroes_load(store, disk, fd, &list, &sequence);
        io->ops->close(io, fd);
    }
    if (!is_found) {
        store_say(store,
                  "disk %s: " ZERO_FILE " %s: what was discarded last may show "
                  "its old content; all of the disk is compared",
                  disk->name, fd < 0 ? "cannot be opened" : "is damaged");
        disk_map_mark_all(disk->map, g_get_monotonic_time());
        disk->recovers = true;
    }
}

int
store_zeroes_punch(Store *store, Disk *disk, const ZeroList *list)
{
    StoreIo *io = store->io;
    int res = 0;

    for (unsigned i = 0; res == 0 && i < list->count; i++) {
        const struct ZeroRange *range = &list->range[i];

        struct ClusterRun run =
            run_outward(range->offset, range->len, disk->cluster_bits);

        res = store_keep(store, disk, &run, 1);
        if (res == 0) {
            res = store_heat(store, disk, range->offset, range->len);
        }
        if (res == 0) {
            res = io->ops->fallocate(io, disk->map_fd, PUNCH, range->offset,
                                     range->len);
        }
    }
    return res ? res : io->ops->fdatasync(io, disk->map_fd);
}

/* Punch all of @list, then say in the record that nothing is left. */
static int
settle_list(Store *store, Disk *disk, int fd, const ZeroList *list,
            uint64_t sequence)
{
    const ZeroList none = {0};
    int res = store_zeroes_punch(store, disk, list);

    if (res == 0) {
        res = zero_file_save(store->io, fd, &none, sequence + 1, store->epoch);
    }
    if (res == 0) {
        store_zeroes_changed(disk, &none);
    }
    return res;
}

int
store_zeroes_get(Store *store, Disk *disk, ZeroList *list)
{
    StoreIo *io = store->io;
    int fd = io->ops->open(io, disk->dir_fd, ZERO_FILE,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    uint64_t sequence;

    *list = (ZeroList){0};
    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    (void)store_zeroes_load(store, disk, fd, list, &sequence);
    io->ops->close(io, fd);
    return 0;
}

static int
renew_list(Store *store, Disk *disk, int fd, const ZeroList *list,
           uint64_t sequence)
{
    (void)disk;
    return zero_file_save(store->io, fd, list, sequence + 1, store->epoch);
}

/* @work on what is on the list, if there is anything, or if the record is lost
 * and has to be made anew. */
static int
with_list(Store *store, Disk *disk,
          int (*work)(Store *, Disk *, int, const ZeroList *, uint64_t))
{
    StoreIo *io = store->io;
    int fd = io->ops->open(io, disk->dir_fd, ZERO_FILE,
                           O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    uint64_t sequence;
    ZeroList list;
    int res = 0;

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    if (!store_zeroes_load(store, disk, fd, &list, &sequence) || list.count) {
        res = work(store, disk, fd, &list, sequence);
    }
    io->ops->close(io, fd);
    return res;
}

int
store_zeroes_renew(Store *store, Disk *disk)
{
    return with_list(store, disk, renew_list);
}

int
store_zeroes_settle(Store *store, Disk *disk)
{
    return with_list(store, disk, settle_list);
}
