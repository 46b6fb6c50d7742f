/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stamp.c - writes sectors that say what they are, and judges them later
 *
 *   stamp write [options] FILE LOG
 *       Several workers write, sync and discard at random, O_DIRECT. LOG is
 *       made if it is not there (FILE has to read as zeroes then), and goes
 *       on over any number of rounds. Exit 0: done; 3: a request failed,
 *       which is how a mount that dies looks.
 *
 *       -s SEED      else from the clock; printed
 *       -n REQUESTS  then end; else at the first error, or at SIGTERM
 *       -t WORKERS   8
 *       -b MIN-MAX   bytes of a request, 512-1048576; aligned to MIN
 *       -r OFF+LEN   bytes of the disk to write to
 *       -f N         each worker syncs after N requests, 16; 0 never
 *       -p PERCENT   of the requests are discards, 5
 *       -P           discards are punches, never zeroes with their blocks
 *       -e           go on after errors, but not after the mount's death
 *       -d DISK      number of the disk, 1
 *
 *   stamp verify [-a] [-A] FILE LOG
 *       Every sector of FILE against LOG. Exit 0: sound, 1: not, told sector
 *       by sector. -a: a process died, what was acknowledged has to be
 *       there; else the power was lost, and what was fsynced has to.
 *       "Taken" are acknowledged, unsynced requests that the power took.
 *       -A: adopt what is there as what has to stay, for the next round.
 *       -b BEFORE: FILE is of one instant, at which the writer went on. BEFORE
 *       and LOG are copies of the log, made before it and after it.
 *
 *   stamp inflight LOG
 *       How many requests wait for their answer: "WRITES DISCARDS SYNCS".
 */
#include "stamp-write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK    ((size_t)1 << 20)
#define MAX_TOLD 12

static void __attribute__((noreturn)) die(const char *what, int error)
{
    fprintf(stderr, "stamp: %s: %s\n", what, strerror(error));
    exit(2);
}

static void __attribute__((noreturn)) usage(void)
{
    fprintf(stderr, "usage: stamp write [-s SEED] [-n REQUESTS] [-t WORKERS] "
                    "[-b MIN-MAX] [-r OFF+LEN] [-f N] [-p PERCENT] [-P] [-e] "
                    "[-d DISK] FILE LOG\n"
                    "       stamp verify [-a] [-A] [-b BEFORE] FILE LOG\n"
                    "       stamp inflight LOG\n");
    exit(2);
}

static uint64_t
seed_from_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void
open_log(StampLog *log, const char *path)
{
    int error = stamp_log_open(log, path);

    if (error) {
        die(path, -error);
    }
}

/*
 * write
 */

static void
parse_pair(const char *text, char separator, uint64_t *a, uint64_t *b)
{
    char *end;

    *a = strtoull(text, &end, 10);
    if (*end != separator) {
        usage();
    }
    *b = strtoull(end + 1, &end, 10);
    if (*end) {
        usage();
    }
}

static void
parse_write(int argc, char **argv, StampOptions *options, uint64_t *disk)
{
    int option;

    while ((option = getopt(argc, argv, "s:n:t:b:r:f:p:Ped:")) != -1) {
        switch (option) {
        case 's':
            options->seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            options->requests = strtoull(optarg, NULL, 10);
            break;
        case 't':
            options->workers = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            parse_pair(optarg, '-', &options->min_bytes, &options->max_bytes);
            break;
        case 'r':
            parse_pair(optarg, '+', &options->offset_bytes,
                       &options->range_bytes);
            break;
        case 'f':
            options->sync_every = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'p':
            options->discards = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'P':
            options->only_punches = true;
            break;
        case 'e':
            options->goes_on = true;
            break;
        case 'd':
            *disk = strtoull(optarg, NULL, 10);
            break;
        default:
            usage();
        }
    }
}

/* The bounds of what is to be written, against the disk that is there. */
static void
check_bounds(StampOptions *options, const StampLog *log)
{
    uint64_t size = log->header->sectors * STAMP_SECTOR;

    if (!options->range_bytes) {
        options->offset_bytes = 0;
        options->range_bytes = size / options->min_bytes * options->min_bytes;
    }
    if (options->min_bytes % STAMP_SECTOR ||
        options->max_bytes % options->min_bytes ||
        options->min_bytes > options->max_bytes ||
        options->max_bytes > options->range_bytes ||
        options->offset_bytes % STAMP_SECTOR || options->offset_bytes > size ||
        options->range_bytes > size - options->offset_bytes ||
        options->workers == 0 || options->workers > STAMP_WORKERS) {
        usage();
    }
}

static void
make_log(const char *path, const char *disk_path, uint64_t disk)
{
    struct stat st;
    int error;

    if (stat(disk_path, &st)) {
        die(disk_path, errno);
    }
    error = stamp_log_create(path, disk, (uint64_t)st.st_size / STAMP_SECTOR);
    if (error && error != -EEXIST) {
        die(path, -error);
    }
}

