/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status.c - the one producer of status.json
 *
 * `weir status --json`, MNT/.weir/status.json, the control socket and the text
 * form all show this document, so that no two of them can disagree.
 *
 * Only disks with a target count in the totals: a disk without one owes
 * nothing to anybody, whatever its bitmap says.
 *
 * State, the first that applies:
 *
 *   throttled     guest writes wait for room for old content, or did in the last
 *                 seconds, or were refused then (status-room.c)
 *   paused        the user said so
 *   disconnected  a disk with a target has no connection to it (a fresh start
 *                 that is still connecting for the first time is not that)
 *   stalled       something is dirty, all are connected, and for 30 seconds
 *                 not a byte was sent, compared or settled (waiting out the
 *                 doubt after a lost connection, or cut-interval, is not that)
 *   degraded      old content that a cut owed could not be kept, and no cut was
 *                 whole since
 *   initial-sync  a target has never held all of its disk yet
 *   draining      something is dirty
 *   idle          the targets hold everything
 *
 * Rates come from a ring of samples, one a second: over the last 5 seconds to
 * show, over 30 to judge a trend. What gets dirty and what gets settled are
 * the same unit (clusters), so their difference is the speed at which the debt
 * shrinks; if it grows, there is no ETA, and `diverging` says so.
 */
#include "status.h"

#include <string.h>

static const char *const state_names[STATES] = {
    [STATE_INITIAL_SYNC] = "initial-sync", [STATE_IDLE] = "idle",
    [STATE_DRAINING] = "draining",         [STATE_STALLED] = "stalled",
    [STATE_DISCONNECTED] = "disconnected", [STATE_PAUSED] = "paused",
    [STATE_DEGRADED] = "degraded",         [STATE_THROTTLED] = "throttled",
};

const char *
store_state_name(enum StoreState state)
{
    return state_names[state];
}

static uint64_t
disk_dirty_bytes(const struct StatusDisk *disk)
{
    uint64_t bytes = disk->map.dirty_clusters << disk->cluster_bits;

    return MIN(bytes, disk->size_bytes);
}

/* The bytes that the targets do not hold. */
uint64_t
status_dirty_bytes(const struct StatusInput *input)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < input->n_disks; i++) {
        if (input->disks[i].target != NULL) {
            bytes += disk_dirty_bytes(&input->disks[i]);
        }
    }
    return bytes;
}

/*
 * What one look cannot tell
 */
static void
sample_take(const struct StatusInput *input, struct StatusSample *sample)
{
    memset(sample, 0, sizeof(*sample));
    sample->at_us = input->now_us;
    sample->written_bytes = input->face.written_bytes;
    for (unsigned i = 0; i < input->n_disks; i++) {
        const struct StatusDisk *disk = &input->disks[i];
        const struct RelayCoreFigures *core = &disk->relay.core;

        if (disk->target == NULL) {
            continue;
        }
        sample->dirtied_bytes += disk->map.dirtied_clusters
                                 << disk->cluster_bits;
        if (disk->has_relay) {
            sample->settled_bytes += core->settled_bytes;
            sample->moved_bytes += core->sent_bytes + core->settled_bytes +
                                   core->equal_bytes + core->zeroed_bytes;
        }
    }
}

static void
tracker_first_sync(struct StatusTracker *tracker, struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        struct StatusDisk *disk = &input->disks[i];

        if (disk->target == NULL || !disk->has_relay) {
            continue;
        }
        uint64_t settled = disk->relay.core.settled_bytes;
        uint64_t *base = &tracker->first_sync_base[i];

        if (disk->relay.core.contact == CONTACT_NONE) {
            tracker->first_sync[i] = true;
            *base = settled;
        } else if (!tracker->first_sync[i]) {
            *base = settled;
        } else if (settled < *base) {
            *base = 0; /* another relay, which counts anew */
        } else if (disk->map.dirty_clusters == 0 ||
                   settled - *base >= disk->size_bytes) {
            /* A guest that never rests leaves no drained moment to be seen;
             * the first generation is the whole disk. */
            tracker->first_sync[i] = false;
        }
        disk->is_first_sync = tracker->first_sync[i];
    }
}

static bool
has_target(const struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        if (input->disks[i].target != NULL) {
            return true;
        }
    }
    return false;
}

/* Something waits for a quarantine, by rule and not by mishap. */
static bool
has_doubt(const struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        if (input->disks[i].relay.core.doubt_clusters > 0) {
            return true;
        }
    }
    return false;
}

static bool
has_first_sync(const struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        if (input->disks[i].is_first_sync) {
            return true;
        }
    }
    return false;
}

/* All that is dirty waits for the next cut, and nobody for anything. */
static bool
is_between_cuts(const struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        const struct StatusDisk *disk = &input->disks[i];

        if (disk->target != NULL && !disk->is_cut &&
            disk->map.dirty_clusters > 0) {
            return false;
        }
    }
    return input->cuts.is_waiting;
}

