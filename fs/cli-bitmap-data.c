/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-bitmap-data.c - bitmap export, bitmap import
 *
 * export asks for the extents in parts, since there may be millions; each says
 * where the next one begins. They are not of one instant while the guest writes.
 *
 * import reads all that the other side has to say before anything is changed
 * here, so that what breaks off leaves nothing (bitmap-import.h). It is this process
 * that reads, and not the daemon: a server that is started for it is the user's, in
 * the user's directory. Then a bitmap that is not there is added, and gets what was
 * dirty, whatever was in it before, all of it or nothing: a daemon is told the extents
 * for a bitmap that records nothing and ends with it, and what that has is taken over
 * in one transaction. It records from the moment that it is added on: what was
 * written here between the move of the disk and that moment has to be on one side or
 * the other, see contrib/docs/bitmaps.md.
 */
#include "cli-bitmap.h"

#include "bitmap-import.h"
#include "status.h"
#include "store-bitmaps.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define MARKS_AT_A_TIME 4096 /* extents in a command */

/*
 * export
 */
static gboolean as_map, as_json;

const GOptionEntry cli_bitmap_export_entries[] = {
    {"map", 0, 0, G_OPTION_ARG_NONE, &as_map,
     "lines as those of qemu-img map, for people", NULL},
    {"json", 0, 0, G_OPTION_ARG_NONE, &as_json,
     "for programs, which is what it does without --map", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static JsonObject *
ask_part(const CliBitmaps *bitmaps, const char *name, gint64 start,
         GError **error)
{
    JsonObject *arguments;

    if (bitmaps->client == NULL) {
        return store_bitmap_extents(bitmaps->disk, name, (uint64_t)start,
                                    error);
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "name", name);
    json_object_set_int_member(arguments, "start", start);
    return cli_bitmaps_call(bitmaps, "weir-bitmap-extents", arguments, error);
}

/* Where one part ends and the next one begins there may be one extent in two. */
static void
add_extents(JsonArray *whole, JsonArray *part)
{
    for (guint i = 0; i < json_array_get_length(part); i++) {
        JsonObject *extent = json_array_get_object_element(part, i);
        guint n = json_array_get_length(whole);
        JsonObject *last =
            n > 0 ? json_array_get_object_element(whole, n - 1) : NULL;
        gint64 len = json_object_get_int_member(extent, "length");

        if (last != NULL &&
            json_object_get_int_member(last, "offset") +
                    json_object_get_int_member(last, "length") ==
                json_object_get_int_member(extent, "offset")) {
            json_object_set_int_member(
                last, "length",
                json_object_get_int_member(last, "length") + len);
        } else {
            json_array_add_object_element(whole, json_object_ref(extent));
        }
    }
}

static bool
is_partial(JsonObject *answer)
{
    return json_object_has_member(answer, "next") &&
           !json_object_get_null_member(answer, "next");
}

static JsonObject *
ask_all(const CliBitmaps *bitmaps, const char *name, GError **error)
{
    g_autoptr(JsonObject) whole = ask_part(bitmaps, name, 0, error);

    while (whole != NULL && is_partial(whole)) {
        gint64 next = json_object_get_int_member(whole, "next");
        g_autoptr(JsonObject) part = ask_part(bitmaps, name, next, error);

        if (part == NULL) {
            return NULL;
        }
        add_extents(json_object_get_array_member(whole, "extents"),
                    json_object_get_array_member(part, "extents"));
        json_object_remove_member(whole, "next");
        if (is_partial(part)) {
            json_object_set_int_member(
                whole, "next", json_object_get_int_member(part, "next"));
        }
    }
    return g_steal_pointer(&whole);
}

/* Content is in place: the offset in the buffer is that of the disk. */
static void
print_map(JsonObject *answer, const char *file)
{
    JsonArray *extents = json_object_get_array_member(answer, "extents");

    printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    for (guint i = 0; i < json_array_get_length(extents); i++) {
        JsonObject *extent = json_array_get_object_element(extents, i);
        guint64 at = (guint64)json_object_get_int_member(extent, "offset");
        guint64 len = (guint64)json_object_get_int_member(extent, "length");

        printf("%#-16" G_GINT64_MODIFIER "x%#-16" G_GINT64_MODIFIER
               "x%#-16" G_GINT64_MODIFIER "x%s\n",
               at, len, at, file);
    }
}

int
cli_bitmap_export(int argc, char **argv)
{
    CliBitmaps bitmaps;
    GError *error = NULL;
    gboolean ok =
        cli_bitmaps_open(&bitmaps, argv[0], TRUE, STORE_OPEN_READ, &error);
    g_autoptr(JsonObject) answer =
        ok ? ask_all(&bitmaps, argv[1], &error) : NULL;
    g_autofree char *file =
        ok ? g_build_filename(bitmaps.path, bitmaps.name, "disk.raw", NULL)
           : NULL;

    (void)argc;
    if (!cli_bitmaps_close(&bitmaps, answer != NULL, &error)) {
        return cli_fail_error("bitmap export", error);
    }
    if (as_map && !as_json) {
        print_map(answer, file);
    } else {
        cli_print_json(answer);
    }
    return CLI_OK;
}

/*
 * import
 */
static struct {
    char *from, *bitmap, *granularity;
    gboolean insecure;
} import_options;

const GOptionEntry cli_bitmap_import_entries[] = {
    {"from", 0, 0, G_OPTION_ARG_STRING, &import_options.from,
     "NBD URI, or '[ qemu-nbd ... ]'", "URI"},
    {"bitmap", 0, 0, G_OPTION_ARG_STRING, &import_options.bitmap,
     "its name there", "NAME"},
    {"granularity", 0, 0, G_OPTION_ARG_STRING, &import_options.granularity,
     "of a new one here: bytes of one bit (64K)", "SIZE"},
    {"insecure", 0, 0, G_OPTION_ARG_NONE, &import_options.insecure,
     "plain TCP from beyond this host is fine", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static bool
is_cancelled_cb(void *user)
{
    (void)user;
    return cli_was_interrupted();
}

/* Of the disk; 0: words. */
static uint64_t
size_of_disk(const CliBitmaps *bitmaps, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *disks;

    if (bitmaps->disk != NULL) {
        return bitmaps->disk->size_bytes;
    }
    reply = control_client_call(bitmaps->client, "weir-status", NULL, error);
    if (reply == NULL) {
        return 0;
    }
    disks = json_object_get_array_member(json_node_get_object(reply), "disks");
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);

        if (g_strcmp0(json_object_get_string_member(disk, "name"),
                      bitmaps->name) == 0) {
            return (uint64_t)json_object_get_int_member(disk, "size_bytes");
        }
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s has no disk %s",
                bitmaps->path, bitmaps->name);
    return 0;
}

/* Of the bitmap @name; @grain_bits as it is if there is none, which is said. */
static bool
is_there(const CliBitmaps *bitmaps, const char *name, unsigned *grain_bits)
{
    g_autoptr(JsonObject) part = ask_part(bitmaps, name, 0, NULL);

    if (part != NULL) {
        *grain_bits = (unsigned)__builtin_ctzll(
            (guint64)json_object_get_int_member(part, "granularity"));
    }
    return part != NULL;
}

/*
 * At rest
 */
static gboolean
take_at_rest(const CliBitmaps *bitmaps, const char *name, bool is_new,
             const Bitmap *bits, GError **error)
{
    unsigned grain_bits = bitmap_cluster_bits(bits);
    gboolean ok = !is_new || cli_bitmaps_add(bitmaps, name, grain_bits, true,
                                             false, error);

    if (ok && !store_bitmap_import(bitmaps->store, bitmaps->disk, name, bits,
                                   error)) {
        ok = FALSE;
        if (is_new) {
            (void)store_bitmap_remove(bitmaps->store, bitmaps->disk, name,
                                      NULL);
        }
    }
    return ok;
}

/*
 * At work
 */

/* The next extents from grain *@at on; NULL: there are none. */
static JsonArray *
next_extents(const Bitmap *bits, uint64_t *at)
{
    JsonArray *part = json_array_new();
    unsigned grain_bits = bitmap_cluster_bits(bits);
    uint64_t size = bitmap_size_bytes(bits);
    struct ClusterRun run;

    while (json_array_get_length(part) < MARKS_AT_A_TIME &&
           bitmap_next_run(bits, *at, UINT64_MAX, &run)) {
        JsonObject *extent = json_object_new();
        uint64_t offset = run.first << grain_bits;
        uint64_t len = MIN(run.count << grain_bits, size - offset);

        json_object_set_int_member(extent, "offset", (gint64)offset);
        json_object_set_int_member(extent, "length", (gint64)len);
        json_array_add_object_element(part, extent);
        *at = run.first + run.count;
    }
    if (json_array_get_length(part) == 0) {
        g_clear_pointer(&part, json_array_unref);
    }
    return part;
}

static gboolean
mark_all(const CliBitmaps *bitmaps, const char *name, const Bitmap *bits,
         GError **error)
{
    uint64_t at = 0;
    JsonArray *part;

    while ((part = next_extents(bits, &at)) != NULL) {
        JsonObject *arguments = json_object_new();
        g_autoptr(JsonObject) reply = NULL;

        json_object_set_string_member(arguments, "name", name);
        json_object_set_array_member(arguments, "extents", part);
        reply = cli_bitmaps_call(bitmaps, "weir-bitmap-mark", arguments, error);
        if (reply == NULL || cli_was_interrupted()) {
            return FALSE;
        }
    }
    return TRUE;
}

/* {type: block-dirty-bitmap-VERB, data: {node, MEMBER: NAME}}; the data. */
static JsonObject *
add_action(JsonArray *actions, const CliBitmaps *bitmaps, const char *type,
           const char *member, const char *name)
{
    JsonObject *action = json_object_new();
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "node", bitmaps->name);
    json_object_set_string_member(data, member, name);
    json_object_set_string_member(action, "type", type);
    json_object_set_object_member(action, "data", data);
    json_array_add_object_element(actions, action);
    return data;
}

/* What @from has is @name's, which is added if it @is_new, and @from is gone. */
static gboolean
take_over(const CliBitmaps *bitmaps, const char *name, bool is_new,
          unsigned grain_bits, const char *from, GError **error)
{
    JsonObject *arguments = json_object_new();
    JsonArray *actions = json_array_new();
    JsonArray *sources = json_array_new();
    g_autoptr(JsonNode) reply = NULL;
    JsonObject *data;

    if (is_new) {
        data = add_action(actions, bitmaps, "block-dirty-bitmap-add", "name",
                          name);
        json_object_set_boolean_member(data, "persistent", TRUE);
        json_object_set_int_member(data, "granularity",
                                   INT64_C(1) << grain_bits);
    }
    data = add_action(actions, bitmaps, "block-dirty-bitmap-merge", "target",
                      name);
    json_array_add_string_element(sources, from);
    json_object_set_array_member(data, "bitmaps", sources);
    (void)add_action(actions, bitmaps, "block-dirty-bitmap-remove", "name",
                     from);
    json_object_set_array_member(arguments, "actions", actions);
    reply =
        control_client_call(bitmaps->client, "transaction", arguments, error);
    return reply != NULL;
}

static gboolean
take_at_work(const CliBitmaps *bitmaps, const char *name, bool is_new,
             const Bitmap *bits, GError **error)
{
    g_autofree char *passing = g_strdup_printf("import-%d", (int)getpid());
    unsigned grain_bits = bitmap_cluster_bits(bits);
    JsonObject *arguments;
    g_autoptr(JsonObject) reply = NULL;

    if (!cli_bitmaps_add(bitmaps, passing, grain_bits, false, true, error)) {
        return FALSE;
    }
    if (mark_all(bitmaps, passing, bits, error) &&
        take_over(bitmaps, name, is_new, grain_bits, passing, error)) {
        return TRUE;
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "name", passing);
    reply =
        cli_bitmaps_call(bitmaps, "block-dirty-bitmap-remove", arguments, NULL);
    return FALSE;
}

/*
 * Either
 */
static gboolean
import_into(const CliBitmaps *bitmaps, const char *name, unsigned grain_bits,
            GError **error)
{
    bool is_new = !is_there(bitmaps, name, &grain_bits);
    uint64_t size_bytes = size_of_disk(bitmaps, error);
    g_autofree char *size = NULL;
    BitmapImport import;
    gboolean ok = size_bytes > 0 &&
                  bitmap_import_init(&import, size_bytes, grain_bits, error);

    if (!ok) {
        return FALSE;
    }
    import.source = g_strdup(import_options.from);
    import.bitmap = g_strdup(import_options.bitmap);
    import.insecure = import_options.insecure;
    import.is_cancelled = is_cancelled_cb;
    ok = bitmap_import_read(&import, error) &&
         (bitmaps->client != NULL
              ? take_at_work(bitmaps, name, is_new, import.bits, error)
              : take_at_rest(bitmaps, name, is_new, import.bits, error));
    size = status_size((double)import.bytes);
    if (ok) {
        printf("%s: %s dirty, in %" PRIu64 " extents\n", name, size,
               import.extents);
    }
    bitmap_import_deinit(&import);
    return ok;
}

int
cli_bitmap_import(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : import_options.bitmap;
    CliBitmaps bitmaps;
    GError *error = NULL;
    unsigned grain_bits;
    gboolean ok;

    if (import_options.from == NULL || import_options.bitmap == NULL) {
        return cli_fail(CLI_USAGE, "bitmap import: wants --from URI and "
                                   "--bitmap NAME");
    }
    if (!cli_bitmap_grain("bitmap import", import_options.granularity,
                          &grain_bits)) {
        return CLI_USAGE;
    }
    cli_catch_signals();
    cli_keep_stderr();
    ok = cli_bitmaps_open(&bitmaps, argv[0], TRUE, 0, &error) &&
         import_into(&bitmaps, name, grain_bits, &error);
    ok = cli_bitmaps_close(&bitmaps, ok, &error);
    if (!ok && cli_was_interrupted()) {
        g_clear_error(&error);
        return cli_fail(CLI_INTERRUPTED,
                        "bitmap import: interrupted; run it again");
    }
    return ok ? CLI_OK : cli_fail_error("bitmap import", error);
}
