/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-point-file.c - the map file of a point, sound and damaged
 *
 * What is loaded is compared with a plain array of what was written. Of a
 * sector that something happened to, all clusters must be unsure, and of the
 * others none; what is kept or not kept must never come out the other way.
 */
#include "bitmap/point-file.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BITS        16
#define CLUSTER     (UINT64_C(1) << BITS)
#define SECTOR_BITS (UINT64_C(59) * 64)
/* Three pages; the last one ends in the middle of a word of a sector. */
#define CLUSTERS (2 * POINT_FILE_PAGE_BITS + 3 * SECTOR_BITS + 5 * 64 + 17)
#define PAGES    3
#define SECTORS  (PAGES * BITMAP_FILE_SECTORS)

static uint64_t seed0;

static const struct PointMark mark = {.uuid = "store", .id = 77, .disk = 3};

struct Fixture {
    StoreIo *io;
    int fd;
    Seed seed;
    Bitmap *truth; /* what was written */
    Bitmap *kept, *unsure;
    struct BitmapFilePage image[PAGES];
    bool is_unsure[SECTORS]; /* expected */
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));
    char path[] = "/tmp/weir-point-file-XXXXXX";

    assert_non_null(f);
    f->io = store_io_kernel();
    f->seed.state = seed0;
    f->fd = mkostemp(path, O_CLOEXEC);
    assert_true(f->fd >= 0);
    assert_int_equal(unlink(path), 0);
    f->truth = bitmap_new(CLUSTERS * CLUSTER - 3, BITS);
    f->kept = bitmap_new(CLUSTERS * CLUSTER - 3, BITS);
    f->unsure = bitmap_new(CLUSTERS * CLUSTER - 3, BITS);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    close(f->fd);
    bitmap_free(f->truth);
    bitmap_free(f->kept);
    bitmap_free(f->unsure);
    free(f);
    return 0;
}

static void
scatter(struct Fixture *f, unsigned runs)
{
    for (unsigned i = 0; i < runs; i++) {
        struct ClusterRun run = {seed_below(&f->seed, CLUSTERS),
                                 1 + seed_below(&f->seed, 300)};

        if (run.count > CLUSTERS - run.first) {
            run.count = CLUSTERS - run.first;
        }
        bitmap_set_run(f->truth, run);
    }
}

static void
put(struct Fixture *f, const void *bytes, size_t len, uint64_t at)
{
    assert_int_equal(f->io->ops->pwrite(f->io, f->fd, bytes, len, at), len);
}

/* All of it, as whoever keeps copies writes it. */
static void
put_all(struct Fixture *f)
{
    for (uint64_t n = 0; n < PAGES; n++) {
        point_page_fill(&f->image[n], n, f->truth);
        point_page_seal(&f->image[n], n, &mark, f->unsure);
        put(f, &f->image[n], sizeof(f->image[n]), n * BITMAP_FILE_PAGE);
    }
}

static void
put_sector(struct Fixture *f, unsigned sector, const void *bytes)
{
    put(f, bytes, 512, sector * UINT64_C(512));
}

static const struct BitmapFileSector *
sector_of(const struct Fixture *f, unsigned sector)
{
    return &f->image[sector / BITMAP_FILE_SECTORS]
                .sectors[sector % BITMAP_FILE_SECTORS];
}

static int
load_by(struct Fixture *f, StoreIo *io, const struct PointMark *whose)
{
    bitmap_clear_all(f->kept);
    bitmap_clear_all(f->unsure);
    return point_file_load(io, f->fd, whose, f->kept, f->unsure);
}

/* As is_unsure has it, and of the rest what was written. */
static void
assert_loaded(struct Fixture *f)
{
    bitmap_check(f->kept);
    bitmap_check(f->unsure);
    for (uint64_t w = 0; w < (CLUSTERS + 63) / 64; w++) {
        bool is_unsure = f->is_unsure[w / 59];
        uint64_t disk = w < CLUSTERS / 64 ? UINT64_MAX : (1u << 17) - 1;

        assert_int_equal(bitmap_word(f->unsure, w), is_unsure ? disk : 0);
        assert_int_equal(bitmap_word(f->kept, w),
                         is_unsure ? 0 : bitmap_word(f->truth, w));
    }
}

