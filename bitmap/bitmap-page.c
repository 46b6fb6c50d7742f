/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-page.c - sectors that know where they belong, and the two headers
 *
 * A sector says what it is, of which page, and of which checkpoint; its
 * checksum covers that, the payload, and the uuid of the store, which is not
 * written. So a sector that is torn, misplaced, swapped with another or taken
 * over from another store is not sound, whatever its payload looks like.
 *
 * There are two header slots, written in turns. Which checkpoint does a file
 * hold? The newest of which a sound copy is found, on three conditions:
 *
 *   - Both slots have a sound copy. A slot that has none may have held a newer
 *     one. A power cut does not do that: it leaves each of the eight sectors
 *     old or new. (The first save writes an empty header into the second slot
 *     before it writes its own into the first.)
 *   - No header says that it was superseded by a newer one than was found.
 *     After a checkpoint is durable, the header before it is told so; should
 *     the newer one be replaced by an old image later, that is seen.
 *   - It is of this store, and this program knows its format.
 *
 * Otherwise everything is dirty. An older checkpoint is never taken in place
 * of a newer one that was once complete: it lacks what got dirty since.
 */
#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

static const uint8_t no_uuid[16];

void
bitmap_file_checksum(const void *sector, const uint8_t uuid[16],
                     uint8_t sum[16])
{
    struct BitmapFileSector copy;
    XXH128_canonical_t canonical;

    memcpy(&copy, sector, sizeof(copy));
    memcpy(copy.checksum, uuid, sizeof(copy.checksum));
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(&copy, sizeof(copy)));
    _Static_assert(sizeof(canonical) == 16, "checksum");
    memcpy(sum, &canonical, sizeof(canonical));
}

bool
bitmap_file_is_sound(const struct BitmapFileSector *sector,
                     enum BitmapFileType type, uint64_t number, unsigned index,
                     const uint8_t uuid[16])
{
    uint8_t sum[16];

    if (le32toh(sector->magic) != BITMAP_FILE_MAGIC || sector->type != type ||
        sector->sector != index || le64toh(sector->page) != number) {
        return false;
    }
    bitmap_file_checksum(sector, uuid, sum);
    return !memcmp(sum, sector->checksum, sizeof(sum));
}

unsigned
bitmap_file_sound(const struct BitmapFilePage *page, enum BitmapFileType type,
                  uint64_t number, uint64_t sequence, const uint8_t uuid[16])
{
    unsigned sound = 0;

    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        const struct BitmapFileSector *sector = &page->sectors[i];

        if (le64toh(sector->sequence) == sequence &&
            bitmap_file_is_sound(sector, type, number, i, uuid)) {
            sound |= 1u << i;
        }
    }
    return sound;
}

uint64_t
bitmap_file_entry(const struct BitmapFilePage *page, unsigned i)
{
    return le64toh(
        page->sectors[i / BITMAP_FILE_WORDS].words[i % BITMAP_FILE_WORDS]);
}

void
bitmap_file_seal_page(struct BitmapFilePage *page, enum BitmapFileType type,
                      uint64_t number, uint64_t sequence,
                      const uint8_t uuid[16])
{
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        struct BitmapFileSector *sector = &page->sectors[i];

        sector->magic = htole32(BITMAP_FILE_MAGIC);
        sector->type = (uint8_t)type;
        sector->sector = (uint8_t)i;
        sector->zero = 0;
        sector->page = htole64(number);
        sector->sequence = htole64(sequence);
        bitmap_file_checksum(sector, uuid, sector->checksum);
    }
}

int
bitmap_file_put_page(StoreIo *io, int fd, uint64_t at,
                     struct BitmapFilePage *page, enum BitmapFileType type,
                     uint64_t number, uint64_t sequence, const uint8_t uuid[16])
{
    ssize_t n;

    bitmap_file_seal_page(page, type, number, sequence, uuid);
    n = io->ops->pwrite(io, fd, page, sizeof(*page), at);
    if (n < 0) {
        return (int)n;
    }
    return (size_t)n == sizeof(*page) ? 0 : -EIO;
}

