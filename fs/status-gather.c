/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status-gather.c - ask everybody for their figures
 *
 * The only part of the status that is not pure. It may be called with the
 * target hung and the guest at full speed: every question here takes a short
 * lock or a system call on the local file system, and none of them touches
 * our own mount (rule 31).
 */
#include "status.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static void
gather_disk(const Store *store, Disk *disk, Relay *relay,
            struct StatusDisk *out)
{
    struct stat st;

    out->name = disk->name;
    out->target = disk->target;
    out->size_bytes = atomic_load(&disk->size_bytes);
    out->cluster_bits = disk->cluster_bits;
    out->is_cut = store_is_cut(store, disk);
    out->is_frozen = atomic_load(&disk->is_frozen);
    if (fstat(disk->map_fd, &st) == 0) {
        out->used_bytes = (uint64_t)st.st_blocks * 512;
    }
    store_disk_figures(disk, &out->map);
    if (disk->aside) {
        struct AsideFigures aside;

        aside_figures(disk->aside, &aside);
        out->aside_bytes = aside.kept_clusters << disk->cluster_bits;
    }
    if (relay != NULL && disk->target != NULL) {
        out->has_relay = relay_figures(relay, disk->name, &out->relay);
    }
}

static void
gather_snapshots(Store *store, struct StatusInput *input)
{
    Snapshot last;

    input->of = store;
    input->n_snapshots = snapshot_list_count(store->snapshots);
    input->has_hidden_snapshots =
        snapshot_list_hidden_at(store->snapshots, 0, NULL);
    input->snapshot_bytes = store_snapshots_bytes(store);
    if (snapshot_list_latest(store->snapshots, &last)) {
        input->last_snapshot_us = last.wall_us;
    }
    input->snapshot_every_s = store->settings.snapshot_every_s;
    input->snapshot_keep = store->settings.snapshot_keep;
}

void
status_gather(Store *store, Relay *relay, Face *face, const char *mountpoint,
              struct StatusInput *input)
{
    struct statvfs fs;

    memset(input, 0, sizeof(*input));
    input->now_us = g_get_monotonic_time();
    input->wall_us = g_get_real_time();
    input->store = store->path;
    input->mountpoint = mountpoint;
    input->is_served = store->is_served;
    input->checkpoints = atomic_load(&store->checkpoints);
    input->n_disks = store->n_disks;
    input->is_tight = atomic_load(&store->is_tight);
    input->aside_limit_bytes = atomic_load(&store->settings.buffer_bytes);
    input->in_place = store_is_in_place(store);
    input->held = store->cuts;
    for (unsigned i = 0; i < store->n_disks; i++) {
        gather_disk(store, store->disks[i], relay, &input->disks[i]);
        input->is_cut |= input->disks[i].is_cut;
    }
    gather_snapshots(store, input);
    if (fstatvfs(store->dir_fd, &fs) == 0) {
        input->host_free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    }
    if (relay != NULL) {
        input->bwlimit_bps = relay_bwlimit(relay);
    }
    if (face != NULL) {
        face_figures(face, &input->face);
    }
}
