/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-wire.h - FUSE's wire format: requests in, replies out
 *
 * Purpose: turns the kernel's bytes into our own request (FaceReq) and our
 *          answers into the kernel's bytes. The only files that know
 *          <linux/fuse.h> are this one's .c and the two transports.
 * Threads: the fs thread.
 * Shapes:  a request is fuse_in_header (40 bytes) and the operation's
 *          arguments; WRITE has 40 bytes of them, so that its payload begins
 *          80 bytes in. A reply is fuse_out_header (16 bytes) and a body.
 * Errors:  a request that is too short for its operation is answered with
 *          EINVAL, an operation that we do not have with ENOSYS.
 * Source:  <linux/fuse.h>, protocol 7.38 and what 6.18 adds to it.
 */
#pragma once

#include "face-internal.h"

/* Bytes before a WRITE's payload. */
#define FACE_WRITE_HEAD 80

enum FaceDecoded {
    FACE_DECODED,  /* @req is set: hand it to a handler */
    FACE_ANSWERED, /* INIT, FORGET, unknown ...: nothing left to do */
    FACE_DESTROYED,
};

/* All of @len bytes behind the header lie at @arg, inside @req's buffer; a WRITE's
 * payload where the slot has it. */
enum FaceDecoded face_wire_decode(FaceReq *req, const struct fuse_in_header *in,
                                  const void *arg, size_t len);

/* Each sends one reply and ends the request: @req is free afterwards. */
void face_reply_error(FaceReq *req, int error); /* 0, or a positive errno */
void face_reply_data(FaceReq *req, const void *data, size_t len);
void face_reply_written(FaceReq *req, uint32_t len);
void face_reply_entry(FaceReq *req, const struct FaceAttr *attr,
                      unsigned entry_s, unsigned attr_s);
void face_reply_attr(FaceReq *req, const struct FaceAttr *attr,
                     unsigned attr_s);
/* How the kernel is to treat what was opened. */
enum FaceOpened {
    FACE_OPENED_TEXT,     /* nothing is cached; a directory likewise */
    FACE_OPENED_DISK,     /* nor here, and there may be writes at once */
    FACE_OPENED_SNAPSHOT, /* never changes: cached, and kept so */
};
void face_reply_open(FaceReq *req, uint64_t fh, enum FaceOpened how);
void face_reply_statfs(FaceReq *req, const struct statvfs *st);
void face_reply_lseek(FaceReq *req, uint64_t offset);
void face_reply_ioctl(FaceReq *req, const void *data, size_t len);

/* One directory entry, of whose @type S_IFMT counts, at the end of @buf (@used of
 * @room bytes are taken); false when it does not fit. */
bool face_wire_dirent(unsigned char *buf, size_t *used, size_t room,
                      uint64_t ino, const char *name, mode_t type,
                      uint64_t next_offset);
