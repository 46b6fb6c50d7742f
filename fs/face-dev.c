/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transport over /dev/fuse: one read(2) per request, one writev(2) per
 * reply, on a descriptor that does not block. Taking a request is a copy of
 * its bytes and costs about a microsecond, so that a burst is read one by one
 * until the kernel has no more; the poll in the ring is armed only before
 * going to sleep.
 *
 * Errors of the device, from the kernel's documentation and code:
 *   read  EAGAIN   nothing queued
 *         ENOENT   the request was interrupted while it was read: next one
 *         EINTR    likewise
 *         ENODEV   unmounted, or the connection was aborted
 *   write ENOENT   the request is gone (interrupted, or the session ended)
 * A request whose number has the top bit set was sent to a process before us,
 * which did not answer it; the answer has that number too.
 * A session that ended is noticed by reading; a reply that comes too late is
 * nobody's loss.
 */
#include "face-wire.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Newer than the headers of the oldest system that we build on. */
#define NOTIFY_RESEND 7

#define HEAD_AT (FACE_BLOCK_MAX - FACE_WRITE_HEAD)

int
face_dev_take(FaceReq *req)
{
    const struct fuse_in_header *in = (const void *)(req->buffer + HEAD_AT);

    for (;;) {
        ssize_t n = read(req->face->config.fuse_fd, req->buffer + HEAD_AT,
                         FACE_WRITE_HEAD + FACE_MAX_WRITE);

        if (n < 0 && (errno == EINTR || errno == ENOENT)) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if ((size_t)n < sizeof(*in)) {
            return -ENODEV;
        }
        face_take(req, in, in + 1, (size_t)n - sizeof(*in));
        return 0;
    }
}

/* Header and body's head in one piece: the kernel looks up a page for each
 * part that it is given. */
#define HEAD_ROOM 256

static void
dev_send(FaceReq *req, int error, const void *head, size_t head_len,
         const void *data, size_t data_len)
{
    unsigned char reply[sizeof(struct fuse_out_header) + HEAD_ROOM];
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof(out) + (error ? 0 : head_len + data_len)),
        .error = -error,
        .unique = req->unique,
    };
    struct iovec iov[2] = {
        {reply, sizeof(out) + (error ? 0 : head_len)},
        {(void *)data, data_len},
    };
    int count = error || !data_len ? 1 : 2;

    assert(head_len <= HEAD_ROOM);
    memcpy(reply, &out, sizeof(out));
    if (head_len) {
        memcpy(reply + sizeof(out), head, head_len);
    }
    while (writev(req->face->config.fuse_fd, iov, count) < 0 &&
           errno == EINTR) {
    }
    face_req_free(req);
}

int
face_resend(int fuse_fd)
{
    struct fuse_out_header notice = {
        .len = sizeof(notice),
        .error = NOTIFY_RESEND,
    };
    ssize_t n = write(fuse_fd, &notice, sizeof(notice));

    return n == (ssize_t)sizeof(notice) ? 0 : n < 0 ? -errno : -EIO;
}

const struct FaceWay face_dev = {dev_send, face_req_free};
