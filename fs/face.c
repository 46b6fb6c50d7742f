/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fs thread: one io_uring, and all of a store's data path.
 *
 *   for (;;) {
 *       take up to FACE_BATCH completions and messages; they reply or go on
 *       take up to FACE_BATCH requests from /dev/fuse, start each
 *       submit what was asked of the storage, in one system call; if there
 *       is nothing else to do it is also the one that sleeps, with a poll of
 *       /dev/fuse armed
 *   }
 *
 * Batches are small on purpose. A guest with a deep queue, this thread and the
 * disk each have their part of every request's time. If all that is there is
 * taken before any of it is passed on, the whole queue moves from one to the next
 * as one lump, and two of the three wait for the third: at QD32 a guest has 0.6 of
 * the raw file's 4K writes. In batches of 4 all three are at work at once: 0.9. One
 * by one each submission costs a call, and each is a kick of the device.
 *
 * Nothing in here waits for anything else: not for the storage, not for
 * another thread, and least of all for the target. A request that cannot go
 * on is parked in a list that somebody is bound to empty: a range's holder, a
 * slice being punched, the gate of a resize, an answer from the main thread.
 *
 * One thread takes all disks of the store, so that the instant of a cut over
 * all of them is a step between two requests.
 *
 * The store's lock is a registered file of the ring (rule 6): requests of a
 * killed process live on in the kernel, and the lock is free only when they
 * are done.
 *
 * The end: the kernel says ENODEV (unmounted) or sends DESTROY, or the session
 * is to be left to another process. What is in flight runs to its end, the zero
 * list is punched away, and a note tells the main thread that the store is at rest.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RING_ENTRIES 512

/* user_data of the two polls and the timer; everything else is a FaceIo. */
static char poll_fuse, poll_inbox, timer;

int64_t
face_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * The ring
 */

struct io_uring_sqe *
face_get_sqe(Face *face)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&face->ring);

    if (!sqe) {
        io_uring_submit(&face->ring);
        sqe = io_uring_get_sqe(&face->ring);
    }
    assert(sqe);
    return sqe;
}

void
face_submit(Face *face, FaceIo *io, void (*done)(FaceIo *, int))
{
    StoreIo *store = face->config.store->io;
    struct io_uring_sqe *sqe = face_get_sqe(face);

    io->face = face;
    io->done = done;
    store->ops->prep(store, sqe, &io->store);
    if (io->fixed) {
        /* One of the ring's own files: no reference to take and drop. */
        sqe->fd = (int)io->fixed;
        sqe->flags |= IOSQE_FIXED_FILE;
        io->fixed = 0;
    }
    io_uring_sqe_set_data(sqe, io);
    face->io_inflight++;
}

static void
arm_polls(Face *face)
{
    if (!face->is_polling && !face->is_ended && face->n_free) {
        struct io_uring_sqe *sqe = face_get_sqe(face);

        io_uring_prep_poll_add(sqe, face->config.fuse_fd, POLLIN);
        io_uring_sqe_set_data(sqe, &poll_fuse);
        face->is_polling = true;
    }
    if (!face->is_inboxed) {
        struct io_uring_sqe *sqe = face_get_sqe(face);

        io_uring_prep_poll_add(sqe, face->inbox.event_fd, POLLIN);
        io_uring_sqe_set_data(sqe, &poll_inbox);
        face->is_inboxed = true;
    }
}

/* Who waits for room is not told when there is some. */
static void
arm_timer(Face *face)
{
    static struct __kernel_timespec period = {.tv_nsec = 10 * 1000 * 1000};
    bool is_needed = false;

    for (unsigned i = 0; i < face->n_disks; i++) {
        is_needed = is_needed || face_aside_is_starving(&face->disks[i]);
    }
    if (is_needed && !face->is_timing) {
        struct io_uring_sqe *sqe = face_get_sqe(face);

        io_uring_prep_timeout(sqe, &period, 0, 0);
        io_uring_sqe_set_data(sqe, &timer);
        face->is_timing = true;
    }
}

/*
 * Requests
 */

static unsigned
busy_slots(const Face *face)
{
    return FACE_SLOTS - face->n_free + face_uring_busy(face);
}

/* Take requests until there are no more, or slots, or the batch is full. */
static unsigned
take_requests(Face *face)
{
    unsigned taken = 0;

    /* The poll tells when something comes. Asking without it is worth the
     * call while others are being served, since there are more then; what
     * comes this way beside the ring is rare. */
    if (face->is_polling && (face->is_uring || !busy_slots(face))) {
        return 0;
    }
    while (taken < FACE_BATCH && !face->is_ended) {
        FaceReq *req = face_req_take(face);

        if (!req) {
            break;
        }
        int res = face_dev_take(req);

        if (res < 0) {
            face_req_free(req);
            face->is_ended = res != -EAGAIN;
            break;
        }
        taken++;
    }
    return taken;
}

/*
 * Messages
 */

