/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-bitmap.c - a bitmap beside an array of plain bools
 *
 * Every operation is done to both, and after each of them all that can be
 * asked is asked of both: the count, single bits, next dirty, next clean, next
 * run and the count of runs, from random places and from the edges of words
 * and of the disk. bitmap_check() recomputes all levels. Sizes stand at and
 * beside the edges of a word of each level.
 */
#include "bitmap/bitmap.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BITS    12
#define CLUSTER (UINT64_C(1) << BITS)
#define ROOM    (64 * 64 * 64 + 200)

static uint64_t seed0;

struct Shadow {
    Bitmap *map;
    bool *bits;
    uint64_t n;
    uint64_t count;
};

static void
shadow_init(struct Shadow *s, uint64_t n)
{
    s->map = bitmap_new(n * CLUSTER, BITS);
    s->bits = test_calloc(ROOM, sizeof(bool));
    s->n = n;
    s->count = 0;
    assert_non_null(s->map);
}

static void
shadow_deinit(struct Shadow *s)
{
    bitmap_free(s->map);
    test_free(s->bits);
}

static uint64_t
shadow_next(const struct Shadow *s, uint64_t from, bool value)
{
    const bool *hit;

    if (from >= s->n) {
        return UINT64_MAX;
    }
    hit = memchr(s->bits + from, value, s->n - from);
    return hit ? (uint64_t)(hit - s->bits) : UINT64_MAX;
}

static uint64_t
shadow_count(const struct Shadow *s, struct ClusterRun run)
{
    uint64_t sum = 0;

    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        sum += s->bits[c];
    }
    return sum;
}

static uint64_t
shadow_fill(struct Shadow *s, struct ClusterRun run, bool value)
{
    uint64_t changed = 0;

    for (uint64_t c = run.first; c < run.first + run.count; c++) {
        changed += s->bits[c] != value;
        s->bits[c] = value;
    }
    s->count = value ? s->count + changed : s->count - changed;
    return changed;
}

static void
compare_from(const struct Shadow *s, uint64_t from, uint64_t len)
{
    struct ClusterRun run = {0, 0};
    uint64_t first = shadow_next(s, from, true);
    uint64_t end;

    assert_int_equal(bitmap_next_dirty(s->map, from), first);
    assert_int_equal(bitmap_next_clean(s->map, from),
                     shadow_next(s, from, false));
    assert_int_equal(bitmap_next_run(s->map, from, len + 1, &run),
                     first != UINT64_MAX);
    if (first != UINT64_MAX) {
        end = shadow_next(s, first, false);
        end = end == UINT64_MAX ? s->n : end;
        assert_int_equal(run.first, first);
        assert_int_equal(run.count,
                         end - first < len + 1 ? end - first : len + 1);
    }
    if (from < s->n) {
        len = len < s->n - from ? len : s->n - from;
        run = (struct ClusterRun){from, len};
        assert_int_equal(bitmap_get(s->map, from), s->bits[from]);
        assert_int_equal(bitmap_count_run(s->map, run), shadow_count(s, run));
    }
}

static void
compare(const struct Shadow *s, Seed *seed, unsigned probes)
{
    static const uint64_t edges[] = {0,    1,    63,   64,           65,
                                     4095, 4096, 4097, 64 * 64 * 64, 127};

    assert_int_equal(bitmap_count(s->map), s->count);
    assert_int_equal(bitmap_clusters(s->map), s->n);
    bitmap_check(s->map);
    for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        compare_from(s, edges[i], edges[seed_below(seed, 8)]);
        compare_from(s, s->n - 1 - (edges[i] < s->n ? edges[i] : 0), edges[i]);
    }
    for (unsigned i = 0; i < probes; i++) {
        compare_from(s, seed_below(seed, s->n + 70), seed_below(seed, s->n));
    }
}

/* A run as an operation would have it: short, long, at an edge, all. */
static struct ClusterRun
random_run(Seed *seed, uint64_t n)
{
    struct ClusterRun run;

    switch (seed_below(seed, 6)) {
    case 0:
        run.first = seed_below(seed, n);
        run.count = 1;
        break;
    case 1:
        run.first = seed_below(seed, n) & ~UINT64_C(63);
        run.count = seed_below(seed, 300);
        break;
    case 2:
        run.first = seed_below(seed, n) & ~UINT64_C(4095);
        run.count = seed_below(seed, 3 * 4096);
        break;
    case 3:
        run.first = seed_below(seed, n);
        run.count = n;
        break;
    default:
        run.first = seed_below(seed, n);
        run.count = seed_below(seed, 1 + n / 16);
        break;
    }
    run.count = run.count < n - run.first ? run.count : n - run.first;
    return run;
}

