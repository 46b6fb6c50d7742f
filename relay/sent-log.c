/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sent-log.c - the log of uploads that are under way, as whole sets
 *
 * A commit is the whole set, not a change to it: it is small (a few hundred
 * runs at most in ordinary times, one page), and recovery has nothing to
 * replay. Sectors beyond those of a commit keep an older sequence number and
 * are not of it.
 *
 * Every sector of both slots is written when the log is opened, so that from
 * then on a sector that is not sound is damage, and no new file.
 */
#include "sent-log.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define PAGE_BYTES   4096u
#define PAGE_SECTORS (PAGE_BYTES / 512)
#define COUNT_BITS   24
#define COUNT_MAX    ((UINT64_C(1) << COUNT_BITS) - 1)

/* All of a file, and what it says. */
struct Image {
    struct SentLogSector sector[2][SENT_LOG_SECTORS];
    uint64_t newest[2]; /* commit in each slot */
    const char *what;   /* why it is not to be believed */
};

static void
checksum(const struct SentLogSector *sector, const uint8_t uuid[16],
         uint8_t sum[16])
{
    struct SentLogSector copy = *sector;
    XXH128_canonical_t canonical;

    memcpy(copy.checksum, uuid, sizeof(copy.checksum));
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(&copy, sizeof(copy)));
    _Static_assert(sizeof(canonical) == 16, "checksum");
    memcpy(sum, &canonical, sizeof(canonical));
}

/* Can the sector be believed? Numbers become the host's. */
static bool
is_sound(struct SentLogSector *sector, unsigned slot, unsigned number,
         const uint8_t uuid[16])
{
    uint8_t sum[16];

    checksum(sector, uuid, sum);
    if (memcmp(sum, sector->checksum, sizeof(sum)) != 0 ||
        le32toh(sector->magic) != SENT_LOG_MAGIC ||
        sector->version != SENT_LOG_VERSION || sector->slot != slot ||
        le16toh(sector->number) != number) {
        return false;
    }
    sector->epoch = le64toh(sector->epoch);
    sector->sequence = le64toh(sector->sequence);
    sector->sectors = le32toh(sector->sectors);
    sector->runs = le32toh(sector->runs);
    return sector->runs <= SENT_LOG_RUNS &&
           sector->sectors <= SENT_LOG_SECTORS &&
           (sector->sequence & 1) == slot;
}

static void
image_load(struct Image *image, StoreIo *io, int fd, const uint8_t uuid[16],
           uint64_t epoch_before)
{
    ssize_t n = io->ops->pread(io, fd, image->sector, sizeof(image->sector), 0);

    image->newest[0] = image->newest[1] = 0;
    image->what = NULL;
    if (n != (ssize_t)sizeof(image->sector)) {
        image->what = n < 0 ? "it cannot be read" : "it is cut short";
        return;
    }
    for (unsigned i = 0; i < 2 * SENT_LOG_SECTORS; i++) {
        unsigned slot = i / SENT_LOG_SECTORS, number = i % SENT_LOG_SECTORS;
        struct SentLogSector *sector = &image->sector[slot][number];

        if (!is_sound(sector, slot, number, uuid)) {
            image->what = "a sector of it is damaged";
            return;
        }
        if (sector->epoch < epoch_before) {
            image->what = "it is older than the store's last start";
            return;
        }
        if (sector->sequence > image->newest[slot]) {
            image->newest[slot] = sector->sequence;
        }
    }
}

static bool
is_complete(const struct Image *image, uint64_t sequence)
{
    const struct SentLogSector *sector = image->sector[sequence & 1];
    unsigned n = 0, wanted = SENT_LOG_SECTORS;

    for (unsigned i = 0; i < SENT_LOG_SECTORS; i++) {
        if (sector[i].sequence == sequence) {
            wanted = sector[i].sectors;
            n++;
        }
    }
    return n >= wanted;
}

