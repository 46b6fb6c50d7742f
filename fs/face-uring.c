/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transport over io_uring (Linux 6.14, fuse.enable_uring). The kernel has
 * a queue for each CPU that may ever exist, and hands a request to the queue
 * of the CPU that its caller runs on. We register entries with all queues, in
 * the ring that the storage's requests go through: one system call commits
 * replies, takes the next requests, starts their storage I/O and sleeps. A
 * request costs no read(2) and no writev(2), and its payload is copied
 * straight to where O_DIRECT wants it.
 *
 * An entry is a slot: its buffer's first block holds the kernel's header, the
 * payload lies behind it, as in every slot. It is the kernel's (counted as
 * free) from REGISTER or COMMIT_AND_FETCH to the completion, which brings a
 * request, and ours from there to the reply.
 *
 *   INIT comes through /dev/fuse; we say that we want the ring and register.
 *   The kernel holds back all other requests until each queue has an entry,
 *   then switches, once and for all. If it refuses an entry it gives the ring
 *   up, and all goes on through /dev/fuse as if nothing had been asked.
 *
 * FORGET and INTERRUPT still come through /dev/fuse, and its poll tells that
 * the session has ended; the entries then complete with ENOTCONN.
 *
 * The price: requests inside a dead daemon's entries cannot be sent again to
 * another one. So nobody keeps the descriptor of such a session (takeover.h):
 * its users would wait for ever.
 */
#include "face-wire.h"
#include "fuse-uring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Entries of all queues together; a queue has DEPTH_MIN at least, and more
 * than DEPTH_MAX are of no use beside FACE_MAX_BACKGROUND. The kernel takes
 * the entry that was used last, so that memory is touched as far as requests
 * are there at once, in each queue and rounded up to huge pages: nothing of a
 * buffer may be touched before its first request. */
#define ENTRIES   256
#define DEPTH_MIN 4
#define DEPTH_MAX FACE_MAX_BACKGROUND

/* Tells an entry's completion from a storage request's (user_data). */
#define ENTRY UINT64_C(1)

struct FaceUring {
    FaceReq *slots; /* queue q has [q * depth, (q + 1) * depth) */
    unsigned n_slots, depth;
    unsigned char *buffers;
    struct iovec (*places)[2]; /* of each slot, as it is registered */
    unsigned n_busy;           /* ours, until they are answered */
    bool is_refused;           /* and it was said */
};

static struct fuse_uring_req_header *
header_of(FaceReq *req)
{
    return (struct fuse_uring_req_header *)req->buffer;
}

/* CPUs that may ever exist: the kernel counts queues so. "0-3" or "0-1,4-7":
 * the last number counts. 0: unknown. */
