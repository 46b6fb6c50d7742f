/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * connect-once.c - one attempt to connect, as the relay makes it
 *
 * usage: connect-once TARGET [insecure]
 *
 * Prints "connected, N bytes", "barred: WORDS" or "failed: WORDS" and ends
 * with 0, 1 or 2; 3 when nothing came within the deadline.
 */
#include "relay/connect.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#define DEADLINE_MS 10000
#define TIMEOUT_MS  5000

static int
print_result(const struct ConnectResult *result)
{
    if (result->nbd) {
        printf("connected, %llu bytes\n",
               (unsigned long long)result->caps.size_bytes);
        return 0;
    }
    printf("%s: %s\n", result->is_barred ? "barred" : "failed", result->text);
    return result->is_barred ? 1 : 2;
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TargetUri) uri = NULL;
    struct ConnectSpec spec = {.fd = -1, .timeout_ms = TIMEOUT_MS};
    struct pollfd fd;
    Inbox inbox;
    InboxMsg *msg;
    ConnectJob *job;
    int res = 3;

    if (argc < 2) {
        fprintf(stderr, "usage: connect-once TARGET [insecure]\n");
        return 64;
    }
    uri = target_uri_parse(argv[1], &error);
    if (!uri) {
        printf("barred: %s\n", error->message);
        return 1;
    }
    if (inbox_init(&inbox)) {
        return 3;
    }
    spec.uri = uri;
    spec.inbox = &inbox;
    spec.insecure = argc > 2 && !strcmp(argv[2], "insecure");
    job = connect_job_start(&spec);
    if (!job) {
        return 3;
    }
    fd = (struct pollfd){.fd = inbox.event_fd, .events = POLLIN};
    if (poll(&fd, 1, DEADLINE_MS) != 1) {
        printf("nothing: %s\n", connect_job_stage(job));
    }
    connect_job_drop(job);
    msg = inbox_take(&inbox);
    if (msg) {
        res = print_result((struct ConnectResult *)msg);
        connect_result_free((struct ConnectResult *)msg);
    }
    inbox_deinit(&inbox);
    return res;
}
