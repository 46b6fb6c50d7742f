/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-rig.c - a manager of snapshots over a real store
 */
#include "snapshots-rig.h"

#include "fs/conf.h"

#include <errno.h>

SnapshotsRig *rig;

static void G_GNUC_PRINTF(1, 2) note(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_string_append_vprintf(rig->journal, format, args);
    va_end(args);
}

void
rig_assert_journal(const char *text)
{
    assert_string_equal(rig->journal->str, text);
    g_string_truncate(rig->journal, 0);
}

/*
 * In the store's place
 */
static SnapshotDraft *
fake_prepare(Store *store, const char *name, const char *reason, GError **error)
{
    SnapshotDraft *draft;

    if (rig->refuses) {
        note("refused\n");
        g_set_error(error, STORE_ERROR, STORE_ERROR_FULL, "no room");
        return NULL;
    }
    draft = g_new0(SnapshotDraft, 1);
    draft->snapshot.id = ++rig->last_id;
    if (name) {
        g_strlcpy(draft->snapshot.name, name, sizeof(draft->snapshot.name));
    } else {
        g_snprintf(draft->snapshot.name, sizeof(draft->snapshot.name), "t%d",
                   (int)(rig->wall_us / SECOND));
    }
    g_strlcpy(draft->snapshot.reason, reason, sizeof(draft->snapshot.reason));
    draft->snapshot.n_disks = store->n_disks;
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];

        draft->snapshot.disks[i].id = disk->id;
        draft->snapshot.disks[i].size_bytes = disk->size_bytes;
        draft->points[i] = point_new(draft->snapshot.id, disk->size_bytes,
                                     disk->cluster_bits, -1, -1);
    }
    note("prepared %s\n", draft->snapshot.name);
    return draft;
}

static int
fake_snapshot(Face *face, struct FaceSnapshot *snapshot)
{
    assert_ptr_equal(face, rig);
    if (rig->discards > 0) {
        rig->discards--;
        note("not now\n");
        return -EAGAIN;
    }
    note("instant\n");
    for (unsigned i = 0; i < rig->store->n_disks; i++) {
        points_add(rig->store->disks[i]->points, snapshot->points[i]);
        snapshot->blocks[i] = 100 + i;
    }
    snapshot->wall_us = rig->wall_us;
    return rig->instant_error;
}

static gboolean
fake_commit(Store *store, SnapshotDraft *draft, GError **error)
{
    const Snapshot *snapshot = &draft->snapshot;

    assert_int_equal(snapshot->disks[0].blocks, 100);
    assert_int_equal(snapshot->disks[1].blocks, 101);
    note("record %s%s%s\n", snapshot->name,
         snapshot->is_frozen ? " frozen" : "",
         snapshot->is_damaged ? " damaged" : "");
    if (rig->forgets) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "no record");
    } else {
        snapshot_list_put(store->snapshots, snapshot);
    }
    g_free(draft);
    return !rig->forgets;
}

static void
fake_abandon(Store *store, SnapshotDraft *draft)
{
    note("abandoned %s\n", draft->snapshot.name);
    for (unsigned i = 0; i < store->n_disks; i++) {
        point_free(draft->points[i]);
    }
    g_free(draft);
}

static gboolean
fake_at_rest(Store *store, const char *name, const char *reason, Snapshot *made,
             GError **error)
{
    (void)error;
    *made = (Snapshot){.id = ++rig->last_id};
    g_strlcpy(made->name, name, sizeof(made->name));
    g_strlcpy(made->reason, reason, sizeof(made->reason));
    snapshot_list_put(store->snapshots, made);
    note("at rest %s\n", name);
    return TRUE;
}

static gboolean
fake_drop(Store *store, uint64_t id, GError **error)
{
    note("dropped %u\n", (unsigned)id);
    if (rig->clings) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "read-only");
        return FALSE;
    }
    snapshot_list_remove(store->snapshots, id);
    pthread_mutex_lock(&rig->lock);
    g_array_append_val(rig->gone, id);
    pthread_mutex_unlock(&rig->lock);
    return TRUE;
}

