/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Heating: the first write into a cold extent waits until the intent file says
 * so, durably (rule 1). A hot extent costs nothing here.
 *
 *   write meets a cold extent -> waits, holding and marking nothing
 *   end of the batch          -> one commit for all that wait: each page that
 *                                they need is encoded and written once, synced
 *                                by the write itself, all pages at once
 *   all pages are there       -> their extents are hot; the waiters try again
 *
 * What comes meanwhile waits for the next commit. So a page never has two
 * writes in flight (rule 11), and a thousand cold writes cost a few commits.
 * If a page cannot be written, who needs it gets the error and has changed
 * nothing; the next write tries again (rule 21).
 *
 * Commits that follow each other closely, with many waiters or each where the
 * last one ended, heat more than they are asked for: the aligned group around
 * each cold extent doubles, up to the extents of a whole sector, and is one
 * extent again after a quiet second. A guest with one write at a time that spends
 * much of its time in several of them in a row gets a few extents with each as
 * well. Heat that nobody needed costs a comparison after a crash, makes named
 * bitmaps dirtier then, and is gone after the keeper's next rounds.
 *
 * Cooling is the keeper's (keeper.c): what it found cold is turned off here,
 * where nobody changes what is hot at the same time, and the pages are written
 * again between two commits. Nobody waits for those; an old image of one is
 * only too hot.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_US    (100 * 1000)  /* commits nearer than that are a burst */
#define QUIET_US    (1000 * 1000) /* ends a burst */
#define MANY        4             /* waiters of a commit */
#define GROUP_MAX   4096u         /* covers a sector's 3776 extents */
#define AWAY_MAX    4             /* commits' time until the next */
#define HELD_UP     4             /* such ones double the group ... */
#define GROUP_ALONE 16u           /* ... up to this */
#define HEAT_BUFFER ((size_t)FACE_HEAT_PAGES * INTENT_PAGE)

static FaceDisk *
disk_of(FaceHeat *heat)
{
    return (FaceDisk *)((char *)heat - offsetof(FaceDisk, heat));
}

int
face_heat_open(FaceDisk *disk)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    StoreIo *io = disk->face->config.store->io;
    FaceHeat *heat = &disk->heat;
    int dir_fd = disk->disk->dir_fd;

    if (!disk_map_is_tracked(disk->disk->map)) {
        return 0;
    }
    heat->pages = aligned_alloc(INTENT_PAGE, HEAT_BUFFER);
    g_assert(heat->pages);
    heat->group = 1;
    heat->fd = io->ops->open(io, dir_fd, INTENT_FILE, flags | O_DIRECT, 0);
    if (heat->fd == -EINVAL) {
        heat->fd = io->ops->open(io, dir_fd, INTENT_FILE, flags, 0);
    }
    return heat->fd < 0 ? heat->fd : 0;
}

void
face_heat_close(FaceDisk *disk)
{
    StoreIo *io = disk->face->config.store->io;

    if (disk->heat.pages && disk->heat.fd >= 0) {
        io->ops->close(io, disk->heat.fd);
    }
    free(disk->heat.pages);
}

/*
 * Which extents
 */

/* The group around @extent, which is within one sector. */
static struct ClusterRun
group_around(const FaceHeat *heat, uint64_t extent)
{
    uint64_t sector = extent - extent % INTENT_SECTOR_BITS;
    uint64_t first =
        sector + ((extent - sector) & ~(uint64_t)(heat->group - 1));

    return (struct ClusterRun){
        first, MIN(heat->group, sector + INTENT_SECTOR_BITS - first)};
}

static struct ClusterRun
run_of(FaceDisk *disk, const FaceHeatWait *wait)
{
    uint64_t size = disk->disk->size_bytes;
    uint64_t extents = clusters_for(size, INTENT_EXTENT_BITS);
    struct ClusterRun run =
        run_outward(wait->offset, wait->len, INTENT_EXTENT_BITS);
    struct ClusterRun head = group_around(&disk->heat, run.first);
    struct ClusterRun tail =
        group_around(&disk->heat, run.first + run.count - 1);
    uint64_t end = MIN(tail.first + tail.count, extents);

    return (struct ClusterRun){head.first, end - head.first};
}

