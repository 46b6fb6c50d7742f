/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check.c - `weir check`: every structure of a store at rest, read only
 *
 * Looks at what an opening would look at, but goes on after the first thing
 * that is wrong, and names each. Lines of the report:
 *
 *   damaged: ...   part of the store is not what weir wrote; the verdict is
 *                  "damaged". Most damage costs only work (everything is sent
 *                  again), and each line says what it costs.
 *   note: ...      worth knowing, and sound: not ended cleanly, leftovers of
 *                  something interrupted, files that weir does not know.
 *
 * Nothing is written. The lock is taken shared for the time of the check, so
 * that nobody serves the store meanwhile; a store in use is refused as busy.
 */
#include "bitmap/bitmap-file.h"
#include "store-private.h"
#include "zero-list.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct Check {
    StoreIo *io;
    char *path;
    int dir_fd, lock_fd;
    GString *report;
    bool is_damaged;
    struct Conf conf;
    struct State state;
    bool has_state;
};

static void G_GNUC_PRINTF(3, 4)
    tell(struct Check *check, bool is_damage, const char *format, ...)
{
    va_list args;

    check->is_damaged |= is_damage;
    g_string_append(check->report, is_damage ? "damaged: " : "note: ");
    va_start(args, format);
    g_string_append_vprintf(check->report, format, args);
    va_end(args);
    g_string_append_c(check->report, '\n');
}

static gboolean
enter(struct Check *check, const char *path, GError **error)
{
    StoreIo *io = check->io;
    char *real = realpath(path, NULL);

    if (!real) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "store %s cannot be opened", path);
        return FALSE;
    }
    check->path = g_strdup(real);
    free(real);
    check->dir_fd = open(check->path, STORE_DIR_FLAGS);
    if (check->dir_fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "store %s cannot be opened", check->path);
        return FALSE;
    }
    check->lock_fd = io->ops->open(io, check->dir_fd, STORE_LOCK,
                                   O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (check->lock_fd >= 0 && flock(check->lock_fd, LOCK_SH | LOCK_NB)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "store %s is in use: a check needs it at rest, weir umount "
                    "it first",
                    check->path);
        return FALSE;
    }
    return TRUE;
}

/* FALSE only for what is no store at all. */
static gboolean
check_conf(struct Check *check, bool *is_good, GError **error)
{
    GError *inner = NULL;

    *is_good = store_load_conf(check->io, check->dir_fd, check->path,
                               &check->conf, &inner);
    if (*is_good) {
        return TRUE;
    }
    if (inner->code == STORE_ERROR_DAMAGED) {
        tell(check, true, "%s", inner->message);
        g_error_free(inner);
        return TRUE;
    }
    g_propagate_error(error, inner);
    return FALSE;
}

static void
check_state(struct Check *check)
{
    const char *why =
        store_load_state(check->io, check->dir_fd, &check->conf, &check->state);

    check->has_state = !why;
    if (why) {
        tell(check, true,
             STORE_STATE ": %s: everything will be sent again, nothing is lost",
             why);
    } else if (!check->state.is_clean) {
        tell(check, false,
             "the store was not ended cleanly: everything will be sent again");
    }
}

/* The checkpoint, if one is to be there. */
static void
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
        tell(check, true, "disk %s: no memory to check its bitmap", disk->name);
        return;
    }
    memcpy(file.uuid, check->conf.uuid, sizeof(file.uuid));
    err = bitmap_file_load(check->io, dir_fd, &file, &report);
    bitmap_free(file.map);
    if (err) {
        what = g_strerror(-err);
    } else if (report.what) {
        what = report.what;
    } else if (report.sequence != check->state.sequence) {
        what = "it is not that of the last clean end";
    }
    if (what) {
        tell(check, true,
             "disk %s: " STORE_DIRTY ": %s: what cannot be believed will be "
             "sent again, nothing is lost",
             disk->name, what);
    }
}

static bool
is_zero_page(const unsigned char *page)
{
    return page[0] == 0 && !memcmp(page, page + 1, ZERO_RECORD_BYTES - 1);
}

