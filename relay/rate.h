/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rate.h - the token bucket, its timetable, and smoothed rates
 *
 * Purpose: `bwlimit` for all connections of all disks of a store; the figures
 *          in status that are bytes per second.
 * Threads: the relay thread's; pure, no clock of its own.
 * Units:   bytes, bytes per second, monotonic microseconds; minutes of the
 *          local day for the timetable.
 * Shapes:  a timetable has at most RATE_SLOTS entries.
 * Errors:  parsing returns false and says why in words.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RATE_SLOTS 24

/* One limit, or limits by time of day: "8M", "off", "08:00,1M 20:00,off". */
struct RateTable {
    unsigned count;
    struct {
        unsigned minute; /* of the day, 0 .. 1439, ascending */
        uint64_t bps;    /* 0: no limit */
    } slot[RATE_SLOTS];
};

bool rate_table_parse(const char *text, struct RateTable *table, char *why,
                      size_t why_size);
uint64_t rate_table_at(const struct RateTable *table, unsigned minute_of_day);

typedef struct RateBucket {
    uint64_t bps;    /* 0: no limit */
    int64_t tokens;  /* bytes; may go below zero by one request */
    int64_t last_us; /* of the last refill, 0 before the first */
} RateBucket;

void rate_bucket_set(RateBucket *bucket, uint64_t bps, int64_t now_us);
/* May something be sent now? Then take it; a request larger than a second's
 * worth is let through once the bucket is full and paid off afterwards. */
bool rate_bucket_take(RateBucket *bucket, uint64_t bytes, int64_t now_us);
/* When it may be worth asking again. */
int64_t rate_bucket_next_us(const RateBucket *bucket, int64_t now_us);

/* Bytes per second over the last few seconds, from a counter that grows. */
typedef struct RateMeter {
    uint64_t last_total;
    int64_t last_us;
    double bps;
} RateMeter;

void rate_meter_update(RateMeter *meter, uint64_t total, int64_t now_us);
uint64_t rate_meter_bps(const RateMeter *meter);