unsigned
bitmap_file_get_page(StoreIo *io, int fd, uint64_t at, void *page)
{
    const size_t len = sizeof(struct BitmapFileSector);
    unsigned unread = 0;
    ssize_t n;

    memset(page, 0, BITMAP_FILE_PAGE);
    n = io->ops->pread(io, fd, page, BITMAP_FILE_PAGE, at);
    if (n >= 0) {
        return 0;
    }
    /* One bad sector fails the page; the others are still to be had. */
    for (size_t i = 0; i < BITMAP_FILE_PAGE; i += len) {
        char *sector = (char *)page + i;

        n = io->ops->pread(io, fd, sector, len, at + i);
        if (n < 0) {
            memset(sector, 0, len);
            unread |= 1u << i / len;
        }
    }
    return unread;
}

int
bitmap_file_put_header(StoreIo *io, int fd, unsigned slot, uint64_t sequence,
                       const struct BitmapFileHeader *header)
{
    struct BitmapFilePage page;

    memset(&page, 0, sizeof(page));
    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        struct BitmapFileHeader *le = &page.sectors[i].header;

        le->version = htole32(BITMAP_FILE_VERSION);
        le->incompat = htole32(header->incompat);
        memcpy(le->uuid, header->uuid, sizeof(le->uuid));
        le->size_bytes = htole64(header->size_bytes);
        le->cluster_bits = htole32(header->cluster_bits);
        le->pages = htole64(header->pages);
        le->superseded_by = htole64(header->superseded_by);
    }
    return bitmap_file_put_page(io, fd, (uint64_t)slot * BITMAP_FILE_PAGE,
                                &page, BITMAP_FILE_HEADER, slot, sequence,
                                no_uuid);
}

/* What one sound copy of a header adds to what is known. */
static int
consider(struct BitmapFileFound *found, const struct BitmapFileSector *sector,
         unsigned slot)
{
    const struct BitmapFileHeader *header = &sector->header;
    uint64_t sequence = le64toh(sector->sequence);
    uint64_t later = le64toh(header->superseded_by);

    uint32_t features = le32toh(header->incompat);

    if (le32toh(header->version) != BITMAP_FILE_VERSION ||
        (features & ~BITMAP_FILE_INDEXED)) {
        return -EPROTONOSUPPORT;
    }
    if (found->newest < sequence) {
        found->newest = sequence;
    }
    if (found->newest < later) {
        found->newest = later;
    }
    if (sequence > found->sequence) {
        found->sequence = sequence;
        found->slot = slot;
        found->size_bytes = le64toh(header->size_bytes);
        found->cluster_bits = le32toh(header->cluster_bits);
        found->pages = le64toh(header->pages);
        found->is_indexed = features & BITMAP_FILE_INDEXED;
    }
    return 0;
}

/* Number of sound copies of a header of this store in @page, or -errno. */
static int
consider_slot(struct BitmapFileFound *found, const struct BitmapFilePage *page,
              unsigned slot, const uint8_t uuid[16])
{
    int copies = 0;

    for (unsigned i = 0; i < BITMAP_FILE_SECTORS; i++) {
        const struct BitmapFileSector *sector = &page->sectors[i];
        int r;

        if (!bitmap_file_is_sound(sector, BITMAP_FILE_HEADER, slot, i,
                                  no_uuid)) {
            continue;
        }
        if (memcmp(sector->header.uuid, uuid, 16) != 0) {
            found->what = "it belongs to another store";
            continue;
        }
        r = consider(found, sector, slot);
        if (r < 0) {
            return r;
        }
        copies++;
    }
    return copies;
}

int
bitmap_file_find(StoreIo *io, int fd, const uint8_t uuid[16],
                 struct BitmapFileFound *found)
{
    struct BitmapFilePage page;
    int copies[2];

    *found = (struct BitmapFileFound){0};
    for (unsigned slot = 0; slot < 2; slot++) {
        bitmap_file_get_page(io, fd, (uint64_t)slot * BITMAP_FILE_PAGE, &page);
        copies[slot] = consider_slot(found, &page, slot, uuid);
        if (copies[slot] < 0) {
            return copies[slot];
        }
    }
    if (found->what) {
        return 0;
    }
    if (!copies[0] || !copies[1]) {
        found->what = found->sequence ? "one of its headers is damaged"
                                      : "it has no header";
    } else if (found->newest > found->sequence) {
        found->what = "its newest header is missing";
    } else if (found->pages !=
               bitmap_file_pages(
                   clusters_for(found->size_bytes, found->cluster_bits & 63))) {
        found->what = "its header contradicts itself";
    } else {
        found->is_sound = true;
    }
    return 0;
}
