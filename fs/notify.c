/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notify.c - tell the service manager how we are
 *
 * The protocol of sd_notify(3) is one datagram to the socket named by
 * NOTIFY_SOCKET ('@' first: an abstract name), so a library is not needed for
 * it. READY=1 goes out when the mount serves, STATUS= when the state changes,
 * and EXTEND_TIMEOUT_USEC= as long as a stop takes.
 */
#include "notify.h"

#include <glib.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un manager;
static socklen_t manager_len; /* 0: nobody listens */

void
notify_init(void)
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
    g_unsetenv("NOTIFY_SOCKET");
    g_unsetenv("LISTEN_FDS");
    g_unsetenv("LISTEN_PID");
    g_unsetenv("LISTEN_FDNAMES");
}

void
notify_send(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;
    ssize_t sent;
    int fd;

    if (manager_len == 0) {
        return;
    }
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return;
    }
    sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL,
                  (struct sockaddr *)&manager, manager_len);
    if (sent < 0) {
        g_debug("the service manager does not listen");
    }
    close(fd);
}
