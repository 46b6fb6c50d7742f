/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rollback-rig.h - a store with two snapshots, and what its disks held when
 *
 * Purpose: beside the store stands a plain array: what each cluster held at
 *          each instant, as one number that fills it, 0 for zeroes.
 * Threads: the test's.
 */
#pragma once

#include "fs/snapshot.h"
#include "tests/lib/store-fixture.h"

#define RIG_DISKS    2
#define RIG_CLUSTERS 160 /* room in the arrays; a disk has 128 until it grows */
#define RIG_BEFORE   "before-rollback-"

extern const char *const rig_names[RIG_DISKS];

struct Content {
    unsigned char of[RIG_DISKS][RIG_CLUSTERS];
};

struct World {
    struct StoreFixture *fixture;
    struct Content now, a, b;
    struct Content settled; /* at the target, of vda */
    GString *said;
};

int rig_setup(void **state); /* a World, without a history */
int rig_teardown(void **state);

/* A new store: a, writes, b, writes. */
void rig_history(struct World *world);
uint64_t rig_clusters(Disk *disk);
/* As a guest at work on a store at rest: kept for snapshots, dirty, written. */
void rig_write(struct World *world, Store *store, unsigned i, uint64_t cluster,
               unsigned char value);
void rig_snapshot(Store *store, const char *name);
/* Its exit code; what was said, and the error, are in World.said. */
int rig_roll(struct World *world, StoreIo *io, const char *name);

bool rig_disks_are(Store *store, const struct Content *want);
/* How many rollbacks have made; @of: the youngest, or one that is @was. */
unsigned rig_find_before(Store *store, const struct Content *was, Snapshot *of);
/* What is clean is at the target, which holds what was settled. */
void rig_check_superset(struct World *world, Store *store,
                        const struct Content *now);
/* All is as it was in @then; @was is kept, by one of @most snapshots. */
void rig_check_done(struct World *world, const struct Content *then,
                    const struct Content *was, unsigned most);
