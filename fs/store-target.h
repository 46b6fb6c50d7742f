/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-target.h - a target as the user writes it, before it is kept
 *
 * Purpose: checks what `create` and `set` are given; a plain path becomes an
 *          absolute one, and a file that does not exist yet is made there,
 *          sparse, of the disk's size.
 * Threads: the main thread.
 * Units:   bytes.
 * Errors:  gboolean + GError: STORE_ERROR_TARGET for a target that is
 *          malformed or refused.
 */
#pragma once

#include "store.h"

struct StoreTarget {
    char *text; /* the target, as weir.conf keeps it */
    char *path; /* file to be made, or NULL */
    uint64_t size_bytes;
    bool is_made;
};

/* Checks; touches nothing. @store: path of the store, which the target must
 * not lie in. */
gboolean store_target_prepare(struct StoreTarget *target, const char *text,
                              const char *store, uint64_t size_bytes,
                              gboolean insecure, GError **error);
/* Two disks of a store with one target would each take the other's for a damaged
 * copy of its own, or overwrite it. @disk: whose it is to be, or NULL. */
gboolean store_target_is_free(const Store *store, const Disk *disk,
                              const char *text, GError **error);
/* Makes the file, if there is one to be made. */
gboolean store_target_make(struct StoreTarget *target, GError **error);
/* Takes it back. */
void store_target_unmake(struct StoreTarget *target);
void store_target_deinit(struct StoreTarget *target);

/* Is @text a plain path (or file: short for an nbdkit on it)? */
bool store_target_is_path(const char *text);
