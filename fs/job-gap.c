/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job-gap.c - what is written between an order and the instant of its job
 *
 * Backup programs add a bitmap that records nothing, merge others into it, and
 * begin a backup of it, all in one transaction; to them it is one instant. Here
 * the bitmaps change between two requests of the guest, and the instant of the
 * backup, which is a snapshot, takes a while: a directory, a sync, a hook that
 * freezes the guest. A cluster written in that time is in no bitmap that the
 * backup looks at, while others that it copies are of the instant: the two would
 * not fit together. So this records from before the bitmaps change until the
 * job knows what it is to copy; a little more is copied, and that is right.
 */
#include "job-gap.h"

#include <glib.h>

struct JobGap {
    DiskMap *disk;
    DiskMapRecorder recorder;
    bool is_attached;
};

JobGap *
job_gap_new(DiskMap *disk)
{
    JobGap *gap = g_new0(JobGap, 1);

    gap->disk = disk;
    gap->recorder.bits =
        bitmap_new(disk_map_size_bytes(disk), disk_map_cluster_bits(disk));
    if (gap->recorder.bits == NULL) {
        g_free(gap);
        return NULL;
    }
    disk_map_attach(disk, &gap->recorder);
    gap->is_attached = true;
    return gap;
}

static void
detach(JobGap *gap)
{
    if (gap->is_attached) {
        disk_map_detach(gap->disk, &gap->recorder);
        gap->is_attached = false;
    }
}

void
job_gap_free(JobGap *gap)
{
    if (gap != NULL) {
        detach(gap);
        bitmap_free(gap->recorder.bits);
        g_free(gap);
    }
}

void
job_gap_merge(JobGap *gap, DiskMap *job, int64_t now_us)
{
    uint64_t size = disk_map_size_bytes(job), at = 0;
    struct ClusterRun run;
    unsigned bits;

    if (gap == NULL) {
        return;
    }
    detach(gap);
    bits = bitmap_cluster_bits(gap->recorder.bits);
    while (bitmap_next_run(gap->recorder.bits, at, UINT64_MAX, &run)) {
        uint64_t offset = run.first << bits, len = run.count << bits;

        if (offset < size) {
            disk_map_mark(job, offset, MIN(len, size - offset), now_us);
        }
        at = run.first + run.count;
    }
}
