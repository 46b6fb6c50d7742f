/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * drain.c - everything dirty at the call, until it is settled
 *
 * A drain is a ticket (ticket.c) with the number of a cut, and one per disk. The
 * disks of the group are done when that cut, which holds all that was dirty,
 * is whole and its hook has succeeded (cuts.h). For the others it is so: what
 * is marked now is in the open generation or in a sealed one before it; once
 * the disk's settled_seq has reached the number of the generation that is open
 * now, all of it is at the target. Writes that come later go into later
 * generations and do not keep the drain from ending.
 *
 * A discard that is not carried out yet is owed as well, though its clusters
 * may be settled with what they held before: the disk's number is that of the
 * generation that is open when all of them are. Later ones may be among them.
 *
 * An empty open generation is never sealed, so its number may never be
 * reached: a disk on which nothing at all is dirty is done whatever its
 * numbers say. A disk that leaves the group meanwhile is judged by these
 * numbers, too.
 *
 * A drain that cannot end is refused in words rather than waited for: the
 * target was refused (exit 5), or a discard waits on a disk that is frozen. A
 * target that is away may come back, and a relay
 * that is paused may be resumed, so those are waited for.
 */
#include "daemon-private.h"

typedef struct Drain {
    Ticket ticket;
    uint64_t cut; /* 0: the group owes nothing */
    unsigned n_disks;
    struct {
        bool is_done;           /* or has no target */
        uint64_t seq;           /* 0: discards come first */
        unsigned times_punched; /* when it began */
    } disks[STORE_DISKS_MAX];
} Drain;

/* What is punched was marked before it left the list: the number is asked for
 * afterwards. */
static bool
is_punched(const Drain *drain, unsigned i)
{
    Disk *disk = drain->ticket.daemon->store->disks[i];

    return atomic_load(&disk->unpunched_bytes) == 0 ||
           atomic_load(&disk->times_punched) != drain->disks[i].times_punched;
}

static bool
disk_is_done(Drain *drain, unsigned i)
{
    Daemon *daemon = drain->ticket.daemon;
    Disk *disk = daemon->store->disks[i];
    uint64_t *seq = &drain->disks[i].seq;
    struct DiskMapFigures figures;

    if (drain->disks[i].is_done || disk->target == NULL) {
        return true;
    }
    if (drain->cut != 0 && store_is_cut(daemon->store, disk)) {
        /* Without cuts the daemon is ending: this one will not be whole. */
        return daemon->cuts != NULL && cuts_is_done(daemon->cuts, drain->cut);
    }
    if (*seq == 0 && is_punched(drain, i)) {
        *seq = disk_map_open_seq(disk->map);
    }
    if (*seq == 0) {
        return false;
    }
    store_disk_figures(disk, &figures);
    return disk_map_settled_seq(disk->map) >= *seq ||
           figures.dirty_clusters == 0;
}

static bool
drain_is_done(Drain *drain)
{
    bool is_done = true;

    for (unsigned i = 0; i < drain->n_disks; i++) {
        drain->disks[i].is_done = disk_is_done(drain, i);
        is_done = is_done && drain->disks[i].is_done;
    }
    return is_done;
}

/* Why it will never end, in words, or NULL. */
static char *
drain_obstacle(Drain *drain, int *code)
{
    Store *store = drain->ticket.daemon->store;

    for (unsigned i = 0; i < drain->n_disks; i++) {
        Disk *disk = store->disks[i];
        const char *name = disk->name;
        struct RelayFigures figures;

        if (drain->disks[i].is_done ||
            !relay_figures(drain->ticket.daemon->relay, name, &figures)) {
            continue;
        }
        if (atomic_load(&disk->is_frozen) &&
            atomic_load(&disk->unpunched_bytes)) {
            *code = EXIT_FAILURE;
            return g_strdup_printf("%s: a local sync failed, and discards wait "
                                   "to be carried out: umount the store and "
                                   "check its file system",
                                   name);
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
    if (daemon->face != NULL) {
        face_hurry(daemon->face);
    }
}

void
drain_begin(Daemon *daemon, ControlCall *call)
{
    Drain *drain = g_new0(Drain, 1);

    drain->ticket.look = drain_look;
    drain->n_disks = daemon->store->n_disks;
    if (daemon->cuts != NULL) {
        drain->cut = cuts_hurry(daemon->cuts);
    }
    for (unsigned i = 0; i < drain->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];
        bool is_owed = drain->cut != 0 || daemon->cuts == NULL ||
                       !store_is_cut(daemon->store, disk);

        drain->disks[i].times_punched = atomic_load(&disk->times_punched);
        drain->disks[i].is_done = !is_owed;
    }
    if (daemon->cuts != NULL) {
        cuts_look(daemon->cuts);
    }
    ticket_open(&drain->ticket, daemon, call);
    drain_look(&drain->ticket);
}
