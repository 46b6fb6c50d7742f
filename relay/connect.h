/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * connect.h - one attempt to connect, on a thread of its own
 *
 * Purpose: names are resolved, TCP connects and TLS and NBD shake hands where
 *          they may hang: not on the relay thread. What comes back through
 *          the inbox is a handle that is ready, or words.
 * Threads: start and drop on the relay thread; the attempt's thread is
 *          detached and owns its share, so that nobody ever waits for it.
 * Units:   milliseconds for the socket's own timeout.
 * Errors:  in the result; connect_job_start() returns NULL when no thread
 *          could be made.
 * Source:  rules 27 and 28.
 */
#pragma once

#include <libnbd.h>

#include "core.h"
#include "inbox.h"
#include "target-uri.h"

typedef struct ConnectJob ConnectJob;

struct ConnectSpec {
    TargetUri *uri; /* a reference is taken */
    int fd;         /* connected already, else -1; taken */
    bool insecure;
    bool stops_at_options; /* the handle that comes back has not chosen its
                              export yet, nor contexts; no caps */
    unsigned timeout_ms;   /* TCP_USER_TIMEOUT */
    Inbox *inbox;          /* where the result goes, until the job is dropped */
    int msg_kind;
    unsigned disk, conn; /* whose; come back as they are */
    uint32_t epoch;
};

/* The receiver owns it and @nbd. */
struct ConnectResult {
    InboxMsg msg;
    unsigned disk, conn;
    uint32_t epoch;
    struct nbd_handle *nbd; /* ready; NULL: failed */
    bool is_barred;         /* only the user can mend it */
    struct TargetCaps caps;
    char text[RELAY_TEXT];
};

ConnectJob *connect_job_start(const struct ConnectSpec *spec);
/* What it is waiting for, in words. */
const char *connect_job_stage(const ConnectJob *job);
/* Give up or done with: no result is posted after this. */
void connect_job_drop(ConnectJob *job);
void connect_result_free(struct ConnectResult *result);
