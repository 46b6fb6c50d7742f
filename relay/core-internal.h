/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core-internal.h - what the files of the relay core share
 *
 * Purpose: core.c steps and owns the state, core-pass.c drains generations,
 *          core-ops.c lives an op, core-send.c says what of it is sent,
 *          core-slots.c counts them, core-link.c connects, core-check.c decides
 *          whether a target is ours, core-verify.c whether it holds what it
 *          should, core-doubt.c keeps quarantines, core-log.c the sent-log,
 *          core-window.c says how much may be in flight, core-ahead.c what is
 *          sent before its turn, core-job.c has what only jobs have.
 * Threads: the relay thread's.
 * Units:   bytes, microseconds, clusters.
 */
#pragma once

#include "core.h"

#include <stdarg.h>

#define CORE_NEVER     INT64_MAX
#define CORE_RATES     8
#define CORE_HOLES_MAX 8
#define CORE_SAMPLES   66
#define CORE_READBACKS 4
#define CORE_HINTS     32
/* A flush, or a sync of ours, has this part of the time between two of them. */
#define CORE_SHARE  10
#define CORE_CHECKS 16 /* slots kept for checks, and used at once */

/* States of an op; the column says which answers it waits for. */
enum OpState {
    OP_FREE,
    OP_MAPPING,   /* MAPPED */
    OP_LOADING,   /* READ */
    OP_READY,     /* nothing: a connection, tokens */
    OP_ASKING,    /* STATUS: is the hole zero at the target? */
    OP_COMPARING, /* COMPARED, before sending */
    OP_SENDING,   /* ACKED, one for each segment */
    OP_ACKED,     /* FLUSHED of its connection; only ops to be read back */
    OP_VERIFYING, /* STATUS or COMPARED */
    OP_ENDING,    /* NOTED, which its buffer has to wait for; it has failed */
};

enum OpJob {
    JOB_DRAIN,    /* bring a run to the target */
    JOB_LOOK,     /* first contact: is there data, by block status? */
    JOB_SAMPLE,   /* ... by reading */
    JOB_READBACK, /* is a clean cluster what we hold? */
    JOB_VERIFY,   /* are all of them? */
};

typedef struct Op {
    enum OpState state;
    enum OpJob job;
    struct ClusterRun run;
    uint64_t offset, len; /* of the run, in bytes */
    uint64_t cursor;      /* bytes of it asked, sent, compared so far */
    uint64_t asked;       /* bytes of the request under way */
    bool is_hole;         /* nothing in the buffer */
    bool is_ahead;        /* before its turn: its load is not the disk's */
    bool is_doubtful;     /* to be read back before it settles */
    bool has_zeroed; /* a WRITE_ZEROES of it was sent: its error may be that of
                        a target which has none */
    bool is_trimmed;
    bool is_compared;
    unsigned hops;    /* JOB_READBACK: holes passed over so far */
    bool has_failed;  /* ends when the last answer is there */
    bool is_noting;   /* NOTED is outstanding ... */
    bool is_noted;    /* ... or was there */
    bool is_answered; /* all else is there: acknowledged as soon as it comes */
    bool is_suspect;  /* was in the sent-log before: its sums say nothing */
    bool is_by_sum;   /* JOB_READBACK: there is no content to compare with */
    bool is_asked;    /* the request under way is for block status */
    unsigned pending; /* answers outstanding */
    unsigned writes;  /* ... of those to requests that change the target */
    unsigned conn;
    uint32_t epoch;
    uint64_t flush_need; /* OP_ACKED: number of the flush that covers it */
    uint64_t log_need;   /* number of the log's commit that covers it */
    unsigned sums_life;  /* of the sums that it was compared with */
    uint64_t serial;
    uint64_t cost; /* its bytes in the window */
    int64_t deadline_us;
    int64_t load_us; /* when the load began, then how long it took */
    int64_t sent_us;
    uint64_t delivered; /* window's counter when it was sent */
    int64_t delivered_us;
    uint64_t zero[RELAY_OP_CLUSTERS_MAX / 64];
    uint64_t equal[RELAY_OP_CLUSTERS_MAX / 64]; /* not to be sent */
} Op;

