/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libnbd would start one server per handle and end it with the handle. Data
 * that such a server holds dies with each lost connection, and several
 * connections would be several servers. So weir starts one itself:
 *
 *   stopped --start--> running --(died)--> reaped = stopped
 *
 * Each life has a fresh listening socket: connections that queued up at the
 * old one are told so at once. The child gets it as descriptor 3 with
 * LISTEN_FDS=1 and LISTEN_PID, is a process group of its own (a ^C at the
 * terminal is weir's to handle) and dies with the relay thread. Between fork
 * and exec only async-signal-safe calls are made; the environment is put
 * together before, with room for the pid.
 *
 * Before the dead leader is reaped its whole group is killed: as long as the
 * leader is a zombie its number cannot belong to anybody else. "A new process"
 * in the sense of rule 5 means that nothing of the old life is left.
 *
 * The socket's path may be longer than an address can hold: it is bound
 * through /proc/self/fd.
 */
#include "server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib.h>

#include "core.h"
#include "thread-role.h"

#define BACKLOG     64
#define LISTEN_FD   3
#define GRACE_MS    1000 /* between SIGTERM and SIGKILL */
#define PID_DIGITS  20
#define LISTEN_PID  "LISTEN_PID="
#define LISTEN_FDS  "LISTEN_FDS=1"
#define LISTEN_NAME "LISTEN_FDNAMES="

struct Server {
    char *run_dir, *name;
    char **argv;
    pid_t pid; /* 0: does not run */
    int pidfd;
    int listen_fd;
    bool is_new;
    struct sockaddr_un address; /* through dir_fd */
    int dir_fd;
};

Server *
server_new(const char *run_dir, const char *name, char **argv)
{
    Server *server = g_new0(Server, 1);

    server->run_dir = g_strdup(run_dir);
    server->name = g_strdup(name);
    server->argv = g_strdupv(argv);
    server->pidfd = server->listen_fd = server->dir_fd = -1;
    return server;
}

/*
 * The listening socket
 */

static void
close_socket(Server *server)
{
    if (server->listen_fd >= 0) {
        close(server->listen_fd);
        unlinkat(server->dir_fd, server->name, 0);
    }
    if (server->dir_fd >= 0) {
        close(server->dir_fd);
    }
    server->listen_fd = server->dir_fd = -1;
}

static int
open_socket(Server *server)
{
    int fd;

    server->dir_fd =
        open(server->run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (server->dir_fd < 0) {
        return -errno;
    }
    server->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(server->address.sun_path, sizeof(server->address.sun_path),
             "/proc/self/fd/%d/%s", server->dir_fd, server->name);
    unlinkat(server->dir_fd, server->name, 0);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    server->listen_fd = fd;
    /* The mode of an unbound socket is that of the node it gets. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) ||
        bind(fd, (struct sockaddr *)&server->address,
             sizeof(server->address)) ||
        listen(fd, BACKLOG)) {
        return -errno;
    }
    return 0;
}

int
server_connect(Server *server)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error;

    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, (struct sockaddr *)&server->address,
                sizeof(server->address))) {
        error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/*
 * The child
 */

struct Spawn {
    char *path;
    char **argv, **envp;
    char *pid_text; /* where LISTEN_PID's value goes */
    int listen_fd, error_fd;
    pid_t parent;
};

static void
spawn_prepare(Server *server, struct Spawn *spawn)
{
    g_auto(GStrv) env = g_get_environ();
    GPtrArray *kept = g_ptr_array_new();
    char *pid = g_malloc0(strlen(LISTEN_PID) + PID_DIGITS + 1);

    memcpy(pid, LISTEN_PID, strlen(LISTEN_PID));
    for (char **word = env; *word; word++) {
        if (!g_str_has_prefix(*word, LISTEN_PID) &&
            !g_str_has_prefix(*word, LISTEN_NAME) &&
            !g_str_has_prefix(*word, "LISTEN_FDS=")) {
            g_ptr_array_add(kept, g_strdup(*word));
        }
    }
    g_ptr_array_add(kept, pid);
    g_ptr_array_add(kept, g_strdup(LISTEN_FDS));
    g_ptr_array_add(kept, NULL);
    *spawn = (struct Spawn){
        .path = g_find_program_in_path(server->argv[0]),
        .argv = server->argv,
        .envp = (char **)g_ptr_array_free(kept, FALSE),
        .pid_text = pid + strlen(LISTEN_PID),
        .listen_fd = server->listen_fd,
        .parent = getpid(),
    };
}

/* Async-signal-safe from here to exec. */
static void
put_pid(char *text, pid_t pid)
{
    char digits[PID_DIGITS];
    int count = 0;

    for (long rest = pid; rest; rest /= 10) {
        digits[count++] = (char)('0' + rest % 10);
    }
    while (count) {
        *text++ = digits[--count];
    }
}

static void
child_signals(void)
{
    struct sigaction act = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++) {
        sigaction(sig, &act, NULL); /* some cannot be set: not ours either */
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void __attribute__((noreturn)) child_run(const struct Spawn *spawn)
{
    int null_fd, error;
    ssize_t n;

    setpgid(0, 0);
    child_signals();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != spawn->parent) {
        _exit(1); /* the parent died before the line above */
    }
    put_pid(spawn->pid_text, getpid());
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd >= 0) {
        dup2(null_fd, STDIN_FILENO);
    }
    dup2(STDERR_FILENO, STDOUT_FILENO);
    if (spawn->listen_fd == LISTEN_FD) {
        fcntl(LISTEN_FD, F_SETFD, 0);
    } else {
        dup2(spawn->listen_fd, LISTEN_FD);
    }
    (void)close_range(LISTEN_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    execve(spawn->path, spawn->argv, spawn->envp);
    error = errno;
    n = write(spawn->error_fd, &error, sizeof(error));
    _exit(n == (ssize_t)sizeof(error) ? 126 : 127);
}

/* exec's errno arrives through a pipe that exec itself closes. */
static int
spawn_run(Server *server, struct Spawn *spawn)
{
    int pipe_fds[2], error = 0;
    ssize_t n;

    if (pipe2(pipe_fds, O_CLOEXEC)) {
        return -errno;
    }
    /* The child puts the listening socket at 3: nothing it needs is there. */
    spawn->error_fd = fcntl(pipe_fds[1], F_DUPFD_CLOEXEC, LISTEN_FD + 1);
    close(pipe_fds[1]);
    server->pid = fork();
    if (server->pid == 0) {
        child_run(spawn);
    }
    if (server->pid < 0) {
        error = errno;
        server->pid = 0;
    }
    close(spawn->error_fd);
    do {
        n = server->pid ? read(pipe_fds[0], &error, sizeof(error)) : 0;
    } while (n < 0 && errno == EINTR);
    close(pipe_fds[0]);
    if (error && server->pid) {
        waitpid(server->pid, NULL, 0);
        server->pid = 0;
    }
    return -error;
}

static int
start_once(Server *server)
{
    struct Spawn spawn;
    int res = open_socket(server);

    if (res) {
        return res;
    }
    spawn_prepare(server, &spawn);
    res = spawn.path ? spawn_run(server, &spawn) : -ENOENT;
    g_free(spawn.path);
    g_strfreev(spawn.envp);
    if (res) {
        return res;
    }
    server->pidfd = (int)syscall(SYS_pidfd_open, server->pid, 0);
    server->is_new = true;
    return server->pidfd < 0 ? -errno : 0;
}

int
server_start(Server *server, char *text)
{
    int res;

    relay_thread_assert();
    if (server->pid) {
        return 0;
    }
    res = start_once(server);
    if (res) {
        g_snprintf(text, RELAY_TEXT, "%s: %s", server->argv[0],
                   g_strerror(-res));
        close_socket(server);
        server_kill(server);
    }
    return res;
}

/*
 * Its end
 */

bool
server_take_newness(Server *server)
{
    bool is_new = server->is_new;

    server->is_new = false;
    return is_new;
}

int
server_pidfd(const Server *server)
{
    return server->pidfd;
}

pid_t
server_pid(const Server *server)
{
    return server->pid;
}

static void
say_how(const Server *server, const siginfo_t *info, char *text)
{
    if (info->si_code == CLD_EXITED) {
        g_snprintf(text, RELAY_TEXT, "%s ended with status %d", server->argv[0],
                   info->si_status);
    } else {
        g_snprintf(text, RELAY_TEXT, "%s was killed by signal %d",
                   server->argv[0], info->si_status);
    }
}

bool
server_reap(Server *server, char *text)
{
    siginfo_t info = {0};

    relay_thread_assert();
    if (!server->pid ||
        waitid(P_PID, (id_t)server->pid, &info, WEXITED | WNOHANG | WNOWAIT) ||
        !info.si_pid) {
        return false;
    }
    kill(-server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    if (text) {
        say_how(server, &info, text);
    }
    if (server->pidfd >= 0) {
        close(server->pidfd);
    }
    server->pid = 0;
    server->pidfd = -1;
    server->is_new = false;
    close_socket(server);
    return true;
}

void
server_terminate(Server *server)
{
    if (server->pid) {
        kill(-server->pid, SIGTERM);
    }
}

void
server_kill(Server *server)
{
    if (server->pid) {
        kill(-server->pid, SIGKILL);
        waitid(P_PID, (id_t)server->pid, &(siginfo_t){0}, WEXITED | WNOWAIT);
        server_reap(server, NULL);
    }
}

void
server_free(Server *server)
{
    struct pollfd fd;

    if (!server) {
        return;
    }
    relay_thread_assert();
    server_terminate(server);
    fd = (struct pollfd){.fd = server->pidfd, .events = POLLIN};
    if (server->pid) {
        (void)poll(&fd, 1, GRACE_MS);
    }
    server_kill(server);
    close_socket(server);
    g_free(server->run_dir);
    g_free(server->name);
    g_strfreev(server->argv);
    g_free(server);
}
