/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * aside.c - which clusters are kept, and in which of the three places
 *
 * Two bitmaps say most of it: `kept` has all clusters with a copy, `zero`
 * those whose copy is nothing but zeroes. One that is kept, not zero, and in
 * no buffer is in the file. Buffers are a few hundred at most, so who has
 * which cluster is found by looking at all of them.
 *
 *   state of a buffer   entered by               left by
 *   ------------------  -----------------------  ---------------------------
 *   FREE                spilled, give, end, drop take
 *   TAKEN               take                     put, give
 *   FULL                put, a spill that failed spill
 *   SPILLING            spill                    spilled, drop
 *
 * The end of a cut finds some of them TAKEN or SPILLING, with I/O under way:
 * their cluster is forgotten at once, and they are FREE when that has ended.
 */
#include "aside.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BUFFERS_MIN 2
#define NOBODY      UINT64_MAX

enum BufferState { BUFFER_FREE, BUFFER_TAKEN, BUFFER_FULL, BUFFER_SPILLING };

struct Aside {
    /* set at creation */
    unsigned cluster_bits;
    unsigned n_buffers;
    unsigned char *memory;

    bool is_on; /* the writer's */

    pthread_mutex_t lock;
    /* guarded by lock; only the writer changes them */
    Bitmap *kept, *zero;
    uint64_t *cluster; /* of a buffer, or NOBODY */
    uint64_t *put_at;  /* of a full one: the order of puts */
    uint8_t *state;    /* enum BufferState */
    uint64_t puts;
    unsigned n_free;
    unsigned n_holding; /* buffers whose cluster is kept in them */
};

static void
lock(Aside *aside)
{
    int r = pthread_mutex_lock(&aside->lock);

    assert(r == 0);
}

static void
unlock(Aside *aside)
{
    int r = pthread_mutex_unlock(&aside->lock);

    assert(r == 0);
}

static size_t
cluster_bytes(const Aside *aside)
{
    return (size_t)1 << aside->cluster_bits;
}

static void *
buffer_at(const Aside *aside, unsigned index)
{
    return aside->memory + index * cluster_bytes(aside);
}

static unsigned
index_of(const Aside *aside, const void *buffer)
{
    size_t offset = (size_t)((const unsigned char *)buffer - aside->memory);

    assert(offset % cluster_bytes(aside) == 0);
    assert(offset / cluster_bytes(aside) < aside->n_buffers);
    return (unsigned)(offset / cluster_bytes(aside));
}

/* The buffer that holds @cluster, or n_buffers. */
static unsigned
find_locked(const Aside *aside, uint64_t cluster)
{
    unsigned i = 0;

    while (i < aside->n_buffers && aside->cluster[i] != cluster) {
        i++;
    }
    return i;
}

/* Pages, not malloc()'s: a buffer that was never used takes no memory, whatever
 * an allocator does to what it hands out. NULL: none. */
static void *
map_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

Aside *
aside_new(uint64_t size_bytes, unsigned cluster_bits, size_t ram_bytes)
{
    Aside *aside = calloc(1, sizeof(*aside));
    size_t n = ram_bytes >> cluster_bits;

    if (!aside) {
        return NULL;
    }
    if (pthread_mutex_init(&aside->lock, NULL)) {
        free(aside);
        return NULL;
    }
    n = n < BUFFERS_MIN ? BUFFERS_MIN : n;
    aside->cluster_bits = cluster_bits;
    aside->n_buffers = aside->n_free = (unsigned)n;
    aside->kept = bitmap_new(size_bytes, cluster_bits);
    aside->zero = bitmap_new(size_bytes, cluster_bits);
    aside->cluster = malloc(n * sizeof(*aside->cluster));
    aside->put_at = calloc(n, sizeof(*aside->put_at));
    aside->state = calloc(n, sizeof(*aside->state));
    aside->memory = map_memory(n << cluster_bits);
    if (!aside->kept || !aside->zero || !aside->cluster || !aside->put_at ||
        !aside->state || !aside->memory) {
        aside_free(aside);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        aside->cluster[i] = NOBODY;
    }
    return aside;
}

