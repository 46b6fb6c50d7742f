/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy before write: what a cut still owes, and what a snapshot needs, is kept
 * before the guest overwrites it (bitmap/aside.h, bitmap/points.h).
 *
 *   writer meets clusters that are needed and not kept -> waits, holding nothing
 *   each of them: a buffer -> RANGE_ASIDE, which waits for writes in flight ->
 *       read -> into the snapshot's files (face-points.c) -> kept -> given back
 *   all of its clusters are kept, or settled meanwhile -> it tries again
 *
 * So the writer pays one local read, and for a snapshot two local syncs, never
 * the target's time; one that goes on in sequence finds most of it done. What was in flight at the instant is finished before the
 * copy is read: it may be in or not, but never half of the time (rule 12).
 *
 * Copies for a cut stay in their buffers, or go to a file (face-spill.c). If one
 * cannot be made - no room, within buffer-size or on the host (where it ends
 * before a guest's write can meet that, is_tight), or the old content cannot be
 * read - then the cut cannot be whole any more: nothing more is kept for it,
 * whoever waits goes on, and the main thread is told (FACE_NOTE_DEGRADED). A
 * later cut will be whole (rule 18).
 *
 * A snapshot is never given up. Who overwrites what it needs while there is no
 * room waits for some (face-room.c); what cannot be read cannot be overwritten
 * (EIO) as long as a snapshot needs it.
 */
#include "face-wire.h"
#include "snapshot.h"

#include <errno.h>
#include <string.h>

#include "bitmap/mutant.h"

#define IN_ORDER_MIN 3   /* before more than is asked for is copied */
#define AHEAD_MAX    16u /* clusters */

static uint64_t
cluster_bytes(const FaceDisk *disk)
{
    return UINT64_C(1) << disk->disk->cluster_bits;
}

/*
 * What is needed
 */

/* First cluster within [@from, @end) that a cut owes and that is not kept, or
 * @end. */
static uint64_t
next_owed(const FaceDisk *disk, uint64_t from, uint64_t end)
{
    struct ClusterRun owed, missing;

    if (!aside_is_on(disk->disk->aside) || mutant(MUTANT_NO_ASIDE)) {
        return end;
    }
    while (disk_map_next_owed(disk->disk->map, from, end, &owed)) {
        if (aside_next_missing(disk->disk->aside, owed.first,
                               owed.first + owed.count, &missing)) {
            return missing.first;
        }
        from = owed.first + owed.count;
    }
    return end;
}

/* ... that a snapshot needs, or @end. */
static uint64_t
next_missing(const FaceDisk *disk, uint64_t from, uint64_t end)
{
    const Points *points = disk->disk->points;
    struct ClusterRun missing;

    return points && !mutant(MUTANT_SNAP_NO_COPY) &&
                   points_next_missing(points, from, end, &missing)
               ? missing.first
               : end;
}

static bool
next_needed(const FaceDisk *disk, uint64_t from, uint64_t end,
            uint64_t *cluster)
{
    *cluster = next_missing(disk, from, next_owed(disk, from, end));
    return *cluster < end;
}

static struct ClusterRun
run_of(const FaceDisk *disk, uint64_t offset, uint64_t len)
{
    return run_outward(offset, len, disk->disk->cluster_bits);
}

bool
face_aside_needs(const FaceDisk *disk, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = run_of(disk, offset, len);
    uint64_t cluster;

    return next_needed(disk, run.first, run.first + run.count, &cluster);
}

/*
 * The end of a cut
 */
static void
end_cut(FaceDisk *disk)
{
    struct AsideFigures figures;

    if (!aside_is_on(disk->disk->aside)) {
        return;
    }
    aside_figures(disk->disk->aside, &figures);
    disk->aside.is_old |= figures.file_clusters || disk->aside.n_spilling;
    disk->aside.life++;
    aside_end(disk->disk->aside);
    face_spill_empty(disk);
}

static void
tell(FaceDisk *disk)
{
    if (disk->aside.error &&
        face_note_degraded(disk, disk->aside.error, disk->aside.seq)) {
        disk->aside.error = 0;
    }
}

/* A copy could not be made. */
void
face_aside_give_up(FaceDisk *disk, int error)
{
    if (aside_is_on(disk->disk->aside)) {
        disk->aside.error = error;
        tell(disk); /* before what needed it is written */
        end_cut(disk);
    }
}

/*
 * Copies
 */

static void
copy_end(FaceAsideOp *op)
{
    FaceDisk *disk = op->disk;

    disk_map_end(disk->disk->map, &op->hold, face_now_us());
    op->disk = NULL;
    disk->aside.n_copying--;
}

static bool
is_all_zero(const unsigned char *data, size_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

/* The file may end inside the last cluster; it has whole blocks. */
static uint64_t
bytes_of(const FaceAsideOp *op)
{
    uint64_t block = op->disk->disk->offset_align;

    return (op->hold.len + block - 1) & ~(block - 1);
}

static void copy_read(FaceIo *io, int res);

static void
copy_rest(FaceAsideOp *op)
{
    op->io.store = (StoreReq){.op = STORE_READ,
                              .fd = op->disk->disk->fd,
                              .buf = (unsigned char *)op->buffer + op->done,
                              .offset = op->hold.offset + op->done,
                              .len = bytes_of(op) - op->done};
    op->io.fixed = op->disk->fixed;
    face_submit(op->disk->face, &op->io, copy_read);
}

void
face_aside_finish(FaceAsideOp *op, int error)
{
    FaceDisk *disk = op->disk;
    Aside *aside = disk->disk->aside;
    bool is_kept = op->is_for_cut && op->life == disk->aside.life;

    disk->face->count.aside_clusters += is_kept;
    if (is_kept && !op->is_zero) {
        aside_put(aside, op->cluster, op->buffer);
    } else {
        aside_give(aside, op->buffer);
        if (is_kept) {
            aside_put_zeroes(aside, (struct ClusterRun){op->cluster, 1});
        }
    }
    if (error) {
        face_room_refuse(disk, op->cluster, error);
    } else if (op->point) {
        face_room_found(disk, op->cluster);
    }
    if (op->point) {
        points_done(disk->disk->points, op->point);
    }
    copy_end(op);
}

/* The old content is not to be had. */
static void
copy_failed(FaceAsideOp *op, int error)
{
    FaceDisk *disk = op->disk;

    if (op->is_for_cut && op->life == disk->aside.life) {
        op->is_for_cut = false;
        face_aside_give_up(disk, error);
    }
    face_aside_finish(op, op->point ? error : 0);
}

/* Room for a copy that is no zeroes: the cut makes it, on all disks that are
 * part of it, before a snapshot goes without. */
static bool
take_room(FaceAsideOp *op)
{
    Face *face = op->disk->face;
    uint64_t bytes = cluster_bytes(op->disk);
    bool has_room = face_room_has(face, bytes);

    for (unsigned i = 0; !has_room && i < face->n_disks; i++) {
        face_aside_give_up(&face->disks[i], -ENOSPC);
    }
    if (!op->point) {
        return true;
    }
    if (!has_room && !face_room_has(face, bytes)) {
        return false;
    }
    face_room_take(face, bytes);
    return true;
}

static void
copy_read(FaceIo *io, int res)
{
    FaceAsideOp *op = (FaceAsideOp *)((char *)io - offsetof(FaceAsideOp, io));
    uint64_t len = cluster_bytes(op->disk);

    if (res > 0 && op->done + (unsigned)res < bytes_of(op)) {
        op->done += (unsigned)res;
        copy_rest(op);
        return;
    }
    if (res <= 0) {
        copy_failed(op, res ? res : -EIO); /* the file ended too early */
        return;
    }
    memset((unsigned char *)op->buffer + bytes_of(op), 0, len - bytes_of(op));
    op->is_zero = is_all_zero(op->buffer, len);
    if (!op->is_zero && !take_room(op)) {
        face_aside_finish(op, -ENOSPC);
    } else if (op->point) {
        face_points_keep(op);
    } else {
        face_aside_finish(op, 0);
    }
}

void
face_aside_granted(FaceAsideOp *op)
{
    FaceDisk *disk = op->disk;
    uint64_t end = op->cluster + 1;

    op->is_for_cut =
        op->life == disk->aside.life && next_owed(disk, op->cluster, end) < end;
    op->is_zero = false;
    op->done = 0;
    op->point = NULL;
    if (next_missing(disk, op->cluster, end) < end) {
        op->point = points_youngest(disk->disk->points);
        points_use(disk->disk->points, op->point);
    }
    if (op->is_for_cut || op->point) {
        copy_rest(op);
    } else {
        face_aside_finish(op, 0);
    }
}

static void
op_granted(RangeHold *hold)
{
    FaceAsideOp *op =
        (FaceAsideOp *)((char *)hold - offsetof(FaceAsideOp, hold));

    op->msg.kind = FACE_MSG_ASIDE_GRANTED;
    inbox_post(&op->disk->face->inbox, &op->msg);
}

static void
copy_begin(FaceDisk *disk, FaceAsideOp *op, uint64_t cluster, void *buffer)
{
    uint64_t offset = cluster << disk->disk->cluster_bits;

    op->disk = disk;
    op->life = disk->aside.life;
    op->cluster = cluster;
    op->buffer = buffer;
    op->hold = (RangeHold){
        .offset = offset,
        .len = MIN(cluster_bytes(disk), disk->disk->size_bytes - offset),
        .kind = RANGE_ASIDE,
        .granted = op_granted};
    disk->aside.n_copying++;
    if (disk_map_hold(disk->disk->map, &op->hold)) {
        face_aside_granted(op);
    }
}

/* An op for @cluster, if there is none for it yet; NULL: there is, or no op is
 * left (*@is_full). */
static FaceAsideOp *
op_for(FaceAside *aside, uint64_t cluster, bool *is_full)
{
    FaceAsideOp *free_one = NULL;

    for (unsigned i = 0; i < FACE_ASIDE_OPS; i++) {
        FaceAsideOp *op = &aside->ops[i];

        if (!op->disk) {
            free_one = op;
        } else if (op->cluster == cluster && op->life == aside->life) {
            return NULL;
        }
    }
    *is_full = !free_one;
    return free_one;
}

/* Who overwrites one cluster after the other is spared most of the waiting: the
 * clusters behind those that are copied for him, @first up to @at, are copied
 * with them. As long as that takes nothing away from those who wait: a quarter
 * of the buffers is theirs. (Not half: from there on copies for a cut are
 * spilled, which would leave none for this.) */
static void
copy_ahead(FaceDisk *disk, uint64_t first, uint64_t at)
{
    uint64_t clusters = disk_map_clusters(disk->disk->map);
    FaceAside *aside = &disk->aside;
    struct AsideFigures figures;
    bool is_full = false;
    uint64_t end = at;

    aside->in_order = first == aside->ahead_at ? aside->in_order + 1 : 0;
    if (aside->in_order >= IN_ORDER_MIN) {
        end += MIN(2u << MIN(aside->in_order - IN_ORDER_MIN, 8), AHEAD_MAX);
    }
    end = MIN(end, clusters);
    aside->ahead_at = end;
    for (; next_needed(disk, at, end, &at); at++) {
        FaceAsideOp *op = op_for(aside, at, &is_full);

        aside_figures(disk->disk->aside, &figures);
        if (is_full || figures.free_buffers <= figures.buffers / 4 ||
            !face_room_has(disk->face,
                           (aside->n_copying + 1) * cluster_bytes(disk))) {
            aside->ahead_at = at;
            return;
        }
        if (op) {
            copy_begin(disk, op, at, aside_take(disk->disk->aside));
        }
    }
}

/* Copies of what @wait needs; false: nothing more can be begun now. */
static bool
copy_for(FaceDisk *disk, const FaceAsideWait *wait)
{
    struct ClusterRun run = run_of(disk, wait->offset, wait->len);
    uint64_t end = run.first + run.count, first = end;
    bool is_full = false;

    for (uint64_t at = run.first; next_needed(disk, at, end, &at); at++) {
        FaceAsideOp *op = op_for(&disk->aside, at, &is_full);
        void *buffer;

        if (is_full) {
            return false;
        }
        if (!op) {
            continue;
        }
        buffer = aside_take(disk->disk->aside);
        if (!buffer) {
            disk->face->count.aside_waits++;
            return false;
        }
        copy_begin(disk, op, at, buffer);
        first = MIN(first, at);
    }
    if (first < end) {
        copy_ahead(disk, first, end);
    }
    return true;
}

/* Buffers are short, and none will be free by itself. */
static bool
is_stuck(const FaceDisk *disk)
{
    const FaceAside *aside = &disk->aside;

    return !aside->n_copying && !aside->n_spilling && !aside->is_emptying;
}

/*
 * Between two batches
 */

void
face_aside_wait(FaceDisk *disk, FaceAsideWait *wait, uint64_t offset,
                uint64_t len, void (*go_on)(FaceAsideWait *, int error))
{
    FaceAside *aside = &disk->aside;

    *wait = (FaceAsideWait){.offset = offset, .len = len, .go_on = go_on};
    *(aside->waiting ? &aside->waiting_tail->next : &aside->waiting) = wait;
    aside->waiting_tail = wait;
}

/* Is a copy of something in @run being made? */
static bool
is_under_way(const FaceAside *aside, struct ClusterRun run)
{
    for (unsigned i = 0; i < FACE_ASIDE_OPS; i++) {
        const FaceAsideOp *op = &aside->ops[i];

        if (op->disk && op->cluster >= run.first &&
            op->cluster < run.first + run.count) {
            return true;
        }
    }
    return false;
}

/* Does it go on now, or end? */
static bool
is_ready(FaceDisk *disk, FaceAsideWait *wait, int64_t now_us)
{
    struct ClusterRun run = run_of(disk, wait->offset, wait->len);

    if (!face_aside_needs(disk, wait->offset, wait->len)) {
        wait->error = 0;
    } else if (disk->disk->is_frozen) {
        wait->error = -EIO;
    } else if (!wait->error && wait->starved_us &&
               !is_under_way(&disk->aside, run) &&
               face_room_is_over(disk, wait, now_us)) {
        wait->error = -ENOSPC;
    } else if (!wait->error) {
        return false;
    }
    return true;
}

/* Whoever needs nothing any more goes on; the others stay, in their order. */
static void
release(FaceDisk *disk)
{
    FaceAside *aside = &disk->aside;
    FaceAsideWait *wait = aside->waiting, *next, *ready = NULL;
    FaceAsideWait **ready_end = &ready, **end = &aside->waiting;
    int64_t now_us = wait ? face_now_us() : 0;

    aside->waiting_tail = NULL;
    for (; wait; wait = next) {
        next = wait->next;
        wait->next = NULL;
        if (is_ready(disk, wait, now_us)) {
            face_room_left(disk->face, wait, now_us);
            *ready_end = wait;
            ready_end = &wait->next;
        } else {
            *end = aside->waiting_tail = wait;
            end = &wait->next;
        }
    }
    *end = NULL;
    for (wait = ready; wait; wait = next) {
        next = wait->next;
        wait->go_on(wait, wait->error);
    }
}

/* Is there somebody for whom something can be done now? Who has no room is
 * tried again by and by. */
static bool
is_wanted(const FaceDisk *disk)
{
    FaceAsideWait *wait = disk->aside.waiting;
    int64_t now_us = wait ? face_now_us() : 0;

    for (; wait; wait = wait->next) {
        if (!wait->starved_us && now_us >= wait->slowed_us) {
            return true;
        }
    }
    return false;
}

/* False: somebody needs a buffer, or an op, and there is none. */
static bool
begin_copies(FaceDisk *disk)
{
    FaceAsideWait *wait = disk->aside.waiting;
    int64_t now_us = wait ? face_now_us() : 0;
    /* For all of them: the first that goes without puts the next time off. */
    bool is_retry = now_us >= disk->aside.retry_us;

    for (; wait; wait = wait->next) {
        bool is_due = wait->starved_us ? is_retry : now_us >= wait->slowed_us;

        if (is_due && !copy_for(disk, wait)) {
            return false;
        }
    }
    return true;
}

bool
face_aside_is_starving(const FaceDisk *disk)
{
    return disk->aside.waiting && is_stuck(disk);
}

void
face_aside_run(FaceDisk *disk)
{
    bool is_served;

    face_spill_empty(disk);
    do {
        release(disk);
        face_spill_run(disk);
        is_served = begin_copies(disk);
        face_points_run(disk);
        face_spill_run(disk);
        if (!is_served && is_stuck(disk)) {
            face_aside_give_up(disk, -ENOBUFS);
        }
        /* What they need may have been settled meanwhile: with nothing under
         * way nobody would look again. */
    } while (is_wanted(disk) && is_stuck(disk));
    tell(disk);
}

bool
face_aside_is_idle(const FaceDisk *disk)
{
    const FaceAside *aside = &disk->aside;

    return !aside->n_copying && !aside->n_spilling && !aside->is_emptying &&
           !aside->waiting;
}

/*
 * Cuts
 */
void
face_aside_begin(FaceDisk *disk, uint64_t seq)
{
    disk->aside.life++;
    disk->aside.seq = seq;
    disk->aside.error = 0;
    aside_begin(disk->disk->aside);
}

void
face_aside_end(FaceDisk *disk)
{
    end_cut(disk);
    face_spill_empty(disk);
}
