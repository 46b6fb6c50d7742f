/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-import.h - a bitmap of a QEMU's, on its way into one of ours
 *
 * Purpose: what the socket's command and the command line share of an import:
 *          the other side is read to its end, into bits that nobody else sees;
 *          only then are they put into a bitmap, all of them or none
 *          (store_bitmap_import()). What breaks off has changed nothing.
 * Threads: reading: as import_bitmap(), relay/import.h.
 * Units:   bytes.
 * Errors:  gboolean + GError of STORE_ERROR: TARGET for what only the user can
 *          mend, else FAILED.
 */
#pragma once

#include "bitmap/bitmap.h"
#include "relay/import.h"
#include "store.h"

typedef struct BitmapImport {
    char *source, *bitmap; /* as in struct ImportConfig; owned */
    gboolean insecure;
    bool (*is_cancelled)(void *user);
    void *user;

    Bitmap *bits;            /* of the disk's size, in grains of ours; owned */
    uint64_t bytes, extents; /* dirty, as the other side counts */
} BitmapImport;

/* For a disk of @size_bytes. The rest is the caller's to set. */
gboolean bitmap_import_init(BitmapImport *import, uint64_t size_bytes,
                            unsigned grain_bits, GError **error);
void bitmap_import_deinit(BitmapImport *import);
gboolean bitmap_import_read(BitmapImport *import, GError **error);
