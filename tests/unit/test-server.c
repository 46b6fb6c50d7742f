/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server that weir starts: found by its socket, gone with all it had when it
 * is freed, new after it died.
 */
#include "relay/server.h"

#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "relay/core.h"
#include "relay/thread-role.h"
#include "tests/lib/test.h"

#define PATIENCE_MS 30000

static char dir[] = "/tmp/weir-server-XXXXXX";
static char text[RELAY_TEXT];

static void
assert_nothing_left(void)
{
    g_autoptr(GDir) names = g_dir_open(dir, 0, NULL);

    assert_null(g_dir_read_name(names));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child at all */
}

static void
assert_serves(Server *server)
{
    struct nbd_handle *nbd = nbd_create();
    int fd = server_connect(server);

    assert_true(fd >= 0);
    assert_int_equal(nbd_connect_socket(nbd, fd), 0);
    assert_int_equal(nbd_get_size(nbd), 1 << 20);
    nbd_close(nbd);
}

static void
await_death(Server *server)
{
    struct pollfd fd = {.fd = server_pidfd(server), .events = POLLIN};

    assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
    assert_true(server_reap(server, text));
}

static char *memory[] = {"nbdkit", "memory", "1M", NULL};

static void
test_life_after_life(void **state)
{
    Server *server = server_new(dir, "s", memory);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    struct stat st;
    pid_t first;

    (void)state;
    for (unsigned life = 0; life < 3; life++) {
        assert_int_equal(server_start(server, text), 0);
        assert_int_equal(server_start(server, text), 0);
        assert_int_equal(lstat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_true(server_take_newness(server));
        assert_false(server_take_newness(server));
        assert_serves(server);
        assert_serves(server);
        first = server_pid(server);
        assert_int_equal(getpgid(first), first);
        assert_false(server_reap(server, text));
        kill(first, SIGKILL);
        await_death(server);
        assert_non_null(strstr(text, "killed by signal 9"));
        assert_int_equal(server_pid(server), 0);
        assert_nothing_left();
    }
    assert_int_equal(server_start(server, text), 0);
    assert_serves(server);
    server_free(server);
    assert_nothing_left();
}

static void
test_long_directories_are_no_obstacle(void **state)
{
    g_autofree char *name = g_strnfill(120, 'x');
    g_autofree char *path = g_build_filename(dir, name, NULL);
    Server *server = server_new(path, "s", memory);

    (void)state;
    assert_int_equal(g_mkdir(path, 0700), 0);
    assert_int_equal(server_start(server, text), 0);
    assert_serves(server);
    server_free(server);
    assert_int_equal(g_rmdir(path), 0);
    assert_nothing_left();
}

static void
test_what_cannot_run_is_said(void **state)
{
    char *argv[] = {"/no/such/program", NULL};
    char *directory[] = {"/tmp", NULL};
    char *fails[] = {"sh", "-c", "exit 3", NULL};
    Server *server = server_new(dir, "s", argv);

    (void)state;
    assert_true(server_start(server, text) < 0);
    assert_non_null(strstr(text, "No such file"));
    server_free(server);
    server = server_new(dir, "s", directory);
    assert_true(server_start(server, text) < 0);
    server_free(server);
    server = server_new(dir, "s", fails);
    assert_int_equal(server_start(server, text), 0);
    await_death(server);
    assert_non_null(strstr(text, "status 3"));
    server_free(server);
    assert_nothing_left();
}

static void
test_children_of_a_server_go_with_it(void **state)
{
    g_autofree char *file = g_build_filename(dir, "pid", NULL);
    g_autofree char *script =
        g_strdup_printf("tail -f /dev/null & echo $! > %s.n; mv %s.n %s; "
                        "wait",
                        file, file, file);
    char *argv[] = {"sh", "-c", script, NULL};
    Server *server = server_new(dir, "s", argv);
    g_autofree char *pid = NULL;

    (void)state;
    assert_int_equal(server_start(server, text), 0);
    for (int i = 0; !g_file_get_contents(file, &pid, NULL, NULL); i++) {
        assert_true(i < PATIENCE_MS / 10);
        poll(NULL, 0, 10);
    }
    kill(server_pid(server), SIGKILL);
    await_death(server);
    /* An orphan that was killed is a zombie until init looks at it. */
    for (int i = 0; !kill(atoi(pid), 0) && i < PATIENCE_MS / 10; i++) {
        g_autofree char *proc = g_strdup_printf("/proc/%d/stat", atoi(pid));
        g_autofree char *stat = NULL;

        if (g_file_get_contents(proc, &stat, NULL, NULL) &&
            strstr(stat, ") Z ")) {
            break;
        }
        poll(NULL, 0, 10);
        assert_true(i + 1 < PATIENCE_MS / 10);
    }
    server_free(server);
    g_unlink(file);
    assert_nothing_left();
}

static void
test_deaf_server_is_killed(void **state)
{
    char *argv[] = {"sh", "-c", "trap '' TERM; tail -f /dev/null", NULL};
    Server *server = server_new(dir, "s", argv);

    (void)state;
    assert_int_equal(server_start(server, text), 0);
    server_free(server);
    assert_nothing_left();
}

static int
make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int
remove_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_after_life),
        cmocka_unit_test(test_long_directories_are_no_obstacle),
        cmocka_unit_test(test_what_cannot_run_is_said),
        cmocka_unit_test(test_children_of_a_server_go_with_it),
        cmocka_unit_test(test_deaf_server_is_killed),
    };

    relay_thread_enter();
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
