/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-bitmap-file.c - checkpoints, whole, damaged and interrupted
 *
 * What is loaded must be exactly what was saved when nothing happened to the
 * file, and never less than that whatever happened: every byte changed, every
 * length cut, every page zeroed, swapped with an older copy of itself or with
 * another page, every storage call of a save failing, every write that was
 * not synced lost or kept as the seed says.
 */
#include "bitmap/bitmap-file.h"
#include "bitmap/bitmap-page.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BITS    16
#define CLUSTER (UINT64_C(1) << BITS)
/* Two pages of bits, the second one partial, with a partial last cluster. */
#define SIZE (40000 * CLUSTER - 5)

static uint64_t seed0;

struct Fixture {
    StoreIo *io;
    char path[64];
    int dirfd;
    Seed seed;
};

static int
setup(void **state)
{
    struct Fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->io = store_io_kernel();
    f->seed.state = seed0;
    strcpy(f->path, "/tmp/weir-bitmap-file-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->dirfd >= 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    (void)unlinkat(f->dirfd, "a", 0);
    (void)unlinkat(f->dirfd, "b", 0);
    assert_int_equal(rmdir(f->path), 0);
    close(f->dirfd);
    free(f);
    return 0;
}

static void
scatter(Bitmap *map, Seed *seed, unsigned runs)
{
    for (unsigned i = 0; i < runs; i++) {
        struct ClusterRun run = {seed_below(seed, bitmap_clusters(map)),
                                 1 + seed_below(seed, 900)};

        if (run.count > bitmap_clusters(map) - run.first) {
            run.count = bitmap_clusters(map) - run.first;
        }
        if (i % 3 == 2) {
            bitmap_clear_run(map, run);
        } else {
            bitmap_set_run(map, run);
        }
    }
}

static int
save(struct Fixture *f, StoreIo *io, Bitmap *map, uint64_t sequence)
{
    struct BitmapFile file = {.name = "a", .map = map, .uuid = "store"};

    return bitmap_file_save(io, f->dirfd, &file, 1, sequence);
}

static Bitmap *
load_as(struct Fixture *f, uint64_t size, unsigned bits, const char *uuid,
        struct BitmapFileReport *report)
{
    struct BitmapFile file = {.name = "a", .map = bitmap_new(size, bits)};

    assert_non_null(file.map);
    memcpy(file.uuid, uuid, strlen(uuid));
    assert_int_equal(bitmap_file_load(f->io, f->dirfd, &file, report), 0);
    assert_int_equal(report->what != NULL, report->damaged_clusters != 0);
    return file.map;
}

static Bitmap *
load(struct Fixture *f, struct BitmapFileReport *report)
{
    return load_as(f, SIZE, BITS, "store", report);
}

/* Is all that is dirty in @less dirty in @more? */
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

static bool
is_equal(const Bitmap *a, const Bitmap *b)
{
    return bitmap_count(a) == bitmap_count(b) && covers(a, b);
}

static void
assert_loads_superset(struct Fixture *f, const Bitmap *truth)
{
    struct BitmapFileReport report;
    Bitmap *got = load(f, &report);

    assert_true(covers(got, truth));
    assert_true(bitmap_count(got) <=
                bitmap_count(truth) + report.damaged_clusters);
    bitmap_free(got);
}

static void
assert_loads_exactly(struct Fixture *f, const Bitmap *truth, uint64_t sequence)
{
    struct BitmapFileReport report;
    Bitmap *got = load(f, &report);

    assert_null(report.what);
    assert_int_equal(report.sequence, sequence);
    assert_int_equal(report.newest, sequence);
    assert_true(is_equal(got, truth));
    bitmap_check(got);
    bitmap_free(got);
}

static void
test_round_trips_are_exact(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);

    for (uint64_t sequence = 1; sequence < 60; sequence++) {
        switch (seed_below(&f->seed, 6)) {
        case 0:
            bitmap_set_all(map);
            break;
        case 1:
            bitmap_clear_all(map);
            break;
        default:
            scatter(map, &f->seed, 1 + (unsigned)seed_below(&f->seed, 200));
            break;
        }
        assert_int_equal(save(f, f->io, map, sequence), 0);
        assert_loads_exactly(f, map, sequence);
    }
    assert_int_equal(save(f, f->io, map, 59), -EINVAL);
    assert_loads_exactly(f, map, 59);
    bitmap_free(map);
}

