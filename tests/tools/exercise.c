/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exercise.c - does one file behave as another does?
 *
 * Random requests go to a file under test and, the same ones, to a plain
 * file that stands for it: results, errnos and contents are compared after
 * every request. The file under test keeps its size (it is a disk), so the
 * requests stay inside it, except for reads and punches, which may reach
 * beyond the end.
 *
 *   exercise [-s SEED] [-n OPS] [-l MAX-LENGTH] [-t THREADS] [-d] [-M]
 *            FILE SHADOW
 *
 *   -d  FILE is opened with O_DIRECT half of the time, and still takes
 *       requests of any offset, length and memory address: from a buffer that
 *       is not aligned, 1 byte long, at an odd offset. SHADOW never is.
 *   -M  no shared mappings
 *   -t  another exercise: each thread writes and reads back sectors of 512
 *       bytes of its own, neighbours belonging to different threads, so that
 *       a disk with larger blocks has to read, modify and write them one
 *       after the other.
 *
 * SEEK_DATA and SEEK_HOLE are not compared with SHADOW's answers, which are
 * another file system's: what is called a hole must read as zeroes.
 *
 * The seed is printed; the same seed makes the same requests. Exit 0: no
 * difference; 1: one, told with the last requests before it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HISTORY    24
#define SECTOR     512
#define OP_NAME(o) (op_names[(o)])

enum Op {
    OP_WRITE,
    OP_READ,
    OP_PUNCH,
    OP_ZERO,
    OP_ALLOCATE,
    OP_SYNC,
    OP_SEEK,
    OP_REOPEN,
    OP_MAP_WRITE,
    OP_MAP_READ,
    OP_COUNT,
};

static const char *const op_names[OP_COUNT] = {
    "write", "read", "punch",  "zero",      "allocate",
    "sync",  "seek", "reopen", "map-write", "map-read",
};

/* Of a hundred requests, how many are which. */
static const unsigned op_weights[OP_COUNT] = {34, 26, 8, 8, 2, 5, 5, 4, 4, 4};

struct Request {
    enum Op op;
    bool direct;
    uint64_t offset, length;
};

struct Exercise {
    const char *path, *shadow_path;
    uint64_t seed, ops, max_length, size;
    unsigned n_threads;
    bool may_direct, may_map;

    int fd, shadow_fd;
    bool is_direct;
    uint64_t random;
    unsigned char *data, *got, *want;
    struct Request history[HISTORY];
    uint64_t done;
};

/* xorshift64*: any fixed generator will do, but the same one everywhere. */
static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static uint64_t
below(struct Exercise *x, uint64_t limit)
{
    assert(limit > 0);
    return (next_random(&x->random) >> 11) % limit;
}

