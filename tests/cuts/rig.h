/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rig.h - a store of several disks, their targets and a guest at work
 *
 * Purpose: lives of one store in which cuts are taken, whose images are judged.
 * Threads: the test's main thread; the face, the relay, the targets and the
 *          guest have their own.
 * Units:   bytes, microseconds.
 * Shapes:  DIR/vm is the store, its disks are vda, vdb and so on, each with a
 *          cluster size and a target of its own.
 * Errors:  asserted; what a cut is found to be is said in words.
 */
#pragma once

#include "guest.h"
#include "history.h"

#include "tests/lib/record-target.h"
#include "tests/lib/seed.h"
#include "tests/lib/served.h"

struct RigConfig {
    uint64_t seed;
    unsigned n_disks;
    bool is_cut; /* policy=cut; else none */
};

typedef struct Rig {
    struct RigConfig config;
    Seed seed;
    char *dir, *path;
    RecordLog log;
    RecordTarget *targets[HISTORY_DISKS];
    uint8_t *images[HISTORY_DISKS];
    Served served;
    History history;
    Guest guest;
    uint64_t aside_clusters;  /* of the lives before */
    uint64_t lives, refusals; /* of cuts: not now */
    bool is_silent;           /* all that was sent has been answered: ... */
    uint64_t sends;           /* ... so many, and no more until it is allowed */
    char why[2048];
} Rig;

void rig_init(Rig *rig, const struct RigConfig *config);
void rig_deinit(Rig *rig);
/* Before _exit() with all of it at work. */
void rig_abandon(Rig *rig);
/* A life, with the guest. False: why. */
bool rig_begin(Rig *rig);
void rig_end(Rig *rig, bool is_clean);
unsigned rig_losses(Rig *rig);
/* Requests that write, as they arrived at the targets. */
uint64_t rig_sends(Rig *rig);
uint64_t rig_aside_clusters(Rig *rig);

/* take.c */
enum Take {
    TAKE_WHOLE,    /* the images are those of the cut */
    TAKE_DEGRADED, /* old content was lost: nothing can be said */
    TAKE_DEAD,     /* weir died first */
    TAKE_FAILED,   /* why */
};
/* One cut, as soon as one can be; with what is made to happen meanwhile. It is
 * of an instant between ticks @begin and @end of the history. */
enum Take take_cut(Rig *rig, bool is_deadly, uint64_t *begin, uint64_t *end);
