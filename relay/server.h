/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * server.h - an NBD server that weir starts itself (rule 27)
 *
 * Purpose: one server per bracket target, by socket activation, kept over
 *          reconnects and started anew when it died.
 * Threads: the relay thread's, all of it: the server is told to die with the
 *          thread that forked it.
 * Shapes:  one listening socket per life of the server, 0600, in the run
 *          directory; unlinked with it.
 * Errors:  0 or -errno, and words in @text (RELAY_TEXT).
 * Source:  sd_listen_fds(3), nbdkit-service(1).
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

typedef struct Server Server;

#define SERVER_GRACE_US \
    2000000 /* to end when it was asked to; then it is killed */

/* @name: of the socket in @run_dir. Copies both and the words. */
Server *server_new(const char *run_dir, const char *name, char **argv);

/* Start it unless it runs. */
int server_start(Server *server, char *text);
/* A socket that is connected to it, or -errno. */
int server_connect(Server *server);
/* True once per life: at the first call after a start. */
bool server_take_newness(Server *server);

/* Readable when it died; -1 if it does not run. */
int server_pidfd(const Server *server);
pid_t server_pid(const Server *server);
/* Has it died? Then it is reaped, its group is killed, and @text says how. */
bool server_reap(Server *server, char *text);

/* Ask it to end; server_reap() tells when it has. */
void server_terminate(Server *server);
/* Ends it, waits a moment, kills it, reaps it. */
void server_free(Server *server);
/* Without asking nicely: it had its time. */
void server_kill(Server *server);
