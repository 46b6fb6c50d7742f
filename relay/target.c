/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A libnbd handle has no thread and no timer: somebody polls its socket for
 * the direction that it wants and calls it when the socket is ready. Here that
 * somebody is the relay's ring, and this file is what stands between:
 *
 *   target_send()  --> nbd_aio_*() --> in flight --(callback)--> done
 *   target_take()  <-- done, as an event of the core
 *
 * Callbacks run under the handle's lock, so they touch nothing but their own
 * command and the list of done ones. Before libnbd 1.18 a callback may run
 * twice, or not at all for a command that could not be queued; the `free` hook
 * is what comes last in every case. So the first word counts, and a command
 * that was freed without a word has failed with EIO.
 *
 * Commands live in the target until the handle is closed, whatever libnbd
 * does: they go back to a list of spare ones, once taken and freed.
 *
 * A comparison is a series of reads, at most RELAY_OP_BYTES_MAX each, into
 * memory of its own; first contact, read-back and verify do it.
 *
 * When the connection dies libnbd fails all that is in flight. None of that
 * comes out: the loss of the connection is the answer (core.h), and an
 * acknowledgement that came together with the death counts for nothing.
 */
#include "target.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <glib.h>

#include "thread-role.h"

#define NOTIFY_MAX   16 /* replies taken per turn before others get a turn */
#define SOCKET_BYTES (4 << 20) /* so that a request needs few wake-ups */

typedef struct TargetCmd TargetCmd;
struct TargetCmd {
    TargetCmd *next, *prev; /* in flight; or only next: done, spare */
    Target *target;
    struct RelayAction action;
    const uint8_t *buf;
    uint8_t *scratch;  /* COMPARE: what is being read */
    uint64_t compared; /* COMPARE: bytes found equal so far */
    uint64_t chunk;    /* COMPARE: bytes being read */
    uint64_t extent_len;
    bool extent_is_zero;
    int error;
    bool is_done;     /* a callback had its say */
    unsigned pending; /* closures of libnbd that still know this command */
    bool is_taken;    /* spare as soon as nothing is pending */
};

struct Target {
    struct nbd_handle *nbd;
    const Sums *sums;
    TargetCmd *inflight;
    TargetCmd *done, *done_tail;
    TargetCmd *spare;
    GPtrArray *cmds; /* all of them */
    char error[RELAY_TEXT];
};

/*
 * target_new() - a connection out of a handle that is ready
 * @nbd: taken.
 */
Target *
target_new(struct nbd_handle *nbd, const Sums *sums)
{
    Target *target = g_new0(Target, 1);
    int fd = nbd_aio_get_fd(nbd);
    int bytes = SOCKET_BYTES;

    relay_thread_assert();
    target->nbd = nbd;
    target->sums = sums;
    target->cmds = g_ptr_array_new_with_free_func(g_free);
    /* FORCE needs CAP_NET_ADMIN; either may be refused: only speed. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes))) {
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    return target;
}

void
target_free(Target *target)
{
    if (!target) {
        return;
    }
    relay_thread_assert();
    if (!target->inflight && nbd_aio_is_ready(target->nbd) == 1) {
        (void)nbd_aio_disconnect(target->nbd, 0); /* only a courtesy */
    }
    /* Wakes the ring's poll, which holds the socket open otherwise. */
    (void)shutdown(nbd_aio_get_fd(target->nbd), SHUT_RDWR);
    nbd_close(target->nbd);
    for (guint i = 0; i < target->cmds->len; i++) {
        free(((TargetCmd *)target->cmds->pdata[i])->scratch);
    }
    g_ptr_array_unref(target->cmds);
    g_free(target);
}

/*
 * Commands
 */

static TargetCmd *
cmd_new(Target *target)
{
    TargetCmd *cmd = target->spare;

    if (cmd) {
        target->spare = cmd->next;
    } else {
        cmd = g_new(TargetCmd, 1);
        g_ptr_array_add(target->cmds, cmd);
    }
    *cmd = (TargetCmd){.target = target, .next = target->inflight};
    if (cmd->next) {
        cmd->next->prev = cmd;
    }
    target->inflight = cmd;
    return cmd;
}

static void
cmd_spare(TargetCmd *cmd)
{
    free(cmd->scratch);
    cmd->scratch = NULL;
    cmd->next = cmd->target->spare;
    cmd->target->spare = cmd;
}

