/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * history.h - what a guest asked for, and whether an image is an instant of it
 *
 * Purpose: the oracle of cuts. The guest tells of each request when it is sent
 *          and when its answer has been read; the judge looks at images of all
 *          disks together and says whether there was one instant, within the
 *          time that the cut took, at which the disks held just that.
 * Threads: a lock of its own; one thread tells, another one judges.
 * Units:   sectors of STAMP_SECTOR bytes; ticks: each sending and each answer
 *          has its own, counted up from 1, over all disks.
 * Shapes:  requests have sequences from 1 on, over all disks; a written
 *          sector holds the stamp of its request. No two requests for one
 *          sector are under way at once, so the requests of a sector have an
 *          order.
 * Errors:  the verdict, in words.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_DISKS 3

/* The requests of one sector that a later image may still show; the first one
 * was seen by the last image. */
struct HistorySector {
    uint32_t *sequences;
    uint32_t count, room;
};

struct HistoryDisk {
    uint64_t id; /* in the stamps */
    uint64_t sectors;
    struct HistorySector *list;
    uint8_t *seen; /* the last image */
};

struct HistoryOp {
    uint64_t sent, answered; /* ticks; answered is UINT64_MAX before */
    bool is_zero;
};

typedef struct History {
    pthread_mutex_t lock;
    uint64_t tick;
    struct HistoryOp *ops; /* by sequence; 0 is "zeroes from the beginning" */
    size_t n_ops, room;
    struct HistoryDisk disks[HISTORY_DISKS];
    unsigned n_disks;
    uint64_t judged; /* sectors */
} History;

void history_init(History *history);
void history_deinit(History *history);
void history_add_disk(History *history, uint64_t id, uint64_t size_bytes);

/* Before it is sent; returns its sequence. */
uint64_t history_send(History *history, unsigned disk, uint64_t first,
                      uint64_t count, bool is_zero);
/* Its answer has been read. */
void history_answer(History *history, uint64_t sequence);
/* What has been sent and answered up to now. */
uint64_t history_now(History *history);

/*
 * @images (one for each disk) were made by a cut that was begun after tick
 * @begin and over at @end. On success they are the past that the next images
 * may not fall behind.
 */
bool history_judge(History *history, uint8_t *const *images, uint64_t begin,
                   uint64_t end, char *why, size_t why_len);
