/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that are sent before their turn: those that the guest overwrites while
 * a cut still owes them.
 *
 * Their old content has just been kept aside, in a buffer of the store's. Taken
 * from there it costs no read of the disk; and once it is settled the buffer is
 * free for the next one, where otherwise it would be written to the file of copies,
 * and read back when the cursor comes to it.
 *
 * Who has the buffers gives hints, which nothing depends on: a hint may be late,
 * or wrong, or lost. The oldest is looked at first, since its buffer is the next
 * to be written away; when there are too many the newest are not taken. A cluster
 * that is still owed, and that no op of this pass had so far, gets an op of its
 * own and a mark in `ahead`, which the cursor passes over: so there is never more
 * than one op for a cluster in a pass.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

#include <string.h>

bool
ahead_init(RelayCore *core)
{
    core->ahead.claimed = bitmap_new(core->size_bytes, core->cluster_bits);
    return core->ahead.claimed;
}

void
ahead_deinit(RelayCore *core)
{
    bitmap_free(core->ahead.claimed);
}

bool
ahead_grow(RelayCore *core, uint64_t size_bytes)
{
    return bitmap_grow(core->ahead.claimed, size_bytes) == 0;
}

void
ahead_begin(RelayCore *core)
{
    core->ahead.n_hints = 0; /* of what is owed no more, most likely */
    if (bitmap_count(core->ahead.claimed)) {
        bitmap_clear_all(core->ahead.claimed);
    }
}

bool
relay_core_wants_hint(const RelayCore *core)
{
    return core->sealed_seq && core->ahead.n_hints < CORE_HINTS;
}

void
relay_core_hint(RelayCore *core, uint64_t cluster)
{
    struct Ahead *ahead = &core->ahead;

    if (relay_core_wants_hint(core)) {
        ahead->hints[ahead->n_hints++] = cluster;
    }
}

void
ahead_skip(const RelayCore *core, struct ClusterRun *run)
{
    const Bitmap *claimed = core->ahead.claimed;

    if (!run->count || !bitmap_count(claimed) || mutant(MUTANT_AHEAD_TWICE)) {
        return;
    }
    if (bitmap_get(claimed, run->first)) {
        *run = (struct ClusterRun){bitmap_next_clean(claimed, run->first), 0};
        return;
    }
    uint64_t next = bitmap_next_dirty(claimed, run->first);
    run->count =
        next - run->first < run->count ? next - run->first : run->count;
}

/* Is @cluster still to be claimed, in this pass, and may it be? */
static bool
is_claimable(const RelayCore *core, uint64_t cluster)
{
    struct ClusterRun run;

    if (cluster < core->pass.cursor ||
        cluster >= clusters_for(core->size_bytes, core->cluster_bits) ||
        !disk_map_next_sealed(core->config.map, cluster, 1, &run) ||
        run.first != cluster) {
        return false;
    }
    doubt_skip(core, &run);
    ahead_skip(core, &run);
    return run.count;
}

bool
ahead_next(RelayCore *core, uint64_t *cluster)
{
    struct Ahead *ahead = &core->ahead;
    unsigned passed = 0;

    while (passed < ahead->n_hints &&
           !is_claimable(core, ahead->hints[passed])) {
        passed++;
    }
    ahead->n_hints -= passed;
    memmove(ahead->hints, ahead->hints + passed,
            ahead->n_hints * sizeof(ahead->hints[0]));
    *cluster = ahead->n_hints ? ahead->hints[0] : 0;
    return ahead->n_hints;
}

void
ahead_claimed(RelayCore *core, uint64_t cluster)
{
    bitmap_set_run(core->ahead.claimed, (struct ClusterRun){cluster, 1});
}
