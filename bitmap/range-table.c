/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * range-table.c - holds, parked holds, and what conflicts with what
 *
 * A hold gets all of its range or none: it is on the list of held ones, or it
 * is parked at the end of a queue and holds nothing. The matrix below is the
 * whole policy. A new hold parks if it conflicts with something that is held,
 * and also if it conflicts with something that is parked before it: a stream
 * of small writes cannot starve the read-modify-write that waits for its turn,
 * and two of them that overlap keep their order.
 *
 *          WRITE  RMW  PUNCH  PIN  ASIDE
 *   WRITE    -     x     x     x     x     in flight from the guest
 *   RMW      x     x     x     x     x     rewrites bytes it did not get
 *   PUNCH    x     x     x     x     x
 *   PIN      x     x     x     -     -     reads what is there
 *   ASIDE    x     x     x     -     x     reads it, too; one copy is enough
 *
 * Guest writes do not conflict with each other: what a disk holds after two
 * overlapping writes in flight is the guest's own affair.
 *
 * When a range is dropped the queue is walked once, oldest first. Granting one
 * never makes an older one fit (it conflicts with what it did before), so one
 * walk grants all that can be granted.
 *
 * While only writes are held and nothing is parked, a write is one test and a
 * link into a list, whatever else is in flight.
 */
#include "range-table.h"

#include <stddef.h>

#define BIT(kind) (1u << (kind))
#define WRITERS   (BIT(RANGE_WRITE) | BIT(RANGE_RMW) | BIT(RANGE_PUNCH))

/* conflicts[kind]: the kinds that may not be beside it. */
static const unsigned conflicts[RANGE_KINDS] = {
    [RANGE_WRITE] =
        BIT(RANGE_RMW) | BIT(RANGE_PUNCH) | BIT(RANGE_PIN) | BIT(RANGE_ASIDE),
    [RANGE_RMW] = WRITERS | BIT(RANGE_PIN) | BIT(RANGE_ASIDE),
    [RANGE_PUNCH] = WRITERS | BIT(RANGE_PIN) | BIT(RANGE_ASIDE),
    [RANGE_PIN] = WRITERS,
    [RANGE_ASIDE] = WRITERS | BIT(RANGE_ASIDE),
};

bool
range_kind_writes(enum RangeKind kind)
{
    return WRITERS & BIT(kind);
}

static bool
hold_conflicts(const RangeHold *a, const RangeHold *b)
{
    return (conflicts[a->kind] & BIT(b->kind)) &&
           ranges_overlap(a->offset, a->len, b->offset, b->len);
}

/* Is something held that @kind could conflict with at all? */
static bool
has_rivals(const RangeTable *table, enum RangeKind kind)
{
    for (unsigned k = 0; k < RANGE_KINDS; k++) {
        if ((conflicts[kind] & BIT(k)) && table->n_held[k]) {
            return true;
        }
    }
    return false;
}

static void
link_held(RangeTable *table, RangeHold *hold)
{
    hold->is_parked = false;
    hold->prev = NULL;
    hold->next = table->held;
    if (table->held) {
        table->held->prev = hold;
    }
    table->held = hold;
    table->n_held[hold->kind]++;
}

static void
link_parked(RangeTable *table, RangeHold *hold)
{
    hold->is_parked = true;
    hold->next = NULL;
    hold->prev = table->parked_tail;
    if (table->parked_tail) {
        table->parked_tail->next = hold;
    } else {
        table->parked = hold;
    }
    table->parked_tail = hold;
    table->n_parked++;
}

static void
unlink_hold(RangeTable *table, RangeHold *hold)
{
    RangeHold **head = hold->is_parked ? &table->parked : &table->held;

    if (hold->prev) {
        hold->prev->next = hold->next;
    } else {
        assert(*head == hold);
        *head = hold->next;
    }
    if (hold->next) {
        hold->next->prev = hold->prev;
    } else if (hold->is_parked) {
        assert(table->parked_tail == hold);
        table->parked_tail = hold->prev;
    }
    if (hold->is_parked) {
        table->n_parked--;
    } else {
        assert(table->n_held[hold->kind]);
        table->n_held[hold->kind]--;
    }
    hold->next = hold->prev = NULL;
}

/* Neither a held one nor one parked before @until is in @hold's way. */
static bool
is_free_for(const RangeTable *table, const RangeHold *hold,
            const RangeHold *until)
{
    if (has_rivals(table, hold->kind)) {
        for (const RangeHold *h = table->held; h; h = h->next) {
            if (hold_conflicts(hold, h)) {
                return false;
            }
        }
    }
    for (const RangeHold *h = table->parked; h != until; h = h->next) {
        if (hold_conflicts(hold, h)) {
            return false;
        }
    }
    return true;
}

bool
range_table_take(RangeTable *table, RangeHold *hold)
{
    assert(hold->kind < RANGE_KINDS);
    assert(hold->offset + hold->len >= hold->offset);
    if (is_free_for(table, hold, NULL)) {
        link_held(table, hold);
        return true;
    }
    link_parked(table, hold);
    return false;
}

static void
grant_parked(RangeTable *table)
{
    RangeHold *next;

    for (RangeHold *h = table->parked; h; h = next) {
        next = h->next;
        if (!is_free_for(table, h, h)) {
            continue;
        }
        unlink_hold(table, h);
        link_held(table, h);
        if (table->on_grant) {
            table->on_grant(table, h);
        }
        h->granted(h);
    }
}

void
range_table_drop(RangeTable *table, RangeHold *hold)
{
    unlink_hold(table, hold);
    grant_parked(table);
}

bool
range_table_has(const RangeTable *table, enum RangeKind kind, uint64_t offset,
                uint64_t len)
{
    if (!table->n_held[kind]) {
        return false;
    }
    for (const RangeHold *h = table->held; h; h = h->next) {
        if (h->kind == kind && ranges_overlap(h->offset, h->len, offset, len)) {
            return true;
        }
    }
    return false;
}
