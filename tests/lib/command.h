/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * command.h - how test programs begin, and are told what to do
 *
 * Purpose: settings of the process, and its "--name NUMBER" options.
 * Threads: before there are others.
 */
#pragma once

#include "tests/lib/quiet-log.h"

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void
command_begin(void)
{
    /* Each life makes and frees the same things. */
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    setvbuf(stdout, NULL, _IOLBF, 0);
    g_log_set_writer_func(quiet_log, NULL, NULL);
}

static inline uint64_t
command_option(int argc, char **argv, const char *name, uint64_t otherwise)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], name)) {
            return strtoull(argv[i + 1], NULL, 0);
        }
    }
    return otherwise;
}
