/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-io.c - the storage seam over real files
 *
 * Each test has a directory of its own. Faults are injected at every single
 * call of store_io_replace() and store_io_swap(), once and for good, and after
 * each of them the file must be the old one or the new one. What a power cut
 * leaves of a swap is in tests/crash/test-swap.c.
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
    static const char *names[] = {"a", "b", "a.tmp", "spare", "link", "sub"};
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
    assert_int_equal(ops->exchange(f->io, f->dirfd, "a", "../a"), -EINVAL);
    assert_int_equal(ops->exchange(f->io, f->dirfd, "sub/b", "a"), -EINVAL);
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
    assert_int_equal(ops->exchange(f->io, f->dirfd, "a", "b"), -ENOENT);
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

static int
swap(StoreIo *io, struct Fixture *f, const char *data)
{
    return store_io_swap(io, f->dirfd, "a", "spare", data, strlen(data), 0600);
}

static ino_t
inode_of(struct Fixture *f, const char *name)
{
    struct stat st;

    return fstatat(f->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) ? 0 : st.st_ino;
}

/* Both as they are after a swap; the content before this one is @before. */
static void
make_pair(struct Fixture *f, const char *before)
{
    (void)unlinkat(f->dirfd, "spare", 0);
    assert_int_equal(swap(f->io, f, before), 0);
    assert_content(f, "spare", before);
}

static void
test_swap_writes_over_the_spare(void **state)
{
    struct Fixture *f = *state;
    ino_t first, second;

    make_pair(f, "1st");
    first = inode_of(f, "a");
    second = inode_of(f, "spare");
    assert_int_equal(swap(f->io, f, "2nd"), 0);
    assert_content(f, "a", "2nd");
    assert_content(f, "spare", "1st");
    assert_int_equal(inode_of(f, "a"), second);
    assert_int_equal(inode_of(f, "spare"), first);
    assert_int_equal(swap(f->io, f, "3rd"), 0);
    assert_content(f, "a", "3rd");
    assert_content(f, "spare", "2nd");
    assert_int_equal(inode_of(f, "a"), first);
}

/* Longer, shorter, none, and one that cannot be opened. */
static void
test_swap_does_without_a_fitting_spare(void **state)
{
    static const char *const contents[] = {"new and longer", "short", "", "x"};
    struct Fixture *f = *state;

    make_pair(f, "content");
    for (unsigned i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
        assert_int_equal(swap(f->io, f, contents[i]), 0);
        assert_content(f, "a", contents[i]);
        assert_content(f, "spare", contents[i]);
    }
    assert_int_equal(unlinkat(f->dirfd, "spare", 0), 0);
    assert_int_equal(symlinkat("a", f->dirfd, "spare"), 0);
    assert_int_equal(swap(f->io, f, "y"), 0);
    assert_content(f, "a", "y");
    assert_content(f, "spare", "y");
    assert_int_equal(unlinkat(f->dirfd, "spare", 0), 0);
    assert_int_equal(mkdirat(f->dirfd, "spare", 0700), 0);
    assert_int_equal(swap(f->io, f, "z"), 0);
    assert_content(f, "a", "z");
    assert_int_equal(inode_of(f, "a.tmp"), 0);
}

/* Of a swap that begins with a spare, or (@is_first) without one. */
static bool
swap_with_fault(struct Fixture *f, FaultIo *fault, unsigned n, bool is_first)
{
    struct stat st;
    char *data;
    size_t len;
    bool failed;
    int r;

    make_pair(f, "old");
    if (is_first) {
        assert_int_equal(unlinkat(f->dirfd, "spare", 0), 0);
    }
    fault_io_arm(fault, n, fault->is_sticky, -EIO);
    r = swap(&fault->io, f, "new");
    failed = fault_io_disarm(fault) > 0;
    assert_true(r == 0 || (failed && r == -EIO));
    assert_int_equal(store_io_load(f->io, f->dirfd, "a", 100, &data, &len), 0);
    assert_true(!strcmp(data, "new") || (r < 0 && !strcmp(data, "old")));
    free(data);
    /* A spare that could not be made whole is none. */
    assert_true(fault->is_sticky || fstatat(f->dirfd, "spare", &st, 0) < 0 ||
                st.st_size == 3);
    /* The next one succeeds, whatever was left. */
    assert_int_equal(swap(f->io, f, "2nd"), 0);
    assert_content(f, "a", "2nd");
    assert_int_equal(swap(f->io, f, "3rd"), 0);
    assert_content(f, "a", "3rd");
    assert_content(f, "spare", "2nd");
    return failed;
}

