/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots.h - snapshots while the store is served
 *
 * Purpose: makes them when somebody asks or the schedule says so, between the
 *          hooks that freeze and thaw the guest; deletes them, and what the
 *          schedule has too many of; gives back the room of those that were.
 * Threads: main. Creating waits for the fs thread and the local disk, never for
 *          a hook or a target. A thread of its own, here inside, gives room
 *          back.
 * Units:   microseconds: monotonic for decisions, wall clock to show.
 * Errors:  to whoever asked, as a GError of STORE_ERROR; those of the schedule
 *          are warned of, and shown.
 */
#pragma once

#include "face.h"
#include "snapshot.h"

#include <json-glib/json-glib.h>

#define SNAPSHOTS_TEXT 200

typedef struct Snapshots Snapshots;

/* What they need of the face, the store and the clock. */
struct SnapshotsOps {
    int (*snapshot)(Face *face, struct FaceSnapshot *snapshot);
    void (*between)(Face *face, void (*work)(void *user), void *user);
    SnapshotDraft *(*prepare)(Store *store, const char *name,
                              const char *reason, GError **error);
    gboolean (*commit)(Store *store, SnapshotDraft *draft, GError **error);
    void (*abandon)(Store *store, SnapshotDraft *draft);
    /* All of it at once, where nobody writes. */
    gboolean (*now)(Store *store, const char *name, const char *reason,
                    Snapshot *made, GError **error);
    gboolean (*drop)(Store *store, uint64_t id, GError **error);
    GArray *(*gone)(Store *store);
    enum SnapshotReaped (*reap)(Store *store, uint64_t id,
                                const struct SnapshotReap *reap);
    int64_t (*now_us)(void);  /* monotonic */
    int64_t (*wall_us)(void); /* wall clock */
};

struct SnapshotsConfig {
    const struct SnapshotsOps *ops; /* NULL: the real ones */
    Store *store;
    Face *face; /* NULL: nobody writes */
    /* Is it being brought to the targets? Then its points stay as they are, and
     * snapshots_look() is called when that is over. */
    bool (*is_held)(void *user, uint64_t id);
    /* For every client of the control socket; takes @data. */
    void (*event)(void *user, const char *name, JsonObject *data);
    void *user;
};

Snapshots *snapshots_new(const struct SnapshotsConfig *config);
void snapshots_free(Snapshots *snapshots); /* whoever waits gets an error */

/* Time went on, a setting changed, an upload is over. */
void snapshots_look(Snapshots *snapshots);
/* None is made any more: whoever waits gets an error, and what was frozen is
 * thawed. Quiet: that is over. */
void snapshots_stop(Snapshots *snapshots);
bool snapshots_is_quiet(const Snapshots *snapshots);

/* @name NULL: that of the present time. @done is called once, maybe from
 * within: with the snapshot, or with what was wrong. One at a time; others wait
 * for their turn. */
typedef void (*SnapshotsDone)(void *user, const Snapshot *snapshot,
                              const GError *error);
void snapshots_create(Snapshots *snapshots, const char *name,
                      const char *reason, SnapshotsDone done, void *user);
/* When it returns nobody sees it any more; its room comes back by and by. */
gboolean snapshots_delete(Snapshots *snapshots, const char *name,
                          GError **error);
/* One that is hidden (snapshot.h); TRUE as well if there is none. No event tells
 * of these. */
gboolean snapshots_delete_hidden(Snapshots *snapshots, uint64_t id,
                                 GError **error);

struct SnapshotsFigures {
    bool is_busy;                    /* one is being made, or a hook runs */
    int64_t next_us;                 /* monotonic: the schedule's; 0: none */
    char error[SNAPSHOTS_TEXT];      /* ... why it could not make the last one;
                                        or empty */
    char hook_error[SNAPSHOTS_TEXT]; /* on-freeze or on-thaw, the last time; or
                                        empty */
};
void snapshots_figures(const Snapshots *snapshots,
                       struct SnapshotsFigures *figures);

/* As `weir snapshot list --json` and status.json show one; and all of them. */
JsonObject *snapshot_json(Store *store, const Snapshot *snapshot);
JsonArray *snapshots_json(Store *store);

/* What was overwritten between two snapshots, @to NULL: until now. */
struct SnapshotsDiff {
    const char *from, *to;
    const char *disk; /* NULL: all */
    bool has_extents; /* say where */
    uint64_t start;   /* from this byte of each disk on */
};
/* {from, to, disks[{name, cluster_bytes, changed_clusters, changed_bytes, next,
 * extents[{offset, length}]}]}. next: it is only that far, go on from there. */
JsonObject *snapshots_diff(Store *store, const struct SnapshotsDiff *diff,
                           GError **error);
