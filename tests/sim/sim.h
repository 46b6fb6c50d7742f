/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sim.h - the world in which the relay core is simulated
 *
 * Purpose: a disk with a guest that writes it, a target that fails in every
 *          way it may, a real DiskMap and a real RelayCore between them, on a
 *          clock and a random generator of their own. One seed is one run.
 * Threads: one.
 * Units:   microseconds, bytes towards the core; contents are counted in
 *          *cells*, SIM_CELLS to a cluster. A cell's value is a number that
 *          no other write used, or 0 for zeroes.
 * Shapes:  everything that happens later is a SimEvent in one heap.
 * Errors:  sim_fail() ends the run and says why, with the last events.
 */
#pragma once

#include "bitmap/mutant.h"
#include "bitmap/points.h"
#include "relay/core.h"

#include <setjmp.h>

#define SIM_CELLS        4u
#define SIM_CLUSTERS_MAX 96u
#define SIM_CELLS_MAX    (SIM_CELLS * SIM_CLUSTERS_MAX)
#define SIM_TAIL         8u /* cells of the target behind the largest disk */
#define SIM_TARGET_MAX   (SIM_CELLS_MAX + SIM_TAIL)
#define SIM_REQS         1024u
#define SIM_HOLDS        12u
#define SIM_LOG          96u
#define SIM_SNAPSHOTS    8u
#define SIM_PARTS        3u
#define SIM_NOTHING      UINT32_MAX /* no value in a cache's cell */
#define SIM_SECOND       INT64_C(1000000)

typedef struct Sim Sim;

enum SimEventKind {
    SIM_GUEST,     /* the guest does something new */
    SIM_LAND,      /* a: hold, b: part: data reaches the disk */
    SIM_END,       /* a: hold: the write is complete */
    SIM_MAPPED,    /* a: op */
    SIM_READ_PART, /* a: op, b: part */
    SIM_READ,      /* a: op */
    SIM_NOTED,     /* a: op: its sums are written */
    SIM_SYNCED,    /* sums are durable */
    SIM_LOGGED,    /* the sent-log is */
    SIM_FORGOTTEN, /* all sums are */
    SIM_EXECUTE,   /* a: request, b: its life: the target does it */
    SIM_ANSWER,    /* a: request, b: its life */
    SIM_CONNECTED, /* a: conn, b: epoch */
    SIM_BROKEN,    /* a: conn, b: epoch: the relay learns of it */
    SIM_TROUBLE,   /* the target has one of its moods */
    SIM_USER,      /* somebody turns a knob */
    SIM_CUT,       /* policy `cut`: one begins, or is allowed */
    SIM_SNAPSHOT,  /* one is taken, or deleted */
    SIM_KEPT,      /* the store remembers that the target is ours */
    SIM_OWNER,     /* a job's looks at it */
    SIM_EVENT_KINDS
};

struct SimEvent {
    int64_t at_us;
    uint64_t order;
    enum SimEventKind kind;
    unsigned a;
    uint32_t b;
    uint32_t life; /* of the daemon: local answers die with it */
};

/* A guest write or discard. */
struct SimHold {
    RangeHold hold; /* first: granted() casts */
    Sim *sim;
    bool is_used, is_begun, is_discard;
    unsigned first, count; /* cells */
    uint32_t value;
};

/* A request at the target. */
struct SimReq {
    bool is_used, is_executed, is_zombie, is_doomed;
    bool is_writing; /* counted in pending or zombies */
    uint32_t life;   /* of this slot */
    struct RelayAction action;
    uint32_t values[SIM_CELLS_MAX]; /* data to write or to compare */
    struct RelayEvent answer;
};

enum SimConnState { SIM_CONN_DOWN, SIM_CONN_MAKING, SIM_CONN_UP };

struct SimConn {
    enum SimConnState state;
    uint32_t epoch;
    bool is_hung;    /* answers nothing any more */
    bool is_broken;  /* dead, and the relay has not heard of it */
    bool is_reset;   /* ... because the server is gone */
    bool owes_error; /* its next flush fails, too */
    uint32_t cache[SIM_TARGET_MAX];
};

/* How bad the world is in this run: chances in 1000. */
struct SimRates {
    unsigned error, flush_error, hang, lose, restart, refuse, zombie, sticky;
    unsigned destage, crash, grow, read_error, sync_error;
    int64_t delay_us;
};

