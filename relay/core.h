/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core.h - the relay's decisions for one disk: a pure step function
 *
 * Purpose: what to send next, over which connection, when to flush, what is
 *          settled by that, when to retry, whether the target may be written
 *          at all. Events in, actions out: no I/O, no clock, no threads, no
 *          payload bytes, so that a seeded simulation can run it for millions
 *          of steps.
 * Threads: the relay thread's (or the simulation's). Calls the disk's DiskMap,
 *          whose lock is taken inside; nothing else is shared.
 * Units:   bytes, monotonic microseconds (now_us comes with every step),
 *          clusters where it says so.
 * Shapes:  an *op* is one run of clusters on its way: at most
 *          RELAY_OP_BYTES_MAX of data, or RELAY_ZERO_BYTES_MAX that read as a
 *          hole; it lives in a slot 0 .. RELAY_OPS - 1 whose number names the
 *          loop's buffer. A *conn* is a slot 0 .. RELAY_CONNS - 1; each
 *          connection made in it has a new epoch. Events and actions that
 *          name a conn carry the epoch; stale ones are dropped by either side.
 * Errors:  the target's errors become state; they never leave the relay.
 * Source:  rules 2, 4, 5, 8, 26, 29; NBD protocol for flush and multi-conn.
 *
 * Life of an op:
 *
 *   MAP -------> READ -----> WAIT (log, tokens, window) --> SEND --> ACKED
 *    | hole       | equal      ^                                      | flush
 *    |            v by its sum |                                      v
 *    |          settled        |                             [VERIFY] -> settled
 *    +--> STATUS (zero there?)-+
 *           | yes: nothing to send, ACKED
 *
 * Before a byte of a run leaves, the run is durably in the sent-log; it leaves
 * that when it is settled and its new sums are durable (core-log.c).
 *
 * A run in which something fails goes back to dirty (it never stopped being
 * dirty in the DiskMap); if the connection died with a write of it
 * unanswered, it is in doubt: it waits out the quarantine, is rewritten,
 * flushed, read back, and only then settled.
 */
#pragma once

#include "bitmap/disk-map.h"
#include "rate.h"

#define RELAY_OPS             128
#define RELAY_CONNS           16
#define RELAY_OP_BYTES_MAX    (2u << 20)
#define RELAY_ZERO_BYTES_MAX  (1u << 30)
#define RELAY_OP_CLUSTERS_MAX (RELAY_OP_BYTES_MAX >> 12)
#define RELAY_TEXT            160

typedef struct RelayCore RelayCore;

/* What a connected target says of itself (NBD transmission flags and limits).*/
struct TargetCaps {
    uint64_t size_bytes;
    bool is_read_only;
    bool can_flush;
    bool can_fua;
    bool can_zero;
    bool can_trim;
    bool can_multi_conn;
    bool has_block_status; /* base:allocation was negotiated */
    uint32_t min_block;    /* 1 when unknown */
    uint32_t max_payload;  /* largest WRITE or READ; 32 MiB when unknown */
    bool is_new_process;   /* first connection to a server that this daemon
                              started: nothing that it sent before can execute
                              any more. False on later ones */
};

/* How the target was accepted; kept in the store's state by the caller. */
enum TargetContact {
    CONTACT_NONE,  /* never written by us: look before the first write */
    CONTACT_KNOWN, /* we wrote it: read-back of clean clusters must match */
    CONTACT_LOST,  /* nobody remembers: KNOWN if the sums say so, else NONE */
};

enum TargetAccept {
    ACCEPT_EMPTY,     /* default: refused at first contact if it shows data */
    ACCEPT_OVERWRITE, /* make it equal */
    ACCEPT_SAME,      /* it holds a copy: compare, send only what differs */
};

