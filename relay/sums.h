/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sums.h - remote-sums: what the target is known to hold, as hashes
 *
 * Purpose: a cluster whose content hashes to its entry need not be sent:
 *          after a crash that tells what really differs, at other times what
 *          the guest rewrote unchanged; and a target can be checked without
 *          the content that it should hold.
 * Threads: opened by the main thread, then the relay's. Entries are read and
 *          written through the relay's ring, see perform-local.c.
 * Units:   clusters; entries of SUMS_BYTES.
 * Shapes:  STORE/NAME/remote-sums, see "On disk" below.
 * Errors:  0 or -errno. Damage is no error: nothing is known then.
 * Source:  rule 30: the guest chooses the content, so hashes are keyed.
 */
#pragma once

#include "bitmap/range.h"
#include "bitmap/store-io.h"

#include <stddef.h>

#define SUMS_FILE      "remote-sums"
#define SUMS_BYTES     16u
#define SUMS_KEY_BYTES 192u

/*
 * On disk
 *
 * All numbers are little-endian.
 *
 *   offset  size
 *        0     8  magic "WEIRSUMS"
 *        8     4  version, 1
 *       12     4  cluster_bits
 *       16     8  epoch of the store, see store.h
 *       24    16  uuid of the store
 *       40   192  key, random
 *      232   264  zero
 *      496    16  XXH3-128, canonical, of bytes 0 .. 495
 *      512  3584  zero
 *     4096  16*n  one entry per cluster: 0 for unknown, else XXH3-128 under
 *                 the key of { XXH3-128 under the key of the content, number
 *                 of the cluster }
 *
 * An entry has no checksum: a torn or rotten one is the hash of nothing. An
 * entry that is merely old would be worse, and is never believed: the target
 * is changed only while the cluster is in the sent-log, which it leaves when
 * its new entry is durable. What lies behind the end of the file is unknown.
 */
#define SUMS_AT 4096u

struct SumsHeader {
    char magic[8];
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t epoch;
    uint8_t uuid[16];
    uint8_t key[SUMS_KEY_BYTES];
    uint8_t zero[264];
    uint8_t checksum[16];
};

_Static_assert(offsetof(struct SumsHeader, epoch) == 16, "on disk");
_Static_assert(offsetof(struct SumsHeader, key) == 40, "on disk");
_Static_assert(offsetof(struct SumsHeader, checksum) == 496, "on disk");
_Static_assert(sizeof(struct SumsHeader) == 512, "on disk");

typedef struct Sums {
    StoreIo *io;
    int fd; /* -1: there is none, nothing is known */
    struct SumsHeader header;
} Sums;

/*
 * Open or make the file, and stamp it with @epoch, durably.
 * @epoch_before: an older file is of before the last clean end: forgotten.
 * Return: 0; -EBADMSG if what was there is forgotten (*@what: in words); else
 *         there is no file to be had.
 */
int sums_open(Sums *sums, StoreIo *io, int dirfd, const uint8_t uuid[16],
              unsigned cluster_bits, uint64_t epoch_before, uint64_t epoch,
              const char **what);
void sums_close(Sums *sums);

/* Another key, in memory: with sums->header durable no entry is believed. */
int sums_make_key(Sums *sums);

/* Stamp the file with @epoch, durably. */
int sums_stamp(Sums *sums, uint64_t epoch);

/* The entry of @cluster with that content. */
void sums_hash(const Sums *sums, uint64_t cluster, const void *data, size_t len,
               uint8_t entry[SUMS_BYTES]);
/* Is @entry that of the cluster at @offset, with that content? */
bool sums_match(const Sums *sums, uint64_t offset, const void *data, size_t len,
                const uint8_t entry[SUMS_BYTES]);
bool sums_is_known(const uint8_t entry[SUMS_BYTES]);

/* Place of @run's entries in the file. */
static inline uint64_t
sums_offset(struct ClusterRun run)
{
    return SUMS_AT + run.first * SUMS_BYTES;
}

/* For `weir check`: NULL if sound, or what is wrong. Nothing is written. */
const char *sums_check(StoreIo *io, int dirfd, const uint8_t uuid[16],
                       unsigned cluster_bits, uint64_t epoch_before);
