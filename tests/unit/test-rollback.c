/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-rollback.c - the disks become a snapshot again, whatever comes between
 */
#include "rollback-rig.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/record-io.h"

#include <fcntl.h>

static void
test_all_disks_are_what_they_were(void **state)
{
    struct World *world = *state;
    Store *store;
    Disk *vda;

    for (unsigned round = 0; round < 2; round++) {
        rig_history(world);
        assert_int_equal(rig_roll(world, store_io_kernel(), round ? "b" : "a"),
                         0);
        assert_non_null(strstr(world->said->str, RIG_BEFORE));
        rig_check_done(world, round ? &world->b : &world->a, &world->now, 1);
    }
    /* What nobody wrote is as clean as before. */
    store = fixture_open(world->fixture, 0);
    vda = store_disk(store, "vda");
    assert_int_equal(dirty_clusters(vda), 3);
    assert_true(disk_map_is_clean(vda->map, 12 * CLUSTER, CLUSTER));
    /* What was zeroes takes no room again. */
    assert_true(lseek(vda->map_fd, 60 * CLUSTER, SEEK_DATA) >=
                (off_t)(61 * CLUSTER));
    store_free(store);
}

/* And back again, by the snapshot that was made. */
static void
test_a_rollback_can_be_undone(void **state)
{
    struct World *world = *state;
    g_autofree Snapshot *before = g_new0(Snapshot, 1);
    struct Content was;
    Store *store;

    rig_history(world);
    was = world->now;
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 0);
    store = fixture_open(world->fixture, 0);
    assert_int_equal(rig_find_before(store, NULL, before), 1);
    store_free(store);
    assert_int_equal(rig_roll(world, store_io_kernel(), before->name), 0);
    rig_check_done(world, &was, &world->a, 2);
}

/* Either refused, or as before, or as then. */
static void
check_between(struct World *world, bool is_kill, unsigned *refused)
{
    GError *error = NULL;
    Store *store =
        store_open(store_io_kernel(), world->fixture->path, 0, &error);
    g_autofree Snapshot *before = g_new0(Snapshot, 1);

    if (!store) {
        assert_non_null(strstr(error->message, "interrupted rollback"));
        assert_non_null(strstr(error->message, " a again"));
        assert_int_equal(take_code(&error), 4);
        (*refused)++;
        store = store_open(store_io_kernel(), world->fixture->path,
                           STORE_OPEN_READ, NULL);
        assert_non_null(store);
        assert_int_equal(rig_find_before(store, NULL, before), 1);
        rig_check_superset(world, store, &world->a);
        rig_check_superset(world, store, &world->now);
        /* And not all, as if somebody else had written the image; but for a
         * bitmap that is torn in the middle. */
        assert_true(!is_kill || disk_map_is_clean(store_disk(store, "vda")->map,
                                                  12 * CLUSTER, CLUSTER));
    } else {
        assert_true(rig_disks_are(store, &world->now) ||
                    rig_disks_are(store, &world->a));
        rig_check_superset(world, store, &world->now);
    }
    store_free(store);
}

/* The n-th call of a rollback fails, and with it, or not, all that follow. */
static void
test_faults_leave_what_can_be_finished(void **state)
{
    struct World *world = *state;
    unsigned refused = 0;
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n += sticky ? 1 : 3) {
            int code;

            rig_history(world);
            fault_io_arm(&fault, n, sticky, -EIO);
            fault.is_torn = n & 1;
            code = rig_roll(world, &fault.io, "a");
            failed = fault_io_disarm(&fault);
            assert_true(failed || code == 0);
            if (code) {
                check_between(world, sticky && !fault.is_torn, &refused);
                assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 0);
            }
            /* One more if it failed before the state knew of it, or after
             * that was over. */
            rig_check_done(world, &world->a, &world->now, 2);
        }
    }
    assert_in_range(refused, 20, 1000);
}

/* One that was interrupted, half way, may go elsewhere. */
static void
interrupt(struct World *world)
{
    FaultIo fault;
    unsigned refused = 0;

    fault_io_init(&fault, store_io_kernel());
    rig_history(world);
    fault_io_arm(&fault, 0, true, -EIO);
    assert_int_equal(rig_roll(world, &fault.io, "a"), 0);
    for (unsigned n = atomic_load(&fault.calls); !refused && n; n -= 10) {
        rig_history(world);
        fault_io_arm(&fault, n, true, -EIO);
        (void)rig_roll(world, &fault.io, "a");
        (void)fault_io_disarm(&fault);
        check_between(world, true, &refused);
    }
    assert_int_equal(refused, 1);
}

