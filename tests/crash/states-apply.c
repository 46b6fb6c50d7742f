/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One change, applied: to what is durable (then what is chosen follows), or to
 * what is chosen only (then it is noted what has to be put back). Hashes of
 * the content are kept along the way, sector by sector, so that states can be
 * told apart without reading them.
 */
#include "states-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t
crash_hash(const void *data, uint64_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, len, seed);
}

static bool
is_zero(const uint8_t *data, uint64_t len)
{
    return !len || (!data[0] && !memcmp(data, data + 1, len - 1));
}

/* Zeroes count as nothing, so that it does not matter how long a file is. */
uint64_t
crash_sector_hash(const uint8_t *data, uint64_t number)
{
    return is_zero(data, SECTOR_BYTES) ? 0
                                       : crash_hash(data, SECTOR_BYTES, number);
}

/*
 * Changing a file's content, durable or chosen
 */
void
crash_note_undo(CrashStates *states, struct CrashFile *file, uint64_t offset,
                uint64_t len)
{
    if (states->n_undo == states->undo_room) {
        states->undo_room = states->undo_room ? 2 * states->undo_room : 256;
        states->undo =
            realloc(states->undo, states->undo_room * sizeof(*states->undo));
        assert(states->undo);
    }
    states->undo[states->n_undo++] = (struct CrashRange){file, offset, len};
}

/* @len bytes at @offset inside one sector; @data NULL: zeroes. */
static void
put_sector(CrashStates *states, struct CrashFile *file, bool is_base,
           uint64_t offset, uint64_t len, const uint8_t *data)
{
    uint64_t number = offset / SECTOR_BYTES;
    uint64_t start = number * SECTOR_BYTES;
    uint8_t *sector = (is_base ? file->base : file->now) + start;
    uint8_t *at = sector + (offset - start);

    if (data ? !memcmp(at, data, len) : is_zero(at, len)) {
        return;
    }
    uint64_t change = crash_sector_hash(sector, number);

    if (data) {
        memcpy(at, data, len);
    } else {
        memset(at, 0, len);
    }
    change ^= crash_sector_hash(sector, number);
    if (is_base) {
        file->base_hash ^= change;
        /* What is chosen follows, there is nothing to undo. */
        memcpy(file->now + start, sector, SECTOR_BYTES);
        file->now_hash = file->base_hash;
    } else {
        file->now_hash ^= change;
        crash_note_undo(states, file, start, SECTOR_BYTES);
    }
}

static void
set_size(CrashStates *states, struct CrashFile *file, bool is_base,
         uint64_t size)
{
    uint64_t *at = is_base ? &file->base_size : &file->now_size;

    for (uint64_t pos = size, end = *at; pos < end;
         pos += crash_part_len(pos, end)) {
        put_sector(states, file, is_base, pos, crash_part_len(pos, end), NULL);
    }
    *at = size;
    if (is_base) {
        file->now_size = size;
    }
}

static bool
is_dead(const struct CrashUnit *unit, uint64_t index)
{
    return unit->dead && unit->dead[index / 8] >> index % 8 & 1;
}

static uint64_t
effect_len(const RecordEntry *entry)
{
    bool is_short = entry->kind == RECORD_WRITE && entry->end != RECORD_NEVER &&
                    entry->result >= 0 && (uint64_t)entry->result < entry->len;

    return is_short ? (uint64_t)entry->result : entry->len;
}

/* One bit of randomness for sector @index of a torn change. */
static bool
is_torn_off(uint64_t random, uint64_t index)
{
    return crash_hash(&index, sizeof(index), random) & 1;
}

static void
put_garbage(CrashStates *states, struct CrashFile *file, uint64_t offset,
            uint64_t random)
{
    uint8_t junk[SECTOR_BYTES];

    for (unsigned i = 0; i < SECTOR_BYTES; i += 8) {
        random = crash_hash(&i, sizeof(i), random);
        memcpy(junk + i, &random, sizeof(random));
    }
    if (file == states->raw) {
        if (states->n_garbage == 4) {
            return;
        }
        states->garbage[states->n_garbage++] =
            (struct CrashRange){file, offset, SECTOR_BYTES};
    }
    states->has_junk |= file != states->raw;
    put_sector(states, file, false, offset, SECTOR_BYTES, junk);
}

