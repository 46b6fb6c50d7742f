/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notify.c - talk with whoever keeps this process: systemd, or our own holder
 *
 * The protocol of sd_notify(3) is one datagram to the socket named by
 * NOTIFY_SOCKET ('@' first: an abstract name), so a library is not needed for
 * it. Our holder's socket has no name: it is inherited. READY=1 goes out when
 * the mount serves, STATUS= when the state changes, and EXTEND_TIMEOUT_USEC= as
 * long as a stop takes.
 *
 * FDSTORE=1 with a descriptor beside it (SCM_RIGHTS) asks to keep that one
 * open. The process that is started after us finds it from number 3 on, and
 * its name in LISTEN_FDNAMES. A service that keeps none drops it silently, so
 * whoever depends on it asks notify_store_room() first: systemd sets FDSTORE
 * since 254, our unit and our holder always do.
 */
#include "notify.h"

#include <fcntl.h>
#include <glib.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD     3
#define FDS_MAX      8
#define SEND_LIMIT_S 1

static struct sockaddr_un manager;
static socklen_t manager_len; /* 0: it has no name */
static int holder_fd = -1;
static unsigned store_room;
static struct {
    char *name;
    int fd;
} passed[FDS_MAX];

static void
take_address(void)
{
    const char *path = g_getenv("NOTIFY_SOCKET");

    if (path != NULL && (path[0] == '/' || path[0] == '@') &&
        strlen(path) < sizeof(manager.sun_path)) {
        manager.sun_family = AF_UNIX;
        memcpy(manager.sun_path, path, strlen(path));
        manager_len =
            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
        if (path[0] == '@') {
            manager.sun_path[0] = '\0';
        }
    }
}

static long
number_of(const char *variable)
{
    const char *text = g_getenv(variable);

    return text != NULL ? strtol(text, NULL, 10) : 0;
}

/* The socket of our holder; what is there by accident stays as it is. */
static void
take_holder(void)
{
    int fd = (int)number_of(NOTIFY_FD_VARIABLE);
    struct stat st;

    if (fd >= FIRST_FD && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode)) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        holder_fd = fd;
    }
}

static void
take_passed(void)
{
    const char *text = g_getenv("LISTEN_FDNAMES");
    long n = number_of("LISTEN_FDS");

    if (n <= 0 || number_of("LISTEN_PID") != (long)getpid()) {
        return;
    }
    g_auto(GStrv) names = g_strsplit(text != NULL ? text : "", ":", FDS_MAX);
    guint n_names = g_strv_length(names);

    for (unsigned i = 0; i < MIN(n, FDS_MAX); i++) {
        passed[i].fd = FIRST_FD + (int)i;
        passed[i].name = g_strdup(i < n_names ? names[i] : "unknown");
        fcntl(passed[i].fd, F_SETFD, FD_CLOEXEC);
    }
}

static bool
has_keeper(void)
{
    return holder_fd >= 0 || manager_len != 0;
}

void
notify_init(void)
{
    static const char *const variables[] = {
        NOTIFY_FD_VARIABLE, "NOTIFY_SOCKET", "FDSTORE",
        "LISTEN_FDS",       "LISTEN_PID",    "LISTEN_FDNAMES"};

    take_holder();
    if (holder_fd < 0) {
        take_address();
    }
    take_passed();
    store_room = has_keeper() ? (unsigned)MAX(number_of("FDSTORE"), 0) : 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(variables); i++) {
        g_unsetenv(variables[i]);
    }
}

/* @fd goes along if it is not -1. */
static bool
send_text(const char *text, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control = {{0}};
    struct iovec iov = {(void *)text, strlen(text)};
    struct msghdr message = {
        .msg_name = manager_len != 0 ? &manager : NULL,
        .msg_namelen = manager_len,
        .msg_iov = &iov,
        .msg_iovlen = 1,
    };
    const struct timeval limit = {.tv_sec = SEND_LIMIT_S};
    bool is_sent;
    int sock;

    if (!has_keeper()) {
        return false;
    }
    sock = holder_fd >= 0 ? holder_fd
                          : socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0) {
        return false;
    }
    /* It may be busy: READY=1 and a descriptor must not be lost for that. */
    (void)setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
                                          .cmsg_level = SOL_SOCKET,
                                          .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    is_sent = sendmsg(sock, &message, MSG_NOSIGNAL) >= 0;
    if (!is_sent) {
        g_debug("the keeper does not listen");
    }
    if (sock != holder_fd) {
        close(sock);
    }
    return is_sent;
}

void
notify_send(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    (void)send_text(text, -1);
}

unsigned
notify_store_room(void)
{
    return store_room;
}

bool
notify_store_fd(const char *name, int fd)
{
    g_autofree char *text = g_strdup_printf("FDSTORE=1\nFDNAME=%s", name);

    return send_text(text, fd);
}

void
notify_forget_fd(const char *name)
{
    notify_send("FDSTOREREMOVE=1\nFDNAME=%s", name);
}

int
notify_take_fd(const char *name)
{
    for (unsigned i = 0; i < FDS_MAX; i++) {
        if (g_strcmp0(passed[i].name, name) == 0) {
            g_clear_pointer(&passed[i].name, g_free);
            return passed[i].fd;
        }
    }
    return -1;
}
