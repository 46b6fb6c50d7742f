/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The data path: READ and WRITE.
 *
 *   READ    read the aligned range into the slot's buffer -> reply from where
 *           the guest's range begins in it; parts that are on the zero list
 *           are overlaid with zeroes as of the time of submission.
 *
 *   WRITE   gate -> clusters on the zero list are punched first -> wait for
 *           what a cut owes or a snapshot needs there to be kept
 *           (face-aside.c), and for cold extents to be hot -> take the range and mark it dirty (rule
 *           1) -> write -> mark again and give the range back, in one step
 *           -> reply.
 *
 *   WRITE that is not aligned to the disk's blocks (512 bytes, 4096 on a 4Kn
 *           disk): the range of whole blocks is taken alone (rule 10), the
 *           payload is moved to its place in the first block, the first and
 *           the last block are read beside it, their outer bytes are copied
 *           in, and the whole is written in one request.
 *
 * A write that starts inside the disk and ends behind it is cut off at the
 * end, and the next one gets EFBIG: what a file does that cannot grow.
 *
 * Failure: the request gets the storage's errno; the bits stay set, since
 * nobody knows what of it reached the disk.
 */
#include "face-wire.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static void write_take(FaceReq *req);

/*
 * Holding ranges
 */

static void
hold_granted(RangeHold *hold)
{
    FaceReq *req = (FaceReq *)((char *)hold - offsetof(FaceReq, hold));

    /* Under the map's lock, maybe on another thread: only pass it on. */
    req->msg.kind = FACE_MSG_GRANTED;
    inbox_post(&req->face->inbox, &req->msg);
}

static void hold_take(FaceReq *req);

/* What it waited for is done, or cannot be. */
static void
hold_again(FaceReq *req, int error)
{
    if (req->disk->disk->is_frozen) {
        error = -EIO;
    }
    if (error) {
        face_writer_leave(req);
        req->face->count.errors++;
        face_reply_error(req, -error);
        return;
    }
    hold_take(req);
}

/* The extents that it found cold are hot now. */
static void
hold_heated(FaceHeatWait *wait, int error)
{
    hold_again((FaceReq *)((char *)wait - offsetof(FaceReq, heat)), error);
}

static void
hold_heat(FaceReq *req)
{
    face_heat_wait(req->disk, &req->heat, req->hold.offset, req->hold.len,
                   hold_heated);
}

/* What a cut owes there, or a snapshot needs, is kept. */
static void
hold_kept(FaceAsideWait *wait, int error)
{
    FaceReq *req = (FaceReq *)((char *)wait - offsetof(FaceReq, aside));

    req->face->count.refused += error == -ENOSPC;
    hold_again(req, error);
}

static bool
hold_keeps(FaceReq *req)
{
    if (!face_aside_needs(req->disk, req->hold.offset, req->hold.len)) {
        return false;
    }
    face_aside_wait(req->disk, &req->aside, req->hold.offset, req->hold.len,
                    hold_kept);
    if (req->op == FACE_FALLOCATE) {
        req->aside.is_hasty = true;
    } else {
        face_room_slow(req->disk, &req->aside);
    }
    return true;
}

/* It is ours: an instant after this one finds it in flight. */
static void
hold_begun(FaceReq *req)
{
    req->is_holding = true;
    req->epoch = req->disk->epoch;
    req->disk->holding[req->epoch]++;
    req->go_on(req);
}

static void
hold_take(FaceReq *req)
{
    if (hold_keeps(req)) {
        return;
    }
    switch (disk_map_begin(req->disk->disk->map, &req->hold, face_now_us())) {
    case DISK_MAP_BEGUN:
        req->face->config.dirtied(req->face->config.user);
        hold_begun(req);
        break;
    case DISK_MAP_PARKED:
        break;
    case DISK_MAP_COLD:
        hold_heat(req);
        break;
    }
}

void
face_hold_granted(FaceReq *req)
{
    FaceDisk *disk = req->disk;
    bool is_hot =
        disk_map_is_hot(disk->disk->map, req->hold.offset, req->hold.len);

    if (is_hot && !face_aside_needs(disk, req->hold.offset, req->hold.len)) {
        hold_begun(req);
    } else {
        face_hold_end(req);
        hold_take(req);
    }
}

void
face_hold(FaceReq *req, enum RangeKind kind, uint64_t offset, uint64_t len,
          void (*go_on)(FaceReq *))
{
    req->go_on = go_on;
    req->hold = (RangeHold){
        .offset = offset, .len = len, .kind = kind, .granted = hold_granted};
    hold_take(req);
}

void
face_hold_end(FaceReq *req)
{
    if (req->is_holding) {
        req->is_holding = false;
        req->disk->holding[req->epoch]--;
    }
    disk_map_end(req->disk->disk->map, &req->hold, face_now_us());
    req->face->config.dirtied(req->face->config.user);
}

/*
 * The gate
 */

