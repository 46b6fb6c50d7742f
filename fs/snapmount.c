/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapmount.c - mounting what is inside a snapshot, and undoing it
 *
 *   by libguestfs       overlay? -> guestmount -i, or, if no system is found,
 *                       virt-filesystems -> guestmount -m
 *   by the kernel       partx, blkid -> overlay, its export? -> loop -> mount
 *
 * The order of undoing is the reverse: mount, loop, daemon, files. Each step is
 * taken only if what it is about is there and ours: that which is mounted at
 * the directory, a loop device with our file behind it, a process that has our
 * directory among its arguments. So it can be taken again, and after a crash
 * anywhere in between.
 */
#include "snapmount.h"

#include "mount.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GUESTFS  "libguestfs-tools, or take --kernel"
#define QEMU     "qemu-utils"
#define STORAGE  "qemu-system-common"
#define UTILS    "util-linux"
#define LOOP_TRY 10
#define GONE_US  (20 * G_USEC_PER_SEC)
#define POLL_MS  20
#define KEY_HOW  "how" /* kernel, or guest */
#define KEY_LOOP "loop"
#define KEY_FILE "loop-file"
#define KEY_DIR  "dir"

/*
 * Undoing
 */
static gboolean
undo_mount(const struct SnapMemo *memo, const char *dir, GError **error)
{
    g_autofree char *how = snapmount_memo_get(memo, KEY_HOW);
    g_autofree char *loop = snapmount_memo_get(memo, KEY_LOOP);
    bool is_kernel = !g_strcmp0(how, "kernel");
    struct MountEntry entry;
    gboolean ok = TRUE;
    bool is_ours;

    if (!mount_find_dir(dir, &entry)) {
        return TRUE;
    }
    is_ours = is_kernel ? !g_strcmp0(entry.source, loop)
                        : g_str_has_prefix(entry.fstype, "fuse");
    mount_entry_clear(&entry);
    if (is_ours) {
        g_auto(GStrv) argv = snapmount_plan_umount(dir, is_kernel);

        ok = snapmount_run(argv, is_kernel ? UTILS : GUESTFS, NULL, error);
    }
    if (!ok && mount_find_dir(dir, &entry)) {
        mount_entry_clear(&entry);
        g_clear_error(error);
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "%s is in use: close its files first (fuser -vm %s lists "
                    "who has them)",
                    dir, dir);
    }
    return ok;
}

static char *
backing_of(const char *loop)
{
    g_autofree char *name = g_path_get_basename(loop);
    g_autofree char *path =
        g_build_filename("/sys/block", name, "loop/backing_file", NULL);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? g_strchomp(text)
                                                        : NULL;
}

static gboolean
undo_loop(const struct SnapMemo *memo, GError **error)
{
    g_autofree char *loop = snapmount_memo_get(memo, KEY_LOOP);
    g_autofree char *file = snapmount_memo_get(memo, KEY_FILE);
    g_autofree char *backing = loop ? backing_of(loop) : NULL;
    g_auto(GStrv) argv = NULL;

    if (!backing || g_strcmp0(backing, file) != 0) {
        return TRUE;
    }
    argv = snapmount_plan_detach(loop);
    return snapmount_run(argv, UTILS, NULL, error);
}

static bool
names_work(const char *pid, const char *work)
{
    g_autofree char *path = g_build_filename("/proc", pid, "cmdline", NULL);
    g_autofree char *words = NULL;
    gsize len;

    return g_ascii_isdigit(*pid) &&
           g_file_get_contents(path, &words, &len, NULL) &&
           memmem(words, len, work, strlen(work)) != NULL;
}

/* A process that has our directory among its arguments, 0 if there is none. (A
 * file with its number would not be there yet after some crashes.) */
static pid_t
daemon_of(const struct SnapMemo *memo)
{
    g_autofree char *within = g_strconcat(memo->work, "/", NULL);
    g_autoptr(GDir) all = g_dir_open("/proc", 0, NULL);
    const char *name;

    while (all && (name = g_dir_read_name(all))) {
        if (names_work(name, within)) {
            return (pid_t)strtol(name, NULL, 10);
        }
    }
    return 0;
}

