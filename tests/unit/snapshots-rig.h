/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-rig.h - a manager of snapshots over a real store
 *
 * Purpose: the store, its disks vda and vdb, the list, the points, the hooks
 *          and the reaper's thread are real; what is written for snapshots, the
 *          face and the clocks are the test's. Whatever the manager asks of
 *          them, and every event, goes into a journal, a line each.
 * Threads: the test's; the reaper only adds to `reaped`.
 */
#pragma once

#include "fs/snapshots.h"
#include "tests/lib/store-fixture.h"

#include <pthread.h>

#define SECOND G_GINT64_CONSTANT(1000000)
#define HOUR   (3600 * SECOND)

typedef struct SnapshotsRig {
    struct StoreFixture *fixture;
    Store *store;
    Snapshots *snapshots;
    SnapshotList *list; /* the rig's own, if the store made none */
    bool has_points;    /* likewise */
    GString *journal;
    int64_t now_us, wall_us;
    uint64_t last_id;
    int instant_error; /* of the face */
    unsigned discards; /* times that the face is busy with some */
    bool refuses;      /* nothing can be prepared */
    bool forgets;      /* no record can be written */
    bool clings;       /* no record can be marked as gone */
    uint64_t held;     /* the id of one that is being sent */
    unsigned answers;  /* that are due */

    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* guarded by lock */
    GArray *gone;     /* ids */
    GString *reaped;  /* what the reaper did, in words */
    uint64_t needed;  /* the id of one that older ones resolve to */
    unsigned readers; /* times that somebody is found reading */
} SnapshotsRig;

extern SnapshotsRig *rig; /* the one that there is */

int snapshots_rig_setup(void **state);
int snapshots_rig_teardown(void **state);
void rig_start(bool has_face);
void rig_end(void);
void rig_set(const char *key, const char *value);
/* What was asked since the last time. */
void rig_assert_journal(const char *text);
/* As user; the answer is "made NAME" or "not made: WORDS" in the journal. */
void rig_create(const char *name);
void rig_delete(const char *name);
void rig_look_after(int64_t us);
/* Until nobody waits for an answer, and no hook is to be heard of. */
void rig_finish(void);
/* Until the reaper has done that since the last time. */
void rig_await_reaped(const char *text);
/* The guest overwrites the first cluster of vda. */
void rig_write(void);
/* "a b c", oldest first. */
void rig_assert_list(const char *names);
