/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-io.c - the storage seam over real files
 *
 * Each test has a directory of its own. Faults are injected at every single
 * call of store_io_replace(), once and for good, and after each of them the
 * file must be the old one or the new one.
 */
#include "bitmap/store-io.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct Fixture {
    StoreIo *io;
    char path[64];
    int dirfd;
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->io = store_io_kernel();
    strcpy(f->path, "/tmp/weir-store-io-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->dirfd >= 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    static const char *names[] = {"a", "b", "a.tmp", "link", "sub"};
    struct Fixture *f = *state;

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (unlinkat(f->dirfd, names[i], 0) < 0) {
            (void)unlinkat(f->dirfd, names[i], AT_REMOVEDIR);
        }
    }
    assert_int_equal(rmdir(f->path), 0);
    close(f->dirfd);
    free(f);
    return 0;
}

static void
assert_content(struct Fixture *f, const char *name, const char *want)
{
    char *data;
    size_t len;

    assert_int_equal(store_io_load(f->io, f->dirfd, name, 1 << 20, &data, &len),
                     0);
    assert_int_equal(len, strlen(want));
    assert_string_equal(data, want);
    free(data);
}

static void
test_open_stays_beneath_and_follows_no_link(void **state)
{
    struct Fixture *f = *state;
    const struct StoreIoOps *ops = f->io->ops;
    int fd;

    assert_int_equal(store_io_replace(f->io, f->dirfd, "a", "x", 1, 0600), 0);
    assert_int_equal(symlinkat("a", f->dirfd, "link"), 0);
    assert_int_equal(ops->mkdir(f->io, f->dirfd, "sub", 0700), 0);
    assert_int_equal(ops->open(f->io, f->dirfd, "link", O_RDONLY, 0), -ELOOP);
    assert_int_equal(ops->open(f->io, f->dirfd, "sub/a", O_RDONLY, 0), -EINVAL);
    assert_int_equal(ops->open(f->io, f->dirfd, "..", O_RDONLY, 0), -EINVAL);
    assert_int_equal(ops->open(f->io, f->dirfd, "/etc", O_RDONLY, 0), -EINVAL);
    assert_int_equal(ops->open(f->io, f->dirfd, "", O_RDONLY, 0), -EINVAL);
    assert_int_equal(ops->mkdir(f->io, f->dirfd, "sub/b", 0700), -EINVAL);
    assert_int_equal(ops->unlink(f->io, f->dirfd, "sub/b", 0), -EINVAL);
    assert_int_equal(ops->rename(f->io, f->dirfd, "a", "../a"), -EINVAL);
    assert_int_equal(ops->open(f->io, f->dirfd, "none", O_RDONLY, 0), -ENOENT);
    fd = ops->open(f->io, f->dirfd, "a", O_RDONLY, 0);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(ops->close(f->io, fd), 0);
    assert_int_equal(ops->close(f->io, fd), -EBADF);
    assert_int_equal(ops->unlink(f->io, f->dirfd, "sub", AT_REMOVEDIR), 0);
}

static void
test_plain_calls_do_what_the_kernel_does(void **state)
{
    struct Fixture *f = *state;
    const struct StoreIoOps *ops = f->io->ops;
    int fd = ops->open(f->io, f->dirfd, "a", O_RDWR | O_CREAT, 0640);
    char buf[16] = "";
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(ops->pwrite(f->io, fd, "hello", 5, 8192), 5);
    assert_int_equal(ops->pread(f->io, fd, buf, sizeof(buf), 8192), 5);
    assert_string_equal(buf, "hello");
    assert_int_equal(ops->pread(f->io, fd, buf, sizeof(buf), 9000), 0);
    assert_int_equal(ops->fdatasync(f->io, fd), 0);
    assert_int_equal(ops->fsync(f->io, fd), 0);
    assert_int_equal(ops->fsync(f->io, f->dirfd), 0);
    assert_int_equal(ops->lseek(f->io, fd, 0, SEEK_END), 8197);
    assert_int_equal(ops->lseek(f->io, fd, 9000, SEEK_DATA), -ENXIO);
    assert_int_equal(ops->ftruncate(f->io, fd, 100), 0);
    assert_int_equal(ops->fallocate(f->io, fd, 0, 0, 4096), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 4096);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(ops->close(f->io, fd), 0);
    assert_int_equal(ops->rename(f->io, f->dirfd, "a", "b"), 0);
    assert_int_equal(ops->rename(f->io, f->dirfd, "a", "b"), -ENOENT);
    assert_int_equal(ops->pread(f->io, -1, buf, 1, 0), -EBADF);
    assert_int_equal(ops->pwrite(f->io, -1, buf, 1, 0), -EBADF);
    assert_int_equal(ops->fdatasync(f->io, -1), -EBADF);
}

/* The limit on file size makes a write short: the rest is tried and fails. */
static void
test_short_write_is_carried_on_with(void **state)
{
    struct Fixture *f = *state;
    const struct StoreIoOps *ops = f->io->ops;
    int fd = ops->open(f->io, f->dirfd, "a", O_RDWR | O_CREAT, 0600);
    struct rlimit old, small;
    char out[1000];

    memset(out, 7, sizeof(out));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){600, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(ops->pwrite(f->io, fd, out, sizeof(out), 0), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(ops->lseek(f->io, fd, 0, SEEK_END), 600);
    assert_int_equal(ops->close(f->io, fd), 0);
}

static int
through_ring(StoreIo *io, struct io_uring *ring, const StoreReq *req)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    int res;

    io->ops->prep(io, sqe, req);
    assert_int_equal(io_uring_submit_and_wait(ring, 1), 1);
    assert_int_equal(io_uring_wait_cqe(ring, &cqe), 0);
    res = io->ops->done(io, req, cqe->res);
    io_uring_cqe_seen(ring, cqe);
    return res;
}

