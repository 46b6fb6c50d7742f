/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters in doubt (rule 5). A write that was unanswered when its connection
 * died may execute later, even after a rewrite on a new connection. So its
 * clusters are left alone for a quarantine, then rewritten, flushed and read
 * back, and only then settled. All of them are dirty the whole time: in the
 * oldest sealed generation, which is not retired before, or, inherited from an
 * earlier life, in the one that was open at the start.
 *
 *   growing --> frozen --> ripe --> settled
 *
 * Quarantines end for a whole bitmap at once. Each loss moves the end of the
 * growing one; the frozen one's stands. When the frozen one is over, its
 * clusters are ripe and the growing one freezes, so that a connection which
 * breaks every few seconds delays a cluster by two quarantines, not for ever.
 *
 * After an unclean end what the sent-log holds is in doubt.
 */
#include "bitmap/mutant.h"
#include "core-internal.h"

bool
doubt_init(RelayCore *core)
{
    Doubt *doubt = &core->doubt;

    doubt->frozen = bitmap_new(core->size_bytes, core->cluster_bits);
    doubt->growing = bitmap_new(core->size_bytes, core->cluster_bits);
    doubt->ripe = bitmap_new(core->size_bytes, core->cluster_bits);
    return doubt->frozen && doubt->growing && doubt->ripe;
}

void
doubt_deinit(RelayCore *core)
{
    bitmap_free(core->doubt.frozen);
    bitmap_free(core->doubt.growing);
    bitmap_free(core->doubt.ripe);
}

/* What the last life logged. All of it is dirty from now on: the store may
 * have known it to be settled when its sums were not durable yet. Of a job that
 * would bring what nobody ordered, if the log says "all" because it was damaged;
 * what is settled has nothing in flight, and its sum is not believed anyway. */
void
doubt_begin(RelayCore *core)
{
    Bitmap *dirty = core->config.is_job ? job_dirty_log(core) : NULL;
    const Bitmap *logged = dirty ? dirty : core->log.logged;
    struct ClusterRun run;

    core->doubt.inherited_us = core->now_us + 4 * core->config.deadline_us;
    for (uint64_t at = 0; bitmap_next_run(logged, at, UINT64_MAX, &run);
         at = run.first + run.count) {
        uint64_t offset = run.first << core->cluster_bits;
        uint64_t len = run.count << core->cluster_bits;
        uint64_t room = core->size_bytes - offset;

        disk_map_mark(core->config.map, offset, len < room ? len : room,
                      core->now_us);
        doubt_add(core, run);
    }
    bitmap_free(dirty);
}

bool
doubt_grow(RelayCore *core)
{
    uint64_t size = disk_map_size_bytes(core->config.map);

    if (size != core->size_bytes) {
        assert(!core->config.is_job); /* its map is as it was ordered */
        if (bitmap_grow(core->doubt.frozen, size) < 0 ||
            bitmap_grow(core->doubt.growing, size) < 0 ||
            bitmap_grow(core->doubt.ripe, size) < 0 ||
            !ahead_grow(core, size) || !log_grow(core, size)) {
            return false;
        }
        core->size_bytes = size;
    }
    return true;
}

void
doubt_add(RelayCore *core, struct ClusterRun run)
{
    Doubt *doubt = &core->doubt;

    if (mutant(MUTANT_NO_QUARANTINE)) {
        return;
    }
    bitmap_clear_run(doubt->ripe, run);
    bitmap_set_run(doubt->growing, run);
    doubt->growing_us = core->now_us + 4 * core->config.deadline_us;
}

static void
doubt_ripen(Doubt *doubt)
{
    bitmap_merge(doubt->ripe, doubt->frozen);
    bitmap_clear_all(doubt->frozen);
}

/* Ends and begins what is due. */
void
doubt_run(RelayCore *core)
{
    Doubt *doubt = &core->doubt;

    if (bitmap_count(doubt->frozen) && core->now_us >= doubt->frozen_us) {
        doubt_ripen(doubt);
    }
    if (!bitmap_count(doubt->frozen) && bitmap_count(doubt->growing)) {
        Bitmap *empty = doubt->frozen;
        doubt->frozen = doubt->growing;
        doubt->frozen_us = doubt->growing_us;
        doubt->growing = empty;
    }
    if (bitmap_count(doubt->frozen)) {
        core_at(core, doubt->frozen_us);
    }
}

/* Nothing that this life sent before can execute any more. Of a server that
 * the last one left behind nobody knows that it is gone. */
void
doubt_new_process(RelayCore *core)
{
    if (core->config.is_in_doubt && core->now_us < core->doubt.inherited_us) {
        return;
    }
    core->doubt.frozen_us = core->doubt.growing_us = core->now_us;
    core->pass.not_before_us = core->now_us;
}

int64_t
doubt_next_us(const RelayCore *core)
{
    const Doubt *doubt = &core->doubt;

    return bitmap_count(doubt->frozen) ? doubt->frozen_us : core->now_us;
}

static uint64_t
doubt_first(const Bitmap *map, struct ClusterRun run)
{
    uint64_t at =
        bitmap_count(map) ? bitmap_next_dirty(map, run.first) : UINT64_MAX;

    return at < run.first + run.count ? at : run.first + run.count;
}

void
doubt_skip(const RelayCore *core, struct ClusterRun *run)
{
    const Doubt *doubt = &core->doubt;

    if (mutant(MUTANT_NO_QUARANTINE)) {
        return;
    }
    if (bitmap_get(doubt->frozen, run->first)) {
        uint64_t next = bitmap_next_clean(doubt->frozen, run->first);
        *run = (struct ClusterRun){next, 0};
        return;
    }
    if (bitmap_get(doubt->growing, run->first)) {
        uint64_t next = bitmap_next_clean(doubt->growing, run->first);
        *run = (struct ClusterRun){next, 0};
        return;
    }
    uint64_t frozen = doubt_first(doubt->frozen, *run);
    uint64_t growing = doubt_first(doubt->growing, *run);
    run->count = (frozen < growing ? frozen : growing) - run->first;
}

bool
doubt_must_verify(const RelayCore *core, struct ClusterRun run)
{
    const Doubt *doubt = &core->doubt;

    return bitmap_count(doubt->ripe) && bitmap_count_run(doubt->ripe, run);
}

void
doubt_settled(RelayCore *core, struct ClusterRun run)
{
    if (bitmap_count(core->doubt.ripe)) {
        bitmap_clear_run(core->doubt.ripe, run);
    }
}

uint64_t
doubt_count(const RelayCore *core)
{
    const Doubt *doubt = &core->doubt;

    return bitmap_count(doubt->frozen) + bitmap_count(doubt->growing) +
           bitmap_count(doubt->ripe);
}
