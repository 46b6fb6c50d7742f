/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-disk-map-record.c - recorders beside plain arrays of bools
 *
 * Seeded steps, and after each of them every bit of every recorder is compared:
 * guest writes begin and end in any order, wait for pins and punches and are
 * granted; discards and rollbacks; marks that are none of a recorder's business;
 * recorders come, go, are idle, begin anew; the disk grows. What is marked is
 * marked exactly: nothing too little, and nothing more than the grains that a
 * change touches.
 */
#include "bitmap/disk-map.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <string.h>

#define BITS      12
#define CLUSTER   (UINT64_C(1) << BITS)
#define SIZE_MOST (400 * CLUSTER)
#define HOLDS     10
#define RECORDERS 6
#define STEPS     4000

static uint64_t seed0;

struct TestRecorder {
    DiskMapRecorder recorder;
    bool is_attached;
    bool bits[SIZE_MOST >> 9];
    bool job[SIZE_MOST >> 9];
};

struct TestHold {
    RangeHold hold; /* first: on_granted() casts */
    bool is_used;
    bool is_parked;
    struct Model *model;
};

struct Model {
    DiskMap *map;
    uint64_t size;
    struct TestRecorder recorders[RECORDERS];
    struct TestHold holds[HOLDS];
    int64_t now_us;
    Seed seed;
};

static void
mark_bools(bool *bools, uint64_t offset, uint64_t len, unsigned bits)
{
    struct ClusterRun run = run_outward(offset, len, bits);

    memset(bools + run.first, true, run.count);
}

static void
model_changed(struct Model *m, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < RECORDERS; i++) {
        struct TestRecorder *t = &m->recorders[i];

        if (!t->is_attached || t->recorder.is_idle) {
            continue;
        }
        if (t->recorder.bits) {
            mark_bools(t->bits, offset, len,
                       bitmap_cluster_bits(t->recorder.bits));
        }
        if (t->recorder.job && offset < disk_map_size_bytes(t->recorder.job)) {
            uint64_t room = disk_map_size_bytes(t->recorder.job) - offset;

            mark_bools(t->job, offset, len < room ? len : room,
                       disk_map_cluster_bits(t->recorder.job));
        }
    }
}

/* Runs under the lock of the map; asks only that of a job's. */
static void
on_granted(RangeHold *hold)
{
    struct TestHold *t = (struct TestHold *)hold;

    t->is_parked = false;
    if (range_kind_writes(hold->kind)) {
        model_changed(t->model, hold->offset, hold->len);
    }
}

static void
compare_bits(const Bitmap *map, const bool *bools)
{
    for (uint64_t c = 0; c < bitmap_clusters(map); c++) {
        assert_int_equal(bitmap_get(map, c), bools[c]);
    }
    bitmap_check(map);
}

static void
compare(struct Model *m)
{
    for (unsigned i = 0; i < RECORDERS; i++) {
        struct TestRecorder *t = &m->recorders[i];

        if (t->recorder.bits) {
            if (t->is_attached) {
                assert_int_equal(bitmap_size_bytes(t->recorder.bits), m->size);
            }
            compare_bits(t->recorder.bits, t->bits);
        }
        if (t->recorder.job) {
            DiskMap *job = t->recorder.job;
            Bitmap *all = bitmap_new(disk_map_size_bytes(job),
                                     disk_map_cluster_bits(job));

            disk_map_union(job, all);
            compare_bits(all, t->job);
            bitmap_free(all);
        }
    }
}

static void
step_hold(struct Model *m)
{
    struct TestHold *t = &m->holds[seed_below(&m->seed, HOLDS)];
    uint64_t kind = seed_below(&m->seed, 2 * RANGE_KINDS);

    if (t->is_used) {
        if (range_kind_writes(t->hold.kind) && !t->is_parked) {
            model_changed(m, t->hold.offset, t->hold.len);
        }
        t->is_used = false;
        disk_map_end(m->map, &t->hold, m->now_us);
        return;
    }
    *t = (struct TestHold){.is_used = true, .model = m};
    t->hold.kind = kind < RANGE_KINDS ? (enum RangeKind)kind : RANGE_WRITE;
    t->hold.granted = on_granted;
    t->hold.offset = seed_below(&m->seed, m->size);
    t->hold.len = seed_below(&m->seed, 8 * CLUSTER);
    if (t->hold.len > m->size - t->hold.offset) {
        t->hold.len = m->size - t->hold.offset;
    }
    t->is_parked =
        disk_map_begin(m->map, &t->hold, m->now_us) == DISK_MAP_PARKED;
    if (!t->is_parked && range_kind_writes(t->hold.kind)) {
        model_changed(m, t->hold.offset, t->hold.len);
    }
}

