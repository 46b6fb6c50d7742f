/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-rig-fakes.c - in the place of the relay and of snapshots
 */
#include "jobs-rig.h"

#include <unistd.h>

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
    rig_note("add %s%s%s\n", id_of(config->name), config->is_cut ? " cut" : "",
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
    rig_note("%s %s\n", pause ? "pause" : "go", id_of(name));
}

static void
fake_set_speed(Relay *relay, const char *name, uint64_t bps)
{
    (void)relay;
    rig_note("speed %s %u\n", id_of(name), (unsigned)bps);
}

static void
fake_set_cut(Relay *relay, const char *name, gboolean is_cut)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    of->config.is_cut = is_cut;
    rig_note("%s %s\n", is_cut ? "cut" : "uncut", id_of(name));
}

static void
fake_allow(Relay *relay, const char *name, uint64_t seq, uint64_t snapshot)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    assert_true(seq >= disk_map_sealed_seq(of->config.map));
    of->allowed = seq;
    of->snapshot = snapshot;
    rig_note("allow %s s%u\n", id_of(name), (unsigned)snapshot);
}

static void
fake_contact_kept(Relay *relay, const char *name)
{
    (void)relay;
    rig_relay(id_of(name))->is_kept = true;
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
    rig_note("proceed %s\n", id_of(name));
}

static void
fake_end(Relay *relay, const char *name)
{
    (void)relay;
    rig_note("end %s\n", id_of(name));
}

static void
fake_forget(Relay *relay, const char *name)
{
    struct RigRelay *of = rig_relay(id_of(name));

    (void)relay;
    assert_true(of->has_ended);
    rig_note("forget %s\n", id_of(name));
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
    rig_note("instant s%u\n", (unsigned)snapshot.id);
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
        rig_note("asked\n");
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
    rig_note("drop s%u\n", (unsigned)id);
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

const struct JobsOps rig_fake_ops = {
    .add = fake_add,
    .figures = fake_figures,
    .pause = fake_pause,
    .set_speed = fake_set_speed,
    .set_cut = fake_set_cut,
    .allow = fake_allow,
    .hurry = fake_hurry,
    .contact_kept = fake_contact_kept,
    .proceed = fake_proceed,
    .end = fake_end,
    .forget = fake_forget,
    .snapshot = fake_snapshot,
    .drop = fake_drop,
    .now_us = fake_now,
};

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
    assert_true(relay->is_kept || relay->config.contact == CONTACT_KNOWN);
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
