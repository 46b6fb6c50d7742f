/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * holder-core.h - what the holder decides
 *
 * Purpose: the holder's rules without its processes and sockets: what a
 *          message of the daemon asks for, and what to do when it has ended.
 * Threads: none of its own; pure.
 * Units:   monotonic microseconds; delays in milliseconds.
 * Shapes:  a message is KEY=VALUE lines (sd_notify(3)); lines that are not
 *          known are passed over.
 * Errors:  none.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit code of a daemon that stopped in order to be followed by another one
 * (weir upgrade): nothing is in flight, the store is clean. */
#define HOLDER_HAND_OVER 75

/* Exit code of one that found the store in use. */
#define HOLDER_REFUSED 3

#define HOLDER_NAME_MAX  31
#define HOLDER_WORDS_MAX 1023

/* A run that served for so long was no failure to start. */
#define HOLDER_LASTED_US (250 * 1000)
/* So many deaths, none of which had lasted, within the time: give up. */
#define HOLDER_DEATHS           6
#define HOLDER_DEATHS_WITHIN_US (60 * INT64_C(1000000))

struct HolderMessage {
    bool is_ready;
    bool is_store;  /* keep the descriptor that came along, as name */
    bool is_forget; /* let go of the one called name */
    bool has_words;
    char name[HOLDER_NAME_MAX + 1];
    char words[HOLDER_WORDS_MAX + 1]; /* STATUS= */
};

/* @text need not end with a NUL. */
void holder_message_parse(const char *text, size_t len,
                          struct HolderMessage *message);

struct HolderCore {
    bool was_ready; /* some daemon of this mount was */
    bool is_ready;  /* the present one is */
    int64_t ready_us;
    unsigned deaths; /* in a row, none lasted */
    int64_t first_death_us;
    unsigned refusals; /* since one was ready */
};

enum HolderVerdict {
    HOLDER_END,     /* with exit_code */
    HOLDER_RESTART, /* in delay_ms */
    HOLDER_GIVE_UP, /* likewise an end; the connection dies with us */
};

struct HolderNext {
    enum HolderVerdict verdict;
    int exit_code;
    unsigned delay_ms;
};

void holder_core_started(struct HolderCore *core);
void holder_core_ready(struct HolderCore *core, int64_t now_us);
/* @status as of waitpid(2). @is_connected: the mount's connection is there,
 * so that somebody may be waiting for an answer. */
struct HolderNext holder_core_ended(struct HolderCore *core, int status,
                                    bool is_connected, int64_t now_us);