static void
assert_loads(struct Fixture *f)
{
    assert_int_equal(load_by(f, f->io, &mark), 0);
    assert_loaded(f);
}

static void
test_what_was_set_is_loaded_and_nothing_else(void **state)
{
    struct Fixture *f = *state;

    assert_loads(f); /* an empty file */
    for (unsigned i = 0; i < 20; i++) {
        scatter(f, 8);
        put_all(f);
        assert_loads(f);
    }
    bitmap_set_all(f->truth);
    put_all(f);
    assert_loads(f);
    assert_int_equal(bitmap_count(f->kept), CLUSTERS);
}

/* Runs that begin before the page and end behind it, too. */
static void
test_setting_in_a_page_is_filling_it_later(void **state)
{
    struct Fixture *f = *state;
    struct BitmapFilePage set, filled;

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t n = seed_below(&f->seed, PAGES);
        struct ClusterRun run = {seed_below(&f->seed, CLUSTERS), 0};
        uint64_t left = CLUSTERS - run.first;

        run.count = seed_below(&f->seed, (i % 3 ? 130 : left) + 1);
        run.count = run.count < left ? run.count : left;
        point_page_fill(&set, n, f->truth);
        point_page_set(&set, n, run);
        bitmap_set_run(f->truth, run);
        point_page_fill(&filled, n, f->truth);
        assert_memory_equal(&set, &filled, sizeof(set));
        if (i % 50 == 0) {
            bitmap_clear_all(f->truth);
        }
    }
}

/* The layout in the header, byte by byte. */
static void
test_page_is_what_the_header_says(void **state)
{
    struct Fixture *f = *state;
    uint64_t cluster = POINT_FILE_PAGE_BITS + 2 * SECTOR_BITS + 64 * 7 + 5;
    struct BitmapFilePage page;
    const unsigned char *bytes = (unsigned char *)&page + 2 * 512;
    uint64_t sequence;

    assert_int_equal(point_file_page_of(cluster), 1);
    point_page_fill(&page, 1, f->truth);
    point_page_set(&page, 1, (struct ClusterRun){cluster, 1});
    point_page_seal(&page, 1, &mark, f->unsure);
    assert_memory_equal(bytes, "WBMP\4\2\0\0\1\0\0\0\0\0\0\0", 16);
    memcpy(&sequence, bytes + 16, 8);
    assert_int_equal(le64toh(sequence), UINT64_C(3) << 40 | 77);
    assert_int_equal(bytes[24 + 7 * 8], 1 << 5);
    for (unsigned i = 24; i < 496; i++) {
        assert_true(i == 24 + 7 * 8 || bytes[i] == 0);
    }
}

static void
test_any_byte_changed_makes_its_sector_unsure(void **state)
{
    struct Fixture *f = *state;

    scatter(f, 40);
    put_all(f);
    /* Each byte of some sectors, one of them the last that is in use. */
    for (unsigned s = 1; s < SECTORS; s += 9) {
        for (unsigned i = 0; i < 512; i++) {
            struct BitmapFileSector sector = *sector_of(f, s);

            ((unsigned char *)&sector)[i] ^=
                (unsigned char)(1 + seed_below(&f->seed, 255));
            put_sector(f, s, &sector);
            f->is_unsure[s] = true;
            assert_loads(f);
        }
        put_sector(f, s, sector_of(f, s));
        f->is_unsure[s] = false;
    }
    assert_loads(f);
}

