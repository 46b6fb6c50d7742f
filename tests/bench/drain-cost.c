/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * drain-cost.c - drains an image through the relay, without FUSE or a guest
 *
 * usage: drain-cost IMAGE TARGET [CONNECTIONS]
 *
 * All of the image is dirty at the start; the clock runs from there, over the
 * connect and the look at the target, until all is flushed and settled. Prints
 * one line: seconds, MB/s, CPU seconds per GiB, peak RSS, and what the core
 * ended with. Judges nothing: time belongs to the machine.
 */
#include "relay/relay.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CLUSTER_BITS 16
#define DIO_ALIGN    4096
#define LOOK_MS      20

static double
now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double
cpu_s(const struct rusage *usage)
{
    return (double)usage->ru_utime.tv_sec + (double)usage->ru_stime.tv_sec +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static void
notify(void *user, const char *disk, enum RelayNews news)
{
    uint64_t value = news == RELAY_NEWS_CONTACT ? 1u << 16 : 1;
    ssize_t n = write(*(int *)user, &value, sizeof(value));

    (void)disk;
    (void)n;
}

static bool
is_clean(DiskMap *map)
{
    struct DiskMapFigures figures;

    disk_map_figures(map, &figures);
    return !figures.dirty_clusters;
}

static void
drain(Relay *relay, DiskMap *map, int event_fd)
{
    struct pollfd fd = {.fd = event_fd, .events = POLLIN};
    uint64_t value;

    relay_hurry(relay);
    while (!is_clean(map)) {
        if (poll(&fd, 1, LOOK_MS) == 1 &&
            read(event_fd, &value, sizeof(value)) == (ssize_t)sizeof(value) &&
            value >= 1u << 16) {
            relay_contact_kept(relay, "disk");
        }
    }
}

static void
print_cost(Relay *relay, double seconds, double bytes)
{
    struct RelayFigures figures = {0};
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    relay_figures(relay, "disk", &figures);
    printf("%.2f s  %.0f MB/s  %.2f CPU s/GiB  %ld MiB RSS  window %llu KiB  "
           "%u conns  %llu resent\n",
           seconds, bytes / seconds / 1e6, cpu_s(&usage) / (bytes / (1u << 30)),
           usage.ru_maxrss / 1024,
           (unsigned long long)figures.core.window_bytes >> 10,
           figures.core.conns,
           (unsigned long long)figures.core.resent_clusters);
}

int
main(int argc, char **argv)
{
    int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct RelayConfig config = {
        .io = store_io_kernel(),
        .run_dir = "/tmp",
        .lock_fd = -1,
        .max_conns = argc > 3 ? (unsigned)atoi(argv[3]) : 4,
        .notify = notify,
        .user = &event_fd,
    };
    struct RelayDiskConfig disk = {.name = "disk", .dio_align = DIO_ALIGN};
    struct stat st;
    Relay *relay;
    double begun;

    if (argc < 3) {
        fprintf(stderr, "usage: drain-cost IMAGE TARGET [CONNECTIONS]\n");
        return 2;
    }
    disk.fd = open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC);
    disk.map_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (disk.fd < 0 || fstat(disk.fd, &st)) {
        perror(argv[1]);
        return 1;
    }
    disk.map = disk_map_new((uint64_t)st.st_size, CLUSTER_BITS);
    disk.target = argv[2];
    disk.accept = ACCEPT_OVERWRITE;
    relay = relay_new(&config, NULL);
    if (!relay || !relay_add_disk(relay, &disk, NULL)) {
        return 1;
    }
    begun = now_s();
    disk_map_mark_all(disk.map, (int64_t)(begun * 1e6));
    if (!relay_start(relay, NULL)) {
        return 1;
    }
    drain(relay, disk.map, event_fd);
    print_cost(relay, now_s() - begun, (double)st.st_size);
    relay_free(relay);
    disk_map_free(disk.map);
    return 0;
}
