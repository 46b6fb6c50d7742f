/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * image.h - an existing image as the first content of a disk
 *
 * Purpose: `create --from`: looks at the image, and brings it into disk.raw by
 *          reflink where the file system can, else by a copy that keeps holes.
 * Threads: the main thread; blocks for as long as the copy takes.
 * Units:   bytes.
 * Errors:  gboolean + GError of STORE_ERROR.
 */
#pragma once

#include "store.h"

/* Open a raw image, or a block device, to read; -1 and words for what cannot
 * be one. */
int image_open(const char *path, uint64_t *size_bytes, GError **error);

/* @len is not 0. */
bool image_is_zero(const char *data, size_t len);

/* Its content into the empty file @to. Not synced. */
gboolean image_copy(StoreIo *io, int from, int to, uint64_t size_bytes,
                    GError **error);
