/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-snapshot.c - snapshot create, list, delete
 *
 * With a daemon at work it makes and deletes them; room comes back by and by.
 * Without one the command does all of it on the store itself, and returns when
 * the room is back, or is needed by older snapshots. The list is read without
 * the store's lock.
 */
#include "cli-snapshot.h"
#include "cli-snapmount.h"

#include "snapshots.h"
#include "status.h"

#include <stdio.h>
#include <string.h>

#define WIDTH  80 /* of a line, unless a name needs more */
#define BESIDE 38 /* the columns between name and notes */

static gboolean as_json;

static const GOptionEntry json_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &as_json, "for programs", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/*
 * create
 */
static int
say_made(JsonObject *snapshot)
{
    if (as_json) {
        cli_print_json(snapshot);
    } else {
        printf("%s\n", json_object_get_string_member(snapshot, "name"));
    }
    return CLI_OK;
}

/* The guest may have to be frozen first, and others may be before us. */
static int
create_at_work(ControlClient *client, const char *name)
{
    JsonObject *arguments = json_object_new();
    g_autoptr(JsonNode) reply = NULL;
    GError *error = NULL;
    enum ControlGot got;

    if (name != NULL) {
        json_object_set_string_member(arguments, "name", name);
    }
    got = cli_call_patiently(client, "weir-snapshot-create", arguments, &reply,
                             &error);
    if (got == CONTROL_GOT_NOTHING) {
        return cli_fail(CLI_INTERRUPTED, "snapshot create: interrupted; the "
                                         "daemon may make it all the same");
    }
    return got == CONTROL_GOT_ERROR ? cli_fail_error("snapshot create", error)
                                    : say_made(json_node_get_object(reply));
}

static int
create_at_rest(const char *path, const char *name)
{
    GError *error = NULL;
    Store *store = store_open(store_io_kernel(), path, 0, &error);
    g_autoptr(JsonObject) object = NULL;
    Snapshot made;

    if (store != NULL &&
        store_snapshot_now(store, name, "user", &made, &error) &&
        store_close_clean(store, &error)) {
        object = snapshot_json(store, &made);
    }
    g_clear_pointer(&store, store_free);
    return object != NULL ? say_made(object)
                          : cli_fail_error("snapshot create", error);
}

static int
run_create(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = NULL;
    const char *name = argc > 1 ? argv[1] : NULL;

    if (name != NULL && !store_name_is_valid(name)) {
        return cli_fail(CLI_USAGE,
                        "snapshot create: %s: not a name: 1 to 64 of letters, "
                        "digits, '.', '_' and '-', not beginning with '.'",
                        name);
    }
    cli_catch_signals();
    client = cli_connect(store);
    return client != NULL ? create_at_work(client, name)
                          : create_at_rest(store, name);
}

/*
 * list
 */
/* What is not the rule, each word after two blanks. */
static char *
notes_of(JsonObject *snapshot)
{
    return g_strconcat(
        json_object_get_boolean_member(snapshot, "damaged") ? "  damaged" : "",
        json_object_get_boolean_member(snapshot, "frozen") ? "  frozen" : "",
        NULL);
}

/* A name that is too long has a line of its own; none ends in blanks. */
static void
print_line(JsonObject *snapshot, size_t width)
{
    const char *name = json_object_get_string_member(snapshot, "name");
    const char *stamp =
        json_object_get_string_member_with_default(snapshot, "time", NULL);
    const char *uploaded =
        json_object_get_boolean_member(snapshot, "uploaded") ? "yes" : "no";
    g_autoptr(GDateTime) when =
        stamp != NULL ? g_date_time_new_from_iso8601(stamp, NULL) : NULL;
    g_autoptr(GDateTime) local =
        when != NULL ? g_date_time_to_local(when) : NULL;
    g_autofree char *clock =
        local != NULL ? g_date_time_format(local, "%F %H:%M") : g_strdup("?");
    g_autofree char *kept =
        status_size((double)json_object_get_int_member(snapshot, "kept_bytes"));
    g_autofree char *notes = notes_of(snapshot);

    if (strlen(name) > width) {
        printf("%s\n", name);
        name = "";
    }
    printf("%-*s  %-16s  %8s  %-*s%s\n", (int)width, name, clock, kept,
           *notes != '\0' ? 8 : 0, uploaded, notes);
}

static void
print_table(JsonArray *all)
{
    guint n = json_array_get_length(all);
    size_t width = strlen("NAME"), beside = BESIDE;

    for (guint i = 0; i < n; i++) {
        JsonObject *snapshot = json_array_get_object_element(all, i);
        g_autofree char *notes = notes_of(snapshot);

        width =
            MAX(width, strlen(json_object_get_string_member(snapshot, "name")));
        beside = MAX(beside, BESIDE + strlen(notes));
    }
    width = MIN(width, WIDTH - beside);
    printf("%-*s  %-16s  %8s  UPLOADED%s\n", (int)width, "NAME", "TIME", "KEPT",
           beside > BESIDE ? "  NOTES" : "");
    for (guint i = 0; i < n; i++) {
        print_line(json_array_get_object_element(all, i), width);
    }
}

