/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * holder.c - the process that keeps a mount's connection
 *
 *   weir mount ──fork──> holder ──fork, exec──> daemon (weir mount -f)
 *       ^                  |  ^                    |
 *       └── exit code, ────┘  └── READY, STATUS, ──┘
 *           words                 FDSTORE + fd
 *
 * A FUSE connection lives as long as somebody has its /dev/fuse descriptor
 * open. The daemon gives it to the holder as soon as it has mounted; when the
 * daemon is gone, requests of the guest wait in the kernel, and the daemon
 * that the holder starts next finds the descriptor as number 3. The guest sees
 * a pause. Whether to start one, and when, is holder-core.c's to decide.
 *
 * The holder is forked before the store is opened and receives nothing but
 * what the daemon sends it: no lock, no ring, no server's socket ever gets
 * here. One that goes into the background closes what it was given. It has no
 * thread and no main loop: a poll of two descriptors.
 *
 * The two talk over a pair of sockets that has no name, so that nobody else on
 * the machine can speak to the holder, or keep it busy. Only its child may: one
 * that its child has started is not listened to (the kernel's word for the
 * sender's pid counts, not the sender's).
 *
 * The next daemon is executed by the name that the program had at the start,
 * so after an upgrade it is the new one. If the holder itself is killed the
 * daemon serves on; it just has no second life any more.
 *
 * SIGTERM and SIGINT are passed on. One that arrives between two daemons waits
 * for the next to be ready: only a daemon can end a mount in an orderly way.
 */
#include "holder.h"

#include "holder-core.h"
#include "notify.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FD     3
#define FDS_MAX      4
#define MESSAGE_MAX  4096
#define MESSAGES_MAX 64 /* at a time */

struct Kept {
    int fd; /* -1: free */
    char name[HOLDER_NAME_MAX + 1];
};

struct Holder {
    const struct HolderConfig *config;
    struct HolderCore core;
    char *program;
    int report_fd, signal_fd;
    int notify_fd, speak_fd; /* our end, and that of the child */
    struct Kept kept[FDS_MAX];
    sigset_t old_mask;
    pid_t child;      /* 0: none at the moment */
    int pending;      /* a signal for the next daemon */
    int64_t start_us; /* when to start the next one, if there is none */
    char words[HOLDER_WORDS_MAX + 1]; /* the daemon's last */
};

char *
holder_program(int pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/exe", pid);
    char *path = g_file_read_link(link, NULL);

    if (path != NULL && g_str_has_suffix(path, " (deleted)")) {
        path[strlen(path) - strlen(" (deleted)")] = '\0';
    }
    return path;
}

/*
 * What is kept
 */
static struct Kept *
find_kept(struct Holder *holder, const char *name)
{
    for (unsigned i = 0; i < FDS_MAX; i++) {
        if (holder->kept[i].fd >= 0 &&
            strcmp(holder->kept[i].name, name) == 0) {
            return &holder->kept[i];
        }
    }
    return NULL;
}

static void
forget(struct Holder *holder, const char *name)
{
    struct Kept *kept = find_kept(holder, name);

    if (kept != NULL) {
        close(kept->fd);
        kept->fd = -1;
    }
}

/* Takes @fd. */
static void
keep(struct Holder *holder, const char *name, int fd)
{
    forget(holder, name);
    for (unsigned i = 0; i < FDS_MAX; i++) {
        struct Kept *kept = &holder->kept[i];

        if (kept->fd < 0) {
            kept->fd = fd;
            g_strlcpy(kept->name, name, sizeof(kept->name));
            return;
        }
    }
    close(fd);
}

/* A descriptor of a connection that ended polls as an error. */
static bool
is_connected(struct Holder *holder)
{
    struct Kept *fuse = find_kept(holder, "fuse");
    struct pollfd look = {.events = 0};

    if (fuse == NULL) {
        return false;
    }
    look.fd = fuse->fd;
    return poll(&look, 1, 0) >= 0 && (look.revents & POLLERR) == 0;
}

/*
 * The child
 */

/* Move the kept descriptors to where they are looked for, and say so. */
static void
pass_kept(struct Holder *holder)
{
    GString *names = g_string_new(NULL);
    char number[16];
    int n = 0, high[FDS_MAX];

    for (unsigned i = 0; i < FDS_MAX; i++) {
        if (holder->kept[i].fd >= 0) {
            /* Out of the way first: they may lie where another belongs. */
            high[n++] = fcntl(holder->kept[i].fd, F_DUPFD_CLOEXEC,
                              FIRST_FD + 2 * FDS_MAX);
            g_string_append_printf(names, "%s%s", n > 1 ? ":" : "",
                                   holder->kept[i].name);
        }
    }
    for (int i = 0; i < n; i++) {
        dup2(high[i], FIRST_FD + i);
    }
    if (n > 0) {
        snprintf(number, sizeof(number), "%d", n);
        setenv("LISTEN_FDS", number, 1);
        snprintf(number, sizeof(number), "%d", (int)getpid());
        setenv("LISTEN_PID", number, 1);
        setenv("LISTEN_FDNAMES", names->str, 1);
    }
    g_string_free(names, TRUE);
}

