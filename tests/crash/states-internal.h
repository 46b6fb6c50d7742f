/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * states-internal.h - what the files behind states.h share
 *
 * Purpose: states.c says what is pending and chooses, states-apply.c changes
 *          contents and names, states-open.c begins, ends and keeps the target.
 * Threads: the test's.
 * Units:   bytes.
 */
#pragma once

#include "states.h"

/* What of [@at, @end) lies in the sector of @at. */
static inline uint64_t
crash_part_len(uint64_t at, uint64_t end)
{
    uint64_t next = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;

    return (next < end ? next : end) - at;
}

/* states.c: sectors of @unit under @over, which is durable, are dead. */
void crash_kill_sectors(struct CrashUnit *unit, const RecordEntry *over);

/* states-apply.c */
void crash_apply(CrashStates *states, const struct CrashUnit *unit,
                 bool is_base, enum CrashFate fate, uint64_t random);
void crash_set_name(struct CrashNames *names, uint32_t dir, const char *name,
                    uint32_t node);
void crash_note_undo(CrashStates *states, struct CrashFile *file,
                     uint64_t offset, uint64_t len);

/* Of one whole sector at its place; 0 for zeroes. */
uint64_t crash_sector_hash(const uint8_t *data, uint64_t number);

/* states-open.c */
void crash_target_event(CrashStates *states, const struct CrashEvent *event);
