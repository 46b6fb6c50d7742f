/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-common.c - what the subcommands share
 *
 * An address is a store's directory or the place where it is mounted; the
 * table of mounts tells which, without asking the mount itself.
 *
 * A command that finds a daemon talks to it; one that finds none works on the
 * store itself. Whether there is one is decided by the control socket: it is
 * there and answers, or there is no daemon. (A socket left by a killed daemon
 * refuses connections.) If there is none, the store is mounted all the same,
 * and the mount is not dead, then its daemon is just being replaced: the next
 * one is waited for. A socket that is there and not for us is not waited for. A
 * race with a daemon that just starts or ends is caught by the store's lock.
 */
#include "cli.h"

#include "host.h"
#include "mount.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define NEXT_DAEMON_US      (10 * G_USEC_PER_SEC)
#define NEXT_DAEMON_POLL_MS 20
#define PATIENCE_STEP_MS    250 /* between two looks at whether to go on */

int
cli_fail(int code, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_strdelimit(text, "\n\r", ' ');
    fprintf(stderr, "weir: %s\n", g_strstrip(text));
    return code;
}

int
cli_fail_error(const char *what, GError *error)
{
    int code = host_exit_code(error);

    cli_fail(code, "%s: %s", what, error->message);
    g_error_free(error);
    return code;
}

bool
cli_parse_duration(const char *text, gint64 *us)
{
    static const struct {
        const char *unit;
        gint64 us;
    } units[] = {{"ms", 1000},
                 {"s", G_USEC_PER_SEC},
                 {"m", 60 * G_GINT64_CONSTANT(1000000)},
                 {"h", 3600 * G_GINT64_CONSTANT(1000000)},
                 {"d", 86400 * G_GINT64_CONSTANT(1000000)}};
    gint64 total = 0;

    do {
        gint64 factor = 0;
        char *end;
        guint64 number;

        if (!g_ascii_isdigit(*text)) {
            return false;
        }
        number = g_ascii_strtoull(text, &end, 10);
        if (*end == '\0' && total == 0) {
            factor = G_USEC_PER_SEC;
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(units) && factor == 0; i++) {
            if (g_str_has_prefix(end, units[i].unit)) {
                factor = units[i].us;
                end += strlen(units[i].unit);
            }
        }
        if (factor == 0 || number > (guint64)(INT64_MAX / 4 / factor)) {
            return false;
        }
        total += (gint64)number * factor;
        text = end;
    } while (*text != '\0' && total < INT64_MAX / 4);
    *us = total;
    return *text == '\0';
}

/*
 * Stores
 */
char *
cli_store_path(const char *address)
{
    char *path = mount_real_path(address);
    struct MountEntry entry;

    if (mount_find_dir(path, &entry) &&
        strcmp(entry.fstype, MOUNT_FSTYPE) == 0) {
        g_free(path);
        path = g_steal_pointer(&entry.source);
    }
    mount_entry_clear(&entry);
    return path;
}

char *
cli_split_address(const char *address, char **disk)
{
    g_autofree char *whole = cli_store_path(address);
    g_autofree char *conf = g_build_filename(whole, "weir.conf", NULL);
    g_autofree char *dir = g_path_get_dirname(whole);
    g_autofree char *store = cli_store_path(dir);
    g_autofree char *above = g_build_filename(store, "weir.conf", NULL);
    bool is_in_mount = strcmp(dir, store) != 0; /* which is not looked into */

    *disk = NULL;
    if (is_in_mount || (!g_file_test(conf, G_FILE_TEST_EXISTS) &&
                        g_file_test(above, G_FILE_TEST_EXISTS))) {
        *disk = g_path_get_basename(whole);
        return g_steal_pointer(&store);
    }
    return g_steal_pointer(&whole);
}

