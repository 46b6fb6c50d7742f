/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-rig.c - a coordinator of cuts over a real store
 */
#include "cuts-rig.h"

CutsRig *rig;

Disk *
rig_disk_of(unsigned i)
{
    return store_disk(rig->store, i == 0 ? "vda" : "vdb");
}

struct StoreCuts
rig_kept(void)
{
    struct Conf conf;
    struct State state;
    struct StoreCuts cuts;
    const char *why;

    store_to_conf(rig->store, &conf);
    assert_int_equal(store_find_state(store_io_kernel(), rig->store->dir_fd,
                                      &conf, &state, &why),
                     0);
    assert_null(why);
    cuts = state.cuts;
    state_deinit(&state);
    return cuts;
}

void
rig_degrade(unsigned i, int error)
{
    Disk *disk = rig_disk_of(i);

    cuts_degraded(rig->cuts, disk, disk_map_open_seq(disk->map) - 1, error);
}

static void
note(const char *what, const char *name)
{
    struct StoreCuts cuts = rig_kept();

    g_string_append_printf(rig->journal, "%s%s%s a%uh%u\n", what,
                           *name ? " " : "", name, (unsigned)cuts.advancing,
                           (unsigned)cuts.holds);
}

void
rig_assert_journal(const char *text)
{
    assert_string_equal(rig->journal->str, text);
    g_string_truncate(rig->journal, 0);
}

static bool
fake_cut(Face *face, struct FaceCut *cut)
{
    (void)face;
    note(rig->refuses ? "refused" : "cut", "");
    if (rig->refuses) {
        return false;
    }
    for (unsigned i = 0; i < cut->n_disks; i++) {
        assert_int_equal(disk_map_sealed_seq(cut->disks[i]->map), 0);
        cut->seq[i] = cut->disks[i] == rig->unsealed
                          ? 0
                          : disk_map_seal(cut->disks[i]->map);
    }
    if (!cut->snapshot) {
        cut->wall_us = 1700000000 * SECOND;
    }
    return true;
}

static void
fake_cut_end(Face *face, Disk *disk)
{
    (void)face;
    note("end", disk->name);
}

static gboolean
fake_figures(Relay *relay, const char *disk, struct RelayFigures *figures)
{
    (void)relay;
    *figures = rig->figures[strcmp(disk, "vda") == 0 ? 0 : 1];
    return TRUE;
}

static void
fake_set_cut(Relay *relay, const char *disk, gboolean is_cut)
{
    (void)relay;
    note(is_cut ? "join" : "leave", disk);
}

static void
fake_allow(Relay *relay, const char *disk, uint64_t seq, uint64_t snapshot)
{
    Disk *of = store_disk(rig->store, disk);

    (void)relay;
    assert_true(seq >= disk_map_sealed_seq(of->map));
    rig->allowed[of == rig_disk_of(0) ? 0 : 1] = snapshot;
    note("allow", disk);
}

static void
fake_uploaded(Store *store, uint64_t id, uint64_t cut)
{
    Snapshot snapshot;

    assert_true(snapshot_list_get(store->snapshots, id, &snapshot));
    snapshot.cut = cut;
    snapshot_list_put(store->snapshots, &snapshot);
    note("uploaded", snapshot.name);
}

static int64_t
fake_now(void)
{
    return rig->now_us;
}

static void
fake_hear(void *user)
{
    (void)user;
    if (rig->breaks) {
        rig_degrade(rig->breaks == rig_disk_of(0) ? 0 : 1, -ENOSPC);
        rig->breaks = NULL;
    }
}

static void
fake_event(void *user, const char *name, JsonObject *data)
{
    (void)user;
    g_string_append_printf(rig->journal, "%s %u\n", name,
                           (unsigned)json_object_get_int_member(data, "cut"));
    json_object_unref(data);
}

static const struct CutsOps fake_ops = {
    .cut = fake_cut,
    .cut_end = fake_cut_end,
    .figures = fake_figures,
    .set_cut = fake_set_cut,
    .allow = fake_allow,
    .uploaded = fake_uploaded,
    .now_us = fake_now,
};

void
rig_new_cuts(CutsRig *r)
{
    struct CutsConfig config = {
        .ops = &fake_ops,
        .face = r->has_face ? (Face *)r : NULL, /* never looked into */
        .hear = fake_hear,
        .event = fake_event,
        .store = r->store,
    };

    r->cuts = cuts_new(&config);
}

