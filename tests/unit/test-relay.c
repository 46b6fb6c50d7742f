/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay with its real thread, ring and NBD connections, against nbdkit:
 * what is dirty arrives, whatever happens to the server meanwhile. Conditions
 * are awaited with one deadline; nothing here measures speed, but that a
 * limit is held and that an end does not wait for a hung target.
 */
#include "relay/relay.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "tests/lib/nbd-server.h"
#include "tests/lib/test.h"

#define CLUSTER_BITS 16
#define CLUSTER      (1u << CLUSTER_BITS)
#define CLUSTERS     256u
#define DISK_BYTES   ((uint64_t)CLUSTERS * CLUSTER - 3 * 512)
#define FILE_BYTES   ((uint64_t)CLUSTERS * CLUSTER)
#define DISKS        2
#define PATIENCE_US  60000000
#define DEADLINE_US  1000000

struct Disk {
    char name[8];
    char *raw, *target;
    int fd, map_fd;
    DiskMap *map;
};

struct Rig {
    char dir[32];
    char *socket, *uri;
    struct Disk disks[DISKS];
    Relay *relay;
    pid_t server;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_contact[DISKS]; /* guarded by lock */
    unsigned news;           /* guarded by lock */
};

static struct Rig rig;
static unsigned seed;

static int64_t
now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/*
 * Rig
 */

static void
notify(void *user, const char *disk, enum RelayNews news)
{
    (void)user;
    pthread_mutex_lock(&rig.lock);
    rig.news++;
    if (news == RELAY_NEWS_CONTACT) {
        rig.has_contact[disk[0] - 'a'] = true;
    }
    pthread_cond_signal(&rig.changed);
    pthread_mutex_unlock(&rig.lock);
}

