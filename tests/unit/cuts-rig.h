/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-rig.h - a coordinator of cuts over a real store
 *
 * Purpose: the store, its two disks vda and vdb and its state file are real,
 *          the face, the relay and the clock are the test's. Whatever the
 *          coordinator asks of them goes into a journal, together with what
 *          the state file says at that moment: order is compared as text.
 *          "a1h0" is: advancing to 1, holds none.
 * Threads: the test's.
 */
#pragma once

#include "fs/cuts.h"
#include "fs/snapshot.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#define SECOND G_GINT64_CONSTANT(1000000)

typedef struct CutsRig {
    struct StoreFixture *fixture;
    FaultIo fault;
    Store *store;
    Cuts *cuts;
    uint64_t last_snapshot; /* id of this life */
    struct RelayFigures figures[2];
    uint64_t allowed[2]; /* snapshot of the last one that was allowed, or 0 */
    GString *journal;
    Disk *unsealed; /* at the next cut */
    Disk *breaks;   /* the face says so when it is heard */
    bool has_face;
    bool refuses; /* the face: no cut is to be had */
    int64_t now_us;
} CutsRig;

extern CutsRig *rig; /* the one that there is */

int cuts_rig_setup(void **state);
int cuts_rig_teardown(void **state);
Disk *rig_disk_of(unsigned i);
/* What a crash would find now. */
struct StoreCuts rig_kept(void);
/* What was asked since the last time. */
void rig_assert_journal(const char *text);
/* As if killed. */
void rig_crash(CutsRig *r);
/* A process that opens and serves the store. */
void rig_start(CutsRig *r);
void rig_new_cuts(CutsRig *r); /* it begins, and the store is served */
void rig_look_after(int64_t seconds);
void rig_dirty(unsigned i);
/* The face says that the last cut of the disk cannot be whole. */
void rig_degrade(unsigned i, int error);
/* The relay has brought what is sealed, with a flush. */
void rig_send(unsigned i);
/* All that is sealed is sent, and looked at. */
void rig_finish_cut(void);
/* Cut 1 is whole; nothing is dirty. */
void rig_first_cut(void);
struct CutsFigures rig_figures(void);
/* Of both disks, now; its id. */
uint64_t rig_snapshot(const char *name);
/* The guest's write; the youngest snapshot keeps what was there. */
void rig_overwrite(unsigned i, uint64_t cluster);
void rig_delete(uint64_t id);
void rig_set(const char *name, const char *key, const char *value);