static void
test_every_size_at_the_edge_of_a_sector_page_or_group_round_trips(void **state)
{
    static const uint64_t sizes[] = {1, 59 * 64, 472 * 64, 944 * 64,
                                     472 * 472 * 64};
    struct Fixture *f = *state;
    uint64_t sequence = 0;

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint64_t n = sizes[i] > 1 ? sizes[i] - 1 : 1; n <= sizes[i] + 1;
             n++) {
            Bitmap *map = bitmap_new(n * CLUSTER, BITS);
            struct BitmapFileReport report;
            Bitmap *got;

            scatter(map, &f->seed, 50);
            bitmap_set_run(map, (struct ClusterRun){n - 1, 1});
            bitmap_clear_run(map, (struct ClusterRun){n / 2, n > 1});
            assert_int_equal(save(f, f->io, map, ++sequence), 0);
            got = load_as(f, n * CLUSTER, BITS, "store", &report);
            assert_null(report.what);
            assert_true(is_equal(got, map));
            bitmap_free(got);
            bitmap_free(map);
        }
    }
}

static void
test_uniform_64_tib_is_written_and_read_without_its_bits(void **state)
{
    struct Fixture *f = *state;
    uint64_t size = UINT64_C(64) << 40;
    Bitmap *map = bitmap_new(size, BITS);
    struct BitmapFileReport report;

    for (unsigned dirty = 0; dirty < 2; dirty++) {
        FaultIo count;
        Bitmap *got;

        if (dirty) {
            bitmap_set_all(map);
        }
        fault_io_init(&count, f->io);
        assert_int_equal(save(f, &count.io, map, dirty + 1), 0);
        /* 75 groups: a table of each read and written, and a few more. */
        assert_in_range(atomic_load(&count.calls), 150, 165);
        got = load_as(f, size, BITS, "store", &report);
        assert_null(report.what);
        assert_int_equal(bitmap_count(got), bitmap_count(map));
        bitmap_free(got);
    }
    bitmap_free(map);
}

static void
test_larger_map_has_a_dirty_tail(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);
    struct BitmapFileReport report;
    Bitmap *got;

    scatter(map, &f->seed, 10);
    bitmap_clear_run(map, (struct ClusterRun){39990, 10});
    assert_int_equal(save(f, f->io, map, 1), 0);
    got = load_as(f, SIZE + 100000 * CLUSTER, BITS, "store", &report);
    assert_null(report.what);
    assert_true(covers(got, map));
    assert_int_equal(bitmap_get(got, 39998), false);
    assert_int_equal(bitmap_next_dirty(got, 39990), 39999);
    assert_int_equal(bitmap_next_clean(got, 39999), UINT64_MAX);
    assert_int_equal(bitmap_count(got), bitmap_count(map) + 100001);
    bitmap_free(got);

    got = load_as(f, SIZE / 2, BITS, "store", &report);
    assert_null(report.what);
    assert_int_equal(
        bitmap_count(got),
        bitmap_count_run(map, (struct ClusterRun){0, bitmap_clusters(got)}));
    bitmap_free(got);
    bitmap_free(map);
}

static void
test_file_of_something_else_is_all_dirty(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);
    struct BitmapFileReport report;
    Bitmap *got = load(f, &report);

    assert_string_equal(report.what, "there is no file");
    assert_int_equal(report.damaged_clusters, 40000);
    assert_int_equal(bitmap_count(got), 40000);
    bitmap_free(got);

    assert_int_equal(save(f, f->io, map, 7), 0);
    got = load_as(f, SIZE, BITS, "other", &report);
    assert_string_equal(report.what, "it belongs to another store");
    assert_int_equal(bitmap_count(got), 40000);
    bitmap_free(got);

    got = load_as(f, SIZE, BITS - 1, "store", &report);
    assert_string_equal(report.what, "it has clusters of another size");
    assert_int_equal(bitmap_count(got), bitmap_clusters(got));
    bitmap_free(got);
    bitmap_free(map);
}

/*
 * A file with three checkpoints behind it, so that all slots are in use.
 */
struct Image {
    uint8_t *bytes;
    size_t len;
};

