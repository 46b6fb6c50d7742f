/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * intent.c - sectors of hot bits, written in place
 *
 * Rule 11 asks for two slots per page. Here one is enough, and better:
 *
 *   - At most one write of a page is in flight, so images of a page reach the
 *     disk in the order in which they were made.
 *   - A loss of power leaves each sector of 512 bytes old or new. A bit is
 *     waited for before the write that it stands for, so that a sector that
 *     is old lacks only bits of writes that were never submitted; one with
 *     a bit too many costs a comparison of 4 MiB.
 *   - What is neither old nor new, but torn, rotten, of another place, store
 *     or epoch, fails its checksum or names the wrong place, and is hot. Two
 *     slots could not do better: an older image of a sector is one that lacks
 *     the newest bits, and must not be used whatever is wrong with the newer.
 *
 * So damage costs the comparison of its own 3776 extents, and never a bit.
 *
 * A bit goes off on the strength of a checkpoint, and the sector says of which
 * one: with an older checkpoint (somebody put one back) it is not believed.
 *
 * The file is written in full when a serve begins, so that writes in place
 * need no room. (A file system that never writes in place, such as btrfs,
 * needs some all the same; it may refuse a write, and so may we.)
 */
#include "intent.h"

#include "bitmap-page.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

_Static_assert(INTENT_PAGE == BITMAP_FILE_PAGE, "one way to read a page");

void
intent_page_fill(struct IntentPage *page, const uint64_t *words, size_t count)
{
    memset(page, 0, sizeof(*page));
    assert(count <= INTENT_PAGE_WORDS);
    for (size_t i = 0; i < count; i++) {
        page->sectors[i / INTENT_WORDS].words[i % INTENT_WORDS] =
            htole64(words[i]);
    }
}

void
intent_page_set(struct IntentPage *page, uint64_t number,
                struct ClusterRun extents)
{
    uint64_t first = number * INTENT_PAGE_BITS;
    uint64_t from = extents.first > first ? extents.first - first : 0;
    uint64_t end = extents.first + extents.count;

    end = end > first ? end - first : 0;
    end = end < INTENT_PAGE_BITS ? end : INTENT_PAGE_BITS;
    for (uint64_t bit = from; bit < end; bit++) {
        uint64_t w = bit / 64;

        page->sectors[w / INTENT_WORDS].words[w % INTENT_WORDS] |=
            htole64(UINT64_C(1) << (bit & 63));
    }
}

void
intent_page_seal(struct IntentPage *page, uint64_t number,
                 const struct IntentMark *mark)
{
    for (unsigned i = 0; i < INTENT_PAGE_SECTORS; i++) {
        struct IntentSector *sector = &page->sectors[i];

        sector->magic = htole32(INTENT_MAGIC);
        sector->number = htole32((uint32_t)(number * INTENT_PAGE_SECTORS + i));
        sector->epoch = htole64(mark->epoch);
        sector->sequence = htole64(mark->sequence);
        bitmap_file_checksum(sector, mark->uuid, sector->checksum);
    }
}

/* The page as @hot has it; NULL: all cold. */
static void
fill_from(struct IntentPage *page, const Bitmap *hot, uint64_t number)
{
    uint64_t first = number * INTENT_PAGE_WORDS;
    size_t count = 0;
    const uint64_t *words = hot ? bitmap_words(hot, &count) : NULL;

    count = count > first ? count - first : 0;
    intent_page_fill(page, count ? words + first : NULL,
                     count < INTENT_PAGE_WORDS ? count : INTENT_PAGE_WORDS);
}

static int
write_pages(StoreIo *io, int fd, const Bitmap *hot, uint64_t from, uint64_t end,
            const struct IntentMark *mark)
{
    struct IntentPage page;

    for (uint64_t number = from; number < end; number++) {
        ssize_t n;

        fill_from(&page, hot, number);
        intent_page_seal(&page, number, mark);
        n = io->ops->pwrite(io, fd, &page, sizeof(page), number * INTENT_PAGE);
        if (n != (ssize_t)sizeof(page)) {
            return n < 0 ? (int)n : -EIO;
        }
    }
    return io->ops->fsync(io, fd);
}