struct SimTarget {
    struct TargetCaps caps;
    unsigned cells; /* size */
    uint32_t durable[SIM_TARGET_MAX];
    uint32_t tail[SIM_TARGET_MAX];    /* what must stay, behind the disk */
    uint32_t shared[SIM_TARGET_MAX];  /* cache of all connections together */
    unsigned pending[SIM_TARGET_MAX]; /* live writes not answered */
    unsigned zombies[SIM_TARGET_MAX]; /* dead ones that may execute */
    bool is_sticky;                   /* everything fails for a while */
    bool is_refusing;                 /* connects fail for a while */
    bool is_child; /* the daemon starts it: a restart is a new process */
    bool is_new;   /* ... and nobody has connected to it yet */
    struct SimConn conns[RELAY_CONNS];
    struct SimReq reqs[SIM_REQS];
};

/* Of one cluster: its content, which is the best hash there is. */
struct SimSum {
    bool is_known;
    unsigned count; /* cells: the last cluster is partial */
    uint32_t values[SIM_CELLS];
};

struct SimLocal {
    bool is_busy;
    uint64_t offset, len;
    uint32_t values[SIM_CELLS_MAX];
    struct SimSum known[SIM_CLUSTERS_MAX];
    bool is_noting;
    bool is_forgetful; /* the note under way says "unknown" */
    bool is_pinned;
    RangeHold pin;
    bool is_aside[SIM_CELLS_MAX]; /* read from there: seen when it began */
    bool is_there[SIM_CELLS_MAX]; /* ... and of a snapshot: read then */
    Sim *sim;
};

struct SimSnapshot {
    unsigned cells; /* the disk's size then */
    uint32_t then[SIM_CELLS_MAX];
    uint32_t kept[SIM_CELLS_MAX]; /* its point's file */
};

struct Sim {
    uint64_t seed, random;
    int64_t now_us;
    jmp_buf failed;
    char why[256];
    bool is_quiet; /* faults and guest are over */
    bool is_verbose;
    unsigned steps;
    struct SimRates rates;

    /* heap */
    struct SimEvent *events;
    size_t n_events, room;
    uint64_t order;

    /* the disk */
    unsigned cluster_bits;
    uint64_t cell_bytes;
    unsigned cells, cells_last; /* now, and after the last growth */
    uint32_t disk[SIM_CELLS_MAX];
    bool is_hole[SIM_CELLS_MAX];
    uint32_t synced[SIM_CELLS_MAX]; /* what a loss of power cannot take */
    uint32_t value;                 /* last one used */
    struct SimHold holds[SIM_HOLDS];

    /* the relay */
    DiskMap *map;
    RateBucket bucket;
    RelayCore *core;
    struct RelayCoreConfig config;
    struct RelayActions actions;
    uint32_t life;
    bool is_contact_kept, is_keeping;
    bool is_refusal_due; /* the target shows data and may be refused */
    struct SimLocal local[RELAY_OPS]; /* buffers */

    /* remote-sums and sent-log: as written, as synced, as being synced */
    struct SimSum sums[SIM_CLUSTERS_MAX], durable[SIM_CLUSTERS_MAX],
        syncing[SIM_CLUSTERS_MAX];
    /* A sync has them to write; the one under way has. */
    bool is_unsynced[SIM_CLUSTERS_MAX], is_syncing[SIM_CLUSTERS_MAX];
    Bitmap *sent_log, *log_next; /* durable, and the commit under way */
    Bitmap *logged;              /* what the last life left */

    /* Policy `cut` (config.is_cut). */
    struct {
        bool is_active, is_allowed;
        bool is_whole; /* the target holds the last one, as held[] says */
        uint64_t seq;
        uint64_t snapshot; /* that it is, or 0: nothing is kept aside */
        uint64_t past;     /* Sim.past, once it is whole */
        unsigned cells;    /* the disk's size then */
        uint32_t then[SIM_CELLS_MAX];        /* ... and content, ... */
        struct SimHold in_flight[SIM_HOLDS]; /* ... and what came on top */
        bool is_kept[SIM_CLUSTERS_MAX];      /* aside: */
        uint32_t kept[SIM_CELLS_MAX];
        bool is_hole[SIM_CELLS_MAX];
        uint32_t held[SIM_TARGET_MAX];
    } cut;
    /* Numbered from 1 on; those up to `past` do not reach the target any more. */
    Points *points; /* NULL: a world without */
    struct SimSnapshot snapshots[SIM_SNAPSHOTS];
    unsigned n_snapshots;
    uint64_t past;

    /* Jobs, one at a time; see fake-jobs.c. */
    Sim *beside; /* the one that is at work, or NULL */
    unsigned n_jobs;
    int64_t next_job_us;
    Sim *host; /* of a job: the world that it is beside; else NULL */
    struct {
        bool is_mirror, is_completing, is_ending, is_through;
        bool is_halted;    /* before this step */
        uint64_t snapshot; /* that is brought with generations up to `seq` */
        uint64_t seq;
        bool in_scope[SIM_CLUSTERS_MAX]; /* was dirty, at some time ... */
        bool in_then[SIM_CLUSTERS_MAX];  /* ... before `seq` was sealed */
    } job;

