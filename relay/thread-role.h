/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * thread-role.h - "this runs on a relay thread", asserted
 *
 * Purpose: functions that touch a ring or an NBD handle begin with
 *          relay_thread_assert(); so do callbacks that run in libnbd's stack.
 * Threads: any; the flag is the thread's own.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>

extern _Thread_local bool relay_thread_is_here;

static inline void
relay_thread_enter(void)
{
    relay_thread_is_here = true;
}

static inline void
relay_thread_assert(void)
{
    assert(relay_thread_is_here);
}
