/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the local disk has, for the core:
 *
 *   action   what is done                          comes back as
 *   MAP      a question to the mapper              MAPPED, MAP_FAILED
 *   LOAD     disk.raw and remote-sums are read     READ, READ_FAILED
 *
 * Policy `cut`: what is loaded is what was there when the generation was
 * sealed, or at the instant of the snapshot that is sent. The range is pinned
 * first, so that no write is at work in it; then each part of it comes from
 * where its old content is (perform-place.c). Guests hold ranges in the disk's
 * own map, so that is where a job pins.
 *
 * The file system is asked about holes for each op, but "this is data" is
 * remembered for a second: a hole that is called data costs a read, no more.
 * "This is a hole" is never remembered, for it may be written at any time. Of a
 * snapshot nothing is: what was zero then is data by now where it was
 * overwritten, and reading it all would be dear.
 */
#include <errno.h>
#include <string.h>

#include "bitmap/mutant.h"
#include "loop.h"

#define DATA_KNOWN_US 1000000

/*
 * Memory
 */
uint8_t *
perform_buffer(const RelayDisk *disk, unsigned op)
{
    return disk->buffers + (size_t)op * RELAY_OP_BYTES_MAX;
}

/*
 * Maps
 */
void
perform_map(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];

    if (!perform_snapshot(disk) &&
        disk->relay->now_us < disk->data_us + DATA_KNOWN_US &&
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
    perform_place_ask(disk, slot);
    mapper_ask(disk->relay->mapper, &slot->map);
}

void
perform_mapped(RelayDisk *disk, struct MapRequest *request)
{
    struct RelaySlot *slot = &disk->slots[request->op];
    struct RelayEvent *event =
        perform_event(disk, request->error ? RELAY_MAP_FAILED : RELAY_MAPPED);

    event->op = request->op;
    event->len = MIN(request->len, request->want);
    event->is_hole = request->is_hole;
    if (request->error) {
        perform_place_left(disk, slot);
    } else {
        perform_place_mapped(disk, slot, event);
    }
    event->error = -request->error;
    slot->is_mapping = false;
    disk->n_local--;
    if (!request->error && !request->is_hole && request->fd == disk->map_fd) {
        disk->data_from = request->offset;
        disk->data_to = request->offset + request->len;
        disk->data_us = disk->relay->now_us;
    }
}

/*
 * Loads
 */
static void
pin_granted(RangeHold *hold)
{
    struct RelaySlot *slot =
        (struct RelaySlot *)((char *)hold - offsetof(struct RelaySlot, pin));

    /* Under the map's lock, on any thread: only pass it on. */
    slot->msg.kind = MSG_PINNED;
    inbox_post(&slot->disk->relay->inbox, &slot->msg);
}

/* True: nobody writes there now; false: perform_pinned() will be called. */
static bool
pin(RelayDisk *disk, struct RelaySlot *slot)
{
    if (!disk->is_cut) {
        return true;
    }
    slot->is_pinned = true;
    slot->pin = (RangeHold){.offset = slot->offset,
                            .len = slot->len,
                            .kind = RANGE_PIN,
                            .granted = pin_granted};
    return mutant(MUTANT_NO_PIN) || disk_map_hold(disk->pins, &slot->pin);
}

static void
unpin(RelayDisk *disk, struct RelaySlot *slot)
{
    if (slot->is_pinned) {
        slot->is_pinned = false;
        if (!mutant(MUTANT_NO_PIN)) {
            disk_map_end(disk->pins, &slot->pin, disk->relay->now_us);
        }
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

static void
data_ended(RelayDisk *disk, unsigned op, int error)
{
    struct RelaySlot *slot = &disk->slots[op];

    slot->error = error;
    unpin(disk, slot);
    load_part_done(disk, op);
    if (slot->is_loading) {
        perform_share_loaded(disk, slot, !error);
    }
}

/* Parts that need no reading, up to the one that does. */
static void
read_parts(RelayDisk *disk, unsigned op)
{
    struct RelaySlot *slot = &disk->slots[op];
    uint64_t align = disk->dio_align, len;

    perform_place_left(disk, slot);
    for (; slot->done < slot->len; slot->done += len) {
        uint8_t *to = perform_buffer(disk, op) + slot->done;
        struct PerformPart part = perform_place_next(disk, slot, to);

        len = part.len;
        if (part.place == ASIDE_ZERO) {
            memset(to, 0, len);
        } else if (part.place != ASIDE_RAM) {
            /* The file is larger than the disk where that ends unaligned. */
            slot->data = (struct StoreReq){
                .op = STORE_READ,
                .fd = part.fd,
                .buf = to,
                .offset = slot->offset + slot->done,
                .len = (len + align - 1) / align * align,
            };
            slot->done += len;
            perform_submit(disk, &slot->data, TAG_DATA, op);
            return;
        }
    }
    data_ended(disk, op, 0);
}

static void
load_data(RelayDisk *disk, struct RelaySlot *slot)
{
    if (pin(disk, slot)) {
        read_parts(disk, (unsigned)(slot - disk->slots));
    } else {
        disk->n_local++; /* the loop is not to end before the pin is had */
    }
}

void
perform_load_shared(struct RelaySlot *slot, bool has_it)
{
    RelayDisk *disk = slot->disk;

    if (has_it) {
        data_ended(disk, (unsigned)(slot - disk->slots), 0);
    } else {
        load_data(disk, slot);
    }
}

void
perform_load(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];

    assert(!slot->n_reading && action->len <= RELAY_OP_BYTES_MAX);
    slot->disk = disk;
    slot->offset = action->offset;
    slot->len = action->len;
    slot->done = 0;
    slot->error = 0;
    slot->n_reading = 1;
    disk->has_memory = true;
    disk->memory_us = disk->relay->now_us;
    if (books_load(&disk->books, action, &slot->sums)) {
        slot->n_reading++;
        perform_submit(disk, &slot->sums, TAG_SUMS, action->op);
    }
    switch (perform_share(disk, slot)) {
    case SHARE_NONE:
        load_data(disk, slot);
        break;
    case SHARE_COPIED:
        data_ended(disk, action->op, 0);
        break;
    case SHARE_WAITS:
        break;
    }
}

void
perform_pinned(struct RelaySlot *slot)
{
    slot->disk->n_local--;
    read_parts(slot->disk, (unsigned)(slot - slot->disk->slots));
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
    perform_submit(disk, req, TAG_DATA, op);
    return true;
}

static void
data_done(RelayDisk *disk, unsigned op, int res)
{
    struct RelaySlot *slot = &disk->slots[op];

    if (res == -EINTR || res == -EAGAIN) {
        perform_submit(disk, &slot->data, TAG_DATA, op);
    } else if (res < 0 && slot->point) {
        /* All of it again, as it is now. */
        perform_snapshot_lost(disk);
        slot->done = 0;
        read_parts(disk, op);
    } else if (res < 0) {
        data_ended(disk, op, -res);
    } else if (!read_goes_on(disk, op, res)) {
        read_parts(disk, op);
    }
}

void
perform_load_done(RelayDisk *disk, enum RelayTag tag, unsigned op, int res)
{
    if (tag == TAG_DATA) {
        data_done(disk, op, res);
    } else {
        books_loaded(&disk->slots[op].sums, res);
        load_part_done(disk, op);
    }
}
