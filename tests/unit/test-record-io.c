/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recorder: what is called through it is in the log, in order, under the
 * right node, with what was written; a request of a ring lasts from prep to
 * done.
 */
#include "tests/lib/record-io.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <string.h>

struct Fixture {
    char *dir;
    int dir_fd;
    RecordLog log;
    RecordIo record;
};

static int
setup(void **state)
{
    struct Fixture *fixture = calloc(1, sizeof(*fixture));
    StoreIo *kernel = store_io_kernel();
    int fd;

    fixture->dir = scratch_new();
    fixture->dir_fd = open(fixture->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = kernel->ops->open(kernel, fixture->dir_fd, "old", O_CREAT | O_RDWR,
                           0600);
    assert_int_equal(pwrite(fd, "before", 6, 8192), 6);
    close(fd);
    record_log_init(&fixture->log);
    record_log_attach(&fixture->log, fixture->dir);
    record_io_init(&fixture->record, kernel, &fixture->log);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *fixture = *state;

    close(fixture->dir_fd);
    scratch_free(fixture->dir);
    record_log_deinit(&fixture->log);
    free(fixture);
    return 0;
}

static const RecordEntry *
entry_at(struct Fixture *fixture, size_t index, enum RecordKind kind)
{
    assert_true(index < fixture->log.count);
    assert_int_equal(fixture->log.entries[index]->kind, kind);
    return fixture->log.entries[index];
}

static void
test_attached_files_are_known(void **state)
{
    struct Fixture *fixture = *state;

    assert_int_equal(fixture->log.n_nodes, 2);
    assert_true(fixture->log.nodes[0]->is_dir);
    assert_int_equal(fixture->log.nodes[1]->size, 8198);
    assert_memory_equal(fixture->log.nodes[1]->data + 8192, "before", 6);
}

static void
test_replace_is_four_steps(void **state)
{
    struct Fixture *fixture = *state;
    const RecordEntry *entry;

    assert_int_equal(store_io_replace(&fixture->record.io, fixture->dir_fd,
                                      "old", "after", 5, 0600),
                     0);
    assert_int_equal(fixture->log.count, 5);
    entry = entry_at(fixture, 0, RECORD_LINK);
    assert_string_equal(entry->name, "old.tmp");
    assert_int_equal(entry->other, 2);
    entry = entry_at(fixture, 1, RECORD_WRITE);
    assert_int_equal(entry->node, 2);
    assert_memory_equal(entry->data, "after", 5);
    entry = entry_at(fixture, 2, RECORD_SYNC);
    assert_int_equal(entry->node, 2);
    entry = entry_at(fixture, 3, RECORD_RENAME);
    assert_int_equal(entry->other, 2);
    assert_string_equal(entry->name_to, "old");
    entry = entry_at(fixture, 4, RECORD_SYNC);
    assert_int_equal(entry->node, 0);
    for (size_t i = 0; i < 5; i++) {
        assert_true(fixture->log.entries[i]->end != RECORD_NEVER);
        assert_true(i == 0 || fixture->log.entries[i]->begin >
                                  fixture->log.entries[i - 1]->end);
    }
}

static void
test_swap_is_five_steps(void **state)
{
    struct Fixture *fixture = *state;
    StoreIo *io = &fixture->record.io;
    const RecordEntry *entry;

    assert_int_equal(store_io_swap(store_io_kernel(), fixture->dir_fd, "old",
                                   "spare", "abcde", 5, 0600),
                     0);
    assert_int_equal(
        store_io_swap(io, fixture->dir_fd, "old", "spare", "after", 5, 0600),
        0);
    assert_int_equal(fixture->log.count, 5);
    assert_int_equal(entry_at(fixture, 0, RECORD_SYNC)->node, 0);
    const RecordEntry *write = entry_at(fixture, 1, RECORD_WRITE);

    assert_memory_equal(write->data, "after", 5);
    assert_int_equal(entry_at(fixture, 2, RECORD_SYNC)->node, write->node);
    entry = entry_at(fixture, 3, RECORD_EXCHANGE);
    assert_int_equal(entry->node, 0);
    assert_string_equal(entry->name, "spare");
    assert_string_equal(entry->name_to, "old");
    assert_int_equal(entry->other, write->node);
    assert_true(entry->other_to != RECORD_NONE &&
                entry->other_to != write->node);
    assert_int_equal(entry_at(fixture, 4, RECORD_SYNC)->node, 0);
    assert_true(entry->end < entry_at(fixture, 4, RECORD_SYNC)->begin);
    /* Of one that is not there nothing is written down. */
    assert_int_equal(io->ops->exchange(io, fixture->dir_fd, "old", "none"),
                     -ENOENT);
    assert_int_equal(io->ops->exchange(io, fixture->dir_fd, "none", "old"),
                     -ENOENT);
    assert_int_equal(fixture->log.count, 5);
}

static void
test_ring_request_lasts_from_prep_to_done(void **state)
{
    struct Fixture *fixture = *state;
    StoreIo *io = &fixture->record.io;
    int fd = io->ops->open(io, fixture->dir_fd, "old", O_RDWR, 0);
    char first[] = "first", second[] = "second";
    StoreReq reqs[] = {
        {.op = STORE_WRITE, .fd = fd, .buf = first, .len = 5},
        {.op = STORE_WRITE_SYNC,
         .fd = fd,
         .buf = second,
         .offset = 4096,
         .len = 6},
        {.op = STORE_FALLOCATE,
         .fd = fd,
         .offset = 8192,
         .len = 6,
         .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
    };
    struct io_uring_sqe sqe;

    for (size_t i = 0; i < 3; i++) {
        memset(&sqe, 0, sizeof(sqe));
        io->ops->prep(io, &sqe, &reqs[i]);
    }
    first[0] = 'x'; /* the log has what was there at prep */
    assert_int_equal(io->ops->done(io, &reqs[1], 6), 6);
    assert_int_equal(io->ops->done(io, &reqs[0], -5), -5);
    const RecordEntry *plain = entry_at(fixture, 0, RECORD_WRITE);
    const RecordEntry *sync = entry_at(fixture, 1, RECORD_WRITE);
    const RecordEntry *punch = entry_at(fixture, 2, RECORD_ZERO);

    assert_memory_equal(plain->data, "first", 5);
    assert_true(sync->is_durable && !plain->is_durable);
    assert_true(plain->begin < sync->begin && sync->end < plain->end);
    assert_int_equal(plain->result, -5);
    assert_true(punch->end == RECORD_NEVER);
    io->ops->close(io, fd);
}

static void
test_log_comes_back_from_its_file(void **state)
{
    struct Fixture *fixture = *state;
    char *path;
    RecordLog log;

    record_log_mark(&fixture->log, "a life begins");
    assert_int_equal(store_io_replace(&fixture->record.io, fixture->dir_fd,
                                      "old", "after", 5, 0600),
                     0);
    assert_true(asprintf(&path, "%s/log", fixture->dir) > 0);
    assert_true(record_log_save(&fixture->log, path));
    assert_true(record_log_load(&log, path));
    assert_int_equal(log.count, fixture->log.count);
    assert_int_equal(log.tick, fixture->log.tick);
    assert_string_equal(log.entries[0]->name, "a life begins");
    assert_memory_equal(log.entries[2]->data, "after", 5);
    assert_memory_equal(log.nodes[1]->data + 8192, "before", 6);
    record_log_deinit(&log);
    free(path);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_attached_files_are_known, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_replace_is_four_steps, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_swap_is_five_steps, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_ring_request_lasts_from_prep_to_done, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_comes_back_from_its_file,
                                        setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
