/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * books.h - remote-sums and sent-log of a disk, and the work on them
 *
 * Purpose: opening and ending the two files; what the core asks of them, as
 *          requests that the caller performs, on a ring or with plain calls.
 * Threads: opened and closed by the main thread, else the relay's.
 * Units:   bytes; clusters where a run says so.
 * Shapes:  one request at a time per number: that of an op for its note, and
 *          one for each of the other actions. Per op two arrays of
 *          BOOKS_OP_BYTES: the sums that the file has, and those of what was
 *          loaded. Anonymous memory that is touched where it is used.
 * Errors:  of the requests: in the event that answers.
 */
#pragma once

#include "relay.h"
#include "sent-log.h"
#include "sums.h"

#define BOOKS_OP_BYTES (RELAY_OP_CLUSTERS_MAX * SUMS_BYTES)

enum BooksRequest {
    BOOKS_NOTE, /* ... of op 0, and so on */
    BOOKS_COMMIT = RELAY_OPS,
    BOOKS_SYNC,
    BOOKS_FORGET,
    BOOKS_REQUESTS,
};

typedef struct RelayBooks {
    StoreIo *io; /* borrowed, as is map */
    char *name;  /* of the disk */
    DiskMap *map;
    Sums sums;
    SentLog log;
    Bitmap *logged;   /* by the last life; then, for the next one */
    uint8_t *entries; /* 2 BOOKS_OP_BYTES per op */
    StoreReq requests[BOOKS_REQUESTS];
    unsigned n_notes;
    bool forget_waits; /* for the notes */
    enum ForgetStep { FORGET_PUNCH, FORGET_SYNC, FORGET_KEY } forget_step;
} RelayBooks;

/* What follows: the answer, a request to be performed, both or neither. */
struct BooksStep {
    struct RelayEvent event;   /* kind RELAY_TICK: there is none yet */
    enum BooksRequest request; /* BOOKS_REQUESTS: there is none */
};

bool books_open(RelayBooks *books, StoreIo *io,
                const struct RelayDiskConfig *config, GError **error);
/* The core ends: what the next one, or the next life, has to know. Waits for the
 * disk if it @syncs; else more of what is settled counts as not known. */
void books_end(RelayBooks *books, const RelayCore *core, bool syncs);
void books_stamp(RelayBooks *books, uint64_t epoch);
void books_close(RelayBooks *books); /* also if never opened, all zeroes */

/* A NOTE, LOG, SYNC or FORGET of the core; @logged: what it has logged. */
struct BooksStep books_begin(RelayBooks *books,
                             const struct RelayAction *action,
                             const Bitmap *logged);
/* The result of a request. */
struct BooksStep books_done(RelayBooks *books, enum BooksRequest request,
                            int res);

/* The read of the sums that go with a load. False: there is no file, and
 * nothing to be performed. */
bool books_load(RelayBooks *books, const struct RelayAction *load,
                StoreReq *req);
void books_loaded(StoreReq *req, int res);
/* What the core wants to know of each cluster of @event->op: its @data. */
void books_look(const RelayBooks *books, uint64_t offset, uint64_t len,
                const uint8_t *data, struct RelayEvent *event);
/* The sums that the file had when the op was loaded; that of what is @at bytes
 * behind its start. */
uint8_t *books_known(const RelayBooks *books, unsigned op, uint64_t at);
