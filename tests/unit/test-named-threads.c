/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-named-threads.c - bitmaps are merged, cleared, frozen and thawed while
 * the guest writes
 *
 * Two guests write every cell of a "disk" once, in an order that jumps about, so
 * that a mark which is lost is not made up for by a later one. The main thread
 * does what a chain of backups and mirrors does, over and over: it freezes,
 * copies the cells of which the bitmap says so into a "backup", and nothing
 * else, and thaws one way or another; in between a user changes his mind. A
 * fourth thread asks and copies. In the end the backup has to be the disk. For
 * the thread sanitizer as well.
 *
 * More grains than a slice has, or all would be one step.
 */
#include "bitmap/named.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define BITS   12
#define CELL   (UINT64_C(1) << BITS)
#define CELLS  (UINT64_C(1) << 18) /* 1 GiB */
#define GUESTS 2
#define CHUNK  64 /* cells that a guest writes one after the other */
#define EPOCHS (TEST_IS_SANITIZED ? 1 : 3)

static uint64_t seed0;

struct Stage {
    DiskMap *map;
    NamedBitmaps *set;
    _Atomic uint32_t *disk;
    uint32_t *backup;
    uint32_t epoch;
    atomic_uint at_work; /* guests */
    atomic_uint writes;
    atomic_uint written[GUESTS]; /* cells, of this epoch */
    atomic_uint copies;
    atomic_uint wrong;
    uint64_t id;
};

struct Guest {
    RangeHold hold;
    struct Stage *stage;
    unsigned number;
};

static void
on_granted(RangeHold *hold)
{
    (void)hold; /* writes do not wait for writes */
}

/* The @i-th cell that guest @number writes. */
static uint64_t
nth_cell(uint64_t i, unsigned number)
{
    uint64_t chunk = (i / CHUNK * 40503) % (CELLS / GUESTS / CHUNK);

    return (chunk * CHUNK + i % CHUNK) * GUESTS + number;
}

static void *
guest_thread(void *user)
{
    struct Guest *g = user;
    struct Stage *s = g->stage;

    for (uint64_t i = 0; i < CELLS / GUESTS; i++) {
        uint64_t cell = nth_cell(i, g->number);

        g->hold = (RangeHold){.offset = cell * CELL,
                              .len = CELL,
                              .kind = RANGE_WRITE,
                              .granted = on_granted};
        s->wrong += disk_map_begin(s->map, &g->hold, 1) != DISK_MAP_BEGUN;
        if (i % 32 == 0) {
            (void)sched_yield(); /* lines are drawn through this write */
        }
        atomic_store_explicit(&s->disk[cell], s->epoch, memory_order_relaxed);
        disk_map_end(s->map, &g->hold, 2);
        atomic_fetch_add(&s->writes, 1);
        atomic_store(&s->written[g->number], (unsigned)i + 1);
    }
    atomic_fetch_sub(&s->at_work, 1);
    return NULL;
}

static void
await_writes(struct Stage *s, unsigned n)
{
    unsigned writes = atomic_load(&s->writes);

    while (atomic_load(&s->at_work) && atomic_load(&s->writes) - writes < n) {
        (void)sched_yield();
    }
}

/* What checkpoints and readers of the list do. */
static void *
looker_thread(void *user)
{
    struct Stage *s = user;
    struct NamedFigures figures;
    uint64_t offset, len;
    Bitmap *bits, *later;

    while (atomic_load(&s->at_work)) {
        for (unsigned i = 0; named_at(s->set, i, &figures); i++) {
            s->wrong += figures.count_bytes > CELLS * CELL;
        }
        if (named_next(s->set, s->id, 0, CELL, &offset, &len)) {
            s->wrong += len != CELL || offset % CELL;
        }
        if (named_copy(s->set, s->id, &bits, &later) == 0) {
            s->wrong += bitmap_size_bytes(bits) != CELLS * CELL;
            bitmap_free(bits);
            bitmap_free(later);
            atomic_fetch_add(&s->copies, 1);
        }
        if (named_copy(s->set, s->id + 1, &bits, &later) == 0) {
            bitmap_free(bits);
            bitmap_free(later);
        }
        (void)sched_yield();
    }
    return NULL;
}

