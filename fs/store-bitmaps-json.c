/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-json.c - named bitmaps for programs
 *
 * The members of QEMU's BlockDirtyInfo mean what they mean there; its
 * "inconsistent" is shown only if it is true, and ours never are. Fields may be
 * added, never renamed.
 *
 * What is dirty is listed by ranges of bytes, and only so many in one answer:
 * `next` says where to go on. The disk is written meanwhile: an answer that
 * takes more than one call is of no single instant, unless the bitmap does not
 * record.
 */
#include "store-bitmaps.h"

#define EXTENTS_LISTED 8192 /* in one answer */

static void
set_figures(JsonObject *object, const struct NamedFigures *figures)
{
    json_object_set_string_member(object, "name", figures->name);
    json_object_set_int_member(object, "granularity",
                               INT64_C(1) << figures->grain_bits);
    json_object_set_int_member(object, "count", (gint64)figures->count_bytes);
    json_object_set_boolean_member(object, "recording", figures->is_enabled);
    json_object_set_boolean_member(object, "enabled", figures->is_enabled);
    json_object_set_boolean_member(object, "busy", figures->is_busy);
    json_object_set_boolean_member(object, "persistent",
                                   figures->is_persistent);
}

static JsonObject *
bitmap_json(const struct NamedFigures *figures)
{
    JsonObject *object = json_object_new();

    set_figures(object, figures);
    json_object_set_int_member(object, "id", (gint64)figures->id);
    return object;
}

/* What records while a job has the bitmap: it has no name. */
static JsonObject *
successor_json(const struct NamedFigures *figures)
{
    JsonObject *object = json_object_new();

    json_object_set_int_member(object, "granularity",
                               INT64_C(1) << figures->grain_bits);
    json_object_set_int_member(object, "count", (gint64)figures->new_bytes);
    json_object_set_boolean_member(object, "recording", figures->is_enabled);
    json_object_set_boolean_member(object, "busy", FALSE);
    json_object_set_boolean_member(object, "persistent", FALSE);
    return object;
}

JsonArray *
store_bitmaps_json(Disk *disk)
{
    JsonArray *list = json_array_new();
    struct NamedFigures figures;

    for (unsigned i = 0; named_at(disk->bitmaps, i, &figures); i++) {
        json_array_add_object_element(list, bitmap_json(&figures));
        if (figures.is_busy) {
            json_array_add_object_element(list, successor_json(&figures));
        }
    }
    return list;
}

JsonObject *
store_bitmap_extents(Disk *disk, const char *name, uint64_t start,
                     GError **error)
{
    JsonArray *extents;
    JsonObject *object;
    struct NamedFigures figures;
    uint64_t at = start, offset, len;
    bool more;

    if (!named_find(disk->bitmaps, name, &figures)) {
        store_bitmap_set_error(error, NAMED_MISSING, disk, name);
        return NULL;
    }
    object = json_object_new();
    set_figures(object, &figures);
    extents = json_array_new();
    while ((more = named_next(disk->bitmaps, figures.id, at, UINT64_MAX,
                              &offset, &len)) &&
           json_array_get_length(extents) < EXTENTS_LISTED) {
        JsonObject *extent = json_object_new();

        json_object_set_int_member(extent, "offset", (gint64)offset);
        json_object_set_int_member(extent, "length", (gint64)len);
        json_array_add_object_element(extents, extent);
        at = offset + len;
    }
    json_object_set_array_member(object, "extents", extents);
    if (more) {
        json_object_set_int_member(object, "next", (gint64)offset);
    }
    return object;
}
