/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-drain.c - drain, pause, resume
 *
 * With a daemon at work, drain is a call that is answered when everything
 * that was dirty is settled; meanwhile a second connection is asked for the
 * status, which is where the progress comes from. Ending the command ends the
 * waiting, not the draining.
 *
 * Without a daemon the command does the work itself: it opens the store, and
 * runs the relay until all is settled. That is the same with and without
 * --wait: there is nobody who would go on when it returned.
 */
#include "cli.h"

#include "daemon.h"

#include <stdio.h>

static struct {
    gboolean wait;
    char *timeout;
} drain_options;

static const GOptionEntry drain_entries[] = {
    {"wait", 0, 0, G_OPTION_ARG_NONE, &drain_options.wait,
     "until the targets hold what is dirty now", NULL},
    {"timeout", 0, 0, G_OPTION_ARG_STRING, &drain_options.timeout,
     "wait no longer than 90s, 10m, 1h, ...", "TIME"},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static int
fail_timeout(void)
{
    return cli_fail(CLI_TIMEOUT, "drain: the time is over and the targets do "
                                 "not hold it all; it goes on, see weir "
                                 "status");
}

int
cli_drain_wait(const char *store, ControlClient *client, gint64 timeout_us)
{
    gint64 end =
        timeout_us > 0 ? g_get_monotonic_time() + timeout_us : G_MAXINT64;
    g_autoptr(ControlClient) other = cli_connect(store);
    JsonObject *arguments = json_object_new();
    CliProgress *progress = cli_progress_new();
    enum ControlGot got = CONTROL_GOT_ERROR;
    JsonNode *reply = NULL;
    GError *error = NULL;

    json_object_set_boolean_member(arguments, "wait", TRUE);
    if (control_client_send(client, "weir-drain", arguments, &error)) {
        do {
            gint64 left = end - g_get_monotonic_time();

            got = control_client_receive(
                client, (int)CLAMP(left / 1000 + 1, 0, 250), &reply, &error);
            if (got == CONTROL_GOT_NOTHING && other != NULL) {
                g_autoptr(JsonNode) status =
                    control_client_call(other, "weir-status", NULL, NULL);

                if (status != NULL) {
                    cli_progress_show(progress, json_node_get_object(status));
                }
            }
        } while (got == CONTROL_GOT_NOTHING && !cli_was_interrupted() &&
                 g_get_monotonic_time() < end);
    }
    cli_progress_free(progress);
    g_clear_pointer(&reply, json_node_unref);
    if (got == CONTROL_GOT_ERROR) {
        return cli_fail_error("drain", error);
    }
    if (got == CONTROL_GOT_NOTHING) {
        return cli_was_interrupted()
                   ? cli_fail(CLI_INTERRUPTED,
                              "drain: interrupted; the daemon drains on")
                   : fail_timeout();
    }
    printf("all at the target\n");
    return CLI_OK;
}

/* No daemon: be it, for as long as it takes. */
static void
show_progress(JsonObject *status, gpointer user)
{
    cli_progress_show(user, status);
}

static int
drain_at_rest(const char *store, gint64 timeout_us)
{
    CliProgress *progress = cli_progress_new();
    struct DaemonConfig config = {.store = store,
                                  .timeout_us = timeout_us,
                                  .progress = show_progress,
                                  .user = progress};
    GError *error = NULL;
    int code;

    cli_catch_signals();
    cli_keep_stderr();
    code = daemon_run(&config, &error);
    cli_progress_free(progress);
    if (error != NULL) {
        return cli_fail_error("drain", error);
    }
    if (code == CLI_TIMEOUT) {
        return fail_timeout();
    }
    if (code == CLI_INTERRUPTED) {
        return cli_fail(code, "drain: interrupted; what is left is uploaded "
                              "at the next drain or mount");
    }
    if (code == CLI_OK) {
        printf("all at the target\n");
    }
    return code;
}

static int
run_drain(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = NULL;
    g_autoptr(JsonNode) reply = NULL;
    GError *error = NULL;
    gint64 timeout_us = 0;

    (void)argc;
    if (drain_options.timeout != NULL &&
        (!cli_parse_duration(drain_options.timeout, &timeout_us) ||
         timeout_us == 0)) {
        return cli_fail(CLI_USAGE, "drain: timeout %s: wants 90s, 10m, 1h",
                        drain_options.timeout);
    }
    if (drain_options.wait || drain_options.timeout != NULL) {
        cli_catch_signals(); /* first of all: SIGUSR1 may come at any time */
    }
    client = cli_connect(store);
    if (client == NULL) {
        return drain_at_rest(store, timeout_us);
    }
    if (drain_options.wait || drain_options.timeout != NULL) {
        return cli_drain_wait(store, client, timeout_us);
    }
    reply = control_client_call(client, "weir-drain", NULL, &error);
    return reply == NULL ? cli_fail_error("drain", error) : CLI_OK;
}

/*
 * pause, resume
 */
static int
call_simple(const char *name, const char *command, const char *address)
{
    g_autofree char *store = cli_store_path(address);
    g_autoptr(ControlClient) client = cli_connect(store);
    g_autoptr(JsonNode) reply = NULL;
    GError *error = NULL;

    if (client == NULL) {
        return cli_fail(CLI_FAILED,
                        "%s: %s: no relay is at work; weir mount it first",
                        name, store);
    }
    reply = control_client_call(client, command, NULL, &error);
    return reply == NULL ? cli_fail_error(name, error) : CLI_OK;
}

static int
run_pause(int argc, char **argv)
{
    (void)argc;
    return call_simple("pause", "weir-pause", argv[0]);
}

static int
run_resume(int argc, char **argv)
{
    (void)argc;
    return call_simple("resume", "weir-resume", argv[0]);
}

const struct CliCommand cli_drain_commands[] = {
    {.name = "drain",
     .synopsis = "STORE [--wait] [--timeout TIME]",
     .summary = "Upload what is dirty now; works with no mount too.",
     .options = drain_entries,
     .codes = "  0 begun, or with --wait: the targets hold it   1 failed\n"
              "  2 usage   3 store in use   4 store damaged\n"
              "  5 target refused   124 time-out   130 interrupted\n",
     .example = "  weir drain /srv/weir/vm1 --wait --timeout 1h\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_drain},
    {.name = "pause",
     .synopsis = "STORE",
     .summary = "Stop uploading; the guest goes on.",
     .codes = "  0 paused   1 failed, or no relay at work   2 usage\n",
     .example = "  weir pause /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_pause},
    {.name = "resume",
     .synopsis = "STORE",
     .summary = "Upload again.",
     .codes = "  0 resumed   1 failed, or no relay at work   2 usage\n",
     .example = "  weir resume /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_resume},
    {0},
};
