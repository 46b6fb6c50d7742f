/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-rig.c - the jobs of a real store, over a relay of the test's
 */
#include "jobs-rig.h"

#include <errno.h>
#include <unistd.h>

JobsRig *rig;

void
rig_note(const char *format, ...)
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
    rig_forget_journal();
}

void
rig_forget_journal(void)
{
    g_string_truncate(rig->journal, 0);
}

Disk *
rig_vda(void)
{
    return store_disk(rig->store, "vda");
}

static const char *
text_of(JsonObject *data, const char *member)
{
    return json_object_get_string_member_with_default(data, member, "");
}

/* "j created"; "BLOCK_JOB_READY j 8/8"; "BLOCK_JOB_ERROR j read stop"; clusters. */
static void
fake_event(void *user, const char *name, JsonObject *data)
{
    const char *device = text_of(data, "device");
    const char *error = text_of(data, "error");

    (void)user;
    if (strcmp(name, "JOB_STATUS_CHANGE") == 0) {
        rig_note("%s %s\n", text_of(data, "id"), text_of(data, "status"));
    } else if (strcmp(name, "BLOCK_JOB_ERROR") == 0) {
        rig_note("%s %s %s %s\n", name, device, text_of(data, "operation"),
                 text_of(data, "action"));
    } else if (strcmp(name, "BLOCK_JOB_PENDING") == 0) {
        rig_note("%s %s %s\n", name, text_of(data, "id"),
                 text_of(data, "type"));
    } else {
        rig_note("%s %s %u/%u%s%s\n", name, device,
                 (unsigned)(json_object_get_int_member(data, "offset") /
                            (gint64)CLUSTER),
                 (unsigned)(json_object_get_int_member(data, "len") /
                            (gint64)CLUSTER),
                 error[0] != '\0' ? " " : "", error);
    }
    json_object_unref(data);
}

static int
no_sync(StoreIo *io, int fd)
{
    (void)io;
    (void)fd;
    return 0;
}

static off_t
held_lseek(StoreIo *io, int fd, off_t offset, int whence)
{
    pthread_mutex_lock(&rig->lock);
    while (whence == SEEK_DATA && rig->holds_scan) {
        pthread_cond_wait(&rig->cond, &rig->lock);
    }
    pthread_mutex_unlock(&rig->lock);
    return rig->real_io->lseek(io, fd, offset, whence);
}

void
rig_hold_scan(bool holds)
{
    pthread_mutex_lock(&rig->lock);
    rig->holds_scan = holds;
    pthread_cond_broadcast(&rig->cond);
    pthread_mutex_unlock(&rig->lock);
}

/*
 * Lives
 */
static void
begin_life(void)
{
    struct JobsConfig config = {.ops = &rig_fake_ops, .event = fake_event};
    GError *error = NULL;

    memset(rig->relays, 0, sizeof(rig->relays));
    rig->store = store_open(&rig->fault.io, rig->fixture->path, 0, &error);
    if (!rig->store) {
        fail_msg("open: %s", error->message);
    }
    config.store = rig->store;
    rig->jobs = jobs_new(&config);
    assert_true(store_serve(rig->store, NULL));
}

/* Points and the list are of the test: what was there is there again. */
struct Kept {
    GArray *all; /* Snapshot */
};

static void
keep_snapshots(struct Kept *kept)
{
    Snapshot snapshot;

    kept->all = g_array_new(FALSE, FALSE, sizeof(Snapshot));
    for (unsigned i = 0;
         snapshot_list_hidden_at(rig->store->snapshots, i, &snapshot); i++) {
        g_array_append_val(kept->all, snapshot);
    }
}

static void
give_snapshots(struct Kept *kept)
{
    for (guint i = 0; i < kept->all->len; i++) {
        const Snapshot *one = &g_array_index(kept->all, Snapshot, i);

        snapshot_list_put(rig->store->snapshots, one);
        for (unsigned d = 0; d < one->n_disks; d++) {
            Disk *disk = rig->store->disks[d];

            points_add(disk->points,
                       point_new(one->id, one->disks[d].size_bytes,
                                 disk->cluster_bits, -1, -1));
        }
    }
    g_array_unref(kept->all);
    jobs_begin(rig->jobs, (Snapshots *)rig); /* never looked into */
}

/* Who waits for a snapshot is told, or would be lost; of what it does then
 * nothing reaches the disk. */
static void
end_asking(void)
{
    SnapshotsDone done = g_steal_pointer(&rig->asked);
    g_autoptr(GError) error =
        g_error_new(STORE_ERROR, STORE_ERROR_BUSY, "it ends");

    if (done) {
        fault_io_arm(&rig->fault, 1, true, -EIO);
        done(rig->asked_user, NULL, error);
        (void)fault_io_disarm(&rig->fault);
    }
}

void
rig_crash(void)
{
    struct Kept kept;

    keep_snapshots(&kept);
    end_asking();
    jobs_free(rig->jobs);
    store_free(rig->store);
    begin_life();
    give_snapshots(&kept);
}

