/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * world.h - a recording: a real store, face, relay and target at work
 *
 * Purpose: several lives of a store with a seeded guest and a target that has
 *          troubles, all in one RecordLog: what the crash replay starts from.
 * Threads: the test's main thread; the face, the relay and the target have
 *          their own.
 * Units:   bytes, sectors of 512 bytes where it says so.
 * Shapes:  the store is DIR/root/vm, its disk vda; the log's node 0 is
 *          DIR/root. Every sector that the guest writes is a Stamp.
 * Errors:  asserted.
 */
#pragma once

#include "tests/lib/record-io.h"
#include "tests/lib/record-target.h"
#include "tests/lib/seed.h"
#include "tests/lib/served.h"

#define SECTOR 512u

/* What the guest writes, sector by sector. */
struct Stamp {
    uint32_t magic;
    uint32_t disk;
    uint64_t offset;
    uint64_t sequence;
    uint8_t filler[SECTOR - 32];
    uint64_t checksum; /* XXH3-64 of what stands before it */
};
_Static_assert(sizeof(struct Stamp) == SECTOR, "a sector");

struct WorldConfig {
    uint64_t seed;
    uint64_t size_bytes;
    unsigned cluster_bits;
    unsigned lives;
    unsigned ops;        /* of the guest, per life */
    unsigned hot;        /* clusters that it works on */
    bool is_troubled;    /* the target loses connections and hangs */
    bool has_bitmaps;    /* named ones, see bitmaps.h */
    bool has_faults;     /* calls fail: a clean end may keep more of them */
    bool can_multi_conn; /* a flush of the target covers all connections */
    StoreIo *io;         /* below the recorder; NULL: the kernel */
};

#define WORLD_FLIGHT 6
#define WORLD_HOT    64

struct WorldOp {
    uint64_t unique; /* 0: free */
    RecordEntry *entry;
};

typedef struct World {
    struct WorldConfig config;
    Seed seed;
    char *dir, *path, *uri;
    RecordLog log;
    RecordIo io;
    RecordTarget *target;
    Served served;           /* its seam is io, or one above it */
    Disk *disk;              /* of this life's store */
    uint64_t sequence;       /* of the guest's last write */
    uint64_t hot[WORLD_HOT]; /* first bytes of clusters */
    uint64_t job_tick;       /* a job took its bitmap in this life, or renewed
                                what it records; 0: none */
    uint64_t coarse_tick;    /* of bitmap "coarse": its last clearing began */
    struct WorldOp flight[WORLD_FLIGHT];
    unsigned n_flight;
} World;

/* Make the store and the target; nothing is recorded yet. */
void world_init(World *world, const struct WorldConfig *config);
void world_deinit(World *world);
/* All lives. */
void world_run(World *world);

/* One life in steps: for scripts of their own. False: a step failed (which
 * only happens with faults); served.why says it. */
bool world_begin(World *world);
void world_end(World *world, bool is_clean);
/* Wait until nothing is dirty; false if it takes too long. */
bool world_drain(World *world, int64_t patience_us);

/* guest.c */
void guest_life(World *world, unsigned ops);
void guest_write(World *world, uint64_t offset, uint64_t len);
void guest_discard(World *world, uint64_t offset, uint64_t len);
void guest_sync(World *world);
void guest_finish(World *world); /* wait for all replies */
void stamp_fill(struct Stamp *stamp, uint64_t offset, uint64_t sequence);
bool stamp_is_whole(const struct Stamp *stamp);
