/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-status.c - status, is, metrics
 *
 * The reading commands. They answer with the target dead, with the guest at
 * full speed, and with no daemon at all, from the store at rest. None of them
 * takes the store's lock.
 *
 * --watch on a terminal redraws the text in place, with a bar below it, and
 * leaves the last picture standing when it is interrupted. Elsewhere it prints
 * the first line whenever it changes.
 */
#include "cli.h"

#include "mount.h"
#include "status.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS 80

/*
 * status
 */
static struct {
    gboolean json, watch;
} status_options;

static const GOptionEntry status_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &status_options.json,
     "for programs: status.json", NULL},
    {"watch", 'w', 0, G_OPTION_ARG_NONE, &status_options.watch,
     "every second, until interrupted", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* Of `is` and `metrics`: the answer, or the figures, as JSON. */
static gboolean as_json;
static const GOptionEntry json_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &as_json, "for programs", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static void
print_status(JsonObject *status)
{
    g_autofree char *text = NULL;

    if (status_options.json) {
        cli_print_json(status);
        return;
    }
    text = status_text(status, COLUMNS);
    printf("%s", text);
}

/* Over the last picture, which had *@lines lines. */
static void
redraw(JsonObject *status, unsigned *lines)
{
    g_autofree char *text = status_text(status, COLUMNS);
    g_autofree char *bar = status_bar(status, COLUMNS);

    if (*lines > 0) {
        printf("\033[%uA", *lines);
    }
    *lines = 1;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '\n') {
            printf("\033[K");
            (*lines)++;
        }
        putchar(*c);
    }
    printf("%s\033[K\n\033[J", bar);
}

/* The first line, if it says something new. */
static void
print_change(JsonObject *status, char **last)
{
    g_autofree char *text = status_text(status, COLUMNS);

    *strchrnul(text, '\n') = '\0';
    if (g_strcmp0(text, *last) != 0) {
        printf("%s\n", text);
        g_free(*last);
        *last = g_steal_pointer(&text);
    }
}

static int
watch(const char *store)
{
    bool is_tty = isatty(STDOUT_FILENO) && !status_options.json;
    g_autofree char *last = NULL;
    unsigned lines = 0;
    int code = CLI_INTERRUPTED;

    cli_catch_signals();
    if (is_tty) {
        printf("\033[?25l"); /* no cursor */
    }
    while (!cli_was_interrupted()) {
        GError *error = NULL;
        g_autoptr(JsonObject) status = cli_status(store, &error);

        if (status == NULL) {
            code = cli_fail_error("status", error);
            break;
        }
        if (is_tty) {
            redraw(status, &lines);
        } else if (status_options.json) {
            cli_print_json(status);
        } else {
            print_change(status, &last);
        }
        fflush(stdout);
        poll(NULL, 0, 1000);
    }
    if (is_tty) {
        printf("\033[?25h");
        fflush(stdout);
    }
    return code;
}

/* With no address: every store that is mounted. */
static int
status_of_all(void)
{
    g_autofree char *table = NULL;
    g_auto(GStrv) lines = NULL;
    int code = CLI_OK;
    unsigned found = 0;

    g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL);
    lines = g_strsplit(table != NULL ? table : "", "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        struct MountEntry entry = {0};
        GError *error = NULL;

        if (mount_entry_parse(*line, &entry) &&
            strcmp(entry.fstype, MOUNT_FSTYPE) == 0) {
            g_autoptr(JsonObject) status = cli_status(entry.source, &error);

            found++;
            if (status != NULL) {
                print_status(status);
            } else {
                code = cli_fail_error("status", error);
            }
        }
        mount_entry_clear(&entry);
    }
    if (found == 0 && !status_options.json) {
        printf("no store is mounted; weir status STORE shows one at rest\n");
    }
    return code;
}

static int
run_status(int argc, char **argv)
{
    g_autofree char *store = argc > 0 ? cli_store_path(argv[0]) : NULL;
    g_autoptr(JsonObject) status = NULL;
    GError *error = NULL;

    if (store == NULL) {
        return status_options.watch
                   ? cli_fail(CLI_USAGE, "status: --watch wants a STORE")
                   : status_of_all();
    }
    if (status_options.watch) {
        return watch(store);
    }
    status = cli_status(store, &error);
    if (status == NULL) {
        return cli_fail_error("status", error);
    }
    print_status(status);
    return CLI_OK;
}