static gboolean
undo_daemon(const struct SnapMemo *memo, GError **error)
{
    g_autofree char *how = snapmount_memo_get(memo, KEY_HOW);
    gint64 end_us = g_get_monotonic_time() + GONE_US;
    g_autofree char *raw = g_build_filename(memo->work, "raw", NULL);
    struct MountEntry entry;
    pid_t pid;

    while ((pid = daemon_of(memo)) && g_get_monotonic_time() < end_us) {
        /* guestmount ends by itself when it is unmounted. */
        if (!g_strcmp0(how, "kernel")) {
            kill(pid, SIGTERM);
        }
        poll(NULL, 0, POLL_MS);
    }
    if (pid) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "process %d does not end; when it has, weir snapshot "
                    "umount again",
                    (int)pid);
        return FALSE;
    }
    if (mount_find_dir(raw, &entry)) {
        mount_entry_clear(&entry);
        (void)mount_take_down(raw, true);
    }
    return TRUE;
}

static gboolean
undo(struct SnapMemo *memo, const char *dir, GError **error)
{
    if (!undo_mount(memo, dir, error) || !undo_loop(memo, error) ||
        !undo_daemon(memo, error)) {
        return FALSE;
    }
    snapmount_memo_remove(memo);
    return TRUE;
}

/*
 * The overlay
 */
static gboolean
make_overlay(const struct SnapMount *ask, const struct SnapMemo *memo,
             GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_overlay(ask, memo->work);

    return !ask->has_overlay || snapmount_run(argv, QEMU, NULL, error);
}

/* As a raw file that can be written. */
static gboolean
export_overlay(const struct SnapMount *ask, const struct SnapMemo *memo,
               GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_export(memo->work);
    g_autofree char *raw = g_build_filename(memo->work, "raw", NULL);

    if (!ask->has_overlay) {
        return TRUE;
    }
    if (!g_file_set_contents(raw, "", 0, NULL)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s cannot be made",
                    raw);
        return FALSE;
    }
    return snapmount_run(argv, STORAGE, NULL, error);
}

/*
 * By libguestfs
 */
static char *
find_device(const struct SnapMount *ask, const struct SnapMemo *memo,
            GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_list(ask, memo->work);
    g_autofree char *text = NULL;

    return snapmount_run(argv, GUESTFS, &text, error)
               ? snapmount_choose_device(text, error)
               : NULL;
}

static gboolean
run_guest(const struct SnapMount *ask, const struct SnapMemo *memo,
          const char *device, GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_guest(ask, memo->work, device);

    return snapmount_run(argv, GUESTFS, NULL, error);
}

static gboolean
mount_guest(const struct SnapMount *ask, struct SnapMemo *memo, GError **error)
{
    g_autofree char *program = g_find_program_in_path("guestmount");
    g_autofree char *device = g_strdup(ask->partition);

    if (!snapmount_memo_set(memo, KEY_HOW, "guest", error) ||
        !make_overlay(ask, memo, error)) {
        return FALSE;
    }
    /* Without the program there is nothing to fall back to. */
    if (!device && program && run_guest(ask, memo, NULL, NULL)) {
        return TRUE;
    }
    if (!device && program) {
        device = find_device(ask, memo, error);
        if (!device) {
            return FALSE;
        }
    }
    return run_guest(ask, memo, device, error);
}

/*
 * By the kernel
 */
static gboolean
probe(const struct SnapMount *ask, struct SnapPart *part, GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_probe(ask, part);
    g_autofree char *text = NULL;

    /* It fails if it finds nothing. */
    if (snapmount_run(argv, UTILS, &text, NULL)) {
        snapmount_parse_probe(text, part);
        return TRUE;
    }
    if (access(ask->image, R_OK)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s: %s",
                    ask->image, g_strerror(errno));
        return FALSE;
    }
    return TRUE;
}

