/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An instant i is right for a sector that holds what request k left, with n
 * the next request for that sector, if
 *
 *   sent(k) < i            k was not sent after it
 *   i < answered(n)        n had not been answered before it
 *
 * In between a request is under way: it may be in or out. An image is one
 * instant of all disks if one i is right for all sectors, that is, if the
 * latest sending that is in lies before the earliest answer that is out. This
 * holds the order across disks, too: whatever is sent after an answer has been
 * read lies behind it, on whichever disk.
 *
 * Zeroes do not say whose they are. Where only one request can have left them
 * within the cut's time it counts like any other; where several can, nothing
 * follows for the others.
 */
#include "history.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/stamp.h"

struct Bound {
    uint64_t tick;
    unsigned disk;
    uint64_t sector, sequence;
};

/* Of one image: the latest sending that is in, the earliest answer that is
 * out. */
struct Verdict {
    History *history;
    uint64_t begin, end;
    struct Bound in, out;
    char *why;
    size_t why_len;
};

/*
 * Telling
 */
void
history_init(History *history)
{
    *history = (History){.n_ops = 1, .room = 1024};
    pthread_mutex_init(&history->lock, NULL);
    history->ops = calloc(history->room, sizeof(*history->ops));
    assert(history->ops);
    history->ops[0].is_zero = true;
}

void
history_deinit(History *history)
{
    for (unsigned i = 0; i < history->n_disks; i++) {
        struct HistoryDisk *disk = &history->disks[i];

        for (uint64_t at = 0; at < disk->sectors; at++) {
            free(disk->list[at].sequences);
        }
        free(disk->list);
        free(disk->seen);
    }
    free(history->ops);
    pthread_mutex_destroy(&history->lock);
}

static void
sector_append(struct HistorySector *sector, uint64_t sequence)
{
    if (sector->count == sector->room) {
        sector->room = sector->room ? 2 * sector->room : 2;
        sector->sequences = realloc(sector->sequences,
                                    sector->room * sizeof(*sector->sequences));
        assert(sector->sequences);
    }
    sector->sequences[sector->count++] = (uint32_t)sequence;
}

void
history_add_disk(History *history, uint64_t id, uint64_t size_bytes)
{
    struct HistoryDisk *disk = &history->disks[history->n_disks++];

    *disk =
        (struct HistoryDisk){.id = id, .sectors = size_bytes / STAMP_SECTOR};
    disk->list = calloc(disk->sectors, sizeof(*disk->list));
    disk->seen = calloc(disk->sectors, STAMP_SECTOR);
    assert(disk->list && disk->seen);
    for (uint64_t at = 0; at < disk->sectors; at++) {
        sector_append(&disk->list[at], 0);
    }
}

uint64_t
history_send(History *history, unsigned disk, uint64_t first, uint64_t count,
             bool is_zero)
{
    uint64_t sequence;

    pthread_mutex_lock(&history->lock);
    if (history->n_ops == history->room) {
        history->room *= 2;
        history->ops =
            realloc(history->ops, history->room * sizeof(*history->ops));
        assert(history->ops);
    }
    sequence = history->n_ops++;
    assert(sequence <= UINT32_MAX);
    history->ops[sequence] = (struct HistoryOp){
        .sent = ++history->tick, .answered = UINT64_MAX, .is_zero = is_zero};
    for (uint64_t i = 0; i < count; i++) {
        sector_append(&history->disks[disk].list[first + i], sequence);
    }
    pthread_mutex_unlock(&history->lock);
    return sequence;
}

void
history_answer(History *history, uint64_t sequence)
{
    pthread_mutex_lock(&history->lock);
    history->ops[sequence].answered = ++history->tick;
    pthread_mutex_unlock(&history->lock);
}

uint64_t
history_now(History *history)
{
    pthread_mutex_lock(&history->lock);
    uint64_t now = ++history->tick;

    pthread_mutex_unlock(&history->lock);
    return now;
}

/*
 * Judging
 */
static uint64_t
sent(const History *history, const struct HistorySector *sector, uint32_t at)
{
    return history->ops[sector->sequences[at]].sent;
}

/* When what request @at left was certainly gone. */
static uint64_t
replaced(const History *history, const struct HistorySector *sector,
         uint32_t at)
{
    return at + 1 == sector->count
               ? UINT64_MAX
               : history->ops[sector->sequences[at + 1]].answered;
}

static bool
is_possible(const struct Verdict *verdict, const struct HistorySector *sector,
            uint32_t at)
{
    return sent(verdict->history, sector, at) < verdict->end &&
           replaced(verdict->history, sector, at) > verdict->begin;
}

static void
narrow(struct Verdict *verdict, struct HistorySector *sector, uint32_t at,
       const struct Bound *place)
{
    uint64_t in = sent(verdict->history, sector, at);
    uint64_t out = replaced(verdict->history, sector, at);

    if (in > verdict->in.tick) {
        verdict->in = *place;
        verdict->in.tick = in;
        verdict->in.sequence = sector->sequences[at];
    }
    if (out < verdict->out.tick) {
        verdict->out = *place;
        verdict->out.tick = out;
        verdict->out.sequence = sector->sequences[at + 1];
    }
}

/* The requests before @at are never to be seen again. */
static void
forget(struct HistorySector *sector, uint32_t at)
{
    sector->count -= at;
    memmove(sector->sequences, sector->sequences + at,
            sector->count * sizeof(*sector->sequences));
}

