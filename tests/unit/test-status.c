/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-status.c - figures in, status.json and metrics out; the clock is the
 * test's own, and its instants invented
 */
#include "fs/status.h"
#include "tests/lib/test.h"

#include <string.h>

#define MIB    (UINT64_C(1) << 20)
#define GIB    (UINT64_C(1) << 30)
#define SECOND G_GINT64_CONSTANT(1000000)

typedef struct Fixture {
    struct StatusInput input;
    struct StatusTracker tracker;
} Fixture;

static struct StatusDisk *
add_disk(Fixture *f, const char *name, const char *target)
{
    struct StatusDisk *disk = &f->input.disks[f->input.n_disks++];

    disk->name = name;
    disk->target = target;
    disk->size_bytes = 10 * GIB;
    disk->used_bytes = 4 * GIB;
    disk->cluster_bits = 16;
    disk->has_relay = target != NULL;
    disk->relay.core.link = RELAY_ONLINE;
    disk->relay.core.contact = CONTACT_KNOWN;
    disk->relay.core.connects = 1;
    return disk;
}

static int
setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->input.store = "/srv/weir/vm1";
    f->input.mountpoint = "/mnt/vm1";
    f->input.is_served = true;
    f->input.host_free_bytes = 96 * GIB;
    f->input.now_us = 1000 * SECOND;
    f->input.wall_us = G_GINT64_CONSTANT(1700000000) * SECOND;
    add_disk(f, "vda", "nbd://far/vda");
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    g_free(*state);
    return 0;
}

static void
pass(Fixture *f, unsigned seconds)
{
    f->input.now_us += seconds * SECOND;
    f->input.wall_us += seconds * SECOND;
}

static void
tick(Fixture *f)
{
    status_tracker_update(&f->tracker, &f->input);
}

static JsonObject *
build(Fixture *f)
{
    return status_build(&f->input, &f->tracker);
}

static void
set_dirty(Fixture *f, uint64_t bytes)
{
    f->input.disks[0].map.dirty_clusters = bytes >> 16;
    f->input.disks[0].map.oldest_mark_us =
        bytes > 0 ? f->input.now_us - 60 * SECOND : 0;
}

/*
 * The schema: names and types may never change
 */
struct Field {
    const char *name;
    char type; /* i s b o a; upper case: or null */
};

static void
check_fields(JsonObject *object, const struct Field *fields)
{
    for (const struct Field *f = fields; f->name != NULL; f++) {
        JsonNode *node = json_object_get_member(object, f->name);
        GType type;

        if (node == NULL) {
            print_error("%s is missing\n", f->name);
        }
        assert_non_null(node);
        if (JSON_NODE_HOLDS_NULL(node)) {
            assert_true(g_ascii_isupper(f->type));
            continue;
        }
        type = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_value_type(node) : 0;
        switch (g_ascii_tolower(f->type)) {
        case 'i':
            assert_true(type == G_TYPE_INT64);
            break;
        case 's':
            assert_true(type == G_TYPE_STRING);
            break;
        case 'b':
            assert_true(type == G_TYPE_BOOLEAN);
            break;
        case 'o':
            assert_true(JSON_NODE_HOLDS_OBJECT(node));
            break;
        default:
            assert_true(JSON_NODE_HOLDS_ARRAY(node));
            break;
        }
    }
}

