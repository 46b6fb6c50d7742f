/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-snapshots-kept.c - how long snapshots are kept: deletion, what becomes of
 * their room, the schedule; and what is told of them
 */
#include "snapshots-rig.h"

static void
test_deleted_ones_are_reaped(void **state)
{
    Points *points = rig->store->disks[0]->points;

    (void)state;
    rig_create("a");
    rig_create("b");
    g_string_truncate(rig->journal, 0);
    rig_delete("x");
    rig_assert_journal("not deleted: there is no snapshot x\n");
    rig_delete("a");
    rig_assert_journal("dropped 1\nWEIR_SNAPSHOT_DELETED a\n");
    rig_await_reaped("reaped 1\n");
    rig_assert_list("b");
    assert_int_equal(points_count(points), 1);
    assert_true(points_is_live(points, 2));
    rig->clings = true;
    rig_delete("b");
    rig_assert_journal("dropped 2\nnot deleted: read-only\n");
    assert_true(points_is_live(points, 2));
}

static void
test_points_of_one_that_is_being_sent_stay_live(void **state)
{
    Points *points = rig->store->disks[1]->points;

    (void)state;
    rig_create("a");
    rig_create("b");
    rig->held = 1;
    rig_delete("a");
    rig_delete("b");
    rig_assert_list("");
    rig_await_reaped("reaped 2\n");
    rig_look_after(SECOND);
    assert_true(points_is_live(points, 1));
    rig->held = 0;
    rig_look_after(SECOND);
    rig_await_reaped("reaped 1\n");
    assert_int_equal(points_count(points), 0);
}

static void
test_what_older_ones_need_waits_for_their_deletion(void **state)
{
    (void)state;
    rig_create("a");
    rig_create("b");
    rig->needed = 2;
    rig_delete("b");
    rig_await_reaped("needed 2\n");
    rig->needed = 0;
    rig_delete("a");
    rig_await_reaped("reaped 2\nreaped 1\n");
}

static void
test_readers_are_waited_for(void **state)
{
    (void)state;
    rig_create("a");
    rig->readers = 2;
    rig_delete("a");
    rig_await_reaped("in use 1\nin use 1\nreaped 1\n");
}

static void
test_what_is_left_over_is_reaped_at_the_next_serve(void **state)
{
    uint64_t id = 1;

    (void)state;
    rig_create("a");
    snapshot_list_remove(rig->store->snapshots, 1);
    points_set_live(rig->store->disks[0]->points, 1, false);
    points_set_live(rig->store->disks[1]->points, 1, false);
    g_array_append_val(rig->gone, id);
    rig_end();
    rig_start(true);
    rig_await_reaped("reaped 1\n");
}

/*
 * The schedule
 */
static struct SnapshotsFigures
figures(void)
{
    struct SnapshotsFigures now;

    snapshots_figures(rig->snapshots, &now);
    return now;
}

static void
test_schedule_is_off_by_default(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        rig_look_after(HOUR);
    }
    rig_assert_journal("");
    assert_int_equal(figures().next_us, 0);
}

static void
test_schedule_makes_one_in_each_period(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_assert_list("t1700000000");
    assert_int_equal(figures().next_us, rig->now_us + HOUR);
    rig_write();
    rig_look_after(HOUR - 1);
    rig_assert_list("t1700000000");
    rig_look_after(1);
    rig_assert_list("t1700000000 t1700003600");
    /* Looked at late, and yet on time again. */
    rig_write();
    rig_look_after(HOUR + 20 * SECOND);
    rig_write();
    rig_look_after(HOUR - 20 * SECOND);
    rig_assert_list("t1700000000 t1700003600 t1700007220 t1700010800");
}

static void
test_schedule_passes_over_what_did_not_change(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_look_after(HOUR);
    rig_create("a"); /* another one, after a write */
    rig_write();
    rig_look_after(HOUR / 2);
    rig_assert_list("t1700000000 a");
    rig_look_after(HOUR / 2);
    rig_assert_list("t1700000000 a t1700007200");
    rig_look_after(10 * HOUR);
    rig_assert_list("t1700000000 a t1700007200");
}

static void
test_schedule_makes_one_after_a_long_time(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_write();
    rig_end();
    rig->wall_us += 1000 * HOUR;
    rig->now_us = 5 * SECOND; /* of another boot */
    rig_start(true);
    rig_look_after(0);
    rig_write();
    rig_look_after(HOUR - 1);
    rig_assert_list("t1700000000 t1703600000");
    rig_look_after(1);
    rig_assert_list("t1700000000 t1703600000 t1703603600");
}

