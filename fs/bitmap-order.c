/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-order.c - what a client wants done with a named bitmap
 *
 * block-dirty-bitmap-add and the like are commands by themselves, and actions of
 * transactions. What they take is the same, and so is what is wrong with it;
 * only who makes it durable differs. So it is read here, once, and names are
 * held to what a bitmap can be called before anything else sees them.
 */
#include "bitmap-order.h"

#include "store-bitmaps.h"

#include <string.h>

const struct ArgumentRule bitmap_add_rules[] = {
    {"node", ARGUMENT_STRING, true},       {"name", ARGUMENT_STRING, true},
    {"granularity", ARGUMENT_SIZE, false}, {"persistent", ARGUMENT_BOOL, false},
    {"disabled", ARGUMENT_BOOL, false},    {NULL, 0, false},
};
const struct ArgumentRule bitmap_name_rules[] = {
    {"node", ARGUMENT_STRING, true},
    {"name", ARGUMENT_STRING, true},
    {NULL, 0, false},
};
const struct ArgumentRule bitmap_merge_rules[] = {
    {"node", ARGUMENT_STRING, true},
    {"target", ARGUMENT_STRING, true},
    {"bitmaps", ARGUMENT_ARRAY, true},
    {NULL, 0, false},
};

/*
 * Reading
 */
static gboolean
parse_grain(JsonObject *arguments, BitmapOrder *order, GError **error)
{
    uint64_t bytes = argument_size(arguments, "granularity");

    order->grain_bits = NAMED_GRAIN_COMMON;
    if (!json_object_has_member(arguments, "granularity")) {
        return TRUE;
    }
    if (bytes < (UINT64_C(1) << NAMED_GRAIN_LEAST) ||
        bytes > (UINT64_C(1) << NAMED_GRAIN_MOST) ||
        (bytes & (bytes - 1)) != 0) {
        store_bitmap_set_error(error, NAMED_BAD_GRAIN, order->disk,
                               order->name);
        return FALSE;
    }
    order->grain_bits = (unsigned)__builtin_ctzll(bytes);
    return TRUE;
}

/* A name, or {node, name} of the same disk. */
static const char *
source_name(const BitmapOrder *order, JsonNode *node, GError **error)
{
    JsonObject *object;

    if (json_node_get_value_type(node) == G_TYPE_STRING) {
        return json_node_get_string(node);
    }
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Invalid parameter type for 'bitmaps', expected: string or "
                    "object");
        return NULL;
    }
    object = json_node_get_object(node);
    if (!arguments_check(object, bitmap_name_rules, error)) {
        return NULL;
    }
    if (strcmp(argument_string(object, "node"), order->disk->name) != 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "bitmaps of other disks cannot be merged: '%s' is not of "
                    "'%s'",
                    argument_string(object, "name"), order->disk->name);
        return NULL;
    }
    return argument_string(object, "name");
}

static gboolean
parse_sources(JsonObject *arguments, BitmapOrder *order, GError **error)
{
    JsonArray *list = json_object_get_array_member(arguments, "bitmaps");

    order->sources = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        const char *name =
            source_name(order, json_array_get_element(list, i), error);

        if (name == NULL) {
            return FALSE;
        }
        g_ptr_array_add(order->sources, g_strdup(name));
    }
    return TRUE;
}

/* What can be no name is none that there is; a new one is told so. */
static gboolean
parse_name(JsonObject *arguments, BitmapOrder *order, GError **error)
{
    const char *member = order->verb == BITMAP_MERGE ? "target" : "name";
    const char *name = argument_string(arguments, member);

    order->name = g_strdup(name);
    if (store_name_is_valid(name)) {
        return TRUE;
    }
    if (order->verb != BITMAP_ADD) {
        store_bitmap_set_error(error, NAMED_MISSING, order->disk, name);
        return FALSE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "Invalid bitmap name '%s': it has up to %d of A-Z a-z 0-9 . _ "
                "-, and begins with no dot",
                name, NAMED_NAME_MAX);
    return FALSE;
}