static int
print_list(JsonObject *answer)
{
    JsonArray *all = json_object_get_array_member(answer, "snapshots");

    if (as_json) {
        cli_print_json(answer);
    } else if (json_array_get_length(all) > 0) {
        print_table(all);
    }
    return CLI_OK;
}

static int
run_list(int argc, char **argv)
{
    g_autofree char *path = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_connect(path);
    g_autoptr(JsonObject) answer = NULL;
    GError *error = NULL;
    Store *store;

    (void)argc;
    if (client != NULL) {
        g_autoptr(JsonNode) reply =
            control_client_call(client, "weir-snapshot-list", NULL, &error);

        return reply != NULL ? print_list(json_node_get_object(reply))
                             : cli_fail_error("snapshot list", error);
    }
    store = store_open(store_io_kernel(), path, STORE_OPEN_READ, &error);
    if (store == NULL) {
        return cli_fail_error("snapshot list", error);
    }
    answer = json_object_new();
    json_object_set_array_member(answer, "snapshots", snapshots_json(store));
    store_free(store);
    return print_list(answer);
}

/*
 * delete
 */
static int
delete_at_rest(const char *path, int argc, char **argv)
{
    GError *error = NULL;
    Store *store = store_open(store_io_kernel(), path, 0, &error);
    gboolean ok = store != NULL;
    Snapshot snapshot;

    for (int i = 0; ok && i < argc; i++) {
        if (snapshot_list_find(store->snapshots, argv[i], &snapshot)) {
            ok = store_snapshot_delete_now(store, snapshot.id, &error);
        } else {
            g_set_error(&error, STORE_ERROR, STORE_ERROR_FAILED,
                        "there is no snapshot %s", argv[i]);
            ok = FALSE;
        }
    }
    if (store != NULL) {
        ok = store_close_clean(store, ok ? &error : NULL) && ok;
    }
    g_clear_pointer(&store, store_free);
    return ok ? CLI_OK : cli_fail_error("snapshot delete", error);
}

static int
run_delete(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = NULL;

    client = cli_connect(store);
    if (client == NULL) {
        return delete_at_rest(store, argc - 1, argv + 1);
    }
    for (int i = 1; i < argc; i++) {
        JsonObject *arguments = json_object_new();
        g_autoptr(JsonNode) reply = NULL;
        GError *error = NULL;

        json_object_set_string_member(arguments, "name", argv[i]);
        reply = control_client_call(client, "weir-snapshot-delete", arguments,
                                    &error);
        if (reply == NULL) {
            return cli_fail_error("snapshot delete", error);
        }
    }
    return CLI_OK;
}

static const struct CliCommand commands[] = {
    {.name = "snapshot create",
     .synopsis = "STORE [NAME] [--json]",
     .summary = "Keep this instant of all disks; prints its name.",
     .options = json_entries,
     .codes = "  0 made   1 failed   2 usage   3 store in use\n"
              "  4 store damaged   130 interrupted\n",
     .example = "  weir snapshot create /srv/weir/vm1 before-upgrade\n",
     .min_args = 1,
     .max_args = 2,
     .run = run_create},
    {.name = "snapshot list",
     .synopsis = "STORE [--json]",
     .summary = "Which there are, oldest first, and what they take.",
     .options = json_entries,
     .codes = "  0 shown   1 failed   2 usage   4 store damaged\n",
     .example = "  weir snapshot list /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_list},
    {.name = "snapshot delete",
     .synopsis = "STORE NAME ...",
     .summary = "Delete some; what no other one needs is given back.",
     .codes = "  0 deleted   1 failed, or there is none   2 usage\n"
              "  3 store in use   4 store damaged\n",
     .example = "  weir snapshot delete /srv/weir/vm1 before-upgrade\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_delete},
    {.name = "snapshot diff",
     .synopsis = "STORE NAME [OTHER] [--extents] [--json]",
     .summary = "What was overwritten between two, or until now.",
     .options = cli_snapshot_diff_entries,
     .codes = "  0 shown   1 failed   2 usage   3 store in use\n"
              "  4 store or snapshot damaged\n",
     .example = "  weir snapshot diff /srv/weir/vm1 before-upgrade --extents\n",
     .min_args = 2,
     .max_args = 3,
     .run = cli_snapshot_diff},
    {.name = "snapshot mount",
     .synopsis = "STORE NAME DIR [--disk NAME]\n"
                 "            [--partition PART] [--kernel] [--overlay]",
     .summary = "Show the files inside one, read-only.",
     .options = cli_snapshot_mount_entries,
     .codes = "  0 done   1 failed   2 usage   3 DIR is in use\n",
     .example =
         "  weir snapshot mount /srv/weir/vm1 before-upgrade /mnt/past\n",
     .min_args = 3,
     .max_args = 3,
     .run = cli_snapshot_mount},
    {.name = "snapshot umount",
     .synopsis = "DIR",
     .summary = "Undo that.",
     .codes = "  0 done   1 failed   2 usage   3 DIR is in use\n",
     .example = "  weir snapshot umount /mnt/past\n",
     .min_args = 1,
     .max_args = 1,
     .run = cli_snapshot_umount},
    {0},
};

const struct CliCommand cli_snapshot_group[] = {
    {.name = "snapshot",
     .summary = "Instants of all disks that are kept, to be browsed and gone "
                "back to.",
     .subs = commands},
    {0},
};
