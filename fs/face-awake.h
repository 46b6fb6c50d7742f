/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-awake.h - is the fs thread to look again for work, or to sleep?
 *
 * Purpose: saves the time that waking takes where the next thing to do is just
 *          about to come, and the CPU's where it is not; face-awake.c says how.
 * Threads: one, the fs thread.
 * Units:   monotonic microseconds.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct FaceAwake {
    unsigned poll_us; /* a look's length; 0: no looks. The owner's */
    /* the rest zero at first */
    bool is_looking;    /* the last round was not to sleep */
    unsigned naps;      /* after the last look in vain ... */
    unsigned naps_left; /* ... and of those still to come */
    int64_t until_us;   /* of this look */
} FaceAwake;

/* After each round of the thread, which found something to do (@has_worked) or
 * nothing. True: no sleep, another round. */
bool face_awake(FaceAwake *awake, int64_t now_us, bool has_worked);
/* It sleeps now. */
void face_awake_sleeps(FaceAwake *awake);
