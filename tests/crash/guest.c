/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest: up to WORLD_FLIGHT requests at once that never overlap, over a
 * few clusters of which each life likes some better than others, so that
 * extents come and go. What it asks and what it is answered is in the log:
 * that is the oracle.
 *
 * Now and then it rests until the drain has caught up, or for a moment only;
 * and the target gets its troubles from here, so that one seed says all.
 */
#include "bitmaps.h"
#include "world.h"

#include <assert.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define STAMP_MAGIC    0x504d4154u
#define REST_US        400000
#define HOLD_MS        40
#define SIMMER_US      2500000
#define SIMMER_LOOK_US 20000
#define PUNCH          (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

void
stamp_fill(struct Stamp *stamp, uint64_t offset, uint64_t sequence)
{
    *stamp = (struct Stamp){.magic = STAMP_MAGIC,
                            .disk = 1,
                            .offset = offset,
                            .sequence = sequence};
    memset(stamp->filler, (int)(sequence * 31 + offset / SECTOR),
           sizeof(stamp->filler));
    stamp->checksum = XXH3_64bits(stamp, offsetof(struct Stamp, checksum));
}

bool
stamp_is_whole(const struct Stamp *stamp)
{
    return stamp->magic == STAMP_MAGIC &&
           stamp->checksum ==
               XXH3_64bits(stamp, offsetof(struct Stamp, checksum));
}

/*
 * Requests in flight
 */
static void
take_reply(World *world)
{
    int error;
    uint64_t unique = fake_reply(&world->served.session, &error);

    for (unsigned i = 0; i < WORLD_FLIGHT; i++) {
        struct WorldOp *op = &world->flight[i];

        if (op->unique == unique) {
            record_log_end(&world->log, op->entry, error);
            op->unique = 0;
            world->n_flight--;
            return;
        }
    }
    assert(!"a reply that nobody waits for");
}

void
guest_finish(World *world)
{
    while (world->n_flight > 0) {
        take_reply(world);
    }
}

static bool
is_overlapping(const World *world, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < WORLD_FLIGHT; i++) {
        const struct WorldOp *op = &world->flight[i];

        if (op->unique && op->entry->offset < offset + len &&
            offset < op->entry->offset + op->entry->len) {
            return true;
        }
    }
    return false;
}

/* A free place, with nothing in flight over the range. */
static struct WorldOp *
make_way(World *world, uint64_t offset, uint64_t len)
{
    while (world->n_flight == WORLD_FLIGHT ||
           is_overlapping(world, offset, len)) {
        take_reply(world);
    }
    for (unsigned i = 0;; i++) {
        if (!world->flight[i].unique) {
            world->n_flight++;
            return &world->flight[i];
        }
    }
}

void
guest_write(World *world, uint64_t offset, uint64_t len)
{
    struct fuse_write_in in = {.offset = offset, .size = (uint32_t)len};
    struct WorldOp *op = make_way(world, offset, len);
    uint8_t *data = malloc(len);

    world->sequence++;
    for (uint64_t at = 0; at < len; at += SECTOR) {
        stamp_fill((struct Stamp *)(data + at), offset + at, world->sequence);
    }
    op->entry = record_log_begin(&world->log, RECORD_GUEST, RECORD_NONE, offset,
                                 len, data);
    op->unique = fake_send(&world->served.session, FUSE_WRITE, FAKE_DISK_INO,
                           &in, sizeof(in), data, len);
    free(data);
}

void
guest_discard(World *world, uint64_t offset, uint64_t len)
{
    struct fuse_fallocate_in in = {
        .offset = offset, .length = len, .mode = PUNCH};
    struct WorldOp *op = make_way(world, offset, len);

    op->entry = record_log_begin(&world->log, RECORD_GUEST, RECORD_NONE, offset,
                                 len, NULL);
    op->unique = fake_send(&world->served.session, FUSE_FALLOCATE,
                           FAKE_DISK_INO, &in, sizeof(in), NULL, 0);
}