static void
step_changed(struct Model *m)
{
    uint64_t offset = seed_below(&m->seed, m->size);
    uint64_t len = seed_below(&m->seed, m->size - offset + 1);

    len = seed_below(&m->seed, 3) ? len % 5000 : len;
    disk_map_changed(m->map, offset, len, m->now_us);
    model_changed(m, offset, len);
}

/* What the relay does to the map of the disk, and to that of a job. */
static void
step_relay(struct Model *m)
{
    uint64_t offset = seed_below(&m->seed, m->size);
    struct TestRecorder *t = &m->recorders[seed_below(&m->seed, RECORDERS)];
    struct ClusterRun run;

    disk_map_mark(m->map, offset, 1, m->now_us);
    if (!seed_below(&m->seed, 8)) {
        disk_map_mark_all(m->map, m->now_us);
    }
    disk_map_seal(m->map);
    if (disk_map_next_sealed(m->map, 0, UINT64_MAX, &run)) {
        disk_map_settle(m->map, run);
    }
    disk_map_retire(m->map);
    if (t->recorder.job) {
        disk_map_seal(t->recorder.job);
    }
}

static void
step_recorder(struct Model *m)
{
    struct TestRecorder *t = &m->recorders[seed_below(&m->seed, RECORDERS)];
    Bitmap **bits = &t->recorder.bits;
    Bitmap *fresh;

    switch (seed_below(&m->seed, 4)) {
    case 0:
        if (t->is_attached) {
            disk_map_detach(m->map, &t->recorder);
        } else {
            if (*bits) {
                assert_int_equal(bitmap_grow(*bits, m->size), 0);
            }
            disk_map_attach(m->map, &t->recorder);
        }
        t->is_attached = !t->is_attached;
        break;
    case 1:
        t->recorder.is_idle = !t->recorder.is_idle;
        break;
    default: /* a line through writes in flight */
        if (*bits) {
            fresh = bitmap_new(bitmap_size_bytes(*bits),
                               bitmap_cluster_bits(*bits));
            bitmap_free(*bits);
            *bits = fresh;
            memset(t->bits, 0, sizeof(t->bits));
        }
        break;
    }
}

static void
step_grow(struct Model *m)
{
    if (!seed_below(&m->seed, 6)) {
        m->size += seed_below(&m->seed, 20 * CLUSTER);
        m->size = m->size < SIZE_MOST ? m->size : SIZE_MOST;
        assert_int_equal(disk_map_grow(m->map, m->size, m->now_us), 0);
    }
}

static void
model_init(struct Model *m, uint64_t seed)
{
    static const struct {
        unsigned bits, job;
    } grains[RECORDERS] = {{9, 0}, {12, 0}, {16, 12}, {0, 14}, {31, 0}, {0, 0}};

    memset(m, 0, sizeof(*m));
    m->seed.state = seed;
    m->size = CLUSTER / 2 + seed_below(&m->seed, 100 * CLUSTER);
    m->map = disk_map_new(m->size, BITS);
    for (unsigned i = 0; i < RECORDERS; i++) {
        DiskMapRecorder *r = &m->recorders[i].recorder;

        r->bits = grains[i].bits ? bitmap_new(m->size, grains[i].bits) : NULL;
        r->job = grains[i].job ? disk_map_new(m->size, grains[i].job) : NULL;
        disk_map_attach(m->map, r);
        m->recorders[i].is_attached = true;
    }
}

static void
model_deinit(struct Model *m)
{
    for (unsigned i = 0; i < HOLDS; i++) {
        if (m->holds[i].is_used) {
            disk_map_end(m->map, &m->holds[i].hold, m->now_us);
        }
    }
    for (unsigned i = 0; i < RECORDERS; i++) {
        DiskMapRecorder *r = &m->recorders[i].recorder;

        if (m->recorders[i].is_attached) {
            disk_map_detach(m->map, r);
        }
        bitmap_free(r->bits);
        disk_map_free(r->job);
    }
    disk_map_free(m->map);
}

