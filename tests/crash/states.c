/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The local side: what is durable, and what is pending.
 *
 * A change becomes pending when it begins. It becomes durable
 *
 *   - when a sync of its file (of its directory) has ended that had begun
 *     after the change ended, or
 *   - by itself when it ends, if it was asked to be.
 *
 * A crash state is what is durable, and on top of it, in the order in which
 * they began, some of the pending changes: each kept, lost, or torn: then
 * each of its sectors is kept or lost by itself, and one may hold garbage. A
 * pending change whose sectors a later change took over durably cannot come
 * back over it: those sectors are dead. Sizes that grew may be kept without
 * the content (that reads as zeroes), but not the content without the size.
 *
 * Variants, of n pending changes:
 *
 *   0                all kept (a killed process)
 *   1                none kept
 *   2 .. 1 + n       each lost, the others kept
 *   2 + n .. 1 + 2n  each kept, the others lost
 *   then             all subsets, if n is at most 12
 *   from there on    drawn by (seed, tick, variant), torn ones among them
 */
#include "states-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SUBSETS_MAX 12

/*
 * Units: from pending to durable
 */
static void
add_unit(CrashStates *states, const RecordEntry *entry)
{
    if (states->n_units == states->units_room) {
        states->units_room = states->units_room ? 2 * states->units_room : 64;
        states->units =
            realloc(states->units, states->units_room * sizeof(*states->units));
        assert(states->units);
    }
    states->units[states->n_units++] = (struct CrashUnit){.entry = entry};
}

void
crash_kill_sectors(struct CrashUnit *unit, const RecordEntry *over)
{
    const RecordEntry *entry = unit->entry;
    uint64_t end = entry->offset + entry->len;
    uint64_t at = entry->offset;

    if (over->offset >= end || over->offset + over->len <= entry->offset) {
        return;
    }
    if (!unit->dead) {
        unit->dead = calloc(1, entry->len / SECTOR_BYTES / 8 + 2);
        assert(unit->dead);
    }
    for (uint64_t i = 0; at < end; i++) {
        uint64_t len = crash_part_len(at, end);

        if (at >= over->offset && at + len <= over->offset + over->len) {
            unit->dead[i / 8] |= (uint8_t)(1u << i % 8);
        }
        at += len;
    }
}

static void
make_durable(CrashStates *states, size_t index)
{
    struct CrashUnit unit = states->units[index];

    crash_apply(states, &unit, true, FATE_KEPT, 0);
    memmove(states->units + index, states->units + index + 1,
            (states->n_units - index - 1) * sizeof(*states->units));
    states->n_units--;
    if (unit.entry->kind <= RECORD_ZERO) {
        for (size_t i = 0; i < states->n_units; i++) {
            const RecordEntry *older = states->units[i].entry;

            if (older->kind <= RECORD_ZERO && older->node == unit.entry->node &&
                older->end < unit.entry->begin) {
                crash_kill_sectors(&states->units[i], unit.entry);
            }
        }
    }
    free(unit.dead);
}

static void
synced(CrashStates *states, const RecordEntry *sync)
{
    if (sync->result < 0) {
        return;
    }
    for (size_t i = 0; i < states->n_units;) {
        const RecordEntry *entry = states->units[i].entry;

        if (entry->node == sync->node && entry->end < sync->begin) {
            make_durable(states, i);
        } else {
            i++;
        }
    }
    if (sync->is_durable && states->files[sync->node].base) {
        states->files[sync->node].base_mtime = sync->mtime;
        states->files[sync->node].now_mtime = sync->mtime;
    }
}

static void
local_ended(CrashStates *states, const RecordEntry *entry)
{
    if (entry->kind == RECORD_SYNC) {
        synced(states, entry);
        return;
    }
    if (!entry->is_durable || entry->result < 0) {
        return;
    }
    for (size_t i = 0; i < states->n_units; i++) {
        if (states->units[i].entry == entry) {
            make_durable(states, i);
            return;
        }
    }
}

static void
happen(CrashStates *states, const struct CrashEvent *event)
{
    RecordEntry *entry = event->entry;

    switch (entry->kind) {
    case RECORD_SEND:
    case RECORD_FLUSH:
        crash_target_event(states, event);
        break;
    case RECORD_GUEST:
        if (event->what == EVENT_BEGIN) {
            oracle_issued(states->oracle, entry);
        }
        break;
    case RECORD_GUEST_SYNC:
        if (event->what == EVENT_END) {
            oracle_synced(states->oracle, entry);
        }
        break;
    case RECORD_MARK:
    case RECORD_KINDS:
        break;
    case RECORD_SYNC:
    case RECORD_WRITE:
    case RECORD_ZERO:
    case RECORD_GROW:
    case RECORD_SIZE:
    case RECORD_LINK:
    case RECORD_RENAME:
    case RECORD_EXCHANGE:
    case RECORD_UNLINK:
        if (entry->node == states->lock) {
            crash_apply(states, &(struct CrashUnit){entry, NULL}, true,
                        FATE_KEPT, 0);
        } else if (event->what == EVENT_END) {
            local_ended(states, entry);
        } else if (entry->kind != RECORD_SYNC) {
            add_unit(states, entry);
        }
        break;
    }
}

