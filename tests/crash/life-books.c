/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sent-log and remote-sums in a life: the relay's own code, whose requests are
 * performed here by plain calls through the seam. So a write that has to be
 * durable is a write and a sync, which a crash finds in more states than one
 * durable write; and what it comes to is the relay's to judge.
 */
#include "life-internal.h"

#include <assert.h>

static int
perform(StoreIo *io, const StoreReq *req)
{
    int res, synced;

    switch (req->op) {
    case STORE_READ:
        return (int)io->ops->pread(io, req->fd, req->buf, req->len,
                                   req->offset);
    case STORE_WRITE:
        return (int)io->ops->pwrite(io, req->fd, req->buf, req->len,
                                    req->offset);
    case STORE_WRITE_SYNC:
        res =
            (int)io->ops->pwrite(io, req->fd, req->buf, req->len, req->offset);
        synced = res < 0 ? res : io->ops->fdatasync(io, req->fd);
        return synced < 0 ? synced : res;
    case STORE_FDATASYNC:
        return io->ops->fdatasync(io, req->fd);
    case STORE_FALLOCATE:
        return io->ops->fallocate(io, req->fd, req->mode, req->offset,
                                  req->len);
    }
    assert(!"a request of the books");
    return 0;
}

void
life_answer_load(struct Run *run, const struct RelayAction *action)
{
    Life *life = run->life;
    struct RelayEvent *event = &life_come(run)->event;
    StoreReq sums;

    *event = (struct RelayEvent){.kind = RELAY_READ, .op = action->op};
    if (books_load(&life->books, action, &sums)) {
        books_loaded(&sums, perform(life->store->io, &sums));
    }
    books_look(&life->books, action->offset, action->len,
               life->raw + action->offset, event);
}

static void
take_step(struct Run *run, const struct BooksStep *step)
{
    if (step->event.kind != RELAY_TICK) {
        life_come(run)->event = step->event;
    }
    if (step->request != BOOKS_REQUESTS) {
        struct Coming *coming = life_come(run);

        coming->kind = COMING_EXECUTION;
        coming->request = step->request;
    }
}

void
life_begin_books(struct Run *run, const struct RelayAction *action)
{
    struct BooksStep step =
        books_begin(&run->life->books, action, relay_core_logged(run->core));

    take_step(run, &step);
}

void
life_execute_books(struct Run *run, struct Coming *coming)
{
    Life *life = run->life;

    coming->result =
        perform(life->store->io, &life->books.requests[coming->request]);
}

void
life_books_done(struct Run *run, const struct Coming *coming)
{
    struct BooksStep step =
        books_done(&run->life->books, coming->request, coming->result);

    take_step(run, &step);
}

/* As the relay's thread does at its end, and relay_stop(). */
void
life_end_books(struct Run *run)
{
    Life *life = run->life;

    books_end(&life->books, run->core, true);
    books_stamp(&life->books, store_end_epoch(life->store));
}

bool
life_open_books(Life *life)
{
    struct RelayDiskConfig config = store_relay_config(life->store, life->disk);

    return books_open(&life->books, life->store->io, &config, NULL) &&
           life->books.log.fd >= 0;
}

void
life_close_books(Life *life)
{
    books_close(&life->books);
}
