/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mutant.h - deliberate bugs, for tests that prove that tests can see
 *
 * Purpose: each name below is one rule of the protocol, broken. A test binary
 *          compiled with -DWEIR_MUTANT=MUTANT_X runs with that rule broken and
 *          has to fail; in the product WEIR_MUTANT is MUTANT_NONE and the
 *          compiler removes every branch on it.
 * Threads: any; there is no state.
 * Source:  what field systems got wrong: md, DRBD, QEMU, several NBD stores.
 */
#pragma once

enum WeirMutant {
    MUTANT_NONE = 0,
    MUTANT_NO_SECOND_MARKING,   /* a guest write is not marked at completion */
    MUTANT_NO_FIRST_MARKING,    /* ... nor before its submission */
    MUTANT_CLEAR_BY_GENERATION, /* the relay clears what it sent, sealed or
                                   open, if no write was begun since */
    MUTANT_CLEAR_BEFORE_FLUSH,  /* an acknowledged write counts as settled */
    MUTANT_FLUSH_ONE,           /* several connections to a server that has no
                             multi-conn, flush on the first one only */
    MUTANT_FLUSH_EARLY,   /* a flush settles what was acknowledged after it
                             was sent, too */
    MUTANT_NO_QUARANTINE, /* clusters in doubt are rewritten at once */
    MUTANT_NO_EPOCH,      /* a flush settles writes of a lost connection */
    MUTANT_TWO_IN_FLIGHT, /* two writes of one cluster at once */
    MUTANT_AHEAD_TWICE,   /* ... one of them before its turn */
    MUTANT_TRUST_HOLES,   /* a local hole is clean without being sent */
    MUTANT_NO_LOG,        /* an upload leaves before the sent-log has it */
    MUTANT_TRUST_LOGGED,  /* sums of clusters in the sent-log are believed */
    MUTANT_SUM_EARLY,     /* ... leave it without waiting for the flush */
    MUTANT_DROP_UNSYNCED, /* ... or for their sums to be durable */
    MUTANT_RETRY_SYNC,    /* ... after a failed sync the next is believed */
    MUTANT_NO_LOG_DOUBT,  /* what the last life logged is not in doubt */
    MUTANT_NO_INTENT,     /* cold extents are written like hot ones */
    MUTANT_COOL_TOUCHED,  /* an extent gets cold though it was written
                                 while its checkpoint was made */
    MUTANT_COOL_WITHOUT_SYNC, /* ... before its data is durable */
    MUTANT_NO_ASIDE,          /* what a cut owes is overwritten */
    MUTANT_READ_LIVE,         /* ... and the relay reads what is there now */
    MUTANT_NO_PIN,            /* ... or while the relay reads it */
    MUTANT_CUT_ONE_BY_ONE,    /* each disk is sealed at an instant of its own */
    MUTANT_CUT_ZEROES,        /* ... whether or not its zeroes are punched */
    MUTANT_SEND_UNALLOWED,    /* a cut is sent as soon as it is sealed */
    MUTANT_FORGET_UNSEALED,   /* what is taken back is not dirty again */
    MUTANT_SNAP_NO_COPY,      /* what a snapshot needs is overwritten */
    MUTANT_SNAP_UNSYNCED,     /* ... once its copy is written, not synced */
    MUTANT_SNAP_NO_ZEROES,    /* discards under way are not in a snapshot */
    MUTANT_SNAP_NO_DRAIN,     /* writes in flight may come in later */
    MUTANT_SNAP_NO_PIN,       /* a snapshot is read while it is overwritten */
    MUTANT_SNAPSHOT_NO_FIRST_MARK,  /* what was overwritten since a snapshot is
                                       not sealed with its cut */
    MUTANT_SNAPSHOT_NO_SECOND_MARK, /* ... or not dirty again after it */
    MUTANT_RECORDER_NO_FIRST_MARK,  /* recorders hear of a guest's write only at
                                       completion */
    MUTANT_RECORDER_NO_SECOND_MARK, /* ... or only at its beginning */
};

#ifndef WEIR_MUTANT
#define WEIR_MUTANT MUTANT_NONE
#endif

#define mutant(name) (WEIR_MUTANT == (name))
