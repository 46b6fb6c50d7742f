/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ticket.c - what was asked for and cannot be answered at once
 *
 * A drain or a verification is a ticket in the daemon's list. It is looked at
 * when the relay says that something was settled or a link changed, and once a
 * second; its own look() then ends it or leaves it.
 *
 *   done     the call is answered
 *   failed   the call is answered by an error
 *   gone     whoever called went away: it is forgotten
 *
 * Without a call the daemon exists for this ticket only (a command on a store
 * at rest): it ends with it.
 */
#include "daemon-private.h"

static void
ticket_free(Ticket *ticket)
{
    if (ticket->forget != NULL) {
        ticket->forget(ticket);
    }
    g_ptr_array_remove_fast(ticket->daemon->tickets, ticket);
    g_free(ticket);
}

static void
gone_cb(gpointer user)
{
    ticket_free(user);
}

void
ticket_open(Ticket *ticket, Daemon *daemon, ControlCall *call)
{
    assert(ticket->look);
    ticket->daemon = daemon;
    ticket->call = call;
    g_ptr_array_add(daemon->tickets, ticket);
    if (call != NULL) {
        control_call_on_gone(call, gone_cb, ticket);
    }
}

void
ticket_done(Ticket *ticket, JsonObject *result)
{
    if (ticket->call != NULL) {
        control_call_return_object(ticket->call, result);
    } else {
        json_object_unref(result);
        daemon_end(ticket->daemon, 0);
    }
    ticket_free(ticket);
}

void
ticket_fail(Ticket *ticket, int code, const char *words)
{
    Daemon *daemon = ticket->daemon;

    if (ticket->call != NULL) {
        control_call_error(ticket->call, code, words);
    } else {
        if (daemon->error == NULL) {
            g_set_error_literal(&daemon->error, CONTROL_ERROR, code, words);
        }
        daemon_end(daemon, code);
    }
    ticket_free(ticket);
}

void
ticket_look_all(Daemon *daemon)
{
    for (guint i = daemon->tickets->len; i > 0; i--) {
        Ticket *ticket = daemon->tickets->pdata[i - 1];

        ticket->look(ticket);
    }
}

void
ticket_forget_all(Daemon *daemon)
{
    while (daemon->tickets->len > 0) {
        Ticket *ticket = daemon->tickets->pdata[0];

        if (ticket->call != NULL) {
            ticket_fail(ticket, 1, "the daemon is stopping");
        } else {
            ticket_free(ticket);
        }
    }
}
