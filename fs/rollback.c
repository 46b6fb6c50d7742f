/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rollback.c - the disks of a store at rest become a snapshot again
 *
 * What was overwritten since the snapshot, and only that, is copied back from
 * its point and the younger ones; what a disk has grown by since becomes
 * zeroes. Steps, each of which can be the last:
 *
 *   1 what is damaged of the snapshot refuses it       nothing is written
 *   2 a snapshot of what there is                      as before
 *   3 all that will be written is dirty, in a          from here on nobody else
 *     checkpoint, and the state says "rollback=ID"     writes the store
 *   4 discards that wait are punched
 *   5 per batch of clusters: kept for the snapshot     neither as before nor as
 *     of 2, durably; then written                      then
 *   6 sync of all disks, then the state says no more   as then
 *     of it
 *
 * The store is not served for it, as little as for a resize: the state stays
 * clean over it (store.c), with bitmaps that hold what is about to be written
 * before it is (rule 1). After a crash in 3 to 6 that, and not the time of
 * disk.raw, says what the target lacks.
 *
 * Whoever begins again finds "rollback=ID", and a snapshot of 2 that is the
 * youngest and still gets all that is overwritten. So it is the same from 3 on,
 * to this snapshot or to another: to that of 2, if somebody changed his mind.
 * What may have been written already is written again, since nobody knows what
 * of it is durable (rule 20).
 *
 * The far side knows nothing of all this: clusters are dirty, and the next cut
 * has a higher number than the last one (rule 15).
 */
#include "rollback.h"

#include "image.h"
#include "snapshot.h"
#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REASON      "rollback"
#define BATCH_BYTES (UINT64_C(4) << 20) /* twice the largest cluster */
#define BATCH_MAX   (BATCH_BYTES >> 12) /* of the smallest */
#define PUNCH       (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

struct Roll {
    const struct Rollback *ask;
    Store *store;
    Snapshot *to;
    char *buffer; /* a cluster */
    uint64_t done_bytes, all_bytes;
};

/* One disk of it. */
struct RollDisk {
    struct Roll *roll;
    Disk *disk;
    uint64_t then_bytes; /* its size, then */
    uint64_t now_bytes;
};

static void say(struct Roll *roll, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
say(struct Roll *roll, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list args;

    va_start(args, format);
    line = g_strdup_vprintf(format, args);
    va_end(args);
    if (roll->ask->say) {
        roll->ask->say(roll->ask->user, line);
    }
}

static gboolean
set_failed(GError **error, const struct RollDisk *of, int err, const char *what)
{
    store_set_errno(error, STORE_ERROR_FAILED, err,
                    "disk %s: %s; the rollback is interrupted: run it again "
                    "when that is mended, to the same snapshot or another",
                    of->disk->name, what);
    return FALSE;
}

/*
 * What there is to do
 */

/* Data behind the end of then, as clusters from @from on. 0 or -errno. */
static int
next_grown(const struct RollDisk *of, uint64_t from, struct ClusterRun *run)
{
    StoreIo *io = of->roll->store->io;
    unsigned bits = of->disk->cluster_bits;
    uint64_t start = MAX(from << bits, of->then_bytes);
    off_t data = -ENXIO, hole;

    *run = (struct ClusterRun){from, 0};
    if (start < of->now_bytes) {
        data = io->ops->lseek(io, of->disk->map_fd, (off_t)start, SEEK_DATA);
    }
    if (data < 0 || (uint64_t)data >= of->now_bytes) {
        return data < 0 && data != -ENXIO ? (int)data : 0;
    }
    hole = io->ops->lseek(io, of->disk->map_fd, data, SEEK_HOLE);
    if (hole < 0) {
        return (int)hole;
    }
    *run =
        run_outward((uint64_t)data,
                    MIN((uint64_t)hole, of->now_bytes) - (uint64_t)data, bits);
    return 0;
}

/* The next clusters from @from on that may not be as they were then; none: 0 of
 * them. 0 or -errno. */
static int
next_run(const struct RollDisk *of, uint64_t from, struct ClusterRun *run)
{
    uint64_t end = clusters_for(of->then_bytes, of->disk->cluster_bits);

    if (from < end && points_next_changed(of->disk->points, of->roll->to->id, 0,
                                          from, end, run)) {
        run->count = MIN(run->count, end - run->first);
        return 0;
    }
    return next_grown(of, from, run);
}

/* @work on each disk that the snapshot has. */
static gboolean
for_disks(struct Roll *roll, gboolean (*work)(struct RollDisk *of, GError **),
          GError **error)
{
    gboolean ok = TRUE;

    for (unsigned i = 0; ok && i < roll->store->n_disks; i++) {
        Disk *disk = roll->store->disks[i];
        const struct SnapshotDisk *then = snapshot_disk(roll->to, disk->id);
        struct RollDisk of = {.roll = roll,
                              .disk = disk,
                              .then_bytes = then ? then->size_bytes : 0,
                              .now_bytes = atomic_load(&disk->size_bytes)};

        ok = !then || work(&of, error);
    }
    return ok;
}

/*
 * Before anything is written
 */
static uint64_t
count_unsure(const struct RollDisk *of)
{
    Points *points = of->disk->points;
    uint64_t end = clusters_for(of->then_bytes, of->disk->cluster_bits);
    uint64_t unsure = 0, count;

    for (uint64_t at = 0; at < end; at += count) {
        Point *point;
        enum PointsPlace place =
            points_find(points, of->roll->to->id, at, end - at, &point, &count);

        if (point) {
            points_done(points, point);
        }
        if (place == POINTS_UNSURE || place == POINTS_GONE) {
            unsure += count;
        }
    }
    return unsure;
}

static gboolean
check_disk(struct RollDisk *of, GError **error)
{
    uint64_t unsure = count_unsure(of);
    g_autofree char *size = g_format_size_full(
        MIN(unsure << of->disk->cluster_bits, of->then_bytes),
        G_FORMAT_SIZE_IEC_UNITS);

    if (unsure || of->then_bytes > of->now_bytes) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "snapshot %s is damaged: %s of disk %s are not known, and "
                    "nothing was changed; go back to another one",
                    of->roll->to->name, size, of->disk->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
check_snapshot(struct Roll *roll, GError **error)
{
    unsigned present = 0;

    for (unsigned i = 0; i < roll->store->n_disks; i++) {
        Disk *disk = roll->store->disks[i];
        bool has = snapshot_disk(roll->to, disk->id) != NULL;

        present += has;
        if (!has) {
            say(roll, "%s is not in the snapshot, and stays as it is",
                disk->name);
        }
    }
    if (present < roll->to->n_disks) {
        say(roll, "disks that the snapshot has, and the store no more: %u",
            roll->to->n_disks - present);
    }
    if (!for_disks(roll, check_disk, error)) {
        return FALSE;
    }
    if (roll->to->is_damaged) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "snapshot %s is damaged, and nothing was changed; weir "
                    "check %s says more",
                    roll->to->name, roll->store->path);
        return FALSE;
    }
    return TRUE;
}

