/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-snapshots-faults.c - snapshots when calls fail, and when files are
 * damaged: each one is whole, or is not there, or says what it has not
 */
#include "snapshot-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Call n of @work fails, or all from it on, for each n, in a rig of its own
 * with two snapshots, ids 1 and 2, and writes since. Whatever happened, all that
 * is there is whole after a crash, and after the next serve's tidying. */
struct FaultCase {
    void (*work)(struct Rig *rig);
    void (*judge)(struct Rig *rig);
    int error;
    bool is_sticky;
};

static void
walk(const struct FaultCase *fault)
{
    unsigned failed = 1;

    for (unsigned n = 1; failed; n++) {
        struct Rig *rig;
        void *state;

        rig_setup(&state);
        rig = state;
        rig_write_some(rig, 0);
        assert_int_equal(rig_snapshot(rig, "one"), 1);
        rig_write_some(rig, 1);
        assert_int_equal(rig_snapshot(rig, "two"), 2);
        rig_write_some(rig, 2);
        fault_io_arm(&rig->fault, n, fault->is_sticky, fault->error);
        rig->fault.is_torn = n % 2;
        fault->work(rig);
        failed = fault_io_disarm(&rig->fault);
        if (rig->store) {
            rig_write_some(rig, 3);
            rig_close(rig);
        }
        rig_open(rig);
        fault->judge(rig);
        assert_int_equal(rig_check(rig), 0);
        assert_true(store_serve(rig->store, NULL));
        rig_write_some(rig, 4);
        assert_int_equal(rig_check(rig), 0);
        for (uint64_t id = 1; id < 5; id++) {
            if (rig_has(rig, id)) {
                assert_true(rig_delete(rig, id));
            }
        }
        if (rig_files(rig)) {
            g_autofree char *c =
                g_strdup_printf("ls -lR %s", rig->fixture->path);
            if (system(c)) {
            }
            fail_msg("n %u %d %d", n, fault->error, fault->is_sticky);
        }
        rig_teardown(&state);
    }
}

static void
walk_all(void (*work)(struct Rig *rig), void (*judge)(struct Rig *rig))
{
    const struct FaultCase once = {work, judge, -EIO, false};
    const struct FaultCase from_then_on = {work, judge, -ENOSPC, true};

    walk(&once);
    walk(&from_then_on);
}

static uint64_t made;

static void
work_create(struct Rig *rig)
{
    made = rig_snapshot(rig, "three");
    if (made == 0) {
        rig_remember(rig, 3);
    }
}

static void
judge_create(struct Rig *rig)
{
    assert_true(rig_has(rig, 1) && rig_has(rig, 2));
    assert_int_equal(rig_has(rig, 3), made == 3);
}

static void
test_create_with_faults(void **state)
{
    (void)state;
    walk_all(work_create, judge_create);
}

static void
work_create_served(struct Rig *rig)
{
    unsigned n = rig->fault.fail_at;
    bool is_sticky = rig->fault.is_sticky;
    int error = rig->fault.error;

    (void)fault_io_disarm(&rig->fault);
    assert_true(store_serve(rig->store, NULL));
    fault_io_arm(&rig->fault, n, is_sticky, error);
    work_create(rig);
}

static void
test_create_while_served_with_faults(void **state)
{
    (void)state;
    walk_all(work_create_served, judge_create);
}

static bool is_deleted;

static void
work_delete(struct Rig *rig)
{
    is_deleted = rig_delete(rig, 1 + rig->fault.fail_at % 2);
}

static void
judge_delete(struct Rig *rig)
{
    unsigned count = snapshot_list_count(rig->store->snapshots);

    /* If neither the rename nor its undoing is sure, nobody knows. */
    assert_true(count == 1 || (count == 2 && !is_deleted));
}

static void
test_delete_with_faults(void **state)
{
    (void)state;
    walk_all(work_delete, judge_delete);
}

static void
work_write(struct Rig *rig)
{
    for (unsigned i = 0; i < RIG_CLUSTERS; i++) {
        (void)rig_write(rig, 0, i);
    }
}

static void
judge_both(struct Rig *rig)
{
    assert_true(rig_has(rig, 1) && rig_has(rig, 2));
}

