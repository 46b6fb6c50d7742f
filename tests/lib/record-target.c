/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One thread polls the listening socket, the connections and an eventfd. What
 * arrives becomes a request with two times drawn for it: when it is executed,
 * and how long after that it is answered. Between two polls everything that
 * is due is done.
 *
 *   WAITING --due--> DONE --due--> answered
 *      | connection lost              | connection lost
 *      v                              v
 *   ZOMBIE --due--> executed, or gone    forgotten
 *
 * What is durable here the log knows; the image is what reads see.
 */
#include "record-target.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd-wire.h"

#define SETTLE_LOOK_MS 2

enum ReqState { REQ_FREE, REQ_WAITING, REQ_DONE, REQ_ZOMBIE };

struct Req {
    enum ReqState state;
    unsigned conn;
    uint64_t cookie;
    uint16_t type, flags;
    uint64_t offset;
    uint32_t len;
    uint32_t error; /* NBD's, of the answer */
    int64_t due_us;
    bool is_doomed; /* zombie: will be gone rather than executed */
    RecordEntry *entry;
    uint8_t *data; /* of a read, from execution to the answer */
};

struct RecordTarget {
    struct RecordTargetConfig config;
    char *socket;
    pthread_t thread;
    int listen_fd, wake_fd;
    atomic_bool is_stopping, is_held, is_drop_wanted;
    atomic_uint n_zombies;
    Seed seed;
    uint8_t *image; /* written by the thread, with image_lock */
    pthread_mutex_t image_lock;
    int conns[RECORD_TARGET_CONNS]; /* -1: free */
    uint32_t conn_ids[RECORD_TARGET_CONNS];
    uint32_t next_id;
    struct Req reqs[RECORD_TARGET_REQS];
    pthread_mutex_t lock;
    struct RecordTargetFigures figures; /* guarded by lock */
};

static int64_t
now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

#define COUNT(target, what)                    \
    do {                                       \
        pthread_mutex_lock(&(target)->lock);   \
        (target)->figures.what++;              \
        pthread_mutex_unlock(&(target)->lock); \
    } while (0)

/*
 * Executing
 */
static bool
is_send(const struct Req *req)
{
    return req->type == NBD_WIRE_WRITE || req->type == NBD_WIRE_ZERO ||
           req->type == NBD_WIRE_TRIM;
}

static void
execute(RecordTarget *target, struct Req *req)
{
    uint8_t *at = target->image + req->offset;

    pthread_mutex_lock(&target->image_lock);
    if (is_send(req)) {
        if (req->entry->data) {
            memcpy(at, req->entry->data, req->len);
        } else {
            memset(at, 0, req->len);
        }
    } else if (req->type == NBD_WIRE_READ) {
        req->data = malloc(req->len);
        assert(req->data);
        memcpy(req->data, at, req->len);
    }
    pthread_mutex_unlock(&target->image_lock);
    if (req->entry) {
        record_log_executed(target->config.log, req->entry);
    }
}

static void
req_free(struct Req *req)
{
    free(req->data);
    *req = (struct Req){.state = REQ_FREE};
}

static void
end_zombie(RecordTarget *target, struct Req *req)
{
    if (req->is_doomed) {
        record_log_gone(target->config.log, req->entry);
    } else {
        execute(target, req);
        COUNT(target, executed_zombies);
    }
    req_free(req);
    atomic_fetch_sub(&target->n_zombies, 1);
}

/*
 * Connections
 */
static void
conn_lose(RecordTarget *target, unsigned conn)
{
    const struct RecordTargetConfig *config = &target->config;

    for (unsigned i = 0; i < RECORD_TARGET_REQS; i++) {
        struct Req *req = &target->reqs[i];

        if (req->state == REQ_FREE || req->state == REQ_ZOMBIE ||
            req->conn != conn) {
            continue;
        }
        if (req->state == REQ_DONE || !is_send(req)) {
            if (req->entry && req->state == REQ_WAITING) {
                record_log_gone(config->log, req->entry);
            }
            req_free(req);
            continue;
        }
        req->state = REQ_ZOMBIE;
        req->due_us =
            now_us() +
            (int64_t)seed_below(&target->seed, (uint64_t)config->zombie_us + 1);
        req->is_doomed =
            seed_below(&target->seed, 1000) >= config->zombie_per_mille;
        atomic_fetch_add(&target->n_zombies, 1);
        COUNT(target, zombies);
    }
    close(target->conns[conn]);
    target->conns[conn] = -1;
}

