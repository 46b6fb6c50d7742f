/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Slots: where requests live. A request takes one, is decoded, and is handed
 * to the handler of its operation; its reply makes the slot free again. Their
 * buffers are one mapping, made once: nothing is allocated while the guest
 * waits.
 */
#include "face-wire.h"

#include <sys/mman.h>

unsigned char *
face_buffers_new(unsigned n_slots)
{
    size_t bytes = (size_t)n_slots * FACE_BUFFER;
    void *buffers = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert(buffers != MAP_FAILED);
    /* The relay forks servers; what is in flight here is no business of a
     * child, and copying it on write would cost the parent. */
    madvise(buffers, bytes, MADV_DONTFORK);
    /* Fewer pages to look up for each copy and each O_DIRECT request. */
    madvise(buffers, bytes, MADV_HUGEPAGE);
    return buffers;
}

void
face_slots_init(Face *face)
{
    face->buffers = face_buffers_new(FACE_SLOTS);
    for (unsigned i = 0; i < FACE_SLOTS; i++) {
        face->slots[i].face = face;
        face->slots[i].buffer = face->buffers + (size_t)i * FACE_BUFFER;
        face->slots[i].way = &face_dev;
        face_req_free(&face->slots[i]);
    }
}

void
face_req_free(FaceReq *req)
{
    req->next_free = req->face->free_slots;
    req->face->free_slots = req;
    req->face->n_free++;
}

FaceReq *
face_req_take(Face *face)
{
    FaceReq *req = face->free_slots;

    if (req) {
        face->free_slots = req->next_free;
        face->n_free--;
    }
    return req;
}

static void
reply_done(FaceReq *req)
{
    face_reply_error(req, 0);
}

static void
open_dir(FaceReq *req)
{
    face_reply_open(req, 0, FACE_OPENED_TEXT);
}

void
face_dispatch(FaceReq *req)
{
    static void (*const handlers[FACE_OPS])(FaceReq *) = {
        [FACE_LOOKUP] = face_lookup,       [FACE_GETATTR] = face_getattr,
        [FACE_SETATTR] = face_setattr,     [FACE_OPEN] = face_open,
        [FACE_RELEASE] = face_release,     [FACE_READ] = face_read,
        [FACE_WRITE] = face_write,         [FACE_FLUSH] = reply_done,
        [FACE_FSYNC] = face_fsync,         [FACE_FALLOCATE] = face_fallocate,
        [FACE_LSEEK] = face_lseek,         [FACE_STATFS] = face_statfs,
        [FACE_READDIR] = face_readdir,     [FACE_IOCTL] = face_ioctl,
        [FACE_OPENDIR] = open_dir,         [FACE_RELEASEDIR] = reply_done,
        [FACE_FSYNCDIR] = reply_done,      [FACE_READLINK] = face_readlink,
        [FACE_MKDIR] = face_mkdir,         [FACE_RMDIR] = face_rmdir,
        [FACE_FORBIDDEN] = face_forbidden,
    };

    handlers[req->op](req);
}

void
face_take(FaceReq *req, const struct fuse_in_header *in, const void *arg,
          size_t len)
{
    Face *face = req->face;

    req->disk = NULL;
    req->is_writer = false;
    req->data = req->buffer + FACE_BLOCK_MAX;
    switch (face_wire_decode(req, in, arg, len)) {
    case FACE_DECODED:
        face_dispatch(req);
        break;
    case FACE_ANSWERED:
        break;
    case FACE_DESTROYED:
        face->is_ended = true;
        break;
    }
}