static void
check_schema(JsonObject *root)
{
    static const struct Field top[] = {
        {"schema_version", 'i'}, {"store", 's'},
        {"state", 's'},          {"mounted", 'b'},
        {"consistent", 'o'},     {"cuts", 'o'},
        {"hook", 'o'},           {"oldest_unreplicated_time", 'S'},
        {"dirty_bytes", 'i'},    {"sealed_bytes", 'i'},
        {"inflight_bytes", 'i'}, {"buffer", 'o'},
        {"rates", 'o'},          {"eta_seconds", 'I'},
        {"diverging", 'b'},      {"throttled", 'b'},
        {"disks", 'a'},          {"jobs", 'a'},
        {"snapshots", 'a'},      {NULL, 0}};
    static const struct Field consistent[] = {
        {"cut", 'I'},      {"time", 'S'},   {"age_seconds", 'I'},
        {"in_place", 'b'}, {"pinned", 'I'}, {NULL, 0}};
    static const struct Field cuts[] = {
        {"state", 'S'},     {"advancing", 'I'}, {"snapshots_pending", 'i'},
        {"waits_for", 'S'}, {"whole", 'i'},     {"degraded", 'i'},
        {"snapshot", 'S'},  {NULL, 0}};
    static const struct Field hook[] = {
        {"running", 'b'}, {"failures", 'i'}, {"error", 'S'}, {NULL, 0}};
    static const struct Field buffer[] = {{"used_bytes", 'i'},
                                          {"limit_bytes", 'i'},
                                          {"cow_bytes", 'i'},
                                          {"cow_limit_bytes", 'I'},
                                          {NULL, 0}};
    static const struct Field rates[] = {{"guest_write_bps", 'I'},
                                         {"dirty_bps", 'I'},
                                         {"upload_bps", 'I'},
                                         {NULL, 0}};
    static const struct Field disk[] = {
        {"name", 's'},          {"size_bytes", 'i'},
        {"target", 'S'},        {"target_state", 's'},
        {"target_error", 'S'},  {"dirty_bytes", 'i'},
        {"cluster_bytes", 'i'}, {NULL, 0}};
    JsonArray *disks = json_object_get_array_member(root, "disks");

    check_fields(root, top);
    check_fields(json_object_get_object_member(root, "consistent"), consistent);
    check_fields(json_object_get_object_member(root, "cuts"), cuts);
    check_fields(json_object_get_object_member(root, "hook"), hook);
    check_fields(json_object_get_object_member(root, "buffer"), buffer);
    check_fields(json_object_get_object_member(root, "rates"), rates);
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        check_fields(json_array_get_object_element(disks, i), disk);
    }
}

static void
test_every_field_is_there_with_its_type(void **state)
{
    Fixture *f = *state;
    g_autoptr(JsonObject) first = NULL;
    g_autoptr(JsonObject) later = NULL;
    g_autoptr(JsonObject) rest = NULL;

    add_disk(f, "scratch", NULL);
    first = build(f);
    check_schema(first);
    set_dirty(f, GIB);
    tick(f);
    pass(f, 5);
    tick(f);
    later = build(f);
    check_schema(later);
    f->input.is_served = false;
    f->input.mountpoint = NULL;
    rest = status_build(&f->input, NULL);
    check_schema(rest);
    assert_true(json_object_get_null_member(rest, "oldest_unreplicated_time"));
}

static void
test_sizes_and_times_are_those_of_the_figures(void **state)
{
    Fixture *f = *state;
    g_autoptr(JsonObject) root = NULL;
    JsonObject *buffer;

    set_dirty(f, 3 * GIB);
    f->input.disks[0].map.sealed_clusters = GIB >> 16;
    f->input.disks[0].relay.core.inflight_bytes = 5 * MIB;
    tick(f);
    root = build(f);
    buffer = json_object_get_object_member(root, "buffer");
    assert_int_equal(json_object_get_int_member(root, "dirty_bytes"), 3 * GIB);
    assert_int_equal(json_object_get_int_member(root, "sealed_bytes"), GIB);
    assert_int_equal(json_object_get_int_member(root, "inflight_bytes"),
                     5 * MIB);
    assert_int_equal(json_object_get_int_member(buffer, "used_bytes"), 4 * GIB);
    assert_int_equal(json_object_get_int_member(buffer, "limit_bytes"),
                     100 * GIB);
    /* 1700000000 is 22:13:20; the mark is a minute older. */
    assert_string_equal(
        json_object_get_string_member(root, "oldest_unreplicated_time"),
        "2023-11-14T22:12:20Z");
}

static void
test_disk_without_target_owes_nothing(void **state)
{
    Fixture *f = *state;
    struct StatusDisk *disk = add_disk(f, "scratch", NULL);

    disk->map.dirty_clusters = GIB >> 16;
    assert_int_equal(status_dirty_bytes(&f->input), 0);
    assert_int_equal(status_state(&f->input, &f->tracker), STATE_IDLE);
}

static void
test_last_cluster_counts_only_what_the_disk_has(void **state)
{
    Fixture *f = *state;

    f->input.disks[0].size_bytes = 100000;
    f->input.disks[0].map.dirty_clusters = 2;
    assert_int_equal(status_dirty_bytes(&f->input), 100000);
}

