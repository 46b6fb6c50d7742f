/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-snapshots.c - snapshots of a store at rest: made, read, deleted in
 * every order, over openings and ends of all kinds
 */
#include "snapshot-rig.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_EACH (1 + 2 * RIG_DISKS)

static void
test_snapshots_are_what_the_disks_were(void **state)
{
    struct Rig *rig = *state;
    uint64_t id[3];
    Snapshot first;

    rig_write_some(rig, 0);
    for (unsigned i = 0; i < 3; i++) {
        id[i] = rig_snapshot(rig, NULL);
        assert_int_equal(id[i], i + 1);
        rig_write_some(rig, i + 1);
        assert_int_equal(rig_check(rig), 0);
    }
    rig_reopen(rig);
    assert_int_equal(rig_check(rig), 0);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
    assert_int_equal(rig_files(rig), 3 * FILES_EACH);
    assert_true(snapshot_list_at(rig->store->snapshots, 0, &first));
    assert_int_equal(first.n_disks, 2);
    assert_int_equal(first.disks[0].size_bytes, 8 * MIB);
    assert_true(first.disks[0].blocks >= CLUSTER / 512);
    assert_string_equal(first.reason, "user");
    assert_true(first.wall_us > 0);
    assert_false(first.is_damaged);
    assert_true(store_snapshots_bytes(rig->store) >= CLUSTER);
}

/* Past the page cache, as in truth. */
static void
test_snapshots_with_direct_io(void **state)
{
    struct Rig *rig = *state;

    rig->fault.inner = store_io_kernel();
    rig_reopen(rig);
    test_snapshots_are_what_the_disks_were(state);
}

static void
test_names_are_checked(void **state)
{
    static const char *const bad[] = {"",         ".x",        "a/b", "latest",
                                      "uploaded", "damaged-5", "once"};
    struct Rig *rig = *state;
    uint64_t id = rig_snapshot(rig, "once");
    Snapshot found;

    assert_int_not_equal(id, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_int_equal(rig_snapshot(rig, bad[i]), 0);
    }
    assert_true(snapshot_list_find(rig->store->snapshots, "once", &found));
    assert_int_equal(found.id, id);
    assert_int_equal(rig_files(rig), FILES_EACH);
    /* Those of one second have names of their own. */
    for (unsigned i = 0; i < 3; i++) {
        assert_int_not_equal(rig_snapshot(rig, NULL), 0);
    }
}

/* The @n-th order of four. */
static void
order_of(unsigned n, unsigned order[4])
{
    unsigned left[4] = {0, 1, 2, 3};

    for (unsigned i = 0; i < 4; i++) {
        unsigned at = n % (4 - i);

        n /= 4 - i;
        order[i] = left[at];
        left[at] = left[3 - i];
    }
}

static void
test_deletion_in_every_order_leaves_the_others(void **state)
{
    struct Rig *rig = *state;

    for (unsigned n = 0; n < 48; n++) {
        unsigned order[4];
        uint64_t id[4];

        rig->n_known = 0;
        for (unsigned i = 0; i < 4; i++) {
            rig_write_some(rig, n + i);
            id[i] = rig_snapshot(rig, NULL);
        }
        rig_write_some(rig, n + 5);
        order_of(n % 24, order);
        for (unsigned i = 0; i < 4; i++) {
            assert_true(rig_delete(rig, id[order[i]]));
            assert_false(rig_has(rig, id[order[i]]));
            if (n >= 24) {
                rig_reopen(rig);
            }
            assert_int_equal(rig_check(rig), 0);
            rig_write_some(rig, n + i);
            assert_int_equal(rig_check(rig), 0);
        }
        assert_int_equal(rig_files(rig), 0);
        assert_int_equal(store_snapshots_bytes(rig->store), 0);
        assert_int_equal(points_count(rig->store->disks[0]->points), 0);
    }
}

/* What only a deleted snapshot had comes back, though its files stay. */
static void
test_room_of_a_deleted_one_comes_back(void **state)
{
    struct Rig *rig = *state;
    uint64_t old, young, before;
    GArray *gone;

    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(rig_write(rig, 0, i), 0);
    }
    old = rig_snapshot(rig, NULL);
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(rig_write(rig, 0, i), 0);
    }
    young = rig_snapshot(rig, NULL);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(rig_write(rig, 0, i), 0);
    }
    before = store_snapshots_bytes(rig->store);
    assert_true(rig_delete(rig, young));
    /* Of eight only the last one is of use to the old one. */
    assert_true(store_snapshots_bytes(rig->store) + 7 * CLUSTER <= before);
    gone = store_snapshots_gone(rig->store);
    assert_int_equal(gone->len, 1);
    assert_int_equal(g_array_index(gone, uint64_t, 0), young);
    g_array_unref(gone);
    assert_int_equal(rig_check(rig), 0);
    rig_reopen(rig);
    assert_int_equal(rig_check(rig), 0);
    assert_true(rig_delete(rig, old));
    assert_int_equal(rig_files(rig), 0);
}

