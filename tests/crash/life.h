/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * life.h - how it goes on after a crash, on a clock that costs nothing
 *
 * Purpose: the relay's core over an opened store and an image in memory in
 *          the target's place, until all is clean and no zombie is left.
 * Threads: the test's.
 * Units:   bytes, microseconds of a clock of its own.
 * Shapes:  only *touched* clusters can hold anything but zeroes, on either
 *          side: all other work is skipped.
 * Errors:  words in Life.why.
 */
#pragma once

#include "fs/store.h"
#include "relay/books.h"
#include "states.h"

struct LifeZombie {
    const RecordEntry *entry;
    int64_t after_us; /* from the beginning of the life */
};

typedef struct Life {
    Store *store;
    Disk *disk;
    const uint8_t *raw;  /* the disk's content */
    uint8_t *target;     /* what the target's reads see */
    const bool *touched; /* of each cluster */
    bool *changed;       /* out: of each cluster: target differs from before */
    const struct LifeZombie *zombies;
    size_t n_zombies;
    RecordLog *log;         /* sends and flushes go there, too */
    RelayBooks books;       /* life_open_books() */
    bool is_told_overwrite; /* the user says so, of a target that is not known
                               any more */
    uint64_t seed;
    uint64_t steps;
    char why[256];
} Life;

/* Longest time that a zombie may take: less than the quarantine. */
#define LIFE_ZOMBIE_US (59 * INT64_C(1000000))

/* What the relay remembers of the target: before the store is served. */
bool life_open_books(Life *life);
void life_close_books(Life *life);
/* Until all is clean; then the store is closed cleanly. */
bool life_run(Life *life);
