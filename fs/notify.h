/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notify.h - tell the service manager how we are
 *
 * Purpose: sd_notify(3)'s protocol: one datagram of KEY=VALUE lines.
 * Threads: main.
 * Errors:  none: without a manager, or with one that does not listen, nothing
 *          happens.
 */
#pragma once

/* Remember NOTIFY_SOCKET and take it, and LISTEN_*, out of the environment:
 * servers that weir starts must not speak, or listen, in our name. */
void notify_init(void);
void notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));
