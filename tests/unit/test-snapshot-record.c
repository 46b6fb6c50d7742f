/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-snapshot-record.c - records round trip, and no damage passes
 */
#include "fs/snapshot.h"
#include "tests/lib/test.h"

#include <string.h>
#include <xxhash.h>

static const uint8_t uuid[16] = {0xa5, 1, 2, 3};

static void
fill(Snapshot *snapshot)
{
    *snapshot = (Snapshot){
        .id = SNAPSHOT_ID_MAX,
        .name = "before-upgrade_2.0",
        .wall_us = 1700000000000001,
        .reason = "schedule",
        .is_frozen = true,
        .cut = 41,
        .n_disks = 2,
        .disks = {{3, UINT64_C(64) << 40, 12345}, {9, 512, 0}},
    };
}

static void
test_record_round_trips(void **unused)
{
    Snapshot snapshot, back;
    size_t len;
    char *text;

    (void)unused;
    fill(&snapshot);
    text = snapshot_format(&snapshot, uuid, &len);
    assert_int_equal(strlen(text), len);
    assert_null(snapshot_parse(text, len, uuid, &back));
    assert_int_equal(back.id, snapshot.id);
    assert_string_equal(back.name, snapshot.name);
    assert_int_equal(back.wall_us, snapshot.wall_us);
    assert_string_equal(back.reason, snapshot.reason);
    assert_true(back.is_frozen);
    assert_int_equal(back.cut, 41);
    assert_false(back.is_damaged);
    assert_int_equal(back.n_disks, 2);
    assert_memory_equal(back.disks, snapshot.disks, sizeof(back.disks));
    assert_int_equal(snapshot_disk(&back, 9)->size_bytes, 512);
    assert_null(snapshot_disk(&back, 4));
    g_free(text);
}

static void
test_record_of_another_store_is_none(void **unused)
{
    static const uint8_t other[16] = {0xa5, 1, 2, 4};
    Snapshot snapshot, back;
    size_t len;
    char *text;

    (void)unused;
    fill(&snapshot);
    text = snapshot_format(&snapshot, other, &len);
    assert_non_null(strstr(snapshot_parse(text, len, uuid, &back), "another"));
    assert_int_equal(back.id, 0);
    g_free(text);
}

/* Every flipped bit and every cut is seen. */
static void
test_record_damage_is_seen(void **unused)
{
    Snapshot snapshot, back;
    size_t len;
    char *text;

    (void)unused;
    fill(&snapshot);
    text = snapshot_format(&snapshot, uuid, &len);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
        assert_non_null(snapshot_parse(text, len, uuid, &back));
        assert_int_equal(back.n_disks, 0);
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        assert_non_null(snapshot_parse(text, cut, uuid, &back));
    }
    g_free(text);
}

/* What passes the checksum may still be nonsense. */
static void
test_record_values_are_strict(void **unused)
{
    static const char *const cases[][2] = {
        {"id=1048575", "id=0"},
        {"id=1048575", "id=1048576"},
        {"version=1", "version=2"},
        {"name=before-upgrade_2.0", "name=../x"},
        {"name=before-upgrade_2.0", "name="},
        {"reason=schedule", "reason=much-longer-than-sixteen"},
        {"time=1700000000000001", "time=-1"},
        {"frozen=yes", "frozen=1"},
        {"cut=41", "cut=x"},
        {"[disk 3]", "[disk 0]"},
        {"size=512", "size=0"},
    };
    Snapshot snapshot, back;

    (void)unused;
    fill(&snapshot);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t len;
        char *text = snapshot_format(&snapshot, uuid, &len);
        char *end = strstr(text, "# checksum");
        g_auto(GStrv) parts = NULL;
        g_autofree char *body = NULL, *whole = NULL;

        *end = '\0';
        parts = g_strsplit(text, cases[i][0], 2);
        assert_non_null(parts[1]);
        body = g_strjoinv(cases[i][1], parts);
        whole = g_strdup_printf(
            "%s# checksum %016llx\n", body,
            (unsigned long long)XXH3_64bits(body, strlen(body)));
        if (!snapshot_parse(whole, strlen(whole), uuid, &back)) {
            fail_msg("case %u passed", i);
        }
        g_free(text);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_round_trips),
        cmocka_unit_test(test_record_of_another_store_is_none),
        cmocka_unit_test(test_record_damage_is_seen),
        cmocka_unit_test(test_record_values_are_strict),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
