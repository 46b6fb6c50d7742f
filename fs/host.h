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
void host_log_to_system(void);     /* journal or syslog, instead of stderr */
void host_log_warnings_only(void); /* a command that does the work itself */
/* The documented exit code of an error of any room. */
int host_exit_code(const GError *error);
