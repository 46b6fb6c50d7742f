/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * record-log.h - what a store and its target were told to do, in one order
 *
 * Purpose: a recording StoreIo (record-io.h), a recording NBD server
 *          (record-target.h) and a test's guest write into one log. From it a
 *          test builds what a crash at any instant may leave on both sides.
 * Threads: any; the log has a lock of its own. Entries stay where they are
 *          once made. Reading them: when nobody records any more.
 * Units:   bytes; *ticks*: each begin, execution and end has a number of its
 *          own, counted up from 1.
 * Shapes:  a *node* is a file or a directory, whatever its names are: node 0
 *          is the directory given to record_log_attach(). What nodes held at
 *          that time counts as durable.
 * Errors:  asserted; a log that is saved and cannot be read back is refused.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#define RECORD_NEVER UINT64_MAX
#define RECORD_NAME  64
#define RECORD_NONE  UINT32_MAX /* no node */

enum RecordKind {
    RECORD_WRITE,  /* node, offset, len, data */
    RECORD_ZERO,   /* node, offset, len: punched, or zeroed */
    RECORD_GROW,   /* node, len: at least so large, by fallocate */
    RECORD_SIZE,   /* node, len: exactly so large */
    RECORD_SYNC,   /* node: what ended before this began is durable after it */
    RECORD_LINK,   /* node: directory; other: new; name */
    RECORD_RENAME, /* node: directory; other: moved; from name to name_to */
    RECORD_EXCHANGE, /* node: directory; other: name, other_to: name_to */
    RECORD_UNLINK,   /* node: directory; other: whose name it was; name */
    RECORD_SEND,     /* conn, offset, len, data (NULL: zeroes) at the target */
    RECORD_FLUSH,    /* conn, or all if RECORD_NONE: a flush at the target */
    RECORD_GUEST, /* offset, len, data (NULL: discarded); ends with its reply */
    RECORD_GUEST_SYNC,
    RECORD_MARK, /* name: for people */
    RECORD_KINDS
};

typedef struct RecordEntry {
    enum RecordKind kind;
    uint32_t node;            /* or the connection */
    uint32_t other, other_to; /* nodes */
    bool is_durable; /* by itself, when it ends (WRITE) or executes (SEND);
                        of a SYNC: with the file's times, as fsync(2) */
    int result;      /* of what ended: -errno, or at least 0 */
    uint64_t begin;  /* tick: asked */
    uint64_t end;    /* tick: result known to who asked, or NEVER */
    /* SEND, FLUSH: done at the target; NEVER: not (yet). A SEND that is never
     * done is *gone* at a tick from which on it cannot execute any more. */
    uint64_t executed, gone;
    uint64_t offset, len;
    struct timespec mtime; /* of a file, when this had ended */
    uint8_t *data;         /* owned, or NULL */
    char name[RECORD_NAME], name_to[RECORD_NAME];
    const void *key; /* while it is under way on a ring */
} RecordEntry;

typedef struct RecordNode {
    bool is_dir;
    bool is_dead; /* number and device may be another's by now */
    uint64_t device, inode;
    struct timespec mtime;  /* as attached */
    uint64_t size;          /* as attached */
    uint8_t *data;          /* as attached; @size bytes */
    uint32_t parent;        /* as attached, RECORD_NONE for what came later */
    char name[RECORD_NAME]; /* its first one */
} RecordNode;

typedef struct RecordLog {
    pthread_mutex_t lock;
    uint64_t tick; /* last one given out */
    RecordEntry **entries;
    size_t count, room;
    RecordNode **nodes;
    size_t n_nodes, nodes_room;
} RecordLog;

void record_log_init(RecordLog *log);
void record_log_deinit(RecordLog *log);
/* All that is in directory @path is known and durable. Once, at the start. */
void record_log_attach(RecordLog *log, const char *path);

/* A new entry with its tick. Borrows nothing; @data (@len bytes) is copied. */
RecordEntry *record_log_begin(RecordLog *log, enum RecordKind kind,
                              uint32_t node, uint64_t offset, uint64_t len,
                              const void *data);
void record_log_end(RecordLog *log, RecordEntry *entry, int result);
void record_log_executed(RecordLog *log, RecordEntry *entry);
void record_log_gone(RecordLog *log, RecordEntry *entry);
/* For who only wants the target's work: drop the entries that are over. */
void record_log_forget(RecordLog *log);
void record_log_mark(RecordLog *log, const char *text);

/* Largest that @node ever was or was asked to be. */
uint64_t record_log_room(const RecordLog *log, uint32_t node);

void record_name(char to[RECORD_NAME], const char *name);

/* For the callers that know what they do: with the lock held. */
void record_log_lock(RecordLog *log);
void record_log_unlock(RecordLog *log);
RecordEntry *record_log_begin_locked(RecordLog *log, enum RecordKind kind,
                                     uint32_t node, uint64_t offset,
                                     uint64_t len, const void *data);
void record_log_end_locked(RecordLog *log, RecordEntry *entry, int result);
/* The node behind a stat, made if it is not known. */
uint32_t record_log_node_locked(RecordLog *log, const struct stat *st,
                                bool is_new);

/* The log as a file, to look at a failure again. False: no such log. */
bool record_log_save(const RecordLog *log, const char *path);
bool record_log_load(RecordLog *log, const char *path);
