/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-aside.c - copies aside beside a plain array
 *
 * The model has for each cluster where its copy is and what it says, and for
 * each buffer who has it. Seeded steps do all that the header offers, in any
 * order that it allows; after each of them everything that can be asked is
 * compared.
 */
#include "bitmap/aside.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>

#define BITS     12
#define CLUSTER  (UINT64_C(1) << BITS)
#define CLUSTERS 150
#define GROWN    (CLUSTERS + 75)
#define BUFFERS  7
#define STEPS    20000

static uint64_t seed0;

struct ModelBuffer {
    void *memory;
    uint64_t put_at;  /* full ones: the order of puts */
    uint64_t cluster; /* UINT64_MAX: of an ended cut */
    bool is_full;     /* else taken, or being spilled */
    bool is_spilling;
};

struct Model {
    Aside *aside;
    Seed seed;
    bool is_on;
    uint64_t n;
    uint64_t puts;
    enum AsidePlace place[GROWN];
    unsigned char says[GROWN];
    struct ModelBuffer buffers[BUFFERS]; /* those that are not free */
    unsigned n_buffers;
};

static void
forget(struct Model *m, unsigned index)
{
    m->buffers[index] = m->buffers[--m->n_buffers];
}

/* One of those that are (not) full and (not) being spilled, or n_buffers. */
static unsigned
pick(struct Model *m, bool is_full, bool is_spilling)
{
    uint64_t first = seed_below(&m->seed, BUFFERS);

    for (unsigned i = 0; i < m->n_buffers; i++) {
        unsigned at = (unsigned)((first + i) % m->n_buffers);

        if (m->buffers[at].is_full == is_full &&
            m->buffers[at].is_spilling == is_spilling) {
            return at;
        }
    }
    return m->n_buffers;
}

/*
 * Everything that can be asked
 */
static void
compare_missing(struct Model *m)
{
    uint64_t from = seed_below(&m->seed, m->n);
    uint64_t end = from + 1 + seed_below(&m->seed, m->n - from);
    uint64_t first = from, last;
    struct ClusterRun run;

    while (first < end && m->place[first] != ASIDE_NONE) {
        first++;
    }
    for (last = first; last < end && m->place[last] == ASIDE_NONE; last++) {
    }
    if (first == end) {
        assert_false(aside_next_missing(m->aside, from, end, &run));
    } else {
        assert_true(aside_next_missing(m->aside, from, end, &run));
        assert_int_equal(run.first, first);
        assert_int_equal(run.count, last - first);
    }
    for (first = from; first < end && m->place[first] == ASIDE_NONE; first++) {
    }
    assert_int_equal(aside_next_kept(m->aside, from, end), first);
}

static void
compare_fetch(struct Model *m)
{
    unsigned char got[CLUSTER], want[CLUSTER];
    uint64_t cluster = seed_below(&m->seed, m->n);
    uint64_t max = 1 + seed_below(&m->seed, m->n - cluster);
    uint64_t alike = 1, count = 0;

    while (alike < max && m->place[cluster + alike] == m->place[cluster]) {
        alike++;
    }
    assert_int_equal(aside_fetch(m->aside, cluster, max, NULL, &count),
                     m->place[cluster]);
    assert_int_equal(count, alike);
    memset(got, 0xee, sizeof(got));
    memset(want, 0xee, sizeof(want));
    assert_int_equal(aside_fetch(m->aside, cluster, max, got, &count),
                     m->place[cluster]);
    if (m->place[cluster] == ASIDE_RAM) {
        alike = 1;
        memset(want, m->says[cluster], sizeof(want));
    }
    assert_int_equal(count, alike);
    assert_memory_equal(got, want, sizeof(got));
}

static void
compare(struct Model *m)
{
    struct AsideFigures figures;
    uint64_t kept = 0, in_file = 0;

    for (uint64_t c = 0; c < m->n; c++) {
        kept += m->place[c] == ASIDE_RAM || m->place[c] == ASIDE_FILE;
        in_file += m->place[c] == ASIDE_FILE;
    }
    aside_figures(m->aside, &figures);
    assert_int_equal(figures.kept_clusters, kept);
    assert_int_equal(figures.file_clusters, in_file);
    assert_int_equal(figures.buffers, BUFFERS);
    assert_int_equal(figures.free_buffers, BUFFERS - m->n_buffers);
    assert_int_equal(aside_is_on(m->aside), m->is_on);
    compare_missing(m);
    compare_fetch(m);
}

