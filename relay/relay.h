/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * relay.h - the relay thread: performs what the cores decide
 *
 * Purpose: one thread per store with one io_uring for local reads, NBD
 *          sockets, timers and its inbox; a RelayCore per disk with a target.
 * Threads: the relay_* functions here belong to the main thread; they post to
 *          the relay's inbox or copy figures under a short lock. No call
 *          waits for the target. `notify` runs on the relay thread and may
 *          only pass the news on.
 * Units:   bytes, microseconds.
 * Errors:  setup: gboolean + GError; afterwards the target's state says it.
 */
#pragma once

#include "bitmap/aside.h"
#include "bitmap/points.h"
#include "bitmap/store-io.h"
#include "core.h"

#include <glib.h>

typedef struct Relay Relay;

enum RelayNews {
    RELAY_NEWS_LINK,    /* a disk's link state or error changed */
    RELAY_NEWS_CONTACT, /* a disk's target was accepted: keep it in state */
    RELAY_NEWS_SETTLED, /* a generation was settled */
    RELAY_NEWS_HALTED,  /* a job's: an error, and it stands; see its figures */
    RELAY_NEWS_ENDED,   /* nothing of it is in flight; see relay_end_disk() */
};

/* A disk's target, as the user gave it and as the store remembers it. */
struct RelayDiskConfig {
    const char *name;
    int fd;             /* disk.raw for reading, O_DIRECT; borrowed */
    int map_fd;         /* disk.raw for SEEK_DATA and SEEK_HOLE; borrowed */
    uint32_t dio_align; /* of offset, length and memory on @fd */
    DiskMap *map;       /* borrowed */
    const char *target; /* URI, "[ command ]", or a path */
    enum TargetContact contact;
    enum TargetAccept accept;
    bool accept_unflushed;
    bool insecure; /* plain TCP beyond loopback is fine (rule 28) */

    /* Policy `cut`: generations are sealed by others, and sent once they are
     * allowed, as they were when they were sealed. */
    bool is_cut;
    Aside *aside;   /* what was overwritten since; borrowed, NULL: none */
    int aside_fd;   /* its file, O_DIRECT; borrowed, -1: none */
    Points *points; /* of its snapshots; borrowed, NULL: none */

    /* remote-sums and sent-log */
    int dir_fd; /* the disk's directory; borrowed */
    uint8_t uuid[16];
    uint64_t epoch_before; /* what they must at least be of; 0: never served */
    uint64_t epoch;        /* ... and become of */
    bool is_in_doubt;      /* uploads of an earlier life may still execute */
    bool recovers;         /* the map has more than what differs */

    /* Of a job; all zero for the relay of a disk. Its map has clusters of any size;
     * @points are of the disk's, which is what @pins has. */
    struct RelayJobConfig {
        bool is_job; /* the map says what is to be brought: what is clean in it
                        says nothing of the target */
        DiskMap *pins; /* the guest's, where what is read is pinned; borrowed */
        bool is_exact; /* a target of another size is refused */
        bool is_zero;  /* the target reads as zero where nobody wrote. Of use
                          until somebody did: in the life of first contact */
        bool keeps_zeroes; /* unmap=false: holes are written, not deallocated */
        bool is_paused;
        bool halts;   /* it stands at an error; see relay_proceed() */
        uint64_t bps; /* 0: no limit; the store's bwlimit is the relay's */
        uint64_t window_bytes; /* at most in flight; 0: as the link can */
    } job;
};

struct RelayConfig {
    StoreIo *io;
    const char *run_dir; /* for the sockets of servers that weir starts */
    int lock_fd;         /* the store's lock, registered in the ring (rule 6)*/
    unsigned max_conns;
    int64_t deadline_us;
    void (*notify)(void *user, const char *disk, enum RelayNews news);
    void *user;
};

#define RELAY_ERROR (relay_error_quark())
GQuark relay_error_quark(void);
enum RelayError {
    RELAY_ERROR_FAILED,
    RELAY_ERROR_TARGET, /* malformed, or refused by rule 28 */
};

/* Is @target something that a relay could be pointed at? For `create` and
 * `set`, before anything is kept. Words for the user in @error. */
gboolean relay_target_check(const char *target, gboolean insecure,
                            GError **error);