static void
be_daemon(struct Holder *holder)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", (int)getppid());
    setenv(HOLDER_PID_VARIABLE, number, 1);
    /* Out of the way of what is kept, and over the exec. */
    snprintf(number, sizeof(number), "%d",
             fcntl(holder->speak_fd, F_DUPFD, FIRST_FD + 2 * FDS_MAX));
    setenv(NOTIFY_FD_VARIABLE, number, 1);
    unsetenv("NOTIFY_SOCKET"); /* somebody's who waits for us */
    snprintf(number, sizeof(number), "%d", FDS_MAX);
    setenv("FDSTORE", number, 1);
    pass_kept(holder);
    sigprocmask(SIG_SETMASK, &holder->old_mask, NULL);
    execv(holder->program, holder->config->argv);
    _exit(EXIT_FAILURE);
}

static void
start_child(struct Holder *holder)
{
    pid_t pid = fork();

    if (pid == 0) {
        be_daemon(holder);
    }
    holder_core_started(&holder->core);
    holder->words[0] = '\0';
    if (pid > 0) {
        holder->child = pid;
        return;
    }
    g_warning("fork: %s", g_strerror(errno));
    holder->start_us = g_get_monotonic_time() + G_USEC_PER_SEC;
}

/* To whoever waits for the mount: once. */
static void
report(struct Holder *holder, int code, const char *words)
{
    char byte = (char)code;

    if (holder->report_fd < 0) {
        return;
    }
    if (write(holder->report_fd, &byte, 1) == 1 && words != NULL) {
        ssize_t n = write(holder->report_fd, words, strlen(words));

        if (n < 0) {
            g_debug("nobody waits any more");
        }
    }
    close(holder->report_fd);
    holder->report_fd = -1;
}

static void
pass_signal(struct Holder *holder, int number)
{
    bool is_possible =
        holder->child > 0 && (holder->core.is_ready || !holder->core.was_ready);

    if (is_possible) {
        kill(holder->child, number);
        holder->pending = 0;
    } else {
        holder->pending = number;
    }
}

/*
 * Messages
 */

/* One message, from the child and nobody else. @fd: what came along, or -1. */
static void
take_message(struct Holder *holder, const char *text, size_t len, int fd)
{
    struct HolderMessage message;

    holder_message_parse(text, len, &message);
    if (message.has_words) {
        g_strlcpy(holder->words, message.words, sizeof(holder->words));
    }
    if (message.is_store && fd >= 0) {
        keep(holder, message.name, fd);
    } else if (fd >= 0) {
        close(fd);
    }
    if (message.is_forget) {
        forget(holder, message.name);
    }
    if (message.is_ready) {
        holder_core_ready(&holder->core, g_get_monotonic_time());
        report(holder, 0, NULL);
        if (holder->pending != 0) {
            pass_signal(holder, holder->pending);
        }
    }
}

/* The descriptor and the sender of a message; further descriptors are closed.*/
static pid_t
open_envelope(struct msghdr *header, int *fd)
{
    struct ucred sender = {0};

    *fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL;
         c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET) {
            continue;
        }
        if (c->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&sender, CMSG_DATA(c), sizeof(sender));
        } else if (c->cmsg_type == SCM_RIGHTS) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            for (size_t i = 0; i < n; i++) {
                int one;

                memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
                if (*fd < 0) {
                    *fd = one;
                } else {
                    close(one);
                }
            }
        }
    }
    return sender.pid;
}

