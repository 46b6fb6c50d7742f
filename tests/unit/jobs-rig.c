/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-rig.c - the jobs of a real store, over a relay of the test's
 */
#include "jobs-rig.h"

#include <unistd.h>

JobsRig *rig;

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

/*
 * In the relay's place
 */
static struct RigRelay *
find_relay(const char *name)
{
    for (unsigned i = 0; i < RIG_RELAYS; i++) {
        if (strcmp(rig->relays[i].name, name) == 0) {
            return &rig->relays[i];
        }
    }
    return NULL;
}

struct RigRelay *
rig_relay(const char *id)
{
    g_autofree char *name = g_strconcat("job/", id, NULL);
    struct RigRelay *relay = find_relay(name);

    assert_non_null(relay);
    return relay;
}

static const char *
id_of(const char *name)
{
    assert_true(jobs_is_job(name));
    return name + strlen("job/");
}

static gboolean
fake_add(Relay *relay, const struct RelayDiskConfig *config, GError **error)
{
    struct RigRelay *free_one = find_relay("");

    (void)relay;
    if (rig->bars) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "no memory");
        return FALSE;
    }
    assert_null(find_relay(config->name));
    assert_non_null(free_one);
    assert_true(config->job.is_job && config->job.is_paused &&
                config->job.halts);
    assert_ptr_equal(config->job.pins, rig_vda()->map);
    *free_one = (struct RigRelay){.config = *config};
    g_strlcpy(free_one->name, config->name, sizeof(free_one->name));
    free_one->config.name = NULL;
    free_one->config.target = NULL;
    free_one->figures.core.link = RELAY_CONNECTING;
    free_one->figures.core.contact = config->contact;
    free_one->figures.core.is_paused = true;
    free_one->figures.is_current = TRUE;
    note("add %s%s%s\n", id_of(config->name), config->is_cut ? " cut" : "",
         config->contact == CONTACT_KNOWN ? " known" : "");
    return TRUE;
}

static gboolean
fake_figures(Relay *relay, const char *name, struct RelayFigures *figures)
{
    const struct RigRelay *of = find_relay(name);

    (void)relay;
    if (of != NULL) {
        *figures = of->figures;
    }
    return of != NULL;
}

static void
fake_pause(Relay *relay, const char *name, gboolean pause)
{
    (void)relay;
    rig_relay(id_of(name))->figures.core.is_paused = pause;
    note("%s %s\n", pause ? "pause" : "go", id_of(name));
}

static void
fake_set_speed(Relay *relay, const char *name, uint64_t bps)
{
    (void)relay;
    note("speed %s %u\n", id_of(name), (unsigned)bps);
}

static void
fake_set_cut(Relay *relay, const char *name, gboolean is_cut)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    of->config.is_cut = is_cut;
    note("%s %s\n", is_cut ? "cut" : "uncut", id_of(name));
}

static void
fake_allow(Relay *relay, const char *name, uint64_t seq, uint64_t snapshot)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    assert_true(seq >= disk_map_sealed_seq(of->config.map));
    of->allowed = seq;
    of->snapshot = snapshot;
    note("allow %s s%u\n", id_of(name), (unsigned)snapshot);
}

static void
fake_hurry(Relay *relay)
{
    (void)relay;
}

static void
fake_proceed(Relay *relay, const char *name)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    of->figures.core.halt.is_halted = false;
    note("proceed %s\n", id_of(name));
}

static void
fake_end(Relay *relay, const char *name)
{
    (void)relay;
    note("end %s\n", id_of(name));
}

static void
fake_forget(Relay *relay, const char *name)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    assert_true(of->has_ended);
    note("forget %s\n", id_of(name));
    *of = (struct RigRelay){0};
}

/*
 * In the place of snapshots
 */
static void
make_snapshot(SnapshotsDone done, void *user)
{
    Store *store = rig->store;
    Snapshot snapshot = {.id = ++rig->last_snapshot,
                         .wall_us = rig->now_us,
                         .reason = SNAPSHOT_JOB,
                         .n_disks = store->n_disks};

    g_snprintf(snapshot.name, sizeof(snapshot.name), "s%u",
               (unsigned)snapshot.id);
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        uint64_t size = atomic_load(&disk->size_bytes);

        snapshot.disks[i] =
            (struct SnapshotDisk){.id = disk->id, .size_bytes = size};
        points_add(disk->points,
                   point_new(snapshot.id, size, disk->cluster_bits, -1, -1));
    }
    snapshot_list_put(store->snapshots, &snapshot);
    note("instant s%u\n", (unsigned)snapshot.id);
    done(user, &snapshot, NULL);
}

static void
fake_snapshot(Snapshots *snapshots, const char *name, const char *reason,
              SnapshotsDone done, void *user)
{
    (void)snapshots;
    assert_null(name);
    assert_string_equal(reason, SNAPSHOT_JOB);
    if (rig->refuses) {
        g_autoptr(GError) error =
            g_error_new(STORE_ERROR, STORE_ERROR_BUSY, "no instant");

        done(user, NULL, error);
    } else if (rig->lets_wait) {
        note("asked\n");
        rig->asked = done;
        rig->asked_user = user;
    } else {
        make_snapshot(done, user);
    }
}

void
rig_instant(void)
{
    SnapshotsDone done = g_steal_pointer(&rig->asked);

    assert_non_null(done);
    make_snapshot(done, rig->asked_user);
}

