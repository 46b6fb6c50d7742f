/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Up to GUEST_FLIGHT requests at once that never overlap. An answer counts
 * when it has been read, which the guest does when it needs a place, when it
 * must have that answer, or because it looks.
 *
 * What it sends is made so that each way in which a cut can be wrong shows:
 * few clusters, so that those which a cut owes are overwritten while it is
 * sent; parts of clusters and whole ones; discards of many clusters, which are
 * punched long after their answer; and writes on one disk that wait for the
 * answer of one on another.
 */
#include "guest.h"

#include <assert.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/stamp.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)
/* More is put on a list first, and punched later (rule 25). */
#define LISTED_BYTES (UINT64_C(1) << 20)

/*
 * Requests in flight
 */
static void
refuse(const struct GuestOp *op, int error)
{
    fprintf(stderr, "disk %u, %llu + %llu, sequence %llu: %s\n", op->disk,
            (unsigned long long)op->offset, (unsigned long long)op->len,
            (unsigned long long)op->sequence, strerror(-error));
    abort();
}

static void
take_answer(Guest *guest)
{
    int error;
    uint64_t unique = fake_reply(guest->session, &error);

    for (unsigned i = 0; i < GUEST_FLIGHT; i++) {
        struct GuestOp *op = &guest->flight[i];

        if (op->unique == unique) {
            if (error) {
                refuse(op, error);
            }
            if (op->sequence) {
                history_answer(guest->history, op->sequence);
            }
            op->unique = 0;
            guest->n_flight--;
            return;
        }
    }
    assert(!"an answer that nobody waits for");
}

static void
take_all(Guest *guest)
{
    while (guest->n_flight > 0) {
        take_answer(guest);
    }
}

static void
look(Guest *guest)
{
    struct pollfd wait = {guest->session->fd, POLLIN, 0};

    while (guest->n_flight > 0 && poll(&wait, 1, 0) > 0) {
        take_answer(guest);
    }
}

static bool
is_overlapping(const Guest *guest, unsigned disk, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < GUEST_FLIGHT; i++) {
        const struct GuestOp *op = &guest->flight[i];

        if (op->unique && op->disk == disk && op->offset < offset + len &&
            offset < op->offset + op->len) {
            return true;
        }
    }
    return false;
}

/* A free place, with nothing in flight over the range. */
static struct GuestOp *
make_way(Guest *guest, unsigned disk, uint64_t offset, uint64_t len)
{
    while (guest->n_flight == GUEST_FLIGHT ||
           is_overlapping(guest, disk, offset, len)) {
        take_answer(guest);
    }
    for (unsigned i = 0;; i++) {
        struct GuestOp *op = &guest->flight[i];

        if (!op->unique) {
            *op = (struct GuestOp){.disk = disk, .offset = offset, .len = len};
            guest->n_flight++;
            return op;
        }
    }
}

/*
 * Requests
 */
static struct GuestOp *
send_write(Guest *guest, unsigned disk, uint64_t offset, uint64_t len)
{
    struct fuse_write_in in = {.offset = offset, .size = (uint32_t)len};
    struct GuestOp *op = make_way(guest, disk, offset, len);
    uint64_t first = offset / STAMP_SECTOR, count = len / STAMP_SECTOR;
    uint8_t *data = malloc(len);

    assert(data);
    op->sequence = history_send(guest->history, disk, first, count, false);
    for (uint64_t i = 0; i < count; i++) {
        stamp_fill(data + i * STAMP_SECTOR, guest->history->disks[disk].id,
                   first + i, op->sequence);
    }
    op->unique = fake_send(guest->session, FUSE_WRITE, guest->disks[disk].inode,
                           &in, sizeof(in), data, len);
    free(data);
    return op;
}

