/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-private.h - what the files of the manager of snapshots share
 *
 * Purpose: the one object; snapshots.c makes snapshots, snapshots-hooks.c
 *          freezes and thaws the guest for that, snapshots-gone.c
 *          deletes them and gives their room back, snapshots-schedule.c does
 *          both by the clock.
 * Threads: main, but for what snapshots-gone.c says is the reaper's.
 */
#pragma once

#include "cut-hook.h"
#include "snapshots.h"

#include <pthread.h>

/* Somebody who wants one. */
struct SnapshotOrder {
    char *name; /* NULL: that of the present time */
    char reason[16];
    SnapshotsDone done;
    void *user;
};

enum SnapshotsState {
    SNAPSHOTS_REST,
    SNAPSHOTS_DISCARDS,
    SNAPSHOTS_FREEZE,
    SNAPSHOTS_ENDING, /* the freeze hook was told to end */
    SNAPSHOTS_INSTANT,
    SNAPSHOTS_THAW,
    SNAPSHOTS_STATES
};

/* The thread that gives room back; see snapshots-gone.c. */
struct SnapshotsReaper {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* guarded by lock */
    GArray *todo;     /* ids, oldest first */
    bool is_retrying; /* some of them only after a while */
    /* atomic */
    atomic_bool is_stopping;
};

struct SnapshotsSchedule {
    bool is_known;          /* the settings were looked at */
    unsigned every_s, keep; /* ... as they were then */
    int64_t due_us;         /* monotonic */
    bool is_asked;          /* one is in the queue */
    bool trims;             /* there may be too many */
    unsigned failures;      /* in a row */
    char error[SNAPSHOTS_TEXT];
};

struct Snapshots {
    struct SnapshotsConfig config;
    const struct SnapshotsOps *ops;
    bool is_stopping;
    bool is_beginning; /* the queue is being looked at */

    /* The one that is being made. */
    enum SnapshotsState state;
    GQueue queue; /* struct SnapshotOrder, those behind it */
    struct SnapshotOrder *order;
    SnapshotDraft *draft;
    char name[STORE_NAME_MAX + 1]; /* for the hooks */
    bool is_frozen;                /* the freeze hook has succeeded */
    int64_t deadline_us;           /* of the hook that runs */
    guint timer;
    int64_t end_us; /* discards are waited for until then */
    CutHook *freeze, *thaw;
    char *thaw_command; /* as it was at the freeze; NULL: none */
    unsigned thaws;     /* times that it was tried */
    int64_t retry_us;   /* the thaw, not before */
    char hook_error[SNAPSHOTS_TEXT];

    GArray *held; /* ids of those that are deleted and still being sent */
    pthread_mutex_t writer; /* of the points, where there is no face */
    struct SnapshotsReaper reaper;
    struct SnapshotsSchedule schedule;
};

/* snapshots.c */
void snapshots_tell(Snapshots *snapshots, const char *name, JsonObject *data);
/* {name, reason, error} of what could not be done. */
void snapshots_tell_failure(Snapshots *snapshots, const char *name,
                            const char *reason, const char *words);

/* The one that is being made is at its instant: the freeze is over. */
void snapshots_begin_instant(Snapshots *snapshots);
/* It is the next one's turn, if it is. */
void snapshots_begin_waiting(Snapshots *snapshots);

/* snapshots-hooks.c */
void snapshots_hooks_init(Snapshots *snapshots);
void snapshots_hooks_deinit(Snapshots *snapshots);
/* False: nobody is to be frozen. */
bool snapshots_freeze(Snapshots *snapshots);
/* If the freeze was tried, what it may have done is undone. In any case the
 * next one may be made when that is over. */
void snapshots_thaw(Snapshots *snapshots);
void snapshots_look_hooks(Snapshots *snapshots);

/* snapshots-gone.c */
void snapshots_gone_init(Snapshots *snapshots);
void snapshots_gone_deinit(Snapshots *snapshots); /* waits for a step of it */
gboolean snapshots_drop(Snapshots *snapshots, const Snapshot *snapshot,
                        GError **error);
/* Nobody reads it any more, nothing is kept for it, its room comes back. */
void snapshots_release(Snapshots *snapshots, uint64_t id);
void snapshots_look_held(Snapshots *snapshots);
void snapshots_between(Snapshots *snapshots, void (*work)(void *user),
                       void *user);

/* snapshots-schedule.c */
void snapshots_look_schedule(Snapshots *snapshots);
