/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-snapshot-list.c - the list of snapshots, and who is passed over in it
 */
#include "fs/snapshot.h"
#include "tests/lib/test.h"

#include <string.h>

static void
put(SnapshotList *list, uint64_t id, const char *name, const char *reason,
    uint64_t cut)
{
    Snapshot snapshot = {.id = id, .cut = cut};

    g_strlcpy(snapshot.name, name, sizeof(snapshot.name));
    g_strlcpy(snapshot.reason, reason, sizeof(snapshot.reason));
    snapshot_list_put(list, &snapshot);
}

/* 2, 4 and 7 of jobs; 3 and 5 of a user. */
static int
setup(void **state)
{
    SnapshotList *list = snapshot_list_new();

    put(list, 5, "b", "user", 0);
    put(list, 7, "z", SNAPSHOT_JOB, 9);
    put(list, 2, "a", SNAPSHOT_JOB, 0);
    put(list, 3, "a", "schedule", 8);
    put(list, 4, "c", SNAPSHOT_JOB, 0);
    *state = list;
    return 0;
}

static int
teardown(void **state)
{
    snapshot_list_free(*state);
    return 0;
}

static void
test_hidden_ones_are_passed_over(void **state)
{
    SnapshotList *list = *state;
    Snapshot snapshot;

    assert_int_equal(snapshot_list_count(list), 2);
    assert_true(snapshot_list_at(list, 0, &snapshot));
    assert_int_equal(snapshot.id, 3);
    assert_true(snapshot_list_at(list, 1, &snapshot));
    assert_int_equal(snapshot.id, 5);
    assert_false(snapshot_list_at(list, 2, &snapshot));
    assert_true(snapshot_list_next(list, 0, &snapshot));
    assert_int_equal(snapshot.id, 3);
    assert_true(snapshot_list_next(list, 3, &snapshot));
    assert_int_equal(snapshot.id, 5);
    assert_false(snapshot_list_next(list, 5, &snapshot));
    assert_true(snapshot_list_latest(list, &snapshot));
    assert_int_equal(snapshot.id, 5);
    assert_true(snapshot_list_uploaded(list, &snapshot));
    assert_int_equal(snapshot.id, 3);
    assert_true(snapshot_list_find(list, "a", &snapshot));
    assert_int_equal(snapshot.id, 3);
    assert_false(snapshot_list_find(list, "c", NULL));
}

static void
test_hidden_ones_are_there_by_id(void **state)
{
    static const uint64_t ids[] = {2, 4, 7};
    SnapshotList *list = *state;
    Snapshot snapshot;

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        assert_true(snapshot_list_get(list, ids[i], &snapshot));
        assert_true(snapshot_is_hidden(&snapshot));
        assert_true(snapshot_list_hidden_at(list, i, &snapshot));
        assert_int_equal(snapshot.id, ids[i]);
    }
    assert_false(snapshot_list_hidden_at(list, 3, NULL));
    assert_true(snapshot_list_get(list, 3, &snapshot));
    assert_false(snapshot_is_hidden(&snapshot));
}

/* Put again, and away. */
static void
test_counts_follow(void **state)
{
    SnapshotList *list = *state;
    Snapshot snapshot;

    put(list, 4, "c", "user", 0);
    assert_int_equal(snapshot_list_count(list), 3);
    put(list, 4, "c", SNAPSHOT_JOB, 1);
    assert_int_equal(snapshot_list_count(list), 2);
    snapshot_list_remove(list, 2);
    snapshot_list_remove(list, 4);
    snapshot_list_remove(list, 7);
    snapshot_list_remove(list, 7);
    assert_int_equal(snapshot_list_count(list), 2);
    assert_false(snapshot_list_hidden_at(list, 0, NULL));
    assert_true(snapshot_list_at(list, 1, &snapshot));
    assert_int_equal(snapshot.id, 5);
    snapshot_list_remove(list, 3);
    snapshot_list_remove(list, 5);
    assert_int_equal(snapshot_list_count(list), 0);
    assert_false(snapshot_list_at(list, 0, NULL));
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_hidden_ones_are_passed_over),
        TEST(test_hidden_ones_are_there_by_id),
        TEST(test_counts_follow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
