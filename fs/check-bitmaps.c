/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check-bitmaps.c - `weir check`: the named bitmaps of a disk
 *
 * A list that is damaged is the end of the bitmaps of its disk, and nobody else
 * knows their names: --repair deletes it, and then their files, which are left
 * over. One that a newer weir wrote, or that cannot be read, is let be, and so
 * are the files beside it.
 *
 * What of a bitmap's file cannot be believed counts as changed. --repair writes
 * a file that says so, newer than any, but in the place of a newer weir's. Of one
 * that recorded when a crash came it says that of all: the extents that are hot
 * for an older file are not for this one.
 */
#include "check-private.h"
#include "snapshot-private.h"
#include "store-bitmaps-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define WHERE STORE_BITMAPS "/"

struct Bitmaps {
    struct Check *check;
    const struct ConfDisk *disk;
    int dir_fd;
    uint64_t sequence; /* that what records is of */
    GArray *list;      /* KeptBitmap */
    bool is_unknown;   /* nobody knows which files are needed */
};

static void
mend_file(const struct Bitmaps *of, const struct ListedBitmap *listed,
          unsigned slot, Bitmap *bits, const struct BitmapFileReport *report)
{
    struct Check *check = of->check;
    /* Which extents are hot for it went by its sequence. */
    bool is_lost = !check->state.is_clean && bitmaps_records_in(listed, slot);
    g_autofree char *what = g_strdup_printf(
        "disk %s: bitmap %s: %s is dirty", of->disk->name, listed->name,
        is_lost ? "all of it" : "what was damaged");
    char name[STORE_BITMAP_NAME];
    struct BitmapFile file = {.name = name, .map = bits, .is_indexed = true};
    uint64_t sequence =
        MAX(MAX(report->newest, check->state.sequence), listed->sequence) + 1;
    int err;

    if (is_lost) {
        bitmap_set_all(bits);
    }
    bitmaps_file_name(name, listed->id, slot);
    memcpy(file.uuid, check->conf.uuid, sizeof(file.uuid));
    err = check->io->ops->unlink(check->io, of->dir_fd, name, 0);
    err = err == -ENOENT ? 0 : err;
    err =
        err ? err : bitmap_file_save(check->io, of->dir_fd, &file, 1, sequence);
    check_mended(check, err, what);
}

static bool
is_newer(const struct Bitmaps *of, const struct ListedBitmap *listed,
         unsigned slot)
{
    char name[STORE_BITMAP_NAME];

    bitmaps_file_name(name, listed->id, slot);
    return bitmap_file_is_newer(of->check->io, of->dir_fd, name,
                                of->check->conf.uuid);
}

static void
check_file(const struct Bitmaps *of, const struct ListedBitmap *listed,
           unsigned slot)
{
    struct Check *check = of->check;
    Bitmap *bits = bitmap_new(of->disk->size_bytes, listed->grain_bits);
    struct BitmapFileReport report;
    const char *what = "no memory to check it";

    if (bits) {
        what = bitmaps_file_load(
            check->io, of->dir_fd, check->conf.uuid, listed, slot,
            bitmaps_file_least(listed, slot, of->sequence), bits, &report);
    }
    if (what) {
        check_tell(check, CHECK_DAMAGE,
                   "disk %s: bitmap %s: %s: what cannot be believed counts as "
                   "changed, nothing is lost",
                   of->disk->name, listed->name, what);
    }
    if (what && bits && check->repairs && !is_newer(of, listed, slot)) {
        mend_file(of, listed, slot, bits, &report);
    }
    bitmap_free(bits);
}

static void
mend_list(struct Bitmaps *of)
{
    struct Check *check = of->check;
    g_autofree char *what = g_strdup_printf(
        "disk %s: " WHERE STORE_BITMAPS_LIST " is deleted", of->disk->name);
    int err =
        check->io->ops->unlink(check->io, of->dir_fd, STORE_BITMAPS_LIST, 0);

    err = err ? err : check->io->ops->fsync(check->io, of->dir_fd);
    of->is_unknown = err != 0;
    check_mended(check, err, what);
}

static void
check_list(struct Bitmaps *of)
{
    struct Check *check = of->check;
    bool is_foreign;
    const char *why = bitmaps_list_load(check->io, of->dir_fd, check->conf.uuid,
                                        of->disk->id, of->list, &is_foreign);

    if (!why) {
        return;
    }
    of->is_unknown = true;
    check_tell(check, CHECK_DAMAGE,
               "disk %s: " WHERE STORE_BITMAPS_LIST ": %s: %s", of->disk->name,
               why,
               is_foreign ? "none of its bitmaps is there until that is mended"
                          : "its bitmaps are lost: add them anew, and make a "
                            "full backup");
    if (check->repairs && !is_foreign) {
        mend_list(of);
    }
}

static void
look_at_name(const char *name, void *user)
{
    const struct Bitmaps *of = user;
    g_autofree char *where = g_strconcat(of->disk->name, "/" WHERE, NULL);
    bool is_ours = !strcmp(name, ".") || !strcmp(name, "..") ||
                   !strcmp(name, STORE_BITMAPS_LIST) || of->is_unknown ||
                   bitmaps_list_needs(of->list, name);

    if (is_ours) {
        return;
    }
    if (bitmaps_file_id(name) || store_is_leftover(name)) {
        check_leftover(of->check, where, of->dir_fd, name);
    } else {
        check_tell(of->check, CHECK_NOTE, "%s%s is not weir's", where, name);
    }
}

void
check_bitmaps(struct Check *check, const struct ConfDisk *disk, int disk_fd)
{
    const struct StateDisk *known = state_disk(&check->state, disk->id);
    struct Bitmaps of = {
        .check = check, .disk = disk, .sequence = known ? known->recorded : 0};

    of.dir_fd = check->io->ops->open(check->io, disk_fd, STORE_BITMAPS,
                                     STORE_DIR_FLAGS, 0);
    if (of.dir_fd < 0) {
        if (of.dir_fd != -ENOENT) {
            check_tell(check, CHECK_DAMAGE,
                       "disk %s: " STORE_BITMAPS " cannot be opened: %s",
                       disk->name, g_strerror(-of.dir_fd));
        }
        return;
    }
    of.list = g_array_new(FALSE, FALSE, sizeof(struct KeptBitmap));
    check_list(&of);
    for (guint i = 0; i < of.list->len; i++) {
        const struct ListedBitmap *listed =
            &g_array_index(of.list, struct KeptBitmap, i).listed;

        check_file(&of, listed, listed->slot);
        if (listed->is_busy) {
            check_file(&of, listed, !listed->slot);
        }
    }
    (void)snapshot_files_names(of.dir_fd, look_at_name, &of);
    g_array_unref(of.list);
    check->io->ops->close(check->io, of.dir_fd);
}
