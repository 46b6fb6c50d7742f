/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-create.c - new disks: what they hold, what is refused, what is left
 */
#include "fs/image.h"
#include "fs/store-private.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

struct Fixture {
    char *dir;
    char *path;    /* of the store */
    char *address; /* of its disk vda */
};

static int
setup(void **state)
{
    struct Fixture *fixture = g_new0(struct Fixture, 1);

    fixture->dir = scratch_new();
    fixture->path = g_build_filename(fixture->dir, "vm", NULL);
    fixture->address = g_build_filename(fixture->path, "vda", NULL);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *fixture = *state;

    scratch_free(fixture->dir);
    g_free(fixture->path);
    g_free(fixture->address);
    g_free(fixture);
    return 0;
}

/* The exit code of creating, 0 if it worked. */
static int
create(StoreIo *io, const struct StoreCreate *ask)
{
    GError *error = NULL;
    int code;

    if (store_create_disk(io, ask, &error)) {
        return 0;
    }
    assert_null(strchr(error->message, '\n'));
    code = store_exit_code(error);
    g_error_free(error);
    return code;
}

static struct StoreCreate
plain(const struct Fixture *fixture)
{
    return (struct StoreCreate){.address = fixture->address,
                                .size_bytes = MIB,
                                .cluster_bits = STORE_CLUSTER_BITS};
}

static unsigned
count_entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned count = 0;

    while (dir && readdir(dir)) {
        count++;
    }
    if (dir) {
        closedir(dir);
    }
    return count < 2 ? 0 : count - 2;
}

static mode_t
mode_of(const char *path, const char *name)
{
    char *full = g_build_filename(path, name, NULL);
    struct stat st;

    assert_int_equal(lstat(full, &st), 0);
    g_free(full);
    return st.st_mode & 07777;
}

static void
test_create_is_private_under_any_umask(void **state)
{
    static const mode_t masks[] = {0, 0777};
    struct Fixture *fixture = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(masks); i++) {
        char name[] = {'v', 'd', (char)('a' + i), 0};
        char *address = g_build_filename(fixture->path, name, NULL);
        struct StoreCreate ask = plain(fixture);

        ask.address = address;
        umask(masks[i]);
        assert_int_equal(create(store_io_kernel(), &ask), 0);
        g_free(address);
    }
    umask(022);
    assert_int_equal(mode_of(fixture->dir, "vm"), 0700);
    assert_int_equal(mode_of(fixture->path, STORE_CONF), 0600);
    assert_int_equal(mode_of(fixture->path, STORE_STATE), 0600);
    assert_int_equal(mode_of(fixture->path, STORE_SPARE), 0600);
    assert_int_equal(mode_of(fixture->path, STORE_LOCK), 0600);
    assert_int_equal(mode_of(fixture->path, "vda"), 0700);
    assert_int_equal(mode_of(fixture->path, "vdb"), 0700);
    assert_int_equal(mode_of(fixture->path, "vdb/disk.raw"), 0600);
    assert_int_equal(count_entries(fixture->path), 6);
}

