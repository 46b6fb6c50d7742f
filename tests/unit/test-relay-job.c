/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-job.c - jobs come to a relay that runs, and go again
 *
 * What they bring, how they end, what they are told, and what they tell.
 */
#include "relay-job-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "tests/lib/nbd-server.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

static bool
is_online(void)
{
    return job_figures().core.link == RELAY_ONLINE;
}

static bool
is_begun(void)
{
    return job_figures().core.sent_bytes > 0;
}

static bool
is_refused(void)
{
    return job_figures().core.link == RELAY_REFUSED;
}

static bool
is_paused(void)
{
    return job_figures().core.is_paused;
}

static bool
is_halted(void)
{
    return rig_job_news(RELAY_NEWS_HALTED) > 0;
}

/*
 * Coming and going
 */
static void
test_jobs_come_and_go_beside_a_disk(void **state)
{
    g_autofree char *then = job_image(rig.disks[0].raw);

    (void)state;
    rig_start(2, rig.disks[0].target);
    for (unsigned i = 0; i < 8; i++) {
        job_new(14 + i % 6, rig.disks[1].target);
        job_mark(0, DISK_BYTES);
        job_add();
        await(job_is_copied);
        job_assert_target(then, 0, DISK_BYTES);
        job_end();
        assert_true(job_figures().core.sent_bytes > 0);
        assert_int_equal(job_figures().core.contact, CONTACT_KNOWN);
        assert_int_equal(rig_job_news(RELAY_NEWS_CONTACT), i + 1);
        job_forget();
        job_blank_target();
    }
    rig_drain();
}

/* Nothing but what its map says arrives; what is clean in it is nobody's. */
static void
test_job_brings_a_part(void **state)
{
    g_autofree char *then = job_image(rig.disks[0].raw);
    g_autofree char *blank = job_image(rig.disks[1].target);

    (void)state;
    rig_new_relay(2);
    job_new(12, rig.disks[1].target);
    job_mark(5 * CLUSTER + 4096, 8192);
    job_mark(DISK_BYTES - 512, 512);
    job_add();
    assert_true(relay_start(rig.relay, NULL));
    await(job_is_copied);
    job_assert_target(blank, 0, 5 * CLUSTER + 4096);
    job_assert_target(then, 5 * CLUSTER + 4096, 5 * CLUSTER + 12288);
    job_assert_target(blank, 5 * CLUSTER + 12288, DISK_BYTES / 4096 * 4096);
    job_assert_target(then, DISK_BYTES / 4096 * 4096, DISK_BYTES);
    assert_int_equal(job_figures().core.settled_bytes, 3 * 4096);
}

static void
test_job_is_forgotten_before_and_after_the_relay_runs(void **state)
{
    (void)state;
    rig_new_relay(1);
    rig_add_disk(0, rig.disks[0].target);
    for (unsigned i = 0; i < 3; i++) {
        job_new(16, rig.disks[1].target);
        job_mark(0, DISK_BYTES);
        job_add();
        relay_allow(rig.relay, NAME, 1, 0);
        assert_false(relay_add_disk(rig.relay, &job.config, NULL));
        job_forget();
    }
    assert_true(relay_start(rig.relay, NULL));
    rig_drain();
    job_new(16, rig.disks[1].target);
    job_mark(0, DISK_BYTES);
    job_add();
    await(is_begun);
    relay_stop(rig.relay, 0);
    assert_true(job_figures().core.sent_bytes > 0);
    job_forget();
}

/* Its place, and all that named it, is another's at once. */
static void
assert_ends_quickly(void)
{
    int64_t begun_us = rig_now_us();

    job_end();
    assert_true(rig_now_us() - begun_us < PATIENCE_US / 10);
    assert_int_equal(job_figures().core.losses, 0); /* nobody was waited for */
    assert_true(job_left() > 0);
    job_forget();
    job_new(16, rig.disks[1].target);
    job_mark(0, DISK_BYTES);
    job_add();
    await(job_is_copied);
}

