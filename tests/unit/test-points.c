/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-points.c - a chain of points beside plain arrays
 *
 * The model has the disk as one number per cluster, how often it was written,
 * and for each point what its data file has. A snapshot remembers the numbers
 * of its instant. Seeded steps write, take and delete snapshots, give back what
 * is useless, grow the disk. After each of them what is asked of the points is
 * worked out anew from the arrays, and what is read through them is compared
 * with what was there at the instant.
 */
#include "bitmap/points.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>

#define BITS    12
#define CLUSTER (UINT64_C(1) << BITS)
#define MAX     420
#define POINTS  12
#define HOLDS   6
#define WORLDS  20
#define STEPS   4000
#define GARBAGE UINT32_MAX

static uint64_t seed0;

struct ModelPoint {
    Point *point;
    uint64_t id, n;
    bool is_live;
    bool kept[MAX], unsure[MAX];
    uint32_t file[MAX]; /* its data file */
    uint32_t says[MAX]; /* the truth of the instant */
};

struct Model {
    Points *points;
    Seed seed;
    uint64_t n, last_id;
    uint32_t disk[MAX];
    struct ModelPoint chain[POINTS]; /* oldest first */
    unsigned n_chain;
    Point *holds[HOLDS];
    unsigned n_holds;
};

/*
 * What the arrays say
 */
static bool
may_have(const struct ModelPoint *p, uint64_t c)
{
    return c < p->n && (p->kept[c] || p->unsure[c]);
}

/* First of [@first, @last) that has it, or @last. */
static unsigned
first_with(const struct Model *m, unsigned first, unsigned last, uint64_t c)
{
    while (first < last && !may_have(&m->chain[first], c)) {
        first++;
    }
    return first;
}

/* Index of the youngest live one, or n_chain. */
static unsigned
copied_to(const struct Model *m)
{
    for (unsigned i = m->n_chain; i-- > 0;) {
        if (m->chain[i].is_live) {
            return i;
        }
    }
    return m->n_chain;
}

static bool
is_missing(const struct Model *m, uint64_t c)
{
    unsigned i = copied_to(m);

    return i < m->n_chain && c < m->chain[i].n &&
           first_with(m, i, m->n_chain, c) == m->n_chain;
}

/* Some live snapshot finds, or might find, @c of point @i. */
static bool
is_wanted(const struct Model *m, unsigned i, uint64_t c)
{
    for (unsigned from = 0; from < i; from++) {
        unsigned p = from;

        while (p < i && !(c < m->chain[p].n && m->chain[p].kept[c])) {
            p++;
        }
        if (m->chain[from].is_live && c < m->chain[from].n && p == i) {
            return true;
        }
    }
    return false;
}

static bool
is_useless(const struct Model *m, unsigned i, uint64_t c)
{
    return c < m->chain[i].n && m->chain[i].kept[c] && !is_wanted(m, i, c);
}

static bool
is_needed(const struct Model *m, unsigned i)
{
    for (uint64_t c = 0; c < m->chain[i].n; c++) {
        if (may_have(&m->chain[i], c) && is_wanted(m, i, c)) {
            return true;
        }
    }
    return m->chain[i].is_live;
}

/*
 * What the points say
 */
static void
compare_find(struct Model *m)
{
    unsigned s = (unsigned)seed_below(&m->seed, m->n_chain), p;
    const struct ModelPoint *snapshot = &m->chain[s];
    uint64_t c = seed_below(&m->seed, m->n);
    uint64_t max = 1 + seed_below(&m->seed, m->n - c), count = 0, alike = 1;
    enum PointsPlace place, want = POINTS_DISK;
    Point *point;

    place = points_find(m->points, snapshot->id, c, max, &point, &count);
    if (!snapshot->is_live) {
        assert_int_equal(place, POINTS_GONE);
        return;
    }
    p = first_with(m, s, m->n_chain, c);
    if (p < m->n_chain) {
        want = m->chain[p].unsure[c] ? POINTS_UNSURE : POINTS_FILE;
    }
    while (alike < max && first_with(m, s, m->n_chain, c + alike) == p &&
           (p == m->n_chain ||
            m->chain[p].unsure[c + alike] == m->chain[p].unsure[c])) {
        alike++;
    }
    assert_int_equal(place, want);
    assert_int_equal(count, alike);
    assert_ptr_equal(point, place == POINTS_FILE ? m->chain[p].point : NULL);
    for (uint64_t i = c; i < c + count && i < snapshot->n; i++) {
        assert_true(place == POINTS_UNSURE ||
                    snapshot->says[i] ==
                        (point ? m->chain[p].file[i] : m->disk[i]));
    }
    if (point && m->n_holds < HOLDS && seed_below(&m->seed, 8) == 0) {
        m->holds[m->n_holds++] = point;
    } else if (point) {
        points_done(m->points, point);
    }
}

