/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FALLOCATE: punching, zeroing, allocating (rule 25).
 *
 * FUSE holds the inode's lock from the request to its one reply, and every
 * write of the guest waits meanwhile; to punch a GiB takes ext4 most of a
 * second. So a small range is punched at once, and of a large one
 *
 *   1. the whole clusters go on the disk's zero list: they read as zero now;
 *   2. the list is written to its record file (page cache: it outlives this
 *      process; FSYNC makes it outlive the power);
 *   3. the parts of clusters at either end are punched;
 *   4. the reply goes out;
 *   5. slices of at most 16 MiB are punched, one at a time, in file order or
 *      where a write waits for one.
 *
 * Life of a slice, and the order that must hold:
 *
 *   its extents are hot -> take its range alone -> punch -> fdatasync -> off the list -> record
 *   written -> give the range back -> whoever waited is dispatched again
 *
 * The sync stands before the record: a record that no longer names a range
 * whose punch is lost with the power would bring old data back. The record
 * stands before the range is given back: after a crash the record's ranges
 * are punched again, and that must never hit a write that came later.
 *
 * A punch that fails (a file system may need room for it) leaves its range on
 * the list, where it goes on reading as zero; it is tried again with the next
 * request that needs it, which gets the error if it fails again, and while
 * somebody waits for a drain.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_BYTES (1u << 20)          /* punched at once */
#define SLICE_BYTES (16u << 20)         /* a few milliseconds */
#define MARK_BYTES  (UINT64_C(1) << 38) /* marked under the lock at once */
#define PUNCH       (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static void list_changed(FaceDisk *disk);

/*
 * The record
 */

static void
run_recorded(FaceDisk *disk)
{
    FaceReq *req = disk->record_waiting, *next;

    disk->record_waiting = NULL;
    for (; req; req = next) {
        next = req->next_waiting;
        if (req->record_version <= disk->written_version) {
            req->go_on(req);
        } else {
            req->next_waiting = disk->record_waiting;
            disk->record_waiting = req;
        }
    }
}

static void slice_recorded(FaceDisk *disk);

static void
record_done(FaceIo *io, int res)
{
    FaceDisk *disk = (FaceDisk *)((char *)io - offsetof(FaceDisk, record));

    if (res == ZERO_RECORD_BYTES && !disk->is_recording_twice) {
        disk->is_recording_twice = true;
        disk->record.store.offset ^= ZERO_RECORD_BYTES;
        face_submit(disk->face, &disk->record, record_done);
        return;
    }
    disk->is_recording = false;
    if (res != ZERO_RECORD_BYTES) {
        /* Its promises could not be kept over a crash: as a failed sync. */
        face_freeze(disk, res < 0 ? res : -EIO);
    }
    disk->written_version = disk->record_version;
    run_recorded(disk);
    if (disk->slice_waits && disk->slice_version <= disk->written_version) {
        disk->slice_waits = false;
        slice_recorded(disk);
    }
    list_changed(disk);
}

/* Write the list's record unless that is under way or done. */
static void
list_changed(FaceDisk *disk)
{
    store_zeroes_changed(disk->disk, &disk->zeroes);
    if (disk->is_recording || disk->written_version == disk->zeroes.version) {
        return;
    }
    disk->is_recording = true;
    disk->record_version = disk->zeroes.version;
    disk->is_recording_twice = false;
    disk->record_sequence++;
    zero_record_encode(&disk->zeroes, disk->record_sequence,
                       disk->face->config.store->epoch, disk->record_page);
    disk->record.store = (StoreReq){
        .op = STORE_WRITE,
        .fd = disk->zeroes_fd,
        .buf = disk->record_page,
        .offset = (disk->record_sequence & 1) * ZERO_RECORD_BYTES,
        .len = ZERO_RECORD_BYTES,
    };
    face_submit(disk->face, &disk->record, record_done);
}

/* @go_on runs when the list as it is now is in the record. */
static void
after_record(FaceReq *req, void (*go_on)(FaceReq *))
{
    req->go_on = go_on;
    req->record_version = req->disk->zeroes.version;
    req->next_waiting = req->disk->record_waiting;
    req->disk->record_waiting = req;
    list_changed(req->disk);
}