static void
cmd_done(TargetCmd *cmd, int error)
{
    Target *target = cmd->target;

    if (cmd->is_done) {
        return;
    }
    cmd->is_done = true;
    cmd->error = error;
    if (cmd->next) {
        cmd->next->prev = cmd->prev;
    }
    *(cmd->prev ? &cmd->prev->next : &target->inflight) = cmd->next;
    cmd->next = cmd->prev = NULL;
    *(target->done_tail ? &target->done_tail->next : &target->done) = cmd;
    target->done_tail = cmd;
}

/* Runs in libnbd's stack: no nbd_ call here. */
static int
completion_cb(void *user, int *error)
{
    relay_thread_assert();
    cmd_done(user, *error);
    return 1; /* retire it */
}

static void
free_cb(void *user)
{
    TargetCmd *cmd = user;

    relay_thread_assert();
    cmd->pending--;
    if (!cmd->pending) {
        cmd_done(cmd, EIO);
        if (cmd->is_taken) {
            cmd_spare(cmd);
        }
    }
}

/* Extents at the offset asked: neighbours of one kind count as one. */
static int
extent_cb(void *user, const char *context, uint64_t offset, uint32_t *entries,
          size_t count, int *error)
{
    TargetCmd *cmd = user;

    relay_thread_assert();
    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
        offset != cmd->action.offset || cmd->extent_len) {
        return 0;
    }
    for (size_t i = 0; i + 1 < count; i += 2) {
        bool is_zero = entries[i + 1] & LIBNBD_STATE_ZERO;

        if (i && is_zero != cmd->extent_is_zero) {
            break;
        }
        cmd->extent_is_zero = is_zero;
        cmd->extent_len += entries[i];
    }
    return 0;
}

/*
 * Before a read: bytes of which none is what should come. A structured reply
 * may leave some out, and libnbd does not say so to a callback that retires
 * the command: what lay here before might happen to be equal.
 */
static void
poison(TargetCmd *cmd)
{
    if (cmd->action.is_sum) { /* whatever it is, its hash is another one */
        memset(cmd->scratch, 0x5a, cmd->chunk);
        return;
    }
    for (uint64_t i = 0; i < cmd->chunk; i++) {
        bool is_zero = cmd->action.is_zero_run;
        cmd->scratch[i] =
            (uint8_t) ~(is_zero ? 0 : cmd->buf[cmd->compared + i]);
    }
}

static int64_t
issue_read(TargetCmd *cmd, nbd_completion_callback completion)
{
    const struct RelayAction *action = &cmd->action;

    cmd->chunk = MIN(action->len - cmd->compared, RELAY_OP_BYTES_MAX);
    if (!cmd->scratch) {
        cmd->scratch = g_malloc(cmd->chunk);
    }
    poison(cmd);
    return nbd_aio_pread(cmd->target->nbd, cmd->scratch, cmd->chunk,
                         action->offset + cmd->compared, completion, 0);
}

static int64_t
issue(TargetCmd *cmd)
{
    nbd_completion_callback completion = {completion_cb, cmd, free_cb};
    nbd_extent_callback extent = {extent_cb, cmd, free_cb};
    const struct RelayAction *action = &cmd->action;
    struct nbd_handle *nbd = cmd->target->nbd;
    uint32_t flags =
        (action->is_fua ? (uint32_t)LIBNBD_CMD_FLAG_FUA : 0) |
        (action->keeps_room ? (uint32_t)LIBNBD_CMD_FLAG_NO_HOLE : 0);

    cmd->pending = action->kind == RELAY_SEND_STATUS ? 2 : 1;
    switch (action->kind) {
    case RELAY_SEND_DATA:
        return nbd_aio_pwrite(nbd, cmd->buf, action->len, action->offset,
                              completion, flags);
    case RELAY_SEND_ZERO:
        return nbd_aio_zero(nbd, action->len, action->offset, completion,
                            flags);
    case RELAY_SEND_TRIM:
        return nbd_aio_trim(nbd, action->len, action->offset, completion, 0);
    case RELAY_SEND_STATUS:
        return nbd_aio_block_status(nbd, action->len, action->offset, extent,
                                    completion, 0);
    case RELAY_SEND_COMPARE:
        return issue_read(cmd, completion);
    case RELAY_SEND_FLUSH:
        return nbd_aio_flush(nbd, completion, 0);
    case RELAY_CONNECT:
    case RELAY_DISCONNECT:
    case RELAY_MAP:
    case RELAY_LOAD:
    case RELAY_LOG:
    case RELAY_NOTE:
    case RELAY_SYNC:
    case RELAY_FORGET:
    case RELAY_ACTION_KINDS:
        break;
    }
    assert(!"not an action for a target");
    return -1;
}