/* Runs that were acknowledged and wait for a flush. */
struct RunList {
    struct ClusterRun *list;
    size_t count, room;
};

enum ConnState { CONN_DOWN, CONN_CONNECTING, CONN_UP };

typedef struct Conn {
    enum ConnState state;
    uint32_t epoch;
    int64_t retry_us; /* DOWN: not before */
    int64_t backoff_us;
    int64_t deadline_us;       /* of the connect */
    uint64_t inflight_bytes;   /* of ops that are bound to it */
    unsigned n_ops;            /* ... */
    unsigned n_acked_ops;      /* of those in OP_ACKED */
    struct RunList acked;      /* since the last flush was sent */
    struct RunList flushing;   /* covered by the flush under way */
    uint64_t acked_bytes;      /* of acked */
    bool is_flushing;          /* at most one at a time */
    int64_t flush_deadline_us; /* of that one */
    int64_t flush_us;          /* when the last one was sent ... */
    int64_t flush_took_us;     /* ... and until the one before was answered */
    uint64_t flushes_sent;
} Conn;

/* How much may be in flight; see core-window.c. */
typedef struct Window {
    uint64_t bytes;
    bool is_starting; /* doubles while that helps */
    bool is_limited;  /* something waited for it in this round */
    bool is_probing;  /* kept small, to see the latency without a queue */
    unsigned flat;    /* rounds without growth */
    uint64_t best_bps;
    uint64_t rates[CORE_RATES]; /* best of each of the last rounds */
    unsigned round;
    uint64_t delivered;
    int64_t delivered_us;
    uint64_t round_mark; /* the round ends with an op sent after this */
    int64_t lat_us[2];   /* smallest of this and the last period */
    int64_t period_us;   /* when this one began */
    int64_t probe_us;    /* when the probe began */
    uint64_t zero_bytes; /* largest request for zeroes */
} Window;

/* Clusters that a lost request may still write; see core-doubt.c. */
typedef struct Doubt {
    Bitmap *frozen;  /* quarantine ends at frozen_us */
    Bitmap *growing; /* ... at growing_us, which each loss moves */
    Bitmap *ripe;    /* over: rewrite and read back */
    int64_t frozen_us, growing_us;
    int64_t inherited_us; /* of what an earlier life sent */
} Doubt;

/* The sent-log as it has to be; see core-log.c. */
typedef struct Log {
    Bitmap *logged;   /* begun, or claimed to be, and not settled for good */
    Bitmap *leaving;  /* of those: settled, their sums written */
    Bitmap *syncing;  /* ... covered by the sync under way */
    Bitmap *unnoted;  /* their sums could not be written: they stay */
    uint64_t commit;  /* number of the last one asked for ... */
    uint64_t durable; /* ... and of the last one answered */
    bool is_committing;
    bool is_stale;          /* something has left since the last commit */
    int64_t commit_us;      /* when the last one was asked for ... */
    int64_t commit_took_us; /* ... and how long the one before took */
    int64_t retry_us;       /* after a failure: not before */
    bool is_syncing;
    bool is_unsound; /* a sync failed: no later one is believed (rule 20) */
    int64_t sync_us; /* when the last one was asked for ... */
    int64_t sync_took_us; /* ... and how long that took */
    unsigned sums_life;   /* counts what made all sums unknown */
    bool is_forgetting;   /* FORGOTTEN is outstanding */
    bool is_forgotten;    /* no sum was noted since then; or ... */
    bool is_all_logged;   /* ... it failed, and the log says it of them all */
} Log;

/* The extent of the local disk that was seen last, in clusters. */
struct Extent {
    struct ClusterRun run;
    bool is_hole;
};

/* One walk over the oldest sealed generation. */
struct Pass {
    uint64_t cursor;
    bool is_at_end;
    bool is_cut_short; /* at the end before the end of the disk */
    unsigned n_claimed;
    bool has_failed; /* the target answered an error: wait before the next */
    unsigned streak; /* failures in a row */
    int64_t not_before_us;
    int64_t backoff_us;
};

/* What is sent before its turn; see core-ahead.c. */
struct Ahead {
    Bitmap *claimed;            /* in this pass, not by the cursor */
    uint64_t hints[CORE_HINTS]; /* clusters; the oldest first */
    unsigned n_hints;
};

