/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One NBD connection as the relay's ring would drive it, against nbdkit on a
 * socket pair: every action comes out as its event, an error is an answer, and
 * a death answers nothing.
 */
#include "relay/target.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/thread-role.h"
#include "tests/lib/test.h"

#define DISK_BYTES (64u << 20)

static pid_t server_pid;
static uint8_t data[RELAY_OP_BYTES_MAX];
static uint8_t zeroes[RELAY_OP_BYTES_MAX];

/* nbdkit on a socket pair: words end with NULL. */
static Target *
serve(char *const words[])
{
    struct nbd_handle *nbd = nbd_create();
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    server_pid = fork();
    if (server_pid == 0) {
        dup2(fds[1], 0);
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        execvp(words[0], words);
        _exit(127);
    }
    close(fds[1]);
    nbd_set_pread_initialize(nbd, false);
    nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    assert_int_equal(nbd_connect_socket(nbd, fds[0]), 0);
    return target_new(nbd, NULL);
}

static void
finish(Target *target)
{
    target_free(target);
    kill(server_pid, SIGKILL);
    waitpid(server_pid, NULL, 0);
}

/* Drive it until an event comes out; false if the connection died first. */
static bool
next_event(Target *target, struct RelayEvent *event)
{
    while (!target_take(target, event)) {
        struct pollfd fd = {.fd = target_fd(target)};

        if (target_is_lost(target, NULL)) {
            return false;
        }
        fd.events = (short)target_poll_mask(target);
        if (poll(&fd, 1, 20000) != 1) {
            fail_msg("nothing for 20 s");
        }
        target_ready(target, (unsigned)fd.revents);
    }
    return true;
}

static struct RelayEvent
run(Target *target, enum RelayActionKind kind, uint64_t offset, uint64_t len,
    const void *buf)
{
    struct RelayAction action = {.kind = kind,
                                 .op = 7,
                                 .offset = offset,
                                 .len = len,
                                 .is_zero_run = !buf,
                                 .deadline_us = 1000};
    struct RelayEvent event;

    target_send(target, &action, buf);
    assert_true(next_event(target, &event));
    assert_int_equal(event.op, 7);
    assert_int_equal(target_deadline_us(target), INT64_MAX);
    return event;
}

static char *const memory[] = {"nbdkit", "-s", "memory", "64M", NULL};

static void
test_actions_come_back_as_events(void **state)
{
    Target *target = serve(memory);
    struct RelayEvent event;

    (void)state;
    event = run(target, RELAY_SEND_STATUS, 0, DISK_BYTES, NULL);
    assert_int_equal(event.kind, RELAY_STATUS);
    assert_true(event.is_zero);
    assert_int_equal(event.len, DISK_BYTES);
    event = run(target, RELAY_SEND_DATA, 1 << 20, sizeof(data), data);
    assert_int_equal(event.kind, RELAY_ACKED);
    assert_int_equal(run(target, RELAY_SEND_FLUSH, 0, 0, NULL).kind,
                     RELAY_FLUSHED);
    event = run(target, RELAY_SEND_STATUS, 0, DISK_BYTES, NULL);
    assert_true(event.is_zero);
    assert_int_equal(event.len, 1 << 20);
    event = run(target, RELAY_SEND_STATUS, 1 << 20, 1 << 20, NULL);
    assert_false(event.is_zero);
    assert_int_equal(event.len, 1 << 20);
    event = run(target, RELAY_SEND_COMPARE, 1 << 20, sizeof(data), data);
    assert_int_equal(event.kind, RELAY_COMPARED);
    assert_true(event.is_equal);
    event = run(target, RELAY_SEND_COMPARE, 1 << 20, sizeof(data), zeroes);
    assert_false(event.is_equal);
    event = run(target, RELAY_SEND_ZERO, 1 << 20, sizeof(data), NULL);
    assert_int_equal(event.kind, RELAY_ACKED);
    event = run(target, RELAY_SEND_COMPARE, 0, DISK_BYTES, NULL);
    assert_true(event.is_equal);
    run(target, RELAY_SEND_DATA, DISK_BYTES - 512, 512, data);
    event = run(target, RELAY_SEND_COMPARE, 0, DISK_BYTES, NULL);
    assert_false(event.is_equal);
    finish(target);
}

