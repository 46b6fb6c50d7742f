/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-sent-log.c - the log over lives, damage and losses of power
 */
#include "relay/sent-log.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BITS 16
#define SIZE ((UINT64_C(1) << 22) << BITS) /* 4 Mi clusters */

static const uint8_t uuid[16] = "store";
static uint64_t seed0;

struct Fixture {
    char path[64];
    int dirfd;
    Seed seed;
    Bitmap *map;
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->seed.state = seed0;
    strcpy(f->path, "/tmp/weir-sent-log-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->map = bitmap_new(SIZE, BITS);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    (void)unlinkat(f->dirfd, SENT_LOG_FILE, 0);
    assert_int_equal(rmdir(f->path), 0);
    close(f->dirfd);
    bitmap_free(f->map);
    free(f);
    return 0;
}

static int
reopen(struct Fixture *f, SentLog *log, uint64_t before, uint64_t epoch,
       const char **what)
{
    bitmap_clear_all(f->map);
    return sent_log_open(log, store_io_kernel(), f->dirfd, uuid, before, epoch,
                         true, f->map, what);
}

static void
commit(SentLog *log, const Bitmap *logged)
{
    uint64_t offset;
    size_t len = sent_log_encode(log, logged, &offset);

    assert_int_equal(pwrite(log->fd, log->slot, len, (off_t)offset), len);
}

static void
scatter(Bitmap *map, Seed *seed, unsigned runs, unsigned longest)
{
    bitmap_clear_all(map);
    for (unsigned i = 0; i < runs; i++) {
        uint64_t first = seed_below(seed, bitmap_clusters(map) - longest);

        bitmap_set_run(
            map, (struct ClusterRun){first, 1 + seed_below(seed, longest)});
    }
}

static bool
covers(const Bitmap *more, const Bitmap *less)
{
    for (uint64_t w = 0; w * 64 < bitmap_clusters(less); w++) {
        if (bitmap_word(less, w) & ~bitmap_word(more, w)) {
            return false;
        }
    }
    return true;
}

static void
test_log_comes_back_exactly(void **state)
{
    struct Fixture *f = *state;
    Bitmap *truth = bitmap_new(SIZE, BITS);
    const char *what;
    SentLog log;

    assert_int_equal(reopen(f, &log, 0, 1, &what), 0);
    assert_null(what);
    for (unsigned i = 0; i < 200; i++) {
        scatter(truth, &f->seed, (unsigned)seed_below(&f->seed, 300), 40);
        commit(&log, truth);
        if (i % 10 == 0) {
            sent_log_close(&log);
            assert_int_equal(reopen(f, &log, 1, 1, &what), 0);
            assert_int_equal(bitmap_count(f->map), bitmap_count(truth));
            assert_true(covers(f->map, truth));
        }
    }
    sent_log_close(&log);
    bitmap_free(truth);
}

static void
test_log_with_too_many_runs_covers_more(void **state)
{
    struct Fixture *f = *state;
    Bitmap *truth = bitmap_new(SIZE, BITS);
    const char *what;
    SentLog log;

    assert_int_equal(reopen(f, &log, 0, 1, &what), 0);
    scatter(truth, &f->seed, 20000, 2);
    commit(&log, truth);
    sent_log_close(&log);
    assert_int_equal(reopen(f, &log, 1, 1, &what), 0);
    assert_true(covers(f->map, truth));
    assert_true(bitmap_count(f->map) < bitmap_clusters(truth));
    /* And a run that is longer than an entry can say. */
    bitmap_set_all(truth);
    commit(&log, truth);
    sent_log_close(&log);
    assert_int_equal(reopen(f, &log, 1, 1, &what), 0);
    assert_int_equal(bitmap_count(f->map), bitmap_clusters(truth));
    sent_log_close(&log);
    bitmap_free(truth);
}

static void
tear(SentLog *log, Seed *seed, size_t len, uint64_t offset)
{
    for (size_t at = 0; at < len; at += 512) {
        if (seed_below(seed, 2)) {
            assert_int_equal(pwrite(log->fd, (char *)log->slot + at, 512,
                                    (off_t)(offset + at)),
                             512);
        }
    }
}

/* The power goes once more, while the next life writes its first commit. */
static void
tear_again(struct Fixture *f, SentLog *log)
{
    struct SentLogSector *file = malloc(2 * SENT_LOG_SLOT_BYTES);
    ssize_t size = 2 * (ssize_t)SENT_LOG_SLOT_BYTES;
    const char *what;
    SentLog next;

    assert_int_equal(pread(log->fd, file, (size_t)size, 0), size);
    assert_int_equal(reopen(f, &next, 1, 1, &what), 0);
    /* Its first commit went to one slot as a whole; half of it is lost. */
    for (size_t at = 0; at < (size_t)size; at += 512) {
        unsigned slot = at >= SENT_LOG_SLOT_BYTES;
        bool is_first = slot == ((next.sequence - 1) & 1);

        if (!is_first || seed_below(&f->seed, 2)) {
            assert_int_equal(pwrite(log->fd, (char *)file + at, 512, (off_t)at),
                             512);
        }
    }
    sent_log_close(&next);
    free(file);
}

/* Each sector of the commit that was under way is old or new. */
static void
test_log_torn_by_a_loss_of_power_covers_what_left(void **state)
{
    struct Fixture *f = *state;
    Bitmap *old = bitmap_new(SIZE, BITS), *new = bitmap_new(SIZE, BITS);
    const char *what;
    SentLog log;

    for (unsigned i = 0; i < 200; i++) {
        uint64_t offset, both;
        size_t len;

        assert_int_equal(reopen(f, &log, i > 0, 1, &what), 0);
        scatter(new, &f->seed, 1 + (unsigned)seed_below(&f->seed, 400), 3);
        commit(&log, new);
        scatter(old, &f->seed, 1 + (unsigned)seed_below(&f->seed, 400), 3);
        commit(&log, old);
        scatter(new, &f->seed, 1 + (unsigned)seed_below(&f->seed, 800), 3);
        len = sent_log_encode(&log, new, &offset);
        tear(&log, &f->seed, len, offset);
        if (i % 2) {
            tear_again(f, &log);
        }
        sent_log_close(&log);
        assert_int_equal(reopen(f, &log, 1, 1, &what), 0);
        /* Nothing of the new one had left, unless it is there as a whole. */
        both = bitmap_count(f->map);
        assert_true(covers(f->map, old) || covers(f->map, new));
        bitmap_merge(new, old);
        assert_true(covers(new, f->map));
        assert_true(both <= bitmap_count(new));
        sent_log_close(&log);
    }
    bitmap_free(old);
    bitmap_free(new);
}

static void
flip(struct Fixture *f, off_t at)
{
    int fd = openat(f->dirfd, SENT_LOG_FILE, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1u << seed_below(&f->seed, 8));
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void
test_log_with_any_byte_flipped_doubts_everything(void **state)
{
    struct Fixture *f = *state;
    const char *what;
    SentLog log;

    for (off_t at = 0; at < 2 * (off_t)SENT_LOG_SLOT_BYTES; at += 97) {
        assert_int_equal(reopen(f, &log, 0, 1, &what), 0);
        sent_log_close(&log);
        flip(f, at);
        assert_non_null(sent_log_check(store_io_kernel(), f->dirfd, uuid, 1));
        assert_int_equal(reopen(f, &log, 1, 1, &what), -EBADMSG);
        assert_non_null(what);
        assert_int_equal(bitmap_count(f->map), bitmap_clusters(f->map));
        sent_log_close(&log);
        /* It says so until somebody knows better. */
        assert_int_equal(reopen(f, &log, 1, 1, &what), 0);
        assert_int_equal(bitmap_count(f->map), bitmap_clusters(f->map));
        sent_log_close(&log);
        assert_int_equal(unlinkat(f->dirfd, SENT_LOG_FILE, 0), 0);
    }
}

static void
test_check_finds_any_byte_flipped(void **state)
{
    struct Fixture *f = *state;
    const char *what;
    SentLog log;

    assert_int_equal(reopen(f, &log, 0, 1, &what), 0);
    sent_log_close(&log);
    /* All of them; where each takes ten times as long, some. */
    off_t step = TEST_IS_SANITIZED ? 13 : 1;

    for (off_t at = 0; at < 2 * (off_t)SENT_LOG_SLOT_BYTES; at += step) {
        Seed dice = f->seed;

        flip(f, at);
        assert_non_null(sent_log_check(store_io_kernel(), f->dirfd, uuid, 1));
        f->seed = dice; /* the same bit, back */
        flip(f, at);
        assert_null(sent_log_check(store_io_kernel(), f->dirfd, uuid, 1));
    }
}

static void
test_log_older_than_the_store_is_not_believed(void **state)
{
    struct Fixture *f = *state;
    const char *what;
    SentLog log;

    assert_int_equal(reopen(f, &log, 0, 1, &what), 0);
    sent_log_close(&log);
    assert_int_equal(reopen(f, &log, 2, 2, &what), -EBADMSG);
    sent_log_close(&log);
    assert_int_equal(reopen(f, &log, 2, 3, &what), 0);
    sent_log_close(&log);
    assert_int_equal(unlinkat(f->dirfd, SENT_LOG_FILE, 0), 0);
    assert_int_equal(reopen(f, &log, 3, 3, &what), -EBADMSG); /* missing */
    sent_log_close(&log);
}

/* Whatever call fails: an error, or a log that covers what was there. */
static void
test_log_opens_or_fails_whatever_call_does(void **state)
{
    struct Fixture *f = *state;
    Bitmap *truth = bitmap_new(SIZE, BITS);
    bool more = true;
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    scatter(truth, &f->seed, 100, 10);
    for (unsigned n = 1; more; n++) {
        const char *what;
        SentLog log;
        int r;

        assert_int_equal(reopen(f, &log, n > 1, 1, &what), 0);
        commit(&log, truth);
        sent_log_close(&log);
        bitmap_clear_all(f->map);
        fault.is_torn = n % 2;
        fault_io_arm(&fault, n, n % 3 == 0, -EIO);
        r = sent_log_open(&log, &fault.io, f->dirfd, uuid, 1, 1, true, f->map,
                          &what);
        more = fault_io_disarm(&fault) > 0;
        assert_true(r == 0 || r == -EBADMSG || r == -EIO);
        if (r != -EIO) {
            assert_true(covers(f->map, truth));
            sent_log_close(&log);
        }
        r = reopen(f, &log, 1, 1, &what);
        assert_true(r == 0 || r == -EBADMSG);
        assert_true(covers(f->map, truth));
        sent_log_close(&log);
    }
    bitmap_free(truth);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(test_log_comes_back_exactly),
        CASE(test_log_with_too_many_runs_covers_more),
        CASE(test_log_torn_by_a_loss_of_power_covers_what_left),
        CASE(test_log_with_any_byte_flipped_doubts_everything),
        CASE(test_check_finds_any_byte_flipped),
        CASE(test_log_older_than_the_store_is_not_believed),
        CASE(test_log_opens_or_fails_whatever_call_does),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
