/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * loop.h - what relay.c, loop.c, disk.c and perform.c share; private to them
 *
 * Purpose: the relay's structs.
 * Threads: as each part of a struct says; the main thread sees only what is
 *          set at creation, guarded, or atomic.
 * Shapes:  per disk RELAY_OPS buffers of RELAY_OP_BYTES_MAX: anonymous memory
 *          that is touched where it is used, and given back when idle.
 */
#pragma once

#include <liburing.h>

#include "books.h"
#include "connect.h"
#include "inbox.h"
#include "mapper.h"
#include "relay.h"
#include "server.h"
#include "target.h"

#define RELAY_DISKS 4096

/* Messages to the relay thread. */
enum RelayMsgKind {
    MSG_QUIT,
    MSG_ADD,
    MSG_END,
    MSG_FORGET,
    MSG_PAUSE,
    MSG_PAUSE_JOB,
    MSG_SPEED,
    MSG_PROCEED,
    MSG_BWLIMIT,
    MSG_CONNS,
    MSG_ACCEPT,
    MSG_TRUST,
    MSG_TARGET,
    MSG_HURRY,
    MSG_CONTACT_KEPT,
    MSG_VERIFY,
    MSG_CUT,
    MSG_ALLOW,
    MSG_PINNED,    /* a struct RelaySlot */
    MSG_MAPPED,    /* a struct MapRequest */
    MSG_CONNECTED, /* a struct ConnectResult */
};

typedef struct RelayDisk RelayDisk;

struct RelayMsg {
    InboxMsg msg;
    RelayDisk *disk;
    bool is_on;        /* PAUSE, CUT; ACCEPT: unflushed; VERIFY: repairs */
    uint64_t bps;      /* VERIFY, SPEED */
    uint64_t seq;      /* ALLOW ... */
    uint64_t snapshot; /* ... too */
    bool insecure;     /* ACCEPT */
    unsigned number;   /* CONNS; TARGET: which */
    enum TargetAccept accept;
    struct RateTable table;
    TargetUri *uri; /* TARGET; owned */
};

struct RelayConn {
    uint32_t epoch;
    ConnectJob *job; /* while connecting */
    int64_t connect_deadline_us;
    Target *target; /* once connected */
    bool is_armed;  /* its poll is in the ring ... */
    unsigned armed_mask;
    uint32_t poll_seq; /* of that poll; never used twice in this slot */
};

/* Local I/O for one op of the core. */
struct RelaySlot {
    InboxMsg msg; /* PINNED */
    RelayDisk *disk;
    RangeHold pin;      /* policy `cut`: nobody writes there meanwhile */
    bool is_pinned;     /* ... or waits for that */
    unsigned n_reading; /* of the two reads of a load */
    bool is_mapping;
    Point *point;         /* whose file is read, or asked about, or NULL */
    int error;            /* of the load */
    uint64_t done;        /* bytes that are in the buffer */
    struct StoreReq data; /* what is left to read of the part at `done` */
    struct StoreReq sums; /* read with it */
    uint64_t offset, len; /* asked by the core */
    struct MapRequest map;
    uint64_t shared_id; /* snapshot that the buffer has there, or will; 0 */
    bool is_loading;    /* ... will */
    struct RelaySlot *waiting, *next_waiting; /* of others, for that */
};

/* Who reads the disk of one guest: its own relay, and its jobs. Relay thread. */
struct RelayGuest {
    DiskMap *map; /* its pins */
    unsigned n_disks;
    unsigned n_readers; /* as of this turn, while the guest is at work */
};

struct RelayDisk {
    Relay *relay; /* set at creation, like all up to figures */
    unsigned index;
    char *name;
    int fd, map_fd;
    uint32_t dio_align;
    DiskMap *map;
    DiskMap *pins;       /* where guests hold ranges: the same, but of a job */
    unsigned place_bits; /* the clusters of that, and of the next three */
    Aside *aside;        /* may be NULL */
    int aside_fd;
    uint64_t aside_mark;        /* puts into it that the core was told of */
    Points *points;             /* may be NULL */
    enum TargetContact contact; /* of the first core */
    bool is_in_doubt, recovers; /* ... too */
    struct RelayJobConfig job;
    uint8_t *buffers;

    bool has_target;      /* main thread only ... */
    unsigned targets_set; /* ... too: numbers relay_set_target() */