static void
test_in_place_only_while_all_is_settled(void **state)
{
    Fixture *f = *state;
    g_autoptr(JsonObject) clean = NULL;
    g_autoptr(JsonObject) dirty = NULL;
    JsonObject *consistent;

    tick(f);
    pass(f, 10);
    tick(f);
    clean = build(f);
    consistent = json_object_get_object_member(clean, "consistent");
    assert_true(json_object_get_boolean_member(consistent, "in_place"));
    assert_string_equal(json_object_get_string_member(consistent, "time"),
                        "2023-11-14T22:13:20Z");
    assert_int_equal(json_object_get_int_member(consistent, "age_seconds"), 0);

    pass(f, 30);
    set_dirty(f, MIB);
    tick(f);
    dirty = build(f);
    consistent = json_object_get_object_member(dirty, "consistent");
    assert_false(json_object_get_boolean_member(consistent, "in_place"));
    assert_string_equal(json_object_get_string_member(consistent, "time"),
                        "2023-11-14T22:13:30Z");
    assert_int_equal(json_object_get_int_member(consistent, "age_seconds"), 30);
}

/* The store goes from cut to cut, and its last one is a minute old. */
static void
cut(Fixture *f)
{
    f->input.is_cut = f->input.disks[0].is_cut = true;
    f->input.in_place = true;
    f->input.held.holds = 7;
    f->input.held.holds_us = f->input.wall_us - 60 * SECOND;
}

static void
check_cut(Fixture *f, gint64 number, gint64 age, gboolean in_place,
          gint64 pinned)
{
    g_autoptr(JsonObject) root = build(f);
    JsonObject *consistent = json_object_get_object_member(root, "consistent");

    check_schema(root);
    assert_int_equal(
        json_object_get_int_member_with_default(consistent, "cut", 0), number);
    assert_int_equal(
        json_object_get_int_member_with_default(consistent, "age_seconds", -1),
        age);
    assert_int_equal(json_object_get_boolean_member(consistent, "in_place"),
                     in_place);
    assert_int_equal(
        json_object_get_int_member_with_default(consistent, "pinned", 0),
        pinned);
    assert_string_equal(
        json_object_get_string_member_with_default(consistent, "time", "never"),
        number > 0 ? "2023-11-14T22:12:20Z" : "never");
}

static void
test_consistent_is_the_last_whole_cut(void **state)
{
    Fixture *f = *state;

    cut(f);
    f->input.in_place = false;
    f->input.held = (struct StoreCuts){.advancing = 1};
    tick(f); /* nothing is dirty, and yet nobody says which cut it is */
    check_cut(f, 0, -1, FALSE, 0);
    cut(f);
    check_cut(f, 7, 0, TRUE, 0);
    set_dirty(f, MIB);
    check_cut(f, 7, 60, TRUE, 0);
    f->input.in_place = false;
    f->input.held.advancing = 8;
    f->input.held.pinned = 6;
    set_dirty(f, 0);
    check_cut(f, 7, 60, FALSE, 6);
}

static void
test_cuts_and_hook_are_shown(void **state)
{
    Fixture *f = *state;
    g_autoptr(JsonObject) root = NULL;
    g_autofree char *metrics = NULL;
    JsonObject *object;

    cut(f);
    f->input.held.advancing = 9;
    f->input.held.pinned = 7;
    f->input.cuts = (struct CutsFigures){.state = CUTS_HOOK,
                                         .waits_for = "vdb",
                                         .whole = 3,
                                         .degraded = 2,
                                         .is_hook_running = true,
                                         .hook_failures = 4,
                                         .hook_failed = 5,
                                         .hook_error = "exit status 1: no"};
    tick(f);
    root = build(f);
    object = json_object_get_object_member(root, "cuts");
    assert_string_equal(json_object_get_string_member(object, "state"), "hook");
    assert_int_equal(json_object_get_int_member(object, "advancing"), 9);
    assert_string_equal(json_object_get_string_member(object, "waits_for"),
                        "vdb");
    object = json_object_get_object_member(root, "hook");
    assert_true(json_object_get_boolean_member(object, "running"));
    assert_int_equal(json_object_get_int_member(object, "failures"), 4);
    assert_string_equal(json_object_get_string_member(object, "error"),
                        "exit status 1: no");
    metrics = metrics_text(&f->input, &f->tracker);
    assert_non_null(strstr(metrics, "vm1\"} 7\n# HELP weir_cut_timestamp"));
    assert_non_null(strstr(metrics, "weir_hook_failures_total{instance_name="
                                    "\"/srv/weir/vm1\"} 5\n"));
}

