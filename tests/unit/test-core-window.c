/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay core's window over links of all kinds: a pipe of some bytes per
 * second with some delay behind it, and a local disk before it.
 */
#include "relay/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND  INT64_C(1000000)
#define MIB     (UINT64_C(1) << 20)
#define PENDING 1024

struct Pipe {
    unsigned cluster_bits;
    uint64_t size;
    double bps;
    int64_t delay_us;
    double disk_bps;
    /* out */
    uint64_t most_window, window, op_bytes, most_inflight;
    int64_t took_us;
    unsigned disconnects;
    uint64_t sent;
};

struct Answer {
    int64_t at_us;
    struct RelayEvent event;
};

struct Line {
    struct Pipe *pipe;
    int64_t now_us, pipe_free_us, disk_free_us;
    struct Answer list[PENDING];
    unsigned count;
};

static int64_t
through(int64_t *free_us, int64_t now_us, uint64_t bytes, double bps)
{
    int64_t start = *free_us > now_us ? *free_us : now_us;

    *free_us = start + 1 + (int64_t)((double)bytes * 1e6 / bps);
    return *free_us;
}

static void
perform(struct Line *line, const struct RelayAction *action)
{
    struct Pipe *pipe = line->pipe;
    struct RelayEvent event = {
        .conn = action->conn, .epoch = action->epoch, .op = action->op};
    int64_t at = line->now_us + 20;

    if (action->kind == RELAY_DISCONNECT) {
        pipe->disconnects++;
        return;
    }
    if (action->kind == RELAY_CONNECT) {
        event.kind = RELAY_LINK_UP;
        event.caps = (struct TargetCaps){.size_bytes = pipe->size,
                                         .can_flush = true,
                                         .max_payload = 32u << 20};
    } else if (action->kind == RELAY_MAP) {
        event.kind = RELAY_MAPPED;
        event.len = action->len;
    } else if (action->kind == RELAY_LOAD) {
        event.kind = RELAY_READ;
        at = 50 + through(&line->disk_free_us, line->now_us, action->len,
                          pipe->disk_bps);
    } else if (action->kind == RELAY_LOG) {
        event.kind = RELAY_LOGGED;
        at += 130; /* a synchronous write of a page */
    } else if (action->kind == RELAY_NOTE) {
        event.kind = RELAY_NOTED;
    } else if (action->kind == RELAY_SYNC) {
        event.kind = RELAY_SYNCED;
    } else if (action->kind == RELAY_SEND_DATA) {
        event.kind = RELAY_ACKED;
        pipe->op_bytes = action->len;
        at = pipe->delay_us +
             through(&line->pipe_free_us, line->now_us, action->len, pipe->bps);
    } else {
        event.kind = RELAY_FLUSHED;
        at = line->pipe_free_us > line->now_us ? line->pipe_free_us
                                               : line->now_us;
        at += pipe->delay_us;
    }
    assert_true(line->count < PENDING);
    line->list[line->count++] = (struct Answer){at, event};
}

/* The answer that is due first. */
static unsigned
first_answer(const struct Line *line)
{
    unsigned first = 0;

    for (unsigned i = 1; i < line->count; i++) {
        if (line->list[i].at_us < line->list[first].at_us) {
            first = i;
        }
    }
    return first;
}

/* Drain a disk that is all dirty, or as much of it as @most_us allow. */
static void
drain(struct Pipe *pipe, int64_t most_us)
{
    DiskMap *map = disk_map_new(pipe->size, pipe->cluster_bits);
    RateBucket bucket = {0};
    struct RelayCoreConfig config = {.map = map,
                                     .bucket = &bucket,
                                     .contact = CONTACT_KNOWN,
                                     .max_conns = 1,
                                     .settle_us = SECOND,
                                     .deadline_us = 15 * SECOND,
                                     .connect_deadline_us = 10 * SECOND,
                                     .backoff_min_us = SECOND / 4,
                                     .backoff_max_us = 60 * SECOND};
    RelayCore *core = relay_core_new(&config);
    struct Line *line = calloc(1, sizeof(*line));
    struct RelayActions actions = {0};
    struct RelayCoreFigures figures = {0};

    *line = (struct Line){.pipe = pipe, .now_us = SECOND};
    disk_map_mark_all(map, SECOND);
    relay_core_step(core, line->now_us, NULL, &actions);
    while (figures.settled_bytes < pipe->size &&
           line->now_us < SECOND + most_us) {
        for (size_t i = 0; i < actions.count; i++) {
            perform(line, &actions.list[i]);
        }
        actions.count = 0;
        int64_t next = relay_core_next_us(core);
        unsigned first = first_answer(line);
        if (line->count && line->list[first].at_us <= next) {
            struct Answer answer = line->list[first];
            line->list[first] = line->list[--line->count];
            line->now_us =
                answer.at_us > line->now_us ? answer.at_us : line->now_us;
            relay_core_step(core, line->now_us, &answer.event, &actions);
        } else {
            line->now_us = next;
            relay_core_step(core, next, NULL, &actions);
        }
        relay_core_figures(core, &figures);
        pipe->window = figures.window_bytes;
        pipe->most_window =
            pipe->window > pipe->most_window ? pipe->window : pipe->most_window;
        pipe->most_inflight = figures.inflight_bytes > pipe->most_inflight
                                  ? figures.inflight_bytes
                                  : pipe->most_inflight;
    }
    pipe->took_us = line->now_us - SECOND;
    pipe->sent = figures.sent_bytes;
    free(actions.list);
    free(line);
    relay_core_free(core);
    disk_map_free(map);
}