static void
test_end_does_not_wait_for_a_hung_target(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    const char *words[] = {"-t",    "1", "--filter=pause", "memory", "size=64M",
                           control, NULL};

    (void)state;
    rig_start(1, rig.disks[0].target);
    rig.server = nbd_server_start(rig.socket, 0, words);
    job_new(16, rig.uri);
    job.config.job.bps = 1 << 20;
    job_mark(0, DISK_BYTES);
    job_add();
    await(is_begun);
    rig_control_pause(path, 'p');
    assert_ends_quickly();
    rig_drain();
}

/* A socket that listens, and nobody takes what comes. */
static void
test_end_does_not_wait_for_a_connect(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", rig.socket);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 8), 0);
    rig_start(1, rig.disks[0].target);
    job_new(16, rig.uri);
    job_mark(0, DISK_BYTES);
    job_add();
    rig_drain(); /* of the disk */
    assert_ends_quickly();
    close(fd);
}

/* In the middle of it, over and over, under one name. */
static void
test_jobs_end_at_any_time(void **state)
{
    Seed seed = {rig_seed};

    (void)state;
    rig_start(1, NULL);
    for (unsigned i = 0; i < 20; i++) {
        int64_t until_us = rig_now_us() + (int64_t)seed_below(&seed, 60) * 1000;

        job_new(12 + (unsigned)seed_below(&seed, 10), rig.disks[1].target);
        job_mark(0, DISK_BYTES);
        job_add();
        while (rig_now_us() < until_us && job_left()) {
            sched_yield();
        }
        job_end();
        job_forget();
    }
}

/*
 * Orders
 */
static void
test_pause_is_the_disks_or_the_jobs(void **state)
{
    (void)state;
    rig_new_relay(1);
    rig_add_disk(0, rig.disks[0].target);
    relay_pause(rig.relay, TRUE);
    job_new(16, rig.disks[1].target);
    job.config.job.is_paused = true;
    job_mark(0, CLUSTER);
    job_add();
    assert_true(relay_start(rig.relay, NULL));
    await(is_online);
    assert_true(is_paused());
    relay_pause(rig.relay, TRUE);
    relay_pause_job(rig.relay, NAME, FALSE);
    await(job_is_copied);
    relay_pause_job(rig.relay, NAME, TRUE);
    await(is_paused);
    relay_pause(rig.relay, FALSE);
    job_mark(0, CLUSTER);
    rig_drain(); /* of the disk */
    assert_true(is_paused());
    assert_int_equal(job_left(), 1);
}

static bool
is_limited(void)
{
    return relay_bwlimit(rig.relay) == 1;
}

static void
test_speed_is_the_jobs_own(void **state)
{
    struct RateTable table = {.count = 1, .slot = {{0, 1}}};

    (void)state;
    rig_start(1, NULL);
    relay_set_bwlimit(rig.relay, &table); /* not its */
    await(is_limited);
    job_new(16, rig.disks[1].target);
    job.config.job.bps = 4096;
    job_mark(0, DISK_BYTES);
    job_add();
    await(is_begun); /* a full bucket lets one op through */
    assert_true(job_figures().core.sent_bytes <= 1 << 20);
    assert_true(job_left() > 0);
    relay_set_speed(rig.relay, NAME, 0);
    await(job_is_copied);
}

static void
test_exact_size_is_asked_for(void **state)
{
    (void)state;
    assert_int_equal(truncate(rig.disks[1].target, (off_t)FILE_BYTES), 0);
    rig_start(1, NULL);
    job_new(16, rig.disks[1].target);
    job.config.job.is_exact = true;
    job_add();
    await(is_refused);
    assert_string_equal(job_figures().core.error,
                        "Source and target have different sizes: 16775680, "
                        "16777216");
}

/* nbdkit says what it was asked for. */
static void
test_zeroes_may_keep_their_room(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "log", NULL);
    g_autofree char *logfile = g_strconcat("logfile=", path, NULL);
    const char *words[] = {"--filter=log", "memory", "size=64M", logfile, NULL};

    (void)state;
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(1, NULL);
    for (unsigned keeps = 0; keeps < 2; keeps++) {
        g_autofree char *log = NULL;

        job_new(16, rig.uri);
        job.config.job.keeps_zeroes = keeps;
        job_mark(12 * CLUSTER, CLUSTER); /* data that is zero */
        job_add();
        await(job_is_copied);
        job_end();
        job_forget();
        assert_true(g_file_get_contents(path, &log, NULL, NULL));
        assert_non_null(strstr(log, keeps ? "trim=0" : "trim=1"));
        assert_true(keeps || !strstr(log, "trim=0"));
    }
}

