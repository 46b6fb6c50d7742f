/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-intent.c - the intent file: what is read back is never less than what
 * was written, whatever happens to the file
 */
#include "bitmap/intent.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/scratch.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Two pages, the second one partial, with a partial last extent. */
#define EXTENTS UINT64_C(40000)
#define SIZE    ((EXTENTS << INTENT_EXTENT_BITS) - 5)

static uint64_t seed0; /* set by main() */

struct Fixture {
    StoreIo *io;
    char *path;
    int dirfd;
    Seed seed;
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));

    f->io = store_io_kernel();
    f->path = scratch_new();
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->seed.state = seed0;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    close(f->dirfd);
    scratch_free(f->path);
    free(f);
    return 0;
}

static const struct IntentMark mark5 = {.uuid = "store",
                                        .epoch = 5,
                                        .sequence = 9};

static Bitmap *
random_hot(struct Fixture *f)
{
    Bitmap *hot = bitmap_new(SIZE, INTENT_EXTENT_BITS);

    for (unsigned i = 0; i < 100; i++) {
        uint64_t first = seed_below(&f->seed, EXTENTS);
        uint64_t count = 1 + seed_below(&f->seed, 70);

        count = count < EXTENTS - first ? count : EXTENTS - first;
        bitmap_set_run(hot, (struct ClusterRun){first, count});
    }
    return hot;
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

static Bitmap *
load_as(struct Fixture *f, uint64_t size, const struct IntentMark *want,
        struct IntentReport *report)
{
    Bitmap *hot = bitmap_new(size, INTENT_EXTENT_BITS);

    intent_load(f->io, f->dirfd, hot, want, report);
    assert_int_equal(report->what != NULL, report->damaged_extents != 0);
    bitmap_check(hot);
    return hot;
}

static void
assert_superset(struct Fixture *f, const Bitmap *hot)
{
    struct IntentReport report;
    Bitmap *got = load_as(f, SIZE, &mark5, &report);

    assert_true(covers(got, hot));
    assert_true(bitmap_count(got) <=
                bitmap_count(hot) + report.damaged_extents);
    bitmap_free(got);
}

static void
assert_exact(struct Fixture *f, const Bitmap *hot)
{
    struct IntentReport report;
    Bitmap *got = load_as(f, SIZE, &mark5, &report);

    assert_null(report.what);
    assert_int_equal(report.newest, 5);
    assert_true(covers(got, hot) && covers(hot, got));
    bitmap_free(got);
}

static uint8_t *
image_of(struct Fixture *f, size_t *len)
{
    char *bytes;

    assert_int_equal(
        store_io_load(f->io, f->dirfd, INTENT_FILE, 1 << 20, &bytes, len), 0);
    return (uint8_t *)bytes;
}

static void
put(struct Fixture *f, const void *bytes, size_t len, uint64_t at)
{
    int fd = f->io->ops->open(f->io, f->dirfd, INTENT_FILE, O_RDWR, 0);

    assert_int_equal(f->io->ops->pwrite(f->io, fd, bytes, len, at), len);
    f->io->ops->close(f->io, fd);
}

static void
test_what_was_saved_is_read_back(void **state)
{
    struct Fixture *f = *state;
    Bitmap *none = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    Bitmap *hot = random_hot(f);
    size_t len;

    assert_int_equal(intent_save(f->io, f->dirfd, none, &mark5), 0);
    assert_exact(f, none);
    assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
    assert_exact(f, hot);
    free(image_of(f, &len));
    assert_int_equal(len, 2 * INTENT_PAGE);
    bitmap_free(hot);
    bitmap_free(none);
}

static void
test_any_byte_changed_is_noticed(void **state)
{
    struct Fixture *f = *state;
    Bitmap *hot = random_hot(f);
    uint8_t *image;
    size_t len;

    assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
    image = image_of(f, &len);
    for (size_t at = 0; at < len; at++) {
        uint8_t flipped = image[at] ^ (uint8_t)(1 + seed_below(&f->seed, 255));

        put(f, &flipped, 1, at);
        assert_superset(f, hot);
        put(f, &image[at], 1, at);
    }
    assert_exact(f, hot);
    free(image);
    bitmap_free(hot);
}

static void
test_any_length_and_any_sector_replaced_is_noticed(void **state)
{
    struct Fixture *f = *state;
    Bitmap *hot = random_hot(f);
    struct IntentMark before = {.uuid = "store", .epoch = 4, .sequence = 3};
    Bitmap *less = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    uint8_t *image, *old, zeroes[INTENT_PAGE] = {0};
    char *path;
    size_t len;

    assert_int_equal(intent_save(f->io, f->dirfd, less, &before), 0);
    old = image_of(f, &len);
    assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
    image = image_of(f, &len);
    for (size_t at = 0; at < len; at += INTENT_SECTOR) {
        size_t other =
            seed_below(&f->seed, len / INTENT_SECTOR) * INTENT_SECTOR;

        put(f, zeroes, INTENT_SECTOR, at);
        assert_superset(f, hot);
        put(f, old + at, INTENT_SECTOR, at);
        assert_superset(f, hot);
        put(f, image + other, INTENT_SECTOR, at);
        assert_superset(f, hot);
        put(f, image + at, INTENT_SECTOR, at);
    }
    assert_exact(f, hot);
    assert_true(asprintf(&path, "%s/" INTENT_FILE, f->path) > 0);
    for (size_t cut = 0; cut < len; cut += 100) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        assert_superset(f, hot);
        put(f, image, len, 0);
    }
    assert_int_equal(unlink(path), 0);
    assert_superset(f, hot);
    free(path);
    free(old);
    free(image);
    bitmap_free(less);
    bitmap_free(hot);
}