static void
test_schedule_goes_on_after_a_restart(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_write();
    rig_end();
    rig->wall_us += HOUR / 2;
    rig_start(true);
    rig_look_after(HOUR / 2 - 1);
    rig_assert_list("t1700000000");
    rig_look_after(1);
    rig_assert_list("t1700000000 t1700003600");
    /* A clock that was set back puts it off by a period at most. */
    rig_write();
    rig_end();
    rig->wall_us -= 1000 * HOUR;
    rig_start(true);
    rig_look_after(0);
    rig_look_after(HOUR - 1);
    rig_assert_list("t1700000000 t1700003600");
    rig_look_after(1);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
}

static void
test_schedule_that_fails_tries_again_when_due(void **state)
{
    (void)state;
    rig->refuses = true;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_assert_journal("refused\nWEIR_SNAPSHOT_FAILED ?\n");
    assert_string_equal(figures().error, "no room");
    rig_look_after(HOUR - 1);
    rig_assert_journal("");
    rig_look_after(1);
    rig_assert_journal("refused\nWEIR_SNAPSHOT_FAILED ?\n");
    rig->refuses = false;
    rig_look_after(HOUR);
    rig_assert_list("t1700007200");
    assert_string_equal(figures().error, "");
}

static void
test_schedule_keeps_so_many_of_its_own(void **state)
{
    (void)state;
    rig_create("mine");
    rig_set("snapshot-every", "1h");
    rig_set("snapshot-keep", "2");
    rig_look_after(0);
    for (unsigned i = 0; i < 3; i++) {
        rig_write();
        rig_look_after(HOUR);
    }
    rig_assert_list("mine t1700007200 t1700010800");
    rig_await_reaped("reaped 2\nreaped 3\n");
    rig_set("snapshot-keep", "0");
    for (unsigned i = 0; i < 20; i++) {
        rig_write();
        rig_look_after(HOUR);
    }
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 23);
    rig_set("snapshot-keep", "1");
    rig_look_after(0); /* a few at a time */
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 15);
    for (unsigned i = 0; i < 3; i++) {
        rig_look_after(0);
    }
    rig_assert_list("mine t1700082800");
}

static void
test_schedule_that_cannot_delete_tries_again_when_due(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_set("snapshot-keep", "1");
    rig_look_after(0);
    rig_write();
    rig->clings = true;
    g_string_truncate(rig->journal, 0);
    rig_look_after(HOUR);
    rig_assert_journal("prepared t1700003600\ninstant\nrecord t1700003600\n"
                       "WEIR_SNAPSHOT_CREATED t1700003600\ndropped 1\n"
                       "WEIR_SNAPSHOT_FAILED t1700000000\n");
    assert_string_equal(figures().error, "read-only");
    rig_look_after(1);
    rig_assert_journal("");
    rig->clings = false;
    rig_look_after(HOUR);
    rig_assert_list("t1700003600");
}

/* Not counted, and not made, once it is off. */
static void
test_schedule_that_is_turned_off_leaves_all(void **state)
{
    (void)state;
    rig_set("snapshot-every", "1h");
    rig_look_after(0);
    rig_write();
    rig_look_after(HOUR);
    rig_set("snapshot-every", "0");
    rig_set("snapshot-keep", "1");
    rig_write();
    rig_look_after(HOUR);
    rig_assert_list("t1700000000 t1700003600");
    assert_int_equal(figures().next_us, 0);
}

static void
test_schedule_waits_for_its_turn(void **state)
{
    (void)state;
    rig_set("on-freeze", "tail -f /dev/null");
    rig_set("snapshot-every", "1s");
    rig_look_after(0);
    for (unsigned i = 0; i < 5; i++) {
        rig_look_after(SECOND);
    }
    rig_assert_journal("prepared t1700000000\n");
    rig_set("on-freeze", "none");
    rig_look_after(5 * SECOND);
    rig_finish();
    rig_assert_list("t1700000000");
}

/*
 * In JSON
 */