static void
test_ring_requests_do_what_plain_calls_do(void **state)
{
    struct Fixture *f = *state;
    char buf[8] = "ringful";
    struct io_uring ring;
    StoreReq req = {.buf = buf, .offset = 4096, .len = 8};
    FaultIo fault;

    if (io_uring_queue_init(4, &ring, 0) < 0) {
        return; /* not allowed here */
    }
    req.fd = f->io->ops->open(f->io, f->dirfd, "a", O_RDWR | O_CREAT, 0600);
    req.op = STORE_WRITE;
    assert_int_equal(through_ring(f->io, &ring, &req), 8);
    memset(buf, 0, sizeof(buf));
    req.op = STORE_READ;
    assert_int_equal(through_ring(f->io, &ring, &req), 8);
    assert_string_equal(buf, "ringful");
    req.op = STORE_WRITE_SYNC;
    req.buf = "synced!";
    assert_int_equal(through_ring(f->io, &ring, &req), 8);
    assert_int_equal(f->io->ops->pread(f->io, req.fd, buf, 8, 4096), 8);
    assert_string_equal(buf, "synced!");
    req.op = STORE_FDATASYNC;
    assert_int_equal(through_ring(f->io, &ring, &req), 0);
    req.op = STORE_FALLOCATE;
    req.offset = 0;
    req.len = UINT64_C(1) << 20;
    assert_int_equal(through_ring(f->io, &ring, &req), 0);
    assert_int_equal(f->io->ops->lseek(f->io, req.fd, 0, SEEK_END), 1 << 20);
    fault_io_init(&fault, f->io);
    fault_io_arm(&fault, 1, false, -EIO);
    assert_int_equal(through_ring(&fault.io, &ring, &req), -EIO);
    assert_int_equal(through_ring(&fault.io, &ring, &req), 0);
    f->io->ops->close(f->io, req.fd);
    io_uring_queue_exit(&ring);
}

static void
replace_with_fault(struct Fixture *f, FaultIo *fault, unsigned n, bool sticky,
                   bool *more)
{
    char *data;
    size_t len;
    int r;

    assert_int_equal(
        store_io_replace(f->io, f->dirfd, "a", "old content", 11, 0600), 0);
    fault_io_arm(fault, n, sticky, -ENOSPC);
    r = store_io_replace(&fault->io, f->dirfd, "a", "new", 3, 0600);
    *more = fault_io_disarm(fault) > 0;
    assert_int_equal(r, *more ? -ENOSPC : 0);
    assert_int_equal(store_io_load(f->io, f->dirfd, "a", 100, &data, &len), 0);
    assert_true(!strcmp(data, "new") ||
                (*more && !strcmp(data, "old content")));
    free(data);
}

static void
test_replace_leaves_old_or_new_whatever_fails(void **state)
{
    struct Fixture *f = *state;
    FaultIo fault;

    fault_io_init(&fault, f->io);
    for (unsigned torn = 0; torn < 2; torn++) {
        for (unsigned sticky = 0; sticky < 2; sticky++) {
            bool more = true;
            unsigned n = 0;

            fault.is_torn = torn;
            while (more) {
                replace_with_fault(f, &fault, ++n, sticky, &more);
            }
            assert_int_equal(n, 7); /* six calls, then none to fail */
        }
    }
    assert_content(f, "a", "new");
}

static void
test_load_gives_whole_files_and_refuses_large_ones(void **state)
{
    struct Fixture *f = *state;
    char *data = NULL;
    size_t len;

    assert_int_equal(store_io_load(f->io, f->dirfd, "a", 9, &data, &len),
                     -ENOENT);
    assert_int_equal(store_io_replace(f->io, f->dirfd, "a", "", 0, 0600), 0);
    assert_content(f, "a", "");
    assert_int_equal(
        store_io_replace(f->io, f->dirfd, "a", "0123456789", 10, 0600), 0);
    assert_content(f, "a", "0123456789");
    assert_int_equal(store_io_load(f->io, f->dirfd, "a", 9, &data, &len),
                     -EFBIG);
    assert_null(data);
}

static void
test_load_reports_each_failing_call(void **state)
{
    struct Fixture *f = *state;
    FaultIo fault;
    char *data;
    size_t len;

    fault_io_init(&fault, f->io);
    assert_int_equal(store_io_replace(f->io, f->dirfd, "a", "x", 1, 0600), 0);
    for (unsigned n = 1; n <= 3; n++) { /* open, lseek, pread */
        fault_io_arm(&fault, n, false, -EIO);
        assert_int_equal(
            store_io_load(&fault.io, f->dirfd, "a", 9, &data, &len), -EIO);
        assert_int_equal(fault_io_disarm(&fault), 1);
    }
}

static void
test_replace_refuses_names_without_room_for_the_temporary_one(void **state)
{
    struct Fixture *f = *state;
    char name[260];

    memset(name, 'n', sizeof(name));
    name[252] = '\0';
    assert_int_equal(store_io_replace(f->io, f->dirfd, name, "x", 1, 0600),
                     -ENAMETOOLONG);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_open_stays_beneath_and_follows_no_link),
        TEST(test_plain_calls_do_what_the_kernel_does),
        TEST(test_short_write_is_carried_on_with),
        TEST(test_ring_requests_do_what_plain_calls_do),
        TEST(test_replace_leaves_old_or_new_whatever_fails),
        TEST(test_load_gives_whole_files_and_refuses_large_ones),
        TEST(test_load_reports_each_failing_call),
        TEST(test_replace_refuses_names_without_room_for_the_temporary_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
