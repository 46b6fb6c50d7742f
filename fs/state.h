/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * state.h - what weir itself remembers of a store between two runs
 *
 * Purpose: clean or not, the number of the last checkpoint, the cuts that the
 *          targets hold, and per disk how its target was accepted, what the
 *          checkpoint says, and the attributes that the face shows.
 * Threads: any; pure functions.
 * Units:   bytes.
 * Shapes:  sealed-text.h.
 * Errors:  damage is no error: state_parse() says in words what is wrong, and
 *          the caller takes the store as not closed cleanly.
 */
#pragma once

#include "store.h"

#define STATE_VERSION 1

/* disk.raw as weir left it: another one was written by somebody else. */
struct RawStamp {
    uint64_t inode;
    uint64_t size_bytes;
    struct timespec mtime;
};

/* Where a disk's dirty bitmap is. After an unclean end FILE means that the
 * hot extents of STORE/NAME/intent are dirty as well. */
enum StateDirty {
    STATE_DIRTY_FILE, /* in STORE/NAME/dirty, as of sequence or later */
    STATE_DIRTY_ALL,  /* no file: every cluster is dirty */
    STATE_DIRTY_NONE, /* no file: no cluster is */
};

struct StateDisk {
    unsigned id; /* weir.conf's: a new disk of an old name is another disk */
    uint64_t size_bytes;
    unsigned cluster_bits;
    char *target; /* that contact and bitmap are about; NULL: none */
    enum TargetContact contact;
    enum StateDirty dirty;
    uint64_t sequence; /* of the last checkpoint that was durable by then */
    bool is_in_doubt;  /* Disk.all_in_doubt */
    bool is_recorded;  /* named bitmaps, with the hot extents after an unclean
                          end, have all that was written up to this state ... */
    uint64_t recorded; /* ... if their files are of this checkpoint or later */
    uint64_t cut;      /* Disk.cut */
    struct DiskAttr attr;
    struct RawStamp raw;
};

struct State {
    uint8_t uuid[16]; /* of the store */
    bool is_clean;
    uint64_t sequence;
    uint64_t epoch;        /* of the last serve, or of its end; 0: none */
    uint64_t epoch_before; /* what files must be of; less after a loss only */
    struct StoreCuts cuts;
    uint64_t last_snapshot; /* no larger id was given by then */
    uint64_t last_bitmap;   /* likewise */
    uint64_t rollback;      /* Store.rollback */
    unsigned n_disks;
    struct StateDisk disks[STORE_DISKS_MAX];
};

void state_deinit(struct State *state);

/* NULL, or what is wrong with @text; then @state is empty and not clean. */
const char *state_parse(const char *text, size_t len, struct State *state);
char *state_format(const struct State *state, size_t *len);

/* What the far side holds is not known any more. The numbers go on from one
 * that cannot have been used: the present in seconds, and cuts are rarer. All
 * snapshots that there are are past. */
void state_lose_cuts(struct StoreCuts *cuts);

const struct StateDisk *state_disk(const struct State *state, unsigned id);
