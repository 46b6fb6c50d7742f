/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-internal.h - what the face's own files share
 *
 * Purpose: our own request type, the face's disks, and the functions that
 *          the files of the face have for each other.
 * Threads: everything here is the fs thread's, but for what says otherwise.
 * Units:   bytes; *_us monotonic microseconds.
 * Shapes:  a request lives in one of FACE_SLOTS slots; its buffer is
 *
 *            0        4016 4096                        4096 + 1 MiB + 8 KiB
 *            | head block | data (a WRITE's payload lands here) | tail block |
 *
 *          The kernel's request is read to offset 4016, so that the payload
 *          of a WRITE is aligned and O_DIRECT needs no copy. Once it is
 *          decoded the first 4096 bytes serve as the head block of a
 *          read-modify-write.
 */
#pragma once

#include "bitmap/disk-map.h"
#include "bitmap/intent.h"
#include "face-awake.h"
#include "face-copies.h"
#include "face-node.h"
#include "face.h"
#include "zero-list.h"

#include <liburing.h>
#include <sys/statvfs.h>

#define FACE_MAX_WRITE      (1u << 20)
#define FACE_MAX_BACKGROUND 64
/* Beyond what the kernel sends in the background: plain reads and writes of
 * any number of threads, look-ups, and so on. When all are taken the rest
 * waits in the kernel, which costs nobody anything. */
#define FACE_SLOTS     (FACE_MAX_BACKGROUND + 16)
#define FACE_BLOCK_MAX 4096
#define FACE_DATA_ROOM (FACE_MAX_WRITE + 2 * FACE_BLOCK_MAX)
#define FACE_BUFFER    (FACE_BLOCK_MAX + FACE_DATA_ROOM + FACE_BLOCK_MAX)
/* Completions, and requests, taken before what they ask for is submitted. */
#define FACE_BATCH    4
#define FACE_OVERLAYS 4

enum FaceOp {
    FACE_LOOKUP,
    FACE_GETATTR,
    FACE_SETATTR,
    FACE_OPEN,
    FACE_RELEASE,
    FACE_READ,
    FACE_WRITE,
    FACE_FLUSH,
    FACE_FSYNC,
    FACE_FALLOCATE,
    FACE_LSEEK,
    FACE_STATFS,
    FACE_READDIR,
    FACE_IOCTL,
    FACE_OPENDIR,
    FACE_RELEASEDIR,
    FACE_FSYNCDIR,
    FACE_READLINK,
    FACE_MKDIR,
    FACE_RMDIR,
    FACE_FORBIDDEN, /* other changes of names */
    FACE_OPS
};

/* What SETATTR may change; FACE_SET_* say which members count. */
enum {
    FACE_SET_MODE = 1,
    FACE_SET_UID = 2,
    FACE_SET_GID = 4,
    FACE_SET_SIZE = 8,
    FACE_SET_ATIME = 16,
    FACE_SET_MTIME = 32,
    FACE_SET_ATIME_NOW = 64,
    FACE_SET_MTIME_NOW = 128,
    FACE_SET_BY_HANDLE = 256, /* through an open file */
};

struct FaceUring;
struct fuse_in_header;
struct FaceQuiesce;
struct FaceCool;
typedef struct FaceCutMsg FaceCutMsg;
typedef struct FaceInstant FaceInstant;

/* What a slot's requests come through, and go back. */
struct FaceWay {
    /* Reply, and end the request; @error is a positive errno or 0. */
    void (*send)(FaceReq *req, int error, const void *head, size_t head_len,
                 const void *data, size_t data_len);
    void (*drop)(FaceReq *req); /* end a request that wants no reply */
};

/* Somebody who needs hot extents, see face-heat.c. */
typedef struct FaceHeatWait FaceHeatWait;
struct FaceHeatWait {
    FaceHeatWait *next;
    uint64_t offset, len;  /* bytes to be written */
    struct ClusterRun run; /* extents that the commit heats for them */
    /* 0: they are hot now, try again. Else -errno. */
    void (*go_on)(FaceHeatWait *wait, int error);
};

struct FaceReq {
    InboxMsg msg;          /* into the fs thread's inbox: granted, answered */
    Face *face;            /* set at creation */
    unsigned char *buffer; /* set at creation, FACE_BUFFER bytes */
    const struct FaceWay *way; /* set at creation */
    uint64_t commit_id;        /* face-uring.c's own */
    FaceReq *next_free;
    FaceReq *next_waiting; /* gate, zero waiters, syncs */

    /* What is asked. */
    enum FaceOp op;
    uint64_t unique;
    uint64_t node;
    uint64_t offset;
    uint64_t len;
    uint64_t fh;
    int mode;         /* fallocate's mode, lseek's whence, open's flags */
    uint32_t command; /* ioctl */
    unsigned set;     /* FACE_SET_* */
    struct FaceAttr attr;
    const char *name;    /* of an entry: NUL-terminated, in the buffer */
    unsigned char *data; /* WRITE: the payload; READ: room for the answer */

    /* How it goes on. */
    FaceDisk *disk;
    RangeHold hold;
    FaceHeatWait heat;
    FaceAsideWait aside;
    void (*go_on)(FaceReq *req); /* the hold is ours, the record written */
    uint64_t record_version;     /* of the zero list that must be written */
    FaceIo io[2];
    unsigned io_pending;
    int error;          /* first one, -errno */
    uint64_t io_offset; /* the aligned range that is read or written */
    uint64_t io_len, io_done;
    struct ZeroRange overlay[FACE_OVERLAYS]; /* reads as zero (rule 25) */
    unsigned n_overlay;
    bool is_writer;  /* counted in disk->writers */
    bool is_holding; /* counted in disk->holding[epoch] */
    unsigned epoch;
    int64_t seek_result;
    uint64_t shown;               /* the node whose attributes are the answer */
    uint64_t measure;             /* ... what had to be asked for them */
    bool (*help)(FaceReq *req);   /* the helper's: a slice of it; is it done? */
    void (*helped)(FaceReq *req); /* it is, on the fs thread */
    struct ZeroRange edge[2];     /* parts of clusters to punch at once */
    unsigned n_edge;

    /* Of a snapshot's file: which, and where the part is that is being read. */
    uint64_t snapshot, other; /* other: only what differs from it; 0: all */
    Point *point;             /* in whose file; NULL: on the disk */
};

/* The disk's intent file. At most one write of a page is in flight. */
#define FACE_HEAT_PAGES 16
typedef struct FaceHeat FaceHeat;
struct FaceHeatPage {
    FaceIo io;
    FaceHeat *heat;
    uint64_t number;
    bool is_busy;
};
struct FaceHeat {
    int fd;               /* if there are pages */
    unsigned char *pages; /* NULL: the disk is not tracked */
    struct FaceHeatPage slots[FACE_HEAT_PAGES];
    unsigned in_flight;
    FaceHeatWait *waiting, *waiting_tail;
    FaceHeatWait *committing; /* a commit is under way */
    uint64_t next_page;       /* ... which has written those before */
    int error;                /* ... -errno of a page of it */
    unsigned group;           /* extents heated at a time, a power of two */
    int64_t last_us;          /* the last commit began */
    int64_t ended_us;         /* ... and ended */
    unsigned held_up;         /* commits in a row that took much of the time */
    uint64_t last_end;        /* extent behind what it heated */
    struct FaceCool *cool;
};

/* What an instant still waits for on a disk, see face-instant.c. */
enum FaceInstantStep {
    FACE_INSTANT_NONE,
    FACE_INSTANT_DRAIN,
    FACE_INSTANT_SYNC,
    FACE_INSTANT_DONE,
};

/* A disk as the face serves it. */
struct FaceDisk {
    Face *face;
    Disk *disk;
    unsigned fixed; /* of disk->fd in the ring */
    bool can_punch;

    /* Rule 25: zeroed, not yet punched, and what happens to it. One slice is
     * punched at a time; one record is written at a time. */
    ZeroList zeroes;
    int zeroes_fd;
    struct ZeroRange slice; /* being punched */
    FaceIo punch;
    RangeHold punch_hold;
    InboxMsg punch_msg;
    FaceHeatWait punch_heat;
    FaceAsideWait punch_aside;
    bool is_punching;
    bool has_said;         /* that it fails */
    FaceReq *zero_waiting; /* dispatched again when a slice is punched */
    FaceIo record;
    unsigned char *record_page;
    bool is_recording;
    bool is_recording_twice; /* the second slot */
    uint64_t record_sequence;
    uint64_t record_version;  /* of the list in record_page */
    uint64_t written_version; /* of the list in the file */
    uint64_t durable_version; /* ... that a sync has covered */
    FaceReq *record_waiting;  /* go on when their version is written */
    bool slice_waits;         /* so does the slice */
    uint64_t slice_version;

    /* One FSYNC at a time; the others wait their turn. */
    FaceReq *syncing, *sync_waiting;
    FaceIo sync[2];
    unsigned sync_pending;
    int sync_error;
    uint64_t sync_version;

    FaceHeat heat;
    FaceAside aside;
    FacePoints points;

    /* Writes that hold their range, by the parity of the instants before they
     * got it: what was in flight at the last one is holding[!epoch]. */
    unsigned epoch;
    unsigned holding[2];
    enum FaceInstantStep instant_step;
    FaceIo instant_io;

    /* Resizing: writers wait at the gate until the ones inside are out. */
    unsigned writers;
    bool is_gated;
    FaceReq *gate, *gate_tail;
    struct FaceQuiesce *quiesce;
};

enum FaceMsgKind {
    FACE_MSG_GRANTED,       /* a FaceReq's hold */
    FACE_MSG_PUNCH_GRANTED, /* a FaceDisk's punch_hold */
    FACE_MSG_HELPED,        /* a FaceReq back from the helper */
    FACE_MSG_ANSWER,        /* a FaceNote */
    FACE_MSG_QUIESCE,       /* a FaceQuiesce */
    FACE_MSG_COOL,          /* a FaceCool */
    FACE_MSG_HURRY,
    FACE_MSG_ASIDE_GRANTED, /* a FaceAsideOp's hold */
    FACE_MSG_CUT,           /* a FaceCutMsg */
    FACE_MSG_CUT_END,       /* a FaceCutEnd; freed */
    FACE_MSG_BETWEEN,       /* a FaceBetween */
    FACE_MSG_INSTANT,       /* a FaceInstant */
    FACE_MSG_SNAP_PINNED,   /* a FaceReq's hold, of a snapshot's reader */
    FACE_MSG_LEAVE,
    FACE_MSG_STOP,
};

/* Generated files: the text that an open handle reads. */
#define FACE_TEXTS 16
struct FaceText {
    uint64_t fh; /* 0: free */
    char *text;
    size_t len;
};

#define FACE_LOG_NOTES 8 /* beside one for each slot */
#define FACE_CUT_NOTES 4 /* ... and for each disk */
#define FACE_LOG_BYTES 320
struct FaceSlotNote {
    FaceNote note;
    FaceReq *req; /* who waits for the answer, or NULL */
    bool is_used;
    char line[FACE_LOG_BYTES];
};

struct FaceCounters {
    _Atomic uint64_t read_requests, write_requests, sync_requests;
    _Atomic uint64_t punch_requests, read_bytes, written_bytes;
    _Atomic uint64_t rmw_requests, inflight, errors;
    _Atomic uint64_t intent_writes;
    _Atomic uint64_t aside_clusters, aside_waits;
    _Atomic uint64_t point_clusters, point_commits;
    _Atomic uint64_t starved;      /* writers that wait for room now */
    _Atomic uint64_t starvations;  /* ... times that one began to */
    _Atomic uint64_t throttled_us; /* ... and how long, when it was over */
    _Atomic uint64_t refused;      /* writers that got ENOSPC after it */
    _Atomic uint64_t slowed; /* writes that were, before it came to that */
};

struct Face {
    /* set at creation */
    struct FaceConfig config;
    FaceDisk *disks;
    unsigned n_disks;
    unsigned char *buffers;
    pthread_t thread, helper;
    bool is_started;

    /* any thread */
    Inbox inbox;
    InboxMsg hurry_msg;
    atomic_bool is_hurried; /* hurry_msg is in the inbox */
    Inbox helps;            /* to the helper thread */
    struct FaceCounters count;

    /* fs thread */
    struct io_uring ring;
    struct FaceUring *uring; /* NULL: /dev/fuse and nothing else */
    _Atomic bool is_uring;   /* requests come through it */
    bool is_polling;         /* a poll of the FUSE fd is in the ring */
    bool is_inboxed;         /* a poll of the inbox is in the ring */
    bool is_ended;           /* nothing more is taken: the kernel has let go of
                             the session, or face_leave() asked */
    bool is_leaving; /* ... the latter: somebody else punches the rest */
    InboxMsg leave_msg;
    FaceCutMsg *cut;      /* to be made, see face-cut.c */
    FaceInstant *instant; /* under way, see face-instant.c */
    FaceAwake awake;
    bool is_timing;         /* a timer is in the ring */
    uint64_t point_bytes;   /* room that points have on the host ... */
    int64_t point_bytes_us; /* ... looked at then */
    bool is_stopping;       /* face_free() asked */
    unsigned io_inflight;   /* storage requests in the ring */
    FaceReq slots[FACE_SLOTS];
    FaceReq *free_slots;
    unsigned n_free;
    struct FaceSlotNote *notes;
    unsigned n_notes;
    unsigned lost_logs; /* lines dropped because no note was free */
    struct FaceText texts[FACE_TEXTS];
    uint64_t next_fh;
    size_t last_text_len[2];

    /* start-up hand-shake and quiesce, guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int start_result; /* 1: not yet, 0 or -errno */
};

struct FaceQuiesce {
    InboxMsg msg;
    FaceDisk *disk;
    void (*work)(void *user);
    void *user;
    bool is_done; /* guarded by face->lock */
};

struct FaceCutMsg {
    InboxMsg msg;
    Face *face;
    struct FaceCut *cut;
    bool is_made, is_done; /* guarded by face->lock */
};

struct FaceBetween {
    InboxMsg msg;
    Face *face;
    void (*work)(void *user);
    void *user;
    bool is_done; /* guarded by face->lock */
};

struct FaceInstant {
    InboxMsg msg;
    Face *face;
    struct FaceSnapshot *snapshot;
    int error;    /* first one, -errno */
    bool is_done; /* guarded by face->lock */
};

struct FaceCutEnd {
    InboxMsg msg;
    FaceDisk *disk;
};

struct FaceCool {
    InboxMsg msg;
    FaceDisk *disk;
    const Bitmap *candidates;
    Bitmap *cooled;
    bool is_begun;
    uint64_t next_page;
    bool is_done; /* guarded by face->lock */
};

/* face.c */
int64_t face_now_us(void);
void face_submit(Face *face, FaceIo *io, void (*done)(FaceIo *, int));
struct io_uring_sqe *face_get_sqe(Face *face);
FaceDisk *face_disk_of(Face *face, uint64_t node);

/* face-slots.c */
void face_slots_init(Face *face);
FaceReq *face_req_take(Face *face); /* a free slot, or NULL */
void face_req_free(FaceReq *req);
unsigned char *face_buffers_new(unsigned n_slots);
/* A request has arrived in @req: its header, @len bytes behind the header at
 * @arg. The payload of a WRITE lies at FACE_BLOCK_MAX. */
void face_take(FaceReq *req, const struct fuse_in_header *in, const void *arg,
               size_t len);
void face_dispatch(FaceReq *req);

/* face-notes.c: to the main thread and back */
void face_log(Face *face, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* A local sync failed: no more writes to this disk (rule 20). */
void face_freeze(FaceDisk *disk, int error);
/* Ask the main thread, about the snapshot @seq or @name; the request is called
 * back by face_answered(). */
void face_ask(FaceReq *req, enum FaceNoteKind kind, uint64_t seq,
              const char *name);
void face_note_answered(Face *face, FaceNote *note);
void face_note_ended(Face *face, int error);
/* False: there is no note now. */
bool face_note_degraded(FaceDisk *disk, int error, uint64_t seq);

/* face-dev.c: requests through /dev/fuse */
extern const struct FaceWay face_dev;
/* Read the session's next request into @req and take it: 0, -EAGAIN when there
 * is none, -ENODEV when the session is over. */
int face_dev_take(FaceReq *req);

/* face-uring.c: requests through the ring. Without a ring (config.transport)
 * these do nothing. */
extern const struct FaceWay face_uring;
void face_uring_new(Face *face);
void face_uring_free(Face *face);
unsigned face_uring_slots(const Face *face); /* beside FACE_SLOTS */
unsigned face_uring_busy(const Face *face);  /* of them, with a request */
/* Which of the flags @offered at INIT to agree to, and when INIT is answered
 * what became of it. */
uint64_t face_uring_wanted(const Face *face, uint64_t offered);
void face_uring_start(Face *face, bool is_agreed);
/* A completion whose user_data is @data: was it an entry's? */
bool face_uring_completed(Face *face, uint64_t data, int res);

/* face-ops.c: everything that is no data */
/* Answer with the attributes of @ino; with what had to be asked for them. */
void face_show(FaceReq *req, uint64_t ino);
void face_show_measured(FaceReq *req, uint64_t measure);
void face_lookup(FaceReq *req);
void face_getattr(FaceReq *req);
void face_setattr(FaceReq *req);
void face_statfs(FaceReq *req);
void face_ioctl(FaceReq *req);
void face_lseek(FaceReq *req);

/* face-helper.c: what blocks, or takes long */
int face_helper_start(Face *face);
void face_helper_stop(Face *face);
/* @help runs on the helper thread until it says that it is done, others' turns
 * in between; then @helped. */
void face_help(FaceReq *req, bool (*help)(FaceReq *),
               void (*helped)(FaceReq *));

/* face-text.c: generated files */
void face_open(FaceReq *req);
void face_release(FaceReq *req);
void face_text_read(FaceReq *req);
void face_answered(FaceReq *req, FaceNote *note);
void face_texts_free(Face *face);

/* face-io.c: the data path */
void face_read(FaceReq *req);
void face_read_disk(FaceReq *req); /* the present content of req->disk */
void face_write(FaceReq *req);
/* Take @req->hold over [@offset, @len) as @kind; @go_on runs now or when it
 * is ours. face_hold_end() marks again and gives it back. */
void face_hold(FaceReq *req, enum RangeKind kind, uint64_t offset, uint64_t len,
               void (*go_on)(FaceReq *));
void face_hold_end(FaceReq *req);
/* A hold that was parked has been granted. */
void face_hold_granted(FaceReq *req);
/* May a writer go in? If not it waits at the gate and is dispatched again. */
bool face_writer_enter(FaceReq *req);
void face_writer_leave(FaceReq *req);

/* face-heat.c */
int face_heat_open(FaceDisk *disk);
void face_heat_close(FaceDisk *disk);
/* @go_on runs when the bytes are in hot extents, or cannot be; not from here.
 * Until then the caller holds nothing of the disk's map. */
void face_heat_wait(FaceDisk *disk, FaceHeatWait *wait, uint64_t offset,
                    uint64_t len, void (*go_on)(FaceHeatWait *, int));
/* After each batch: start what waits, if nothing is under way. */
void face_heat_run(FaceDisk *disk);
bool face_heat_is_idle(const FaceDisk *disk);
void face_heat_take_cool(struct FaceCool *cool);

/* face-aside.c */
/* Does a cut still need what is in these bytes? */
bool face_aside_needs(const FaceDisk *disk, uint64_t offset, uint64_t len);
/* @go_on runs when that is kept, or is no longer needed, or cannot be; not from
 * here. Until then the caller holds nothing of the disk's map. */
void face_aside_wait(FaceDisk *disk, FaceAsideWait *wait, uint64_t offset,
                     uint64_t len, void (*go_on)(FaceAsideWait *, int error));
void face_aside_run(FaceDisk *disk); /* after each batch */
void face_aside_granted(FaceAsideOp *op);
void face_aside_begin(FaceDisk *disk, uint64_t seq); /* what was sealed */
void face_aside_end(FaceDisk *disk);
bool face_aside_is_idle(const FaceDisk *disk);
/* A copy is where it should be, or (-errno) not in its point's files. */
void face_aside_finish(FaceAsideOp *op, int error);
/* Somebody waits for room, and nothing else tells when there is some. */
bool face_aside_is_starving(const FaceDisk *disk);

/* The cut cannot be whole any more; nothing is kept for it. */
void face_aside_give_up(FaceDisk *disk, int error);

/* face-room.c */
bool face_room_has(Face *face, uint64_t bytes);  /* for one more copy */
void face_room_take(Face *face, uint64_t bytes); /* until it is seen */
/* Whoever overwrites @cluster must wait for room, or cannot. */
void face_room_refuse(FaceDisk *disk, uint64_t cluster, int error);
/* ... has one copy more. */
void face_room_found(FaceDisk *disk, uint64_t cluster);
/* Room is short, and comes back: a write that has begun to wait does so a
 * little longer. */
void face_room_slow(FaceDisk *disk, FaceAsideWait *wait);
/* It starves; for too long? */
bool face_room_is_over(const FaceDisk *disk, const FaceAsideWait *wait,
                       int64_t now_us);
void face_room_left(Face *face, FaceAsideWait *wait, int64_t now_us);

/* face-spill.c */
void face_spill_run(FaceDisk *disk);
void face_spill_empty(FaceDisk *disk); /* after a cut, when nobody is there */

/* face-points.c */
void face_points_open(FaceDisk *disk);
void face_points_close(FaceDisk *disk);
/* What op->buffer has is to be kept by op->point; face_aside_finish() follows. */
void face_points_keep(FaceAsideOp *op);
void face_points_run(FaceDisk *disk); /* after each batch */

/* face-instant.c */
void face_instant_take(FaceInstant *instant);
void face_instant_run(Face *face); /* after each batch */
void face_between_take(struct FaceBetween *between);

/* face-snap.c: what is in a snapshot's files */
void face_snap_pinned(FaceReq *req);

/* face-cut.c */
void face_cut_run(Face *face); /* after each batch */

/* face-sync.c */
void face_fsync(FaceReq *req);

/* face-zero.c */
void face_zero_open(FaceDisk *disk);
void face_zero_close(FaceDisk *disk);
void face_fallocate(FaceReq *req);
void face_zero_run(FaceDisk *disk);
void face_zero_granted(FaceDisk *disk);
/* @req's range (io_offset, io_len) has clusters on the zero list: they are
 * punched next, then @req is dispatched again. */
void face_zero_first(FaceReq *req);
