/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-query.c - the disks, to whoever thinks in QEMU's nodes
 *
 *   query-named-block-nodes [flat]
 *   block_resize            node-name or device, size
 *
 * A disk of the store is a node of its name, with the driver raw. Clients that
 * were made from QEMU's schema want every member that is mandatory there, also
 * those that mean nothing here: limits that nobody set, a cache that is none.
 * contrib/docs/qmp.md lists them.
 */
#include "control-commands.h"

#include "store-bitmaps.h"

#include <sys/stat.h>

/*
 * Nodes
 */
static JsonObject *
image_json(Disk *disk, const char *file)
{
    JsonObject *image = json_object_new();
    struct stat st;

    json_object_set_string_member(image, "filename", file);
    json_object_set_string_member(image, "format", "raw");
    json_object_set_int_member(image, "virtual-size",
                               (gint64)atomic_load(&disk->size_bytes));
    if (fstat(disk->map_fd, &st) == 0) {
        json_object_set_int_member(image, "actual-size",
                                   (gint64)st.st_blocks * 512);
    }
    json_object_set_boolean_member(image, "dirty-flag", FALSE);
    return image;
}

static JsonObject *
cache_json(void)
{
    JsonObject *cache = json_object_new();

    json_object_set_boolean_member(cache, "writeback", TRUE);
    json_object_set_boolean_member(cache, "direct", TRUE);
    json_object_set_boolean_member(cache, "no-flush", FALSE);
    return cache;
}

static JsonObject *
node_json(const Daemon *daemon, Disk *disk)
{
    static const char *const limits[] = {"bps",  "bps_rd",  "bps_wr",
                                         "iops", "iops_rd", "iops_wr"};
    g_autofree char *file =
        g_build_filename(daemon->store->path, disk->name, "disk.raw", NULL);
    JsonArray *bitmaps = store_bitmaps_json(disk);
    JsonObject *node = json_object_new();

    json_object_set_string_member(node, "node-name", disk->name);
    json_object_set_string_member(node, "drv", "raw");
    json_object_set_string_member(node, "file", file);
    json_object_set_boolean_member(node, "ro",
                                   daemon->config->options.is_read_only);
    json_object_set_boolean_member(node, "encrypted", FALSE);
    json_object_set_boolean_member(node, "active", TRUE);
    json_object_set_int_member(node, "backing_file_depth", 0);
    json_object_set_array_member(node, "children", json_array_new());
    json_object_set_string_member(node, "detect_zeroes", "off");
    json_object_set_int_member(node, "write_threshold", 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        json_object_set_int_member(node, limits[i], 0);
    }
    json_object_set_object_member(node, "cache", cache_json());
    json_object_set_object_member(node, "image", image_json(disk, file));
    if (json_array_get_length(bitmaps) > 0) {
        json_object_set_array_member(node, "dirty-bitmaps", bitmaps);
    } else {
        json_array_unref(bitmaps);
    }
    return node;
}

static void
run_nodes(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonNode *answer = json_node_new(JSON_NODE_ARRAY);
    JsonArray *list = json_array_new();

    (void)arguments;
    for (unsigned i = 0; i < daemon->store->n_disks; i++) {
        json_array_add_object_element(
            list, node_json(daemon, daemon->store->disks[i]));
    }
    json_node_take_array(answer, list);
    control_call_return(call, answer);
}

/*
 * Growing
 */
static void
run_resize(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    gint64 size = json_object_get_int_member(arguments, "size");
    bool has_node = json_object_has_member(arguments, "node-name");
    GError *error = NULL;
    Disk *disk = NULL;

    if (has_node == json_object_has_member(arguments, "device")) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_USAGE,
                    "wants one of node-name and device");
    } else {
        disk = argument_disk(arguments, has_node ? "node-name" : "device",
                             daemon->store, &error);
    }
    if (disk != NULL && size <= 0) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Parameter 'size' expects a size larger than 0");
    }
    if (error != NULL) {
        control_answer_error(call, error);
        return;
    }
    control_resize(call, daemon, disk, (uint64_t)size);
}

/*
 * The table
 */
static const struct ArgumentRule nodes_rules[] = {
    {"flat", ARGUMENT_BOOL, false},
    {NULL, 0, false},
};
static const struct ArgumentRule resize_rules[] = {
    {"node-name", ARGUMENT_STRING, false},
    {"device", ARGUMENT_STRING, false},
    {"size", ARGUMENT_INT, true},
    {NULL, 0, false},
};

const struct ControlCommand control_query_commands[] = {
    {"query-named-block-nodes", run_nodes, nodes_rules, false},
    {"block_resize", run_resize, resize_rules, false},
    {NULL, NULL, NULL, false},
};
