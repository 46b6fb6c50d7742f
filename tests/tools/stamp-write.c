/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The writer: threads, each with one request in flight.
 *
 * No two requests for one sector are in flight at once (a map of busy sectors
 * sees to it), so that the order of their sequences is the order in which the
 * disk has them. Neighbours do meet, in one block and in one cluster.
 *
 * What an fsync covers: every write and discard that was acknowledged before
 * it began, whoever issued it. They are kept in one list; an fsync takes the
 * list, and marks it when it has succeeded. When it failed the list goes
 * back: an fsync that succeeds later has promised those, too.
 */
#include "stamp-write.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/seed.h"

struct Range {
    uint64_t first, count, sequence;
};

struct Acked {
    struct Range *ranges;
    size_t count, room;
};

struct Writer {
    const StampOptions *options;
    StampLog *log;
    int fd;
    pthread_mutex_t lock; /* all below */
    uint8_t *busy;        /* per sector */
    struct Acked acked;   /* since the last fsync began */
    uint64_t left;        /* requests */
    StampTally tally;
    bool is_over;
};

struct Worker {
    struct Writer *writer;
    pthread_t thread;
    Seed seed;
    unsigned index;
    unsigned since_sync;
    unsigned char *data;
};

static atomic_bool was_told_to_end;

static void
told_to_end(int sig)
{
    (void)sig;
    was_told_to_end = true;
}

static void
acked_add(struct Acked *acked, struct Range range)
{
    if (acked->count == acked->room) {
        acked->room = acked->room ? acked->room * 2 : 1024;
        acked->ranges =
            realloc(acked->ranges, acked->room * sizeof(*acked->ranges));
        assert(acked->ranges);
    }
    acked->ranges[acked->count++] = range;
}

/*
 * Which sectors
 */

/* Sizes between the two bounds, small ones as often as large ones. */
static uint64_t
choose_sectors(struct Worker *worker)
{
    const StampOptions *options = worker->writer->options;
    uint64_t min = options->min_bytes / STAMP_SECTOR;
    uint64_t max = options->max_bytes / STAMP_SECTOR;
    uint64_t limit = min;

    while (limit < max && seed_below(&worker->seed, 3)) {
        limit *= 2;
    }
    limit = limit < max ? limit : max;
    return min + seed_below(&worker->seed, limit - min + 1) / min * min;
}

static bool
claim(struct Writer *writer, const struct Range *range)
{
    bool is_free = true;

    pthread_mutex_lock(&writer->lock);
    for (uint64_t i = 0; i < range->count && is_free; i++) {
        is_free = !writer->busy[range->first + i];
    }
    if (is_free) {
        memset(writer->busy + range->first, 1, range->count);
    }
    pthread_mutex_unlock(&writer->lock);
    return is_free;
}

/* Aligned to the smallest size, as a disk with such blocks has it. */
static struct Range
choose(struct Worker *worker)
{
    struct Writer *writer = worker->writer;
    uint64_t unit = writer->options->min_bytes / STAMP_SECTOR;
    uint64_t first = writer->options->offset_bytes / STAMP_SECTOR;
    uint64_t sectors = writer->options->range_bytes / STAMP_SECTOR;
    struct Range range;

    do {
        range.count = choose_sectors(worker);
        range.first = first + seed_below(&worker->seed,
                                         (sectors - range.count) / unit + 1) *
                                  unit;
    } while (!claim(writer, &range));
    return range;
}

/*
 * One request
 */

static int
send_write(struct Worker *worker, const struct Range *range)
{
    uint64_t disk = worker->writer->log->header->disk;
    size_t length = range->count * STAMP_SECTOR;
    ssize_t n;

    for (uint64_t i = 0; i < range->count; i++) {
        stamp_fill(worker->data + i * STAMP_SECTOR, disk, range->first + i,
                   range->sequence);
    }
    n = pwrite(worker->writer->fd, worker->data, length,
               (off_t)(range->first * STAMP_SECTOR));
    return n == (ssize_t)length ? 0 : n < 0 ? errno : EIO;
}

static int
send_discard(struct Worker *worker, const struct Range *range)
{
    bool punches =
        worker->writer->options->only_punches || seed_below(&worker->seed, 2);
    int mode = punches ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

    mode |= FALLOC_FL_KEEP_SIZE;
    return fallocate(worker->writer->fd, mode,
                     (off_t)(range->first * STAMP_SECTOR),
                     (off_t)(range->count * STAMP_SECTOR))
               ? errno
               : 0;
}

static void
note_error(struct Writer *writer, int error)
{
    if (error) {
        writer->tally.last_error = error;
        writer->tally.mount_died |= error == ENOTCONN || error == ECONNABORTED;
        writer->is_over |=
            !writer->options->goes_on || writer->tally.mount_died;
    }
}

