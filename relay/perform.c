/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core's actions, performed; what came of them, as its events.
 *
 *   action                  goes to            comes back by
 *   CONNECT                 a ConnectJob       perform_connected(), deadline
 *   MAP                     the mapper         perform_mapped()
 *   LOAD                    the ring           perform_read_done()
 *   SEND_*                  the Target         perform_collect()
 *   DISCONNECT              here               nothing
 *
 * Nothing here decides anything. Events only join the disk's queue, the loop
 * steps the core with them afterwards.
 *
 * An action that names a connection of another epoch is dropped without a
 * word: that connection was lost, and its LINK_LOST is in the queue already.
 *
 * The file system is asked about holes for each op, but "this is data" is
 * remembered for a second: a hole that is called data costs a read, no more.
 * "This is a hole" is never remembered, for it may be written at any time.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loop.h"
#include "thread-role.h"

#define DATA_KNOWN_US 1000000

struct RelayEvent *
perform_event(RelayDisk *disk, enum RelayEventKind kind)
{
    struct RelayEvent *event;

    if (disk->events_head == disk->events_count) {
        disk->events_head = disk->events_count = 0;
    }
    if (disk->events_count == disk->events_room) {
        disk->events_room = MAX(2 * disk->events_room, 64);
        disk->events =
            g_renew(struct RelayEvent, disk->events, disk->events_room);
    }
    event = &disk->events[disk->events_count++];
    *event = (struct RelayEvent){.kind = kind};
    return event;
}

static struct RelayEvent *
conn_event(RelayDisk *disk, enum RelayEventKind kind, unsigned conn)
{
    struct RelayEvent *event = perform_event(disk, kind);

    event->conn = conn;
    event->epoch = disk->conns[conn].epoch;
    return event;
}

static void
conn_drop(RelayDisk *disk, unsigned index)
{
    struct RelayConn *conn = &disk->conns[index];

    if (conn->job) {
        connect_job_drop(conn->job);
    }
    target_free(conn->target);
    *conn = (struct RelayConn){.epoch = conn->epoch,
                               .poll_seq = conn->poll_seq + 1};
}

static void
conn_lost(RelayDisk *disk, unsigned index, const char *text)
{
    struct RelayEvent *event = conn_event(disk, RELAY_LINK_LOST, index);

    g_strlcpy(event->text, text, RELAY_TEXT);
    conn_drop(disk, index);
}

void
perform_drop_all(RelayDisk *disk)
{
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        conn_drop(disk, i);
    }
}

/*
 * Connections
 */

static void
arm_server(RelayDisk *disk)
{
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    disk->server_life++;
    io_uring_prep_poll_add(sqe, server_pidfd(disk->server), POLLIN);
    io_uring_sqe_set_data64(
        sqe, relay_user_data(TAG_SERVER, disk->index, 0, disk->server_life));
}

/* A socket connected to our own server, or -1 with words. */
static int
connect_server(RelayDisk *disk, char *text)
{
    int fd;

    (void)server_reap(disk->server, NULL);
    if (!server_pid(disk->server)) {
        if (server_start(disk->server, text)) {
            return -1;
        }
        arm_server(disk);
    }
    fd = server_connect(disk->server);
    if (fd < 0) {
        g_snprintf(text, RELAY_TEXT, "connect: %s", g_strerror(-fd));
        return -1;
    }
    return fd;
}

static void
perform_connect(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelayConn *conn = &disk->conns[action->conn];
    Relay *relay = disk->relay;
    struct ConnectSpec spec = {
        .uri = disk->uri,
        .fd = -1,
        .insecure = disk->insecure,
        .timeout_ms = (unsigned)(relay->config.deadline_us / 1000),
        .inbox = &relay->inbox,
        .msg_kind = MSG_CONNECTED,
        .disk = disk->index,
        .conn = action->conn,
        .epoch = action->epoch,
    };
    char text[RELAY_TEXT];

    conn_drop(disk, action->conn);
    conn->epoch = action->epoch;
    if (!disk->uri) {
        struct RelayEvent *event =
            conn_event(disk, RELAY_LINK_BARRED, action->conn);

        g_strlcpy(event->text, disk->barred, RELAY_TEXT);
        return;
    }
    if (disk->server) {
        spec.fd = connect_server(disk, text);
        if (spec.fd < 0) {
            conn_lost(disk, action->conn, text);
            return;
        }
    }
    conn->job = connect_job_start(&spec);
    conn->connect_deadline_us = action->deadline_us;
    if (!conn->job) {
        conn_lost(disk, action->conn, "no thread for a connect");
    }
}

