/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named.c - what a user may do with a named bitmap
 *
 * Each is a recorder of the disk's map (disk-map.h), which is always attached,
 * so that it grows with the disk; it is idle while it is disabled:
 *
 *              now (S)         later (N)
 *   enabled    is marked       -
 *   disabled   idle            -
 *   busy       idle            is marked, or idle if it is disabled
 *
 * named-job.c has what makes it busy, and what ends that.
 *
 * Clearing gives it other bits, all clean, in one step: what is marked before
 * is gone and what is marked after is there, whatever the size of the disk.
 * Other work on all of a bitmap goes in slices (named-merge.c). There is
 * nothing in it that can fail: all that could is asked for first.
 */
#include "named-private.h"

#include <stdlib.h>
#include <string.h>

#define SLICE_GRAINS_BITS 16

NamedBitmaps *
named_bitmaps_new(DiskMap *map)
{
    NamedBitmaps *set = calloc(1, sizeof(*set));

    if (set) {
        set->map = map;
    }
    return set;
}

void
named_bitmaps_free(NamedBitmaps *set)
{
    while (set && set->first) {
        NamedBitmap *bitmap = set->first;

        disk_map_lock(set->map);
        named_take_out_locked(bitmap);
        disk_map_unlock(set->map);
        named_bitmap_free(bitmap);
    }
    free(set);
}

NamedBitmap *
named_by_name(const NamedBitmaps *set, const char *name)
{
    NamedBitmap *bitmap = set->first;

    while (bitmap && strcmp(bitmap->name, name) != 0) {
        bitmap = bitmap->next;
    }
    return bitmap;
}

NamedBitmap *
named_by_id(const NamedBitmaps *set, uint64_t id)
{
    NamedBitmap *bitmap = set->first;

    while (bitmap && bitmap->id != id) {
        bitmap = bitmap->next;
    }
    return bitmap;
}

Bitmap *
named_bits_new(const NamedBitmaps *set, unsigned grain_bits)
{
    return bitmap_new(disk_map_size_bytes(set->map), grain_bits);
}

NamedBitmap *
named_bitmap_new(NamedBitmaps *set, const struct NamedSpec *spec)
{
    NamedBitmap *bitmap = calloc(1, sizeof(*bitmap));
    size_t len = strlen(spec->name);

    assert(len > 0 && len <= NAMED_NAME_MAX);
    assert(spec->id <= NAMED_ID_MAX);
    if (!bitmap) {
        return NULL;
    }
    bitmap->set = set;
    memcpy(bitmap->name, spec->name, len + 1);
    bitmap->id = spec->id;
    bitmap->grain_bits = spec->grain_bits;
    bitmap->is_persistent = spec->is_persistent;
    bitmap->is_enabled = !spec->is_disabled;
    return bitmap;
}

void
named_bitmap_free(NamedBitmap *bitmap)
{
    if (bitmap) {
        bitmap_free(bitmap->now.bits);
        bitmap_free(bitmap->later.bits);
        free(bitmap);
    }
}

void
named_changed_locked(NamedBitmap *bitmap)
{
    bitmap->now.is_idle = named_is_busy(bitmap) || !bitmap->is_enabled;
    bitmap->later.is_idle = !bitmap->is_enabled;
    bitmap->version = ++bitmap->set->version;
}

void
named_insert_locked(NamedBitmap *bitmap)
{
    NamedBitmap **at = &bitmap->set->first;

    while (*at && (*at)->id < bitmap->id) {
        at = &(*at)->next;
    }
    bitmap->next = *at;
    *at = bitmap;
    bitmap->set->count++;
    named_changed_locked(bitmap);
}

void
named_take_out_locked(NamedBitmap *bitmap)
{
    NamedBitmap **at = &bitmap->set->first;

    while (*at != bitmap) {
        at = &(*at)->next;
    }
    *at = bitmap->next;
    bitmap->set->count--;
    disk_map_detach_locked(bitmap->set->map, &bitmap->now);
    if (named_is_busy(bitmap)) {
        disk_map_detach_locked(bitmap->set->map, &bitmap->later);
    }
}

Bitmap *
named_renew_locked(DiskMapRecorder *of, Bitmap *fresh)
{
    Bitmap *old = of->bits;

    if (!fresh || bitmap_size_bytes(fresh) != bitmap_size_bytes(old)) {
        bitmap_clear_all(old);
        return fresh;
    }
    of->bits = fresh;
    return old;
}

/* What all changes but the first need: it is there, and nobody is at it. */
static enum NamedResult
find_idle(const NamedBitmaps *set, const char *name, NamedBitmap **found)
{
    *found = named_by_name(set, name);
    if (!*found) {
        return NAMED_MISSING;
    }
    return named_is_busy(*found) ? NAMED_BUSY : NAMED_OK;
}

enum NamedResult
named_add(NamedBitmaps *set, const struct NamedSpec *spec, NamedBitmap **made)
{
    NamedBitmap *bitmap;

    if (named_by_name(set, spec->name) || named_by_id(set, spec->id)) {
        return NAMED_EXISTS;
    }
    if (spec->grain_bits < NAMED_GRAIN_LEAST ||
        spec->grain_bits > NAMED_GRAIN_MOST) {
        return NAMED_BAD_GRAIN;
    }
    if (named_count(set) >= NAMED_MOST) {
        return NAMED_TOO_MANY;
    }
    bitmap = named_bitmap_new(set, spec);
    if (!bitmap ||
        !(bitmap->now.bits = named_bits_new(set, spec->grain_bits))) {
        named_bitmap_free(bitmap);
        return NAMED_NO_MEMORY;
    }
    disk_map_lock(set->map);
    disk_map_attach_locked(set->map, &bitmap->now);
    named_insert_locked(bitmap);
    disk_map_unlock(set->map);
    if (made) {
        *made = bitmap;
    }
    return NAMED_OK;
}