/*
 * Errors
 */
static void
test_job_halts_until_it_is_told_to_proceed(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "fail", NULL);
    g_autofree char *file = g_strconcat("error-file=", path, NULL);
    g_autofree char *target = g_strconcat("file=", rig.disks[1].target, NULL);
    const char *words[] = {
        "--filter=error",         "file", target, "error=ENOSPC",
        "error-pwrite-rate=100%", file,   NULL};
    g_autofree char *then = job_image(rig.disks[0].raw);

    (void)state;
    assert_true(g_file_set_contents(path, "", 0, NULL));
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(1, NULL);
    job_new(16, rig.uri);
    job.config.job.window_bytes = CLUSTER;
    job_mark(0, DISK_BYTES);
    job_add();
    await(is_halted);
    assert_true(job_figures().core.halt.is_halted);
    assert_false(job_figures().core.halt.is_read);
    assert_int_equal(job_figures().core.halt.error, ENOSPC);
    assert_int_equal(job_figures().core.sent_bytes, 0);
    g_unlink(path);
    relay_proceed(rig.relay, NAME);
    await(job_is_copied);
    assert_int_equal(rig_job_news(RELAY_NEWS_HALTED), 1);
    job_assert_target(then, 0, DISK_BYTES);
}

/* A directory cannot be read like a file. */
static void
test_job_halts_at_what_it_cannot_read(void **state)
{
    (void)state;
    rig_start(1, NULL);
    job_new(16, rig.disks[1].target);
    job.config.fd = rig.disks[0].dir_fd;
    job_mark(0, DISK_BYTES);
    job_add();
    await(is_halted);
    assert_true(job_figures().core.halt.is_read);
    assert_int_equal(job_figures().core.halt.error, EISDIR);
    job_end();
    job_forget();
}

/*
 * Lives
 */
static void
test_job_goes_on_in_the_next_life(void **state)
{
    g_autofree char *then = job_image(rig.disks[0].raw);
    uint64_t settled, other;

    (void)state;
    rig_start(2, NULL);
    job_new(14, rig.disks[1].target);
    job_mark(0, DISK_BYTES / 2);
    job_add();
    await(job_is_copied);
    settled = job_figures().core.settled_bytes;
    relay_stop(rig.relay, 5);
    job_leave();
    relay_free(g_steal_pointer(&rig.relay));

    /* More is dirty than differs: all of it, and some was written. */
    other = 3 * CLUSTER;
    then[other] ^= 1;
    {
        int fd = open(rig.disks[0].raw, O_WRONLY | O_CLOEXEC);

        assert_int_equal(pwrite(fd, then + other, 1, (off_t)other), 1);
        assert_int_equal(fsync(fd), 0);
        close(fd);
    }
    rig_start(2, NULL);
    job_new(14, rig.disks[1].target);
    job.config.contact = CONTACT_KNOWN;
    job.config.recovers = true;
    job.config.epoch_before = 5;
    job.config.epoch = 6;
    job_mark(0, DISK_BYTES / 2);
    job_add();
    await(job_is_copied);
    job_assert_target(then, 0, DISK_BYTES / 2 / 16384 * 16384);
    assert_int_equal(job_figures().core.sent_bytes, 1 << 14);
    assert_true(job_figures().core.skipped_bytes > 0);
    assert_true(job_figures().core.settled_bytes == settled);
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, job_setup, job_teardown)

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_jobs_come_and_go_beside_a_disk),
        TEST(test_job_brings_a_part),
        TEST(test_job_is_forgotten_before_and_after_the_relay_runs),
        TEST(test_end_does_not_wait_for_a_hung_target),
        TEST(test_end_does_not_wait_for_a_connect),
        TEST(test_jobs_end_at_any_time),
        TEST(test_pause_is_the_disks_or_the_jobs),
        TEST(test_speed_is_the_jobs_own),
        TEST(test_exact_size_is_asked_for),
        TEST(test_zeroes_may_keep_their_room),
        TEST(test_job_halts_until_it_is_told_to_proceed),
        TEST(test_job_halts_at_what_it_cannot_read),
        TEST(test_job_goes_on_in_the_next_life),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