void
perform_connected(RelayDisk *disk, struct ConnectResult *result)
{
    struct RelayConn *conn = &disk->conns[result->conn];
    struct RelayEvent *event;

    if (result->epoch != conn->epoch || !conn->job) {
        connect_result_free(result);
        return;
    }
    connect_job_drop(conn->job);
    conn->job = NULL;
    if (!result->nbd) {
        event = conn_event(
            disk, result->is_barred ? RELAY_LINK_BARRED : RELAY_LINK_LOST,
            result->conn);
        g_strlcpy(event->text, result->text, RELAY_TEXT);
    } else {
        event = conn_event(disk, RELAY_LINK_UP, result->conn);
        event->caps = result->caps;
        if (disk->server) {
            event->caps.is_new_process = server_take_newness(disk->server);
        }
        disk->target_size = result->caps.size_bytes;
        conn->target = target_new(result->nbd);
        result->nbd = NULL;
    }
    connect_result_free(result);
}

/* Who waits for a handshake with it need not wait any longer. */
void
perform_server_died(RelayDisk *disk, uint32_t life)
{
    char text[RELAY_TEXT];

    if (!disk->server || life != disk->server_life ||
        !server_reap(disk->server, text)) {
        return;
    }
    g_message("%s: %s", disk->name, text);
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        if (disk->conns[i].job) {
            conn_lost(disk, i, text);
        }
    }
}

/*
 * Local disk
 */

static uint8_t *
op_buffer(const RelayDisk *disk, unsigned op)
{
    return disk->buffers + (size_t)op * RELAY_OP_BYTES_MAX;
}

static void
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
    disk->n_mapping++;
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
    disk->n_mapping--;
    if (!request->error && !request->is_hole) {
        disk->data_from = request->offset;
        disk->data_to = request->offset + request->len;
        disk->data_us = disk->relay->now_us;
    }
}

static void
submit_read(RelayDisk *disk, unsigned op)
{
    StoreIo *io = disk->relay->config.io;
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    io->ops->prep(io, sqe, &disk->slots[op].req);
    io_uring_sqe_set_data64(sqe, relay_user_data(TAG_READ, disk->index, op, 0));
}

static void
perform_load(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelaySlot *slot = &disk->slots[action->op];
    uint64_t align = disk->dio_align;

    assert(!slot->is_reading && action->len <= RELAY_OP_BYTES_MAX);
    slot->is_reading = true;
    disk->n_reading++;
    slot->len = action->len;
    /* The file is larger than the disk where that ends unaligned. */
    slot->req = (struct StoreReq){
        .op = STORE_READ,
        .fd = disk->fd,
        .buf = op_buffer(disk, action->op),
        .offset = action->offset,
        .len = (action->len + align - 1) / align * align,
    };
    disk->has_memory = true;
    disk->memory_us = disk->relay->now_us;
    submit_read(disk, action->op);
}

