/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-range.c - byte ranges and cluster runs, against counting by hand
 */
#include "bitmap/range.h"
#include "tests/lib/test.h"

static void
test_range_end_refuses_wrap_and_limit(void **state)
{
    static const struct {
        uint64_t offset, len, limit;
        bool ok;
    } cases[] = {
        {0, 0, 0, true},
        {0, 1, 0, false},
        {10, 5, 15, true},
        {10, 6, 15, false},
        {UINT64_MAX, 0, UINT64_MAX, true},
        {UINT64_MAX, 1, UINT64_MAX, false},
        {1, UINT64_MAX, UINT64_MAX, false},
        {UINT64_MAX - 4, 4, UINT64_MAX, true},
        {UINT64_C(1) << 63, UINT64_C(1) << 63, UINT64_MAX, false},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t end = 1;

        assert_int_equal(
            range_end(cases[i].offset, cases[i].len, cases[i].limit, &end),
            cases[i].ok);
        if (cases[i].ok) {
            assert_int_equal(end, cases[i].offset + cases[i].len);
        }
    }
}

static void
test_overlap_equals_common_bytes(void **state)
{
    (void)state;
    for (uint64_t code = 0; code < 6 * 5 * 6 * 5; code++) {
        uint64_t a = code % 6, a_len = code / 6 % 5;
        uint64_t b = code / 30 % 6, b_len = code / 180;
        bool common = false;

        for (uint64_t at = 0; at < 12; at++) {
            common |= at >= a && at < a + a_len && at >= b && at < b + b_len;
        }
        assert_int_equal(ranges_overlap(a, a_len, b, b_len), common);
    }
    assert_true(ranges_overlap(UINT64_MAX - 1, 1, 0, UINT64_MAX));
    assert_false(ranges_overlap(UINT64_MAX - 1, 1, 0, UINT64_MAX - 1));
}

/* All ranges of a disk of @size bytes with clusters of 4. */
static void
check_runs(uint64_t size)
{
    uint64_t n = clusters_for(size, 2);

    assert_int_equal(n, (size + 3) / 4);
    for (uint64_t offset = 0; offset <= size; offset++) {
        for (uint64_t len = 0; offset + len <= size; len++) {
            struct ClusterRun out = run_outward(offset, len, 2);
            struct ClusterRun in = run_inward(offset, len, size, 2);

            for (uint64_t c = 0; c < n; c++) {
                uint64_t end = 4 * c + 4 < size ? 4 * c + 4 : size;
                bool touched = len && offset < end && offset + len > 4 * c;
                bool covered = offset <= 4 * c && offset + len >= end;

                assert_int_equal(c - out.first < out.count, touched);
                assert_int_equal(c - in.first < in.count, covered);
            }
        }
    }
}

static void
test_runs_equal_counting_by_hand(void **state)
{
    (void)state;
    for (uint64_t size = 1; size <= 17; size++) {
        check_runs(size);
    }
}

static void
test_clusters_for_the_largest_sizes_do_not_wrap(void **state)
{
    (void)state;
    assert_int_equal(clusters_for(UINT64_MAX, 16), UINT64_C(1) << 48);
    assert_int_equal(clusters_for(UINT64_MAX, 12), UINT64_C(1) << 52);
    assert_int_equal(clusters_for(0, 12), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range_end_refuses_wrap_and_limit),
        cmocka_unit_test(test_overlap_equals_common_bytes),
        cmocka_unit_test(test_runs_equal_counting_by_hand),
        cmocka_unit_test(test_clusters_for_the_largest_sizes_do_not_wrap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
