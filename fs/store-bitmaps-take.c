/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-take.c - what is to be saved of a disk's bitmaps
 *
 * Copies of all that is to be written, and what the list is to say, by what is
 * in memory and what is known of the files:
 *
 *                          own file               successor's
 *   it is new, or its      written                written, if a job has it
 *   version is another
 *   it records             at a checkpoint        -
 *   a job has it           -                      at a checkpoint, if it records
 *   else                   -                      -
 *
 * A version counts all changes but those of the guest, which are in the hot
 * extents until a checkpoint. What the main thread changes while this is at work
 * on another one is of the next save: a copy is of one version, as the list is.
 */
#include "store-bitmaps-private.h"

#include <errno.h>
#include <string.h>

const struct KeptBitmap *
bitmaps_kept_find(const BitmapsKept *kept, uint64_t id)
{
    for (guint i = 0; i < kept->bitmaps->len; i++) {
        const struct KeptBitmap *at =
            &g_array_index(kept->bitmaps, struct KeptBitmap, i);

        if (at->listed.id == id) {
            return at;
        }
    }
    return NULL;
}

static void
decide(const BitmapsSaving *saving, struct SavedBitmap *item)
{
    const struct NamedFigures *figures = &item->figures;
    const struct KeptBitmap *was = &item->was;
    bool is_thawed = was->listed.is_busy && !figures->is_busy;
    unsigned slot = is_thawed ? !was->listed.slot : was->listed.slot;
    bool is_other = !was->is_saved || was->version != figures->version ||
                    was->size_bytes != saving->size_bytes;
    struct ListedBitmap *listed = &item->now.listed;

    item->now = *was;
    item->now.is_saved = true;
    item->now.version = figures->version;
    item->now.size_bytes = saving->size_bytes;
    *listed = (struct ListedBitmap){
        .id = figures->id,
        .grain_bits = figures->grain_bits,
        .is_enabled = figures->is_enabled,
        .is_busy = figures->is_busy,
        .slot = slot,
        .sequence = was->listed.sequence,
    };
    g_strlcpy(listed->name, figures->name, sizeof(listed->name));
    item->saves_bits =
        is_other || !was->has_file[slot] ||
        (saving->is_checkpoint && bitmaps_records_in(listed, slot));
    item->saves_successor =
        figures->is_busy &&
        (is_other || !was->has_file[!slot] ||
         (saving->is_checkpoint && bitmaps_records_in(listed, !slot)));
}

/* Figures and copies of one and the same version. 0, -ENOENT or -ENOMEM. */
static int
copy_item(const BitmapsSaving *saving, struct SavedBitmap *item)
{
    NamedBitmaps *set = saving->disk->bitmaps;
    uint64_t id = item->figures.id;
    struct NamedFigures after;
    int err;

    do {
        g_clear_pointer(&item->bits, bitmap_free);
        g_clear_pointer(&item->successor, bitmap_free);
        if (!named_get(set, id, &item->figures)) {
            return -ENOENT;
        }
        decide(saving, item);
        if (!item->saves_bits && !item->saves_successor) {
            return 0;
        }
        err = named_copy(set, id, &item->bits, &item->successor);
        if (err) {
            return err;
        }
    } while (named_get(set, id, &after) &&
             after.version != item->figures.version);
    return 0;
}

static void
clear_item(struct SavedBitmap *item)
{
    bitmap_free(item->bits);
    bitmap_free(item->successor);
    bitmap_free(item->wide);
}

static int
add_item(BitmapsSaving *saving, const struct NamedFigures *figures)
{
    const struct KeptBitmap *was =
        bitmaps_kept_find(saving->disk->kept, figures->id);
    struct SavedBitmap item = {.figures = *figures};
    int err;

    if (was) {
        item.was = *was;
    }
    err = copy_item(saving, &item);
    if (err) {
        clear_item(&item);
        return err == -ENOENT ? 0 : err;
    }
    /* It is new, or was changed by more than the guest. */
    saving->changes +=
        !item.was.is_saved || item.was.version != item.now.version;
    g_array_prepend_val(saving->items, item);
    return 0;
}