static bool
send_all(int fd, const void *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0) {
            return false;
        }
        data = (const uint8_t *)data + n;
        len -= (size_t)n;
    }
    return true;
}

static bool
recv_all(int fd, void *data, size_t len)
{
    return len == 0 || recv(fd, data, len, MSG_WAITALL) == (ssize_t)len;
}

static void
answer(RecordTarget *target, struct Req *req)
{
    struct NbdWireReply reply = {.magic = htobe32(NBD_WIRE_REPLY_MAGIC),
                                 .error = htobe32(req->error),
                                 .cookie = req->cookie};
    int fd = target->conns[req->conn];
    unsigned conn = req->conn;
    bool is_good;

    if (req->entry && req->entry->end == RECORD_NEVER) {
        record_log_end(target->config.log, req->entry, 0);
    }
    is_good = send_all(fd, &reply, sizeof(reply)) &&
              (!req->data || send_all(fd, req->data, req->len));
    req_free(req);
    if (!is_good) {
        conn_lose(target, conn);
    }
}

static struct Req *
req_new(RecordTarget *target, unsigned conn, const struct NbdWireRequest *wire)
{
    for (unsigned i = 0; i < RECORD_TARGET_REQS; i++) {
        struct Req *req = &target->reqs[i];

        if (req->state == REQ_FREE) {
            *req = (struct Req){
                .state = REQ_WAITING,
                .conn = conn,
                .cookie = wire->cookie,
                .type = be16toh(wire->type),
                .flags = be16toh(wire->flags),
                .offset = be64toh(wire->offset),
                .len = be32toh(wire->len),
                .due_us = now_us() + (int64_t)seed_below(
                                         &target->seed,
                                         (uint64_t)target->config.delay_us + 1),
            };
            return req;
        }
    }
    return NULL;
}

/* One request of a client; false: the connection is to end. */
static bool
take_request(RecordTarget *target, unsigned conn)
{
    struct NbdWireRequest wire;
    uint8_t *data = NULL;
    int fd = target->conns[conn];

    if (!recv_all(fd, &wire, sizeof(wire)) ||
        be32toh(wire.magic) != NBD_WIRE_REQUEST_MAGIC ||
        be16toh(wire.type) == NBD_WIRE_DISC) {
        return false;
    }
    struct Req *req = req_new(target, conn, &wire);

    if (!req || req->offset > target->config.size_bytes ||
        req->len > target->config.size_bytes - req->offset) {
        return false;
    }
    if (req->type == NBD_WIRE_WRITE) {
        data = malloc(req->len);
        if (!recv_all(fd, data, req->len)) {
            free(data);
            req_free(req);
            return false;
        }
    }
    if (is_send(req)) {
        req->entry = record_log_begin(target->config.log, RECORD_SEND,
                                      target->conn_ids[conn], req->offset,
                                      req->len, data);
        req->entry->is_durable = req->flags & NBD_WIRE_FUA;
        COUNT(target, sends);
    } else if (req->type == NBD_WIRE_FLUSH) {
        req->entry = record_log_begin(target->config.log, RECORD_FLUSH,
                                      target->config.can_multi_conn
                                          ? RECORD_NONE
                                          : target->conn_ids[conn],
                                      0, 0, NULL);
        COUNT(target, flushes);
    } else if (req->type == NBD_WIRE_READ) {
        COUNT(target, reads);
    } else {
        req->error = NBD_WIRE_EINVAL;
    }
    free(data);
    return true;
}

/*
 * Handshake
 */
static uint16_t
export_flags(const RecordTarget *target)
{
    uint16_t flags = NBD_WIRE_HAS_FLAGS | NBD_WIRE_SEND_FLUSH |
                     NBD_WIRE_SEND_FUA | NBD_WIRE_SEND_TRIM;

    flags |= target->config.can_zero ? NBD_WIRE_SEND_ZERO : 0;
    flags |= target->config.can_multi_conn ? NBD_WIRE_MULTI_CONN : 0;
    return flags;
}

