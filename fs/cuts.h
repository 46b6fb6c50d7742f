/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts.h - the coordinator of cuts
 *
 * Purpose: decides when all disks of the group are cut, what the far side may
 *          be told to hold, and when its hook runs. What is cut and kept aside
 *          is the face's work, what is sent the relay's.
 * Threads: main. Nothing here waits for the target or for the hook.
 * Units:   microseconds: monotonic for decisions, wall clock to show.
 * Errors:  a state that cannot be saved is warned of once and tried again; the
 *          hook's and the far side's errors are figures.
 */
#pragma once

#include "face.h"
#include "relay/relay.h"
#include "store.h"

#include <json-glib/json-glib.h>

#define CUTS_TEXT 200

typedef struct Cuts Cuts;

/* What cuts need of the face, the relay and the clock. */
struct CutsOps {
    bool (*cut)(Face *face, struct FaceCut *cut);
    void (*cut_end)(Face *face, Disk *disk);
    gboolean (*figures)(Relay *relay, const char *disk,
                        struct RelayFigures *figures);
    void (*set_cut)(Relay *relay, const char *disk, gboolean is_cut);
    void (*allow)(Relay *relay, const char *disk, uint64_t seq,
                  uint64_t snapshot);
    void (*uploaded)(Store *store, uint64_t snapshot, uint64_t cut);
    int64_t (*now_us)(void);
};

struct CutsConfig {
    const struct CutsOps *ops; /* NULL: the real ones */
    Store *store;
    Relay *relay;
    Face *face; /* NULL: nobody writes */
    /* Takes all that the face has told so far; cuts_degraded() is called from
     * within if it has to be. */
    void (*hear)(void *user);
    /* For every client of the control socket; takes @data. */
    void (*event)(void *user, const char *name, JsonObject *data);
    void *user;
};

/* The store is served, and the relay knows its disks as the store has them. */
Cuts *cuts_new(const struct CutsConfig *config);
/* A hook that runs gets SIGTERM; a cut under way is left to the next daemon. */
void cuts_free(Cuts *cuts);

/* Something may have changed: time went on, news of the relay, a setting. Not
 * from within `hear`. */
void cuts_look(Cuts *cuts);
/* FACE_NOTE_DEGRADED, of the cut that had sealed @seq. */
void cuts_degraded(Cuts *cuts, Disk *disk, uint64_t seq, int error);
/* @disk has another target, or none; the relay is told of that afterwards. */
void cuts_retargeted(Cuts *cuts, Disk *disk);
/* The relay has met the target of @disk for the first time: whatever it holds,
 * it is no cut. The caller keeps that before the target is written. */
void cuts_recontacted(Cuts *cuts, Disk *disk);

/* Is the snapshot being brought to the targets? */
bool cuts_holds_snapshot(const Cuts *cuts, uint64_t id);

/* Somebody waits: do not wait for cut-interval. The number of the cut that
 * will hold all that is dirty now, after the snapshots that are pending; 0 if
 * nothing is owed. */
uint64_t cuts_hurry(Cuts *cuts);
/* Is it whole, its hook included, or is nothing owed any more? */
bool cuts_is_done(Cuts *cuts, uint64_t number);

enum CutsState {
    CUTS_REST,
    CUTS_BEFORE,
    CUTS_SENDING,
    CUTS_BROKEN,
    CUTS_WHOLE,
    CUTS_HOOK,
    CUTS_PINNED,
    CUTS_STATES
};
const char *cuts_state_name(enum CutsState state);

struct CutsFigures {
    enum CutsState state;
    bool is_degraded; /* old content was lost, until the next whole cut */
    bool is_waiting;  /* for cut-interval, or for something to be dirty */
    char waits_for[STORE_NAME_MAX + 1]; /* disk whose target is not online, and
                                           no cut begins; or empty */
    uint64_t whole, degraded;           /* cuts of this run */
    char snapshot[STORE_NAME_MAX + 1];  /* under way, or empty */
    unsigned snapshots_pending;         /* ... and to come */
    bool is_hook_running;               /* on-cut, or before-degrade */
    unsigned hook_failures;             /* in a row */
    uint64_t hook_failed;               /* in this run */
    char hook_error[CUTS_TEXT];
    char before_error[CUTS_TEXT]; /* of before-degrade, the last time */
};
void cuts_figures(const Cuts *cuts, struct CutsFigures *figures);