static Bitmap *
make_file(struct Fixture *f, struct Image *before, struct Image *image)
{
    Bitmap *map = bitmap_new(SIZE, BITS);

    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        /* What gets dirty late is what an old image would lack: here a page
         * that was all clean before. */
        scatter(map, &f->seed, 20);
        bitmap_clear_run(map, (struct ClusterRun){30000, 10000});
        if (sequence == 3) {
            bitmap_set_run(map, (struct ClusterRun){35000, 10});
        }
        assert_int_equal(save(f, f->io, map, sequence), 0);
        if (sequence >= 2) {
            struct Image *to = sequence == 2 ? before : image;

            assert_int_equal(store_io_load(f->io, f->dirfd, "a", 1 << 20,
                                           (char **)&to->bytes, &to->len),
                             0);
        }
    }
    return map;
}

static void
put(struct Fixture *f, const void *bytes, size_t len, uint64_t at)
{
    int fd = f->io->ops->open(f->io, f->dirfd, "a", O_RDWR, 0);

    assert_true(fd >= 0);
    assert_int_equal(f->io->ops->pwrite(f->io, fd, bytes, len, at), len);
    assert_int_equal(f->io->ops->close(f->io, fd), 0);
}

static void
cut(struct Fixture *f, size_t len)
{
    int fd = f->io->ops->open(f->io, f->dirfd, "a", O_RDWR, 0);

    assert_int_equal(f->io->ops->ftruncate(f->io, fd, len), 0);
    assert_int_equal(f->io->ops->close(f->io, fd), 0);
}

static void
test_any_byte_changed_never_loses_a_dirty_cluster(void **state)
{
    struct Fixture *f = *state;
    struct Image before, image;
    Bitmap *map = make_file(f, &before, &image);

    for (size_t at = 0; at < image.len; at++) {
        uint8_t flipped =
            image.bytes[at] ^ (uint8_t)(1 + seed_below(&f->seed, 255));

        put(f, &flipped, 1, at);
        assert_loads_superset(f, map);
        put(f, &image.bytes[at], 1, at);
    }
    assert_loads_exactly(f, map, 3);
    bitmap_free(map);
    free(before.bytes);
    free(image.bytes);
}

static void
test_any_length_never_loses_a_dirty_cluster(void **state)
{
    struct Fixture *f = *state;
    struct Image before, image;
    Bitmap *map = make_file(f, &before, &image);

    for (size_t len = 0; len < image.len; len += 512) {
        cut(f, len);
        assert_loads_superset(f, map);
        cut(f, len / 4096 * 4096 + seed_below(&f->seed, 4096));
        assert_loads_superset(f, map);
        put(f, image.bytes, image.len, 0);
    }
    assert_loads_exactly(f, map, 3);
    bitmap_free(map);
    free(before.bytes);
    free(image.bytes);
}

/* @unit bytes at each place dropped, replaced by what was there at the
 * checkpoint before, or by what is elsewhere in the file. */
static void
replace_units(struct Fixture *f, const Bitmap *map, const struct Image *before,
              const struct Image *image, size_t unit)
{
    uint8_t *zeroes = test_calloc(1, unit);

    for (size_t at = 0; at + unit <= image->len; at += unit) {
        put(f, zeroes, unit, at);
        assert_loads_superset(f, map);
        if (at + unit <= before->len) {
            put(f, before->bytes + at, unit, at);
            assert_loads_superset(f, map);
        }
        for (unsigned i = 0; i < 8; i++) {
            size_t from = seed_below(&f->seed, image->len / unit) * unit;

            put(f, image->bytes + from, unit, at);
            assert_loads_superset(f, map);
        }
        put(f, image->bytes + at, unit, at);
    }
    test_free(zeroes);
}

static void
test_any_page_or_sector_replaced_never_loses_a_dirty_cluster(void **state)
{
    struct Fixture *f = *state;
    struct Image before, image;
    Bitmap *map = make_file(f, &before, &image);

    replace_units(f, map, &before, &image, 4096);
    replace_units(f, map, &before, &image, 512);
    assert_loads_exactly(f, map, 3);
    bitmap_free(map);
    free(before.bytes);
    free(image.bytes);
}

/* The header of the checkpoint before was not told that it is superseded, and
 * the newest one got lost: then the empty place has to tell. */