/* A write or punch, onto what is durable or what is chosen. */
static void
apply_data(CrashStates *states, const struct CrashUnit *unit, bool is_base,
           enum CrashFate fate, uint64_t random)
{
    const RecordEntry *entry = unit->entry;
    struct CrashFile *file = &states->files[entry->node];
    uint64_t at = entry->offset, end = entry->offset + effect_len(entry);
    uint64_t limit = end < file->room ? end : file->room;
    bool has_garbage =
        fate == FATE_TORN && entry->kind == RECORD_WRITE && random % 16 == 0;

    for (uint64_t i = 0; at < limit; i++) {
        uint64_t len = crash_part_len(at, limit);
        bool is_lost =
            is_dead(unit, i) || (fate == FATE_TORN && is_torn_off(random, i));

        if (!is_lost) {
            if (entry->kind == RECORD_WRITE && at + len > file->now_size) {
                set_size(states, file, is_base, at + len);
            }
            put_sector(states, file, is_base, at, len,
                       entry->data ? entry->data + (at - entry->offset) : NULL);
        } else if (has_garbage && len == SECTOR_BYTES && !is_dead(unit, i) &&
                   at + len <= file->now_size &&
                   memcmp(file->now + at, entry->data + (at - entry->offset),
                          len) != 0) {
            put_garbage(states, file, at, random);
            has_garbage = false;
        }
        at += len;
    }
    if (fate == FATE_TORN && entry->kind == RECORD_WRITE && random >> 32 & 1 &&
        end > file->now_size) {
        set_size(states, file, is_base, end);
    }
}

/*
 * Names
 */
static struct CrashName *
find_name(struct CrashNames *names, uint32_t dir, const char *name)
{
    for (size_t i = 0; i < names->count; i++) {
        if (names->list[i].dir == dir && !strcmp(names->list[i].name, name)) {
            return &names->list[i];
        }
    }
    return NULL;
}

void
crash_set_name(struct CrashNames *names, uint32_t dir, const char *name,
               uint32_t node)
{
    struct CrashName *at = find_name(names, dir, name);

    if (!at) {
        if (names->count == names->room) {
            names->room = names->room ? 2 * names->room : 32;
            names->list =
                realloc(names->list, names->room * sizeof(*names->list));
            assert(names->list);
        }
        at = &names->list[names->count++];
        at->dir = dir;
        record_name(at->name, name);
    }
    at->node = node;
}

static void
drop_name(struct CrashNames *names, uint32_t dir, const char *name,
          uint32_t node)
{
    struct CrashName *at = find_name(names, dir, name);

    if (at && at->node == node) {
        *at = names->list[--names->count];
    }
}

static void
apply_name(struct CrashNames *names, const RecordEntry *entry)
{
    if (entry->end != RECORD_NEVER && entry->result < 0) {
        return;
    }
    if (entry->kind == RECORD_EXCHANGE) {
        crash_set_name(names, entry->node, entry->name, entry->other_to);
        crash_set_name(names, entry->node, entry->name_to, entry->other);
        return;
    }
    if (entry->kind == RECORD_LINK) {
        crash_set_name(names, entry->node, entry->name, entry->other);
    } else {
        drop_name(names, entry->node, entry->name, entry->other);
    }
    if (entry->kind == RECORD_RENAME) {
        crash_set_name(names, entry->node, entry->name_to, entry->other);
    }
}

void
crash_apply(CrashStates *states, const struct CrashUnit *unit, bool is_base,
            enum CrashFate fate, uint64_t random)
{
    const RecordEntry *entry = unit->entry;
    struct CrashFile *file = &states->files[entry->node];

    switch (entry->kind) {
    case RECORD_WRITE:
    case RECORD_ZERO:
        apply_data(states, unit, is_base, fate, random);
        break;
    case RECORD_GROW:
        if (entry->offset + entry->len > file->now_size) {
            set_size(states, file, is_base, entry->offset + entry->len);
        }
        break;
    case RECORD_SIZE:
        set_size(states, file, is_base, entry->len);
        break;
    case RECORD_LINK:
    case RECORD_RENAME:
    case RECORD_EXCHANGE:
    case RECORD_UNLINK:
        apply_name(is_base ? &states->base_names : &states->now_names, entry);
        break;
    case RECORD_SYNC:
    case RECORD_SEND:
    case RECORD_FLUSH:
    case RECORD_GUEST:
    case RECORD_GUEST_SYNC:
    case RECORD_MARK:
    case RECORD_KINDS:
        break;
    }
}
