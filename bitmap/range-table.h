/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * range-table.h - who is at work on which bytes of a disk (rule 10)
 *
 * Purpose: one table per disk of the ranges that are in flight from the
 *          guest, read-modify-written, punched, pinned by a reader or being
 *          copied aside. A request takes all of its range or none of it; a
 *          parked request holds nothing.
 * Threads: none of its own; the DiskMap that embeds it guards it.
 * Units:   bytes.
 * Shapes:  at most a few hundred holds at a time: a list is searched, and not
 *          even that while all holds are of kinds that never conflict.
 * Errors:  none; holds are embedded in the caller's request.
 */
#pragma once

#include "range.h"

enum RangeKind {
    RANGE_WRITE, /* a guest write in flight; shared with other writes */
    RANGE_RMW,   /* read-modify-write of whole blocks; alone */
    RANGE_PUNCH, /* punch or zero; alone */
    RANGE_PIN,   /* a reader that needs the old content; no writer beside it */
    RANGE_ASIDE, /* being copied aside; no writer, no second copy beside it */
    RANGE_KINDS
};

typedef struct RangeHold RangeHold;
struct RangeHold {
    uint64_t offset;
    uint64_t len;
    enum RangeKind kind;
    /* Called when a parked hold got its range, by whoever dropped the one in
     * the way, with the table's guard held: it may only pass the news on. */
    void (*granted)(RangeHold *hold);
    /* private to the table */
    RangeHold *next, *prev;
    bool is_parked;
};

/* Does work of this kind change what is there? */
bool range_kind_writes(enum RangeKind kind);

typedef struct RangeTable RangeTable;
struct RangeTable {
    RangeHold *held;                 /* list */
    RangeHold *parked, *parked_tail; /* FIFO */
    unsigned n_held[RANGE_KINDS];
    unsigned n_parked;
    /* For the table's owner, set at creation, may be NULL: @hold has just got
     * its range and does not know it yet. */
    void (*on_grant)(RangeTable *table, RangeHold *hold);
};

#define RANGE_TABLE_INIT ((RangeTable){0})

/*
 * Take @hold's range. True: it is held now. False: it is parked, behind what
 * holds or waits for bytes of it, and @granted will be called.
 */
bool range_table_take(RangeTable *table, RangeHold *hold);

/* Give the range back, or leave the queue; grants what waited for it, oldest
 * first. */
void range_table_drop(RangeTable *table, RangeHold *hold);

/* Is some byte of the range held as @kind? */
bool range_table_has(const RangeTable *table, enum RangeKind kind,
                     uint64_t offset, uint64_t len);
