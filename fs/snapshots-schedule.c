/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-schedule.c - snapshots by the clock, and how many of them are kept
 *
 * The next one is due `snapshot-every` after the instant of the last one that
 * the schedule has made, which the wall clock has kept over restarts; from then
 * on the monotonic clock says when. A wall clock that was set back cannot put
 * it off by more than one period.
 *
 *   due, and something was written since the last one      it is made
 *   due, and nothing was                                   passed over
 *   it cannot be made                                      warned of once, shown
 *   in any case                                            a period later again
 *
 * However long the daemon was away, one is due, not several. Those beyond
 * `snapshot-keep` are deleted, oldest first, a few at a time, because each is a
 * sync. Only the schedule's own ones are counted and deleted, and only while
 * there is a schedule.
 */
#include "snapshots-private.h"

#include <string.h>

#define REASON   "schedule"
#define TRIM_MAX 8 /* at a time */

/* The youngest one that the schedule has made. */
static bool
find_last(const Snapshots *snapshots, Snapshot *last)
{
    SnapshotList *list = snapshots->config.store->snapshots;

    for (unsigned i = snapshot_list_count(list); i > 0; i--) {
        if (snapshot_list_at(list, i - 1, last) &&
            !strcmp(last->reason, REASON)) {
            return true;
        }
    }
    return false;
}

static bool
is_disk_changed(Disk *disk, const Snapshot *last)
{
    const struct SnapshotDisk *then = snapshot_disk(last, disk->id);
    uint64_t size_bytes = atomic_load(&disk->size_bytes);
    uint64_t clusters = (size_bytes >> disk->cluster_bits) + 1;
    struct ClusterRun run;

    return !then || then->size_bytes != size_bytes ||
           points_next_changed(disk->points, last->id, 0, 0, clusters, &run);
}

/* Was something written since the last one? */
static bool
is_changed(const Snapshots *snapshots)
{
    const Store *store = snapshots->config.store;
    Snapshot last;

    if (!find_last(snapshots, &last) || last.is_damaged) {
        return true;
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (is_disk_changed(store->disks[i], &last)) {
            return true;
        }
    }
    return false;
}

/* What a setting, or the start of the daemon, makes of it. */
static void
reckon(Snapshots *snapshots)
{
    struct SnapshotsSchedule *schedule = &snapshots->schedule;
    int64_t every_us = (int64_t)schedule->every_s * G_USEC_PER_SEC;
    int64_t left_us = 0;
    Snapshot last;

    if (find_last(snapshots, &last)) {
        left_us = last.wall_us + every_us - snapshots->ops->wall_us();
    }
    schedule->due_us = snapshots->ops->now_us() + CLAMP(left_us, 0, every_us);
    schedule->trims = true;
}

static void
look_at_settings(Snapshots *snapshots)
{
    const struct StoreSettings *settings = &snapshots->config.store->settings;
    struct SnapshotsSchedule *schedule = &snapshots->schedule;
    bool is_new = schedule->every_s != settings->snapshot_every_s;

    if (schedule->is_known && !is_new &&
        schedule->keep == settings->snapshot_keep) {
        return;
    }
    schedule->keep = settings->snapshot_keep;
    schedule->trims = true;
    if (is_new) {
        schedule->every_s = settings->snapshot_every_s;
        schedule->failures = 0;
        schedule->error[0] = '\0';
        reckon(snapshots);
    }
    schedule->is_known = true;
}

static void
failed(Snapshots *snapshots, const char *words)
{
    struct SnapshotsSchedule *schedule = &snapshots->schedule;

    if (schedule->failures++ == 0) {
        g_warning("%s; it is tried again when the next one is due", words);
    }
    g_strlcpy(schedule->error, words, sizeof(schedule->error));
}

static void
made_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    Snapshots *snapshots = user;
    struct SnapshotsSchedule *schedule = &snapshots->schedule;

    (void)snapshot;
    schedule->is_asked = false;
    if (error) {
        failed(snapshots, error->message);
        return;
    }
    schedule->failures = 0;
    schedule->error[0] = '\0';
    schedule->trims = true;
}

/* Only the schedule's own, oldest first. */
static GArray *
list_own(const Snapshots *snapshots)
{
    SnapshotList *list = snapshots->config.store->snapshots;
    GArray *own = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    Snapshot snapshot;

    for (unsigned i = 0; snapshot_list_at(list, i, &snapshot); i++) {
        if (!strcmp(snapshot.reason, REASON)) {
            g_array_append_val(own, snapshot.id);
        }
    }
    return own;
}

static bool
trim_one(Snapshots *snapshots, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    Snapshot snapshot;

    if (!snapshot_list_get(snapshots->config.store->snapshots, id, &snapshot) ||
        snapshots_drop(snapshots, &snapshot, &error)) {
        return true;
    }
    snapshots_tell_failure(snapshots, snapshot.name, REASON, error->message);
    failed(snapshots, error->message);
    return false;
}

static void
trim(Snapshots *snapshots)
{
    struct SnapshotsSchedule *schedule = &snapshots->schedule;
    g_autoptr(GArray) own = list_own(snapshots);
    guint excess = schedule->keep > 0 && own->len > schedule->keep
                       ? own->len - schedule->keep
                       : 0;

    schedule->trims = excess > TRIM_MAX;
    for (guint i = 0; i < MIN(excess, TRIM_MAX); i++) {
        if (!trim_one(snapshots, g_array_index(own, uint64_t, i))) {
            schedule->trims = false; /* when the next one is due */
            return;
        }
    }
}

void
snapshots_look_schedule(Snapshots *snapshots)
{
    struct SnapshotsSchedule *schedule = &snapshots->schedule;
    int64_t now_us = snapshots->ops->now_us();
    int64_t every_us;

    look_at_settings(snapshots);
    every_us = (int64_t)schedule->every_s * G_USEC_PER_SEC;
    if (every_us == 0 || !snapshots->config.face) {
        return;
    }
    if (!schedule->is_asked && now_us >= schedule->due_us) {
        schedule->due_us += every_us;
        if (schedule->due_us <= now_us) {
            schedule->due_us = now_us + every_us;
        }
        schedule->trims = true;
        if (is_changed(snapshots)) {
            schedule->is_asked = true;
            snapshots_create(snapshots, NULL, REASON, made_cb, snapshots);
        }
    }
    if (schedule->trims) {
        trim(snapshots);
    }
}
