/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two files in which the relay keeps what it knows of a disk's target:
 * remote-sums and sent-log. They are opened before the store says that it is
 * served, and stamped with its new epoch, so that a copy of before that is
 * seen to be one; and again when the relay has ended, with the epoch of the
 * clean end, so that a copy made while it was at work is seen, too.
 *
 *   sent-log       sums        what is believed
 *   -------------- ----------- -----------------------------------------------
 *   sound          sound       the sums, but for what is logged
 *   sound          damaged     no sum
 *   damaged        any         no sum; after an unclean end everything is in
 *                              doubt
 *
 * A disk whose sums cannot be had (no room, I/O errors) is relayed without:
 * everything stays in the sent-log then. Without a sent-log nothing is sent, but
 * the guest is served (rule 23).
 */
#include <errno.h>
#include <sys/mman.h>

#include "loop.h"

#define ENTRIES_BYTES ((size_t)RELAY_OPS * 2 * RELAY_SUMS_BYTES)

static void
say_what(const RelayDisk *disk, const char *file, const char *what,
         const char *cost)
{
    if (what) {
        g_warning("%s/%s: %s: %s", disk->name, file, what, cost);
    }
}

static int
open_log(RelayDisk *disk, const struct RelayDiskConfig *config)
{
    const char *what;
    int r =
        sent_log_open(&disk->books.log, disk->relay->config.io, config->dir_fd,
                      config->uuid, config->epoch_before, config->epoch,
                      config->is_in_doubt, disk->logged, &what);

    say_what(disk, SENT_LOG_FILE, what,
             config->is_in_doubt ? "everything counts as uploaded in part"
                                 : "nothing is known of the target's content");
    return r;
}

/* @is_trusted: false if the log cannot say which of them are old. */
static void
open_sums(RelayDisk *disk, const struct RelayDiskConfig *config,
          bool is_trusted)
{
    const char *what;
    uint64_t least = is_trusted ? config->epoch_before : UINT64_MAX;
    int r = sums_open(&disk->books.sums, disk->relay->config.io, config->dir_fd,
                      config->uuid, disk_map_cluster_bits(disk->map), least,
                      config->epoch, &what);

    if (r < 0 && r != -EBADMSG) {
        what = g_strerror(-r);
    }
    say_what(disk, SUMS_FILE, is_trusted ? what : NULL,
             "nothing is known of the target's content");
}

bool
books_open(RelayDisk *disk, const struct RelayDiskConfig *config,
           GError **error)
{
    struct RelayBooks *books = &disk->books;
    int r;

    books->sums.fd = books->log.fd = -1;
    books->entries = mmap(NULL, ENTRIES_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    disk->logged = bitmap_new(disk_map_size_bytes(disk->map),
                              disk_map_cluster_bits(disk->map));
    if (books->entries == MAP_FAILED || !disk->logged) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED,
                    "%s: no memory for its buffers", config->name);
        return false;
    }
    (void)madvise(books->entries, ENTRIES_BYTES, MADV_DONTFORK);
    r = open_log(disk, config);
    if (r < 0 && r != -EBADMSG) {
        say_what(disk, SENT_LOG_FILE, g_strerror(-r),
                 "nothing is uploaded before the next mount: make room, or "
                 "look at the file system");
        if (config->is_in_doubt) {
            bitmap_set_all(disk->logged);
        }
    }
    open_sums(disk, config, r == 0);
    return true;
}

void
books_end(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;
    StoreIo *io = disk->relay->config.io;
    bool is_durable =
        books->sums.fd >= 0 && io->ops->fdatasync(io, books->sums.fd) == 0;

    bitmap_clear_all(disk->logged);
    if (bitmap_grow(disk->logged, disk_map_size_bytes(disk->map)) < 0) {
        g_error("%s: out of memory", disk->name);
    }
    relay_core_last_log(disk->core, is_durable, disk->logged);
}

void
books_stamp(RelayDisk *disk, uint64_t epoch)
{
    struct RelayBooks *books = &disk->books;
    int r = 0;

    if (books->log.fd >= 0) {
        r = sent_log_stamp(&books->log, disk->logged, epoch);
    }
    if (r == 0 && books->sums.fd >= 0) {
        r = sums_stamp(&books->sums, epoch);
    }
    if (r < 0) {
        g_warning("%s: what is known of its target cannot be kept: %s",
                  disk->name, g_strerror(-r));
    }
}

void
books_close(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;

    sent_log_close(&books->log);
    if (books->sums.fd >= 0) {
        sums_close(&books->sums);
    }
    if (books->entries && books->entries != MAP_FAILED) {
        munmap(books->entries, ENTRIES_BYTES);
    }
    bitmap_free(disk->logged);
}