bool
face_writer_enter(FaceReq *req)
{
    FaceDisk *disk = req->disk;

    if (req->is_writer) {
        return true;
    }
    if (disk->is_gated) {
        req->next_waiting = NULL;
        if (disk->gate_tail) {
            disk->gate_tail->next_waiting = req;
        } else {
            disk->gate = req;
        }
        disk->gate_tail = req;
        return false;
    }
    req->is_writer = true;
    disk->writers++;
    return true;
}

void
face_writer_leave(FaceReq *req)
{
    assert(req->is_writer && req->disk->writers > 0);
    req->is_writer = false;
    req->disk->writers--;
}

/*
 * READ
 */

static void
round_out(FaceReq *req)
{
    uint64_t block = req->disk->disk->offset_align;
    uint64_t start = req->offset & ~(block - 1);
    uint64_t end = (req->offset + req->len + block - 1) & ~(block - 1);

    req->io_offset = start;
    req->io_len = end - start;
    req->io_done = 0;
}

static void
submit_rest(FaceReq *req, enum StoreOp op, void (*done)(FaceIo *, int))
{
    req->io[0].store = (StoreReq){
        .op = op,
        .fd = req->disk->disk->fd,
        .buf = req->buffer + FACE_BLOCK_MAX + req->io_done,
        .offset = req->io_offset + req->io_done,
        .len = req->io_len - req->io_done,
    };
    req->io[0].fixed = req->disk->fixed;
    face_submit(req->face, &req->io[0], done);
}

static FaceReq *
req_of(FaceIo *io, unsigned index)
{
    return (FaceReq *)((char *)io - offsetof(FaceReq, io) -
                       index * sizeof(FaceIo));
}

static void
overlay_zeroes(FaceReq *req)
{
    unsigned char *data = req->buffer + FACE_BLOCK_MAX;

    for (unsigned i = 0; i < req->n_overlay; i++) {
        memset(data + (req->overlay[i].offset - req->io_offset), 0,
               req->overlay[i].len);
    }
}

static void
reply_read(FaceReq *req)
{
    if (face_node_kind(req->node) == FACE_KIND_BITMAP &&
        !face_bitmap_mask(req)) {
        face_reply_error(req, ESTALE);
        return;
    }
    req->face->count.read_requests++;
    req->face->count.read_bytes += req->len;
    face_reply_data(
        req, req->buffer + FACE_BLOCK_MAX + (req->offset - req->io_offset),
        req->len);
}

static void
read_done(FaceIo *io, int res)
{
    FaceReq *req = req_of(io, 0);
    unsigned char *data = req->buffer + FACE_BLOCK_MAX;

    if (res < 0) {
        req->face->count.errors++;
        face_reply_error(req, -res);
        return;
    }
    req->io_done += (unsigned)res;
    if (res > 0 && req->io_done < req->io_len) {
        submit_rest(req, STORE_READ, read_done);
        return;
    }
    /* The file may end inside the last block. */
    memset(data + req->io_done, 0, req->io_len - req->io_done);
    overlay_zeroes(req);
    reply_read(req);
}

/* Which parts read as zero; false if they are too many to remember. */
static bool
note_overlay(FaceReq *req)
{
    uint64_t at = req->offset, end = req->offset + req->len;
    struct ZeroRange zero;

    req->n_overlay = 0;
    while (zero_list_first(&req->disk->zeroes, at, end - at, &zero)) {
        if (req->n_overlay == FACE_OVERLAYS) {
            return false;
        }
        req->overlay[req->n_overlay++] = zero;
        at = zero.offset + zero.len;
    }
    return true;
}

void
face_read_disk(FaceReq *req)
{
    uint64_t size = req->disk->disk->size_bytes;

    if (req->offset >= size || req->len == 0) {
        face_reply_data(req, NULL, 0);
        return;
    }
    req->len = MIN(req->len, size - req->offset);
    round_out(req);
    if (!note_overlay(req)) {
        /* Shattered by many small discards: let them be punched. */
        face_zero_first(req);
        return;
    }
    if (req->n_overlay == 1 && req->overlay[0].len == req->len) {
        memset(req->buffer + FACE_BLOCK_MAX, 0, req->io_len);
        reply_read(req);
        return;
    }
    req->face->config.dirtied(req->face->config.user);
    submit_rest(req, STORE_READ, read_done);
}

void
face_read(FaceReq *req)
{
    if (face_node_is_snap_file(req->node)) {
        face_snap_read(req);
        return;
    }
    if (face_node_kind(req->node) == FACE_KIND_BITMAP) {
        face_bitmap_read(req);
        return;
    }
    req->disk = face_disk_of(req->face, req->node);
    if (req->disk) {
        face_read_disk(req);
    } else {
        face_text_read(req);
    }
}

/*
 * WRITE
 */

static void
stamp_time(Disk *disk)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    pthread_mutex_lock(&disk->attr_lock);
    disk->attr.mtime = now;
    pthread_mutex_unlock(&disk->attr_lock);
}