/*
 * Steps
 */
static void
do_take(struct Model *m)
{
    void *memory = aside_take(m->aside);

    if (m->n_buffers == BUFFERS) {
        assert_null(memory);
        return;
    }
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % ASIDE_ALIGN, 0);
    for (unsigned i = 0; i < m->n_buffers; i++) {
        assert_ptr_not_equal(memory, m->buffers[i].memory);
    }
    m->buffers[m->n_buffers++] = (struct ModelBuffer){.memory = memory};
}

static void
do_put_or_give(struct Model *m)
{
    unsigned i = pick(m, false, false);
    uint64_t cluster = seed_below(&m->seed, m->n);

    if (i == m->n_buffers) {
        return;
    }
    if (!m->is_on || m->place[cluster] != ASIDE_NONE) {
        aside_give(m->aside, m->buffers[i].memory);
        forget(m, i);
        return;
    }
    m->says[cluster] = (unsigned char)seed_next(&m->seed);
    memset(m->buffers[i].memory, m->says[cluster], CLUSTER);
    aside_put(m->aside, cluster, m->buffers[i].memory);
    m->place[cluster] = ASIDE_RAM;
    m->buffers[i].is_full = true;
    m->buffers[i].cluster = cluster;
    m->buffers[i].put_at = ++m->puts;
}

static void
do_put_zeroes(struct Model *m)
{
    struct ClusterRun run = {seed_below(&m->seed, m->n), 0};

    while (run.count < 5 && run.first + run.count < m->n &&
           m->place[run.first + run.count] == ASIDE_NONE) {
        run.count++;
    }
    if (!m->is_on || !run.count) {
        return;
    }
    aside_put_zeroes(m->aside, run);
    for (uint64_t i = 0; i < run.count; i++) {
        m->place[run.first + i] = ASIDE_ZERO;
    }
}

static void
do_spill(struct Model *m)
{
    unsigned oldest = m->n_buffers;
    uint64_t cluster = 0;
    const void *memory = aside_spill(m->aside, &cluster);

    for (unsigned i = 0; i < m->n_buffers; i++) {
        if (m->buffers[i].is_full &&
            (oldest == m->n_buffers ||
             m->buffers[i].put_at < m->buffers[oldest].put_at)) {
            oldest = i;
        }
    }
    if (oldest == m->n_buffers) {
        assert_null(memory);
        return;
    }
    assert_ptr_equal(memory, m->buffers[oldest].memory);
    assert_int_equal(cluster, m->buffers[oldest].cluster);
    m->buffers[oldest].is_full = false;
    m->buffers[oldest].is_spilling = true;
}

/* It was written, it failed, or nobody needs it any more. */
static void
do_end_of_spill(struct Model *m)
{
    unsigned i = pick(m, false, true);
    uint64_t what = seed_below(&m->seed, 3);
    uint64_t cluster;

    if (i == m->n_buffers) {
        return;
    }
    cluster = m->buffers[i].cluster;
    if (what == 0) {
        aside_drop(m->aside, m->buffers[i].memory);
    } else {
        aside_spilled(m->aside, m->buffers[i].memory, what == 1);
    }
    if (what == 2 && cluster != UINT64_MAX) {
        m->buffers[i].is_full = true;
        m->buffers[i].is_spilling = false;
        return;
    }
    if (cluster != UINT64_MAX) {
        m->place[cluster] = what == 0 ? ASIDE_NONE : ASIDE_FILE;
    }
    forget(m, i);
}

/* Buffers that are taken or being spilled outlive the cut. */
static void
do_begin_or_end(struct Model *m)
{
    if (!m->is_on) {
        aside_begin(m->aside);
        m->is_on = true;
        return;
    }
    aside_end(m->aside);
    m->is_on = false;
    memset(m->place, 0, sizeof(m->place));
    for (unsigned i = m->n_buffers; i-- > 0;) {
        m->buffers[i].cluster = UINT64_MAX;
        if (m->buffers[i].is_full) {
            forget(m, i);
        }
    }
}