static void
test_create_refuses_and_leaves_nothing(void **state)
{
    struct Fixture *fixture = *state;
    char *hidden = g_build_filename(fixture->path, ".vda", NULL);
    char *conf = g_build_filename(fixture->path, STORE_CONF, NULL);
    char *bad_store = g_build_filename(fixture->dir, "a b", "vda", NULL);
    char *second = g_build_filename(fixture->path, "vdb", NULL);
    char *inside = g_build_filename(fixture->path, "t.raw", NULL);
    struct {
        int code;
        struct StoreCreate ask;
    } cases[] = {
        {2, {hidden, MIB, NULL, NULL, 16, false}},
        {2, {conf, MIB, NULL, NULL, 16, false}},
        {2, {bad_store, MIB, NULL, NULL, 16, false}},
        {2, {fixture->address, 0, NULL, NULL, 16, false}},
        {2, {fixture->address, 513, NULL, NULL, 16, false}},
        {2, {fixture->address, MIB, NULL, NULL, 11, false}},
        {2, {fixture->address, MIB, NULL, NULL, 22, false}},
        {2, {fixture->address, UINT64_C(1) << 62, NULL, NULL, 16, false}},
        {2, {fixture->address, MIB, "/nonexistent/x", NULL, 16, false}},
        {2, {fixture->address, MIB, "/dev/null", NULL, 16, false}},
        {5, {fixture->address, MIB, NULL, "", 16, false}},
        {5, {fixture->address, MIB, NULL, "a\nb", 16, false}},
        {5, {fixture->address, MIB, NULL, "\xff", 16, false}},
        {5, {fixture->address, MIB, NULL, "/dev/null", 16, false}},
        {5, {fixture->address, MIB, NULL, "/nonexistent/x/y", 16, false}},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        int code = create(store_io_kernel(), &cases[i].ask);

        if (code != cases[i].code) {
            fail_msg("case %u: exit code %d", i, code);
        }
        assert_int_equal(count_entries(fixture->dir), 0);
    }
    cases[0].ask = plain(fixture);
    assert_int_equal(create(store_io_kernel(), &cases[0].ask), 0);
    assert_int_equal(create(store_io_kernel(), &cases[0].ask), 2);
    /* A target in the store itself. */
    cases[0].ask.address = second;
    cases[0].ask.target = inside;
    assert_int_equal(create(store_io_kernel(), &cases[0].ask), 5);
    assert_int_equal(count_entries(fixture->path), 5);
    g_free(second);
    g_free(hidden);
    g_free(conf);
    g_free(bad_store);
    g_free(inside);
}

static void
test_create_refuses_a_foreign_directory(void **state)
{
    struct Fixture *fixture = *state;
    char *file = g_build_filename(fixture->path, "letter.txt", NULL);
    struct StoreCreate ask = plain(fixture);

    assert_int_equal(mkdir(fixture->path, 0700), 0);
    assert_true(g_file_set_contents(file, "x", 1, NULL));
    assert_int_equal(create(store_io_kernel(), &ask), 2);
    assert_int_equal(count_entries(fixture->path), 1);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(chmod(fixture->path, 0755), 0);
    assert_int_equal(create(store_io_kernel(), &ask), 0);
    assert_int_equal(mode_of(fixture->dir, "vm"), 0700);
    g_free(file);
}

static void
test_create_while_open_is_busy(void **state)
{
    struct Fixture *fixture = *state;
    char *other = g_build_filename(fixture->path, "vdb", NULL);
    struct StoreCreate ask = plain(fixture);
    Store *store;

    assert_int_equal(create(store_io_kernel(), &ask), 0);
    store = store_open(store_io_kernel(), fixture->path, 0, NULL);
    assert_non_null(store);
    ask.address = other;
    assert_int_equal(create(store_io_kernel(), &ask), 3);
    store_free(store);
    assert_int_equal(create(store_io_kernel(), &ask), 0);
    store = store_open(store_io_kernel(), fixture->path, 0, NULL);
    assert_int_equal(store->n_disks, 2);
    assert_int_equal(store_disk(store, "vda")->id, 1);
    assert_int_equal(store_disk(store, "vdb")->id, 2);
    assert_true(store->was_clean);
    store_free(store);
    g_free(other);
}

