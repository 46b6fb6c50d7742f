/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * drain.c - everything dirty at the call, until it is settled
 *
 * A drain is a ticket (ticket.c) with a number per disk. What is marked now is
 * in the open generation or in a sealed one before it; once the disk's
 * settled_seq has reached the number of the generation that is open now, all
 * of it is at the target. Writes that come later go into later generations and
 * do not keep the drain from ending.
 *
 * An empty open generation is never sealed, so its number may never be
 * reached: a disk on which nothing at all is dirty is done whatever its
 * numbers say.
 *
 * A drain that cannot end is refused in words rather than waited for: the
 * target was refused (exit 5). A target that is away may come back, and a relay
 * that is paused may be resumed, so those are waited for.
 */
#include "daemon-private.h"

typedef struct Drain {
    Ticket ticket;
    unsigned n_disks;
    uint64_t seq[STORE_DISKS_MAX]; /* 0: done, or nothing owed */
} Drain;

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
    Store *store = drain->ticket.daemon->store;
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
    Store *store = drain->ticket.daemon->store;

    for (unsigned i = 0; i < drain->n_disks; i++) {
        const char *name = store->disks[i]->name;
        struct RelayFigures figures;

        if (drain->seq[i] == 0 ||
            !relay_figures(drain->ticket.daemon->relay, name, &figures)) {
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
drain_look(Ticket *ticket)
{
    Drain *drain = (Drain *)ticket;
    Daemon *daemon = ticket->daemon;
    g_autofree char *words = NULL;
    int code = 0;

    if (drain_is_done(drain)) {
        control_server_event(daemon->control, "WEIR_DRAINED", NULL);
        ticket_done(ticket, json_object_new());
        return;
    }
    words = drain_obstacle(drain, &code);
    if (words != NULL) {
        ticket_fail(ticket, code, words);
        return;
    }
    /* The queue of generations may have been full when it was asked before. */
    relay_hurry(daemon->relay);
}

void
drain_begin(Daemon *daemon, ControlCall *call)
{
    Drain *drain = g_new0(Drain, 1);

    drain->ticket.look = drain_look;
    drain->n_disks = daemon->store->n_disks;
    for (unsigned i = 0; i < drain->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];

        drain->seq[i] = disk->target != NULL ? disk_map_open_seq(disk->map) : 0;
    }
    ticket_open(&drain->ticket, daemon, call);
    drain_look(&drain->ticket);
}
