/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-private.h - what the serving end's files share
 *
 * Purpose: control.c has the sockets, control-request.c what is said over them.
 * Threads: the main thread.
 */
#pragma once

#include "control-scan.h"
#include "control.h"

#include <stdbool.h>

typedef struct ControlPeer {
    ControlServer *server;
    int fd;
    guint in_source, out_source;
    guint feed_source;     /* what it said while it had to wait */
    guint patience_source; /* ... and when that ends */
    GString *in, *out;
    ControlScan *scan;
    GPtrArray *calls; /* unanswered ControlCall, borrowed */
    unsigned ordered; /* ... that what comes next waits for */
    bool is_negotiated;
    bool is_doomed;
} ControlPeer;

struct ControlServer {
    char *path;
    int fd;
    guint source, burial;
    guint patience_ms;
    const struct ControlCommand *const *tables;
    gpointer user;
    GPtrArray *peers;
};

struct ControlCall {
    ControlPeer *peer; /* NULL: gone */
    char *id;          /* as it came; or NULL */
    bool is_overtaken;
    void (*gone)(gpointer user);
    gpointer user;
};

/* control.c. Takes @root; @id: JSON text, or NULL. */
void peer_send(ControlPeer *peer, JsonObject *root, const char *id);
/* It may be that what waits can be looked at now. */
void peer_resume(ControlPeer *peer);

/* control-request.c: what was found in what a peer said */
void control_request_take(ControlPeer *peer);
void control_request_refuse(ControlPeer *peer, const char *flaw);
void control_call_free(ControlCall *call);
