/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The holder, with a daemon that is this program again: whom it listens to,
 * seen in what it reports to whoever waits for the mount.
 */
#include "fs/holder.h"

#include "fs/notify.h"

#include "tests/lib/test.h"

#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define DAEMON_CODE 4

/* Nobody can be spoken to by name: what we were given has none. */
static bool
is_private(void)
{
    const char *number = getenv(NOTIFY_FD_VARIABLE);
    struct sockaddr_un name;
    socklen_t len = sizeof(name);

    return getenv("NOTIFY_SOCKET") == NULL && number != NULL &&
           getpeername((int)strtol(number, NULL, 10), (struct sockaddr *)&name,
                       &len) == 0 &&
           len == sizeof(sa_family_t);
}

/* The daemon: speaks, has a child of its own speak if it is to, and ends. */
static int
be_daemon(const char *mode)
{
    pid_t pid;

    if (!is_private()) {
        return 1;
    }
    notify_init();
    notify_send("STATUS=of the daemon");
    if (strcmp(mode, "with-child") == 0) {
        pid = fork();
        if (pid == 0) {
            notify_send("STATUS=of a stranger");
            notify_send("READY=1");
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    return DAEMON_CODE;
}

/* What a holder of such a daemon reports: the code, and @words. */
static int
report_of(const char *mode, char *words, size_t room)
{
    char *argv[] = {(char *)"test-holder", (char *)mode, NULL};
    char block[256] = "";
    size_t len = 0;
    ssize_t n;
    int ends[2], status;
    pid_t pid;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        struct HolderConfig config = {.argv = argv, .report_fd = ends[1]};

        _exit(holder_run(&config));
    }
    close(ends[1]);
    while ((n = read(ends[0], block + len, sizeof(block) - 1 - len)) > 0) {
        len += (size_t)n;
    }
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DAEMON_CODE);
    assert_true(len > 0);
    g_strlcpy(words, block + 1, room);
    return block[0];
}

static void
test_daemon_is_heard(void **state)
{
    char words[64];

    (void)state;
    assert_int_equal(report_of("alone", words, sizeof(words)), DAEMON_CODE);
    assert_string_equal(words, "of the daemon");
}

static void
test_nobody_else_is(void **state)
{
    char words[64];

    (void)state;
    assert_int_equal(report_of("with-child", words, sizeof(words)),
                     DAEMON_CODE);
    assert_string_equal(words, "of the daemon");
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_daemon_is_heard),
        cmocka_unit_test(test_nobody_else_is),
    };

    if (argc > 1) {
        return be_daemon(argv[1]);
    }
    /* Whoever started the holder may wait for it to be ready. */
    setenv("NOTIFY_SOCKET", "/no/such/socket", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