static void
take_commit(const struct Image *image, uint64_t sequence, Bitmap *into)
{
    uint64_t clusters = bitmap_clusters(into);

    for (unsigned i = 0; i < SENT_LOG_SECTORS; i++) {
        const struct SentLogSector *sector = &image->sector[sequence & 1][i];

        for (unsigned r = 0; sector->sequence == sequence && r < sector->runs;
             r++) {
            uint64_t packed = le64toh(sector->run[r]);
            struct ClusterRun run = {packed >> COUNT_BITS, packed & COUNT_MAX};

            if (run.first < clusters) {
                uint64_t room = clusters - run.first;
                run.count = run.count < room ? run.count : room;
                bitmap_set_run(into, run);
            }
        }
    }
}

/*
 * Commits
 */
/* The runs of @logged, those less than @gap clusters apart taken as one.
 * Returns how many; @runs may be NULL. */
static size_t
collect(const Bitmap *logged, uint64_t gap, struct ClusterRun *runs)
{
    struct ClusterRun run, last = {0, 0};
    size_t n = 0;

    for (uint64_t at = 0; bitmap_next_run(logged, at, COUNT_MAX, &run);
         at = run.first + run.count) {
        uint64_t end = last.first + last.count;

        if (n && run.first - end < gap &&
            run.first + run.count - last.first <= COUNT_MAX) {
            last.count = run.first + run.count - last.first;
        } else {
            last = run;
            n++;
        }
        if (runs && n <= SENT_LOG_ROOM) {
            runs[n - 1] = last;
        }
    }
    return n;
}

static void
encode_sector(const SentLog *log, unsigned number, unsigned sectors,
              const struct ClusterRun *runs, size_t n_runs)
{
    struct SentLogSector *sector = &log->slot[number];

    memset(sector, 0, sizeof(*sector));
    sector->magic = htole32(SENT_LOG_MAGIC);
    sector->version = SENT_LOG_VERSION;
    sector->slot = log->sequence & 1;
    sector->number = htole16((uint16_t)number);
    sector->epoch = htole64(log->epoch);
    sector->sequence = htole64(log->sequence);
    sector->sectors = htole32(sectors);
    sector->runs = htole32((uint32_t)n_runs);
    for (size_t i = 0; i < n_runs; i++) {
        sector->run[i] = htole64(runs[i].first << COUNT_BITS | runs[i].count);
    }
    checksum(sector, log->uuid, sector->checksum);
}

/* The next commit, at least @least sectors of it. */
static size_t
encode(SentLog *log, const Bitmap *logged, unsigned least, uint64_t *offset)
{
    struct ClusterRun runs[SENT_LOG_ROOM];
    uint64_t gap = 1;
    size_t n;

    while ((n = collect(logged, gap, runs)) > SENT_LOG_ROOM) {
        gap *= 2;
    }
    unsigned sectors = (unsigned)((n + SENT_LOG_RUNS - 1) / SENT_LOG_RUNS);

    sectors = sectors > least ? sectors : least;
    sectors = (sectors + PAGE_SECTORS - 1) / PAGE_SECTORS * PAGE_SECTORS;
    sectors = sectors ? sectors : PAGE_SECTORS;
    log->sequence++;
    for (unsigned i = 0; i < sectors; i++) {
        size_t from = (size_t)i * SENT_LOG_RUNS;
        size_t left = from < n ? n - from : 0;

        encode_sector(log, i, sectors, &runs[left ? from : 0],
                      left < SENT_LOG_RUNS ? left : SENT_LOG_RUNS);
    }
    *offset = (log->sequence & 1) * SENT_LOG_SLOT_BYTES;
    return (size_t)sectors * 512;
}

size_t
sent_log_encode(SentLog *log, const Bitmap *logged, uint64_t *offset)
{
    return encode(log, logged, 0, offset);
}