static GArray *
fake_gone(Store *store)
{
    GArray *copy;

    (void)store;
    pthread_mutex_lock(&rig->lock);
    copy = g_array_copy(rig->gone);
    pthread_mutex_unlock(&rig->lock);
    return copy;
}

/* With the lock. */
static void
forget_gone(uint64_t id)
{
    for (guint i = 0; i < rig->gone->len; i++) {
        if (g_array_index(rig->gone, uint64_t, i) == id) {
            g_array_remove_index(rig->gone, i);
            return;
        }
    }
    fail_msg("%u was reaped before", (unsigned)id);
}

static enum SnapshotReaped
fake_reap(Store *store, uint64_t id, const struct SnapshotReap *reap)
{
    static const char *const words[] = {[SNAPSHOT_REAPED] = "reaped",
                                        [SNAPSHOT_NEEDED] = "needed",
                                        [SNAPSHOT_IN_USE] = "in use",
                                        [SNAPSHOT_STOPPED] = "stopped"};
    enum SnapshotReaped reaped = SNAPSHOT_REAPED;

    for (unsigned i = 0; i < store->n_disks; i++) {
        assert_false(points_is_live(store->disks[i]->points, id));
    }
    pthread_mutex_lock(&rig->lock);
    if (rig->needed == id) {
        reaped = SNAPSHOT_NEEDED;
    } else if (rig->readers > 0) {
        rig->readers--;
        reaped = SNAPSHOT_IN_USE;
    }
    pthread_mutex_unlock(&rig->lock);
    for (unsigned i = 0; reaped == SNAPSHOT_REAPED && i < store->n_disks; i++) {
        point_free(reap->remove(reap->user, store->disks[i], id));
    }
    pthread_mutex_lock(&rig->lock);
    if (reaped == SNAPSHOT_REAPED) {
        forget_gone(id);
    }
    g_string_append_printf(rig->reaped, "%s %u\n", words[reaped], (unsigned)id);
    pthread_cond_signal(&rig->cond);
    pthread_mutex_unlock(&rig->lock);
    return reaped;
}

static void
fake_between(Face *face, void (*work)(void *user), void *user)
{
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

    assert_ptr_equal(face, rig);
    pthread_mutex_lock(&one);
    work(user);
    pthread_mutex_unlock(&one);
}

static int64_t
fake_now(void)
{
    return rig->now_us;
}

static int64_t
fake_wall(void)
{
    return rig->wall_us;
}

static bool
fake_is_held(void *user, uint64_t id)
{
    (void)user;
    return rig->held == id;
}

static void
fake_event(void *user, const char *name, JsonObject *data)
{
    const char *about = json_object_has_member(data, "hook") ? "hook" : "name";

    (void)user;
    note("%s %s\n", name,
         json_object_get_string_member_with_default(data, about, "?"));
    json_object_unref(data);
}

static const struct SnapshotsOps fake_ops = {
    .snapshot = fake_snapshot,
    .between = fake_between,
    .prepare = fake_prepare,
    .commit = fake_commit,
    .abandon = fake_abandon,
    .now = fake_at_rest,
    .drop = fake_drop,
    .gone = fake_gone,
    .reap = fake_reap,
    .now_us = fake_now,
    .wall_us = fake_wall,
};

/*
 * The rig
 */
void
rig_start(bool has_face)
{
    struct SnapshotsConfig config = {
        .ops = &fake_ops,
        .store = rig->store,
        .face = has_face ? (Face *)rig : NULL, /* never looked into */
        .is_held = fake_is_held,
        .event = fake_event,
    };

    rig->snapshots = snapshots_new(&config);
}

void
rig_end(void)
{
    g_clear_pointer(&rig->snapshots, snapshots_free);
}