static bool
option_reply(int fd, uint32_t option, uint32_t type, const void *data,
             uint32_t len)
{
    struct NbdWireOptReply reply = {.magic = htobe64(NBD_WIRE_OPT_REPLY_MAGIC),
                                    .option = htobe32(option),
                                    .type = htobe32(type),
                                    .len = htobe32(len)};

    return send_all(fd, &reply, sizeof(reply)) && send_all(fd, data, len);
}

/* 1: go on with options, 0: transmission begins, -1: the end. */
static int
take_option(const RecordTarget *target, int fd)
{
    struct NbdWireInfo info = {.type = htobe16(NBD_WIRE_INFO_EXPORT),
                               .size = htobe64(target->config.size_bytes),
                               .flags = htobe16(export_flags(target))};
    struct NbdWireOption option;
    uint8_t data[4096];

    if (!recv_all(fd, &option, sizeof(option)) ||
        be64toh(option.magic) != NBD_WIRE_OPTION_MAGIC ||
        be32toh(option.len) > sizeof(data) ||
        !recv_all(fd, data, be32toh(option.len))) {
        return -1;
    }
    uint32_t kind = be32toh(option.option);

    switch (kind) {
    case NBD_WIRE_OPT_GO:
    case NBD_WIRE_OPT_INFO:
        if (!option_reply(fd, kind, NBD_WIRE_REP_INFO, &info, sizeof(info)) ||
            !option_reply(fd, kind, NBD_WIRE_REP_ACK, NULL, 0)) {
            return -1;
        }
        return kind == NBD_WIRE_OPT_INFO;
    case NBD_WIRE_OPT_ABORT:
        (void)option_reply(fd, kind, NBD_WIRE_REP_ACK, NULL, 0);
        return -1;
    default:
        return option_reply(fd, kind, NBD_WIRE_REP_UNSUP, NULL, 0) ? 1 : -1;
    }
}

static bool
shake_hands(const RecordTarget *target, int fd)
{
    struct NbdWireHello hello = {
        .magic = htobe64(NBD_WIRE_HELLO_MAGIC),
        .option_magic = htobe64(NBD_WIRE_OPTION_MAGIC),
        .flags = htobe16(NBD_WIRE_FIXED_NEWSTYLE | NBD_WIRE_NO_ZEROES)};
    uint32_t flags;
    int more = 1;

    if (!send_all(fd, &hello, sizeof(hello)) ||
        !recv_all(fd, &flags, sizeof(flags))) {
        return false;
    }
    while (more > 0) {
        more = take_option(target, fd);
    }
    return more == 0;
}

