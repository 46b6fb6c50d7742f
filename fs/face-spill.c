/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies for a cut that have no place in memory: when half of the buffers are
 * taken the oldest are written to the file of copies, or dropped if they were
 * settled meanwhile. While the host's room is about to end (is_tight) nothing is
 * written there, and what is there is given up with its cut.
 *
 * When a cut ends its copies in the file are punched, before the next one
 * writes there; until then it has the buffers only.
 */
#include "face-wire.h"

#include <errno.h>
#include <linux/falloc.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static uint64_t
cluster_bytes(const FaceDisk *disk)
{
    return UINT64_C(1) << disk->disk->cluster_bits;
}

/*
 * The end of a cut
 */

static void
file_emptied(FaceIo *io, int res)
{
    FaceAside *aside = (FaceAside *)((char *)io - offsetof(FaceAside, empty));

    (void)res; /* copies that nobody reads: they are overwritten */
    aside->is_emptying = false;
}

/* Writes of old copies that are still under way must not meet new ones. */
void
face_spill_empty(FaceDisk *disk)
{
    FaceAside *aside = &disk->aside;

    /* Who brings a cut that was given up to the target still reads there. */
    if (!aside->is_old || aside->n_spilling || aside->is_emptying ||
        (!aside_is_on(disk->disk->aside) &&
         disk_map_sealed_seq(disk->disk->map))) {
        return;
    }
    aside->is_old = false;
    aside->is_emptying = true;
    aside->empty.store = (StoreReq){.op = STORE_FALLOCATE,
                                    .fd = disk->disk->aside_fd,
                                    .mode = PUNCH,
                                    .len = disk->disk->size_bytes};
    face_submit(disk->face, &aside->empty, file_emptied);
}

/*
 * Buffers to the file
 */
static void
spilled(FaceIo *io, int res)
{
    struct FaceSpill *spill =
        (struct FaceSpill *)((char *)io - offsetof(struct FaceSpill, io));
    FaceDisk *disk = spill->disk;
    bool is_written = res == (int)cluster_bytes(disk);

    spill->disk = NULL;
    disk->aside.n_spilling--;
    aside_spilled(disk->disk->aside, spill->buffer, is_written);
    if (!is_written && spill->life == disk->aside.life) {
        face_aside_give_up(disk, res < 0 ? res : -ENOSPC);
    }
}

static void
spill_one(FaceDisk *disk, struct FaceSpill *spill, const void *buffer,
          uint64_t cluster)
{
    spill->disk = disk;
    spill->buffer = buffer;
    spill->life = disk->aside.life;
    spill->io.store = (StoreReq){.op = STORE_WRITE,
                                 .fd = disk->disk->aside_fd,
                                 .buf = (void *)buffer,
                                 .offset = cluster << disk->disk->cluster_bits,
                                 .len = cluster_bytes(disk)};
    disk->aside.n_spilling++;
    face_submit(disk->face, &spill->io, spilled);
}

static bool
wants_spill(const FaceDisk *disk)
{
    struct AsideFigures figures;

    if (!aside_is_on(disk->disk->aside) || disk->aside.is_old ||
        disk->aside.is_emptying || disk->disk->aside_fd < 0) {
        return false;
    }
    aside_figures(disk->disk->aside, &figures);
    return figures.free_buffers < figures.buffers / 2;
}

/* What is in the file has the room that the guest is about to need. */
static void
give_room(FaceDisk *disk)
{
    struct AsideFigures figures;

    if (aside_is_on(disk->disk->aside)) {
        aside_figures(disk->disk->aside, &figures);
        if (figures.file_clusters) {
            face_aside_give_up(disk, -ENOSPC);
        }
    }
}

void
face_spill_run(FaceDisk *disk)
{
    if (atomic_load(&disk->face->config.store->is_tight)) {
        give_room(disk);
        return;
    }
    for (unsigned i = 0; i < FACE_SPILLS && wants_spill(disk); i++) {
        struct ClusterRun owed;
        const void *buffer;
        uint64_t cluster;

        if (disk->aside.spills[i].disk) {
            continue;
        }
        buffer = aside_spill(disk->disk->aside, &cluster);
        if (!buffer) {
            break;
        }
        if (disk_map_next_owed(disk->disk->map, cluster, cluster + 1, &owed)) {
            spill_one(disk, &disk->aside.spills[i], buffer, cluster);
        } else {
            aside_drop(disk->disk->aside, buffer);
        }
    }
}
