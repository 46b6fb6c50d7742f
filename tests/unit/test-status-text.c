/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-status-text.c - what people read: 80 columns, the answer first
 */
#include "fs/status.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <string.h>

#define GIB    (UINT64_C(1) << 30)
#define SECOND G_GINT64_CONSTANT(1000000)

static void
fill(struct StatusInput *input, unsigned disks, uint64_t dirty_bytes)
{
    memset(input, 0, sizeof(*input));
    input->store = "/srv/weir/vm1";
    input->mountpoint = "/mnt/vm1";
    input->is_served = true;
    input->host_free_bytes = 80 * GIB;
    input->now_us = 1000 * SECOND;
    input->wall_us = G_GINT64_CONSTANT(1700000000) * SECOND;
    input->n_disks = disks;
    for (unsigned i = 0; i < disks; i++) {
        struct StatusDisk *disk = &input->disks[i];

        disk->name = "vda";
        disk->target = "nbds://backup/vm1";
        disk->size_bytes = 20 * GIB;
        disk->used_bytes = 10 * GIB;
        disk->cluster_bits = 16;
        disk->has_relay = true;
        disk->relay.core.link = RELAY_ONLINE;
        disk->relay.core.contact = CONTACT_KNOWN;
        disk->map.dirty_clusters = dirty_bytes >> 16;
        disk->map.oldest_mark_us =
            dirty_bytes > 0 ? input->now_us - 38 * 60 * SECOND : 0;
    }
}

static char *
text_of(struct StatusInput *input, struct StatusTracker *tracker)
{
    g_autoptr(JsonObject) status = status_build(input, tracker);

    return status_text(status, 80);
}

static void
assert_fits(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line != NULL; line++) {
        if (g_utf8_strlen(*line, -1) > 80) {
            print_error("too long: %s\n", *line);
        }
        assert_true(g_utf8_strlen(*line, -1) <= 80);
    }
}

static void
test_first_line_is_the_answer(void **state)
{
    struct StatusTracker tracker = {0};
    struct StatusInput input;
    g_autofree char *dirty = NULL;
    g_autofree char *clean = NULL;
    g_autofree char *rest = NULL;

    (void)state;
    fill(&input, 2, 6 * GIB);
    for (unsigned i = 0; i < 5; i++) {
        status_tracker_update(&tracker, &input);
        input.now_us += SECOND;
        input.disks[0].relay.core.settled_bytes += 5 << 20;
        input.disks[0].relay.upload_bps = 5 << 20;
    }
    dirty = text_of(&input, &tracker);
    assert_true(g_str_has_prefix(
        dirty,
        "vm1  2 disks  DRAINING  12 GiB to upload, ~41 min at 5 MiB/s\n"));

    fill(&input, 1, 0);
    memset(&tracker, 0, sizeof(tracker));
    status_tracker_update(&tracker, &input);
    clean = text_of(&input, &tracker);
    assert_true(
        g_str_has_prefix(clean, "vm1  1 disk  IDLE  all at the target\n"));
    assert_non_null(strstr(clean, "target complete since "));

    fill(&input, 1, GIB);
    input.is_served = false;
    input.mountpoint = NULL;
    rest = text_of(&input, NULL);
    assert_true(g_str_has_prefix(
        rest, "vm1  1 disk  DISCONNECTED  1 GiB to upload, not mounted\n"));
}

static void
test_unknown_is_not_made_up(void **state)
{
    struct StatusTracker tracker = {0};
    struct StatusInput input;
    g_autofree char *text = NULL;

    (void)state;
    fill(&input, 1, GIB);
    status_tracker_update(&tracker, &input);
    text = text_of(&input, &tracker);
    assert_null(strstr(text, "~"));
    assert_null(strstr(text, "guest writes"));
}

static void
test_no_line_is_wider_than_80_columns(void **state)
{
    g_autofree char *name = g_strnfill(200, 'x');
    g_autofree char *store = g_strconcat("/srv/", name, NULL);
    g_autofree char *target = g_strconcat("nbd://", name, NULL);
    struct StatusTracker tracker = {0};
    struct StatusInput input;
    g_autofree char *text = NULL;

    (void)state;
    fill(&input, 64, 19 * GIB);
    input.store = store;
    for (unsigned i = 0; i < 64; i++) {
        input.disks[i].name = name + 136;
        input.disks[i].target = target;
        input.disks[i].is_frozen = true;
        memset(input.disks[i].relay.core.error, 'e', RELAY_TEXT - 1);
        input.disks[i].relay.core.error[5] = '\n';
    }
    for (unsigned i = 0; i < 5; i++) {
        status_tracker_update(&tracker, &input);
        input.now_us += SECOND;
        input.disks[0].relay.core.settled_bytes += 65536;
        input.disks[0].relay.upload_bps = 1023 << 20;
    }
    text = text_of(&input, &tracker);
    assert_fits(text);
    assert_non_null(strstr(text, "1.2 TiB to upload, ~"));
}

