/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-face-points.c - what a snapshot needs is durable before it is overwritten
 *
 * The test is the guest, and makes snapshots; a shadow of the disk as of each
 * says what has to be found, through the points in memory, and through those
 * that are read back from their files.
 */
#include "bitmap/point-file.h"
#include "fs/face-internal.h"
#include "tests/lib/fake-session.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BITS      16
#define CLUSTER   (UINT64_C(1) << BITS)
#define CLUSTERS  96
#define SIZE      (CLUSTERS * CLUSTER)
#define SNAPSHOTS 12
#define PUNCH     (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

struct Rig {
    FakeSession session;
    Disk *disk;
    unsigned char *now;
    unsigned char *then[SNAPSHOTS]; /* of snapshot i + 1; NULL: none */
    unsigned n;
};

static uint64_t seed0;

static int
open_file(struct Rig *rig, uint64_t id, const char *suffix, int flags)
{
    char name[32];
    int fd;

    snprintf(name, sizeof(name), "%u.%s", (unsigned)id, suffix);
    fd = openat(rig->disk->dir_fd, name, O_RDWR | O_DIRECT | flags, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void
rig_init(struct Rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    rig->disk = &rig->session.disk;
    rig->now = aligned_alloc(4096, SIZE);
    memset(rig->now, 0, SIZE);
    fake_session_init(&rig->session, NULL, SIZE, 512);
    fake_session_leave(&rig->session);
    rig->disk->aside = aside_new(SIZE, BITS, 32 * CLUSTER);
    rig->disk->aside_fd = -1;
    rig->session.store.settings.full_wait_s = 1;
    fake_session_follow(&rig->session);
}

static void
rig_deinit(struct Rig *rig)
{
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
    aside_free(aside);
    free(rig->now);
}

static uint64_t
take_snapshot(struct Rig *rig)
{
    struct FaceSnapshot snapshot = {0};
    uint64_t id = ++rig->n;
    int map = open_file(rig, id, "map", O_CREAT);
    int data = open_file(rig, id, "data", O_CREAT);
    int r;

    assert_int_equal(ftruncate(data, (off_t)SIZE), 0);
    snapshot.points[0] = point_new(id, SIZE, BITS, map, data);
    do {
        r = face_snapshot(rig->session.face, &snapshot);
    } while (r == -EAGAIN);
    assert_int_equal(r, 0);
    assert_true(snapshot.wall_us > 0);
    rig->then[id - 1] = aligned_alloc(4096, SIZE);
    memcpy(rig->then[id - 1], rig->now, SIZE);
    return id;
}

static void
write_at(struct Rig *rig, uint64_t offset, uint64_t len, unsigned char what)
{
    memset(rig->now + offset, what, len);
    assert_int_equal(fake_write(&rig->session, rig->now + offset, len, offset),
                     len);
}

static void
discard(struct Rig *rig, uint64_t offset, uint64_t len)
{
    assert_int_equal(fake_fallocate(&rig->session, PUNCH, offset, len), 0);
    memset(rig->now + offset, 0, len);
}

static void
assert_reads(struct Rig *rig, Points *points, uint64_t id)
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
read_back(struct Rig *rig)
{
    struct PointMark mark = {.disk = rig->disk->id};
    Points *points = points_new();

    memcpy(mark.uuid, rig->session.store.uuid, sizeof(mark.uuid));
    for (uint64_t id = 1; id <= rig->n; id++) {
        Point *point = point_new(id, SIZE, BITS, open_file(rig, id, "map", 0),
                                 open_file(rig, id, "data", 0));

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

/* When nobody is at work: who reads here takes no pins. */
static void
assert_all(struct Rig *rig)
{
    Points *again;

    while (atomic_load(&rig->disk->unpunched_bytes)) {
        sched_yield();
    }
    again = read_back(rig);

    for (uint64_t id = 1; id <= rig->n; id++) {
        assert_reads(rig, rig->disk->points, id);
        assert_reads(rig, again, id);
    }
    points_free(again);
}

static void
test_each_kind_of_write_keeps_what_is_needed(void **state)
{
    struct Rig rig;
    struct PointFigures figures;

    (void)state;
    rig_init(&rig);
    write_at(&rig, 0, 32 * CLUSTER / 2, 1);
    take_snapshot(&rig);
    write_at(&rig, 3 * CLUSTER, 4096, 2);
    write_at(&rig, 4 * CLUSTER + 100, 512, 3);
    discard(&rig, 5 * CLUSTER, 4096);
    write_at(&rig, 3 * CLUSTER + 8192, 4096, 4);
    write_at(&rig, 60 * CLUSTER, 4096, 5); /* zeroes before */
    assert_true(points_figures(rig.disk->points, 1, &figures));
    assert_int_equal(figures.kept_clusters, 4);
    assert_all(&rig);
    take_snapshot(&rig);
    write_at(&rig, 3 * CLUSTER, 2 * CLUSTER, 6);
    assert_all(&rig);
    rig_deinit(&rig);
}

static void
test_discards_before_are_in_it(void **state)
{
    struct Rig rig;

    (void)state;
    rig_init(&rig);
    write_at(&rig, 0, 1 << 20, 1);
    write_at(&rig, 40 * CLUSTER, 1 << 20, 2);
    discard(&rig, 0, 80 * CLUSTER);
    take_snapshot(&rig);
    assert_all(&rig);
    write_at(&rig, 41 * CLUSTER, 4096, 3);
    write_at(&rig, 0, 512, 4);
    assert_all(&rig);
    discard(&rig, 0, 80 * CLUSTER);
    assert_all(&rig);
    rig_deinit(&rig);
}

static void
test_snapshots_under_load(void **state)
{
    static const uint64_t lens[] = {512, 700, 4096, 3 * CLUSTER, 1 << 20};

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        Seed seed = {seed0 + round};
        struct Rig rig;

        rig_init(&rig);
        while (rig.n < SNAPSHOTS) {
            uint64_t len = lens[seed_below(&seed, G_N_ELEMENTS(lens))];
            uint64_t offset = seed_below(&seed, SIZE - len);

            if (seed_below(&seed, 12) == 0) {
                take_snapshot(&rig);
            } else if (seed_below(&seed, 10) == 0) {
                discard(&rig, offset, 1 + seed_below(&seed, SIZE - offset));
            } else {
                write_at(&rig, offset, len, (unsigned char)seed_next(&seed));
            }
        }
        assert_int_equal(rig.session.face->count.starved, 0);
        assert_all(&rig);
        rig_deinit(&rig);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_write_keeps_what_is_needed),
        cmocka_unit_test(test_discards_before_are_in_it),
        cmocka_unit_test(test_snapshots_under_load),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
