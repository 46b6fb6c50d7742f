/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * quick-io.h - the kernel without waiting for the disk
 *
 * Purpose: for tests that open and close stores by the thousand and take no
 *          power away: no sync does anything, and all goes through the page
 *          cache.
 * Threads: any.
 */
#pragma once

#include "bitmap/store-io.h"

StoreIo *quick_io(void); /* one for all; never freed */
