/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-rig.h - a disk's map with named bitmaps, and a guest that writes
 *
 * Purpose: what the tests of named bitmaps share. The file that includes it has
 *          said how large the disk is: SIZE, in bytes.
 * Threads: the test's.
 */
#pragma once

#include "bitmap/named.h"
#include "tests/lib/test.h"

#define KIB   UINT64_C(1024)
#define GRAIN (64 * KIB)

struct Rig {
    DiskMap *map;
    NamedBitmaps *set;
    uint64_t last_id;
};

static inline int
setup(void **state)
{
    struct Rig *rig = test_calloc(1, sizeof(*rig));

    rig->map = disk_map_new(SIZE, 16);
    rig->set = named_bitmaps_new(rig->map);
    *state = rig;
    return rig->map && rig->set ? 0 : -1;
}

static inline int
teardown(void **state)
{
    struct Rig *rig = *state;

    named_bitmaps_free(rig->set);
    disk_map_free(rig->map);
    test_free(rig);
    return 0;
}

static inline void
on_granted(RangeHold *hold)
{
    (void)hold;
}

static inline void
guest_writes(struct Rig *rig, uint64_t offset, uint64_t len)
{
    RangeHold hold = {.offset = offset,
                      .len = len,
                      .kind = RANGE_WRITE,
                      .granted = on_granted};

    assert_int_equal(disk_map_begin(rig->map, &hold, 1), DISK_MAP_BEGUN);
    disk_map_end(rig->map, &hold, 2);
}
