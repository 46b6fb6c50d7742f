/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * relay-snap-rig.h - a snapshot of the rig's first disk, and the guest's writes
 *
 * Purpose: what the tests of jobs that bring a snapshot share.
 * Threads: the test's main thread, and the guest's where there is one.
 * Errors:  asserted.
 */
#pragma once

#include "relay-job-rig.h"

#include <stdatomic.h>

#include "bitmap/points.h"
#include "tests/lib/seed.h"

#define ID 7

struct Snap {
    Points *points;
    Point *point;
    int raw_fd, data_fd;
    char *then;
    atomic_bool is_over;
};

extern struct Snap snap;

void snap_begin(void);
/* Nobody writes. */
void snap_take(void);
void snap_drop(void);

/* A write of the guest's, to the end of @cluster; or of somewhere. */
void snap_write(uint64_t cluster, uint64_t skip, uint8_t byte);
void snap_write_some(Seed *seed);
/* One that does nothing else. */
GThread *snap_begin_guest(void);
void snap_end_guest(GThread *guest);

/* A job that brings what is dirty in its map as the snapshot has it ... */
void snap_new_job(unsigned cluster_bits);
/* ... as of now. */
void snap_allow(void);