static void
test_snapshot_is_told(void **state)
{
    g_autoptr(JsonArray) all = NULL;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_ARRAY);
    g_autofree char *text = NULL;
    Snapshot snapshot;

    (void)state;
    rig_create("a");
    assert_true(snapshot_list_get(rig->store->snapshots, 1, &snapshot));
    snapshot.cut = 7;
    snapshot.is_frozen = true;
    snapshot_list_put(rig->store->snapshots, &snapshot);
    all = snapshots_json(rig->store);
    json_node_set_array(node, all);
    text = json_to_string(node, FALSE);
    assert_string_equal(
        text, "[{\"id\":1,\"name\":\"a\",\"time\":\"2023-11-14T22:13:20Z\","
              "\"reason\":\"user\",\"frozen\":true,\"uploaded\":true,\"cut\":7,"
              "\"damaged\":false,\"kept_bytes\":0,\"disks\":[{\"name\":\"vda\","
              "\"size_bytes\":8388608,\"kept_bytes\":0},{\"name\":\"vdb\","
              "\"size_bytes\":8388608,\"kept_bytes\":0}]}]");
}

static void
assert_diff(const char *from, const char *to, uint64_t start,
            const char *extents)
{
    struct SnapshotsDiff diff = {.from = from,
                                 .to = to,
                                 .disk = "vda",
                                 .has_extents = true,
                                 .start = start};
    g_autoptr(JsonObject) object = snapshots_diff(rig->store, &diff, NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_ARRAY);
    g_autofree char *text = NULL;
    JsonObject *disk;

    assert_non_null(object);
    disk = json_array_get_object_element(
        json_object_get_array_member(object, "disks"), 0);
    json_node_set_array(node, json_object_get_array_member(disk, "extents"));
    text = json_to_string(node, FALSE);
    assert_string_equal(text, extents);
    assert_true(json_object_get_null_member(disk, "next"));
}

static void
test_diff_is_what_was_overwritten_between(void **state)
{
    Disk *disk = store_disk(rig->store, "vda");
    struct SnapshotsDiff wrong = {.from = "x"};
    GError *error = NULL;
    Point *point;

    (void)state;
    rig_create("a");
    rig_write();
    rig_create("b");
    point = points_youngest(disk->points);
    points_keep(disk->points, point, (struct ClusterRun){100, 28});
    assert_diff("a", "b", 0, "[{\"offset\":0,\"length\":65536}]");
    assert_diff("b", "a", 0, "[{\"offset\":0,\"length\":65536}]");
    assert_diff("a", "a", 0, "[]");
    assert_diff("b", NULL, 0, "[{\"offset\":6553600,\"length\":1835008}]");
    assert_diff("a", NULL, 0,
                "[{\"offset\":0,\"length\":65536},"
                "{\"offset\":6553600,\"length\":1835008}]");
    assert_diff("a", NULL, 65536, "[{\"offset\":6553600,\"length\":1835008}]");
    /* What it has grown by, by less than a cluster and by more. */
    atomic_store(&disk->size_bytes, DISK_CLUSTERS * CLUSTER + 512);
    assert_diff("b", NULL, 7000000,
                "[{\"offset\":6946816,\"length\":1442304}]");
    atomic_store(&disk->size_bytes, DISK_CLUSTERS * CLUSTER);
    assert_null(snapshots_diff(rig->store, &wrong, &error));
    assert_string_equal(error->message, "there is no snapshot x");
    g_clear_error(&error);
    wrong = (struct SnapshotsDiff){.from = "a", .disk = "vdz"};
    assert_null(snapshots_diff(rig->store, &wrong, &error));
    assert_non_null(strstr(error->message, "vdz"));
    g_clear_error(&error);
}

#define TEST(NAME)                                             \
    cmocka_unit_test_setup_teardown(NAME, snapshots_rig_setup, \
                                    snapshots_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_deleted_ones_are_reaped),
        TEST(test_points_of_one_that_is_being_sent_stay_live),
        TEST(test_what_older_ones_need_waits_for_their_deletion),
        TEST(test_readers_are_waited_for),
        TEST(test_what_is_left_over_is_reaped_at_the_next_serve),
        TEST(test_schedule_is_off_by_default),
        TEST(test_schedule_makes_one_in_each_period),
        TEST(test_schedule_passes_over_what_did_not_change),
        TEST(test_schedule_makes_one_after_a_long_time),
        TEST(test_schedule_goes_on_after_a_restart),
        TEST(test_schedule_that_fails_tries_again_when_due),
        TEST(test_schedule_keeps_so_many_of_its_own),
        TEST(test_schedule_that_cannot_delete_tries_again_when_due),
        TEST(test_schedule_that_is_turned_off_leaves_all),
        TEST(test_schedule_waits_for_its_turn),
        TEST(test_snapshot_is_told),
        TEST(test_diff_is_what_was_overwritten_between),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
