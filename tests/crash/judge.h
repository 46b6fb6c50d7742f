/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * judge.h - is a crash state survived?
 *
 * Purpose: opens a real store on a state and checks what must hold:
 *            (a) the oracle of the guest's sectors;
 *            (b) clean implies equal: right after the open, for every value
 *                that the target may still come to hold;
 *            (c) named bitmaps are there, and supersets; a clean end keeps them
 *                exactly;
 *            (d) life goes on until all is clean, and the images are equal;
 *            (e) of some, the recovery was recorded: a crash in it is judged
 *                in the same way.
 * Threads: the test's.
 * Units:   bytes, clusters.
 * Errors:  the first state that fails is described on stdout; nothing more is
 *          judged then.
 */
#pragma once

#include "life.h"
#include "world.h"

/* Hashes of all states judged so far. */
struct Seen {
    uint64_t *slots;
    size_t room, count;
};
bool seen_add(struct Seen *seen, uint64_t hash);

struct JudgeCounts {
    uint64_t states;     /* distinct, both sides together */
    uint64_t local;      /* ... and of the local side alone */
    uint64_t nested;     /* ... of states: crashes during recovery */
    uint64_t with_clean; /* ... in which some cluster opened clean */
    uint64_t zombies;    /* ... in which requests were still on their way */
    uint64_t sums;       /* believed, and true */
    uint64_t bitmaps;    /* named ones that were not all dirty */
    uint64_t tried;      /* chosen, repeated ones too */
    uint64_t steps;      /* of the lives */
};

typedef struct Judge {
    CrashStates states;
    const RecordLog *log;
    Oracle *oracle;
    char *dir, *path; /* of the states, of the store in it */
    unsigned cluster_bits;
    uint64_t size_bytes, clusters;
    bool *touched;  /* clusters that may hold anything but zeroes */
    uint64_t *list; /* ... as a list */
    uint64_t n_list;
    uint8_t *target;  /* for a life: as states.target between lives */
    uint8_t *outcome; /* ... as it was when the life began */
    bool *changed, *was_clean;
    struct Seen *seen, *seen_local; /* shared with nested ones */
    struct JudgeCounts *counts;
    uint64_t seed, variant;
    unsigned nest_one_in; /* of so many, one is nested; 0: none */
    bool has_bitmaps;     /* the world has */
    bool is_quiet;        /* no guest at work */
    bool is_brief;        /* without the life after it */
    bool is_damaged;      /* metadata is not what was written: the target may be
                            forgotten, and the user says what to do */
    bool is_rotten;       /* ... but never was: entries may be of nothing */
    bool may_be_refused;  /* with the exit code of damage */
    bool was_refused;     /* out */
    const struct Judge *parent;
    char why[512];
} Judge;

struct JudgeConfig {
    const RecordLog *log;
    uint64_t seed;
    uint64_t size_bytes;
    unsigned cluster_bits;
    struct Seen *seen, *seen_local;
    struct JudgeCounts *counts;
    unsigned nest_one_in;
    bool has_bitmaps;
    const Judge *parent; /* of a nested one: its oracle and its target */
};

void judge_init(Judge *judge, const struct JudgeConfig *config);
void judge_deinit(Judge *judge);
void judge_seek(Judge *judge, uint64_t tick);
/* At the tick that the states have reached. False: it failed, see why. */
bool judge_state(Judge *judge, uint64_t variant);
/* What the states hold as chosen, tampered with or not; puts all back. */
bool judge_chosen(Judge *judge);
/* Of how many ticks one is judged when @states are wanted of all of them. */
uint64_t judge_stride(const RecordLog *log, uint64_t states);
/* Walk over the whole recording once, @budget variants at each tick; until
 * @want distinct ones. If fewer are wanted than there are ticks, ticks are left
 * out, drawn: the end, where clusters are clean, is never. */
bool judge_walk(Judge *judge, uint64_t budget, uint64_t want);