static int
run_write(int argc, char **argv)
{
    StampOptions options = {.seed = seed_from_clock(),
                            .workers = 8,
                            .min_bytes = STAMP_SECTOR,
                            .max_bytes = CHUNK,
                            .sync_every = 16,
                            .discards = 5};
    StampTally tally = {0};
    StampLog log;
    uint64_t disk = 1, failed;

    parse_write(argc, argv, &options, &disk);
    if (argc - optind != 2 || !options.min_bytes) {
        usage();
    }
    options.path = argv[optind];
    make_log(argv[optind + 1], options.path, disk);
    open_log(&log, argv[optind + 1]);
    check_bounds(&options, &log);
    stamp_write(&options, &log, &tally);
    stamp_log_close(&log);
    failed = tally.failed_writes + tally.failed_discards + tally.failed_syncs;
    printf("stamp: seed %" PRIu64 ": %" PRIu64 " writes, %" PRIu64
           " KiB, %" PRIu64 " discards, %" PRIu64 " syncs; failed: %" PRIu64
           " writes, %" PRIu64 " discards, %" PRIu64 " syncs (%s)\n",
           options.seed, tally.writes, tally.written_bytes >> 10,
           tally.discards, tally.syncs, tally.failed_writes,
           tally.failed_discards, tally.failed_syncs,
           tally.last_error ? strerror(tally.last_error) : "none");
    return failed && (!options.goes_on || tally.mount_died) ? 3 : 0;
}

/*
 * verify
 */

struct Verify {
    StampLog log;
    StampCounts counts;
    bool after_ack, adopts;
    uint64_t told;
};

static void
verify_sector(struct Verify *verify, uint64_t number, const void *sector)
{
    uint64_t found;
    enum StampFault fault =
        stamp_count(&verify->log, number, sector, verify->after_ack,
                    &verify->counts, &found);

    if (fault == STAMP_SOUND) {
        if (verify->adopts) {
            stamp_adopt(&verify->log, number, found, verify->after_ack);
        }
    } else if (verify->told++ < MAX_TOLD) {
        StampEntry *entry = &verify->log.entries[number];

        printf("stamp: sector %" PRIu64 " (offset %" PRIu64 "): %s: holds "
               "%" PRIu64 "; issued %" PRIu64 " acked %" PRIu64
               " synced %" PRIu64 " zeroing %" PRIu64 "\n",
               number, number * STAMP_SECTOR, stamp_fault_name(fault), found,
               entry->issued, entry->acked, entry->synced, entry->zeroing);
    }
}

static void
verify_file(struct Verify *verify, const char *path)
{
    uint64_t size = verify->log.header->sectors * STAMP_SECTOR;
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    unsigned char *data;

    if (fd < 0) {
        die(path, errno);
    }
    if (posix_memalign((void **)&data, 4096, CHUNK)) {
        die("memory", ENOMEM);
    }
    for (uint64_t at = 0; at < size;) {
        ssize_t n = pread(fd, data, CHUNK, (off_t)at);
        size_t want = size - at < CHUNK ? size - at : CHUNK;

        if (n != (ssize_t)want) {
            die(path, n < 0 ? errno : EIO);
        }
        for (size_t i = 0; i < want; i += STAMP_SECTOR) {
            verify_sector(verify, (at + i) / STAMP_SECTOR, data + i);
        }
        at += want;
    }
    free(data);
    close(fd);
}

static void
set_bounds(struct Verify *verify, const char *path)
{
    StampLog before;

    open_log(&before, path);
    if (before.header->sectors != verify->log.header->sectors) {
        die(path, EINVAL);
    }
    stamp_between(&before, &verify->log);
    stamp_log_close(&before);
    verify->after_ack = true;
}

static int
run_verify(int argc, char **argv)
{
    struct Verify verify = {0};
    const StampCounts *counts = &verify.counts;
    const char *before = NULL;
    int option;

    while ((option = getopt(argc, argv, "aAb:")) != -1) {
        switch (option) {
        case 'a':
            verify.after_ack = true;
            break;
        case 'A':
            verify.adopts = true;
            break;
        case 'b':
            before = optarg;
            break;
        default:
            usage();
        }
    }
    if (argc - optind != 2) {
        usage();
    }
    open_log(&verify.log, argv[optind + 1]);
    if (before) {
        set_bounds(&verify, before);
    }
    verify_file(&verify, argv[optind]);
    printf("stamp: %" PRIu64 " stamped, %" PRIu64 " zero, %" PRIu64
           " newer than the last sync, %" PRIu64 " unacknowledged, %" PRIu64
           " taken; %" PRIu64 " faults",
           counts->stamped, counts->zeroes, counts->unsynced, counts->unacked,
           counts->taken, verify.told);
    for (int i = STAMP_LOST; i < STAMP_FAULTS && verify.told; i++) {
        printf(", %" PRIu64 " %s", counts->faults[i],
               stamp_fault_name((enum StampFault)i));
    }
    printf("\n");
    stamp_log_close(&verify.log);
    return verify.told ? 1 : 0;
}

static int
run_inflight(int argc, char **argv)
{
    unsigned counts[STAMP_SYNC + 1] = {0};
    StampLog log;

    if (argc != 2) {
        usage();
    }
    open_log(&log, argv[1]);
    for (int i = 0; i < STAMP_WORKERS; i++) {
        uint64_t op = log.header->slots[i].op;

        counts[op <= STAMP_SYNC ? op : STAMP_IDLE]++;
    }
    printf("%u %u %u\n", counts[STAMP_WRITE], counts[STAMP_DISCARD],
           counts[STAMP_SYNC]);
    stamp_log_close(&log);
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "write") == 0) {
        return run_write(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "verify") == 0) {
        return run_verify(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "inflight") == 0) {
        return run_inflight(argc - 1, argv + 1);
    }
    usage();
}