/* How much more than it was asked for this commit heats. */
static void
adapt(FaceHeat *heat, unsigned waiters, uint64_t first)
{
    int64_t now_us = face_now_us();
    int64_t since_us = now_us - heat->last_us;
    int64_t took_us = heat->ended_us - heat->last_us;
    bool is_close = since_us < CLOSE_US;
    bool is_burst = is_close && (waiters >= MANY || first == heat->last_end);
    bool is_held_up = is_close && now_us - heat->ended_us < AWAY_MAX * took_us;

    heat->held_up = is_held_up ? heat->held_up + 1 : 0;
    if (since_us > QUIET_US) {
        heat->group = 1;
    } else if (is_burst && heat->group < GROUP_MAX) {
        heat->group *= 2;
    } else if (heat->held_up >= HELD_UP && heat->group < GROUP_ALONE) {
        heat->group *= 2;
        heat->held_up = 0;
    }
    heat->last_us = now_us;
}

/*
 * Writing pages
 */

static void commit_go_on(FaceHeat *heat);

/* The next page, from @from on, in which somebody who waits needs a bit;
 * UINT64_MAX: none. */
static uint64_t
next_page(const FaceHeat *heat, uint64_t from)
{
    uint64_t found = UINT64_MAX;

    for (FaceHeatWait *wait = heat->committing; wait; wait = wait->next) {
        uint64_t first = wait->run.first / INTENT_PAGE_BITS;
        uint64_t last =
            (wait->run.first + wait->run.count - 1) / INTENT_PAGE_BITS;

        if (last >= from) {
            found = MIN(found, MAX(first, from));
        }
    }
    return found;
}

static void
submit_page(FaceHeat *heat, struct FaceHeatPage *slot, uint64_t number,
            enum StoreOp op, void (*done)(FaceIo *, int))
{
    FaceDisk *disk = disk_of(heat);
    Store *store = disk->face->config.store;
    struct IntentPage *page =
        (struct IntentPage *)heat->pages + (slot - heat->slots);
    struct IntentMark mark = {
        .epoch = store->epoch,
        .sequence = atomic_load(&disk->disk->checkpoint_sequence),
    };
    uint64_t words[INTENT_PAGE_WORDS];

    memcpy(mark.uuid, store->uuid, sizeof(mark.uuid));
    intent_page_fill(page, words,
                     disk_map_hot_words(disk->disk->map,
                                        number * INTENT_PAGE_WORDS, words,
                                        INTENT_PAGE_WORDS));
    for (FaceHeatWait *wait = heat->committing; wait; wait = wait->next) {
        intent_page_set(page, number, wait->run);
    }
    intent_page_seal(page, number, &mark);
    slot->is_busy = true;
    slot->number = number;
    slot->heat = heat;
    slot->io.store = (StoreReq){.op = op,
                                .fd = heat->fd,
                                .buf = page,
                                .offset = number * INTENT_PAGE,
                                .len = INTENT_PAGE};
    heat->in_flight++;
    disk->face->count.intent_writes++;
    face_submit(disk->face, &slot->io, done);
}

/* What the commit wanted of this page is durable. */
static void
heat_page(FaceHeat *heat, uint64_t number)
{
    DiskMap *map = disk_of(heat)->disk->map;
    uint64_t first = number * INTENT_PAGE_BITS;

    for (FaceHeatWait *wait = heat->committing; wait; wait = wait->next) {
        uint64_t from = MAX(wait->run.first, first);
        uint64_t end =
            MIN(wait->run.first + wait->run.count, first + INTENT_PAGE_BITS);

        if (from < end) {
            disk_map_heat(map, (struct ClusterRun){from, end - from});
        }
    }
}

static struct FaceHeatPage *
page_of(FaceIo *io)
{
    struct FaceHeatPage *slot =
        (struct FaceHeatPage *)((char *)io - offsetof(struct FaceHeatPage, io));

    slot->is_busy = false;
    slot->heat->in_flight--;
    return slot;
}

static void
commit_page_done(FaceIo *io, int res)
{
    struct FaceHeatPage *slot = page_of(io);

    if (res == INTENT_PAGE) {
        heat_page(slot->heat, slot->number);
    } else {
        slot->heat->error = res < 0 ? res : -EIO;
    }
    commit_go_on(slot->heat);
}

/*
 * A commit
 */

static void
commit_end(FaceHeat *heat)
{
    FaceHeatWait *wait = heat->committing, *next;
    FaceDisk *disk = disk_of(heat);

    heat->committing = NULL;
    heat->ended_us = face_now_us();
    for (; wait; wait = next) {
        next = wait->next;
        bool is_hot = disk_map_is_hot(disk->disk->map, wait->offset, wait->len);

        wait->go_on(wait, is_hot ? 0 : heat->error);
    }
}

