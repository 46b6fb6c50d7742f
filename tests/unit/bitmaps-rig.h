/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmaps-rig.h - a store whose disk vdb has named bitmaps
 *
 * Purpose: lives of a store without a face: the guest's writes, checkpoints that
 *          make extents cold, crashes (the store is freed) and clean ends.
 * Threads: the test's.
 * Units:   bytes.
 * Shapes:  vdb has no target, 64 MiB, 16 extents.
 */
#pragma once

#include "fs/store-bitmaps-private.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/store-fixture.h"

#define EXTENT (UINT64_C(1) << INTENT_EXTENT_BITS)
#define BIG    (64 * MIB)

struct Rig {
    struct StoreFixture *fixture;
    FaultIo fault; /* what stores are opened with */
    Store *store;  /* NULL: not open */
    Disk *disk;
    char *why; /* of the last command that failed */
};

int rig_setup(void **state);
int rig_teardown(void **state);

void rig_open(struct Rig *rig);
void rig_serve(struct Rig *rig); /* opens it, too, if it is not open */
void rig_crash(struct Rig *rig);
void rig_end(struct Rig *rig); /* cleanly */
/* Crash, or not, and open again. */
void rig_again(struct Rig *rig, bool is_clean);

/* As the face does; false: an extent could not be made hot. */
bool rig_write(struct Rig *rig, uint64_t offset, uint64_t len);
/* What was not written since the last call is cold after a second one. */
void rig_cool(struct Rig *rig);

bool rig_add(struct Rig *rig, const char *name, unsigned grain_bits);
bool rig_clear(struct Rig *rig, const char *name);
bool rig_enable(struct Rig *rig, const char *name, bool is_enabled);
bool rig_save(struct Rig *rig);
/* Of a command: takes the error. */
bool rig_did(struct Rig *rig, gboolean ok, GError *error);

/* Dirty bytes of a bitmap; UINT64_MAX: there is none. */
uint64_t rig_count(struct Rig *rig, const char *name);
bool rig_is_dirty(struct Rig *rig, const char *name, uint64_t offset,
                  uint64_t len);
/* A number for all that a bitmap is: its bits, its figures but for versions. */
uint64_t rig_sum(struct Rig *rig, const char *name);
struct NamedFigures rig_figures(struct Rig *rig, const char *name);

char *rig_file(const struct Rig *rig, const char *name); /* below vdb */
unsigned rig_files(const struct Rig *rig);               /* in bitmaps */
void rig_flip(const struct Rig *rig, const char *name, off_t at); /* a bit */

/* Served, with bitmaps: b, 1, of fine grains, has extent 3, cold; still, 2, which
 * is disabled, has it as a cluster. */
void rig_make(struct Rig *rig);
/* It has this much, from there on, and nothing else. */
bool rig_has_only(struct Rig *rig, const char *name, uint64_t bytes);