static void
change(struct Worker *worker, enum StampOp op)
{
    struct Writer *writer = worker->writer;
    StampTally *tally = &writer->tally;
    struct Range range = choose(worker);
    int error;

    range.sequence =
        stamp_issue(writer->log, worker->index, op, range.first, range.count);
    error = op == STAMP_WRITE ? send_write(worker, &range)
                              : send_discard(worker, &range);
    stamp_answer(writer->log, worker->index, !error);

    pthread_mutex_lock(&writer->lock);
    memset(writer->busy + range.first, 0, range.count);
    if (error) {
        tally->failed_writes += op == STAMP_WRITE;
        tally->failed_discards += op == STAMP_DISCARD;
    } else {
        acked_add(&writer->acked, range);
        tally->writes += op == STAMP_WRITE;
        tally->discards += op == STAMP_DISCARD;
        tally->written_bytes +=
            op == STAMP_WRITE ? range.count * STAMP_SECTOR : 0;
    }
    note_error(writer, error);
    pthread_mutex_unlock(&writer->lock);
}

static void
sync_all(struct Worker *worker)
{
    struct Writer *writer = worker->writer;
    struct Acked covered;
    int error;

    pthread_mutex_lock(&writer->lock);
    covered = writer->acked;
    writer->acked = (struct Acked){0};
    pthread_mutex_unlock(&writer->lock);

    stamp_issue(writer->log, worker->index, STAMP_SYNC, 0, 0);
    error = fdatasync(writer->fd) ? errno : 0;
    stamp_answer(writer->log, worker->index, !error);
    for (size_t i = 0; i < covered.count && !error; i++) {
        stamp_synced(writer->log, covered.ranges[i].first,
                     covered.ranges[i].count, covered.ranges[i].sequence);
    }

    pthread_mutex_lock(&writer->lock);
    for (size_t i = 0; i < covered.count && error; i++) {
        acked_add(&writer->acked, covered.ranges[i]);
    }
    writer->tally.syncs += !error;
    writer->tally.failed_syncs += !!error;
    note_error(writer, error);
    pthread_mutex_unlock(&writer->lock);
    free(covered.ranges);
}

static bool
may_go_on(struct Writer *writer)
{
    bool may = false;

    pthread_mutex_lock(&writer->lock);
    if (!writer->is_over && !was_told_to_end && writer->left) {
        writer->left -= writer->options->requests ? 1 : 0;
        may = true;
    }
    pthread_mutex_unlock(&writer->lock);
    return may;
}

static void *
run_worker(void *user)
{
    struct Worker *worker = user;
    const StampOptions *options = worker->writer->options;

    while (may_go_on(worker->writer)) {
        if (options->sync_every && ++worker->since_sync > options->sync_every) {
            worker->since_sync = 0;
            sync_all(worker);
            continue;
        }
        change(worker, seed_below(&worker->seed, 100) < options->discards
                           ? STAMP_DISCARD
                           : STAMP_WRITE);
    }
    return NULL;
}

static void
start_worker(struct Writer *writer, struct Worker *worker, unsigned index)
{
    *worker = (struct Worker){
        .writer = writer,
        .index = index,
        .seed = {writer->options->seed + index * UINT64_C(0x632be59bd9b4e019)},
    };
    /* What another life left in flight was answered by its death. */
    writer->log->header->slots[index].op = STAMP_IDLE;
    if (posix_memalign((void **)&worker->data, 4096,
                       writer->options->max_bytes) ||
        pthread_create(&worker->thread, NULL, run_worker, worker)) {
        perror("stamp: worker");
        exit(2);
    }
}

void
stamp_write(const StampOptions *options, StampLog *log, StampTally *tally)
{
    struct sigaction act = {.sa_handler = told_to_end, .sa_flags = SA_RESTART};
    struct Writer writer = {.options = options,
                            .log = log,
                            .left = options->requests ? options->requests : 1,
                            .lock = PTHREAD_MUTEX_INITIALIZER};
    struct Worker workers[STAMP_WORKERS];

    sigaction(SIGTERM, &act, NULL);
    writer.busy = calloc(log->header->sectors, 1);
    writer.fd = open(options->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (writer.fd < 0 || !writer.busy) {
        perror("stamp: open");
        exit(2);
    }
    printf("stamp: seed %" PRIu64 ", writing\n", options->seed);
    fflush(stdout);
    for (unsigned i = 0; i < options->workers; i++) {
        start_worker(&writer, &workers[i], i);
    }
    for (unsigned i = 0; i < options->workers; i++) {
        pthread_join(workers[i].thread, NULL);
        free(workers[i].data);
    }
    *tally = writer.tally;
    close(writer.fd);
    free(writer.busy);
    free(writer.acked.ranges);
}