void
crash_states_seek(CrashStates *states, uint64_t tick)
{
    assert(tick >= states->tick && !states->n_undo);
    while (states->tick < tick) {
        const struct CrashEvent *event = &states->events[++states->tick];

        if (event->what != EVENT_NONE) {
            happen(states, event);
        }
    }
}

/*
 * Choosing
 */
uint64_t
crash_states_systematic(const CrashStates *states)
{
    uint64_t n = states->n_units;

    return 2 + 2 * n + (n <= SUBSETS_MAX ? UINT64_C(1) << n : 0);
}

static enum CrashFate
fate_of(const CrashStates *states, uint64_t variant, size_t index,
        uint64_t random)
{
    uint64_t n = states->n_units;

    if (variant < 2) {
        return variant == 0 ? FATE_KEPT : FATE_LOST;
    }
    variant -= 2;
    if (variant < n) {
        return variant == index ? FATE_LOST : FATE_KEPT;
    }
    variant -= n;
    if (variant < n) {
        return variant == index ? FATE_KEPT : FATE_LOST;
    }
    variant -= n;
    if (n <= SUBSETS_MAX && variant < UINT64_C(1) << n) {
        return variant >> index & 1 ? FATE_KEPT : FATE_LOST;
    }
    return random % 8 < 3 ? FATE_LOST : random % 8 < 5 ? FATE_KEPT : FATE_TORN;
}

static void
copy_names(CrashStates *states)
{
    struct CrashNames *now = &states->now_names;

    now->count = 0;
    for (size_t i = 0; i < states->base_names.count; i++) {
        const struct CrashName *name = &states->base_names.list[i];

        crash_set_name(now, name->dir, name->name, name->node);
    }
}

static void
hash_state(CrashStates *states)
{
    uint64_t hash = 0;

    for (size_t i = 0; i < states->now_names.count; i++) {
        const struct CrashName *name = &states->now_names.list[i];
        const struct CrashFile *file = &states->files[name->node];
        uint64_t content[3] = {name->dir, file->now_size, file->now_hash};

        hash ^= crash_hash(name->name, strlen(name->name),
                           crash_hash(content, sizeof(content), 0));
    }
    states->local_hash = hash;
}

void
crash_states_choose(CrashStates *states, uint64_t variant)
{
    Seed seed = {states->seed ^ crash_hash(&variant, 8, states->tick)};

    assert(!states->n_undo);
    states->n_garbage = 0;
    states->has_junk = false;
    copy_names(states);
    if (states->fates_room < states->n_units) {
        states->fates_room = 2 * states->n_units;
        states->fates =
            realloc(states->fates, states->fates_room * sizeof(*states->fates));
        assert(states->fates);
    }
    for (size_t i = 0; i < states->n_units; i++) {
        const struct CrashUnit *unit = &states->units[i];
        uint64_t random = seed_next(&seed);
        enum CrashFate fate = fate_of(states, variant, i, random);
        struct CrashFile *file = &states->files[unit->entry->node];

        states->fates[i] = fate;
        if (fate == FATE_LOST) {
            continue;
        }
        crash_apply(states, unit, false, fate, random >> 8);
        /* Times reach the disk when they like, but for a killed process. */
        if (file->base && unit->entry->end <= states->tick &&
            (variant == 0 || random >> 60 & 1)) {
            file->now_mtime = unit->entry->mtime;
        }
    }
    hash_state(states);
}

void
crash_states_touch(CrashStates *states, struct CrashFile *file, uint64_t offset,
                   uint64_t len)
{
    uint64_t end = offset + len;

    end = end < file->room ? end : file->room;
    if (offset < end) {
        crash_note_undo(states, file, offset, end - offset);
    }
}

void
crash_states_undo(CrashStates *states)
{
    while (states->n_undo > 0) {
        struct CrashRange *range = &states->undo[--states->n_undo];

        memcpy(range->file->now + range->offset,
               range->file->base + range->offset, range->len);
    }
    for (uint32_t i = 0; i < states->log->n_nodes; i++) {
        struct CrashFile *file = &states->files[i];

        file->now_hash = file->base_hash;
        file->now_size = file->base_size;
        file->now_mtime = file->base_mtime;
    }
}

bool
crash_states_is_garbage(const CrashStates *states, uint64_t offset)
{
    for (unsigned i = 0; i < states->n_garbage; i++) {
        if (states->garbage[i].offset == offset) {
            return true;
        }
    }
    return false;
}
