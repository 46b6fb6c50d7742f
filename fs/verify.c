/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * verify.c - the targets compared with what they should hold
 *
 * The relay walks over each disk; a ticket (ticket.c) waits until the walks of
 * all disks that it asked for have reached their ends, and then says what was
 * found. A target that is refused ends it; one that is away is waited for. A
 * walk that somebody else begins on the same disk ends ours early: both then
 * get what that one finds.
 */
#include "daemon-private.h"

typedef struct Verification {
    Ticket ticket;
    bool repairs;
    unsigned n_disks;
    struct {
        bool is_wanted;
        unsigned done; /* walks that had ended before */
    } disks[STORE_DISKS_MAX];
} Verification;

static bool
disk_figures(Verification *v, unsigned i, struct RelayFigures *figures)
{
    Daemon *daemon = v->ticket.daemon;

    return v->disks[i].is_wanted &&
           relay_figures(daemon->relay, daemon->store->disks[i]->name, figures);
}

static JsonObject *
build_result(Verification *v)
{
    JsonObject *result = json_object_new();
    JsonArray *disks = json_array_new();
    gint64 differing = 0, unread = 0;

    for (unsigned i = 0; i < v->n_disks; i++) {
        struct RelayFigures figures;
        JsonObject *disk;

        if (!disk_figures(v, i, &figures)) {
            continue;
        }
        disk = json_object_new();
        json_object_set_string_member(disk, "name",
                                      v->ticket.daemon->store->disks[i]->name);
        json_object_set_int_member(disk, "compared_bytes",
                                   (gint64)figures.core.verify.compared_bytes);
        json_object_set_int_member(disk, "dirty_bytes",
                                   (gint64)figures.core.verify.passed_bytes);
        json_object_set_int_member(disk, "differing_clusters",
                                   (gint64)figures.core.verify.other_clusters);
        differing += (gint64)figures.core.verify.other_clusters;
        json_object_set_int_member(disk, "unread_clusters",
                                   (gint64)figures.core.verify.unread_clusters);
        unread += (gint64)figures.core.verify.unread_clusters;
        json_array_add_object_element(disks, disk);
    }
    json_object_set_int_member(result, "differing_clusters", differing);
    json_object_set_int_member(result, "unread_clusters", unread);
    json_object_set_boolean_member(result, "repaired",
                                   v->repairs && differing > 0);
    json_object_set_array_member(result, "disks", disks);
    return result;
}

static void
done(Verification *v)
{
    const struct DaemonConfig *config = v->ticket.daemon->config;
    JsonObject *result = build_result(v);

    if (v->ticket.call == NULL) {
        config->verified(result, config->user);
    }
    ticket_done(&v->ticket, result);
}

static void
look(Ticket *ticket)
{
    Verification *v = (Verification *)ticket;
    bool is_done = true;

    for (unsigned i = 0; i < v->n_disks; i++) {
        struct RelayFigures figures;

        if (!disk_figures(v, i, &figures)) {
            continue;
        }
        if (figures.core.link == RELAY_REFUSED) {
            g_autofree char *words = g_strdup_printf(
                "%s: the target is refused: %s",
                ticket->daemon->store->disks[i]->name, figures.core.error);

            ticket_fail(ticket, EXIT_TARGET, words);
            return;
        }
        is_done = is_done && figures.core.verify.done != v->disks[i].done;
    }
    if (is_done) {
        done(v);
    }
}

void
verify_begin(Daemon *daemon, ControlCall *call, const struct VerifyOrder *order)
{
    Verification *v = g_new0(Verification, 1);

    v->ticket.look = look;
    v->repairs = order->repairs;
    v->n_disks = daemon->store->n_disks;
    for (unsigned i = 0; i < v->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];
        struct RelayFigures figures;

        if ((order->disk != NULL && strcmp(order->disk, disk->name) != 0) ||
            !relay_figures(daemon->relay, disk->name, &figures)) {
            continue;
        }
        v->disks[i].is_wanted = true;
        v->disks[i].done = figures.core.verify.done;
        relay_verify(daemon->relay, disk->name, order->repairs,
                     order->bytes_per_second);
    }
    ticket_open(&v->ticket, daemon, call);
}
