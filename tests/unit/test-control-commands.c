/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control-commands.c - QEMU's commands about bitmaps, jobs and nodes
 */
#include "control-world.h"

/*
 * Bitmaps
 */
static void
test_bitmaps_come_and_go(void **state)
{
    struct World *w = *state;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    tell(w, "block-dirty-bitmap-add",
         "'node':'vda','name':'b','granularity':4096,'persistent':true,"
         "'disabled':true");
    assert_bitmaps(w, "a 65536 0 r--, b 4096 0 --p");
    write_clusters(w, 3, 2);
    tell(w, "block-dirty-bitmap-merge",
         "'node':'vda','target':'b','bitmaps':['a',{'node':'vda','name':'a'}]");
    assert_bitmaps(w, "a 65536 2 r--, b 4096 32 --p");
    tell(w, "block-dirty-bitmap-clear", "'node':'vda','name':'a'");
    tell(w, "block-dirty-bitmap-enable", "'node':'vda','name':'b'");
    tell(w, "block-dirty-bitmap-disable", "'node':'vda','name':'a'");
    write_clusters(w, 0, 1);
    assert_bitmaps(w, "a 65536 0 ---, b 4096 48 r-p");
    tell(w, "block-dirty-bitmap-remove", "'node':'vda','name':'a'");
    assert_bitmaps(w, "b 4096 48 r-p");
}

static void
test_what_is_wrong_with_bitmaps_is_said(void **state)
{
    struct World *w = *state;
    g_autofree char *name = g_strnfill(65, 'n');
    g_autofree char *long_name =
        g_strdup_printf("'node':'vda','name':'%s'", name);
    g_autofree char *long_words = g_strdup_printf(
        "Invalid bitmap name '%s': it has up to 64 of A-Z a-z 0-9 . _ -, and "
        "begins with no dot",
        name);

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    refused(w, "block-dirty-bitmap-add", "'node':'vdz','name':'a'",
            "DeviceNotFound", "Cannot find device='vdz' nor node-name='vdz'");
    refused(w, "block-dirty-bitmap-add", "'name':'a'", GENERIC,
            "Parameter 'node' is missing");
    refused(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'", GENERIC,
            "Bitmap already exists: a: remove it first, or choose another "
            "name");
    refused(w, "block-dirty-bitmap-add",
            "'node':'vda','name':'x','granularity':64000", GENERIC,
            "Granularity must be power of 2, and between 512 and 2G");
    refused(w, "block-dirty-bitmap-add",
            "'node':'vda','name':'x','granularity':0", GENERIC,
            "Granularity must be power of 2, and between 512 and 2G");
    refused(w, "block-dirty-bitmap-add", long_name, GENERIC, long_words);
    refused(w, "block-dirty-bitmap-clear", "'node':'vda','name':'x'", GENERIC,
            "Bitmap 'x' could not be found: disk vda has none of this name");
    refused(w, "block-dirty-bitmap-merge",
            "'node':'vda','target':'a','bitmaps':['a','x']", GENERIC,
            "Bitmap 'x' could not be found: disk vda has none of this name");
    refused(w, "block-dirty-bitmap-merge",
            "'node':'vda','target':'a','bitmaps':[{'node':'vdb','name':'a'}]",
            GENERIC,
            "bitmaps of other disks cannot be merged: 'a' is not of 'vda'");
    refused(w, "block-dirty-bitmap-merge",
            "'node':'vda','target':'a','bitmaps':[1]", GENERIC,
            "Invalid parameter type for 'bitmaps', expected: string or object");
    assert_bitmaps(w, "a 65536 0 r--");
}

