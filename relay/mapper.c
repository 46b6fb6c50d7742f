/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue, a condition variable, and a thread that calls lseek().
 *
 * For data it reports the whole extent, as far as it goes: the caller may
 * remember that, for calling a hole data costs only a read. The reverse would
 * not hold, a hole may be written at any time, so that a hole is never
 * reported longer than asked and must not be remembered.
 */
#include "mapper.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct Mapper {
    StoreIo *io;    /* set at creation */
    Inbox *answers; /* set at creation */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    InboxMsg *head, *tail; /* guarded by lock */
    bool is_ending;        /* guarded by lock */
};

static void
map_one(StoreIo *io, struct MapRequest *request)
{
    off_t at = (off_t)request->offset;
    off_t data = io->ops->lseek(io, request->fd, at, SEEK_DATA);
    off_t hole;

    request->error = 0;
    request->is_hole = data != at;
    if (data == -ENXIO) { /* no data up to the end */
        request->len = request->want;
        return;
    }
    if (data < 0) {
        request->error = (int)data;
        return;
    }
    if (request->is_hole) {
        uint64_t len = (uint64_t)(data - at);

        request->len = len < request->want ? len : request->want;
        return;
    }
    hole = io->ops->lseek(io, request->fd, at, SEEK_HOLE);
    if (hole <= at) {
        request->error = hole < 0 ? (int)hole : -EIO;
        return;
    }
    request->len = (uint64_t)(hole - at);
}

static struct MapRequest *
next_locked(Mapper *mapper)
{
    InboxMsg *msg;

    while (!mapper->head && !mapper->is_ending) {
        pthread_cond_wait(&mapper->changed, &mapper->lock);
    }
    msg = mapper->head;
    if (msg) {
        mapper->head = msg->next;
        mapper->tail = msg->next ? mapper->tail : NULL;
    }
    return (struct MapRequest *)msg; /* its first member */
}

static void *
mapper_thread(void *user)
{
    Mapper *mapper = user;
    struct MapRequest *request;

    for (;;) {
        pthread_mutex_lock(&mapper->lock);
        request = next_locked(mapper);
        pthread_mutex_unlock(&mapper->lock);
        if (!request) {
            return NULL;
        }
        map_one(mapper->io, request);
        inbox_post(mapper->answers, &request->msg);
    }
}

Mapper *
mapper_new(StoreIo *io, Inbox *answers)
{
    Mapper *mapper = calloc(1, sizeof(*mapper));
    sigset_t all, before;
    int error;

    if (!mapper) {
        return NULL;
    }
    mapper->io = io;
    mapper->answers = answers;
    pthread_mutex_init(&mapper->lock, NULL);
    pthread_cond_init(&mapper->changed, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&mapper->thread, NULL, mapper_thread, mapper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        pthread_cond_destroy(&mapper->changed);
        pthread_mutex_destroy(&mapper->lock);
        free(mapper);
        return NULL;
    }
    return mapper;
}

void
mapper_free(Mapper *mapper)
{
    if (!mapper) {
        return;
    }
    pthread_mutex_lock(&mapper->lock);
    mapper->is_ending = true;
    pthread_cond_signal(&mapper->changed);
    pthread_mutex_unlock(&mapper->lock);
    pthread_join(mapper->thread, NULL);
    assert(!mapper->head);
    pthread_cond_destroy(&mapper->changed);
    pthread_mutex_destroy(&mapper->lock);
    free(mapper);
}

void
mapper_ask(Mapper *mapper, struct MapRequest *request)
{
    request->msg.next = NULL;
    pthread_mutex_lock(&mapper->lock);
    *(mapper->tail ? &mapper->tail->next : &mapper->head) = &request->msg;
    mapper->tail = &request->msg;
    pthread_cond_signal(&mapper->changed);
    pthread_mutex_unlock(&mapper->lock);
}