    struct RelayFigures figures; /* guarded by relay->lock ... */
    bool has_ended;              /* ... too: the main thread may forget it */

    /* relay thread only */
    struct RelayGuest *guest;
    RelayCore *core;     /* NULL: no target */
    bool is_stopping;    /* the core ends as soon as it is idle */
    bool is_ending;      /* ... and that is all; see relay_end_disk() */
    bool is_paused;      /* a job's */
    RateBucket bucket;   /* ... too */
    TargetUri *uri;      /* NULL: malformed, see barred */
    TargetUri *next_uri; /* the next target, once the core has stopped */
    unsigned set_number, target_number; /* of the last MSG_TARGET, of uri */
    char barred[RELAY_TEXT];
    Server *server;       /* of a bracket target */
    uint32_t server_life; /* counts its starts */
    enum TargetAccept accept;
    bool accept_unflushed, insecure, is_cut;
    uint64_t snapshot;     /* that is sent, or 0 ... */
    uint64_t snapshot_seq; /* ... with generations up to this one */
    struct RelayConn conns[RELAY_CONNS];
    struct RelaySlot slots[RELAY_OPS];
    RelayBooks books;            /* opened by the main thread */
    uint64_t shared_bytes;       /* copied instead of read */
    unsigned n_local;            /* local requests in flight */
    unsigned n_polls;            /* in the ring, which names this disk */
    uint64_t data_from, data_to; /* known to be data, until data_us */
    int64_t data_us;
    struct RelayActions actions;
    struct RelayEvent *events; /* a queue: head .. count */
    size_t events_head, events_count, events_room;
    bool is_ticked;    /* a TICK is due */
    bool has_memory;   /* buffers were touched ... */
    int64_t memory_us; /* ... last at */
    RateMeter meter;
    enum TargetContact told_contact;
    uint64_t told_settled;
    uint64_t target_size;
    struct RelayCoreFigures last; /* as of the last look */
    bool is_stale;                /* ... and not copied yet */
};

struct Relay {
    struct RelayConfig config; /* set at creation; run_dir is a copy */
    char *run_dir;
    Inbox inbox;
    pthread_t thread;
    bool is_running; /* main thread only */
    pthread_mutex_t lock;
    pthread_cond_t ready_cond;
    int ready;        /* guarded by lock: 1 ready, negative -errno */
    GPtrArray *disks; /* main thread only: RelayDisk */
    atomic_bool is_waiting_for_dirt;
    _Atomic uint64_t guest_requests; /* only grows */
    _Atomic uint64_t bwlimit_bps;

    /* relay thread only */
    uint64_t guest_seen;      /* of guest_requests ... */
    int64_t guest_us;         /* ... when it last changed */
    uint64_t guest_then;      /* its count when the last look began ... */
    int64_t guest_look_us;    /* ... and when that was */
    unsigned guest_eagerness; /* by that look; see guests.c */
    GHashTable *guests;       /* by their maps: RelayGuest */
    struct io_uring ring;
    Mapper *mapper;
    RelayDisk *table[RELAY_DISKS];     /* by index; NULL: free */
    RelayDisk *disks_now[RELAY_DISKS]; /* those that are there */
    unsigned n_disks;
    GPtrArray *endings; /* Server: of former targets, told to end */
    int64_t endings_us; /* when they are looked at, or killed */
    unsigned n_servers; /* ever: for their names */
    RateBucket bucket;
    struct RateTable bwlimit;
    int64_t minute_us; /* when the timetable is looked at again */
    int64_t now_us;
    int64_t dirt_us;    /* last wake for dirt */
    int64_t figures_us; /* last copy of the figures */
    bool is_paused;
    bool is_quitting;
    bool is_inbox_armed;
    bool is_woken; /* something is in the inbox */
    unsigned max_conns;
};

/* loop.c */
void *relay_loop(void *user);
int64_t relay_now_us(void);
struct io_uring_sqe *relay_sqe(Relay *relay);
enum RelayTag {
    TAG_IGNORE,
    TAG_INBOX,
    TAG_NBD,
    TAG_SERVER,
    TAG_DATA, /* the rest is local I/O: see perform-local.c */
    TAG_SUMS,
    TAG_BOOKS,
};
_Static_assert(BOOKS_REQUESTS <= 256, "slots of relay_user_data()");
uint64_t relay_user_data(enum RelayTag tag, unsigned disk, unsigned slot,
                         uint32_t seq);