    struct SimTarget target;
    struct {
        int64_t at_us;
        const char *what;
        uint64_t a, b, c;
    } log[SIM_LOG];
    uint64_t n_log;
};

/* sim-world.c */
uint64_t sim_random(Sim *sim);
uint64_t sim_below(Sim *sim, uint64_t limit);
bool sim_chance(Sim *sim, unsigned per_mille);
int64_t sim_delay(Sim *sim, int64_t most_us);
void sim_at(Sim *sim, int64_t at_us, enum SimEventKind kind, unsigned a,
            uint32_t b);
bool sim_pop(Sim *sim, struct SimEvent *event);
void sim_log(Sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c);
void sim_fail(Sim *sim, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));
void sim_print(const Sim *sim);
void sim_check(Sim *sim);
void sim_check_cell(Sim *sim, unsigned cell, uint32_t want);
void sim_check_bounds(Sim *sim);
void sim_check_equal(Sim *sim);

/* fake-guest.c */
void guest_event(Sim *sim, const struct SimEvent *event);
void guest_finish(Sim *sim);
void guest_power_cut(Sim *sim); /* unsynced cells may be what they were */
bool guest_is_idle(const Sim *sim);
void local_perform(Sim *sim, const struct RelayAction *action);
void local_event(Sim *sim, const struct SimEvent *event);

/* fake-cuts.c */
void cuts_event(Sim *sim);
void cuts_crashed(Sim *sim);
void cuts_check(Sim *sim);
bool cuts_has_writer(const Sim *sim, unsigned cluster);
/* Cells are about to be written: keep what is owed there; false: not now. */
bool cuts_keep(Sim *sim, unsigned first, unsigned count);
/* Is it kept, so that what is read for the target is cut.kept? */
bool cuts_is_kept(const Sim *sim, unsigned cell);
bool cuts_is_hole(const Sim *sim, unsigned cell);

/* fake-snapshots.c */
void snapshots_begin(Sim *sim);
void snapshots_end(Sim *sim);
void snapshots_event(Sim *sim);
/* Cells are about to be written: the youngest one keeps what it needs of them. */
void snapshots_keep(Sim *sim, unsigned first, unsigned count);
uint64_t snapshots_take(Sim *sim);       /* nobody writes; there is room */
uint64_t snapshots_next(const Sim *sim); /* to be brought, or 0 */
uint64_t snapshots_now(const Sim *sim);  /* being brought, or 0 */
/* Has snapshot @id, if it is not 0, that cell kept? *@value is what is read. */
bool snapshots_has(const Sim *sim, uint64_t id, unsigned cell, uint32_t *value);
/* Sets what sim->cut has to be. The generation, or 0. */
uint64_t snapshots_seal(Sim *sim, uint64_t id);

/* fake-jobs.c; @sim is the world, @job the one within it */
uint64_t jobs_snapshot(const Sim *job); /* what it reads now, or 0: the disk */
bool jobs_holds(const Sim *sim, uint64_t snapshot);
void jobs_changed(Sim *sim, uint64_t offset, uint64_t len); /* by the guest */
void jobs_event(Sim *job);
void jobs_crashed(Sim *sim, bool is_power_cut);
void jobs_check(Sim *sim);
void jobs_check_action(Sim *job, const struct RelayAction *action);
void jobs_look(Sim *sim); /* one may begin, or is gone */
void jobs_calm(Sim *sim);
bool jobs_are_done(const Sim *sim);
void jobs_end(Sim *sim);

/* fake-books.c: the relay's own files */
void books_begin(Sim *sim);
void books_end(Sim *sim);
void books_perform(Sim *sim, const struct RelayAction *action);
void books_event(Sim *sim, const struct SimEvent *event);
/* At a load: what the file says; at its end: what the core is told. */
void books_look(Sim *sim, unsigned op);
void books_compare(Sim *sim, unsigned op, struct RelayEvent *event);
/* The daemon died; and maybe the power went. Sets sim->logged. */
void books_crashed(Sim *sim, bool is_power_cut);

/* fake-target.c */
void target_init(Sim *sim);
void target_perform(Sim *sim, const struct RelayAction *action);
void target_event(Sim *sim, const struct SimEvent *event);
void target_crashed(Sim *sim); /* the daemon, that is */
void target_calm(Sim *sim);

/* sim-relay.c */
void sim_draw(Sim *sim); /* rates, target, most of the core's configuration */
void sim_daemon_start(Sim *sim);
void sim_step(Sim *sim, const struct RelayEvent *event);