static void
test_eta_is_debt_over_what_it_shrinks_by(void **state)
{
    Fixture *f = *state;
    struct StatusDisk *disk = &f->input.disks[0];
    g_autoptr(JsonObject) root = NULL;

    set_dirty(f, GIB);
    for (unsigned i = 0; i < 10; i++) {
        tick(f);
        pass(f, 1);
        disk->map.dirtied_clusters += 16; /* 1 MiB/s */
        disk->relay.core.settled_bytes += 5 * MIB;
    }
    root = build(f);
    assert_int_equal(json_object_get_int_member(root, "eta_seconds"),
                     1024 / 4 + 1);
    assert_false(json_object_get_boolean_member(root, "diverging"));
    assert_int_equal(
        json_object_get_int_member(json_object_get_object_member(root, "rates"),
                                   "dirty_bps"),
        MIB);
}

static void
test_eta_is_null_when_more_gets_dirty_than_drains(void **state)
{
    Fixture *f = *state;
    struct StatusDisk *disk = &f->input.disks[0];
    g_autoptr(JsonObject) root = NULL;

    set_dirty(f, GIB);
    for (unsigned i = 0; i < 40; i++) {
        tick(f);
        pass(f, 1);
        disk->map.dirtied_clusters += 32;
        disk->relay.core.settled_bytes += MIB;
    }
    root = build(f);
    assert_true(json_object_get_null_member(root, "eta_seconds"));
    assert_true(json_object_get_boolean_member(root, "diverging"));
}

static void
test_eta_is_null_while_nothing_is_known(void **state)
{
    Fixture *f = *state;
    g_autoptr(JsonObject) root = NULL;

    set_dirty(f, GIB);
    tick(f);
    root = build(f);
    assert_true(json_object_get_null_member(root, "eta_seconds"));
    assert_false(json_object_get_boolean_member(root, "diverging"));
}

static void
assert_state(Fixture *f, enum StoreState state)
{
    tick(f);
    assert_string_equal(store_state_name(status_state(&f->input, &f->tracker)),
                        store_state_name(state));
}

static void
test_state_is_the_first_that_applies(void **state)
{
    Fixture *f = *state;
    struct RelayCoreFigures *core = &f->input.disks[0].relay.core;

    assert_state(f, STATE_IDLE);
    set_dirty(f, GIB);
    assert_state(f, STATE_DRAINING);
    core->link = RELAY_OFFLINE;
    core->losses = 1;
    assert_state(f, STATE_DISCONNECTED);
    core->link = RELAY_CONNECTING;
    assert_state(f, STATE_DISCONNECTED);
    f->input.is_paused = true;
    assert_state(f, STATE_PAUSED);
    f->input.is_paused = false;
    core->link = RELAY_REFUSED;
    assert_state(f, STATE_DISCONNECTED);
    f->input.cuts.is_degraded = true;
    assert_state(f, STATE_DISCONNECTED);
    core->link = RELAY_ONLINE;
    assert_state(f, STATE_DEGRADED);
    f->input.cuts.is_degraded = false;
    assert_state(f, STATE_DRAINING);
    f->input.is_served = false;
    assert_state(f, STATE_DISCONNECTED);
    set_dirty(f, 0);
    assert_state(f, STATE_IDLE);
}

static void
test_first_connect_is_no_disconnection(void **state)
{
    Fixture *f = *state;
    struct RelayCoreFigures *core = &f->input.disks[0].relay.core;

    set_dirty(f, GIB);
    core->connects = 0;
    core->link = RELAY_CONNECTING;
    assert_state(f, STATE_DRAINING);
}