static void
take_connection(RecordTarget *target)
{
    int fd = accept4(target->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    for (unsigned i = 0; fd >= 0 && i < RECORD_TARGET_CONNS; i++) {
        if (target->conns[i] < 0) {
            if (shake_hands(target, fd)) {
                target->conns[i] = fd;
                target->conn_ids[i] = target->next_id++;
                return;
            }
            break;
        }
    }
    close(fd);
}

/*
 * The thread
 */
static void
do_due(RecordTarget *target, int64_t *next_us)
{
    bool is_held = atomic_load(&target->is_held);
    int64_t now = now_us();

    *next_us = INT64_MAX;
    for (unsigned i = 0; i < RECORD_TARGET_REQS; i++) {
        struct Req *req = &target->reqs[i];

        if (req->state == REQ_FREE || (is_held && req->state != REQ_ZOMBIE)) {
            continue;
        }
        if (req->due_us > now) {
            *next_us = req->due_us < *next_us ? req->due_us : *next_us;
            continue;
        }
        if (req->state == REQ_ZOMBIE) {
            end_zombie(target, req);
        } else if (req->state == REQ_WAITING) {
            execute(target, req);
            req->state = REQ_DONE;
            req->due_us = now + (int64_t)seed_below(
                                    &target->seed,
                                    (uint64_t)target->config.delay_us / 2 + 1);
            *next_us = req->due_us < *next_us ? req->due_us : *next_us;
        } else {
            answer(target, req);
        }
    }
}

static void
drop_all(RecordTarget *target)
{
    for (unsigned i = 0; i < RECORD_TARGET_CONNS; i++) {
        if (target->conns[i] >= 0) {
            conn_lose(target, i);
        }
    }
    COUNT(target, drops);
}

static void
wait_for_news(RecordTarget *target, int64_t next_us)
{
    struct pollfd polls[RECORD_TARGET_CONNS + 2] = {
        {.fd = target->wake_fd, .events = POLLIN},
        {.fd = target->listen_fd, .events = POLLIN}};
    int64_t wait_us = next_us == INT64_MAX ? INT64_MAX : next_us - now_us();
    struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
    uint64_t count;

    for (unsigned i = 0; i < RECORD_TARGET_CONNS; i++) {
        polls[i + 2] = (struct pollfd){target->conns[i], POLLIN, 0};
    }
    if (wait_us < 0) {
        wait = (struct timespec){0, 0};
    }
    ppoll(polls, RECORD_TARGET_CONNS + 2, wait_us == INT64_MAX ? NULL : &wait,
          NULL);
    if (polls[0].revents) {
        (void)!read(target->wake_fd, &count, sizeof(count));
    }
    for (unsigned i = 0; i < RECORD_TARGET_CONNS; i++) {
        if (polls[i + 2].revents && !take_request(target, i)) {
            conn_lose(target, i);
        }
    }
    if (polls[1].revents) {
        take_connection(target);
    }
}

static void *
run(void *opaque)
{
    RecordTarget *target = opaque;
    int64_t next_us;

    while (!atomic_load(&target->is_stopping)) {
        do_due(target, &next_us);
        wait_for_news(target, next_us);
        if (atomic_exchange(&target->is_drop_wanted, false)) {
            drop_all(target);
        }
    }
    return NULL;
}

/*
 * From outside
 */
static void
kick(RecordTarget *target)
{
    uint64_t one = 1;

    (void)!write(target->wake_fd, &one, sizeof(one));
}

RecordTarget *
record_target_start(const struct RecordTargetConfig *config)
{
    RecordTarget *target = calloc(1, sizeof(*target));
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    assert(target && strlen(config->socket) < sizeof(address.sun_path));
    target->config = *config;
    target->socket = strdup(config->socket);
    target->seed.state = config->seed;
    target->image = calloc(1, config->size_bytes);
    assert(target->image);
    memset(target->conns, -1, sizeof(target->conns));
    pthread_mutex_init(&target->lock, NULL);
    pthread_mutex_init(&target->image_lock, NULL);
    strcpy(address.sun_path, config->socket);
    unlink(config->socket);
    target->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    target->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed =
        bind(target->listen_fd, (struct sockaddr *)&address, sizeof(address)) ||
        listen(target->listen_fd, RECORD_TARGET_CONNS) ||
        pthread_create(&target->thread, NULL, run, target);

    assert(!failed);
    return target;
}

void
record_target_free(RecordTarget *target)
{
    atomic_store(&target->is_stopping, true);
    kick(target);
    pthread_join(target->thread, NULL);
    drop_all(target);
    for (unsigned i = 0; i < RECORD_TARGET_REQS; i++) {
        req_free(&target->reqs[i]);
    }
    close(target->listen_fd);
    close(target->wake_fd);
    unlink(target->socket);
    free(target->socket);
    free(target->image);
    pthread_mutex_destroy(&target->lock);
    pthread_mutex_destroy(&target->image_lock);
    free(target);
}

void
record_target_drop(RecordTarget *target)
{
    atomic_store(&target->is_drop_wanted, true);
    kick(target);
}

void
record_target_hold(RecordTarget *target, bool hold)
{
    atomic_store(&target->is_held, hold);
    kick(target);
}

void
record_target_settle(RecordTarget *target)
{
    while (atomic_load(&target->n_zombies) > 0) {
        poll(NULL, 0, SETTLE_LOOK_MS);
    }
}

const uint8_t *
record_target_image(const RecordTarget *target)
{
    return target->image;
}

void
record_target_copy(RecordTarget *target, uint8_t *to)
{
    pthread_mutex_lock(&target->image_lock);
    memcpy(to, target->image, target->config.size_bytes);
    pthread_mutex_unlock(&target->image_lock);
}

struct RecordTargetFigures
record_target_figures(RecordTarget *target)
{
    pthread_mutex_lock(&target->lock);
    struct RecordTargetFigures figures = target->figures;

    pthread_mutex_unlock(&target->lock);
    return figures;
}
