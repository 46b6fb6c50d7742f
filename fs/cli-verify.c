/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-verify.c - verify: do the targets hold what they should?
 *
 * With a daemon at work this is a call that is answered when the walk over the
 * disks has reached its end. Without one the command opens the store itself
 * until then; what --repair has made dirty is sent by the next drain, or mount,
 * if it was not yet.
 */
#include "cli.h"

#include "daemon.h"
#include "status.h"

#include <stdio.h>

static struct {
    gboolean repair, json;
    char *disk, *rate;
} options;

static const GOptionEntry entries[] = {
    {"disk", 0, 0, G_OPTION_ARG_STRING, &options.disk, "only this one", "NAME"},
    {"repair", 0, 0, G_OPTION_ARG_NONE, &options.repair,
     "what differs is sent again", NULL},
    {"rate", 0, 0, G_OPTION_ARG_STRING, &options.rate,
     "bytes a second at most: 50M", "RATE"},
    {"json", 0, 0, G_OPTION_ARG_NONE, &options.json, "for scripts", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static void
say_disk(JsonObject *disk)
{
    g_autofree char *compared =
        status_size((double)json_object_get_int_member(disk, "compared_bytes"));
    g_autofree char *dirty =
        status_size((double)json_object_get_int_member(disk, "dirty_bytes"));
    gint64 unread = json_object_get_int_member(disk, "unread_clusters");

    printf("%s: %s compared, %s not yet at the target, %" G_GINT64_FORMAT
           " clusters differ",
           json_object_get_string_member(disk, "name"), compared, dirty,
           json_object_get_int_member(disk, "differing_clusters"));
    if (unread > 0) {
        printf(", %" G_GINT64_FORMAT " could not be read", unread);
    }
    printf("\n");
}

/* What was found, and the exit code for it. */
static int
say_result(JsonObject *result)
{
    JsonArray *disks = json_object_get_array_member(result, "disks");
    gint64 differing = json_object_get_int_member(result, "differing_clusters");
    gint64 unread = json_object_get_int_member(result, "unread_clusters");
    bool is_repaired = json_object_get_boolean_member(result, "repaired");

    if (json_array_get_length(disks) == 0) {
        return cli_fail(CLI_FAILED, "verify: there is no target to compare; "
                                    "weir set STORE target=URI");
    }
    if (options.json) {
        cli_print_json(result);
        return unread > 0 || (differing > 0 && !is_repaired) ? CLI_FAILED
                                                             : CLI_OK;
    }
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        say_disk(json_array_get_object_element(disks, i));
    }
    if (differing > 0 && is_repaired) {
        printf("what differs is dirty now and is sent again\n");
    } else if (differing > 0) {
        return cli_fail(CLI_FAILED,
                        "verify: the target does not hold what was written "
                        "there: --repair sends it again");
    }
    if (unread > 0) {
        return cli_fail(CLI_FAILED,
                        "verify: not all could be read, at the target or here: "
                        "mend that side, then verify again");
    }
    return CLI_OK;
}

static int
verify_at_work(ControlClient *client, guint64 rate)
{
    JsonObject *arguments = json_object_new();
    enum ControlGot got = CONTROL_GOT_ERROR;
    JsonNode *reply = NULL;
    GError *error = NULL;
    int code;

    json_object_set_boolean_member(arguments, "repair", options.repair);
    json_object_set_int_member(arguments, "rate", (gint64)rate);
    if (options.disk != NULL) {
        json_object_set_string_member(arguments, "disk", options.disk);
    }
    if (control_client_send(client, "weir-verify", arguments, &error)) {
        do {
            got = control_client_receive(client, 250, &reply, &error);
        } while (got == CONTROL_GOT_NOTHING && !cli_was_interrupted());
    }
    if (got == CONTROL_GOT_ERROR) {
        return cli_fail_error("verify", error);
    }
    if (got == CONTROL_GOT_NOTHING) {
        return cli_fail(CLI_INTERRUPTED,
                        "verify: interrupted; the daemon compares on");
    }
    code = say_result(json_node_get_object(reply));
    json_node_unref(reply);
    return code;
}

static void
verified_cb(JsonObject *result, gpointer user)
{
    int *code = user;

    *code = say_result(result);
}

static int
verify_at_rest(const char *store, guint64 rate)
{
    int found = CLI_FAILED;
    struct DaemonConfig config = {.store = store,
                                  .user = &found,
                                  .verified = verified_cb,
                                  .verify = {.disk = options.disk,
                                             .repairs = options.repair,
                                             .bytes_per_second = rate}};
    GError *error = NULL;
    int code;

    cli_keep_stderr();
    code = daemon_run(&config, &error);
    if (error != NULL) {
        return cli_fail_error("verify", error);
    }
    return code != CLI_OK ? code : found;
}

static int
run_verify(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = NULL;
    guint64 rate = 0;

    (void)argc;
    if (options.rate != NULL && !store_parse_size(options.rate, &rate)) {
        return cli_fail(CLI_USAGE,
                        "verify: rate %s: wants bytes a second, as in 50M",
                        options.rate);
    }
    cli_catch_signals();
    client = cli_connect(store);
    return client != NULL ? verify_at_work(client, rate)
                          : verify_at_rest(store, rate);
}

const struct CliCommand cli_verify_commands[] = {
    {.name = "verify",
     .synopsis = "STORE [--disk NAME] [--repair] [--rate RATE] [--json]",
     .summary = "Compare the targets with what they should hold.",
     .options = entries,
     .codes = "  0 equal, or repaired   1 something differs, or failed\n"
              "  2 usage   3 store in use   4 store damaged\n"
              "  5 target refused   130 interrupted\n",
     .example = "  weir verify /srv/weir/vm1 --rate 50M\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_verify},
    {0},
};
