/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must hold: the oracle for the guest's sectors; for clean clusters
 * equality with all that the target may still come to hold; and at the end
 * equality of the two images.
 */
#include "judge-internal.h"

#include <string.h>

bool
judge_refuse(Judge *judge, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(judge->why, sizeof(judge->why), format, args);
    va_end(args);
    return false;
}

/* Made by this crash, or by the one before it. */
static bool
is_garbage(const Judge *judge, uint64_t offset)
{
    return crash_states_is_garbage(&judge->states, offset) ||
           (judge->parent &&
            crash_states_is_garbage(&judge->parent->states, offset));
}

bool
judge_check_oracle(Judge *judge)
{
    const uint64_t *numbers;
    uint64_t count = oracle_count(judge->oracle, &numbers);
    const uint8_t *raw = judge->states.raw->now;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset = numbers[i] * SECTOR;

        if (!oracle_allows(judge->oracle, offset, raw + offset) &&
            !is_garbage(judge, offset)) {
            oracle_print(judge->oracle, offset, raw + offset);
            return judge_refuse(judge,
                                "the sector at %llu is not what it may be",
                                (unsigned long long)offset);
        }
    }
    return true;
}

static bool
is_clean(Judge *judge, Disk *disk, uint64_t index)
{
    return disk_map_is_clean(disk->map, index << judge->cluster_bits,
                             cluster_bytes(judge));
}

/* Is [@offset, @len), inside one cluster, what @entry would write there? */
static bool
is_written_already(Judge *judge, const RecordEntry *entry, uint64_t offset,
                   uint64_t len)
{
    const uint8_t *raw = judge->states.raw->now + offset;

    return entry->data
               ? !memcmp(raw, entry->data + (offset - entry->offset), len)
               : !raw[0] && !memcmp(raw, raw + 1, len - 1);
}

/* Nothing that may still happen at the target changes a clean cluster. */
static bool
check_send(Judge *judge, const struct CrashUnit *send, const char *when)
{
    const RecordEntry *entry = send->entry;
    uint64_t offset, len;

    for (uint64_t at = entry->offset; crash_unit_run(send, at, &offset, &len);
         at = offset + len) {
        uint64_t index = offset >> judge->cluster_bits;

        len = MIN(len, ((index + 1) << judge->cluster_bits) - offset);
        if (judge->touched[index] && judge->was_clean[index] &&
            !is_written_already(judge, entry, offset, len)) {
            return judge_refuse(
                judge,
                "%s, cluster %llu is clean, and a write that %s may "
                "still change the target",
                when, (unsigned long long)index,
                entry->executed <= judge->states.tick ? "is not flushed"
                                                      : "is on its way");
        }
    }
    return true;
}

bool
judge_check_clean(Judge *judge, Disk *disk, const char *when)
{
    CrashStates *states = &judge->states;
    bool is_any = false;

    for (uint64_t i = 0; i < judge->n_list; i++) {
        uint64_t index = judge->list[i];

        judge->was_clean[index] = is_clean(judge, disk, index);
        is_any |= judge->was_clean[index];
        if (judge->was_clean[index] &&
            memcmp(cluster_of(judge, states->raw->now, index),
                   cluster_of(judge, states->target, index),
                   cluster_bytes(judge)) != 0) {
            return judge_refuse(
                judge,
                "%s, cluster %llu is clean and the target is not "
                "equal",
                when, (unsigned long long)index);
        }
    }
    for (size_t i = 0; is_any && i < states->n_sends; i++) {
        if (!check_send(judge, &states->sends[i], when)) {
            return false;
        }
    }
    if (is_any && !strcmp(when, "after the open")) {
        judge->counts->with_clean++;
    }
    return true;
}

bool
judge_check_equal(Judge *judge, const char *when)
{
    for (uint64_t i = 0; i < judge->n_list; i++) {
        uint64_t index = judge->list[i];

        if (memcmp(cluster_of(judge, judge->states.raw->now, index),
                   cluster_of(judge, judge->target, index),
                   cluster_bytes(judge)) != 0) {
            return judge_refuse(judge, "%s, cluster %llu differs", when,
                                (unsigned long long)index);
        }
    }
    return true;
}

/* Does a write that may still come, or be lost, touch the cluster? */
static bool
is_unsettled(const Judge *judge, uint64_t index)
{
    uint64_t start = index << judge->cluster_bits, offset, len;

    for (size_t i = 0; i < judge->states.n_sends; i++) {
        const struct CrashUnit *send = &judge->states.sends[i];
        uint64_t from = MAX(send->entry->offset, start);

        if (crash_unit_run(send, from, &offset, &len) &&
            offset < start + cluster_bytes(judge)) {
            return true;
        }
    }
    return false;
}

/* Garbage in a file of metadata, by this crash or by the one before. */
static bool
judge_has_junk(const Judge *judge)
{
    return judge->states.has_junk ||
           (judge->parent && judge->parent->states.has_junk);
}

bool
judge_check_sums(Judge *judge, const Life *life)
{
    StoreIo *io = life->store->io;

    for (uint64_t i = 0; life->books.sums.fd >= 0 && i < judge->n_list; i++) {
        uint64_t index = judge->list[i];
        uint8_t entry[SUMS_BYTES] = {0}, now[SUMS_BYTES];

        (void)io->ops->pread(io, life->books.sums.fd, entry, SUMS_BYTES,
                             SUMS_AT + index * SUMS_BYTES);
        if (!sums_is_known(entry) || bitmap_get(life->books.logged, index)) {
            continue;
        }
        sums_hash(&life->books.sums, index,
                  cluster_of(judge, judge->states.target, index),
                  cluster_bytes(judge), now);
        bool is_true = !memcmp(entry, now, SUMS_BYTES);

        judge->counts->sums++;
        if (is_true && is_unsettled(judge, index)) {
            return judge_refuse(judge,
                                "the sum of cluster %llu is believed, and a "
                                "write that is not durable may still change it",
                                (unsigned long long)index);
        }
        /* No crash tears an entry; one that is old would be the end of it. */
        if (!is_true && !judge->is_rotten && !judge_has_junk(judge)) {
            return judge_refuse(judge,
                                "the sum of cluster %llu is believed, and not "
                                "that of what the target holds",
                                (unsigned long long)index);
        }
    }
    return true;
}
