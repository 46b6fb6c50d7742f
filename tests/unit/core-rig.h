/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core-rig.h - the relay core against a target that does as it is told
 *
 * Purpose: what the tests of the core share. `answer` says what comes back
 *          for each action; a test bends it where its subject is.
 * Threads: one.
 * Units:   microseconds, clusters, bytes.
 */
#pragma once

#include "relay/core.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BITS    16
#define CLUSTER (UINT64_C(1) << BITS)
#define SIZE    (64 * CLUSTER)
#define SECOND  INT64_C(1000000)

struct Rig {
    DiskMap *map;
    RateBucket bucket;
    RelayCore *core;
    struct RelayCoreConfig config;
    struct TargetCaps caps;
    struct RelayActions actions;
    struct RelayAction seen[4096]; /* all actions so far */
    size_t n_seen;
    int64_t now_us;
    uint64_t hole_from; /* the local disk is a hole from here on */
    bool target_is_zero;
    bool compare_fails;
    /* answer @action itself and return true, or leave it to the rig */
    bool (*bend)(struct Rig *rig, const struct RelayAction *action);
};

static inline void
step(struct Rig *rig, const struct RelayEvent *event)
{
    relay_core_step(rig->core, rig->now_us, event, &rig->actions);
}

static inline void
reply(struct Rig *rig, const struct RelayAction *action,
      struct RelayEvent event)
{
    event.conn = action->conn;
    event.epoch = action->epoch;
    event.op = action->op;
    step(rig, &event);
}

static inline void
answer(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {0};

    switch (action->kind) {
    case RELAY_CONNECT:
        event.kind = RELAY_LINK_UP;
        event.caps = rig->caps;
        break;
    case RELAY_MAP:
        event.kind = RELAY_MAPPED;
        event.is_hole = action->offset >= rig->hole_from;
        event.len =
            event.is_hole ? action->len : rig->hole_from - action->offset;
        break;
    case RELAY_LOAD:
        event.kind = RELAY_READ;
        break;
    case RELAY_SEND_DATA:
    case RELAY_SEND_ZERO:
    case RELAY_SEND_TRIM:
        event.kind = RELAY_ACKED;
        break;
    case RELAY_SEND_STATUS:
        event.kind = RELAY_STATUS;
        event.len = action->len;
        event.is_zero = rig->target_is_zero;
        break;
    case RELAY_SEND_COMPARE:
        event.kind = RELAY_COMPARED;
        event.is_equal = !rig->compare_fails;
        break;
    case RELAY_SEND_FLUSH:
        event.kind = RELAY_FLUSHED;
        break;
    case RELAY_LOG:
        event.kind = RELAY_LOGGED;
        break;
    case RELAY_NOTE:
        event.kind = RELAY_NOTED;
        break;
    case RELAY_SYNC:
        event.kind = RELAY_SYNCED;
        break;
    case RELAY_FORGET:
        event.kind = RELAY_FORGOTTEN;
        break;
    case RELAY_DISCONNECT:
    case RELAY_ACTION_KINDS:
        return;
    }
    reply(rig, action, event);
}

/* Perform what is asked until nothing is. */
static inline void
settle_actions(struct Rig *rig)
{
    while (rig->actions.count) {
        struct RelayAction action = rig->actions.list[0];

        memmove(rig->actions.list, rig->actions.list + 1,
                --rig->actions.count * sizeof(action));
        assert_true(rig->n_seen < sizeof(rig->seen) / sizeof(*rig->seen));
        rig->seen[rig->n_seen++] = action;
        if (!rig->bend || !rig->bend(rig, &action)) {
            answer(rig, &action);
        }
    }
}

/* Let @us pass, with a tick whenever the core asked for one. */
static inline void
pass_time(struct Rig *rig, int64_t us)
{
    int64_t end = rig->now_us + us;

    step(rig, NULL);
    settle_actions(rig);
    while (relay_core_next_us(rig->core) <= end) {
        int64_t next = relay_core_next_us(rig->core);
        rig->now_us = next > rig->now_us ? next : rig->now_us + 1;
        step(rig, NULL);
        settle_actions(rig);
    }
    rig->now_us = end;
}

static inline size_t
seen(const struct Rig *rig, enum RelayActionKind kind)
{
    size_t n = 0;

    for (size_t i = 0; i < rig->n_seen; i++) {
        n += rig->seen[i].kind == kind;
    }
    return n;
}

static inline struct RelayCoreFigures
figures(const struct Rig *rig)
{
    struct RelayCoreFigures out;

    relay_core_figures(rig->core, &out);
    return out;
}

static inline uint64_t
dirty(const struct Rig *rig)
{
    struct DiskMapFigures out;

    disk_map_figures(rig->map, &out);
    return out.dirty_clusters;
}

static inline void
write_clusters(struct Rig *rig, uint64_t first, uint64_t count)
{
    disk_map_mark(rig->map, first * CLUSTER, count * CLUSTER, rig->now_us);
}

static inline void
start(struct Rig *rig)
{
    relay_core_free(rig->core);
    rig->core = relay_core_new(&rig->config);
    assert_non_null(rig->core);
}

static inline int
setup(void **state)
{
    struct Rig *rig = calloc(1, sizeof(*rig));

    rig->map = disk_map_new(SIZE, BITS);
    rig->now_us = SECOND;
    rig->hole_from = SIZE;
    rig->target_is_zero = true;
    rig->caps = (struct TargetCaps){
        .size_bytes = SIZE,
        .can_flush = true,
        .can_zero = true,
        .has_block_status = true,
        .min_block = 1,
        .max_payload = 32u << 20,
    };
    rig->config = (struct RelayCoreConfig){
        .map = rig->map,
        .bucket = &rig->bucket,
        .seed = 1,
        .contact = CONTACT_KNOWN,
        .max_conns = 1,
        .settle_us = SECOND,
        .deadline_us = 15 * SECOND,
        .connect_deadline_us = 10 * SECOND,
        .backoff_min_us = SECOND / 4,
        .backoff_max_us = 60 * SECOND,
    };
    *state = rig;
    return 0;
}

static inline int
teardown(void **state)
{
    struct Rig *rig = *state;

    relay_core_free(rig->core);
    disk_map_free(rig->map);
    free(rig->actions.list);
    free(rig);
    return 0;
}
