/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-state.c - the state file: what round trips, and that no damage passes
 */
#include "fs/snapshot.h"
#include "fs/state.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>
#include <xxhash.h>

static uint64_t seed_number;

static void
fill(struct State *state)
{
    *state = (struct State){
        .is_clean = true,
        .sequence = 1234567890123,
        .epoch = 77,
        .epoch_before = 75,
        .cuts = {41, 1700000000000001, 43, 40, 1700000000000000, 17},
        .last_snapshot = 19,
        .rollback = 12};
    memset(state->uuid, 0xa5, sizeof(state->uuid));
    state->n_disks = 2;
    state->disks[0] = (struct StateDisk){
        .id = 3,
        .size_bytes = UINT64_C(64) << 40,
        .cluster_bits = 16,
        .target = g_strdup("[ nbdkit file \"/a b;c\" ] "),
        .contact = CONTACT_KNOWN,
        .dirty = STATE_DIRTY_FILE,
        .is_in_doubt = true,
        .cut = 41,
        .attr = {0640, 1000, (gid_t)-1, {-5, 999999999}, {1700000000, 7}},
        .raw = {UINT64_MAX, 4096, {1700000001, 123456789}},
    };
    state->disks[1] =
        (struct StateDisk){.id = 9, .size_bytes = 512, .cluster_bits = 12};
    state->disks[1].dirty = STATE_DIRTY_ALL;
}

static void
test_state_round_trips(void **unused)
{
    struct State state, back;
    const struct StateDisk *disk;
    size_t len;
    char *text;

    (void)unused;
    fill(&state);
    text = state_format(&state, &len);
    assert_int_equal(strlen(text), len);
    assert_null(state_parse(text, len, &back));
    assert_true(back.is_clean);
    assert_int_equal(back.sequence, state.sequence);
    assert_int_equal(back.epoch, state.epoch);
    assert_int_equal(back.epoch_before, state.epoch_before);
    assert_memory_equal(back.uuid, state.uuid, 16);
    assert_memory_equal(&back.cuts, &state.cuts, sizeof(back.cuts));
    assert_int_equal(back.last_snapshot, 19);
    assert_int_equal(back.rollback, 12);
    assert_int_equal(back.n_disks, 2);
    disk = state_disk(&back, 3);
    assert_string_equal(disk->target, state.disks[0].target);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(disk->dirty, STATE_DIRTY_FILE);
    assert_true(disk->is_in_doubt);
    assert_int_equal(disk->cut, 41);
    assert_int_equal(disk->size_bytes, UINT64_C(64) << 40);
    assert_memory_equal(&disk->attr, &state.disks[0].attr, sizeof(disk->attr));
    assert_memory_equal(&disk->raw, &state.disks[0].raw, sizeof(disk->raw));
    disk = state_disk(&back, 9);
    assert_null(disk->target);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_int_equal(disk->dirty, STATE_DIRTY_ALL);
    assert_false(disk->is_in_doubt);
    assert_int_equal(disk->cut, 0);
    assert_null(state_disk(&back, 4));
    state_deinit(&back);
    state_deinit(&state);
    g_free(text);
}

/* Earlier versions knew of no cuts. */
static void
test_state_without_cuts_is_read(void **unused)
{
    static const struct StoreCuts none;
    struct State state, back;
    size_t len;
    char *text;

    (void)unused;
    fill(&state);
    state.cuts = none;
    text = state_format(&state, &len);
    assert_null(strstr(text, "holds"));
    assert_null(state_parse(text, len, &back));
    assert_memory_equal(&back.cuts, &none, sizeof(none));
    state_deinit(&back);
    state_deinit(&state);
    g_free(text);
}

/* Never a number that may have been used, and nothing is held. */
static void
test_lost_cuts_go_on_beyond_all_used(void **unused)
{
    struct StoreCuts cuts = {.holds = 5, .advancing = 6, .pinned = 5};

    (void)unused;
    state_lose_cuts(&cuts);
    assert_int_equal(cuts.holds, 0);
    assert_int_equal(cuts.pinned, 0);
    assert_true(cuts.advancing > 1700000000);
    assert_true(cuts.past >= SNAPSHOT_ID_MAX);
    cuts.holds = UINT64_C(1) << 40;
    state_lose_cuts(&cuts);
    assert_int_equal(cuts.advancing, UINT64_C(1) << 40);
}

/* Every flipped bit and every cut is seen. */
static void
test_state_sees_damage(void **unused)
{
    struct State state, back;
    size_t len;
    char *text;

    (void)unused;
    fill(&state);
    text = state_format(&state, &len);
    for (size_t i = 0; i < len * 8; i++) {
        text[i / 8] = (char)(text[i / 8] ^ (1 << i % 8));
        assert_non_null(state_parse(text, len, &back));
        assert_false(back.is_clean);
        assert_int_equal(back.n_disks, 0);
        text[i / 8] = (char)(text[i / 8] ^ (1 << i % 8));
    }
    for (size_t cut = 0; cut < len; cut++) {
        assert_non_null(state_parse(text, cut, &back));
    }
    assert_null(state_parse(text, len, &back));
    state_deinit(&back);
    state_deinit(&state);
    g_free(text);
}

/* A state that some other program wrote: its checksum is right, its values
 * are not. */
static void
test_state_survives_junk(void **unused)
{
    Seed seed = {seed_number};
    struct State state, back;
    unsigned taken = 0;
    size_t len;
    char *text;

    (void)unused;
    fill(&state);
    text = state_format(&state, &len);
    for (unsigned round = 0; round < 20000; round++) {
        size_t body = len - strlen("# checksum ") - 17;
        char *copy = g_strdup(text);

        for (uint64_t i = seed_below(&seed, 3); i < 3; i++) {
            copy[seed_below(&seed, body)] = (char)seed_next(&seed);
        }
        snprintf(copy + body, len - body + 1, "# checksum %016llx\n",
                 (unsigned long long)XXH3_64bits(copy, body));
        if (!state_parse(copy, len, &back)) {
            taken++;
            assert_true(back.n_disks <= 2);
        } else {
            assert_false(back.is_clean);
        }
        state_deinit(&back);
        g_free(copy);
    }
    assert_true(taken > 0);
    state_deinit(&state);
    g_free(text);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_round_trips),
        cmocka_unit_test(test_state_without_cuts_is_read),
        cmocka_unit_test(test_lost_cuts_go_on_beyond_all_used),
        cmocka_unit_test(test_state_sees_damage),
        cmocka_unit_test(test_state_survives_junk),
    };

    seed_number = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