static gboolean
find_part(const struct SnapMount *ask, struct SnapPart *found, GError **error)
{
    g_auto(GStrv) argv = snapmount_plan_parts(ask);
    g_autofree char *text = NULL;
    g_autoptr(GArray) parts = NULL;
    struct SnapPart whole = {0};
    int index;

    /* It fails if there is no table. */
    (void)snapmount_run(argv, UTILS, &text, NULL);
    parts = snapmount_parse_parts(text ? text : "");
    if (parts->len == 0) {
        g_array_append_val(parts, whole);
    }
    for (guint i = 0; i < parts->len; i++) {
        if (!probe(ask, &g_array_index(parts, struct SnapPart, i), error)) {
            return FALSE;
        }
    }
    index = snapmount_choose_part((struct SnapPart *)(void *)parts->data,
                                  parts->len, ask->partition, error);
    if (index >= 0) {
        *found = g_array_index(parts, struct SnapPart, index);
    }
    return index >= 0;
}

/* The memo names a device before it is ours; if it gets another's meanwhile the
 * next free one is tried. */
static char *
attach(const struct SnapMount *ask, struct SnapMemo *memo,
       const struct SnapPart *part, GError **error)
{
    g_autofree char *raw = g_build_filename(memo->work, "raw", NULL);
    char *find[] = {(char *)"losetup", (char *)"--find", NULL};

    if (!snapmount_memo_set(memo, KEY_FILE, ask->has_overlay ? raw : ask->image,
                            error)) {
        return NULL;
    }
    for (unsigned i = 0; i < LOOP_TRY; i++) {
        g_auto(GStrv) argv = NULL;
        g_autofree char *loop = NULL;

        g_clear_error(error);
        if (!snapmount_run(find, UTILS, &loop, error) ||
            !snapmount_memo_set(memo, KEY_LOOP, g_strchomp(loop), error)) {
            return NULL;
        }
        argv = snapmount_plan_loop(ask, memo->work, loop, part);
        if (snapmount_run(argv, UTILS, NULL, error)) {
            return g_steal_pointer(&loop);
        }
    }
    return NULL;
}

static gboolean
mount_kernel(const struct SnapMount *ask, struct SnapMemo *memo, GError **error)
{
    g_autofree char *loop = NULL;
    g_auto(GStrv) argv = NULL;
    struct SnapPart part;

    if (!snapmount_memo_set(memo, KEY_HOW, "kernel", error) ||
        !find_part(ask, &part, error) || !make_overlay(ask, memo, error) ||
        !export_overlay(ask, memo, error)) {
        return FALSE;
    }
    loop = attach(ask, memo, &part, error);
    if (!loop) {
        return FALSE;
    }
    argv = snapmount_plan_mount(ask, loop, part.type);
    return snapmount_run(argv, UTILS, NULL, error);
}

/*
 * Both
 */
static gboolean
check_dir(const char *dir, GError **error)
{
    struct stat st;
    struct MountEntry entry;

    if (stat(dir, &st) || !S_ISDIR(st.st_mode)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s is not a directory: make one, or name another", dir);
        return FALSE;
    }
    if (mount_find_dir(dir, &entry)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "%s: something is mounted there already (%s)", dir,
                    entry.source);
        mount_entry_clear(&entry);
        return FALSE;
    }
    return TRUE;
}

gboolean
snapmount_mount(const struct SnapMount *ask, GError **error)
{
    struct SnapMemo memo;
    gboolean ok;

    if (!check_dir(ask->dir, error) ||
        !snapmount_memo_open(&memo, ask->dir, true, error)) {
        return FALSE;
    }
    /* Somebody was interrupted here. */
    if (memo.is_found) {
        ok = undo(&memo, ask->dir, error);
        snapmount_memo_close(&memo);
        if (!ok || !snapmount_memo_open(&memo, ask->dir, true, error)) {
            return FALSE;
        }
    }
    ok = snapmount_memo_set(&memo, KEY_DIR, ask->dir, error) &&
         (ask->is_kernel ? mount_kernel(ask, &memo, error)
                         : mount_guest(ask, &memo, error));
    if (!ok) {
        (void)undo(&memo, ask->dir, NULL);
    }
    snapmount_memo_close(&memo);
    return ok;
}

gboolean
snapmount_umount(const char *dir, GError **error)
{
    struct SnapMemo memo;
    gboolean ok;

    if (!snapmount_memo_open(&memo, dir, false, error)) {
        return FALSE;
    }
    ok = undo(&memo, dir, error);
    snapmount_memo_close(&memo);
    return ok;
}