bool
bitmaps_saving_has(const BitmapsSaving *saving, uint64_t id)
{
    for (guint i = 0; i < saving->items->len; i++) {
        if (g_array_index(saving->items, struct SavedBitmap, i).now.listed.id ==
            id) {
            return true;
        }
    }
    return false;
}

/* From the last one on: of those that the main thread removes meanwhile others
 * come nearer, and would be left out in the other direction. */
static int
collect_named(BitmapsSaving *saving)
{
    NamedBitmaps *set = saving->disk->bitmaps;
    struct NamedFigures figures;
    int err = 0;

    for (unsigned i = named_count(set); !err && i-- > 0;) {
        if (named_at(set, i, &figures) && figures.is_persistent &&
            !bitmaps_saving_has(saving, figures.id)) {
            err = add_item(saving, &figures);
        }
    }
    return err;
}

static void
clear_copy(gpointer data)
{
    bitmap_free(((struct BitsCopy *)data)->bits);
}

GArray *
bits_copies_new(Disk *disk)
{
    GArray *copies = g_array_new(FALSE, FALSE, sizeof(struct BitsCopy));

    g_array_set_size(disk->kept->unsaved, 0);
    g_array_set_clear_func(copies, clear_copy);
    for (guint i = 0; i < disk->bits->len; i++) {
        StoreBits *bits = disk->bits->pdata[i];
        struct BitsCopy copy = {
            .of = bits,
            .bits = bitmap_new(disk_map_size_bytes(bits->map),
                               disk_map_cluster_bits(bits->map)),
        };

        if (!copy.bits) {
            g_array_unref(copies);
            return NULL;
        }
        g_strlcpy(copy.file, bits->file, sizeof(copy.file));
        disk_map_union(bits->map, copy.bits);
        g_array_append_val(copies, copy);
    }
    return copies;
}

/* Would @now not do in the place of @then? */
static bool
is_listed_otherwise(const struct ListedBitmap *then,
                    const struct ListedBitmap *now)
{
    return then->id != now->id || strcmp(then->name, now->name) != 0 ||
           then->is_enabled != now->is_enabled ||
           then->is_busy != now->is_busy || then->slot != now->slot ||
           then->sequence != now->sequence;
}

bool
bitmaps_saving_lists(const BitmapsSaving *saving)
{
    const BitmapsKept *kept = saving->disk->kept;

    if (kept->bitmaps->len != saving->items->len) {
        return true;
    }
    for (guint i = 0; i < saving->items->len; i++) {
        if (is_listed_otherwise(
                &g_array_index(kept->bitmaps, struct KeptBitmap, i).listed,
                &g_array_index(saving->items, struct SavedBitmap, i)
                     .now.listed)) {
            return true;
        }
    }
    return false;
}

static bool
has_work(const BitmapsSaving *saving)
{
    const BitmapsKept *kept = saving->disk->kept;
    bool has = saving->copies->len || bitmaps_saving_lists(saving) ||
               kept->is_unsure || kept->gone->len;

    for (guint i = 0; i < saving->items->len; i++) {
        const struct SavedBitmap *item =
            &g_array_index(saving->items, struct SavedBitmap, i);

        has |= item->saves_bits || item->saves_successor;
    }
    return has;
}

BitmapsSaving *
bitmaps_saving_new(Store *store, Disk *disk, GArray *copies, int *err)
{
    BitmapsSaving *saving = g_new0(BitmapsSaving, 1);

    g_array_set_size(disk->kept->unsaved, 0);
    saving->store = store;
    saving->disk = disk;
    saving->is_checkpoint = copies != NULL;
    saving->size_bytes = disk_map_size_bytes(disk->map);
    saving->items = g_array_new(FALSE, FALSE, sizeof(struct SavedBitmap));
    saving->copies =
        copies ? copies : g_array_new(FALSE, FALSE, sizeof(struct BitsCopy));
    *err = collect_named(saving);
    if (*err || !has_work(saving)) {
        g_clear_pointer(&saving, bitmaps_saving_free);
    }
    return saving;
}

void
bitmaps_saving_free(BitmapsSaving *saving)
{
    if (!saving) {
        return;
    }
    for (guint i = 0; i < saving->items->len; i++) {
        clear_item(&g_array_index(saving->items, struct SavedBitmap, i));
    }
    g_array_unref(saving->items);
    g_array_unref(saving->copies);
    g_free(saving);
}
