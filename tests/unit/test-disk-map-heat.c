/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-disk-map-heat.c - hot and cold extents beside a model of plain arrays
 *
 * Seeded steps: writes, pins and punches begin and end, what is cold is
 * heated, a cooling begins and ends some steps later, the disk grows. After
 * each step the map says of every extent what the model says.
 */
#include "bitmap/disk-map.h"
#include "bitmap/intent.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <string.h>

#define MAX    300
#define EXTENT (UINT64_C(1) << INTENT_EXTENT_BITS)
#define BITS   16
#define HOLDS  10

static uint64_t seed0;

struct TestHold {
    RangeHold hold;
    bool is_used, is_parked;
    struct Model *model;
};

struct Model {
    DiskMap *map;
    uint64_t n; /* extents */
    bool hot[MAX], touched[MAX], candidate[MAX];
    bool is_cooling;
    Bitmap *candidates, *cooled;
    struct TestHold holds[HOLDS];
    Seed seed;
};

static struct ClusterRun
extents(const RangeHold *hold)
{
    return run_outward(hold->offset, hold->len, INTENT_EXTENT_BITS);
}

static void
touch(struct Model *m, const RangeHold *hold)
{
    struct ClusterRun run = extents(hold);

    for (uint64_t i = run.first;
         range_kind_writes(hold->kind) && i < run.first + run.count; i++) {
        m->touched[i] = true;
    }
}

static void
on_granted(RangeHold *hold)
{
    struct TestHold *t = (struct TestHold *)hold;

    t->is_parked = false;
    touch(t->model, hold);
}

static bool
model_is_hot(const struct Model *m, const RangeHold *hold)
{
    struct ClusterRun run = extents(hold);
    bool is_hot = true;

    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        is_hot = is_hot && m->hot[i];
    }
    return is_hot;
}

static void
step_hold(struct Model *m)
{
    struct TestHold *t = &m->holds[seed_below(&m->seed, HOLDS)];
    enum DiskMapBegin begin;
    bool is_hot;

    if (t->is_used) {
        if (!t->is_parked) {
            touch(m, &t->hold);
        }
        t->is_used = false;
        disk_map_end(m->map, &t->hold, 1);
        return;
    }
    *t = (struct TestHold){.model = m};
    t->hold.kind = (enum RangeKind)seed_below(&m->seed, RANGE_KINDS);
    t->hold.granted = on_granted;
    t->hold.offset = seed_below(&m->seed, m->n * EXTENT);
    t->hold.len =
        seed_below(&m->seed, seed_below(&m->seed, 4) ? EXTENT : 20 * EXTENT);
    t->hold.len = t->hold.len < m->n * EXTENT - t->hold.offset
                      ? t->hold.len
                      : m->n * EXTENT - t->hold.offset;
    begin = disk_map_begin(m->map, &t->hold, 1);
    is_hot = model_is_hot(m, &t->hold) || !range_kind_writes(t->hold.kind);
    assert_int_equal(begin == DISK_MAP_COLD, !is_hot);
    t->is_used = begin != DISK_MAP_COLD;
    t->is_parked = begin == DISK_MAP_PARKED;
    if (begin == DISK_MAP_BEGUN) {
        touch(m, &t->hold);
    }
}

static void
step_heat(struct Model *m)
{
    struct ClusterRun run = {seed_below(&m->seed, m->n),
                             1 + seed_below(&m->seed, 40)};

    run.count = run.count < m->n - run.first ? run.count : m->n - run.first;
    disk_map_heat(m->map, run);
    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        m->hot[i] = m->touched[i] = true;
    }
}

static void
step_cool_begin(struct Model *m)
{
    uint64_t found = 0;

    if (m->is_cooling) {
        return;
    }
    m->candidates = bitmap_new(m->n * EXTENT, INTENT_EXTENT_BITS);
    m->cooled = bitmap_new(m->n * EXTENT, INTENT_EXTENT_BITS);
    m->is_cooling = true;
    memset(m->candidate, 0, sizeof(m->candidate));
    for (uint64_t i = 0; i < m->n; i++) {
        m->candidate[i] = m->hot[i] && !m->touched[i];
        m->touched[i] = false;
        found += m->candidate[i];
    }
    assert_int_equal(disk_map_cool_begin(m->map, m->candidates), found);
}

static bool
has_writer(const struct Model *m, uint64_t extent)
{
    bool found = false;

    for (unsigned i = 0; i < HOLDS; i++) {
        const struct TestHold *t = &m->holds[i];
        struct ClusterRun run = extents(&t->hold);

        found |= t->is_used && !t->is_parked &&
                 range_kind_writes(t->hold.kind) && extent >= run.first &&
                 extent < run.first + run.count;
    }
    return found;
}

static void
step_cool_end(struct Model *m)
{
    if (!m->is_cooling) {
        return;
    }
    disk_map_cool_end(m->map, m->candidates, m->cooled);
    for (uint64_t i = 0; i < bitmap_clusters(m->cooled); i++) {
        bool is_cooled = m->candidate[i] && !m->touched[i] && !has_writer(m, i);

        assert_int_equal(bitmap_get(m->cooled, i), is_cooled);
        m->hot[i] = m->hot[i] && !is_cooled;
    }
    bitmap_free(m->candidates);
    bitmap_free(m->cooled);
    m->is_cooling = false;
}