/* CHECKING: what was asked of the target so far. */
struct Check {
    enum OpJob job;
    uint64_t next; /* byte (LOOK) or number (SAMPLE, READBACK) */
    bool is_asked_all;
    uint64_t
        voted[CORE_READBACKS]; /* clusters that were read back, of which: */
    unsigned n_same, n_other;  /* other: by their sums */
    uint64_t other_at;
};

/* A walk that compares; see core-verify.c. */
struct Verify {
    bool is_active, repairs;
    bool is_busy;  /* its op is under way, for run ... */
    bool is_stale; /* ... of which something was uploaded meanwhile */
    struct ClusterRun run;
    uint64_t cursor;    /* clusters looked at */
    uint64_t narrow_to; /* one by one up to here */
    uint64_t bps;       /* 0: no limit */
    int64_t next_us;    /* not before */
    uint64_t compared_bytes;
    uint64_t passed_clusters; /* dirty: not compared */
    uint64_t other_clusters;  /* that differ */
    uint64_t unread_clusters; /* not compared: an error on either side */
    unsigned done;            /* walks that reached the end */
};

/* What only jobs have; see core-job.c. */
struct Job {
    Bitmap *written; /* at the target, by this life; NULL: of no job */
    bool trusts_zeroes;
    bool is_halted, is_read_error;
    bool is_told; /* of a halt: what was under way has ended */
    int error;    /* of the last halt */
    unsigned halts;
};

struct RelayCore {
    struct RelayCoreConfig config;
    int64_t now_us;               /* of this step */
    struct RelayActions *actions; /* of this step */
    int64_t next_us;
    uint64_t random;
    uint64_t size_bytes;
    unsigned cluster_bits;

    /* target */
    enum RelayLink link;
    enum TargetContact contact;
    bool is_contact_kept;
    struct TargetCaps caps;
    bool has_no_status; /* it answered errors to what it promised */
    bool has_no_zero;
    int64_t retry_us;    /* OFFLINE, REFUSED */
    int64_t backoff_us;  /* next one */
    int64_t deadline_us; /* no op has one that is earlier */
    bool is_estranged;   /* REFUSED: it is not what was written */
    int64_t online_us;   /* since when */
    struct Check check;
    struct Verify verify;
    Conn conns[RELAY_CONNS];
    unsigned n_up;

    /* draining */
    bool is_paused, is_stopped, is_retargeted, has_begun;
    uint64_t hurry_seq;
    uint64_t sealed_seq;  /* being drained, 0 none */
    uint64_t allowed_seq; /* policy `cut`: those up to it may be sent */
    uint64_t same_seq;    /* compare before sending until this is settled */
    int64_t seal_us;      /* when the last one was sealed */
    struct Pass pass;
    struct Ahead ahead;
    struct Extent extent;
    Doubt doubt;
    Log log;
    bool is_recovering; /* no target so far: compare what is dirty by sums */
    Window window;
    struct Job job;
    bool is_token_blocked;

    /* ops */
    Op ops[RELAY_OPS];
    unsigned free_ops[RELAY_OPS]; /* a stack: few buffers are touched */
    unsigned n_free;
    uint64_t serial;
    unsigned n_mapping, n_holes, n_ready, n_acked, n_checks;
    uint64_t inflight_bytes;
    uint64_t loading_bytes; /* asked of the local disk */
    uint64_t batch_bytes;   /* ... since it had nothing to do, or the guest */
    int64_t batch_us;       /* ... was silent; and when that was */
    unsigned yields;        /* the guest needs it now: one part of so many is
                               ours, 0: all */
    int64_t load_rest_us;   /* yielding: no batch before */

    struct RelayCoreFigures figures; /* counters and error only */
};

