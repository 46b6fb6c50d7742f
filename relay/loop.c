/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay thread. It waits in one place, its io_uring, for five things:
 *
 *   what                      through
 *   messages, kicks           a multishot poll of the inbox's eventfd
 *   NBD sockets               one-shot polls, armed before each wait
 *   local reads               requests of their own
 *   the death of a server     a poll of its pidfd
 *   time                      the wait's timeout
 *
 * One turn: take messages and completions, turn them into events, step the
 * cores until nothing is left to do, tell what is new, arm, wait. No call in
 * a turn waits for anything: names are resolved and handshakes made elsewhere
 * (connect.c), lseek() runs on the mapper's thread. But for the end of a core,
 * when a target is taken away: its sums are synced then.
 *
 * Who dirties something does not pay for this thread's sleep: relay_wake()
 * reads a flag, and kicks only if the thread has said that it looks away
 * until something is dirty. It says so at most every DIRT_US; in between the
 * timeout makes it look. The flag is set before the cores look at the bitmap,
 * so that a mark that they missed finds it set.
 *
 * The ring's user_data holds tag, disk, slot and a number. A completion whose
 * number is not the slot's is of a connection, or a poll, that is gone.
 *
 * The end: the cores stop, connections are closed, local reads come back
 * (their buffers are ours until then), servers are told to end.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"
#include "thread-role.h"

#define RING_ENTRIES 512
#define CQ_ENTRIES   4096
#define DIRT_US      100000
#define FIGURES_US   50000
#define MINUTE_S     60

int64_t
relay_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

uint64_t
relay_user_data(enum RelayTag tag, unsigned disk, unsigned slot, uint32_t seq)
{
    return (uint64_t)tag << 56 | (uint64_t)disk << 40 | (uint64_t)slot << 32 |
           seq;
}

struct io_uring_sqe *
relay_sqe(Relay *relay)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&relay->ring);

    while (!sqe) {
        int res = io_uring_submit(&relay->ring);

        assert(res >= 0 || res == -EAGAIN || res == -EBUSY || res == -EINTR);
        sqe = io_uring_get_sqe(&relay->ring);
    }
    return sqe;
}

/*
 * Ring
 */

static int
open_ring(Relay *relay)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int res = io_uring_queue_init_params(RING_ENTRIES, &relay->ring, &params);

    if (res == -EINVAL) { /* before 6.1 */
        params = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE,
                                          .cq_entries = CQ_ENTRIES};
        res = io_uring_queue_init_params(RING_ENTRIES, &relay->ring, &params);
    }
    if (res || relay->config.lock_fd < 0) {
        return res;
    }
    /* Rule 6: the store stays locked as long as this ring has requests. */
    res = io_uring_register_files(&relay->ring, &relay->config.lock_fd, 1);
    if (res) {
        io_uring_queue_exit(&relay->ring);
    }
    return res;
}

static void
arm_inbox(Relay *relay)
{
    struct io_uring_sqe *sqe;

    if (relay->is_inbox_armed) {
        return;
    }
    sqe = relay_sqe(relay);
    io_uring_prep_poll_multishot(sqe, relay->inbox.event_fd, POLLIN);
    io_uring_sqe_set_data64(sqe, relay_user_data(TAG_INBOX, 0, 0, 0));
    relay->is_inbox_armed = true;
}

static void
take_completion(Relay *relay, const struct io_uring_cqe *cqe)
{
    uint64_t data = cqe->user_data;
    RelayDisk *disk = relay->table[data >> 40 & 0xffff];
    unsigned slot = data >> 32 & 0xff;

    switch ((enum RelayTag)(data >> 56)) {
    case TAG_INBOX:
        relay->is_woken = true;
        relay->is_inbox_armed = cqe->flags & IORING_CQE_F_MORE;
        break;
    case TAG_NBD:
        disk->n_polls--;
        perform_socket(disk, slot, (uint32_t)data, cqe->res);
        break;
    case TAG_SERVER:
        disk->n_polls--;
        perform_server_died(disk, (uint32_t)data);
        break;
    case TAG_DATA:
    case TAG_SUMS:
    case TAG_BOOKS:
        perform_local_done(disk, (enum RelayTag)(data >> 56), slot, cqe->res);
        break;
    case TAG_IGNORE:
        break;
    }
}

static void
take_completions(Relay *relay)
{
    struct io_uring_cqe *cqe;

    /* One at a time: what handles it may submit, and that takes room. */
    while (!io_uring_peek_cqe(&relay->ring, &cqe)) {
        struct io_uring_cqe copy = *cqe;

        io_uring_cqe_seen(&relay->ring, cqe);
        take_completion(relay, &copy);
    }
}

/*
 * Messages
 */