static void
step_grow(struct Model *m)
{
    if (m->n < MAX && !seed_below(&m->seed, 20)) {
        m->n++;
        assert_int_equal(disk_map_grow(m->map, m->n * EXTENT, 1), 0);
    }
}

static void
check(struct Model *m)
{
    uint64_t words[MAX / 64 + 2] = {0};
    size_t count = disk_map_hot_words(m->map, 0, words, MAX / 64 + 2);
    struct DiskMapFigures figures;
    uint64_t hot = 0;

    assert_int_equal(count, (m->n + 63) / 64);
    for (uint64_t i = 0; i < m->n; i++) {
        assert_int_equal(words[i / 64] >> (i & 63) & 1, m->hot[i]);
        hot += m->hot[i];
    }
    disk_map_figures(m->map, &figures);
    assert_int_equal(figures.hot_extents, hot);
}

static void
test_extents_equal_model_after_every_step(void **state)
{
    static void (*const steps[])(struct Model *) = {
        step_hold, step_hold,       step_hold,     step_hold,
        step_heat, step_cool_begin, step_cool_end, step_grow};
    struct Model *m = calloc(1, sizeof(*m));

    (void)state;
    m->n = 200;
    m->seed.state = seed0;
    m->map = disk_map_new(m->n * EXTENT, BITS);
    assert_int_equal(
        disk_map_track(m->map, bitmap_new(m->n * EXTENT, INTENT_EXTENT_BITS)),
        0);
    for (unsigned i = 0; i < 30000; i++) {
        steps[seed_below(&m->seed, sizeof(steps) / sizeof(steps[0]))](m);
        check(m);
    }
    for (unsigned i = 0; i < HOLDS; i++) {
        if (m->holds[i].is_used) {
            disk_map_end(m->map, &m->holds[i].hold, 1);
        }
    }
    step_cool_end(m);
    disk_map_free(m->map);
    free(m);
}

/* What is cold costs a write everything: neither range nor mark is taken. */
static void
test_cold_takes_nothing(void **state)
{
    DiskMap *map = disk_map_new(8 * EXTENT, BITS);
    RangeHold hold = {.offset = EXTENT - 1, .len = 2, .kind = RANGE_WRITE};
    struct DiskMapFigures figures;

    (void)state;
    assert_true(disk_map_is_hot(map, 0, 8 * EXTENT));
    assert_false(disk_map_is_tracked(map));
    assert_int_equal(
        disk_map_track(map, bitmap_new(8 * EXTENT, INTENT_EXTENT_BITS)), 0);
    assert_true(disk_map_is_tracked(map));
    disk_map_heat(map, (struct ClusterRun){0, 1});
    assert_false(disk_map_is_hot(map, EXTENT - 1, 2));
    assert_int_equal(disk_map_begin(map, &hold, 1), DISK_MAP_COLD);
    disk_map_figures(map, &figures);
    assert_int_equal(figures.holds + figures.parked, 0);
    assert_int_equal(figures.dirty_clusters, 0);
    disk_map_heat(map, (struct ClusterRun){1, 1});
    assert_int_equal(disk_map_begin(map, &hold, 1), DISK_MAP_BEGUN);
    disk_map_figures(map, &figures);
    assert_int_equal(figures.dirty_clusters, 2);
    disk_map_end(map, &hold, 1);
    disk_map_free(map);
}

/* 64 TiB: what a keeper does every few seconds goes in slices. */
static void
test_a_large_disk_cools_whole(void **state)
{
    uint64_t size = UINT64_C(64) << 40;
    uint64_t n = size >> INTENT_EXTENT_BITS;
    DiskMap *map = disk_map_new(size, BITS);
    Bitmap *hot = bitmap_new(size, INTENT_EXTENT_BITS);
    Bitmap *candidates = bitmap_new(size, INTENT_EXTENT_BITS);
    Bitmap *cooled = bitmap_new(size, INTENT_EXTENT_BITS);
    RangeHold hold = {.offset = size - 1, .len = 1, .kind = RANGE_PUNCH};

    (void)state;
    bitmap_set_all(hot);
    assert_int_equal(disk_map_track(map, hot), 0);
    assert_int_equal(disk_map_cool_begin(map, candidates), n);
    assert_int_equal(disk_map_begin(map, &hold, 1), DISK_MAP_BEGUN);
    assert_int_equal(disk_map_cool_end(map, candidates, cooled), n - 1);
    assert_false(disk_map_is_hot(map, size / 2, 1));
    assert_true(disk_map_is_hot(map, size - 1, 1));
    disk_map_end(map, &hold, 1);
    bitmap_free(candidates);
    bitmap_free(cooled);
    disk_map_free(map);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extents_equal_model_after_every_step),
        cmocka_unit_test(test_cold_takes_nothing),
        cmocka_unit_test(test_a_large_disk_cools_whole),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
