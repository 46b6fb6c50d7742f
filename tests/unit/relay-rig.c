/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two disks of some MiB, each a sparse file with data, zero clusters and holes,
 * all dirty, and an empty file of the disk's size as its target. Waiting is
 * what a daemon does: news is answered (a contact is "kept" at once), and the
 * condition is looked at again whenever there was some.
 */
#include "relay-rig.h"

#include <fcntl.h>
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

struct Rig rig;
unsigned rig_seed;

int64_t
rig_now_us(void)
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
    if (g_str_has_prefix(disk, "job/")) {
        rig.job_news[news]++;
        if (news == RELAY_NEWS_CONTACT && rig.n_met < G_N_ELEMENTS(rig.met)) {
            g_strlcpy(rig.met[rig.n_met++], disk, sizeof(rig.met[0]));
        }
    } else if (news == RELAY_NEWS_CONTACT) {
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
            cluster[byte] = kind < 12 ? (uint8_t)rand_r(&rig_seed) : 0;
        }
        if (kind < 14) {
            assert_int_equal(pwrite(fd, cluster, len, (off_t)at), len);
        }
    }
    fsync(fd);
    close(fd);
}

int
rig_setup(void **state)
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
        disk->dir = g_strdup_printf("%s/%s", rig.dir, disk->name);
        assert_int_equal(g_mkdir(disk->dir, 0700), 0);
        disk->dir_fd = open(disk->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        disk->map = disk_map_new(DISK_BYTES, CLUSTER_BITS);
        disk_map_mark_all(disk->map, rig_now_us());
    }
    return 0;
}

int
rig_teardown(void **state)
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
        (void)unlinkat(disk->dir_fd, "remote-sums", 0);
        (void)unlinkat(disk->dir_fd, "sent-log", 0);
        close(disk->dir_fd);
        assert_int_equal(g_rmdir(disk->dir), 0);
        g_free(disk->dir);
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

void
rig_new_relay(unsigned max_conns)
{
    struct RelayConfig config = {
        .io = rig.io ? rig.io : store_io_kernel(),
        .run_dir = rig.dir,
        .lock_fd = rig.disks[0].map_fd,
        .max_conns = max_conns,
        .deadline_us = DEADLINE_US,
        .notify = notify,
    };

    rig.relay = relay_new(&config, NULL);
    assert_non_null(rig.relay);
}

void
rig_add_disk(unsigned index, const char *target)
{
    struct Disk *disk = &rig.disks[index];
    struct RelayDiskConfig config = {
        .name = disk->name,
        .fd = disk->fd,
        .map_fd = disk->map_fd,
        .dio_align = 4096,
        .map = disk->map,
        .target = target,
        .contact = rig.recovers ? CONTACT_KNOWN : CONTACT_NONE,
        .recovers = rig.recovers,
        .is_cut = disk->is_cut,
        .aside_fd = -1,
        .points = disk->points,
        .dir_fd = disk->dir_fd,
        .epoch = 1,
    };

    assert_true(relay_add_disk(rig.relay, &config, NULL));
}

void
rig_start(unsigned max_conns, const char *target)
{
    rig_new_relay(max_conns);
    rig_add_disk(0, target);
    assert_true(relay_start(rig.relay, NULL));
}

/* What the daemon's main thread would do with news; then wait for more. */
static void
rig_serve_news(void)
{
    struct timespec until;
    bool has_contact[DISKS];
    char met[G_N_ELEMENTS(rig.met)][RIG_NAME];
    unsigned n_met;

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
    memcpy(met, rig.met, sizeof(met));
    n_met = rig.n_met;
    rig.n_met = 0;
    pthread_mutex_unlock(&rig.lock);
    for (unsigned i = 0; i < n_met; i++) {
        relay_contact_kept(rig.relay, met[i]);
    }
    for (unsigned i = 0; i < DISKS; i++) {
        if (has_contact[i]) {
            relay_contact_kept(rig.relay, rig.disks[i].name);
        }
    }
}

struct RelayFigures
rig_figures(unsigned index)
{
    struct RelayFigures figures = {0};

    assert_true(relay_figures(rig.relay, rig.disks[index].name, &figures));
    return figures;
}

unsigned
rig_job_news(enum RelayNews news)
{
    unsigned n;

    pthread_mutex_lock(&rig.lock);
    n = rig.job_news[news];
    pthread_mutex_unlock(&rig.lock);
    return n;
}

bool
rig_is_clean(unsigned index)
{
    struct DiskMapFigures figures;

    disk_map_figures(rig.disks[index].map, &figures);
    return !figures.dirty_clusters;
}

bool
rig_is_drained(void)
{
    return rig_is_clean(0);
}

void
rig_await(bool (*condition)(void), const char *what)
{
    int64_t until_us = rig_now_us() + PATIENCE_US;

    while (!condition()) {
        if (rig_now_us() > until_us) {
            fail_msg("never %s: %s, %s", what,
                     relay_link_name(rig_figures(0).core.link),
                     rig_figures(0).core.error);
        }
        rig_serve_news();
    }
}

void
rig_assert_equal(unsigned index)
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

void
rig_drain(void)
{
    relay_hurry(rig.relay);
    await(rig_is_drained);
    rig_assert_equal(0);
}

const char *
rig_file_word(void)
{
    static char word[64];

    snprintf(word, sizeof(word), "file=%s", rig.disks[0].target);
    return word;
}

void
rig_control_pause(const char *path, char letter)
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