static void
set_limit(Relay *relay)
{
    time_t now = time(NULL);
    struct tm day;
    uint64_t bps;

    localtime_r(&now, &day);
    bps = relay->bwlimit.count
              ? rate_table_at(&relay->bwlimit,
                              (unsigned)(day.tm_hour * 60 + day.tm_min))
              : 0;
    relay->minute_us =
        relay->now_us + (int64_t)(MINUTE_S - day.tm_sec % MINUTE_S) * 1000000;
    if (bps != relay->bucket.bps) {
        rate_bucket_set(&relay->bucket, bps, relay->now_us);
        atomic_store(&relay->bwlimit_bps, bps);
        for (unsigned i = 0; i < relay->n_disks; i++) {
            relay->disks_now[i]->is_ticked = true;
        }
    }
}

static void
add_disk(Relay *relay, RelayDisk *disk)
{
    assert(!relay->table[disk->index]);
    relay->table[disk->index] = disk;
    relay->disks_now[relay->n_disks++] = disk;
    relay_guests_join(relay, disk);
    relay_disk_begin(disk);
}

/* Nothing of it is in flight, and nothing that names it is behind this message:
 * see relay_forget_disk(). */
static void
forget_disk(Relay *relay, RelayDisk *disk)
{
    unsigned i = 0;

    while (relay->disks_now[i] != disk) {
        i++;
    }
    relay->disks_now[i] = relay->disks_now[--relay->n_disks];
    relay->table[disk->index] = NULL;
    relay_guests_leave(relay, disk);
    assert(disk->has_ended && !disk->n_local && !disk->n_polls);
    relay_disk_free(disk);
}

/* All of them, but those that a word about the relay does not reach. */
static void
tell_disks(Relay *relay, struct RelayMsg *msg)
{
    for (unsigned i = 0; i < relay->n_disks; i++) {
        RelayDisk *disk = relay->disks_now[i];

        if (msg->msg.kind != MSG_PAUSE || !disk->job.is_job) {
            relay_disk_message(disk, msg);
        }
    }
}

static void
quit(Relay *relay)
{
    relay->is_quitting = true;
    for (unsigned i = 0; i < relay->n_disks; i++) {
        RelayDisk *disk = relay->disks_now[i];

        if (disk->core) {
            relay_core_stop(disk->core);
            disk->is_ticked = true;
        }
        target_uri_unref(g_steal_pointer(&disk->next_uri));
    }
}

static void
take_order(Relay *relay, struct RelayMsg *msg)
{
    switch ((enum RelayMsgKind)msg->msg.kind) {
    case MSG_QUIT:
        quit(relay);
        break;
    case MSG_ADD:
        add_disk(relay, msg->disk);
        break;
    case MSG_FORGET:
        forget_disk(relay, msg->disk);
        break;
    case MSG_BWLIMIT:
        relay->bwlimit = msg->table;
        set_limit(relay);
        break;
    case MSG_PAUSE:
    case MSG_CONNS:
    case MSG_HURRY:
        relay->is_paused =
            msg->msg.kind == MSG_PAUSE ? msg->is_on : relay->is_paused;
        relay->max_conns =
            msg->msg.kind == MSG_CONNS ? msg->number : relay->max_conns;
        tell_disks(relay, msg);
        break;
    case MSG_END:
    case MSG_PAUSE_JOB:
    case MSG_SPEED:
    case MSG_PROCEED:
    case MSG_ACCEPT:
    case MSG_TRUST:
    case MSG_TARGET:
    case MSG_CONTACT_KEPT:
    case MSG_VERIFY:
    case MSG_CUT:
    case MSG_ALLOW:
        relay_disk_message(msg->disk, msg);
        break;
    case MSG_PINNED:
    case MSG_MAPPED:
    case MSG_CONNECTED:
        assert(!"an order");
    }
    target_uri_unref(msg->uri);
    g_free(msg);
}

static void
take_messages(Relay *relay)
{
    InboxMsg *next, *msg;

    if (!relay->is_woken) {
        return;
    }
    relay->is_woken = false;
    for (msg = inbox_take(&relay->inbox); msg; msg = next) {
        next = msg->next;
        if (msg->kind == MSG_MAPPED) {
            struct MapRequest *request = (struct MapRequest *)msg;

            perform_mapped(relay->table[request->disk], request);
        } else if (msg->kind == MSG_PINNED) {
            perform_pinned((struct RelaySlot *)msg);
        } else if (msg->kind == MSG_CONNECTED) {
            struct ConnectResult *result = (struct ConnectResult *)msg;

            perform_connected(relay->table[result->disk], result);
        } else {
            take_order(relay, (struct RelayMsg *)msg);
        }
    }
}

/*
 * Turns
 */

static void
look_for_dirt(Relay *relay)
{
    if (atomic_load(&relay->is_waiting_for_dirt) ||
        relay->now_us < relay->dirt_us + DIRT_US) {
        return;
    }
    relay->dirt_us = relay->now_us;
    atomic_store(&relay->is_waiting_for_dirt, true);
    for (unsigned i = 0; i < relay->n_disks; i++) {
        relay->disks_now[i]->is_ticked = true;
    }
}