static void
test_extents_are_marked_and_listed(void **state)
{
    struct World *w = *state;
    g_autoptr(JsonNode) answer = NULL;
    JsonArray *extents;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    tell(w, "weir-bitmap-mark",
         "'node':'vda','name':'a','extents':[{'offset':65535,'length':2},"
         "{'offset':8388607,'length':1}]");
    answer = ask(w, "weir-bitmap-extents", "'node':'vda','name':'a'");
    extents =
        json_object_get_array_member(json_node_get_object(answer), "extents");
    assert_int_equal(json_array_get_length(extents), 2);
    assert_int_equal(json_object_get_int_member(
                         json_array_get_object_element(extents, 0), "length"),
                     2 * CLUSTER);
    refused(w, "weir-bitmap-mark",
            "'node':'vda','name':'a','extents':[{'offset':8388607,"
            "'length':2}]",
            GENERIC, "extent 8388607+2 is not on disk vda");
    refused(w, "weir-bitmap-mark",
            "'node':'vda','name':'a','extents':[{'offset':1,'length':"
            "9223372036854775807}]",
            GENERIC, "extent 1+9223372036854775807 is not on disk vda");
    tell(w, "weir-bitmap-extents",
         "'node':'vda','name':'a','start':9223372036854775807");
    assert_bitmaps(w, "a 65536 3 r--");
}

static void
test_digest_is_of_the_words(void **state)
{
    struct World *w = *state;
    uint64_t words[2] = {GUINT64_TO_LE(UINT64_C(1) << 5),
                         GUINT64_TO_LE(UINT64_C(1) << 63)};
    g_autofree char *wanted = g_compute_checksum_for_data(
        G_CHECKSUM_SHA256, (const guchar *)words, sizeof(words));
    g_autoptr(JsonNode) answer = NULL;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    write_clusters(w, 5, 1);
    write_clusters(w, 127, 1);
    answer =
        ask(w, "x-debug-block-dirty-bitmap-sha256", "'node':'vda','name':'a'");
    assert_string_equal(
        json_object_get_string_member(json_node_get_object(answer), "sha256"),
        wanted);
}

/*
 * Jobs, queries
 */
static void
test_jobs_are_found_by_either_name(void **state)
{
    struct World *w = *state;
    g_autoptr(JsonNode) jobs = NULL;

    refused(w, "job-pause", "'id':'one'", GENERIC, "Job not found");
    refused(w, "block-job-cancel", "'device':'one'", "DeviceNotActive",
            "Block job 'one' not found");
    refused(w, "block-job-set-speed", "'device':'one','speed':1",
            "DeviceNotActive", "Block job 'one' not found");
    refused(w, "blockdev-mirror", "'device':'vdz','target':'/x','sync':'full'",
            "DeviceNotFound", "Cannot find device='vdz' nor node-name='vdz'");
    refused(w, "blockdev-mirror",
            "'device':'vda','target':'/mnt/nowhere/vda.raw','sync':'full'",
            GENERIC,
            "Source and target cannot be the same: /mnt/nowhere/vda.raw is in "
            "the mount");
    tell(w, "blockdev-backup",
         "'device':'vda','target':'/x','sync':'full','job-id':'one'");
    refused(w, "blockdev-backup",
            "'device':'vda','target':'/y','sync':'full','job-id':'one'",
            GENERIC, "Job ID 'one' already in use");
    refused(w, "weir-set", "'disk':'vda','settings':{'target':'/./x'}", GENERIC,
            "target /./x: job one writes it: cancel that, or wait for its end");
    tell(w, "job-pause", "'id':'one'");
    tell(w, "block-job-resume", "'device':'one'");
    tell(w, "block-job-set-speed", "'device':'one','speed':1000");
    refused(w, "block-job-set-speed", "'device':'one','speed':-1", GENERIC,
            "Parameter 'speed' expects a non-negative value");
    refused(w, "job-dismiss", "'id':'one'", GENERIC,
            "Job 'one' in state 'running' cannot accept command verb "
            "'dismiss'");
    jobs = ask(w, "query-jobs", "");
    assert_int_equal(json_array_get_length(json_node_get_array(jobs)), 1);
    refused(w, "block_resize", "'node-name':'vda','size':16777216", GENERIC,
            "vda: job one is at work on it: cancel that, or wait for its end");
}

