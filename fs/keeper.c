/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * keeper.c - rounds over the tracked disks of a served store
 *
 * A round for a disk, every ten seconds, or sooner while a great many extents
 * are hot (then a crash would have much to compare):
 *
 *   candidates: hot, and not written since the last round
 *   none, and little was settled since the last checkpoint? nothing to do
 *   checkpoint: union of the bits, sync of disk.raw, bitmap, sync
 *   the fs thread turns off what of the candidates is still untouched
 *
 * So a guest that keeps writing the same extents costs nothing at all, and a
 * drain of a disk at rest makes a checkpoint per GiB, so that a crash does not
 * send it all again. Rule 3 is in the order of these steps; disk-map-heat.c
 * says why it holds, store-track.c has the checkpoint.
 */
#include "keeper.h"

#include "bitmap/intent.h"

#define LOOK_US      (G_USEC_PER_SEC / 2)
#define HURRY_US     (5 * G_USEC_PER_SEC)
#define HURRY_HOT    (UINT64_C(64) << 10) /* extents: 256 GiB to compare */
#define SETTLED_MUCH (UINT64_C(1) << 30)  /* bytes */

struct KeptDisk {
    gint64 round_us;  /* of the last round */
    uint64_t settled; /* clusters, by disk_settled(), at the last checkpoint */
    bool is_failing;
};

struct Keeper {
    Store *store;
    Face *face;
    gint64 period_us;
    GThread *thread;
    struct KeptDisk disks[STORE_DISKS_MAX]; /* the keeper's thread */

    GMutex lock;
    GCond cond;
    bool is_stopping; /* guarded by lock */
};

/* Clusters that got clean, ever. */
static uint64_t
settled_clusters(const struct DiskMapFigures *figures)
{
    return figures->dirtied_clusters - figures->dirty_clusters;
}

static void
say_failed(struct KeptDisk *kept, const Disk *disk, int err)
{
    if (kept->is_failing) {
        return;
    }
    kept->is_failing = true;
    if (atomic_load(&disk->is_frozen)) {
        g_critical("%s: a sync of the local disk failed: %s: writes are "
                   "refused until it is checked (weir umount, weir check)",
                   disk->name, g_strerror(-err));
    } else {
        g_warning("%s: the dirty bitmap cannot be saved: %s: a crash would "
                  "cost more; it is tried again",
                  disk->name, g_strerror(-err));
    }
}

/* @candidates are hot and were not written for a while. */
static void
checkpoint(Keeper *keeper, Disk *disk, Bitmap *candidates, uint64_t settled)
{
    struct KeptDisk *kept = &keeper->disks[disk->index];
    int err = store_checkpoint_map(keeper->store, disk);
    Bitmap *cooled;

    if (err) {
        say_failed(kept, disk, err);
        return;
    }
    kept->is_failing = false;
    kept->settled = settled;
    if (bitmap_count(candidates) == 0) {
        return;
    }
    cooled = bitmap_new(bitmap_size_bytes(candidates), INTENT_EXTENT_BITS);
    if (cooled) {
        face_cool(keeper->face, disk, candidates, cooled);
        bitmap_free(cooled);
    }
}

static void
make_round(Keeper *keeper, Disk *disk, const struct DiskMapFigures *figures)
{
    const struct KeptDisk *kept = &keeper->disks[disk->index];
    uint64_t settled = settled_clusters(figures);
    bool is_much =
        (settled - kept->settled) << disk->cluster_bits >= SETTLED_MUCH;
    Bitmap *candidates;

    if (!is_much && (!keeper->face || !figures->hot_extents)) {
        return;
    }
    candidates = bitmap_new(disk_map_size_bytes(disk->map), INTENT_EXTENT_BITS);
    if (!candidates) {
        return;
    }
    if (keeper->face) {
        disk_map_cool_begin(disk->map, candidates);
    }
    if (is_much || bitmap_count(candidates)) {
        checkpoint(keeper, disk, candidates, settled);
    }
    bitmap_free(candidates);
}

static void
look_at(Keeper *keeper, Disk *disk)
{
    struct KeptDisk *kept = &keeper->disks[disk->index];
    gint64 now_us = g_get_monotonic_time();
    struct DiskMapFigures figures;
    gint64 period_us = keeper->period_us;

    if (!disk->is_tracked || atomic_load(&disk->is_frozen)) {
        return;
    }
    disk_map_figures(disk->map, &figures);
    if (figures.hot_extents > HURRY_HOT) {
        period_us = MIN(period_us, HURRY_US);
    }
    if (now_us - kept->round_us >= period_us) {
        make_round(keeper, disk, &figures);
        kept->round_us = g_get_monotonic_time();
    }
}

static gpointer
keeper_run(gpointer data)
{
    Keeper *keeper = data;

    g_mutex_lock(&keeper->lock);
    while (!keeper->is_stopping) {
        gint64 until_us =
            g_get_monotonic_time() + MIN(LOOK_US, keeper->period_us);

        while (!keeper->is_stopping &&
               g_cond_wait_until(&keeper->cond, &keeper->lock, until_us)) {
        }
        for (unsigned i = 0; !keeper->is_stopping && i < keeper->store->n_disks;
             i++) {
            g_mutex_unlock(&keeper->lock);
            look_at(keeper, keeper->store->disks[i]);
            g_mutex_lock(&keeper->lock);
        }
    }
    g_mutex_unlock(&keeper->lock);
    return NULL;
}

Keeper *
keeper_new(Store *store, Face *face, gint64 period_us)
{
    Keeper *keeper = g_new0(Keeper, 1);
    gint64 now_us = g_get_monotonic_time();

    keeper->store = store;
    keeper->face = face;
    keeper->period_us = period_us;
    g_mutex_init(&keeper->lock);
    g_cond_init(&keeper->cond);
    for (unsigned i = 0; i < store->n_disks; i++) {
        struct DiskMapFigures figures;

        disk_map_figures(store->disks[i]->map, &figures);
        keeper->disks[i].settled = settled_clusters(&figures);
        keeper->disks[i].round_us = now_us;
    }
    keeper->thread = g_thread_new("keeper", keeper_run, keeper);
    return keeper;
}

void
keeper_free(Keeper *keeper)
{
    g_mutex_lock(&keeper->lock);
    keeper->is_stopping = true;
    g_cond_signal(&keeper->cond);
    g_mutex_unlock(&keeper->lock);
    g_thread_join(keeper->thread);
    g_mutex_clear(&keeper->lock);
    g_cond_clear(&keeper->cond);
    g_free(keeper);
}