static bool
stop(void *user)
{
    unsigned *left = user;

    return (*left)-- == 0;
}

static Point *
refuse(void *user, Disk *disk, uint64_t id)
{
    (void)user;
    (void)disk;
    (void)id;
    return NULL;
}

static void
test_reaping_stops_when_asked(void **state)
{
    struct Rig *rig = *state;
    unsigned left = 1;
    const struct SnapshotReap stopping = {
        .remove = refuse, .is_stopping = stop, .user = &left};
    const struct SnapshotReap used = {.remove = refuse};
    uint64_t id;

    rig_write_some(rig, 0);
    id = rig_snapshot(rig, NULL);
    rig_write_some(rig, 0);
    assert_true(store_snapshot_drop(rig->store, id, NULL));
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        points_set_live(rig->store->disks[i]->points, id, false);
    }
    assert_int_equal(store_snapshot_reap(rig->store, id, &stopping),
                     SNAPSHOT_STOPPED);
    assert_int_equal(store_snapshot_reap(rig->store, id, &used),
                     SNAPSHOT_IN_USE);
    assert_int_equal(store_snapshot_reap_now(rig->store, id), SNAPSHOT_REAPED);
    assert_int_equal(rig_files(rig), 0);
}

/* From the instant on only the youngest gets copies, and older ones need them
 * though it never was. */
static void
test_crash_between_instant_and_commit_costs_no_other(void **state)
{
    struct Rig *rig = *state;
    SnapshotDraft *draft;
    uint64_t old, id;
    GArray *gone;

    rig_write_some(rig, 0);
    old = rig_snapshot(rig, "old");
    draft = store_snapshot_prepare(rig->store, "young", "user", NULL);
    assert_non_null(draft);
    id = draft->snapshot.id;
    for (unsigned i = 0; i < RIG_DISKS; i++) {
        points_add(rig->store->disks[i]->points, draft->points[i]);
    }
    g_free(draft);
    rig_write_some(rig, 0);
    rig_reopen(rig);
    assert_false(rig_has(rig, id));
    assert_true(rig_has(rig, old));
    assert_int_equal(rig_check(rig), 0);
    gone = store_snapshots_gone(rig->store);
    assert_int_equal(gone->len, 1);
    g_array_unref(gone);
    rig_write_some(rig, 3);
    rig_write_some(rig, 2);
    assert_true(store_serve(rig->store, NULL)); /* tidies */
    assert_int_equal(rig_check(rig), 0);
    assert_true(rig_delete(rig, old));
    assert_int_equal(rig_files(rig), 0);
}

static void
test_abandoned_ones_leave_nothing(void **state)
{
    struct Rig *rig = *state;
    SnapshotDraft *draft =
        store_snapshot_prepare(rig->store, NULL, "user", NULL);

    assert_non_null(draft);
    assert_int_equal(rig_files(rig), FILES_EACH);
    store_snapshot_abandon(rig->store, draft);
    assert_int_equal(rig_files(rig), 0);
    assert_int_equal(rig->store->last_snapshot, 1);
    /* Killed before the instant. */
    draft = store_snapshot_prepare(rig->store, NULL, "user", NULL);
    for (unsigned i = 0; i < rig->store->n_disks; i++) {
        point_free(draft->points[i]);
    }
    g_free(draft);
    assert_int_equal(rig_files(rig), FILES_EACH);
    rig_reopen(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 0);
    assert_true(store_serve(rig->store, NULL));
    assert_int_equal(rig_files(rig), 0);
}

/* Deleted, and nothing of it is left but what the state says. */
static void
test_ids_are_never_given_twice(void **state)
{
    struct Rig *rig = *state;
    uint64_t last = 0;

    for (unsigned life = 0; life < 6; life++) {
        assert_true(store_serve(rig->store, NULL));
        for (unsigned i = 0; i < 20; i++) {
            uint64_t id = rig_snapshot(rig, NULL);

            assert_true(id > last);
            last = id;
            assert_true(rig_delete(rig, id));
            rig->n_known = 0;
        }
        if (life % 2) {
            assert_true(store_close_clean(rig->store, NULL));
        }
        rig_reopen(rig);
        assert_true(rig->store->last_snapshot >= last);
        assert_true(rig->store->last_snapshot < last + 40);
    }
}

