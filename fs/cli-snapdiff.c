/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-snapdiff.c - snapshot diff: what was overwritten between two snapshots
 *
 * The answer comes in parts, from the daemon or from the store at rest, so that
 * a disk with very many changes holds up nobody: each part says where the next
 * one begins. They are put together here.
 */
#include "cli-snapshot.h"
#include "snapshots.h"
#include "status.h"

#include <stdio.h>

static struct {
    gboolean json, extents;
} options;

const GOptionEntry cli_snapshot_diff_entries[] = {
    {"extents", 0, 0, G_OPTION_ARG_NONE, &options.extents,
     "say where: disk, offset and length in bytes", NULL},
    {"json", 0, 0, G_OPTION_ARG_NONE, &options.json, "for programs", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* Whom to ask: the daemon, or the store. */
struct Source {
    ControlClient *client;
    Store *store;
};

static JsonObject *
ask(const struct Source *source, const struct SnapshotsDiff *diff,
    GError **error)
{
    JsonObject *arguments;
    g_autoptr(JsonNode) reply = NULL;

    if (source->store != NULL) {
        return snapshots_diff(source->store, diff, error);
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "from", diff->from);
    if (diff->to != NULL) {
        json_object_set_string_member(arguments, "to", diff->to);
    }
    if (diff->disk != NULL) {
        json_object_set_string_member(arguments, "disk", diff->disk);
    }
    json_object_set_boolean_member(arguments, "extents", diff->has_extents);
    json_object_set_int_member(arguments, "start", (gint64)diff->start);
    reply = control_client_call(source->client, "weir-snapshot-diff", arguments,
                                error);
    return reply != NULL ? json_node_dup_object(reply) : NULL;
}

static gboolean
is_partial(JsonObject *disk)
{
    return !json_object_get_null_member(disk, "next");
}

static void
add_count(JsonObject *whole, JsonObject *part, const char *name)
{
    json_object_set_int_member(whole, name,
                               json_object_get_int_member(whole, name) +
                                   json_object_get_int_member(part, name));
}

static void
add_extent_cb(JsonArray *part, guint index, JsonNode *extent, gpointer whole)
{
    (void)part;
    (void)index;
    json_array_add_element(whole, json_node_copy(extent));
}

/* @disk gets what the next part says of it. */
static gboolean
add_part(const struct Source *source, struct SnapshotsDiff *diff,
         JsonObject *disk, GError **error)
{
    g_autoptr(JsonObject) answer = NULL;
    JsonObject *part;

    diff->disk = json_object_get_string_member(disk, "name");
    diff->start = (uint64_t)json_object_get_int_member(disk, "next");
    answer = ask(source, diff, error);
    if (answer == NULL) {
        return FALSE;
    }
    part = json_array_get_object_element(
        json_object_get_array_member(answer, "disks"), 0);
    add_count(disk, part, "changed_clusters");
    add_count(disk, part, "changed_bytes");
    if (diff->has_extents) {
        json_array_foreach_element(
            json_object_get_array_member(part, "extents"), add_extent_cb,
            json_object_get_array_member(disk, "extents"));
    }
    json_object_set_member(
        disk, "next", json_node_copy(json_object_get_member(part, "next")));
    return TRUE;
}

static JsonObject *
ask_all(const struct Source *source, struct SnapshotsDiff *diff, GError **error)
{
    g_autoptr(JsonObject) answer = ask(source, diff, error);
    JsonArray *disks =
        answer != NULL ? json_object_get_array_member(answer, "disks") : NULL;

    for (guint i = 0; disks != NULL && i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);

        while (is_partial(disk)) {
            if (!add_part(source, diff, disk, error)) {
                return NULL;
            }
        }
    }
    return g_steal_pointer(&answer);
}

static void
print_disk(JsonObject *disk)
{
    const char *name = json_object_get_string_member(disk, "name");
    JsonArray *extents =
        options.extents ? json_object_get_array_member(disk, "extents") : NULL;
    g_autofree char *size =
        status_size((double)json_object_get_int_member(disk, "changed_bytes"));

    if (extents == NULL) {
        printf("%s: %s overwritten, %" G_GINT64_FORMAT " clusters\n", name,
               size, json_object_get_int_member(disk, "changed_clusters"));
        return;
    }
    for (guint i = 0; i < json_array_get_length(extents); i++) {
        JsonObject *extent = json_array_get_object_element(extents, i);

        printf("%s %" G_GINT64_FORMAT " %" G_GINT64_FORMAT "\n", name,
               json_object_get_int_member(extent, "offset"),
               json_object_get_int_member(extent, "length"));
    }
}

static int
print_answer(JsonObject *answer)
{
    JsonArray *disks = json_object_get_array_member(answer, "disks");

    if (options.json) {
        cli_print_json(answer);
        return CLI_OK;
    }
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        print_disk(json_array_get_object_element(disks, i));
    }
    return CLI_OK;
}

int
cli_snapshot_diff(int argc, char **argv)
{
    g_autofree char *path = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_connect(path);
    struct Source source = {.client = client};
    struct SnapshotsDiff diff = {.from = argv[1],
                                 .to = argc > 2 ? argv[2] : NULL,
                                 .has_extents = options.extents};
    g_autoptr(JsonObject) answer = NULL;
    GError *error = NULL;

    if (client == NULL) {
        source.store = store_open(store_io_kernel(), path, 0, &error);
    }
    if (error == NULL) {
        answer = ask_all(&source, &diff, &error);
    }
    g_clear_pointer(&source.store, store_free);
    return answer != NULL ? print_answer(answer)
                          : cli_fail_error("snapshot diff", error);
}