static void
test_recorders_equal_the_model_after_every_step(void **state)
{
    static void (*const steps[])(struct Model *) = {
        step_hold,    step_hold,  step_hold,     step_hold,
        step_changed, step_relay, step_recorder, step_grow};
    struct Model *m = test_calloc(1, sizeof(*m));

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        model_init(m, seed0 + i);
        for (unsigned step = 0; step < STEPS; step++) {
            m->now_us++;
            steps[seed_below(&m->seed, 8)](m);
            compare(m);
        }
        model_deinit(m);
    }
    test_free(m);
}

static void
granted_for_nothing(RangeHold *hold)
{
    (void)hold;
}

/* Whoever takes the bits in the middle of a write finds it on both sides. */
static void
test_a_write_is_on_both_sides_of_a_line(void **state)
{
    DiskMap *map = disk_map_new(64 * CLUSTER, BITS);
    DiskMapRecorder of = {.bits = bitmap_new(64 * CLUSTER, 9)};
    RangeHold hold = {.offset = 5 * CLUSTER + 512,
                      .len = 512,
                      .kind = RANGE_WRITE,
                      .granted = granted_for_nothing};

    (void)state;
    disk_map_attach(map, &of);
    assert_int_equal(disk_map_begin(map, &hold, 1), DISK_MAP_BEGUN);
    assert_true(bitmap_get(of.bits, 41));
    assert_int_equal(bitmap_count(of.bits), 1);
    bitmap_clear_all(of.bits);
    disk_map_end(map, &hold, 2);
    assert_true(bitmap_get(of.bits, 41));
    assert_int_equal(bitmap_count(of.bits), 1);
    disk_map_detach(map, &of);
    bitmap_free(of.bits);
    disk_map_free(map);
}

/* A large discard beside fine grains: in slices, and all of it. */
static void
test_a_large_change_reaches_fine_grains(void **state)
{
    const uint64_t size = UINT64_C(64) << 40;
    DiskMap *map = disk_map_new(size, 16);
    DiskMapRecorder of = {.bits = bitmap_new(size, 9)};

    (void)state;
    disk_map_attach(map, &of);
    disk_map_changed(map, size - (1 << 30) - 700, (1 << 30) + 700, 1);
    assert_int_equal(bitmap_count(of.bits), (1 << 21) + 2);
    assert_int_equal(bitmap_next_dirty(of.bits, 0),
                     (size >> 9) - (1 << 21) - 2);
    disk_map_detach(map, &of);
    bitmap_free(of.bits);
    disk_map_free(map);
}

/* There is no address space for so many fine grains: nobody has grown. */
static void
test_all_grow_or_none(void **state)
{
    DiskMap *map = disk_map_new(64 * CLUSTER, 21);
    DiskMapRecorder coarse = {.bits = bitmap_new(64 * CLUSTER, 21)};
    DiskMapRecorder fine = {.bits = bitmap_new(64 * CLUSTER, 9)};
    struct DiskMapFigures figures;

    (void)state;
    disk_map_attach(map, &fine);
    disk_map_attach(map, &coarse);
    assert_int_equal(disk_map_grow(map, UINT64_C(1) << 61, 1), -ENOMEM);
    assert_int_equal(disk_map_size_bytes(map), 64 * CLUSTER);
    assert_int_equal(bitmap_size_bytes(coarse.bits), 64 * CLUSTER);
    assert_int_equal(bitmap_size_bytes(fine.bits), 64 * CLUSTER);
    disk_map_figures(map, &figures);
    assert_int_equal(figures.dirty_clusters, 0);
    assert_int_equal(disk_map_grow(map, 640 * CLUSTER, 1), 0);
    assert_int_equal(bitmap_clusters(fine.bits), 640 * 8);
    assert_int_equal(bitmap_count(fine.bits), 0);
    disk_map_detach(map, &coarse);
    disk_map_detach(map, &fine);
    bitmap_free(coarse.bits);
    bitmap_free(fine.bits);
    disk_map_free(map);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorders_equal_the_model_after_every_step),
        cmocka_unit_test(test_a_write_is_on_both_sides_of_a_line),
        cmocka_unit_test(test_a_large_change_reaches_fine_grains),
        cmocka_unit_test(test_all_grow_or_none),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
