/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-snapshot.c - snapshots that are brought to the targets, each exactly
 *
 * A snapshot is pending if it is younger than what the targets hold, and has all
 * disks of the group. The oldest one is the next cut, before any of the present
 * and without regard to cut-interval, so that the far side does not go back in
 * time. It has a number like any other, and what it goes through is the same;
 * "holds N" says in the same save that no snapshot up to it is pending any more,
 * and so does that of a cut of the present, whose instant is later than theirs.
 *
 * What is marked and why the targets are the snapshot then: bitmap/
 * point-marks.h. The second marking is made here as well, and so before the
 * relay is told that it may send. What the first one found clean is in a
 * checkpoint before that; most of the time there is no such thing.
 *
 * One that is deleted before its turn, or damaged, is passed over. While one is
 * being brought its points stay (cuts_holds_snapshot()). If the relay finds that
 * they cannot be read after all, the cut is given up, and the snapshot is not
 * tried again.
 *
 * Where a checkpoint cannot be had, or a whole cut cannot be said for want of
 * room, that is none (cuts.c). Until a state can be kept again it is the present
 * that drains, which may pass over the snapshots of before; the log is told.
 */
#include "bitmap/point-marks.h"
#include "cuts-private.h"

/* All disks of the group are in it, and can be read as far as is known. */
static bool
is_complete(const Cuts *cuts, const Snapshot *snapshot)
{
    const Store *store = cuts->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];

        if (cuts_is_member(cuts, disk) &&
            (snapshot_disk(snapshot, disk->id) == NULL ||
             !points_is_live(disk->points, snapshot->id))) {
            return false;
        }
    }
    return true;
}

/* From number *@at of the list on; leaves behind which one it was. */
static bool
next_pending(const Cuts *cuts, unsigned *at, Snapshot *snapshot)
{
    const Store *store = cuts->config.store;
    uint64_t past = store->cuts.past;

    if (!cuts_has_members(cuts)) {
        return false;
    }
    if (cuts->state != CUTS_REST) {
        past = MAX(past, cuts->cut.snapshot);
    }
    while (snapshot_list_at(store->snapshots, (*at)++, snapshot)) {
        if (snapshot->id > past && snapshot->cut == 0 &&
            !snapshot->is_damaged && is_complete(cuts, snapshot)) {
            return true;
        }
    }
    return false;
}

unsigned
cuts_pending(const Cuts *cuts)
{
    unsigned at = 0, count = 0;
    Snapshot snapshot;

    while (!cuts->is_unkept && next_pending(cuts, &at, &snapshot)) {
        count++;
    }
    return count;
}

bool
cuts_has_pending(const Cuts *cuts)
{
    unsigned at = 0;
    Snapshot snapshot;

    return !cuts->is_unkept && next_pending(cuts, &at, &snapshot);
}

/* Each of them once. */
static void
warn_unkept(Cuts *cuts)
{
    unsigned at = 0;
    Snapshot snapshot;

    while (cuts->is_unkept && next_pending(cuts, &at, &snapshot)) {
        if (snapshot.id > cuts->warned) {
            g_warning("snapshot %s may not reach the targets: the state of the "
                      "store cannot be kept, and what is dirty goes first",
                      snapshot.name);
            cuts->warned = snapshot.id;
        }
    }
}

void
cuts_choose(Cuts *cuts)
{
    SnapshotList *list = cuts->config.store->snapshots;
    unsigned at = 0;
    Snapshot snapshot;

    cuts->cut.snapshot = 0;
    cuts->snapshot_name[0] = '\0';
    warn_unkept(cuts);
    if (!cuts->is_unkept && next_pending(cuts, &at, &snapshot)) {
        cuts->cut.snapshot = cuts->past = snapshot.id;
        cuts->cut.wall_us = snapshot.wall_us;
        g_strlcpy(cuts->snapshot_name, snapshot.name,
                  sizeof(cuts->snapshot_name));
    } else if (snapshot_list_latest(list, &snapshot)) {
        cuts->past = snapshot.id;
    }
}

bool
cuts_mark_before(Cuts *cuts)
{
    struct FaceCut *cut = &cuts->cut;

    for (unsigned i = 0; cut->snapshot != 0 && i < cut->n_disks; i++) {
        Disk *disk = cut->disks[i];

        bool *is_unsaved = &cuts->is_unsaved[disk->index];

        /* All of a disk that is not tracked is dirty after a crash. */
        *is_unsaved |= point_marks_before(disk->points, cut->snapshot,
                                          disk->map, g_get_monotonic_time());
        if (*is_unsaved && disk->is_tracked &&
            store_checkpoint_map(cuts->config.store, disk) < 0) {
            cuts->is_unkept = true;
            return false;
        }
        *is_unsaved = false;
    }
    return true;
}

void
cuts_mark_after(Cuts *cuts)
{
    struct FaceCut *cut = &cuts->cut;

    for (unsigned i = 0; cut->snapshot != 0 && i < cut->n_disks; i++) {
        point_marks_after(cut->disks[i]->points, cut->snapshot,
                          cut->disks[i]->map, g_get_monotonic_time());
    }
}

void
cuts_was_brought(Cuts *cuts)
{
    Store *store = cuts->config.store;
    uint64_t id = cuts->cut.snapshot;

    /* It may have been deleted meanwhile. */
    if (id != 0 && snapshot_list_get(store->snapshots, id, NULL)) {
        cuts->config.ops->uploaded(store, id, cuts->number);
    }
}

const Disk *
cuts_find_lost(const Cuts *cuts)
{
    const struct FaceCut *cut = &cuts->cut;

    for (unsigned i = 0; cut->snapshot != 0 && i < cut->n_disks; i++) {
        struct RelayFigures figures = {0};

        if (cuts->config.ops->figures(cuts->config.relay, cut->disks[i]->name,
                                      &figures) &&
            figures.lost_snapshot == cut->snapshot) {
            return cut->disks[i];
        }
    }
    return NULL;
}

/* It is kept with the number of the next cut. */
void
cuts_lose_snapshot(Cuts *cuts, const Disk *disk)
{
    struct StoreCuts *held = &cuts->config.store->cuts;

    g_warning(
        "snapshot %s: not all that it has of disk %s can be read: it does "
        "not reach the targets",
        cuts->snapshot_name, disk->name);
    held->past = MAX(held->past, cuts->cut.snapshot);
}

void
cuts_recall(Cuts *cuts)
{
    Store *store = cuts->config.store;
    const struct StoreCuts *held = &store->cuts;
    Snapshot snapshot;

    if (held->holds == 0 ||
        !snapshot_list_get(store->snapshots, held->past, &snapshot) ||
        snapshot.wall_us != held->holds_us) {
        return;
    }
    cuts->cut.snapshot = snapshot.id;
    g_strlcpy(cuts->snapshot_name, snapshot.name, sizeof(cuts->snapshot_name));
    if (snapshot.cut == 0) {
        cuts->config.ops->uploaded(store, snapshot.id, held->holds);
    }
}

bool
cuts_holds_snapshot(const Cuts *cuts, uint64_t id)
{
    return cuts->cut.snapshot == id &&
           (cuts->state == CUTS_SENDING || cuts->state == CUTS_BROKEN ||
            cuts->state == CUTS_WHOLE);
}
