/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store.c - opening and ending a store: what is dirty afterwards
 */
#include "bitmap/intent.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

/* Served, drained, clusters 3 and 5 to 6 written again, ended cleanly. */
static void
make_history(const struct StoreFixture *fixture)
{
    Store *store = fixture_open(fixture, 0);
    Disk *disk = store_disk(store, "vda");

    assert_true(store_serve(store, NULL));
    settle_all(disk);
    disk_map_mark(disk->map, 3 * CLUSTER + 7, 1, 1);
    disk_map_mark(disk->map, 5 * CLUSTER, CLUSTER + 1, 1);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
}

static void
check_history(Disk *disk, uint64_t tail_clusters)
{
    assert_int_equal(dirty_clusters(disk), 3 + tail_clusters);
    assert_false(disk_map_is_clean(disk->map, 3 * CLUSTER, CLUSTER));
    assert_false(disk_map_is_clean(disk->map, 5 * CLUSTER, CLUSTER));
    assert_false(disk_map_is_clean(disk->map, 6 * CLUSTER, CLUSTER));
    assert_true(disk_map_is_clean(disk->map, 0, 3 * CLUSTER));
}

static void
test_new_store_is_all_dirty_not_in_doubt(void **state)
{
    Store *store = fixture_open(*state, 0);
    Disk *disk = store_disk(store, "vda");
    struct stat st;

    assert_true(store->was_clean);
    assert_non_null(disk);
    assert_null(store_disk(store, "vdb"));
    assert_int_equal(disk->id, 1);
    assert_int_equal(disk->index, 0);
    assert_int_equal(disk->size_bytes, 8 * MIB);
    assert_int_equal(dirty_clusters(disk), 128);
    assert_false(disk->all_in_doubt);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_string_equal(disk->target, TARGET);
    assert_true(disk->offset_align >= 512 && disk->mem_align >= 512);
    assert_int_equal(fstat(disk->fd, &st), 0);
    assert_int_equal(st.st_size, 8 * MIB);
    assert_int_equal(st.st_mode & 07777, 0600);
    store_free(store);
}

static void
test_clean_end_keeps_bits_exactly(void **state)
{
    Store *store;
    Disk *disk;

    make_history(*state);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_true(store->was_clean);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_false(disk->all_in_doubt);
    check_history(disk, 0);
    /* Not served: nothing was said about it, so it is still clean. */
    store_free(store);
    store = fixture_open(*state, STORE_OPEN_READ);
    check_history(store_disk(store, "vda"), 0);
    store_free(store);
}

static void
test_all_clean_needs_no_file(void **state)
{
    struct StoreFixture *fixture = *state;
    char *dirty = g_build_filename(fixture->path, "vda", STORE_DIRTY, NULL);
    Store *store;

    make_history(fixture);
    assert_int_equal(access(dirty, F_OK), 0);
    store = fixture_open(fixture, 0);
    assert_true(store_serve(store, NULL));
    settle_all(store_disk(store, "vda"));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    assert_int_equal(access(dirty, F_OK), -1);
    store = fixture_open(fixture, 0);
    assert_int_equal(dirty_clusters(store_disk(store, "vda")), 0);
    store_free(store);
    g_free(dirty);
}

static void
test_unclean_end_is_in_doubt(void **state)
{
    Store *store;
    Disk *disk;

    make_history(*state);
    store = fixture_open(*state, 0);
    assert_true(store_serve(store, NULL));
    assert_true(disk_map_is_tracked(store->disks[0]->map));
    store_free(store);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_false(store->was_clean);
    assert_true(disk->all_in_doubt);
    assert_true(disk->recovers);
    check_history(disk, 0); /* nothing was written */
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    /* The epoch goes up with a serve that begins clean, and with its end. */
    assert_int_equal(store->epoch_before, 3);
    assert_int_equal(store->epoch, 3);
    /* The doubt stays over a clean end until somebody lifts it. */
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_true(store->was_clean);
    assert_true(disk->all_in_doubt);
    assert_false(disk->recovers);
    assert_int_equal(store->epoch_before, 3);
    assert_int_equal(store->epoch, 4);
    store_free(store);
}