static void
test_stalled_after_half_a_minute_without_a_byte(void **state)
{
    Fixture *f = *state;

    set_dirty(f, GIB);
    assert_state(f, STATE_DRAINING);
    pass(f, 29);
    assert_state(f, STATE_DRAINING);
    pass(f, 2);
    assert_state(f, STATE_STALLED);
    f->input.disks[0].relay.core.sent_bytes += 1;
    assert_state(f, STATE_DRAINING);
    f->input.disks[0].relay.core.doubt_clusters = 1;
    pass(f, 50);
    assert_state(f, STATE_DRAINING);
}

/* Waiting for cut-interval is not being stalled; for the hook it is. */
static void
test_between_cuts_nothing_is_stalled(void **state)
{
    Fixture *f = *state;

    cut(f);
    set_dirty(f, GIB);
    f->input.cuts.is_waiting = true;
    assert_state(f, STATE_DRAINING);
    pass(f, 100);
    assert_state(f, STATE_DRAINING);
    f->input.cuts.is_waiting = false;
    pass(f, 31);
    assert_state(f, STATE_STALLED);
    f->input.cuts.is_waiting = true;
    assert_state(f, STATE_DRAINING);
    f->input.disks[0].is_cut = false; /* another one, outside the group */
    pass(f, 31);
    assert_state(f, STATE_STALLED);
}

static void
test_initial_sync_until_the_target_held_it_once(void **state)
{
    Fixture *f = *state;
    struct RelayCoreFigures *core = &f->input.disks[0].relay.core;

    core->contact = CONTACT_NONE;
    set_dirty(f, GIB);
    assert_state(f, STATE_INITIAL_SYNC);
    core->contact = CONTACT_KNOWN;
    assert_state(f, STATE_INITIAL_SYNC);
    set_dirty(f, 0);
    assert_state(f, STATE_IDLE);
    set_dirty(f, GIB);
    assert_state(f, STATE_DRAINING);
    status_tracker_retarget(&f->tracker, 0);
    assert_state(f, STATE_INITIAL_SYNC);
    /* Never seen drained, and yet the target held all of it. */
    core->settled_bytes += f->input.disks[0].size_bytes - 1;
    assert_state(f, STATE_INITIAL_SYNC);
    core->settled_bytes++;
    assert_state(f, STATE_DRAINING);
}

static void
test_metrics_are_well_formed(void **state)
{
    Fixture *f = *state;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    f->input.store = "/srv/a\"b\\c";
    add_disk(f, "scratch", NULL);
    set_dirty(f, GIB);
    tick(f);
    text = metrics_text(&f->input, &f->tracker);
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line != NULL && **line != '\0'; line++) {
        if (g_str_has_prefix(*line, "# HELP ")) {
            /* Each name once: its samples stand together. */
            assert_true(g_hash_table_add(names, *line));
            assert_true(g_str_has_prefix(line[1], "# TYPE weir_"));
            line++;
        } else {
            assert_true(g_str_has_prefix(*line, "weir_"));
            assert_non_null(strchr(*line, ' '));
        }
    }
    assert_non_null(strstr(text, "weir_dirty_bytes{instance_name="
                                 "\"/srv/a\\\"b\\\\c\"} 1073741824\n"));
    assert_non_null(strstr(text, "disk=\"vda\"} 60\n"));
    assert_null(strstr(text, "weir_target_up{instance_name=\"/srv/a\\\"b\\\\c\""
                             ",disk=\"scratch\"}"));
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_every_field_is_there_with_its_type),
        TEST(test_sizes_and_times_are_those_of_the_figures),
        TEST(test_disk_without_target_owes_nothing),
        TEST(test_last_cluster_counts_only_what_the_disk_has),
        TEST(test_in_place_only_while_all_is_settled),
        TEST(test_consistent_is_the_last_whole_cut),
        TEST(test_cuts_and_hook_are_shown),
        TEST(test_between_cuts_nothing_is_stalled),
        TEST(test_eta_is_debt_over_what_it_shrinks_by),
        TEST(test_eta_is_null_when_more_gets_dirty_than_drains),
        TEST(test_eta_is_null_while_nothing_is_known),
        TEST(test_state_is_the_first_that_applies),
        TEST(test_first_connect_is_no_disconnection),
        TEST(test_stalled_after_half_a_minute_without_a_byte),
        TEST(test_initial_sync_until_the_target_held_it_once),
        TEST(test_metrics_are_well_formed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
