/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-group.c - which disks a cut is about, while that changes
 *
 * The user may take a disk out of the group, put it back, give it another
 * target, or change the policy, at any time. Whoever leaves is told to the
 * relay last: before that nothing of it is kept aside any more, the cut under
 * way goes on without it, and the state says that its target holds no cut.
 * Whoever comes is cut from the next one on; until that is whole the group is
 * not in place. If no disk is left the cut is over, and so is its hook.
 */
#include "cuts-private.h"

bool
cuts_keep(Cuts *cuts, const struct StoreCuts *next)
{
    Store *store = cuts->config.store;
    struct StoreCuts before = store->cuts;
    g_autoptr(GError) error = NULL;

    store->cuts = *next;
    if (store_save_state(store, &error)) {
        cuts->is_save_failing = cuts->is_unkept = false;
        return true;
    }
    store->cuts = before;
    if (!cuts->is_save_failing) {
        g_warning("cuts cannot go on, tried again: %s", error->message);
    }
    cuts->is_save_failing = true;
    return false;
}

bool
cuts_part(Cuts *cuts, Disk *disk)
{
    uint64_t before = disk->cut;

    disk->cut = 0;
    if (before == 0 || cuts_keep(cuts, &cuts->config.store->cuts)) {
        return true;
    }
    disk->cut = before;
    return false;
}

bool
cuts_is_member(const Cuts *cuts, const Disk *disk)
{
    return store_is_cut(cuts->config.store, disk);
}

bool
cuts_has_members(const Cuts *cuts)
{
    const Store *store = cuts->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        if (cuts_is_member(cuts, store->disks[i])) {
            return true;
        }
    }
    return false;
}

bool
cuts_is_owing(const Cuts *cuts)
{
    const Store *store = cuts->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        struct DiskMapFigures figures;

        if (!cuts_is_member(cuts, store->disks[i])) {
            continue;
        }
        store_disk_figures(store->disks[i], &figures);
        if (figures.dirty_clusters > 0) {
            return true;
        }
    }
    return cuts_has_members(cuts) &&
           (!store_is_in_place(store) || cuts_has_pending(cuts));
}

int
cuts_find(const Cuts *cuts, const Disk *disk)
{
    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        if (cuts->cut.disks[i] == disk) {
            return (int)i;
        }
    }
    return -1;
}

void
cuts_end_aside(Cuts *cuts, Disk *disk)
{
    if (cuts->config.face) {
        cuts->config.ops->cut_end(cuts->config.face, disk);
    }
}

void
cuts_end_all_aside(Cuts *cuts)
{
    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        cuts_end_aside(cuts, cuts->cut.disks[i]);
    }
}

/* @disk is no part any more of the cut that is under way or has its hook. */
static void
leave_cut(Cuts *cuts, Disk *disk)
{
    struct FaceCut *cut = &cuts->cut;
    int found = cuts_find(cuts, disk);

    if (cuts->state == CUTS_REST || found < 0) {
        return;
    }
    if (cuts->state != CUTS_HOOK && cuts->state != CUTS_PINNED &&
        cuts->state != CUTS_BEFORE) {
        cuts_end_aside(cuts, disk);
    }
    cut->n_disks--;
    cut->disks[found] = cut->disks[cut->n_disks];
    cut->seq[found] = cut->seq[cut->n_disks];
    if (cut->n_disks == 0) {
        cut_hook_stop(cuts->hook);
        cuts->state = CUTS_REST;
    }
}

/* The relay follows the settings; who leaves is told last, as its target is
 * written from then on as it comes. */
void
cuts_regroup(Cuts *cuts)
{
    const struct CutsConfig *config = &cuts->config;
    Store *store = config->store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        bool is_cut = cuts_is_member(cuts, disk);

        if (is_cut == cuts->is_told[i]) {
            continue;
        }
        if (!is_cut) {
            leave_cut(cuts, disk);
            if (!cuts_part(cuts, disk)) {
                continue;
            }
        }
        config->ops->set_cut(config->relay, disk->name, is_cut);
        cuts->is_told[i] = is_cut;
    }
    cuts->is_degraded = cuts->is_degraded && cuts_has_members(cuts);
}

void
cuts_recontacted(Cuts *cuts, Disk *disk)
{
    disk->cut = 0;
    cuts_retargeted(cuts, disk);
}

void
cuts_retargeted(Cuts *cuts, Disk *disk)
{
    bool is_in = cuts_find(cuts, disk) >= 0;

    leave_cut(cuts, disk);
    if (is_in && (cuts->state == CUTS_SENDING || cuts->state == CUTS_WHOLE)) {
        cuts->state = CUTS_BROKEN;
        cuts_end_all_aside(cuts);
    }
    cuts_regroup(cuts);
}