static bool
say(struct Verdict *verdict, const struct Bound *place, const char *what,
    uint64_t found)
{
    const History *history = verdict->history;
    const struct HistorySector *sector =
        &history->disks[place->disk].list[place->sector];
    size_t len = (size_t)snprintf(
        verdict->why, verdict->why_len,
        "disk %u sector %llu: %s, sequence %llu; the cut is of ticks %llu .. "
        "%llu, the sector had",
        place->disk, (unsigned long long)place->sector, what,
        (unsigned long long)found, (unsigned long long)verdict->begin,
        (unsigned long long)verdict->end);

    for (uint32_t i = 0; i < sector->count && len < verdict->why_len; i++) {
        uint32_t sequence = sector->sequences[i];
        const struct HistoryOp *op = &history->ops[sequence];

        len += (size_t)snprintf(
            verdict->why + len, verdict->why_len - len, "%s %u %s%llu..%lld",
            i ? "," : "", sequence, op->is_zero ? "(zeroes) " : "",
            (unsigned long long)op->sent, (long long)op->answered);
    }
    return false;
}

/* Zeroes: of the first request that can have left them. */
static bool
judge_zeroes(struct Verdict *verdict, struct HistorySector *sector,
             const struct Bound *place)
{
    uint32_t found = 0, count = 0;

    for (uint32_t i = sector->count; i-- > 0;) {
        if (verdict->history->ops[sector->sequences[i]].is_zero &&
            is_possible(verdict, sector, i)) {
            found = i;
            count++;
        }
    }
    if (count == 0) {
        return say(verdict, place, "zeroes that are not of this instant", 0);
    }
    if (count == 1) {
        narrow(verdict, sector, found, place);
    }
    forget(sector, found);
    return true;
}

static bool
judge_stamp(struct Verdict *verdict, struct HistorySector *sector,
            const struct Bound *place, const uint8_t *data)
{
    uint64_t id = verdict->history->disks[place->disk].id, sequence;
    enum StampFault fault = stamp_read(data, id, place->sector, &sequence);

    if (fault != STAMP_SOUND) {
        return say(verdict, place, stamp_fault_name(fault), sequence);
    }
    for (uint32_t i = 0; i < sector->count; i++) {
        if (sector->sequences[i] != sequence) {
            continue;
        }
        if (!is_possible(verdict, sector, i)) {
            return say(verdict, place,
                       sent(verdict->history, sector, i) < verdict->end
                           ? "an older write than one answered before the cut"
                           : "a write that was sent after the cut",
                       sequence);
        }
        narrow(verdict, sector, i, place);
        forget(sector, i);
        return true;
    }
    return say(verdict, place, "a write of before the last cut", sequence);
}

static bool
judge_sector(struct Verdict *verdict, unsigned disk_index, uint64_t number,
             const uint8_t *image)
{
    static const uint8_t zeroes[STAMP_SECTOR];
    struct HistoryDisk *disk = &verdict->history->disks[disk_index];
    struct HistorySector *sector = &disk->list[number];
    struct Bound place = {.disk = disk_index, .sector = number};
    const uint8_t *data = image + number * STAMP_SECTOR;
    uint8_t *seen = disk->seen + number * STAMP_SECTOR;
    bool is_same = !memcmp(data, seen, STAMP_SECTOR);

    if (is_same && sector->count == 1) {
        return true;
    }
    if (!is_same) {
        memcpy(seen, data, STAMP_SECTOR);
    }
    return !memcmp(data, zeroes, STAMP_SECTOR)
               ? judge_zeroes(verdict, sector, &place)
               : judge_stamp(verdict, sector, &place, data);
}

static bool
say_reversed(const struct Verdict *verdict)
{
    const struct Bound *in = &verdict->in, *out = &verdict->out;

    snprintf(verdict->why, verdict->why_len,
             "no instant: disk %u sector %llu has sequence %llu, sent at tick "
             "%llu, after disk %u sector %llu had answered sequence %llu at "
             "tick %llu, which is not in; the cut is of ticks %llu .. %llu",
             in->disk, (unsigned long long)in->sector,
             (unsigned long long)in->sequence, (unsigned long long)in->tick,
             out->disk, (unsigned long long)out->sector,
             (unsigned long long)out->sequence, (unsigned long long)out->tick,
             (unsigned long long)verdict->begin,
             (unsigned long long)verdict->end);
    return false;
}

bool
history_judge(History *history, uint8_t *const *images, uint64_t begin,
              uint64_t end, char *why, size_t why_len)
{
    struct Verdict verdict = {
        .history = history,
        .begin = begin,
        .end = end,
        .out = {.tick = UINT64_MAX},
        .why = why,
        .why_len = why_len,
    };
    bool is_good = true;

    pthread_mutex_lock(&history->lock);
    for (unsigned i = 0; is_good && i < history->n_disks; i++) {
        uint64_t sectors = history->disks[i].sectors;

        for (uint64_t at = 0; is_good && at < sectors; at++) {
            is_good = judge_sector(&verdict, i, at, images[i]);
        }
        history->judged += sectors;
    }
    if (is_good && verdict.in.tick > verdict.out.tick) {
        is_good = say_reversed(&verdict);
    }
    pthread_mutex_unlock(&history->lock);
    return is_good;
}
