/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest.h - a guest with several disks that is always at work
 *
 * Purpose: writes, discards and syncs over a few hot clusters and now and then
 *          anywhere, several at once, and in an order across its disks; all of
 *          it told to a History.
 * Threads: one of its own; the functions are for one other thread.
 * Units:   bytes; *ops* are requests that it has sent.
 * Shapes:  every sector that it writes is a stamp (stamp.h).
 * Errors:  asserted: nothing that it asks may fail.
 */
#pragma once

#include "history.h"

#include "tests/lib/fake-session.h"
#include "tests/lib/seed.h"

#define GUEST_FLIGHT 12
#define GUEST_HOT    10

struct GuestDisk {
    uint64_t inode;
    uint64_t size_bytes;
    uint64_t cluster;
    uint64_t hot[GUEST_HOT]; /* first bytes of clusters */
};

struct GuestOp {
    uint64_t unique; /* 0: free */
    unsigned disk;
    uint64_t offset, len;
    uint64_t sequence; /* 0: a sync */
};

typedef struct Guest {
    History *history;
    FakeSession *session; /* not while it rests */
    Seed seed;
    struct GuestDisk disks[HISTORY_DISKS];
    unsigned n_disks;
    struct GuestOp flight[GUEST_FLIGHT];
    unsigned n_flight;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    uint64_t sent, allowed;   /* ops */
    bool is_ending, is_asked; /* for a burst of discards */
} Guest;

void guest_init(Guest *guest, History *history, uint64_t seed);
void guest_add_disk(Guest *guest, unsigned id, uint64_t size_bytes,
                    uint64_t cluster);
void guest_start(Guest *guest, FakeSession *session);
/* Wait for all answers; the guest is gone then. */
void guest_stop(Guest *guest);
void guest_deinit(Guest *guest);

/* @ops more from now on; then it rests with everything answered. */
void guest_allow(Guest *guest, uint64_t ops);
/* Have it discard a good part of a disk, and wait for the answers; or until it
 * rests. What was answered is still to be punched. */
void guest_discards(Guest *guest);
/* Wait until it has sent @ops more, or all that it was allowed to. */
void guest_await(Guest *guest, uint64_t ops);
