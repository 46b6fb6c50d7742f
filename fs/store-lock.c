/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-lock.c - one process per store
 *
 * STORE/lock is flock'ed for as long as a process works on the store. The
 * lock belongs to the open file, so it ends when the last descriptor goes:
 * that of the process, and that registered in each of its rings. Requests of
 * a ring outlive a killed process (rule 6), so a lock whose owner is dead is
 * still held for the moment that those take; whoever comes next waits that
 * out, and only then reads anything.
 *
 *   lock is free                    take it
 *   held, the pid in it lives       busy, at once, naming it
 *   held, the pid in it is dead     poll, up to five seconds, then busy
 *   held, no pid in it yet          the same: its owner is just starting
 *
 * A free lock does not mean that nobody uses the store. Between two daemons of
 * one mount (takeover.c) nobody has it, and a guest waits for the second. So
 * whoever has got it looks for a mount of the store that is not dead, and gives
 * way if there is one. Not so the daemon that goes on with it: that one waits
 * for whoever only looks, since to be started once more would take longer.
 *
 * The pid is for messages only. `weir remove` unlinks the file while holding
 * it: who then gets the lock of the unlinked file tries again.
 */
#include "store-private.h"

#include "mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* A guest may be waiting for the next daemon of its mount. */
#define LOCK_POLL_US  2000
#define LOCK_POLL_MAX 2500 /* times */
#define LOCK_SAY_MS   200
#define TAKE_OVER_US  (5 * G_USEC_PER_SEC)

/* The pid in the lock file, 0 if there is none. */
static pid_t
read_pid(StoreIo *io, int lock_fd)
{
    char text[32] = "";
    ssize_t got = io->ops->pread(io, lock_fd, text, sizeof(text) - 1, 0);
    long pid = got > 0 ? strtol(text, NULL, 10) : 0;

    return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

/* Is @pid there, and not merely a zombie? */
static bool
is_alive(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = NULL;
    const char *paren;

    if (pid == 0 || (kill(pid, 0) && errno == ESRCH)) {
        return false;
    }
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return true;
    }
    paren = strrchr(text, ')');
    return !paren || strlen(paren) < 3 || !strchr("ZX", paren[2]);
}

/* " (weir mount)" of process @pid, or "". */
static char *
describe_owner(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    g_autofree char *text = NULL;
    g_autofree char *name = NULL;
    const char *verb;
    size_t len;

    if (!g_file_get_contents(path, &text, &len, NULL) || len == 0) {
        return g_strdup("");
    }
    name = g_path_get_basename(text);
    verb = strlen(text) + 1 < len ? text + strlen(text) + 1 : "";
    if (!*verb || !store_name_is_valid(verb)) {
        return g_strdup_printf(" (%s)", name);
    }
    return g_strdup_printf(" (%s %s)", name, verb);
}

static void
set_busy(GError **error, const char *path, pid_t pid)
{
    g_autofree char *owner = describe_owner(pid);

    if (pid != 0 && !is_alive(pid)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "store %s: process %d is dead, but the kernel still "
                    "writes for it: is its file system slow? Try again",
                    path, (int)pid);
        return;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                "store %s is in use by process %d%s: wait for it, or end it "
                "(weir umount)",
                path, (int)pid, owner);
}

int
store_lock_wait(StoreIo *io, int fd, int how)
{
    gint64 begun_us = g_get_monotonic_time();

    for (unsigned i = 0;; i++) {
        if (!flock(fd, how | LOCK_NB)) {
            gint64 ms = (g_get_monotonic_time() - begun_us) / 1000;

            if (ms >= LOCK_SAY_MS) {
                g_message("waited %d ms for what a dead process had under way",
                          (int)ms);
            }
            return 0;
        }
        if (errno != EWOULDBLOCK) {
            return -errno;
        }
        if (i == LOCK_POLL_MAX || is_alive(read_pid(io, fd))) {
            return -EWOULDBLOCK;
        }
        g_usleep(LOCK_POLL_US);
    }
}

/* Is @fd the file that is called lock now? */
static bool
is_current(int dir_fd, int fd)
{
    struct stat named, held;

    return !fstatat(dir_fd, STORE_LOCK, &named, AT_SYMLINK_NOFOLLOW) &&
           !fstat(fd, &held) && named.st_ino == held.st_ino &&
           named.st_dev == held.st_dev;
}

/* The pid is worth no failure: it is there for messages. */
void
store_lock_sign(StoreIo *io, int lock_fd)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    if (!io->ops->ftruncate(io, lock_fd, 0)) {
        (void)io->ops->pwrite(io, lock_fd, text, (size_t)len, 0);
    }
}

static int
take(StoreIo *io, int dir_fd, const char *path, GError **error)
{
    for (;;) {
        int fd = io->ops->open(io, dir_fd, STORE_LOCK,
                               O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        int err;

        if (fd < 0) {
            store_set_errno(error, STORE_ERROR_FAILED, fd,
                            "%s/" STORE_LOCK " cannot be opened", path);
            return -1;
        }
        err = store_lock_wait(io, fd, LOCK_EX);
        if (!err && is_current(dir_fd, fd)) {
            store_lock_sign(io, fd);
            return fd;
        }
        if (err == -EWOULDBLOCK) {
            set_busy(error, path, read_pid(io, fd));
        } else if (err) {
            store_set_errno(error, STORE_ERROR_FAILED, err,
                            "%s/" STORE_LOCK " cannot be locked", path);
        }
        io->ops->close(io, fd);
        if (err) {
            return -1;
        }
    }
}

gboolean
store_lock_check_gap(const char *path, GError **error)
{
    struct MountEntry entry;

    if (!mount_find_living(path, &entry)) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                "store %s is in use: it is mounted at %s, and the next daemon "
                "of that mount is about to start; end it first (weir umount)",
                path, entry.dir);
    mount_entry_clear(&entry);
    return FALSE;
}

int
store_lock_take(StoreIo *io, int dir_fd, const char *path, GError **error)
{
    int fd = take(io, dir_fd, path, error);

    if (fd >= 0 && !store_lock_check_gap(path, error)) {
        io->ops->close(io, fd);
        fd = -1;
    }
    return fd;
}

int
store_lock_take_over(StoreIo *io, int dir_fd, const char *path, GError **error)
{
    gint64 end_us = g_get_monotonic_time() + TAKE_OVER_US;
    bool is_said = false;

    for (;;) {
        GError *inner = NULL;
        int fd = take(io, dir_fd, path, &inner);

        if (fd >= 0) {
            return fd;
        }
        if (!g_error_matches(inner, STORE_ERROR, STORE_ERROR_BUSY) ||
            g_get_monotonic_time() >= end_us) {
            g_propagate_error(error, inner);
            return -1;
        }
        if (!is_said) {
            g_message("%s; its guest waits too", inner->message);
            is_said = true;
        }
        g_error_free(inner);
        g_usleep(LOCK_POLL_US);
    }
}