int
snapshots_rig_setup(void **state)
{
    void *fixture;

    rig = g_new0(SnapshotsRig, 1);
    fixture_setup(&fixture);
    rig->fixture = fixture;
    fixture_create(rig->fixture, "vdb", TARGET);
    rig->store = fixture_open(rig->fixture, 0);
    if (!rig->store->snapshots) {
        rig->store->snapshots = rig->list = snapshot_list_new();
    }
    for (unsigned i = 0; i < rig->store->n_disks; i++) {
        if (!rig->store->disks[i]->points) {
            rig->store->disks[i]->points = points_new();
            rig->has_points = true;
        }
    }
    rig->journal = g_string_new(NULL);
    rig->reaped = g_string_new(NULL);
    rig->gone = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    pthread_mutex_init(&rig->lock, NULL);
    pthread_cond_init(&rig->cond, NULL);
    rig->now_us = 1000 * SECOND;
    rig->wall_us = 1700000000 * SECOND;
    rig_start(true);
    *state = rig;
    return 0;
}

int
snapshots_rig_teardown(void **state)
{
    void *fixture = rig->fixture;

    (void)state;
    rig_end();
    for (unsigned i = 0; rig->has_points && i < rig->store->n_disks; i++) {
        g_clear_pointer(&rig->store->disks[i]->points, points_free);
    }
    if (rig->list) {
        g_clear_pointer(&rig->store->snapshots, snapshot_list_free);
    }
    store_free(rig->store);
    g_string_free(rig->journal, TRUE);
    g_string_free(rig->reaped, TRUE);
    g_array_unref(rig->gone);
    pthread_mutex_destroy(&rig->lock);
    pthread_cond_destroy(&rig->cond);
    fixture_teardown(&fixture);
    g_free(rig);
    return 0;
}

void
rig_set(const char *key, const char *value)
{
    assert_true(store_set(rig->store, NULL, key, value, NULL));
}

static void
made_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    (void)user;
    rig->answers--;
    if (error) {
        note("not made: %s\n", error->message);
    } else {
        note("made %s\n", snapshot->name);
    }
}

void
rig_create(const char *name)
{
    rig->answers++;
    snapshots_create(rig->snapshots, name, "user", made_cb, NULL);
}

void
rig_delete(const char *name)
{
    g_autoptr(GError) error = NULL;

    if (!snapshots_delete(rig->snapshots, name, &error)) {
        note("not deleted: %s\n", error->message);
    }
}

void
rig_look_after(int64_t us)
{
    rig->now_us += us;
    rig->wall_us += us;
    snapshots_look(rig->snapshots);
}

void
rig_finish(void)
{
    while (rig->answers > 0 || !snapshots_is_quiet(rig->snapshots)) {
        g_main_context_iteration(NULL, TRUE);
    }
}

void
rig_await_reaped(const char *text)
{
    struct timespec end;
    int err = 0;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 20;
    pthread_mutex_lock(&rig->lock);
    while (err == 0 && strlen(rig->reaped->str) < strlen(text)) {
        err = pthread_cond_timedwait(&rig->cond, &rig->lock, &end);
    }
    assert_string_equal(rig->reaped->str, text);
    g_string_truncate(rig->reaped, 0);
    pthread_mutex_unlock(&rig->lock);
}

static void
write_cb(void *user)
{
    Disk *disk = user;
    struct ClusterRun run = {0, 1};
    Point *point = points_youngest(disk->points);

    if (point && points_next_missing(disk->points, 0, 1, &run)) {
        points_keep(disk->points, point, run);
    }
}

void
rig_write(void)
{
    fake_between((Face *)rig, write_cb, store_disk(rig->store, "vda"));
}

void
rig_assert_list(const char *names)
{
    g_autoptr(GString) text = g_string_new(NULL);
    Snapshot snapshot;

    for (unsigned i = 0; snapshot_list_at(rig->store->snapshots, i, &snapshot);
         i++) {
        g_string_append_printf(text, "%s%s", i > 0 ? " " : "", snapshot.name);
    }
    assert_string_equal(text->str, names);
}