static void
take_messages(struct Holder *holder)
{
    union {
        char bytes[CMSG_SPACE(sizeof(struct ucred)) +
                   CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    char text[MESSAGE_MAX];

    /* Not for ever: a child that floods us must not keep us from its end. */
    for (unsigned i = 0; i < MESSAGES_MAX; i++) {
        struct iovec iov = {text, sizeof(text)};
        struct msghdr header = {.msg_iov = &iov,
                                .msg_iovlen = 1,
                                .msg_control = control.bytes,
                                .msg_controllen = sizeof(control.bytes)};
        ssize_t n = recvmsg(holder->notify_fd, &header,
                            MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        int fd;

        if (n < 0) {
            return;
        }
        pid_t sender = open_envelope(&header, &fd);

        if (sender > 0 && sender == holder->child) {
            take_message(holder, text, (size_t)n, fd);
        } else if (fd >= 0) {
            close(fd);
        }
    }
}

/*
 * The end of a child
 */
static void
say_death(const struct Holder *holder, int status,
          const struct HolderNext *next)
{
    g_autofree char *how =
        WIFSIGNALED(status)
            ? g_strdup_printf("was ended by signal %d", WTERMSIG(status))
            : g_strdup_printf("ended with code %d%s%s", WEXITSTATUS(status),
                              holder->words[0] != '\0' ? ": " : "",
                              holder->words);

    if (next->verdict == HOLDER_GIVE_UP) {
        g_critical("the daemon %s, time and again: giving up; the guest gets "
                   "I/O errors from now on",
                   how);
    } else if (next->verdict == HOLDER_RESTART && next->delay_ms > 0) {
        g_warning("the daemon %s: the next one starts in %u ms", how,
                  next->delay_ms);
    } else if (next->verdict == HOLDER_RESTART) {
        g_warning("the daemon %s: the next one starts", how);
    } else if (next->exit_code != 0 && holder->core.was_ready) {
        g_warning("the daemon %s", how);
    }
}

/* True: this was the last one, and @code is how it ended. */
static bool
child_ended(struct Holder *holder, int status, int *code)
{
    int64_t now_us = g_get_monotonic_time();
    struct HolderNext next;

    next =
        holder_core_ended(&holder->core, status, is_connected(holder), now_us);
    say_death(holder, status, &next);
    holder->child = 0;
    if (next.verdict == HOLDER_RESTART) {
        holder->start_us = now_us + next.delay_ms * INT64_C(1000);
        return false;
    }
    report(holder, next.exit_code != 0 ? next.exit_code : 1,
           WIFSIGNALED(status) ? "the daemon died; its words, if any, are in "
                                 "the system's log"
           : holder->words[0] != '\0' ? holder->words
                                      : "it ended");
    *code = next.exit_code;
    return true;
}

/* What the child said before its end comes first: it may be its descriptor. */
static bool
take_signals(struct Holder *holder, int *code)
{
    struct signalfd_siginfo info;
    siginfo_t ended = {0};
    int status;

    while (read(holder->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo != SIGCHLD) {
            pass_signal(holder, (int)info.ssi_signo);
        }
    }
    if (holder->child == 0 ||
        waitid(P_PID, (id_t)holder->child, &ended,
               WEXITED | WNOHANG | WNOWAIT) != 0 ||
        ended.si_pid == 0) {
        return false;
    }
    take_messages(holder);
    return waitpid(holder->child, &status, 0) == holder->child &&
           child_ended(holder, status, code);
}

/*
 * The process
 */
static bool
open_notify(struct Holder *holder)
{
    int ends[2], one = 1;

    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return false;
    }
    holder->notify_fd = ends[0];
    holder->speak_fd = ends[1];
    return setsockopt(holder->notify_fd, SOL_SOCKET, SO_PASSCRED, &one,
                      sizeof(one)) == 0;
}

static bool
open_signals(struct Holder *holder)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, &holder->old_mask);
    holder->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return holder->signal_fd >= 0;
}

static int
wait_ms(const struct Holder *holder)
{
    int64_t left;

    if (holder->child > 0) {
        return -1;
    }
    left = (holder->start_us - g_get_monotonic_time() + 999) / 1000;
    return left > 0 ? (int)left : 0;
}

static int
hold(struct Holder *holder)
{
    int code = 1;

    for (;;) {
        struct pollfd look[] = {
            {.fd = holder->notify_fd, .events = POLLIN},
            {.fd = holder->signal_fd, .events = POLLIN},
        };

        if (poll(look, G_N_ELEMENTS(look), wait_ms(holder)) < 0 &&
            errno != EINTR) {
            g_warning("poll: %s", g_strerror(errno));
            return code;
        }
        take_messages(holder);
        if (take_signals(holder, &code)) {
            return code;
        }
        if (holder->child == 0 && wait_ms(holder) == 0) {
            start_child(holder);
        }
    }
}

int
holder_run(const struct HolderConfig *config)
{
    struct Holder holder = {.config = config, .report_fd = config->report_fd};
    int code;

    for (unsigned i = 0; i < FDS_MAX; i++) {
        holder.kept[i].fd = -1;
    }
    prctl(PR_SET_NAME, HOLDER_COMM);
    holder.program = holder_program((int)getpid());
    if (holder.program == NULL || !open_notify(&holder) ||
        !open_signals(&holder)) {
        report(&holder, 1, g_strerror(errno));
        g_warning("the holder cannot start: %s", g_strerror(errno));
        return 1;
    }
    code = hold(&holder);
    /* The connection, if it still is there, ends here: no copy is left. */
    g_free(holder.program);
    return code;
}
