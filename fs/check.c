/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check.c - `weir check`: every structure of a store at rest
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
 *   repaired: ...  (--repair) the line before is about what was, and is over.
 *
 * Nothing is written without --repair. That mends what can be mended without
 * loss, always so that more counts as dirty and never less: bitmaps, intent
 * files, the state (written as an opening would take it: store-state.c), and
 * leftovers are deleted. What a disk consists of is in check-disk.c,
 * snapshots are in check-snapshots.c.
 *
 * The lock is held for the time of the check, so that nobody serves the store
 * meanwhile; a store in use is refused as busy. To repair it is taken as for a
 * serve; to look it is shared with others who look.
 */
#include "check-private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

void
check_tell(struct Check *check, enum CheckFinding finding, const char *format,
           ...)
{
    static const char *const words[] = {
        [CHECK_DAMAGE] = "damaged: ",
        [CHECK_NOTE] = "note: ",
        [CHECK_REPAIR] = "repaired: ",
    };
    va_list args;

    check->damages += finding == CHECK_DAMAGE;
    g_string_append(check->report, words[finding]);
    va_start(args, format);
    g_string_append_vprintf(check->report, format, args);
    va_end(args);
    g_string_append_c(check->report, '\n');
}

void
check_mended(struct Check *check, int err, const char *what)
{
    if (err) {
        check_tell(check, CHECK_NOTE, "%s cannot be repaired: %s", what,
                   g_strerror(-err));
        return;
    }
    check->damages--;
    check_tell(check, CHECK_REPAIR, "%s", what);
}

/* FALSE only for what is no store at all. @damage: why weir.conf is of no use,
 * or NULL. */
static gboolean
load_conf(struct Check *check, char **damage, GError **error)
{
    GError *inner = NULL;

    *damage = NULL;
    if (store_load_conf(check->io, check->dir_fd, check->path, &check->conf,
                        &inner)) {
        return TRUE;
    }
    if (inner->code == STORE_ERROR_DAMAGED) {
        *damage = g_strdup(inner->message);
        g_error_free(inner);
        return TRUE;
    }
    g_propagate_error(error, inner);
    return FALSE;
}

/* To look it is enough that nobody serves the store: without the file nobody
 * does. */
static gboolean
lock_to_look(struct Check *check, GError **error)
{
    StoreIo *io = check->io;
    int err;

    check->lock_fd = io->ops->open(io, check->dir_fd, STORE_LOCK,
                                   O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (check->lock_fd == -ENOENT) {
        return TRUE;
    }
    err = check->lock_fd < 0 ? check->lock_fd
                             : store_lock_wait(io, check->lock_fd, LOCK_SH);
    if (err == -EWOULDBLOCK) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "store %s is in use: a check needs it at rest, weir umount "
                    "it first",
                    check->path);
    } else if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "%s/" STORE_LOCK " cannot be locked", check->path);
    }
    return err == 0;
}

static gboolean
lock(struct Check *check, GError **error)
{
    if (!check->repairs) {
        return lock_to_look(check, error) &&
               store_lock_check_gap(check->path, error);
    }
    check->lock_fd =
        store_lock_take(check->io, check->dir_fd, check->path, error);
    return check->lock_fd >= 0;
}

/* As an opening: weir.conf before the lock, which would leave its file in a
 * foreign directory, and what counts under it. */
static gboolean
enter(struct Check *check, const char *path, char **damage, GError **error)
{
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
    if (!load_conf(check, damage, error)) {
        return FALSE;
    }
    g_clear_pointer(damage, g_free);
    conf_deinit(&check->conf);
    return lock(check, error) && load_conf(check, damage, error);
}

static void
check_state(struct Check *check)
{
    const char *why;
    int err = store_find_state(check->io, check->dir_fd, &check->conf,
                               &check->state, &why);

    if (err) {
        check_tell(check, CHECK_DAMAGE,
                   STORE_STATE ": the intent files cannot be loaded: %s",
                   g_strerror(-err));
        return;
    }
    if (why) {
        check_tell(check, CHECK_DAMAGE,
                   STORE_STATE ": %s: everything will be sent again, nothing "
                               "is lost",
                   why);
        if (check->repairs) {
            err = store_put_state(check->io, check->dir_fd, &check->state);
            check_mended(check, err, STORE_STATE " is made anew");
        }
        return;
    }
    if (check->state.rollback) {
        check_tell(check, CHECK_NOTE,
                   "a rollback to snapshot %" G_GUINT64_FORMAT
                   " was interrupted: weir rollback finishes it, and until "
                   "then the store cannot be mounted",
                   check->state.rollback);
    }
    if (!check->state.is_clean) {
        check_tell(check, CHECK_NOTE,
                   "the store was not ended cleanly: what was written last is "
                   "compared with the target");
    }
}

/* @name in @fd's directory is left of something interrupted. */
static void
mend_leftover(struct Check *check, int fd, const char *name)
{
    StoreIo *io = check->io;
    int err = io->ops->unlink(io, fd, name, 0);

    if (err == -EISDIR || err == -EPERM) {
        err = store_delete_directory(io, fd, check->path, name);
    }
    if (err) {
        check_tell(check, CHECK_NOTE, "%s cannot be deleted: %s", name,
                   g_strerror(-err));
    } else {
        check_tell(check, CHECK_REPAIR, "%s is deleted", name);
    }
}

void
check_leftover(struct Check *check, const char *where, int fd, const char *name)
{
    check_tell(check, CHECK_NOTE, "%s%s is left of something interrupted",
               where, name);
    if (check->repairs) {
        mend_leftover(check, fd, name);
    }
}

void
check_names(struct Check *check, const char *where, int fd,
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
        if (store_is_leftover(name) || store_is_socket(dirfd(dir), name)) {
            check_leftover(check, where, dirfd(dir), name);
        } else {
            check_tell(check, CHECK_NOTE, "%s%s is not weir's", where, name);
        }
    }
    closedir(dir);
}

static bool
is_store_name(const struct Check *check, const char *name)
{
    for (unsigned i = 0; i < check->conf.n_disks; i++) {
        if (!strcmp(name, check->conf.disks[i].name)) {
            return true;
        }
    }
    return store_is_own_file(name);
}

/* Who else may look at the store. */
static void
check_modes(struct Check *check)
{
    struct stat st;

    if (!fstat(check->dir_fd, &st) && (st.st_mode & 077)) {
        check_tell(check, CHECK_NOTE,
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
    check_snapshots(check);
    fd = open(check->path, STORE_DIR_FLAGS);
    if (fd >= 0) {
        check_names(check, "", fd, is_store_name);
    }
}

gboolean
store_check(StoreIo *io, const char *path, bool repairs, GString *report,
            enum StoreVerdict *verdict, GError **error)
{
    struct Check check = {.io = io,
                          .dir_fd = -1,
                          .lock_fd = -1,
                          .repairs = repairs,
                          .report = report};
    g_autofree char *damage = NULL;
    gboolean ok = enter(&check, path, &damage, error);

    if (ok && damage) {
        check_tell(&check, CHECK_DAMAGE, "%s", damage);
    } else if (ok) {
        check_all(&check);
    }
    *verdict = check.damages ? STORE_DAMAGED : STORE_SOUND;
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
