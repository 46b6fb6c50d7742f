/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-bitmap.c - bitmap add, remove, clear, enable, disable, merge
 *
 * With a daemon at work they are QMP's commands about dirty bitmaps, with the
 * disk's name for the node; without one they are done on the store itself, in
 * which nobody writes meanwhile. What is said when it does not work is the same,
 * since the same functions say it.
 */
#include "cli-bitmap.h"

#include "store-bitmaps.h"

#include <stdio.h>
#include <string.h>

/*
 * Whom to ask
 */
static gboolean
open_at_rest(CliBitmaps *bitmaps, unsigned flags, GError **error)
{
    bitmaps->store = store_open(store_io_kernel(), bitmaps->path, flags, error);
    if (bitmaps->store == NULL || bitmaps->name == NULL) {
        return bitmaps->store != NULL;
    }
    bitmaps->disk = store_disk(bitmaps->store, bitmaps->name);
    if (bitmaps->disk == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s has no disk %s",
                    bitmaps->path, bitmaps->name);
    }
    return bitmaps->disk != NULL;
}

gboolean
cli_bitmaps_open(CliBitmaps *bitmaps, const char *address, gboolean wants_disk,
                 unsigned flags, GError **error)
{
    *bitmaps = (CliBitmaps){0};
    bitmaps->path = wants_disk ? cli_split_disk(address, &bitmaps->name, error)
                               : cli_split_address(address, &bitmaps->name);
    if (bitmaps->path == NULL) {
        return FALSE;
    }
    bitmaps->client = cli_connect(bitmaps->path);
    return bitmaps->client != NULL || open_at_rest(bitmaps, flags, error);
}

gboolean
cli_bitmaps_close(CliBitmaps *bitmaps, gboolean ok, GError **error)
{
    if (ok && bitmaps->store != NULL && !bitmaps->store->is_read_only) {
        ok = store_close_clean(bitmaps->store, error);
    }
    g_clear_pointer(&bitmaps->store, store_free);
    g_clear_pointer(&bitmaps->client, control_client_free);
    g_clear_pointer(&bitmaps->path, g_free);
    g_clear_pointer(&bitmaps->name, g_free);
    return ok;
}

JsonObject *
cli_bitmaps_call(const CliBitmaps *bitmaps, const char *command,
                 JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;

    if (bitmaps->name != NULL) {
        json_object_set_string_member(arguments, "node", bitmaps->name);
    }
    reply = control_client_call(bitmaps->client, command, arguments, error);
    if (reply == NULL) {
        return NULL;
    }
    return JSON_NODE_HOLDS_OBJECT(reply) ? json_node_dup_object(reply)
                                         : json_object_new();
}

static gboolean
call_named(const CliBitmaps *bitmaps, const char *command, const char *name,
           GError **error)
{
    JsonObject *arguments = json_object_new();
    g_autoptr(JsonObject) reply = NULL;

    json_object_set_string_member(arguments, "name", name);
    reply = cli_bitmaps_call(bitmaps, command, arguments, error);
    return reply != NULL;
}

bool
cli_bitmap_grain(const char *command, const char *text, unsigned *bits)
{
    uint64_t bytes = UINT64_C(1) << NAMED_GRAIN_COMMON;

    if (text != NULL && (!store_parse_size(text, &bytes) ||
                         bytes < UINT64_C(1) << NAMED_GRAIN_LEAST ||
                         bytes > UINT64_C(1) << NAMED_GRAIN_MOST ||
                         (bytes & (bytes - 1)) != 0)) {
        cli_fail(CLI_USAGE,
                 "%s: granularity %s: wants a power of two from 512 to 2G",
                 command, text);
        return false;
    }
    *bits = (unsigned)__builtin_ctzll(bytes);
    return true;
}

/*
 * add
 */
static struct {
    char *granularity;
    gboolean disabled, transient;
} add_options;

