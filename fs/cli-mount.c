/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-mount.c - mount and umount
 *
 * mount forks before any thread exists. The child becomes the daemon, and says
 * over a pipe how it went: one byte, the exit code, and the words that go with
 * it. The parent waits for that, so that when `weir mount` returns, the mount
 * serves or the reason is known.
 *
 * umount asks the kernel to take the mount away and then waits until the
 * daemon is gone: its connection ends and the store's lock is free. Then the
 * local state is durable, and a mount of the same store works at once.
 */
#include "cli.h"

#include "daemon.h"
#include "host.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCK_POLL_MS 20

/*
 * mount
 */
static struct {
    gboolean foreground;
    char **options;
} mount_flags;

static const GOptionEntry mount_entries[] = {
    {"foreground", 'f', 0, G_OPTION_ARG_NONE, &mount_flags.foreground,
     "stay, and log to stderr", NULL},
    {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &mount_flags.options,
     "allow_other, uid=, gid=, mode=, ro", "OPT,..."},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* The child's end of the pipe. */
static void
report(int fd, int code, const char *words)
{
    char byte = (char)code;
    ssize_t n = write(fd, &byte, 1);

    if (n == 1 && words != NULL) {
        n = write(fd, words, strlen(words));
    }
    close(fd);
}

static void
child_ready(gpointer user)
{
    int *fd = user;

    report(*fd, CLI_OK, NULL);
    *fd = -1;
}

/*
 * The parent says what there is to say, so the child lets go of the terminal
 * at once: a server that it starts for a target would inherit it, and whoever
 * reads our output through a pipe would wait for the end of that server.
 */
static bool
child_detach(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    host_log_to(HOST_LOG_SYSTEM);
    if (null < 0 || chdir("/") != 0) {
        return false;
    }
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        dup2(null, fd);
    }
    close(null);
    return true;
}

static int
child_main(struct DaemonConfig *config, int fd)
{
    g_autoptr(GError) error = NULL;
    int code;

    if (!child_detach()) {
        report(fd, CLI_FAILED, "/dev/null or / cannot be opened");
        return CLI_FAILED;
    }
    config->ready = child_ready;
    config->user = &fd;
    code = daemon_run(config, &error);
    if (error != NULL) {
        code = host_exit_code(error);
    }
    if (fd >= 0) {
        report(fd, code, error != NULL ? error->message : "it ended");
    } else if (error != NULL) {
        g_warning("%s", error->message);
    }
    return code;
}

/* Until the child is ready or says why not. */
static int
parent_wait(int fd)
{
    char block[2048];
    size_t len = 0;
    ssize_t n;

    do {
        n = read(fd, block + len, sizeof(block) - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && len < sizeof(block) - 1) || (n < 0 && errno == EINTR));
    close(fd);
    block[len] = '\0';
    if (len == 0) {
        return cli_fail(CLI_FAILED, "mount: the daemon died; its words, if "
                                    "any, are in the system's log");
    }
    return block[0] == CLI_OK ? CLI_OK
                              : cli_fail(block[0], "mount: %s", block + 1);
}

static int
mount_behind(struct DaemonConfig *config)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return cli_fail(CLI_FAILED, "mount: pipe: %s", g_strerror(errno));
    }
    fflush(NULL);
    pid = fork();
    if (pid < 0) {
        return cli_fail(CLI_FAILED, "mount: fork: %s", g_strerror(errno));
    }
    if (pid == 0) {
        close(ends[0]);
        exit(child_main(config, ends[1]));
    }
    close(ends[1]);
    return parent_wait(ends[0]);
}

static int
run_mount(int argc, char **argv)
{
    g_autofree char *store = mount_real_path(argv[0]);
    g_autofree char *dir = mount_real_path(argv[1]);
    struct DaemonConfig config = {.store = store, .mountpoint = dir};
    GError *error = NULL;
    int code;

    (void)argc;
    mount_options_init(&config.options);
    for (char **o = mount_flags.options; o != NULL && *o != NULL; o++) {
        if (!mount_options_parse(&config.options, *o, &error)) {
            return cli_fail_error("mount", error);
        }
    }
    if (!mount_flags.foreground) {
        return mount_behind(&config);
    }
    host_log_to(HOST_LOG_STDERR);
    code = daemon_run(&config, &error);
    return error != NULL ? cli_fail_error("mount", error) : code;
}

/*
 * umount
 */
static struct {
    gboolean drain;
} umount_options;

