/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-bitmaps.c - the commands about named bitmaps
 *
 *   block-dirty-bitmap-add, -remove, -clear, -enable, -disable, -merge
 *                               QEMU's; see bitmap-order.h
 *   weir-bitmap-list    [node]  all of them, by disk
 *   weir-bitmap-extents node, name, [start]
 *                               where it is dirty, see store_bitmap_extents()
 *   weir-bitmap-mark    node, name, extents[{offset, length}]
 *                               those are dirty as well
 *   x-debug-block-dirty-bitmap-sha256 node, name
 *                               of the bits, as QEMU has it
 *
 * All are answered at once. While a transaction is under way, which may have to
 * take back what it did, nobody else changes a bitmap.
 */
#include "control-commands.h"

#include "bitmap-order.h"
#include "store-bitmaps.h"

#include <inttypes.h>

#define MARKS_MAX    16384 /* per call */
#define DIGEST_WORDS 512   /* at a time */
/* Bits: some 0.1 s of the main thread. */
#define DIGEST_MAX (UINT64_C(128) << 20)

/*
 * QEMU's
 */
static void
run_order(ControlCall *call, JsonObject *arguments, Daemon *daemon,
          enum BitmapVerb verb)
{
    GError *error = NULL;
    BitmapOrder order;
    gboolean ok;

    if (control_is_amid_transaction(daemon, &error) ||
        !bitmap_order_parse(daemon->store, verb, arguments, &order, &error)) {
        control_answer_error(call, error);
        return;
    }
    ok = bitmap_order_run(daemon->store, &order, &error);
    bitmap_order_clear(&order);
    control_answer(call, ok, error);
}

#define RUN(NAME, VERB)                                                       \
    static void NAME(ControlCall *call, JsonObject *arguments, gpointer user) \
    {                                                                         \
        run_order(call, arguments, user, VERB);                               \
    }
RUN(run_add, BITMAP_ADD)
RUN(run_remove, BITMAP_REMOVE)
RUN(run_clear, BITMAP_CLEAR)
RUN(run_enable, BITMAP_ENABLE)
RUN(run_disable, BITMAP_DISABLE)
RUN(run_merge, BITMAP_MERGE)

/*
 * Looking
 */

/* The bitmap that `node` and `name` say; false: answered. */
static bool
find(ControlCall *call, JsonObject *arguments, Daemon *daemon, Disk **disk,
     struct NamedFigures *figures)
{
    const char *name = argument_string(arguments, "name");
    GError *error = NULL;

    *disk = argument_disk(arguments, "node", daemon->store, &error);
    if (*disk != NULL && !named_find((*disk)->bitmaps, name, figures)) {
        store_bitmap_set_error(&error, NAMED_MISSING, *disk, name);
    }
    if (error != NULL) {
        control_answer_error(call, error);
        return false;
    }
    return true;
}

static void
run_list(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonObject *answer = json_object_new();
    JsonArray *disks = json_array_new();
    GError *error = NULL;
    Disk *only = NULL;

    if (json_object_has_member(arguments, "node")) {
        only = argument_disk(arguments, "node", daemon->store, &error);
    }
    for (unsigned i = 0; error == NULL && i < daemon->store->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];
        JsonObject *entry;

        if (only == NULL || only == disk) {
            entry = json_object_new();
            json_object_set_string_member(entry, "name", disk->name);
            json_object_set_array_member(entry, "bitmaps",
                                         store_bitmaps_json(disk));
            json_array_add_object_element(disks, entry);
        }
    }
    json_object_set_array_member(answer, "disks", disks);
    if (error != NULL) {
        json_object_unref(answer);
        control_answer_error(call, error);
        return;
    }
    control_call_return_object(call, answer);
}

static void
run_extents(ControlCall *call, JsonObject *arguments, gpointer user)
{
    struct NamedFigures figures;
    GError *error = NULL;
    JsonObject *answer;
    Disk *disk;

    if (!find(call, arguments, user, &disk, &figures)) {
        return;
    }
    answer = store_bitmap_extents(disk, figures.name,
                                  argument_size(arguments, "start"), &error);
    if (answer == NULL) {
        control_answer_error(call, error);
        return;
    }
    control_call_return_object(call, answer);
}

/* Bit i of word w is grain 64 * w + i, words are of little endian. */
static char *
digest(const Bitmap *bits)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    uint64_t part[DIGEST_WORDS];
    const uint64_t *words;
    size_t count, n;

    words = bitmap_words(bits, &count);
    for (size_t i = 0; i < count; i += n) {
        n = MIN(count - i, DIGEST_WORDS);
        for (size_t j = 0; j < n; j++) {
            part[j] = GUINT64_TO_LE(words[i + j]);
        }
        g_checksum_update(checksum, (const guchar *)part,
                          (gssize)(n * sizeof(part[0])));
    }
    return g_strdup(g_checksum_get_string(checksum));
}