static void
compare_missing(struct Model *m)
{
    uint64_t from = seed_below(&m->seed, m->n);
    uint64_t end = from + 1 + seed_below(&m->seed, m->n - from);
    uint64_t first = from, last;
    struct ClusterRun run;

    while (first < end && !is_missing(m, first)) {
        first++;
    }
    for (last = first; last < end && is_missing(m, last); last++) {
    }
    assert_int_equal(points_next_missing(m->points, from, end, &run),
                     first < end);
    if (first < end) {
        assert_int_equal(run.first, first);
        assert_int_equal(run.count, last - first);
    }
}

/* Between any two, of which the older is live; or up to now. */
static void
compare_changed(struct Model *m)
{
    unsigned a = (unsigned)seed_below(&m->seed, m->n_chain);
    unsigned b = a + 1 + (unsigned)seed_below(&m->seed, m->n_chain - a);
    uint64_t from = seed_below(&m->seed, m->n), first, last;
    const uint32_t *then = b < m->n_chain ? m->chain[b].says : m->disk;
    struct ClusterRun run;

    for (first = from; first < m->n; first++) {
        if (first_with(m, a, b, first) < b) {
            break;
        }
        assert_true(!m->chain[a].is_live || first >= m->chain[a].n ||
                    m->chain[a].says[first] == then[first]);
    }
    for (last = first; last < m->n && first_with(m, a, b, last) < b; last++) {
    }
    assert_int_equal(points_next_changed(m->points, m->chain[a].id,
                                         b < m->n_chain ? m->chain[b].id : 0,
                                         from, m->n, &run),
                     first < m->n);
    assert_int_equal(run.first, first);
    assert_int_equal(run.count, last - first);
    assert_false(
        points_next_changed(m->points, m->last_id + 1, 0, 0, m->n, &run));
}

static void
compare_uses(struct Model *m)
{
    unsigned i = (unsigned)seed_below(&m->seed, m->n_chain);
    uint64_t from = seed_below(&m->seed, m->n);
    uint64_t end = from + 1 + seed_below(&m->seed, m->n - from);
    uint64_t first = from, last;
    struct ClusterRun run;

    assert_int_equal(points_is_needed(m->points, m->chain[i].id),
                     is_needed(m, i));
    while (first < end && !is_useless(m, i, first)) {
        first++;
    }
    for (last = first; last < end && is_useless(m, i, last); last++) {
    }
    if (m->chain[i].is_live || first == end) {
        assert_false(
            points_next_useless(m->points, m->chain[i].id, from, end, &run));
        return;
    }
    assert_true(
        points_next_useless(m->points, m->chain[i].id, from, end, &run));
    assert_int_equal(run.first, first);
    assert_int_equal(run.count, last - first);
}

static void
compare(struct Model *m)
{
    unsigned to = copied_to(m);

    compare_missing(m);
    assert_ptr_equal(points_youngest(m->points),
                     to < m->n_chain ? m->chain[to].point : NULL);
    assert_int_equal(points_count(m->points), m->n_chain);
    if (m->n_chain) {
        compare_find(m);
        compare_changed(m);
        compare_uses(m);
    }
}

/* Nothing that may be read says anything else than it did. */
static void
compare_contents(const struct Model *m)
{
    for (unsigned s = 0; s < m->n_chain; s++) {
        const struct ModelPoint *snapshot = &m->chain[s];

        for (uint64_t c = 0; snapshot->is_live && c < snapshot->n; c++) {
            unsigned p = first_with(m, s, m->n_chain, c);

            if (p == m->n_chain) {
                assert_int_equal(m->disk[c], snapshot->says[c]);
            } else if (!m->chain[p].unsure[c]) {
                assert_int_equal(m->chain[p].file[c], snapshot->says[c]);
            }
        }
    }
}

/*
 * Steps
 */
static struct ClusterRun
some_run(struct Model *m)
{
    struct ClusterRun run = {seed_below(&m->seed, m->n), 0};
    uint64_t left = m->n - run.first;

    run.count = 1 + seed_below(&m->seed, seed_below(&m->seed, 10) ? 6 : 200);
    run.count = run.count < left ? run.count : left;
    return run;
}

static void
copy(struct Model *m, struct ClusterRun run)
{
    struct ModelPoint *to = &m->chain[copied_to(m)];

    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        assert_true(is_missing(m, c));
        to->file[c] = m->disk[c];
        to->kept[c] = true;
    }
}

static void
do_write(struct Model *m)
{
    struct ClusterRun all = some_run(m), run;
    uint64_t end = all.first + all.count;

    for (uint64_t c = all.first; points_next_missing(m->points, c, end, &run);
         c = run.first + run.count) {
        copy(m, run);
        points_keep(m->points, points_youngest(m->points), run);
    }
    for (uint64_t c = all.first; c < end; c++) {
        assert_false(is_missing(m, c));
        m->disk[c]++;
    }
}

