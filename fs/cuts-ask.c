/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-ask.c - what others want to know of cuts: how far they are, and whether
 * what somebody waits for is at the targets
 *
 * Whoever waits gets the number of the cut that will hold all that is dirty now:
 * the one after the snapshots that are pending, and after the one under way, of
 * which nobody knows whether it has all of it. Fewer may come, of snapshots that
 * are deleted meanwhile or because nothing is left to be sent after them. So it
 * is over as well when nothing is owed any more.
 */
#include "cuts-private.h"

static const char *const state_names[CUTS_STATES] = {
    [CUTS_REST] = "rest",       [CUTS_BEFORE] = "before-degrade",
    [CUTS_SENDING] = "sending", [CUTS_BROKEN] = "broken",
    [CUTS_WHOLE] = "whole",     [CUTS_HOOK] = "hook",
    [CUTS_PINNED] = "pinned",
};

const char *
cuts_state_name(enum CutsState state)
{
    return state_names[state];
}

uint64_t
cuts_hurry(Cuts *cuts)
{
    const struct StoreCuts *held = &cuts->config.store->cuts;
    uint64_t number = MAX(held->holds, held->advancing);
    bool is_held = cuts->state == CUTS_HOOK || cuts->state == CUTS_PINNED;

    if (!cuts_has_members(cuts)) {
        return 0;
    }
    if (cuts_is_owing(cuts)) {
        /* Of one under way nobody knows whether it has all of it. */
        number += 1 + cuts_pending(cuts);
    } else if (!is_held) {
        return 0;
    }
    cuts->wanted = MAX(cuts->wanted, number);
    return number;
}

bool
cuts_is_done(Cuts *cuts, uint64_t number)
{
    return cuts->settled >= number ||
           (cuts->state == CUTS_REST && !cuts_is_owing(cuts));
}

void
cuts_figures(const Cuts *cuts, struct CutsFigures *figures)
{
    *figures = (struct CutsFigures){
        .state = cuts->state,
        .is_degraded = cuts->is_degraded,
        .is_waiting = cuts->state == CUTS_REST && cuts->is_waiting,
        .whole = cuts->whole,
        .degraded = cuts->degraded,
        .snapshots_pending = cuts_pending(cuts),
        .is_hook_running = cut_hook_is_running(cuts->hook),
        .hook_failures = cuts->failures,
        .hook_failed = cuts->failed,
    };
    if (cuts->state == CUTS_REST && cuts->waits_for && cuts_is_owing(cuts)) {
        g_strlcpy(figures->waits_for, cuts->waits_for->name,
                  sizeof(figures->waits_for));
    }
    if (cuts->state != CUTS_REST && cuts->state != CUTS_BEFORE &&
        cuts->cut.snapshot) {
        g_strlcpy(figures->snapshot, cuts->snapshot_name,
                  sizeof(figures->snapshot));
    }
    g_strlcpy(figures->hook_error, cuts->error, sizeof(figures->hook_error));
    g_strlcpy(figures->before_error, cuts->before_error,
              sizeof(figures->before_error));
}
