/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core's actions on local files, performed:
 *
 *   action   what is done                          comes back as
 *   MAP      a question to the mapper              MAPPED, MAP_FAILED
 *   LOAD     disk.raw and remote-sums are read     READ, READ_FAILED
 *   NOTE     remote-sums is written, or punched    NOTED
 *   LOG      sent-log is written, durably          LOGGED, LOG_FAILED
 *   SYNC     fdatasync of remote-sums              SYNCED
 *   FORGET   all entries are punched, durably;     FORGOTTEN
 *            then a new key is written, durably
 *
 * A load hashes each of its clusters once: the hash is compared with the sum
 * of what the target holds, and is what NOTE writes if the cluster is sent.
 * Sums that cannot be read are unknown.
 *
 * The file system is asked about holes for each op, but "this is data" is
 * remembered for a second: a hole that is called data costs a read, no more.
 * "This is a hole" is never remembered, for it may be written at any time.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
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

static uint8_t *
known_entries(const RelayDisk *disk, unsigned op)
{
    return disk->books.entries + (size_t)op * 2 * RELAY_SUMS_BYTES;
}

static uint8_t *
loaded_entries(const RelayDisk *disk, unsigned op)
{
    return known_entries(disk, op) + RELAY_SUMS_BYTES;
}

const uint8_t *
perform_known(const RelayDisk *disk, unsigned op)
{
    return known_entries(disk, op);
}

static struct ClusterRun
run_of(const RelayDisk *disk, uint64_t offset, uint64_t len)
{
    return run_outward(offset, len, disk_map_cluster_bits(disk->map));
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
    struct ClusterRun run = run_of(disk, action->offset, action->len);

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
    slot->sums = (struct StoreReq){
        .op = STORE_READ,
        .fd = disk->books.sums.fd,
        .buf = known_entries(disk, action->op),
        .offset = sums_offset(run),
        .len = run.count * SUMS_BYTES,
    };
    memset(slot->sums.buf, 0, slot->sums.len);
    disk->has_memory = true;
    disk->memory_us = disk->relay->now_us;
    submit(disk, &slot->data, TAG_DATA, action->op);
    if (disk->books.sums.fd >= 0) {
        slot->n_reading++;
        submit(disk, &slot->sums, TAG_SUMS, action->op);
    }
}

