/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rollback-rig.c - a store with two snapshots, and what its disks held when
 */
#include "rollback-rig.h"

#include "fs/rollback.h"

const char *const rig_names[RIG_DISKS] = {"vda", "vdb"}; /* vdb: no target */

static void
say(void *user, const char *line)
{
    struct World *world = user;

    g_string_append_printf(world->said, "%s\n", line);
}

uint64_t
rig_clusters(Disk *disk)
{
    return atomic_load(&disk->size_bytes) / CLUSTER;
}

/* As a guest at work on a store at rest: kept for snapshots, dirty, written. */
void
rig_write(struct World *world, Store *store, unsigned i, uint64_t cluster,
          unsigned char value)
{
    Disk *disk = store_disk(store, rig_names[i]);
    struct ClusterRun run = {cluster, 1};
    g_autofree char *data = g_malloc(CLUSTER);

    memset(data, value, CLUSTER);
    assert_int_equal(store_keep(store, disk, &run, 1), 0);
    disk_map_mark(disk->map, cluster * CLUSTER, CLUSTER, 1);
    assert_int_equal(store->io->ops->pwrite(store->io, disk->map_fd, data,
                                            CLUSTER, cluster * CLUSTER),
                     CLUSTER);
    world->now.of[i][cluster] = value;
}

void
rig_snapshot(Store *store, const char *name)
{
    Snapshot *made = g_new0(Snapshot, 1);
    GError *error = NULL;

    if (!store_snapshot_now(store, name, "user", made, &error)) {
        fail_msg("snapshot: %s", error->message);
    }
    g_free(made);
}

/* a, b, and what was written since. All of vda is settled at b. */
void
rig_history(struct World *world)
{
    Store *store;

    scratch_free(strdup(world->fixture->path));
    memset(&world->now, 0, sizeof(world->now));
    fixture_create(world->fixture, "vda", TARGET);
    fixture_create(world->fixture, "vdb", NULL);
    store = fixture_open(world->fixture, 0);
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        for (unsigned n = 0; n < 10; n++) {
            rig_write(world, store, i, 3 * n, (unsigned char)(10 + n));
        }
    }
    rig_snapshot(store, "a");
    world->a = world->now;
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        rig_write(world, store, i, 3, 30);
        rig_write(world, store, i, 4, 31); /* was zeroes */
        rig_write(world, store, i, 6, 0);  /* is zeroes */
        rig_write(world, store, i, 127, 32);
    }
    rig_snapshot(store, "b");
    world->b = world->now;
    assert_true(store_serve(store, NULL));
    settle_all(store_disk(store, "vda"));
    world->settled = world->now;
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        rig_write(world, store, i, 3, 40); /* again */
        rig_write(world, store, i, 9, 41);
        rig_write(world, store, i, 60, 42);
    }
    fixture_books(store, store_disk(store, "vda"), store_end_epoch(store));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    g_string_truncate(world->said, 0);
}

int
rig_roll(struct World *world, StoreIo *io, const char *name)
{
    struct Rollback rollback = {
        .path = world->fixture->path, .name = name, .say = say, .user = world};
    GError *error = NULL;
    gboolean ok = store_rollback(io, &rollback, &error);

    assert_int_equal(ok, error == NULL);
    if (error) {
        say(world, error->message);
    }
    return take_code(&error);
}

static bool
is_filled(const char *data, unsigned char value)
{
    return data[0] == (char)value && !memcmp(data, data + 1, CLUSTER - 1);
}

bool
rig_disks_are(Store *store, const struct Content *want)
{
    g_autofree char *data = g_malloc(CLUSTER);
    bool is_same = true;

    for (unsigned i = 0; i < RIG_DISKS; i++) {
        Disk *disk = store_disk(store, rig_names[i]);

        for (uint64_t n = 0; n < rig_clusters(disk); n++) {
            assert_int_equal(store->io->ops->pread(store->io, disk->map_fd,
                                                   data, CLUSTER, n * CLUSTER),
                             CLUSTER);
            is_same = is_same && is_filled(data, want->of[i][n]);
        }
    }
    return is_same;
}

