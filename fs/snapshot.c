/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot.c - which snapshots there are
 *
 * The main thread changes the list; the fs thread answers look-ups in the mount
 * from it. Whoever asks gets a copy: what it was told may be deleted a moment
 * later, and then the points say so (bitmap/points.h).
 */
#include "snapshot.h"

#include <string.h>

struct SnapshotList {
    GMutex lock;
    /* guarded by lock */
    GPtrArray *all; /* Snapshot, by id */
    guint n_hidden; /* of them */
};

bool
snapshot_is_hidden(const Snapshot *snapshot)
{
    return strcmp(snapshot->reason, SNAPSHOT_JOB) == 0;
}

const struct SnapshotDisk *
snapshot_disk(const Snapshot *snapshot, unsigned disk_id)
{
    for (unsigned i = 0; i < snapshot->n_disks; i++) {
        if (snapshot->disks[i].id == disk_id) {
            return &snapshot->disks[i];
        }
    }
    return NULL;
}

SnapshotList *
snapshot_list_new(void)
{
    SnapshotList *list = g_new0(SnapshotList, 1);

    g_mutex_init(&list->lock);
    list->all = g_ptr_array_new_with_free_func(g_free);
    return list;
}

void
snapshot_list_free(SnapshotList *list)
{
    if (list != NULL) {
        g_ptr_array_unref(list->all);
        g_mutex_clear(&list->lock);
        g_free(list);
    }
}

/* Where the first one of at least @id is. */
static guint
place_locked(const SnapshotList *list, uint64_t id)
{
    guint at = list->all->len;

    while (at > 0) {
        const Snapshot *snapshot = g_ptr_array_index(list->all, at - 1);

        if (snapshot->id < id) {
            break;
        }
        at--;
    }
    return at;
}

static const Snapshot *
get_locked(const SnapshotList *list, uint64_t id)
{
    guint at = place_locked(list, id);
    const Snapshot *snapshot =
        at < list->all->len ? g_ptr_array_index(list->all, at) : NULL;

    return snapshot != NULL && snapshot->id == id ? snapshot : NULL;
}

static void
remove_locked(SnapshotList *list, uint64_t id)
{
    const Snapshot *found = get_locked(list, id);

    if (found != NULL) {
        list->n_hidden -= snapshot_is_hidden(found);
        g_ptr_array_remove_index(list->all, place_locked(list, id));
    }
}

void
snapshot_list_put(SnapshotList *list, const Snapshot *snapshot)
{
    guint at;

    g_mutex_lock(&list->lock);
    at = place_locked(list, snapshot->id);
    remove_locked(list, snapshot->id);
    list->n_hidden += snapshot_is_hidden(snapshot);
    g_ptr_array_insert(list->all, (gint)at,
                       g_memdup2(snapshot, sizeof(*snapshot)));
    g_mutex_unlock(&list->lock);
}

void
snapshot_list_remove(SnapshotList *list, uint64_t id)
{
    g_mutex_lock(&list->lock);
    remove_locked(list, id);
    g_mutex_unlock(&list->lock);
}

unsigned
snapshot_list_count(SnapshotList *list)
{
    unsigned count;

    g_mutex_lock(&list->lock);
    count = list->all->len - list->n_hidden;
    g_mutex_unlock(&list->lock);
    return count;
}

/* The lock is held; it is given back. */
static bool
give(SnapshotList *list, const Snapshot *found, Snapshot *snapshot)
{
    if (found != NULL && snapshot != NULL) {
        *snapshot = *found;
    }
    g_mutex_unlock(&list->lock);
    return found != NULL;
}

/* Number @index of those behind the first @skip that are hidden, or are not. */
static const Snapshot *
at_locked(const SnapshotList *list, guint skip, guint index, bool is_hidden)
{
    if (list->n_hidden == 0) {
        skip += index;
        return !is_hidden && skip < list->all->len
                   ? g_ptr_array_index(list->all, skip)
                   : NULL;
    }
    for (guint i = skip; i < list->all->len; i++) {
        const Snapshot *one = g_ptr_array_index(list->all, i);

        if (snapshot_is_hidden(one) == is_hidden && index-- == 0) {
            return one;
        }
    }
    return NULL;
}

bool
snapshot_list_at(SnapshotList *list, unsigned index, Snapshot *snapshot)
{
    g_mutex_lock(&list->lock);
    return give(list, at_locked(list, 0, index, false), snapshot);
}

bool
snapshot_list_hidden_at(SnapshotList *list, unsigned index, Snapshot *snapshot)
{
    g_mutex_lock(&list->lock);
    return give(list, at_locked(list, 0, index, true), snapshot);
}

bool
snapshot_list_next(SnapshotList *list, uint64_t id, Snapshot *snapshot)
{
    if (id == UINT64_MAX) {
        return false;
    }
    g_mutex_lock(&list->lock);
    return give(list, at_locked(list, place_locked(list, id + 1), 0, false),
                snapshot);
}

bool
snapshot_list_get(SnapshotList *list, uint64_t id, Snapshot *snapshot)
{
    g_mutex_lock(&list->lock);
    return give(list, get_locked(list, id), snapshot);
}

bool
snapshot_list_find(SnapshotList *list, const char *name, Snapshot *snapshot)
{
    const Snapshot *found = NULL;

    g_mutex_lock(&list->lock);
    for (guint i = 0; i < list->all->len && found == NULL; i++) {
        const Snapshot *one = g_ptr_array_index(list->all, i);

        if (!snapshot_is_hidden(one) && strcmp(one->name, name) == 0) {
            found = one;
        }
    }
    return give(list, found, snapshot);
}

static bool
find_last(SnapshotList *list, bool is_uploaded, Snapshot *snapshot)
{
    const Snapshot *found = NULL;

    g_mutex_lock(&list->lock);
    for (guint i = list->all->len; i > 0 && found == NULL; i--) {
        const Snapshot *one = g_ptr_array_index(list->all, i - 1);

        if (!snapshot_is_hidden(one) && (!is_uploaded || one->cut > 0)) {
            found = one;
        }
    }
    return give(list, found, snapshot);
}

bool
snapshot_list_latest(SnapshotList *list, Snapshot *snapshot)
{
    return find_last(list, false, snapshot);
}

bool
snapshot_list_uploaded(SnapshotList *list, Snapshot *snapshot)
{
    return find_last(list, true, snapshot);
}
