/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A session whose disk has points, over storage that can be told to fail: a
 * request that is to fail is one for nothing in its place.
 */
#include "points-rig.h"

#include "bitmap/point-file.h"
#include "fs/face-internal.h"
#include "fs/snapshot-private.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/*
 * Storage that fails where it is told to
 */
struct PointsFaults points_faults;

static bool
is_among(int fd, const atomic_int *fds)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        if (fds[i] == fd) {
            return true;
        }
    }
    return false;
}

static enum PointsAsked
asked_of(const StoreReq *req)
{
    bool is_data = is_among(req->fd, points_faults.data_fd);

    switch (req->op) {
    case STORE_READ:
        return req->fd == points_faults.disk->fd && req->len == CLUSTER
                   ? POINTS_COPY_READ
                   : POINTS_ASKED;
    case STORE_WRITE:
        return is_data ? POINTS_DATA_WRITE : POINTS_ASKED;
    case STORE_WRITE_SYNC:
        return is_among(req->fd, points_faults.map_fd) ? POINTS_MAP_WRITE
                                                       : POINTS_ASKED;
    case STORE_FDATASYNC:
        return is_data ? POINTS_DATA_SYNC : POINTS_ASKED;
    case STORE_FALLOCATE:
        break;
    }
    return POINTS_ASKED;
}

/* -errno, or 0: it is performed. */
static int
fault_of(const StoreReq *req)
{
    enum PointsAsked asked = asked_of(req);

    return asked == POINTS_ASKED ? 0
           : asked == POINTS_COPY_READ &&
                   req->offset >> BITS != points_faults.bad_cluster
               ? 0
               : points_faults.error[asked];
}

static void
faults_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    enum PointsAsked asked = asked_of(req);
    int fault = fault_of(req);

    if (asked != POINTS_ASKED) {
        points_faults.asked[asked]++;
    }
    if (fault) {
        points_faults.failed[asked] = fault;
        io_uring_prep_nop(sqe);
    } else {
        store_io_kernel()->ops->prep(io, sqe, req);
    }
}

/* Since it was begun the test may have let such requests succeed again; one
 * that has moved no bytes was for nothing all the same. */
static int
faults_done(StoreIo *io, const StoreReq *req, int res)
{
    enum PointsAsked asked = asked_of(req);
    int fault = fault_of(req);

    if (!fault && !res && asked != POINTS_ASKED && asked != POINTS_DATA_SYNC) {
        fault = points_faults.failed[asked];
    }
    return fault ? fault : store_io_kernel()->ops->done(io, req, res);
}

/*
 * The rig
 */
static int
open_file(struct PointsRig *rig, uint64_t id, const char *suffix, int flags)
{
    char name[32];
    int fd;

    snprintf(name, sizeof(name), "%u.%s", (unsigned)id, suffix);
    fd = openat(rig->disk->dir_fd, name, O_RDWR | O_DIRECT | flags, 0600);
    assert_true(fd >= 0);
    return fd;
}

struct PointsRig *
points_rig_new(void)
{
    struct PointsRig *rig = calloc(1, sizeof(*rig));

    points_faults = (struct PointsFaults){.ops = *store_io_kernel()->ops,
                                          .disk = &rig->session.disk};
    points_faults.ops.prep = faults_prep;
    points_faults.ops.done = faults_done;
    points_faults.io = (StoreIo){&points_faults.ops};
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        points_faults.map_fd[i] = -1;
        points_faults.data_fd[i] = -1;
    }
    rig->disk = &rig->session.disk;
    rig->now = aligned_alloc(4096, SIZE);
    memset(rig->now, 0, SIZE);
    fake_session_init(&rig->session, &points_faults.io, SIZE, 512);
    fake_session_leave(&rig->session);
    rig->session.store.snapshot_files = snapshot_files_new();
    rig->disk->aside = aside_new(SIZE, BITS, 32 * CLUSTER);
    rig->disk->aside_fd = -1;
    rig->session.store.settings.full_wait_s = 1;
    fake_session_follow(&rig->session);
    /* What fails is no place among the ring's own files. */
    rig->session.face->disks[0].fixed = 0;
    return rig;
}

