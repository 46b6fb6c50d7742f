/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flag behind relay_thread_assert(): thread-local, so that several relays
 * in one process (tests) do not know of each other, and no lock is needed.
 */
#include "thread-role.h"

_Thread_local bool relay_thread_is_here;
