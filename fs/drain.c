/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * drain.c - everything dirty at the call, until it is settled
 *
 * A drain is a ticket with a number per disk. What is marked now is in the
 * open generation or in a sealed one before it; once the disk's settled_seq
 * has reached the number of the generation that is open now, all of it is at
 * the target. Writes that come later go into later generations and do not
 * keep the drain from ending.
 *
 * An empty open generation is never sealed, so its number may never be
 * reached: a disk on which nothing at all is dirty is done whatever its
 * numbers say.
 *
 * A drain that cannot end is refused in words rather than waited for: the
 * target was refused (exit 5). A target that is away may come back, and a relay
 * that is paused may be resumed, so those are waited for.
 *
 * Tickets are looked at when the relay says that something was settled or a
 * link changed, and once a second.
 */
#include "daemon-private.h"

#include <stdlib.h>

struct Drain {
    Daemon *daemon;
    ControlCall *call; /* NULL: the command itself waits */
    unsigned n_disks;
    uint64_t seq[STORE_DISKS_MAX]; /* 0: done, or nothing owed */
};

static bool
disk_is_done(Disk *disk, uint64_t seq)
{
    struct DiskMapFigures figures;

    if (seq == 0 || disk->target == NULL ||
        disk_map_settled_seq(disk->map) >= seq) {
        return true;
    }
    disk_map_figures(disk->map, &figures);
    return figures.dirty_clusters == 0;
}

static bool
drain_is_done(Drain *drain)
{
    Store *store = drain->daemon->store;
    bool is_done = true;

    for (unsigned i = 0; i < drain->n_disks; i++) {
        if (disk_is_done(store->disks[i], drain->seq[i])) {
            drain->seq[i] = 0;
        } else {
            is_done = false;
        }
    }
    return is_done;
}

/* Why it will never end, in words, or NULL. */
static char *
drain_obstacle(Drain *drain, int *code)
{
    Store *store = drain->daemon->store;

    for (unsigned i = 0; i < drain->n_disks; i++) {
        const char *name = store->disks[i]->name;
        struct RelayFigures figures;

        if (drain->seq[i] == 0 ||
            !relay_figures(drain->daemon->relay, name, &figures)) {
            continue;
        }
        if (figures.core.link == RELAY_REFUSED) {
            *code = EXIT_TARGET;
            return g_strdup_printf("%s: the target is refused: %s", name,
                                   figures.core.error);
        }
    }
    return NULL;
}

static void
drain_finish(Drain *drain, int code, const char *words)
{
    Daemon *daemon = drain->daemon;

    g_ptr_array_remove_fast(daemon->drains, drain);
    if (drain->call == NULL) {
        if (words != NULL && daemon->error == NULL) {
            g_set_error_literal(&daemon->error, CONTROL_ERROR, code, words);
        }
        daemon_end(daemon, code);
    } else if (words != NULL) {
        control_call_error(drain->call, code, words);
    } else {
        control_call_return_object(drain->call, json_object_new());
    }
    g_free(drain);
}

static void
drain_check(Drain *drain)
{
    g_autofree char *words = NULL;
    int code = 0;

    if (drain_is_done(drain)) {
        control_server_event(drain->daemon->control, "WEIR_DRAINED", NULL);
        drain_finish(drain, 0, NULL);
        return;
    }
    words = drain_obstacle(drain, &code);
    if (words != NULL) {
        drain_finish(drain, code, words);
        return;
    }
    /* The queue of generations may have been full when it was asked before. */
    relay_hurry(drain->daemon->relay);
}

void
drain_check_all(Daemon *daemon)
{
    for (guint i = daemon->drains->len; i > 0; i--) {
        drain_check(daemon->drains->pdata[i - 1]);
    }
}

static void
drain_gone_cb(gpointer user)
{
    Drain *drain = user;

    g_ptr_array_remove_fast(drain->daemon->drains, drain);
    g_free(drain);
}

void
drain_begin(Daemon *daemon, ControlCall *call)
{
    Drain *drain = g_new0(Drain, 1);

    drain->daemon = daemon;
    drain->call = call;
    drain->n_disks = daemon->store->n_disks;
    for (unsigned i = 0; i < drain->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];

        drain->seq[i] = disk->target != NULL ? disk_map_open_seq(disk->map) : 0;
    }
    g_ptr_array_add(daemon->drains, drain);
    if (call != NULL) {
        control_call_on_gone(call, drain_gone_cb, drain);
    }
    drain_check(drain);
}

void
drain_forget_all(Daemon *daemon)
{
    while (daemon->drains->len > 0) {
        Drain *drain = daemon->drains->pdata[0];

        if (drain->call != NULL) {
            drain_finish(drain, 1, "the daemon is stopping");
        } else {
            drain_gone_cb(drain);
        }
    }
}