/* With a bitmap that loses nothing a copy has all that was written before. */
static void *
copier_thread(void *user)
{
    struct Stage *s = user;

    while (atomic_load(&s->at_work)) {
        unsigned written[GUESTS];
        Bitmap *bits, *later;

        for (unsigned g = 0; g < GUESTS; g++) {
            written[g] = atomic_load(&s->written[g]);
        }
        s->wrong += named_copy(s->set, s->id, &bits, &later) != 0;
        for (unsigned g = 0; g < GUESTS; g++) {
            for (uint64_t i = 0; i < written[g]; i++) {
                uint64_t cell = nth_cell(i, g);

                s->wrong += !bitmap_get(bits, cell) &&
                            !(later && bitmap_get(later, cell));
            }
        }
        bitmap_free(bits);
        bitmap_free(later);
        atomic_fetch_add(&s->copies, 1);
    }
    return NULL;
}

static void
stage_init(struct Stage *s)
{
    const struct NamedSpec spec = {.name = "a", .id = 1, .grain_bits = BITS};

    s->map = disk_map_new(CELLS * CELL, 16);
    s->set = named_bitmaps_new(s->map);
    s->disk = test_calloc(CELLS, sizeof(*s->disk));
    s->backup = test_calloc(CELLS, sizeof(*s->backup));
    s->id = 1;
    assert_int_equal(named_add(s->set, &spec, NULL), NAMED_OK);
}

static void
stage_deinit(struct Stage *s)
{
    named_bitmaps_free(s->set);
    disk_map_free(s->map);
    test_free((void *)s->disk);
    test_free(s->backup);
    test_free(s);
}

/* The content of what is dirty in @job, as it is now, into the backup; it stops
 * after @most cells, and what is left stays dirty. */
static void
copy_cells(struct Stage *s, DiskMap *job, uint64_t most)
{
    struct ClusterRun run;

    if (!disk_map_seal(job)) {
        return;
    }
    while (most && disk_map_next_sealed(job, 0, most, &run)) {
        for (uint64_t c = run.first; c < run.first + run.count; c++) {
            s->backup[c] =
                atomic_load_explicit(&s->disk[c], memory_order_relaxed);
        }
        disk_map_settle(job, run);
        most -= run.count;
    }
}

/* One backup or mirror, and how it ends. */
static void
one_job(struct Stage *s, Seed *seed)
{
    DiskMap *job = disk_map_new(CELLS * CELL, BITS);
    NamedBitmap *frozen;

    assert_int_equal(named_freeze(s->set, "a", &frozen), NAMED_OK);
    await_writes(s, 20);
    named_merge_into(frozen, job, 3);
    switch (seed_below(seed, 4)) {
    case 0:
        copy_cells(s, job, CELLS);
        await_writes(s, 20);
        named_thaw(frozen, NAMED_NEW, NULL);
        break;
    case 1:
        copy_cells(s, job, seed_below(seed, 3000));
        named_thaw(frozen, NAMED_REST, job);
        break;
    case 2: /* renewed, then all of it, or in vain */
        await_writes(s, 20);
        named_renew(frozen);
        named_merge_into(frozen, job, 3);
        copy_cells(s, job, CELLS);
        named_thaw(frozen, seed_below(seed, 2) ? NAMED_NEW : NAMED_OLD, NULL);
        break;
    default:
        copy_cells(s, job, seed_below(seed, 3000));
        named_thaw(frozen, NAMED_OLD, NULL);
        break;
    }
    disk_map_free(job);
}

/* The user moves all that is in it to another one and back, and changes his
 * mind now and then. */
