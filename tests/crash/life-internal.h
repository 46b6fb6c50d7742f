/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * life-internal.h - what the files of a life share
 *
 * Purpose: life.c turns actions into events on its clock, life-books.c keeps
 *          what the relay keeps in files: sent-log and sums.
 * Threads: the test's.
 * Units:   bytes, microseconds of the life's own clock.
 */
#pragma once

#include "life.h"

#define QUEUE_MAX 512

struct Coming {
    enum { COMING_EXECUTION, COMING_ANSWER, COMING_ZOMBIE } kind;
    struct RelayAction action;
    struct RelayEvent event;
    RecordEntry *entry;
    const RecordEntry *zombie;
    enum BooksRequest request; /* BOOKS_REQUESTS: it is none of the books' */
    int result;                /* ... else, its own, once executed */
};

struct Run {
    Life *life;
    Seed seed;
    int64_t now_us, begin_us;
    RelayCore *core;
    RateBucket bucket;
    struct RelayActions actions;
    uint64_t cluster;
    bool is_up[RELAY_CONNS];
    uint32_t epochs[RELAY_CONNS];
    int64_t due_us[QUEUE_MAX]; /* of coming; INT64_MAX: free */
    struct Coming *coming;
    unsigned used, zombies; /* first free place behind all; of what comes */
    bool is_kept;
};

/* life.c: an answer that comes in a while, to be filled in. */
struct Coming *life_come(struct Run *run);

/* life-books.c */
void life_answer_load(struct Run *run, const struct RelayAction *action);
void life_begin_books(struct Run *run, const struct RelayAction *action);
void life_execute_books(struct Run *run, struct Coming *coming);
/* It was executed a while ago. */
void life_books_done(struct Run *run, const struct Coming *coming);
void life_end_books(struct Run *run);