/* Both slots whole, one after the other: each durable before the next. */
static int
write_whole(SentLog *log, const Bitmap *logged)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < 2; i++) {
        uint64_t offset;
        size_t len = encode(log, logged, SENT_LOG_SECTORS, &offset);
        ssize_t n =
            log->io->ops->pwrite(log->io, log->fd, log->slot, len, offset);

        r = n < 0 ? (int)n : (size_t)n != len ? -EIO : 0;
        r = r ? r : log->io->ops->fdatasync(log->io, log->fd);
    }
    return r;
}

void
sent_log_failed(SentLog *log)
{
    log->sequence++;
}

int
sent_log_stamp(SentLog *log, const Bitmap *logged, uint64_t epoch)
{
    log->epoch = epoch;
    return write_whole(log, logged);
}

/*
 * Opening
 */
static int
open_file(SentLog *log, int dirfd, bool *is_new)
{
    StoreIo *io = log->io;

    log->fd = io->ops->open(io, dirfd, SENT_LOG_FILE, O_RDWR, 0);
    *is_new = log->fd == -ENOENT;
    if (*is_new) {
        log->fd =
            io->ops->open(io, dirfd, SENT_LOG_FILE, O_RDWR | O_CREAT, 0600);
    }
    return log->fd < 0 ? log->fd : 0;
}

/* What the file holds into @into, and goes on from its sequence. */
static int
take_image(SentLog *log, uint64_t epoch_before, Bitmap *into, const char **what)
{
    struct Image *image = malloc(sizeof(*image));

    if (!image) {
        return -ENOMEM;
    }
    image_load(image, log->io, log->fd, log->uuid, epoch_before);
    *what = image->what;
    if (!image->what) {
        unsigned slot = image->newest[1] > image->newest[0];

        log->sequence = image->newest[slot];
        take_commit(image, image->newest[slot], into);
        if (!is_complete(image, image->newest[slot])) {
            take_commit(image, image->newest[!slot], into);
            sent_log_failed(log);
        }
    }
    free(image);
    return *what ? -EBADMSG : 0;
}

int
sent_log_open(SentLog *log, StoreIo *io, int dirfd, const uint8_t uuid[16],
              uint64_t epoch_before, uint64_t epoch, bool in_doubt,
              Bitmap *into, const char **what)
{
    bool is_new;
    int known, r;

    *log = (SentLog){.io = io, .fd = -1, .epoch = epoch};
    *what = NULL;
    memcpy(log->uuid, uuid, sizeof(log->uuid));
    log->slot = aligned_alloc(PAGE_BYTES, SENT_LOG_SLOT_BYTES);
    r = log->slot ? open_file(log, dirfd, &is_new) : -ENOMEM;
    if (r < 0) {
        sent_log_close(log);
        return r;
    }
    if (is_new) {
        *what = epoch_before ? "it is missing" : NULL;
        known = epoch_before ? -EBADMSG : 0;
    } else {
        known = take_image(log, epoch_before, into, what);
    }
    if (known == -EBADMSG && in_doubt) {
        bitmap_set_all(into);
    }
    r = known == -ENOMEM ? known : write_whole(log, into);
    if (r == 0 && is_new) {
        r = io->ops->fsync(io, dirfd);
    }
    if (r < 0) {
        sent_log_close(log);
        return r;
    }
    return known;
}

void
sent_log_close(SentLog *log)
{
    if (log->fd >= 0) {
        (void)log->io->ops->close(log->io, log->fd);
    }
    free(log->slot);
    *log = (SentLog){.fd = -1};
}

const char *
sent_log_check(StoreIo *io, int dirfd, const uint8_t uuid[16],
               uint64_t epoch_before)
{
    struct Image *image = malloc(sizeof(*image));
    int fd = io->ops->open(io, dirfd, SENT_LOG_FILE, O_RDONLY, 0);
    const char *what = "it cannot be opened";

    if (fd == -ENOENT) {
        what = epoch_before ? "it is missing" : NULL;
    } else if (fd >= 0 && image) {
        image_load(image, io, fd, uuid, epoch_before);
        what = image->what;
    }
    if (fd >= 0) {
        (void)io->ops->close(io, fd);
    }
    free(image);
    return what;
}
