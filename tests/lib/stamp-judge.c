/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a sector may hold after a fault. With "owed" the last request that is
 * promised to be there, and "issued" the last that was sent:
 *
 *   a stamp    owed <= its sequence <= issued; sound, and of this place
 *   zeroes     nothing is owed, or a discard was sent that is not older than
 *              what is owed
 *
 * Between the two bounds anything goes: the log need not know which of the
 * requests in between reached the disk, nor in which order the disk took
 * them, because no two requests for one sector are ever in flight at once.
 */
#include "stamp.h"

#include <assert.h>
#include <string.h>

#include <xxhash.h>

#define SECTOR_MAGIC UINT64_C(0x2173692070617473) /* "stap is!" */
#define WORDS        (STAMP_SECTOR / sizeof(uint64_t))
#define FIRST_FILL   4

static const char *const fault_names[STAMP_FAULTS] = {
    "sound",     "lost", "zeroes instead", "never issued",
    "misplaced", "torn", "garbage",
};

const char *
stamp_fault_name(enum StampFault fault)
{
    return fault_names[fault];
}

void
stamp_fill(void *sector, uint64_t disk, uint64_t number, uint64_t sequence)
{
    uint64_t words[WORDS] = {SECTOR_MAGIC, disk, number, sequence};
    uint64_t state = sequence * UINT64_C(0x9e3779b97f4a7c15) ^ number;

    for (size_t i = FIRST_FILL; i < WORDS - 1; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        words[i] = state;
    }
    words[WORDS - 1] = XXH3_64bits(words, (WORDS - 1) * sizeof(*words));
    memcpy(sector, words, sizeof(words));
}

static bool
is_zero(const void *sector)
{
    uint64_t words[WORDS], any = 0;

    memcpy(words, sector, sizeof(words));
    for (size_t i = 0; i < WORDS; i++) {
        any |= words[i];
    }
    return any == 0;
}

enum StampFault
stamp_read(const void *sector, uint64_t disk, uint64_t number,
           uint64_t *sequence)
{
    uint64_t words[WORDS];

    memcpy(words, sector, sizeof(words));
    *sequence = 0;
    if (words[0] != SECTOR_MAGIC) {
        return STAMP_GARBAGE;
    }
    if (words[WORDS - 1] != XXH3_64bits(words, (WORDS - 1) * sizeof(*words))) {
        return STAMP_TORN;
    }
    *sequence = words[3];
    return words[1] == disk && words[2] == number ? STAMP_SOUND
                                                  : STAMP_MISPLACED;
}

enum StampFault
stamp_judge(const StampLog *log, uint64_t number, const void *sector,
            bool after_ack, uint64_t *found)
{
    const StampEntry *entry = &log->entries[number];
    uint64_t owed = after_ack ? entry->acked : entry->synced;
    enum StampFault fault;

    assert(number < log->header->sectors);
    if (is_zero(sector)) {
        *found = entry->zeroing;
        return entry->zeroing >= owed ? STAMP_SOUND : STAMP_ZEROES;
    }
    fault = stamp_read(sector, log->header->disk, number, found);
    if (fault != STAMP_SOUND) {
        return fault;
    }
    if (*found < owed) {
        return STAMP_LOST;
    }
    return *found <= entry->issued ? STAMP_SOUND : STAMP_NEVER;
}

enum StampFault
stamp_count(const StampLog *log, uint64_t number, const void *sector,
            bool after_ack, StampCounts *counts, uint64_t *found)
{
    const StampEntry *entry = &log->entries[number];
    enum StampFault fault = stamp_judge(log, number, sector, after_ack, found);

    counts->faults[fault]++;
    if (fault == STAMP_SOUND) {
        counts->stamped += *found != 0 && *found != entry->zeroing;
        counts->zeroes += *found == entry->zeroing;
        counts->unsynced += *found > entry->synced;
        counts->unacked += *found > entry->acked;
        counts->taken += *found < entry->acked;
    }
    return fault;
}

void
stamp_adopt(StampLog *log, uint64_t number, uint64_t found, bool after_ack)
{
    StampEntry *entry = &log->entries[number];

    if (found != entry->zeroing) {
        entry->zeroing = 0;
    }
    entry->issued = entry->acked = found;
    if (!after_ack) {
        entry->synced = found;
    }
}

/* The header is what was copied first, entries may be newer. Of a discard that
 * is, nobody knows whether there was one before it: that is let pass. */
void
stamp_between(const StampLog *before, StampLog *after)
{
    uint64_t newest = after->header->next_sequence - 1;

    assert(before->header->sectors == after->header->sectors);
    for (uint64_t i = 0; i < after->header->sectors; i++) {
        StampEntry *entry = &after->entries[i];

        entry->acked = before->entries[i].acked;
        entry->issued = entry->issued < newest ? entry->issued : newest;
    }
}
