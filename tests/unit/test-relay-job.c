/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-job.c - jobs come to a relay that runs, and go again
 *
 * Their disk is the rig's first one, their target the file of the second. The
 * test is their owner: it adds them, hears of what becomes of them, and frees
 * what they borrowed as soon as it may.
 */
#include "relay-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
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

#define NAME "job/1"
#define ID   7

static struct {
    DiskMap *map;
    struct RelayDiskConfig config;
} job;

/*
 * The owner
 */
static void
new_job(unsigned cluster_bits, const char *target)
{
    struct Disk *disk = &rig.disks[0];

    job.map = disk_map_new(DISK_BYTES, cluster_bits);
    job.config = (struct RelayDiskConfig){
        .name = NAME,
        .fd = disk->fd,
        .map_fd = disk->map_fd,
        .dio_align = 4096,
        .map = job.map,
        .target = target,
        .accept = ACCEPT_OVERWRITE,
        .aside_fd = -1,
        .dir_fd = rig.disks[1].dir_fd,
        .epoch = 1,
        .job = {.is_job = true, .pins = disk->map, .halts = true},
    };
}

static void
add_job(void)
{
    assert_true(relay_add_disk(rig.relay, &job.config, NULL));
    relay_hurry(rig.relay);
}

static void
mark_job(uint64_t offset, uint64_t len)
{
    disk_map_mark(job.map, offset, len, rig_now_us());
    relay_hurry(rig.relay);
}

static struct RelayFigures
job_figures(void)
{
    struct RelayFigures figures = {0};

    assert_true(relay_figures(rig.relay, NAME, &figures));
    return figures;
}

static uint64_t
count_left(void)
{
    struct DiskMapFigures figures;

    disk_map_figures(job.map, &figures);
    return figures.dirty_clusters;
}

static bool
is_copied(void)
{
    return !count_left();
}

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

static unsigned ends;

static bool
has_ended(void)
{
    return rig_job_news(RELAY_NEWS_ENDED) == ends;
}

/* What it borrowed is gone at once, so that a late look at it is seen. */
static void
leave_job(void)
{
    struct RelayFigures figures;

    relay_forget_disk(rig.relay, NAME);
    assert_false(relay_figures(rig.relay, NAME, &figures));
    disk_map_free(job.map);
    job.map = NULL;
}

static void
forget_job(void)
{
    leave_job();
    (void)unlinkat(rig.disks[1].dir_fd, "remote-sums", 0);
    (void)unlinkat(rig.disks[1].dir_fd, "sent-log", 0);
}

static void
end_job(void)
{
    ends = rig_job_news(RELAY_NEWS_ENDED) + 1;
    relay_end_disk(rig.relay, NAME);
    await(has_ended);
    assert_int_equal(job_figures().core.link, RELAY_STOPPED);
}

static char *
image(const char *path)
{
    char *bytes;
    gsize len;

    assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    assert_true(len >= DISK_BYTES);
    return bytes;
}

static void
assert_target(const char *want, uint64_t from, uint64_t to)
{
    g_autofree char *target = image(rig.disks[1].target);

    to = MIN(to, DISK_BYTES);
    for (uint64_t at = from; at < to; at += 512) {
        if (memcmp(target + at, want + at, 512)) {
            fail_msg("sector %llu is another one",
                     (unsigned long long)(at / 512));
        }
    }
}

static void
blank_target(void)
{
    assert_int_equal(truncate(rig.disks[1].target, 0), 0);
    assert_int_equal(truncate(rig.disks[1].target, (off_t)DISK_BYTES), 0);
}

static int
setup(void **state)
{
    (void)rig_setup(state);
    return 0;
}

static int
teardown(void **state)
{
    relay_free(g_steal_pointer(&rig.relay));
    disk_map_free(job.map);
    job.map = NULL;
    return rig_teardown(state);
}

/*
 * Coming and going
 */
static void
test_jobs_come_and_go_beside_a_disk(void **state)
{
    g_autofree char *then = image(rig.disks[0].raw);

    (void)state;
    rig_start(2, rig.disks[0].target);
    for (unsigned i = 0; i < 8; i++) {
        new_job(14 + i % 6, rig.disks[1].target);
        mark_job(0, DISK_BYTES);
        add_job();
        await(is_copied);
        assert_target(then, 0, DISK_BYTES);
        end_job();
        assert_true(job_figures().core.sent_bytes > 0);
        assert_int_equal(job_figures().core.contact, CONTACT_KNOWN);
        assert_int_equal(rig_job_news(RELAY_NEWS_CONTACT), i + 1);
        forget_job();
        blank_target();
    }
    rig_drain();
}

