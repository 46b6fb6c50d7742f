/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * states.h - what a crash at an instant may leave behind
 *
 * Purpose: walks a RecordLog tick by tick, keeps what is durable by then and
 *          what is pending, and builds one legal crash state after the other
 *          from it: pending writes kept, lost or torn at 512 bytes, names and
 *          sizes of their own, whatever no sync has covered.
 * Threads: the test's.
 * Units:   bytes, sectors of 512 bytes, ticks.
 * Shapes:  one disk; the file that is called disk.raw is mapped, so that a
 *          store can be opened on it without a copy.
 *          A state is (log, tick, variant, seed): the same four always give
 *          the same.
 * Errors:  asserted.
 */
#pragma once

#include "tests/lib/record-log.h"
#include "tests/lib/seed.h"

#define SECTOR_BYTES 512u

/* One file, as durable and as in the state that was chosen. */
struct CrashFile {
    uint32_t node;
    uint64_t room; /* bytes at base and now */
    uint8_t *base, *now;
    uint64_t base_size, now_size;
    uint64_t base_hash, now_hash;
    struct timespec base_mtime, now_mtime;
    int fd; /* of a mapped one, else -1 */
};

struct CrashName {
    uint32_t dir, node;
    char name[RECORD_NAME];
};

struct CrashNames {
    struct CrashName *list;
    size_t count, room;
};

/* A change of a file or a directory that no sync has covered. */
struct CrashUnit {
    const RecordEntry *entry;
    uint8_t *dead; /* sectors that a later durable write took over, or NULL */
};

enum CrashFate { FATE_LOST, FATE_KEPT, FATE_TORN };

struct CrashEvent {
    RecordEntry *entry;
    enum {
        EVENT_NONE,
        EVENT_BEGIN,
        EVENT_END,
        EVENT_EXECUTED,
        EVENT_GONE
    } what;
};

struct CrashRange {
    struct CrashFile *file;
    uint64_t offset, len;
};

/* What the guest may find in a sector; see oracle.c. */
typedef struct Oracle Oracle;

#define CRASH_RAW "raw" /* in CrashBegin.dir: the mapped file */

struct CrashBegin {
    const char *dir; /* borrowed; an empty one */
    uint64_t seed;
    const uint8_t *target; /* what it held, durably; NULL: zeroes */
    uint64_t target_bytes;
    Oracle *oracle; /* borrowed; told of the guest's entries */
};

typedef struct CrashStates {
    const RecordLog *log;
    const char *dir;
    struct CrashEvent *events; /* by tick */
    uint64_t tick;             /* all up to it has happened */
    uint64_t seed;

    struct CrashFile *files; /* by node; .base is NULL for directories */
    struct CrashFile *raw;   /* the one called disk.raw */
    uint64_t raw_inode;      /* of its file in dir */
    uint32_t lock;           /* the lock file: what is in it matters to nobody,
                                so it makes no states */
    struct CrashNames base_names, now_names;
    struct CrashUnit *units; /* pending, in order of their beginning */
    size_t n_units, units_room;
    enum CrashFate *fates; /* of each unit, in the state chosen */
    size_t fates_room;
    struct CrashRange *undo;
    size_t n_undo, undo_room;
    struct CrashRange garbage[4]; /* sectors of raw with garbage in them */
    unsigned n_garbage;
    bool has_junk;       /* garbage in another file */
    uint64_t local_hash; /* of the state chosen */

    /* The target: durable, executed but not flushed, not executed. */
    uint64_t target_bytes;
    uint8_t *target;
    uint64_t target_hash;
    bool is_target_new;      /* .target was changed */
    struct CrashUnit *sends; /* the latter two, executed ones in order */
    size_t n_sends, sends_room;

    Oracle *oracle;
} CrashStates;

void crash_states_init(CrashStates *states, const RecordLog *log,
                       const struct CrashBegin *begin);
void crash_states_deinit(CrashStates *states);
/* Go on to @tick, which is not before the one reached. */
void crash_states_seek(CrashStates *states, uint64_t tick);
/* How many variants are not drawn at random: all from 0 on. */
uint64_t crash_states_systematic(const CrashStates *states);
/* Build variant @variant in .now and .now_names. */
void crash_states_choose(CrashStates *states, uint64_t variant);
/* [@offset, @len) of a file was changed by others: to be put back, too. */
void crash_states_touch(CrashStates *states, struct CrashFile *file,
                        uint64_t offset, uint64_t len);
void crash_states_undo(CrashStates *states);
void crash_states_print(const CrashStates *states);
/* Is the sector at @offset of disk.raw garbage by the state's own making? */
bool crash_states_is_garbage(const CrashStates *states, uint64_t offset);
/* First run of @unit from @from on that is not dead; false: none. */
bool crash_unit_run(const struct CrashUnit *unit, uint64_t from,
                    uint64_t *offset, uint64_t *len);
uint64_t crash_hash(const void *data, uint64_t len, uint64_t seed);

/* oracle.c */
Oracle *oracle_new(uint64_t size_bytes);
void oracle_free(Oracle *oracle);
void oracle_issued(Oracle *oracle, const RecordEntry *entry);
void oracle_synced(Oracle *oracle, const RecordEntry *sync);
/* The sectors that the guest has touched, by number, in order. */
uint64_t oracle_count(Oracle *oracle, const uint64_t **numbers);
/* May @data be what is at @offset? */
bool oracle_allows(const Oracle *oracle, uint64_t offset, const uint8_t *data);
/* Is @data what was there at @tick, when nothing was in flight? */
bool oracle_was(const Oracle *oracle, uint64_t offset, uint64_t tick,
                const uint8_t *data);
void oracle_print(const Oracle *oracle, uint64_t offset, const uint8_t *data);