void
guest_sync(World *world)
{
    struct fuse_fsync_in in = {.fsync_flags = 1};
    struct WorldOp *op = make_way(world, 0, 0);

    op->entry = record_log_begin(&world->log, RECORD_GUEST_SYNC, RECORD_NONE, 0,
                                 0, NULL);
    op->unique = fake_send(&world->served.session, FUSE_FSYNC, FAKE_DISK_INO,
                           &in, sizeof(in), NULL, 0);
}

/*
 * A life
 */
static uint64_t
pick_cluster(World *world, unsigned life)
{
    unsigned third = world->config.hot / 3;
    uint64_t index = seed_below(&world->seed, world->config.hot);

    /* Mostly out of this life's own third. */
    if (third && seed_below(&world->seed, 8)) {
        index = life % 3 * third + index % third;
    }
    return world->hot[index];
}

static void
work(World *world, unsigned life)
{
    uint64_t cluster = UINT64_C(1) << world->config.cluster_bits;
    uint64_t at = pick_cluster(world, life);
    uint64_t sectors = cluster / SECTOR;
    uint64_t first = seed_below(&world->seed, sectors);
    uint64_t count = 1 + seed_below(&world->seed, 12);
    unsigned kind = (unsigned)seed_below(&world->seed, 20);

    count = count < sectors - first ? count : sectors - first;
    if (kind < 13) {
        guest_write(world, at + first * SECTOR, count * SECTOR);
    } else if (kind < 14) {
        guest_write(world, at, MIN(cluster, 16384));
    } else if (kind < 15) {
        guest_discard(world, at, cluster);
    } else if (kind < 16) {
        guest_discard(world, at + first * SECTOR, count * SECTOR);
    } else {
        guest_sync(world);
    }
}

/* Discards, and a sync before all of them can have been punched. */
static void
burst(World *world)
{
    uint64_t cluster = UINT64_C(1) << world->config.cluster_bits;

    for (unsigned i = 0; i + 1 < WORLD_FLIGHT; i++) {
        guest_discard(world, pick_cluster(world, i), cluster);
    }
    guest_finish(world);
    guest_sync(world);
}

static void
trouble(World *world)
{
    unsigned kind = (unsigned)seed_below(&world->seed, 40);

    if (!world->config.is_troubled || kind > 1) {
        return;
    }
    if (kind == 0) {
        record_target_drop(world->target);
    } else {
        record_target_hold(world->target, true);
        poll(NULL, 0, (int)seed_below(&world->seed, HOLD_MS));
        record_target_hold(world->target, false);
    }
}

/* Work goes on at one place only, until the other extents are cold. */
static void
simmer(World *world)
{
    int64_t end_us = g_get_monotonic_time() + SIMMER_US;
    struct DiskMapFigures figures;

    do {
        guest_write(world, world->hot[0], SECTOR);
        guest_finish(world);
        (void)world_drain(world, SIMMER_LOOK_US);
        disk_map_figures(world->disk->map, &figures);
    } while (figures.hot_extents > 1 && g_get_monotonic_time() < end_us);
}

void
guest_life(World *world, unsigned ops)
{
    unsigned life = (unsigned)seed_below(&world->seed, 3);

    for (unsigned i = 0; i < ops; i++) {
        work(world, life);
        served_news(&world->served);
        if (seed_below(&world->seed, 12) == 0) {
            relay_hurry(world->served.relay);
        }
        if (seed_below(&world->seed, 40) == 0) {
            burst(world);
        }
        if (world->config.has_bitmaps && seed_below(&world->seed, 16) == 0) {
            guest_finish(world);
            bitmaps_work(world);
        }
        if (i == ops / 3 || i == ops / 3 * 2) {
            simmer(world);
        }
        if (seed_below(&world->seed, 24) == 0) {
            guest_finish(world);
            (void)world_drain(world,
                              (int64_t)seed_below(&world->seed, REST_US));
            trouble(world);
        }
    }
    guest_finish(world);
}
