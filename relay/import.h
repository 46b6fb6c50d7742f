/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * import.h - a dirty bitmap of somebody else's, read over NBD
 *
 * Purpose: what a QEMU, or qemu-nbd -B, offers as qemu:dirty-bitmap:NAME, so
 *          that a disk which moves to weir takes its bitmap along, and the next
 *          backup of it is an incremental one.
 * Threads: synchronous; the caller's, which must be one of its own, or a
 *          command's only one: it becomes a relay thread (thread-role.h).
 * Units:   bytes, microseconds.
 * Errors:  gboolean + GError of RELAY_ERROR, words for the user: TARGET for
 *          what only the user can mend, else FAILED.
 * Source:  the NBD protocol's metadata contexts, QEMU's docs/interop/nbd.txt.
 */
#pragma once

#include "relay.h"

#include <stdbool.h>

struct ImportConfig {
    const char *source;  /* as a target is written, see target-uri.h */
    const char *bitmap;  /* its name there */
    gboolean insecure;   /* plain TCP beyond loopback is fine (rule 28) */
    uint64_t most_bytes; /* of a larger export it is not a bitmap of our disk */
    int64_t deadline_us; /* of each answer */
    /* Ranges in order, apart, within the export. */
    void (*dirty)(void *user, uint64_t offset, uint64_t len);
    bool (*is_cancelled)(void *user); /* asked now and then; NULL: never */
    void *user;
};

gboolean import_bitmap(const struct ImportConfig *config, GError **error);
