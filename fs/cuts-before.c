/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-before.c - before the far side leaves a whole cut that may be the last one
 * for a while
 *
 * Once the first byte of the next cut is sent the targets are no state that the
 * disks had, until that one is whole. If it is likely to be given up for want of
 * room for old content, they may be like that for long. So the user is told
 * before (before-degrade), and can have the far side keep what it holds, as
 * on-cut does after each cut.
 *
 * Likely: the cut before the one that is held was given up; or what that one
 * kept, and the snapshots keep, took more than RISK of buffer-size. (For a
 * snapshot's cut nothing is kept: it says nothing of the next one.) Once for a
 * cut that is held, and not if on-cut has pinned it. It is a favour, no promise:
 * cuts wait for its end, PATIENCE_US at most, and not for its success.
 */
#include "cuts-private.h"

#define PATIENCE_US   (60 * G_USEC_PER_SEC)
#define PATIENCE_TEXT "not done after 60 s"
#define RISK          3 /* of 4 */

/* The cut is whole, and its copies are still there. */
void
cuts_weigh(Cuts *cuts)
{
    Store *store = cuts->config.store;
    uint64_t limit = atomic_load(&store->settings.buffer_bytes);
    uint64_t bytes = 0;

    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        const Disk *disk = cuts->cut.disks[i];
        struct AsideFigures figures;

        if (disk->aside) {
            aside_figures(disk->aside, &figures);
            bytes += figures.kept_clusters << disk->cluster_bits;
        }
    }
    cuts->is_risky =
        cuts->is_degraded || (cuts->cut.snapshot && cuts->is_risky) ||
        (limit > 0 && bytes > 0 &&
         (bytes + store_snapshots_bytes(store)) / RISK > limit / 4);
}

bool
cuts_ask_before(Cuts *cuts, int64_t now_us)
{
    const Store *store = cuts->config.store;
    const struct StoreCuts *held = &store->cuts;

    if (!store->settings.before_degrade || !cuts->is_risky ||
        held->holds == 0 || cuts->asked >= held->holds ||
        held->pinned >= held->holds || !store_is_in_place(store)) {
        return false;
    }
    cuts->asked = held->holds;
    cuts->number = held->holds;
    if (cuts->cut.wall_us != held->holds_us) {
        cuts->cut.snapshot = 0; /* of one that was not to be had */
        cuts->cut.wall_us = held->holds_us;
    }
    cuts->patience_us = now_us + PATIENCE_US;
    cuts->before_error[0] = '\0';
    cuts->state = CUTS_BEFORE;
    cuts_run_hook(cuts, store->settings.before_degrade);
    return true;
}

void
cuts_before_done(Cuts *cuts, const char *words)
{
    JsonObject *data;

    cuts->state = CUTS_REST;
    if (!words) {
        return;
    }
    g_warning("before-degrade, cut %" G_GUINT64_FORMAT ": %s", cuts->number,
              words);
    g_strlcpy(cuts->before_error, words, sizeof(cuts->before_error));
    data = cuts_number_object(cuts->number);
    json_object_set_string_member(data, "hook", "before-degrade");
    json_object_set_int_member(data, "failures", 1);
    json_object_set_string_member(data, "error", words);
    cuts_tell(cuts, "WEIR_HOOK_FAILED", data);
}

void
cuts_step_before(Cuts *cuts, int64_t now_us)
{
    if (!cuts->config.store->settings.before_degrade) {
        cut_hook_stop(cuts->hook);
        cuts->state = CUTS_REST;
    } else if (now_us >= cuts->patience_us) {
        cut_hook_stop(cuts->hook);
        cuts_before_done(cuts, PATIENCE_TEXT);
    }
}
