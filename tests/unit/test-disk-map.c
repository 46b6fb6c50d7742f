/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-disk-map.c - generations beside a model of plain arrays
 *
 * The model keeps an array of bools per generation and a list of holds, and
 * works every figure out anew after each step. Seeded steps: writes begin and
 * end in any order, pins and punches get in their way, the relay seals,
 * settles, retires and takes back, the disk grows.
 */
#include "bitmap/disk-map.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#define BITS     12
#define CLUSTER  (UINT64_C(1) << BITS)
#define MAX      9000
#define HOLDS    12
#define GENS_MAX (DISK_MAP_SEALED_MAX + 1)

static uint64_t seed0;

struct TestHold {
    RangeHold hold;
    bool is_used;
    bool is_parked;
    struct Model *model;
};

struct Generation {
    bool bits[MAX];
    uint64_t count;
    uint64_t seq;
    int64_t first_us;
};

struct Model {
    DiskMap *map;
    uint64_t size;
    uint64_t n; /* clusters */
    unsigned gens;
    struct Generation gen[GENS_MAX]; /* the last one is open */
    uint64_t dirtied;
    int64_t now_us;
    struct TestHold holds[HOLDS];
    Seed seed;
};

static void
model_mark(struct Model *m, uint64_t offset, uint64_t len)
{
    struct Generation *open = &m->gen[m->gens - 1];
    struct ClusterRun run = run_outward(offset, len, BITS);

    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        if (open->bits[c]) {
            continue;
        }
        open->bits[c] = true;
        m->dirtied++;
        if (!open->count++) {
            open->first_us = m->now_us;
        }
    }
}

/* Runs under the lock of the map, in the step that dropped another hold. */
static void
on_granted(RangeHold *hold)
{
    struct TestHold *t = (struct TestHold *)hold;

    t->is_parked = false;
    if (range_kind_writes(hold->kind)) {
        model_mark(t->model, hold->offset, hold->len);
    }
}

static bool
model_is_dirty(const struct Model *m, uint64_t c)
{
    for (unsigned g = 0; g < m->gens; g++) {
        if (m->gen[g].bits[c]) {
            return true;
        }
    }
    return false;
}

static bool
model_is_owed(const struct Model *m, uint64_t c)
{
    bool is_owed = false;

    for (unsigned g = 0; g < m->gens - 1; g++) {
        is_owed |= m->gen[g].bits[c];
    }
    return is_owed;
}

static bool
model_is_clean(const struct Model *m, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = run_outward(offset, len, BITS);

    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        if (model_is_dirty(m, c)) {
            return false;
        }
        for (unsigned i = 0; i < HOLDS; i++) {
            const RangeHold *h = &m->holds[i].hold;

            if (m->holds[i].is_used && !m->holds[i].is_parked &&
                range_kind_writes(h->kind) &&
                ranges_overlap(h->offset, h->len, c * CLUSTER, CLUSTER)) {
                return false;
            }
        }
    }
    return true;
}

static void
compare_figures(struct Model *m)
{
    struct DiskMapFigures f;
    uint64_t dirty = 0, sealed = 0;
    unsigned held = 0, parked = 0;
    int64_t oldest = 0;

    for (uint64_t c = 0; c < m->n; c++) {
        dirty += model_is_dirty(m, c);
    }
    for (unsigned g = m->gens; g-- > 0;) {
        oldest = m->gen[g].count ? m->gen[g].first_us : oldest;
        sealed += g < m->gens - 1 ? m->gen[g].count : 0;
    }
    for (unsigned i = 0; i < HOLDS; i++) {
        held += m->holds[i].is_used && !m->holds[i].is_parked;
        parked += m->holds[i].is_used && m->holds[i].is_parked;
    }
    disk_map_figures(m->map, &f);
    assert_int_equal(f.dirty_clusters, dirty);
    assert_int_equal(f.sealed_clusters, sealed);
    assert_int_equal(f.dirtied_clusters, m->dirtied);
    assert_int_equal(f.sealed, m->gens - 1);
    assert_int_equal(f.holds, held);
    assert_int_equal(f.parked, parked);
    assert_int_equal(f.oldest_mark_us, oldest);
}