/* What the disks are stays, under a name that is free. */
static gboolean
keep_present(struct Roll *roll, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *base =
        g_date_time_format(now, "before-rollback-%Y%m%dT%H%M%SZ");
    g_autofree char *name = g_strdup(base);
    g_autofree Snapshot *made = g_new0(Snapshot, 1);

    for (unsigned n = 2; snapshot_list_find(roll->store->snapshots, name, NULL);
         n++) {
        g_free(name);
        name = g_strdup_printf("%s-%u", base, n);
    }
    if (!store_snapshot_now(roll->store, name, REASON, made, error)) {
        return FALSE;
    }
    say(roll, "what the disks were is kept as snapshot %s", made->name);
    return TRUE;
}

/* All that will be written. */
static gboolean
mark_disk(struct RollDisk *of, GError **error)
{
    unsigned bits = of->disk->cluster_bits;
    struct ClusterRun run = {0, 0};
    int err;

    while (!(err = next_run(of, run.first + run.count, &run)) && run.count) {
        uint64_t offset = run.first << bits;
        uint64_t len = MIN(run.count << bits, of->now_bytes - offset);

        disk_map_changed(of->disk->map, offset, len, g_get_monotonic_time());
        of->disk->is_overwritten = true;
        of->roll->all_bytes += len;
    }
    return !err || set_failed(error, of, err, "disk.raw cannot be looked at");
}

/*
 * At work
 */

/* What @cluster was then. */
static int
read_then(const struct RollDisk *of, uint64_t cluster, char *data)
{
    Points *points = of->disk->points;
    StoreIo *io = of->roll->store->io;
    uint64_t offset = cluster << of->disk->cluster_bits, count;
    size_t len = (size_t)1 << of->disk->cluster_bits;
    size_t had =
        offset < of->then_bytes ? MIN(len, of->then_bytes - offset) : 0;
    ssize_t n = -EBADMSG;
    Point *point;

    memset(data, 0, len);
    if (!had) {
        return 0;
    }
    switch (points_find(points, of->roll->to->id, cluster, 1, &point, &count)) {
    case POINTS_FILE:
        n = io->ops->pread(io, point_data_fd(point), data, store_raw_bytes(had),
                           offset);
        memset(data + had, 0, len - had);
        points_done(points, point);
        break;
    case POINTS_DISK:
        n = io->ops->pread(io, of->disk->map_fd, data, had, offset);
        break;
    case POINTS_UNSURE:
    case POINTS_GONE:
        break;
    }
    return n < 0 ? (int)n : 0;
}

