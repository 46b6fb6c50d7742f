/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rollback.h - the disks of a store at rest become a snapshot again
 *
 * Purpose: `weir rollback`. What the disks were is kept as a snapshot, and so
 *          are all others. If it is interrupted nobody else may write the store
 *          before another rollback, to this snapshot or to any other, has ended.
 * Threads: main. Blocks.
 * Units:   bytes.
 * Errors:  gboolean + GError of STORE_ERROR.
 */
#pragma once

#include "store.h"

struct Rollback {
    const char *path; /* of the store */
    const char *name; /* of the snapshot */
    /* Now and then; of what was overwritten since the snapshot. */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t all_bytes);
    /* Something that whoever asked should know: a line, without its end. */
    void (*say)(void *user, const char *line);
    void *user;
};

gboolean store_rollback(StoreIo *io, const struct Rollback *rollback,
                        GError **error);
