/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay with its real thread, ring and NBD connections, against nbdkit:
 * what is dirty arrives, whatever happens to the server meanwhile. Conditions
 * are awaited with one deadline; nothing here measures speed, but that a
 * limit is held and that an end does not wait for a hung target.
 */
#include "relay-rig.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "tests/lib/nbd-server.h"
#include "tests/lib/test.h"

static bool
is_begun(void)
{
    return rig_figures(0).core.sent_bytes > 0;
}

static bool
is_lost(void)
{
    return rig_figures(0).core.losses > 0;
}

static bool
is_failed(void)
{
    return rig_figures(0).core.errors > 2;
}

static bool
is_refused(void)
{
    return rig_figures(0).core.link == RELAY_REFUSED;
}

static bool
is_online(void)
{
    return rig_figures(0).core.link == RELAY_ONLINE;
}

static bool
is_tried(void)
{
    return rig_figures(0).core.error[0];
}

/*
 * Drains
 */

static void
test_drain_over_socket_arrives(void **state)
{
    const char *words[] = {"file", rig_file_word(), NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(4, rig.uri);
    rig_drain();
    assert_int_equal(rig_figures(0).target_size_bytes, DISK_BYTES);
    assert_true(rig_figures(0).core.sent_bytes >= 12 * 16 * CLUSTER / 2);
}

static void
test_drain_over_tcp_arrives(void **state)
{
    const char *words[] = {"file", rig_file_word(), NULL};
    unsigned port = nbd_server_port();
    g_autofree char *uri = g_strdup_printf("nbd://localhost:%u/", port);

    (void)state;
    rig.server = nbd_server_start(NULL, port, words);
    rig_start(4, uri);
    rig_drain();
}

static void
test_drain_over_tls_arrives(void **state)
{
    g_autofree char *key = g_build_filename(rig.dir, "psk", NULL);
    g_autofree char *option = g_strconcat("--tls-psk=", key, NULL);
    g_autofree char *uri = g_strdup_printf(
        "nbds+unix://al@/?socket=%s&tls-psk-file=%s", rig.socket, key);
    const char *words[] = {"--tls=require", option, "file", rig_file_word(),
                           NULL};

    (void)state;
    assert_true(g_file_set_contents(
        key, "al:00112233445566778899aabbccddeeff\n", -1, NULL));
    assert_int_equal(chmod(key, 0600), 0);
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(4, uri);
    rig_drain();
    /* Looked at again, equal: the same data comes back through TLS. */
    relay_set_accept(rig.relay, "a", ACCEPT_SAME, false, false);
    assert_true(relay_set_target(rig.relay, "a", uri, NULL));
    rig_drain();
}

static void
test_own_server_is_started_and_drained_to(void **state)
{
    (void)state;
    rig_start(4, rig.disks[0].target);
    rig_drain();
}

static void
test_guest_write_wakes_the_relay(void **state)
{
    static uint8_t data[CLUSTER] = "hello";
    struct Disk *disk = &rig.disks[0];
    RangeHold hold = {
        .offset = 5 * CLUSTER, .len = CLUSTER, .kind = RANGE_WRITE};
    int fd = open(disk->raw, O_WRONLY | O_CLOEXEC);

    (void)state;
    rig_start(1, disk->target);
    rig_drain();
    /* No hurry here: the settle interval alone has to bring it out. */
    assert_true(disk_map_begin(disk->map, &hold, rig_now_us()) ==
                DISK_MAP_BEGUN);
    assert_int_equal(pwrite(fd, data, CLUSTER, 5 * CLUSTER), CLUSTER);
    fsync(fd);
    close(fd);
    disk_map_end(disk->map, &hold, rig_now_us());
    relay_wake(rig.relay);
    await(rig_is_drained);
    rig_assert_equal(0);
}

static bool
are_both_drained(void)
{
    return rig_is_clean(0) && rig_is_clean(1);
}

static void
test_two_disks_drain_together(void **state)
{
    (void)state;
    rig_new_relay(2);
    rig_add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    rig_add_disk(1, rig.disks[1].target);
    relay_hurry(rig.relay);
    await(are_both_drained);
    rig_assert_equal(0);
    rig_assert_equal(1);
}

/*
 * Outages
 */

static void
test_killed_server_in_mid_drain_is_survived(void **state)
{
    const char *slow[] = {"--filter=delay", "file", rig_file_word(),
                          "wdelay=300ms", NULL};
    const char *fast[] = {"file", rig_file_word(), NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, slow);
    rig_start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    nbd_server_kill(rig.server);
    await(is_lost);
    rig.server = nbd_server_start(rig.socket, 0, fast);
    rig_drain();
}

static void
test_own_server_that_dies_is_started_anew(void **state)
{
    g_autofree char *command =
        g_strdup_printf("[ nbdkit --filter=delay -P %s/pid file %s "
                        "wdelay=100ms ]",
                        rig.dir, rig_file_word());
    g_autofree char *pid_file = g_build_filename(rig.dir, "pid", NULL);
    g_autofree char *pid = NULL;

    (void)state;
    rig_start(2, command);
    relay_hurry(rig.relay);
    await(is_begun);
    assert_true(g_file_get_contents(pid_file, &pid, NULL, NULL));
    kill(atoi(pid), SIGKILL);
    await(is_lost);
    rig_drain();
}

static void
test_hung_server_is_given_up_and_tried_again(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    /* One thread: 1.32 may abort when a connection goes that has several. */
    const char *words[] = {"-t",
                           "1",
                           "--filter=pause",
                           "--filter=delay",
                           "file",
                           rig_file_word(),
                           control,
                           "wdelay=100ms",
                           NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    rig_control_pause(path, 'p');
    await(is_lost);
    rig_control_pause(path, 'r');
    rig_drain();
}

static void
test_end_does_not_wait_for_a_hung_server(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    /* One thread: 1.32 may abort when a connection goes that has several. */
    const char *words[] = {"-t",
                           "1",
                           "--filter=pause",
                           "--filter=delay",
                           "file",
                           rig_file_word(),
                           control,
                           "wdelay=100ms",
                           NULL};
    int64_t begun_us;

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    rig_control_pause(path, 'p');
    begun_us = rig_now_us();
    relay_free(g_steal_pointer(&rig.relay));
    assert_true(rig_now_us() - begun_us < PATIENCE_US / 4);
    assert_false(rig_is_clean(0));
}

static void
test_errors_are_retried_until_they_end(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "fail", NULL);
    g_autofree char *file = g_strconcat("error-file=", path, NULL);
    const char *words[] = {"--filter=error",
                           "file",
                           rig_file_word(),
                           "error=EIO",
                           "error-pwrite-rate=100%",
                           file,
                           NULL};

    (void)state;
    assert_true(g_file_set_contents(path, "", 0, NULL));
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(1, rig.uri);
    relay_hurry(rig.relay);
    await(is_failed);
    assert_non_null(strstr(rig_figures(0).core.error, "Input/output error"));
    assert_false(rig_is_clean(0));
    g_unlink(path);
    rig_drain();
}

/*
 * Refusals
 */

static void
refuse_with(const char *const *words, const char *text)
{
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(1, rig.uri);
    await(is_refused);
    print_message("%s\n", rig_figures(0).core.error);
    assert_non_null(strstr(rig_figures(0).core.error, text));
}

static void
test_read_only_is_refused(void **state)
{
    const char *words[] = {"-r", "file", rig_file_word(), NULL};

    (void)state;
    refuse_with(words, "read-only");
}

static void
test_too_small_is_refused(void **state)
{
    const char *words[] = {"memory", "1M", NULL};

    (void)state;
    refuse_with(words, "disk needs");
}

static void
test_barred_names_the_reason(void **state)
{
    (void)state;
    rig_start(1, "nbd://192.0.2.1/");
    await(is_refused);
    assert_non_null(strstr(rig_figures(0).core.error, "clear text"));
    assert_false(relay_set_target(rig.relay, "a", "ftp://x/", NULL));
    /* The user mends it. */
    assert_true(relay_set_target(rig.relay, "a", rig.disks[0].target, NULL));
    rig_drain();
}

static void
test_server_that_cannot_run_is_said(void **state)
{
    (void)state;
    rig_start(1, "[ /no/such/server ]");
    await(is_tried);
    assert_non_null(strstr(rig_figures(0).core.error, "No such file"));
}

static bool
is_current(void)
{
    struct RelayFigures figures;

    return relay_figures(rig.relay, "a", &figures) && figures.is_current;
}

static void
test_no_target_and_back(void **state)
{
    struct RelayFigures figures;

    (void)state;
    rig_start(1, rig.disks[0].target);
    rig_drain();
    assert_true(relay_set_target(rig.relay, "a", NULL, NULL));
    assert_false(relay_figures(rig.relay, "a", &figures));
    relay_set_accept(rig.relay, "a", ACCEPT_SAME, false, false);
    assert_true(relay_set_target(rig.relay, "a", rig.disks[0].target, NULL));
    await(is_current); /* what is said of the old one counts no more */
    await(is_online);
    rig_drain();
}

static bool
has_recovered(void)
{
    return !rig_figures(0).core.is_recovering;
}

/* Who makes cuts waits for its end, and asks before the thread has begun. */
static void
test_recovery_is_told_from_the_start(void **state)
{
    (void)state;
    rig.recovers = true;
    rig_new_relay(1);
    rig_add_disk(0, rig.disks[0].target);
    assert_false(has_recovered());
    assert_true(relay_start(rig.relay, NULL));
    await(has_recovered);
}

/*
 * Orders
 */

static void
test_pause_holds_and_resume_goes_on(void **state)
{
    (void)state;
    rig_new_relay(1);
    relay_pause(rig.relay, TRUE);
    rig_add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    await(is_online);
    assert_int_equal(rig_figures(0).core.sent_bytes, 0);
    assert_true(rig_figures(0).core.is_paused);
    relay_pause(rig.relay, FALSE);
    rig_drain();
}

static bool
is_limited(void)
{
    return relay_bwlimit(rig.relay) == 4u << 20;
}

static void
test_bwlimit_is_held(void **state)
{
    struct RateTable table = {.count = 1, .slot = {{0, 4u << 20}}};
    int64_t begun_us;

    (void)state;
    rig_new_relay(2);
    relay_set_bwlimit(rig.relay, &table);
    rig_add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    await(is_limited);
    begun_us = rig_now_us();
    rig_drain();
    /* 12 MiB of data at 4 MiB/s, less what a full bucket lets through. */
    assert_true(rig_now_us() - begun_us > 1000000);
}

int
main(int argc, char **argv)
{
#define RIG_TEST(name) \
    cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_drain_over_socket_arrives),
        RIG_TEST(test_drain_over_tcp_arrives),
        RIG_TEST(test_drain_over_tls_arrives),
        RIG_TEST(test_own_server_is_started_and_drained_to),
        RIG_TEST(test_guest_write_wakes_the_relay),
        RIG_TEST(test_two_disks_drain_together),
        RIG_TEST(test_killed_server_in_mid_drain_is_survived),
        RIG_TEST(test_own_server_that_dies_is_started_anew),
        RIG_TEST(test_hung_server_is_given_up_and_tried_again),
        RIG_TEST(test_end_does_not_wait_for_a_hung_server),
        RIG_TEST(test_errors_are_retried_until_they_end),
        RIG_TEST(test_read_only_is_refused),
        RIG_TEST(test_too_small_is_refused),
        RIG_TEST(test_barred_names_the_reason),
        RIG_TEST(test_server_that_cannot_run_is_said),
        RIG_TEST(test_no_target_and_back),
        RIG_TEST(test_recovery_is_told_from_the_start),
        RIG_TEST(test_pause_holds_and_resume_goes_on),
        RIG_TEST(test_bwlimit_is_held),
    };

    rig_seed =
        argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : (unsigned)time(NULL);
    print_message("seed %u\n", rig_seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
