/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots.c - snapshots are made, one at a time
 *
 * Whoever wants one waits in a queue. Between its turn and its answer:
 *
 *   state    when                     what                            then
 *   REST     somebody waits           its files are made              DISCARDS
 *            ... that cannot be       told                            REST
 *   DISCARDS none is under way        on-freeze is begun              FREEZE
 *            ... and there is no hook                                 INSTANT
 *            30 s are over            abandoned, told                 REST
 *   FREEZE   the hook has ended                                       INSTANT
 *            10 s are over            SIGTERM                         ENDING
 *   ENDING   the hook has ended                                       INSTANT
 *            1 s is over              SIGKILL                         INSTANT
 *   INSTANT  at once                  the fs thread's instant; on-thaw
 *                                     is begun; the record; told      THAW
 *            ... nothing was frozen   (no thaw)                       REST
 *            the face has discards    again, for 10 s; then thawed,
 *                                     abandoned, told                 THAW
 *   THAW     it succeeded                                             REST
 *            it failed, or 60 s       again after 1 s, three times in
 *                                     all; then it is given up        REST
 *
 * What the guest has discarded reads as zero before it is punched, so it has to
 * be for an instant; a frozen guest is not made to wait for that, if it can be
 * helped. Nothing here waits for a hook. While the guest's file systems are frozen
 * nothing is done but the instant: what takes its time is done before, or after
 * the thaw has begun. A freeze that failed costs only the promise: the
 * snapshot is then what a loss of power would leave, and says so. A freeze that
 * was tried is thawed, whatever came of it and of the instant, and when the
 * daemon ends in the middle.
 *
 * From the instant on the fs thread keeps old content for the snapshot, and
 * content of older ones may be with it. So one that fails after its instant is
 * not just taken back: it goes the way of one that was deleted.
 */
#include "snapshots-private.h"

#include <errno.h>
#include <string.h>

#define AGAIN_MS    20 /* while discards are under way */
#define DISCARDS_US (30 * G_USEC_PER_SEC)
#define INSTANT_US  (10 * G_USEC_PER_SEC)

static const struct SnapshotsOps real_ops = {
    .snapshot = face_snapshot,
    .between = face_between,
    .prepare = store_snapshot_prepare,
    .commit = store_snapshot_commit,
    .abandon = store_snapshot_abandon,
    .now = store_snapshot_now,
    .drop = store_snapshot_drop,
    .gone = store_snapshots_gone,
    .reap = store_snapshot_reap,
    .now_us = g_get_monotonic_time,
    .wall_us = g_get_real_time,
};

static gboolean again_cb(gpointer data);

/*
 * Telling
 */
void
snapshots_tell(Snapshots *snapshots, const char *name, JsonObject *data)
{
    snapshots->config.event(snapshots->config.user, name, data);
}

void
snapshots_tell_failure(Snapshots *snapshots, const char *name,
                       const char *reason, const char *words)
{
    JsonObject *data = json_object_new();

    if (name) {
        json_object_set_string_member(data, "name", name);
    } else {
        json_object_set_null_member(data, "name");
    }
    json_object_set_string_member(data, "reason", reason);
    json_object_set_string_member(data, "error", words);
    snapshots_tell(snapshots, "WEIR_SNAPSHOT_FAILED", data);
}

static void
order_free(struct SnapshotOrder *order)
{
    g_free(order->name);
    g_free(order);
}

/* Takes @error, NULL if there is @snapshot. */
static void
answer(Snapshots *snapshots, struct SnapshotOrder *order,
       const Snapshot *snapshot, GError *error)
{
    if (strcmp(order->reason, SNAPSHOT_JOB) == 0) {
        /* Whoever made the job tells of it. */
    } else if (error) {
        snapshots_tell_failure(snapshots, order->name, order->reason,
                               error->message);
    } else {
        snapshots_tell(snapshots, "WEIR_SNAPSHOT_CREATED",
                       snapshot_json(snapshots->config.store, snapshot));
    }
    order->done(order->user, snapshot, error);
    order_free(order);
    g_clear_error(&error);
}

/*
 * The instant
 */
static void
take_blocks(Snapshots *snapshots, const struct FaceSnapshot *instant)
{
    const Store *store = snapshots->config.store;
    Snapshot *snapshot = &snapshots->draft->snapshot;

    snapshot->wall_us = instant->wall_us;
    snapshot->is_frozen = snapshots->is_frozen;
    for (unsigned i = 0; i < snapshot->n_disks; i++) {
        for (unsigned k = 0; k < store->n_disks; k++) {
            if (store->disks[k]->id == snapshot->disks[i].id) {
                snapshot->disks[i].blocks = instant->blocks[k];
            }
        }
    }
}