static void
test_a_state_that_is_lost_gives_new_ids_and_all_are_past(void **state)
{
    struct Rig *rig = *state;
    char *path = rig_path(rig, STORE_STATE);
    uint64_t id = rig_snapshot(rig, NULL);

    rig->store->cuts.past = 0;
    assert_true(store_close_clean(rig->store, NULL));
    rig_reopen(rig);
    assert_int_equal(rig->store->cuts.past, 0);
    assert_int_equal(rig->store->last_snapshot, id);
    rig_close(rig);
    assert_int_equal(unlink(path), 0);
    rig_open(rig);
    assert_true(rig->store->last_snapshot > id + 100);
    assert_true(rig->store->cuts.past >= id);
    assert_true(rig->store->cuts.past <= rig->store->last_snapshot);
    assert_int_equal(rig_check(rig), 0);
    g_free(path);
}

static void
test_uploaded_is_kept(void **state)
{
    struct Rig *rig = *state;
    uint64_t id = rig_snapshot(rig, NULL);
    Snapshot found;

    store_snapshot_uploaded(rig->store, id, 77);
    store_snapshot_uploaded(rig->store, id + 1, 78);
    assert_true(snapshot_list_uploaded(rig->store->snapshots, &found));
    assert_int_equal(found.cut, 77);
    rig_reopen(rig);
    assert_true(snapshot_list_get(rig->store->snapshots, id, &found));
    assert_int_equal(found.cut, 77);
}

/* A discard of the last serve is in a snapshot that is made at rest, and not in
 * one of before. */
static void
test_discards_that_were_not_punched_are_zero(void **state)
{
    struct Rig *rig = *state;
    ZeroList list;

    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(rig_write(rig, 0, i), 0);
    }
    assert_int_not_equal(rig_snapshot(rig, "before"), 0);
    rig_close(rig);
    fixture_discard(rig->fixture, 3 * CLUSTER, 2 * CLUSTER);
    rig_open(rig);
    rig->now.of[0][3] = rig->now.of[0][4] = 0;
    assert_int_not_equal(rig_snapshot(rig, "after"), 0);
    assert_int_equal(rig_check(rig), 0);
    rig_reopen(rig);
    assert_int_equal(rig_check(rig), 0);
    assert_int_equal(store_zeroes_get(rig->store, rig->store->disks[0], &list),
                     0);
    assert_int_equal(list.count, 1);
    assert_int_equal(store_zeroes_renew(rig->store, rig->store->disks[0]), 0);
    assert_true(store_serve(rig->store, NULL));
    assert_int_equal(store_zeroes_settle(rig->store, rig->store->disks[0]), 0);
    assert_int_equal(rig_check(rig), 0);
}

/* A drain at rest punches: what a snapshot of before needs is kept. */
static void
test_discards_are_punched_after_a_copy(void **state)
{
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(rig_write(rig, 0, i), 0);
    }
    assert_int_not_equal(rig_snapshot(rig, "before"), 0);
    rig_close(rig);
    fixture_discard(rig->fixture, 3 * CLUSTER, 2 * CLUSTER);
    rig_open(rig);
    assert_int_equal(store_zeroes_renew(rig->store, rig->store->disks[0]), 0);
    assert_true(store_serve(rig->store, NULL));
    assert_int_equal(store_zeroes_settle(rig->store, rig->store->disks[0]), 0);
    assert_int_equal(rig_check(rig), 0);
}

static void
test_disks_come_and_go(void **state)
{
    struct Rig *rig = *state;
    char *vda = rig_path(rig, "vda");
    Snapshot found;
    Store *store;

    rig_write_some(rig, 0);
    assert_int_not_equal(rig_snapshot(rig, "one"), 0);
    rig_write_some(rig, 1);
    rig_close(rig);
    fixture_create(rig->fixture, "vdc", NULL);
    store = fixture_open(rig->fixture, 0);
    assert_int_equal(points_count(store_disk(store, "vdc")->points), 0);
    assert_true(store_snapshot_now(store, "two", "user", NULL, NULL));
    assert_true(snapshot_list_find(store->snapshots, "two", &found));
    assert_int_equal(found.n_disks, 3);
    store_free(store);
    assert_true(store_remove(store_io_kernel(), vda, TRUE, NULL));
    store = fixture_open(rig->fixture, 0);
    assert_int_equal(snapshot_list_count(store->snapshots), 2);
    assert_true(snapshot_list_find(store->snapshots, "one", &found));
    assert_false(found.is_damaged);
    assert_int_equal(points_count(store_disk(store, "vdb")->points), 2);
    assert_true(store_snapshot_delete_now(store, found.id, NULL));
    store_free(store);
    assert_true(
        store_remove(store_io_kernel(), rig->fixture->path, TRUE, NULL));
    assert_int_equal(access(rig->fixture->path, F_OK), -1);
    g_free(vda);
}

