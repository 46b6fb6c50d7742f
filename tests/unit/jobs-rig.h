/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-rig.h - the jobs of a real store, over a relay of the test's
 *
 * Purpose: the store, its disks vda and vdb, their bitmaps, points and
 *          checkpoints, and the records of jobs are real; the relay, the making
 *          of snapshots and the clock are the test's. What jobs ask of them goes
 *          into a journal, a line each, and so does every event.
 * Threads: the test's; that of the jobs that look at what is allocated waits in
 *          a lseek while it is held.
 */
#pragma once

#include "fs/jobs.h"
#include "fs/snapshot.h"
#include "fs/store-bitmaps.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#define SECOND     G_GINT64_CONSTANT(1000000)
#define RIG_RELAYS 8

/* What the relay knows of one job. */
struct RigRelay {
    char name[JOBS_NAME_MAX + 1]; /* empty: it knows none */
    struct RelayDiskConfig config;
    struct RelayFigures figures;
    uint64_t allowed, snapshot;
    bool is_kept; /* that its target was met */
    bool has_ended;
};

typedef struct JobsRig {
    struct StoreFixture *fixture;
    FaultIo fault;
    struct StoreIoOps io_ops; /* its own, but for lseek */
    const struct StoreIoOps *real_io;
    StoreIo quick; /* behind it: the kernel's, but that syncs do nothing: here a
                      crash is the end of a process */
    struct StoreIoOps quick_ops;
    Store *store;
    Jobs *jobs;
    struct RigRelay relays[RIG_RELAYS];
    GString *journal;
    int64_t now_us;
    uint64_t last_snapshot;
    bool lets_wait; /* snapshots are made at rig_instant() only */
    bool refuses;   /* none is to be had */
    bool bars;      /* the relay takes no job */
    SnapshotsDone asked;
    void *asked_user;
    unsigned answers; /* of jobs_start() that are due */

    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool holds_scan; /* guarded by lock */
} JobsRig;

extern JobsRig *rig; /* the one that there is */
extern const struct JobsOps rig_fake_ops;

int jobs_rig_setup(void **state);
int jobs_rig_teardown(void **state);
#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, jobs_rig_setup, jobs_rig_teardown)
Disk *rig_vda(void);
/* What was asked, and told, since the last time. */
void rig_assert_journal(const char *text);
void rig_forget_journal(void);
void rig_note(const char *format, ...) G_GNUC_PRINTF(1, 2);
/* The process ends in the middle, or as it should; and another one begins. */
void rig_crash(void);
void rig_restart(void);
/* ... and in between @path becomes @text; NULL: it goes. */
void rig_restart_with(const char *path, const char *text);
void rig_look_after(int64_t us);

JobSpec rig_spec(enum JobKind kind, const char *id, enum JobSync sync);
/* "started" or "refused: WORDS" follows in the journal. */
void rig_start(JobSpec spec);
void rig_start_two(JobSpec one, JobSpec other, bool is_grouped);
/* ... the snapshot that was asked for is made. */
void rig_instant(void);
void rig_hold_scan(bool holds);
/* A verb's answer; NULL: it was taken. */
void rig_assert_refused(gboolean taken, GError **error, const char *words);

/* The relay. */
struct RigRelay *rig_relay(const char *id);
void rig_meet(const char *id); /* its target is there, and accepted */
void
rig_settle(const char *id); /* what may be sent is settled, and looked at */
void rig_settle_some(const char *id, uint64_t clusters);
void rig_halt(const char *id, bool is_read, int error);
void rig_ended(const char *id);
/* Met, settled, ended: to its end, if it has one. */
void rig_finish(const char *id);
uint64_t rig_left(const char *id); /* clusters of its map */

/* The guest writes clusters [@first, @first + @count) of vda. */
void rig_write(uint64_t first, uint64_t count);
void rig_bitmap(const char *name);
/* Clusters in it; with what a successor has as well. */
unsigned rig_dirty(const char *name);
bool rig_is_busy(const char *name);
/* "created", ..., or "gone". */
const char *rig_status(const char *id);
unsigned rig_hidden(void); /* snapshots */
