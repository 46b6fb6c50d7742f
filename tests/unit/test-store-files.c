/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-files.c - what a serve makes sure of before it relies on a file
 */
#include "bitmap/intent.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/record-io.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>

/* Was vda's intent file synced, or if @is_dir its directory? */
static bool
is_synced(const RecordLog *log, bool is_dir)
{
    bool is_synced = false;

    for (size_t i = 0; i < log->count; i++) {
        const RecordEntry *entry = log->entries[i];

        is_synced |= entry->kind == RECORD_SYNC && entry->result == 0 &&
                     !strcmp(log->nodes[entry->node]->name,
                             is_dir ? "vda" : INTENT_FILE);
    }
    return is_synced;
}

/* A heat that was killed before its sync: read from the page cache, and relied
 * on from the next serve on. */
static void
test_intent_that_is_believed_is_durable(void **state)
{
    struct StoreFixture *fixture = *state;
    RecordLog log;
    RecordIo record;
    FaultIo fault;
    Store *store;

    fault_io_init(&fault, store_io_kernel());
    fixture_serve(fixture, 0);
    store = fixture_open(fixture, 0);
    assert_true(store_serve(store, NULL));
    store->io = &fault.io;
    fault_io_arm(&fault, 3, false, -EIO); /* open, pwrite, fdatasync */
    assert_int_equal(store_heat(store, store->disks[0], 0, 1), -EIO);
    assert_int_equal(fault_io_disarm(&fault), 1);
    store_free(store);

    record_log_init(&log);
    record_log_attach(&log, fixture->path);
    record_io_init(&record, store_io_kernel(), &log);
    store = store_open(&record.io, fixture->path, 0, NULL);
    assert_true(store_serve(store, NULL));
    assert_true(disk_map_is_hot(store->disks[0]->map, 0, 1));
    assert_true(is_synced(&log, false));
    assert_true(is_synced(&log, true));
    store_free(store);
    record_log_deinit(&log);
}

/* A crash came between its making and its filling. */
static void
test_short_reserve_is_filled(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->path, STORE_RESERVE, NULL);
    struct stat st;

    assert_true(g_file_set_contents(path, "", 0, NULL));
    fixture_serve(fixture, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 >= (blkcnt_t)MIB);
    g_free(path);
}

static int
no_room(StoreIo *io, int fd, int mode, uint64_t offset, uint64_t len)
{
    (void)io;
    (void)fd;
    (void)mode;
    (void)offset;
    (void)len;
    return -ENOSPC;
}

/* On xfs that is said of what the file has already. */
static void
test_short_reserve_is_kept_when_there_is_no_more(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->path, STORE_RESERVE, NULL);
    struct StoreIoOps ops = *store_io_kernel()->ops;
    StoreIo full = {&ops};
    Store *store;
    struct stat st;

    ops.fallocate = no_room;
    fixture_serve(fixture, 0);
    assert_int_equal(truncate(path, MIB / 2), 0);
    store = fixture_open(fixture, 0);
    store->io = &full;
    store_reserve_keep(store);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 >= (blkcnt_t)MIB / 2);
    /* One of nothing is none. */
    assert_int_equal(truncate(path, 0), 0);
    store_reserve_keep(store);
    assert_int_equal(access(path, F_OK), -1);
    store_free(store);
    g_free(path);
}

int
main(void)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_intent_that_is_believed_is_durable),
        WITH_STORE(test_short_reserve_is_filled),
        WITH_STORE(test_short_reserve_is_kept_when_there_is_no_more),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