struct RelayCoreConfig {
    DiskMap *map;
    RateBucket *bucket; /* shared by all disks of the store; borrowed */
    uint64_t seed;      /* of the jitter */
    enum TargetContact contact;
    enum TargetAccept accept;
    bool accept_unflushed; /* the user says a server without flush is safe */
    const Bitmap *logged;  /* what the sent-log held at the start, or NULL */
    bool is_in_doubt;      /* uploads of an earlier life may still come: what
                              is logged is rewritten and read back */
    bool recovers;         /* more is dirty than differs: compare it with its
                              sums, also while there is no target */
    bool is_cut;           /* somebody else seals, and says what may be sent */
    bool is_job;           /* these four as in struct RelayJobConfig */
    bool is_exact, is_zero, keeps_zeroes;
    bool halts; /* at an error of the target's, or the local disk's */
    uint64_t window_bytes; /* at most in flight, but one op; 0: no limit */
    unsigned max_conns;    /* 1 .. RELAY_CONNS */
    int64_t settle_us;     /* settle interval, 1 s */
    int64_t deadline_us;   /* of a request, 15 s; quarantine is 4 times that */
    int64_t connect_deadline_us;            /* 10 s */
    int64_t backoff_min_us, backoff_max_us; /* 250 ms, 60 s */
};

/*
 * Events
 */
enum RelayEventKind {
    RELAY_TICK,         /* time went on, or the guest dirtied something */
    RELAY_LINK_UP,      /* conn; caps */
    RELAY_LINK_LOST,    /* conn; text. Also: connect failed or timed out */
    RELAY_LINK_BARRED,  /* conn; text: the loop refuses to connect (TLS rule,
                           bad URI ...): only the user can mend it */
    RELAY_MAPPED,       /* op; len, is_hole: the extent at the op's offset */
    RELAY_MAP_FAILED,   /* op; the local disk: treated as data */
    RELAY_READ,         /* op; local read is in the buffer; zero[], known[],
                           equal[] are set */
    RELAY_READ_FAILED,  /* op; error: local */
    RELAY_ACKED,        /* op, conn: one SEND_* of the op was acknowledged */
    RELAY_FAILED,       /* op, conn, error, text: ... was answered by an error;
                           the connection lives */
    RELAY_FLUSHED,      /* conn */
    RELAY_FLUSH_FAILED, /* conn, error, text */
    RELAY_STATUS,       /* op, conn; len, is_zero: extent at the offset asked */
    RELAY_COMPARED,     /* op, conn; is_equal */
    RELAY_LOGGED,       /* the sent-log holds what was logged at RELAY_LOG */
    RELAY_LOG_FAILED,   /* error, text */
    RELAY_NOTED,        /* op; error 0, or the sums were not written */
    RELAY_SYNCED,       /* error 0: sums noted before RELAY_SYNC are durable */
    RELAY_FORGOTTEN,    /* error 0: no sum is believed any more, durably */
    RELAY_EVENT_KINDS
};

struct RelayEvent {
    enum RelayEventKind kind;
    unsigned conn;
    uint32_t epoch;
    unsigned op;
    uint64_t len;
    bool is_hole, is_zero, is_equal;
    int error; /* positive errno */
    struct TargetCaps caps;
    /* RELAY_READ: bit i: cluster i of the op is all zeroes; there is a sum of
     * what the target holds there; that is the content which was read */
    uint64_t zero[RELAY_OP_CLUSTERS_MAX / 64];
    uint64_t known[RELAY_OP_CLUSTERS_MAX / 64];
    uint64_t equal[RELAY_OP_CLUSTERS_MAX / 64];
    char text[RELAY_TEXT];
};

/*
 * Actions. Each is answered by the event named, exactly once, or by the
 * RELAY_LINK_LOST of its connection (never by both).
 */
