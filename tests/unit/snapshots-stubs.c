/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-stubs.c - what the manager of snapshots names and its tests replace
 *
 * Weak: the real ones take their places as soon as they are there.
 */
#include "fs/snapshots.h"
#include "tests/lib/test.h"

#define STUB __attribute__((weak))

STUB int
face_snapshot(Face *face, struct FaceSnapshot *snapshot)
{
    (void)face;
    (void)snapshot;
    fail();
    return -1;
}

STUB void
face_between(Face *face, void (*work)(void *user), void *user)
{
    (void)face;
    (void)work;
    (void)user;
    fail();
}

STUB SnapshotDraft *
store_snapshot_prepare(Store *store, const char *name, const char *reason,
                       GError **error)
{
    (void)store;
    (void)name;
    (void)reason;
    (void)error;
    fail();
    return NULL;
}

STUB gboolean
store_snapshot_commit(Store *store, SnapshotDraft *draft, GError **error)
{
    (void)store;
    (void)draft;
    (void)error;
    fail();
    return FALSE;
}

STUB void
store_snapshot_abandon(Store *store, SnapshotDraft *draft)
{
    (void)store;
    (void)draft;
    fail();
}

STUB gboolean
store_snapshot_now(Store *store, const char *name, const char *reason,
                   Snapshot *made, GError **error)
{
    (void)store;
    (void)name;
    (void)reason;
    (void)made;
    (void)error;
    fail();
    return FALSE;
}

STUB gboolean
store_snapshot_drop(Store *store, uint64_t id, GError **error)
{
    (void)store;
    (void)id;
    (void)error;
    fail();
    return FALSE;
}

STUB GArray *
store_snapshots_gone(Store *store)
{
    (void)store;
    fail();
    return NULL;
}

STUB enum SnapshotReaped
store_snapshot_reap(Store *store, uint64_t id, const struct SnapshotReap *reap)
{
    (void)store;
    (void)id;
    (void)reap;
    fail();
    return SNAPSHOT_STOPPED;
}
