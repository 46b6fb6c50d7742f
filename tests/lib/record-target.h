/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * record-target.h - an NBD server that writes down all it does
 *
 * Purpose: a target in this process whose every WRITE, WRITE_ZEROES, TRIM and
 *          FLUSH is in a RecordLog with the tick at which it arrived, was
 *          executed and was answered; that takes its time, loses connections
 *          and executes what they left behind.
 * Threads: one of its own serves all connections. The functions are for one
 *          other thread.
 * Units:   bytes, microseconds.
 * Shapes:  fixed newstyle, NBD_OPT_GO, INFO, LIST; simple replies; any export
 *          name. A request is executed some time after it came and answered
 *          some time after that; requests overtake each other. Reads see what
 *          was executed. A flush covers what was executed before it, on its
 *          connection only if the server has no multi-conn.
 *          A SEND whose connection ended unexecuted is a zombie: it executes
 *          within zombie_us, or is gone.
 * Errors:  asserted; a client that breaks the protocol loses its connection.
 * Source:  the NBD protocol, doc/proto.md.
 */
#pragma once

#include "record-log.h"
#include "seed.h"

#include <stdatomic.h>

#define RECORD_TARGET_CONNS 16
#define RECORD_TARGET_REQS  512

struct RecordTargetConfig {
    RecordLog *log; /* borrowed */
    const char *socket;
    uint64_t size_bytes;
    uint64_t seed;
    bool can_multi_conn;
    bool can_zero;             /* WRITE_ZEROES; TRIM is there always */
    int64_t delay_us;          /* most that an execution, and an answer, take */
    int64_t zombie_us;         /* longest time that a zombie lives */
    unsigned zombie_per_mille; /* how many of them execute */
};

typedef struct RecordTarget RecordTarget;

RecordTarget *record_target_start(const struct RecordTargetConfig *config);
void record_target_free(RecordTarget *target);

/* Lose all connections now, with what is not executed yet. */
void record_target_drop(RecordTarget *target);
/* Take requests, but neither execute nor answer any. */
void record_target_hold(RecordTarget *target, bool hold);
/* Wait until no zombie is left. */
void record_target_settle(RecordTarget *target);
/* What reads would see; @size_bytes of it. Stable once all is quiet. */
const uint8_t *record_target_image(const RecordTarget *target);
/* A copy of it, between two executions. */
void record_target_copy(RecordTarget *target, uint8_t *to);

struct RecordTargetFigures {
    unsigned sends, flushes, drops, zombies, executed_zombies, reads;
};
struct RecordTargetFigures record_target_figures(RecordTarget *target);
