/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-mount.c - mount and umount
 *
 * mount forks before any thread exists. The child becomes the holder, which
 * runs the daemon (holder.c): the same program with -f. It says over a pipe
 * how it went: one byte, the exit code, and the words that go with it. The
 * parent waits for that, so that when `weir mount` returns, the mount serves or
 * the reason is known. With -f this process is the daemon, with -f --hold the
 * holder.
 *
 * umount asks the kernel to take the mount away and then waits until the
 * daemon is gone: its connection ends and the store's lock is free, and its
 * holder has ended. Then the local state is durable, and a mount of the same
 * store works at once.
 */
#include "cli.h"

#include "daemon.h"
#include "holder.h"
#include "host.h"
#include "notify.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCK_POLL_MS 20
#define REPORT_FD    (STDERR_FILENO + 1)

/*
 * mount
 */
static struct {
    gboolean foreground, hold, behind;
    char **options;
} mount_flags;

static const GOptionEntry mount_entries[] = {
    {"foreground", 'f', 0, G_OPTION_ARG_NONE, &mount_flags.foreground,
     "stay, and log to stderr", NULL},
    {"hold", 0, 0, G_OPTION_ARG_NONE, &mount_flags.hold,
     "with -f: keep the mount if the daemon dies, too", NULL},
    {"behind", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &mount_flags.behind,
     "with -f: log to the system", NULL},
    {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &mount_flags.options,
     "allow_other,ro,uid,gid,mode,snapdir,transport,poll", "OPT,..."},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* The daemon's arguments, if this process is the holder. */
static char **
daemon_argv(const struct DaemonConfig *config, bool is_behind)
{
    GPtrArray *words = g_ptr_array_new();

    g_ptr_array_add(words, g_strdup("weir"));
    g_ptr_array_add(words, g_strdup("mount"));
    g_ptr_array_add(words, g_strdup("-f"));
    if (is_behind) {
        g_ptr_array_add(words, g_strdup("--behind"));
    }
    for (char **o = mount_flags.options; o != NULL && *o != NULL; o++) {
        g_ptr_array_add(words, g_strdup("-o"));
        g_ptr_array_add(words, g_strdup(*o));
    }
    g_ptr_array_add(words, g_strdup("--"));
    g_ptr_array_add(words, g_strdup(config->store));
    g_ptr_array_add(words, g_strdup(config->mountpoint));
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(words, FALSE);
}

static int
hold_daemon(const struct DaemonConfig *config, bool is_behind, int report_fd)
{
    g_auto(GStrv) argv = daemon_argv(config, is_behind);
    struct HolderConfig holder = {.argv = argv, .report_fd = report_fd};

    return holder_run(&holder);
}

/*
 * The parent says what there is to say, so the child lets go of the terminal
 * at once: a server that the daemon starts for a target would inherit it, and
 * whoever reads our output through a pipe would wait for the end of that
 * server. Nothing else of the caller's is kept either, but for *@fd.
 */
static bool
child_detach(int *fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    if (null < 0 || chdir("/") != 0) {
        return false;
    }
    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
        dup2(null, i);
    }
    close(null);
    if (*fd != REPORT_FD) {
        *fd = dup3(*fd, REPORT_FD, O_CLOEXEC);
    }
    close_range(REPORT_FD + 1, ~0U, 0);
    host_log_to(HOST_LOG_SYSTEM);
    return *fd >= 0;
}

static int
child_main(const struct DaemonConfig *config, int fd)
{
    return child_detach(&fd) ? hold_daemon(config, true, fd) : CLI_FAILED;
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
        return cli_fail(CLI_FAILED, "mount: the holder died; its words, if "
                                    "any, are in the system's log");
    }
    return block[0] == CLI_OK ? CLI_OK
                              : cli_fail(block[0], "mount: %s", block + 1);
}

static int
mount_behind(const struct DaemonConfig *config)
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
    host_log_to(mount_flags.behind ? HOST_LOG_SYSTEM : HOST_LOG_STDERR);
    if (mount_flags.hold) {
        return hold_daemon(&config, false, -1);
    }
    code = daemon_run(&config, &error);
    if (error == NULL) {
        return code;
    }
    /* Whoever keeps us tells it to whoever waits. */
    g_strdelimit(error->message, "\n\r", ' ');
    notify_send("STATUS=%s", error->message);
    if (mount_flags.behind) {
        g_warning("%s", error->message);
    }
    return cli_fail_error("mount", error);
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

/* A descriptor that tells the end of the daemon's holder; -1: it has none. */
static int
open_holder(ControlClient *client)
{
    g_autoptr(JsonNode) reply =
        client != NULL ? control_client_call(client, "weir-ping", NULL, NULL)
                       : NULL;
    gint64 pid = reply != NULL && JSON_NODE_HOLDS_OBJECT(reply)
                     ? json_object_get_int_member_with_default(
                           json_node_get_object(reply), "holder", 0)
                     : 0;

    return pid > 0 ? pidfd_open((pid_t)pid, 0) : -1;
}

/* The daemon's end: connection closed, lock free, holder gone. */
static int
wait_gone(const char *store, ControlClient *client, int holder_fd)
{
    struct pollfd holder = {.fd = holder_fd, .events = POLLIN};

    while (client != NULL && !cli_was_interrupted() &&
           !control_client_wait_gone(client, 250)) {
    }
    while (!cli_was_interrupted() && cli_is_locked(store)) {
        poll(NULL, 0, LOCK_POLL_MS);
    }
    while (!cli_was_interrupted() && holder_fd >= 0 &&
           poll(&holder, 1, 250) <= 0) {
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
    int holder_fd, result, code;

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
    holder_fd = open_holder(client);
    /* A guest's disk is not taken away only because its daemon is slow. */
    result = mount_take_down(entry->dir,
                             client == NULL && mount_is_dead(entry->dir));
    if (result < 0 && holder_fd >= 0) {
        close(holder_fd);
    }
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
    code = wait_gone(entry->source, client, holder_fd);
    if (holder_fd >= 0) {
        close(holder_fd);
    }
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
     .synopsis = "STORE DIR [-f [--hold]] [-o OPTIONS]",
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