/* NULL: @error. */
static char *
digest_of(Disk *disk, const struct NamedFigures *figures, GError **error)
{
    Bitmap *bits, *successor;
    char *text;

    if (atomic_load(&disk->size_bytes) >> figures->grain_bits > DIGEST_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "bitmap '%s' has more than %" PRIu64
                    " bits: too many for a digest while the disk is served",
                    figures->name, DIGEST_MAX);
        return NULL;
    }
    if (named_copy(disk->bitmaps, figures->id, &bits, &successor) < 0) {
        store_bitmap_set_error(error, NAMED_NO_MEMORY, disk, figures->name);
        return NULL;
    }
    text = digest(bits);
    bitmap_free(bits);
    bitmap_free(successor);
    return text;
}

static void
run_sha256(ControlCall *call, JsonObject *arguments, gpointer user)
{
    struct NamedFigures figures;
    GError *error = NULL;
    JsonObject *answer;
    Disk *disk;
    char *text;

    if (!find(call, arguments, user, &disk, &figures)) {
        return;
    }
    text = digest_of(disk, &figures, &error);
    if (text == NULL) {
        control_answer_error(call, error);
        return;
    }
    answer = json_object_new();
    json_object_set_string_member(answer, "sha256", text);
    g_free(text);
    control_call_return_object(call, answer);
}

/*
 * Marking: somebody read another bitmap, and says what it had
 */
static const struct ArgumentRule extent_rules[] = {
    {"offset", ARGUMENT_SIZE, true},
    {"length", ARGUMENT_SIZE, true},
    {NULL, 0, false},
};

static gboolean
check_extent(const Disk *disk, JsonNode *node, GError **error)
{
    uint64_t size = atomic_load(&disk->size_bytes), offset, len;
    JsonObject *extent;

    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Invalid parameter type for 'extents', expected: object");
        return FALSE;
    }
    extent = json_node_get_object(node);
    if (!arguments_check(extent, extent_rules, error)) {
        return FALSE;
    }
    offset = argument_size(extent, "offset");
    len = argument_size(extent, "length");
    if (len == 0 || offset >= size || len > size - offset) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "extent %" PRIu64 "+%" PRIu64 " is not on disk %s", offset,
                    len, disk->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
check_extents(const Disk *disk, JsonArray *extents, GError **error)
{
    guint count = json_array_get_length(extents);

    if (count > MARKS_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "more than %d extents: use several calls", MARKS_MAX);
        return FALSE;
    }
    for (guint i = 0; i < count; i++) {
        if (!check_extent(disk, json_array_get_element(extents, i), error)) {
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
mark(Daemon *daemon, Disk *disk, const char *name, JsonArray *extents,
     GError **error)
{
    for (guint i = 0; i < json_array_get_length(extents); i++) {
        JsonObject *extent = json_array_get_object_element(extents, i);
        enum NamedResult result =
            named_mark(disk->bitmaps, name, argument_size(extent, "offset"),
                       argument_size(extent, "length"));

        if (result != NAMED_OK) {
            store_bitmap_set_error(error, result, disk, name);
            return FALSE;
        }
    }
    return store_bitmaps_save(daemon->store, disk, error);
}

static void
run_mark(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonArray *extents = json_object_get_array_member(arguments, "extents");
    struct NamedFigures figures;
    GError *error = NULL;
    Disk *disk;
    gboolean ok;

    if (!find(call, arguments, daemon, &disk, &figures)) {
        return;
    }
    ok = !control_is_amid_transaction(daemon, &error) &&
         check_extents(disk, extents, &error) &&
         mark(daemon, disk, figures.name, extents, &error);
    control_answer(call, ok, error);
}

/*
 * The table
 */
static const struct ArgumentRule list_rules[] = {
    {"node", ARGUMENT_STRING, false},
    {NULL, 0, false},
};
static const struct ArgumentRule extents_rules[] = {
    {"node", ARGUMENT_STRING, true},
    {"name", ARGUMENT_STRING, true},
    {"start", ARGUMENT_SIZE, false},
    {NULL, 0, false},
};
static const struct ArgumentRule mark_rules[] = {
    {"node", ARGUMENT_STRING, true},
    {"name", ARGUMENT_STRING, true},
    {"extents", ARGUMENT_ARRAY, true},
    {NULL, 0, false},
};

const struct ControlCommand control_bitmap_commands[] = {
    {"block-dirty-bitmap-add", run_add, bitmap_add_rules, false},
    {"block-dirty-bitmap-remove", run_remove, bitmap_name_rules, false},
    {"block-dirty-bitmap-clear", run_clear, bitmap_name_rules, false},
    {"block-dirty-bitmap-enable", run_enable, bitmap_name_rules, false},
    {"block-dirty-bitmap-disable", run_disable, bitmap_name_rules, false},
    {"block-dirty-bitmap-merge", run_merge, bitmap_merge_rules, false},
    {"weir-bitmap-list", run_list, list_rules, false},
    {"weir-bitmap-extents", run_extents, extents_rules, false},
    {"weir-bitmap-mark", run_mark, mark_rules, false},
    {"x-debug-block-dirty-bitmap-sha256", run_sha256, bitmap_name_rules, false},
    {NULL, NULL, NULL, false},
};