gboolean
bitmap_order_parse(Store *store, enum BitmapVerb verb, JsonObject *arguments,
                   BitmapOrder *order, GError **error)
{
    *order = (BitmapOrder){
        .verb = verb,
        .disk = argument_disk(arguments, "node", store, error),
        .is_persistent = argument_bool(arguments, "persistent", false),
        .is_disabled = argument_bool(arguments, "disabled", false),
    };
    if (order->disk != NULL && parse_name(arguments, order, error) &&
        parse_grain(arguments, order, error) &&
        (verb != BITMAP_MERGE || parse_sources(arguments, order, error))) {
        return TRUE;
    }
    bitmap_order_clear(order);
    return FALSE;
}

void
bitmap_order_clear(BitmapOrder *order)
{
    g_clear_pointer(&order->name, g_free);
    g_clear_pointer(&order->sources, g_ptr_array_unref);
}

/*
 * Carrying out
 */
static const char *const *
source_names(const BitmapOrder *order)
{
    return (const char *const *)order->sources->pdata;
}

gboolean
bitmap_order_run(Store *store, const BitmapOrder *order, GError **error)
{
    Disk *disk = order->disk;

    switch (order->verb) {
    case BITMAP_ADD:
        return store_bitmap_add(store, disk, order->name, order->grain_bits,
                                order->is_persistent, order->is_disabled,
                                error);
    case BITMAP_REMOVE:
        return store_bitmap_remove(store, disk, order->name, error);
    case BITMAP_CLEAR:
        return store_bitmap_clear(store, disk, order->name, error);
    case BITMAP_ENABLE:
    case BITMAP_DISABLE:
        return store_bitmap_enable(store, disk, order->name,
                                   order->verb == BITMAP_ENABLE, error);
    case BITMAP_MERGE:
        return store_bitmap_merge(store, disk, order->name, source_names(order),
                                  order->sources->len, error);
    case BITMAP_VERBS:
        break;
    }
    return FALSE;
}

static enum NamedResult
apply(const BitmapOrder *order, uint64_t id)
{
    NamedBitmaps *set = order->disk->bitmaps;
    struct NamedSpec spec = {.name = order->name,
                             .id = id,
                             .grain_bits = order->grain_bits,
                             .is_persistent = order->is_persistent,
                             .is_disabled = order->is_disabled};

    switch (order->verb) {
    case BITMAP_ADD:
        return named_add(set, &spec, NULL);
    case BITMAP_REMOVE:
        return named_remove(set, order->name);
    case BITMAP_CLEAR:
        return named_clear(set, order->name);
    case BITMAP_ENABLE:
        return named_enable(set, order->name);
    case BITMAP_DISABLE:
        return named_disable(set, order->name);
    case BITMAP_MERGE:
        return named_merge(set, order->name, source_names(order),
                           order->sources->len);
    case BITMAP_VERBS:
        break;
    }
    return NAMED_MISSING;
}

/* Which of them it is about. */
static const char *
blame(const BitmapOrder *order, enum NamedResult result)
{
    struct NamedFigures figures;

    for (guint i = 0; order->sources != NULL && i < order->sources->len; i++) {
        const char *name = source_names(order)[i];
        bool is_there = named_find(order->disk->bitmaps, name, &figures);

        if ((result == NAMED_MISSING && !is_there) ||
            (result == NAMED_BUSY && is_there && figures.is_busy)) {
            return name;
        }
    }
    return order->name;
}

gboolean
bitmap_order_apply(const BitmapOrder *order, uint64_t id, GError **error)
{
    enum NamedResult result = apply(order, id);

    if (result != NAMED_OK) {
        store_bitmap_set_error(error, result, order->disk,
                               blame(order, result));
    }
    return result == NAMED_OK;
}