static void
one_detour(struct Stage *s, Seed *seed)
{
    const struct NamedSpec spec = {.name = "b",
                                   .id = 2,
                                   .grain_bits =
                                       seed_below(seed, 2) ? BITS : BITS + 1};
    const char *a = "a", *b = "b";
    NamedUndo *undo = named_undo_new(s->set, a);

    if (seed_below(seed, 2)) {
        named_clear(s->set, a);
        named_undo_run(undo);
        return;
    }
    if (seed_below(seed, 2)) {
        named_remove(s->set, a);
        named_undo_run(undo);
        return;
    }
    named_undo_free(undo);
    /* @b records from before @a is cleared on, so nothing is in neither. */
    assert_int_equal(named_add(s->set, &spec, NULL), NAMED_OK);
    assert_int_equal(named_merge(s->set, b, &a, 1), NAMED_OK);
    assert_int_equal(named_clear(s->set, a), NAMED_OK);
    assert_int_equal(named_merge(s->set, a, &b, 1), NAMED_OK);
    assert_int_equal(named_remove(s->set, b), NAMED_OK);
}

/* All cells are written once, while the main thread does @work over and over. */
static void
one_epoch(struct Stage *s, Seed *seed, void *(*looker)(void *),
          void (*work)(struct Stage *, Seed *))
{
    struct Guest guests[GUESTS];
    pthread_t threads[GUESTS + 1];

    s->epoch++;
    atomic_store(&s->at_work, GUESTS);
    for (unsigned i = 0; i < GUESTS; i++) {
        guests[i] = (struct Guest){.stage = s, .number = i};
        atomic_store(&s->written[i], 0);
        assert_int_equal(
            pthread_create(&threads[i], NULL, guest_thread, &guests[i]), 0);
    }
    assert_int_equal(pthread_create(&threads[GUESTS], NULL, looker, s), 0);
    while (atomic_load(&s->at_work)) {
        work(s, seed);
    }
    for (unsigned i = 0; i <= GUESTS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
}

static void
job_and_detour(struct Stage *s, Seed *seed)
{
    one_job(s, seed);
    one_detour(s, seed);
}

static void
last_job(struct Stage *s)
{
    DiskMap *job = disk_map_new(CELLS * CELL, BITS);
    NamedBitmap *frozen;

    assert_int_equal(named_freeze(s->set, "a", &frozen), NAMED_OK);
    named_merge_into(frozen, job, 3);
    copy_cells(s, job, CELLS);
    named_thaw(frozen, NAMED_NEW, NULL);
    disk_map_free(job);
    for (uint64_t c = 0; c < CELLS; c++) {
        assert_int_equal(s->disk[c], s->epoch);
        assert_int_equal(s->backup[c], s->epoch);
    }
}

static void
test_nothing_is_lost_between_backups(void **state)
{
    struct Stage *s = test_calloc(1, sizeof(*s));
    Seed seed = {seed0};

    (void)state;
    stage_init(s);
    for (unsigned i = 0; i < EPOCHS; i++) {
        one_epoch(s, &seed, looker_thread, job_and_detour);
        last_job(s);
    }
    assert_int_equal(s->wrong, 0);
    stage_deinit(s);
}

static void
job_in_vain(struct Stage *s, Seed *seed)
{
    NamedBitmap *frozen;

    assert_int_equal(named_freeze(s->set, "a", &frozen), NAMED_OK);
    await_writes(s, 50);
    if (seed_below(seed, 2)) {
        named_renew(frozen);
        await_writes(s, 20);
    }
    named_thaw(frozen, NAMED_OLD, NULL);
    await_writes(s, 20);
}

static void
test_copies_lack_nothing(void **state)
{
    struct Stage *s = test_calloc(1, sizeof(*s));
    Seed seed = {seed0};

    (void)state;
    stage_init(s);
    one_epoch(s, &seed, copier_thread, job_in_vain);
    assert_int_equal(s->wrong, 0);
    assert_true(s->copies > 0);
    stage_deinit(s);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_lost_between_backups),
        cmocka_unit_test(test_copies_lack_nothing),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
