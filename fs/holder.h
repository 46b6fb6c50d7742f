/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * holder.h - the process that keeps a mount's connection
 *
 * Purpose: runs the daemon as its child, keeps the descriptors that the daemon
 *          asks to be kept (the mount's /dev/fuse), and when the daemon dies
 *          or hands over starts the next one with them. What systemd does for
 *          a service with FileDescriptorStoreMax=, where there is no systemd.
 * Threads: a process of its own, with one thread.
 * Errors:  an exit code; words go to the log, or before the first READY to
 *          whoever waits at report_fd.
 */
#pragma once

/* Of the holder, in /proc/PID/comm: tells it from the daemon. */
#define HOLDER_COMM "weir-holder"
/* The holder's pid, for the daemon: in the environment. */
#define HOLDER_PID_VARIABLE "WEIR_HOLDER_PID"

struct HolderConfig {
    char **argv;   /* of the daemon, behind the program; NULL-terminated */
    int report_fd; /* gets one byte, the exit code, and words; -1: nobody */
};

/* Returns the exit code of the holder: when the daemon has ended for good. */
int holder_run(const struct HolderConfig *config);

/* The program of process @pid as it was found when it started, even if another
 * file has that name now. malloc'd; NULL: it cannot be told. */
char *holder_program(int pid);
