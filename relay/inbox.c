/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An intrusive list under a mutex, and an eventfd beside it. The flag
 * is_kicked keeps a busy poster from paying for a system call per message:
 * the first one after the owner looked writes the eventfd, the others see
 * that it is already on its way.
 *
 * The order that must hold in inbox_take(): drain the eventfd, then clear the
 * flag, then look at the list. A message posted after the look finds the flag
 * clear and kicks again.
 */
#include "inbox.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int
inbox_init(Inbox *inbox)
{
    *inbox = (Inbox){.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (inbox->event_fd < 0) {
        return -errno;
    }
    pthread_mutex_init(&inbox->lock, NULL);
    return 0;
}

void
inbox_deinit(Inbox *inbox)
{
    assert(!inbox->head);
    close(inbox->event_fd);
    pthread_mutex_destroy(&inbox->lock);
}

void
inbox_kick(Inbox *inbox)
{
    uint64_t one = 1;

    if (atomic_exchange(&inbox->is_kicked, true)) {
        return;
    }
    /* Cannot fail: the counter is far from its limit with one kick a look. */
    ssize_t n = write(inbox->event_fd, &one, sizeof(one));
    assert(n == (ssize_t)sizeof(one));
    (void)n;
}

void
inbox_post(Inbox *inbox, InboxMsg *msg)
{
    msg->next = NULL;
    pthread_mutex_lock(&inbox->lock);
    if (inbox->tail) {
        inbox->tail->next = msg;
    } else {
        inbox->head = msg;
    }
    inbox->tail = msg;
    pthread_mutex_unlock(&inbox->lock);
    inbox_kick(inbox);
}

InboxMsg *
inbox_take(Inbox *inbox)
{
    InboxMsg *head;
    uint64_t drained;

    /* -EAGAIN when nobody kicked: the owner may look at any time. */
    ssize_t n = read(inbox->event_fd, &drained, sizeof(drained));
    (void)n;
    atomic_store(&inbox->is_kicked, false);
    pthread_mutex_lock(&inbox->lock);
    head = inbox->head;
    inbox->head = inbox->tail = NULL;
    pthread_mutex_unlock(&inbox->lock);
    return head;
}
