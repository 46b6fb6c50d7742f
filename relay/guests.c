/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restraint while a guest is at work: what the relay has queued at the local disk
 * is what a request of the guest's waits for.
 *
 * Several cores may read the disk of one guest: that of its own target, and those
 * of its jobs. They share what one alone would have, so that a guest with five
 * jobs has no less of its disk than one with none. Who counts is who reads, or
 * rests from that; one that waits for its target leaves its part to the others.
 *
 * A guest with a request now and then gets three quarters of the time, one with
 * five thousand a second or more gets eleven twelfths. A request that finds a batch
 * of ours before it loses what dozens of its kind take; a guest in a hurry always
 * has one there. And of a disk that serves so many requests a twelfth is still what
 * a far target takes; where one cannot, it stays near a quarter.
 */
#include "loop.h"

#define GUEST_US 50000 /* at work until it was silent for so long */
#define LOOK_US  20000 /* how fast its requests come is counted for so long */

/* Parts of the time, of which one is left to who reads: from 4 to 12. */
#define PARTS_MIN     4
#define EAGERNESS_MAX 8
#define EAGER         5000 /* requests a second: as eager as it gets */

void
relay_guests_init(Relay *relay)
{
    relay->guests = g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

void
relay_guests_deinit(Relay *relay)
{
    g_hash_table_unref(relay->guests);
}

void
relay_guests_join(Relay *relay, RelayDisk *disk)
{
    disk->guest = g_hash_table_lookup(relay->guests, disk->pins);
    if (!disk->guest) {
        disk->guest = g_new0(struct RelayGuest, 1);
        disk->guest->map = disk->pins;
        g_hash_table_insert(relay->guests, disk->pins, disk->guest);
    }
    disk->guest->n_disks++;
}

/* @disk->pins may be gone by now, and is only a name here. */
void
relay_guests_leave(Relay *relay, RelayDisk *disk)
{
    if (!--disk->guest->n_disks) {
        g_hash_table_remove(relay->guests, disk->guest->map);
    }
    disk->guest = NULL;
}

static bool
is_at_work(Relay *relay)
{
    uint64_t seen =
        atomic_load_explicit(&relay->guest_requests, memory_order_relaxed);

    if (seen != relay->guest_seen) {
        relay->guest_seen = seen;
        relay->guest_us = relay->now_us;
    }
    return relay->guest_us && relay->now_us - relay->guest_us < GUEST_US;
}

/* Of the guest, from 0 to EAGERNESS_MAX. */
static unsigned
look_at_eagerness(Relay *relay)
{
    uint64_t count = relay->guest_seen - relay->guest_then;
    int64_t took_us = relay->now_us - relay->guest_look_us;

    if (took_us >= LOOK_US) {
        uint64_t rate = count * G_USEC_PER_SEC / (uint64_t)took_us;

        relay->guest_eagerness =
            (unsigned)(MIN(rate, EAGER) * EAGERNESS_MAX / EAGER);
        relay->guest_then = relay->guest_seen;
        relay->guest_look_us = relay->now_us;
    }
    return relay->guest_eagerness;
}

static void
count_readers(Relay *relay)
{
    for (unsigned i = 0; i < relay->n_disks; i++) {
        relay->disks_now[i]->guest->n_readers = 0;
    }
    for (unsigned i = 0; i < relay->n_disks; i++) {
        const RelayDisk *disk = relay->disks_now[i];

        disk->guest->n_readers +=
            disk->core && relay_core_is_reading(disk->core, relay->now_us);
    }
}

void
relay_guests_look(Relay *relay)
{
    unsigned parts = 0;

    if (is_at_work(relay)) {
        parts = PARTS_MIN + look_at_eagerness(relay);
        count_readers(relay);
    }
    for (unsigned i = 0; i < relay->n_disks; i++) {
        const RelayDisk *disk = relay->disks_now[i];

        if (disk->core) {
            relay_core_yield(disk->core,
                             parts * MAX(disk->guest->n_readers, 1));
        }
    }
}
