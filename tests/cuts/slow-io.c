/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's ops hold no state, so that all but one of them are taken over.
 * The moment passes in the thread that reads, before the request is submitted.
 */
#include "slow-io.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define SLOW_ONE_IN 16
#define MOMENT_MS   1

static void
slow_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    static atomic_uint reads;

    store_io_kernel()->ops->prep(io, sqe, req);
    if (req->op == STORE_READ &&
        atomic_fetch_add(&reads, 1) % SLOW_ONE_IN == 0) {
        poll(NULL, 0, MOMENT_MS);
    }
}

static struct StoreIoOps ops;
static StoreIo slow = {.ops = &ops};

static void
make(void)
{
    ops = *store_io_kernel()->ops;
    ops.prep = slow_prep;
}

StoreIo *
slow_io(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make);
    return &slow;
}
