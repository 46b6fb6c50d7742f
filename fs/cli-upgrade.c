/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-upgrade.c - upgrade: another daemon under the same mount
 *
 * The daemon hands over (handover.c) to one that is started from the file that
 * its program has now. That file is asked for its version first: one that
 * cannot even tell that must not get a guest's disk. Then the daemon is told,
 * and we wait until somebody else answers at the control socket.
 */
#include "cli.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_US (60 * G_USEC_PER_SEC)
#define POLL_MS 5

struct Answer {
    gint64 pid, pause_us;
    char *version, *program;
};

static void
answer_clear(struct Answer *answer)
{
    g_clear_pointer(&answer->version, g_free);
    g_clear_pointer(&answer->program, g_free);
}

static char *
text_of(JsonObject *object, const char *name)
{
    return g_strdup(
        json_object_get_string_member_with_default(object, name, "?"));
}

static bool
ping(ControlClient *client, struct Answer *answer, GError **error)
{
    g_autoptr(JsonNode) reply =
        control_client_call(client, "weir-ping", NULL, error);
    JsonObject *object;

    if (reply == NULL || !JSON_NODE_HOLDS_OBJECT(reply)) {
        return false;
    }
    object = json_node_get_object(reply);
    answer->pid = json_object_get_int_member_with_default(object, "pid", 0);
    answer->pause_us =
        json_object_get_int_member_with_default(object, "pause_us", -1);
    answer_clear(answer);
    answer->version = text_of(object, "version");
    answer->program = text_of(object, "program");
    return true;
}

/* Does the file that comes next run at all? */
static bool
is_weir(char *program)
{
    char *argv[] = {program, (char *)"--version", NULL};
    g_autofree char *words = NULL;
    int status;

    return g_spawn_sync(NULL, argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                        NULL, &words, NULL, &status, NULL) &&
           g_spawn_check_wait_status(status, NULL) &&
           g_str_has_prefix(words, "weir ");
}

/* The next daemon answers: @after is what it says. */
static bool
wait_next(const char *store, gint64 old_pid, struct Answer *after)
{
    g_autofree char *path = g_build_filename(store, "control.sock", NULL);
    gint64 end_us = g_get_monotonic_time() + WAIT_US;

    while (!cli_was_interrupted() && g_get_monotonic_time() < end_us) {
        g_autoptr(ControlClient) client = control_client_open(path, NULL);

        if (client != NULL && ping(client, after, NULL) &&
            after->pid != old_pid) {
            return true;
        }
        poll(NULL, 0, POLL_MS);
    }
    return false;
}

static int
upgrade(const char *store, ControlClient *client, struct Answer *before,
        struct Answer *after)
{
    g_autoptr(JsonNode) reply = NULL;
    GError *error = NULL;

    if (!ping(client, before, &error)) {
        return cli_fail_error("upgrade", error);
    }
    /* We are about to run a file that it names (rule 36). */
    if (!control_client_is_own(client)) {
        return cli_fail(CLI_FAILED,
                        "upgrade: %s: the daemon is another user's: that user "
                        "upgrades it",
                        store);
    }
    if (!is_weir(before->program)) {
        return cli_fail(CLI_FAILED,
                        "upgrade: %s does not run, so nothing was done: "
                        "install it again",
                        before->program);
    }
    reply = control_client_call(client, "weir-upgrade", NULL, &error);
    if (reply == NULL) {
        return cli_fail_error("upgrade", error);
    }
    if (!wait_next(store, before->pid, after)) {
        if (cli_was_interrupted()) {
            return cli_fail(CLI_INTERRUPTED,
                            "upgrade: interrupted; the daemon hands over "
                            "all the same");
        }
        return cli_fail(CLI_FAILED,
                        "upgrade: process %d was told to hand over, and no "
                        "other answers yet; the system's log says why",
                        (int)before->pid);
    }
    printf("upgraded: %s (process %d) to %s (process %d)", before->version,
           (int)before->pid, after->version, (int)after->pid);
    if (after->pause_us >= 0) {
        printf("; the guest was paused for %d ms",
               (int)(after->pause_us / 1000));
    }
    printf("\n");
    return CLI_OK;
}

static int
run_upgrade(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    struct Answer before = {0}, after = {0};
    g_autoptr(ControlClient) client = NULL;
    int code;

    (void)argc;
    cli_catch_signals();
    client = cli_connect(store);
    if (client == NULL) {
        return cli_fail(CLI_FAILED,
                        "upgrade: %s: no daemon is at work; the next weir "
                        "mount is the new program by itself",
                        store);
    }
    code = upgrade(store, client, &before, &after);
    answer_clear(&before);
    answer_clear(&after);
    return code;
}

const struct CliCommand cli_upgrade_commands[] = {
    {.name = "upgrade",
     .synopsis = "STORE",
     .summary = "Replace the daemon under its mount; the guest sees a pause.",
     .codes = "  0 another daemon serves   1 failed   2 usage\n"
              "  3 the daemon is ending, or only drains   130 interrupted\n",
     .example = "  weir upgrade /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_upgrade},
    {0},
};
