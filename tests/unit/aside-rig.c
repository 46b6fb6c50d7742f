/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A session whose disk keeps copies aside, over storage that can be told to
 * fail or to wait: copies are read, and written to their file, through requests
 * of the ring, so a request that waits is a poll of an eventfd in their place,
 * and what it stands for is done when that is over.
 */
#include "aside-rig.h"

#include "fs/face-internal.h"
#include "tests/lib/test.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * Storage that fails, or waits, where it is told to
 */
struct AsideFaults aside_faults;

static bool
is_spill(const StoreReq *req)
{
    return req->op == STORE_WRITE && req->fd == aside_faults.disk->aside_fd;
}

static bool
is_copy(const StoreReq *req)
{
    return req->op == STORE_READ && req->fd == aside_faults.disk->fd &&
           req->len == CLUSTER;
}

static void
faults_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    if ((is_spill(req) && aside_faults.gates_spills) ||
        (is_copy(req) && aside_faults.gates_copies)) {
        io_uring_prep_poll_add(sqe, aside_faults.gate_fd, POLLIN);
        aside_faults.gated++;
    } else {
        store_io_kernel()->ops->prep(io, sqe, req);
    }
}

static void
see_kept(void)
{
    struct AsideFigures figures;

    aside_figures(aside_faults.disk->aside, &figures);
    if (figures.kept_clusters * CLUSTER > aside_faults.most_kept) {
        aside_faults.most_kept = figures.kept_clusters * CLUSTER;
    }
}

static int
faults_done(StoreIo *io, const StoreReq *req, int res)
{
    if (is_spill(req) && res == POLLIN) {
        res = (int)pwrite(req->fd, req->buf, req->len, (off_t)req->offset);
    } else if (is_copy(req) && res == POLLIN) {
        res = (int)pread(req->fd, req->buf, req->len, (off_t)req->offset);
    }
    see_kept();
    if (is_spill(req) && aside_faults.spill_error) {
        return aside_faults.spill_error;
    }
    if (is_copy(req) && aside_faults.read_error) {
        return aside_faults.read_error;
    }
    return store_io_kernel()->ops->done(io, req, res);
}

/*
 * A session with room for @buffers copies in memory, and a file for the others
 */

static void
open_aside(struct AsideRig *rig, unsigned buffers)
{
    Disk *disk = rig->disk;

    disk->aside = aside_new(SIZE, BITS, buffers * CLUSTER);
    disk->aside_fd =
        openat(disk->dir_fd, ".", O_RDWR | O_TMPFILE | O_DIRECT, 0600);
    assert_true(disk->aside && disk->aside_fd >= 0);
    assert_int_equal(ftruncate(disk->aside_fd, (off_t)SIZE), 0);
    rig->cut = (struct FaceCut){.disks = {disk}, .n_disks = 1};
}

struct AsideRig *
aside_rig_new(unsigned buffers)
{
    struct AsideRig *rig = calloc(1, sizeof(*rig));

    aside_faults = (struct AsideFaults){.ops = *store_io_kernel()->ops,
                                        .disk = &rig->session.disk,
                                        .gate_fd = eventfd(0, EFD_CLOEXEC)};
    aside_faults.ops.prep = faults_prep;
    aside_faults.ops.done = faults_done;
    aside_faults.io = (StoreIo){&aside_faults.ops};
    rig->disk = &rig->session.disk;
    rig->now = aligned_alloc(4096, SIZE);
    rig->then = aligned_alloc(4096, SIZE);
    rig->owed = calloc(CLUSTERS, sizeof(bool));
    memset(rig->now, 0, SIZE);
    fake_session_init(&rig->session, &aside_faults.io, SIZE, 512);
    fake_session_leave(&rig->session);
    open_aside(rig, buffers);
    fake_session_follow(&rig->session);
    /* A gate is no place among the ring's own files. */
    rig->session.face->disks[0].fixed = 0;
    return rig;
}

void
aside_rig_free(struct AsideRig *rig)
{
    Aside *aside = rig->disk->aside;
    int fd = rig->disk->aside_fd;

    fake_session_deinit(&rig->session);
    aside_free(aside);
    close(fd);
    close(aside_faults.gate_fd);
    free(rig->now);
    free(rig->then);
    free(rig->owed);
    free(rig);
}

/* In a loop that awaits something; what never comes fails the test. */
void
aside_rig_wait(int64_t *until_us)
{
    *until_us = *until_us ? *until_us : face_now_us() + 10 * G_USEC_PER_SEC;
    assert_true(face_now_us() < *until_us);
    sched_yield();
}