static void
test_lost_header_is_missed_without_the_other_knowing(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);
    uint8_t zeroes[4096] = "";
    FaultIo fault;

    fault_io_init(&fault, f->io);
    assert_int_equal(save(f, f->io, map, 1), 0);
    assert_int_equal(save(f, &fault.io, map, 2), 0);
    /* Two pages of bits more; the last call but one is the one to fail. */
    bitmap_set_run(map, (struct ClusterRun){100, 1});
    bitmap_set_run(map, (struct ClusterRun){35000, 1});
    fault_io_arm(&fault, atomic_load(&fault.calls) - 1 + 2, false, -EIO);
    assert_int_equal(save(f, &fault.io, map, 3), 0);
    assert_int_equal(fault_io_disarm(&fault), 1);
    assert_loads_exactly(f, map, 3);
    put(f, zeroes, sizeof(zeroes), 0);
    assert_loads_superset(f, map);
    bitmap_free(map);
}

static void
test_damage_costs_its_own_sector(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);
    struct BitmapFileReport report;
    Bitmap *got;

    bitmap_set_run(map, (struct ClusterRun){100, 1});
    assert_int_equal(save(f, f->io, map, 1), 0);
    put(f, "x", 1, bitmap_file_bits_at(0, 0) + 512 + 100);
    got = load(f, &report);
    assert_int_equal(report.damaged_clusters, 59 * 64);
    assert_int_equal(bitmap_count(got), 59 * 64 + 1);
    assert_int_equal(bitmap_next_dirty(got, 101), 59 * 64);
    bitmap_free(got);
    bitmap_free(map);
}

static void
test_unknown_feature_is_refused_and_left_alone(void **state)
{
    struct Fixture *f = *state;
    struct BitmapFile file = {
        .name = "a", .map = bitmap_new(SIZE, BITS), .uuid = "store"};
    struct BitmapFileReport report;
    struct BitmapFilePage page;
    uint8_t none[16] = "";
    int fd;

    assert_int_equal(save(f, f->io, file.map, 1), 0);
    fd = f->io->ops->open(f->io, f->dirfd, "a", O_RDWR, 0);
    bitmap_file_get_page(f->io, fd, 0, &page);
    for (unsigned i = 0; i < 8; i++) {
        page.sectors[i].header.incompat = htole32(4);
    }
    assert_int_equal(bitmap_file_put_page(f->io, fd, 0, &page,
                                          BITMAP_FILE_HEADER, 0, 1, none),
                     0);
    f->io->ops->close(f->io, fd);
    assert_int_equal(bitmap_file_load(f->io, f->dirfd, &file, &report),
                     -EPROTONOSUPPORT);
    assert_int_equal(bitmap_count(file.map), 40000);
    assert_int_equal(save(f, f->io, file.map, 2), -EPROTONOSUPPORT);
    bitmap_free(file.map);
}

/* After a save that was cut short, whatever it was. */
static void
assert_old_or_new(struct Fixture *f, const Bitmap *old, const Bitmap *new,
                  bool may_cost)
{
    struct BitmapFileReport report;
    Bitmap *got = load(f, &report);

    assert_true(may_cost || !report.what);
    if (!report.what) {
        assert_in_range(report.sequence, 1, 2);
        assert_true(is_equal(got, report.sequence == 1 ? old : new));
    }
    assert_true(report.sequence == 1 || covers(got, new));
    assert_true(report.sequence == 2 || covers(got, old));
    bitmap_free(got);
}

static void
save_with_fault(struct Fixture *f, FaultIo *fault, unsigned n, bool sticky,
                bool *more)
{
    Bitmap *old = bitmap_new(SIZE, BITS);
    Bitmap *new = bitmap_new(SIZE, BITS);
    int r;

    scatter(old, &f->seed, 30);
    bitmap_merge(new, old);
    scatter(new, &f->seed, 30);
    (void)unlinkat(f->dirfd, "a", 0);
    assert_int_equal(save(f, f->io, old, 1), 0);
    fault_io_arm(fault, n, sticky, -EIO);
    r = save(f, &fault->io, new, 2);
    *more = fault_io_disarm(fault) > 0;
    if (r == 0) {
        assert_loads_exactly(f, new, 2);
    } else {
        assert_int_equal(r, -EIO);
        /* A file that cannot be read and takes half of a write is the one
         * case that costs more than the checkpoint in progress. */
        assert_old_or_new(f, old, new, sticky && fault->is_torn);
    }
    assert_int_equal(save(f, f->io, new, 3), 0);
    assert_loads_exactly(f, new, 3);
    bitmap_free(old);
    bitmap_free(new);
}