static void
test_an_interrupted_one_may_go_elsewhere(void **state)
{
    struct World *world = *state;
    g_autofree Snapshot *before = g_new0(Snapshot, 1);
    struct Content was;
    Store *store;

    interrupt(world);
    assert_int_equal(rig_roll(world, store_io_kernel(), "b"), 0);
    rig_check_done(world, &world->b, &world->now, 1);

    interrupt(world);
    was = world->now;
    store = fixture_open(world->fixture, STORE_OPEN_READ);
    assert_int_equal(rig_find_before(store, NULL, before), 1);
    store_free(store);
    assert_int_equal(rig_roll(world, store_io_kernel(), before->name), 0);
    rig_check_done(world, &was, &was, 1);
}

/*
 * What is written must have been prepared for, durably: at a write of disk.raw
 * nothing of the points, the bitmap and the state is without its sync, and when
 * the state is replaced for the last time nothing of disk.raw is.
 */
static bool
is_prepared(const RecordLog *log, const bool *pending)
{
    bool is_good = true;

    for (size_t i = 0; i < log->n_nodes; i++) {
        const char *name = log->nodes[i]->name;

        /* Of the bitmap's two headers one is synced. */
        is_good = is_good &&
                  (!pending[i] || !strcmp(name, "disk.raw") ||
                   !strcmp(name, STORE_LOCK) || !strcmp(name, STORE_DIRTY));
    }
    return is_good;
}

static bool
is_raw_pending(const RecordLog *log, const bool *pending)
{
    bool is_any = false;

    for (size_t i = 0; i < log->n_nodes; i++) {
        is_any |= pending[i] && !strcmp(log->nodes[i]->name, "disk.raw");
    }
    return is_any;
}

static void
test_each_step_is_durable_before_the_next(void **state)
{
    struct World *world = *state;
    unsigned raw_writes = 0, replaced = 0;
    bool *pending;
    RecordIo record;
    RecordLog log;

    rig_history(world);
    record_log_init(&log);
    record_log_attach(&log, world->fixture->path);
    record_io_init(&record, store_io_kernel(), &log);
    assert_int_equal(rig_roll(world, &record.io, "a"), 0);
    pending = g_new0(bool, log.n_nodes);
    for (size_t i = 0; i < log.count; i++) {
        const RecordEntry *entry = log.entries[i];
        const char *name = entry->kind == RECORD_SEND || entry->result < 0
                               ? ""
                               : log.nodes[entry->node]->name;
        bool is_write =
            entry->kind == RECORD_WRITE || entry->kind == RECORD_ZERO;

        if (is_write && !strcmp(name, "disk.raw")) {
            raw_writes++;
            assert_true(replaced == 1 && is_prepared(&log, pending));
        }
        if ((entry->kind == RECORD_RENAME || entry->kind == RECORD_EXCHANGE) &&
            !strcmp(entry->name_to, "state")) {
            replaced++;
            assert_false(is_raw_pending(&log, pending));
        }
        if (is_write) {
            pending[entry->node] = !entry->is_durable;
        } else if (entry->kind == RECORD_RENAME) {
            pending[entry->node] = true; /* the directory */
        } else if (entry->kind == RECORD_SYNC && entry->result == 0) {
            pending[entry->node] = false;
        }
    }
    assert_int_equal(replaced, 2);
    assert_int_equal(raw_writes, 2 * 6);
    g_free(pending);
    record_log_deinit(&log);
}

static void
test_a_disk_that_has_grown_ends_in_zeroes(void **state)
{
    struct World *world = *state;
    struct Content was;
    Store *store;

    rig_history(world);
    store = fixture_open(world->fixture, 0);
    assert_true(store_resize_disk(store, store_disk(store, "vda"),
                                  RIG_CLUSTERS * CLUSTER, NULL));
    rig_write(world, store, 0, 130, 50);
    rig_write(world, store, 0, 159, 51);
    rig_write(world, store, 0, 127, 52);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    was = world->now;
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 0);
    rig_check_done(world, &world->a, &was, 1);
    store = fixture_open(world->fixture, 0);
    assert_int_equal(rig_clusters(store_disk(store, "vda")), RIG_CLUSTERS);
    assert_false(disk_map_is_clean(store_disk(store, "vda")->map, 159 * CLUSTER,
                                   CLUSTER));
    store_free(store);
}

