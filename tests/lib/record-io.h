/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * record-io.h - a StoreIo that writes down what passes through it
 *
 * Purpose: everything goes on to another StoreIo, and into a RecordLog: plain
 *          calls and requests of rings alike, each with its beginning and its
 *          end, the payload as it was at the beginning.
 * Threads: any.
 * Shapes:  files are told apart by their inode, whatever they are called.
 * Errors:  what failed is in the log with its error.
 */
#pragma once

#include "bitmap/store-io.h"
#include "record-log.h"

typedef struct RecordIo {
    StoreIo io; /* to be passed on; first member */
    StoreIo *inner;
    RecordLog *log;
    /* For tests of tests: data syncs of files that were made under a name that
     * ends in this, or were there under one, are performed and not written down,
     * as if the program had left them out. NULL: none; "." stands for
     * directories. */
    const char *forget;
} RecordIo;

void record_io_init(RecordIo *record, StoreIo *inner, RecordLog *log);