static void
test_refusal_is_shown_in_words(void **state)
{
    struct StatusInput input;
    g_autofree char *text = NULL;

    (void)state;
    fill(&input, 1, GIB);
    input.disks[0].relay.core.link = RELAY_REFUSED;
    g_strlcpy(input.disks[0].relay.core.error,
              "it holds foreign data; say weir set STORE "
              "target-accept=overwrite to make it equal",
              RELAY_TEXT);
    text = text_of(&input, NULL);
    assert_non_null(strstr(text, "  refused  nbds://backup/vm1\n"));
    assert_non_null(strstr(text, "\n    it holds foreign data; say weir set "
                                 "STORE target-accept=overwrite to make it\n"
                                 "    equal\n"));
}

static void
test_cut_and_what_is_in_its_way_are_shown(void **state)
{
    struct StatusInput input;
    g_autofree char *place = NULL;
    g_autofree char *between = NULL;

    (void)state;
    fill(&input, 2, GIB);
    input.is_cut = input.in_place = true;
    input.held.holds = 12;
    input.held.holds_us = input.wall_us - 20 * SECOND;
    place = text_of(&input, NULL);
    assert_fits(place);
    assert_non_null(strstr(place, "\n  target is cut 12 of "));
    assert_non_null(strstr(place, " (20 s ago)\n"));

    input.in_place = false;
    input.held.pinned = 12;
    g_strlcpy(input.cuts.waits_for, "vdb", sizeof(input.cuts.waits_for));
    input.cuts.hook_failures = 3;
    g_strlcpy(input.cuts.hook_error, "exit status 1: no space",
              sizeof(input.cuts.hook_error));
    between = text_of(&input, NULL);
    assert_fits(between);
    assert_non_null(strstr(between, "\n  target is between cuts; last whole: "
                                    "cut 12 of "));
    assert_non_null(strstr(between, " (20 s ago), pinned\n"));
    assert_non_null(strstr(between, "weir set STORE/vdb"));
    assert_non_null(strstr(between, "on-cut FAILED, 3 times in a row"));
    assert_non_null(strstr(between, " 1: no space\n"));
}

static void
test_bar_is_full_only_when_all_is_there(void **state)
{
    struct StatusInput input;

    (void)state;
    for (unsigned dirty = 0; dirty < 2; dirty++) {
        g_autoptr(JsonObject) status = NULL;
        g_autofree char *bar = NULL;

        fill(&input, 1, dirty << 16);
        status = status_build(&input, NULL);
        bar = status_bar(status, 80);
        assert_true(strlen(bar) <= 80);
        assert_int_equal(strstr(bar, "100.0%") != NULL, dirty == 0);
        assert_int_equal(strchr(bar, '-') == NULL, dirty == 0);
    }
}

static void
test_sizes_and_durations_are_short(void **state)
{
    static const struct {
        double bytes;
        const char *words;
    } sizes[] = {{0, "0 B"},
                 {512, "512 B"},
                 {1024, "1 KiB"},
                 {1536, "1.5 KiB"},
                 {1048575, "1.0 MiB"},
                 {123.4 * 1048576, "123 MiB"},
                 {20.0 * 1073741824, "20 GiB"}};
    static const struct {
        double seconds;
        const char *words;
    } times[] = {{0, "0 s"},
                 {89, "89 s"},
                 {120, "2 min"},
                 {5400, "1.5 h"},
                 {864000, "10 days"}};

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *words = status_size(sizes[i].bytes);

        assert_string_equal(words, sizes[i].words);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autofree char *words = status_duration(times[i].seconds);

        assert_string_equal(words, times[i].words);
    }
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_line_is_the_answer),
        cmocka_unit_test(test_unknown_is_not_made_up),
        cmocka_unit_test(test_no_line_is_wider_than_80_columns),
        cmocka_unit_test(test_refusal_is_shown_in_words),
        cmocka_unit_test(test_cut_and_what_is_in_its_way_are_shown),
        cmocka_unit_test(test_bar_is_full_only_when_all_is_there),
        cmocka_unit_test(test_sizes_and_durations_are_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