/* core.c */
struct RelayAction *core_emit(RelayCore *core, enum RelayActionKind kind);
uint64_t core_random(RelayCore *core);
int64_t core_jitter(RelayCore *core, int64_t us);
void core_error(RelayCore *core, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool core_may_write(const RelayCore *core);
/* ... and of the generation that is being drained? */
bool core_may_send(const RelayCore *core);
/* Policy `cut`: was the generation @seq released? */
bool core_is_allowed(const RelayCore *core, uint64_t seq);
bool core_ack_settles(const RelayCore *core);
bool core_has_status(const RelayCore *core);
bool core_can_zero(const RelayCore *core);
/* From the begin of one flush, or sync, to that of the next, if the last one
 * took @took_us and @bytes wait for it. */
int64_t core_settle_interval(const RelayCore *core, int64_t took_us,
                             uint64_t bytes);
static inline void
core_at(RelayCore *core, int64_t us)
{
    core->next_us = us < core->next_us ? us : core->next_us;
}

/* core-pass.c */
void pass_run(RelayCore *core);
void pass_mapped(RelayCore *core, struct ClusterRun run, uint64_t len,
                 bool is_hole);
void pass_flush(RelayCore *core);
void pass_flushed(RelayCore *core, Conn *conn);
void pass_flush_failed(RelayCore *core, Conn *conn);
void pass_settle(RelayCore *core, struct ClusterRun run);
/* Not uploaded, since the target is known to hold it. */
void pass_settle_known(RelayCore *core, struct ClusterRun run);
void pass_failure(RelayCore *core);
void run_list_add(struct RunList *list, struct ClusterRun run);

/* core-ahead.c */
bool ahead_init(RelayCore *core);
void ahead_deinit(RelayCore *core);
bool ahead_grow(RelayCore *core, uint64_t size_bytes);
void ahead_begin(RelayCore *core); /* a pass: nothing is claimed, or hinted */
/* As doubt_skip(), for what was claimed before its turn. */
void ahead_skip(const RelayCore *core, struct ClusterRun *run);
/* A cluster to be claimed next; false: none. It stays until it was claimed. */
bool ahead_next(RelayCore *core, uint64_t *cluster);
void ahead_claimed(RelayCore *core, uint64_t cluster);

/* core-job.c */
bool job_init(RelayCore *core);
void job_deinit(RelayCore *core);
void job_wrote(RelayCore *core, const Op *op, uint64_t at, uint64_t len);
/* Does @cluster read as zero at the target because nobody ever wrote there? */
bool job_is_untouched(const RelayCore *core, uint64_t cluster);
/* Shortens @run to what is like its first cluster: untouched, or not. */
bool job_untouched_run(const RelayCore *core, struct ClusterRun *run);
/* What is logged and dirty; the caller's. NULL: no memory. */
Bitmap *job_dirty_log(const RelayCore *core);
/* Something for check_loaded() to look for sums of, at or after @from. */
bool job_next_known(const RelayCore *core, uint64_t from,
                    struct ClusterRun *run);
/* An error that its owner has to judge: nothing more begins. */
void job_halt(RelayCore *core, bool is_read, int error);
/* May something new be begun at all, as far as others are concerned? */
static inline bool
job_stands(const RelayCore *core)
{
    return core->is_paused || core->job.is_halted;
}
/* After each step: may its owner be told of a halt? */
void job_look(RelayCore *core);

/* core-log.c */
bool log_init(RelayCore *core);
void log_deinit(RelayCore *core);
bool log_grow(RelayCore *core, uint64_t size_bytes);
/* @op's run joins the log: true if part of it was there already. */
bool log_claim(RelayCore *core, Op *op);
/* Nothing of it left, so nothing has to be logged. */
void log_unclaim(RelayCore *core, const Op *op);
bool log_covers(const RelayCore *core, const Op *op);
void log_settled(RelayCore *core, struct ClusterRun run);
/* Its sums say nothing, whatever was about to be made durable of them. */
void log_distrust(RelayCore *core, struct ClusterRun run);
void log_unnoted(RelayCore *core, const Op *op);
void log_run(RelayCore *core);
bool log_forget(RelayCore *core);
void log_event(RelayCore *core, const struct RelayEvent *event);

/* core-slots.c */
Op *op_new(RelayCore *core, enum OpJob job, struct ClusterRun run);
void op_free(RelayCore *core, Op *op);
void op_move(RelayCore *core, Op *op, enum OpState state);
void op_bind(RelayCore *core, Op *op, Conn *conn);
void op_unbind(RelayCore *core, Op *op);
void op_take_cost(RelayCore *core, Op *op, uint64_t bytes);
void op_release_cost(RelayCore *core, Op *op);
unsigned op_index(const RelayCore *core, const Op *op);

/* core-ops.c */
void op_load(RelayCore *core, Op *op);
void op_ready(RelayCore *core, Op *op);
void op_write(RelayCore *core, Op *op, enum RelayActionKind kind, uint64_t at,
              uint64_t len);
void op_note(RelayCore *core, Op *op);
void op_acked(RelayCore *core, Op *op);
void op_verify(RelayCore *core, Op *op);
void op_fail(RelayCore *core, Op *op);
void op_map(RelayCore *core, Op *op);
void op_ask(RelayCore *core, Op *op); /* from its cursor on */
void op_compare(RelayCore *core, Op *op, uint64_t len, bool is_zero_run);
void op_event(RelayCore *core, const struct RelayEvent *event);
static inline bool
op_has_bit(const uint64_t *words, uint64_t cluster)
{
    return words[cluster / 64] >> (cluster % 64) & 1;
}

/* core-send.c */
void op_send_ready(RelayCore *core);
void op_hole_step(RelayCore *core, Op *op);
/* The target's extent at the cursor; what is zero there needs no sending. */
void op_hole_asked(RelayCore *core, Op *op, uint64_t len, bool is_zero);
uint64_t op_payload(const RelayCore *core, const Op *op);

/* core-link.c */
void link_run(RelayCore *core);
void link_widen(RelayCore *core);
void link_event(RelayCore *core, const struct RelayEvent *event);
void link_refuse(RelayCore *core);
void link_drop(RelayCore *core);
void link_lose(RelayCore *core, Conn *conn);
void link_online(RelayCore *core);
void link_proved(RelayCore *core, Conn *conn);
int64_t link_deadline(const RelayCore *core, const Conn *conn, uint64_t len);
Conn *link_pick(RelayCore *core);

/* core-check.c */
bool check_caps(RelayCore *core);
void check_begin(RelayCore *core);
void check_run(RelayCore *core);
void check_mapped(RelayCore *core, Op *op, const struct RelayEvent *event);
void check_loaded(RelayCore *core, Op *op, const struct RelayEvent *event);
void check_event(RelayCore *core, Op *op, const struct RelayEvent *event);

/* core-verify.c */
void verify_run(RelayCore *core);
/* @run is uploaded: what was read of it before says nothing. */
void verify_claimed(RelayCore *core, struct ClusterRun run);
void verify_mapped(RelayCore *core, Op *op, const struct RelayEvent *event);
void verify_loaded(RelayCore *core, Op *op);
void verify_unreadable(RelayCore *core, Op *op);
void verify_event(RelayCore *core, Op *op, const struct RelayEvent *event);

/* core-doubt.c */
bool doubt_init(RelayCore *core);
void doubt_deinit(RelayCore *core);
bool doubt_grow(RelayCore *core);
void doubt_add(RelayCore *core, struct ClusterRun run);
void doubt_run(RelayCore *core);
void doubt_begin(RelayCore *core);
void doubt_new_process(RelayCore *core);
/* Shortens @run to what may be written now; or moves it behind what may not:
 * then count is 0 and first is where to go on. */
void doubt_skip(const RelayCore *core, struct ClusterRun *run);
bool doubt_must_verify(const RelayCore *core, struct ClusterRun run);
void doubt_settled(RelayCore *core, struct ClusterRun run);
int64_t doubt_next_us(const RelayCore *core); /* end of a quarantine */
uint64_t doubt_count(const RelayCore *core);

/* core-window.c */
void window_init(RelayCore *core);
uint64_t window_bytes(const RelayCore *core);
bool window_take(RelayCore *core, uint64_t bytes);
uint64_t window_op_bytes(const RelayCore *core);
uint64_t window_zero_bytes(const RelayCore *core);
/* What a hole of @bytes takes of the window. */
uint64_t window_hole_cost(const RelayCore *core, uint64_t bytes);
uint64_t window_bps(const RelayCore *core);
int64_t window_latency_us(const RelayCore *core);
void window_sent(RelayCore *core, Op *op);
void window_acked(RelayCore *core, Op *op);
void window_zeroed(RelayCore *core, int64_t took_us, uint64_t len);