static void
test_swap_leaves_old_or_new_whatever_fails(void **state)
{
    struct Fixture *f = *state;
    FaultIo fault;

    fault_io_init(&fault, f->io);
    for (unsigned i = 0; i < 8; i++) {
        unsigned n = 1;

        fault.is_torn = i & 1;
        fault.is_sticky = i & 2;
        while (swap_with_fault(f, &fault, n, i & 4)) {
            n++;
        }
        /* Eight calls, or three in vain, six of a replace and four for a
         * spare: then none to fail. */
        assert_int_equal(n, i & 4 ? 14 : 9);
    }
}

/* What the sync was to make durable may be lost for good: neither is it asked
 * for again and believed, nor is the spare that of the next swap (rule 20). */
static void
test_swap_believes_no_sync_of_the_directory_after_a_failed_one(void **state)
{
    struct Fixture *f = *state;
    FaultIo fault;

    fault_io_init(&fault, f->io);
    for (unsigned last = 0; last < 2; last++) {
        make_pair(f, "old");
        fault_io_arm(&fault, last ? 8 : 1, false, -EIO);
        assert_int_equal(swap(&fault.io, f, "new"), -EIO);
        assert_int_equal(fault_io_disarm(&fault), 1);
        assert_content(f, "a", last ? "new" : "old");
        assert_int_equal(inode_of(f, "spare"), 0);
    }
}

/* A file system without a free block: a file may be overwritten, and names
 * change places, but nothing is made or gets longer. */
static int
full_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    (void)io;
    return flags & O_CREAT ? -ENOSPC
                           : store_io_kernel()->ops->open(
                                 store_io_kernel(), dirfd, name, flags, mode);
}

static ssize_t
full_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    struct stat st;

    (void)io;
    assert_int_equal(fstat(fd, &st), 0);
    return offset + len > (uint64_t)st.st_size
               ? -ENOSPC
               : store_io_kernel()->ops->pwrite(store_io_kernel(), fd, buf, len,
                                                offset);
}

static void
test_swap_needs_no_room_with_a_spare(void **state)
{
    struct Fixture *f = *state;
    struct StoreIoOps ops = *f->io->ops;
    StoreIo full = {&ops};

    ops.open = full_open;
    ops.pwrite = full_pwrite;
    make_pair(f, "0th");
    assert_int_equal(store_io_replace(&full, f->dirfd, "a", "no!", 3, 0600),
                     -ENOSPC);
    for (unsigned i = 1; i < 5; i++) {
        char content[] = {(char)('0' + i), 't', 'h', 0};

        assert_int_equal(swap(&full, f, content), 0);
        assert_content(f, "a", content);
    }
    /* Another length wants room, and leaves what there is. */
    assert_int_equal(swap(&full, f, "longer"), -ENOSPC);
    assert_content(f, "a", "4th");
}

/* Room for the content, and none for a spare. */
static int
one_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    return !strcmp(name, "spare")
               ? full_open(io, dirfd, name, flags, mode)
               : store_io_kernel()->ops->open(io, dirfd, name, flags, mode);
}

static int
no_exchange(StoreIo *io, int dirfd, const char *a, const char *b)
{
    (void)io;
    (void)dirfd;
    (void)a;
    (void)b;
    return -EINVAL;
}

static void
test_swap_replaces_where_it_has_to(void **state)
{
    struct Fixture *f = *state;
    struct StoreIoOps ops = *f->io->ops;
    StoreIo io = {&ops};

    ops.exchange = no_exchange;
    assert_int_equal(swap(&io, f, "1st"), 0);
    assert_int_equal(swap(&io, f, "2nd"), 0);
    assert_content(f, "a", "2nd");
    assert_int_equal(swap(&io, f, "3rd"), 0);
    assert_content(f, "a", "3rd");
    assert_int_equal(inode_of(f, "a.tmp"), 0);
    ops.open = one_open;
    assert_int_equal(swap(&io, f, "4th"), 0);
    assert_content(f, "a", "4th");
    assert_int_equal(inode_of(f, "spare"), 0);
    assert_int_equal(swap(&io, f, "5th"), 0);
    assert_content(f, "a", "5th");
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
        TEST(test_swap_writes_over_the_spare),
        TEST(test_swap_does_without_a_fitting_spare),
        TEST(test_swap_leaves_old_or_new_whatever_fails),
        TEST(test_swap_believes_no_sync_of_the_directory_after_a_failed_one),
        TEST(test_swap_needs_no_room_with_a_spare),
        TEST(test_swap_replaces_where_it_has_to),
        TEST(test_load_gives_whole_files_and_refuses_large_ones),
        TEST(test_load_reports_each_failing_call),
        TEST(test_replace_refuses_names_without_room_for_the_temporary_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
