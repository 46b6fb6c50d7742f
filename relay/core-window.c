/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes may be in flight: twice what the link holds, that is twice
 * the best delivery rate of the last rounds times the smallest latency of the
 * last ten seconds. A round is the time in which everything that was in
 * flight at its beginning is answered; rounds in which nothing waited for the
 * window say nothing about the link and replace no older figure.
 *
 * It starts at 1 MiB and doubles each round until three rounds in a row did
 * not bring a quarter more (slow start). Afterwards twice the product leaves
 * room to see a rate of up to double.
 *
 * The latency is what one op takes from its local read to its last
 * acknowledgement, without the waits for tokens in between. A full window
 * keeps a queue somewhere, so that each latency seen is the queue's, too;
 * without care the product doubles whenever the smallest one expires.
 * Therefore the window is shut to a quarter for a moment then: half a
 * product in flight has no queue.
 *
 * Bounds: a window smaller than 4 MiB is not worth the trouble on links that
 * empty it in 40 ms; nor may it hold more than two seconds of traffic beyond
 * one cluster, so that deadlines mean something on 1 Mbit/s.
 *
 * A job's user may say less. Then holes count, too, as far as the window goes: a
 * window of one cluster is one thing after the other, whatever it is.
 */
#include "core-internal.h"

#define WINDOW_START     (UINT64_C(1) << 20)
#define WINDOW_MAX       (UINT64_C(128) << 20)
#define WINDOW_FLOOR     (UINT64_C(256) << 10)
#define WINDOW_COMFORT   (UINT64_C(4) << 20)
#define OP_MIN           (UINT64_C(256) << 10)
#define ZERO_START       (UINT64_C(64) << 20)
#define ZERO_MIN         (UINT64_C(1) << 20)
#define PERIOD_US        5000000
#define PROBE_US         200000
#define SECOND_US        1000000
#define ROUNDS_FLAT      3
#define LATENCY_UNKNOWN  INT64_MAX
#define ZERO_QUICK_US    250000
#define ZERO_SLOW_US     2000000
#define COMFORT_DIVISOR  25 /* 40 ms of traffic */
#define WINDOW_OPS_IN_IT 32

static uint64_t
min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t
max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void
window_init(RelayCore *core)
{
    core->window = (Window){
        .bytes = WINDOW_START,
        .is_starting = true,
        .lat_us = {LATENCY_UNKNOWN, LATENCY_UNKNOWN},
        .period_us = core->now_us,
        .zero_bytes = ZERO_START,
    };
}

uint64_t
window_bps(const RelayCore *core)
{
    uint64_t best = 0;

    for (unsigned i = 0; i < CORE_RATES; i++) {
        best = max_u64(best, core->window.rates[i]);
    }
    return best;
}

int64_t
window_latency_us(const RelayCore *core)
{
    const int64_t *lat = core->window.lat_us;
    int64_t least = lat[0] < lat[1] ? lat[0] : lat[1];

    return least == LATENCY_UNKNOWN ? 0 : least;
}

uint64_t
window_bytes(const RelayCore *core)
{
    uint64_t most = core->config.window_bytes;

    return most ? min_u64(core->window.bytes, most) : core->window.bytes;
}

static uint64_t
window_now(const RelayCore *core)
{
    uint64_t bytes = window_bytes(core);

    return core->window.is_probing
               ? min_u64(max_u64(core->window.bytes / 4, OP_MIN), bytes)
               : bytes;
}

uint64_t
window_hole_cost(const RelayCore *core, uint64_t bytes)
{
    return min_u64(bytes, core->config.window_bytes);
}

/* May @bytes more be in flight? An op larger than the window goes alone. */
bool
window_take(RelayCore *core, uint64_t bytes)
{
    if (core->inflight_bytes &&
        core->inflight_bytes + bytes > window_now(core)) {
        core->window.is_limited = true;
        return false;
    }
    return true;
}

uint64_t
window_op_bytes(const RelayCore *core)
{
    uint64_t window = window_bytes(core);
    uint64_t cluster = UINT64_C(1) << core->cluster_bits;
    uint64_t bytes = max_u64(window / WINDOW_OPS_IN_IT, OP_MIN);

    /* A small window is four ops, so that one is read while one is sent. */
    bytes = min_u64(min_u64(bytes, RELAY_OP_BYTES_MAX), window / 4);
    bytes = core->yields ? min_u64(bytes, OP_MIN) : bytes;
    return max_u64(bytes & ~(cluster - 1), cluster);
}