static bool
is_all_zero(const uint8_t *data, size_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

static void
find_zeroes(const RelayDisk *disk, struct RelayEvent *event, uint64_t len)
{
    uint64_t cluster = UINT64_C(1) << disk_map_cluster_bits(disk->map);
    const uint8_t *data = op_buffer(disk, event->op);
    unsigned index = 0;

    for (uint64_t at = 0; at < len; at += cluster, index++) {
        if (is_all_zero(data + at, MIN(cluster, len - at))) {
            event->zero[index / 64] |= UINT64_C(1) << index % 64;
        }
    }
}

/* A part was read: go on, unless the file ends here. */
static bool
read_goes_on(RelayDisk *disk, unsigned op, int res)
{
    struct StoreReq *req = &disk->slots[op].req;
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
    submit_read(disk, op);
    return true;
}

void
perform_read_done(RelayDisk *disk, unsigned op, int res)
{
    StoreIo *io = disk->relay->config.io;
    struct RelaySlot *slot = &disk->slots[op];
    struct RelayEvent *event;

    res = io->ops->done(io, &slot->req, res);
    if (res == -EINTR || res == -EAGAIN) {
        submit_read(disk, op);
        return;
    }
    if (res >= 0 && read_goes_on(disk, op, res)) {
        return;
    }
    slot->is_reading = false;
    disk->n_reading--;
    event = perform_event(disk, res < 0 ? RELAY_READ_FAILED : RELAY_READ);
    event->op = op;
    if (res < 0) {
        event->error = -res;
        return;
    }
    find_zeroes(disk, event, slot->len);
}

/*
 * The target
 */

static void
perform_send(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelayConn *conn = &disk->conns[action->conn];

    if (conn->epoch == action->epoch && conn->target) {
        target_send(conn->target, action,
                    op_buffer(disk, action->op) + action->buf_offset);
    }
}

void
perform_action(RelayDisk *disk, const struct RelayAction *action)
{
    switch (action->kind) {
    case RELAY_CONNECT:
        perform_connect(disk, action);
        return;
    case RELAY_DISCONNECT:
        if (disk->conns[action->conn].epoch == action->epoch) {
            conn_drop(disk, action->conn);
        }
        return;
    case RELAY_MAP:
        perform_map(disk, action);
        return;
    case RELAY_LOAD:
        perform_load(disk, action);
        return;
    case RELAY_SEND_DATA:
    case RELAY_SEND_ZERO:
    case RELAY_SEND_TRIM:
    case RELAY_SEND_STATUS:
    case RELAY_SEND_COMPARE:
    case RELAY_SEND_FLUSH:
        perform_send(disk, action);
        return;
    case RELAY_ACTION_KINDS:
        break;
    }
    assert(!"an action");
}

void
perform_socket(RelayDisk *disk, unsigned index, uint32_t poll_seq, int res)
{
    struct RelayConn *conn = &disk->conns[index];

    if (conn->poll_seq != poll_seq || !conn->target) {
        return; /* of a connection that is gone, or replaced */
    }
    conn->is_armed = false;
    if (res > 0) {
        target_ready(conn->target, (unsigned)res);
    }
}

void
perform_collect(RelayDisk *disk)
{
    struct RelayEvent event;
    char text[RELAY_TEXT];

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        struct RelayConn *conn = &disk->conns[i];

        if (!conn->target || !target_has_news(conn->target)) {
            continue;
        }
        while (target_take(conn->target, &event)) {
            event.conn = i;
            event.epoch = conn->epoch;
            *perform_event(disk, event.kind) = event;
        }
        if (target_is_lost(conn->target, text)) {
            conn_lost(disk, i, text);
        }
    }
}

void
perform_deadlines(RelayDisk *disk)
{
    int64_t now_us = disk->relay->now_us;

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        struct RelayConn *conn = &disk->conns[i];

        if (conn->job && conn->connect_deadline_us <= now_us) {
            conn_lost(disk, i, connect_job_stage(conn->job));
        } else if (conn->target && target_deadline_us(conn->target) <= now_us) {
            conn_lost(disk, i, "no answer in time");
        }
    }
}

int64_t
perform_next_us(const RelayDisk *disk)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        const struct RelayConn *conn = &disk->conns[i];

        if (conn->job) {
            next = MIN(next, conn->connect_deadline_us);
        }
        if (conn->target) {
            next = MIN(next, target_deadline_us(conn->target));
        }
    }
    return next;
}

/*
 * The direction changes with each command: looked at before each wait. A poll
 * for another one is replaced, not updated: Linux 6.18 loses the event
 * if the socket is ready at the update, and with TLS it is, since libnbd stops
 * after each record.
 */
static void
arm_conn(RelayDisk *disk, unsigned index)
{
    struct RelayConn *conn = &disk->conns[index];
    unsigned mask = target_poll_mask(conn->target);
    struct io_uring_sqe *sqe;

    if (conn->is_armed && mask == conn->armed_mask) {
        return;
    }
    if (conn->is_armed) {
        sqe = relay_sqe(disk->relay);
        io_uring_prep_poll_remove(
            sqe, relay_user_data(TAG_NBD, disk->index, index, conn->poll_seq));
        io_uring_sqe_set_data64(sqe, relay_user_data(TAG_IGNORE, 0, 0, 0));
    }
    conn->poll_seq++;
    sqe = relay_sqe(disk->relay);
    io_uring_prep_poll_add(sqe, target_fd(conn->target), mask);
    io_uring_sqe_set_data64(
        sqe, relay_user_data(TAG_NBD, disk->index, index, conn->poll_seq));
    conn->is_armed = true;
    conn->armed_mask = mask;
}

void
perform_arm(RelayDisk *disk)
{
    for (unsigned i = 0; i < RELAY_CONNS; i++) {
        if (disk->conns[i].target) {
            arm_conn(disk, i);
        }
    }
}
