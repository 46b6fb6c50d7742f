/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount.c - one FUSE mount, whose /dev/fuse descriptor is ours
 *
 * libfuse is used for nothing but mounting: mount(2) for root, fusermount3 for
 * everybody else. Its session has an empty table of operations and never reads
 * a request; we take a duplicate of its descriptor and drop the session, and
 * the face decodes what comes out of it. So the descriptor belongs to us, and
 * a daemon that gets one from another is in the same position as one that
 * mounted (mount_adopt()).
 *
 * Source is the store's absolute path and the subtype weir: that is how a
 * mount point leads back to its store (mount-table.c). nosuid and nodev are
 * what libfuse mounts with anyway; they are asked for so that nothing changes
 * if it changes its mind. With allow_other the kernel checks permissions
 * (default_permissions), since we do not.
 *
 * A mount whose daemon was killed stands there and answers ENOTCONN to
 * everything. It is in the way of the next start, and nobody can use it: it is
 * detached by mount_check_dir(). Nothing else that is mounted is ever touched.
 */
#define FUSE_USE_VERSION 314
#include "mount.h"

#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STALE_MAX 8    /* dead mounts on top of each other */
#define PROBE_MS  1000 /* for an answer */

struct Mount {
    int fd;
};

/* What libfuse has to say while it mounts; main thread. */
static GString *said;

G_GNUC_PRINTF(2, 0)
static void
said_cb(enum fuse_log_level level, const char *format, va_list args)
{
    (void)level;
    if (said != NULL) {
        g_string_append_vprintf(said, format, args);
    }
}

static void
set_failed(GError **error, enum StoreError code, const char *dir,
           const char *why)
{
    g_set_error(error, STORE_ERROR, (int)code, "%s %s", dir, why);
}

/* In a process of its own: 0 or an errno, and the kind of file. */
static void
probe_child(const char *dir, int fd)
{
    struct stat st = {0};
    int answer[2] = {stat(dir, &st) == 0 ? 0 : errno, (int)st.st_mode};

    _exit(write(fd, answer, sizeof(answer)) == (ssize_t)sizeof(answer) ? 0 : 1);
}

/*
 * probe() - stat @dir, but do not wait for ever
 *
 * A mount whose daemon is just being replaced answers late, and one whose
 * daemon is stopped never, and a process that asks cannot take its question
 * back. So another one asks, which can be killed.
 *
 * Return: 0, an errno, ETIMEDOUT.
 */
static int
probe(const char *dir, mode_t *kind)
{
    int ends[2], answer[2] = {ETIMEDOUT, 0};
    struct pollfd look = {.events = POLLIN};
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return errno;
    }
    pid = fork();
    if (pid == 0) {
        probe_child(dir, ends[1]);
    }
    close(ends[1]);
    look.fd = ends[0];
    if (pid > 0) {
        if (poll(&look, 1, PROBE_MS) > 0 &&
            read(ends[0], answer, sizeof(answer)) != sizeof(answer)) {
            answer[0] = EIO;
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    close(ends[0]);
    *kind = (mode_t)answer[1];
    return answer[0];
}

bool
mount_is_dead(const char *dir)
{
    mode_t kind;
    int result = probe(dir, &kind);

    return result == ENOTCONN || result == ECONNABORTED;
}

gboolean
mount_check_dir(const char *dir, GError **error)
{
    struct MountEntry entry;
    mode_t kind = 0;

    for (unsigned i = 0; i < STALE_MAX; i++) {
        bool is_mounted = mount_find_dir(dir, &entry);
        bool is_ours = is_mounted && strcmp(entry.fstype, MOUNT_FSTYPE) == 0;
        int result = probe(dir, &kind);

        mount_entry_clear(&entry);
        if (is_mounted &&
            (result == ENOTCONN || (is_ours && result == ECONNABORTED))) {
            g_message("%s: a dead mount stands there: taking it away", dir);
            if (mount_take_down(dir, true) == 0) {
                continue;
            }
        }
        if (is_mounted) {
            set_failed(error, STORE_ERROR_BUSY, dir,
                       "is in use: something is mounted there; unmount it or "
                       "take another directory");
            return FALSE;
        }
        if (result != 0) {
            set_failed(error, STORE_ERROR_FAILED, dir,
                       result == ENOENT
                           ? "does not exist: make it first (mkdir)"
                           : g_strerror(result));
            return FALSE;
        }
        if (!S_ISDIR(kind)) {
            set_failed(error, STORE_ERROR_FAILED, dir,
                       "is no directory: mount at a directory");
            return FALSE;
        }
        return TRUE;
    }
    set_failed(error, STORE_ERROR_BUSY, dir,
               "is in use: dead mounts stand there; umount -l it");
    return FALSE;
}

static struct fuse_session *
session_new(const char *store, const struct MountOptions *options)
{
    static const struct fuse_lowlevel_ops none;
    g_autofree char *name = g_strconcat("fsname=", store, NULL);
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_session *session = NULL;
    char *escaped = NULL;

    /* Commas in the store's path would end the option. */
    if (fuse_opt_add_opt_escaped(&escaped, name) == 0 &&
        fuse_opt_add_opt(&escaped, "subtype=weir,nosuid,nodev") == 0 &&
        (!options->allow_other ||
         fuse_opt_add_opt(&escaped, "allow_other,default_permissions") == 0) &&
        (!options->is_read_only || fuse_opt_add_opt(&escaped, "ro") == 0) &&
        fuse_opt_add_arg(&args, "weir") == 0 &&
        fuse_opt_add_arg(&args, "-o") == 0 &&
        fuse_opt_add_arg(&args, escaped) == 0) {
        session = fuse_session_new(&args, &none, sizeof(none), NULL);
    }
    free(escaped);
    fuse_opt_free_args(&args);
    return session;
}

static Mount *
mount_of(int fd)
{
    Mount *mount = g_new0(Mount, 1);

    mount->fd = fd;
    return mount;
}

Mount *
mount_new(const char *store, const char *dir,
          const struct MountOptions *options, GError **error)
{
    g_autoptr(GString) words = g_string_new(NULL);
    struct fuse_session *session;
    int fd = -1, result = -1;

    said = words;
    fuse_set_log_func(said_cb);
    session = session_new(store, options);
    if (session != NULL) {
        result = fuse_session_mount(session, dir);
        fd = result == 0 ? fcntl(fuse_session_fd(session), F_DUPFD_CLOEXEC, 3)
                         : -1;
    }
    said = NULL;
    if (fd < 0) {
        g_strdelimit(words->str, "\n", ' ');
        g_strstrip(words->str);
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s cannot be mounted: %s", dir,
                    words->str[0] != '\0'
                        ? words->str
                        : "are /dev/fuse and fusermount3 (package fuse3) "
                          "there?");
        if (session != NULL) {
            fuse_session_unmount(session);
            fuse_session_destroy(session);
        }
        return NULL;
    }
    /* Closes its own descriptor, and does not unmount. */
    fuse_session_destroy(session);
    return mount_of(fd);
}