static int
write_then(const struct RollDisk *of, uint64_t cluster, const char *data)
{
    StoreIo *io = of->roll->store->io;
    uint64_t offset = cluster << of->disk->cluster_bits;
    size_t len =
        MIN((size_t)1 << of->disk->cluster_bits, of->now_bytes - offset);
    ssize_t n;

    if (image_is_zero(data, len)) {
        return io->ops->fallocate(io, of->disk->map_fd, PUNCH, offset, len);
    }
    n = io->ops->pwrite(io, of->disk->map_fd, data, len, offset);
    return n == (ssize_t)len ? 0 : n < 0 ? (int)n : -EIO;
}

struct Batch {
    struct ClusterRun runs[BATCH_MAX];
    unsigned count;
    uint64_t clusters;
};

/* The next clusters from *@from on that fit. 0 or -errno. */
static int
fill_batch(const struct RollDisk *of, uint64_t *from, struct Batch *batch)
{
    uint64_t room = BATCH_BYTES >> of->disk->cluster_bits;

    batch->count = 0;
    batch->clusters = 0;
    while (batch->clusters < room) {
        struct ClusterRun run;
        int err = next_run(of, *from, &run);

        if (err || !run.count) {
            return err;
        }
        run.count = MIN(run.count, room - batch->clusters);
        *from = run.first + run.count;
        batch->runs[batch->count++] = run;
        batch->clusters += run.count;
    }
    return 0;
}

static int
write_batch(const struct RollDisk *of, const struct Batch *batch)
{
    char *buffer = of->roll->buffer;
    int err = store_keep(of->roll->store, of->disk, batch->runs, batch->count);

    for (unsigned i = 0; i < batch->count; i++) {
        uint64_t end = batch->runs[i].first + batch->runs[i].count;

        for (uint64_t at = batch->runs[i].first; !err && at < end; at++) {
            err = read_then(of, at, buffer);
            err = err ? err : write_then(of, at, buffer);
        }
    }
    return err;
}

static gboolean
roll_disk(struct RollDisk *of, GError **error)
{
    g_autofree struct Batch *batch = g_new(struct Batch, 1);
    struct Roll *roll = of->roll;
    uint64_t from = 0;
    int err;

    do {
        err = fill_batch(of, &from, batch);
        err = err ? err : write_batch(of, batch);
        roll->done_bytes += batch->clusters << of->disk->cluster_bits;
        if (!err && batch->count && roll->ask->progress) {
            roll->ask->progress(roll->ask->user,
                                MIN(roll->done_bytes, roll->all_bytes),
                                roll->all_bytes);
        }
    } while (!err && batch->count);
    return !err || set_failed(error, of, err, "it cannot be written");
}

static gboolean
settle_zeroes(struct RollDisk *of, GError **error)
{
    int err = store_zeroes_settle(of->roll->store, of->disk);

    return !err ||
           set_failed(error, of, err, "discarded ranges cannot be punched");
}

/* The state says where they are going, or that they are there, durably. */
static gboolean
save(struct Roll *roll, uint64_t rollback, GError **error)
{
    roll->store->rollback = rollback;
    return store_close_clean(roll->store, error);
}

static gboolean
roll_store(struct Roll *roll, GError **error)
{
    Store *store = roll->store;

    if (!snapshot_list_find(store->snapshots, roll->ask->name, roll->to)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "store %s has no snapshot %s: weir snapshot list %s lists "
                    "them",
                    store->path, roll->ask->name, store->path);
        return FALSE;
    }
    return check_snapshot(roll, error) &&
           (store->rollback || keep_present(roll, error)) &&
           for_disks(roll, mark_disk, error) &&
           save(roll, roll->to->id, error) &&
           for_disks(roll, settle_zeroes, error) &&
           for_disks(roll, roll_disk, error) && save(roll, 0, error);
}

gboolean
store_rollback(StoreIo *io, const struct Rollback *rollback, GError **error)
{
    struct Roll roll = {.ask = rollback};
    gboolean ok;

    roll.store = store_open(io, rollback->path, STORE_OPEN_ROLLBACK, error);
    if (!roll.store) {
        return FALSE;
    }
    roll.to = g_new0(Snapshot, 1);
    /* Points' files are opened for direct I/O. */
    roll.buffer =
        aligned_alloc(STORE_BLOCK, (size_t)1 << CONF_CLUSTER_BITS_MAX);
    g_assert(roll.buffer);
    ok = roll_store(&roll, error);
    free(roll.buffer);
    g_free(roll.to);
    store_free(roll.store);
    return ok;
}