enum RelayActionKind {
    RELAY_CONNECT,     /* conn, epoch -> LINK_UP, LINK_LOST, LINK_BARRED */
    RELAY_DISCONNECT,  /* conn, epoch: drop it now. No answer: all that was in
                          flight on it is forgotten by the loop */
    RELAY_MAP,         /* op, offset, len -> MAPPED, MAP_FAILED */
    RELAY_LOAD,        /* op, offset, len -> READ, READ_FAILED: local read into
                          the op's buffer, and the sums of the clusters */
    RELAY_LOG,         /* -> LOGGED, LOG_FAILED: what relay_core_logged() says
                          now, durably into the sent-log */
    RELAY_NOTE,        /* op, offset, len -> NOTED: the sums of what was loaded
                          (is_zero_run: "unknown") into remote-sums */
    RELAY_SYNC,        /* -> SYNCED: remote-sums durable */
    RELAY_FORGET,      /* -> FORGOTTEN: all of remote-sums unknown */
    RELAY_SEND_DATA,   /* op, conn, offset, len, buf_offset -> ACKED, FAILED */
    RELAY_SEND_ZERO,   /* op, conn, offset, len -> ACKED, FAILED: WRITE_ZEROES*/
    RELAY_SEND_TRIM,   /* op, conn, offset, len -> ACKED, FAILED: TRIM */
    RELAY_SEND_STATUS, /* op, conn, offset, len -> STATUS, FAILED */
    RELAY_SEND_COMPARE, /* op, conn, offset, len, buf_offset -> COMPARED,
                          FAILED: NBD READ, compared with the op's buffer
                          (is_zero_run: with zeroes; is_sum: its hash with the
                          sum of the cluster) */
    RELAY_SEND_FLUSH,   /* conn -> FLUSHED, FLUSH_FAILED */
    RELAY_ACTION_KINDS
};

struct RelayAction {
    enum RelayActionKind kind;
    unsigned conn;
    uint32_t epoch;
    unsigned op;
    uint64_t offset;
    uint64_t len;
    uint64_t buf_offset;
    bool is_zero_run;
    bool is_sum;
    bool is_fua;         /* SEND_DATA, SEND_ZERO: with NBD_CMD_FLAG_FUA */
    bool keeps_room;     /* SEND_ZERO: with NBD_CMD_FLAG_NO_HOLE */
    int64_t deadline_us; /* absolute; the loop reports LINK_LOST when an NBD
                            action is unanswered then */
};

/* A growing list; cleared by the performer. */
struct RelayActions {
    struct RelayAction *list;
    size_t count, room;
};

RelayCore *relay_core_new(const struct RelayCoreConfig *config);
void relay_core_free(RelayCore *core);

/* One step. @event may be NULL (same as TICK). */
void relay_core_step(RelayCore *core, int64_t now_us,
                     const struct RelayEvent *event,
                     struct RelayActions *actions);

/* When the next RELAY_TICK is due, INT64_MAX if only events matter. */
int64_t relay_core_next_us(const RelayCore *core);

/* Policy `cut`, or none. Followed by a TICK, and so is allow: the sealed
 * generations up to @seq may be sent. */
void relay_core_set_cut(RelayCore *core, bool is_cut);
void relay_core_allow(RelayCore *core, uint64_t seq);
/* The user's word. Each is followed by a TICK. Who resumes wants to see
 * something happen: a target that was refused is tried again at once. */
void relay_core_pause(RelayCore *core, bool pause);
/* The guest is at work: read the local disk with restraint. What the relay has
 * queued there is what a request of the guest's waits for. @parts: of the time,
 * one of which is this core's; at least 2, or 0 while the guest is silent. */
void relay_core_yield(RelayCore *core, unsigned parts);
/* The guest overwrites @cluster while it is owed, and what was there is at hand: to
 * be sent before the others, if it may be. Followed by a TICK. Nothing depends on
 * hints; one that is not wanted is dropped. */
bool relay_core_wants_hint(const RelayCore *core);
void relay_core_hint(RelayCore *core, uint64_t cluster);
/* Does it read the local disk, or rest from that? */
bool relay_core_is_reading(const RelayCore *core, int64_t now_us);
/* After a halt: go on, and try again what failed. Followed by a TICK. */
void relay_core_proceed(RelayCore *core);
/* Seal soon and do not wait for the settle interval: somebody waits. */
void relay_core_hurry(RelayCore *core);
/* New limits or permission; a refused target is tried again at once. Another
 * @accept than before is the user's word, as relay_core_trust() is. */
