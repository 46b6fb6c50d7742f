/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-bitmap-data.c - bitmap export, bitmap import
 *
 * export asks for the extents in parts, since there may be millions; each says
 * where the next one begins. They are not of one instant while the guest writes.
 *
 * import reads all that the other side has to say before anything is changed
 * here, so that what breaks off leaves nothing. Then a bitmap that is not there
 * is added, and gets what was dirty, whatever was in it before. It records from
 * the moment that it is added on: what was written here between the move of the
 * disk and that moment has to be on one side or the other, see
 * contrib/docs/bitmaps.md.
 */
#include "cli-bitmap.h"

#include "relay/import.h"
#include "status.h"
#include "store-bitmaps.h"

#include <stdio.h>

#define MARKS_AT_A_TIME 4096 /* extents in a command */
#define DEADLINE_US     (15 * G_USEC_PER_SEC)

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

struct Extent {
    uint64_t offset, len;
};

static void
keep_extent_cb(void *user, uint64_t offset, uint64_t len)
{
    struct Extent extent = {offset, len};

    g_array_append_val(user, extent);
}

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

static gboolean
read_source(const CliBitmaps *bitmaps, GArray *extents, GError **error)
{
    struct ImportConfig config = {
        .source = import_options.from,
        .bitmap = import_options.bitmap,
        .insecure = import_options.insecure,
        .most_bytes = size_of_disk(bitmaps, error),
        .deadline_us = DEADLINE_US,
        .dirty = keep_extent_cb,
        .is_cancelled = is_cancelled_cb,
        .user = extents,
    };
    g_autoptr(GError) why = NULL;

    if (config.most_bytes == 0) {
        return FALSE;
    }
    if (!import_bitmap(&config, &why)) {
        bool is_refused = g_error_matches(why, RELAY_ERROR, RELAY_ERROR_TARGET);

        g_set_error(error, STORE_ERROR,
                    is_refused ? STORE_ERROR_TARGET : STORE_ERROR_FAILED, "%s",
                    why->message);
        return FALSE;
    }
    return TRUE;
}

static bool
is_there(const CliBitmaps *bitmaps, const char *name)
{
    g_autoptr(JsonObject) part = ask_part(bitmaps, name, 0, NULL);

    return part != NULL;
}

static gboolean
mark_at_rest(const CliBitmaps *bitmaps, const char *name, GArray *extents,
             GError **error)
{
    Disk *disk = bitmaps->disk;

    for (guint i = 0; i < extents->len; i++) {
        struct Extent *one = &g_array_index(extents, struct Extent, i);
        enum NamedResult result =
            named_mark(disk->bitmaps, name, one->offset, one->len);

        if (result != NAMED_OK) {
            store_bitmap_set_error(error, result, disk, name);
            return FALSE;
        }
    }
    return store_bitmaps_save(bitmaps->store, disk, error);
}

static gboolean
mark_at_work(const CliBitmaps *bitmaps, const char *name, GArray *extents,
             GError **error)
{
    for (guint i = 0; i < extents->len; i += MARKS_AT_A_TIME) {
        JsonObject *arguments = json_object_new();
        JsonArray *part = json_array_new();
        g_autoptr(JsonObject) reply = NULL;

        for (guint j = i; j < MIN(i + MARKS_AT_A_TIME, extents->len); j++) {
            struct Extent *one = &g_array_index(extents, struct Extent, j);
            JsonObject *extent = json_object_new();

            json_object_set_int_member(extent, "offset", (gint64)one->offset);
            json_object_set_int_member(extent, "length", (gint64)one->len);
            json_array_add_object_element(part, extent);
        }
        json_object_set_string_member(arguments, "name", name);
        json_object_set_array_member(arguments, "extents", part);
        reply = cli_bitmaps_call(bitmaps, "weir-bitmap-mark", arguments, error);
        if (reply == NULL) {
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
import_into(const CliBitmaps *bitmaps, const char *name, unsigned grain_bits,
            GError **error)
{
    g_autoptr(GArray) extents =
        g_array_new(FALSE, FALSE, sizeof(struct Extent));
    gboolean ok = read_source(bitmaps, extents, error);
    g_autofree char *size = NULL;
    uint64_t bytes = 0;

    if (ok && !is_there(bitmaps, name)) {
        ok = cli_bitmaps_add(bitmaps, name, grain_bits, true, false, error);
    }
    ok = ok && (bitmaps->client != NULL
                    ? mark_at_work(bitmaps, name, extents, error)
                    : mark_at_rest(bitmaps, name, extents, error));
    for (guint i = 0; i < extents->len; i++) {
        bytes += g_array_index(extents, struct Extent, i).len;
    }
    size = status_size((double)bytes);
    if (ok) {
        printf("%s: %s dirty, in %u extents\n", name, size, extents->len);
    }
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