/* One slot of two may be torn; a file that was used has a valid one. */
static void
check_zeroes(struct Check *check, const struct ConfDisk *disk, int dir_fd)
{
    StoreIo *io = check->io;
    unsigned char page[ZERO_RECORD_BYTES];
    bool is_used = false, is_valid = false;
    int fd = io->ops->open(io, dir_fd, STORE_ZEROES,
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);

    if (fd == -ENOENT) {
        return;
    }
    for (unsigned slot = 0; fd >= 0 && slot < 2; slot++) {
        g_autofree ZeroList *list = g_new0(ZeroList, 1);
        uint64_t sequence;

        if (io->ops->pread(io, fd, page, sizeof(page), slot * sizeof(page)) !=
            (ssize_t)sizeof(page)) {
            continue;
        }
        is_used |= !is_zero_page(page);
        is_valid |=
            zero_record_decode(page, disk->size_bytes, 0, list, &sequence);
    }
    if (fd < 0 || (is_used && !is_valid)) {
        tell(check, true,
             "disk %s: " STORE_ZEROES " cannot be read: what was discarded "
             "last, before a crash, may show its old content",
             disk->name);
    }
    if (fd >= 0) {
        io->ops->close(io, fd);
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
        tell(check, true, "disk %s: " STORE_RAW " cannot be opened: %s",
             disk->name, g_strerror(fd < 0 ? -fd : errno));
    } else if (stamp.size_bytes < disk->size_bytes) {
        tell(check, true,
             "disk %s: " STORE_RAW " has %" G_GUINT64_FORMAT
             " bytes, weir.conf says %" G_GUINT64_FORMAT,
             disk->name, stamp.size_bytes, disk->size_bytes);
    } else if (known && check->state.is_clean &&
               (stamp.inode != known->raw.inode ||
                stamp.mtime.tv_sec != known->raw.mtime.tv_sec ||
                stamp.mtime.tv_nsec != known->raw.mtime.tv_nsec)) {
        tell(check, false,
             "disk %s: " STORE_RAW " was written or replaced while the store "
             "was at rest: all of it will be sent again",
             disk->name);
    }
    if (fd >= 0) {
        io->ops->close(io, fd);
    }
}

/* Names in @fd's directory that @is_known does not know; takes @fd. */
static void
note_unknown(struct Check *check, const char *where, int fd,
             bool (*is_known)(const struct Check *check, const char *name))
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;

    if (!dir) {
        close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;

        if (!strcmp(name, ".") || !strcmp(name, "..") ||
            is_known(check, name)) {
            continue;
        }
        if (g_str_has_suffix(name, ".tmp") ||
            g_str_has_prefix(name, STORE_NEW) ||
            g_str_has_prefix(name, STORE_OLD) ||
            store_is_socket(dirfd(dir), name)) {
            tell(check, false, "%s%s is left of something interrupted", where,
                 name);
        } else {
            tell(check, false, "%s%s is not weir's", where, name);
        }
    }
    closedir(dir);
}

static bool
is_disk_name(const struct Check *check, const char *name)
{
    (void)check;
    return store_is_disk_file(name);
}

static bool
is_store_name(const struct Check *check, const char *name)
{
    static const char *const own[] = {STORE_CONF, STORE_LOCK, STORE_STATE,
                                      STORE_SOCKET, NULL};

    for (unsigned i = 0; i < check->conf.n_disks; i++) {
        if (!strcmp(name, check->conf.disks[i].name)) {
            return true;
        }
    }
    return g_strv_contains(own, name);
}

static void
check_disk(struct Check *check, const struct ConfDisk *disk)
{
    const struct StateDisk *known =
        check->has_state ? state_disk(&check->state, disk->id) : NULL;
    g_autofree char *where = g_strconcat(disk->name, "/", NULL);
    int dir_fd = check->io->ops->open(check->io, check->dir_fd, disk->name,
                                      STORE_DIR_FLAGS, 0);

    if (dir_fd < 0) {
        tell(check, true, "disk %s: its directory cannot be opened: %s",
             disk->name, g_strerror(-dir_fd));
        return;
    }
    check_raw(check, disk, dir_fd, known);
    check_zeroes(check, disk, dir_fd);
    if (known && check->state.is_clean && known->dirty == STATE_DIRTY_FILE) {
        check_bitmap(check, disk, dir_fd, known);
    }
    note_unknown(check, where, dir_fd, is_disk_name);
}

/* Who else may look at the store. */
static void
check_modes(struct Check *check)
{
    struct stat st;

    if (!fstat(check->dir_fd, &st) && (st.st_mode & 077)) {
        tell(check, false,
             "others may look into the store (mode %04o): chmod 700 %s",
             (unsigned)st.st_mode & 07777, check->path);
    }
}

static void
check_all(struct Check *check)
{
    int fd;

    check_state(check);
    check_modes(check);
    for (unsigned i = 0; i < check->conf.n_disks; i++) {
        check_disk(check, &check->conf.disks[i]);
    }
    fd = open(check->path, STORE_DIR_FLAGS);
    if (fd >= 0) {
        note_unknown(check, "", fd, is_store_name);
    }
}

gboolean
store_check(StoreIo *io, const char *path, GString *report,
            enum StoreVerdict *verdict, GError **error)
{
    struct Check check = {
        .io = io, .dir_fd = -1, .lock_fd = -1, .report = report};
    bool has_conf = false;
    gboolean ok =
        enter(&check, path, error) && check_conf(&check, &has_conf, error);

    if (ok && has_conf) {
        check_all(&check);
    }
    *verdict = check.is_damaged ? STORE_DAMAGED : STORE_SOUND;
    if (check.lock_fd >= 0) {
        io->ops->close(io, check.lock_fd);
    }
    if (check.dir_fd >= 0) {
        io->ops->close(io, check.dir_fd);
    }
    state_deinit(&check.state);
    conf_deinit(&check.conf);
    g_free(check.path);
    return ok;
}
