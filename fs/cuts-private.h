/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-private.h - what the files of the coordinator of cuts share
 *
 * Purpose: the one object, and the steps that it takes; cuts.c has the table.
 * Threads: main.
 */
#pragma once

#include "cut-hook.h"
#include "cuts.h"
#include "snapshot.h"

struct Cuts {
    struct CutsConfig config;
    enum CutsState state;
    struct FaceCut cut; /* under way, or the last one */
    uint64_t number;    /* its number */
    uint64_t past;      /* ids up to this one are not younger than it */
    char snapshot_name[STORE_NAME_MAX + 1]; /* if it is a snapshot's */
    bool is_unkept;  /* what it takes to bring a snapshot cannot be kept */
    uint64_t warned; /* of snapshots up to this one, because of that */
    /* By Disk.index: something was marked that no checkpoint has. */
    bool is_unsaved[STORE_DISKS_MAX];
    uint64_t reserved; /* the state says it is begun, and it is not yet; or 0 */
    int64_t again_us;  /* a cut that was not to be had, not before */
    bool is_degraded, is_waiting, is_looking, is_save_failing;
    bool is_told[STORE_DISKS_MAX]; /* relay: the disk is cut; by Disk.index */
    const Disk *waits_for;
    bool has_begun;
    int64_t begun_us; /* when the last cut did */
    uint64_t wanted;  /* somebody waits for this one, or for what comes after */
    uint64_t settled; /* the last one that is whole, its hook included */
    uint64_t whole, degraded;
    guint timer;

    CutHook *hook;
    unsigned failures; /* in a row */
    uint64_t failed;
    int64_t retry_us; /* the hook, not before */
    char error[CUTS_TEXT];

    bool is_risky;       /* the next cut is likely to be given up */
    uint64_t asked;      /* before-degrade was run for what held this number */
    int64_t patience_us; /* ... and is waited for until then */
    char before_error[CUTS_TEXT];
};

/* cuts-group.c */
/* The store's numbers become @next, durably; else they are as before. */
bool cuts_keep(Cuts *cuts, const struct StoreCuts *next);
/* Before the target of @disk is written otherwise than by a cut: durably, it
 * holds none. */
bool cuts_part(Cuts *cuts, Disk *disk);
bool cuts_is_member(const Cuts *cuts, const Disk *disk);
bool cuts_has_members(const Cuts *cuts);
/* Some disk of the group has what the targets do not hold, or they are not the
 * cut that was whole last. */
bool cuts_is_owing(const Cuts *cuts);
/* Where @disk is in the cut under way, or -1. */
int cuts_find(const Cuts *cuts, const Disk *disk);
void cuts_end_aside(Cuts *cuts, Disk *disk);
void cuts_end_all_aside(Cuts *cuts);
/* The relay follows the settings. */
void cuts_regroup(Cuts *cuts);

/* cuts-snapshot.c */
unsigned cuts_pending(const Cuts *cuts);
bool cuts_has_pending(const Cuts *cuts);
/* What the next cut is of. */
void cuts_choose(Cuts *cuts);
/* If it is a snapshot's; false: not this one, and not now. */
bool cuts_mark_before(Cuts *cuts);
void cuts_mark_after(Cuts *cuts);
/* It is whole, durably. */
void cuts_was_brought(Cuts *cuts);
/* A disk of which the snapshot that is brought cannot be read; NULL: none. */
const Disk *cuts_find_lost(const Cuts *cuts);
void cuts_lose_snapshot(Cuts *cuts, const Disk *disk);
/* Of an earlier life: what the targets hold may be a snapshot whose record does
 * not say so yet. */
void cuts_recall(Cuts *cuts);

/* cuts-pin.c */
void cuts_step_hook(Cuts *cuts, int64_t now_us);
void cuts_step_pinned(Cuts *cuts, int64_t now_us);
/* @command, with the cut that cuts->cut and number say in its environment. */
void cuts_run_hook(Cuts *cuts, const char *command);
/* The hook's `done`; @user is the Cuts. */
void cuts_hook_cb(void *user, const char *words);

/* cuts-before.c */
void cuts_weigh(Cuts *cuts); /* a cut is whole, before its copies are dropped */
/* before-degrade runs now, and the cut that is due comes after it; false: there
 * is nothing to be told. The group is gathered. */
bool cuts_ask_before(Cuts *cuts, int64_t now_us);
void cuts_before_done(Cuts *cuts, const char *words);
void cuts_step_before(Cuts *cuts, int64_t now_us);

/* Data of an event, and the event. */
JsonObject *cuts_number_object(uint64_t number);
JsonObject *cuts_object(const Cuts *cuts); /* ... and of what it is */
void cuts_tell(Cuts *cuts, const char *name, JsonObject *data);