/* Nothing but what its map says arrives; what is clean in it is nobody's. */
static void
test_job_brings_a_part(void **state)
{
    g_autofree char *then = image(rig.disks[0].raw);
    g_autofree char *blank = image(rig.disks[1].target);

    (void)state;
    rig_new_relay(2);
    new_job(12, rig.disks[1].target);
    mark_job(5 * CLUSTER + 4096, 8192);
    mark_job(DISK_BYTES - 512, 512);
    add_job();
    assert_true(relay_start(rig.relay, NULL));
    await(is_copied);
    assert_target(blank, 0, 5 * CLUSTER + 4096);
    assert_target(then, 5 * CLUSTER + 4096, 5 * CLUSTER + 12288);
    assert_target(blank, 5 * CLUSTER + 12288, DISK_BYTES / 4096 * 4096);
    assert_target(then, DISK_BYTES / 4096 * 4096, DISK_BYTES);
    assert_int_equal(job_figures().core.settled_bytes, 3 * 4096);
}

static void
test_job_is_forgotten_before_and_after_the_relay_runs(void **state)
{
    (void)state;
    rig_new_relay(1);
    rig_add_disk(0, rig.disks[0].target);
    for (unsigned i = 0; i < 3; i++) {
        new_job(16, rig.disks[1].target);
        mark_job(0, DISK_BYTES);
        add_job();
        relay_allow(rig.relay, NAME, 1, 0);
        assert_false(relay_add_disk(rig.relay, &job.config, NULL));
        forget_job();
    }
    assert_true(relay_start(rig.relay, NULL));
    rig_drain();
    new_job(16, rig.disks[1].target);
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_begun);
    relay_stop(rig.relay, 0);
    assert_true(job_figures().core.sent_bytes > 0);
    forget_job();
}

/* Its place, and all that named it, is another's at once. */
static void
assert_ends_quickly(void)
{
    int64_t begun_us = rig_now_us();
    uint64_t sent = job_figures().core.sent_bytes;

    end_job();
    assert_true(rig_now_us() - begun_us < PATIENCE_US / 10);
    assert_int_equal(job_figures().core.losses, 0); /* nobody was waited for */
    assert_int_equal(job_figures().core.sent_bytes, sent);
    assert_true(count_left() > 0);
    forget_job();
    new_job(16, rig.disks[1].target);
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_copied);
}

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
test_end_does_not_wait_for_a_hung_target(void **state)
{
    g_autofree char *path = g_build_filename(rig.dir, "pause", NULL);
    g_autofree char *control = g_strconcat("pause-control=", path, NULL);
    const char *words[] = {"-t",    "1", "--filter=pause", "memory", "size=64M",
                           control, NULL};

    (void)state;
    rig_start(1, rig.disks[0].target);
    rig.server = nbd_server_start(rig.socket, 0, words);
    new_job(16, rig.uri);
    job.config.job.bps = 1 << 20;
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_begun);
    control_pause(path, 'p');
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
    new_job(16, rig.uri);
    mark_job(0, DISK_BYTES);
    add_job();
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

        new_job(12 + (unsigned)seed_below(&seed, 10), rig.disks[1].target);
        mark_job(0, DISK_BYTES);
        add_job();
        while (rig_now_us() < until_us && count_left()) {
            sched_yield();
        }
        end_job();
        forget_job();
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
    new_job(16, rig.disks[1].target);
    job.config.job.is_paused = true;
    mark_job(0, CLUSTER);
    add_job();
    assert_true(relay_start(rig.relay, NULL));
    await(is_online);
    assert_true(is_paused());
    relay_pause(rig.relay, TRUE);
    relay_pause_job(rig.relay, NAME, FALSE);
    await(is_copied);
    relay_pause_job(rig.relay, NAME, TRUE);
    await(is_paused);
    relay_pause(rig.relay, FALSE);
    mark_job(0, CLUSTER);
    rig_drain(); /* of the disk */
    assert_true(is_paused());
    assert_int_equal(count_left(), 1);
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
    new_job(16, rig.disks[1].target);
    job.config.job.bps = 4096;
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_begun); /* a full bucket lets one op through */
    assert_true(job_figures().core.sent_bytes <= 1 << 20);
    assert_true(count_left() > 0);
    relay_set_speed(rig.relay, NAME, 0);
    await(is_copied);
}

