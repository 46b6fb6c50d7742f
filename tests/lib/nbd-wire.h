/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbd-wire.h - the NBD protocol's bytes, as a server of tests needs them
 *
 * Purpose: structs and numbers of the fixed newstyle handshake and of simple
 *          transmission.
 * Shapes:  all numbers are big-endian; cookies are passed through as they are.
 * Source:  the NBD protocol, doc/proto.md.
 */
#pragma once

#include <stdint.h>

#define NBD_WIRE_HELLO_MAGIC     UINT64_C(0x4e42444d41474943)
#define NBD_WIRE_OPTION_MAGIC    UINT64_C(0x49484156454f5054)
#define NBD_WIRE_OPT_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_WIRE_REQUEST_MAGIC   0x25609513u
#define NBD_WIRE_REPLY_MAGIC     0x67446698u

enum {
    NBD_WIRE_FIXED_NEWSTYLE = 1,
    NBD_WIRE_NO_ZEROES = 2,

    NBD_WIRE_OPT_ABORT = 2,
    NBD_WIRE_OPT_INFO = 6,
    NBD_WIRE_OPT_GO = 7,
    NBD_WIRE_INFO_EXPORT = 0,

    NBD_WIRE_HAS_FLAGS = 1,
    NBD_WIRE_SEND_FLUSH = 4,
    NBD_WIRE_SEND_FUA = 8,
    NBD_WIRE_SEND_TRIM = 32,
    NBD_WIRE_SEND_ZERO = 64,
    NBD_WIRE_MULTI_CONN = 256,

    NBD_WIRE_READ = 0,
    NBD_WIRE_WRITE = 1,
    NBD_WIRE_DISC = 2,
    NBD_WIRE_FLUSH = 3,
    NBD_WIRE_TRIM = 4,
    NBD_WIRE_ZERO = 6,
    NBD_WIRE_FUA = 1,

    NBD_WIRE_EINVAL = 22,
};

#define NBD_WIRE_REP_ACK   1u
#define NBD_WIRE_REP_INFO  3u
#define NBD_WIRE_REP_UNSUP (UINT32_C(1) << 31 | 1)

struct NbdWireHello {
    uint64_t magic, option_magic;
    uint16_t flags;
} __attribute__((packed));

struct NbdWireOption {
    uint64_t magic;
    uint32_t option, len;
} __attribute__((packed));

struct NbdWireOptReply {
    uint64_t magic;
    uint32_t option, type, len;
} __attribute__((packed));

struct NbdWireInfo {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
} __attribute__((packed));

struct NbdWireRequest {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t len;
} __attribute__((packed));

struct NbdWireReply {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed));

_Static_assert(sizeof(struct NbdWireHello) == 18, "on the wire");
_Static_assert(sizeof(struct NbdWireOption) == 16, "on the wire");
_Static_assert(sizeof(struct NbdWireOptReply) == 20, "on the wire");
_Static_assert(sizeof(struct NbdWireInfo) == 12, "on the wire");
_Static_assert(sizeof(struct NbdWireRequest) == 28, "on the wire");
_Static_assert(sizeof(struct NbdWireReply) == 16, "on the wire");