void
rig_restart_with(const char *path, const char *text)
{
    struct Kept kept;

    keep_snapshots(&kept);
    jobs_stop(rig->jobs);
    (void)jobs_is_quiet(rig->jobs);
    jobs_keep(rig->jobs);
    assert_true(store_close_clean(rig->store, NULL));
    jobs_free(rig->jobs);
    store_free(rig->store);
    if (path && text) {
        assert_true(g_file_set_contents(path, text, -1, NULL));
    } else if (path) {
        assert_int_equal(unlink(path), 0);
    }
    begin_life();
    give_snapshots(&kept);
}

void
rig_restart(void)
{
    rig_restart_with(NULL, NULL);
}

int
jobs_rig_setup(void **state)
{
    void *fixture;

    rig = g_new0(JobsRig, 1);
    fixture_setup(&fixture);
    rig->fixture = fixture;
    fixture_create(rig->fixture, "vdb", TARGET);
    rig->quick_ops = *store_io_kernel()->ops;
    rig->quick_ops.fsync = rig->quick_ops.fdatasync = no_sync;
    rig->quick.ops = &rig->quick_ops;
    fault_io_init(&rig->fault, &rig->quick);
    rig->real_io = rig->fault.io.ops;
    rig->io_ops = *rig->real_io;
    rig->io_ops.lseek = held_lseek;
    rig->fault.io.ops = &rig->io_ops;
    pthread_mutex_init(&rig->lock, NULL);
    pthread_cond_init(&rig->cond, NULL);
    rig->journal = g_string_new(NULL);
    rig->now_us = 1000 * SECOND;
    begin_life();
    jobs_begin(rig->jobs, (Snapshots *)rig);
    *state = rig;
    return 0;
}

int
jobs_rig_teardown(void **state)
{
    void *fixture = rig->fixture;

    (void)state;
    end_asking();
    jobs_free(rig->jobs);
    store_free(rig->store);
    g_string_free(rig->journal, TRUE);
    pthread_mutex_destroy(&rig->lock);
    pthread_cond_destroy(&rig->cond);
    fixture_teardown(&fixture);
    g_free(rig);
    return 0;
}

void
rig_look_after(int64_t us)
{
    rig->now_us += us;
    jobs_look(rig->jobs);
}

/*
 * Orders
 */
JobSpec
rig_spec(enum JobKind kind, const char *id, enum JobSync sync)
{
    bool has_bitmap = sync == JOB_INCREMENTAL || sync == JOB_BITMAP ||
                      sync == JOB_DIFFERENTIAL;

    return (JobSpec){
        .kind = kind,
        .id = g_strdup(id),
        .disk = rig_vda(),
        .target = g_strconcat("nbd://localhost/", id, NULL),
        .sync = sync,
        .bitmap = has_bitmap ? g_strdup("b") : NULL,
        .on_source = JOB_REPORT,
        .on_target = JOB_REPORT,
        .accept = ACCEPT_OVERWRITE,
    };
}

static void
started_cb(void *user, const GError *error)
{
    (void)user;
    rig->answers--;
    if (error) {
        rig_note("refused: %s\n", error->message);
    } else {
        rig_note("started\n");
    }
}

void
rig_start(JobSpec spec)
{
    rig->answers++;
    jobs_start(rig->jobs, &spec, 1, false, started_cb, NULL);
}

void
rig_start_two(JobSpec one, JobSpec other, bool is_grouped)
{
    JobSpec specs[] = {one, other};

    rig->answers++;
    jobs_start(rig->jobs, specs, 2, is_grouped, started_cb, NULL);
}

void
rig_assert_refused(gboolean taken, GError **error, const char *words)
{
    assert_int_equal(taken, *error == NULL);
    assert_string_equal(*error ? (*error)->message : "", words ? words : "");
    g_clear_error(error);
}

/*
 * The guest, and what is seen
 */
void
rig_write(uint64_t first, uint64_t count)
{
    Disk *disk = rig_vda();
    Point *point = points_youngest(disk->points);
    struct ClusterRun run;

    while (point &&
           points_next_missing(disk->points, first, first + count, &run)) {
        run.count = MIN(run.count, first + count - run.first);
        points_keep(disk->points, point, run);
    }
    assert_int_equal(
        store_heat(rig->store, disk, first * CLUSTER, count * CLUSTER), 0);
    disk_map_changed(disk->map, first * CLUSTER, count * CLUSTER, rig->now_us);
}

void
rig_bitmap(const char *name)
{
    assert_true(
        store_bitmap_add(rig->store, rig_vda(), name, 16, true, false, NULL));
}

static struct NamedFigures
named(const char *name)
{
    struct NamedFigures figures;

    assert_true(named_find(rig_vda()->bitmaps, name, &figures));
    return figures;
}

unsigned
rig_dirty(const char *name)
{
    return (unsigned)(named(name).count_bytes / CLUSTER);
}

bool
rig_is_busy(const char *name)
{
    return named(name).is_busy;
}

const char *
rig_status(const char *id)
{
    static char status[32];
    g_autoptr(JsonArray) all = jobs_query(rig->jobs);

    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *job = json_array_get_object_element(all, i);

        if (strcmp(text_of(job, "id"), id) == 0) {
            g_strlcpy(status, text_of(job, "status"), sizeof(status));
            return status;
        }
    }
    return "gone";
}

unsigned
rig_hidden(void)
{
    unsigned count = 0;

    while (snapshot_list_hidden_at(rig->store->snapshots, count, NULL)) {
        count++;
    }
    return count;
}
