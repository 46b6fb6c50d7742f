/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cut-hook.h - the commands that are run for cuts and snapshots
 *
 * Purpose: one run at a time of a shell command, in a process group of its
 *          own, with what it is about in its environment; says how it ended.
 * Threads: main; `done` comes from its GMainContext.
 * Errors:  a command that cannot be started, or that fails, is an end like any
 *          other: in words.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct CutHook CutHook;

struct CutHookRun {
    const char *command;  /* for /bin/sh -c */
    uint64_t cut;         /* WEIR_CUT; 0: it is not about one */
    int64_t wall_us;      /* ... and then WEIR_TIME */
    const char *store;    /* WEIR_STORE */
    const char *disks;    /* WEIR_DISKS */
    const char *snapshot; /* WEIR_SNAPSHOT; NULL: it is not about one */
};

/* @words: NULL if the command succeeded, else its status and the last line
 * that it wrote to stderr. */
CutHook *cut_hook_new(void (*done)(void *user, const char *words), void *user);
/* What runs gets SIGTERM and is not waited for. */
void cut_hook_free(CutHook *hook);
/* As that, but what runs goes on: it is listened to for up to @wait_ms, until
 * it has nothing more to say, and then left to itself. */
void cut_hook_leave(CutHook *hook, int wait_ms);
/* Nothing is running. `done` follows, never from within. */
void cut_hook_run(CutHook *hook, const struct CutHookRun *run);
/* As cut_hook_free(): `done` does not follow. */
void cut_hook_stop(CutHook *hook);
/* What runs gets @number, and `done` follows when it has ended. */
void cut_hook_signal(CutHook *hook, int number);
bool cut_hook_is_running(const CutHook *hook);
/* Is @command, which may be NULL, the one that was run last? */
bool cut_hook_is(const CutHook *hook, const char *command);

/* "2026-11-23T01:02:03Z" */
char *cut_time_text(int64_t wall_us);
