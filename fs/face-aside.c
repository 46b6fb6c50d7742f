/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy before write: what a cut still owes is kept aside before the guest
 * overwrites it (bitmap/aside.h has the copies).
 *
 *   writer meets clusters that are owed and not kept -> waits, holding nothing
 *   each of them: a buffer -> RANGE_ASIDE, which waits for writes in flight ->
 *       read -> kept -> given back
 *   all of its clusters are kept, or settled meanwhile -> it tries again
 *
 * So the writer pays one local read, not the target's time. What was in flight
 * when the cut was made is finished before the copy is read: it may be in the
 * cut or not, but never half of the time (rule 12).
 *
 * Buffers that fill up are written to the file of copies, the oldest first;
 * what was settled meanwhile is dropped instead. If a copy cannot be made - no
 * room, within buffer-size or on the host (where it ends before a guest's write
 * can meet that, is_tight), or the old content cannot be read -
 * then the cut cannot be whole any more: nothing more is kept, whoever waits
 * goes on, and the main thread is told (FACE_NOTE_DEGRADED). A later cut will
 * be whole (rule 18).
 *
 * When a cut ends its copies in the file are punched, before the next one
 * writes there; until then it has the buffers only.
 */
#include "face-wire.h"

#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include "bitmap/mutant.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static uint64_t
cluster_bytes(const FaceDisk *disk)
{
    return UINT64_C(1) << disk->disk->cluster_bits;
}

/*
 * What is needed
 */

/* First cluster from @from on that is owed and not kept. */
static bool
next_needed(const FaceDisk *disk, uint64_t from, uint64_t end,
            uint64_t *cluster)
{
    struct ClusterRun owed, missing;

    while (disk_map_next_owed(disk->disk->map, from, end, &owed)) {
        if (aside_next_missing(disk->disk->aside, owed.first,
                               owed.first + owed.count, &missing)) {
            *cluster = missing.first;
            return true;
        }
        from = owed.first + owed.count;
    }
    return false;
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

    return aside_is_on(disk->disk->aside) && !mutant(MUTANT_NO_ASIDE) &&
           next_needed(disk, run.first, run.first + run.count, &cluster);
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
static void
empty_file(FaceDisk *disk)
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
    empty_file(disk);
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
static void
give_up(FaceDisk *disk, int error)
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

/* Is there room for one more copy, within buffer-size? */
static bool
has_room(Face *face, uint64_t bytes)
{
    uint64_t limit = face->config.store->settings.buffer_bytes;
    struct AsideFigures figures;

    for (unsigned i = 0; limit && i < face->n_disks; i++) {
        aside_figures(face->disks[i].disk->aside, &figures);
        bytes += figures.kept_clusters * cluster_bytes(&face->disks[i]);
    }
    return !limit || bytes <= limit;
}

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

static void
copy_read(FaceIo *io, int res)
{
    FaceAsideOp *op = (FaceAsideOp *)((char *)io - offsetof(FaceAsideOp, io));
    FaceDisk *disk = op->disk;
    Aside *aside = disk->disk->aside;
    uint64_t len = cluster_bytes(disk);

    if (res > 0 && op->done + (unsigned)res < bytes_of(op)) {
        op->done += (unsigned)res;
        copy_rest(op);
        return;
    }
    res = res == 0 ? -EIO : res; /* the file ended too early */
    if (res < 0 || op->life != disk->aside.life) {
        aside_give(aside, op->buffer);
        if (res < 0 && op->life == disk->aside.life) {
            give_up(disk, res);
        }
    } else {
        memset((unsigned char *)op->buffer + bytes_of(op), 0,
               len - bytes_of(op));
        disk->face->count.aside_clusters++;
        if (is_all_zero(op->buffer, len)) {
            aside_give(aside, op->buffer);
            aside_put_zeroes(aside, (struct ClusterRun){op->cluster, 1});
        } else {
            aside_put(aside, op->cluster, op->buffer);
        }
    }
    copy_end(op);
}

void
face_aside_granted(FaceAsideOp *op)
{
    FaceDisk *disk = op->disk;
    uint64_t needed;

    if (op->life != disk->aside.life ||
        !next_needed(disk, op->cluster, op->cluster + 1, &needed)) {
        aside_give(disk->disk->aside, op->buffer);
        copy_end(op);
        return;
    }
    op->done = 0;
    copy_rest(op);
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

/* Copies of what @wait needs; false: nothing more can be begun now. */
static bool
copy_for(FaceDisk *disk, const FaceAsideWait *wait)
{
    struct ClusterRun run = run_of(disk, wait->offset, wait->len);
    uint64_t end = run.first + run.count, at = run.first;
    bool is_full = false;

    while (aside_is_on(disk->disk->aside) && next_needed(disk, at, end, &at)) {
        FaceAsideOp *op = op_for(&disk->aside, at, &is_full);

        if (is_full) {
            return false;
        }
        if (op) {
            void *buffer;

            if (!has_room(disk->face, cluster_bytes(disk))) {
                give_up(disk, -ENOSPC);
                break;
            }
            buffer = aside_take(disk->disk->aside);
            if (!buffer) {
                disk->face->count.aside_waits++;
                return false;
            }
            copy_begin(disk, op, at, buffer);
        }
        at++;
    }
    return true;
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
        give_up(disk, res < 0 ? res : -ENOSPC);
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
            give_up(disk, -ENOSPC);
        }
    }
}

static void
spill(FaceDisk *disk)
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
                uint64_t len, void (*go_on)(FaceAsideWait *))
{
    FaceAside *aside = &disk->aside;

    *wait = (FaceAsideWait){.offset = offset, .len = len, .go_on = go_on};
    *(aside->waiting ? &aside->waiting_tail->next : &aside->waiting) = wait;
    aside->waiting_tail = wait;
}

/* Whoever needs nothing any more goes on; the others stay, in their order. */
static void
release(FaceDisk *disk)
{
    FaceAside *aside = &disk->aside;
    FaceAsideWait *wait = aside->waiting, *next, *ready = NULL;
    FaceAsideWait **ready_end = &ready, **end = &aside->waiting;

    aside->waiting_tail = NULL;
    for (; wait; wait = next) {
        next = wait->next;
        wait->next = NULL;
        if (face_aside_needs(disk, wait->offset, wait->len)) {
            *end = aside->waiting_tail = wait;
            end = &wait->next;
        } else {
            *ready_end = wait;
            ready_end = &wait->next;
        }
    }
    *end = NULL;
    for (wait = ready; wait; wait = next) {
        next = wait->next;
        wait->go_on(wait);
    }
}

/* False: somebody needs a buffer, or an op, and there is none. */
static bool
begin_copies(FaceDisk *disk)
{
    for (FaceAsideWait *wait = disk->aside.waiting; wait; wait = wait->next) {
        if (!copy_for(disk, wait)) {
            return false;
        }
    }
    return true;
}

void
face_aside_run(FaceDisk *disk)
{
    FaceAside *aside = &disk->aside;
    bool is_served;

    empty_file(disk);
    do {
        release(disk);
        spill(disk);
        is_served = begin_copies(disk);
        spill(disk);
        if (!is_served && is_stuck(disk)) {
            give_up(disk, -ENOBUFS);
        }
        /* What they need may have been settled meanwhile: with nothing under
         * way nobody would look again. */
    } while (aside->waiting && is_stuck(disk));
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
    empty_file(disk);
}
