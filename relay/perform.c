/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The core's actions, performed; what came of them, as its events.
 *
 *   action                  goes to            comes back by
 *   CONNECT                 a ConnectJob       perform_connected(), deadline
 *   MAP, LOAD, NOTE, LOG..  perform-local.c    events from there
 *   SEND_*                  the Target         perform_collect()
 *   DISCONNECT              here               nothing
 *
 * Nothing here decides anything. Events only join the disk's queue, the loop
 * steps the core with them afterwards.
 *
 * An action that names a connection of another epoch is dropped without a
 * word: that connection was lost, and its LINK_LOST is in the queue already.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loop.h"
#include "thread-role.h"

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

/*
 * Polls: each has one completion, and is counted until that is there, so that no
 * completion ever names a disk that was forgotten.
 */
static void
poll_for(RelayDisk *disk, int fd, unsigned mask, uint64_t user_data)
{
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    io_uring_prep_poll_add(sqe, fd, mask);
    io_uring_sqe_set_data64(sqe, user_data);
    disk->n_polls++;
}

static void
forget_poll(RelayDisk *disk, enum RelayTag tag, unsigned slot, uint32_t seq)
{
    struct io_uring_sqe *sqe = relay_sqe(disk->relay);

    io_uring_prep_poll_remove(sqe,
                              relay_user_data(tag, disk->index, slot, seq));
    io_uring_sqe_set_data64(sqe, relay_user_data(TAG_IGNORE, 0, 0, 0));
}

static void
conn_drop(RelayDisk *disk, unsigned index)
{
    struct RelayConn *conn = &disk->conns[index];

    if (conn->job) {
        connect_job_drop(conn->job);
    }
    if (conn->is_armed) {
        forget_poll(disk, TAG_NBD, index, conn->poll_seq);
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
    disk->server_life++;
    poll_for(disk, server_pidfd(disk->server), POLLIN,
             relay_user_data(TAG_SERVER, disk->index, 0, disk->server_life));
}

/* One that has died has no poll any more, and nothing is found then. */
void
perform_server_left(RelayDisk *disk)
{
    forget_poll(disk, TAG_SERVER, 0, disk->server_life);
    disk->server_life++;
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
        conn->target = target_new(result->nbd, &disk->books.sums);
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
 * The target
 */

static void
perform_send(RelayDisk *disk, const struct RelayAction *action)
{
    struct RelayConn *conn = &disk->conns[action->conn];

    if (conn->epoch == action->epoch && conn->target) {
        target_send(
            conn->target, action,
            action->is_sum
                ? books_known(&disk->books, action->op, action->buf_offset)
                : perform_buffer(disk, action->op) + action->buf_offset);
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
    case RELAY_LOG:
    case RELAY_NOTE:
    case RELAY_SYNC:
    case RELAY_FORGET:
        perform_books(disk, action);
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

    if (conn->is_armed && mask == conn->armed_mask) {
        return;
    }
    if (conn->is_armed) {
        forget_poll(disk, TAG_NBD, index, conn->poll_seq);
    }
    conn->poll_seq++;
    poll_for(disk, target_fd(conn->target), mask,
             relay_user_data(TAG_NBD, disk->index, index, conn->poll_seq));
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