static void
write_end(FaceReq *req, int error)
{
    FaceDisk *disk = req->disk;

    face_hold_end(req);
    face_writer_leave(req);
    req->face->count.write_requests++;
    if (error) {
        req->face->count.errors++;
        face_reply_error(req, error);
        return;
    }
    stamp_time(disk->disk);
    req->face->count.written_bytes += req->len;
    face_reply_written(req, (uint32_t)req->len);
}

static void
write_done(FaceIo *io, int res)
{
    FaceReq *req = req_of(io, 0);

    if (res <= 0) {
        write_end(req, res ? -res : EIO);
        return;
    }
    req->io_done += (unsigned)res;
    if (req->io_done < req->io_len) {
        submit_rest(req, STORE_WRITE, write_done);
        return;
    }
    write_end(req, 0);
}

/* Both outer blocks are here: put their outer bytes beside the payload. */
static void
rmw_write(FaceReq *req)
{
    uint64_t block = req->disk->disk->offset_align;
    unsigned char *data = req->buffer + FACE_BLOCK_MAX;
    unsigned char *tail = req->buffer + FACE_BLOCK_MAX + FACE_DATA_ROOM;
    uint64_t head_len = req->offset - req->io_offset;
    uint64_t end = head_len + req->len;

    if (req->error) {
        write_end(req, -req->error);
        return;
    }
    memcpy(data, req->buffer, head_len);
    if (end < req->io_len) {
        uint64_t tail_len = req->io_len - end;

        memcpy(data + end, tail + block - tail_len, tail_len);
    }
    submit_rest(req, STORE_WRITE, write_done);
}

static void
rmw_block_read(FaceReq *req, FaceIo *io, int res)
{
    if (res < 0) {
        req->error = req->error ? req->error : res;
    } else {
        /* The file may end inside the last block. */
        memset((unsigned char *)io->store.buf + res, 0,
               io->store.len - (unsigned)res);
    }
    if (--req->io_pending == 0) {
        rmw_write(req);
    }
}

static void
rmw_head_done(FaceIo *io, int res)
{
    rmw_block_read(req_of(io, 0), io, res);
}

static void
rmw_tail_done(FaceIo *io, int res)
{
    rmw_block_read(req_of(io, 1), io, res);
}

static void
rmw_granted(FaceReq *req)
{
    Disk *disk = req->disk->disk;
    uint64_t block = disk->offset_align;
    unsigned char *data = req->buffer + FACE_BLOCK_MAX;

    req->face->count.rmw_requests++;
    memmove(data + (req->offset - req->io_offset), data, req->len);
    req->error = 0;
    req->io_pending = 2;
    req->io[0].store = (StoreReq){.op = STORE_READ,
                                  .fd = disk->fd,
                                  .buf = req->buffer,
                                  .offset = req->io_offset,
                                  .len = block};
    req->io[1].store =
        (StoreReq){.op = STORE_READ,
                   .fd = disk->fd,
                   .buf = req->buffer + FACE_BLOCK_MAX + FACE_DATA_ROOM,
                   .offset = req->io_offset + req->io_len - block,
                   .len = block};
    face_submit(req->face, &req->io[0], rmw_head_done);
    face_submit(req->face, &req->io[1], rmw_tail_done);
}

static void
write_granted(FaceReq *req)
{
    struct ZeroRange zero;

    /* A discard may have been accepted while this waited. */
    if (zero_list_first(&req->disk->zeroes, req->io_offset, req->io_len,
                        &zero)) {
        face_hold_end(req);
        write_take(req);
        return;
    }
    if (req->hold.kind == RANGE_RMW) {
        rmw_granted(req);
    } else {
        submit_rest(req, STORE_WRITE, write_done);
    }
}

static void
write_take(FaceReq *req)
{
    struct ZeroRange zero;

    if (zero_list_first(&req->disk->zeroes, req->io_offset, req->io_len,
                        &zero)) {
        face_zero_first(req);
        return;
    }
    bool is_aligned = req->io_offset == req->offset && req->io_len == req->len;

    /* Blocks may reach behind the disk's end; the map does not. */
    face_hold(req, is_aligned ? RANGE_WRITE : RANGE_RMW, req->io_offset,
              MIN(req->io_len, req->disk->disk->size_bytes - req->io_offset),
              write_granted);
}

void
face_write(FaceReq *req)
{
    req->disk = face_disk_of(req->face, req->node);
    if (!req->disk) {
        face_reply_error(req, EBADF);
        return;
    }
    uint64_t size = req->disk->disk->size_bytes;

    if (!face_writer_enter(req)) {
        return;
    }
    if (req->disk->disk->is_frozen || req->offset >= size || !req->len) {
        bool is_empty = !req->len && !req->disk->disk->is_frozen;

        face_writer_leave(req);
        if (is_empty) {
            face_reply_written(req, 0);
        } else {
            face_reply_error(req, req->disk->disk->is_frozen ? EIO : EFBIG);
        }
        return;
    }
    req->len = MIN(req->len, size - req->offset);
    round_out(req);
    write_take(req);
}
