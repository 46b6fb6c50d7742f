/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle of a disk: for each sector the guest's writes and discards that
 * may be what is found there, oldest first. The first of them is the last one
 * that an acknowledged fsync covers; all that were issued after it may have
 * reached the disk or not. Nothing else may be there.
 *
 * The guest never has two requests for one sector in flight, so that the order
 * of issuing is the order of the disk.
 */
#include "states.h"

#include "world.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct Sector {
    const RecordEntry **list; /* NULL entry: zeroes, as at the beginning */
    unsigned first, count, room;
};

struct Oracle {
    struct Sector *sectors;
    uint64_t n_sectors;
    uint64_t *touched; /* numbers of sectors, in any order */
    uint64_t n_touched, touched_room;
    bool is_sorted;
};

Oracle *
oracle_new(uint64_t size_bytes)
{
    Oracle *oracle = calloc(1, sizeof(*oracle));

    assert(oracle);
    oracle->n_sectors = size_bytes / SECTOR;
    oracle->sectors = calloc(oracle->n_sectors, sizeof(*oracle->sectors));
    assert(oracle->sectors);
    return oracle;
}

void
oracle_free(Oracle *oracle)
{
    if (oracle) {
        for (uint64_t i = 0; i < oracle->n_touched; i++) {
            free(oracle->sectors[oracle->touched[i]].list);
        }
        free(oracle->sectors);
        free(oracle->touched);
        free(oracle);
    }
}

static void
push(struct Sector *sector, const RecordEntry *entry)
{
    if (sector->count == sector->room) {
        sector->room = sector->room ? 2 * sector->room : 4;
        sector->list =
            realloc(sector->list, sector->room * sizeof(*sector->list));
        assert(sector->list);
    }
    sector->list[sector->count++] = entry;
}

void
oracle_issued(Oracle *oracle, const RecordEntry *entry)
{
    for (uint64_t at = 0; at < entry->len; at += SECTOR) {
        uint64_t number = (entry->offset + at) / SECTOR;
        struct Sector *sector = &oracle->sectors[number];

        if (!sector->count) {
            if (oracle->n_touched == oracle->touched_room) {
                oracle->touched_room =
                    oracle->touched_room ? 2 * oracle->touched_room : 1024;
                oracle->touched =
                    realloc(oracle->touched,
                            oracle->touched_room * sizeof(*oracle->touched));
                assert(oracle->touched);
            }
            oracle->touched[oracle->n_touched++] = number;
            oracle->is_sorted = false;
            push(sector, NULL);
        }
        push(sector, entry);
    }
}

void
oracle_synced(Oracle *oracle, const RecordEntry *sync)
{
    if (sync->result != 0) {
        return;
    }
    for (uint64_t i = 0; i < oracle->n_touched; i++) {
        struct Sector *sector = &oracle->sectors[oracle->touched[i]];

        for (unsigned j = sector->first + 1; j < sector->count; j++) {
            if (sector->list[j]->end < sync->begin &&
                sector->list[j]->result == 0) {
                sector->first = j;
            }
        }
    }
}

static int
by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

uint64_t
oracle_count(Oracle *oracle, const uint64_t **numbers)
{
    if (!oracle->is_sorted && oracle->n_touched) {
        qsort(oracle->touched, oracle->n_touched, sizeof(*oracle->touched),
              by_number);
        oracle->is_sorted = true;
    }
    *numbers = oracle->touched;
    return oracle->n_touched;
}

static bool
is_zero(const uint8_t *data)
{
    return !data[0] && !memcmp(data, data + 1, SECTOR - 1);
}

bool
oracle_allows(const Oracle *oracle, uint64_t offset, const uint8_t *data)
{
    const struct Sector *sector = &oracle->sectors[offset / SECTOR];

    for (unsigned i = sector->count; i-- > sector->first;) {
        const RecordEntry *entry = sector->list[i];

        if (!entry || !entry->data) {
            if (is_zero(data)) {
                return true;
            }
        } else if (!memcmp(data, entry->data + (offset - entry->offset),
                           SECTOR)) {
            return true;
        }
    }
    return false;
}

void
oracle_print(const Oracle *oracle, uint64_t offset, const uint8_t *data)
{
    const struct Sector *sector = &oracle->sectors[offset / SECTOR];
    const struct Stamp *stamp = (const struct Stamp *)data;

    printf("  sector at %llu: found %s", (unsigned long long)offset,
           is_zero(data)           ? "zeroes\n"
           : stamp_is_whole(stamp) ? ""
                                   : "garbage\n");
    if (stamp_is_whole(stamp)) {
        printf("sequence %llu of offset %llu\n",
               (unsigned long long)stamp->sequence,
               (unsigned long long)stamp->offset);
    }
    for (unsigned i = 0; i < sector->count; i++) {
        const RecordEntry *entry = sector->list[i];
        uint64_t sequence = 0;

        if (entry && entry->data) {
            stamp =
                (const struct Stamp *)(entry->data + offset - entry->offset);
            sequence = stamp->sequence;
        }
        printf("    %s: sequence %llu, ticks %lld .. %lld\n",
               i < sector->first ? "older" : "legal",
               (unsigned long long)sequence,
               (long long)(entry ? entry->begin : 0),
               (long long)(entry ? entry->end : 0));
    }
}

bool
oracle_was(const Oracle *oracle, uint64_t offset, uint64_t tick,
           const uint8_t *data)
{
    const struct Sector *sector = &oracle->sectors[offset / SECTOR];
    const RecordEntry *entry = NULL;

    for (unsigned i = 0; i < sector->count; i++) {
        if (sector->list[i] && sector->list[i]->begin < tick) {
            entry = sector->list[i];
        }
    }
    if (entry && entry->result) {
        return true; /* nobody knows */
    }
    return entry && entry->data
               ? !memcmp(data, entry->data + (offset - entry->offset), SECTOR)
               : is_zero(data);
}
