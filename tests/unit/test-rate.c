/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timetables as users write them, the bucket's average over sizes and times,
 * the meter's figure.
 */
#include "relay/rate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MIB    (UINT64_C(1) << 20)
#define SECOND INT64_C(1000000)

static void
test_rate_table_parses_limits(void **state)
{
    static const struct {
        const char *text;
        uint64_t bps;
    } cases[] = {
        {"8M", 8 * MIB},   {"off", 0},      {"0", 0},
        {"512k", MIB / 2}, {"1G", 1 << 30}, {"1000000", 1000000},
        {" 2M ", 2 * MIB},
    };
    struct RateTable table;
    char why[128];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_true(rate_table_parse(cases[i].text, &table, why, sizeof(why)));
        assert_int_equal(rate_table_at(&table, 0), cases[i].bps);
        assert_int_equal(rate_table_at(&table, 1439), cases[i].bps);
    }
}

static void
test_rate_table_follows_the_day(void **state)
{
    struct RateTable table;
    char why[128];

    (void)state;
    assert_true(
        rate_table_parse("08:00,1M 20:30,off", &table, why, sizeof(why)));
    assert_int_equal(table.count, 2);
    assert_int_equal(rate_table_at(&table, 0), 0); /* as of last evening */
    assert_int_equal(rate_table_at(&table, 8 * 60 - 1), 0);
    assert_int_equal(rate_table_at(&table, 8 * 60), MIB);
    assert_int_equal(rate_table_at(&table, 20 * 60 + 29), MIB);
    assert_int_equal(rate_table_at(&table, 20 * 60 + 30), 0);
}

static void
test_rate_table_refuses_nonsense(void **state)
{
    static const char *const cases[] = {
        "",
        " ",
        "fast",
        "8X",
        "8M8",
        "-1",
        "8MM",
        "99999999999999999999",
        "9999999999G",
        "25:00,1M",
        "08:60,1M",
        "8:00,1M",
        "08:00",
        "08:00,",
        "08:00,1M,2M",
        "20:00,1M 08:00,2M",
        "08:00,1M 08:00,2M",
        "offside",
        "08:00,1M x",
        "1M 2M",
    };
    struct RateTable table = {.count = 7};
    char why[128];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        why[0] = '\0';
        assert_false(rate_table_parse(cases[i], &table, why, sizeof(why)));
        assert_true(strlen(why) > 0);
        assert_int_equal(table.count, 7); /* untouched */
    }
}

static void
test_rate_table_refuses_too_many_entries(void **state)
{
    char text[RATE_SLOTS * 16 + 32] = "";
    struct RateTable table;
    char why[128];

    (void)state;
    for (unsigned i = 0; i <= RATE_SLOTS; i++) {
        char entry[16] = "00:00,1M ";
        entry[3] = (char)('0' + i / 10);
        entry[4] = (char)('0' + i % 10);
        if (i == RATE_SLOTS) {
            assert_true(rate_table_parse(text, &table, why, sizeof(why)));
        }
        strcat(text, entry);
    }
    assert_false(rate_table_parse(text, &table, why, sizeof(why)));
}

static void
test_rate_bucket_off_lets_all_through(void **state)
{
    RateBucket bucket = {0};

    (void)state;
    rate_bucket_set(&bucket, 0, SECOND);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(rate_bucket_take(&bucket, UINT64_C(1) << 40, SECOND));
    }
}

/* Bytes let through in @seconds by asking for @size as often as told to. */
static uint64_t
taken(RateBucket *bucket, uint64_t size, int64_t from, int64_t seconds)
{
    int64_t now = from;
    uint64_t sum = 0;

    while (now < from + seconds * SECOND) {
        if (rate_bucket_take(bucket, size, now)) {
            sum += size;
            continue;
        }
        int64_t next = rate_bucket_next_us(bucket, now);
        assert_true(next > now);
        now = next;
    }
    return sum;
}

static void
test_rate_bucket_keeps_the_average(void **state)
{
    static const uint64_t sizes[] = {512, 65536, 300000, MIB, 5 * MIB};
    static const uint64_t rates[] = {8192, 125000, MIB, 100 * MIB};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        for (unsigned j = 0; j < sizeof(rates) / sizeof(*rates); j++) {
            RateBucket bucket = {0};
            rate_bucket_set(&bucket, rates[j], SECOND);
            uint64_t sum = taken(&bucket, sizes[i], SECOND, 1000);
            uint64_t want = rates[j] * 1000;
            uint64_t slack = want / 50 + rates[j] + sizes[i] + 65536;
            assert_in_range(sum, want - (want < slack ? want : slack),
                            want + slack);
        }
    }
}

static void
test_rate_bucket_forgets_debt_with_a_new_limit(void **state)
{
    RateBucket bucket = {0};

    (void)state;
    rate_bucket_set(&bucket, 100 * MIB, SECOND);
    assert_true(rate_bucket_take(&bucket, 2000 * MIB, SECOND));
    rate_bucket_set(&bucket, MIB, SECOND);
    assert_false(rate_bucket_take(&bucket, 4096, SECOND));
    assert_true(rate_bucket_take(&bucket, 4096, 3 * SECOND));
    rate_bucket_set(&bucket, 0, 3 * SECOND);
    assert_true(rate_bucket_take(&bucket, 2000 * MIB, 3 * SECOND));
}

static void
test_rate_meter_shows_the_rate(void **state)
{
    RateMeter meter = {0};
    uint64_t total = 12345;
    int64_t now = SECOND;

    (void)state;
    assert_int_equal(rate_meter_bps(&meter), 0);
    for (unsigned i = 0; i < 300; i++, now += SECOND / 10, total += MIB / 10) {
        rate_meter_update(&meter, total, now);
    }
    assert_in_range(rate_meter_bps(&meter), MIB * 98 / 100, MIB * 102 / 100);
    for (unsigned i = 0; i < 300; i++, now += SECOND / 10) {
        rate_meter_update(&meter, total, now);
    }
    assert_in_range(rate_meter_bps(&meter), 0, MIB / 1000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate_table_parses_limits),
        cmocka_unit_test(test_rate_table_follows_the_day),
        cmocka_unit_test(test_rate_table_refuses_nonsense),
        cmocka_unit_test(test_rate_table_refuses_too_many_entries),
        cmocka_unit_test(test_rate_bucket_off_lets_all_through),
        cmocka_unit_test(test_rate_bucket_keeps_the_average),
        cmocka_unit_test(test_rate_bucket_forgets_debt_with_a_new_limit),
        cmocka_unit_test(test_rate_meter_shows_the_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
