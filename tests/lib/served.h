/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * served.h - a store at work, without a daemon, a mount or a control socket
 *
 * Purpose: one life of a store after another, with a face whose kernel is the
 *          test, and a relay. What happens in a life, and whether its end is a
 *          clean one or looks like a crash, is up to the test.
 * Threads: the functions are for one thread; the face, the relay and the
 *          keeper have their own.
 * Units:   microseconds.
 * Errors:  a life that cannot begin says so in words; the rest is asserted.
 */
#pragma once

#include "fake-session.h"

#include "fs/keeper.h"
#include "relay/relay.h"

typedef struct Served {
    StoreIo *io;         /* what the store is opened with; borrowed */
    const char *path;    /* of the store; borrowed */
    int64_t deadline_us; /* of a request at the target; the quarantine is four
                            times that */
    int64_t keeper_us;
    /* The relay is made and has its disks, and is not started; or NULL. */
    void (*prepare)(struct Served *served);
    void *user;

    Store *store;
    FakeSession session;
    Relay *relay;
    Keeper *keeper;
    char why[256]; /* served_begin() failed */
    /* The relay's news, behind lock. */
    pthread_mutex_t lock;
    pthread_cond_t is_told;
    bool has_contact, has_news;
} Served;

void served_init(Served *served);
void served_deinit(Served *served);

/* False: a step failed, which only happens with faults. */
bool served_begin(Served *served);
/* The end, clean or as after a crash, in two steps: all that is at work stops
 * (nobody may have a request in flight); the store is closed. */
void served_stop(Served *served, bool is_clean);
void served_close(Served *served, bool is_clean);

/* Keep what the relay found out about its targets, as the daemon does. */
void served_news(Served *served);
/* Wait for news of the relay, but no longer than that; keep what it says. */
void served_wait(Served *served, int64_t patience_us);