void
rig_start(CutsRig *r)
{
    r->store = store_open(&r->fault.io, r->fixture->path, 0, NULL);
    assert_non_null(r->store);
    assert_true(store_serve(r->store, NULL));
    r->last_snapshot = 0;
    rig_new_cuts(r);
}

void
rig_crash(CutsRig *r)
{
    cuts_free(r->cuts);
    store_free(r->store);
    r->breaks = NULL;
    g_string_truncate(r->journal, 0);
}

int
cuts_rig_setup(void **state)
{
    void *fixture;

    rig = g_new0(CutsRig, 1);
    fixture_setup(&fixture);
    rig->fixture = fixture;
    fixture_create(rig->fixture, "vdb", TARGET);
    fault_io_init(&rig->fault, store_io_kernel());
    rig->journal = g_string_new(NULL);
    rig->now_us = 1000 * SECOND;
    rig->has_face = true;
    for (unsigned i = 0; i < 2; i++) {
        rig->figures[i].is_current = TRUE;
        rig->figures[i].core.link = RELAY_ONLINE;
        rig->figures[i].core.is_cut = true;
    }
    rig_start(rig);
    *state = rig;
    return 0;
}

int
cuts_rig_teardown(void **state)
{
    void *fixture = rig->fixture;

    (void)state;
    cuts_free(rig->cuts);
    store_free(rig->store);
    g_string_free(rig->journal, TRUE);
    fixture_teardown(&fixture);
    g_free(rig);
    return 0;
}

void
rig_look_after(int64_t seconds)
{
    rig->now_us += seconds * SECOND;
    cuts_look(rig->cuts);
}

void
rig_dirty(unsigned i)
{
    disk_map_mark(rig_disk_of(i)->map, 0, CLUSTER, 1);
}

void
rig_send(unsigned i)
{
    DiskMap *map = rig_disk_of(i)->map;
    struct ClusterRun run;

    while (disk_map_next_sealed(map, 0, UINT64_MAX, &run)) {
        disk_map_settle(map, run);
    }
    (void)disk_map_retire(map);
    rig_disk_of(i)->contact = CONTACT_KNOWN;
}

void
rig_finish_cut(void)
{
    rig_send(0);
    rig_send(1);
    cuts_look(rig->cuts);
}

void
rig_first_cut(void)
{
    cuts_look(rig->cuts);
    rig_finish_cut();
    assert_int_equal(rig_kept().holds, 1);
    assert_int_equal(rig_kept().advancing, 0);
    g_string_truncate(rig->journal, 0);
}

struct CutsFigures
rig_figures(void)
{
    struct CutsFigures figures;

    cuts_figures(rig->cuts, &figures);
    return figures;
}

/* The record of one is not what these tests are about: it is in the list. */
uint64_t
rig_snapshot(const char *name)
{
    Store *store = rig->store;
    Snapshot snapshot = {.id = ++rig->last_snapshot,
                         .wall_us = 1600000000 * SECOND,
                         .n_disks = store->n_disks};

    g_strlcpy(snapshot.name, name, sizeof(snapshot.name));
    snapshot.wall_us += (int64_t)snapshot.id * SECOND;
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];
        uint64_t size = atomic_load(&disk->size_bytes);

        snapshot.disks[i] =
            (struct SnapshotDisk){.id = disk->id, .size_bytes = size};
        points_add(disk->points,
                   point_new(snapshot.id, size, disk->cluster_bits, -1, -1));
    }
    store->last_snapshot = MAX(store->last_snapshot, snapshot.id);
    snapshot_list_put(store->snapshots, &snapshot);
    return snapshot.id;
}

void
rig_overwrite(unsigned i, uint64_t cluster)
{
    Disk *disk = rig_disk_of(i);

    points_keep(disk->points, points_youngest(disk->points),
                (struct ClusterRun){cluster, 1});
    disk_map_mark(disk->map, cluster * CLUSTER, CLUSTER, 1);
}

void
rig_delete(uint64_t id)
{
    Store *store = rig->store;

    snapshot_list_remove(store->snapshots, id);
    for (unsigned i = 0; i < store->n_disks; i++) {
        points_set_live(store->disks[i]->points, id, false);
    }
}

void
rig_set(const char *name, const char *key, const char *value)
{
    Disk *disk = name ? store_disk(rig->store, name) : NULL;

    assert_true(store_set(rig->store, disk, key, value, NULL));
}