static gboolean
fake_drop(Snapshots *snapshots, uint64_t id, GError **error)
{
    Store *store = rig->store;

    (void)snapshots;
    (void)error;
    note("drop s%u\n", (unsigned)id);
    snapshot_list_remove(store->snapshots, id);
    for (unsigned i = 0; i < store->n_disks; i++) {
        points_set_live(store->disks[i]->points, id, false);
    }
    return TRUE;
}

static int64_t
fake_now(void)
{
    return rig->now_us;
}

static const struct JobsOps fake_ops = {
    .add = fake_add,
    .figures = fake_figures,
    .pause = fake_pause,
    .set_speed = fake_set_speed,
    .set_cut = fake_set_cut,
    .allow = fake_allow,
    .hurry = fake_hurry,
    .proceed = fake_proceed,
    .end = fake_end,
    .forget = fake_forget,
    .snapshot = fake_snapshot,
    .drop = fake_drop,
    .now_us = fake_now,
};

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
        note("%s %s\n", text_of(data, "id"), text_of(data, "status"));
    } else if (strcmp(name, "BLOCK_JOB_ERROR") == 0) {
        note("%s %s %s %s\n", name, device, text_of(data, "operation"),
             text_of(data, "action"));
    } else if (strcmp(name, "BLOCK_JOB_PENDING") == 0) {
        note("%s %s %s\n", name, text_of(data, "id"), text_of(data, "type"));
    } else {
        note("%s %s %u/%u%s%s\n", name, device,
             (unsigned)(json_object_get_int_member(data, "offset") /
                        (gint64)CLUSTER),
             (unsigned)(json_object_get_int_member(data, "len") /
                        (gint64)CLUSTER),
             error[0] != '\0' ? " " : "", error);
    }
    json_object_unref(data);
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
    struct JobsConfig config = {.ops = &fake_ops, .event = fake_event};
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
        for (unsigned d = 0; d < rig->store->n_disks; d++) {
            Disk *disk = rig->store->disks[d];

            points_add(disk->points,
                       point_new(one->id, one->disks[d].size_bytes,
                                 disk->cluster_bits, -1, -1));
        }
    }
    g_array_unref(kept->all);
    jobs_begin(rig->jobs, (Snapshots *)rig); /* never looked into */
}

void
rig_crash(void)
{
    struct Kept kept;

    keep_snapshots(&kept);
    jobs_free(rig->jobs);
    store_free(rig->store);
    begin_life();
    give_snapshots(&kept);
}

void
rig_restart(void)
{
    struct Kept kept;

    keep_snapshots(&kept);
    jobs_stop(rig->jobs);
    (void)jobs_is_quiet(rig->jobs);
    jobs_keep(rig->jobs);
    assert_true(store_close_clean(rig->store, NULL));
    jobs_free(rig->jobs);
    store_free(rig->store);
    begin_life();
    give_snapshots(&kept);
}

int
jobs_rig_setup(void **state)
{
    void *fixture;

    rig = g_new0(JobsRig, 1);
    fixture_setup(&fixture);
    rig->fixture = fixture;
    fixture_create(rig->fixture, "vdb", TARGET);
    fault_io_init(&rig->fault, store_io_kernel());
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
        note("refused: %s\n", error->message);
    } else {
        note("started\n");
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
 * The relay at work
 */
void
rig_meet(const char *id)
{
    struct RigRelay *relay = rig_relay(id);

    relay->figures.core.link = RELAY_ONLINE;
    relay->figures.core.contact = CONTACT_KNOWN;
    jobs_look(rig->jobs);
}

static void
settle_sealed(DiskMap *map, uint64_t allowed, uint64_t clusters)
{
    struct ClusterRun run;

    while (disk_map_sealed_seq(map) != 0 &&
           disk_map_sealed_seq(map) <= allowed) {
        while (clusters > 0 && disk_map_next_sealed(map, 0, clusters, &run)) {
            disk_map_settle(map, run);
            clusters -= run.count;
        }
        if (!disk_map_retire(map)) {
            return;
        }
    }
}

void
rig_settle_some(const char *id, uint64_t clusters)
{
    struct RigRelay *relay = rig_relay(id);
    DiskMap *map = relay->config.map;

    if (relay->figures.core.is_paused || relay->figures.core.halt.is_halted) {
        return;
    }
    if (relay->config.is_cut) {
        settle_sealed(map, MAX(relay->allowed, disk_map_open_seq(map) - 1),
                      clusters);
    } else {
        (void)disk_map_seal(map);
        settle_sealed(map, UINT64_MAX, clusters);
    }
    relay->figures.core.is_cut =
        relay->config.is_cut && disk_map_sealed_seq(map) == 0;
    jobs_look(rig->jobs);
}

void
rig_settle(const char *id)
{
    rig_settle_some(id, UINT64_MAX);
}

void
rig_halt(const char *id, bool is_read, int error)
{
    struct RigRelay *relay = rig_relay(id);

    relay->figures.core.halt.is_halted = true;
    relay->figures.core.halt.is_read = is_read;
    relay->figures.core.halt.error = error;
    relay->figures.core.halt.count++;
    jobs_look(rig->jobs);
}

void
rig_ended(const char *id)
{
    g_autofree char *name = g_strconcat("job/", id, NULL);

    rig_relay(id)->has_ended = true;
    jobs_news(rig->jobs, name, RELAY_NEWS_ENDED);
}

void
rig_finish(const char *id)
{
    rig_meet(id);
    rig_settle(id);
    rig_settle(id);
    rig_ended(id);
}

uint64_t
rig_left(const char *id)
{
    struct DiskMapFigures figures;

    disk_map_figures(rig_relay(id)->config.map, &figures);
    return figures.dirty_clusters;
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
