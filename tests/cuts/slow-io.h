/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * slow-io.h - storage whose reads take a moment to begin
 *
 * Purpose: the kernel's storage, but now and then a millisecond goes by between
 *          the decision to read and the read. On a real disk there always is
 *          one; in memory there is none, and whoever does not keep others from
 *          writing meanwhile would never be caught.
 * Threads: any.
 */
#pragma once

#include "bitmap/store-io.h"

/* One for all; never freed. */
StoreIo *slow_io(void);