static const GOptionEntry add_entries[] = {
    {"granularity", 0, 0, G_OPTION_ARG_STRING, &add_options.granularity,
     "bytes that one bit stands for, 512 to 2G (64K)", "SIZE"},
    {"disabled", 0, 0, G_OPTION_ARG_NONE, &add_options.disabled,
     "it records nothing until it is enabled", NULL},
    {"transient", 0, 0, G_OPTION_ARG_NONE, &add_options.transient,
     "it ends with the daemon", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

gboolean
cli_bitmaps_add(const CliBitmaps *bitmaps, const char *name,
                unsigned grain_bits, bool is_persistent, bool is_disabled,
                GError **error)
{
    JsonObject *arguments;
    g_autoptr(JsonObject) reply = NULL;

    if (bitmaps->client == NULL) {
        return store_bitmap_add(bitmaps->store, bitmaps->disk, name, grain_bits,
                                is_persistent, is_disabled, error);
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "name", name);
    json_object_set_int_member(arguments, "granularity",
                               INT64_C(1) << grain_bits);
    json_object_set_boolean_member(arguments, "persistent", is_persistent);
    json_object_set_boolean_member(arguments, "disabled", is_disabled);
    reply =
        cli_bitmaps_call(bitmaps, "block-dirty-bitmap-add", arguments, error);
    return reply != NULL;
}

static int
run_add(int argc, char **argv)
{
    CliBitmaps bitmaps;
    GError *error = NULL;
    unsigned grain_bits;
    gboolean ok;

    (void)argc;
    if (!cli_bitmap_grain("bitmap add", add_options.granularity, &grain_bits)) {
        return CLI_USAGE;
    }
    ok = cli_bitmaps_open(&bitmaps, argv[0], TRUE, 0, &error);
    if (ok && bitmaps.client == NULL && add_options.transient) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s is not mounted, so a transient one would be gone at "
                    "once; weir mount it first",
                    bitmaps.path);
        ok = FALSE;
    }
    ok = ok &&
         cli_bitmaps_add(&bitmaps, argv[1], grain_bits, !add_options.transient,
                         add_options.disabled, &error);
    ok = cli_bitmaps_close(&bitmaps, ok, &error);
    return ok ? CLI_OK : cli_fail_error("bitmap add", error);
}

/*
 * What is done to each of some names
 */
static gboolean
enable_at_rest(Store *store, Disk *disk, const char *name, GError **error)
{
    return store_bitmap_enable(store, disk, name, TRUE, error);
}

static gboolean
disable_at_rest(Store *store, Disk *disk, const char *name, GError **error)
{
    return store_bitmap_enable(store, disk, name, FALSE, error);
}

static const struct Verb {
    const char *command; /* as it was typed */
    const char *qmp;
    gboolean (*at_rest)(Store *store, Disk *disk, const char *name,
                        GError **error);
} verbs[] = {
    {"bitmap remove", "block-dirty-bitmap-remove", store_bitmap_remove},
    {"bitmap clear", "block-dirty-bitmap-clear", store_bitmap_clear},
    {"bitmap enable", "block-dirty-bitmap-enable", enable_at_rest},
    {"bitmap disable", "block-dirty-bitmap-disable", disable_at_rest},
};

static int
run_verb(const struct Verb *verb, int argc, char **argv)
{
    CliBitmaps bitmaps;
    GError *error = NULL;
    gboolean ok = cli_bitmaps_open(&bitmaps, argv[0], TRUE, 0, &error);

    for (int i = 1; ok && i < argc; i++) {
        ok = bitmaps.client != NULL
                 ? call_named(&bitmaps, verb->qmp, argv[i], &error)
                 : verb->at_rest(bitmaps.store, bitmaps.disk, argv[i], &error);
    }
    ok = cli_bitmaps_close(&bitmaps, ok, &error);
    return ok ? CLI_OK : cli_fail_error(verb->command, error);
}

static int
run_remove(int argc, char **argv)
{
    return run_verb(&verbs[0], argc, argv);
}

static int
run_clear(int argc, char **argv)
{
    return run_verb(&verbs[1], argc, argv);
}

static int
run_enable(int argc, char **argv)
{
    return run_verb(&verbs[2], argc, argv);
}

static int
run_disable(int argc, char **argv)
{
    return run_verb(&verbs[3], argc, argv);
}

/*
 * merge
 */
static gboolean
merge_at_work(const CliBitmaps *bitmaps, int argc, char **argv, GError **error)
{
    JsonObject *arguments = json_object_new();
    JsonArray *sources = json_array_new();
    g_autoptr(JsonObject) reply = NULL;

    for (int i = 2; i < argc; i++) {
        json_array_add_string_element(sources, argv[i]);
    }
    json_object_set_string_member(arguments, "target", argv[1]);
    json_object_set_array_member(arguments, "bitmaps", sources);
    reply =
        cli_bitmaps_call(bitmaps, "block-dirty-bitmap-merge", arguments, error);
    return reply != NULL;
}

