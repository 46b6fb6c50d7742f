/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * takeover.h - a mount that outlives its daemon, as the daemon sees it
 *
 * Purpose: gives the mount's descriptor to the keeper (systemd or our holder),
 *          gets it back in the next daemon, and has the kernel send again what
 *          the one before left unanswered.
 * Threads: main; takeover_keep() and takeover_attach() before the others start.
 * Units:   monotonic microseconds, which go on from one process to the next.
 * Shapes:  the memo, a memfd of 48 bytes that is kept beside the connection:
 *
 *             0  8  "weirmemo"
 *             8  4  version, 2
 *            12  4  restarts: daemons that this mount has had before
 *            16  8  left_us: when the last one stopped taking requests with
 *                   nothing unanswered; 0: it did not
 *            24  4  is_paused: the user had paused the relay
 *            28  4  zero
 *            32 16  uuid of the store: no other is served through it
 *
 *          Native byte order: it never leaves the machine, nor the boot.
 * Errors:  a connection that is another store's; else none: what cannot be
 *          kept is told by takeover_word().
 * Source:  the kernel's Documentation/filesystems/fuse, FUSE_NOTIFY_RESEND.
 */
#pragma once

#include "store.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct TakeoverMemo {
    char magic[8];
    uint32_t version;
    uint32_t restarts;
    int64_t left_us;
    uint32_t is_paused;
    uint32_t zero;
    uint8_t uuid[16];
};
_Static_assert(sizeof(struct TakeoverMemo) == 48, "as described");

struct Takeover {
    struct TakeoverMemo memo;
    int memo_fd;
    int fuse_fd;       /* from the daemon before us until it is taken; or -1 */
    pid_t keeper;      /* our parent, if it keeps; 0: nobody does */
    pid_t holder;      /* the same if it is a holder of ours; else 0 */
    bool can_resend;   /* the kernel does */
    bool is_successor; /* the mount was there before us */
    char *program;     /* that we were started from; another file may have
                          its name by now, the next daemon is that one */
    int64_t pause_us;  /* from the other's last request to our first; -1 */
};

/* First of all, even before a thread exists. */
void takeover_init(struct Takeover *takeover);
void takeover_deinit(struct Takeover *takeover);

/* With the lock held of @store: is there a connection to go on with?
 * If yes @fd is it, the caller's. -1: mount, @dir is free for that. FALSE: it
 * is another store's, whose guest must not get this one. */
gboolean takeover_attach(struct Takeover *takeover, const Store *store,
                         const char *dir, int *fd, GError **error);
/* This mount is not to be kept: the kernel could not hand over its requests. */
void takeover_forgo(struct Takeover *takeover);
/* A new mount: keep it. */
void takeover_keep(struct Takeover *takeover, int fuse_fd);
/* The mount that was kept did not come to be. */
void takeover_forget(struct Takeover *takeover);
/* Just before the first request is taken. */
void takeover_serving(struct Takeover *takeover);

void takeover_set_paused(struct Takeover *takeover, bool is_paused);
/* Nothing is unanswered and nothing more is taken. */
void takeover_leave(struct Takeover *takeover);

/* Somebody would start another daemon with the connection of this one. */
bool takeover_is_kept(const struct Takeover *takeover);
/* For status.json: "resend", "planned-only", "none". */
const char *takeover_word(const struct Takeover *takeover);
