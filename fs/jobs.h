/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs.h - the jobs of a store that is served
 *
 * Purpose: starts them, follows them, ends them: what is copied is in a map of
 *          the job's own, the relay brings it, a snapshot that nobody sees holds
 *          the instant where there is one, the named bitmap gets what the end
 *          leaves it. They survive the daemon, and go on where they were.
 * Threads: main. Nothing here waits for a target; a disk's allocation is looked
 *          at by a thread of its own.
 * Units:   bytes, microseconds.
 * Errors:  gboolean + GError of STORE_ERROR, words are QEMU's where it has them.
 */
#pragma once

#include "face.h"
#include "job.h"
#include "snapshots.h"

#include <json-glib/json-glib.h>

#define JOBS_MAX      64
#define JOBS_NAME_MAX (JOB_ID_MAX + 4) /* in the relay: "job/" and the id */
_Static_assert(JOBS_NAME_MAX >= STORE_NAME_MAX, "a disk's name is shorter");

typedef struct Jobs Jobs;

/* What they need of others; NULL in the config: the real ones. */
struct JobsOps {
    gboolean (*add)(Relay *relay, const struct RelayDiskConfig *config,
                    GError **error);
    gboolean (*figures)(Relay *relay, const char *job,
                        struct RelayFigures *figures);
    void (*pause)(Relay *relay, const char *job, gboolean pause);
    void (*set_speed)(Relay *relay, const char *job, uint64_t bps);
    void (*set_cut)(Relay *relay, const char *job, gboolean is_cut);
    void (*allow)(Relay *relay, const char *job, uint64_t seq,
                  uint64_t snapshot);
    void (*hurry)(Relay *relay);
    void (*contact_kept)(Relay *relay, const char *job);
    void (*proceed)(Relay *relay, const char *job);
    void (*end)(Relay *relay, const char *job);
    void (*forget)(Relay *relay, const char *job);
    void (*snapshot)(Snapshots *snapshots, const char *name, const char *reason,
                     SnapshotsDone done, void *user);
    gboolean (*drop)(Snapshots *snapshots, uint64_t id, GError **error);
    int64_t (*now_us)(void);
};

struct JobsConfig {
    const struct JobsOps *ops;
    Store *store;
    Relay *relay;
    Snapshots *snapshots;
    void (*event)(void *user, const char *name, JsonObject *data);
    void *user;
};

/* Before the relay is started, those of an earlier life become maps, are held by
 * checkpoints (store-bitmaps.h) and are disks of the relay, standing; damage is
 * said and costs the one that it is of. */
Jobs *jobs_new(const struct JobsConfig *config);
/* The store is served, snapshots can be made: they go on. */
void jobs_begin(Jobs *jobs, Snapshots *snapshots);
/* The daemon ends: none is cancelled, all go on in the next one. Nothing new is
 * sent. */
void jobs_stop(Jobs *jobs);
/* ... and no upload of any is unanswered, as far as the relay has told; what is,
 * is remembered by jobs_keep(), before the relay is stopped. */
bool jobs_is_quiet(Jobs *jobs);
void jobs_keep(Jobs *jobs);
/* Behind the last checkpoint, and the relay. */
void jobs_free(Jobs *jobs);

/* News of the relay about a job, or time went on. */
void jobs_look(Jobs *jobs);
/* The relay's letter about the disk of that name, which is a job's. */
void jobs_news(Jobs *jobs, const char *relay_name, enum RelayNews news);
/* Is it the name of a job's disk in the relay? */
bool jobs_is_job(const char *relay_name);
/* Is some job at work on the disk (and it cannot be resized)? Its id, or NULL. */
const char *jobs_of_disk(const Jobs *jobs, const Disk *disk);
/* ... or on the snapshot? */
bool jobs_holds_snapshot(const Jobs *jobs, uint64_t id);
/* The one that writes the target, however it is written; NULL: none. */
const char *jobs_of_target(const Jobs *jobs, const char *target);
/* For so long requests of one that has ended may execute there. */
int64_t jobs_doubt_us(const Jobs *jobs, const char *target);
/* ... or those of a disk, which has another target now. */
void jobs_doubt_target(Jobs *jobs, const char *target);

/* All of them begin, at one instant, or none; specs are taken. @is_grouped: if
 * one fails all do. @done is called once, maybe from within: NULL, or why not. */
typedef void (*JobsDone)(void *user, const GError *error);
void jobs_start(Jobs *jobs, JobSpec *specs, unsigned count, bool is_grouped,
                JobsDone done, void *user);

/* Verbs; "Job 'j' in state 's' cannot accept command verb 'v'". */
gboolean jobs_pause(Jobs *jobs, const char *id, GError **error);
gboolean jobs_resume(Jobs *jobs, const char *id, GError **error);
/* @is_soft: block-job-cancel without force, which lets a mirror that is ready
 * end in sync. */
gboolean jobs_cancel(Jobs *jobs, const char *id, bool is_soft, GError **error);
gboolean jobs_complete(Jobs *jobs, const char *id, GError **error);
gboolean jobs_finalize(Jobs *jobs, const char *id, GError **error);
gboolean jobs_dismiss(Jobs *jobs, const char *id, GError **error);
gboolean jobs_set_speed(Jobs *jobs, const char *id, uint64_t bps,
                        GError **error);
bool jobs_has(const Jobs *jobs, const char *id);

/* jobs-json.c: query-jobs, query-block-jobs, and what status.json shows. */
JsonArray *jobs_query(const Jobs *jobs);
JsonArray *jobs_query_block(const Jobs *jobs);
JsonArray *jobs_status(const Jobs *jobs);