uint64_t
window_zero_bytes(const RelayCore *core)
{
    uint64_t cluster = UINT64_C(1) << core->cluster_bits;

    return max_u64(core->window.zero_bytes & ~(cluster - 1), cluster);
}

/* Servers that write zeroes byte by byte must not run into the deadline. */
void
window_zeroed(RelayCore *core, int64_t took_us, uint64_t len)
{
    Window *window = &core->window;

    if (took_us > ZERO_SLOW_US) {
        window->zero_bytes = max_u64(window->zero_bytes / 4, ZERO_MIN);
    } else if (took_us < ZERO_QUICK_US && len >= window->zero_bytes) {
        window->zero_bytes =
            min_u64(window->zero_bytes * 2, RELAY_ZERO_BYTES_MAX);
    }
}

static void
window_bound(RelayCore *core)
{
    Window *window = &core->window;
    uint64_t cluster = UINT64_C(1) << core->cluster_bits;
    uint64_t bps = window_bps(core);
    uint64_t lat = (uint64_t)window_latency_us(core);

    if (!bps || !lat) {
        return;
    }
    if (!window->is_starting) {
        uint64_t floor = max_u64(4 * cluster, WINDOW_FLOOR);
        floor = max_u64(floor, min_u64(bps / COMFORT_DIVISOR, WINDOW_COMFORT));
        double twice = 2.0 * (double)bps * (double)lat / SECOND_US;
        window->bytes =
            twice < (double)WINDOW_MAX ? (uint64_t)twice : WINDOW_MAX;
        window->bytes = max_u64(window->bytes, floor);
    }
    window->bytes = min_u64(window->bytes, cluster + 2 * bps);
    window->bytes = min_u64(window->bytes, WINDOW_MAX);
}

static void
window_end_round(RelayCore *core)
{
    Window *window = &core->window;
    uint64_t bps = window_bps(core);

    window->round_mark = window->delivered;
    if (!window->is_limited) {
        return;
    }
    window->is_limited = false;
    if (window->is_starting) {
        bool has_grown = bps >= window->best_bps + window->best_bps / 4;

        window->flat = has_grown ? 0 : window->flat + 1;
        window->best_bps = has_grown ? bps : window->best_bps;
        window->is_starting =
            window->flat < ROUNDS_FLAT && window->bytes < WINDOW_MAX;
        window->bytes *= 2;
    }
    window->round = (window->round + 1) % CORE_RATES;
    window->rates[window->round] = 0;
}

static void
window_see_latency(RelayCore *core, int64_t lat)
{
    Window *window = &core->window;
    int64_t now = core->now_us;

    if (window->is_probing &&
        now - window->probe_us >= PROBE_US + 2 * window_latency_us(core)) {
        window->is_probing = false;
        window->lat_us[1] = window->lat_us[0];
        window->lat_us[0] = LATENCY_UNKNOWN;
        window->period_us = now;
    } else if (!window->is_probing && !window->is_starting &&
               now - window->period_us >= 2 * PERIOD_US) {
        window->is_probing = true;
        window->probe_us = now;
        /* what the probe sees is all that counts after it */
        window->lat_us[1] = window_latency_us(core);
        window->lat_us[0] = LATENCY_UNKNOWN;
    }
    window->lat_us[0] = lat < window->lat_us[0] ? lat : window->lat_us[0];
}

void
window_sent(RelayCore *core, Op *op)
{
    Window *window = &core->window;

    if (core->inflight_bytes <= op->cost || !window->delivered_us) {
        window->delivered_us = core->now_us; /* was idle */
    }
    op->sent_us = core->now_us;
    op->delivered = window->delivered;
    op->delivered_us = window->delivered_us;
}

/* All of @op's data is at the target. */
void
window_acked(RelayCore *core, Op *op)
{
    Window *window = &core->window;
    int64_t took = core->now_us - op->delivered_us;
    int64_t lat = core->now_us - op->sent_us + op->load_us;

    window->delivered += op->cost;
    window->delivered_us = core->now_us;
    if (!op->cost || took <= 0 || lat <= 0) {
        return;
    }
    double bps =
        (double)(window->delivered - op->delivered) * SECOND_US / (double)took;
    uint64_t *best = &window->rates[window->round];
    *best = max_u64(*best, (uint64_t)bps);
    window_see_latency(core, lat);
    if (op->delivered >= window->round_mark) {
        window_end_round(core);
    }
    window_bound(core);
}
