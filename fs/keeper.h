/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * keeper.h - checkpoints in the background, and extents that get cold
 *
 * Purpose: keeps small what a crash of a served store would cost: the dirty
 *          bitmap on disk follows the one in memory, and extents that are not
 *          written any more leave the intent file.
 * Threads: keeper_* functions are the main thread's. The keeper has one of its
 *          own, which may block in a sync; nobody waits for it but
 *          keeper_free(). It waits for the fs thread, which must be there
 *          until then.
 * Units:   microseconds.
 * Errors:  said in the log, once per disk until it works again; extents just
 *          stay hot then. A failed sync of disk.raw freezes the disk.
 */
#pragma once

#include "face.h"

typedef struct Keeper Keeper;

#define KEEPER_PERIOD_US (10 * G_USEC_PER_SEC)

/* Starts the thread. @face is NULL for a store that is served without one:
 * checkpoints only. */
Keeper *keeper_new(Store *store, Face *face, gint64 period_us);
/* Ends it: at most one sync and one checkpoint later. */
void keeper_free(Keeper *keeper);