/*
 * Slices
 */

static void
run_waiting(FaceDisk *disk, int error)
{
    FaceReq *req = disk->zero_waiting, *next;

    disk->zero_waiting = NULL;
    for (; req; req = next) {
        next = req->next_waiting;
        if (error) {
            if (req->is_writer) {
                face_writer_leave(req);
            }
            face_reply_error(req, -error);
        } else {
            face_dispatch(req);
        }
    }
}

static void
slice_end(FaceDisk *disk, int error)
{
    disk_map_end(disk->disk->map, &disk->punch_hold, face_now_us());
    disk->face->config.dirtied(disk->face->config.user);
    disk->is_punching = false;
    run_waiting(disk, error);
    if (!error) {
        face_zero_run(disk);
    }
}

static void
slice_recorded(FaceDisk *disk)
{
    slice_end(disk, 0);
}

static void
slice_synced(FaceIo *io, int res)
{
    FaceDisk *disk = (FaceDisk *)((char *)io - offsetof(FaceDisk, punch));

    if (res < 0 || atomic_load(&disk->disk->is_frozen)) {
        face_freeze(disk, res);
        slice_end(disk, -EIO);
        return;
    }
    bool is_removed =
        zero_list_remove(&disk->zeroes, disk->slice.offset, disk->slice.len);

    assert(is_removed);
    disk->has_said = false;
    disk->slice_waits = true;
    disk->slice_version = disk->zeroes.version;
    list_changed(disk);
}

static void
say_failed(FaceDisk *disk, int error)
{
    if (disk->has_said) {
        return;
    }
    disk->has_said = true;
    face_log(disk->face,
             "%s.raw: punching %" G_GUINT64_FORMAT
             " bytes failed: %s; they read as zero and are tried again",
             disk->disk->name, disk->slice.len, g_strerror(-error));
}

static void
slice_punched(FaceIo *io, int res)
{
    FaceDisk *disk = (FaceDisk *)((char *)io - offsetof(FaceDisk, punch));

    if (res < 0) {
        say_failed(disk, res);
        slice_end(disk, res);
        return;
    }
    disk->punch.store = (StoreReq){.op = STORE_FDATASYNC, .fd = disk->disk->fd};
    face_submit(disk->face, &disk->punch, slice_synced);
}

static void slice_take(FaceDisk *disk);

/* What the slice waited for is done, or cannot be: then it stays on the list. */
static void
slice_again(FaceDisk *disk, int error)
{
    if (error) {
        say_failed(disk, error);
        disk->is_punching = false;
        run_waiting(disk, error);
        return;
    }
    slice_take(disk);
}

/* Its extents are hot now. */
static void
slice_heated(FaceHeatWait *wait, int error)
{
    slice_again((FaceDisk *)((char *)wait - offsetof(FaceDisk, punch_heat)),
                error);
}

/* All of the range that the slice is of: the other slices come next. */
static void
slice_heat(FaceDisk *disk)
{
    struct ZeroRange range = disk->slice;

    zero_list_first(&disk->zeroes, disk->slice.offset,
                    disk->disk->size_bytes - disk->slice.offset, &range);
    face_heat_wait(disk, &disk->punch_heat, disk->slice.offset,
                   MAX(range.len, disk->slice.len), slice_heated);
}

void
face_zero_granted(FaceDisk *disk)
{
    const struct ZeroRange *slice = &disk->slice;

    if (!disk_map_is_hot(disk->disk->map, slice->offset, slice->len) ||
        face_aside_needs(disk, slice->offset, slice->len)) {
        disk_map_end(disk->disk->map, &disk->punch_hold, face_now_us());
        slice_take(disk);
        return;
    }
    disk->punch.store = (StoreReq){.op = STORE_FALLOCATE,
                                   .fd = disk->disk->fd,
                                   .mode = PUNCH,
                                   .offset = disk->slice.offset,
                                   .len = disk->slice.len};
    face_submit(disk->face, &disk->punch, slice_punched);
}