void
aside_free(Aside *aside)
{
    if (!aside) {
        return;
    }
    bitmap_free(aside->kept);
    bitmap_free(aside->zero);
    free(aside->cluster);
    free(aside->put_at);
    free(aside->state);
    if (aside->memory) {
        munmap(aside->memory, (size_t)aside->n_buffers << aside->cluster_bits);
    }
    pthread_mutex_destroy(&aside->lock);
    free(aside);
}

int
aside_grow(Aside *aside, uint64_t size_bytes)
{
    int r = 0;

    lock(aside);
    if (size_bytes <= bitmap_size_bytes(aside->kept)) {
        unlock(aside); /* as of a resize that failed further on */
        return 0;
    }
    r = bitmap_reserve(aside->kept, size_bytes);
    r = r < 0 ? r : bitmap_reserve(aside->zero, size_bytes);
    if (r == 0) {
        int grown = bitmap_grow(aside->kept, size_bytes);

        grown |= bitmap_grow(aside->zero, size_bytes);
        assert(grown == 0); /* it was reserved */
    }
    unlock(aside);
    return r;
}

void
aside_begin(Aside *aside)
{
    assert(!aside->is_on && !bitmap_count(aside->kept));
    aside->is_on = true;
}

void
aside_end(Aside *aside)
{
    lock(aside);
    aside->is_on = false;
    bitmap_clear_all(aside->kept);
    bitmap_clear_all(aside->zero);
    for (unsigned i = 0; i < aside->n_buffers; i++) {
        aside->cluster[i] = NOBODY;
        if (aside->state[i] == BUFFER_FULL) {
            aside->state[i] = BUFFER_FREE;
            aside->n_free++;
        }
    }
    aside->n_holding = 0;
    unlock(aside);
}

bool
aside_is_on(const Aside *aside)
{
    return aside && aside->is_on;
}

bool
aside_next_missing(const Aside *aside, uint64_t from, uint64_t end,
                   struct ClusterRun *run)
{
    uint64_t first = bitmap_next_clean(aside->kept, from);
    uint64_t next;

    if (first >= end) {
        return false;
    }
    next = bitmap_next_dirty(aside->kept, first);
    *run = (struct ClusterRun){first, (next < end ? next : end) - first};
    return true;
}

/*
 * Buffers
 */
void *
aside_take(Aside *aside)
{
    void *buffer = NULL;

    lock(aside);
    for (unsigned i = 0; aside->n_free && i < aside->n_buffers; i++) {
        if (aside->state[i] == BUFFER_FREE) {
            aside->state[i] = BUFFER_TAKEN;
            aside->n_free--;
            buffer = buffer_at(aside, i);
            break;
        }
    }
    unlock(aside);
    return buffer;
}

void
aside_give(Aside *aside, void *buffer)
{
    unsigned i = index_of(aside, buffer);

    lock(aside);
    assert(aside->state[i] == BUFFER_TAKEN);
    aside->state[i] = BUFFER_FREE;
    aside->n_free++;
    unlock(aside);
}

void
aside_put(Aside *aside, uint64_t cluster, void *buffer)
{
    unsigned i = index_of(aside, buffer);

    lock(aside);
    assert(aside->is_on && aside->state[i] == BUFFER_TAKEN);
    assert(!bitmap_get(aside->kept, cluster));
    bitmap_set_run(aside->kept, (struct ClusterRun){cluster, 1});
    aside->state[i] = BUFFER_FULL;
    aside->cluster[i] = cluster;
    aside->put_at[i] = ++aside->puts;
    aside->n_holding++;
    unlock(aside);
}

void
aside_put_zeroes(Aside *aside, struct ClusterRun run)
{
    lock(aside);
    assert(aside->is_on);
    assert(!bitmap_count_run(aside->kept, run));
    bitmap_set_run(aside->kept, run);
    bitmap_set_run(aside->zero, run);
    unlock(aside);
}