/*
 * is
 */
static bool
all_connected(JsonObject *status)
{
    JsonArray *disks = json_object_get_array_member(status, "disks");
    unsigned connected = 0;

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        const char *state = json_object_get_string_member(
            json_array_get_object_element(disks, i), "target_state");

        if (strcmp(state, "none") == 0) {
            continue;
        }
        if (strcmp(state, "online") != 0) {
            return false;
        }
        connected++;
    }
    return connected > 0;
}

static int
run_is(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[1]);
    g_autoptr(JsonObject) status = NULL;
    GError *error = NULL;
    bool is;

    (void)argc;
    if (!g_strv_contains((const char *const[]){"clean", "connected",
                                               "throttled", "mounted", NULL},
                         argv[0])) {
        return cli_fail(CLI_FAILED,
                        "is: %s: wants clean, connected, throttled or mounted",
                        argv[0]);
    }
    status = cli_status(store, &error);
    if (status == NULL) {
        cli_fail_error("is", error);
        return CLI_FAILED;
    }
    if (strcmp(argv[0], "clean") == 0) {
        is = json_object_get_int_member(status, "dirty_bytes") == 0;
    } else if (strcmp(argv[0], "connected") == 0) {
        is = all_connected(status);
    } else {
        is = json_object_get_boolean_member(status, argv[0]);
    }
    if (as_json) {
        g_autoptr(JsonObject) answer = json_object_new();

        json_object_set_boolean_member(answer, argv[0], is);
        cli_print_json(answer);
    }
    return is ? CLI_OK : CLI_NO;
}

/*
 * metrics
 */
static int
run_metrics(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_connect(store);
    g_autoptr(JsonNode) reply = NULL;
    GError *error = NULL;

    (void)argc;
    if (as_json) {
        g_autoptr(JsonObject) status = cli_status(store, &error);

        if (status == NULL) {
            return cli_fail_error("metrics", error);
        }
        cli_print_json(status);
        return CLI_OK;
    }
    if (client != NULL) {
        reply = control_client_call(client, "weir-metrics", NULL, &error);
        if (reply == NULL) {
            return cli_fail_error("metrics", error);
        }
        printf("%s", json_object_get_string_member(json_node_get_object(reply),
                                                   "text"));
    } else {
        g_autofree struct StatusInput *input = g_new0(struct StatusInput, 1);
        g_autofree char *text = NULL;
        Store *at_rest =
            store_open(store_io_kernel(), store, STORE_OPEN_READ, &error);

        if (at_rest == NULL) {
            return cli_fail_error("metrics", error);
        }
        status_gather(at_rest, NULL, NULL, NULL, input);
        text = metrics_text(input, NULL);
        printf("%s", text);
        store_free(at_rest);
    }
    return CLI_OK;
}

const struct CliCommand cli_status_commands[] = {
    {.name = "status",
     .synopsis = "[STORE | DIR] [--json] [--watch]",
     .summary = "How much is not at the target, since when, until when.",
     .options = status_entries,
     .codes = "  0 shown   1 failed   2 usage   4 store damaged\n"
              "  130 interrupted (--watch)\n",
     .example = "  weir status /srv/weir/vm1 --json | jq .dirty_bytes\n",
     .min_args = 0,
     .max_args = 1,
     .run = run_status},
    {.name = "is",
     .synopsis = "clean|connected|throttled|mounted STORE [--json]",
     .summary = "A question for scripts.",
     .options = json_entries,
     .codes = "  0 yes   2 no   1 error, usage too\n",
     .example = "  weir is clean /srv/weir/vm1 && poweroff\n",
     .min_args = 2,
     .max_args = 2,
     .usage_code = CLI_FAILED,
     .run = run_is},
    {.name = "metrics",
     .synopsis = "STORE [--json]",
     .summary = "The figures for Prometheus; with --json those of status.",
     .options = json_entries,
     .codes = "  0 shown   1 failed   2 usage   4 store damaged\n",
     .example = "  weir metrics /srv/weir/vm1 > "
                "/var/lib/prometheus/node-exporter/vm1.prom\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_metrics},
    {0},
};
