/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core's actions on local files, performed:
 *
 *   action   what is done                          comes back as
 *   MAP      a question to the mapper              MAPPED, MAP_FAILED
 *   LOAD     disk.raw and remote-sums are read     READ, READ_FAILED
 *   NOTE, LOG, SYNC, FORGET: a request of books    see books.c
 *
 * The file system is asked about holes for each op, but "this is data" is
 * remembered for a second: a hole that is called data costs a read, no more.
 * "This is a hole" is never remembered, for it may be written at any time.
 */
#include <errno.h>
#include <string.h>

#include "loop.h"
#include "thread-role.h"

#define DATA_KNOWN_US 1000000

/*
 * Memory
 */
uint8_t *
perform_buffer(const RelayDisk *disk, unsigned op)
{
    return disk->buffers + (size_t)op * RELAY_OP_BYTES_MAX;
}

static void
submit(RelayDisk *disk, struct StoreReq *req, enum RelayTag tag, unsigned slot)
{
    StoreIo *io = disk->relay->config.io;
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    io->ops->prep(io, sqe, req);
    io_uring_sqe_set_data64(sqe, relay_user_data(tag, disk->index, slot, 0));
    disk->n_local++;
}

/*
 * Maps
 */
void
perform_map(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];

    if (disk->relay->now_us < disk->data_us + DATA_KNOWN_US &&
        action->offset >= disk->data_from && action->offset < disk->data_to) {
        struct RelayEvent *event = perform_event(disk, RELAY_MAPPED);

        event->op = action->op;
        event->len = MIN(action->len, disk->data_to - action->offset);
        return;
    }
    assert(!slot->is_mapping);
    slot->is_mapping = true;
    disk->n_local++;
    slot->map = (struct MapRequest){
        .msg.kind = MSG_MAPPED,
        .disk = disk->index,
        .op = action->op,
        .fd = disk->map_fd,
        .offset = action->offset,
        .want = action->len,
    };
    mapper_ask(disk->relay->mapper, &slot->map);
}

void
perform_mapped(RelayDisk *disk, struct MapRequest *request)
{
    struct RelayEvent *event =
        perform_event(disk, request->error ? RELAY_MAP_FAILED : RELAY_MAPPED);

    event->op = request->op;
    event->len = MIN(request->len, request->want);
    event->is_hole = request->is_hole;
    event->error = -request->error;
    disk->slots[request->op].is_mapping = false;
    disk->n_local--;
    if (!request->error && !request->is_hole) {
        disk->data_from = request->offset;
        disk->data_to = request->offset + request->len;
        disk->data_us = disk->relay->now_us;
    }
}

/*
 * Loads
 */
void
perform_load(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];
    uint64_t align = disk->dio_align;

    assert(!slot->n_reading && action->len <= RELAY_OP_BYTES_MAX);
    slot->offset = action->offset;
    slot->len = action->len;
    slot->error = 0;
    slot->n_reading = 1;
    /* The file is larger than the disk where that ends unaligned. */
    slot->data = (struct StoreReq){
        .op = STORE_READ,
        .fd = disk->fd,
        .buf = perform_buffer(disk, action->op),
        .offset = action->offset,
        .len = (action->len + align - 1) / align * align,
    };
    disk->has_memory = true;
    disk->memory_us = disk->relay->now_us;
    submit(disk, &slot->data, TAG_DATA, action->op);
    if (books_load(&disk->books, action, &slot->sums)) {
        slot->n_reading++;
        submit(disk, &slot->sums, TAG_SUMS, action->op);
    }
}

static void
load_part_done(RelayDisk *disk, unsigned op)
{
    struct RelaySlot *slot = &disk->slots[op];
    struct RelayEvent *event;

    if (--slot->n_reading) {
        return;
    }
    event = perform_event(disk, slot->error ? RELAY_READ_FAILED : RELAY_READ);
    event->op = op;
    event->error = slot->error;
    if (!slot->error) {
        books_look(&disk->books, slot->offset, slot->len,
                   perform_buffer(disk, op), event);
    }
}

/* A part was read: go on, unless the file ends here. */
static bool
read_goes_on(RelayDisk *disk, unsigned op, int res)
{
    struct StoreReq *req = &disk->slots[op].data;
    uint64_t got = (uint64_t)res;

    req->buf = (uint8_t *)req->buf + got;
    req->offset += got;
    req->len -= got;
    if (!req->len) {
        return false;
    }
    if (!got || got % disk->dio_align) {
        memset(req->buf, 0, req->len); /* beyond the end of the file */
        return false;
    }
    submit(disk, req, TAG_DATA, op);
    return true;
}

static void
data_done(RelayDisk *disk, unsigned op, int res)
{
    struct RelaySlot *slot = &disk->slots[op];

    if (res == -EINTR || res == -EAGAIN) {
        submit(disk, &slot->data, TAG_DATA, op);
        return;
    }
    if (res >= 0 && read_goes_on(disk, op, res)) {
        return;
    }
    slot->error = res < 0 ? -res : 0;
    load_part_done(disk, op);
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
        submit(disk, &disk->books.requests[step->request], TAG_BOOKS,
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
    if (tag == TAG_DATA) {
        data_done(disk, slot, res);
    } else if (tag == TAG_SUMS) {
        books_loaded(&disk->slots[slot].sums, res);
        load_part_done(disk, slot);
    } else {
        books_request_done(disk, slot, res);
    }
}