/* Data, zero clusters and holes; the last cluster is partial. */
static void
fill(struct Disk *disk)
{
    static uint8_t cluster[CLUSTER];
    int fd = open(disk->raw, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_int_equal(ftruncate(fd, (off_t)FILE_BYTES), 0);
    for (unsigned i = 0; i < CLUSTERS; i++) {
        unsigned kind = i % 16;
        uint64_t at = (uint64_t)i * CLUSTER;
        size_t len = MIN(CLUSTER, DISK_BYTES - at);

        for (size_t byte = 0; byte < CLUSTER; byte++) {
            cluster[byte] = kind < 12 ? (uint8_t)rand_r(&seed) : 0;
        }
        if (kind < 14) {
            assert_int_equal(pwrite(fd, cluster, len, (off_t)at), len);
        }
    }
    fsync(fd);
    close(fd);
}

static int
setup(void **state)
{
    (void)state;
    rig = (struct Rig){.dir = "/tmp/weir-relay-XXXXXX"};
    pthread_mutex_init(&rig.lock, NULL);
    pthread_cond_init(&rig.changed, NULL);
    assert_non_null(mkdtemp(rig.dir));
    rig.socket = g_build_filename(rig.dir, "sock", NULL);
    rig.uri = g_strdup_printf("nbd+unix:///?socket=%s", rig.socket);
    for (unsigned i = 0; i < DISKS; i++) {
        struct Disk *disk = &rig.disks[i];
        int fd;

        snprintf(disk->name, sizeof(disk->name), "%c", 'a' + i);
        disk->raw = g_strdup_printf("%s/%s.raw", rig.dir, disk->name);
        disk->target = g_strdup_printf("%s/%s.target", rig.dir, disk->name);
        fill(disk);
        fd = open(disk->target, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(ftruncate(fd, (off_t)DISK_BYTES), 0);
        close(fd);
        /* tmpfs has no O_DIRECT in all kernels: the relay does not care. */
        disk->fd = open(disk->raw, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (disk->fd < 0) {
            disk->fd = open(disk->raw, O_RDONLY | O_CLOEXEC);
        }
        disk->map_fd = open(disk->raw, O_RDONLY | O_CLOEXEC);
        disk->map = disk_map_new(DISK_BYTES, CLUSTER_BITS);
        disk_map_mark_all(disk->map, now_us());
    }
    return 0;
}

static int
teardown(void **state)
{
    g_autoptr(GDir) dir = NULL;
    const char *name;

    (void)state;
    relay_free(rig.relay);
    if (rig.server) {
        nbd_server_kill(rig.server);
    }
    for (unsigned i = 0; i < DISKS; i++) {
        struct Disk *disk = &rig.disks[i];

        close(disk->fd);
        close(disk->map_fd);
        disk_map_free(disk->map);
        g_free(disk->raw);
        g_free(disk->target);
    }
    dir = g_dir_open(rig.dir, 0, NULL);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(rig.dir, name, NULL);

        /* A server's socket would be left over here. */
        assert_false(g_str_has_prefix(name, "server-"));
        g_unlink(path);
    }
    g_rmdir(rig.dir);
    g_free(rig.socket);
    g_free(rig.uri);
    pthread_cond_destroy(&rig.changed);
    pthread_mutex_destroy(&rig.lock);
    return 0;
}

static void
new_relay(unsigned max_conns)
{
    struct RelayConfig config = {
        .io = store_io_kernel(),
        .run_dir = rig.dir,
        .lock_fd = rig.disks[0].map_fd,
        .max_conns = max_conns,
        .deadline_us = DEADLINE_US,
        .notify = notify,
    };

    rig.relay = relay_new(&config, NULL);
    assert_non_null(rig.relay);
}

static void
add_disk(unsigned index, const char *target)
{
    struct Disk *disk = &rig.disks[index];
    struct RelayDiskConfig config = {
        .name = disk->name,
        .fd = disk->fd,
        .map_fd = disk->map_fd,
        .dio_align = 4096,
        .map = disk->map,
        .target = target,
    };

    assert_true(relay_add_disk(rig.relay, &config, NULL));
}

static void
start(unsigned max_conns, const char *target)
{
    new_relay(max_conns);
    add_disk(0, target);
    assert_true(relay_start(rig.relay, NULL));
}

/* What the daemon's main thread would do with news; then wait for more. */
static void
serve_news(void)
{
    struct timespec until;
    bool has_contact[DISKS];

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&rig.lock);
    if (!rig.news) {
        pthread_cond_timedwait(&rig.changed, &rig.lock, &until);
    }
    rig.news = 0;
    memcpy(has_contact, rig.has_contact, sizeof(has_contact));
    memset(rig.has_contact, 0, sizeof(rig.has_contact));
    pthread_mutex_unlock(&rig.lock);
    for (unsigned i = 0; i < DISKS; i++) {
        if (has_contact[i]) {
            relay_contact_kept(rig.relay, rig.disks[i].name);
        }
    }
}

static struct RelayFigures
figures_of(unsigned index)
{
    struct RelayFigures figures = {0};

    assert_true(relay_figures(rig.relay, rig.disks[index].name, &figures));
    return figures;
}

static bool
is_clean(unsigned index)
{
    struct DiskMapFigures figures;

    disk_map_figures(rig.disks[index].map, &figures);
    return !figures.dirty_clusters;
}

static bool
is_drained(void)
{
    return is_clean(0);
}

static bool
is_begun(void)
{
    return figures_of(0).core.sent_bytes > 0;
}

static bool
is_lost(void)
{
    return figures_of(0).core.losses > 0;
}

static bool
is_failed(void)
{
    return figures_of(0).core.errors > 2;
}

static bool
is_refused(void)
{
    return figures_of(0).core.link == RELAY_REFUSED;
}

static bool
is_online(void)
{
    return figures_of(0).core.link == RELAY_ONLINE;
}

static bool
is_tried(void)
{
    return figures_of(0).core.error[0];
}

#define await(condition) await_named(condition, #condition)

static void
await_named(bool (*condition)(void), const char *what)
{
    int64_t until_us = now_us() + PATIENCE_US;

    while (!condition()) {
        if (now_us() > until_us) {
            fail_msg("never %s: %s, %s", what,
                     relay_link_name(figures_of(0).core.link),
                     figures_of(0).core.error);
        }
        serve_news();
    }
}

static void
assert_target_equals(unsigned index)
{
    g_autofree char *raw = NULL, *target = NULL;
    gsize raw_len, target_len;

    assert_true(
        g_file_get_contents(rig.disks[index].raw, &raw, &raw_len, NULL));
    assert_true(g_file_get_contents(rig.disks[index].target, &target,
                                    &target_len, NULL));
    assert_int_equal(target_len, DISK_BYTES);
    assert_memory_equal(raw, target, DISK_BYTES);
}

static void
drain(void)
{
    relay_hurry(rig.relay);
    await(is_drained);
    assert_target_equals(0);
}

static const char *
words_file(void)
{
    static char word[64];

    snprintf(word, sizeof(word), "file=%s", rig.disks[0].target);
    return word;
}

/*
 * Drains
 */

static void
test_drain_over_socket_arrives(void **state)
{
    const char *words[] = {"file", words_file(), NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(4, rig.uri);
    drain();
    assert_int_equal(figures_of(0).target_size_bytes, DISK_BYTES);
    assert_true(figures_of(0).core.sent_bytes >= 12 * 16 * CLUSTER / 2);
}

static void
test_drain_over_tcp_arrives(void **state)
{
    const char *words[] = {"file", words_file(), NULL};
    unsigned port = nbd_server_port();
    g_autofree char *uri = g_strdup_printf("nbd://localhost:%u/", port);

    (void)state;
    rig.server = nbd_server_start(NULL, port, words);
    start(4, uri);
    drain();
}

static void
test_drain_over_tls_arrives(void **state)
{
    g_autofree char *key = g_build_filename(rig.dir, "psk", NULL);
    g_autofree char *option = g_strconcat("--tls-psk=", key, NULL);
    g_autofree char *uri = g_strdup_printf(
        "nbds+unix://al@/?socket=%s&tls-psk-file=%s", rig.socket, key);
    const char *words[] = {"--tls=require", option, "file", words_file(), NULL};

    (void)state;
    assert_true(g_file_set_contents(
        key, "al:00112233445566778899aabbccddeeff\n", -1, NULL));
    assert_int_equal(chmod(key, 0600), 0);
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(4, uri);
    drain();
    /* Looked at again, equal: the same data comes back through TLS. */
    relay_set_accept(rig.relay, "a", ACCEPT_SAME, false, false);
    assert_true(relay_set_target(rig.relay, "a", uri, NULL));
    drain();
}

static void
test_own_server_is_started_and_drained_to(void **state)
{
    (void)state;
    start(4, rig.disks[0].target);
    drain();
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
    start(1, disk->target);
    drain();
    /* No hurry here: the settle interval alone has to bring it out. */
    assert_true(disk_map_begin(disk->map, &hold, now_us()));
    assert_int_equal(pwrite(fd, data, CLUSTER, 5 * CLUSTER), CLUSTER);
    fsync(fd);
    close(fd);
    disk_map_end(disk->map, &hold, now_us());
    relay_wake(rig.relay);
    await(is_drained);
    assert_target_equals(0);
}

static bool
are_both_drained(void)
{
    return is_clean(0) && is_clean(1);
}

static void
test_two_disks_drain_together(void **state)
{
    (void)state;
    new_relay(2);
    add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    add_disk(1, rig.disks[1].target);
    relay_hurry(rig.relay);
    await(are_both_drained);
    assert_target_equals(0);
    assert_target_equals(1);
}

/*
 * Outages
 */

static void
test_killed_server_in_mid_drain_is_survived(void **state)
{
    const char *slow[] = {"--filter=delay", "file", words_file(),
                          "wdelay=300ms", NULL};
    const char *fast[] = {"file", words_file(), NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, slow);
    start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    nbd_server_kill(rig.server);
    await(is_lost);
    rig.server = nbd_server_start(rig.socket, 0, fast);
    drain();
}

static void
test_own_server_that_dies_is_started_anew(void **state)
{
    g_autofree char *command =
        g_strdup_printf("[ nbdkit --filter=delay -P %s/pid file %s "
                        "wdelay=100ms ]",
                        rig.dir, words_file());
    g_autofree char *pid_file = g_build_filename(rig.dir, "pid", NULL);
    g_autofree char *pid = NULL;

    (void)state;
    start(2, command);
    relay_hurry(rig.relay);
    await(is_begun);
    assert_true(g_file_get_contents(pid_file, &pid, NULL, NULL));
    kill(atoi(pid), SIGKILL);
    await(is_lost);
    drain();
}

/* One letter to the pause filter, and its answer. */
static void
control_pause(const char *path, char letter)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)),
                     0);
    assert_int_equal(write(fd, &letter, 1), 1);
    assert_int_equal(read(fd, &letter, 1), 1);
    close(fd);
}