static void
compare_places(struct Model *m)
{
    Bitmap *all = bitmap_new(m->size, BITS);

    assert_non_null(all);
    bitmap_set_all(all);
    disk_map_union(m->map, all);
    for (uint64_t c = 0; c < m->n; c++) {
        assert_int_equal(bitmap_get(all, c), model_is_dirty(m, c));
    }
    bitmap_free(all);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t from = seed_below(&m->seed, m->n);
        uint64_t len = seed_below(&m->seed, m->size - from * CLUSTER);
        uint64_t want = from;

        assert_int_equal(disk_map_is_clean(m->map, from * CLUSTER, len),
                         model_is_clean(m, from * CLUSTER, len));
        assert_int_equal(disk_map_is_clean(m->map, from * CLUSTER, 1),
                         model_is_clean(m, from * CLUSTER, 1));
        while (want < m->n && model_is_dirty(m, want)) {
            want++;
        }
        assert_int_equal(disk_map_next_clean(m->map, from),
                         want < m->n ? want : UINT64_MAX);
    }
}

static void
compare_relay_side(struct Model *m)
{
    struct ClusterRun run = {0, 0};
    uint64_t from = seed_below(&m->seed, m->n);
    struct Generation *open = &m->gen[m->gens - 1];
    uint64_t want = from;

    assert_int_equal(disk_map_open_seq(m->map), open->seq);
    assert_int_equal(disk_map_sealed_seq(m->map),
                     m->gens > 1 ? m->gen[0].seq : 0);
    assert_int_equal(disk_map_settled_seq(m->map), m->gens > 1 || open->count
                                                       ? m->gen[0].seq - 1
                                                       : open->seq);
    while (want < m->n && !m->gen[0].bits[want]) {
        want++;
    }
    assert_int_equal(disk_map_next_sealed(m->map, from, 7, &run),
                     m->gens > 1 && want < m->n);
    if (run.count) {
        assert_int_equal(run.first, want);
        for (uint64_t c = 0; c < run.count; c++) {
            assert_true(m->gen[0].bits[want + c]);
        }
        assert_true(run.count == 7 || want + run.count == m->n ||
                    !m->gen[0].bits[want + run.count]);
    }
}

/* Owed: by whichever of the sealed ones. */
static void
compare_owed(struct Model *m)
{
    uint64_t from = seed_below(&m->seed, m->n);
    uint64_t end = from + 1 + seed_below(&m->seed, m->n - from);
    uint64_t want = from;
    struct ClusterRun run = {0, 0};

    while (want < end && !model_is_owed(m, want)) {
        want++;
    }
    assert_int_equal(disk_map_next_owed(m->map, from, end, &run), want < end);
    if (want < end) {
        assert_int_equal(run.first, want);
        assert_in_range(run.count, 1, end - want);
        for (uint64_t c = 0; c < run.count; c++) {
            assert_true(model_is_owed(m, want + c));
        }
    }
}

static void
step_hold(struct Model *m)
{
    struct TestHold *t = &m->holds[seed_below(&m->seed, HOLDS)];
    uint64_t kind = seed_below(&m->seed, 3 * RANGE_KINDS);

    if (t->is_used) {
        if (range_kind_writes(t->hold.kind) && !t->is_parked) {
            model_mark(m, t->hold.offset, t->hold.len);
        }
        t->is_used = false;
        disk_map_end(m->map, &t->hold, m->now_us);
        return;
    }
    *t = (struct TestHold){.is_used = true, .model = m};
    t->hold.kind = kind < RANGE_KINDS ? (enum RangeKind)kind : RANGE_WRITE;
    t->hold.granted = on_granted;
    t->hold.offset = seed_below(&m->seed, m->size);
    t->hold.len = seed_below(&m->seed, 40 * CLUSTER);
    if (t->hold.len > m->size - t->hold.offset) {
        t->hold.len = m->size - t->hold.offset;
    }
    t->is_parked =
        range_kind_writes(t->hold.kind) || seed_below(&m->seed, 2)
            ? disk_map_begin(m->map, &t->hold, m->now_us) == DISK_MAP_PARKED
            : !disk_map_hold(m->map, &t->hold);
    if (!t->is_parked && range_kind_writes(t->hold.kind)) {
        model_mark(m, t->hold.offset, t->hold.len);
    }
}