/* guests.c: whose disk is read, and by how many */
void relay_guests_init(Relay *relay);
void relay_guests_deinit(Relay *relay);
void relay_guests_join(Relay *relay, RelayDisk *disk);
void relay_guests_leave(Relay *relay, RelayDisk *disk);
void relay_guests_look(Relay *relay);

/* disk.c: a disk's life, its messages, its figures */
RelayDisk *relay_disk_new(Relay *relay, const struct RelayDiskConfig *config,
                          GError **error);
/* Main thread, after the end: all that is somebody else's, or large. */
void relay_disk_close(RelayDisk *disk);
void relay_disk_free(RelayDisk *disk);
void relay_disk_begin(RelayDisk *disk);
void relay_disk_message(RelayDisk *disk, struct RelayMsg *msg);
/* Step the core with all that is there, until nothing is left to do. */
void relay_disk_pump(RelayDisk *disk);
/* End the core that was told to stop, once it is idle. */
void relay_disk_look(RelayDisk *disk, bool is_due);
/* @syncs: waits for the disk, so that more is known of the target. */
void relay_disk_end(RelayDisk *disk, bool syncs);
bool relay_disk_is_busy(const RelayDisk *disk); /* local I/O is in flight */
bool relay_disk_is_paused(const RelayDisk *disk);
int64_t relay_disk_next_us(const RelayDisk *disk);

/* perform-load.c: what the local disk has, or had when a cut was made */
void perform_map(RelayDisk *disk, const struct RelayAction *action);
void perform_mapped(RelayDisk *disk, struct MapRequest *request);
void perform_load(RelayDisk *disk, const struct RelayAction *action);
void perform_pinned(struct RelaySlot *slot);
void perform_load_done(RelayDisk *disk, enum RelayTag tag, unsigned slot,
                       int res);
uint8_t *perform_buffer(const RelayDisk *disk, unsigned op);

/* perform-place.c: where that is. Who has got a point leaves it. */
struct PerformPart {
    enum AsidePlace place; /* ZERO, RAM (then it is in the buffer), or in ... */
    int fd;
    uint64_t len;
};
uint64_t perform_snapshot(const RelayDisk *disk); /* loaded now, or 0 */
struct PerformPart perform_place_next(RelayDisk *disk, struct RelaySlot *slot,
                                      uint8_t *to);
void perform_place_ask(RelayDisk *disk, struct RelaySlot *slot);
void perform_place_mapped(RelayDisk *disk, struct RelaySlot *slot,
                          struct RelayEvent *event);
void perform_place_left(RelayDisk *disk, struct RelaySlot *slot);
void perform_snapshot_lost(RelayDisk *disk);

/* perform-share.c: what others have read */
enum PerformShare { SHARE_NONE, SHARE_COPIED, SHARE_WAITS };
enum PerformShare perform_share(RelayDisk *disk, struct RelaySlot *slot);
void perform_share_loaded(RelayDisk *disk, struct RelaySlot *slot,
                          bool is_good);
void perform_share_left(RelayDisk *disk);
/* perform-load.c again: who waited has it, or has to read it. */
void perform_load_shared(struct RelaySlot *slot, bool has_it);

/* perform-local.c: all that is local, on the ring */
void perform_submit(RelayDisk *disk, struct StoreReq *req, enum RelayTag tag,
                    unsigned slot);
void perform_books(RelayDisk *disk, const struct RelayAction *action);
void perform_local_done(RelayDisk *disk, enum RelayTag tag, unsigned slot,
                        int res);

/* perform.c: actions become I/O, I/O becomes events */
void perform_action(RelayDisk *disk, const struct RelayAction *action);
struct RelayEvent *perform_event(RelayDisk *disk, enum RelayEventKind kind);
void perform_connected(RelayDisk *disk, struct ConnectResult *result);
void perform_socket(RelayDisk *disk, unsigned conn, uint32_t poll_seq, int res);
void perform_collect(RelayDisk *disk); /* answers and losses to events */
void perform_deadlines(RelayDisk *disk);
void perform_arm(RelayDisk *disk);
int64_t perform_next_us(const RelayDisk *disk);
void perform_drop_all(RelayDisk *disk);
void perform_server_died(RelayDisk *disk, uint32_t life);
/* Its poll; nobody waits for its death any more. */
void perform_server_left(RelayDisk *disk);