static void
test_copies_with_faults(void **state)
{
    (void)state;
    walk_all(work_write, judge_both);
}

/* An opening that fails, or that cannot read all, deletes nothing; what it lets
 * the guest overwrite it has kept. */
static void
work_open(struct Rig *rig)
{
    Store *store;

    rig_close(rig);
    store = store_open(&rig->fault.io, rig->fixture->path, 0, NULL);
    if (store) {
        rig->fault.fail_at = 0; /* how many there were stays */
        rig->store = store;
        (void)rig_check(rig);
        assert_true(store_serve(store, NULL));
        rig_close(rig);
    }
}

static void
test_open_with_faults(void **state)
{
    (void)state;
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        const struct FaultCase fault = {work_open, judge_both, -EIO, sticky};

        walk(&fault);
    }
}

/*
 * Damage
 */
static struct Rig *
damage_begin(void **state)
{
    struct Rig *rig = *state;

    rig_write_some(rig, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(rig_snapshot(rig, NULL), i + 1);
        rig_write_some(rig, i + 1);
    }
    rig_close(rig);
    return rig;
}

static void
flip(const struct Rig *rig, const char *name, off_t at)
{
    char *path = rig_path(rig, "%s", name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte = 0;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    g_free(path);
}

static void
test_damaged_record_costs_the_name(void **state)
{
    struct Rig *rig = damage_begin(state);
    Snapshot found;

    flip(rig, "snapshots/2", 20);
    rig_open(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
    assert_true(snapshot_list_find(rig->store->snapshots, "damaged-2", &found));
    assert_int_equal(found.id, 2);
    assert_int_equal(found.n_disks, 2);
    assert_true(found.is_damaged);
    assert_false(rig_is_damaged(rig, 1));
    assert_int_equal(rig_check(rig), 0);
    assert_true(rig_delete(rig, 2));
    assert_int_equal(rig_check(rig), 0);
    assert_true(rig_delete(rig, 1));
    assert_true(rig_delete(rig, 3));
    assert_int_equal(rig_files(rig), 0);
}

/* Older ones are as they were; its room comes back when they are deleted. */
static void
test_record_that_was_taken_away_is_as_deleted(void **state)
{
    struct Rig *rig = damage_begin(state);
    char *path = rig_path(rig, "snapshots/2");

    assert_int_equal(unlink(path), 0);
    rig_open(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 2);
    assert_true(store_serve(rig->store, NULL));
    assert_int_equal(rig_check(rig), 0);
    assert_true(rig_delete(rig, 1));
    assert_true(rig_delete(rig, 3));
    assert_int_equal(rig_files(rig), 0);
    g_free(path);
}

static void
test_damaged_map_is_not_guessed(void **state)
{
    struct Rig *rig = damage_begin(state);

    flip(rig, "vda/points/2.map", 30);
    rig_open(rig);
    assert_true(rig_is_damaged(rig, 2));
    assert_true(rig_is_damaged(rig, 1)); /* resolves to it */
    assert_false(rig_is_damaged(rig, 3));
    assert_true(rig_check(rig) > 0);
    assert_true(rig_delete(rig, 2));
    assert_true(rig_check(rig) > 0);
    assert_true(rig_delete(rig, 1));
    assert_int_equal(rig_check(rig), 0);
    assert_int_equal(rig_files(rig), 5);
}

static void
test_files_that_are_missing_or_cut(void **state)
{
    static const struct {
        const char *name;
        off_t size; /* -1: missing */
    } cases[] = {
        {"vda/points/2.map", -1},  {"vda/points/2.map", 0},
        {"vda/points/2.data", -1}, {"vda/points/2.data", 3 * CLUSTER},
        {"vdb/points/2.data", 0},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct Rig *rig;
        void *own;
        char *path;

        rig_setup(&own);
        rig = damage_begin(&own);
        path = rig_path(rig, "%s", cases[i].name);
        assert_int_equal(cases[i].size < 0 ? unlink(path)
                                           : truncate(path, cases[i].size),
                         0);
        rig_open(rig);
        assert_true(rig_is_damaged(rig, 2));
        assert_false(rig_is_damaged(rig, 3));
        assert_true(rig_check(rig) > 0);
        assert_true(store_serve(rig->store, NULL));
        rig_write_some(rig, 5);
        (void)rig_check(rig);
        for (unsigned id = 1; id <= 3; id++) {
            assert_true(rig_delete(rig, id));
        }
        assert_int_equal(rig_files(rig), 0);
        g_free(path);
        rig_teardown(&own);
    }
}

/* Nothing is known of records, so nothing is deleted. */
static void
test_records_that_cannot_be_read_are_kept(void **state)
{
    struct Rig *rig = damage_begin(state);
    char *path = rig_path(rig, "snapshots");
    char *aside = rig_path(rig, "elsewhere");

    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(symlink("elsewhere", path), 0);
    rig_open(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
    assert_true(rig_is_damaged(rig, 1));
    assert_int_equal(rig_snapshot(rig, "four"), 0);
    assert_false(rig_delete(rig, 1));
    assert_true(store_serve(rig->store, NULL));
    rig_write_some(rig, 5);
    rig_close(rig);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rename(aside, path), 0);
    rig_open(rig);
    assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
    assert_false(rig_is_damaged(rig, 1));
    assert_int_equal(rig_check(rig), 0);
    g_free(path);
    g_free(aside);
}

/*
 * weir check
 */
static void
test_check_names_what_is_wrong(void **state)
{
    static const struct {
        const char *name;
        const char *said;
    } cases[] = {
        {"snapshots/1", "snapshots/1: "},
        {"vda/points/2.map", "disk vda: the files of snapshot "},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct Rig *rig;
        char *report;
        void *own;

        rig_setup(&own);
        rig = damage_begin(&own);
        if (fixture_check(rig->fixture, false, &report) != STORE_SOUND ||
            strstr(report, "snapshot") || strstr(report, "points")) {
            fail_msg("%s", report);
        }
        g_free(report);
        flip(rig, cases[i].name, 30);
        assert_int_equal(fixture_check(rig->fixture, true, &report),
                         STORE_DAMAGED);
        if (!strstr(report, cases[i].said)) {
            fail_msg("%s", report);
        }
        g_free(report);
        rig_open(rig);
        assert_int_equal(snapshot_list_count(rig->store->snapshots), 3);
        rig_teardown(&own);
    }
}

static void
test_check_repairs_leftovers_only(void **state)
{
    static const char *const leftovers[] = {
        "snapshots/9.tmp", "vda/points/9.map", "vda/points/9.data",
        "vdb/points/9.data"};
    struct Rig *rig = damage_begin(state);
    unsigned files = rig_files(rig);
    char *path = rig_path(rig, "snapshots/2");
    char *report;

    for (unsigned i = 0; i < G_N_ELEMENTS(leftovers); i++) {
        char *left = rig_path(rig, "%s", leftovers[i]);

        assert_true(g_file_set_contents(left, "", 0, NULL));
        assert_int_equal(truncate(left, 4096), 0);
        g_free(left);
    }
    assert_int_equal(unlink(path), 0); /* its points are needed */
    assert_int_equal(fixture_check(rig->fixture, false, &report), STORE_SOUND);
    for (unsigned i = 0; i < G_N_ELEMENTS(leftovers); i++) {
        assert_non_null(strstr(report, leftovers[i]));
    }
    g_free(report);
    assert_int_equal(fixture_check(rig->fixture, true, &report), STORE_SOUND);
    g_free(report);
    assert_int_equal(rig_files(rig), files - 1);
    rig_open(rig);
    assert_int_equal(rig_check(rig), 0);
    g_free(path);
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_with_faults),
        cmocka_unit_test(test_create_while_served_with_faults),
        cmocka_unit_test(test_delete_with_faults),
        cmocka_unit_test(test_copies_with_faults),
        cmocka_unit_test(test_open_with_faults),
        WITH_RIG(test_damaged_record_costs_the_name),
        WITH_RIG(test_record_that_was_taken_away_is_as_deleted),
        WITH_RIG(test_damaged_map_is_not_guessed),
        cmocka_unit_test(test_files_that_are_missing_or_cut),
        WITH_RIG(test_records_that_cannot_be_read_are_kept),
        cmocka_unit_test(test_check_names_what_is_wrong),
        WITH_RIG(test_check_repairs_leftovers_only),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