static void
test_exact_size_is_asked_for(void **state)
{
    (void)state;
    assert_int_equal(truncate(rig.disks[1].target, (off_t)FILE_BYTES), 0);
    rig_start(1, NULL);
    new_job(16, rig.disks[1].target);
    job.config.job.is_exact = true;
    add_job();
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

        new_job(16, rig.uri);
        job.config.job.keeps_zeroes = keeps;
        mark_job(12 * CLUSTER, CLUSTER); /* data that is zero */
        add_job();
        await(is_copied);
        end_job();
        forget_job();
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
    g_autofree char *then = image(rig.disks[0].raw);

    (void)state;
    assert_true(g_file_set_contents(path, "", 0, NULL));
    rig.server = nbd_server_start(rig.socket, 0, words);
    rig_start(1, NULL);
    new_job(16, rig.uri);
    job.config.job.window_bytes = CLUSTER;
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_halted);
    assert_true(job_figures().core.halt.is_halted);
    assert_false(job_figures().core.halt.is_read);
    assert_int_equal(job_figures().core.halt.error, ENOSPC);
    assert_int_equal(job_figures().core.sent_bytes, 0);
    g_unlink(path);
    relay_proceed(rig.relay, NAME);
    await(is_copied);
    assert_int_equal(rig_job_news(RELAY_NEWS_HALTED), 1);
    assert_target(then, 0, DISK_BYTES);
}

/* A directory cannot be read like a file. */
static void
test_job_halts_at_what_it_cannot_read(void **state)
{
    (void)state;
    rig_start(1, NULL);
    new_job(16, rig.disks[1].target);
    job.config.fd = rig.disks[0].dir_fd;
    mark_job(0, DISK_BYTES);
    add_job();
    await(is_halted);
    assert_true(job_figures().core.halt.is_read);
    assert_int_equal(job_figures().core.halt.error, EISDIR);
    end_job();
    forget_job();
}

/*
 * Lives
 */
static void
test_job_goes_on_in_the_next_life(void **state)
{
    g_autofree char *then = image(rig.disks[0].raw);
    uint64_t settled, other;

    (void)state;
    rig_start(2, NULL);
    new_job(14, rig.disks[1].target);
    mark_job(0, DISK_BYTES / 2);
    add_job();
    await(is_copied);
    settled = job_figures().core.settled_bytes;
    relay_stop(rig.relay, 5);
    leave_job();
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
    new_job(14, rig.disks[1].target);
    job.config.contact = CONTACT_KNOWN;
    job.config.recovers = true;
    job.config.epoch_before = 5;
    job.config.epoch = 6;
    mark_job(0, DISK_BYTES / 2);
    add_job();
    await(is_copied);
    assert_target(then, 0, DISK_BYTES / 2 / 16384 * 16384);
    assert_int_equal(job_figures().core.sent_bytes, 1 << 14);
    assert_true(job_figures().core.skipped_bytes > 0);
    assert_true(job_figures().core.settled_bytes == settled);
}

/*
 * Snapshots, of clusters that are not the job's
 */
static struct {
    Points *points;
    Point *point;
    int raw_fd, data_fd;
    char *then;
    atomic_bool is_over;
} snap;

static void
take_snapshot(void)
{
    g_autofree char *path = g_build_filename(rig.dir, "data", NULL);

    snap.points = points_new();
    snap.raw_fd = open(rig.disks[0].raw, O_RDWR | O_CLOEXEC);
    snap.data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    snap.point = point_new(ID, DISK_BYTES, CLUSTER_BITS, -1, snap.data_fd);
    points_add(snap.points, snap.point);
    snap.then = image(rig.disks[0].raw);
    atomic_store(&snap.is_over, false);
}

static void
drop_snapshot(void)
{
    points_free(snap.points);
    close(snap.raw_fd);
    close(snap.data_fd);
    g_free(snap.then);
}

