/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face.h - the FUSE face of a store: the fs thread
 *
 * Purpose: serves /dev/fuse for one mount: takes requests in batches, submits
 *          their storage I/O in one go, replies from completions, marks the
 *          dirty bitmaps.
 * Threads: face_* functions are the main thread's, face_cool() the
 *          keeper's. `notify` and `dirtied` run
 *          on the fs thread and may only pass the news on.
 * Units:   bytes.
 * Shapes:  inode numbers are derived, see face-node.h (rule 35).
 * Errors:  setup: gboolean + GError; a request's error is the guest's errno.
 */
#pragma once

#include "relay/inbox.h"
#include "store.h"

typedef struct Face Face;

enum FaceNoteKind {
    FACE_NOTE_STATUS,   /* wants status.json: text, len; to be answered */
    FACE_NOTE_METRICS,  /* wants metrics: likewise */
    FACE_NOTE_ATTR,     /* disk->attr changed: save the state; answered with
                          error 0 or -errno */
    FACE_NOTE_ENDED,    /* unmounted, nothing in flight; not answered */
    FACE_NOTE_LOG,      /* text is a line for the log; answered (to free it) */
    FACE_NOTE_DEGRADED, /* disk, error, seq: old content could not be kept aside,
                           so the cut under way cannot be whole; answered */
    FACE_NOTE_FROZEN, /* disk: a sync failed, writes are refused; not answered*/
    /* Of .snapshots in the mount; each answered with error 0 or -errno. */
    FACE_NOTE_SNAPSHOT_CREATE, /* text: its name, the face's buffer */
    FACE_NOTE_SNAPSHOT_DELETE, /* seq: its id */
    FACE_NOTE_SNAPSHOT_INFO,   /* seq: its id; wants info.json: text, len */
};

/* From the fs thread to the main thread, and back with face_answer(). */
typedef struct FaceNote {
    InboxMsg msg;
    enum FaceNoteKind kind;
    Disk *disk;
    char *text; /* answer: malloc'd, the face frees it. LOG: static buffer */
    size_t len;
    int error;
    uint64_t seq; /* the generation that was cut, or the snapshot's id */
} FaceNote;

/* How requests get here from the kernel. */
enum FaceTransport {
    FACE_TRANSPORT_DEV,   /* reads and writes of /dev/fuse: any kernel */
    FACE_TRANSPORT_URING, /* FUSE over io_uring; else DEV, and it is logged */
    FACE_TRANSPORT_AUTO,  /* likewise, and nothing is said */
};

/* How long the fs thread looks for more before it sleeps: 0 not at all. Longer
 * than a fast disk takes, and than a guest takes from one request to the next. */
#define FACE_POLL_US     50
#define FACE_POLL_US_MAX 1000

/* Does the kernel offer it to new mounts? */
bool face_uring_is_offered(void);

struct FaceConfig {
    Store *store;
    int fuse_fd; /* a mounted session's; borrowed, must outlive the face */
    uid_t uid;   /* owner shown until somebody chowns */
    gid_t gid;
    mode_t mode; /* permission bits shown until somebody chmods: 0600 */
    bool read_only;
    bool shows_snapshots; /* .snapshots is listed in the root */
    enum FaceTransport transport;
    unsigned poll_us; /* at most FACE_POLL_US_MAX */
    void (*notify)(void *user, FaceNote *note);
    void (*dirtied)(void *user); /* or read: the guest is at work */
    void *user;
};

Face *face_new(const struct FaceConfig *config);
gboolean face_start(Face *face, GError **error); /* thread is ready to serve */
void face_answer(Face *face, FaceNote *note);

/* Run @work(user) on the fs thread while no write of the disk is in flight
 * (resize); returns when it is done. It must not block for long. */
void face_quiesce(Face *face, Disk *disk, void (*work)(void *user), void *user);

/* The keeper's: what of @candidates was not written meanwhile is cold from now
 * on, in memory and in the intent file; @cooled is room for it. Waits for the
 * fs thread, so it must not be called after face_free() has begun. */
void face_cool(Face *face, Disk *disk, const Bitmap *candidates,
               Bitmap *cooled);

/* Somebody waits for discards to be carried out: try again what failed. */
void face_hurry(Face *face);
/* One cut over @disks: what is acknowledged now is in it, on all of them, what
 * is acknowledged later is not. seq[i]: the generation of disk i that was
 * sealed, 0 if nothing was dirty there. What it owes is kept aside from here
 * on. None of them may have a sealed generation. Waits for the fs thread
 * to come between two requests; false: not now (a discard is under way, or
 * there is no memory), and nothing was done. */
struct FaceCut {
    Disk *disks[STORE_DISKS_MAX];
    unsigned n_disks;
    uint64_t seq[STORE_DISKS_MAX];
    int64_t wall_us;
    /* 0, or the id of a live snapshot: what is brought is not the present but
     * that. The caller marks what was overwritten since, before and after
     * (bitmap/point-marks.h); discards may be under way; nothing is kept aside,
     * since the snapshot has it; wall_us is not set. */
    uint64_t snapshot;
};
bool face_cut(Face *face, struct FaceCut *cut);
/* The instant of a snapshot of all disks, as that of a cut; it may be called
 * while one is under way. From here on what it needs is kept, durably, before it
 * is overwritten. Waits until it can be relied on: what was acknowledged before
 * the instant, or in flight then, is durable. 0; -EAGAIN: discards are under
 * way, and nothing was done; -EIO: points[i], by Disk.index, are in the disks'
 * chains, and to be taken out as those of one that was deleted. */
struct FaceSnapshot {
    Point *points[STORE_DISKS_MAX];
    int64_t wall_us;                  /* set */
    uint64_t blocks[STORE_DISKS_MAX]; /* set: allocated then, of 512 bytes */
};
int face_snapshot(Face *face, struct FaceSnapshot *snapshot);
/* Run @work(user) on the fs thread between two requests; returns when it is
 * done. For what only the writer of a disk's Points may do. */
void face_between(Face *face, void (*work)(void *user), void *user);
/* It is over, whole or given up: nothing is kept aside any more. Returns at
 * once. */
void face_cut_end(Face *face, Disk *disk);

/* Take no more requests; FACE_NOTE_ENDED follows when what was taken is
 * answered. The session goes on, for somebody else to serve. */
void face_leave(Face *face);
/* Have the kernel queue again what a process before us took and did not
 * answer; before anything is read. 0, or -errno: it does not know how (before
 * Linux 6.9). Harmless if there is nothing. */
int face_resend(int fuse_fd);

/* After FACE_NOTE_ENDED, or to give up a session that never served. */
void face_free(Face *face);

struct FaceFigures {
    uint64_t read_requests, write_requests, sync_requests, punch_requests;
    uint64_t read_bytes, written_bytes;
    uint64_t rmw_requests;   /* writes that were not aligned to the disk */
    uint64_t inflight;       /* requests being worked on now */
    uint64_t errors;         /* I/O errors given to the guest */
    uint64_t intent_writes;  /* pages of intent files written */
    uint64_t aside_clusters; /* copied aside before a write */
    uint64_t aside_waits;    /* ... and times that no buffer was free */
    /* For want of room for old content that a snapshot needs (face-room.c): */
    uint64_t starved;      /* writers that wait now */
    uint64_t starvations;  /* times that one began to */
    uint64_t throttled_us; /* ... and how long they waited in all */
    uint64_t refused;      /* got ENOSPC after it */
    uint64_t slowed;       /* writes that were, before it came to that */
    bool is_uring;         /* the transport in use */
};
void face_figures(Face *face, struct FaceFigures *figures);