/* Where something of a job may still arrive no disk goes. */
static void
test_target_in_doubt_is_given_to_no_disk(void **state)
{
    struct World *w = *state;
    g_autofree char *text =
        request("weir-set", "'disk':'vda','settings':{'target':"
                            "'nbd://127.0.0.1/y'}");
    g_autoptr(JsonObject) answer = NULL;
    const char *words;

    jobs_doubt_target(w->daemon.jobs, "nbd://localhost/y");
    peer_write(&w->peer, text);
    answer = peer_read(&w->peer);
    assert_true(json_object_has_member(answer, "error"));
    words = json_object_get_string_member(
        json_object_get_object_member(answer, "error"), "desc");
    assert_non_null(strstr(words, "target nbd://127.0.0.1/y: requests of a job "
                                  "that has ended may still execute there"));
    assert_string_equal(w->disk->target, TARGET);
}

static void
test_nodes_have_what_clients_want(void **state)
{
    static const char *const members[] = {
        "node-name",
        "drv",
        "file",
        "ro",
        "encrypted",
        "cache",
        "image",
        "bps",
        "bps_rd",
        "bps_wr",
        "iops",
        "iops_rd",
        "iops_wr",
        "detect_zeroes",
        "backing_file_depth",
        "write_threshold",
        "active",
    };
    struct World *w = *state;
    g_autoptr(JsonNode) answer =
        ask(w, "query-named-block-nodes", "'flat':true");
    JsonObject *node =
        json_array_get_object_element(json_node_get_array(answer), 0);
    g_autoptr(JsonNode) later = NULL;
    NamedBitmap *frozen;
    JsonArray *list;

    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++) {
        assert_true(json_object_has_member(node, members[i]));
    }
    assert_false(json_object_has_member(node, "dirty-bitmaps"));
    assert_false(json_object_get_boolean_member(node, "ro"));
    w->config.options.is_read_only = true;
    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    assert_int_equal(named_freeze(w->disk->bitmaps, "a", &frozen), NAMED_OK);
    write_clusters(w, 0, 2);
    later = ask(w, "query-named-block-nodes", "");
    node = json_array_get_object_element(json_node_get_array(later), 0);
    assert_true(json_object_get_boolean_member(node, "ro"));
    list = json_object_get_array_member(node, "dirty-bitmaps");
    assert_int_equal(json_array_get_length(list), 2);
    node = json_array_get_object_element(list, 1);
    assert_false(json_object_has_member(node, "name"));
    assert_int_equal(json_object_get_int_member(node, "count"), 2 * CLUSTER);
    named_thaw(frozen, NAMED_OLD, NULL);
}

static void
test_disk_grows_by_either_name(void **state)
{
    struct World *w = *state;

    refused(w, "block_resize", "'size':1", GENERIC,
            "wants one of node-name and device");
    refused(w, "block_resize", "'device':'x','size':1", "DeviceNotFound",
            "Cannot find device='x' nor node-name='x'");
    refused(w, "block_resize", "'device':'vda','size':-1", GENERIC,
            "Parameter 'size' expects a size larger than 0");
}

/* Each command is in the schema, with each argument of its table. */
static void
test_schema_has_all_commands(void **state)
{
    struct World *w = *state;
    g_autoptr(JsonNode) names = ask(w, "query-commands", "");
    g_autoptr(JsonNode) schema = ask(w, "query-qmp-schema", "");
    JsonArray *list = json_node_get_array(names);
    JsonArray *infos = json_node_get_array(schema);
    guint found = 0;

    for (guint i = 0; i < json_array_get_length(infos); i++) {
        JsonObject *info = json_array_get_object_element(infos, i);

        if (strcmp(json_object_get_string_member(info, "meta-type"),
                   "command") == 0) {
            assert_string_equal(
                json_object_get_string_member(info, "name"),
                json_object_get_string_member(
                    json_array_get_object_element(list, found), "name"));
            found++;
        }
    }
    assert_int_equal(found, json_array_get_length(list));
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_bitmaps_come_and_go),
        TEST(test_what_is_wrong_with_bitmaps_is_said),
        TEST(test_extents_are_marked_and_listed),
        TEST(test_digest_is_of_the_words),
        TEST(test_jobs_are_found_by_either_name),
        TEST(test_target_in_doubt_is_given_to_no_disk),
        TEST(test_nodes_have_what_clients_want),
        TEST(test_disk_grows_by_either_name),
        TEST(test_schema_has_all_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