static void
granted(RangeHold *hold)
{
    atomic_store((atomic_bool *)(hold + 1), true);
}

/* A guest, which copies before it writes; sometimes a part of a cluster. */
static void
write_some(Seed *seed)
{
    uint64_t cluster = seed_below(seed, CLUSTERS);
    uint64_t at = cluster * CLUSTER, room = MIN(CLUSTER, DISK_BYTES - at);
    uint64_t skip = seed_below(seed, 2) * 8192;
    struct {
        RangeHold hold;
        atomic_bool is_granted;
    } writer = {.hold = {.offset = at + skip,
                         .len = room - skip,
                         .kind = RANGE_WRITE,
                         .granted = granted}};
    struct ClusterRun run;
    uint8_t bytes[CLUSTER];
    ssize_t done;

    if (points_next_missing(snap.points, cluster, cluster + 1, &run)) {
        done = pread(snap.raw_fd, bytes, room, (off_t)at);
        assert(done == (ssize_t)room);
        if (bytes[0] || memcmp(bytes, bytes + 1, room - 1)) {
            done = pwrite(snap.data_fd, bytes, room, (off_t)at);
            assert(done == (ssize_t)room);
        }
        points_keep(snap.points, snap.point, run);
    }
    if (disk_map_begin(rig.disks[0].map, &writer.hold, rig_now_us()) !=
        DISK_MAP_BEGUN) {
        while (!atomic_load(&writer.is_granted)) {
            sched_yield();
        }
    }
    memset(bytes, (int)(1 + seed_below(seed, 255)), sizeof(bytes));
    done = pwrite(snap.raw_fd, bytes, room - skip, (off_t)(at + skip));
    assert(done == (ssize_t)(room - skip));
    disk_map_end(rig.disks[0].map, &writer.hold, rig_now_us());
}

static gpointer
guest_thread(gpointer unused)
{
    Seed seed = {rig_seed};

    (void)unused;
    while (!atomic_load(&snap.is_over)) {
        write_some(&seed);
    }
    return NULL;
}

static void
bring_snapshot(unsigned cluster_bits)
{
    GThread *guest = g_thread_new("guest", guest_thread, NULL);
    uint64_t seq;

    blank_target();
    new_job(cluster_bits, rig.disks[1].target);
    job.config.is_cut = true;
    job.config.points = snap.points;
    mark_job(0, DISK_BYTES);
    add_job();
    seq = disk_map_seal(job.map);
    relay_allow(rig.relay, NAME, seq, ID);
    await(is_copied);
    atomic_store(&snap.is_over, true);
    (void)g_thread_join(guest);
    atomic_store(&snap.is_over, false);
    assert_int_equal(job_figures().lost_snapshot, 0);
    end_job();
    forget_job();
    assert_target(snap.then, 0, DISK_BYTES);
}

static void
test_snapshot_is_read_in_the_jobs_own_clusters(void **state)
{
    (void)state;
    rig_start(1, NULL);
    take_snapshot();
    for (unsigned bits = 12; bits <= 21; bits += 3) {
        bring_snapshot(bits);
    }
    drop_snapshot();
}

/* Again and again, while the sums of what is there keep it from being sent. */
static void
test_snapshot_stays_what_it_is(void **state)
{
    uint64_t sent;
    Seed seed = {rig_seed};

    (void)state;
    rig_start(1, NULL);
    take_snapshot();
    new_job(16, rig.disks[1].target);
    job.config.is_cut = true;
    job.config.points = snap.points;
    add_job();
    for (unsigned i = 0; i < 3; i++) {
        mark_job(0, DISK_BYTES);
        relay_allow(rig.relay, NAME, disk_map_seal(job.map), ID);
        await(is_copied);
        assert_target(snap.then, 0, DISK_BYTES);
        sent = i ? sent : job_figures().core.sent_bytes;
        for (unsigned n = 0; n < 50; n++) {
            write_some(&seed);
        }
    }
    assert_int_equal(job_figures().core.sent_bytes, sent);
    end_job();
    forget_job();
    drop_snapshot();
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

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
        TEST(test_snapshot_is_read_in_the_jobs_own_clusters),
        TEST(test_snapshot_stays_what_it_is),
    };

    rig_seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