/* An image of 1 MiB and 100 bytes: data at both ends, holes, zeroes. */
static char *
make_image(const struct Fixture *fixture)
{
    static const char zeroes[600000];
    char *path = g_build_filename(fixture->dir, "image.raw", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(pwrite(fd, "begin", 5, 1), 5);
    assert_int_equal(pwrite(fd, "middle", 6, 300000), 6);
    assert_int_equal(pwrite(fd, zeroes, sizeof(zeroes), 400000), 600000);
    assert_int_equal(pwrite(fd, "end", 3, (off_t)MIB + 97), 3);
    close(fd);
    return path;
}

static void
test_create_from_image_copies_it(void **state)
{
    struct Fixture *fixture = *state;
    struct StoreCreate ask = plain(fixture);
    char *image = make_image(fixture);
    char *raw = g_build_filename(fixture->address, STORE_RAW, NULL);
    char *want, *got;
    size_t want_len, got_len;
    struct stat st;
    Store *store;

    ask.from = image;
    ask.size_bytes = MIB;
    assert_int_equal(create(store_io_kernel(), &ask), 2); /* too small */
    ask.size_bytes = 0;
    assert_int_equal(create(store_io_kernel(), &ask), 0);
    store = store_open(store_io_kernel(), fixture->path, 0, NULL);
    assert_int_equal(store->disks[0]->size_bytes, MIB + 512);
    store_free(store);
    assert_true(g_file_get_contents(image, &want, &want_len, NULL));
    assert_true(g_file_get_contents(raw, &got, &got_len, NULL));
    assert_int_equal(got_len, MIB + 4096);
    assert_memory_equal(want, got, want_len);
    for (size_t i = want_len; i < got_len; i++) {
        assert_int_equal(got[i], 0);
    }
    assert_int_equal(stat(raw, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < MIB / 2);
    g_free(want);
    g_free(got);
    g_free(image);
    g_free(raw);
}

static void
test_create_refuses_other_formats(void **state)
{
    static const struct {
        const char *magic;
        off_t offset;
        const char *name;
    } cases[] = {
        {"QFI\xfb", 0, "qcow2"},
        {"KDMV", 0, "vmdk"},
        {"vhdxfile", 0, "vhdx"},
        {"\x7f\x10\xda\xbe", 64, "vdi"},
    };
    struct Fixture *fixture = *state;
    char *image = g_build_filename(fixture->dir, "image", NULL);
    struct StoreCreate ask = plain(fixture);

    ask.from = image;
    ask.size_bytes = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        GError *error = NULL;

        assert_true(pwrite(fd, cases[i].magic, strlen(cases[i].magic),
                           cases[i].offset) > 0);
        assert_int_equal(ftruncate(fd, 65536), 0);
        close(fd);
        assert_false(store_create_disk(store_io_kernel(), &ask, &error));
        assert_non_null(strstr(error->message, cases[i].name));
        assert_non_null(strstr(error->message, "qemu-img convert"));
        g_error_free(error);
    }
    assert_int_equal(count_entries(fixture->dir), 1);
    g_free(image);
}

static void
test_create_makes_a_path_target(void **state)
{
    struct Fixture *fixture = *state;
    char *target = g_build_filename(fixture->dir, "far.raw", NULL);
    char *odd = g_build_filename(fixture->dir, ".", "far.raw", NULL);
    struct StoreCreate ask = plain(fixture);
    struct stat st;
    Store *store;

    ask.target = odd;
    assert_int_equal(create(store_io_kernel(), &ask), 0);
    assert_int_equal(stat(target, &st), 0);
    assert_int_equal(st.st_size, MIB);
    assert_int_equal(st.st_blocks, 0);
    store = store_open(store_io_kernel(), fixture->path, 0, NULL);
    assert_string_equal(store->disks[0]->target, target);
    store_free(store);

    /* A file that is there has to be large enough, and is left alone. */
    g_free(fixture->address);
    fixture->address = g_build_filename(fixture->path, "vdb", NULL);
    ask = plain(fixture);
    ask.target = target;
    ask.size_bytes = 2 * MIB;
    assert_int_equal(create(store_io_kernel(), &ask), 5);
    assert_int_equal(stat(target, &st), 0);
    assert_int_equal(st.st_size, MIB);
    ask.size_bytes = MIB;
    assert_int_equal(create(store_io_kernel(), &ask), 0);
    g_free(target);
    g_free(odd);
}

/* The steps of a create that matter: T a size, D a sync, R vda's directory in
 * place, C weir.conf in place. */
static struct {
    StoreIo io;
    struct StoreIoOps ops;
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
noted_ftruncate(StoreIo *io, int fd, uint64_t size)
{
    note_step('T');
    return store_io_kernel()->ops->ftruncate(io, fd, size);
}

static int
noted_fsync(StoreIo *io, int fd)
{
    note_step('D');
    return store_io_kernel()->ops->fsync(io, fd);
}

static int
noted_rename(StoreIo *io, int dirfd, const char *from, const char *to)
{
    note_step(!strcmp(to, "vda") ? 'R' : !strcmp(to, STORE_CONF) ? 'C' : '-');
    return store_io_kernel()->ops->rename(io, dirfd, from, to);
}

/* File and directory are durable before they get their name, and all that
 * before weir.conf has it. */
static void
test_create_is_durable_in_order(void **state)
{
    struct StoreCreate ask = plain(*state);
    size_t len;

    noted.ops = *store_io_kernel()->ops;
    noted.ops.ftruncate = noted_ftruncate;
    noted.ops.fsync = noted_fsync;
    noted.ops.rename = noted_rename;
    noted.io.ops = &noted.ops;
    assert_int_equal(create(&noted.io, &ask), 0);
    len = strlen(noted.steps);
    assert_int_equal(noted.steps[0], 'D'); /* the directory above */
    assert_non_null(strstr(noted.steps, "TDDRD"));
    assert_string_equal(noted.steps + len - 2, "CD");
}

/* The n-th storage call fails, once or from then on. After a single failure
 * nothing is left; after a sticky one whatever is left is no obstacle. */
static void
test_create_faults_leave_nothing(void **state)
{
    struct Fixture *fixture = *state;
    char *target = g_build_filename(fixture->dir, "far.raw", NULL);
    struct StoreCreate ask = plain(fixture);
    FaultIo fault;

    ask.target = target;
    fault_io_init(&fault, store_io_kernel());
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n++) {
            int code;

            fault_io_arm(&fault, n, sticky, -EIO);
            code = create(&fault.io, &ask);
            failed = fault_io_disarm(&fault);
            if (code) {
                assert_true(failed);
                assert_int_equal(access(target, F_OK), -1);
                assert_true(sticky || count_entries(fixture->dir) == 0);
            }
            if (code && access(fixture->path, F_OK) == 0) {
                /* Rolling back failed, too: there is a whole disk or none. */
                Store *store =
                    store_open(store_io_kernel(), fixture->path, 0, NULL);

                if (store) {
                    assert_int_equal(store->n_disks, 1);
                    store_free(store);
                } else {
                    scratch_free(strdup(fixture->address));
                    assert_int_equal(create(store_io_kernel(), &ask), 0);
                }
            }
            if (access(fixture->path, F_OK) == 0) {
                scratch_free(strdup(fixture->path));
            }
            (void)unlink(target);
        }
    }
    g_free(target);
}