static void
test_core_window_stays_in_cache_on_a_local_link(void **state)
{
    struct Pipe pipe = {.cluster_bits = 16,
                        .size = 16384 * MIB,
                        .bps = 2.5e9,
                        .delay_us = 60,
                        .disk_bps = 5e9};

    (void)state;
    drain(&pipe, 60 * SECOND);
    print_message("local: window %llu (most %llu), op %llu, %.0f MB/s\n",
                  (unsigned long long)pipe.window,
                  (unsigned long long)pipe.most_window,
                  (unsigned long long)pipe.op_bytes,
                  (double)pipe.sent / (double)pipe.took_us);
    assert_in_range(pipe.window, 2 * MIB, 8 * MIB);
    assert_int_equal(pipe.op_bytes, 256 << 10);
    assert_true((double)pipe.sent / (double)pipe.took_us > 0.9 * 2500);
}

static void
test_core_window_fills_a_long_link(void **state)
{
    struct Pipe pipe = {.cluster_bits = 16,
                        .size = 16384 * MIB,
                        .bps = 1.5e9,
                        .delay_us = 50000,
                        .disk_bps = 5e9};

    (void)state;
    drain(&pipe, 60 * SECOND);
    print_message("50 ms: window %llu (most %llu), op %llu, %.0f MB/s\n",
                  (unsigned long long)pipe.window,
                  (unsigned long long)pipe.most_window,
                  (unsigned long long)pipe.op_bytes,
                  (double)pipe.sent / (double)pipe.took_us);
    assert_in_range(pipe.most_window, 64 * MIB, 128 * MIB);
    assert_in_range(pipe.op_bytes, 1 * MIB, 4 * MIB);
    assert_true((double)pipe.sent / (double)pipe.took_us > 0.85 * 1500);
}

static void
test_core_window_is_small_on_a_slow_link(void **state)
{
    (void)state;
    for (unsigned bits = 12; bits <= 21; bits++) {
        struct Pipe pipe = {.cluster_bits = bits,
                            .size = 64 * MIB,
                            .bps = 125000,
                            .delay_us = 20000,
                            .disk_bps = 1e9};
        uint64_t cluster = UINT64_C(1) << bits;

        drain(&pipe, 300 * SECOND);
        print_message("1 Mbit/s, clusters of %llu: window %llu, op %llu\n",
                      (unsigned long long)cluster,
                      (unsigned long long)pipe.window,
                      (unsigned long long)pipe.op_bytes);
        assert_int_equal(pipe.disconnects, 0);
        assert_true(pipe.window <= cluster + 300000);
        assert_true((double)pipe.sent / (double)pipe.took_us > 0.85 * 0.125);
    }
}

/* Nothing of a queue may look like the link: the window must not creep. */
static void
test_core_window_does_not_creep(void **state)
{
    struct Pipe pipe = {.cluster_bits = 16,
                        .size = 65536 * MIB,
                        .bps = 100e6,
                        .delay_us = 10000,
                        .disk_bps = 2e9};

    (void)state;
    drain(&pipe, 120 * SECOND);
    print_message("100 MB/s, 10 ms: window %llu (most %llu), %.0f MB/s\n",
                  (unsigned long long)pipe.window,
                  (unsigned long long)pipe.most_window,
                  (double)pipe.sent / (double)pipe.took_us);
    assert_in_range(pipe.window, 2 * MIB, 8 * MIB);
    assert_true((double)pipe.sent / (double)pipe.took_us > 95);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_core_window_stays_in_cache_on_a_local_link),
        cmocka_unit_test(test_core_window_fills_a_long_link),
        cmocka_unit_test(test_core_window_is_small_on_a_slow_link),
        cmocka_unit_test(test_core_window_does_not_creep),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
