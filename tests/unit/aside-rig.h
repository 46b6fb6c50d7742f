/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * aside-rig.h - a face over a fake session, with cuts
 *
 * Purpose: the test is the guest, the coordinator, and in the relay's place
 *          the reader of what is owed. A shadow of the disk says what that has
 *          to find: each cluster as it was when the cut was made.
 * Threads: the test's; storage requests fail or wait on the face's.
 * Errors:  cmocka's assertions.
 */
#pragma once

#include "tests/lib/fake-session.h"

#define BITS     16
#define CLUSTER  (UINT64_C(1) << BITS)
#define CLUSTERS 256
#define SIZE     (CLUSTERS * CLUSTER)

/* What the storage is to do, of one rig at a time. */
extern struct AsideFaults {
    StoreIo io;
    struct StoreIoOps ops;
    Disk *disk;
    atomic_int read_error;  /* of copies, -errno */
    atomic_int spill_error; /* of writes to the file of copies */
    /* Those of either kind wait for gate_fd, and are done then. */
    atomic_bool gates_spills, gates_copies;
    int gate_fd;
    atomic_uint gated;
    atomic_ullong most_kept; /* bytes, at any copy */
} aside_faults;
void aside_rig_open_gate(void);

struct AsideRig {
    FakeSession session;
    Disk *disk;
    unsigned char *now, *then; /* the disk's content; as the cut has it */
    bool *owed;                /* clusters, at the cut */
    struct FaceCut cut;
};

/* With room for @buffers copies in memory, and a file for the others. */
struct AsideRig *aside_rig_new(unsigned buffers);
void aside_rig_free(struct AsideRig *rig);

/* In a loop that awaits something; what never comes fails the test. */
void aside_rig_wait(int64_t *until_us);
void aside_rig_write(struct AsideRig *rig, uint64_t offset, uint64_t len,
                     unsigned char what);
/* 512 bytes into each of @count clusters, all at once. */
void aside_rig_write_many(struct AsideRig *rig, uint64_t first, uint64_t count,
                          unsigned char what);

/* It waits for discards to be carried out. */
void aside_rig_cut(struct AsideRig *rig);
/* The relay brought all of it to the target, and the cut is over. */
void aside_rig_end_cut(struct AsideRig *rig);
void aside_rig_assert_whole(struct AsideRig *rig);
void aside_rig_await_degraded(struct AsideRig *rig, unsigned times);
/* Clusters: kept now (*@in_file, which may be NULL: of them in the file), and
 * copied ever. */
uint64_t aside_rig_kept(struct AsideRig *rig, uint64_t *in_file);
uint64_t aside_rig_copied(struct AsideRig *rig);