/* A size of then in the middle of a cluster: the cluster is of both. */
static void
test_growth_within_a_cluster_is_zeroes(void **state)
{
    struct World *world = *state;
    const uint64_t then = 2 * CLUSTER + 512, now = 3 * CLUSTER;
    g_autofree char *data = g_malloc(CLUSTER);
    struct ClusterRun last = {2, 1};

    for (unsigned round = 0; round < 2; round++) {
        g_autofree char *address =
            g_build_filename(world->fixture->path, "vdc", NULL);
        struct StoreCreate ask = {.address = address,
                                  .size_bytes = then,
                                  .cluster_bits = STORE_CLUSTER_BITS};
        Store *store;
        Disk *disk;

        rig_history(world);
        assert_true(store_create_disk(store_io_kernel(), &ask, NULL));
        store = fixture_open(world->fixture, 0);
        disk = store_disk(store, "vdc");
        memset(data, 7, CLUSTER);
        assert_int_equal(pwrite(disk->map_fd, data, 512, 2 * CLUSTER), 512);
        rig_snapshot(store, "c");
        assert_true(store_resize_disk(store, disk, now, NULL));
        memset(data, 8, CLUSTER);
        assert_int_equal(store_keep(store, disk, &last, 1), 0);
        /* Only behind the old end, or before it as well. */
        assert_int_equal(pwrite(disk->map_fd, data, CLUSTER - 4096 * !round,
                                2 * CLUSTER + 4096 * !round),
                         CLUSTER - 4096 * !round);
        assert_true(store_close_clean(store, NULL));
        store_free(store);

        assert_int_equal(rig_roll(world, store_io_kernel(), "c"), 0);
        store = fixture_open(world->fixture, 0);
        disk = store_disk(store, "vdc");
        assert_int_equal(pread(disk->map_fd, data, CLUSTER, 2 * CLUSTER),
                         CLUSTER);
        for (unsigned i = 0; i < CLUSTER; i++) {
            assert_int_equal(data[i], i < 512 ? 7 : 0);
        }
        store_free(store);
    }
}

/* A disk that the snapshot does not have stays, and that is said. */
static void
test_a_disk_made_since_is_left_alone(void **state)
{
    struct World *world = *state;
    Store *store;
    Disk *disk;
    char byte = 9;

    rig_history(world);
    fixture_create(world->fixture, "vdc", NULL);
    store = fixture_open(world->fixture, 0);
    disk = store_disk(store, "vdc");
    assert_int_equal(pwrite(disk->map_fd, &byte, 1, 77), 1);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 0);
    assert_non_null(strstr(world->said->str, "vdc is not in the snapshot"));
    rig_check_done(world, &world->a, &world->now, 1);
    store = fixture_open(world->fixture, 0);
    disk = store_disk(store, "vdc");
    byte = 0;
    assert_int_equal(pread(disk->map_fd, &byte, 1, 77), 1);
    assert_int_equal(byte, 9);
    store_free(store);
}

/* What was accepted as discarded is part of what the disks were. */
static void
test_discards_that_wait_are_kept_as_zeroes(void **state)
{
    struct World *world = *state;
    struct Content was;

    rig_history(world);
    fixture_discard(world->fixture, 9 * CLUSTER, CLUSTER);
    fixture_discard(world->fixture, 12 * CLUSTER, CLUSTER);
    was = world->now;
    was.of[0][12] = 0;
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 0);
    rig_check_done(world, &world->a, &was, 1);
}

/* Nothing is written, and how much of it is lost is said. */
static void
test_a_damaged_snapshot_is_refused(void **state)
{
    struct World *world = *state;
    g_autofree char *path = NULL;
    char junk[512];
    Store *store;
    int fd;

    rig_history(world);
    path = g_build_filename(world->fixture->address, "points", "1.map", NULL);
    fd = open(path, O_WRONLY);
    memset(junk, 'j', sizeof(junk));
    assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
    close(fd);
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 4);
    assert_non_null(strstr(world->said->str, "MiB of disk vda are not known"));
    store = fixture_open(world->fixture, 0);
    assert_true(rig_disks_are(store, &world->now));
    assert_int_equal(snapshot_list_count(store->snapshots), 2);
    store_free(store);
    /* The other one is sound. */
    assert_int_equal(rig_roll(world, store_io_kernel(), "b"), 0);
}

static void
test_what_cannot_be_is_refused(void **state)
{
    struct World *world = *state;
    Store *store;

    rig_history(world);
    assert_int_equal(rig_roll(world, store_io_kernel(), "nosuch"), 1);
    store = fixture_open(world->fixture, 0);
    assert_int_equal(rig_roll(world, store_io_kernel(), "a"), 3);
    store_free(store);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_disks_are_what_they_were),
        cmocka_unit_test(test_a_rollback_can_be_undone),
        cmocka_unit_test(test_faults_leave_what_can_be_finished),
        cmocka_unit_test(test_an_interrupted_one_may_go_elsewhere),
        cmocka_unit_test(test_each_step_is_durable_before_the_next),
        cmocka_unit_test(test_a_disk_that_has_grown_ends_in_zeroes),
        cmocka_unit_test(test_growth_within_a_cluster_is_zeroes),
        cmocka_unit_test(test_a_disk_made_since_is_left_alone),
        cmocka_unit_test(test_discards_that_wait_are_kept_as_zeroes),
        cmocka_unit_test(test_a_damaged_snapshot_is_refused),
        cmocka_unit_test(test_what_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
