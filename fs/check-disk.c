/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check-disk.c - `weir check`: the files of one disk
 *
 * One function per file; check_disk() at the end calls them in the order in
 * which they rely on each other: an intent file is sound only beside the
 * checkpoint that it names. With --repair each mends what it has found before
 * the next one looks.
 */
#include "check-private.h"

#include "bitmap/bitmap-file.h"
#include "bitmap/intent.h"
#include "relay/sent-log.h"
#include "relay/sums.h"
#include "zero-file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* A file that is made anew, so that nothing about the old one, whatever it is,
 * can fail that. Without it more is dirty, until the new one is there. */
static int
discard(struct Check *check, int dir_fd, const char *name)
{
    int err = check->io->ops->unlink(check->io, dir_fd, name, 0);

    return err == -ENOENT ? 0 : err;
}

/* All that was not found clean is dirty, in a checkpoint newer than any. */
static void
mend_bitmap(struct Check *check, const struct ConfDisk *disk, int dir_fd,
            struct BitmapFile *file, uint64_t *sequence)
{
    g_autofree char *what = g_strdup_printf(
        "disk %s: " STORE_DIRTY ": what was damaged is dirty", disk->name);
    int err;

    *sequence = MAX(*sequence, check->state.sequence) + 1;
    err = discard(check, dir_fd, STORE_DIRTY);
    err = err ? err : bitmap_file_save(check->io, dir_fd, file, 1, *sequence);
    check_mended(check, err, what);
}

/* The checkpoint, which is to be there. Returns its sequence. */
static uint64_t
check_bitmap(struct Check *check, const struct ConfDisk *disk, int dir_fd,
             const struct StateDisk *known)
{
    uint64_t size = MAX(disk->size_bytes, known->size_bytes);
    struct BitmapFile file = {.name = STORE_DIRTY};
    struct BitmapFileReport report = {0};
    const char *what = NULL;
    int err;

    file.map = bitmap_new(size, disk->cluster_bits);
    if (!file.map) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: no memory to check its bitmap", disk->name);
        return 0;
    }
    memcpy(file.uuid, check->conf.uuid, sizeof(file.uuid));
    err = bitmap_file_load(check->io, dir_fd, &file, &report);
    if (err) {
        what = g_strerror(-err);
    } else if (report.what) {
        what = report.what;
    } else if (report.sequence < known->sequence) {
        what = "it is older than the last checkpoint";
        bitmap_set_all(file.map);
    }
    if (what) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " STORE_DIRTY ": %s: what cannot be believed will "
                   "be sent again, nothing is lost",
                   disk->name, what);
        report.sequence = report.newest;
        if (check->repairs && err != -EPROTONOSUPPORT) {
            mend_bitmap(check, disk, dir_fd, &file, &report.sequence);
        }
    }
    bitmap_free(file.map);
    return report.sequence;
}

static void
mend_intent(struct Check *check, const struct ConfDisk *disk, int dir_fd,
            const Bitmap *hot, uint64_t sequence)
{
    struct IntentMark mark = {.epoch = check->state.epoch,
                              .sequence = sequence};
    g_autofree char *what = g_strdup_printf(
        "disk %s: " INTENT_FILE ": what was damaged counts as written",
        disk->name);
    int err = discard(check, dir_fd, INTENT_FILE);

    memcpy(mark.uuid, check->conf.uuid, sizeof(mark.uuid));
    err = err ? err : intent_save(check->io, dir_fd, hot, &mark);
    check_mended(check, err, what);
}

/* How much of @disk the intent file @fd is about, if nothing relies on it: a
 * disk that was grown at rest has more than a file of before. */