static void
test_state_saved_while_served_stays_unclean(void **state)
{
    Store *store = fixture_open(*state, 0);
    Disk *disk = store_disk(store, "vda");

    assert_true(store_serve(store, NULL));
    disk->contact = CONTACT_KNOWN;
    disk->attr.mode = 0640;
    disk->attr.uid = 12;
    assert_true(store_save_state(store, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_false(store->was_clean);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(disk->attr.mode, 0640);
    assert_int_equal(disk->attr.uid, 12);
    assert_int_equal(disk->attr.gid, (gid_t)-1);
    store_free(store);
}

/* What was done to a store at rest, and that everything is dirty then. */
static void
damage(const struct StoreFixture *fixture, const char *file, const char *how)
{
    char *path = g_build_filename(fixture->path, file, NULL);
    int fd;

    if (!strcmp(how, "unlink")) {
        assert_int_equal(unlink(path), 0);
    } else if (!strcmp(how, "truncate")) {
        assert_int_equal(truncate(path, 7), 0);
    } else {
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "X", 1, 20), 1);
        close(fd);
    }
    g_free(path);
}

static void
test_damage_at_rest_is_all_dirty(void **state)
{
    static const struct {
        const char *file, *how;
        bool in_doubt;
    } cases[] = {
        {STORE_STATE, "unlink", true},
        {STORE_STATE, "truncate", true},
        {STORE_STATE, "write", true},
        {"vda/" STORE_DIRTY, "unlink", false},
        {"vda/" STORE_DIRTY, "truncate", false},
        {"vda/" STORE_RAW, "write", false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Store *store;
        Disk *disk;

        make_history(*state);
        damage(*state, cases[i].file, cases[i].how);
        store = fixture_open(*state, 0);
        disk = store_disk(store, "vda");
        assert_int_equal(dirty_clusters(disk), 128);
        assert_int_equal(disk->all_in_doubt, cases[i].in_doubt);
        store_free(store);
    }
}

/* A checkpoint of before, put back by hand, is not the last one. */
static void
test_old_checkpoint_is_not_believed(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->address, STORE_DIRTY, NULL);
    char *old;
    size_t len;
    Store *store;

    make_history(fixture);
    assert_true(g_file_get_contents(path, &old, &len, NULL));
    fixture_serve(fixture, 50 * CLUSTER);
    assert_true(g_file_set_contents(path, old, (gssize)len, NULL));
    store = fixture_open(fixture, 0);
    assert_true(store->was_clean);
    assert_int_equal(dirty_clusters(store->disks[0]), DISK_CLUSTERS);
    store_free(store);
    g_free(old);
    g_free(path);
}

/* Bits say nothing about a target that was never accepted. */
static void
test_no_contact_is_all_dirty(void **state)
{
    Store *store = fixture_open(*state, 0);

    assert_true(store_serve(store, NULL));
    settle_all(store->disks[0]);
    store->disks[0]->contact = CONTACT_NONE;
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    assert_int_equal(dirty_clusters(store->disks[0]), DISK_CLUSTERS);
    store_free(store);
}