static void
send_zeroes(Guest *guest, unsigned disk, uint64_t offset, uint64_t len)
{
    /* Fewer are the file system's to make, and a tmpfs knows one way only. */
    bool is_listed = len > LISTED_BYTES;
    struct fuse_fallocate_in in = {
        .offset = offset,
        .length = len,
        .mode = is_listed && seed_below(&guest->seed, 3) == 0 ? ZERO : PUNCH};
    struct GuestOp *op = make_way(guest, disk, offset, len);

    op->sequence = history_send(guest->history, disk, offset / STAMP_SECTOR,
                                len / STAMP_SECTOR, true);
    op->unique = fake_send(guest->session, FUSE_FALLOCATE,
                           guest->disks[disk].inode, &in, sizeof(in), NULL, 0);
}

static void
send_sync(Guest *guest, unsigned disk)
{
    struct fuse_fsync_in in = {.fsync_flags = 1};
    struct GuestOp *op = make_way(guest, disk, 0, 0);

    op->unique = fake_send(guest->session, FUSE_FSYNC, guest->disks[disk].inode,
                           &in, sizeof(in), NULL, 0);
}

/*
 * Work
 */
static uint64_t
pick_cluster(Guest *guest, unsigned disk)
{
    struct GuestDisk *on = &guest->disks[disk];

    return seed_below(&guest->seed, 8)
               ? on->hot[seed_below(&guest->seed, GUEST_HOT)]
               : seed_below(&guest->seed, on->size_bytes / on->cluster) *
                     on->cluster;
}

static void
work_in_cluster(Guest *guest, unsigned disk, unsigned kind)
{
    uint64_t cluster = guest->disks[disk].cluster;
    uint64_t at = pick_cluster(guest, disk);
    uint64_t sectors = cluster / STAMP_SECTOR;
    uint64_t first = seed_below(&guest->seed, sectors);
    uint64_t count = 1 + seed_below(&guest->seed, MIN(sectors - first, 12));

    switch (kind) {
    case 0:
        send_write(guest, disk, at, cluster);
        break;
    case 1:
        send_zeroes(guest, disk, at, cluster);
        break;
    case 2:
        send_zeroes(guest, disk, at + first * STAMP_SECTOR,
                    count * STAMP_SECTOR);
        break;
    case 3:
    case 4:
    case 5:
        send_write(guest, disk, at + first * STAMP_SECTOR, STAMP_SECTOR);
        break;
    default:
        send_write(guest, disk, at + first * STAMP_SECTOR,
                   count * STAMP_SECTOR);
    }
}

/* Enough for the list of zeroes, up to half of the disk; or fewer. */
static void
discard_many(Guest *guest, unsigned disk)
{
    struct GuestDisk *on = &guest->disks[disk];
    uint64_t clusters = on->size_bytes / on->cluster;
    uint64_t least = LISTED_BYTES / on->cluster + 1;
    uint64_t count =
        seed_below(&guest->seed, 2)
            ? least + seed_below(&guest->seed, clusters / 2 - least)
            : 2 + seed_below(&guest->seed, least);
    uint64_t first = seed_below(&guest->seed, clusters - count + 1);

    send_zeroes(guest, disk, first * on->cluster, count * on->cluster);
}

/* Every second piece of a disk, so that the list gets long. */
static void
discard_burst(Guest *guest)
{
    unsigned disk = (unsigned)seed_below(&guest->seed, guest->n_disks);
    struct GuestDisk *on = &guest->disks[disk];
    uint64_t len = LISTED_BYTES + on->cluster;

    for (uint64_t at = 0; at + len < on->size_bytes; at += 2 * LISTED_BYTES) {
        send_zeroes(guest, disk, at, len);
    }
    take_all(guest);
}

/* A write that is sent because one on another disk was answered. */
static void
write_in_order(Guest *guest, unsigned disk)
{
    unsigned next =
        (disk + 1 + (unsigned)seed_below(&guest->seed, guest->n_disks - 1)) %
        guest->n_disks;
    uint64_t from = pick_cluster(guest, disk), to = pick_cluster(guest, next);
    struct GuestOp *op = send_write(guest, disk, from, STAMP_SECTOR);
    uint64_t unique = op->unique;

    while (op->unique == unique) {
        take_answer(guest);
    }
    send_write(guest, next, to, STAMP_SECTOR);
}

