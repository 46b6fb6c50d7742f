/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status.h - what can be said about a store: the one producer of status.json
 *
 * Purpose: figures in; status.json, its text form and the metrics out. All of
 *          it is pure but for status_gather(), which asks the store, the
 *          relay and the face, and for the lists of snapshots and jobs, which are
 *          asked for when a document is made.
 * Threads: main.
 * Units:   bytes, bytes per second, monotonic microseconds for decisions,
 *          wall-clock microseconds only to show (rule 33).
 * Shapes:  the JSON is described in weir-layout(7).
 * Errors:  none: what is not known is null.
 */
#pragma once

#include "cuts.h"
#include "face.h"
#include "jobs.h"
#include "relay/relay.h"
#include "snapshots.h"
#include "store.h"

#include <json-glib/json-glib.h>

#define STATUS_SCHEMA_VERSION 1
#define STATUS_SAMPLES        32 /* one a second */
#define STATUS_RATE_US        (5 * G_USEC_PER_SEC)
#define STATUS_TREND_US       (30 * G_USEC_PER_SEC)
#define STATUS_STALL_US       (30 * G_USEC_PER_SEC)

enum StoreState {
    STATE_INITIAL_SYNC,
    STATE_IDLE,
    STATE_DRAINING,
    STATE_STALLED,
    STATE_DISCONNECTED,
    STATE_PAUSED,
    STATE_DEGRADED,
    STATE_THROTTLED,
    STATES
};
const char *store_state_name(enum StoreState state);

/* For old content that snapshots need, see status-room.c. */
enum RoomState { ROOM_AMPLE, ROOM_LOW, ROOM_FULL, ROOMS };
const char *status_room_name(enum RoomState room);

struct StatusDisk {
    const char *name;
    const char *target; /* NULL: none, nothing is owed */
    uint64_t size_bytes;
    uint64_t used_bytes;  /* of the host's disk */
    uint64_t aside_bytes; /* old content that a cut owes */
    unsigned cluster_bits;
    bool is_frozen;
    bool is_cut;        /* one of the group */
    bool is_first_sync; /* the target has never held all of it */
    bool has_relay;     /* relay holds something */
    struct DiskMapFigures map;
    struct RelayFigures relay;
};

struct StatusInput {
    const char *store;
    const char *mountpoint; /* NULL: not mounted */
    bool is_served;         /* a daemon is at work, mounted or not */
    bool is_paused;         /* its relay is, by the user */
    unsigned restarts;      /* daemons that this mount has had before */
    const char *takeover;   /* what a dying daemon would mean; NULL: "none" */
    bool is_cut;   /* the far side goes from cut to cut: some disk does */
    bool in_place; /* all that do are at the cut that is held */
    struct StoreCuts held;
    struct CutsFigures cuts; /* of the daemon's; zero at rest */
    struct StatusDisk disks[STORE_DISKS_MAX];
    unsigned n_disks;
    uint64_t host_free_bytes;
    bool is_tight;              /* ... about to end */
    uint64_t aside_limit_bytes; /* 0: none */
    uint64_t bwlimit_bps;       /* in force now; 0: none */
    const Jobs *jobs;           /* of the daemon; NULL: there is none */
    Store *of; /* whose snapshots are listed; NULL: there are none */
    unsigned n_snapshots;
    bool has_hidden_snapshots; /* some job needs one */
    uint64_t snapshot_bytes;   /* that they keep on the host */
    int64_t last_snapshot_us;  /* wall clock: of the youngest; 0: none */
    unsigned snapshot_every_s, snapshot_keep;
    struct SnapshotsFigures snapshots; /* of the daemon's; zero at rest */
    struct FaceFigures face;
    uint64_t checkpoints; /* of dirty bitmaps, in this run */
    int64_t now_us;
    int64_t wall_us;
};

/* What one look cannot tell: rates, trends, since when. */
struct StatusTracker {
    struct StatusSample {
        int64_t at_us;
        uint64_t written_bytes, dirtied_bytes, settled_bytes, moved_bytes;
    } samples[STATUS_SAMPLES];
    unsigned count;   /* ever taken; the newest is at (count - 1) mod SAMPLES */
    int64_t moved_us; /* when moved_bytes last grew */
    int64_t clean_since_us; /* 0: something is dirty */
    int64_t whole_us;       /* last instant at which the targets held it all */
    bool first_sync[STORE_DISKS_MAX];          /* by Disk.index */
    uint64_t first_sync_base[STORE_DISKS_MAX]; /* settled when it began */
    enum RoomState room;
    uint64_t hindered;   /* writes that had to wait for room, or were refused */
    int64_t hindered_us; /* when the last one was; 0: never */
    uint64_t slowed;     /* ... that were slowed down before it came to that */
    int64_t slowed_us;
};

/* Once a second; also keeps StatusDisk.is_first_sync up to date. */
void status_tracker_update(struct StatusTracker *tracker,
                           struct StatusInput *input);
/* A disk got another target. */
void status_tracker_retarget(struct StatusTracker *tracker, unsigned index);

/* @tracker is NULL for a store at rest. */
enum StoreState status_state(const struct StatusInput *input,
                             const struct StatusTracker *tracker);
uint64_t status_dirty_bytes(const struct StatusInput *input);
JsonObject *status_build(const struct StatusInput *input,
                         const struct StatusTracker *tracker);
char *status_json(const struct StatusInput *input,
                  const struct StatusTracker *tracker);
char *metrics_text(const struct StatusInput *input,
                   const struct StatusTracker *tracker);

/* Members as they are in all that programs are shown: bytes; text, which may be
 * no UTF-8, and is null if there is none. */
void status_set_size(JsonObject *object, const char *name, uint64_t bytes);
void status_set_text(JsonObject *object, const char *name, const char *text);

/* status-room.c */
void status_room_update(struct StatusTracker *tracker,
                        const struct StatusInput *input);
/* Do guest writes wait for room, or did they in the last seconds? */
bool status_is_throttled(const struct StatusInput *input,
                         const struct StatusTracker *tracker);
JsonObject *status_room_build(const struct StatusInput *input,
                              const struct StatusTracker *tracker);

/* Rates over the last seconds; used by both producers. */
struct StatusRates {
    uint64_t written_bps, dirty_bps, settled_bps, upload_bps;
    bool is_known, is_diverging;
    bool has_eta;
    uint64_t eta_seconds;
};
void status_rates(const struct StatusInput *input,
                  const struct StatusTracker *tracker,
                  struct StatusRates *rates);

/* @relay and @face may be NULL. Names are borrowed from the store. */
void status_gather(Store *store, Relay *relay, Face *face,
                   const char *mountpoint, struct StatusInput *input);

/*
 * Text, from the JSON: the command line has nothing else
 */
/* Lines of at most @columns; the first one is the answer. */
char *status_text(JsonObject *status, unsigned columns);
/* What is wrong with the room for old content, and the way out; NULL: nothing. */
char *status_room_words(JsonObject *status);
/* "[#####-----]  50% at the target": @columns wide. */
char *status_bar(JsonObject *status, unsigned columns);
/* One line about a drain. */
char *status_drain_line(JsonObject *status);
/* "12.3 GiB", "41 min". */
char *status_size(double bytes);
char *status_duration(double seconds);
