/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-undo.c - a named bitmap as it was, for a transaction that fails
 *
 * Asked for before the transaction touches the bitmap, one undo for each step
 * of it; run in the opposite order. It knows one of three things:
 *
 *   there is none     then there will be none
 *   it is busy        then nobody but its job changes it: nothing to be done
 *   it is there       then it will be, with all that it had
 *
 * In the last case it has a bitmap of its own, a copy with the same name, which
 * is a recorder as the original is. So what the guest changes while the
 * transaction goes on is in it, and it grows with the disk. Running puts its
 * bits in the place of the original's; if the original is gone, it takes the
 * place itself. Neither needs memory.
 *
 * The original may be a job's by then, or its name somebody else's: then it was
 * not the transaction, and what others have done stays.
 */
#include "named-private.h"

#include <stdlib.h>
#include <string.h>

struct NamedUndo {
    NamedBitmaps *set;
    char name[NAMED_NAME_MAX + 1];
    bool was_busy;
    NamedBitmap *copy; /* NULL: it was not there, or busy */
};

/* Recorded first, then copied: nothing is lost in between. */
static bool
keep_copy(NamedUndo *undo, NamedBitmap *of)
{
    const struct NamedSpec spec = {.name = of->name,
                                   .id = of->id,
                                   .grain_bits = of->grain_bits,
                                   .is_persistent = of->is_persistent,
                                   .is_disabled = !of->is_enabled};
    NamedBitmap *copy = named_bitmap_new(undo->set, &spec);

    if (!copy ||
        !(copy->now.bits = named_bits_new(undo->set, spec.grain_bits))) {
        named_bitmap_free(copy);
        return false;
    }
    copy->now.is_idle = !copy->is_enabled;
    disk_map_attach(undo->set->map, &copy->now);
    named_merge_bits(undo->set, copy->now.bits, of->now.bits);
    undo->copy = copy;
    return true;
}

NamedUndo *
named_undo_new(NamedBitmaps *set, const char *name)
{
    NamedBitmap *of = named_by_name(set, name);
    NamedUndo *undo = calloc(1, sizeof(*undo));
    size_t len = strlen(name);

    assert(len <= NAMED_NAME_MAX);
    if (!undo) {
        return NULL;
    }
    undo->set = set;
    memcpy(undo->name, name, len + 1);
    undo->was_busy = of && named_is_busy(of);
    if (of && !undo->was_busy && !keep_copy(undo, of)) {
        free(undo);
        return NULL;
    }
    return undo;
}

/* The original is there: it gets the bits, and the copy those it has now. */
static void
put_back(NamedBitmap *of, NamedBitmap *copy)
{
    Bitmap *bits = of->now.bits;

    disk_map_lock(of->set->map);
    of->now.bits = copy->now.bits;
    copy->now.bits = bits;
    of->is_enabled = copy->is_enabled;
    named_changed_locked(of);
    disk_map_unlock(of->set->map);
}

static void
bring_back(NamedUndo *undo)
{
    disk_map_lock(undo->set->map);
    named_insert_locked(undo->copy);
    disk_map_unlock(undo->set->map);
    undo->copy = NULL;
}

void
named_undo_run(NamedUndo *undo)
{
    NamedBitmap *of;

    if (undo->copy) {
        of = named_by_id(undo->set, undo->copy->id);
        if (of && !named_is_busy(of)) {
            put_back(of, undo->copy);
        } else if (!of && !named_by_name(undo->set, undo->name)) {
            bring_back(undo);
        }
    } else if (!undo->was_busy) {
        (void)named_remove(undo->set, undo->name);
    }
    named_undo_free(undo);
}

void
named_undo_free(NamedUndo *undo)
{
    if (undo && undo->copy) {
        disk_map_detach(undo->set->map, &undo->copy->now);
        named_bitmap_free(undo->copy);
    }
    free(undo);
}