static void
test_a_disk_that_grows_keeps_its_snapshots(void **state)
{
    const struct ClusterRun run = {120, 400};
    struct Rig *rig = *state;
    Disk *disk = rig->store->disks[0];

    rig_write_some(rig, 0);
    assert_int_not_equal(rig_snapshot(rig, "small"), 0);
    assert_true(store_resize_disk(rig->store, disk, 64 * MIB, NULL));
    assert_int_not_equal(rig_snapshot(rig, "large"), 0);
    rig_write_some(rig, 0);
    assert_int_equal(store_keep(rig->store, disk, &run, 1), 0);
    assert_true(store_close_clean(rig->store, NULL));
    rig_reopen(rig);
    assert_int_equal(rig_check(rig), 0);
    assert_false(rig_is_damaged(rig, 1));
    assert_false(rig_is_damaged(rig, 2));
}

/* A job's have names of their own, and are there again at the next opening. */
static void
test_hidden_ones_take_no_names(void **state)
{
    struct Rig *rig = *state;
    Snapshot hidden, other, user;
    g_autoptr(GError) error = NULL;

    assert_true(
        store_snapshot_now(rig->store, NULL, SNAPSHOT_JOB, &hidden, NULL));
    assert_true(
        store_snapshot_now(rig->store, hidden.name, "user", &user, NULL));
    assert_false(
        store_snapshot_now(rig->store, hidden.name, "user", NULL, &error));
    assert_true(
        store_snapshot_now(rig->store, NULL, SNAPSHOT_JOB, &other, NULL));
    assert_string_not_equal(hidden.name, other.name);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 1);
    assert_true(store_close_clean(rig->store, NULL));
    rig_reopen(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 1);
    assert_true(snapshot_list_find(rig->store->snapshots, user.name, &user));
    assert_string_equal(user.reason, "user");
    assert_true(snapshot_list_hidden_at(rig->store->snapshots, 1, &other));
    assert_true(store_snapshot_delete_now(rig->store, hidden.id, NULL));
    assert_false(snapshot_list_hidden_at(rig->store->snapshots, 1, NULL));
}

/* Without the lock there are records, and what they take. */
static void
test_opened_to_read(void **state)
{
    struct Rig *rig = *state;
    uint64_t bytes;
    Store *store;

    rig_write_some(rig, 0);
    assert_int_not_equal(rig_snapshot(rig, "one"), 0);
    rig_write_some(rig, 0);
    bytes = store_snapshots_bytes(rig->store);
    rig_close(rig);
    store = fixture_open(rig->fixture, STORE_OPEN_READ);
    assert_int_equal(snapshot_list_count(store->snapshots), 1);
    assert_int_equal(points_count(store->disks[0]->points), 0);
    assert_int_equal(store_snapshots_bytes(store), bytes);
    store_free(store);
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_snapshots_are_what_the_disks_were),
        WITH_RIG(test_snapshots_with_direct_io),
        WITH_RIG(test_names_are_checked),
        WITH_RIG(test_deletion_in_every_order_leaves_the_others),
        WITH_RIG(test_room_of_a_deleted_one_comes_back),
        WITH_RIG(test_reaping_stops_when_asked),
        WITH_RIG(test_crash_between_instant_and_commit_costs_no_other),
        WITH_RIG(test_abandoned_ones_leave_nothing),
        WITH_RIG(test_ids_are_never_given_twice),
        WITH_RIG(test_a_state_that_is_lost_gives_new_ids_and_all_are_past),
        WITH_RIG(test_uploaded_is_kept),
        WITH_RIG(test_discards_that_were_not_punched_are_zero),
        WITH_RIG(test_discards_are_punched_after_a_copy),
        WITH_RIG(test_disks_come_and_go),
        WITH_RIG(test_a_disk_that_grows_keeps_its_snapshots),
        WITH_RIG(test_hidden_ones_take_no_names),
        WITH_RIG(test_opened_to_read),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