/* After an instant that cannot be relied on: a record, so that older snapshots
 * find what was kept here for them, of one that is deleted. */
static void
disown(Snapshots *snapshots, SnapshotDraft *draft)
{
    Store *store = snapshots->config.store;
    uint64_t id = draft->snapshot.id;
    g_autoptr(GError) error = NULL;

    draft->snapshot.is_damaged = true;
    if (!snapshots->ops->commit(store, draft, &error) ||
        !snapshots->ops->drop(store, id, &error)) {
        g_warning("snapshot %s, which failed, cannot be put away: %s",
                  snapshots->name, error->message);
    }
    snapshots_release(snapshots, id);
}

/* Takes the draft. */
static gboolean
keep_record(Snapshots *snapshots, int res, Snapshot *made, GError **error)
{
    SnapshotDraft *draft = g_steal_pointer(&snapshots->draft);

    *made = draft->snapshot;
    if (res < 0) {
        g_set_error(error, STORE_ERROR,
                    res == -ENOSPC ? STORE_ERROR_FULL : STORE_ERROR_FAILED,
                    "the disks cannot be synced: %s", g_strerror(-res));
        disown(snapshots, draft);
        return FALSE;
    }
    if (!snapshots->ops->commit(snapshots->config.store, draft, error)) {
        snapshots_release(snapshots, made->id);
        return FALSE;
    }
    return TRUE;
}

/* Its instant was not yet, and will not be. Takes @why. */
static void
give_up(Snapshots *snapshots, GError *why)
{
    g_clear_handle_id(&snapshots->timer, g_source_remove);
    snapshots_thaw(snapshots);
    snapshots->ops->abandon(snapshots->config.store,
                            g_steal_pointer(&snapshots->draft));
    answer(snapshots, g_steal_pointer(&snapshots->order), NULL, why);
}

/* Discards are under way. */
static void
wait_again(Snapshots *snapshots, enum SnapshotsState state)
{
    snapshots->state = state;
    if (snapshots->ops->now_us() < snapshots->end_us) {
        snapshots->timer = g_timeout_add(AGAIN_MS, again_cb, snapshots);
        return;
    }
    give_up(snapshots, g_error_new(STORE_ERROR, STORE_ERROR_BUSY,
                                   "snapshot %s: the guest discards all the "
                                   "time: try again when it has ended",
                                   snapshots->name));
    snapshots_begin_waiting(snapshots);
}

static void
take_instant(Snapshots *snapshots)
{
    struct FaceSnapshot instant = {0};
    struct SnapshotOrder *order;
    GError *error = NULL;
    Snapshot made;
    int res;

    memcpy(instant.points, snapshots->draft->points, sizeof(instant.points));
    res = snapshots->ops->snapshot(snapshots->config.face, &instant);
    if (res == -EAGAIN) {
        wait_again(snapshots, SNAPSHOTS_INSTANT);
        return;
    }
    order = g_steal_pointer(&snapshots->order);
    snapshots_thaw(snapshots);
    take_blocks(snapshots, &instant);
    if (keep_record(snapshots, res, &made, &error)) {
        answer(snapshots, order, &made, NULL);
    } else {
        g_prefix_error(&error, "snapshot %s: ", made.name);
        answer(snapshots, order, NULL, error);
    }
    snapshots_begin_waiting(snapshots);
}

void
snapshots_begin_instant(Snapshots *snapshots)
{
    snapshots->end_us = snapshots->ops->now_us() + INSTANT_US;
    take_instant(snapshots);
}

/*
 * From the queue
 */

/* Nobody writes: there is nobody to be frozen either. */
static void
make_at_rest(Snapshots *snapshots, struct SnapshotOrder *order)
{
    GError *error = NULL;
    gboolean is_made;
    Snapshot made;

    pthread_mutex_lock(&snapshots->writer);
    is_made = snapshots->ops->now(snapshots->config.store, order->name,
                                  order->reason, &made, &error);
    pthread_mutex_unlock(&snapshots->writer);
    answer(snapshots, order, is_made ? &made : NULL, error);
}

static void
look_discards(Snapshots *snapshots)
{
    const Store *store = snapshots->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        if (atomic_load(&store->disks[i]->unpunched_bytes) > 0) {
            wait_again(snapshots, SNAPSHOTS_DISCARDS);
            return;
        }
    }
    if (!snapshots_freeze(snapshots)) {
        snapshots_begin_instant(snapshots);
    }
}

static gboolean
again_cb(gpointer data)
{
    Snapshots *snapshots = data;

    snapshots->timer = 0;
    if (snapshots->state == SNAPSHOTS_DISCARDS) {
        look_discards(snapshots);
    } else {
        take_instant(snapshots);
    }
    return G_SOURCE_REMOVE;
}