void
aside_rig_write(struct AsideRig *rig, uint64_t offset, uint64_t len,
                unsigned char what)
{
    memset(rig->now + offset, what, len);
    assert_int_equal(fake_write(&rig->session, rig->now + offset, len, offset),
                     len);
}

/* Write 512 bytes into each of @count clusters, all at once. */
void
aside_rig_write_many(struct AsideRig *rig, uint64_t first, uint64_t count,
                     unsigned char what)
{
    struct fuse_write_in in = {.size = 512};
    int error;

    for (uint64_t c = first; c < first + count; c++) {
        in.offset = c * CLUSTER;
        memset(rig->now + in.offset, what, 512);
        fake_send(&rig->session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in),
                  rig->now + in.offset, 512);
        /* Replies before there are more requests than slots. */
        if ((c - first) % 16 == 15 || c == first + count - 1) {
            for (uint64_t i = 0; i <= (c - first) % 16; i++) {
                fake_reply(&rig->session, &error);
                assert_int_equal(error, 0);
            }
        }
    }
}

/* It waits for discards to be carried out. */
void
aside_rig_cut(struct AsideRig *rig)
{
    int64_t until_us = 0;

    while (!face_cut(rig->session.face, &rig->cut)) {
        aside_rig_wait(&until_us);
    }
    memcpy(rig->then, rig->now, SIZE);
    for (uint64_t c = 0; c < CLUSTERS; c++) {
        struct ClusterRun run;

        rig->owed[c] = disk_map_next_owed(rig->disk->map, c, c + 1, &run);
    }
}

/* The relay brought all of it to the target, and the cut is over. */
void
aside_rig_end_cut(struct AsideRig *rig)
{
    struct FaceCut none = {.n_disks = 0};
    struct ClusterRun run;

    while (disk_map_next_sealed(rig->disk->map, 0, UINT64_MAX, &run)) {
        disk_map_settle(rig->disk->map, run);
    }
    (void)disk_map_retire(rig->disk->map);
    memset(rig->owed, 0, CLUSTERS * sizeof(bool));
    face_cut_end(rig->session.face, rig->disk);
    /* A cut of nothing comes behind it. */
    assert_true(face_cut(rig->session.face, &none));
}

/* What a reader for the target gets. */
static void
read_owed(struct AsideRig *rig, uint64_t cluster, unsigned char *to)
{
    int fd = rig->disk->fd;
    uint64_t count;

    switch (aside_fetch(rig->disk->aside, cluster, 1, to, &count)) {
    case ASIDE_RAM:
        return;
    case ASIDE_ZERO:
        memset(to, 0, CLUSTER);
        return;
    case ASIDE_FILE:
        fd = rig->disk->aside_fd;
        break;
    case ASIDE_NONE:
        break;
    }
    assert_int_equal(pread(fd, to, CLUSTER, (off_t)(cluster * CLUSTER)),
                     CLUSTER);
}

void
aside_rig_assert_whole(struct AsideRig *rig)
{
    unsigned char *got = aligned_alloc(4096, CLUSTER);

    for (uint64_t c = 0; c < CLUSTERS; c++) {
        if (rig->owed[c]) {
            read_owed(rig, c, got);
            if (memcmp(got, rig->then + c * CLUSTER, CLUSTER)) {
                fail_msg("cluster %llu is not what it was at the cut",
                         (unsigned long long)c);
            }
        }
    }
    free(got);
    assert_int_equal(rig->session.degraded, 0);
}

uint64_t
aside_rig_kept(struct AsideRig *rig, uint64_t *in_file)
{
    struct AsideFigures figures;

    aside_figures(rig->disk->aside, &figures);
    if (in_file) {
        *in_file = figures.file_clusters;
    }
    return figures.kept_clusters;
}

uint64_t
aside_rig_copied(struct AsideRig *rig)
{
    struct FaceFigures figures;

    face_figures(rig->session.face, &figures);
    return figures.aside_clusters;
}

void
aside_rig_await_degraded(struct AsideRig *rig, unsigned times)
{
    int64_t until_us = 0;

    /* It is told before what was kept is dropped. */
    while (rig->session.degraded < times || aside_rig_kept(rig, NULL) > 0) {
        aside_rig_wait(&until_us);
    }
}

void
aside_rig_open_gate(void)
{
    uint64_t one = 1;

    assert_int_equal(write(aside_faults.gate_fd, &one, sizeof(one)),
                     sizeof(one));
}
