/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The zero list against a plain array of units, and its record against every
 * flipped byte.
 */
#include "fs/zero-list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNITS 300
#define UNIT  65536ull

static uint64_t seed = 1;

static void
compare(const ZeroList *list, const bool shadow[UNITS])
{
    struct ZeroRange part;
    uint64_t bytes = 0;

    for (unsigned i = 0; i < UNITS; i++) {
        bool is_in = zero_list_first(list, i * UNIT, UNIT, &part);

        assert_int_equal(is_in, shadow[i]);
        if (is_in) {
            assert_int_equal(part.offset, i * UNIT);
            assert_int_equal(part.len, UNIT);
            bytes += UNIT;
        }
    }
    assert_int_equal(list->bytes, bytes);
    for (unsigned i = 1; i < list->count; i++) {
        assert_true(list->range[i].offset >
                    list->range[i - 1].offset + list->range[i - 1].len);
    }
}

static void
test_zero_list_follows_shadow(void **state)
{
    ZeroList list = {0};
    bool shadow[UNITS] = {false};

    (void)state;
    srandom((unsigned)seed);
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t first = (uint64_t)random() % UNITS;
        uint64_t count = 1 + (uint64_t)random() % 12;
        bool add = random() % 2;

        if (first + count > UNITS) {
            count = UNITS - first;
        }
        uint64_t version = list.version;
        bool done = add ? zero_list_add(&list, first * UNIT, count * UNIT)
                        : zero_list_remove(&list, first * UNIT, count * UNIT);

        if (add && !done) {
            assert_true(list.count >= ZERO_LIST_ADD_MAX);
            assert_int_equal(list.version, version);
            continue;
        }
        assert_true(done);
        for (uint64_t i = 0; i < count; i++) {
            shadow[first + i] = add;
        }
        if (round % 16 == 0) {
            compare(&list, shadow);
        }
    }
    compare(&list, shadow);
}

static void
test_zero_list_add_stops_when_full(void **state)
{
    ZeroList list = {0};

    (void)state;
    for (unsigned i = 0; i < ZERO_LIST_ADD_MAX; i++) {
        assert_true(zero_list_add(&list, 2 * i * UNIT, UNIT));
    }
    assert_false(zero_list_add(&list, 2 * ZERO_LIST_ADD_MAX * UNIT, UNIT));
    /* What joins ranges makes room. */
    assert_true(zero_list_add(&list, UNIT, UNIT));
    assert_int_equal(list.count, ZERO_LIST_ADD_MAX - 1);
}

static void
test_zero_record_survives_round_trip(void **state)
{
    ZeroList list = {0}, back;
    unsigned char page[ZERO_RECORD_BYTES];
    uint64_t sequence;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        assert_true(zero_list_add(&list, 3 * i * UNIT, 2 * UNIT));
    }
    zero_record_encode(&list, 77, 4, page);
    assert_true(zero_record_decode(page, 300 * UNIT, 4, &back, &sequence));
    assert_int_equal(sequence, 77);
    assert_int_equal(back.count, list.count);
    assert_int_equal(back.bytes, list.bytes);
    assert_memory_equal(back.range, list.range,
                        list.count * sizeof(list.range[0]));
    /* A smaller disk than the ranges need. */
    assert_false(zero_record_decode(page, 200 * UNIT, 4, &back, &sequence));
    assert_false(zero_record_decode(page, 300 * UNIT, 5, &back, &sequence));
}

static void
test_zero_record_detects_every_flip(void **state)
{
    ZeroList list = {0}, back;
    unsigned char page[ZERO_RECORD_BYTES];
    uint64_t sequence;

    (void)state;
    assert_true(zero_list_add(&list, UNIT, UNIT));
    zero_record_encode(&list, 5, 4, page);
    for (unsigned i = 0; i < ZERO_RECORD_BYTES; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            page[i] ^= (unsigned char)(1u << bit);
            assert_false(
                zero_record_decode(page, 300 * UNIT, 4, &back, &sequence));
            page[i] ^= (unsigned char)(1u << bit);
        }
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_list_follows_shadow),
        cmocka_unit_test(test_zero_list_add_stops_when_full),
        cmocka_unit_test(test_zero_record_survives_round_trip),
        cmocka_unit_test(test_zero_record_detects_every_flip),
    };

    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : seed;
    printf("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
