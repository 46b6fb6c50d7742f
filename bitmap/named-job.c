/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-job.c - what a job does with a named bitmap
 *
 *                          S (now)          N (later)
 *   freeze                 stays            begins, all clean
 *   a guest's write        -                is marked, if S was
 *   renew                  S | N            begins anew
 *   thaw NEW               N                -
 *   thaw OLD               S | N            -
 *   thaw REST              R | N            -
 *
 * A job takes S, then an instant of the disk, then S and N: what is in S was
 * changed before the instant, what is changed after it is in N, and a write that
 * is under way is in both or in the one that keeps it from being lost. N keeps
 * what it has: what was written between the freeze and the instant is copied
 * twice, by this job and by the next one, and never not at all.
 *
 * A mirror that is completed renews N before its last instant: what was changed
 * until then is at the target if the job succeeds. If it does not, NAMED_OLD has
 * to know of it, so S gets what N had.
 *
 * Each ends in one step, in which whoever marks next finds the right recorder.
 * Where bits are merged before that, both have been marked since the beginning
 * (the table holds at every instant in between, but for a superset).
 */
#include "named-private.h"

enum NamedResult
named_freeze(NamedBitmaps *set, const char *name, NamedBitmap **frozen)
{
    NamedBitmap *bitmap = named_by_name(set, name);
    Bitmap *bits;

    if (!bitmap) {
        return NAMED_MISSING;
    }
    if (named_is_busy(bitmap)) {
        return NAMED_BUSY;
    }
    bits = named_bits_new(set, bitmap->grain_bits);
    if (!bits) {
        return NAMED_NO_MEMORY;
    }
    disk_map_lock(set->map);
    bitmap->later.bits = bits;
    disk_map_attach_locked(set->map, &bitmap->later);
    named_changed_locked(bitmap);
    disk_map_unlock(set->map);
    *frozen = bitmap;
    return NAMED_OK;
}

NamedBitmap *
named_frozen(NamedBitmaps *set, const char *name)
{
    NamedBitmap *bitmap = named_by_name(set, name);

    return bitmap && named_is_busy(bitmap) ? bitmap : NULL;
}

void
named_merge_into(NamedBitmap *frozen, DiskMap *into, int64_t now_us)
{
    assert(named_is_busy(frozen));
    named_merge_to_job(frozen->set, into, frozen->now.bits, now_us);
    named_merge_to_job(frozen->set, into, frozen->later.bits, now_us);
}

/* S |= N, and from now on S is marked where N is. */
static void
merge_later(NamedBitmap *frozen)
{
    disk_map_lock(frozen->set->map);
    frozen->now.is_idle = !frozen->is_enabled;
    disk_map_unlock(frozen->set->map);
    named_merge_bits(frozen->set, frozen->now.bits, frozen->later.bits);
}

void
named_renew(NamedBitmap *frozen)
{
    Bitmap *bits;

    assert(named_is_busy(frozen));
    bits = named_bits_new(frozen->set, frozen->grain_bits);
    merge_later(frozen);
    disk_map_lock(frozen->set->map);
    bits = named_renew_locked(&frozen->later, bits);
    named_changed_locked(frozen);
    disk_map_unlock(frozen->set->map);
    bitmap_free(bits);
}

void
named_thaw(NamedBitmap *frozen, enum NamedEnd end, DiskMap *rest)
{
    DiskMap *map = frozen->set->map;
    Bitmap *gone;

    assert(named_is_busy(frozen));
    assert(end != NAMED_REST || rest);
    if (end == NAMED_OLD) {
        merge_later(frozen);
    } else if (end == NAMED_REST) {
        named_merge_from_job(frozen->set, frozen->later.bits, rest);
    }
    disk_map_lock(map);
    gone = end == NAMED_OLD ? frozen->later.bits : frozen->now.bits;
    if (end != NAMED_OLD) {
        frozen->now.bits = frozen->later.bits;
    }
    disk_map_detach_locked(map, &frozen->later);
    frozen->later.bits = NULL;
    named_changed_locked(frozen);
    disk_map_unlock(map);
    bitmap_free(gone);
}