static void
test_many_in_flight_are_all_answered(void **state)
{
    Target *target = serve(memory);
    unsigned seen[RELAY_OPS] = {0};
    struct RelayEvent event;

    (void)state;
    for (unsigned op = 0; op < 64; op++) {
        struct RelayAction action = {.kind = RELAY_SEND_DATA,
                                     .op = op,
                                     .offset = (uint64_t)op << 20,
                                     .len = 1 << 20,
                                     .deadline_us = 1000 - op};

        target_send(target, &action, data);
    }
    assert_int_equal(target_deadline_us(target), 1000 - 63);
    for (unsigned i = 0; i < 64; i++) {
        assert_true(next_event(target, &event));
        assert_int_equal(event.kind, RELAY_ACKED);
        seen[event.op]++;
    }
    for (unsigned op = 0; op < 64; op++) {
        assert_int_equal(seen[op], 1);
    }
    finish(target);
}

static void
test_errors_are_answers(void **state)
{
    char *const words[] = {"nbdkit",       "-s",  "--filter=error",
                           "memory",       "64M", "error-pwrite-rate=100%",
                           "error=ENOSPC", NULL};
    Target *target = serve(words);
    struct RelayEvent event;

    (void)state;
    event = run(target, RELAY_SEND_DATA, 4096, 4096, data);
    assert_int_equal(event.kind, RELAY_FAILED);
    assert_int_equal(event.error, ENOSPC);
    assert_non_null(
        strstr(event.text, "write of 4096 bytes at 4096: No space"));
    /* Refused by libnbd itself, before anything is sent. */
    event = run(target, RELAY_SEND_DATA, DISK_BYTES, 4096, data);
    assert_int_equal(event.kind, RELAY_FAILED);
    assert_int_equal(event.error, ENOSPC); /* beyond the end */
    assert_int_equal(run(target, RELAY_SEND_FLUSH, 0, 0, NULL).kind,
                     RELAY_FLUSHED);
    finish(target);
}

static void
test_death_answers_nothing(void **state)
{
    char *const words[] = {"nbdkit",    "-s", "--filter=delay", "memory", "64M",
                           "wdelay=60", NULL};
    Target *target = serve(words);
    struct RelayEvent event;
    char text[RELAY_TEXT] = "";

    (void)state;
    for (unsigned op = 0; op < 8; op++) {
        struct RelayAction action = {
            .kind = RELAY_SEND_DATA, .op = op, .len = sizeof(data)};

        target_send(target, &action, data);
    }
    kill(server_pid, SIGKILL);
    assert_false(next_event(target, &event));
    assert_true(target_is_lost(target, text));
    assert_true(text[0]);
    finish(target);
}

static void
test_caps_are_what_the_server_says(void **state)
{
    char *const words[] = {"nbdkit", "-s", "-r", "memory", "5M", NULL};
    struct nbd_handle *nbd = nbd_create();
    struct TargetCaps caps;

    (void)state;
    nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    assert_int_equal(nbd_connect_command(nbd, (char **)words), 0);
    target_caps(nbd, &caps);
    nbd_close(nbd);
    assert_int_equal(caps.size_bytes, 5 << 20);
    assert_true(caps.is_read_only);
    assert_true(caps.has_block_status);
    assert_int_equal(caps.min_block, 1);
    assert_int_equal(caps.max_payload, 32 << 20);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_actions_come_back_as_events),
        cmocka_unit_test(test_many_in_flight_are_all_answered),
        cmocka_unit_test(test_errors_are_answers),
        cmocka_unit_test(test_death_answers_nothing),
        cmocka_unit_test(test_caps_are_what_the_server_says),
    };

    relay_thread_enter();
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7 + 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
