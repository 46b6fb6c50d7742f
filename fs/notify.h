/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notify.h - talk with whoever keeps this process: systemd, or our own holder
 *
 * Purpose: sd_notify(3)'s protocol: a datagram of KEY=VALUE lines, which may
 *          carry a descriptor to keep; and the descriptors that a keeper
 *          hands to the next process (sd_listen_fds(3)).
 * Threads: main.
 * Errors:  none: without a keeper, or with one that does not listen, nothing
 *          happens.
 * Source:  sd_notify(3), sd_listen_fds(3), sd_pid_notify_with_fds(3).
 */
#pragma once

#include <stdbool.h>

/* A socket of our holder's that this process was given: its number, in the
 * environment. Counts before NOTIFY_SOCKET. */
#define NOTIFY_FD_VARIABLE "WEIR_NOTIFY_FD"

/* Take that, NOTIFY_SOCKET, FDSTORE and LISTEN_* out of the environment: servers
 * that weir starts must not speak, or listen, in our name. The descriptors
 * that were passed do not outlive an exec from now on. */
void notify_init(void);
void notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How many descriptors the keeper keeps, by its own word (FDSTORE=); 0: none,
 * or it is not known. */
unsigned notify_store_room(void);
/* Keep @fd under @name for the next process; ours stays open. False: it was
 * not even heard. */
bool notify_store_fd(const char *name, int fd);
void notify_forget_fd(const char *name);
/* What the process before us left under @name: the caller's from now on; -1 if
 * there is nothing. */
int notify_take_fd(const char *name);
