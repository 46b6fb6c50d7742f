/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-bitmap-file.c - checkpoints that nothing happened to
 *
 * What is loaded is exactly what was saved, at all sizes at the edge of a
 * sector, a page and a group; a larger disk has a dirty tail; what is of
 * another store, granularity or format is not believed. Damage is
 * test-bitmap-file-damage.c's, power cuts are test-bitmap-file-power.c's.
 */
#include "bitmap-file-fixture.h"

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

/* As is_equal(), of much that is clean. */
static bool
is_same(const Bitmap *a, const Bitmap *b)
{
    struct ClusterRun one = {0, 0}, other = {0, 0};
    bool more = true;

    while (more) {
        more = bitmap_next_run(a, one.first + one.count, UINT64_MAX, &one);
        if (more != bitmap_next_run(b, other.first + other.count, UINT64_MAX,
                                    &other) ||
            (more && (one.first != other.first || one.count != other.count))) {
            return false;
        }
    }
    return true;
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
        /* 75 groups: a table of each, written and at the second time read
         * before, and a few more calls. With an index that is all. */
        assert_in_range(atomic_load(&count.calls),
                        is_indexed ? 10 : 75 + dirty * 75,
                        is_indexed ? 20 : 90 + dirty * 75);
        got = load_as(f, size, BITS, "store", &report);
        assert_null(report.what);
        assert_int_equal(bitmap_count(got), bitmap_count(map));
        bitmap_free(got);
    }
    bitmap_free(map);
}

/* Groups of two index pages and more: clean, dirty, mixed, and back. */
static void
test_fine_grains_on_a_large_disk_round_trip(void **state)
{
    struct Fixture *f = *state;
    const uint64_t size = (UINT64_C(7) << 40) - 512;
    const uint64_t group = UINT64_C(472) * 30208;
    Bitmap *map = bitmap_new(size, 9);
    uint64_t n = bitmap_clusters(map);
    const uint64_t at[] = {0, group, 471 * group, 472 * group, n - 1};

    for (unsigned sequence = 1; sequence < 12; sequence++) {
        struct ClusterRun run = {at[sequence % 5], 1 + sequence % 3 * 30208};
        struct BitmapFileReport report;
        Bitmap *got;

        run.count = run.count < n - run.first ? run.count : n - run.first;
        if (sequence > 8) {
            bitmap_clear_run(map, run);
        } else {
            bitmap_set_run(map, run);
        }
        if (sequence == 5) {
            bitmap_set_run(map, (struct ClusterRun){3 * group, group});
        }
        if (sequence == 7) {
            bitmap_clear_run(map, (struct ClusterRun){3 * group, group});
        }
        assert_int_equal(save(f, f->io, map, sequence), 0);
        got = load_as(f, size, 9, "store", &report);
        assert_null(report.what);
        assert_true(is_same(got, map));
        bitmap_free(got);
    }
    bitmap_free(map);
}

/* A file of the other kind is not built upon, and its pages are not believed. */
static void
test_file_of_the_other_kind_is_written_anew(void **state)
{
    struct Fixture *f = *state;
    Bitmap *map = bitmap_new(SIZE, BITS);

    scatter(map, &f->seed, 30);
    for (unsigned sequence = 1; sequence < 7; sequence++) {
        assert_int_equal(save(f, f->io, map, sequence), 0);
        assert_loads_exactly(f, map, sequence);
        is_indexed = !is_indexed;
    }
    bitmap_free(map);
}

static unsigned writes;

static ssize_t
counting_pwrite(StoreIo *io, int fd, const void *buf, size_t len,
                uint64_t offset)
{
    writes++;
    return store_io_kernel()->ops->pwrite(io, fd, buf, len, offset);
}

/* Both pages are mixed; what changes is written, and found as it was. */
static void
test_unchanged_pages_are_left_out(void **state)
{
    struct Fixture *f = *state;
    struct StoreIoOps ops = *f->io->ops;
    StoreIo counting = {&ops};
    Bitmap *map = bitmap_new(SIZE, BITS);
    unsigned fixed;

    ops.pwrite = counting_pwrite;
    bitmap_set_run(map, (struct ClusterRun){7, 3});
    bitmap_set_run(map, (struct ClusterRun){35000, 3});
    assert_int_equal(save(f, &counting, map, 1), 0);
    writes = 0;
    assert_int_equal(save(f, &counting, map, 2), 0);
    fixed = writes;
    assert_loads_exactly(f, map, 2);
    for (unsigned sequence = 3; sequence < 40; sequence++) {
        struct ClusterRun run = {seed_below(&f->seed, 2) ? 8 : 35001,
                                 1 + sequence % 2};
        bool changes = seed_below(&f->seed, 2);

        if (changes && !bitmap_clear_run(map, run)) {
            bitmap_set_run(map, run);
        }
        writes = 0;
        assert_int_equal(save(f, &counting, map, sequence), 0);
        assert_int_equal(writes, fixed + changes * (1u + is_indexed));
        assert_loads_exactly(f, map, sequence);
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

static void
test_set_of_files_is_saved_as_one_checkpoint(void **state)
{
    struct Fixture *f = *state;
    struct BitmapFile set[2] = {
        {.name = "a", .map = bitmap_new(SIZE, BITS), .uuid = "store"},
        {.name = "b",
         .map = bitmap_new(SIZE, BITS - 2),
         .uuid = "store",
         .is_indexed = is_indexed},
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

static int
run(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trips_are_exact),
        TEST(test_every_size_at_the_edge_of_a_sector_page_or_group_round_trips),
        TEST(test_uniform_64_tib_is_written_and_read_without_its_bits),
        TEST(test_fine_grains_on_a_large_disk_round_trip),
        TEST(test_file_of_the_other_kind_is_written_anew),
        TEST(test_unchanged_pages_are_left_out),
        TEST(test_larger_map_has_a_dirty_tail),
        TEST(test_file_of_something_else_is_all_dirty),
        TEST(test_unknown_feature_is_refused_and_left_alone),
        TEST(test_set_of_files_is_saved_as_one_checkpoint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

int
main(int argc, char **argv)
{
    seed0 = seed_from_args(argc, argv);
    return run_both(run);
}
