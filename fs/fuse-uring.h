/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuse-uring.h - FUSE over io_uring, for systems whose headers lack it
 *
 * Purpose: the few definitions of protocol 7.42 (Linux 6.14) that the ring
 *          transport needs, under the kernel's own names, so that a newer
 *          <linux/fuse.h> takes their place.
 * Shapes:  an entry is registered with two buffers: this header and the
 *          payload. Going in, the header holds
 *
 *            0    fuse_in_header
 *            128  the operation's first argument; LOOKUP has none here
 *            256  fuse_uring_ent_in_out: what to commit with, payload's bytes
 *
 *          and the payload all further arguments (a WRITE's data, a name).
 *          Going out it holds fuse_out_header at 0 and the payload's bytes at
 *          256; the payload is the reply's whole body.
 *          A command lies in the second half of an SQE of 128 bytes.
 * Source:  Documentation/filesystems/fuse/fuse-io-uring.rst and
 *          include/uapi/linux/fuse.h of Linux 6.18.
 */
#pragma once

#include <linux/fuse.h>

#ifndef FUSE_OVER_IO_URING
#define FUSE_OVER_IO_URING          (1ULL << 41)
#define FUSE_URING_IN_OUT_HEADER_SZ 128
#define FUSE_URING_OP_IN_OUT_SZ     128

struct fuse_uring_ent_in_out {
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_sz;
    uint32_t padding;
    uint64_t reserved;
};

struct fuse_uring_req_header {
    char in_out[FUSE_URING_IN_OUT_HEADER_SZ];
    char op_in[FUSE_URING_OP_IN_OUT_SZ];
    struct fuse_uring_ent_in_out ring_ent_in_out;
};

enum fuse_uring_cmd {
    FUSE_IO_URING_CMD_INVALID = 0,
    FUSE_IO_URING_CMD_REGISTER = 1,
    FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2,
};

struct fuse_uring_cmd_req {
    uint64_t flags;
    uint64_t commit_id;
    uint16_t qid;
    uint8_t padding[6];
};
#endif

_Static_assert(sizeof(struct fuse_uring_ent_in_out) == 32, "the kernel's");
_Static_assert(sizeof(struct fuse_uring_req_header) == 288, "the kernel's");
_Static_assert(sizeof(struct fuse_uring_cmd_req) == 24, "the kernel's");
