/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-status-room.c - room for old content that is low, full and back; and the
 * way out, in words
 */
#include "fs/status.h"
#include "tests/lib/test.h"

#include <string.h>

#define MIB    (UINT64_C(1) << 20)
#define SECOND G_GINT64_CONSTANT(1000000)

struct Fixture {
    struct StatusInput input;
    struct StatusTracker tracker;
};

static void
setup(struct Fixture *f)
{
    memset(f, 0, sizeof(*f));
    f->input.store = "/srv/weir/vm1";
    f->input.mountpoint = "/mnt/vm1";
    f->input.is_served = true;
    f->input.now_us = 1000 * SECOND;
    f->input.aside_limit_bytes = 80 * MIB;
    f->input.n_snapshots = 1;
}

static enum RoomState
look_after(struct Fixture *f, int64_t seconds)
{
    f->input.now_us += seconds * SECOND;
    status_tracker_update(&f->tracker, &f->input);
    return f->tracker.room;
}

static void
test_low_is_near_the_limit_and_stays_a_little(void **state)
{
    static const struct {
        uint64_t mib;
        enum RoomState room;
    } steps[] = {{0, ROOM_AMPLE}, {69, ROOM_AMPLE}, {70, ROOM_LOW},
                 {61, ROOM_LOW},  {59, ROOM_AMPLE}, {69, ROOM_AMPLE}};
    struct Fixture f;

    (void)state;
    setup(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        f.input.snapshot_bytes = steps[i].mib * MIB;
        assert_int_equal(look_after(&f, 1), steps[i].room);
        assert_false(status_is_throttled(&f.input, &f.tracker));
    }
    f.input.aside_limit_bytes = 0;
    f.input.is_tight = true;
    assert_int_equal(look_after(&f, 1), ROOM_LOW);
    f.input.n_snapshots = 0;
    assert_int_equal(look_after(&f, 1), ROOM_AMPLE);
}

static void
test_full_while_writes_wait_and_a_while_longer(void **state)
{
    struct Fixture f;

    (void)state;
    setup(&f);
    assert_int_equal(look_after(&f, 1), ROOM_AMPLE);
    f.input.face.starved = f.input.face.starvations = 1;
    assert_int_equal(look_after(&f, 1), ROOM_FULL);
    assert_int_equal(status_state(&f.input, &f.tracker), STATE_THROTTLED);
    assert_int_equal(look_after(&f, 60), ROOM_FULL);
    f.input.face.starved = 0;
    f.input.face.refused = 1;
    assert_int_equal(look_after(&f, 1), ROOM_FULL);
    assert_int_equal(look_after(&f, 4), ROOM_FULL);
    assert_int_equal(look_after(&f, 1), ROOM_AMPLE);
    assert_int_equal(status_state(&f.input, &f.tracker), STATE_IDLE);
    /* Between two looks. */
    f.input.face.starvations++;
    assert_int_equal(look_after(&f, 1), ROOM_FULL);
}

static void
test_slowed_is_throttled_and_not_full(void **state)
{
    struct Fixture f;

    (void)state;
    setup(&f);
    f.input.snapshot_bytes = 75 * MIB;
    f.input.face.slowed = 1;
    assert_int_equal(look_after(&f, 1), ROOM_LOW);
    assert_true(status_is_throttled(&f.input, &f.tracker));
    assert_int_equal(look_after(&f, 5), ROOM_LOW);
    assert_false(status_is_throttled(&f.input, &f.tracker));
}

static char *
words_of(const char *state, const char *limit, const char *snapshots)
{
    g_autofree char *text = g_strdup_printf(
        "{\"room\": {\"state\": \"%s\", \"waiting_writes\": 3, "
        "\"refused_writes\": 2}, \"buffer\": {\"cow_bytes\": 83886080, "
        "\"cow_limit_bytes\": %s}, \"snapshots\": [%s]}",
        state, limit, snapshots);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    return status_room_words(json_node_get_object(node));
}

static void
test_words_name_the_oldest_and_the_limit(void **state)
{
#define SNAPSHOT(NAME, BYTES) \
    "{\"name\": \"" NAME "\", \"kept_bytes\": " BYTES "}"
    static const struct {
        const char *state, *limit, *snapshots, *words;
    } cases[] = {
        {"ample", "83886080", SNAPSHOT("a", "1048576"), NULL},
        {"full", "83886080",
         SNAPSHOT("a", "1048576") ", " SNAPSHOT("b", "0") ", " SNAPSHOT(
             "c", "2097152") ", " SNAPSHOT("d", "1") ", " SNAPSHOT("e", "1"),
         "NO ROOM for old content that snapshots need: 3 writes wait, 2 were "
         "refused (ENOSPC); weir snapshot delete the oldest: a (1 MiB), "
         "c (2 MiB), d (1 B); or raise buffer-size (now 80 MiB)"},
        {"full", "null", "",
         "NO ROOM for old content that snapshots need: 3 writes wait, 2 were "
         "refused (ENOSPC); make room on this host's file system"},
        {"low", "8388608000", SNAPSHOT("a", "1048576"),
         "room for old content is about to end; weir snapshot delete the "
         "oldest: a (1 MiB); or make room on this host's file system"},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *words =
            words_of(cases[i].state, cases[i].limit, cases[i].snapshots);

        if (cases[i].words) {
            assert_non_null(words);
            assert_string_equal(words, cases[i].words);
        } else {
            assert_null(words);
        }
    }
}

static void
test_words_name_jobs_that_hold_an_instant(void **state)
{
    static const char jobs[] =
        "[{\"id\": \"a\", \"keeps_old_content\": true}, {\"id\": \"b\", "
        "\"keeps_old_content\": false}, {\"id\": \"c\"}, {\"id\": \"d\", "
        "\"keeps_old_content\": true}]";
    g_autofree char *text = g_strdup_printf(
        "{\"room\": {\"state\": \"low\"}, \"buffer\": {}, \"snapshots\": [], "
        "\"jobs\": %s}",
        jobs);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autofree char *words = status_room_words(json_node_get_object(node));

    (void)state;
    assert_string_equal(words,
                        "room for old content is about to end; make room on "
                        "this host's file system or weir job cancel STORE a d");
}

static void
test_status_says_so_first(void **state)
{
    struct Fixture f;
    g_autoptr(JsonObject) status = NULL;
    g_autofree char *text = NULL;

    (void)state;
    setup(&f);
    f.input.face.starved = 2;
    (void)look_after(&f, 1);
    status = status_build(&f.input, &f.tracker);
    assert_true(json_object_get_boolean_member(status, "throttled"));
    text = status_text(status, 80);
    assert_true(g_str_has_prefix(
        text, "vm1  0 disks  THROTTLED  writes wait for room; no target"));
    assert_non_null(strstr(text, "NO ROOM for old content"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_low_is_near_the_limit_and_stays_a_little),
        cmocka_unit_test(test_full_while_writes_wait_and_a_while_longer),
        cmocka_unit_test(test_slowed_is_throttled_and_not_full),
        cmocka_unit_test(test_words_name_the_oldest_and_the_limit),
        cmocka_unit_test(test_words_name_jobs_that_hold_an_instant),
        cmocka_unit_test(test_status_says_so_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