static void
test_aside_equals_array_after_every_step(void **state)
{
    struct Model m = {.n = CLUSTERS, .seed = {seed0}};

    (void)state;
    m.aside = aside_new(CLUSTERS * CLUSTER, BITS, BUFFERS * CLUSTER);
    assert_non_null(m.aside);
    for (unsigned step = 0; step < STEPS; step++) {
        static void (*const steps[])(struct Model *) = {
            do_take,        do_put_or_give,  do_take,
            do_put_or_give, do_put_zeroes,   do_spill,
            do_spill,       do_end_of_spill, do_end_of_spill};

        if (seed_below(&m.seed, 60) == 0) {
            do_begin_or_end(&m);
        } else if (step == STEPS / 2) {
            /* What is kept stays; the new clusters are not kept. */
            assert_int_equal(aside_grow(m.aside, GROWN * CLUSTER), 0);
            m.n = GROWN;
        } else {
            steps[seed_below(&m.seed, sizeof(steps) / sizeof(*steps))](&m);
        }
        compare(&m);
    }
    aside_free(m.aside);
}

/* A cut ends and the next one begins while a copy of the old one is being
 * written: it is not taken for the new one's. */
static void
test_spill_of_an_ended_cut_is_nobodys(void **state)
{
    Aside *aside = aside_new(8 * CLUSTER, BITS, 2 * CLUSTER);
    const void *old;
    void *taken, *buffer;
    uint64_t cluster, count;

    (void)state;
    aside_begin(aside);
    buffer = aside_take(aside);
    aside_put(aside, 3, buffer);
    old = aside_spill(aside, &cluster);
    assert_ptr_equal(old, buffer);
    taken = aside_take(aside);
    assert_null(aside_take(aside));
    aside_end(aside);
    assert_null(aside_take(aside));
    aside_begin(aside);
    memset(taken, 9, CLUSTER);
    aside_put(aside, 3, taken);
    aside_spilled(aside, old, true);
    assert_int_equal(aside_fetch(aside, 3, 1, NULL, &count), ASIDE_RAM);
    assert_non_null(aside_take(aside));
    aside_end(aside);
    aside_free(aside);
}

/* What is put is told of once, the oldest first, if it is still there. */
static void
test_puts_are_told_of_in_their_order(void **state)
{
    Aside *aside = aside_new(64 * CLUSTER, BITS, 4 * CLUSTER);
    uint64_t mark = 0, cluster;

    (void)state;
    aside_begin(aside);
    assert_false(aside_next_put(aside, &mark, &cluster));
    for (uint64_t c = 9; c > 5; c--) {
        aside_put(aside, c, aside_take(aside));
    }
    aside_spilled(aside, aside_spill(aside, &cluster), true);
    assert_int_equal(cluster, 9);
    assert_true(aside_next_put(aside, &mark, &cluster));
    assert_int_equal(cluster, 8);
    aside_put(aside, 30, aside_take(aside)); /* into the buffer of 9 */
    for (uint64_t i = 0; i < 3; i++) {
        static const uint64_t rest[] = {7, 6, 30};

        assert_true(aside_next_put(aside, &mark, &cluster));
        assert_int_equal(cluster, rest[i]);
    }
    assert_false(aside_next_put(aside, &mark, &cluster));
    aside_end(aside);
    aside_begin(aside);
    assert_false(aside_next_put(aside, &mark, &cluster));
    aside_put(aside, 8, aside_take(aside));
    assert_true(aside_next_put(aside, &mark, &cluster));
    assert_int_equal(cluster, 8);
    aside_end(aside);
    aside_free(aside);
}

static void
test_two_buffers_at_least_and_none_is_off(void **state)
{
    Aside *aside = aside_new(8 * CLUSTER, BITS, 0);
    struct AsideFigures figures;

    (void)state;
    aside_figures(aside, &figures);
    assert_int_equal(figures.buffers, 2);
    assert_false(aside_is_on(aside));
    assert_false(aside_is_on(NULL));
    aside_free(aside);
    aside_free(NULL);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aside_equals_array_after_every_step),
        cmocka_unit_test(test_spill_of_an_ended_cut_is_nobodys),
        cmocka_unit_test(test_puts_are_told_of_in_their_order),
        cmocka_unit_test(test_two_buffers_at_least_and_none_is_off),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
