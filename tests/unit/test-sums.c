/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-sums.c - remote-sums: what is believed, and what is forgotten
 */
#include "relay/sums.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint8_t uuid[16] = "store";
static const uint8_t content[65536] = "content";

struct Fixture {
    char path[64];
    int dirfd;
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    strcpy(f->path, "/tmp/weir-sums-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    (void)unlinkat(f->dirfd, SUMS_FILE, 0);
    assert_int_equal(rmdir(f->path), 0);
    close(f->dirfd);
    free(f);
    return 0;
}

static int
reopen(struct Fixture *f, Sums *sums, const char *id, unsigned bits,
       uint64_t before, uint64_t epoch)
{
    const char *what;
    uint8_t of[16] = {0};
    int r;

    memcpy(of, id, strlen(id));
    r = sums_open(sums, store_io_kernel(), f->dirfd, of, bits, before, epoch,
                  &what);
    assert_int_equal(r == -EBADMSG, what != NULL);
    return r;
}

static void
write_entry(Sums *sums, uint64_t cluster)
{
    uint8_t entry[SUMS_BYTES];

    sums_hash(sums, cluster, content, sizeof(content), entry);
    assert_int_equal(
        pwrite(sums->fd, entry, sizeof(entry),
               (off_t)sums_offset((struct ClusterRun){cluster, 1})),
        sizeof(entry));
}

/* Does the file say that @cluster has the content? */
static bool
is_equal(const Sums *sums, uint64_t cluster)
{
    uint8_t entry[SUMS_BYTES] = {0};

    (void)!pread(sums->fd, entry, sizeof(entry),
                 (off_t)sums_offset((struct ClusterRun){cluster, 1}));
    return sums_is_known(entry) &&
           sums_match(sums, cluster << 16, content, sizeof(content), entry);
}

static void
test_sums_come_back(void **state)
{
    struct Fixture *f = *state;
    Sums sums;

    assert_int_equal(reopen(f, &sums, "store", 16, 0, 1), 0);
    assert_false(is_equal(&sums, 7)); /* behind the end of the file */
    write_entry(&sums, 7);
    sums_close(&sums);
    assert_int_equal(reopen(f, &sums, "store", 16, 1, 3), 0);
    assert_true(is_equal(&sums, 7));
    assert_false(is_equal(&sums, 6));
    sums_close(&sums);
}

static void
test_sums_say_what_is_where(void **state)
{
    struct Fixture *f = *state;
    uint8_t entry[SUMS_BYTES], other[SUMS_BYTES];
    Sums sums;

    assert_int_equal(reopen(f, &sums, "store", 16, 0, 1), 0);
    sums_hash(&sums, 7, content, sizeof(content), entry);
    sums_hash(&sums, 8, content, sizeof(content), other);
    assert_memory_not_equal(entry, other, sizeof(entry));
    sums_hash(&sums, 7, content, sizeof(content) - 512, other);
    assert_memory_not_equal(entry, other, sizeof(entry));
    assert_int_equal(sums_make_key(&sums), 0);
    sums_hash(&sums, 7, content, sizeof(content), other);
    assert_memory_not_equal(entry, other, sizeof(entry));
    sums_close(&sums);
}

static void
test_sums_of_others_are_forgotten(void **state)
{
    static const struct {
        const char *id;
        unsigned bits;
        uint64_t before;
    } cases[] = {{"other", 16, 2}, {"store", 15, 2}, {"store", 16, 3}};
    struct Fixture *f = *state;
    Sums sums;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(reopen(f, &sums, "store", 16, 0, 2), 0);
        write_entry(&sums, 7);
        assert_true(is_equal(&sums, 7));
        sums_close(&sums);
        assert_int_equal(
            reopen(f, &sums, cases[i].id, cases[i].bits, cases[i].before, 4),
            -EBADMSG);
        assert_false(is_equal(&sums, 7));
        sums_close(&sums);
        assert_int_equal(unlinkat(f->dirfd, SUMS_FILE, 0), 0);
    }
}

static void
test_sums_with_any_byte_flipped_are_never_equal_by_that(void **state)
{
    struct Fixture *f = *state;
    Sums sums;

    for (off_t at = 0; at < (off_t)SUMS_AT + 16; at++) {
        const uint8_t zero[SUMS_BYTES] = {0};
        uint8_t byte;
        int fd, r;

        if (at >= 512 && at < (off_t)SUMS_AT) {
            continue; /* the rest of the page means nothing */
        }
        assert_int_equal(reopen(f, &sums, "store", 16, 0, 1), 0);
        write_entry(&sums, 0);
        sums_close(&sums);
        fd = openat(f->dirfd, SUMS_FILE, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1 << (at & 7);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        assert_int_equal(sums_check(store_io_kernel(), f->dirfd, uuid, 16, 1) !=
                             NULL,
                         at < 512);
        r = reopen(f, &sums, "store", 16, 1, 1);
        assert_int_equal(r, at < 512 ? -EBADMSG : 0);
        assert_false(is_equal(&sums, 0));
        assert_false(sums_is_known(zero));
        sums_close(&sums);
        assert_int_equal(unlinkat(f->dirfd, SUMS_FILE, 0), 0);
    }
}

/* An error, or a file that is sound or forgotten. */
static void
test_sums_open_or_fail_whatever_call_does(void **state)
{
    struct Fixture *f = *state;
    bool more = true;
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    for (unsigned n = 1; more; n++) {
        const char *what;
        Sums sums;
        int r;

        assert_true(reopen(f, &sums, "store", 16, 0, 1) != -EIO);
        write_entry(&sums, 0);
        sums_close(&sums);
        fault.is_torn = n % 2;
        fault_io_arm(&fault, n, n % 3 == 0, -EIO);
        r = sums_open(&sums, &fault.io, f->dirfd, uuid, 16, 1, 1, &what);
        more = fault_io_disarm(&fault) > 0;
        assert_true(r == 0 || r == -EBADMSG || r == -EIO);
        assert_int_equal(sums.fd >= 0, r != -EIO);
        if (r != -EIO) {
            assert_int_equal(is_equal(&sums, 0), r == 0);
            sums_close(&sums);
        }
    }
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_sums_come_back),
        CASE(test_sums_say_what_is_where),
        CASE(test_sums_of_others_are_forgotten),
        CASE(test_sums_with_any_byte_flipped_are_never_equal_by_that),
        CASE(test_sums_open_or_fail_whatever_call_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