static void
step_seal(struct Model *m)
{
    struct Generation *open = &m->gen[m->gens - 1];
    uint64_t seq = disk_map_seal(m->map);

    if (!open->count || m->gens == GENS_MAX) {
        assert_int_equal(seq, 0);
        return;
    }
    assert_int_equal(seq, open->seq);
    memset(&m->gen[m->gens], 0, sizeof(m->gen[0]));
    m->gen[m->gens].seq = seq + 1;
    m->gens++;
}

static void
step_settle(struct Model *m)
{
    struct ClusterRun run;
    uint64_t from = seed_below(&m->seed, 4) ? 0 : seed_below(&m->seed, m->n);

    while (disk_map_next_sealed(m->map, from, 1 + seed_below(&m->seed, m->n),
                                &run)) {
        disk_map_settle(m->map, run);
        for (uint64_t c = run.first; c < run.first + run.count; c++) {
            m->gen[0].count -= m->gen[0].bits[c];
            m->gen[0].bits[c] = false;
        }
        from = run.first + run.count;
        if (!seed_below(&m->seed, 4)) {
            break;
        }
    }
}

static void
step_retire(struct Model *m)
{
    bool can = m->gens > 1 && !m->gen[0].count;

    assert_int_equal(disk_map_retire(m->map), can);
    if (can) {
        m->gens--;
        memmove(&m->gen[0], &m->gen[1], m->gens * sizeof(m->gen[0]));
    }
}

/* Everything is open again, under the oldest number. */
static void
step_unseal(struct Model *m)
{
    struct Generation *open = &m->gen[m->gens - 1];
    struct Generation *to = &m->gen[0];

    disk_map_unseal(m->map);
    for (unsigned g = 1; g < m->gens; g++) {
        const struct Generation *from = &m->gen[g];

        if (from->count && (!to->count || from->first_us < to->first_us)) {
            to->first_us = from->first_us;
        }
        for (uint64_t c = 0; c < m->n; c++) {
            to->count += from->bits[c] && !to->bits[c];
            to->bits[c] |= from->bits[c];
        }
    }
    for (; open != to; open--) {
        memset(open, 0, sizeof(*open));
    }
    m->gens = 1;
}

static void
step_rare(struct Model *m)
{
    uint64_t old = m->size;
    Bitmap *from;

    switch (seed_below(&m->seed, 8)) {
    case 6:
        step_unseal(m);
        break;
    case 0:
        model_mark(m, 0, m->size);
        disk_map_mark_all(m->map, m->now_us);
        break;
    case 1:
    case 2:
        m->size += seed_below(&m->seed, 90 * CLUSTER);
        m->size = m->size < MAX * CLUSTER ? m->size : MAX * CLUSTER;
        m->n = clusters_for(m->size, BITS);
        model_mark(m, old, m->size - old);
        assert_int_equal(disk_map_grow(m->map, m->size, m->now_us), 0);
        break;
    case 3:
        from = bitmap_new(m->size, BITS);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t offset = seed_below(&m->seed, m->size);

            bitmap_set_bytes(from, offset, 1);
            model_mark(m, offset, 1);
        }
        disk_map_load(m->map, from, m->now_us);
        bitmap_free(from);
        break;
    default:
        old = seed_below(&m->seed, m->size);
        model_mark(m, old, 1);
        disk_map_mark(m->map, old, 1, m->now_us);
        break;
    }
}

static void
random_step(struct Model *m)
{
    uint64_t what = seed_below(&m->seed, 40);

    m->now_us++;
    if (what < 20) {
        step_hold(m);
    } else if (what < 24) {
        step_seal(m);
    } else if (what < 32) {
        step_settle(m);
    } else if (what < 38) {
        step_retire(m);
    } else {
        step_rare(m);
    }
}

static void
test_disk_map_equals_model_after_every_step(void **state)
{
    static const uint64_t sizes[] = {CLUSTER / 2,    63 * CLUSTER,
                                     64 * CLUSTER,   65 * CLUSTER + 5,
                                     4096 * CLUSTER, 4097 * CLUSTER - 1};
    struct Model *m = test_calloc(1, sizeof(*m));

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        memset(m, 0, sizeof(*m));
        m->seed.state = seed0 + i;
        m->size = sizes[i];
        m->n = clusters_for(m->size, BITS);
        m->gens = 1;
        m->gen[0].seq = 1;
        m->map = disk_map_new(m->size, BITS);
        assert_non_null(m->map);
        for (unsigned step = 0; step < 1500; step++) {
            random_step(m);
            compare_figures(m);
            compare_relay_side(m);
            compare_owed(m);
            if (step % 8 == 0) {
                compare_places(m);
            }
        }
        disk_map_free(m->map);
    }
    test_free(m);
}