static void
work(Guest *guest)
{
    unsigned disk = (unsigned)seed_below(&guest->seed, guest->n_disks);
    unsigned kind = (unsigned)seed_below(&guest->seed, 128);

    if (kind == 127) {
        discard_many(guest, disk);
    } else if (kind >= 120) {
        send_sync(guest, disk);
    } else if (kind >= 92 && guest->n_disks > 1) {
        write_in_order(guest, disk);
    } else {
        work_in_cluster(guest, disk, kind % 12);
    }
    if (seed_below(&guest->seed, 2)) {
        look(guest);
    }
}

/*
 * The thread
 */
static bool
wait_for_leave(Guest *guest)
{
    bool may_rest;

    pthread_mutex_lock(&guest->lock);
    may_rest = guest->sent == guest->allowed || guest->is_ending;
    pthread_mutex_unlock(&guest->lock);
    if (may_rest) {
        take_all(guest);
    }
    pthread_mutex_lock(&guest->lock);
    while (guest->sent == guest->allowed && !guest->is_ending) {
        pthread_cond_wait(&guest->changed, &guest->lock);
    }
    bool is_going_on = !guest->is_ending;

    guest->sent += is_going_on;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    return is_going_on;
}

static void
do_as_asked(Guest *guest)
{
    bool is_asked;

    pthread_mutex_lock(&guest->lock);
    is_asked = guest->is_asked;
    pthread_mutex_unlock(&guest->lock);
    if (is_asked) {
        discard_burst(guest);
        pthread_mutex_lock(&guest->lock);
        guest->is_asked = false;
        pthread_cond_broadcast(&guest->changed);
        pthread_mutex_unlock(&guest->lock);
    }
}

static void *
run(void *opaque)
{
    Guest *guest = opaque;

    while (wait_for_leave(guest)) {
        do_as_asked(guest);
        work(guest);
    }
    take_all(guest);
    return NULL;
}

/*
 * From outside
 */
void
guest_init(Guest *guest, History *history, uint64_t seed)
{
    *guest = (Guest){.history = history, .seed = {seed}};
    pthread_mutex_init(&guest->lock, NULL);
    pthread_cond_init(&guest->changed, NULL);
}

void
guest_deinit(Guest *guest)
{
    pthread_cond_destroy(&guest->changed);
    pthread_mutex_destroy(&guest->lock);
}

void
guest_add_disk(Guest *guest, unsigned id, uint64_t size_bytes, uint64_t cluster)
{
    struct GuestDisk *disk = &guest->disks[guest->n_disks++];
    uint64_t clusters = size_bytes / cluster;

    *disk = (struct GuestDisk){
        .inode = FAKE_INO(id), .size_bytes = size_bytes, .cluster = cluster};
    for (unsigned i = 0; i < GUEST_HOT; i++) {
        /* Small groups over all of the disk. */
        disk->hot[i] =
            (clusters * (i / 3) / (GUEST_HOT / 3 + 1) + i % 3) * cluster;
    }
}

void
guest_start(Guest *guest, FakeSession *session)
{
    int failed;

    guest->session = session;
    guest->is_ending = false;
    guest->allowed = guest->sent;
    failed = pthread_create(&guest->thread, NULL, run, guest);
    assert(!failed);
}

void
guest_stop(Guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->is_ending = true;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    pthread_join(guest->thread, NULL);
}

void
guest_allow(Guest *guest, uint64_t ops)
{
    pthread_mutex_lock(&guest->lock);
    guest->allowed = guest->sent + ops;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
}

void
guest_discards(Guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->is_asked = guest->sent < guest->allowed;
    while (guest->is_asked) {
        pthread_cond_wait(&guest->changed, &guest->lock);
    }
    pthread_mutex_unlock(&guest->lock);
}

void
guest_await(Guest *guest, uint64_t ops)
{
    pthread_mutex_lock(&guest->lock);
    uint64_t until = MIN(guest->sent + ops, guest->allowed);

    while (guest->sent < until) {
        pthread_cond_wait(&guest->changed, &guest->lock);
    }
    pthread_mutex_unlock(&guest->lock);
}