static void
die(const char *what)
{
    fprintf(stderr, "exercise: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void __attribute__((noreturn, format(printf, 2, 3)))
differ(const struct Exercise *x, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    printf("exercise: seed %" PRIu64 " request %" PRIu64 ": ", x->seed,
           x->done);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    for (uint64_t i = x->done < HISTORY ? 0 : x->done - HISTORY + 1;
         i <= x->done && i < x->ops; i++) {
        const struct Request *r = &x->history[i % HISTORY];

        printf("  %" PRIu64 " %s%s %" PRIu64 "+%" PRIu64 "\n", i,
               OP_NAME(r->op), r->direct ? " direct" : "", r->offset,
               r->length);
    }
    exit(1);
}

/* The two answers to one request: value (or -1) and errno of each. */
static void
same_result(const struct Exercise *x, int64_t got, int got_errno, int64_t want,
            int want_errno)
{
    if (got != want || (got < 0 && got_errno != want_errno)) {
        differ(x, "got %" PRId64 " (%s), want %" PRId64 " (%s)", got,
               got < 0 ? strerror(got_errno) : "-", want,
               want < 0 ? strerror(want_errno) : "-");
    }
}

static void
same_bytes(const struct Exercise *x, uint64_t offset, uint64_t length)
{
    if (memcmp(x->got, x->want, length) == 0) {
        return;
    }
    for (uint64_t i = 0; i < length; i++) {
        if (x->got[i] != x->want[i]) {
            differ(x, "byte %" PRIu64 " is %02x, not %02x", offset + i,
                   x->got[i], x->want[i]);
        }
    }
}

/*
 * Offsets and lengths: anything, sectors, pages, or what straddles a page or
 * a cluster, in like shares; the last are where mistakes live.
 */
static void
choose_range(struct Exercise *x, struct Request *r, bool may_leave)
{
    static const uint64_t units[] = {1, 1, SECTOR, SECTOR, 4096, 65536};
    uint64_t unit = units[below(x, sizeof(units) / sizeof(units[0]))];
    uint64_t limit = x->size + (may_leave ? x->max_length : 0);

    r->length = below(x, 4) == 0 ? 1 + below(x, 3) * SECTOR
                                 : 1 + below(x, x->max_length);
    if (below(x, 5) == 0) {
        uint64_t edge = below(x, limit / 4096) * 4096;
        uint64_t before = below(x, 700);

        r->offset = edge > before ? edge - before : 0;
    } else {
        r->offset = below(x, limit / unit) * unit;
        r->length = (r->length + unit - 1) / unit * unit;
    }
    if (r->length > x->max_length) {
        r->length = x->max_length;
    }
    if (!may_leave && r->offset + r->length > x->size) {
        r->length = x->size - r->offset;
    }
}

static unsigned char *
odd_address(struct Exercise *x, unsigned char *buffer)
{
    static const unsigned shifts[] = {0, 0, 1, 8, 512};

    return buffer + shifts[below(x, sizeof(shifts) / sizeof(shifts[0]))];
}

static void
fill(struct Exercise *x, unsigned char *data, uint64_t length)
{
    if (below(x, 8) == 0) {
        memset(data, 0, length);
        return;
    }
    uint64_t stamp = next_random(&x->random);

    for (uint64_t i = 0; i < length; i++) {
        data[i] = (unsigned char)(stamp >> (i % 8 * 8)) ^ (unsigned char)i;
    }
}

static void
do_write(struct Exercise *x, struct Request *r)
{
    unsigned char *data = odd_address(x, x->data);

    choose_range(x, r, false);
    fill(x, data, r->length);
    ssize_t got = pwrite(x->fd, data, r->length, (off_t)r->offset);
    int got_errno = errno;
    ssize_t want = pwrite(x->shadow_fd, data, r->length, (off_t)r->offset);

    same_result(x, got, got_errno, want, errno);
}

static void
do_read(struct Exercise *x, struct Request *r)
{
    unsigned char *data = odd_address(x, x->data);

    choose_range(x, r, true);
    ssize_t got = pread(x->fd, data, r->length, (off_t)r->offset);
    int got_errno = errno;
    ssize_t want = pread(x->shadow_fd, x->want, r->length, (off_t)r->offset);

    same_result(x, got, got_errno, want, errno);
    if (got > 0) {
        memcpy(x->got, data, (size_t)got);
        same_bytes(x, r->offset, (uint64_t)got);
    }
}

static void
do_fallocate(struct Exercise *x, struct Request *r, int mode)
{
    choose_range(x, r, (mode & FALLOC_FL_PUNCH_HOLE) != 0);
    off_t offset = (off_t)r->offset;
    off_t length = (off_t)r->length;
    int got = fallocate(x->fd, mode, offset, length);
    int got_errno = errno;
    int want = fallocate(x->shadow_fd, mode, offset, length);

    same_result(x, got, got_errno, want, errno);
}

static void
do_sync(struct Exercise *x)
{
    int got = below(x, 2) ? fsync(x->fd) : fdatasync(x->fd);

    same_result(x, got, errno, 0, 0);
}

/* Between a position and the next data there are zeroes only. */
static void
do_seek(struct Exercise *x, struct Request *r)
{
    choose_range(x, r, true);
    off_t data = lseek(x->fd, (off_t)r->offset, SEEK_DATA);
    int data_errno = errno;
    off_t hole = lseek(x->fd, (off_t)r->offset, SEEK_HOLE);
    uint64_t end = data < 0 ? x->size : (uint64_t)data;

    if (r->offset >= x->size) {
        same_result(x, data, data_errno, -1, ENXIO);
        same_result(x, hole, errno, -1, ENXIO);
        return;
    }
    if (data < 0 && data_errno != ENXIO) {
        differ(x, "SEEK_DATA: %s", strerror(data_errno));
    }
    if (end < r->offset || end > x->size || hole < (off_t)r->offset ||
        (uint64_t)hole > x->size) {
        differ(x, "data at %jd, hole at %jd", (intmax_t)data, (intmax_t)hole);
    }
    for (uint64_t at = r->offset; at < end; at += x->max_length) {
        uint64_t n = end - at < x->max_length ? end - at : x->max_length;

        memset(x->got, 0, n);
        if (pread(x->shadow_fd, x->want, n, (off_t)at) != (ssize_t)n) {
            die("read of the shadow");
        }
        same_bytes(x, at, n);
    }
}

static void
do_reopen(struct Exercise *x)
{
    x->is_direct = x->may_direct && below(x, 2) == 0;
    if (x->fd >= 0) {
        same_result(x, close(x->fd), errno, 0, 0);
    }
    x->fd = open(x->path, O_RDWR | O_CLOEXEC | (x->is_direct ? O_DIRECT : 0));
    if (x->fd < 0) {
        die(x->path);
    }
}

static void
do_map(struct Exercise *x, struct Request *r, bool is_write)
{
    choose_range(x, r, false);
    uint64_t base = r->offset / 4096 * 4096;
    size_t length = (size_t)(r->offset - base + r->length);
    unsigned char *map =
        mmap(NULL, length, is_write ? PROT_READ | PROT_WRITE : PROT_READ,
             MAP_SHARED, x->fd, (off_t)base);

    if (map == MAP_FAILED) {
        differ(x, "mmap: %s", strerror(errno));
    }
    if (is_write) {
        fill(x, x->data, r->length);
        memcpy(map + (r->offset - base), x->data, r->length);
        if (pwrite(x->shadow_fd, x->data, r->length, (off_t)r->offset) !=
            (ssize_t)r->length) {
            die("write of the shadow");
        }
        if (below(x, 2) == 0) {
            same_result(x, msync(map, length, MS_SYNC), errno, 0, 0);
        }
    } else {
        memcpy(x->got, map + (r->offset - base), r->length);
        if (pread(x->shadow_fd, x->want, r->length, (off_t)r->offset) !=
            (ssize_t)r->length) {
            die("read of the shadow");
        }
        same_bytes(x, r->offset, r->length);
    }
    munmap(map, length);
}

static enum Op
choose_op(struct Exercise *x)
{
    uint64_t left = below(x, 100);
    unsigned op = OP_WRITE;

    while (left >= op_weights[op]) {
        left -= op_weights[op++];
    }
    assert(op < OP_COUNT);
    if (!x->may_map && (op == OP_MAP_WRITE || op == OP_MAP_READ)) {
        return OP_WRITE;
    }
    return (enum Op)op;
}

static void
do_request(struct Exercise *x, struct Request *r)
{
    switch (r->op) {
    case OP_WRITE:
        do_write(x, r);
        break;
    case OP_READ:
        do_read(x, r);
        break;
    case OP_PUNCH:
        do_fallocate(x, r, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
        break;
    case OP_ZERO:
        do_fallocate(x, r, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
        break;
    case OP_ALLOCATE:
        do_fallocate(x, r, 0);
        break;
    case OP_SYNC:
        do_sync(x);
        break;
    case OP_SEEK:
        do_seek(x, r);
        break;
    case OP_REOPEN:
        do_reopen(x);
        break;
    case OP_MAP_WRITE:
    case OP_MAP_READ:
        do_map(x, r, r->op == OP_MAP_WRITE);
        break;
    case OP_COUNT:
        assert(!"not an operation");
    }
}

static void
compare_all(struct Exercise *x)
{
    for (uint64_t at = 0; at < x->size; at += x->max_length) {
        uint64_t n =
            x->size - at < x->max_length ? x->size - at : x->max_length;

        same_result(x, pread(x->fd, x->data, n, (off_t)at), errno,
                    pread(x->shadow_fd, x->want, n, (off_t)at), 0);
        memcpy(x->got, x->data, n);
        same_bytes(x, at, n);
    }
}

static void
run_requests(struct Exercise *x)
{
    for (x->done = 0; x->done < x->ops; x->done++) {
        struct Request *r = &x->history[x->done % HISTORY];

        *r = (struct Request){.op = choose_op(x), .direct = x->is_direct};
        do_request(x, r);
    }
    compare_all(x);
}

struct Worker {
    struct Exercise *x;
    pthread_t thread;
    unsigned index;
    uint64_t random;
    uint64_t bad_sector; /* UINT64_MAX: none */
};

/* The worker's own sectors are those of its residue. Sector 0 of a worker is
 * never read before it is written: what they hold is the shadow's business. */
static void *
run_worker(void *user)
{
    struct Worker *w = user;
    struct Exercise *x = w->x;
    uint64_t rows = x->size / SECTOR / x->n_threads;
    unsigned char *mine = malloc(SECTOR), *back = malloc(SECTOR);
    int flags = O_RDWR | O_CLOEXEC | (x->may_direct ? O_DIRECT : 0);
    int fd = open(x->path, flags);

    assert(mine != NULL && back != NULL);
    if (fd < 0) {
        die(x->path);
    }
    /* Few rows, so that neighbours meet often. */
    rows = rows > 64 ? 64 : rows;
    for (uint64_t i = 0; i < x->ops; i++) {
        uint64_t row = (next_random(&w->random) >> 11) % rows;
        uint64_t sector = row * x->n_threads + w->index;
        off_t at = (off_t)(sector * SECTOR);

        memset(mine, (int)(i % 251) + 1, SECTOR);
        if (pwrite(fd, mine, SECTOR, at) != SECTOR ||
            pread(fd, back, SECTOR, at) != SECTOR ||
            memcmp(mine, back, SECTOR) != 0 ||
            pwrite(x->shadow_fd, mine, SECTOR, at) != SECTOR) {
            w->bad_sector = sector;
            break;
        }
    }
    close(fd);
    free(mine);
    free(back);
    return NULL;
}

static void
run_workers(struct Exercise *x)
{
    struct Worker *workers = calloc(x->n_threads, sizeof(*workers));

    assert(workers != NULL);
    for (unsigned i = 0; i < x->n_threads; i++) {
        workers[i] = (struct Worker){.x = x,
                                     .index = i,
                                     .random = x->seed * 31 + i + 1,
                                     .bad_sector = UINT64_MAX};
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i])) {
            die("thread");
        }
    }
    for (unsigned i = 0; i < x->n_threads; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    x->done = x->ops;
    for (unsigned i = 0; i < x->n_threads; i++) {
        if (workers[i].bad_sector != UINT64_MAX) {
            differ(x, "thread %u: sector %" PRIu64 " is not what was written",
                   i, workers[i].bad_sector);
        }
    }
    free(workers);
    compare_all(x);
}

static void
prepare(struct Exercise *x)
{
    struct stat st;

    if (stat(x->path, &st) != 0) {
        die(x->path);
    }
    x->size = (uint64_t)st.st_size;
    if (x->size < 4096) {
        errno = EINVAL;
        die("the file is too small");
    }
    if (x->max_length > x->size) {
        x->max_length = x->size;
    }
    x->shadow_fd = open(x->shadow_path, O_RDWR | O_CLOEXEC);
    if (x->shadow_fd < 0) {
        die(x->shadow_path);
    }
    /* Room to shift addresses in; whole pages for O_DIRECT. */
    size_t room = (size_t)x->max_length + 8192;

    if (posix_memalign((void **)&x->data, 4096, room) ||
        posix_memalign((void **)&x->got, 4096, room) ||
        posix_memalign((void **)&x->want, 4096, room)) {
        die("memory");
    }
    x->random = x->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    x->fd = -1;
    do_reopen(x);
}

static void
parse(struct Exercise *x, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "s:n:l:t:dM")) != -1) {
        switch (option) {
        case 's':
            x->seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            x->ops = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            x->max_length = strtoull(optarg, NULL, 10);
            break;
        case 't':
            x->n_threads = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'd':
            x->may_direct = true;
            break;
        case 'M':
            x->may_map = false;
            break;
        default:
            exit(2);
        }
    }
    if (argc - optind != 2 || x->ops == 0 || x->max_length == 0) {
        fprintf(stderr, "usage: exercise [-s SEED] [-n OPS] [-l MAX-LENGTH] "
                        "[-t THREADS] [-d] [-M] FILE SHADOW\n");
        exit(2);
    }
    x->path = argv[optind];
    x->shadow_path = argv[optind + 1];
}

int
main(int argc, char **argv)
{
    struct Exercise x = {
        .seed = (uint64_t)time(NULL),
        .ops = 2000,
        .max_length = 262144,
        .may_map = true,
    };

    parse(&x, argc, argv);
    printf("exercise: seed %" PRIu64 "\n", x.seed);
    prepare(&x);
    if (x.n_threads > 0) {
        run_workers(&x);
    } else {
        run_requests(&x);
    }
    close(x.fd);
    close(x.shadow_fd);
    free(x.data);
    free(x.got);
    free(x.want);
    return 0;
}
