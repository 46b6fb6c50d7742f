/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cut-hook.h - the command that is run for a whole cut
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
    const char *command; /* for /bin/sh -c */
    uint64_t cut;        /* WEIR_CUT */
    int64_t wall_us;     /* WEIR_TIME */
    const char *store;   /* WEIR_STORE */
    const char *disks;   /* WEIR_DISKS */
};

/* @words: NULL if the command succeeded, else its status and the last line
 * that it wrote to stderr. */
CutHook *cut_hook_new(void (*done)(void *user, const char *words), void *user);
/* What runs gets SIGTERM and is not waited for. */
void cut_hook_free(CutHook *hook);
/* Nothing is running. `done` follows, never from within. */
void cut_hook_run(CutHook *hook, const struct CutHookRun *run);
/* As cut_hook_free(): `done` does not follow. */
void cut_hook_stop(CutHook *hook);
bool cut_hook_is_running(const CutHook *hook);
/* Is @command, which may be NULL, the one that was run last? */
bool cut_hook_is(const CutHook *hook, const char *command);

/* "2026-11-23T01:02:03Z" */
char *cut_time_text(int64_t wall_us);