int
intent_save(StoreIo *io, int dirfd, const Bitmap *hot,
            const struct IntentMark *mark)
{
    uint64_t pages = intent_pages(bitmap_clusters(hot));
    int fd = io->ops->open(io, dirfd, INTENT_FILE, O_RDWR | O_CREAT | O_CLOEXEC,
                           0600);
    int r, close_r;

    assert(bitmap_cluster_bits(hot) == INTENT_EXTENT_BITS);
    if (fd < 0) {
        return fd;
    }
    r = write_pages(io, fd, hot, 0, pages, mark);
    close_r = io->ops->close(io, fd);
    r = r < 0 ? r : close_r;
    /* The name, if it is new; nothing to do if it is not. */
    return r < 0 ? r : io->ops->fsync(io, dirfd);
}

int
intent_grow(StoreIo *io, int dirfd, uint64_t old_extents, uint64_t new_extents,
            const struct IntentMark *mark)
{
    int fd = io->ops->open(io, dirfd, INTENT_FILE, O_RDWR | O_CLOEXEC, 0);
    int r, close_r;

    if (fd < 0) {
        return fd;
    }
    r = write_pages(io, fd, NULL, intent_pages(old_extents),
                    intent_pages(new_extents), mark);
    close_r = io->ops->close(io, fd);
    return r < 0 ? r : close_r;
}

/*
 * Loading
 */

static void
damaged(Bitmap *hot, struct IntentReport *report, uint64_t first,
        uint64_t count, const char *what)
{
    uint64_t extents = bitmap_clusters(hot);

    if (first >= extents) {
        return;
    }
    count = count < extents - first ? count : extents - first;
    bitmap_set_run(hot, (struct ClusterRun){first, count});
    report->damaged_extents += count;
    if (!report->what) {
        report->what = what;
    }
}

/* Why a sector is not to be believed, or NULL. */
static const char *
what_is_wrong(const struct IntentSector *sector, uint64_t number,
              const struct IntentMark *want, struct IntentReport *report)
{
    uint64_t epoch = le64toh(sector->epoch);
    uint8_t sum[16];

    if (le32toh(sector->magic) != INTENT_MAGIC ||
        le32toh(sector->number) != number) {
        return "a sector is missing or damaged";
    }
    bitmap_file_checksum(sector, want->uuid, sum);
    if (memcmp(sum, sector->checksum, sizeof(sum)) != 0) {
        return "a sector is damaged, or another store's";
    }
    report->newest = report->newest > epoch ? report->newest : epoch;
    if (epoch < want->epoch) {
        return "a sector is of an earlier time";
    }
    if (le64toh(sector->sequence) > want->sequence) {
        return "a sector relies on a checkpoint that is not there";
    }
    return NULL;
}

static void
load_sector(const struct IntentSector *sector, uint64_t number, Bitmap *hot,
            const struct IntentMark *want, struct IntentReport *report)
{
    const char *what = what_is_wrong(sector, number, want, report);
    uint64_t words[INTENT_WORDS];
    uint64_t first = number * INTENT_WORDS;
    size_t count;

    if (what) {
        damaged(hot, report, first * 64, INTENT_SECTOR_BITS, what);
        return;
    }
    (void)bitmap_words(hot, &count);
    if (first >= count) {
        return;
    }
    count = count - first < INTENT_WORDS ? count - first : INTENT_WORDS;
    for (size_t i = 0; i < count; i++) {
        words[i] = le64toh(sector->words[i]);
    }
    bitmap_load_words(hot, first, words, count);
}

void
intent_load(StoreIo *io, int dirfd, Bitmap *hot, const struct IntentMark *want,
            struct IntentReport *report)
{
    uint64_t pages = intent_pages(bitmap_clusters(hot));
    int fd = io->ops->open(io, dirfd, INTENT_FILE, O_RDONLY | O_CLOEXEC, 0);

    assert(bitmap_cluster_bits(hot) == INTENT_EXTENT_BITS);
    *report = (struct IntentReport){0};
    if (fd < 0) {
        damaged(hot, report, 0, UINT64_MAX,
                fd == -ENOENT ? "there is no file" : "it cannot be opened");
        return;
    }
    for (uint64_t number = 0; number < pages; number++) {
        struct IntentPage page;

        bitmap_file_get_page(io, fd, number * INTENT_PAGE, &page);
        for (unsigned i = 0; i < INTENT_PAGE_SECTORS; i++) {
            load_sector(&page.sectors[i], number * INTENT_PAGE_SECTORS + i, hot,
                        want, report);
        }
    }
    (void)io->ops->close(io, fd);
}