char *
cli_split_disk(const char *address, char **disk, GError **error)
{
    g_autofree char *store = cli_split_address(address, disk);
    g_autofree char *conf = g_build_filename(store, "weir.conf", NULL);
    g_autofree char *whole = NULL;

    if (*disk == NULL && g_file_test(conf, G_FILE_TEST_EXISTS)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "%s: wants STORE/DISK, as in %s/vda", address, address);
        return NULL;
    }
    if (*disk == NULL) { /* neither is one: what was meant is still clear */
        whole = g_steal_pointer(&store);
        *disk = g_path_get_basename(whole);
        return g_path_get_dirname(whole);
    }
    return g_steal_pointer(&store);
}

/* One try. @is_gap: nobody is there, or somebody who is just ending. */
static ControlClient *
try_connect(const char *path, bool *is_gap)
{
    g_autoptr(GError) error = NULL;
    ControlClient *client = control_client_open(path, &error);

    *is_gap =
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED);
    return client;
}

ControlClient *
cli_connect(const char *store)
{
    g_autofree char *path = g_build_filename(store, "control.sock", NULL);
    bool is_gap;
    ControlClient *client = try_connect(path, &is_gap);
    gint64 end_us = g_get_monotonic_time() + NEXT_DAEMON_US;
    struct MountEntry entry;

    if (is_gap && mount_find_living(store, &entry)) {
        mount_entry_clear(&entry);
        while (is_gap && !cli_was_interrupted() &&
               g_get_monotonic_time() < end_us) {
            poll(NULL, 0, NEXT_DAEMON_POLL_MS);
            client = try_connect(path, &is_gap);
        }
    }
    return client;
}

enum ControlGot
cli_call_patiently(ControlClient *client, const char *command,
                   JsonObject *arguments, JsonNode **reply, GError **error)
{
    enum ControlGot got;

    if (!control_client_send(client, command, arguments, error)) {
        return CONTROL_GOT_ERROR;
    }
    do {
        got = control_client_receive(client, PATIENCE_STEP_MS, reply, error);
    } while (got == CONTROL_GOT_NOTHING && !cli_was_interrupted());
    return got;
}

bool
cli_is_locked(const char *store)
{
    g_autofree char *path = g_build_filename(store, "lock", NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool is_locked;

    if (fd < 0) {
        return false;
    }
    is_locked = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return is_locked;
}

static JsonObject *
status_at_rest(const char *path, GError **error)
{
    g_autofree struct StatusInput *input = g_new0(struct StatusInput, 1);
    Store *store = store_open(store_io_kernel(), path, STORE_OPEN_READ, error);
    JsonObject *status;

    if (store == NULL) {
        return NULL;
    }
    status_gather(store, NULL, NULL, NULL, input);
    status = status_build(input, NULL);
    store_free(store);
    return status;
}

JsonObject *
cli_status(const char *store, GError **error)
{
    g_autoptr(ControlClient) client = cli_connect(store);
    g_autoptr(JsonNode) reply = NULL;

    if (client == NULL) {
        return status_at_rest(store, error);
    }
    reply = control_client_call(client, "weir-status", NULL, error);
    if (reply == NULL || !JSON_NODE_HOLDS_OBJECT(reply)) {
        return NULL;
    }
    return json_node_dup_object(reply);
}

void
cli_print_json(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;

    json_node_set_object(node, object);
    text = json_to_string(node, TRUE);
    printf("%s\n", text);
}

/*
 * Signals
 */
static volatile sig_atomic_t interrupted, asked;

static void
signal_handler(int number)
{
    if (number == SIGUSR1) {
        asked = 1;
    } else {
        interrupted = 1;
    }
}

void
cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = signal_handler};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

bool
cli_was_interrupted(void)
{
    return interrupted != 0;
}

bool
cli_was_asked(void)
{
    bool was = asked != 0;

    asked = 0;
    return was;
}

/* A server that weir starts for a target inherits stderr, and has much to say
 * when it is ended; ours is kept where only we write to it. */
void
cli_keep_stderr(void)
{
    int kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    FILE *file = kept >= 0 ? fdopen(kept, "w") : NULL;

    if (file != NULL && null >= 0) {
        setvbuf(file, NULL, _IOLBF, 0);
        stderr = file;
        dup2(null, STDERR_FILENO);
    }
    if (null >= 0) {
        close(null);
    }
}
