/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a service manager hears that has a socket by name, as systemd has: the
 * words, and a descriptor beside them. Each test speaks in a process of its
 * own, since who is spoken to is settled once.
 */
#include "fs/notify.h"

#include "tests/lib/test.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A socket with an abstract name, which is @name. */
static int
listen_at(char *name, size_t room)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(address);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)),
                     0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    g_snprintf(name, room, "@%.*s",
               (int)(len - offsetof(struct sockaddr_un, sun_path) - 1),
               address.sun_path + 1);
    return fd;
}

/* In a child: say something, give a descriptor; what is left in the
 * environment is a failure. */
static void
speak(const char *name, const char *fd_number)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        bool is_heard;

        setenv("NOTIFY_SOCKET", name, 1);
        setenv(NOTIFY_FD_VARIABLE, fd_number, 1);
        setenv("FDSTORE", "2", 1);
        notify_init();
        notify_send("READY=%d", 1);
        is_heard = notify_store_fd("fuse", STDIN_FILENO);
        _exit(is_heard && notify_store_room() == 2 &&
                      getenv("NOTIFY_SOCKET") == NULL &&
                      getenv(NOTIFY_FD_VARIABLE) == NULL
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The next datagram is @words, with a descriptor or without. */
static void
assert_heard(int fd, const char *words, bool has_fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char text[256] = "";
    struct iovec iov = {text, sizeof(text) - 1};
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;

    assert_int_equal(recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC),
                     strlen(words));
    assert_string_equal(text, words);
    c = CMSG_FIRSTHDR(&header);
    assert_true((c != NULL) == has_fd);
    if (c != NULL) {
        int got;

        memcpy(&got, CMSG_DATA(c), sizeof(got));
        close(got);
    }
}

static void
test_manager_is_spoken_to_by_name(void **state)
{
    char name[64];
    int fd = listen_at(name, sizeof(name));

    (void)state;
    speak(name, "");
    assert_heard(fd, "READY=1", false);
    assert_heard(fd, "FDSTORE=1\nFDNAME=fuse", true);
    close(fd);
}

/* No socket, or none of a holder's. */
static void
test_odd_numbers_are_no_holder(void **state)
{
    static const char *const odd[] = {"1", "-1", "999", "x"};
    char name[64];
    int fd = listen_at(name, sizeof(name));

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(odd); i++) {
        speak(name, odd[i]);
        assert_heard(fd, "READY=1", false);
        assert_heard(fd, "FDSTORE=1\nFDNAME=fuse", true);
    }
    close(fd);
}

static void
test_holder_counts_before_the_manager(void **state)
{
    char name[64], number[16];
    int fd = listen_at(name, sizeof(name)), ends[2];
    char text[8];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    g_snprintf(number, sizeof(number), "%d", ends[1]);
    speak(name, number);
    assert_heard(ends[0], "READY=1", false);
    assert_heard(ends[0], "FDSTORE=1\nFDNAME=fuse", true);
    assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), -1);
    close(ends[0]);
    close(ends[1]);
    close(fd);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manager_is_spoken_to_by_name),
        cmocka_unit_test(test_odd_numbers_are_no_holder),
        cmocka_unit_test(test_holder_counts_before_the_manager),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
