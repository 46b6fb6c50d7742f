/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sums.c - the file of what the target is known to hold
 *
 * One header, and an array that nobody has to read at the start. When everything
 * has to be forgotten the entries go, durably, and then the key is made anew:
 * what an old entry says is no hash of anything any more, also one that a write
 * under way puts there later.
 *
 * The content's hash is hashed once more together with the cluster's number,
 * so that an entry in a wrong place is the hash of nothing, too.
 */
#include "sums.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#define MAGIC   "WEIRSUMS"
#define VERSION 1u

static void
header_checksum(const struct SumsHeader *header, uint8_t sum[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(
        &canonical,
        XXH3_128bits(header, offsetof(struct SumsHeader, checksum)));
    memcpy(sum, &canonical, sizeof(canonical));
}

/* NULL, or why the header that was read cannot be believed. */
static const char *
header_check(const struct SumsHeader *header, const uint8_t uuid[16],
             unsigned cluster_bits, uint64_t epoch_before)
{
    uint8_t sum[16];

    header_checksum(header, sum);
    if (memcmp(sum, header->checksum, sizeof(sum)) != 0 ||
        memcmp(header->magic, MAGIC, sizeof(header->magic)) != 0) {
        return "its header is damaged";
    }
    if (le32toh(header->version) != VERSION) {
        return "another version wrote it";
    }
    if (memcmp(header->uuid, uuid, sizeof(header->uuid)) != 0) {
        return "it belongs to another store";
    }
    if (le32toh(header->cluster_bits) != cluster_bits) {
        return "it has clusters of another size";
    }
    if (le64toh(header->epoch) < epoch_before) {
        return "it is older than the store's last start";
    }
    return NULL;
}

static void
header_seal(struct SumsHeader *header)
{
    header_checksum(header, header->checksum);
}

static int
header_write(Sums *sums)
{
    ssize_t n;

    header_seal(&sums->header);
    n = sums->io->ops->pwrite(sums->io, sums->fd, &sums->header,
                              sizeof(sums->header), 0);
    if (n != (ssize_t)sizeof(sums->header)) {
        return n < 0 ? (int)n : -EIO;
    }
    return sums->io->ops->fdatasync(sums->io, sums->fd);
}

int
sums_make_key(Sums *sums)
{
    uint8_t *key = sums->header.key;

    for (size_t got = 0; got < SUMS_KEY_BYTES;) {
        ssize_t n = getrandom(key + got, SUMS_KEY_BYTES - got, 0);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        got += n > 0 ? (size_t)n : 0;
    }
    header_seal(&sums->header);
    return 0;
}

/* The entries first: under another key they would be known, and of nothing. */
static int
forget(Sums *sums)
{
    const struct StoreIoOps *ops = sums->io->ops;
    int r = ops->ftruncate(sums->io, sums->fd, SUMS_AT);

    r = r < 0 ? r : ops->fdatasync(sums->io, sums->fd);
    r = r < 0 ? r : sums_make_key(sums);
    return r < 0 ? r : header_write(sums);
}

static int
open_file(Sums *sums, int dirfd, bool *is_new)
{
    StoreIo *io = sums->io;

    sums->fd = io->ops->open(io, dirfd, SUMS_FILE, O_RDWR, 0);
    *is_new = sums->fd == -ENOENT;
    if (*is_new) {
        sums->fd = io->ops->open(io, dirfd, SUMS_FILE, O_RDWR | O_CREAT, 0600);
    }
    return sums->fd < 0 ? sums->fd : 0;
}

int
sums_open(Sums *sums, StoreIo *io, int dirfd, const uint8_t uuid[16],
          unsigned cluster_bits, uint64_t epoch_before, uint64_t epoch,
          const char **what)
{
    bool is_new;
    int r;

    *sums = (Sums){.io = io};
    *what = NULL;
    r = open_file(sums, dirfd, &is_new);
    if (r == 0 && !is_new) {
        ssize_t n = io->ops->pread(io, sums->fd, &sums->header,
                                   sizeof(sums->header), 0);

        *what =
            n == (ssize_t)sizeof(sums->header)
                ? header_check(&sums->header, uuid, cluster_bits, epoch_before)
                : "it cannot be read";
    }
    memcpy(sums->header.magic, MAGIC, sizeof(sums->header.magic));
    sums->header.version = htole32(VERSION);
    sums->header.cluster_bits = htole32(cluster_bits);
    sums->header.epoch = htole64(epoch);
    memcpy(sums->header.uuid, uuid, sizeof(sums->header.uuid));
    memset(sums->header.zero, 0, sizeof(sums->header.zero));
    if (r == 0) {
        r = is_new || *what ? forget(sums) : header_write(sums);
    }
    if (r == 0 && is_new) {
        r = io->ops->fsync(io, dirfd);
    }
    if (r < 0) {
        sums_close(sums);
        return r;
    }
    return *what ? -EBADMSG : 0;
}

void
sums_close(Sums *sums)
{
    if (sums->fd >= 0) {
        (void)sums->io->ops->close(sums->io, sums->fd);
    }
    sums->fd = -1;
}

int
sums_stamp(Sums *sums, uint64_t epoch)
{
    sums->header.epoch = htole64(epoch);
    return header_write(sums);
}

void
sums_hash(const Sums *sums, uint64_t cluster, const void *data, size_t len,
          uint8_t entry[SUMS_BYTES])
{
    const uint8_t *key = sums->header.key;
    XXH128_hash_t content =
        XXH3_128bits_withSecret(data, len, key, SUMS_KEY_BYTES);
    uint64_t placed[3] = {htole64(content.low64), htole64(content.high64),
                          htole64(cluster)};
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(
        &canonical,
        XXH3_128bits_withSecret(placed, sizeof(placed), key, SUMS_KEY_BYTES));
    _Static_assert(sizeof(canonical) == SUMS_BYTES, "entry");
    memcpy(entry, &canonical, sizeof(canonical));
}

bool
sums_match(const Sums *sums, uint64_t offset, const void *data, size_t len,
           const uint8_t entry[SUMS_BYTES])
{
    uint8_t now[SUMS_BYTES];

    sums_hash(sums, offset >> le32toh(sums->header.cluster_bits), data, len,
              now);
    return !memcmp(now, entry, sizeof(now));
}

bool
sums_is_known(const uint8_t entry[SUMS_BYTES])
{
    static const uint8_t unknown[SUMS_BYTES];

    return memcmp(entry, unknown, sizeof(unknown)) != 0;
}

const char *
sums_check(StoreIo *io, int dirfd, const uint8_t uuid[16],
           unsigned cluster_bits, uint64_t epoch_before)
{
    int fd = io->ops->open(io, dirfd, SUMS_FILE, O_RDONLY, 0);
    struct SumsHeader header;
    const char *what = "it cannot be opened";

    if (fd == -ENOENT) {
        return NULL; /* nothing is known: sound */
    }
    if (fd >= 0) {
        ssize_t n = io->ops->pread(io, fd, &header, sizeof(header), 0);

        what = n == (ssize_t)sizeof(header)
                   ? header_check(&header, uuid, cluster_bits, epoch_before)
                   : "it cannot be read";
        (void)io->ops->close(io, fd);
    }
    return what;
}