static bool
is_all_zero(const uint8_t *data, size_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

static void
set_bit(uint64_t *words, unsigned i, bool is_set)
{
    words[i / 64] |= (uint64_t)is_set << i % 64;
}

/* What the core wants to know of each cluster that was loaded. */
static void
look_at_clusters(const RelayDisk *disk, unsigned op, struct RelayEvent *event)
{
    const struct RelaySlot *slot = &disk->slots[op];
    const uint8_t *data = perform_buffer(disk, op);
    uint64_t cluster = UINT64_C(1) << disk_map_cluster_bits(disk->map);
    uint64_t first = slot->offset >> disk_map_cluster_bits(disk->map);
    unsigned i = 0;

    for (uint64_t at = 0; at < slot->len; at += cluster, i++) {
        size_t len = MIN(cluster, slot->len - at);
        const uint8_t *known = known_entries(disk, op) + i * SUMS_BYTES;
        uint8_t *entry = loaded_entries(disk, op) + i * SUMS_BYTES;

        sums_hash(&disk->books.sums, first + i, data + at, len, entry);
        set_bit(event->zero, i, is_all_zero(data + at, len));
        set_bit(event->known, i, sums_is_known(known));
        set_bit(event->equal, i, !memcmp(known, entry, SUMS_BYTES));
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
        look_at_clusters(disk, op, event);
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

/* What is behind the end of the file, or cannot be read, is unknown. */
static void
sums_done(RelayDisk *disk, unsigned op, int res)
{
    struct StoreReq *req = &disk->slots[op].sums;
    size_t whole = res > 0 ? (size_t)res / SUMS_BYTES * SUMS_BYTES : 0;

    memset((uint8_t *)req->buf + whole, 0, req->len - whole);
    load_part_done(disk, op);
}

/*
 * Notes
 */
static void
noted(RelayDisk *disk, unsigned op, int error)
{
    struct RelayEvent *event = perform_event(disk, RELAY_NOTED);

    event->op = op;
    event->error = error;
}

void
perform_note(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];
    struct ClusterRun run = run_of(disk, action->offset, action->len);

    slot->note = (struct StoreReq){
        .op = action->is_zero_run ? STORE_FALLOCATE : STORE_WRITE,
        .fd = disk->books.sums.fd,
        .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        .buf = loaded_entries(disk, action->op),
        .offset = sums_offset(run),
        .len = run.count * SUMS_BYTES,
    };
    if (slot->note.fd < 0) {
        noted(disk, action->op, EIO);
        return;
    }
    disk->books.n_notes++;
    submit(disk, &slot->note, TAG_NOTE, action->op);
}

static void
note_done(RelayDisk *disk, unsigned op, int res)
{
    struct StoreReq *req = &disk->slots[op].note;
    uint64_t wanted = req->op == STORE_WRITE ? req->len : 0;

    disk->books.n_notes--;
    noted(disk, op, res < 0 ? -res : (uint64_t)res == wanted ? 0 : EIO);
    if (disk->books.forget_waits && !disk->books.n_notes) {
        disk->books.forget_waits = false;
        perform_forget(disk);
    }
}

/*
 * The log
 */
static void
log_failed(RelayDisk *disk, int error, const char *words)
{
    struct RelayEvent *event = perform_event(disk, RELAY_LOG_FAILED);

    event->error = error;
    g_strlcpy(event->text, words, RELAY_TEXT);
}

static void
committed(RelayDisk *disk, int res)
{
    struct RelayBooks *books = &disk->books;
    int error = res < 0 ? -res : ENOSPC;

    if (res >= 0 && (uint64_t)res == books->commit.len) {
        (void)perform_event(disk, RELAY_LOGGED);
        return;
    }
    sent_log_failed(&books->log);
    log_failed(disk, error, g_strerror(error));
}

void
perform_commit(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;
    uint64_t offset;
    size_t len;

    if (books->log.fd < 0) {
        log_failed(disk, EIO, "it could not be opened");
        return;
    }
    len = sent_log_encode(&books->log, relay_core_logged(disk->core), &offset);
    books->commit = (struct StoreReq){
        .op = STORE_WRITE_SYNC,
        .fd = books->log.fd,
        .buf = books->log.slot,
        .offset = offset,
        .len = len,
    };
    submit(disk, &books->commit, TAG_COMMIT, 0);
}

/*
 * All sums
 */
static void
synced(RelayDisk *disk, int res)
{
    perform_event(disk, RELAY_SYNCED)->error = -res;
}

void
perform_sync(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;

    books->sync =
        (struct StoreReq){.op = STORE_FDATASYNC, .fd = books->sums.fd};
    if (books->sync.fd < 0) {
        synced(disk, -EIO);
    } else {
        submit(disk, &books->sync, TAG_SYNC, 0);
    }
}

static void
forgotten(RelayDisk *disk, int error)
{
    perform_event(disk, RELAY_FORGOTTEN)->error = error;
}

static void
forget_step(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;
    const struct StoreReq steps[] = {
        [FORGET_PUNCH] = {.op = STORE_FALLOCATE,
                          .fd = books->sums.fd,
                          .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          .offset = SUMS_AT,
                          .len = disk_map_clusters(disk->map) * SUMS_BYTES},
        [FORGET_SYNC] = {.op = STORE_FDATASYNC, .fd = books->sums.fd},
        [FORGET_KEY] = {.op = STORE_WRITE_SYNC,
                        .fd = books->sums.fd,
                        .buf = &books->sums.header,
                        .len = sizeof(books->sums.header)},
    };

    books->forget = steps[books->forget_step];
    submit(disk, &books->forget, TAG_FORGET, 0);
}

/* Notes that are under way would write sums of the old key behind our back. */
void
perform_forget(RelayDisk *disk)
{
    struct RelayBooks *books = &disk->books;

    if (books->sums.fd < 0) {
        forgotten(disk, 0);
    } else if (books->n_notes) {
        books->forget_waits = true;
    } else {
        books->forget_step = FORGET_PUNCH;
        forget_step(disk);
    }
}

static void
forget_done(RelayDisk *disk, int res)
{
    struct RelayBooks *books = &disk->books;
    bool is_last = books->forget_step == FORGET_KEY;
    int wanted = is_last ? (int)sizeof(books->sums.header) : 0;
    int error = res < 0 ? -res : res == wanted ? 0 : EIO;

    if (!error && !is_last) {
        books->forget_step++;
        error =
            books->forget_step == FORGET_KEY ? -sums_make_key(&books->sums) : 0;
        if (!error) {
            forget_step(disk);
            return;
        }
    }
    forgotten(disk, error);
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
    case TAG_NOTE:
        return &disk->slots[slot].note;
    case TAG_COMMIT:
        return &disk->books.commit;
    case TAG_SYNC:
        return &disk->books.sync;
    case TAG_FORGET:
        return &disk->books.forget;
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
        sums_done(disk, slot, res);
    } else if (tag == TAG_NOTE) {
        note_done(disk, slot, res);
    } else if (tag == TAG_COMMIT) {
        committed(disk, res);
    } else if (tag == TAG_SYNC) {
        synced(disk, res);
    } else {
        forget_done(disk, res);
    }
}
