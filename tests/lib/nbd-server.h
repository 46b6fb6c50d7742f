/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd-server.h - an nbdkit that a test starts, kills and starts again
 *
 * Purpose: a target for the relay whose life the test holds in its hands.
 * Threads: the test's main thread.
 * Errors:  asserted.
 */
#pragma once

#include <sys/types.h>

/* nbdkit in the foreground, with @words behind its own; NULL-terminated.
 * Returns once @socket (a path, or NULL and then @port) takes connections. */
pid_t nbd_server_start(const char *socket, unsigned port,
                       const char *const *words);
void nbd_server_kill(pid_t pid);
/* A TCP port of the loopback that was free a moment ago. */
unsigned nbd_server_port(void);