/* Another target: everything is dirty, and it is a first contact. */
static void
test_other_target_is_first_contact(void **state)
{
    Store *store;
    Disk *disk;

    make_history(*state);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    g_free(disk->target);
    disk->target = g_strdup("nbd://localhost/y");
    assert_true(store_save_conf(store, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_int_equal(dirty_clusters(disk), 128);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_false(disk->all_in_doubt);
    store_free(store);
}

static void
test_second_open_names_the_first(void **state)
{
    struct StoreFixture *fixture = *state;
    Store *store = fixture_open(fixture, 0);
    char *pid = g_strdup_printf("process %d ", (int)getpid());
    GError *error = NULL;

    assert_null(store_open(store_io_kernel(), fixture->path, 0, &error));
    assert_int_equal(store_exit_code(error), 3);
    assert_non_null(strstr(error->message, pid));
    g_clear_error(&error);
    store_free(fixture_open(fixture, STORE_OPEN_READ));
    store_free(store);
    store_free(fixture_open(fixture, 0));
    g_free(pid);
}

/* A lock that outlives its owner, as one in a ring does, is waited for. */
static void
test_lock_of_the_dead_is_waited_for(void **state)
{
    struct StoreFixture *fixture = *state;
    int pipe_fds[2];
    Store *store;
    pid_t owner;
    char byte;

    assert_int_equal(pipe(pipe_fds), 0);
    owner = fork();
    if (owner == 0) {
        store = store_open(store_io_kernel(), fixture->path, 0, NULL);
        if (store && fork() == 0) { /* keeps the lock's fd a little longer */
            poll(NULL, 0, 300);
            _exit(0);
        }
        if (write(pipe_fds[1], "x", 1) != 1) {
            _exit(1);
        }
        _exit(store ? 0 : 1);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
    store_free(fixture_open(fixture, 0));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* Opens the lock as the kernel does, but the first one is unlinked at once, as
 * by a `weir remove` that was faster. */
static int
open_unlinked_lock(StoreIo *io, int dirfd, const char *name, int flags,
                   mode_t mode)
{
    static bool was_done;
    int fd = store_io_kernel()->ops->open(io, dirfd, name, flags, mode);

    if (!strcmp(name, STORE_LOCK) && !was_done) {
        was_done = true;
        assert_int_equal(unlinkat(dirfd, name, 0), 0);
    }
    return fd;
}

static void
test_lock_of_an_unlinked_file_is_none(void **state)
{
    struct StoreIoOps ops = *store_io_kernel()->ops;
    StoreIo io = {&ops};
    struct stat held, named;
    Store *store;

    ops.open = open_unlinked_lock;
    store = store_open(&io, ((struct StoreFixture *)*state)->path, 0, NULL);
    assert_non_null(store);
    assert_int_equal(fstat(store->lock_fd, &held), 0);
    assert_int_equal(fstatat(store->dir_fd, STORE_LOCK, &named, 0), 0);
    assert_int_equal(held.st_ino, named.st_ino);
    store_free(store);
}

static void
test_open_refuses_what_is_no_store(void **state)
{
    struct StoreFixture *fixture = *state;
    GError *error = NULL;
    char *lock = g_build_filename(fixture->dir, STORE_LOCK, NULL);
    char *raw = g_build_filename(fixture->path, "vda", STORE_RAW, NULL);
    char *conf = g_build_filename(fixture->path, STORE_CONF, NULL);

    assert_null(store_open(store_io_kernel(), fixture->dir, 0, &error));
    assert_int_equal(store_exit_code(error), 1);
    assert_int_equal(access(lock, F_OK), -1); /* nothing was left there */
    g_clear_error(&error);
    assert_null(store_open(store_io_kernel(), "/nonexistent/x", 0, &error));
    assert_int_equal(store_exit_code(error), 1);
    g_clear_error(&error);

    assert_int_equal(truncate(raw, 4096), 0);
    assert_null(store_open(store_io_kernel(), fixture->path, 0, &error));
    assert_int_equal(store_exit_code(error), 4);
    g_clear_error(&error);
    assert_int_equal(unlink(raw), 0);
    assert_int_equal(symlink("/dev/null", raw), 0);
    assert_null(store_open(store_io_kernel(), fixture->path, 0, &error));
    assert_int_equal(store_exit_code(error), 4);
    g_clear_error(&error);
    assert_int_equal(truncate(conf, 30), 0);
    assert_null(store_open(store_io_kernel(), fixture->path, 0, &error));
    assert_int_equal(store_exit_code(error), 4);
    g_clear_error(&error);
    g_free(lock);
    g_free(raw);
    g_free(conf);
}

/*
 * A StoreIo that notes the steps of a serve and of a clean end: D disk.raw is
 * synced, B the bitmap's file is opened, I the intent file, S the state is
 * replaced.
 */
static struct {
    StoreIo io;
    struct StoreIoOps ops;
    int disk_fd;
    char steps[64];
} noted;

static void
note_step(char step)
{
    size_t len = strlen(noted.steps);

    assert_true(len + 1 < sizeof(noted.steps));
    noted.steps[len] = step;
}

static int
noted_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    if (!strcmp(name, STORE_DIRTY)) {
        note_step('B');
    }
    if (!strcmp(name, INTENT_FILE)) {
        note_step('I');
    }
    return store_io_kernel()->ops->open(io, dirfd, name, flags, mode);
}

static int
noted_fsync(StoreIo *io, int fd)
{
    if (fd == noted.disk_fd) {
        note_step('D');
    }
    return store_io_kernel()->ops->fsync(io, fd);
}

static int
noted_exchange(StoreIo *io, int dirfd, const char *a, const char *b)
{
    if (!strcmp(b, STORE_STATE)) {
        note_step('S');
    }
    return store_io_kernel()->ops->exchange(io, dirfd, a, b);
}

/* Rule 3, and that nothing is served before the state says so. */
static void
test_clean_end_goes_in_order(void **state)
{
    Store *store;

    make_history(*state);
    noted.ops = *store_io_kernel()->ops;
    noted.ops.open = noted_open;
    noted.ops.fsync = noted_fsync;
    noted.ops.exchange = noted_exchange;
    noted.io.ops = &noted.ops;
    store =
        store_open(&noted.io, ((struct StoreFixture *)*state)->path, 0, NULL);
    assert_non_null(store);
    noted.disk_fd = store->disks[0]->fd;
    memset(noted.steps, 0, sizeof(noted.steps));
    assert_true(store_serve(store, NULL));
    /* The bitmap twice: saved, and given its room. */
    assert_string_equal(noted.steps, "BBIS");
    assert_true(store_close_clean(store, NULL));
    assert_string_equal(noted.steps, "BBISDBS");
    store_free(store);
}

/* A sync that failed once is not believed a second time (rule 20). */
static void
test_failed_sync_is_no_clean_end(void **state)
{
    GError *error = NULL;
    Store *store = fixture_open(*state, 0);

    assert_true(store_serve(store, NULL));
    atomic_store(&store->disks[0]->is_frozen, true);
    assert_false(store_close_clean(store, &error));
    assert_int_equal(take_code(&error), 1);
    store_free(store);
    store = fixture_open(*state, 0);
    assert_false(store->was_clean);
    store_free(store);
}

/* Serve and end, with the n-th storage call failing: whatever happens, the
 * store opens and what was dirty is. */
static void
test_faults_leave_a_superset(void **state)
{
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    for (unsigned round = 0; round < 2; round++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n++) {
            Store *store;
            Disk *disk;

            make_history(*state);
            fault_io_arm(&fault, n, round, -EIO);
            store = store_open(&fault.io, ((struct StoreFixture *)*state)->path,
                               0, NULL);
            if (store) {
                if (store_serve(store, NULL)) {
                    disk_map_mark(store_disk(store, "vda")->map, 100 * CLUSTER,
                                  CLUSTER, 1);
                    (void)store_close_clean(store, NULL);
                }
                store_free(store);
            }
            failed = fault_io_disarm(&fault);

            store = fixture_open(*state, 0);
            disk = store_disk(store, "vda");
            assert_false(disk_map_is_clean(disk->map, 3 * CLUSTER, 1));
            assert_false(disk_map_is_clean(disk->map, 6 * CLUSTER, 1));
            if (!failed) {
                check_history(disk, 1);
            } else if (!store->was_clean) {
                assert_true(disk->all_in_doubt);
            }
            store_free(store);
        }
    }
}

/* Anything may have been on the list. */
static void
test_lost_record_of_discards_is_all_dirty(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->address, ZERO_FILE, NULL);
    char *junk = g_strnfill(2 * ZERO_RECORD_BYTES, 'j');

    for (unsigned round = 0; round < 2; round++) {
        Store *store;
        Disk *disk;

        fixture_serve(fixture, 0);
        if (round) {
            assert_int_equal(unlink(path), 0);
            assert_int_equal(mkdir(path, 0700), 0);
        } else {
            assert_true(
                g_file_set_contents(path, junk, 2 * ZERO_RECORD_BYTES, NULL));
        }
        store = fixture_open(fixture, 0);
        disk = store_disk(store, "vda");
        assert_int_equal(dirty_clusters(disk), DISK_CLUSTERS);
        assert_true(disk->recovers);
        /* Once, if it can be made anew. */
        assert_int_equal(store_zeroes_renew(store, disk), round ? -EISDIR : 0);
        store_free(store);
    }
    g_free(junk);
    g_free(path);
}

int
main(void)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_new_store_is_all_dirty_not_in_doubt),
        WITH_STORE(test_clean_end_keeps_bits_exactly),
        WITH_STORE(test_all_clean_needs_no_file),
        WITH_STORE(test_unclean_end_is_in_doubt),
        WITH_STORE(test_state_saved_while_served_stays_unclean),
        WITH_STORE(test_damage_at_rest_is_all_dirty),
        WITH_STORE(test_old_checkpoint_is_not_believed),
        WITH_STORE(test_no_contact_is_all_dirty),
        WITH_STORE(test_other_target_is_first_contact),
        WITH_STORE(test_second_open_names_the_first),
        WITH_STORE(test_lock_of_the_dead_is_waited_for),
        WITH_STORE(test_lock_of_an_unlinked_file_is_none),
        WITH_STORE(test_open_refuses_what_is_no_store),
        WITH_STORE(test_clean_end_goes_in_order),
        WITH_STORE(test_failed_sync_is_no_clean_end),
        WITH_STORE(test_lost_record_of_discards_is_all_dirty),
        WITH_STORE(test_faults_leave_a_superset),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