enum NamedResult
named_remove(NamedBitmaps *set, const char *name)
{
    NamedBitmap *bitmap;
    enum NamedResult result = find_idle(set, name, &bitmap);

    if (result != NAMED_OK) {
        return result;
    }
    disk_map_lock(set->map);
    named_take_out_locked(bitmap);
    disk_map_unlock(set->map);
    named_bitmap_free(bitmap);
    return NAMED_OK;
}

enum NamedResult
named_clear(NamedBitmaps *set, const char *name)
{
    NamedBitmap *bitmap;
    enum NamedResult result = find_idle(set, name, &bitmap);
    Bitmap *bits;

    if (result != NAMED_OK) {
        return result;
    }
    bits = named_bits_new(set, bitmap->grain_bits);
    disk_map_lock(set->map);
    bits = named_renew_locked(&bitmap->now, bits);
    named_changed_locked(bitmap);
    disk_map_unlock(set->map);
    bitmap_free(bits);
    return NAMED_OK;
}

static enum NamedResult
set_enabled(NamedBitmaps *set, const char *name, bool is_enabled)
{
    NamedBitmap *bitmap;
    enum NamedResult result = find_idle(set, name, &bitmap);

    if (result == NAMED_OK) {
        disk_map_lock(set->map);
        bitmap->is_enabled = is_enabled;
        named_changed_locked(bitmap);
        disk_map_unlock(set->map);
    }
    return result;
}

enum NamedResult
named_enable(NamedBitmaps *set, const char *name)
{
    return set_enabled(set, name, true);
}

enum NamedResult
named_disable(NamedBitmaps *set, const char *name)
{
    return set_enabled(set, name, false);
}

static void
say_changed(NamedBitmap *bitmap)
{
    disk_map_lock(bitmap->set->map);
    named_changed_locked(bitmap);
    disk_map_unlock(bitmap->set->map);
}

enum NamedResult
named_merge(NamedBitmaps *set, const char *target, const char *const *sources,
            unsigned count)
{
    NamedBitmap *into, *from;
    enum NamedResult result = find_idle(set, target, &into);

    for (unsigned i = 0; result == NAMED_OK && i < count; i++) {
        result = find_idle(set, sources[i], &from);
    }
    if (result != NAMED_OK) {
        return result;
    }
    for (unsigned i = 0; i < count; i++) {
        from = named_by_name(set, sources[i]);
        if (from != into) {
            named_merge_bits(set, into->now.bits, from->now.bits);
        }
    }
    say_changed(into);
    return NAMED_OK;
}

static void
mark_slices(NamedBitmaps *set, Bitmap *bits, uint64_t offset, uint64_t len)
{
    uint64_t slice = UINT64_C(1)
                     << (bitmap_cluster_bits(bits) + SLICE_GRAINS_BITS);

    while (len) {
        uint64_t part = slice - (offset & (slice - 1));

        part = part < len ? part : len;
        disk_map_lock(set->map);
        bitmap_set_bytes(bits, offset, part);
        disk_map_unlock(set->map);
        offset += part;
        len -= part;
    }
}

enum NamedResult
named_mark(NamedBitmaps *set, const char *name, uint64_t offset, uint64_t len)
{
    NamedBitmap *bitmap;
    enum NamedResult result = find_idle(set, name, &bitmap);

    if (result == NAMED_OK) {
        mark_slices(set, bitmap->now.bits, offset, len);
        say_changed(bitmap);
    }
    return result;
}

enum NamedResult
named_mark_bits(NamedBitmaps *set, const char *name, const Bitmap *bits)
{
    NamedBitmap *bitmap;
    enum NamedResult result = find_idle(set, name, &bitmap);

    if (result == NAMED_OK) {
        named_merge_bits(set, bitmap->now.bits, bits);
        say_changed(bitmap);
    }
    return result;
}

/* What was kept is of the disk's size, or of an earlier one. */
static bool
grow_bits(NamedBitmaps *set, Bitmap *bits)
{
    return !bits || bitmap_grow(bits, disk_map_size_bytes(set->map)) == 0;
}

enum NamedResult
named_restore(NamedBitmaps *set, const struct NamedSpec *spec, Bitmap *bits,
              Bitmap *successor)
{
    NamedBitmap *bitmap;

    assert(bitmap_cluster_bits(bits) == spec->grain_bits);
    assert(!successor || bitmap_cluster_bits(successor) == spec->grain_bits);
    if (named_by_name(set, spec->name) || named_by_id(set, spec->id)) {
        return NAMED_EXISTS;
    }
    bitmap = named_bitmap_new(set, spec);
    if (!bitmap || !grow_bits(set, bits) || !grow_bits(set, successor)) {
        named_bitmap_free(bitmap);
        return NAMED_NO_MEMORY;
    }
    bitmap->now.bits = bits;
    bitmap->later.bits = successor;
    disk_map_lock(set->map);
    disk_map_attach_locked(set->map, &bitmap->now);
    if (successor) {
        disk_map_attach_locked(set->map, &bitmap->later);
    }
    named_insert_locked(bitmap);
    disk_map_unlock(set->map);
    return NAMED_OK;
}
