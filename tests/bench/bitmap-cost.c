/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-cost.c - what the dirty map costs, on a disk of 64 TiB
 *
 * Prints figures and judges nothing: time belongs to the machine. All on 2^30
 * clusters of 64 KiB. "random" marks all over the disk, first into memory that
 * nobody touched (the kernel's page faults are in it), then again into memory
 * that is there; "hot" marks within 1 GiB of the disk, as a guest at work
 * does. "write" is what a guest's write costs in the disk map: begin and end,
 * two marks, two locks.
 */
#include "bitmap/bitmap-file.h"
#include "bitmap/disk-map.h"
#include "bitmap/intent.h"
#include "tests/lib/seed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SIZE  (UINT64_C(64) << 40)
#define BITS  16
#define TIMES 2000000u

static double
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void
print_each(const char *what, double since)
{
    printf("%-44s %8.1f ns\n", what, (now_ns() - since) / TIMES);
}

static void
print_once(const char *what, double since)
{
    printf("%-44s %8.2f ms\n", what, (now_ns() - since) / 1e6);
}

static void
mark(Bitmap *map, uint64_t within, const char *what)
{
    Seed seed = {1};
    double since = now_ns();

    for (unsigned i = 0; i < TIMES; i++) {
        bitmap_set_run(map, (struct ClusterRun){seed_below(&seed, within), 1});
    }
    print_each(what, since);
}

static void
search(const Bitmap *map, const char *what,
       uint64_t (*next)(const Bitmap *map, uint64_t from))
{
    uint64_t n = bitmap_clusters(map);
    uint64_t sum = 0;
    Seed seed = {2};
    double since = now_ns();

    for (unsigned i = 0; i < TIMES; i++) {
        sum += next(map, seed_below(&seed, n));
    }
    print_each(what, since);
    if (sum == 1) {
        puts("never");
    }
}

static void
measure_bitmap(void)
{
    Bitmap *map = bitmap_new(SIZE, BITS);
    uint64_t n = bitmap_clusters(map);
    double since;

    mark(map, n, "mark, random, untouched memory");
    search(map, "next dirty, 2 M scattered", bitmap_next_dirty);
    bitmap_clear_run(map, (struct ClusterRun){0, n});
    mark(map, n, "mark, random");
    mark(map, n, "mark, random, dirty already");
    mark(map, n / 64, "mark, random on 1 TiB of it");
    mark(map, 16384, "mark, hot");
    bitmap_clear_all(map);
    bitmap_set_run(map, (struct ClusterRun){n - 1, 1});
    search(map, "next dirty, one at the far end", bitmap_next_dirty);
    since = now_ns();
    bitmap_set_all(map);
    print_once("set_all, untouched memory", since);
    since = now_ns();
    bitmap_set_all(map);
    print_once("set_all, again", since);
    bitmap_clear_run(map, (struct ClusterRun){n - 1, 1});
    search(map, "next clean, one at the far end", bitmap_next_clean);
    since = now_ns();
    bitmap_clear_run(map, (struct ClusterRun){0, n});
    print_once("clear_run of the whole disk", since);
    since = now_ns();
    bitmap_clear_all(map);
    print_once("clear_all, memory given back", since);
    bitmap_free(map);
}

static void
on_granted(RangeHold *hold)
{
    (void)hold;
}

static void
measure_writes(DiskMap *map, uint64_t within, const char *what)
{
    Seed seed = {3};
    double since = now_ns();

    for (unsigned i = 0; i < TIMES; i++) {
        RangeHold hold = {.offset = seed_below(&seed, within) & ~UINT64_C(4095),
                          .len = 4096,
                          .kind = RANGE_WRITE,
                          .granted = on_granted};

        disk_map_begin(map, &hold, i);
        disk_map_end(map, &hold, i);
    }
    print_each(what, since);
}

/* The same with tracking on, and a round of the keeper's over all of it. */
static void
measure_tracked(DiskMap *untracked)
{
    DiskMap *map = disk_map_new(disk_map_size_bytes(untracked), BITS);
    Bitmap *hot = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    Bitmap *candidates = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    Bitmap *cooled = bitmap_new(SIZE, INTENT_EXTENT_BITS);
    double since;

    bitmap_set_all(hot);
    if (disk_map_track(map, hot) == 0) {
        measure_writes(map, UINT64_C(1) << 30, "write, hot, tracked");
        since = now_ns();
        disk_map_cool_begin(map, candidates);
        print_once("cool_begin", since);
        since = now_ns();
        disk_map_cool_end(map, candidates, cooled);
        print_once("cool_end", since);
    }
    bitmap_free(candidates);
    bitmap_free(cooled);
    disk_map_free(map);
}

static void
measure_disk_map(void)
{
    DiskMap *map = disk_map_new(SIZE, BITS);
    double since;

    measure_writes(map, UINT64_C(1) << 30, "write, hot");
    measure_tracked(map);
    measure_writes(map, SIZE / 64, "write, random on 1 TiB of it");
    measure_writes(map, SIZE, "write, random");
    disk_map_seal(map);
    measure_writes(map, SIZE, "write, random, one generation sealed");
    since = now_ns();
    disk_map_mark_all(map, 1);
    print_once("mark_all in slices", since);
    since = now_ns();
    disk_map_seal(map);
    print_once("seal", since);
    since = now_ns();
    disk_map_settle(map, (struct ClusterRun){0, disk_map_clusters(map)});
    print_once("settle of the whole disk", since);
    since = now_ns();
    disk_map_retire(map);
    print_once("retire", since);
    disk_map_free(map);
}

static void
measure_file(const char *what, unsigned bits, unsigned scattered, bool all)
{
    struct BitmapFile file = {.name = "bitmap-cost.tmp",
                              .map = bitmap_new(SIZE, bits),
                              .is_indexed = bits != BITS};
    struct BitmapFileReport report;
    StoreIo *io = store_io_kernel();
    int dirfd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Seed seed = {4};
    double since;
    int r;

    if (all) {
        bitmap_set_all(file.map);
    }
    for (unsigned i = 0; i < scattered; i++) {
        uint64_t cluster = seed_below(&seed, bitmap_clusters(file.map));

        bitmap_set_run(file.map, (struct ClusterRun){cluster, 1});
    }
    since = now_ns();
    r = bitmap_file_save(io, dirfd, &file, 1, 1);
    printf("%s: ", what);
    print_once("save", since);
    bitmap_clear_all(file.map);
    since = now_ns();
    r = r < 0 ? r : bitmap_file_load(io, dirfd, &file, &report);
    printf("%s: ", what);
    print_once(r < 0 ? "FAILED" : "load", since);
    io->ops->unlink(io, dirfd, file.name, 0);
    close(dirfd);
    bitmap_free(file.map);
}

int
main(void)
{
    measure_bitmap();
    measure_disk_map();
    measure_file("checkpoint, all clean ", BITS, 0, false);
    measure_file("checkpoint, all dirty ", BITS, 0, true);
    measure_file("checkpoint, 1000 pages", BITS, 1000, false);
    measure_file("512 B grains, all clean ", 9, 0, false);
    measure_file("512 B grains, 1000 pages", 9, 1000, false);
    return 0;
}
