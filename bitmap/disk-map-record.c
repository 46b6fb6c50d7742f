/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk-map-record.c - who else is told what the guest changes
 *
 *     a guest's write begins, or ends       ---> the open generation
 *     a discard, a rollback, after a crash  ---> and every recorder
 *
 *     a check, a new target, a cut's turn   ---> the open generation only
 *
 * A recorder is told what was changed, not what a target lacks: what the relay
 * marks for its own reasons is none of its business.
 *
 * It is marked at both ends of a write, as the generations are, and for a reason
 * of its own. Whoever takes a recorder's bits as "all until now", and has the
 * next ones begin anew, draws a line through time that writes in flight cross:
 * with the first mark they are before it, with the second behind it, and since
 * nobody knows when their data lands they have to be in both.
 *
 * A recorder that is marked all the time finds its word full, mostly: that is
 * a look at one word per recorder and mark. The words of ten large bitmaps are
 * in nobody's cache; they are all asked for before the first is looked at, or
 * the guest's write would wait for one after the other.
 *
 * The map of a job has a lock of its own, which its relay takes for its own
 * purposes; it is taken within this one's. Its size is what the disk's was when
 * the job began: what the disk may have behind it is not the job's.
 */
#include "disk-map-private.h"

/* Of the finest recorder, marked under the lock at once. */
#define SLICE_BITS 16

void
disk_map_attach_locked(DiskMap *map, DiskMapRecorder *recorder)
{
    assert(!recorder->next && map->recorders != recorder);
    assert(!recorder->bits ||
           bitmap_size_bytes(recorder->bits) == map->size_bytes);
    assert(recorder->job != map);
    recorder->next = map->recorders;
    map->recorders = recorder;
}

void
disk_map_detach_locked(DiskMap *map, DiskMapRecorder *recorder)
{
    DiskMapRecorder **at = &map->recorders;

    while (*at && *at != recorder) {
        at = &(*at)->next;
    }
    assert(*at);
    *at = recorder->next;
    recorder->next = NULL;
}

void
disk_map_attach(DiskMap *map, DiskMapRecorder *recorder)
{
    disk_map_lock(map);
    disk_map_attach_locked(map, recorder);
    disk_map_unlock(map);
}

void
disk_map_detach(DiskMap *map, DiskMapRecorder *recorder)
{
    disk_map_lock(map);
    disk_map_detach_locked(map, recorder);
    disk_map_unlock(map);
}

static void
mark_job(DiskMap *job, uint64_t offset, uint64_t len, int64_t now_us)
{
    disk_map_lock(job);
    if (offset < job->size_bytes) {
        uint64_t room = job->size_bytes - offset;

        disk_map_mark_locked(job, offset, len < room ? len : room, now_us);
    }
    disk_map_unlock(job);
}

void
disk_map_record_locked(DiskMap *map, uint64_t offset, uint64_t len,
                       int64_t now_us)
{
    const DiskMapRecorder *first = map->recorders;

    for (const DiskMapRecorder *r = first ? first->next : NULL; r;
         r = r->next) {
        if (r->bits && !r->is_idle) {
            bitmap_expect(r->bits, offset >> bitmap_cluster_bits(r->bits));
        }
    }
    for (DiskMapRecorder *r = map->recorders; r; r = r->next) {
        if (r->is_idle) {
            continue;
        }
        if (r->bits) {
            bitmap_set_bytes(r->bits, offset, len);
        }
        if (r->job) {
            mark_job(r->job, offset, len, now_us);
        }
    }
}

/* Bytes that cost no more than a slice of the finest that is marked. */
static uint64_t
slice_locked(const DiskMap *map)
{
    unsigned bits = map->cluster_bits;

    for (const DiskMapRecorder *r = map->recorders; r; r = r->next) {
        unsigned its = r->bits ? bitmap_cluster_bits(r->bits) : bits;

        its = r->job && r->job->cluster_bits < its ? r->job->cluster_bits : its;
        bits = its < bits && !r->is_idle ? its : bits;
    }
    return UINT64_C(1) << (bits + SLICE_BITS);
}

void
disk_map_changed(DiskMap *map, uint64_t offset, uint64_t len, int64_t now_us)
{
    do {
        disk_map_lock(map);
        uint64_t slice = slice_locked(map);
        uint64_t part = slice - (offset & (slice - 1));

        part = part < len ? part : len;
        disk_map_mark_locked(map, offset, part, now_us);
        disk_map_record_locked(map, offset, part, now_us);
        disk_map_unlock(map);
        offset += part;
        len -= part;
    } while (len);
}

int
disk_map_reserve_records_locked(DiskMap *map, uint64_t size_bytes)
{
    int r = 0;

    for (DiskMapRecorder *rec = map->recorders; rec && r == 0;
         rec = rec->next) {
        r = rec->bits ? bitmap_reserve(rec->bits, size_bytes) : 0;
    }
    return r;
}

void
disk_map_grow_records_locked(DiskMap *map, uint64_t size_bytes)
{
    for (DiskMapRecorder *rec = map->recorders; rec; rec = rec->next) {
        if (rec->bits) {
            int r = bitmap_grow(rec->bits, size_bytes);

            assert(r == 0); /* it was reserved */
        }
    }
}