static void
begin(Snapshots *snapshots, struct SnapshotOrder *order)
{
    GError *error = NULL;

    if (!snapshots->config.face) {
        make_at_rest(snapshots, order);
        return;
    }
    snapshots->draft = snapshots->ops->prepare(
        snapshots->config.store, order->name, order->reason, &error);
    if (!snapshots->draft) {
        answer(snapshots, order, NULL, error);
        return;
    }
    snapshots->order = order;
    g_strlcpy(snapshots->name, snapshots->draft->snapshot.name,
              sizeof(snapshots->name));
    snapshots->end_us = snapshots->ops->now_us() + DISCARDS_US;
    look_discards(snapshots);
}

void
snapshots_begin_waiting(Snapshots *snapshots)
{
    if (snapshots->is_beginning) {
        return; /* from within */
    }
    snapshots->is_beginning = true;
    while (snapshots->state == SNAPSHOTS_REST && !snapshots->draft &&
           !g_queue_is_empty(&snapshots->queue)) {
        begin(snapshots, g_queue_pop_head(&snapshots->queue));
    }
    snapshots->is_beginning = false;
}

void
snapshots_create(Snapshots *snapshots, const char *name, const char *reason,
                 SnapshotsDone done, void *user)
{
    struct SnapshotOrder *order = g_new0(struct SnapshotOrder, 1);

    order->name = g_strdup(name);
    g_strlcpy(order->reason, reason, sizeof(order->reason));
    order->done = done;
    order->user = user;
    if (snapshots->is_stopping) {
        answer(snapshots, order, NULL,
               g_error_new(STORE_ERROR, STORE_ERROR_BUSY,
                           "no snapshot: the daemon is about to end; try "
                           "again when another one is there"));
        return;
    }
    g_queue_push_tail(&snapshots->queue, order);
    snapshots_begin_waiting(snapshots);
}

gboolean
snapshots_delete(Snapshots *snapshots, const char *name, GError **error)
{
    Snapshot snapshot;

    if (!snapshot_list_find(snapshots->config.store->snapshots, name,
                            &snapshot)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "there is no snapshot %s", name);
        return FALSE;
    }
    return snapshots_drop(snapshots, &snapshot, error);
}

gboolean
snapshots_delete_hidden(Snapshots *snapshots, uint64_t id, GError **error)
{
    Snapshot snapshot;

    return !snapshot_list_get(snapshots->config.store->snapshots, id,
                              &snapshot) ||
           snapshots_drop(snapshots, &snapshot, error);
}

/*
 * In time
 */
void
snapshots_look(Snapshots *snapshots)
{
    snapshots_look_hooks(snapshots);
    snapshots_look_held(snapshots);
    if (!snapshots->is_stopping) {
        snapshots_look_schedule(snapshots);
    }
}

void
snapshots_stop(Snapshots *snapshots)
{
    GError *why = g_error_new(STORE_ERROR, STORE_ERROR_BUSY,
                              "no snapshot: the daemon ends; try again when "
                              "another one is there");
    struct SnapshotOrder *order;

    snapshots->is_stopping = true;
    if (snapshots->draft) { /* its instant was not yet */
        cut_hook_stop(snapshots->freeze);
        give_up(snapshots, g_error_copy(why));
    }
    while ((order = g_queue_pop_head(&snapshots->queue))) {
        answer(snapshots, order, NULL, g_error_copy(why));
    }
    g_error_free(why);
}

bool
snapshots_is_quiet(const Snapshots *snapshots)
{
    return snapshots->state == SNAPSHOTS_REST;
}

void
snapshots_figures(const Snapshots *snapshots, struct SnapshotsFigures *figures)
{
    const struct SnapshotsSchedule *schedule = &snapshots->schedule;

    *figures = (struct SnapshotsFigures){
        .is_busy = snapshots->state != SNAPSHOTS_REST,
        .next_us = schedule->every_s ? schedule->due_us : 0,
    };
    g_strlcpy(figures->error, schedule->error, sizeof(figures->error));
    g_strlcpy(figures->hook_error, snapshots->hook_error,
              sizeof(figures->hook_error));
}

Snapshots *
snapshots_new(const struct SnapshotsConfig *config)
{
    Snapshots *snapshots = g_new0(Snapshots, 1);

    snapshots->config = *config;
    snapshots->ops = config->ops ? config->ops : &real_ops;
    snapshots_hooks_init(snapshots);
    g_queue_init(&snapshots->queue);
    snapshots_gone_init(snapshots);
    return snapshots;
}

void
snapshots_free(Snapshots *snapshots)
{
    snapshots_stop(snapshots);
    snapshots_hooks_deinit(snapshots);
    snapshots_gone_deinit(snapshots);
    g_free(snapshots);
}