/* Each of what a sector is checked for makes all of the file hot. */
static void
test_what_is_anothers_or_older_is_hot(void **state)
{
    static const struct IntentMark wants[] = {
        {.uuid = "other", .epoch = 5, .sequence = 9},
        {.uuid = "store", .epoch = 6, .sequence = 9},
        {.uuid = "store", .epoch = 5, .sequence = 8},
    };
    struct Fixture *f = *state;
    Bitmap *none = bitmap_new(SIZE, INTENT_EXTENT_BITS);

    assert_int_equal(intent_save(f->io, f->dirfd, none, &mark5), 0);
    for (size_t i = 0; i < sizeof(wants) / sizeof(wants[0]); i++) {
        struct IntentReport report;
        Bitmap *got = load_as(f, SIZE, &wants[i], &report);

        assert_int_equal(bitmap_count(got), EXTENTS);
        assert_int_equal(report.damaged_extents, EXTENTS);
        assert_int_equal(report.newest, i ? 5 : 0);
        bitmap_free(got);
    }
    bitmap_free(none);
}

static void
test_growing_adds_cold_extents(void **state)
{
    struct Fixture *f = *state;
    struct IntentReport report;
    Bitmap *hot = random_hot(f), *got;
    uint64_t size = UINT64_C(70000) << INTENT_EXTENT_BITS;

    assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
    got = load_as(f, size, &mark5, &report);
    assert_int_equal(report.damaged_extents, 70000 - 2 * INTENT_PAGE_BITS);
    bitmap_free(got);
    assert_int_equal(intent_grow(f->io, f->dirfd, EXTENTS, 70000, &mark5), 0);
    got = load_as(f, size, &mark5, &report);
    assert_null(report.what);
    assert_int_equal(bitmap_count(got), bitmap_count(hot));
    assert_true(covers(got, hot));
    bitmap_free(got);
    bitmap_free(hot);
}

/* The data path's way to a page and intent_save()'s give the same bytes. */
static void
test_a_page_is_encoded_in_steps(void **state)
{
    struct Fixture *f = *state;
    Bitmap *hot = random_hot(f);
    struct ClusterRun more = {INTENT_PAGE_BITS - 70, 200};
    size_t count, len;
    const uint64_t *words = bitmap_words(hot, &count);
    struct IntentPage pages[2];
    uint8_t *image;

    intent_page_fill(&pages[0], words, INTENT_PAGE_WORDS);
    intent_page_fill(&pages[1], words + INTENT_PAGE_WORDS,
                     count - INTENT_PAGE_WORDS);
    for (unsigned i = 0; i < 2; i++) {
        intent_page_set(&pages[i], i, more);
        intent_page_set(&pages[i], i, (struct ClusterRun){i ? 1 : 39999, 1});
        intent_page_seal(&pages[i], i, &mark5);
    }
    bitmap_set_run(hot, more);
    assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
    image = image_of(f, &len);
    assert_int_equal(len, sizeof(pages));
    assert_memory_equal(image, pages, sizeof(pages));
    free(image);
    bitmap_free(hot);
}

/* Any call of a save fails, torn: hot bits of before and after survive. */
static void
test_a_failing_save_loses_nothing(void **state)
{
    struct Fixture *f = *state;
    Bitmap *hot = random_hot(f);
    FaultIo fault;
    unsigned n = 1, failed;

    fault_io_init(&fault, f->io);
    fault.is_torn = true;
    do {
        struct IntentMark next = mark5;
        int r;

        assert_int_equal(intent_save(f->io, f->dirfd, hot, &mark5), 0);
        next.epoch = 5 + n % 2;
        fault_io_arm(&fault, n, n % 4 < 2, n % 3 ? -EIO : -ENOSPC);
        n++;
        r = intent_save(&fault.io, f->dirfd, hot, &next);
        failed = fault_io_disarm(&fault);
        assert_int_equal(r<0, failed> 0);
        assert_superset(f, hot);
    } while (failed);
    assert_true(n > 5);
    bitmap_free(hot);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_saved_is_read_back),
        TEST(test_any_byte_changed_is_noticed),
        TEST(test_any_length_and_any_sector_replaced_is_noticed),
        TEST(test_what_is_anothers_or_older_is_hot),
        TEST(test_growing_adds_cold_extents),
        TEST(test_a_page_is_encoded_in_steps),
        TEST(test_a_failing_save_loses_nothing),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
