/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-remove.c - disks and stores go, but nothing that is only here
 */
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int
remove_code(const char *address, gboolean discard)
{
    GError *error = NULL;

    if (store_remove(store_io_kernel(), address, discard, &error)) {
        return 0;
    }
    return take_code(&error);
}

static void
test_remove_refuses_what_is_dirty(void **state)
{
    struct StoreFixture *fixture = *state;
    GError *error = NULL;

    fixture_serve(fixture, CLUSTER + 1);
    assert_false(
        store_remove(store_io_kernel(), fixture->address, FALSE, &error));
    assert_non_null(strstr(error->message, "131072 bytes"));
    assert_int_equal(take_code(&error), 1);
    assert_int_equal(remove_code(fixture->path, FALSE), 1);
    fixture_serve(fixture, 0);
    assert_int_equal(remove_code(fixture->address, FALSE), 0);
    assert_int_equal(access(fixture->address, F_OK), -1);
    store_free(fixture_open(fixture, 0));
}

/* The map of its last end does not know of it. */
static void
test_remove_refuses_discards_that_were_not_punched(void **state)
{
    struct StoreFixture *fixture = *state;
    GError *error = NULL;

    fixture_serve(fixture, 0);
    fixture_discard(fixture, 3 * CLUSTER, 2 * CLUSTER);
    assert_false(
        store_remove(store_io_kernel(), fixture->address, FALSE, &error));
    assert_non_null(strstr(error->message, "131072 bytes"));
    assert_int_equal(take_code(&error), 1);
}

static void
test_remove_of_one_disk_leaves_the_other(void **state)
{
    struct StoreFixture *fixture = *state;
    Store *store;

    fixture_create(fixture, "vdb", NULL);
    assert_int_equal(remove_code(fixture->address, TRUE), 0);
    assert_int_equal(remove_code(fixture->address, TRUE), 2);
    store = fixture_open(fixture, 0);
    assert_int_equal(store->n_disks, 1);
    assert_non_null(store_disk(store, "vdb"));
    store_free(store);
    /* A new disk of the old name is another disk. */
    fixture_create(fixture, "vda", TARGET);
    store = fixture_open(fixture, 0);
    assert_int_equal(store_disk(store, "vda")->id, 3);
    store_free(store);
}

static void
test_remove_of_a_store_leaves_nothing(void **state)
{
    struct StoreFixture *fixture = *state;

    char *left = g_build_filename(fixture->path, "vda.sock", NULL);

    fixture_create(fixture, "vdb", NULL);
    fixture_serve(fixture, CLUSTER);
    assert_int_equal(mknod(left, S_IFSOCK | 0600, 0), 0);
    assert_int_equal(remove_code(fixture->path, TRUE), 0);
    assert_int_equal(access(fixture->path, F_OK), -1);
    g_free(left);
}

static void
test_remove_leaves_foreign_files(void **state)
{
    struct StoreFixture *fixture = *state;
    char *letter = g_build_filename(fixture->path, "letter.txt", NULL);

    assert_true(g_file_set_contents(letter, "x", 1, NULL));
    assert_int_equal(remove_code(fixture->path, TRUE), 0);
    assert_int_equal(access(letter, F_OK), 0);
    assert_int_equal(access(fixture->address, F_OK), -1);
    assert_int_equal(remove_code(fixture->path, TRUE), 1); /* no store */
    g_free(letter);
}

static void
test_remove_refuses_while_open(void **state)
{
    struct StoreFixture *fixture = *state;
    Store *store = fixture_open(fixture, 0);

    assert_int_equal(remove_code(fixture->path, TRUE), 3);
    assert_int_equal(remove_code(fixture->address, TRUE), 3);
    store_free(store);
    assert_int_equal(access(fixture->address, F_OK), 0);
}

/* It was killed when weir.conf was gone. */
static void
test_store_can_be_made_where_a_remove_was_interrupted(void **state)
{
    static const char *const names[] = {STORE_SOCKET, "vda.sock",
                                        STORE_STATE ".tmp"};
    struct StoreFixture *fixture = *state;
    char *conf = g_build_filename(fixture->path, STORE_CONF, NULL);
    char *reserve = g_build_filename(fixture->path, STORE_RESERVE, NULL);
    char *disk = g_build_filename(fixture->path, STORE_OLD "vda", NULL);

    fixture_serve(fixture, 0);
    assert_int_equal(access(reserve, F_OK), 0);
    assert_int_equal(unlink(conf), 0);
    assert_int_equal(rename(fixture->address, disk), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        char *path = g_build_filename(fixture->path, names[i], NULL);
        mode_t kind = g_str_has_suffix(path, ".sock") ? S_IFSOCK : S_IFREG;

        assert_int_equal(mknod(path, kind | 0600, 0), 0);
        g_free(path);
    }
    fixture_create(fixture, "vda", TARGET);
    fixture_serve(fixture, 0);
    assert_int_equal(remove_code(fixture->path, FALSE), 0);
    assert_int_equal(access(fixture->path, F_OK), -1);
    g_free(conf);
    g_free(reserve);
    g_free(disk);
}

/* With the n-th call failing the store opens, with the disk or without; the
 * next attempt finishes it. */
static void
test_remove_faults_can_be_repeated(void **state)
{
    struct StoreFixture *fixture = *state;
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    fixture_create(fixture, "vdb", NULL);
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n++) {
            bool ok;
            Store *store;

            fault_io_arm(&fault, n, sticky, -EIO);
            ok = store_remove(&fault.io, fixture->address, TRUE, NULL);
            failed = fault_io_disarm(&fault);
            store = fixture_open(fixture, 0);
            assert_non_null(store_disk(store, "vdb"));
            if (ok) {
                assert_null(store_disk(store, "vda"));
            }
            if (!store_disk(store, "vda")) {
                store_free(store);
                if (access(fixture->address, F_OK) == 0) {
                    scratch_free(strdup(fixture->address));
                }
                fixture_create(fixture, "vda", TARGET);
            } else {
                store_free(store);
            }
        }
    }
    assert_int_equal(remove_code(fixture->path, TRUE), 0);
    assert_int_equal(access(fixture->path, F_OK), -1);
}

int
main(void)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_remove_refuses_what_is_dirty),
        WITH_STORE(test_remove_refuses_discards_that_were_not_punched),
        WITH_STORE(test_remove_of_one_disk_leaves_the_other),
        WITH_STORE(test_remove_of_a_store_leaves_nothing),
        WITH_STORE(test_remove_leaves_foreign_files),
        WITH_STORE(test_remove_refuses_while_open),
        WITH_STORE(test_store_can_be_made_where_a_remove_was_interrupted),
        WITH_STORE(test_remove_faults_can_be_repeated),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
