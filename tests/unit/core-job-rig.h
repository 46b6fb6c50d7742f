/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core-job-rig.h - the core of a job, against the target of core-rig.h
 *
 * Purpose: what the tests of such a core share.
 * Threads: one.
 */
#pragma once

#include "core-rig.h"

/* Everything that changes something at the target. */
static inline size_t
written(const struct Rig *rig)
{
    return seen(rig, RELAY_SEND_DATA) + seen(rig, RELAY_SEND_ZERO) +
           seen(rig, RELAY_SEND_TRIM);
}

static inline void
start_job(struct Rig *rig)
{
    struct RelayCoreFigures figures;
    size_t before = written(rig);

    start(rig);
    pass_time(rig, SECOND);
    relay_core_figures(rig->core, &figures);
    if (rig->config.contact != CONTACT_KNOWN &&
        figures.contact == CONTACT_KNOWN) {
        assert_int_equal(written(rig), before); /* not before that is kept */
        relay_core_contact_kept(rig->core);
        pass_time(rig, SECOND);
    }
}

/* A job that has just been ordered: nobody has met the target. */
static inline int
setup_job(void **state)
{
    struct Rig *rig;

    (void)setup(state);
    rig = *state;
    rig->config.is_job = true;
    rig->config.contact = CONTACT_NONE;
    rig->config.accept = ACCEPT_OVERWRITE;
    rig->config.halts = true;
    return 0;
}

/* The connection, and all that was seen. */
static inline void
lose(struct Rig *rig)
{
    size_t i = rig->n_seen;

    while (i && rig->seen[i - 1].kind != RELAY_CONNECT) {
        i--;
    }
    assert_true(i > 0);
    rig->n_seen = 0;
    reply(rig, &rig->seen[i - 1],
          (struct RelayEvent){.kind = RELAY_LINK_LOST, .text = "gone"});
    pass_time(rig, SECOND);
}

/* Clusters that are not odd are zero. */
static inline bool
loads_zeroes(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_READ,
                               .zero = {UINT64_C(0x5555555555555555)}};

    if (action->kind != RELAY_LOAD) {
        return false;
    }
    if (action->offset / CLUSTER % 2) {
        event.zero[0] <<= 1;
    }
    reply(rig, action, event);
    return true;
}