static void
test_hung_server_is_given_up_and_tried_again(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    /* One thread: 1.32 may abort when a connection goes that has several. */
    const char *words[] = {
        "-t",   "1",          "--filter=pause", "--filter=delay",
        "file", words_file(), control,          "wdelay=100ms",
        NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    control_pause(path, 'p');
    await(is_lost);
    control_pause(path, 'r');
    drain();
}

static void
test_end_does_not_wait_for_a_hung_server(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    /* One thread: 1.32 may abort when a connection goes that has several. */
    const char *words[] = {
        "-t",   "1",          "--filter=pause", "--filter=delay",
        "file", words_file(), control,          "wdelay=100ms",
        NULL};
    int64_t begun_us;

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(2, rig.uri);
    relay_hurry(rig.relay);
    await(is_begun);
    control_pause(path, 'p');
    begun_us = now_us();
    relay_free(g_steal_pointer(&rig.relay));
    assert_true(now_us() - begun_us < PATIENCE_US / 4);
    assert_false(is_clean(0));
}

static void
test_errors_are_retried_until_they_end(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "fail", NULL);
    g_autofree char *file = g_strconcat("error-file=", path, NULL);
    const char *words[] = {
        "--filter=error",         "file", words_file(), "error=EIO",
        "error-pwrite-rate=100%", file,   NULL};

    (void)state;
    assert_true(g_file_set_contents(path, "", 0, NULL));
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(1, rig.uri);
    relay_hurry(rig.relay);
    await(is_failed);
    assert_non_null(strstr(figures_of(0).core.error, "Input/output error"));
    assert_false(is_clean(0));
    g_unlink(path);
    drain();
}