void
status_tracker_update(struct StatusTracker *tracker, struct StatusInput *input)
{
    const struct StatusSample *last =
        tracker->count > 0
            ? &tracker->samples[(tracker->count - 1) % STATUS_SAMPLES]
            : NULL;
    struct StatusSample now;

    tracker_first_sync(tracker, input);
    status_room_update(tracker, input);
    if (!has_target(input) || has_first_sync(input) ||
        status_dirty_bytes(input) > 0) {
        tracker->clean_since_us = 0;
    } else {
        if (tracker->clean_since_us == 0) {
            tracker->clean_since_us = input->now_us;
        }
        tracker->whole_us = input->now_us;
    }
    sample_take(input, &now);
    if (last == NULL || now.moved_bytes != last->moved_bytes ||
        tracker->clean_since_us != 0 || has_doubt(input) ||
        is_between_cuts(input)) {
        tracker->moved_us = input->now_us;
    }
    if (last == NULL || now.at_us - last->at_us >= G_USEC_PER_SEC * 9 / 10) {
        tracker->samples[tracker->count++ % STATUS_SAMPLES] = now;
    }
}

void
status_tracker_retarget(struct StatusTracker *tracker, unsigned index)
{
    tracker->first_sync[index] = true;
    tracker->clean_since_us = 0;
    tracker->whole_us = 0;
}

/* The newest sample that is at least @age old, or the oldest there is. */
static const struct StatusSample *
sample_before(const struct StatusTracker *tracker, int64_t now_us, int64_t age)
{
    unsigned held = MIN(tracker->count, STATUS_SAMPLES);
    const struct StatusSample *found = NULL;

    for (unsigned i = 1; i <= held; i++) {
        found = &tracker->samples[(tracker->count - i) % STATUS_SAMPLES];
        if (now_us - found->at_us >= age) {
            break;
        }
    }
    return found;
}

static uint64_t
per_second(uint64_t now, uint64_t then, int64_t us)
{
    return us > 0 && now > then
               ? (uint64_t)((double)(now - then) * 1e6 / (double)us)
               : 0;
}

void
status_rates(const struct StatusInput *input,
             const struct StatusTracker *tracker, struct StatusRates *rates)
{
    const struct StatusSample *then, *trend;
    uint64_t dirty = status_dirty_bytes(input);
    uint64_t dirtied, settled, pace;
    struct StatusSample now;
    int64_t us;

    memset(rates, 0, sizeof(*rates));
    for (unsigned i = 0; i < input->n_disks; i++) {
        rates->upload_bps += input->disks[i].relay.upload_bps;
    }
    if (tracker == NULL || tracker->count == 0) {
        return;
    }
    sample_take(input, &now);
    then = sample_before(tracker, now.at_us, STATUS_RATE_US);
    us = now.at_us - then->at_us;
    rates->is_known = us > 0;
    rates->written_bps = per_second(now.written_bytes, then->written_bytes, us);
    rates->dirty_bps = per_second(now.dirtied_bytes, then->dirtied_bytes, us);
    rates->settled_bps = per_second(now.settled_bytes, then->settled_bytes, us);

    trend = sample_before(tracker, now.at_us, STATUS_TREND_US);
    us = now.at_us - trend->at_us;
    dirtied = per_second(now.dirtied_bytes, trend->dirtied_bytes, us);
    settled = per_second(now.settled_bytes, trend->settled_bytes, us);
    rates->is_diverging =
        dirty > 0 && us >= STATUS_TREND_US / 3 && dirtied > settled;
    /* Gigabytes of holes settle in a moment; the data that follows does not. */
    pace = MIN(settled, rates->settled_bps);
    if (dirty > 0 && !rates->is_diverging && pace > dirtied &&
        us >= 2 * G_USEC_PER_SEC) {
        rates->has_eta = true;
        rates->eta_seconds = dirty / (pace - dirtied) + 1;
    } else if (dirty == 0) {
        rates->has_eta = true;
    }
}

/*
 * State
 */
static bool
is_unlinked(const struct StatusDisk *disk)
{
    const struct RelayCoreFigures *core = &disk->relay.core;

    if (disk->target == NULL || !disk->has_relay) {
        return false;
    }
    switch (core->link) {
    case RELAY_ONLINE:
        return false;
    case RELAY_CONNECTING:
    case RELAY_CHECKING:
        /* A first attempt may still succeed; a repeated one must show. */
        return core->losses > 0 || core->error[0] != '\0';
    case RELAY_OFFLINE:
        return core->losses > 0 || core->connects > 0 || core->error[0] != '\0';
    case RELAY_REFUSED:
    case RELAY_STOPPED:
    case RELAY_LINKS:
        break;
    }
    return true;
}

enum StoreState
status_state(const struct StatusInput *input,
             const struct StatusTracker *tracker)
{
    uint64_t dirty = status_dirty_bytes(input);
    bool is_down = false;

    for (unsigned i = 0; i < input->n_disks; i++) {
        is_down |= is_unlinked(&input->disks[i]);
    }
    if (status_is_throttled(input, tracker)) {
        return STATE_THROTTLED;
    }
    if (input->is_paused) {
        return STATE_PAUSED;
    }
    if (!input->is_served) {
        return dirty > 0 ? STATE_DISCONNECTED : STATE_IDLE;
    }
    if (is_down) {
        return STATE_DISCONNECTED;
    }
    if (dirty > 0 && tracker != NULL && tracker->moved_us > 0 &&
        input->now_us - tracker->moved_us > STATUS_STALL_US) {
        return STATE_STALLED;
    }
    if (input->cuts.is_degraded) {
        return STATE_DEGRADED;
    }
    if (has_first_sync(input)) {
        return STATE_INITIAL_SYNC;
    }
    return dirty > 0 ? STATE_DRAINING : STATE_IDLE;
}