/* The connection's number in fdinfo is the device's in the table. */
static bool
is_connection_of(int fd, const char *device)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", fd);
    g_autofree char *text = NULL;
    const char *line;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        (line = strstr(text, "fuse_connection:")) == NULL) {
        return true; /* an older kernel: it cannot be told */
    }
    line += strlen("fuse_connection:");
    device = strchr(device, ':');
    return device != NULL &&
           strtoul(line, NULL, 10) == strtoul(device + 1, NULL, 10);
}

bool
mount_is_at(const char *store, const char *dir, int fd)
{
    struct MountEntry entry;
    bool is_it = mount_find_dir(dir, &entry) &&
                 strcmp(entry.source, store) == 0 &&
                 strcmp(entry.fstype, MOUNT_FSTYPE) == 0 &&
                 is_connection_of(fd, entry.device);

    mount_entry_clear(&entry);
    return is_it;
}

Mount *
mount_adopt(const char *store, const char *dir, int fd)
{
    if (!mount_is_at(store, dir, fd)) {
        g_message("%s: the mount is not there any more: served until its last "
                  "user is gone",
                  dir);
    }
    return mount_of(fd);
}

int
mount_fd(const Mount *mount)
{
    return mount->fd;
}

void
mount_free(Mount *mount)
{
    if (mount != NULL) {
        close(mount->fd);
        g_free(mount);
    }
}

/* fusermount3, for those who may not umount2(). */
static int
take_down_by_helper(const char *dir, bool lazy)
{
    const char *const argv[] = {"fusermount3", lazy ? "-uz" : "-u", "--", dir,
                                NULL};
    g_autofree char *words = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                      NULL, NULL, &words, &status, &error)) {
        return -ENOENT;
    }
    if (g_spawn_check_wait_status(status, NULL)) {
        return 0;
    }
    return strstr(words, "busy") != NULL ? -EBUSY : -EPERM;
}

int
mount_take_down(const char *dir, bool lazy)
{
    if (umount2(dir, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) {
        return 0;
    }
    if (errno == EPERM) {
        return take_down_by_helper(dir, lazy);
    }
    return -errno;
}

void
mount_abort(const char *dir)
{
    /* Force ends the connection, detach takes away what is then dead. Who may
     * not do that has the connection end with its last descriptor. */
    if (umount2(dir, UMOUNT_NOFOLLOW | MNT_FORCE | MNT_DETACH) != 0) {
        mount_take_down(dir, true);
    }
}