static void
merge_random(struct Shadow *s, Seed *seed)
{
    Bitmap *other = bitmap_new(s->n * CLUSTER, BITS);
    uint64_t changed = 0;

    assert_non_null(other);
    for (unsigned i = 0; i < 20; i++) {
        struct ClusterRun run = random_run(seed, s->n);

        run.count = run.count > 100 ? 100 : run.count;
        bitmap_set_run(other, run);
        changed += shadow_fill(s, run, true);
    }
    assert_int_equal(bitmap_merge(s->map, other), changed);
    bitmap_free(other);
}

static void
merge_run_random(struct Shadow *s, Seed *seed)
{
    Bitmap *other = bitmap_new(s->n * CLUSTER, BITS);
    struct ClusterRun run = random_run(seed, s->n);
    uint64_t changed = 0;

    assert_non_null(other);
    for (uint64_t c = 0; c < s->n; c += 1 + seed_below(seed, 1 + s->n / 50)) {
        struct ClusterRun one = {c, 1};

        bitmap_set_run(other, one);
        if (c - run.first < run.count) {
            changed += shadow_fill(s, one, true);
        }
    }
    assert_int_equal(bitmap_merge_run(s->map, other, run), changed);
    bitmap_free(other);
}

static void
load_words_random(struct Shadow *s, Seed *seed)
{
    uint64_t words[5];
    size_t n_words;
    uint64_t first;

    (void)bitmap_words(s->map, &n_words);
    first = seed_below(seed, n_words);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t kind = seed_below(seed, 3);

        words[i] = kind == 0 ? 0 : kind == 1 ? UINT64_MAX : seed_next(seed);
    }
    n_words = n_words - first < 5 ? n_words - first : 5;
    bitmap_load_words(s->map, first, words, n_words);
    for (uint64_t c = first * 64; c < (first + n_words) * 64 && c < s->n; c++) {
        shadow_fill(s, (struct ClusterRun){c, 1},
                    (words[c / 64 - first] >> (c % 64)) & 1);
    }
}

static void
random_step(struct Shadow *s, Seed *seed)
{
    struct ClusterRun run = random_run(seed, s->n);
    uint64_t grow;

    switch (seed_below(seed, 12)) {
    case 0:
        bitmap_set_all(s->map);
        shadow_fill(s, (struct ClusterRun){0, s->n}, true);
        break;
    case 1:
        bitmap_clear_all(s->map);
        shadow_fill(s, (struct ClusterRun){0, s->n}, false);
        break;
    case 2:
        grow = seed_below(seed, 130);
        grow = grow < ROOM - s->n ? grow : 0;
        s->n += grow;
        assert_int_equal(bitmap_grow(s->map, s->n * CLUSTER), 0);
        break;
    case 3:
        merge_random(s, seed);
        break;
    case 4:
        load_words_random(s, seed);
        break;
    case 5:
        merge_run_random(s, seed);
        break;
    case 6:
    case 7:
    case 8:
        assert_int_equal(bitmap_clear_run(s->map, run),
                         shadow_fill(s, run, false));
        break;
    default:
        assert_int_equal(bitmap_set_run(s->map, run),
                         shadow_fill(s, run, true));
        break;
    }
}

static void
test_bitmap_equals_shadow_after_every_step(void **state)
{
    static const uint64_t sizes[] = {
        1,    2,    63,   64,          65,           127,
        128,  129,  4095, 4096,        4097,         64 * 64 + 63,
        8191, 8192, 8193, 64 * 64 * 3, 64 * 64 * 64,
    };
    Seed seed = {seed0};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        bool is_big = sizes[i] > 20000;
        struct Shadow s;

        shadow_init(&s, sizes[i]);
        compare(&s, &seed, 10);
        for (unsigned step = 0; step < (is_big ? 40 : 250); step++) {
            random_step(&s, &seed);
            compare(&s, &seed, is_big ? 6 : 12);
        }
        shadow_deinit(&s);
    }
}

static void
test_bitmap_edges_of_a_three_level_map_hold(void **state)
{
    Seed seed = {seed0};

    (void)state;
    for (uint64_t n = 64 * 64 * 64 - 1; n <= 64 * 64 * 64 + 1; n++) {
        struct Shadow s;

        shadow_init(&s, n);
        bitmap_set_all(s.map);
        shadow_fill(&s, (struct ClusterRun){0, n}, true);
        compare(&s, &seed, 4);
        for (uint64_t c = n - 1; c + 3 > n; c--) {
            struct ClusterRun one = {c, 1};

            assert_int_equal(bitmap_clear_run(s.map, one), 1);
            shadow_fill(&s, one, false);
            compare(&s, &seed, 2);
            assert_int_equal(bitmap_set_run(s.map, one), 1);
            shadow_fill(&s, one, true);
            compare(&s, &seed, 2);
        }
        shadow_deinit(&s);
    }
}