static void
try_quiesce(FaceDisk *disk)
{
    struct FaceQuiesce *quiesce = disk->quiesce;
    Face *face = disk->face;

    if (!quiesce || disk->writers) {
        return;
    }
    disk->quiesce = NULL;
    quiesce->work(quiesce->user);
    pthread_mutex_lock(&face->lock);
    quiesce->is_done = true;
    pthread_cond_broadcast(&face->cond);
    pthread_mutex_unlock(&face->lock);

    FaceReq *req = disk->gate, *next;

    disk->is_gated = false;
    disk->gate = disk->gate_tail = NULL;
    for (; req; req = next) {
        next = req->next_waiting;
        face_dispatch(req);
    }
}

static void
take_message(Face *face, InboxMsg *msg)
{
    struct FaceQuiesce *quiesce;

    switch ((enum FaceMsgKind)msg->kind) {
    case FACE_MSG_GRANTED:
        face_hold_granted((FaceReq *)msg);
        break;
    case FACE_MSG_PUNCH_GRANTED:
        face_zero_granted(
            (FaceDisk *)((char *)msg - offsetof(FaceDisk, punch_msg)));
        break;
    case FACE_MSG_HELPED:
        ((FaceReq *)msg)->helped((FaceReq *)msg);
        break;
    case FACE_MSG_ANSWER:
        face_note_answered(face, (FaceNote *)msg);
        break;
    case FACE_MSG_QUIESCE:
        quiesce = (struct FaceQuiesce *)msg;
        quiesce->disk->quiesce = quiesce;
        quiesce->disk->is_gated = true;
        break;
    case FACE_MSG_COOL:
        face_heat_take_cool((struct FaceCool *)msg);
        break;
    case FACE_MSG_HURRY:
        face->is_hurried = false;
        for (unsigned i = 0; i < face->n_disks; i++) {
            face_zero_run(&face->disks[i]);
        }
        break;
    case FACE_MSG_ASIDE_GRANTED:
        face_aside_granted((FaceAsideOp *)msg);
        break;
    case FACE_MSG_CUT:
        face->cut = (FaceCutMsg *)msg;
        break;
    case FACE_MSG_CUT_END:
        face_aside_end(((struct FaceCutEnd *)msg)->disk);
        g_free(msg);
        break;
    case FACE_MSG_BETWEEN:
        face_between_take((struct FaceBetween *)msg);
        break;
    case FACE_MSG_INSTANT:
        face_instant_take((FaceInstant *)msg);
        break;
    case FACE_MSG_SNAP_PINNED:
        face_snap_pinned((FaceReq *)msg);
        break;
    case FACE_MSG_LEAVE:
        face->is_ended = face->is_leaving = true;
        break;
    case FACE_MSG_STOP:
        face->is_stopping = true;
        break;
    }
}

static unsigned
take_messages(Face *face)
{
    InboxMsg *msg = inbox_take(&face->inbox), *next;
    unsigned taken = 0;

    for (; msg; msg = next) {
        next = msg->next;
        take_message(face, msg);
        taken++;
    }
    return taken;
}

static unsigned
take_completions(Face *face)
{
    StoreIo *store = face->config.store->io;
    struct io_uring_cqe *cqe;
    unsigned taken = 0;

    /* Enters the kernel only if it says that it has something to run. */
    while (taken < FACE_BATCH && io_uring_peek_cqe(&face->ring, &cqe) == 0) {
        void *data = io_uring_cqe_get_data(cqe);
        uint64_t tag = cqe->user_data;
        int res = cqe->res;

        io_uring_cqe_seen(&face->ring, cqe);
        if (data == &poll_fuse) {
            face->is_polling = false;
        } else if (data == &timer) {
            face->is_timing = false;
        } else if (data == &poll_inbox) {
            face->is_inboxed = false;
            take_messages(face);
        } else if (!face_uring_completed(face, tag, res)) {
            FaceIo *io = data;

            face->io_inflight--;
            io->done(io, store->ops->done(store, &io->store, res));
        }
        taken++;
    }
    return taken;
}

/*
 * The thread
 */

static bool
is_at_rest(const Face *face)
{
    if (face->io_inflight || busy_slots(face) || face->instant) {
        return false;
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        const FaceDisk *disk = &face->disks[i];

        if (disk->is_punching || disk->is_recording ||
            !face_heat_is_idle(disk) || !face_aside_is_idle(disk)) {
            return false;
        }
    }
    return true;
}

static void
serve(Face *face)
{
    bool is_told = false;

    while (!face->is_stopping) {
        unsigned completed = take_completions(face);
        unsigned taken = take_requests(face);
        bool is_more = completed == FACE_BATCH || taken == FACE_BATCH;

        face->count.inflight = busy_slots(face);
        for (unsigned i = 0; i < face->n_disks; i++) {
            try_quiesce(&face->disks[i]);
            face_aside_run(&face->disks[i]);
            face_heat_run(&face->disks[i]);
        }
        face_cut_run(face);
        face_instant_run(face);
        is_more |= face_awake(&face->awake, face_now_us(), completed || taken);
        if (is_more || face->is_stopping) {
            io_uring_submit(&face->ring);
            continue;
        }
        if (face->is_ended && !is_told && is_at_rest(face)) {
            is_told = true;
            face_note_ended(face, 0);
        }
        /* All that was asked is taken: start it and sleep, in one call. */
        arm_polls(face);
        arm_timer(face);
        face_awake_sleeps(&face->awake);
        io_uring_submit_and_wait(&face->ring, 1);
    }
}