/*
 * Refusals
 */

static void
refuse_with(const char *const *words, const char *text)
{
    rig.server = nbd_server_start(rig.socket, 0, words);
    start(1, rig.uri);
    await(is_refused);
    print_message("%s\n", figures_of(0).core.error);
    assert_non_null(strstr(figures_of(0).core.error, text));
}

static void
test_read_only_is_refused(void **state)
{
    const char *words[] = {"-r", "file", words_file(), NULL};

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
    start(1, "nbd://192.0.2.1/");
    await(is_refused);
    assert_non_null(strstr(figures_of(0).core.error, "clear text"));
    assert_false(relay_set_target(rig.relay, "a", "ftp://x/", NULL));
    /* The user mends it. */
    assert_true(relay_set_target(rig.relay, "a", rig.disks[0].target, NULL));
    drain();
}

static void
test_server_that_cannot_run_is_said(void **state)
{
    (void)state;
    start(1, "[ /no/such/server ]");
    await(is_tried);
    assert_non_null(strstr(figures_of(0).core.error, "No such file"));
}

static void
test_no_target_and_back(void **state)
{
    struct RelayFigures figures;

    (void)state;
    start(1, rig.disks[0].target);
    drain();
    assert_true(relay_set_target(rig.relay, "a", NULL, NULL));
    assert_false(relay_figures(rig.relay, "a", &figures));
    relay_set_accept(rig.relay, "a", ACCEPT_SAME, false, false);
    assert_true(relay_set_target(rig.relay, "a", rig.disks[0].target, NULL));
    await(is_online);
    drain();
}

/*
 * Orders
 */

static void
test_pause_holds_and_resume_goes_on(void **state)
{
    (void)state;
    new_relay(1);
    relay_pause(rig.relay, TRUE);
    add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    await(is_online);
    assert_int_equal(figures_of(0).core.sent_bytes, 0);
    assert_true(figures_of(0).core.is_paused);
    relay_pause(rig.relay, FALSE);
    drain();
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
    new_relay(2);
    relay_set_bwlimit(rig.relay, &table);
    add_disk(0, rig.disks[0].target);
    assert_true(relay_start(rig.relay, NULL));
    await(is_limited);
    begun_us = now_us();
    drain();
    /* 12 MiB of data at 4 MiB/s, less what a full bucket lets through. */
    assert_true(now_us() - begun_us > 1000000);
}

int
main(int argc, char **argv)
{
#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
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
        RIG_TEST(test_pause_holds_and_resume_goes_on),
        RIG_TEST(test_bwlimit_is_held),
    };

    seed =
        argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
