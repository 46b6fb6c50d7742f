/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mapper.h - asks the file system where data and holes are
 *
 * Purpose: lseek() has no io_uring form and may wait for the disk, so that
 *          one helper thread calls it (rule 24).
 * Threads: requests come from the relay thread, oldest first; each goes back
 *          through the inbox that it names, exactly once.
 * Units:   bytes.
 * Errors:  in the request: -errno.
 */
#pragma once

#include "bitmap/store-io.h"
#include "inbox.h"

typedef struct Mapper Mapper;

struct MapRequest {
    InboxMsg msg; /* kind: the requester's; link of whoever holds it */
    unsigned disk, op;
    int fd;
    uint64_t offset;
    uint64_t want; /* at most this long, when it is a hole */
    /* answer */
    int error;
    uint64_t len; /* data: up to the next hole, however far */
    bool is_hole;
};

Mapper *mapper_new(StoreIo *io, Inbox *answers);
/* Answers what is queued, then ends the thread. */
void mapper_free(Mapper *mapper);
void mapper_ask(Mapper *mapper, struct MapRequest *request);