static void
punch_granted(RangeHold *hold)
{
    FaceDisk *disk =
        (FaceDisk *)((char *)hold - offsetof(FaceDisk, punch_hold));

    disk->punch_msg.kind = FACE_MSG_PUNCH_GRANTED;
    inbox_post(&disk->face->inbox, &disk->punch_msg);
}

/* Where somebody waits, else the head of the list. */
static struct ZeroRange
choose_slice(const FaceDisk *disk)
{
    const ZeroList *list = &disk->zeroes;
    const FaceReq *req = disk->zero_waiting;
    struct ZeroRange part, window;
    uint64_t size = disk->disk->size_bytes;

    if (req && req->io_len && list->count < ZERO_LIST_MAX &&
        zero_list_first(list, req->io_offset, req->io_len, &part)) {
        window.offset = part.offset & ~(uint64_t)(SLICE_BYTES - 1);
        window.len = MIN(SLICE_BYTES, size - window.offset);
        /* The window around it; several parts of it may be on the list. */
        zero_list_first(list, window.offset, window.len, &window);
        if (ranges_overlap(window.offset, window.len, part.offset, part.len)) {
            return window;
        }
        return part;
    }
    part = list->range[0];
    part.len = MIN(part.len, SLICE_BYTES - part.offset % SLICE_BYTES);
    return part;
}

void
face_zero_run(FaceDisk *disk)
{
    /* The guest waits for whoever comes next: only what is waited for. */
    if (disk->is_punching || !disk->zeroes.count ||
        (disk->face->is_leaving && !disk->zero_waiting)) {
        return;
    }
    disk->is_punching = true;
    disk->slice = choose_slice(disk);
    slice_take(disk);
}

/* What a cut owes of it, or a snapshot needs, is kept. */
static void
slice_kept(FaceAsideWait *wait, int error)
{
    slice_again((FaceDisk *)((char *)wait - offsetof(FaceDisk, punch_aside)),
                error);
}

static void
slice_take(FaceDisk *disk)
{
    const struct ZeroRange *slice = &disk->slice;

    if (face_aside_needs(disk, slice->offset, slice->len)) {
        face_aside_wait(disk, &disk->punch_aside, slice->offset, slice->len,
                        slice_kept);
        return;
    }
    disk->punch_hold = (RangeHold){.offset = disk->slice.offset,
                                   .len = disk->slice.len,
                                   .kind = RANGE_PUNCH,
                                   .granted = punch_granted};
    switch (disk_map_begin(disk->disk->map, &disk->punch_hold, face_now_us())) {
    case DISK_MAP_BEGUN:
        face_zero_granted(disk);
        break;
    case DISK_MAP_PARKED:
        break;
    case DISK_MAP_COLD:
        slice_heat(disk);
        break;
    }
}

static void
wait_for_slice(FaceReq *req)
{
    FaceReq **last = &req->disk->zero_waiting;

    while (*last) {
        last = &(*last)->next_waiting;
    }
    req->next_waiting = NULL;
    *last = req;
    face_zero_run(req->disk);
}

void
face_zero_first(FaceReq *req)
{
    assert(req->io_len);
    wait_for_slice(req);
}

/*
 * FALLOCATE
 */

static void
fallocate_end(FaceReq *req, int error)
{
    face_writer_leave(req);
    req->face->count.punch_requests++;
    face_reply_error(req, error);
}

static void fallocate_edges(FaceReq *req);

static void
edge_done(FaceIo *io, int res)
{
    FaceReq *req = (FaceReq *)((char *)io - offsetof(FaceReq, io));

    face_hold_end(req);
    if (res < 0) {
        fallocate_end(req, -res);
        return;
    }
    fallocate_edges(req);
}

static void
edge_granted(FaceReq *req)
{
    req->io[0].store = (StoreReq){.op = STORE_FALLOCATE,
                                  .fd = req->disk->disk->fd,
                                  .mode = req->mode,
                                  .offset = req->hold.offset,
                                  .len = req->hold.len};
    face_submit(req->face, &req->io[0], edge_done);
}