/* Queue it with libnbd; a refusal there is an answer like any other. */
static void
cmd_issue(TargetCmd *cmd)
{
    if (issue(cmd) == -1) {
        int error = nbd_get_errno();

        target_error_text(cmd->target->error);
        cmd->pending = 0;
        cmd_done(cmd, EIO);
        cmd->error = error > 0 ? error : EIO;
    }
}

void
target_send(Target *target, const struct RelayAction *action, const void *buf)
{
    TargetCmd *cmd;

    relay_thread_assert();
    cmd = cmd_new(target);
    cmd->action = *action;
    cmd->buf = buf;
    cmd_issue(cmd);
}

/*
 * The socket
 */

int
target_fd(const Target *target)
{
    return nbd_aio_get_fd(target->nbd);
}

unsigned
target_poll_mask(const Target *target)
{
    return target_handle_mask(target->nbd);
}

unsigned
target_handle_mask(struct nbd_handle *nbd)
{
    unsigned direction = nbd_aio_get_direction(nbd);
    unsigned mask = 0;

    if (direction & LIBNBD_AIO_DIRECTION_READ) {
        mask |= POLLIN;
    }
    if (direction & LIBNBD_AIO_DIRECTION_WRITE) {
        mask |= POLLOUT;
    }
    return mask;
}

/*
 * target_ready() - the socket is ready for @revents
 * One call of libnbd takes one reply, so it looks again, some times.
 */
void
target_ready(Target *target, unsigned revents)
{
    relay_thread_assert();
    for (unsigned i = 0; i < NOTIFY_MAX && revents; i++) {
        unsigned mask = target_poll_mask(target);
        struct pollfd again = {.fd = target_fd(target)};
        int failed = 0;

        if ((mask & POLLIN) && (revents & (POLLIN | POLLHUP | POLLERR))) {
            failed = nbd_aio_notify_read(target->nbd);
        } else if ((mask & POLLOUT) && (revents & (POLLOUT | POLLERR))) {
            failed = nbd_aio_notify_write(target->nbd);
        } else {
            return;
        }
        if (failed) {
            target_error_text(target->error);
            return;
        }
        if (!target->inflight) {
            return;
        }
        again.events = (short)target_poll_mask(target);
        revents = poll(&again, 1, 0) > 0 ? (unsigned)again.revents : 0;
    }
}

/*
 * Answers
 */

static const char *
action_verb(enum RelayActionKind kind)
{
    switch (kind) {
    case RELAY_SEND_DATA:
        return "write";
    case RELAY_SEND_ZERO:
        return "write of zeroes";
    case RELAY_SEND_TRIM:
        return "trim";
    case RELAY_SEND_STATUS:
        return "block status";
    case RELAY_SEND_COMPARE:
        return "read";
    case RELAY_SEND_FLUSH:
        return "flush";
    case RELAY_CONNECT:
    case RELAY_DISCONNECT:
    case RELAY_MAP:
    case RELAY_LOAD:
    case RELAY_LOG:
    case RELAY_NOTE:
    case RELAY_SYNC:
    case RELAY_FORGET:
    case RELAY_ACTION_KINDS:
        break;
    }
    return "request";
}

static void
fill_failed(const TargetCmd *cmd, struct RelayEvent *event)
{
    const struct RelayAction *action = &cmd->action;

    event->error = cmd->error;
    if (action->kind == RELAY_SEND_FLUSH) {
        event->kind = RELAY_FLUSH_FAILED;
        snprintf(event->text, sizeof(event->text), "flush: %s",
                 g_strerror(cmd->error));
        return;
    }
    event->kind = RELAY_FAILED;
    snprintf(event->text, sizeof(event->text), "%s of %llu bytes at %llu: %s",
             action_verb(action->kind), (unsigned long long)action->len,
             (unsigned long long)action->offset, g_strerror(cmd->error));
}

static bool
is_all_zero(const uint8_t *data, size_t len)
{
    return !len || (!data[0] && !memcmp(data, data + 1, len - 1));
}