void
points_rig_free(struct PointsRig *rig)
{
    struct SnapshotFiles *files = rig->session.store.snapshot_files;
    Aside *aside = rig->disk->aside;

    for (unsigned i = 0; i < rig->n; i++) {
        char name[32];

        snprintf(name, sizeof(name), "%u.map", i + 1);
        unlinkat(rig->disk->dir_fd, name, 0);
        snprintf(name, sizeof(name), "%u.data", i + 1);
        unlinkat(rig->disk->dir_fd, name, 0);
        free(rig->then[i]);
    }
    fake_session_deinit(&rig->session);
    snapshot_files_free(store_io_kernel(), files);
    aside_free(aside);
    free(rig->now);
    free(rig);
}

uint64_t
points_rig_snapshot(struct PointsRig *rig)
{
    struct FaceSnapshot snapshot = {0};
    uint64_t id = ++rig->n;
    struct PointFiles files = {.id = id,
                               .map_fd = open_file(rig, id, "map", O_CREAT),
                               .data_fd = open_file(rig, id, "data", O_CREAT)};
    int r;

    points_faults.map_fd[id - 1] = files.map_fd;
    points_faults.data_fd[id - 1] = files.data_fd;
    snapshot_files_add(&rig->session.store, &files);
    assert_int_equal(ftruncate(files.data_fd, (off_t)SIZE), 0);
    snapshot.points[0] = point_new(id, SIZE, BITS, files.map_fd, files.data_fd);
    while ((r = face_snapshot(rig->session.face, &snapshot)) == -EAGAIN) {
        if (rig->pin) {
            disk_map_end(rig->disk->map, rig->pin, 1);
            rig->pin = NULL;
        }
    }
    assert_int_equal(r, 0);
    assert_true(snapshot.wall_us > 0);
    rig->then[id - 1] = aligned_alloc(4096, SIZE);
    memcpy(rig->then[id - 1], rig->now, SIZE);
    return id;
}

void
points_rig_write(struct PointsRig *rig, uint64_t offset, uint64_t len,
                 unsigned char what)
{
    memset(rig->now + offset, what, len);
    assert_int_equal(fake_write(&rig->session, rig->now + offset, len, offset),
                     len);
}

void
points_rig_discard(struct PointsRig *rig, uint64_t offset, uint64_t len)
{
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, offset, len), 0);
    memset(rig->now + offset, 0, len);
}

static void
assert_reads(struct PointsRig *rig, Points *points, uint64_t id)
{
    unsigned char *buf = aligned_alloc(4096, CLUSTER);

    for (uint64_t c = 0; c < CLUSTERS; c++) {
        uint64_t count;
        Point *point;
        enum PointsPlace place = points_find(points, id, c, 1, &point, &count);
        int fd = point ? point_data_fd(point) : rig->disk->fd;

        assert_true(place == POINTS_DISK || place == POINTS_FILE);
        assert_int_equal(pread(fd, buf, CLUSTER, (off_t)(c * CLUSTER)),
                         CLUSTER);
        assert_memory_equal(buf, rig->then[id - 1] + c * CLUSTER, CLUSTER);
        if (point) {
            points_done(points, point);
        }
    }
    free(buf);
}

/* What another process would find. */
static Points *
read_back(struct PointsRig *rig, int fds[2 * SNAPSHOTS])
{
    struct PointMark mark = {.disk = rig->disk->id};
    Points *points = points_new();

    memcpy(mark.uuid, rig->session.store.uuid, sizeof(mark.uuid));
    for (uint64_t id = 1; id <= rig->n; id++) {
        int *at = &fds[2 * (id - 1)];
        Point *point;

        at[0] = open_file(rig, id, "map", 0);
        at[1] = open_file(rig, id, "data", 0);
        point = point_new(id, SIZE, BITS, at[0], at[1]);
        mark.id = id;
        assert_int_equal(point_file_load(store_io_kernel(), point_map_fd(point),
                                         &mark, point_kept(point),
                                         point_unsure(point)),
                         0);
        assert_int_equal(bitmap_count(point_unsure(point)), 0);
        points_add(points, point);
    }
    return points;
}

void
points_rig_assert_all(struct PointsRig *rig)
{
    int fds[2 * SNAPSHOTS];
    Points *again;

    while (atomic_load(&rig->disk->unpunched_bytes)) {
        sched_yield();
    }
    again = read_back(rig, fds);
    for (uint64_t id = 1; id <= rig->n; id++) {
        assert_reads(rig, rig->disk->points, id);
        assert_reads(rig, again, id);
    }
    points_free(again);
    for (unsigned i = 0; i < rig->n; i++) {
        close(fds[2 * i]);
        close(fds[2 * i + 1]);
    }
}
