/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sorted array of at most ZERO_LIST_MAX disjoint ranges. It is short (a
 * guest's mkfs leaves a handful of entries for a second or two), so that
 * every operation walks it.
 *
 * Adding stops at ZERO_LIST_ADD_MAX entries; the rest is kept for splits,
 * which happen when a guest write lands in the middle of an entry and its
 * clusters are punched out of turn.
 *
 * The record is one page: the whole list each time, never a change to it, so
 * that the newest valid slot is all that recovery has to know. Both slots get
 * the same one: were the newest there once, and rotten, the one before would
 * zero what was written since.
 */
#include "zero-list.h"

#include <string.h>
#include <xxhash.h>

#define RECORD_MAGIC   "WEIRZERO"
#define RECORD_VERSION 1
#define RECORD_SUM_AT  (ZERO_RECORD_BYTES - 8)

struct ZeroRecord {
    char magic[8];
    uint32_t version;
    uint32_t count;
    uint64_t sequence;
    uint64_t epoch;
    struct ZeroRange range[ZERO_LIST_MAX];
    unsigned char pad[ZERO_RECORD_BYTES - 32 - 16 * ZERO_LIST_MAX - 8];
    uint64_t sum;
};

_Static_assert(sizeof(struct ZeroRange) == 16, "two words a range");
_Static_assert(sizeof(struct ZeroRecord) == ZERO_RECORD_BYTES, "one page");
_Static_assert(offsetof(struct ZeroRecord, sum) == RECORD_SUM_AT, "sum last");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "records are written as they lie in memory");

static uint64_t
range_end_of(const struct ZeroRange *range)
{
    return range->offset + range->len;
}

/* Index of the first range that ends at or after @offset. */
static unsigned
find(const ZeroList *list, uint64_t offset)
{
    unsigned i = 0;

    while (i < list->count && range_end_of(&list->range[i]) < offset) {
        i++;
    }
    return i;
}

static void
cut_out(ZeroList *list, unsigned from, unsigned to)
{
    memmove(&list->range[from], &list->range[to],
            (list->count - to) * sizeof(list->range[0]));
    list->count -= to - from;
}

bool
zero_list_add(ZeroList *list, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len;
    unsigned first = find(list, offset), last = first;

    assert(len && end > offset);
    /* Swallow what it touches. */
    while (last < list->count && list->range[last].offset <= end) {
        if (list->range[last].offset < offset) {
            offset = list->range[last].offset;
        }
        if (range_end_of(&list->range[last]) > end) {
            end = range_end_of(&list->range[last]);
        }
        last++;
    }
    if (last == first) {
        if (list->count >= ZERO_LIST_ADD_MAX) {
            return false;
        }
        memmove(&list->range[first + 1], &list->range[first],
                (list->count - first) * sizeof(list->range[0]));
        list->count++;
    } else {
        for (unsigned i = first; i < last; i++) {
            list->bytes -= list->range[i].len;
        }
        cut_out(list, first + 1, last);
    }
    list->range[first] = (struct ZeroRange){offset, end - offset};
    list->bytes += end - offset;
    list->version++;
    return true;
}

bool
zero_list_remove(ZeroList *list, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len;
    struct ZeroRange part;

    while (zero_list_first(list, offset, len, &part)) {
        unsigned i = find(list, part.offset + 1);
        struct ZeroRange *range = &list->range[i];
        uint64_t range_end = range_end_of(range);
        bool keeps_head = range->offset < offset;
        bool keeps_tail = range_end > end;

        if (keeps_head && keeps_tail) {
            if (list->count == ZERO_LIST_MAX) {
                return false;
            }
            memmove(range + 1, range,
                    (list->count - i) * sizeof(list->range[0]));
            list->count++;
            range[1] = (struct ZeroRange){end, range_end - end};
            range->len = offset - range->offset;
        } else if (keeps_head) {
            range->len = offset - range->offset;
        } else if (keeps_tail) {
            *range = (struct ZeroRange){end, range_end - end};
        } else {
            cut_out(list, i, i + 1);
        }
        list->bytes -= part.len;
        list->version++;
    }
    return true;
}

bool
zero_list_first(const ZeroList *list, uint64_t offset, uint64_t len,
                struct ZeroRange *part)
{
    uint64_t end = offset + len;
    unsigned i = find(list, offset + 1);

    if (!len || i == list->count || list->range[i].offset >= end) {
        return false;
    }
    uint64_t from = list->range[i].offset, to = range_end_of(&list->range[i]);

    from = from > offset ? from : offset;
    to = to < end ? to : end;
    *part = (struct ZeroRange){from, to - from};
    return true;
}

void
zero_record_encode(const ZeroList *list, uint64_t sequence, uint64_t epoch,
                   unsigned char page[ZERO_RECORD_BYTES])
{
    struct ZeroRecord record = {
        .magic = RECORD_MAGIC,
        .version = RECORD_VERSION,
        .count = list->count,
        .sequence = sequence,
        .epoch = epoch,
    };

    memcpy(record.range, list->range, list->count * sizeof(list->range[0]));
    record.sum = XXH3_64bits(&record, RECORD_SUM_AT);
    memcpy(page, &record, sizeof(record));
}

bool
zero_record_decode(const unsigned char page[ZERO_RECORD_BYTES],
                   uint64_t size_bytes, uint64_t epoch_before, ZeroList *list,
                   uint64_t *sequence)
{
    struct ZeroRecord record;
    uint64_t end;

    memcpy(&record, page, sizeof(record));
    if (memcmp(record.magic, RECORD_MAGIC, sizeof(record.magic)) ||
        record.version != RECORD_VERSION ||
        record.sum != XXH3_64bits(&record, RECORD_SUM_AT) ||
        record.count > ZERO_LIST_MAX || record.epoch < epoch_before) {
        return false;
    }
    *list = (ZeroList){0};
    for (unsigned i = 0; i < record.count; i++) {
        struct ZeroRange *range = &record.range[i];

        if (!range->len ||
            !range_end(range->offset, range->len, size_bytes, &end)) {
            return false;
        }
        list->range[list->count++] = *range;
        list->bytes += range->len;
    }
    *sequence = record.sequence;
    return true;
}