static bool
chunk_is_equal(const TargetCmd *cmd)
{
    if (cmd->action.is_sum) { /* a cluster, in one chunk */
        return sums_match(cmd->target->sums, cmd->action.offset, cmd->scratch,
                          cmd->chunk, cmd->buf);
    }
    return cmd->action.is_zero_run
               ? is_all_zero(cmd->scratch, cmd->chunk)
               : !memcmp(cmd->scratch, cmd->buf + cmd->compared, cmd->chunk);
}

/* One chunk was read. True: the comparison has its answer. */
static bool
compare_step(TargetCmd *cmd, struct RelayEvent *event)
{
    bool is_equal = chunk_is_equal(cmd);

    cmd->compared += cmd->chunk;
    event->kind = RELAY_COMPARED;
    event->is_equal = is_equal;
    return !is_equal || cmd->compared == cmd->action.len;
}

static void
fill_event(const TargetCmd *cmd, struct RelayEvent *event)
{
    const struct RelayAction *action = &cmd->action;

    switch (action->kind) {
    case RELAY_SEND_FLUSH:
        event->kind = RELAY_FLUSHED;
        return;
    case RELAY_SEND_STATUS:
        event->kind = RELAY_STATUS;
        event->len = MIN(cmd->extent_len, action->len);
        event->is_zero = cmd->extent_is_zero;
        return;
    case RELAY_SEND_DATA:
    case RELAY_SEND_ZERO:
    case RELAY_SEND_TRIM:
        event->kind = RELAY_ACKED;
        event->len = action->len;
        return;
    case RELAY_SEND_COMPARE:
    case RELAY_CONNECT:
    case RELAY_DISCONNECT:
    case RELAY_MAP:
    case RELAY_LOAD:
    case RELAY_LOG:
    case RELAY_NOTE:
    case RELAY_SYNC:
    case RELAY_FORGET:
    case RELAY_ACTION_KINDS:
        break;
    }
    assert(!"not an action of a target");
}

/* The comparison goes on with its next chunk, in a command of its own: libnbd
 * may not have let go of this one yet. */
static void
compare_more(TargetCmd *cmd)
{
    TargetCmd *more = cmd_new(cmd->target);

    more->action = cmd->action;
    more->buf = cmd->buf;
    more->scratch = cmd->scratch;
    more->compared = cmd->compared;
    cmd->scratch = NULL;
    cmd_issue(more);
}

static bool
take_one(Target *target, TargetCmd *cmd, struct RelayEvent *event)
{
    *event = (struct RelayEvent){.op = cmd->action.op};
    if (!cmd->error && cmd->action.kind == RELAY_SEND_STATUS &&
        !cmd->extent_len) {
        cmd->error = EPROTO; /* answered, but not what was asked */
    }
    if (cmd->error) {
        fill_failed(cmd, event);
        return true;
    }
    if (cmd->action.kind != RELAY_SEND_COMPARE) {
        fill_event(cmd, event);
        return true;
    }
    if (compare_step(cmd, event)) {
        return true;
    }
    compare_more(cmd);
    (void)target;
    return false;
}

bool
target_take(Target *target, struct RelayEvent *event)
{
    relay_thread_assert();
    while (target->done && !target_is_lost(target, NULL)) {
        TargetCmd *cmd = target->done;
        bool is_answer;

        target->done = cmd->next;
        target->done_tail = cmd->next ? target->done_tail : NULL;
        is_answer = take_one(target, cmd, event);
        cmd->is_taken = true;
        if (!cmd->pending) {
            cmd_spare(cmd);
        }
        if (is_answer) {
            return true;
        }
    }
    return false;
}

bool
target_has_news(const Target *target)
{
    return target->done || nbd_aio_is_dead(target->nbd) == 1 ||
           nbd_aio_is_closed(target->nbd) == 1;
}

bool
target_is_lost(Target *target, char *text)
{
    relay_thread_assert();
    if (nbd_aio_is_dead(target->nbd) != 1 &&
        nbd_aio_is_closed(target->nbd) != 1) {
        return false;
    }
    if (text) {
        g_strlcpy(text,
                  target->error[0] ? target->error
                                   : "the server closed the connection",
                  RELAY_TEXT);
    }
    return true;
}

int64_t
target_deadline_us(const Target *target)
{
    int64_t earliest = INT64_MAX;

    for (const TargetCmd *cmd = target->inflight; cmd; cmd = cmd->next) {
        earliest = MIN(earliest, cmd->action.deadline_us);
    }
    return earliest;
}
