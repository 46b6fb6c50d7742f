/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * zero-file.h - the zero list's record file, STORE/NAME/zeroes
 *
 * Purpose: read the newest record that counts, write one that outlives the
 *          power. The face writes the ones in between itself, on its ring.
 * Threads: any one.
 * Shapes:  see zero-list.h.
 * Errors:  0 or -errno. A slot that cannot be read is none (rule 23).
 */
#pragma once

#include "bitmap/store-io.h"
#include "zero-list.h"

#define ZERO_FILE       "zeroes"
#define ZERO_FILE_BYTES (2 * ZERO_RECORD_BYTES)

/* The newest record of @epoch_before or later into @list; an empty list, and
 * @sequence 0, if there is none. False: both slots were written, and no record
 * of any epoch can be read in them. */
bool zero_file_load(StoreIo *io, int fd, uint64_t size_bytes,
                    uint64_t epoch_before, ZeroList *list, uint64_t *sequence);
/* @list as the record of both slots, durably. */
int zero_file_save(StoreIo *io, int fd, const ZeroList *list, uint64_t sequence,
                   uint64_t epoch);