/* The full buffer that was put first after put number @mark, or n_buffers. */
static unsigned
oldest_locked(const Aside *aside, uint64_t mark)
{
    unsigned oldest = aside->n_buffers;

    for (unsigned i = 0; i < aside->n_buffers; i++) {
        if (aside->state[i] == BUFFER_FULL && aside->put_at[i] > mark &&
            (oldest == aside->n_buffers ||
             aside->put_at[i] < aside->put_at[oldest])) {
            oldest = i;
        }
    }
    return oldest;
}

const void *
aside_spill(Aside *aside, uint64_t *cluster)
{
    const void *buffer = NULL;
    unsigned oldest;

    lock(aside);
    oldest = oldest_locked(aside, 0);
    if (oldest < aside->n_buffers) {
        aside->state[oldest] = BUFFER_SPILLING;
        *cluster = aside->cluster[oldest];
        buffer = buffer_at(aside, oldest);
    }
    unlock(aside);
    return buffer;
}

void
aside_spilled(Aside *aside, const void *buffer, bool is_written)
{
    unsigned i = index_of(aside, buffer);

    lock(aside);
    assert(aside->state[i] == BUFFER_SPILLING);
    if (is_written || aside->cluster[i] == NOBODY) {
        aside->n_holding -= aside->cluster[i] != NOBODY;
        aside->cluster[i] = NOBODY;
        aside->state[i] = BUFFER_FREE;
        aside->n_free++;
    } else {
        aside->state[i] = BUFFER_FULL;
    }
    unlock(aside);
}

void
aside_drop(Aside *aside, const void *buffer)
{
    unsigned i = index_of(aside, buffer);

    lock(aside);
    assert(aside->state[i] == BUFFER_SPILLING);
    if (aside->cluster[i] != NOBODY) {
        bitmap_clear_run(aside->kept,
                         (struct ClusterRun){aside->cluster[i], 1});
    }
    unlock(aside);
    aside_spilled(aside, buffer, true);
}

/*
 * Looking
 */
static enum AsidePlace
place_locked(const Aside *aside, uint64_t cluster)
{
    if (!bitmap_get(aside->kept, cluster)) {
        return ASIDE_NONE;
    }
    if (bitmap_get(aside->zero, cluster)) {
        return ASIDE_ZERO;
    }
    return aside->n_holding && find_locked(aside, cluster) < aside->n_buffers
               ? ASIDE_RAM
               : ASIDE_FILE;
}

enum AsidePlace
aside_fetch(Aside *aside, uint64_t cluster, uint64_t max, void *to,
            uint64_t *count)
{
    enum AsidePlace place;

    lock(aside);
    place = place_locked(aside, cluster);
    *count = 1;
    if (place == ASIDE_RAM && to) {
        memcpy(to, buffer_at(aside, find_locked(aside, cluster)),
               cluster_bytes(aside));
    } else {
        while (*count < max && place_locked(aside, cluster + *count) == place) {
            ++*count;
        }
    }
    unlock(aside);
    return place;
}

uint64_t
aside_next_kept(Aside *aside, uint64_t from, uint64_t end)
{
    uint64_t next;

    lock(aside);
    next = bitmap_next_dirty(aside->kept, from);
    unlock(aside);
    return next < end ? next : end;
}

bool
aside_next_put(Aside *aside, uint64_t *mark, uint64_t *cluster)
{
    unsigned i = aside->n_buffers;

    lock(aside);
    if (aside->puts > *mark) {
        i = oldest_locked(aside, *mark);
        *mark = i < aside->n_buffers ? aside->put_at[i] : aside->puts;
    }
    if (i < aside->n_buffers) {
        *cluster = aside->cluster[i];
    }
    unlock(aside);
    return i < aside->n_buffers;
}

void
aside_figures(Aside *aside, struct AsideFigures *figures)
{
    lock(aside);
    uint64_t kept = bitmap_count(aside->kept) - bitmap_count(aside->zero);

    *figures = (struct AsideFigures){
        .kept_clusters = kept,
        .file_clusters = kept - aside->n_holding,
        .free_buffers = aside->n_free,
        .buffers = aside->n_buffers,
    };
    unlock(aside);
}
