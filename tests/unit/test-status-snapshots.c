/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-status-snapshots.c - what the status and the metrics say of snapshots
 */
#include "fs/status.h"
#include "tests/lib/test.h"

#include <string.h>

#define GIB    (UINT64_C(1) << 30)
#define SECOND G_GINT64_CONSTANT(1000000)

struct Fixture {
    Store store;
    struct StatusInput input;
};

static int
setup(void **state)
{
    struct Fixture *f = g_new0(struct Fixture, 1);

    f->store.snapshots = snapshot_list_new();
    f->input.store = "/srv/weir/vm1";
    f->input.is_served = true;
    f->input.host_free_bytes = 80 * GIB;
    f->input.now_us = 1000 * SECOND;
    f->input.wall_us = G_GINT64_CONSTANT(1700000000) * SECOND;
    f->input.n_disks = 1;
    f->input.disks[0].name = "vda";
    f->input.disks[0].size_bytes = 20 * GIB;
    f->input.disks[0].used_bytes = 4 * GIB;
    f->input.disks[0].aside_bytes = GIB;
    f->input.disks[0].cluster_bits = 16;
    f->input.of = &f->store;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    snapshot_list_free(f->store.snapshots);
    g_free(f);
    return 0;
}

/* As status_gather() finds it. */
static void
add(struct Fixture *f, const char *name)
{
    Snapshot snapshot = {.id = ++f->input.n_snapshots, .cut = 7};

    g_strlcpy(snapshot.name, name, sizeof(snapshot.name));
    snapshot.wall_us = f->input.wall_us - 5 * 60 * SECOND;
    snapshot_list_put(f->store.snapshots, &snapshot);
    f->input.last_snapshot_us = snapshot.wall_us;
    f->input.snapshot_bytes += GIB;
}

static char *
text_of(struct Fixture *f)
{
    g_autoptr(JsonObject) status = status_build(&f->input, NULL);
    char *text = status_text(status, 80);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line != NULL; line++) {
        assert_true(g_utf8_strlen(*line, -1) <= 80);
    }
    return text;
}

static void
test_without_any_there_is_no_line(void **state)
{
    struct Fixture *f = *state;
    g_autoptr(JsonObject) root = status_build(&f->input, NULL);
    g_autofree char *text = text_of(f);
    g_autofree char *metrics = metrics_text(&f->input, NULL);
    JsonObject *how = json_object_get_object_member(root, "snapshotting");

    assert_null(strstr(text, "snapshot"));
    assert_int_equal(
        json_array_get_length(json_object_get_array_member(root, "snapshots")),
        0);
    assert_false(json_object_get_boolean_member(how, "busy"));
    assert_int_equal(json_object_get_int_member(how, "every_seconds"), 0);
    assert_true(json_object_get_null_member(how, "next_time"));
    assert_true(json_object_get_null_member(how, "error"));
    assert_true(json_object_get_null_member(how, "hook_error"));
    assert_non_null(strstr(metrics, "weir_snapshots{instance_name="
                                    "\"/srv/weir/vm1\"} 0\n"));
    assert_null(strstr(metrics, "weir_snapshot_last_time_seconds{"));
}

static void
test_they_are_listed_and_counted(void **state)
{
    struct Fixture *f = *state;
    g_autoptr(JsonObject) root = NULL;
    g_autofree char *metrics = NULL;
    JsonObject *object;

    add(f, "daily");
    f->input.snapshot_every_s = 3600;
    f->input.snapshot_keep = 24;
    f->input.snapshots.next_us = f->input.now_us + 60 * SECOND;
    f->input.snapshots.is_busy = true;
    root = status_build(&f->input, NULL);
    object = json_object_get_object_member(root, "snapshotting");
    assert_true(json_object_get_boolean_member(object, "busy"));
    assert_int_equal(json_object_get_int_member(object, "every_seconds"), 3600);
    assert_int_equal(json_object_get_int_member(object, "keep"), 24);
    assert_string_equal(json_object_get_string_member(object, "next_time"),
                        "2023-11-14T22:14:20Z");
    object = json_array_get_object_element(
        json_object_get_array_member(root, "snapshots"), 0);
    assert_string_equal(json_object_get_string_member(object, "name"), "daily");
    object = json_object_get_object_member(root, "buffer");
    assert_int_equal(json_object_get_int_member(object, "cow_bytes"), 2 * GIB);
    assert_int_equal(json_object_get_int_member(object, "used_bytes"), 5 * GIB);
    metrics = metrics_text(&f->input, NULL);
    assert_non_null(strstr(metrics, "weir_snapshots{instance_name="
                                    "\"/srv/weir/vm1\"} 1\n"));
    assert_non_null(strstr(metrics, "weir_snapshot_bytes{instance_name="
                                    "\"/srv/weir/vm1\"} 1073741824\n"));
    assert_non_null(strstr(metrics, "weir_snapshot_last_time_seconds{"
                                    "instance_name=\"/srv/weir/vm1\"} "
                                    "1699999700\n"));
}

static void
test_text_has_a_line(void **state)
{
    struct Fixture *f = *state;
    g_autofree char *one = NULL;
    g_autofree char *two = NULL;

    add(f, "before-upgrade");
    one = text_of(f);
    assert_non_null(strstr(one, "  1 snapshot keeps 0 B   last: "
                                "before-upgrade of "));
    assert_non_null(strstr(one, "(5 min ago)\n"));
    assert_null(strstr(one, "FAILED"));
    add(f, "daily");
    strcpy(f->input.snapshots.error, "no room");
    strcpy(f->input.snapshots.hook_error, "on-thaw: exit status 1");
    two = text_of(f);
    assert_non_null(strstr(two, "  2 snapshots keep "));
    assert_non_null(strstr(two, "snapshot-every FAILED"));
    assert_non_null(strstr(two, "hook FAILED: on-thaw: exit status 1\n"));
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_without_any_there_is_no_line),
        TEST(test_they_are_listed_and_counted),
        TEST(test_text_has_a_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