/* Of another store, snapshot or disk, of another file's type or place. */
static void
test_sectors_that_belong_elsewhere_are_unsure(void **state)
{
    struct Fixture *f = *state;
    const struct PointMark others[] = {
        {.uuid = "other", .id = 77, .disk = 3},
        {.uuid = "store", .id = 78, .disk = 3},
        {.uuid = "store", .id = 77, .disk = 2},
    };
    struct BitmapFilePage page;

    scatter(f, 40);
    put_all(f);
    for (unsigned i = 0; i < sizeof(others) / sizeof(*others); i++) {
        unsigned s = (unsigned)seed_below(&f->seed, 8);

        point_page_fill(&page, 0, f->truth);
        point_page_seal(&page, 0, &others[i], f->unsure);
        put_sector(f, s, &page.sectors[s]);
        f->is_unsure[s] = true;
        assert_loads(f);
        bitmap_clear_all(f->unsure);
    }
    /* Swapped: within a page, and with the same place in another one. */
    memset(f->is_unsure, 0, sizeof(f->is_unsure));
    put_all(f);
    put_sector(f, 1, sector_of(f, 2));
    put_sector(f, 2, sector_of(f, 1));
    put_sector(f, 5, sector_of(f, 13));
    f->is_unsure[1] = f->is_unsure[2] = f->is_unsure[5] = true;
    assert_loads(f);
    for (unsigned i = 0; i < 3; i++) {
        bitmap_clear_all(f->unsure);
        assert_int_equal(load_by(f, f->io, &others[i]), 0);
        assert_int_equal(bitmap_count(f->unsure), CLUSTERS);
        assert_int_equal(bitmap_count(f->kept), 0);
    }
}

/* The power goes while a page is written over: what is loaded has what was
 * there before, and of what was being added whole sectors or nothing. */
static void
put_old_sector(struct Fixture *f, unsigned sector,
               const struct BitmapFileSector *old)
{
    put_sector(f, sector, old);
    for (uint64_t i = 0; i < SECTOR_BITS; i++) {
        struct ClusterRun one = {sector * SECTOR_BITS + i, 1};

        if (one.first < CLUSTERS &&
            !((le64toh(old->words[i / 64]) >> (i & 63)) & 1)) {
            bitmap_clear_run(f->truth, one);
        }
    }
}

static void
test_torn_page_is_old_or_new_by_sectors(void **state)
{
    struct Fixture *f = *state;
    struct BitmapFilePage old[PAGES];

    for (unsigned round = 0; round < 100; round++) {
        put_all(f);
        memcpy(old, f->image, sizeof(old));
        if (round % 10 == 0) { /* the first write of a page, into a hole */
            memset(old, 0, sizeof(old));
            bitmap_clear_all(f->truth);
        }
        scatter(f, 10);
        put_all(f);
        for (unsigned s = 0; s < SECTORS; s++) {
            if (seed_below(&f->seed, 2)) {
                put_old_sector(f, s, &old[s / 8].sectors[s % 8]);
            }
        }
        assert_loads(f);
    }
}

/* Only pages that have something were ever written. */
static void
test_holes_and_what_is_behind_the_end_have_nothing(void **state)
{
    struct Fixture *f = *state;

    scatter(f, 40);
    put_all(f);
    assert_int_equal(ftruncate(f->fd, 0), 0);
    put(f, &f->image[1], BITMAP_FILE_PAGE, BITMAP_FILE_PAGE);
    bitmap_clear_run(f->truth, (struct ClusterRun){0, POINT_FILE_PAGE_BITS});
    bitmap_clear_run(f->truth,
                     (struct ClusterRun){2 * POINT_FILE_PAGE_BITS,
                                         CLUSTERS - 2 * POINT_FILE_PAGE_BITS});
    assert_loads(f);
    /* Behind the disk's own end nobody looks. */
    put(f, "what", 4, UINT64_C(9) * BITMAP_FILE_PAGE);
    assert_loads(f);
}

