/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-cuts.c - who is cut together, and what the far side is
 *
 * The group is every disk with a target, unless the user took it out. What the
 * targets are is kept in two places of the state: the store's numbers say which
 * cut was whole last and whether another one may have been sent over it in
 * part; a disk's number says which cut its own target was made equal to. The
 * second is 0 as soon as the target may be written outside of a cut: policy
 * `none`, out of the group, another target. So a disk that comes back into the
 * group, with the store mounted or at rest meanwhile, is seen to lack the cut
 * that the others hold.
 */
#include "snapshot.h"
#include "state.h"
#include "store-private.h"

bool
store_is_cut(const Store *store, const Disk *disk)
{
    return store->settings.policy == STORE_POLICY_CUT && !disk->is_alone &&
           disk->target;
}

bool
store_is_in_place(const Store *store)
{
    bool is_any = false;

    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *disk = store->disks[i];

        if (!store_is_cut(store, disk)) {
            continue;
        }
        if (disk->cut != store->cuts.holds) {
            return false;
        }
        is_any = true;
    }
    return is_any && store->cuts.holds && !store->cuts.advancing;
}

void
state_lose_cuts(struct StoreCuts *cuts)
{
    uint64_t now_s = (uint64_t)(g_get_real_time() / G_USEC_PER_SEC);

    *cuts = (struct StoreCuts){
        .advancing = MAX(now_s, MAX(cuts->holds, cuts->advancing)),
        .past = SNAPSHOT_ID_MAX, /* an opening makes it the last one */
    };
}
