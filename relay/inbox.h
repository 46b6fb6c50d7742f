/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inbox.h - messages into a thread that waits in its io_uring
 *
 * Purpose: any thread posts; the owner is woken through an eventfd that it
 *          polls in its ring, and takes all messages at once. Nobody waits.
 * Threads: inbox_post() and inbox_kick() from any; the rest is the owner's.
 * Shapes:  messages are embedded in the poster's structs, oldest first; the
 *          receiver owns them once taken.
 * Errors:  inbox_init() returns -errno; posting cannot fail.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct InboxMsg InboxMsg;
struct InboxMsg {
    InboxMsg *next;
    int kind; /* of the receiver's own enum */
};

typedef struct Inbox {
    pthread_mutex_t lock;
    InboxMsg *head, *tail; /* guarded by lock */
    int event_fd;          /* set at creation */
    atomic_bool is_kicked; /* an eventfd write is on its way: no second one */
} Inbox;

int inbox_init(Inbox *inbox);
void inbox_deinit(Inbox *inbox); /* must be empty */

void inbox_post(Inbox *inbox, InboxMsg *msg);
void inbox_kick(Inbox *inbox); /* wake the owner without a message */

/* Owner: reset the eventfd, then take what is there. */
InboxMsg *inbox_take(Inbox *inbox);