/* What two relays must not write, however it is written; target-uri.h. Is it the
 * same place? The file in @fd? In @dir, which is not looked into? */
bool relay_target_is_same(const char *a, const char *b);
bool relay_target_is_file(const char *target, int fd);
bool relay_target_is_within(const char *target, const char *dir);
/* For how long may a request execute there, at most, when its connection was
 * dropped before the answer? @deadline_us: of a request. */
int64_t relay_target_doubt_us(const char *target, int64_t deadline_us);

Relay *relay_new(const struct RelayConfig *config, GError **error);
gboolean relay_add_disk(Relay *relay, const struct RelayDiskConfig *disk,
                        GError **error); /* before or after the start */
gboolean relay_start(Relay *relay, GError **error); /* thread is ready */
/* Stops sending, joins the thread. Bounded by local I/O, never by the target.
 * @epoch: if not 0, remote-sums and sent-log are stamped with it. */
void relay_stop(Relay *relay, uint64_t epoch);
void relay_free(Relay *relay);

/* The guest is at work: once for each request that moves data, and whenever
 * something was dirtied. Any thread, cheap, never blocks. */
void relay_wake(Relay *relay);

/* All of them but jobs. */
void relay_pause(Relay *relay, gboolean pause);

/*
 * Jobs: added like disks, at any time, under a name of their own; their fds, map
 * and points have to be there until they are forgotten. The store's bwlimit is
 * not theirs.
 */
void relay_pause_job(Relay *relay, const char *job, gboolean pause);
void relay_set_speed(Relay *relay, const char *job, uint64_t bps);
/* After an error: it goes on, and tries again what failed. */
void relay_proceed(Relay *relay, const char *job);
/* What is settled by now is settled, nothing more is sent, connections are
 * dropped; RELAY_NEWS_ENDED when nothing is in flight: within the time of a local
 * read, whatever the target does. Figures stay. */
void relay_end_disk(Relay *relay, const char *job);
/* After that, or while the relay does not run: it is freed, and the name is free
 * again. Nothing that it borrowed is touched any more. */
void relay_forget_disk(Relay *relay, const char *job);

void relay_set_cut(Relay *relay, const char *disk, gboolean is_cut);
/* The sealed generations up to @seq may be sent; as snapshot @snapshot has it,
 * if that is not 0 (bitmap/point-marks.h has what was done before). Where it
 * cannot be read the present content is sent, and figures say so. */
void relay_allow(Relay *relay, const char *disk, uint64_t seq,
                 uint64_t snapshot);
void relay_set_bwlimit(Relay *relay, const struct RateTable *table);
void relay_set_max_conns(Relay *relay, unsigned max_conns);
/* The user's word about the target that is there now: one that was refused
 * because it is not what was written there counts as one never seen. */
void relay_trust(Relay *relay, const char *disk);
void relay_set_accept(Relay *relay, const char *disk, enum TargetAccept accept,
                      gboolean accept_unflushed, gboolean insecure);
/* Another target, or NULL for none: everything is dirty then. */
gboolean relay_set_target(Relay *relay, const char *disk, const char *target,
                          GError **error);
/* The store keeps that this disk's target was accepted: the answer to
 * RELAY_NEWS_CONTACT. Nothing is written to the target before. */
void relay_contact_kept(Relay *relay, const char *disk);
/* Compare the disk's target with what it should hold; figures say how far it
 * is. Works while the relay is paused, too. */
void relay_verify(Relay *relay, const char *disk, gboolean repairs,
                  uint64_t bps);
/* Somebody waits for what is dirty now: seal and flush without delay. */
void relay_hurry(Relay *relay);

struct RelayFigures {
    struct RelayCoreFigures core;
    uint64_t upload_bps;
    uint64_t target_size_bytes; /* 0 unknown */
    unsigned target_number;     /* of the target that these are of ... */
    bool is_current;            /* ... which is the one that was set last */
    /* The last snapshot that could not be brought, not all of it; 0: none. Set
     * before anything is sent in its place. */
    uint64_t lost_snapshot;
    uint64_t shared_bytes; /* of a snapshot, read by another job */
};
/* False if the disk has no target. */
gboolean relay_figures(Relay *relay, const char *disk,
                       struct RelayFigures *figures);
uint64_t relay_bwlimit(Relay *relay); /* in force now, 0 none */