void relay_core_set(RelayCore *core, unsigned max_conns,
                    enum TargetAccept accept, bool accept_unflushed);
/* The user said target-accept (again): a target that was refused because it is
 * not what was written there counts as one never seen. */
void relay_core_trust(RelayCore *core);
/* Another target: everything is dirty, first contact again. */
void relay_core_retarget(RelayCore *core, enum TargetAccept accept,
                         int64_t now_us);
/* The contact of figures (KNOWN) is kept: nothing is written to a target before
 * the store remembers that it is ours. Followed by a TICK. */
void relay_core_contact_kept(RelayCore *core);
/* Compare what is clean with the target, from the start of the disk on; what
 * differs is counted, and if it @repairs made dirty. @bps: 0 no limit. Not of a
 * job, where what is clean may be anything at the target. */
void relay_core_verify(RelayCore *core, bool repairs, uint64_t bps);
/* Clusters whose upload began and is not settled, or may have: what the
 * sent-log has to hold. */
const Bitmap *relay_core_logged(const RelayCore *core);
/* At the end, with nothing in flight: the same into @into, less what leaves if
 * the sums noted so far are durable. */
void relay_core_last_log(const RelayCore *core, bool sums_are_durable,
                         Bitmap *into);
/* No new ops; connections are dropped. What is dirty stays dirty. */
void relay_core_stop(RelayCore *core);
/* Is nothing in flight (so that the loop may go)? */
bool relay_core_is_idle(const RelayCore *core);

enum RelayLink {
    RELAY_OFFLINE, /* waits for the back-off */
    RELAY_CONNECTING,
    RELAY_CHECKING, /* rule 26 */
    RELAY_ONLINE,
    RELAY_REFUSED, /* the target is not ours to write; error says why */
    RELAY_STOPPED,
    RELAY_LINKS
};
const char *relay_link_name(enum RelayLink link);

struct RelayCoreFigures {
    enum RelayLink link;
    bool is_paused;
    enum TargetContact contact;
    unsigned conns;          /* up */
    uint64_t inflight_bytes; /* sent or loading, not settled */
    unsigned unanswered;     /* ops with a request at the target: while paused,
                            0 says that nothing will be written any more */
    uint64_t doubt_clusters;
    uint64_t window_bytes;  /* what may be in flight */
    uint64_t sent_bytes;    /* payload acknowledged, ever */
    uint64_t ahead_bytes;   /* claimed before their turn, ever */
    uint64_t settled_bytes; /* clusters settled, ever (holes count) */
    uint64_t zeroed_bytes;  /* sent as zeroes */
    uint64_t equal_bytes;   /* found equal at the target, not sent */
    uint64_t skipped_bytes; /* equal by their sums, not sent */
    uint64_t log_commits;   /* writes of the sent-log */
    bool is_recovering;     /* compares what the last end left dirty */
    bool is_cut;            /* seals nothing, sends what it is allowed */
    struct {
        bool is_halted; /* until relay_core_proceed() */
        bool is_read;   /* the local disk; else the target */
        int error;      /* positive errno */
        unsigned count; /* of halts, ever */
    } halt;
    struct {
        bool is_active;
        unsigned done; /* walks that reached the end of the disk */
        uint64_t cursor_bytes, compared_bytes, passed_bytes, other_clusters,
            unread_clusters;
    } verify;                 /* of the last walk */
    uint64_t resent_clusters; /* sent again after a failure */
    uint64_t connects, losses, errors, flushes;
    int64_t rtt_us;         /* smallest of late, 0 unknown */
    int64_t retry_us;       /* next attempt, when OFFLINE or REFUSED */
    char error[RELAY_TEXT]; /* last one, in words; empty if none */
};
void relay_core_figures(const RelayCore *core,
                        struct RelayCoreFigures *figures);
