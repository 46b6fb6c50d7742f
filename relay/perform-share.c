/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one job has read of a snapshot another need not read.
 *
 * The content of a snapshot never changes, so that what is in a buffer, or is
 * being read into it, is as good for every job that brings the same one: those of
 * one transaction do. It is copied while it is there, that is until the buffer
 * gets something else; jobs that keep pace with each other read once.
 *
 *   nobody has it     read it, and let others know
 *   it is there       copy it
 *   it is on its way  wait for it; if it fails, read it after all
 *
 * Of the present nothing is shared. What was read of it a moment ago may be
 * overwritten by now, and to know of each cluster whether it was the guest would
 * have to say so with every write, for jobs that happen to be at the same place.
 */
#include <string.h>

#include "loop.h"

static bool
has_it(const struct RelaySlot *slot, uint64_t id, uint64_t offset, uint64_t len)
{
    return slot->shared_id == id && slot->offset <= offset &&
           offset + len <= slot->offset + slot->len;
}

static struct RelaySlot *
find(const RelayDisk *disk, uint64_t id, uint64_t offset, uint64_t len)
{
    const Relay *relay = disk->relay;

    for (unsigned i = 0; i < relay->n_disks; i++) {
        RelayDisk *other = relay->disks_now[i];
        bool is_like_it = other != disk && other->points == disk->points;

        for (unsigned op = 0; is_like_it && op < RELAY_OPS; op++) {
            if (has_it(&other->slots[op], id, offset, len)) {
                return &other->slots[op];
            }
        }
    }
    return NULL;
}

static void
copy(const struct RelaySlot *from, struct RelaySlot *to)
{
    unsigned from_op = (unsigned)(from - from->disk->slots);
    unsigned op = (unsigned)(to - to->disk->slots);

    memcpy(perform_buffer(to->disk, op),
           perform_buffer(from->disk, from_op) + (to->offset - from->offset),
           to->len);
    to->disk->shared_bytes += to->len;
}

enum PerformShare
perform_share(RelayDisk *disk, struct RelaySlot *slot)
{
    uint64_t id = perform_snapshot(disk);
    struct RelaySlot *other =
        id ? find(disk, id, slot->offset, slot->len) : NULL;

    if (!other) {
        slot->shared_id = id;
        slot->is_loading = true;
        return SHARE_NONE;
    }
    /* Who has it has it from elsewhere; others find it there. */
    slot->shared_id = 0;
    if (!other->is_loading) {
        copy(other, slot);
        return SHARE_COPIED;
    }
    slot->next_waiting = other->waiting;
    other->waiting = slot;
    disk->n_local++; /* the loop is not to end before it is had */
    return SHARE_WAITS;
}

void
perform_share_loaded(RelayDisk *disk, struct RelaySlot *slot, bool is_good)
{
    struct RelaySlot *next = slot->waiting;

    slot->is_loading = false;
    slot->waiting = NULL;
    /* What was lost in the middle is the present from there on, even if it was
     * allowed once more since. (Nobody else writes that figure.) */
    if (!is_good || perform_snapshot(disk) != slot->shared_id ||
        disk->figures.lost_snapshot == slot->shared_id) {
        slot->shared_id = 0;
    }
    for (struct RelaySlot *waiting = next; waiting; waiting = next) {
        next = waiting->next_waiting;
        waiting->disk->n_local--;
        if (slot->shared_id) {
            copy(slot, waiting);
        }
        perform_load_shared(waiting, slot->shared_id != 0);
    }
}

/* Its buffers go, or are somebody else's. */
void
perform_share_left(RelayDisk *disk)
{
    for (unsigned op = 0; op < RELAY_OPS; op++) {
        disk->slots[op].shared_id = 0;
    }
}
