/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host.h - being a good process of this host
 *
 * Purpose: memory, signals, where the log goes, how an error becomes an exit
 *          code.
 * Threads: main.
 */
#pragma once

#include <glib.h>

void host_prepare(void);
enum HostLog {
    HOST_LOG_WARNINGS, /* a command: stderr is for its one line */
    HOST_LOG_STDERR,   /* in the foreground; the journal, if that is stderr */
    HOST_LOG_SYSTEM,   /* journal or syslog */
};
void host_log_to(enum HostLog where);
/* The documented exit code of an error of any room. */
int host_exit_code(const GError *error);
