/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-gone.c - snapshots are deleted, and their room comes back
 *
 *   dropped    its record says that it is gone: nobody sees it any more. It
 *              may be held: it is being sent, and somebody reads its points
 *   released   its points are not live: nothing more is kept for it
 *   reaped     what no older snapshot resolves to is given back to the host,
 *              then its files are deleted, and its record
 *
 * Dropping is main's and quick, but for one sync of a directory. Releasing is
 * main's, through the fs thread, which alone may change the chain of points.
 * Reaping may take long, so it has a thread: it gets the ids of all that are
 * released, oldest first, each time that one more is; what is in a younger one
 * may have been an older one's. Where somebody was reading it looks again after
 * a second. What is left when the daemon ends is the next one's: the records
 * are found at the next opening.
 *
 * A store that nobody writes has no fs thread. Then a lock is what makes one
 * writer of main and the reaper.
 */
#include "snapshots-private.h"

#include <time.h>

#define RETRY_S 1 /* somebody was reading */

struct Change {
    Snapshots *snapshots;
    uint64_t id;
    Points *points; /* of the one disk that it is about */
    Point *removed;
};

void
snapshots_between(Snapshots *snapshots, void (*work)(void *user), void *user)
{
    if (snapshots->config.face) {
        snapshots->ops->between(snapshots->config.face, work, user);
    } else {
        pthread_mutex_lock(&snapshots->writer);
        work(user);
        pthread_mutex_unlock(&snapshots->writer);
    }
}

/*
 * The reaper
 */
static void
remove_cb(void *user)
{
    struct Change *change = user;

    change->removed = points_remove(change->points, change->id);
}

static Point *
remove_point(void *user, Disk *disk, uint64_t id)
{
    struct Change change = {.points = disk->points, .id = id};

    snapshots_between(user, remove_cb, &change);
    return change.removed;
}

static bool
is_stopping(void *user)
{
    Snapshots *snapshots = user;

    return atomic_load(&snapshots->reaper.is_stopping);
}

static void
forget_locked(struct SnapshotsReaper *reaper, uint64_t id)
{
    for (guint i = 0; i < reaper->todo->len; i++) {
        if (g_array_index(reaper->todo, uint64_t, i) == id) {
            g_array_remove_index(reaper->todo, i);
            return;
        }
    }
}

/* A round over @ids; those that are to be looked at again are left in it. */
static void
reap_all(Snapshots *snapshots, GArray *ids)
{
    const struct SnapshotReap reap = {
        .remove = remove_point, .is_stopping = is_stopping, .user = snapshots};
    struct SnapshotsReaper *reaper = &snapshots->reaper;
    guint left = 0;

    for (guint i = 0; i < ids->len && !is_stopping(snapshots); i++) {
        uint64_t id = g_array_index(ids, uint64_t, i);
        enum SnapshotReaped reaped =
            snapshots->ops->reap(snapshots->config.store, id, &reap);

        if (reaped == SNAPSHOT_IN_USE) {
            g_array_index(ids, uint64_t, left++) = id;
        } else if (reaped == SNAPSHOT_REAPED) {
            /* Main may have named it again before that. */
            pthread_mutex_lock(&reaper->lock);
            forget_locked(reaper, id);
            pthread_mutex_unlock(&reaper->lock);
        }
    }
    g_array_set_size(ids, left);
}

/* Until there is something to do; the lock is held. */
static void
await_work_locked(struct SnapshotsReaper *reaper)
{
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += RETRY_S;
    while (!atomic_load(&reaper->is_stopping) &&
           (reaper->todo->len == 0 || reaper->is_retrying)) {
        if (reaper->todo->len == 0) {
            pthread_cond_wait(&reaper->cond, &reaper->lock);
        } else if (pthread_cond_timedwait(&reaper->cond, &reaper->lock, &end)) {
            reaper->is_retrying = false;
        }
    }
}

static void *
reaper_thread(void *user)
{
    Snapshots *snapshots = user;
    struct SnapshotsReaper *reaper = &snapshots->reaper;
    GArray *ids = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    pthread_mutex_lock(&reaper->lock);
    for (;;) {
        await_work_locked(reaper);
        if (atomic_load(&reaper->is_stopping)) {
            break;
        }
        g_array_set_size(ids, 0);
        g_array_append_vals(ids, reaper->todo->data, reaper->todo->len);
        g_array_set_size(reaper->todo, 0);
        pthread_mutex_unlock(&reaper->lock);
        atomic_store(&snapshots->config.store->is_reaping, true);
        reap_all(snapshots, ids);
        atomic_store(&snapshots->config.store->is_reaping, false);
        pthread_mutex_lock(&reaper->lock);
        if (reaper->todo->len == 0 && ids->len > 0) {
            g_array_append_vals(reaper->todo, ids->data, ids->len);
            reaper->is_retrying = true;
        }
    }
    pthread_mutex_unlock(&reaper->lock);
    g_array_unref(ids);
    return NULL;
}

