/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot-rig.h - a store whose snapshots are known by heart
 *
 * Purpose: a store of two disks, what each cluster of them holds as a number,
 *          and what it held at each snapshot; writes make copies as the face
 *          does, and everything is read back as the face would.
 * Threads: the test's.
 */
#pragma once

#include "fs/snapshot-private.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#define RIG_DISKS    2u
#define RIG_CLUSTERS 12u  /* of each disk, that are written and looked at */
#define RIG_FAR      100u /* the number of the last of them */
#define RIG_KNOWN    64u

struct RigContent {
    uint64_t of[RIG_DISKS][RIG_CLUSTERS]; /* 0: zeroes */
};

struct Rig {
    struct StoreFixture *fixture;
    FaultIo fault;
    Store *store; /* open */
    uint64_t writes;
    struct RigContent now;
    unsigned n_known;
    struct {
        uint64_t id;
        struct RigContent then;
    } known[RIG_KNOWN];
};

int rig_setup(void **state);
int rig_teardown(void **state);

void rig_close(struct Rig *rig); /* as a process that is killed */
void rig_open(struct Rig *rig);
void rig_reopen(struct Rig *rig);

/* The whole of one cluster, or a discard. 0 or -errno: of making copies, and
 * nothing was written. */
int rig_write(struct Rig *rig, unsigned disk, unsigned index);
int rig_discard(struct Rig *rig, unsigned disk, unsigned index);
/* Each disk's clusters are written, some of them. */
void rig_write_some(struct Rig *rig, unsigned salt);

/* 0: it failed, with a line of words. */
uint64_t rig_snapshot(struct Rig *rig, const char *name);
/* What a snapshot that is not made by rig_snapshot() holds. */
void rig_remember(struct Rig *rig, uint64_t id);
bool rig_delete(struct Rig *rig, uint64_t id);

/* Each snapshot that is listed is read, and is what it was; those that are
 * damaged may have clusters that cannot be read. Returns how many clusters. */
unsigned rig_check(struct Rig *rig);
bool rig_has(struct Rig *rig, uint64_t id);
bool rig_is_damaged(struct Rig *rig, uint64_t id);

/* Files in snapshots/ and all points/. */
unsigned rig_files(const struct Rig *rig);
char *rig_path(const struct Rig *rig, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
