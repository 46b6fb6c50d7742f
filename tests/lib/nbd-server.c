/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts nbdkit by fork and exec and waits until it listens, by connecting to
 * it; each wait has a deadline of its own, and a server that dies instead of
 * listening fails the test at once.
 */
#include "nbd-server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS   32
#define TRIES   2000
#define LOOK_MS 10

static bool
answers(const char *path, unsigned port)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in inet = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed;

    if (path) {
        snprintf(local.sun_path, sizeof(local.sun_path), "%s", path);
        failed = connect(fd, (struct sockaddr *)&local, sizeof(local));
    } else {
        failed = connect(fd, (struct sockaddr *)&inet, sizeof(inet));
    }
    close(fd);
    return !failed;
}

pid_t
nbd_server_start(const char *socket, unsigned port, const char *const *words)
{
    const char *argv[WORDS] = {"nbdkit", "-f"};
    char number[16];
    unsigned count = 2;
    pid_t pid;

    snprintf(number, sizeof(number), "%u", port);
    if (socket) {
        unlink(socket);
        argv[count++] = "-U";
        argv[count++] = socket;
    } else {
        argv[count++] = "-i";
        argv[count++] = "127.0.0.1";
        argv[count++] = "-p";
        argv[count++] = number;
    }
    while (*words && count < WORDS - 1) {
        argv[count++] = *words++;
    }
    pid = fork();
    assert(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char **)argv);
        _exit(127);
    }
    for (unsigned i = 0; !answers(socket, port); i++) {
        assert(i < TRIES);
        assert(waitpid(pid, NULL, WNOHANG) == 0);
        poll(NULL, 0, LOOK_MS);
    }
    return pid;
}

void
nbd_server_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

unsigned
nbd_server_port(void)
{
    struct sockaddr_in inet = {.sin_family = AF_INET,
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(inet);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = bind(fd, (struct sockaddr *)&inet, sizeof(inet)) ||
                 getsockname(fd, (struct sockaddr *)&inet, &len);

    assert(!failed);
    (void)failed;
    close(fd);
    return ntohs(inet.sin_port);
}
