/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Local I/O on the relay's ring: what is asked for, and what comes back.
 *
 *   action                     what is done
 *   MAP, LOAD                  the disk itself: perform-load.c
 *   NOTE, LOG, SYNC, FORGET    a request of the books: books.c
 */
#include "loop.h"
#include "thread-role.h"

void
perform_submit(RelayDisk *disk, struct StoreReq *req, enum RelayTag tag,
               unsigned slot)
{
    StoreIo *io = disk->relay->config.io;
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    io->ops->prep(io, sqe, req);
    io_uring_sqe_set_data64(sqe, relay_user_data(tag, disk->index, slot, 0));
    disk->n_local++;
}

/*
 * Books
 */
static void
take_step(RelayDisk *disk, const struct BooksStep *step)
{
    if (step->event.kind != RELAY_TICK) {
        *perform_event(disk, step->event.kind) = step->event;
    }
    if (step->request != BOOKS_REQUESTS) {
        perform_submit(disk, &disk->books.requests[step->request], TAG_BOOKS,
                       step->request);
    }
}

void
perform_books(RelayDisk *disk, const struct RelayAction *action)
{
    struct BooksStep step =
        books_begin(&disk->books, action, relay_core_logged(disk->core));

    take_step(disk, &step);
}

static void
books_request_done(RelayDisk *disk, unsigned request, int res)
{
    struct BooksStep step = books_done(&disk->books, request, res);

    take_step(disk, &step);
}

/*
 * Completions
 */
static struct StoreReq *
request_of(RelayDisk *disk, enum RelayTag tag, unsigned slot)
{
    switch (tag) {
    case TAG_DATA:
        return &disk->slots[slot].data;
    case TAG_SUMS:
        return &disk->slots[slot].sums;
    case TAG_BOOKS:
        return &disk->books.requests[slot];
    case TAG_IGNORE:
    case TAG_INBOX:
    case TAG_NBD:
    case TAG_SERVER:
        break;
    }
    assert(!"local I/O");
    return NULL;
}

void
perform_local_done(RelayDisk *disk, enum RelayTag tag, unsigned slot, int res)
{
    StoreIo *io = disk->relay->config.io;

    relay_thread_assert();
    disk->n_local--;
    res = io->ops->done(io, request_of(disk, tag, slot), res);
    if (tag == TAG_DATA || tag == TAG_SUMS) {
        perform_load_done(disk, tag, slot, res);
    } else {
        books_request_done(disk, slot, res);
    }
}
