/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stamp-write.h - what the writing half of the stamp tool is told
 *
 * Purpose: see stamp.c. stamp-write.c issues the requests.
 * Threads: one Writer, used by as many threads as it asks for.
 * Units:   bytes, and requests.
 * Errors:  a failed request is what the tests are about; anything else ends
 *          the program.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/stamp.h"

typedef struct StampOptions {
    const char *path;
    uint64_t seed;
    uint64_t requests; /* then end; 0: until an error or a SIGTERM */
    uint64_t min_bytes, max_bytes;
    uint64_t offset_bytes, range_bytes; /* write there only; 0: everywhere */
    unsigned workers;
    unsigned sync_every; /* requests of one worker; 0: never */
    unsigned discards;   /* of a hundred requests */
    bool only_punches;   /* never zeroes that keep their blocks */
    bool goes_on;        /* after a failed request, as long as it is mounted */
} StampOptions;

typedef struct StampTally {
    uint64_t writes, discards, syncs;
    uint64_t written_bytes;
    uint64_t failed_writes, failed_discards, failed_syncs;
    int last_error; /* errno */
    bool mount_died;
} StampTally;

/* Returns when all is written, at the first error, or after a SIGTERM. */
void stamp_write(const StampOptions *options, StampLog *log, StampTally *tally);
