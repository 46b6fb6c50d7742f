/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-look.c - what any thread may ask about named bitmaps
 *
 * Other threads know a bitmap by its id. Each call, and each slice of a copy,
 * looks for it anew under the lock: the main thread may have removed it.
 *
 * A copy is not of one instant. It has all that was dirty at its beginning, and
 * a checkpoint wants no more. If the bitmap was cleared, thawed, or has grown
 * in the middle of it, it begins again: else it might have the S of before and
 * the N of after, and lack what went from one to the other in between.
 */
#include "named-private.h"

#include <errno.h>
#include <string.h>

static uint64_t
count_bytes(const Bitmap *bits)
{
    unsigned grain_bits = bitmap_cluster_bits(bits);
    uint64_t clusters = bitmap_clusters(bits);
    uint64_t bytes = bitmap_count(bits) << grain_bits;

    if (bitmap_get(bits, clusters - 1)) {
        bytes -= (clusters << grain_bits) - bitmap_size_bytes(bits);
    }
    return bytes;
}

static bool
figures_locked(const NamedBitmap *bitmap, struct NamedFigures *figures)
{
    if (!bitmap) {
        return false;
    }
    *figures = (struct NamedFigures){.id = bitmap->id,
                                     .grain_bits = bitmap->grain_bits,
                                     .is_enabled = bitmap->is_enabled,
                                     .is_persistent = bitmap->is_persistent,
                                     .version = bitmap->version};
    memcpy(figures->name, bitmap->name, sizeof(figures->name));
    figures->count_bytes = count_bytes(bitmap->now.bits);
    figures->is_busy = named_is_busy(bitmap);
    if (figures->is_busy) {
        figures->new_bytes = count_bytes(bitmap->later.bits);
    }
    return true;
}

unsigned
named_count(NamedBitmaps *set)
{
    unsigned count;

    disk_map_lock(set->map);
    count = set->count;
    disk_map_unlock(set->map);
    return count;
}

bool
named_at(NamedBitmaps *set, unsigned index, struct NamedFigures *figures)
{
    NamedBitmap *bitmap;
    bool is_there;

    disk_map_lock(set->map);
    bitmap = set->first;
    for (unsigned i = 0; bitmap && i < index; i++) {
        bitmap = bitmap->next;
    }
    is_there = figures_locked(bitmap, figures);
    disk_map_unlock(set->map);
    return is_there;
}

bool
named_find(NamedBitmaps *set, const char *name, struct NamedFigures *figures)
{
    bool is_there;

    disk_map_lock(set->map);
    is_there = figures_locked(named_by_name(set, name), figures);
    disk_map_unlock(set->map);
    return is_there;
}

bool
named_get(NamedBitmaps *set, uint64_t id, struct NamedFigures *figures)
{
    bool is_there;

    disk_map_lock(set->map);
    is_there = figures_locked(named_by_id(set, id), figures);
    disk_map_unlock(set->map);
    return is_there;
}

bool
named_after(NamedBitmaps *set, uint64_t id, struct NamedFigures *figures)
{
    NamedBitmap *bitmap;
    bool is_there;

    disk_map_lock(set->map);
    bitmap = set->first;
    while (bitmap && bitmap->id <= id) {
        bitmap = bitmap->next;
    }
    is_there = figures_locked(bitmap, figures);
    disk_map_unlock(set->map);
    return is_there;
}

bool
named_next(NamedBitmaps *set, uint64_t id, uint64_t from, uint64_t most,
           uint64_t *offset, uint64_t *len)
{
    NamedBitmap *bitmap;
    bool is_there;

    disk_map_lock(set->map);
    bitmap = named_by_id(set, id);
    is_there =
        bitmap && most && named_next_bytes(bitmap->now.bits, from, offset, len);
    disk_map_unlock(set->map);
    if (is_there && *len > most) {
        *len = most;
    }
    return is_there;
}

/* A copy under way, and what it is of. */
struct Copy {
    NamedBitmaps *set;
    uint64_t id;
    uint64_t version;
    uint64_t size_bytes;
    unsigned grain_bits;
    bool is_busy;
    Bitmap *bits, *successor;
};

static int
copy_begin(struct Copy *copy)
{
    NamedBitmap *bitmap;

    disk_map_lock(copy->set->map);
    bitmap = named_by_id(copy->set, copy->id);
    if (bitmap) {
        copy->version = bitmap->version;
        copy->size_bytes = copy->set->map->size_bytes;
        copy->grain_bits = bitmap->grain_bits;
        copy->is_busy = named_is_busy(bitmap);
    }
    disk_map_unlock(copy->set->map);
    if (!bitmap) {
        return -ENOENT;
    }
    copy->bits = bitmap_new(copy->size_bytes, copy->grain_bits);
    copy->successor =
        copy->is_busy ? bitmap_new(copy->size_bytes, copy->grain_bits) : NULL;
    return copy->bits && (!copy->is_busy || copy->successor) ? 0 : -ENOMEM;
}

static void
copy_drop(struct Copy *copy)
{
    bitmap_free(copy->bits);
    bitmap_free(copy->successor);
    copy->bits = copy->successor = NULL;
}

/* False: it is not what it was. */
static bool
copy_bits(struct Copy *copy, bool is_successor)
{
    struct NamedSink into = {.bits =
                                 is_successor ? copy->successor : copy->bits};
    bool more = true, is_same = true;
    uint64_t at = 0;

    while (more && is_same) {
        disk_map_lock(copy->set->map);
        NamedBitmap *bitmap = named_by_id(copy->set, copy->id);

        is_same = bitmap && bitmap->version == copy->version &&
                  copy->set->map->size_bytes == copy->size_bytes;
        if (is_same) {
            const Bitmap *from =
                is_successor ? bitmap->later.bits : bitmap->now.bits;

            more = named_merge_step_locked(&into, &from, 1, &at);
        }
        disk_map_unlock(copy->set->map);
    }
    return is_same;
}

int
named_copy(NamedBitmaps *set, uint64_t id, Bitmap **bits, Bitmap **successor)
{
    struct Copy copy = {.set = set, .id = id};
    int r = copy_begin(&copy);

    while (r == 0 && (!copy_bits(&copy, false) ||
                      (copy.is_busy && !copy_bits(&copy, true)))) {
        copy_drop(&copy);
        r = copy_begin(&copy);
    }
    if (r < 0) {
        copy_drop(&copy);
    }
    *bits = copy.bits;
    *successor = copy.successor;
    return r;
}