static unsigned
possible_cpus(void)
{
    FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
    unsigned last, cpus = 0;
    char between;

    while (file && fscanf(file, "%u", &last) == 1) {
        cpus = last + 1;
        if (fscanf(file, "%c", &between) != 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return cpus;
}

bool
face_uring_is_offered(void)
{
    FILE *file = fopen("/sys/module/fuse/parameters/enable_uring", "re");
    bool is_offered = file && fgetc(file) == 'Y';

    if (file) {
        fclose(file);
    }
    return is_offered;
}

void
face_uring_new(Face *face)
{
    unsigned queues = possible_cpus();

    if (face->config.transport == FACE_TRANSPORT_DEV || !queues) {
        return;
    }
    struct FaceUring *uring = g_new0(struct FaceUring, 1);

    uring->depth = CLAMP(ENTRIES / queues, DEPTH_MIN, DEPTH_MAX);
    uring->n_slots = queues * uring->depth;
    uring->slots = g_new0(FaceReq, uring->n_slots);
    uring->buffers = face_buffers_new(uring->n_slots);
    uring->places = g_malloc0_n(uring->n_slots, sizeof(uring->places[0]));
    for (unsigned i = 0; i < uring->n_slots; i++) {
        uring->slots[i].face = face;
        uring->slots[i].buffer = uring->buffers + (size_t)i * FACE_BUFFER;
        uring->slots[i].way = &face_uring;
    }
    face->uring = uring;
}

void
face_uring_free(Face *face)
{
    struct FaceUring *uring = face->uring;

    if (uring) {
        munmap(uring->buffers, (size_t)uring->n_slots * FACE_BUFFER);
        g_free(uring->places);
        g_free(uring->slots);
        g_free(uring);
    }
}

unsigned
face_uring_slots(const Face *face)
{
    return face->uring ? face->uring->n_slots : 0;
}

unsigned
face_uring_busy(const Face *face)
{
    return face->uring ? face->uring->n_busy : 0;
}

static struct io_uring_sqe *
command(FaceReq *req, uint32_t op, uint64_t commit_id)
{
    struct FaceUring *uring = req->face->uring;
    struct io_uring_sqe *sqe = face_get_sqe(req->face);
    struct fuse_uring_cmd_req cmd = {
        .commit_id = commit_id,
        .qid = (uint16_t)((size_t)(req - uring->slots) / uring->depth),
    };

    memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = req->face->config.fuse_fd;
    sqe->cmd_op = op;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    io_uring_sqe_set_data64(sqe, (uintptr_t)req | ENTRY);
    return sqe;
}

uint64_t
face_uring_wanted(const Face *face, uint64_t offered)
{
    bool is_able = face->uring && (face->ring.flags & IORING_SETUP_SQE128) != 0;

    return is_able ? offered & FUSE_OVER_IO_URING : 0;
}

static void
refused(Face *face, const char *why)
{
    if (!face->uring->is_refused &&
        face->config.transport == FACE_TRANSPORT_URING) {
        face_log(face, "transport=uring: %s; serving through /dev/fuse instead",
                 why);
    }
    face->uring->is_refused = true;
    face->is_uring = false;
}

void
face_uring_start(Face *face, bool is_agreed)
{
    struct FaceUring *uring = face->uring;

    if (!uring) {
        return;
    }
    if (!is_agreed) {
        refused(face, "the kernel did not agree to it");
        return;
    }
    face->is_uring = true;
    for (unsigned i = 0; i < uring->n_slots; i++) {
        FaceReq *req = &uring->slots[i];
        struct iovec *place = uring->places[i];
        struct io_uring_sqe *sqe = command(req, FUSE_IO_URING_CMD_REGISTER, 0);

        place[0] = (struct iovec){req->buffer, sizeof(*header_of(req))};
        place[1] = (struct iovec){req->buffer + FACE_BLOCK_MAX, FACE_DATA_ROOM};
        sqe->addr = (uintptr_t)place;
        sqe->len = 2;
    }
}

/* A completion brought a request: all as if it had been read. */
static void
take(FaceReq *req)
{
    struct fuse_uring_req_header *header = header_of(req);
    const struct fuse_in_header *in = (const void *)header->in_out;
    size_t payload = header->ring_ent_in_out.payload_sz;
    size_t rest = in->len - sizeof(*in);
    size_t head = rest > payload ? rest - payload : 0;
    unsigned char *arg = req->buffer + FACE_BLOCK_MAX - head;

    /* In one piece, as a read has them. */
    assert(head <= sizeof(header->op_in));
    memcpy(arg, header->op_in, head);
    req->face->uring->n_busy++;
    req->commit_id = header->ring_ent_in_out.commit_id;
    face_take(req, in, arg, rest);
}

bool
face_uring_completed(Face *face, uint64_t data, int res)
{
    if (!(data & ENTRY)) {
        return false;
    }
    if (res == 0) {
        take((FaceReq *)(uintptr_t)(data & ~ENTRY));
    } else if (!face->is_ended && res != -ENOTCONN && res != -ECONNABORTED) {
        /* The entry is lost. At the start it means that there is no ring;
         * later it cannot be, and others are left to serve. */
        refused(face, g_strerror(-res));
    }
    return true;
}

static void
uring_send(FaceReq *req, int error, const void *head, size_t head_len,
           const void *data, size_t data_len)
{
    struct fuse_uring_req_header *header = header_of(req);
    unsigned char *payload = req->buffer + FACE_BLOCK_MAX;
    size_t len = error ? 0 : head_len + data_len;
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof(out) + len),
        .error = -error,
        .unique = req->unique,
    };

    assert(len <= FACE_MAX_WRITE);
    if (len > head_len && data != payload + head_len) {
        memmove(payload + head_len, data, data_len);
    }
    if (len && head_len) {
        memcpy(payload, head, head_len);
    }
    memcpy(header->in_out, &out, sizeof(out));
    header->ring_ent_in_out = (struct fuse_uring_ent_in_out){
        .commit_id = req->commit_id,
        .payload_sz = (uint32_t)len,
    };
    command(req, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, req->commit_id);
    req->face->uring->n_busy--;
}

/* The entry must go back in any case. */
static void
uring_drop(FaceReq *req)
{
    uring_send(req, 0, NULL, 0, NULL, 0);
}

const struct FaceWay face_uring = {uring_send, uring_drop};