static void
test_save_with_any_call_failing_leaves_old_or_new(void **state)
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
                save_with_fault(f, &fault, ++n, sticky, &more);
            }
            assert_in_range(n, 10, 20);
        }
    }
}

static void
test_first_save_with_any_call_failing_leaves_a_superset(void **state)
{
    struct Fixture *f = *state;
    unsigned n = 0;
    FaultIo fault;
    int r;

    fault_io_init(&fault, f->io);
    do {
        Bitmap *map = bitmap_new(SIZE, BITS);

        scatter(map, &f->seed, 30);
        (void)unlinkat(f->dirfd, "a", 0);
        fault_io_arm(&fault, ++n, true, -ENOSPC);
        r = save(f, &fault.io, map, 1);
        assert_loads_superset(f, map);
        bitmap_free(map);
    } while (fault_io_disarm(&fault));
    assert_int_equal(r, 0);
}

static void
test_load_with_any_call_failing_gives_a_superset(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);
    unsigned n = 0;
    FaultIo fault;

    scatter(map, &f->seed, 30);
    assert_int_equal(save(f, f->io, map, 1), 0);
    fault_io_init(&fault, f->io);
    for (unsigned sticky = 0; sticky < 2; sticky++, n = 0) {
        do {
            struct BitmapFile file = {
                .name = "a", .map = bitmap_new(SIZE, BITS), .uuid = "store"};
            struct BitmapFileReport report;

            fault_io_arm(&fault, ++n, sticky, -EIO);
            assert_int_equal(
                bitmap_file_load(&fault.io, f->dirfd, &file, &report), 0);
            assert_true(covers(file.map, map));
            bitmap_free(file.map);
        } while (fault_io_disarm(&fault));
    }
    bitmap_free(map);
}

static void
test_set_of_files_is_saved_as_one_checkpoint(void **state)
{
    struct Fixture *f = *state;
    struct BitmapFile set[2] = {
        {.name = "a", .map = bitmap_new(SIZE, BITS), .uuid = "store"},
        {.name = "b", .map = bitmap_new(SIZE, BITS - 2), .uuid = "store"},
    };

    scatter(set[0].map, &f->seed, 30);
    scatter(set[1].map, &f->seed, 30);
    assert_int_equal(bitmap_file_save(f->io, f->dirfd, set, 2, 9), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct BitmapFile file = set[i];
        struct BitmapFileReport report;

        file.map = bitmap_new(SIZE, bitmap_cluster_bits(set[i].map));
        assert_int_equal(bitmap_file_load(f->io, f->dirfd, &file, &report), 0);
        assert_null(report.what);
        assert_int_equal(report.sequence, 9);
        assert_true(is_equal(file.map, set[i].map));
        bitmap_free(file.map);
        bitmap_free(set[i].map);
    }
    assert_int_equal(bitmap_file_save(f->io, f->dirfd, NULL, 0, 10), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trips_are_exact),
        TEST(test_every_size_at_the_edge_of_a_sector_page_or_group_round_trips),
        TEST(test_uniform_64_tib_is_written_and_read_without_its_bits),
        TEST(test_larger_map_has_a_dirty_tail),
        TEST(test_file_of_something_else_is_all_dirty),
        TEST(test_any_byte_changed_never_loses_a_dirty_cluster),
        TEST(test_any_length_never_loses_a_dirty_cluster),
        TEST(test_any_page_or_sector_replaced_never_loses_a_dirty_cluster),
        TEST(test_lost_header_is_missed_without_the_other_knowing),
        TEST(test_damage_costs_its_own_sector),
        TEST(test_unknown_feature_is_refused_and_left_alone),
        TEST(test_save_with_any_call_failing_leaves_old_or_new),
        TEST(test_first_save_with_any_call_failing_leaves_a_superset),
        TEST(test_load_with_any_call_failing_gives_a_superset),
        TEST(test_set_of_files_is_saved_as_one_checkpoint),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
