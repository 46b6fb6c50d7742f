/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-bitmap-file-damage.c - checkpoints that something happened to
 *
 * What is loaded must never be less than what was saved: every byte changed,
 * every length cut, every page and sector zeroed, swapped with an older copy
 * of itself or with another one, every storage call of a save failing.
 */
#include "bitmap-file-fixture.h"

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
    /* Two pages of bits more, and a table that was not there; the last call but one is the one to fail. */
    bitmap_set_run(map, (struct ClusterRun){100, 1});
    bitmap_set_run(map, (struct ClusterRun){35000, 1});
    fault_io_arm(&fault, atomic_load(&fault.calls) - 1 + 2 + is_indexed, false,
                 -EIO);
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
    put(f, "x", 1, bitmap_file_bits_in(is_indexed, 0, 0) + 512 + 100);
    got = load(f, &report);
    assert_int_equal(report.damaged_clusters, 59 * 64);
    assert_int_equal(bitmap_count(got), 59 * 64 + 1);
    assert_int_equal(bitmap_next_dirty(got, 101), 59 * 64);
    bitmap_free(got);
    bitmap_free(map);
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

static int
run(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_any_byte_changed_never_loses_a_dirty_cluster),
        TEST(test_any_length_never_loses_a_dirty_cluster),
        TEST(test_any_page_or_sector_replaced_never_loses_a_dirty_cluster),
        TEST(test_lost_header_is_missed_without_the_other_knowing),
        TEST(test_damage_costs_its_own_sector),
        TEST(test_save_with_any_call_failing_leaves_old_or_new),
        TEST(test_first_save_with_any_call_failing_leaves_a_superset),
        TEST(test_load_with_any_call_failing_gives_a_superset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

int
main(int argc, char **argv)
{
    seed0 = seed_from_args(argc, argv);
    return run_both(run);
}