/* Some have been loaded from a damaged file, and may have what it lost. */
static void
do_add(struct Model *m)
{
    struct ModelPoint *p = &m->chain[m->n_chain];

    if (m->n_chain == POINTS) {
        return;
    }
    *p = (struct ModelPoint){.n = m->n, .is_live = true};
    p->id = m->last_id += 1 + seed_below(&m->seed, 3);
    memcpy(p->says, m->disk, sizeof(p->says));
    p->point = point_new(p->id, m->n * CLUSTER - seed_below(&m->seed, CLUSTER),
                         BITS, (int)p->id, (int)p->id + 1);
    assert_non_null(p->point);
    assert_int_equal(point_id(p->point), p->id);
    assert_int_equal(point_map_fd(p->point), p->id);
    assert_int_equal(point_data_fd(p->point), p->id + 1);
    if (seed_below(&m->seed, 6) == 0) {
        struct ClusterRun run = some_run(m);

        bitmap_set_run(point_unsure(p->point), run);
        memset(p->unsure + run.first, 1, run.count);
        run = some_run(m);
        bitmap_set_run(point_kept(p->point), run);
        memset(p->kept + run.first, 1, run.count);
        memcpy(p->file, m->disk, sizeof(p->file));
    }
    points_add(m->points, p->point);
    if (seed_below(&m->seed, 10) == 0) { /* it did not come to anything */
        assert_ptr_equal(points_remove(m->points, p->id), p->point);
        point_free(p->point);
        return;
    }
    m->n_chain++;
}

static void
do_delete(struct Model *m)
{
    struct ModelPoint *p;

    if (m->n_chain && seed_below(&m->seed, POINTS) < m->n_chain) {
        p = &m->chain[seed_below(&m->seed, m->n_chain)];
        p->is_live = false;
        points_set_live(m->points, p->id, false);
        assert_false(points_is_live(m->points, p->id));
    }
}

static void
do_grow(struct Model *m)
{
    uint64_t more = seed_below(&m->seed, 20);

    m->n = m->n + more < MAX ? m->n + more : MAX;
}

static void
do_punch(struct Model *m)
{
    struct ModelPoint *p;
    struct ClusterRun run;

    if (!m->n_chain) {
        return;
    }
    p = &m->chain[seed_below(&m->seed, m->n_chain)];
    for (uint64_t c = 0;
         points_next_useless(m->points, p->id, c, UINT64_MAX, &run);
         c = run.first + run.count) {
        assert_true(run.first >= c && run.count);
        for (uint64_t i = run.first; i < run.first + run.count; i++) {
            p->file[i] = GARBAGE;
        }
    }
    compare_contents(m);
}

/* One that somebody reads in stays. */
static void
do_remove(struct Model *m)
{
    unsigned i = (unsigned)seed_below(&m->seed, POINTS), held = 0;
    Point *point;

    if (i >= m->n_chain || points_is_needed(m->points, m->chain[i].id)) {
        return;
    }
    for (unsigned h = 0; h < m->n_holds; h++) {
        held += m->holds[h] == m->chain[i].point;
    }
    point = points_remove(m->points, m->chain[i].id);
    assert_ptr_equal(point, held ? NULL : m->chain[i].point);
    if (point) {
        point_free(point);
        m->n_chain--;
        memmove(&m->chain[i], &m->chain[i + 1],
                (m->n_chain - i) * sizeof(m->chain[0]));
        compare_contents(m);
    }
}

static void
do_end_of_read(struct Model *m)
{
    if (m->n_holds) {
        points_done(m->points, m->holds[--m->n_holds]);
    }
}

static void
one_world(struct Model *m)
{
    static void (*const steps[])(struct Model *) = {
        do_write, do_write,  do_write,  do_write,       do_write, do_add,
        do_punch, do_delete, do_remove, do_end_of_read, do_remove};

    m->points = points_new();
    m->n = 1 + seed_below(&m->seed, MAX / 2);
    for (unsigned i = 0; i < STEPS; i++) {
        if (seed_below(&m->seed, 100) == 0) {
            do_grow(m);
        }
        steps[seed_below(&m->seed, sizeof(steps) / sizeof(*steps))](m);
        compare(m);
    }
    compare_contents(m);
    for (unsigned i = 0; i < m->n_chain; i++) {
        struct PointFigures figures;
        uint64_t kept = 0;

        for (uint64_t c = 0; c < m->chain[i].n; c++) {
            kept += m->chain[i].kept[c];
        }
        assert_true(points_figures(m->points, m->chain[i].id, &figures));
        assert_int_equal(figures.kept_clusters, kept);
        assert_int_equal(figures.is_live, m->chain[i].is_live);
    }
    points_free(m->points);
}

static void
test_points_equal_arrays_after_every_step(void **state)
{
    struct Model *m = test_malloc(sizeof(*m));
    Seed seed = {seed0};

    (void)state;
    for (unsigned i = 0; i < WORLDS; i++) {
        *m = (struct Model){.seed = {seed_next(&seed)}};
        one_world(m);
    }
    test_free(m);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_equal_arrays_after_every_step),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