/* Servers of former targets: gone, or killed when their time is up. */
static void
look_at_endings(Relay *relay)
{
    bool is_over = relay->now_us >= relay->endings_us;

    for (guint i = relay->endings->len; i-- > 0;) {
        Server *server = relay->endings->pdata[i];

        if (is_over) {
            server_kill(server);
        }
        (void)server_reap(server, NULL);
        if (!server_pid(server)) {
            server_free(server);
            g_ptr_array_remove_index_fast(relay->endings, i);
        }
    }
}

static bool
is_over(const Relay *relay)
{
    if (!relay->is_quitting) {
        return false;
    }
    for (unsigned i = 0; i < relay->n_disks; i++) {
        if (relay_disk_is_busy(relay->disks_now[i])) {
            return false;
        }
    }
    return true;
}

static void
turn(Relay *relay)
{
    bool is_due;

    relay->now_us = relay_now_us();
    take_messages(relay);
    take_completions(relay);
    take_messages(relay);
    if (relay->now_us >= relay->minute_us) {
        set_limit(relay);
    }
    look_for_dirt(relay);
    look_at_endings(relay);
    relay_guests_look(relay);
    is_due = relay->now_us >= relay->figures_us + FIGURES_US;
    relay->figures_us = is_due ? relay->now_us : relay->figures_us;
    for (unsigned i = 0; i < relay->n_disks; i++) {
        RelayDisk *disk = relay->disks_now[i];

        perform_deadlines(disk);
        relay_disk_pump(disk);
        perform_arm(disk);
        relay_disk_look(disk, is_due);
    }
    arm_inbox(relay);
}

static int64_t
next_us(const Relay *relay)
{
    int64_t next = relay->minute_us;

    if (!atomic_load(&relay->is_waiting_for_dirt)) {
        next = MIN(next, relay->dirt_us + DIRT_US);
    }
    if (relay->endings->len) {
        next = MIN(next, relay->now_us + DIRT_US);
    }
    for (unsigned i = 0; i < relay->n_disks; i++) {
        next = MIN(next, relay_disk_next_us(relay->disks_now[i]));
    }
    return next;
}

static void
wait_for_something(Relay *relay)
{
    int64_t wait_us = MAX(next_us(relay) - relay_now_us(), 0);
    struct __kernel_timespec ts = {.tv_sec = wait_us / 1000000,
                                   .tv_nsec = wait_us % 1000000 * 1000};
    struct io_uring_cqe *cqe;
    int res =
        io_uring_submit_and_wait_timeout(&relay->ring, &cqe, 1, &ts, NULL);

    assert(res >= 0 || res == -ETIME || res == -EINTR || res == -EAGAIN ||
           res == -EBUSY);
}

/*
 * Beginning and end
 */

static int
begin(Relay *relay)
{
    int res = open_ring(relay);

    if (res) {
        return res;
    }
    relay->mapper = mapper_new(relay->config.io, &relay->inbox);
    if (!relay->mapper) {
        io_uring_queue_exit(&relay->ring);
        return -EAGAIN;
    }
    relay->endings = g_ptr_array_new();
    relay_guests_init(relay);
    relay->now_us = relay_now_us();
    relay->dirt_us = relay->now_us - DIRT_US;
    relay->is_woken = true; /* disks may have been added before */
    set_limit(relay);
    return 0;
}

/* Answers of connects that nobody waits for any more. */
static void
empty_inbox(Relay *relay)
{
    InboxMsg *next;

    for (InboxMsg *msg = inbox_take(&relay->inbox); msg; msg = next) {
        next = msg->next;
        if (msg->kind == MSG_CONNECTED) {
            connect_result_free((struct ConnectResult *)msg);
        } else {
            struct RelayMsg *order = (struct RelayMsg *)msg;

            target_uri_unref(order->uri);
            g_free(order);
        }
    }
}

static void
end(Relay *relay)
{
    for (unsigned i = 0; i < relay->n_disks; i++) {
        RelayDisk *disk = relay->disks_now[i];

        relay_disk_end(disk, true);
        if (disk->server) {
            server_terminate(disk->server);
            g_ptr_array_add(relay->endings, g_steal_pointer(&disk->server));
        }
    }
    /* All were told to end: they share the time that they have. */
    for (guint i = 0; i < relay->endings->len; i++) {
        server_free(relay->endings->pdata[i]);
    }
    g_ptr_array_unref(relay->endings);
    relay_guests_deinit(relay);
    mapper_free(relay->mapper);
    empty_inbox(relay);
    io_uring_queue_exit(&relay->ring);
}

static void
say_ready(Relay *relay, int value)
{
    pthread_mutex_lock(&relay->lock);
    relay->ready = value;
    pthread_cond_signal(&relay->ready_cond);
    pthread_mutex_unlock(&relay->lock);
}

void *
relay_loop(void *user)
{
    Relay *relay = user;
    int res;

    relay_thread_enter();
    res = begin(relay);
    if (res) {
        say_ready(relay, res);
        return NULL;
    }
    say_ready(relay, 1);
    turn(relay);
    while (!is_over(relay)) {
        wait_for_something(relay);
        turn(relay);
    }
    end(relay);
    return NULL;
}