static const GOptionEntry umount_entries[] = {
    {"drain", 0, 0, G_OPTION_ARG_NONE, &umount_options.drain,
     "first wait until the targets hold everything", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* The mount at or of @address. */
static bool
find_mount(const char *address, struct MountEntry *entry)
{
    g_autofree char *path = mount_real_path(address);

    if (mount_find_dir(path, entry)) {
        if (strcmp(entry->fstype, MOUNT_FSTYPE) == 0) {
            return true;
        }
        mount_entry_clear(entry);
    }
    return mount_find_store(path, entry);
}

/* The daemon's end: connection closed, lock free. */
static int
wait_gone(const char *store, ControlClient *client)
{
    while (client != NULL && !cli_was_interrupted() &&
           !control_client_wait_gone(client, 250)) {
    }
    while (!cli_was_interrupted() && cli_is_locked(store)) {
        poll(NULL, 0, LOCK_POLL_MS);
    }
    return cli_was_interrupted()
               ? cli_fail(CLI_INTERRUPTED,
                          "umount: interrupted; the daemon ends by itself")
               : CLI_OK;
}

static bool
has_target(JsonObject *status)
{
    JsonArray *disks = json_object_get_array_member(status, "disks");

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        if (!json_object_get_null_member(
                json_array_get_object_element(disks, i), "target")) {
            return true;
        }
    }
    return false;
}

static void
say_rest(const char *store)
{
    g_autoptr(JsonObject) status = cli_status(store, NULL);
    gint64 dirty;

    if (status == NULL) {
        return;
    }
    dirty = json_object_get_int_member_with_default(status, "dirty_bytes", 0);
    if (!has_target(status)) {
        printf("unmounted; there is no target to upload to\n");
    } else if (dirty > 0) {
        g_autofree char *size = status_size((double)dirty);

        printf("%s still to upload; resumes at the next mount\n", size);
    } else {
        printf("all at the target\n");
    }
}

static int
umount_entry(const struct MountEntry *entry)
{
    g_autoptr(ControlClient) client = cli_connect(entry->source);
    int result, code;

    if (umount_options.drain) {
        if (client == NULL) {
            return cli_fail(CLI_FAILED,
                            "umount: %s: the daemon is gone, so nothing can "
                            "be drained; umount without --drain",
                            entry->dir);
        }
        code = cli_drain_wait(entry->source, client, 0);
        if (code != CLI_OK) {
            return code;
        }
    }
    result = mount_take_down(entry->dir, client == NULL);
    if (result == -EBUSY) {
        return cli_fail(CLI_BUSY,
                        "umount: %s is in use: close its files first (fuser "
                        "-vm %s lists who has them)",
                        entry->dir, entry->dir);
    }
    if (result < 0) {
        return cli_fail(CLI_FAILED, "umount: %s: %s", entry->dir,
                        g_strerror(-result));
    }
    code = wait_gone(entry->source, client);
    if (code == CLI_OK) {
        say_rest(entry->source);
    }
    return code;
}

static int
run_umount(int argc, char **argv)
{
    struct MountEntry entry;
    int code;

    (void)argc;
    cli_catch_signals();
    if (!find_mount(argv[0], &entry)) {
        return cli_fail(CLI_FAILED,
                        "umount: %s: no store is mounted there; weir status "
                        "STORE says where it is",
                        argv[0]);
    }
    code = umount_entry(&entry);
    mount_entry_clear(&entry);
    return code;
}

const struct CliCommand cli_mount_commands[] = {
    {.name = "mount",
     .synopsis = "STORE DIR [-f] [-o OPTIONS]",
     .summary = "Serve the store's disks at DIR; returns when they are there.",
     .options = mount_entries,
     .codes = "  0 mounted   1 failed   2 usage\n"
              "  3 the store or DIR is in use   4 store damaged\n",
     .example = "  weir mount /srv/weir/vm1 /mnt/vm1\n"
                "  /etc/fstab: /srv/weir/vm1 /mnt/vm1 fuse.weir nofail 0 0\n",
     .min_args = 2,
     .max_args = 2,
     .run = run_mount},
    {.name = "umount",
     .synopsis = "DIR [--drain]",
     .summary = "Unmount; returns when all is durable and the daemon gone.",
     .options = umount_entries,
     .codes = "  0 unmounted   1 failed   2 usage   3 DIR is in use\n"
              "  5 target refused (--drain)   130 interrupted\n",
     .example = "  weir umount /mnt/vm1 --drain\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_umount},
    {0},
};
