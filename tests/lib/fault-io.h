/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fault-io.h - a StoreIo that fails at the n-th call
 *
 * Purpose: every call of a store counts; the one with the number asked for
 *          fails, once or, sticky, with all that follow. A pwrite that fails
 *          may have written part of its bytes first, as a full disk does. A
 *          test walks n from 1 until nothing failed any more:
 *
 *            FaultIo fault;
 *            fault_io_init(&fault, store_io_kernel());
 *            for (unsigned n = 1; ; n++) {
 *                fault_io_arm(&fault, n, false, -EIO);
 *                subject(&fault.io);
 *                if (!fault_io_disarm(&fault)) { break; }
 *            }
 *
 * Threads: any; the counter is atomic. Arm and disarm while nobody calls.
 * Errors:  as armed. A close that fails has closed all the same.
 */
#pragma once

#include "bitmap/store-io.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define FAULT_RING 256 /* requests of rings that are struck and not done yet */

typedef struct FaultIo {
    StoreIo io; /* to be passed on; first member */
    StoreIo *inner;
    unsigned fail_at; /* number of the call, from 1; 0 never */
    bool is_sticky;
    bool is_torn; /* a failing write writes half of its bytes */
    int error;    /* -errno */
    /* A request of a ring counts, and is struck, before the kernel sees it:
     * nothing of it is performed, or half of a write if is_torn; is_short:
     * that half is what it returns, without an error. */
    bool is_early, is_short;
    struct FaultRing {
        const StoreReq *req; /* NULL: free */
        StoreReq half;       /* what is performed instead; len 0: nothing */
    } ring[FAULT_RING];
    pthread_mutex_t lock; /* guards ring */
    atomic_uint calls;
    atomic_uint failed;
} FaultIo;

void fault_io_init(FaultIo *fault, StoreIo *inner);
/* Counting starts anew: call number @n fails with @error. */
void fault_io_arm(FaultIo *fault, unsigned n, bool is_sticky, int error);
/* No more failures; returns how many there were. */
unsigned fault_io_disarm(FaultIo *fault);
