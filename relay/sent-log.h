/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sent-log.h - clusters whose upload began and is not settled (rule 5)
 *
 * Purpose: after any end of this process the next one knows which clusters
 *          the target may hold in a state that nobody has seen: requests that
 *          were in flight may have been executed, or may be later; what was
 *          acknowledged and not flushed may be gone. They are in doubt, and
 *          what remote-sums says of them is not believed.
 * Threads: none of its own: opened by the main thread, then the relay's.
 * Units:   clusters; sequence numbers count commits.
 * Shapes:  see "On disk" below.
 * Errors:  0 or -errno. Damage is no error: loading says that nothing is
 *          known, and then everything is in doubt.
 */
#pragma once

#include "bitmap/bitmap.h"
#include "bitmap/store-io.h"

#include <stddef.h>

#define SENT_LOG_FILE "sent-log"

/*
 * On disk
 *
 * All numbers are little-endian. Two slots of SENT_LOG_SECTORS sectors of 512
 * bytes. Commit N is written to slot N & 1, as many sectors as its runs need
 * and the rest of their last page; so that the commit before is whole until
 * this one is. After a power cut each sector is old or new. Loading takes
 *
 *   the newest commit                   if all sectors of it are there,
 *   it and the one in the other slot    if some are not: it was never
 *                                       complete, so nothing of it had left,
 *                                       and the next one goes over it again;
 *   everything                          if any sector of the file is damaged,
 *                                       or older than the store's last start.
 *
 *   offset  size
 *        0     4  magic "WSNT"
 *        4     1  version, 1
 *        5     1  slot
 *        6     2  number of the sector in its slot
 *        8     8  epoch of the store, see store.h
 *       16     8  sequence of the commit
 *       24     4  number of sectors of the commit
 *       28     4  number of runs in this sector
 *       32   464  58 runs: first cluster << 24 | number of clusters
 *      496    16  XXH3-128, canonical, of the sector with the store's uuid in
 *                 this place
 */
#define SENT_LOG_MAGIC   0x544e5357u /* "WSNT" */
#define SENT_LOG_VERSION 1u
#define SENT_LOG_SECTORS 64u
#define SENT_LOG_RUNS    58u
#define SENT_LOG_ROOM    (SENT_LOG_SECTORS * SENT_LOG_RUNS)

struct SentLogSector {
    uint32_t magic;
    uint8_t version;
    uint8_t slot;
    uint16_t number;
    uint64_t epoch;
    uint64_t sequence;
    uint32_t sectors;
    uint32_t runs;
    uint64_t run[SENT_LOG_RUNS];
    uint8_t checksum[16];
};

#define SENT_LOG_SLOT_BYTES (SENT_LOG_SECTORS * 512u)

_Static_assert(offsetof(struct SentLogSector, epoch) == 8, "on disk");
_Static_assert(offsetof(struct SentLogSector, run) == 32, "on disk");
_Static_assert(offsetof(struct SentLogSector, checksum) == 496, "on disk");
_Static_assert(sizeof(struct SentLogSector) == 512, "on disk");

typedef struct SentLog {
    StoreIo *io;
    int fd; /* -1: there is none */
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t sequence; /* of the last commit, written or being written */
    struct SentLogSector *slot; /* the commit being written, page aligned */
} SentLog;

/*
 * Read what the last life left into @into (all clean at the call), then write
 * all of it as the first commit of this one, durably.
 * @epoch_before: what every sector must at least be of; 0: a store never
 *                served, where a missing file says that nothing was sent.
 * @in_doubt: uploads of the last life may still execute: if the log does not
 *            know which, it is all of them.
 * Return: 0; -EBADMSG if it was damaged or stale (*@what: in words): usable
 *         now, but no sum of before may be believed; else it is unusable.
 */
int sent_log_open(SentLog *log, StoreIo *io, int dirfd, const uint8_t uuid[16],
                  uint64_t epoch_before, uint64_t epoch, bool in_doubt,
                  Bitmap *into, const char **what);
void sent_log_close(SentLog *log);

/*
 * Encode @logged as the next commit. If it has more runs than there is room,
 * gaps are bridged: too many clusters are in doubt then, never too few.
 * Return: bytes at log->slot, to be written durably at *@offset.
 */
size_t sent_log_encode(SentLog *log, const Bitmap *logged, uint64_t *offset);

/* The commit was not written, or in part: the next one goes to the same slot,
 * since the other has the last one that is whole. */
void sent_log_failed(SentLog *log);

/* Both slots with @logged, of @epoch, durably. Blocking. */
int sent_log_stamp(SentLog *log, const Bitmap *logged, uint64_t epoch);

/* For `weir check`: NULL if sound, or what is wrong. Nothing is written. */
const char *sent_log_check(StoreIo *io, int dirfd, const uint8_t uuid[16],
                           uint64_t epoch_before);