static void
test_half_a_sector_at_the_end_is_unsure(void **state)
{
    struct Fixture *f = *state;

    for (unsigned i = 0; i < 50; i++) {
        unsigned s = (unsigned)seed_below(&f->seed, 20);
        uint64_t rest = i % 5 ? 1 + seed_below(&f->seed, 511) : 0;
        uint64_t first = (s + (rest > 0)) * SECTOR_BITS;

        memset(f->is_unsure, 0, sizeof(f->is_unsure));
        bitmap_clear_all(f->unsure);
        scatter(f, 40);
        put_all(f);
        assert_int_equal(ftruncate(f->fd, (off_t)(s * 512 + rest)), 0);
        f->is_unsure[s] = rest > 0;
        if (first < CLUSTERS) {
            bitmap_clear_run(f->truth,
                             (struct ClusterRun){first, CLUSTERS - first});
        }
        assert_loads(f);
    }
}

/* Each call of a load fails once: then the file cannot be searched at all, or a
 * page is read by sectors. */
static void
test_load_with_any_call_failing_says_so_or_is_right(void **state)
{
    struct Fixture *f = *state;
    unsigned refused = 0, right = 0;
    FaultIo fault;
    int r;

    scatter(f, 40);
    put_all(f);
    fault_io_init(&fault, f->io);
    for (unsigned n = 1, failed = 1; failed; n++) {
        fault_io_arm(&fault, n, false, -EIO);
        r = load_by(f, &fault.io, &mark);
        failed = fault_io_disarm(&fault);
        if (r == 0) {
            assert_loaded(f);
            right += failed;
        } else {
            assert_int_equal(r, -EIO);
            refused++;
        }
    }
    assert_int_equal(refused, PAGES + 1); /* searches */
    assert_int_equal(right, PAGES);
}

/* A disk with bad sectors. */
struct BadIo {
    StoreIo io; /* first member */
    struct StoreIoOps ops;
    bool is_bad[SECTORS];
};

static ssize_t
bad_pread(StoreIo *io, int fd, void *buf, size_t len, uint64_t offset)
{
    for (uint64_t s = offset / 512; s < (offset + len) / 512; s++) {
        if (((struct BadIo *)io)->is_bad[s]) {
            return -EIO;
        }
    }
    return store_io_kernel()->ops->pread(store_io_kernel(), fd, buf, len,
                                         offset);
}

static void
test_sectors_that_cannot_be_read_are_unsure(void **state)
{
    struct Fixture *f = *state;
    struct BadIo bad = {.ops = *f->io->ops};

    bad.io.ops = &bad.ops;
    bad.ops.pread = bad_pread;
    scatter(f, 40);
    put_all(f);
    for (unsigned i = 0; i < 24; i++) {
        unsigned s = (unsigned)seed_below(&f->seed, SECTORS);

        bad.is_bad[s] = f->is_unsure[s] = true;
        assert_int_equal(load_by(f, &bad.io, &mark), 0);
        assert_loaded(f);
    }
}

/* What nobody knows now is not known later, whatever was written beside it. */
static void
test_unsure_sector_stays_so_when_its_page_is_written(void **state)
{
    struct Fixture *f = *state;
    const char damaged[512] = "damaged";

    scatter(f, 40);
    put_all(f);
    for (unsigned i = 0; i < 5; i++) {
        unsigned s = (unsigned)seed_below(&f->seed, 19);

        put_sector(f, s, damaged);
        f->is_unsure[s] = true;
        assert_loads(f);
        scatter(f, 5);
        put_all(f);
        assert_loads(f);
    }
}

int
main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_set_is_loaded_and_nothing_else),
        TEST(test_setting_in_a_page_is_filling_it_later),
        TEST(test_page_is_what_the_header_says),
        TEST(test_any_byte_changed_makes_its_sector_unsure),
        TEST(test_sectors_that_belong_elsewhere_are_unsure),
        TEST(test_torn_page_is_old_or_new_by_sectors),
        TEST(test_holes_and_what_is_behind_the_end_have_nothing),
        TEST(test_half_a_sector_at_the_end_is_unsure),
        TEST(test_load_with_any_call_failing_says_so_or_is_right),
        TEST(test_sectors_that_cannot_be_read_are_unsure),
        TEST(test_unsure_sector_stays_so_when_its_page_is_written),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