static int
run_merge(int argc, char **argv)
{
    CliBitmaps bitmaps;
    GError *error = NULL;
    gboolean ok = cli_bitmaps_open(&bitmaps, argv[0], TRUE, 0, &error);

    if (ok && bitmaps.client != NULL) {
        ok = merge_at_work(&bitmaps, argc, argv, &error);
    } else if (ok) {
        ok = store_bitmap_merge(bitmaps.store, bitmaps.disk, argv[1],
                                (const char *const *)argv + 2,
                                (unsigned)argc - 2, &error);
    }
    ok = cli_bitmaps_close(&bitmaps, ok, &error);
    return ok ? CLI_OK : cli_fail_error("bitmap merge", error);
}

#define CHANGE_CODES                                   \
    "  0 done   1 failed, or a job has it   2 usage\n" \
    "  3 store in use   4 store damaged\n"

static const struct CliCommand commands[] = {
    {.name = "bitmap add",
     .synopsis = "STORE/DISK NAME [--granularity SIZE] [--disabled]\n"
                 "            [--transient]",
     .summary = "A new one: all clean, it records from now on.",
     .options = add_entries,
     .codes = CHANGE_CODES,
     .example = "  weir bitmap add /srv/weir/vm1/vda daily\n",
     .min_args = 2,
     .max_args = 2,
     .run = run_add},
    {.name = "bitmap remove",
     .synopsis = "STORE/DISK NAME ...",
     .summary = "What it has recorded is forgotten.",
     .codes = CHANGE_CODES,
     .example = "  weir bitmap remove /srv/weir/vm1/vda daily\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_remove},
    {.name = "bitmap clear",
     .synopsis = "STORE/DISK NAME ...",
     .summary = "All of it is clean.",
     .codes = CHANGE_CODES,
     .example = "  weir bitmap clear /srv/weir/vm1/vda daily\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_clear},
    {.name = "bitmap enable",
     .synopsis = "STORE/DISK NAME ...",
     .summary = "It records what is written.",
     .codes = CHANGE_CODES,
     .example = "  weir bitmap enable /srv/weir/vm1/vda daily\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_enable},
    {.name = "bitmap disable",
     .synopsis = "STORE/DISK NAME ...",
     .summary = "It stays as it is, whatever is written.",
     .codes = CHANGE_CODES,
     .example = "  weir bitmap disable /srv/weir/vm1/vda daily\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_disable},
    {.name = "bitmap merge",
     .synopsis = "STORE/DISK NAME OTHER ...",
     .summary = "NAME also gets what is dirty in the others, all or nothing.",
     .codes = CHANGE_CODES,
     .example = "  weir bitmap merge /srv/weir/vm1/vda week mon tue wed\n",
     .min_args = 3,
     .max_args = -1,
     .run = run_merge},
    {.name = "bitmap list",
     .synopsis = "STORE[/DISK] [--json]",
     .summary = "Which there are, and how much is dirty in them.",
     .options = cli_bitmap_list_entries,
     .codes = "  0 shown   1 failed   2 usage   4 store damaged\n",
     .example = "  weir bitmap list /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = cli_bitmap_list},
    {.name = "bitmap export",
     .synopsis = "STORE/DISK NAME [--map] [--json]",
     .summary = "Where it is dirty: JSON, offsets and lengths in bytes.",
     .options = cli_bitmap_export_entries,
     .codes = "  0 shown   1 failed   2 usage   4 store damaged\n",
     .example = "  weir bitmap export /srv/weir/vm1/vda daily --map\n",
     .min_args = 2,
     .max_args = 2,
     .run = cli_bitmap_export},
    {.name = "bitmap import",
     .synopsis = "STORE/DISK [NAME] --from URI --bitmap NAME\n"
                 "            [--granularity SIZE] [--insecure]",
     .summary = "Take over what a QEMU's bitmap says, over NBD.",
     .options = cli_bitmap_import_entries,
     .codes = "  0 done   1 failed   2 usage   3 store in use\n"
              "  4 store damaged   5 no such bitmap, or not allowed\n"
              "  130 interrupted\n",
     .example = "  weir bitmap import /srv/weir/vm1/vda --bitmap daily \\\n"
                "    --from '[ qemu-nbd -r -f qcow2 -B daily vm1.qcow2 ]'\n",
     .min_args = 1,
     .max_args = 2,
     .run = cli_bitmap_import},
    {0},
};

const struct CliCommand cli_bitmap_group[] = {
    {.name = "bitmap",
     .summary = "Named dirty bitmaps: what was written since.",
     .subs = commands},
    {0},
};
