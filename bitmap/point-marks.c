/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * point-marks.c - what has to be dirty for a snapshot to be brought to a target
 *
 * No generation is sealed at a snapshot's instant. When it is to be brought to
 * the target, at any later time, let U be what was overwritten since it: what
 * its point and the younger ones have. Then
 *
 *   1. U is marked in the open generation
 *   2. that is sealed, and nothing else is sealed at that time
 *   3. U is marked again, in the generation that is open now
 *   4. what was sealed is brought, each cluster as the snapshot has it
 *
 * and once all of it is settled the target is the snapshot, exactly:
 *
 *   - A cluster that was not sealed was clean, so the target had what the disk
 *     had at the seal; and it was not in U, so that was what the snapshot has.
 *   - One that was sealed gets the snapshot's content, from a point or, where it
 *     was not overwritten, from the disk.
 *
 * How much was dirty before, how often the daemon was started anew since, and
 * what the target held does not matter.
 *
 * Afterwards the target differs from the disk in U, as U is by then, and that is
 * dirty: what was overwritten before 3 is marked by it, what is overwritten
 * later by its own write. A cluster is clean only if both have the same, now as
 * ever; whoever looks at clean ones needs to know nothing of snapshots.
 *
 * The guest goes on through all of that. A write copies first, which puts its
 * clusters in U, and marks when it begins:
 *
 *   copied before 1                   in U for 1 and 3
 *   copied after 1, begun before 2    marked by itself for 2, in U for 3
 *   copied before 2, begun after it   at 2 the disk has what the snapshot has;
 *                                     marked by itself for 3
 *   copied after 2                    likewise
 *
 * So 1 and 3 need no instant, and are not made by the thread that serves the
 * guest; the seal alone is.
 *
 * What 1 finds clean is nothing that a crash would find dirty: no write has made
 * it hot. (The snapshot was taken while the target got the newest content, or a
 * comparison after a crash has found both sides equal.) From 4 on the target
 * has older content there: it has to be in a checkpoint first.
 *
 * The disk may have grown since. A cluster behind the snapshot's end is dealt
 * with like any other: a younger point may have it, and then it is in U; the
 * snapshot itself has nothing there, so that what the target gets is as good as
 * anything, as long as the disk's own follows.
 *
 * The map may have other clusters than the points: that of a job has. Then what
 * touches U is marked, which is more than U, and right for the same reasons.
 */
#include "point-marks.h"

#include "mutant.h"

/* Of the map: the lock is held for some ten microseconds. */
#define SLICE_CLUSTERS (UINT64_C(1) << 16)

/* Bytes up to @end, which are not behind the disk's. */
static bool
mark_bytes(DiskMap *map, uint64_t offset, uint64_t end, int64_t now_us)
{
    unsigned bits = disk_map_cluster_bits(map);
    uint64_t most = SLICE_CLUSTERS << bits;
    bool is_new = false;

    for (uint64_t next; offset < end; offset = next) {
        next = end - offset < most ? end : offset + most;
        is_new = is_new || disk_map_next_clean(map, offset >> bits) <
                               clusters_for(next, bits);
        disk_map_mark(map, offset, next - offset, now_us);
    }
    return is_new;
}

static bool
mark_changed(Points *points, uint64_t id, DiskMap *map, int64_t now_us)
{
    uint64_t size = disk_map_size_bytes(map), clusters;
    struct ClusterRun run = {0, 0};
    struct PointFigures figures;
    bool is_new = false;

    if (!points_figures(points, id, &figures)) {
        return false;
    }
    clusters = clusters_for(size, figures.cluster_bits);
    while (points_next_changed(points, id, 0, run.first + run.count, clusters,
                               &run)) {
        uint64_t end = (run.first + run.count) << figures.cluster_bits;

        is_new |= mark_bytes(map, run.first << figures.cluster_bits,
                             end < size ? end : size, now_us);
    }
    return is_new;
}

bool
point_marks_before(Points *points, uint64_t id, DiskMap *map, int64_t now_us)
{
    return !mutant(MUTANT_SNAPSHOT_NO_FIRST_MARK) &&
           mark_changed(points, id, map, now_us);
}

void
point_marks_after(Points *points, uint64_t id, DiskMap *map, int64_t now_us)
{
    if (!mutant(MUTANT_SNAPSHOT_NO_SECOND_MARK)) {
        (void)mark_changed(points, id, map, now_us);
    }
}