/*
 * Main
 */
static bool
is_held(const Snapshots *snapshots, uint64_t id)
{
    for (guint i = 0; i < snapshots->held->len; i++) {
        if (g_array_index(snapshots->held, uint64_t, i) == id) {
            return true;
        }
    }
    return false;
}

/* All that are gone and released are the reaper's. */
static void
wake_reaper(Snapshots *snapshots)
{
    struct SnapshotsReaper *reaper = &snapshots->reaper;
    GArray *gone;

    pthread_mutex_lock(&reaper->lock);
    gone = snapshots->ops->gone(snapshots->config.store);
    g_array_set_size(reaper->todo, 0);
    for (guint i = 0; i < gone->len; i++) {
        uint64_t id = g_array_index(gone, uint64_t, i);

        if (!is_held(snapshots, id)) {
            g_array_append_val(reaper->todo, id);
        }
    }
    reaper->is_retrying = false;
    pthread_cond_signal(&reaper->cond);
    pthread_mutex_unlock(&reaper->lock);
    g_array_unref(gone);
}

static void
release_cb(void *user)
{
    struct Change *change = user;
    const Store *store = change->snapshots->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        points_set_live(store->disks[i]->points, change->id, false);
    }
}

void
snapshots_release(Snapshots *snapshots, uint64_t id)
{
    struct Change change = {.snapshots = snapshots, .id = id};

    snapshots_between(snapshots, release_cb, &change);
    wake_reaper(snapshots);
}

static bool
is_being_sent(const Snapshots *snapshots, uint64_t id)
{
    const struct SnapshotsConfig *config = &snapshots->config;

    return config->is_held && config->is_held(config->user, id);
}

static void
tell_deleted(Snapshots *snapshots, const Snapshot *snapshot)
{
    JsonObject *data = json_object_new();

    json_object_set_int_member(data, "id", (gint64)snapshot->id);
    json_object_set_string_member(data, "name", snapshot->name);
    json_object_set_string_member(data, "reason", snapshot->reason);
    snapshots_tell(snapshots, "WEIR_SNAPSHOT_DELETED", data);
}

gboolean
snapshots_drop(Snapshots *snapshots, const Snapshot *snapshot, GError **error)
{
    if (!snapshots->ops->drop(snapshots->config.store, snapshot->id, error)) {
        return FALSE;
    }
    if (!snapshot_is_hidden(snapshot)) {
        tell_deleted(snapshots, snapshot);
    }
    if (is_being_sent(snapshots, snapshot->id)) {
        g_array_append_val(snapshots->held, snapshot->id);
    } else {
        snapshots_release(snapshots, snapshot->id);
    }
    return TRUE;
}

void
snapshots_look_held(Snapshots *snapshots)
{
    for (guint i = snapshots->held->len; i > 0; i--) {
        uint64_t id = g_array_index(snapshots->held, uint64_t, i - 1);

        if (!is_being_sent(snapshots, id)) {
            g_array_remove_index(snapshots->held, i - 1);
            snapshots_release(snapshots, id);
        }
    }
}

void
snapshots_gone_init(Snapshots *snapshots)
{
    struct SnapshotsReaper *reaper = &snapshots->reaper;
    pthread_condattr_t attr;
    int err;

    snapshots->held = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    pthread_mutex_init(&snapshots->writer, NULL);
    pthread_mutex_init(&reaper->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&reaper->cond, &attr);
    pthread_condattr_destroy(&attr);
    reaper->todo = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    wake_reaper(snapshots);
    err = pthread_create(&reaper->thread, NULL, reaper_thread, snapshots);
    if (err) {
        g_error("no thread to give room back: %s", g_strerror(err));
    }
}

void
snapshots_gone_deinit(Snapshots *snapshots)
{
    struct SnapshotsReaper *reaper = &snapshots->reaper;

    pthread_mutex_lock(&reaper->lock);
    atomic_store(&reaper->is_stopping, true);
    pthread_cond_signal(&reaper->cond);
    pthread_mutex_unlock(&reaper->lock);
    pthread_join(reaper->thread, NULL);
    g_array_unref(reaper->todo);
    pthread_cond_destroy(&reaper->cond);
    pthread_mutex_destroy(&reaper->lock);
    pthread_mutex_destroy(&snapshots->writer);
    g_array_unref(snapshots->held);
}