/* Punch what is left in edge[], then reply. */
static void
fallocate_edges(FaceReq *req)
{
    if (req->n_edge == 0) {
        fallocate_end(req, 0);
        return;
    }
    req->n_edge--;
    face_hold(req, RANGE_PUNCH, req->edge[req->n_edge].offset,
              req->edge[req->n_edge].len, edge_granted);
}

static void
listed(FaceReq *req)
{
    face_zero_run(req->disk);
    fallocate_edges(req);
}

static void
mark(FaceDisk *disk, uint64_t offset, uint64_t len)
{
    while (len) {
        uint64_t part = MIN(len, MARK_BYTES);

        disk_map_changed(disk->disk->map, offset, part, face_now_us());
        offset += part;
        len -= part;
    }
    disk->face->config.dirtied(disk->face->config.user);
}

static void
add_edge(FaceReq *req, uint64_t from, uint64_t to)
{
    if (to > from) {
        req->edge[req->n_edge++] = (struct ZeroRange){from, to - from};
    }
}

static void
fallocate_large(FaceReq *req)
{
    FaceDisk *disk = req->disk;
    unsigned bits = disk->disk->cluster_bits;
    uint64_t end = req->offset + req->len;
    struct ClusterRun run =
        run_inward(req->offset, req->len, disk->disk->size_bytes, bits);
    uint64_t from = run.first << bits;
    uint64_t to = MIN((run.first + run.count) << bits, end);

    if (!zero_list_add(&disk->zeroes, from, to - from)) {
        req->io_len = 0;
        wait_for_slice(req);
        return;
    }
    mark(disk, from, to - from);
    req->n_edge = 0;
    add_edge(req, req->offset, from);
    add_edge(req, to, end);
    after_record(req, listed);
}

static void
allocated(FaceIo *io, int res)
{
    FaceReq *req = (FaceReq *)((char *)io - offsetof(FaceReq, io));

    fallocate_end(req, res < 0 ? -res : 0);
}

/* Cut the request off at the disk's end; an errno when it cannot be done. */
static int
fallocate_check(FaceReq *req, uint64_t size)
{
    uint64_t end = req->offset + req->len;
    int kind = req->mode & ~FALLOC_FL_KEEP_SIZE;

    if ((kind && kind != FALLOC_FL_PUNCH_HOLE &&
         kind != FALLOC_FL_ZERO_RANGE) ||
        (kind && !req->disk->can_punch)) {
        return EOPNOTSUPP;
    }
    if (req->disk->disk->is_frozen) {
        return EIO;
    }
    if (end > size && !(req->mode & FALLOC_FL_KEEP_SIZE)) {
        return EFBIG;
    }
    req->mode |= FALLOC_FL_KEEP_SIZE;
    req->len = req->offset < size ? MIN(req->len, size - req->offset) : 0;
    return 0;
}

void
face_fallocate(FaceReq *req)
{
    req->disk = face_disk_of(req->face, req->node);
    if (!req->disk) {
        face_reply_error(req, EBADF);
        return;
    }
    if (!face_writer_enter(req)) {
        return;
    }
    int error = fallocate_check(req, req->disk->disk->size_bytes);

    if (error || !req->len) {
        fallocate_end(req, error);
    } else if (req->mode == FALLOC_FL_KEEP_SIZE) {
        /* Room only: no content changes, nothing gets dirty. */
        req->io[0].store = (StoreReq){.op = STORE_FALLOCATE,
                                      .fd = req->disk->disk->fd,
                                      .mode = req->mode,
                                      .offset = req->offset,
                                      .len = req->len};
        face_submit(req->face, &req->io[0], allocated);
    } else if (req->len <=
               MAX(SMALL_BYTES, 2u << req->disk->disk->cluster_bits)) {
        req->n_edge = 0;
        add_edge(req, req->offset, req->offset + req->len);
        fallocate_edges(req);
    } else {
        fallocate_large(req);
    }
}
