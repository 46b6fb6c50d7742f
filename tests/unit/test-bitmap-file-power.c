/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-bitmap-file-power.c - the power goes while a checkpoint is written
 *
 * A StoreIo that remembers what was there before each write until the next
 * fdatasync. At the n-th call the power goes: of all that was not synced each
 * 512-byte sector is old or new, as the seed says, also of what the save
 * before left behind. Then the file must hold the checkpoint before or the one
 * in progress, exactly: a save never touches what the last one consists of,
 * and no header is written before all that it speaks of is durable.
 */
#include "bitmap/bitmap-file.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BITS    16
#define CLUSTER (UINT64_C(1) << BITS)
#define SIZE    (70000 * CLUSTER) /* three pages of bits */
#define PENDING 256

static uint64_t seed0;

struct Sector {
    uint64_t at;
    uint8_t old[512];
};

struct PowerIo {
    StoreIo io; /* first member */
    StoreIo *inner;
    struct Sector pending[PENDING];
    unsigned n_pending;
    unsigned calls;
    unsigned cut_at; /* from this call on all fail; 0 never */
};

static bool
is_out(StoreIo *io)
{
    struct PowerIo *p = (struct PowerIo *)io;

    p->calls++;
    return p->cut_at && p->calls >= p->cut_at;
}

static int
power_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    StoreIo *inner = ((struct PowerIo *)io)->inner;

    return is_out(io) ? -EIO
                      : inner->ops->open(inner, dirfd, name, flags, mode);
}

static int
power_close(StoreIo *io, int fd)
{
    StoreIo *inner = ((struct PowerIo *)io)->inner;

    return inner->ops->close(inner, fd);
}

static ssize_t
power_pread(StoreIo *io, int fd, void *buf, size_t len, uint64_t offset)
{
    StoreIo *inner = ((struct PowerIo *)io)->inner;

    return is_out(io) ? -EIO : inner->ops->pread(inner, fd, buf, len, offset);
}

/* The write that meets the cut is one of those that may be torn. */
static ssize_t
power_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    struct PowerIo *p = (struct PowerIo *)io;
    bool out = is_out(io);

    if (out && p->calls > p->cut_at) {
        return -EIO;
    }
    for (size_t at = 0; at < len; at += 512) {
        struct Sector *sector = &p->pending[p->n_pending++];

        assert_true(p->n_pending < PENDING);
        memset(sector->old, 0, sizeof(sector->old));
        sector->at = offset + at;
        assert_true(p->inner->ops->pread(p->inner, fd, sector->old, 512,
                                         sector->at) >= 0);
    }
    assert_int_equal(p->inner->ops->pwrite(p->inner, fd, buf, len, offset),
                     len);
    return out ? -EIO : (ssize_t)len;
}

static int
power_fdatasync(StoreIo *io, int fd)
{
    (void)fd;
    if (is_out(io)) {
        return -EIO;
    }
    ((struct PowerIo *)io)->n_pending = 0;
    return 0;
}

static int
power_fsync(StoreIo *io, int fd)
{
    (void)fd;
    return is_out(io) ? -EIO : 0;
}

static const struct StoreIoOps power_ops = {
    .open = power_open,
    .close = power_close,
    .pread = power_pread,
    .pwrite = power_pwrite,
    .fdatasync = power_fdatasync,
    .fsync = power_fsync,
};

/* Newest first, so that a sector written twice ends at its oldest content. One
 * sector is all old or all new. */
static void
lose_some(struct PowerIo *p, int dirfd, uint64_t seed)
{
    int fd = openat(dirfd, "a", O_RDWR | O_CLOEXEC);

    while (fd >= 0 && p->n_pending) {
        const struct Sector *sector = &p->pending[--p->n_pending];
        Seed coin = {seed ^ sector->at};

        if (seed_below(&coin, 2)) {
            assert_int_equal(pwrite(fd, sector->old, 512, (off_t)sector->at),
                             512);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void
scatter(Bitmap *map, Seed *seed)
{
    for (unsigned i = 0; i < 12; i++) {
        struct ClusterRun run = {seed_below(seed, 60000),
                                 seed_below(seed, 10000)};

        if (seed_below(seed, 2)) {
            bitmap_set_run(map, run);
        } else {
            bitmap_clear_run(map, run);
        }
    }
}

static bool
is_equal(const Bitmap *a, const Bitmap *b)
{
    for (uint64_t w = 0; w * 64 < bitmap_clusters(a); w++) {
        if (bitmap_word(a, w) != bitmap_word(b, w)) {
            return false;
        }
    }
    return true;
}

/* Returns which of the two the file holds. */
static bool
holds_new(int dirfd, const Bitmap *old, const Bitmap *new, uint64_t sequence)
{
    struct BitmapFile file = {.name = "a", .map = bitmap_new(SIZE, BITS)};
    struct BitmapFileReport report;
    bool is_new;

    assert_int_equal(bitmap_file_load(store_io_kernel(), dirfd, &file, &report),
                     0);
    is_new = report.sequence == sequence;
    if (sequence == 1 && !is_new) {
        assert_int_equal(report.damaged_clusters, 70000);
    } else {
        assert_null(report.what);
        assert_true(is_new || report.sequence == sequence - 1);
        assert_true(is_equal(file.map, is_new ? new : old));
    }
    bitmap_free(file.map);
    return is_new;
}

/* Saves until the power goes at call @cut_at of save number @last. */
static bool
one_life(int dirfd, struct PowerIo *p, uint64_t last, unsigned cut_at,
         Seed *seed)
{
    Bitmap *maps[2] = {bitmap_new(SIZE, BITS), bitmap_new(SIZE, BITS)};
    struct BitmapFile file = {.name = "a", .is_indexed = seed_below(seed, 2)};
    int r = 0;

    *p = (struct PowerIo){.io = {&power_ops}, .inner = store_io_kernel()};
    (void)unlinkat(dirfd, "a", 0);
    for (uint64_t sequence = 1; sequence <= last; sequence++) {
        file.map = maps[sequence & 1];
        scatter(file.map, seed);
        p->calls = 0;
        p->cut_at = sequence == last ? cut_at : 0;
        r = bitmap_file_save(&p->io, dirfd, &file, 1, sequence);
        assert_true(sequence == last || r == 0);
    }
    lose_some(p, dirfd, seed_next(seed));
    if (r == 0) {
        assert_true(holds_new(dirfd, maps[!(last & 1)], maps[last & 1], last));
    } else {
        holds_new(dirfd, maps[!(last & 1)], maps[last & 1], last);
    }
    bitmap_free(maps[0]);
    bitmap_free(maps[1]);
    return p->calls >= cut_at;
}

static void
test_power_cut_at_any_call_leaves_old_or_new_exactly(void **state)
{
    struct PowerIo *p = test_calloc(1, sizeof(*p));
    char path[] = "/tmp/weir-bitmap-power-XXXXXX";
    Seed seed = {seed0};
    int dirfd;

    (void)state;
    assert_non_null(mkdtemp(path));
    dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dirfd >= 0);
    for (unsigned i = 0; i < 150; i++) {
        unsigned cut_at = 1;

        while (one_life(dirfd, p, 1 + i % 4, cut_at, &seed)) {
            cut_at++;
        }
        assert_in_range(cut_at, 8, 20);
    }
    assert_int_equal(unlinkat(dirfd, "a", 0), 0);
    assert_int_equal(rmdir(path), 0);
    close(dirfd);
    test_free(p);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_cut_at_any_call_leaves_old_or_new_exactly),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