static void
read_snapshot(Store *store, Disk *disk, uint64_t id, uint64_t cluster,
              char *data)
{
    Point *point;
    uint64_t count;
    ssize_t n;

    memset(data, 0, CLUSTER);
    switch (points_find(disk->points, id, cluster, 1, &point, &count)) {
    case POINTS_FILE:
        n = store->io->ops->pread(store->io, point_data_fd(point), data,
                                  CLUSTER, cluster * CLUSTER);
        assert_true(n >= 0);
        points_done(disk->points, point);
        break;
    case POINTS_DISK:
        n = store->io->ops->pread(store->io, disk->map_fd, data, CLUSTER,
                                  cluster * CLUSTER);
        assert_int_equal(n, CLUSTER);
        break;
    case POINTS_UNSURE:
    case POINTS_GONE:
        fail_msg("snapshot %d cannot be read", (int)id);
    }
}

static bool
is_snapshot(Store *store, const Snapshot *snapshot, const struct Content *want)
{
    g_autofree char *data = g_malloc(CLUSTER);
    bool is_same = true;

    for (unsigned i = 0; i < RIG_DISKS; i++) {
        Disk *disk = store_disk(store, rig_names[i]);
        const struct SnapshotDisk *then = snapshot_disk(snapshot, disk->id);

        assert_non_null(then);
        for (uint64_t n = 0; n < then->size_bytes / CLUSTER; n++) {
            read_snapshot(store, disk, snapshot->id, n, data);
            is_same = is_same && is_filled(data, want->of[i][n]);
        }
    }
    return is_same;
}

static void
check_named(Store *store, const char *name, const struct Content *want)
{
    g_autofree Snapshot *snapshot = g_new0(Snapshot, 1);

    assert_true(snapshot_list_find(store->snapshots, name, snapshot));
    assert_true(is_snapshot(store, snapshot, want));
}

/* How many rollbacks have made; @of: the youngest, or one that is @was. */
unsigned
rig_find_before(Store *store, const struct Content *was, Snapshot *of)
{
    g_autofree Snapshot *snapshot = g_new0(Snapshot, 1);
    unsigned count = 0;

    for (unsigned k = 0; snapshot_list_at(store->snapshots, k, snapshot); k++) {
        if (g_str_has_prefix(snapshot->name, RIG_BEFORE)) {
            assert_string_equal(snapshot->reason, "rollback");
            count++;
            if (!was || is_snapshot(store, snapshot, was)) {
                *of = *snapshot;
            }
        }
    }
    return count;
}

/* What is clean is at the target, which holds what was settled. */
void
rig_check_superset(struct World *world, Store *store, const struct Content *now)
{
    Disk *disk = store_disk(store, "vda");

    for (uint64_t n = 0; n < DISK_CLUSTERS; n++) {
        if (now->of[0][n] != world->settled.of[0][n]) {
            assert_false(disk_map_is_clean(disk->map, n * CLUSTER, CLUSTER));
        }
    }
}

/* All is as it was in @then; what was before is kept, once or @most times. */
void
rig_check_done(struct World *world, const struct Content *then,
               const struct Content *was, unsigned most)
{
    Store *store = fixture_open(world->fixture, 0);
    g_autofree Snapshot *before = g_new0(Snapshot, 1);
    unsigned count = rig_find_before(store, was, before);

    assert_true(store->was_clean);
    assert_int_equal(store->rollback, 0);
    assert_true(rig_disks_are(store, then));
    check_named(store, "a", &world->a);
    check_named(store, "b", &world->b);
    assert_in_range(count, 1, most);
    assert_true(before->id > 0);
    rig_check_superset(world, store, then);
    store_free(store);
}

int
rig_setup(void **state)
{
    struct World *world = g_new0(struct World, 1);
    void *fixture;

    /* Thousands of syncs, of which none is about a disk. */
    if (g_file_test("/dev/shm", G_FILE_TEST_IS_DIR)) {
        g_setenv("TMPDIR", "/dev/shm", TRUE);
    }
    g_log_set_writer_func(quiet_log, NULL, NULL);
    fixture_setup(&fixture);
    world->fixture = fixture;
    world->said = g_string_new(NULL);
    *state = world;
    return 0;
}

int
rig_teardown(void **state)
{
    struct World *world = *state;
    void *fixture = world->fixture;

    g_string_free(world->said, TRUE);
    g_free(world);
    return fixture_teardown(&fixture);
}
