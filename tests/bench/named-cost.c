/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * named-cost.c - what named bitmaps cost, on a disk of 64 TiB
 *
 * Prints CPU time and judges nothing: it belongs to the machine. "write" is
 * what a guest's write costs in the disk map, begin and end, with none, one and
 * ten bitmaps that record, and then what each of them adds: "hot" within 1 GiB
 * of the disk, as a guest at work does; "random" all over 1 TiB of it, where
 * most words are in nobody's cache; "first" the same, where what is marked was
 * clean. Then what is done to all of one, with one grain in a thousand dirty,
 * and with all of them.
 */
#include "bitmap/named.h"
#include "tests/lib/seed.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SIZE  (UINT64_C(64) << 40)
#define TIMES 1000000u

struct Stage {
    DiskMap *map;
    NamedBitmaps *set;
    unsigned count;
};

static double
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void
print_once(const char *what, double since)
{
    printf("%-44s %8.3f ms\n", what, (now_ns() - since) / 1e6);
}

static void
must(enum NamedResult result)
{
    if (result != NAMED_OK) {
        fprintf(stderr, "named bitmap: %d\n", result);
        exit(1);
    }
}

static void
add(struct Stage *stage, const char *name, unsigned grain_bits, bool is_off)
{
    const struct NamedSpec spec = {.name = name,
                                   .id = ++stage->count,
                                   .grain_bits = grain_bits,
                                   .is_disabled = is_off};

    must(named_add(stage->set, &spec, NULL));
}

static void
stage_init(struct Stage *stage)
{
    *stage = (struct Stage){.map = disk_map_new(SIZE, 16)};
    stage->set = stage->map ? named_bitmaps_new(stage->map) : NULL;
    if (!stage->set) {
        exit(1);
    }
}

static void
stage_deinit(struct Stage *stage)
{
    named_bitmaps_free(stage->set);
    disk_map_free(stage->map);
}

static void
on_granted(RangeHold *hold)
{
    (void)hold;
}

static double
write_ns(struct Stage *stage, uint64_t within)
{
    Seed seed = {3};
    double since = now_ns();

    for (unsigned i = 0; i < TIMES; i++) {
        RangeHold hold = {.offset = seed_below(&seed, within) & ~UINT64_C(4095),
                          .len = 4096,
                          .kind = RANGE_WRITE,
                          .granted = on_granted};

        disk_map_begin(stage->map, &hold, i);
        disk_map_end(stage->map, &hold, i);
    }
    return (now_ns() - since) / TIMES;
}

/* A write with @count bitmaps of @grain_bits: first, then hot, then random. */
static void
measure_writes(unsigned count, unsigned grain_bits, double none[3])
{
    static const char *const whats[] = {"first", "random", "hot"};
    double each[3];
    struct Stage stage;

    stage_init(&stage);
    for (unsigned i = 0; i < count; i++) {
        char name[16];

        snprintf(name, sizeof(name), "b%u", i);
        add(&stage, name, grain_bits, false);
    }
    each[0] = write_ns(&stage, SIZE / 64);
    each[1] = write_ns(&stage, SIZE / 64);
    (void)write_ns(&stage, UINT64_C(1) << 30);
    each[2] = write_ns(&stage, UINT64_C(1) << 30);
    for (unsigned i = 0; i < 3; i++) {
        printf("write, %6s, %2u of %7llu bytes %18.1f ns", whats[i], count,
               (unsigned long long)(UINT64_C(1) << grain_bits), each[i]);
        if (count) {
            printf(", each adds %7.1f ns", (each[i] - none[i]) / count);
        } else {
            none[i] = each[i];
        }
        printf("\n");
    }
    stage_deinit(&stage);
}

static void
measure_list(struct Stage *stage)
{
    struct NamedFigures figures;
    uint64_t sum = 0;
    double since = now_ns();

    for (unsigned i = 0; named_at(stage->set, i, &figures); i++) {
        sum += figures.count_bytes;
    }
    print_once("list", since);
    printf("  (dirty: %.1f GiB in all)\n", (double)sum / (1 << 30));
}

static void
measure_all(struct Stage *stage, const char *what)
{
    const char *from = "a";
    DiskMap *job = disk_map_new(SIZE, 16);
    Bitmap *bits, *later;
    NamedBitmap *frozen;
    double since;

    printf("-- %s\n", what);
    since = now_ns();
    must(named_merge(stage->set, "same", &from, 1));
    print_once("merge, untouched memory", since);
    since = now_ns();
    must(named_merge(stage->set, "same", &from, 1));
    print_once("merge, again", since);
    since = now_ns();
    must(named_merge(stage->set, "coarse", &from, 1));
    print_once("merge into 1 MiB grains", since);
    measure_list(stage);
    since = now_ns();
    if (named_copy(stage->set, 1, &bits, &later) == 0) {
        print_once("copy for a checkpoint", since);
        bitmap_free(bits);
    }
    since = now_ns();
    must(named_freeze(stage->set, "a", &frozen));
    print_once("freeze", since);
    since = now_ns();
    named_merge_into(frozen, job, 1);
    print_once("merge into a job's map", since);
    since = now_ns();
    named_thaw(frozen, NAMED_OLD, NULL);
    print_once("thaw, old", since);
    since = now_ns();
    must(named_clear(stage->set, "same"));
    print_once("clear", since);
    must(named_clear(stage->set, "coarse"));
    disk_map_free(job);
}

int
main(void)
{
    double none[3] = {0};
    struct Stage stage;
    Seed seed = {5};

    measure_writes(0, 16, none);
    measure_writes(1, 16, none);
    measure_writes(10, 16, none);
    measure_writes(10, 12, none);
    stage_init(&stage);
    add(&stage, "a", 16, true);
    add(&stage, "same", 16, true);
    add(&stage, "coarse", 20, true);
    for (unsigned i = 0; i < 1u << 20; i++) {
        must(named_mark(stage.set, "a", seed_below(&seed, SIZE), 1));
    }
    measure_all(&stage, "64 KiB grains, one in a thousand dirty");
    must(named_mark(stage.set, "a", 0, SIZE));
    measure_all(&stage, "64 KiB grains, all of them dirty");
    stage_deinit(&stage);
    return 0;
}
