/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stamp.h - the oracle of the crash tests: sectors that say what they are
 *
 * Purpose: a writer fills sectors of 512 bytes that each hold where they
 *          belong and which request wrote them; a log outside of what is
 *          tested says of each sector which request was issued last, which
 *          was acknowledged, and which an fsync covers. After any fault a
 *          sector must hold one between the last that is owed and the last
 *          that was issued: never garbage, never another place's.
 * Threads: entries are written by whoever has the sector in flight; the rest
 *          is atomic. A StampLog may be used by several threads.
 * Units:   sectors of STAMP_SECTOR bytes. Sequence numbers count requests
 *          from 1; 0 is the disk as it was before the first one, zeroes.
 * Errors:  0 or -errno.
 *
 * Shapes:  the log is a file that is mapped shared, so that it outlives the
 *          writer's death at any instruction (not the machine's), in host
 *          byte order:
 *
 *             0  StampHeader, 4096 bytes
 *          4096  StampEntry of sector 0, 32 bytes
 *          4128  StampEntry of sector 1, and so on
 *
 *          A stamped sector:
 *
 *             0  magic     8
 *             8  disk      8   which disk
 *            16  sector    8   which sector of it
 *            24  sequence  8   which request wrote it
 *            32  filling 472   follows from the four above
 *           504  sum       8   XXH3-64 of the 504 bytes before
 *
 * Source:  expected-state files of database crash tests.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STAMP_SECTOR  512
#define STAMP_WORKERS 64

enum StampOp {
    STAMP_IDLE = 0,
    STAMP_WRITE,
    STAMP_DISCARD,
    STAMP_SYNC,
};

/* What a worker waits for an answer to. */
typedef struct StampSlot {
    _Atomic uint64_t op; /* enum StampOp */
    uint64_t sequence;
    uint64_t first, count;
} StampSlot;
_Static_assert(sizeof(StampSlot) == 32, "on disk");

typedef struct StampHeader {
    uint64_t magic;
    uint64_t disk;
    uint64_t sectors;
    _Atomic uint64_t next_sequence;
    uint64_t reserved[12];
    StampSlot slots[STAMP_WORKERS];
    uint8_t padding[1920];
} StampHeader;
_Static_assert(offsetof(StampHeader, slots) == 128, "on disk");
_Static_assert(sizeof(StampHeader) == 4096, "on disk");

typedef struct StampEntry {
    _Atomic uint64_t issued;  /* the last request that was sent */
    _Atomic uint64_t acked;   /* the last one that succeeded */
    _Atomic uint64_t synced;  /* the last one below an fsync that did */
    _Atomic uint64_t zeroing; /* the last one that was sent to make zeroes */
} StampEntry;
_Static_assert(sizeof(StampEntry) == 32, "on disk");

typedef struct StampLog {
    StampHeader *header;
    StampEntry *entries;
    size_t length_bytes;
} StampLog;

/* A new log, for a disk of that many sectors that is all zeroes. */
int stamp_log_create(const char *path, uint64_t disk, uint64_t sectors);
int stamp_log_open(StampLog *log, const char *path);
void stamp_log_close(StampLog *log);

/*
 * The life of a request. No sector of it may be in flight already.
 */

/* Before it is sent; returns its sequence. */
uint64_t stamp_issue(StampLog *log, unsigned slot, enum StampOp op,
                     uint64_t first, uint64_t count);
/* After its answer. */
void stamp_answer(StampLog *log, unsigned slot, bool succeeded);
/* An fsync begun after that request's answer has succeeded. */
void stamp_synced(StampLog *log, uint64_t first, uint64_t count,
                  uint64_t sequence);

void stamp_fill(void *sector, uint64_t disk, uint64_t number,
                uint64_t sequence);

/*
 * Afterwards
 */

enum StampFault {
    STAMP_SOUND = 0,
    STAMP_LOST,      /* older than what is owed */
    STAMP_ZEROES,    /* zeroes that nobody asked for since */
    STAMP_NEVER,     /* a request that this sector never had, or not now */
    STAMP_MISPLACED, /* another sector's, or another disk's */
    STAMP_TORN,      /* a stamp whose sum is wrong: two halves */
    STAMP_GARBAGE,
    STAMP_FAULTS,
};

typedef struct StampCounts {
    uint64_t stamped, zeroes;
    uint64_t unsynced; /* newer than the last fsync */
    uint64_t unacked;  /* newer than the last acknowledgement */
    uint64_t taken;    /* older than it, as the loss of power may do */
    uint64_t faults[STAMP_FAULTS];
} StampCounts;

const char *stamp_fault_name(enum StampFault fault);

/* Is this a sound stamp of that place? @sequence: what it says. Zeroes are no
 * stamp, but garbage. */
enum StampFault stamp_read(const void *sector, uint64_t disk, uint64_t number,
                           uint64_t *sequence);

/*
 * Judge one sector; @found becomes the sequence that it holds. @after_ack:
 * owed is what was acknowledged (a process died), else what was fsynced (the
 * power was lost).
 */
enum StampFault stamp_judge(const StampLog *log, uint64_t number,
                            const void *sector, bool after_ack,
                            uint64_t *found);
/* The same, counted. */
enum StampFault stamp_count(const StampLog *log, uint64_t number,
                            const void *sector, bool after_ack,
                            StampCounts *counts, uint64_t *found);
/*
 * From now on this sector holds @found and nothing else: what was in flight
 * when the fault came must not arrive any more, and what is there must stay.
 */
void stamp_adopt(StampLog *log, uint64_t number, uint64_t found,
                 bool after_ack);

/*
 * To judge a copy of the disk that is of one instant, with the writer at work:
 * @before is a copy of the log from before it, @after one from after it. From
 * now on @after owes what was acknowledged in the first, and was sent nothing
 * that is newer than the second; judge by it with @after_ack.
 */
void stamp_between(const StampLog *before, StampLog *after);