/*
 * Real threads: two guests write, one relay drains. Cells of a "disk" are
 * copied to a "target" without any lock but the map's own; what is clean in
 * the end must be equal.
 */
#define CELLS  300
#define WRITES 20000

struct Stage {
    DiskMap *map;
    _Atomic uint32_t disk[CELLS];
    uint32_t target[CELLS];
    atomic_bool is_done;
};

struct Guest {
    RangeHold hold; /* first: on_signalled() casts */
    sem_t granted;
    struct Stage *stage;
    Seed seed;
};

static void
on_signalled(RangeHold *hold)
{
    sem_post(&((struct Guest *)hold)->granted);
}

static void *
guest_thread(void *user)
{
    struct Guest *g = user;

    for (uint32_t i = 1; i <= WRITES; i++) {
        uint64_t first = seed_below(&g->seed, CELLS);
        uint64_t count = 1 + seed_below(&g->seed, 4);

        count = count < CELLS - first ? count : CELLS - first;
        g->hold = (RangeHold){.offset = first * CLUSTER,
                              .len = count * CLUSTER,
                              .kind = i % 16 ? RANGE_WRITE : RANGE_PUNCH,
                              .granted = on_signalled};
        if (disk_map_begin(g->stage->map, &g->hold, 1) == DISK_MAP_PARKED) {
            while (sem_wait(&g->granted) < 0) {
            }
        }
        for (uint64_t c = first; c < first + count; c++) {
            atomic_store_explicit(&g->stage->disk[c], i, memory_order_relaxed);
        }
        disk_map_end(g->stage->map, &g->hold, 2);
    }
    return NULL;
}

/* One generation; false when there was nothing to do. */
static bool
relay_once(struct Stage *stage)
{
    struct ClusterRun run = {0, 0};
    bool did = disk_map_seal(stage->map) != 0;

    while (disk_map_next_sealed(stage->map, 0, 8, &run)) {
        for (uint64_t c = run.first; c < run.first + run.count; c++) {
            stage->target[c] =
                atomic_load_explicit(&stage->disk[c], memory_order_relaxed);
        }
        disk_map_settle(stage->map, run);
        did = true;
    }
    return disk_map_retire(stage->map) || did;
}

static void *
relay_thread(void *user)
{
    struct Stage *stage = user;

    while (!atomic_load(&stage->is_done)) {
        struct DiskMapFigures figures;

        relay_once(stage);
        disk_map_figures(stage->map, &figures);
        (void)disk_map_next_clean(stage->map, 0);
        (void)disk_map_is_clean(stage->map, 0, CLUSTER);
    }
    return NULL;
}

static void
test_threads_leave_disk_and_target_equal(void **state)
{
    struct Stage *stage = calloc(1, sizeof(*stage));
    struct Guest guests[2];
    struct DiskMapFigures figures;
    pthread_t threads[3];

    (void)state;
    assert_non_null(stage);
    stage->map = disk_map_new(CELLS * CLUSTER, BITS);
    for (unsigned i = 0; i < 2; i++) {
        guests[i] = (struct Guest){.stage = stage, .seed = {seed0 + i}};
        assert_int_equal(sem_init(&guests[i].granted, 0, 0), 0);
        assert_int_equal(
            pthread_create(&threads[i], NULL, guest_thread, &guests[i]), 0);
    }
    assert_int_equal(pthread_create(&threads[2], NULL, relay_thread, stage), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    atomic_store(&stage->is_done, true);
    pthread_join(threads[2], NULL);
    while (relay_once(stage)) {
    }
    disk_map_figures(stage->map, &figures);
    assert_int_equal(figures.dirty_clusters, 0);
    assert_int_equal(figures.holds + figures.parked, 0);
    assert_int_equal(figures.oldest_mark_us, 0);
    assert_int_equal(disk_map_settled_seq(stage->map),
                     disk_map_open_seq(stage->map));
    for (unsigned c = 0; c < CELLS; c++) {
        assert_int_equal(stage->target[c], stage->disk[c]);
    }
    disk_map_free(stage->map);
    free(stage);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk_map_equals_model_after_every_step),
        cmocka_unit_test(test_threads_leave_disk_and_target_equal),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