static uint64_t
intent_bytes(const struct ConfDisk *disk, int fd)
{
    uint64_t extents = clusters_for(disk->size_bytes, INTENT_EXTENT_BITS);
    struct stat st;
    uint64_t pages;

    if (fd < 0 || fstat(fd, &st)) {
        return disk->size_bytes;
    }
    /* What is of a page in part, or of none, is not of before. */
    pages = MAX(((uint64_t)st.st_size + INTENT_PAGE - 1) / INTENT_PAGE, 1);
    return pages < intent_pages(extents)
               ? pages * INTENT_PAGE_BITS << INTENT_EXTENT_BITS
               : disk->size_bytes;
}

/*
 * The intent file. @needed: the store was not ended cleanly, and this says
 * what may have been written; else the next serve begins with a new one.
 */
static void
check_intent(struct Check *check, const struct ConfDisk *disk, int dir_fd,
             bool needed, uint64_t sequence)
{
    struct IntentMark want = {.epoch = needed ? check->state.epoch : 0,
                              .sequence = needed ? sequence : UINT64_MAX};
    int fd = check->io->ops->open(check->io, dir_fd, INTENT_FILE,
                                  O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    Bitmap *hot = bitmap_new(needed ? disk->size_bytes : intent_bytes(disk, fd),
                             INTENT_EXTENT_BITS);
    struct IntentReport report = {0};

    memcpy(want.uuid, check->conf.uuid, sizeof(want.uuid));
    if (hot && (fd != -ENOENT || needed)) {
        intent_load(check->io, dir_fd, hot, &want, &report);
    }
    if (report.what) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " INTENT_FILE ": %s: %" G_GUINT64_FORMAT
                   " extents count as written, nothing is lost",
                   disk->name, report.what, report.damaged_extents);
        if (check->repairs) {
            mend_intent(check, disk, dir_fd, hot, sequence);
        }
    }
    if (fd >= 0) {
        check->io->ops->close(check->io, fd);
    }
    bitmap_free(hot);
}

/* As of a disk that never had a list. */
static void
mend_zeroes(struct Check *check, const struct ConfDisk *disk, int dir_fd)
{
    g_autofree char *what =
        g_strdup_printf("disk %s: " ZERO_FILE " is deleted", disk->name);
    int err = discard(check, dir_fd, ZERO_FILE);

    err = err ? err : check->io->ops->fsync(check->io, dir_fd);
    check_mended(check, err, what);
}

static void
check_zeroes(struct Check *check, const struct ConfDisk *disk, int dir_fd)
{
    StoreIo *io = check->io;
    int fd = io->ops->open(io, dir_fd, ZERO_FILE,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    uint64_t sequence;
    ZeroList list;

    if (fd == -ENOENT) {
        return;
    }
    if (fd < 0 ||
        !zero_file_load(io, fd, disk->size_bytes, 0, &list, &sequence)) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " ZERO_FILE " cannot be read: what was discarded "
                   "last, before a crash, may show its old content",
                   disk->name);
        if (check->repairs) {
            mend_zeroes(check, disk, dir_fd);
        }
    }
    if (fd >= 0) {
        io->ops->close(io, fd);
    }
}

static void
mend_sums(struct Check *check, const struct ConfDisk *disk, int dir_fd)
{
    g_autofree char *what = g_strdup_printf(
        "disk %s: " SUMS_FILE ": nothing is known of the target", disk->name);

    check_mended(check, discard(check, dir_fd, SUMS_FILE), what);
}

/* As an opening does with one that is missing: of a store that was served. */
static int
renew_log(struct Check *check, int dir_fd, bool in_doubt, Bitmap *logged)
{
    const char *said;
    SentLog log;
    int err = discard(check, dir_fd, SENT_LOG_FILE);

    err = err ? err
              : sent_log_open(&log, check->io, dir_fd, check->conf.uuid, 1,
                              check->state.epoch, in_doubt, logged, &said);
    if (err == -EBADMSG) {
        sent_log_close(&log);
        err = 0;
    }
    return err;
}

