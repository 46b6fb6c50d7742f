/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where what is sent of a cut is, while the guest goes on overwriting it.
 *
 *   a cut of        is read from
 *   the present     its copies: kept aside in memory, in the file of copies,
 *                   known to be zero; else the disk
 *   a snapshot      the points' files; else the disk
 *
 * The disk has it for as long as nothing says otherwise and the range is pinned:
 * who wants to write there copies first, and waits for the pin then. So the
 * place is looked up under the pin, and what is read from the disk is right
 * even if a copy is made meanwhile.
 *
 * Of copies the file system knows nothing when it is asked about the disk's
 * holes: they are looked for after it has answered, and what it said counts as
 * far as there are none. A point's file is asked in the disk's place: what it
 * has never changes, and a hole there is zeroes.
 *
 * A snapshot is what is loaded while the generations are there that were sealed
 * for it, whoever loads. What is compared with the target meanwhile is clean, so
 * that both have the same there (bitmap/point-marks.h). Once those generations
 * are retired it is the disk again, of which whoever said that they may be sent
 * has heard by then or not.
 *
 * What a damaged point does not know, or what cannot be read of its file, is
 * lost: the cut cannot be that snapshot any more. The present content does
 * instead, for the rest of it and on this disk; that is said before.
 */
#include "bitmap/mutant.h"
#include "loop.h"

/* Copies are of the disk's clusters, and so is all that is looked up here. What
 * a job loads may begin and end within one. */
static struct ClusterRun
run_of(const RelayDisk *disk, uint64_t offset, uint64_t len)
{
    return run_outward(offset, len, disk->place_bits);
}

/* From @offset on to the end of @count clusters, of which it is in the first. */
static uint64_t
bytes_of(const RelayDisk *disk, uint64_t offset, uint64_t count)
{
    uint64_t first = offset >> disk->place_bits;

    return ((first + count) << disk->place_bits) - offset;
}

uint64_t
perform_snapshot(const RelayDisk *disk)
{
    uint64_t sealed =
        disk->snapshot && disk->points ? disk_map_sealed_seq(disk->map) : 0;

    return sealed && sealed <= disk->snapshot_seq ? disk->snapshot : 0;
}

void
perform_snapshot_lost(RelayDisk *disk)
{
    if (disk->snapshot) {
        pthread_mutex_lock(&disk->relay->lock);
        disk->figures.lost_snapshot = disk->snapshot;
        pthread_mutex_unlock(&disk->relay->lock);
        disk->snapshot = 0;
    }
}

void
perform_place_left(RelayDisk *disk, struct RelaySlot *slot)
{
    if (slot->point) {
        points_done(disk->points, slot->point);
        slot->point = NULL;
    }
}

/*
 * Maps
 */
void
perform_place_ask(RelayDisk *disk, struct RelaySlot *slot)
{
    struct MapRequest *map = &slot->map;
    uint64_t id = perform_snapshot(disk), count;
    struct ClusterRun run;

    if (!id) {
        return;
    }
    run = run_of(disk, map->offset, map->want);
    if (points_find(disk->points, id, run.first, run.count, &slot->point,
                    &count) == POINTS_FILE) {
        map->fd = point_data_fd(slot->point);
        map->want = MIN(map->want, bytes_of(disk, map->offset, count));
    }
}

/* As far as one load goes; beyond that it is asked again. */
static bool
is_zero_aside(RelayDisk *disk, struct ClusterRun run, uint64_t *count)
{
    uint64_t most = RELAY_OP_BYTES_MAX >> disk->place_bits;

    return aside_fetch(disk->aside, run.first, MIN(run.count, most), NULL,
                       count) == ASIDE_ZERO;
}

static void
look_aside(RelayDisk *disk, uint64_t offset, struct RelayEvent *event)
{
    struct ClusterRun run = run_of(disk, offset, event->len);
    uint64_t end = run.first + run.count;
    uint64_t kept = aside_next_kept(disk->aside, run.first, end);
    uint64_t count = kept - run.first;

    if (kept == end) {
        return;
    }
    if (kept == run.first) {
        event->is_hole = is_zero_aside(disk, run, &count);
    }
    event->len = MIN(event->len, bytes_of(disk, offset, count));
}

/* What was overwritten since it was asked about is no hole that is known. */
static void
look_in_points(RelayDisk *disk, uint64_t id, uint64_t offset,
               struct RelayEvent *event)
{
    struct ClusterRun run = run_of(disk, offset, event->len);
    uint64_t count;
    Point *point;

    if (points_find(disk->points, id, run.first, run.count, &point, &count) !=
        POINTS_DISK) {
        event->is_hole = false;
    }
    if (point) {
        points_done(disk->points, point);
    }
    event->len = MIN(event->len, bytes_of(disk, offset, count));
}

void
perform_place_mapped(RelayDisk *disk, struct RelaySlot *slot,
                     struct RelayEvent *event)
{
    uint64_t id = perform_snapshot(disk);

    if (slot->point) {
        perform_place_left(disk, slot);
    } else if (id) {
        look_in_points(disk, id, slot->map.offset, event);
    } else if (disk->aside) {
        look_aside(disk, slot->map.offset, event);
    }
}

/*
 * Loads
 */
static struct PerformPart
part_of_cut(RelayDisk *disk, struct ClusterRun run, uint8_t *to)
{
    struct PerformPart part = {.fd = disk->fd};

    part.place = aside_fetch(disk->aside, run.first, run.count, to, &part.len);
    if (part.place == ASIDE_FILE) {
        part.fd = disk->aside_fd;
    }
    return part;
}

static struct PerformPart
part_of_snapshot(RelayDisk *disk, uint64_t id, struct ClusterRun run,
                 Point **point)
{
    struct PerformPart part = {.place = ASIDE_NONE, .fd = disk->fd};

    switch (
        points_find(disk->points, id, run.first, run.count, point, &part.len)) {
    case POINTS_DISK:
        break;
    case POINTS_FILE:
        part.place = ASIDE_FILE;
        part.fd = point_data_fd(*point);
        break;
    case POINTS_UNSURE:
    case POINTS_GONE:
        perform_snapshot_lost(disk);
        break;
    }
    return part;
}

struct PerformPart
perform_place_next(RelayDisk *disk, struct RelaySlot *slot, uint8_t *to)
{
    uint64_t left = slot->len - slot->done, id = perform_snapshot(disk);
    uint64_t offset = slot->offset + slot->done;
    struct ClusterRun run = run_of(disk, offset, left);
    struct PerformPart part = {
        .place = ASIDE_NONE, .fd = disk->fd, .len = run.count};

    if (slot->is_pinned && !mutant(MUTANT_READ_LIVE)) {
        part = id            ? part_of_snapshot(disk, id, run, &slot->point)
               : disk->aside ? part_of_cut(disk, run, to)
                             : part;
    }
    part.len = MIN(left, bytes_of(disk, offset, part.len));
    return part;
}
