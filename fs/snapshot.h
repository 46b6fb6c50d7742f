/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot.h - the snapshots of a store: their list, records and files
 *
 * Purpose: a snapshot is one instant of all disks of the store, under a name.
 *          It has a record, and per disk a point (bitmap/points.h) with two
 *          files. It exists from the moment its record is durable.
 * Threads: main, but for what says "any thread"; the list has a lock of its
 *          own. store_snapshot_reap() is for one thread at a time, which may
 *          block.
 * Units:   bytes; blocks of 512 bytes; ids count up and are never used twice.
 * Shapes:  STORE/snapshots/ID        record: GKeyFile, last line a checksum as
 *                                    in state.h
 *          STORE/snapshots/ID.gone   one that was deleted, while its files are
 *                                    still there; nobody sees it
 *          STORE/NAME/points/ID.map  bitmap/point-file.h
 *          STORE/NAME/points/ID.data copies, sparse, at their own offsets
 *          A file of a point without a record is left over, and deleted.
 * Errors:  gboolean + GError of STORE_ERROR. A damaged record or file makes its
 *          own snapshot damaged, and those that resolve to it as far as they do.
 */
#pragma once

#include "bitmap/points.h"
#include "store.h"

#define SNAPSHOT_ID_MAX ((UINT64_C(1) << 20) - 1) /* two fit an inode number */
#define SNAPSHOT_JOB    "job" /* the reason of those that a job needs */

struct SnapshotDisk {
    unsigned id;         /* Disk.id */
    uint64_t size_bytes; /* then */
    uint64_t blocks;     /* allocated then */
};

typedef struct Snapshot {
    uint64_t id;
    char name[STORE_NAME_MAX + 1];
    int64_t wall_us; /* the instant */
    char reason[16]; /* who wanted it: user, mount, schedule, rollback, job */
    bool is_frozen;  /* the guest's file systems were, see on-freeze */
    uint64_t cut;    /* that was exactly this, whole at the targets; 0: none */
    bool is_damaged; /* record or files: it cannot be read, or not all of it */
    unsigned n_disks;
    struct SnapshotDisk disks[STORE_DISKS_MAX];
} Snapshot;

/* A job's: nobody sees it, names it, or has it brought to the targets of the
 * disks. It has a name in a space of its own. */
bool snapshot_is_hidden(const Snapshot *snapshot);

const struct SnapshotDisk *snapshot_disk(const Snapshot *snapshot,
                                         unsigned disk_id); /* NULL: none */

/*
 * The list: those that exist, oldest first. Any thread; copies are given out.
 * Hidden ones are passed over, but where it says so.
 */
typedef struct SnapshotList SnapshotList;

SnapshotList *snapshot_list_new(void);
void snapshot_list_free(SnapshotList *list);
/* Replaces one of the same id. */
void snapshot_list_put(SnapshotList *list, const Snapshot *snapshot);
void snapshot_list_remove(SnapshotList *list, uint64_t id);
unsigned snapshot_list_count(SnapshotList *list);
/* False: there is none. @snapshot may be NULL. */
bool snapshot_list_at(SnapshotList *list, unsigned index, Snapshot *snapshot);
/* A hidden one as well. */
bool snapshot_list_get(SnapshotList *list, uint64_t id, Snapshot *snapshot);
/* Only those that are hidden. */
bool snapshot_list_hidden_at(SnapshotList *list, unsigned index,
                             Snapshot *snapshot);
bool snapshot_list_find(SnapshotList *list, const char *name,
                        Snapshot *snapshot);
/* The oldest of those that are younger than @id. */
bool snapshot_list_next(SnapshotList *list, uint64_t id, Snapshot *snapshot);
/* The youngest; the youngest that is uploaded. */
bool snapshot_list_latest(SnapshotList *list, Snapshot *snapshot);
bool snapshot_list_uploaded(SnapshotList *list, Snapshot *snapshot);

/*
 * Records (snapshot-record.c)
 */
char *snapshot_format(const Snapshot *snapshot, const uint8_t uuid[16],
                      size_t *len);
/* NULL, or what is wrong. */
const char *snapshot_parse(const char *text, size_t len, const uint8_t uuid[16],
                           Snapshot *snapshot);

/*
 * In the store (store-snapshots.c)
 */

/* Of an opening: all records into Store.snapshots, and, unless it is opened to
 * read only, all points into the disks' Points, those of snapshots that are
 * being deleted as not live. Never fails for damage: that is said, and marks
 * what it is about. */
gboolean store_snapshots_open(Store *store, GError **error);
/* At the begin of a serve: files that no record speaks of are deleted. */
void store_snapshots_tidy(Store *store);
void store_snapshots_close(Store *store);

/* One that is being made. */
typedef struct SnapshotDraft {
    Snapshot snapshot;              /* id, name, reason, disks are set */
    Point *points[STORE_DISKS_MAX]; /* by Disk.index; the instant takes them */
} SnapshotDraft;

/* A name that is valid and free, or NULL: that of the present time. Its files
 * are made, durably, for all disks. NULL with @error: nothing was made. */
SnapshotDraft *store_snapshot_prepare(Store *store, const char *name,
                                      const char *reason, GError **error);
/* After the instant, when what it needs is durable (wall_us, is_frozen, blocks
 * are set): from here on it exists. Frees @draft in any case; on error the
 * caller goes on as for one that was deleted. */
gboolean store_snapshot_commit(Store *store, SnapshotDraft *draft,
                               GError **error);
/* Before the instant: it never was. Frees @draft. */
void store_snapshot_abandon(Store *store, SnapshotDraft *draft);
/* A whole cut was exactly this. */
void store_snapshot_uploaded(Store *store, uint64_t id, uint64_t cut);
/* Its record says that it is gone, durably, and it leaves the list. */
gboolean store_snapshot_drop(Store *store, uint64_t id, GError **error);

/* Of one that is gone, and whose points are no longer live: gives the place of
 * what nobody resolves to back, a slice at a time. Work on a point's place in
 * the chain is the writer's: @remove(user, disk, id) gets points_remove() called
 * by it, and returns what that did. */
struct SnapshotReap {
    Point *(*remove)(void *user, Disk *disk, uint64_t id);
    bool (*is_stopping)(void *user);
    void *user;
};
enum SnapshotReaped {
    SNAPSHOT_REAPED,  /* nothing is left of it */
    SNAPSHOT_NEEDED,  /* the rest is, by older ones; again after one of those is
                         deleted */
    SNAPSHOT_IN_USE,  /* somebody reads there: again soon */
    SNAPSHOT_STOPPED, /* it was asked to, or an error: again at the next serve */
};
enum SnapshotReaped store_snapshot_reap(Store *store, uint64_t id,
                                        const struct SnapshotReap *reap);
/* Those that are gone and not reaped; ids, oldest first. */
GArray *store_snapshots_gone(Store *store);

/*
 * While nobody else writes the disks: at rest, or served without a face. Blocks.
 */

/* A snapshot of the present, in one go. @made may be NULL. */
gboolean store_snapshot_now(Store *store, const char *name, const char *reason,
                            Snapshot *made, GError **error);
/* Dropped, and its room and that of others that only it needed given back. */
gboolean store_snapshot_delete_now(Store *store, uint64_t id, GError **error);
enum SnapshotReaped store_snapshot_reap_now(Store *store, uint64_t id);

/* Room that copies for snapshots take on the host now, all disks; any thread. */
uint64_t store_snapshots_bytes(Store *store);