/* Then no sum is known, either. */
static void
mend_log(struct Check *check, const struct ConfDisk *disk, int dir_fd,
         bool in_doubt)
{
    g_autofree char *what =
        g_strdup_printf("disk %s: " SENT_LOG_FILE ": %s", disk->name,
                        in_doubt ? "everything counts as uploaded in part"
                                 : "nothing is known of the target");
    Bitmap *logged = bitmap_new(disk->size_bytes, disk->cluster_bits);
    int err = logged ? renew_log(check, dir_fd, in_doubt, logged) : -ENOMEM;

    err = err ? err : discard(check, dir_fd, SUMS_FILE);
    if (logged) {
        bitmap_free(logged);
    }
    check_mended(check, err, what);
}

/* What the relay keeps, of a target that was written. */
static void
check_books(struct Check *check, const struct ConfDisk *disk, int dir_fd,
            const struct StateDisk *known)
{
    uint64_t least = store_books_epoch(known ? known->contact : CONTACT_NONE,
                                       check->state.epoch_before);
    const char *log =
        sent_log_check(check->io, dir_fd, check->conf.uuid, least);
    const char *sums = sums_check(check->io, dir_fd, check->conf.uuid,
                                  disk->cluster_bits, least);

    if (log) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " SENT_LOG_FILE ": %s: after a crash everything "
                   "counts as uploaded in part and is sent again",
                   disk->name, log);
        if (check->repairs) {
            mend_log(check, disk, dir_fd,
                     !check->state.is_clean || (known && known->is_in_doubt));
        }
    }
    if (sums) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " SUMS_FILE ": %s: what is dirty is sent without "
                   "a look at what the target holds",
                   disk->name, sums);
        if (check->repairs) {
            mend_sums(check, disk, dir_fd);
        }
    }
}

static void
check_raw(struct Check *check, const struct ConfDisk *disk, int dir_fd,
          const struct StateDisk *known)
{
    StoreIo *io = check->io;
    int fd = io->ops->open(io, dir_fd, STORE_RAW,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    struct RawStamp stamp;

    if (fd < 0 || store_raw_stamp(fd, &stamp)) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " STORE_RAW " cannot be opened: %s", disk->name,
                   g_strerror(fd < 0 ? -fd : errno));
    } else if (stamp.size_bytes < disk->size_bytes) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: " STORE_RAW " has %" G_GUINT64_FORMAT
                   " bytes, weir.conf says %" G_GUINT64_FORMAT,
                   disk->name, stamp.size_bytes, disk->size_bytes);
    } else if (known && check->state.is_clean &&
               !store_raw_is_same(&stamp, &known->raw,
                                  check->state.rollback != 0)) {
        check_tell(check, CHECK_NOTE,
                   "disk %s: " STORE_RAW
                   " was written or replaced while the store "
                   "was at rest: all of it will be sent again",
                   disk->name);
    }
    if (fd >= 0) {
        io->ops->close(io, fd);
    }
}

static bool
is_disk_name(const struct Check *check, const char *name)
{
    (void)check;
    return store_is_disk_file(name);
}

void
check_disk(struct Check *check, const struct ConfDisk *disk)
{
    const struct StateDisk *known = state_disk(&check->state, disk->id);
    g_autofree char *where = g_strconcat(disk->name, "/", NULL);
    int dir_fd = check->io->ops->open(check->io, check->dir_fd, disk->name,
                                      STORE_DIR_FLAGS, 0);
    uint64_t sequence = 0;
    bool has_bitmap = known && known->dirty == STATE_DIRTY_FILE;

    if (dir_fd < 0) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: its directory cannot be opened: %s", disk->name,
                   g_strerror(-dir_fd));
        return;
    }
    check_raw(check, disk, dir_fd, known);
    check_zeroes(check, disk, dir_fd);
    check_books(check, disk, dir_fd, known);
    if (has_bitmap) {
        sequence = check_bitmap(check, disk, dir_fd, known);
    }
    check_intent(check, disk, dir_fd, has_bitmap && !check->state.is_clean,
                 sequence);
    check_bitmaps(check, disk, dir_fd);
    check_names(check, where, dir_fd, is_disk_name);
}
