/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * place.h - a crash state as real files, for a real store to open
 *
 * Purpose: puts the state that was chosen into DIR/root, and disk.raw with its
 *          number and times as the recording had them: a store that compares
 *          these with what it remembers is not to see the difference.
 * Threads: the test's.
 * Shapes:  DIR is that of the states. fstat() (fstat64 in this build) is wrapped by the linker
 *          (-Wl,--wrap=fstat64) in every program that uses this.
 * Errors:  asserted.
 */
#pragma once

#include "states.h"

/* Make DIR/root what the state says, whatever is there now. */
void place_state(const CrashStates *states);
/* Size and content of what others did to disk.raw: see crash_states_touch().*/
void place_forget(const CrashStates *states);
