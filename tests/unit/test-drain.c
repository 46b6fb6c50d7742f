/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-drain.c - when a drain ends, and when it does not
 *
 * A daemon of a store, a relay that never starts and a control socket: what
 * the relay and the face would do to the disk's map the test does itself.
 */
#include "fs/daemon-private.h"
#include "tests/lib/store-fixture.h"

struct Rig {
    struct StoreFixture *fixture;
    Daemon daemon;
    Disk *disk;
};

static int
rig_setup(void **state)
{
    struct Rig *rig = g_new0(struct Rig, 1);
    Daemon *daemon = &rig->daemon;
    GError *error = NULL;
    void *fixture = NULL;
    char *socket;

    fixture_setup(&fixture);
    rig->fixture = fixture;
    fixture_serve(rig->fixture, 0);
    daemon->store = fixture_open(rig->fixture, 0);
    rig->disk = store_disk(daemon->store, "vda");
    struct RelayConfig config = {.io = daemon->store->io,
                                 .run_dir = daemon->store->path,
                                 .lock_fd = daemon->store->lock_fd,
                                 .max_conns = 1,
                                 .deadline_us = G_USEC_PER_SEC,
                                 .notify = daemon_relay_news,
                                 .user = daemon};

    daemon->relay = relay_new(&config, &error);
    assert_non_null(daemon->relay);
    assert_true(
        store_relay_disk(daemon->store, rig->disk, daemon->relay, &error));
    socket = g_build_filename(rig->fixture->path, STORE_SOCKET, NULL);
    daemon->control =
        control_server_new(socket, daemon_commands, daemon, &error);
    assert_non_null(daemon->control);
    g_free(socket);
    daemon->loop = g_main_loop_new(NULL, FALSE);
    daemon->tickets = g_ptr_array_new();
    *state = rig;
    return 0;
}

static int
rig_teardown(void **state)
{
    struct Rig *rig = *state;
    Daemon *daemon = &rig->daemon;
    void *fixture = rig->fixture;

    ticket_forget_all(daemon);
    g_ptr_array_free(daemon->tickets, TRUE);
    g_main_loop_unref(daemon->loop);
    control_server_free(daemon->control);
    relay_free(daemon->relay);
    store_free(daemon->store);
    g_clear_error(&daemon->error);
    fixture_teardown(&fixture);
    g_free(rig);
    return 0;
}

static bool
is_waiting(struct Rig *rig)
{
    ticket_look_all(&rig->daemon);
    return rig->daemon.tickets->len > 0;
}

/* A discard of two clusters is on the list, or of none. */
static void
list(struct Rig *rig, unsigned clusters)
{
    ZeroList list = {0};

    if (clusters) {
        assert_true(zero_list_add(&list, 0, clusters * CLUSTER));
    }
    store_zeroes_changed(rig->disk, &list);
}

static void
test_drain_ends_when_what_was_dirty_is_settled(void **state)
{
    struct Rig *rig = *state;

    disk_map_mark(rig->disk->map, 0, CLUSTER, 1);
    drain_begin(&rig->daemon, NULL);
    assert_true(is_waiting(rig));
    assert_true(disk_map_seal(rig->disk->map) > 0);
    /* Later, so not awaited. */
    disk_map_mark(rig->disk->map, 5 * CLUSTER, CLUSTER, 1);
    disk_map_settle(rig->disk->map, (struct ClusterRun){0, 1});
    assert_true(disk_map_retire(rig->disk->map));
    assert_false(is_waiting(rig));
    assert_int_equal(rig->daemon.exit_code, 0);
    drain_begin(&rig->daemon, NULL);
    assert_true(is_waiting(rig));
}

/* The target has what was there before the discard, and the map is clean. */
static void
test_drain_waits_for_discards_to_be_punched(void **state)
{
    struct Rig *rig = *state;

    list(rig, 2);
    drain_begin(&rig->daemon, NULL);
    assert_true(is_waiting(rig));
    /* As the face does it: marked, punched, off the list. */
    disk_map_mark(rig->disk->map, 0, 2 * CLUSTER, 1);
    list(rig, 1);
    assert_true(is_waiting(rig));
    list(rig, 0);
    assert_true(is_waiting(rig));
    settle_all(rig->disk);
    assert_false(is_waiting(rig));
}

/* A guest that goes on discarding does not keep a drain from ending. */
static void
test_drain_does_not_wait_for_later_discards(void **state)
{
    struct Rig *rig = *state;

    list(rig, 1);
    drain_begin(&rig->daemon, NULL);
    disk_map_mark(rig->disk->map, 0, CLUSTER, 1);
    list(rig, 0);
    list(rig, 2);
    assert_true(is_waiting(rig));
    assert_true(disk_map_seal(rig->disk->map) > 0);
    disk_map_mark(rig->disk->map, 3 * CLUSTER, 2 * CLUSTER, 1);
    disk_map_settle(rig->disk->map, (struct ClusterRun){0, 1});
    assert_true(disk_map_retire(rig->disk->map));
    assert_false(is_waiting(rig));
}

static void
test_drain_of_a_frozen_disk_is_refused(void **state)
{
    struct Rig *rig = *state;

    list(rig, 1);
    atomic_store(&rig->disk->is_frozen, true);
    drain_begin(&rig->daemon, NULL);
    assert_false(is_waiting(rig));
    assert_int_equal(rig->daemon.exit_code, 1);
    assert_non_null(strstr(rig->daemon.error->message, "discards wait"));
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_drain_ends_when_what_was_dirty_is_settled),
        WITH_RIG(test_drain_waits_for_discards_to_be_punched),
        WITH_RIG(test_drain_does_not_wait_for_later_discards),
        WITH_RIG(test_drain_of_a_frozen_disk_is_refused),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