/* Adding a disk to a store with the n-th call failing leaves the first one. */
static void
test_add_faults_leave_the_first(void **state)
{
    struct Fixture *fixture = *state;
    char *other = g_build_filename(fixture->path, "vdb", NULL);
    struct StoreCreate ask = plain(fixture);
    FaultIo fault;

    assert_int_equal(create(store_io_kernel(), &ask), 0);
    ask.address = other;
    fault_io_init(&fault, store_io_kernel());
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        for (unsigned n = 1;; n++) {
            unsigned failed;
            Store *store;
            int code;

            fault_io_arm(&fault, n, sticky, -ENOSPC);
            code = create(&fault.io, &ask);
            failed = fault_io_disarm(&fault);
            store = store_open(store_io_kernel(), fixture->path, 0, NULL);
            assert_non_null(store);
            assert_non_null(store_disk(store, "vda"));
            if (!store_disk(store, "vdb")) {
                assert_int_not_equal(code, 0);
                if (access(other, F_OK) == 0) {
                    assert_true(sticky);
                    scratch_free(strdup(other));
                }
            } else if (failed) { /* take it out again */
                store->n_disks--;
                store_disk_free(store->io, store->disks[1]);
                assert_true(store_save_conf(store, NULL));
                scratch_free(strdup(other));
            }
            store_free(store);
            if (!failed) {
                break;
            }
        }
        if (!sticky) {
            Store *store =
                store_open(store_io_kernel(), fixture->path, 0, NULL);

            store->n_disks--;
            store_disk_free(store->io, store->disks[1]);
            assert_true(store_save_conf(store, NULL));
            scratch_free(strdup(other));
            store_free(store);
        }
    }
    g_free(other);
}

int
main(void)
{
#define WITH_DIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_DIR(test_create_is_private_under_any_umask),
        WITH_DIR(test_create_refuses_and_leaves_nothing),
        WITH_DIR(test_create_refuses_a_foreign_directory),
        WITH_DIR(test_create_while_open_is_busy),
        WITH_DIR(test_create_from_image_copies_it),
        WITH_DIR(test_create_refuses_other_formats),
        WITH_DIR(test_create_makes_a_path_target),
        WITH_DIR(test_create_is_durable_in_order),
        WITH_DIR(test_create_faults_leave_nothing),
        WITH_DIR(test_add_faults_leave_the_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
