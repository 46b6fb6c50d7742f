/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-import.c - a bitmap of a QEMU's, on its way into one of ours
 *
 * However many extents the other side has, they take no more room than the bits
 * of our own bitmap; and putting them in is a merge, which takes as long as one of
 * two bitmaps of the disk.
 */
#include "bitmap-import.h"

#define DEADLINE_US (30 * G_USEC_PER_SEC) /* of each answer */

gboolean
bitmap_import_init(BitmapImport *import, uint64_t size_bytes,
                   unsigned grain_bits, GError **error)
{
    *import = (BitmapImport){.bits = bitmap_new(size_bytes, grain_bits)};
    if (import->bits == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no memory for a bitmap of %u bytes a bit: a coarser "
                    "granularity needs less",
                    1u << grain_bits);
    }
    return import->bits != NULL;
}

void
bitmap_import_deinit(BitmapImport *import)
{
    g_clear_pointer(&import->source, g_free);
    g_clear_pointer(&import->bitmap, g_free);
    g_clear_pointer(&import->bits, bitmap_free);
}

static void
dirty_cb(void *user, uint64_t offset, uint64_t len)
{
    BitmapImport *import = user;

    (void)bitmap_set_bytes(import->bits, offset, len);
    import->bytes += len;
    import->extents++;
}

static bool
is_cancelled_cb(void *user)
{
    const BitmapImport *import = user;

    return import->is_cancelled(import->user);
}

gboolean
bitmap_import_read(BitmapImport *import, GError **error)
{
    struct ImportConfig config = {
        .source = import->source,
        .bitmap = import->bitmap,
        .insecure = import->insecure,
        .most_bytes = bitmap_size_bytes(import->bits),
        .deadline_us = DEADLINE_US,
        .dirty = dirty_cb,
        .is_cancelled = is_cancelled_cb,
        .user = import,
    };
    g_autoptr(GError) why = NULL;
    gboolean ok = import_bitmap(&config, &why);

    if (!ok) {
        bool is_refused = g_error_matches(why, RELAY_ERROR, RELAY_ERROR_TARGET);

        g_set_error(error, STORE_ERROR,
                    is_refused ? STORE_ERROR_TARGET : STORE_ERROR_FAILED, "%s",
                    why->message);
    }
    return ok;
}
