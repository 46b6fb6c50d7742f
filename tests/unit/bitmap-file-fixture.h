/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-file-fixture.h - a directory with a checkpoint in it
 *
 * Purpose: what the tests of bitmap-file.c share: a directory per test, saving
 *          and loading one bitmap as "a", comparing two bitmaps.
 * Threads: the test's.
 */
#pragma once

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

static uint64_t seed0;  /* set by main() */
static bool is_indexed; /* likewise: all tests are run with each of the two */

struct Fixture {
    StoreIo *io;
    char path[64];
    int dirfd;
    Seed seed;
};

static inline int
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

static inline int
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

static inline void
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

static inline int
save(struct Fixture *f, StoreIo *io, Bitmap *map, uint64_t sequence)
{
    struct BitmapFile file = {
        .name = "a", .map = map, .uuid = "store", .is_indexed = is_indexed};

    return bitmap_file_save(io, f->dirfd, &file, 1, sequence);
}

static inline Bitmap *
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

static inline Bitmap *
load(struct Fixture *f, struct BitmapFileReport *report)
{
    return load_as(f, SIZE, BITS, "store", report);
}

/* Is all that is dirty in @less dirty in @more? */
static inline bool
covers(const Bitmap *more, const Bitmap *less)
{
    for (uint64_t w = 0; w * 64 < bitmap_clusters(less); w++) {
        if (bitmap_word(less, w) & ~bitmap_word(more, w)) {
            return false;
        }
    }
    return true;
}

static inline bool
is_equal(const Bitmap *a, const Bitmap *b)
{
    return bitmap_count(a) == bitmap_count(b) && covers(a, b);
}

static inline void
assert_loads_superset(struct Fixture *f, const Bitmap *truth)
{
    struct BitmapFileReport report;
    Bitmap *got = load(f, &report);

    assert_true(covers(got, truth));
    assert_true(bitmap_count(got) <=
                bitmap_count(truth) + report.damaged_clusters);
    bitmap_free(got);
}

static inline void
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static inline int
run_both(int (*run)(void))
{
    int failed = run();

    is_indexed = true;
    return failed + run();
}
