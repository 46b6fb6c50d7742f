/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first disk of the rig with a point, whose guest copies into it before it
 * writes, as the fs thread would.
 */
#include "relay-snap-rig.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/test.h"

struct Snap snap;

void
snap_begin(void)
{
    g_autofree char *path = g_build_filename(rig.dir, "data", NULL);

    snap.points = points_new();
    snap.raw_fd = open(rig.disks[0].raw, O_RDWR | O_CLOEXEC);
    snap.data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

void
snap_take(void)
{
    snap.point = point_new(ID, DISK_BYTES, CLUSTER_BITS, -1, snap.data_fd);
    points_add(snap.points, snap.point);
    snap.then = job_image(rig.disks[0].raw);
}

void
snap_drop(void)
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

/* It copies before it writes. */
void
snap_write(uint64_t cluster, uint64_t skip, uint8_t byte)
{
    uint64_t at = cluster * CLUSTER, room = MIN(CLUSTER, DISK_BYTES - at);
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
    memset(bytes, byte, sizeof(bytes));
    done = pwrite(snap.raw_fd, bytes, room - skip, (off_t)(at + skip));
    assert(done == (ssize_t)(room - skip));
    disk_map_end(rig.disks[0].map, &writer.hold, rig_now_us());
}

void
snap_write_some(Seed *seed)
{
    uint64_t cluster = seed_below(seed, CLUSTERS / 3) * 3; /* others stay */
    uint64_t skip = seed_below(seed, 2) * 8192;

    snap_write(cluster, skip, (uint8_t)(1 + seed_below(seed, 255)));
}

static gpointer
guest_thread(gpointer unused)
{
    Seed seed = {rig_seed};

    (void)unused;
    while (!atomic_load(&snap.is_over)) {
        snap_write_some(&seed);
    }
    return NULL;
}

GThread *
snap_begin_guest(void)
{
    atomic_store(&snap.is_over, false);
    return g_thread_new("guest", guest_thread, NULL);
}

void
snap_end_guest(GThread *guest)
{
    atomic_store(&snap.is_over, true);
    (void)g_thread_join(guest);
}

void
snap_new_job(unsigned cluster_bits)
{
    job_new(cluster_bits, rig.disks[1].target);
    job.config.is_cut = true;
    job.config.points = snap.points;
    job_add();
}

void
snap_allow(void)
{
    uint64_t seq = disk_map_seal(job.map);

    assert_true(seq > 0);
    relay_allow(rig.relay, NAME, seq, ID);
}