static void
test_grow_from_full_leaves_new_clusters_clean(void **state)
{
    Seed seed = {seed0};

    (void)state;
    for (uint64_t n = 1; n <= 4097; n = n < 70 ? n + 1 : n * 2 - 63) {
        for (uint64_t by = 0; by < 4200; by = by * 4 + 1) {
            struct Shadow s;

            shadow_init(&s, n);
            bitmap_set_all(s.map);
            shadow_fill(&s, (struct ClusterRun){0, n}, true);
            s.n = n + by;
            assert_int_equal(bitmap_grow(s.map, s.n * CLUSTER), 0);
            compare(&s, &seed, 2);
            shadow_deinit(&s);
        }
    }
}

static void
test_bytes_set_outward_and_clear_inward(void **state)
{
    uint64_t size = 10 * CLUSTER + 100; /* the last cluster is partial */
    Bitmap *map = bitmap_new(size, BITS);

    (void)state;
    assert_int_equal(bitmap_clusters(map), 11);
    assert_int_equal(bitmap_set_bytes(map, CLUSTER - 1, 2), 2);
    assert_true(bitmap_get(map, 0) && bitmap_get(map, 1));
    assert_int_equal(bitmap_clear_bytes(map, 1, 2 * CLUSTER - 2), 0);
    assert_int_equal(bitmap_clear_bytes(map, 1, 2 * CLUSTER - 1), 1);
    assert_true(bitmap_get(map, 0));
    assert_int_equal(bitmap_set_bytes(map, size - 1, 1), 1);
    assert_int_equal(bitmap_clear_bytes(map, 10 * CLUSTER, 99), 0);
    assert_int_equal(bitmap_clear_bytes(map, 10 * CLUSTER, 100), 1);
    assert_int_equal(bitmap_set_bytes(map, size, 0), 0);
    assert_int_equal(bitmap_count(map), 1);
    bitmap_free(map);
}

/* Pages of the process that are in memory, in KiB. */
static long
resident_kib(void)
{
    long total, resident;
    FILE *f = fopen("/proc/self/statm", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &total, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void
test_clean_64_tib_costs_next_to_nothing(void **state)
{
    long before = resident_kib();
    Bitmap *map = bitmap_new(UINT64_C(64) << 40, 16);
    uint64_t n = bitmap_clusters(map);

    (void)state;
    assert_int_equal(n, UINT64_C(1) << 30);
    assert_int_equal(bitmap_next_dirty(map, 0), UINT64_MAX);
    assert_int_equal(bitmap_set_run(map, (struct ClusterRun){n / 2, 1}), 1);
    assert_int_equal(bitmap_next_dirty(map, 0), n / 2);
    assert_int_equal(bitmap_next_clean(map, n / 2), n / 2 + 1);
    assert_int_equal(bitmap_count_run(map, (struct ClusterRun){1, n - 1}), 1);
    assert_int_equal(bitmap_clear_run(map, (struct ClusterRun){0, n}), 1);
    assert_true(TEST_IS_SANITIZED || resident_kib() - before <= 1024);

    bitmap_set_all(map);
    assert_int_equal(bitmap_count(map), n);
    assert_int_equal(bitmap_next_clean(map, 0), UINT64_MAX);
    bitmap_clear_all(map);
    assert_int_equal(bitmap_count(map), 0);
    assert_int_equal(bitmap_next_dirty(map, 0), UINT64_MAX);
    assert_true(TEST_IS_SANITIZED || resident_kib() - before <= 1024);
    bitmap_free(map);
}

static void
test_clear_all_works_on_locked_memory(void **state)
{
    Bitmap *map;

    (void)state;
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0) {
        return; /* not allowed here: nothing to see */
    }
    map = bitmap_new(UINT64_C(1) << 40, 16);
    assert_non_null(map);
    bitmap_set_all(map);
    bitmap_clear_all(map);
    assert_int_equal(bitmap_count(map), 0);
    bitmap_check(map);
    bitmap_free(map);
    munlockall();
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bitmap_equals_shadow_after_every_step),
        cmocka_unit_test(test_bitmap_edges_of_a_three_level_map_hold),
        cmocka_unit_test(test_grow_from_full_leaves_new_clusters_clean),
        cmocka_unit_test(test_bytes_set_outward_and_clear_inward),
        cmocka_unit_test(test_clean_64_tib_costs_next_to_nothing),
        cmocka_unit_test(test_clear_all_works_on_locked_memory),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