static void
commit_go_on(FaceHeat *heat)
{
    for (unsigned i = 0; i < FACE_HEAT_PAGES; i++) {
        uint64_t number = next_page(heat, heat->next_page);

        if (number == UINT64_MAX) {
            break;
        }
        if (!heat->slots[i].is_busy) {
            heat->next_page = number + 1;
            submit_page(heat, &heat->slots[i], number, STORE_WRITE_SYNC,
                        commit_page_done);
        }
    }
    if (!heat->in_flight) {
        commit_end(heat);
    }
}

static void
commit_begin(FaceHeat *heat)
{
    FaceDisk *disk = disk_of(heat);
    unsigned waiters = 0;

    heat->committing = heat->waiting;
    heat->waiting = heat->waiting_tail = NULL;
    heat->next_page = 0;
    heat->error = 0;
    for (FaceHeatWait *wait = heat->committing; wait; wait = wait->next) {
        waiters++;
    }
    adapt(heat, waiters, heat->committing->offset >> INTENT_EXTENT_BITS);
    for (FaceHeatWait *wait = heat->committing; wait; wait = wait->next) {
        wait->run = run_of(disk, wait);
        heat->last_end = wait->run.first + wait->run.count;
    }
    commit_go_on(heat);
}

/*
 * Cooling
 */

static void
cool_done(FaceHeat *heat)
{
    Face *face = disk_of(heat)->face;
    struct FaceCool *cool = heat->cool;

    heat->cool = NULL;
    pthread_mutex_lock(&face->lock);
    cool->is_done = true;
    pthread_cond_broadcast(&face->cond);
    pthread_mutex_unlock(&face->lock);
}

static void
cool_page_done(FaceIo *io, int res)
{
    (void)page_of(io);
    (void)res; /* hotter than it could be, until the page's next write */
}

/* Some of the pages whose extents got cold. */
static void
cool_go_on(FaceHeat *heat)
{
    struct FaceCool *cool = heat->cool;

    if (!cool->is_begun) {
        cool->is_begun = true;
        disk_map_cool_end(disk_of(heat)->disk->map, cool->candidates,
                          cool->cooled);
        heat->next_page = 0;
        cool->next_page = 0;
    }
    for (unsigned i = 0; i < FACE_HEAT_PAGES; i++) {
        uint64_t extent =
            bitmap_next_dirty(cool->cooled, cool->next_page * INTENT_PAGE_BITS);

        if (extent == UINT64_MAX) {
            break;
        }
        cool->next_page = extent / INTENT_PAGE_BITS + 1;
        submit_page(heat, &heat->slots[i], cool->next_page - 1, STORE_WRITE,
                    cool_page_done);
    }
    if (!heat->in_flight) {
        cool_done(heat);
    }
}

void
face_heat_take_cool(struct FaceCool *cool)
{
    cool->disk->heat.cool = cool;
}

void
face_cool(Face *face, Disk *disk, const Bitmap *candidates, Bitmap *cooled)
{
    struct FaceCool cool = {
        .msg.kind = FACE_MSG_COOL,
        .disk = &face->disks[disk->index],
        .candidates = candidates,
        .cooled = cooled,
    };

    inbox_post(&face->inbox, &cool.msg);
    pthread_mutex_lock(&face->lock);
    while (!cool.is_done) {
        pthread_cond_wait(&face->cond, &face->lock);
    }
    pthread_mutex_unlock(&face->lock);
}

/*
 * Between two batches
 */

void
face_heat_run(FaceDisk *disk)
{
    FaceHeat *heat = &disk->heat;

    if (heat->in_flight || heat->committing) {
        return;
    }
    if (heat->waiting) {
        commit_begin(heat);
    } else if (heat->cool) {
        cool_go_on(heat);
    }
}

bool
face_heat_is_idle(const FaceDisk *disk)
{
    const FaceHeat *heat = &disk->heat;

    return !heat->in_flight && !heat->committing && !heat->waiting &&
           !heat->cool;
}

void
face_heat_wait(FaceDisk *disk, FaceHeatWait *wait, uint64_t offset,
               uint64_t len, void (*go_on)(FaceHeatWait *, int))
{
    FaceHeat *heat = &disk->heat;

    wait->offset = offset;
    wait->len = len;
    wait->go_on = go_on;
    wait->next = NULL;
    if (heat->waiting_tail) {
        heat->waiting_tail->next = wait;
    } else {
        heat->waiting = wait;
    }
    heat->waiting_tail = wait;
}
