/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits on bytes per second, and figures in them.
 *
 * The bucket fills at its rate up to one second's worth, at least BURST_MIN.
 * A request waits until the bucket holds all of it; one that is larger than
 * the bucket passes once the bucket is full and is paid off afterwards, so
 * that the average holds whatever the sizes are.
 *
 * A timetable is one limit, or a list "HH:MM,LIMIT HH:MM,LIMIT": from that
 * minute on the limit holds, until the next one, around midnight.
 *
 * The meter is a decaying average with a time constant of about three
 * seconds.
 */
#include "rate.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_US     1000000
#define BURST_MIN     65536
#define DAY_MINUTES   1440
#define METER_US      3e6
#define METER_STEP_US 100000

/*
 * The timetable
 */
static bool __attribute__((format(printf, 3, 4)))
refuse(char *why, size_t why_size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, why_size, format, args);
    va_end(args);
    return false;
}

/* "8M", "0", "off"; *@end is behind it. */
static bool
limit_parse(const char *text, const char **end, uint64_t *bps)
{
    char *stop;
    unsigned shift = 0;

    if (!strncmp(text, "off", 3)) {
        *bps = 0;
        *end = text + 3;
        return true;
    }
    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &stop, 10);
    if (errno) {
        return false;
    }
    switch (toupper((unsigned char)*stop)) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    /* Arithmetic in the bucket is signed: half the range is the limit. */
    if (value > (uint64_t)INT64_MAX >> shift) {
        return false;
    }
    *bps = (uint64_t)value << shift;
    *end = stop + (shift != 0);
    return true;
}

/* "08:00,"; *@end is behind the comma. */
static bool
minute_parse(const char *text, const char **end, unsigned *minute)
{
    for (unsigned i = 0; i < 6; i++) {
        bool is_digit = isdigit((unsigned char)text[i]);

        if (i == 2 ? text[i] != ':' : i == 5 ? text[i] != ',' : !is_digit) {
            return false;
        }
    }
    unsigned hours = (unsigned)((text[0] - '0') * 10 + text[1] - '0');
    unsigned minutes = (unsigned)((text[3] - '0') * 10 + text[4] - '0');

    *minute = hours * 60 + minutes;
    *end = text + 6;
    return hours < 24 && minutes < 60;
}

bool
rate_table_parse(const char *text, struct RateTable *table, char *why,
                 size_t why_size)
{
    struct RateTable out = {0};
    const char *at = text + strspn(text, " ");

    if (!strchr(at, ':')) {
        if (!limit_parse(at, &at, &out.slot[0].bps) || at[strspn(at, " ")]) {
            return refuse(why, why_size,
                          "bad limit '%s': want a size like 8M, or off", text);
        }
        out.count = 1;
        *table = out;
        return true;
    }
    while (*at) {
        unsigned n = out.count;

        if (n == RATE_SLOTS) {
            return refuse(why, why_size, "a timetable has at most %d entries",
                          RATE_SLOTS);
        }
        if (!minute_parse(at, &at, &out.slot[n].minute) ||
            !limit_parse(at, &at, &out.slot[n].bps) || (*at && *at != ' ')) {
            return refuse(why, why_size,
                          "bad limit '%s': want 8M, off, or "
                          "\"08:00,1M 20:00,off\"",
                          text);
        }
        if (n && out.slot[n].minute <= out.slot[n - 1].minute) {
            return refuse(why, why_size,
                          "bad timetable '%s': its times must ascend", text);
        }
        out.count++;
        at += strspn(at, " ");
    }
    *table = out;
    return true;
}

uint64_t
rate_table_at(const struct RateTable *table, unsigned minute_of_day)
{
    assert(minute_of_day < DAY_MINUTES);
    if (!table->count) {
        return 0;
    }
    /* Before the first entry the last one of the day before holds. */
    uint64_t bps = table->slot[table->count - 1].bps;
    for (unsigned i = 0; i < table->count; i++) {
        if (table->slot[i].minute <= minute_of_day) {
            bps = table->slot[i].bps;
        }
    }
    return bps;
}

/*
 * The bucket
 */
static int64_t
bucket_room(const RateBucket *bucket)
{
    return bucket->bps > BURST_MIN ? (int64_t)bucket->bps : BURST_MIN;
}

static void
bucket_refill(RateBucket *bucket, int64_t now_us)
{
    int64_t room = bucket_room(bucket);

    if (!bucket->last_us) {
        bucket->last_us = now_us;
        bucket->tokens = room;
        return;
    }
    double passed = (double)(now_us - bucket->last_us);
    double more = passed * (double)bucket->bps / SECOND_US;
    if ((double)bucket->tokens + more >= (double)room) {
        bucket->tokens = room;
        bucket->last_us = now_us;
        return;
    }
    /* Whole bytes for whole microseconds: what is lost is under a byte each
     * time, and nothing is counted twice. */
    int64_t whole = (int64_t)more;
    bucket->tokens += whole;
    if (bucket->bps >= SECOND_US) {
        bucket->last_us = now_us;
    } else {
        int64_t bps = (int64_t)bucket->bps;
        bucket->last_us += (whole * SECOND_US + bps - 1) / bps;
    }
}

void
rate_bucket_set(RateBucket *bucket, uint64_t bps, int64_t now_us)
{
    if (bucket->bps) {
        bucket_refill(bucket, now_us);
    }
    bucket->bps = bps;
    if (!bps) {
        *bucket = (RateBucket){0};
        return;
    }
    if (!bucket->last_us) {
        bucket_refill(bucket, now_us);
    }
    /* A debt at the old rate may be hours at the new one. */
    int64_t room = bucket_room(bucket);
    bucket->tokens = bucket->tokens > room    ? room
                     : bucket->tokens < -room ? -room
                                              : bucket->tokens;
}

bool
rate_bucket_take(RateBucket *bucket, uint64_t bytes, int64_t now_us)
{
    if (!bucket->bps) {
        return true;
    }
    bucket_refill(bucket, now_us);
    int64_t room = bucket_room(bucket);
    int64_t want = (int64_t)bytes < room ? (int64_t)bytes : room;
    if (bytes && bucket->tokens < want) {
        return false;
    }
    bucket->tokens -= (int64_t)bytes;
    return true;
}

int64_t
rate_bucket_next_us(const RateBucket *bucket, int64_t now_us)
{
    int64_t room = bucket_room(bucket);

    if (!bucket->bps || bucket->tokens >= room) {
        return now_us;
    }
    /* An eighth of the bucket, or out of debt: more often is not worth it. */
    int64_t want = bucket->tokens < 0 ? room / 8 - bucket->tokens : room / 8;
    double wait = (double)want * SECOND_US / (double)bucket->bps;
    return now_us + 1 + (wait < 3600e6 ? (int64_t)wait : INT64_C(3600000000));
}

/*
 * The meter
 */
void
rate_meter_update(RateMeter *meter, uint64_t total, int64_t now_us)
{
    int64_t passed = now_us - meter->last_us;

    if (!meter->last_us) {
        *meter = (RateMeter){.last_total = total, .last_us = now_us};
        return;
    }
    if (passed < METER_STEP_US) {
        return;
    }
    double now =
        (double)(total - meter->last_total) * SECOND_US / (double)passed;
    double keep = METER_US / (METER_US + (double)passed);
    meter->bps = meter->bps * keep + now * (1 - keep);
    meter->last_total = total;
    meter->last_us = now_us;
}

uint64_t
rate_meter_bps(const RateMeter *meter)
{
    return meter->bps < 1 ? 0 : (uint64_t)meter->bps;
}