/* The ring's own files: the store's lock (rule 6), then the disks. */
static int
register_files(Face *face)
{
    int fds[1 + STORE_DISKS_MAX];

    fds[0] = face->config.store->lock_fd;
    for (unsigned i = 0; i < face->n_disks; i++) {
        face->disks[i].fixed = 1 + i;
        fds[1 + i] = face->disks[i].disk->fd;
    }
    return io_uring_register_files(&face->ring, fds, 1 + face->n_disks);
}

static int
ring_start(Face *face)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG |
                 (face->uring ? IORING_SETUP_SQE128 : 0),
    };
    int res = io_uring_queue_init_params(RING_ENTRIES, &face->ring, &params);

    if (res == -EINVAL) {
        params = (struct io_uring_params){0};
        res = io_uring_queue_init_params(RING_ENTRIES, &face->ring, &params);
    }
    return res < 0 ? res : register_files(face);
}

static void
report_start(Face *face, int result)
{
    pthread_mutex_lock(&face->lock);
    face->start_result = result;
    pthread_cond_signal(&face->cond);
    pthread_mutex_unlock(&face->lock);
}

static void *
face_run(void *opaque)
{
    Face *face = opaque;
    int res = ring_start(face);

    report_start(face, res);
    if (res < 0) {
        return NULL;
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        face_zero_run(&face->disks[i]);
    }
    serve(face);
    io_uring_queue_exit(&face->ring);
    return NULL;
}

static void
init_disks(Face *face)
{
    Store *store = face->config.store;

    face->disks = g_new0(FaceDisk, store->n_disks);
    while (face->n_disks < store->n_disks) {
        FaceDisk *disk = &face->disks[face->n_disks];

        disk->face = face;
        disk->disk = store->disks[face->n_disks++];
        face_zero_open(disk);
        face_points_open(disk);
    }
}

Face *
face_new(const struct FaceConfig *config)
{
    Face *face = g_new0(Face, 1);
    int res;

    face->config = *config;
    face->awake.poll_us = config->poll_us;
    /* No handle of a process before us may mean one of ours. */
    face->next_fh = (uint64_t)face_now_us();
    face->start_result = 1;
    pthread_mutex_init(&face->lock, NULL);
    pthread_cond_init(&face->cond, NULL);
    face_slots_init(face);
    face_uring_new(face);
    face->n_notes = FACE_SLOTS + face_uring_slots(face) + FACE_LOG_NOTES +
                    FACE_CUT_NOTES * config->store->n_disks;
    face->notes = g_new0(struct FaceSlotNote, face->n_notes);
    if ((res = inbox_init(&face->inbox)) < 0 ||
        (res = inbox_init(&face->helps)) < 0) {
        g_error("eventfd: %s", g_strerror(-res));
    }
    init_disks(face);
    return face;
}

static int
open_heat(Face *face)
{
    int res = 0;

    for (unsigned i = 0; res == 0 && i < face->n_disks; i++) {
        res = face_heat_open(&face->disks[i]);
    }
    return res;
}

gboolean
face_start(Face *face, GError **error)
{
    int flags = fcntl(face->config.fuse_fd, F_GETFL);
    int res;

    fcntl(face->config.fuse_fd, F_SETFL, flags | O_NONBLOCK);
    res = open_heat(face);
    res = res < 0 ? res : face_helper_start(face);
    if (res == 0) {
        res = -pthread_create(&face->thread, NULL, face_run, face);
        if (res < 0) {
            face_helper_stop(face);
        }
    }
    if (res == 0) {
        pthread_mutex_lock(&face->lock);
        while (face->start_result == 1) {
            pthread_cond_wait(&face->cond, &face->lock);
        }
        res = face->start_result;
        pthread_mutex_unlock(&face->lock);
        if (res < 0) {
            pthread_join(face->thread, NULL);
            face_helper_stop(face);
        }
    }
    if (res < 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "cannot start serving: %s (io_uring must be allowed)",
                    g_strerror(-res));
        return FALSE;
    }
    face->is_started = true;
    return TRUE;
}

void
face_free(Face *face)
{
    InboxMsg stop = {.kind = FACE_MSG_STOP};

    if (face->is_started) {
        inbox_post(&face->inbox, &stop);
        pthread_join(face->thread, NULL);
        face_helper_stop(face);
    }
    for (unsigned i = 0; i < face->n_disks; i++) {
        face_zero_close(&face->disks[i]);
        face_heat_close(&face->disks[i]);
        face_points_close(&face->disks[i]);
    }
    face_texts_free(face);
    munmap(face->buffers, (size_t)FACE_SLOTS * FACE_BUFFER);
    face_uring_free(face);
    g_free(face->notes);
    inbox_deinit(&face->inbox);
    inbox_deinit(&face->helps);
    pthread_mutex_destroy(&face->lock);
    pthread_cond_destroy(&face->cond);
    g_free(face->disks);
    g_free(face);
}
