/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * generations.c - the bits of a disk, by the interval they were marked in
 *
 *   marks                         settled runs
 *     |                                |
 *     v          seal                  v       retire (nothing dirty in it)
 *   [ open ] ------------> [ ... sealed, oldest ] ------------> bitmap back
 *
 * What was sealed in vain is taken back: its bits go to the open one, which
 * then has its number.
 *
 * Sealing moves the open bitmap to the end of the queue and takes a spare one:
 * no bit is copied, whatever the size of the disk.
 *
 * A cluster is dirty if some generation has it. dirty_clusters, the number of
 * those, changes by the clusters of a run that no generation has: all of them
 * when the run is marked, the difference before and after when it is settled.
 * generations_count_clean() finds them in the words of the run alone.
 */
#include "generations.h"

#include <errno.h>

int
generations_init(Generations *gens, uint64_t size_bytes, unsigned cluster_bits)
{
    *gens = (Generations){.open.seq = 1};
    gens->open.bits = bitmap_new(size_bytes, cluster_bits);
    return gens->open.bits ? 0 : -ENOMEM;
}

void
generations_deinit(Generations *gens)
{
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        bitmap_free(gens->sealed[i].bits);
    }
    bitmap_free(gens->open.bits);
    *gens = (Generations){0};
}

static void
grow_bits(Bitmap *bits, uint64_t size_bytes)
{
    int r = bitmap_grow(bits, size_bytes);

    assert(r == 0); /* it was reserved */
}

int
generations_grow(Generations *gens, uint64_t size_bytes)
{
    int r = bitmap_reserve(gens->open.bits, size_bytes);

    for (unsigned i = 0; r == 0 && i < gens->n_sealed; i++) {
        r = bitmap_reserve(gens->sealed[i].bits, size_bytes);
    }
    if (r < 0) {
        return r;
    }
    grow_bits(gens->open.bits, size_bytes);
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        grow_bits(gens->sealed[i].bits, size_bytes);
    }
    return 0;
}

/* Word @w of the union. */
static uint64_t
union_word(const Generations *gens, uint64_t w)
{
    uint64_t word = bitmap_word(gens->open.bits, w);

    for (unsigned i = 0; i < gens->n_sealed; i++) {
        word |= bitmap_word(gens->sealed[i].bits, w);
    }
    return word;
}

/* The only generation that has something in @run; NULL if several have. If
 * none has, any will do. */
static const Bitmap *
only_one_with(const Generations *gens, struct ClusterRun run)
{
    uint64_t end = run.first + run.count;
    const Bitmap *one = gens->open.bits;

    for (unsigned i = 0; i < gens->n_sealed; i++) {
        const Bitmap *bits = gens->sealed[i].bits;

        if (bitmap_next_dirty(bits, run.first) >= end) {
            continue;
        }
        if (bitmap_next_dirty(one, run.first) < end) {
            return NULL;
        }
        one = bits;
    }
    return one;
}

uint64_t
generations_count_clean(const Generations *gens, struct ClusterRun run)
{
    uint64_t at = run.first;
    uint64_t end = run.first + run.count;
    uint64_t dirty = 0;

    if (run.count > 256) {
        const Bitmap *one = only_one_with(gens, run);

        if (one) {
            return run.count - bitmap_count_run(one, run);
        }
    }
    while (at < end) {
        uint64_t word_end = (at | 63) + 1;
        uint64_t stop = word_end < end ? word_end : end;
        uint64_t word = union_word(gens, at >> 6) >> (at & 63);

        word &= UINT64_MAX >> (64 - (stop - at));
        dirty += (unsigned)__builtin_popcountll(word);
        at = stop;
    }
    return run.count - dirty;
}

void
generations_mark(Generations *gens, struct ClusterRun run, int64_t now_us)
{
    uint64_t clean;

    /* The hot case: a cluster that is dirty in the open generation. */
    if (!run.count ||
        (run.count == 1 && bitmap_get(gens->open.bits, run.first))) {
        return;
    }
    clean = generations_count_clean(gens, run);
    if (!bitmap_count(gens->open.bits)) {
        gens->open.first_mark_us = now_us;
    }
    gens->dirtied_clusters += bitmap_set_run(gens->open.bits, run);
    gens->dirty_clusters += clean;
}

/* Word by word, however finely @from is broken up. */
void
generations_load(Generations *gens, const Bitmap *from, struct ClusterRun run,
                 int64_t now_us)
{
    uint64_t clean = generations_count_clean(gens, run);
    bool was_empty = !bitmap_count(gens->open.bits);

    gens->dirtied_clusters += bitmap_merge_run(gens->open.bits, from, run);
    gens->dirty_clusters += clean - generations_count_clean(gens, run);
    if (was_empty && bitmap_count(gens->open.bits)) {
        gens->open.first_mark_us = now_us;
    }
}

bool
generations_can_seal(const Generations *gens)
{
    return bitmap_count(gens->open.bits) &&
           gens->n_sealed < DISK_MAP_SEALED_MAX;
}

uint64_t
generations_seal(Generations *gens, Bitmap *spare)
{
    uint64_t seq = gens->open.seq;

    assert(generations_can_seal(gens));
    assert(bitmap_size_bytes(spare) == bitmap_size_bytes(gens->open.bits));
    gens->sealed[gens->n_sealed++] = gens->open;
    gens->open = (struct Generation){.bits = spare, .seq = seq + 1};
    return seq;
}

void
generations_settle(Generations *gens, struct ClusterRun run)
{
    uint64_t clean;

    assert(gens->n_sealed);
    clean = generations_count_clean(gens, run);
    bitmap_clear_run(gens->sealed[0].bits, run);
    gens->dirty_clusters -= generations_count_clean(gens, run) - clean;
}

Bitmap *
generations_retire(Generations *gens)
{
    Bitmap *bits;

    if (!gens->n_sealed || bitmap_count(gens->sealed[0].bits)) {
        return NULL;
    }
    bits = gens->sealed[0].bits;
    gens->n_sealed--;
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        gens->sealed[i] = gens->sealed[i + 1];
    }
    return bits;
}

void
generations_reopen(Generations *gens, struct ClusterRun slice)
{
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        struct Generation *from = &gens->sealed[i];

        if (!bitmap_count(gens->open.bits)) {
            gens->open.first_mark_us = from->first_mark_us;
        } else if (bitmap_count(from->bits)) {
            gens->open.first_mark_us =
                from->first_mark_us < gens->open.first_mark_us
                    ? from->first_mark_us
                    : gens->open.first_mark_us;
        }
        bitmap_merge_run(gens->open.bits, from->bits, slice);
    }
}

Bitmap *
generations_drop_sealed(Generations *gens)
{
    if (!gens->n_sealed) {
        return NULL;
    }
    struct Generation *last = &gens->sealed[--gens->n_sealed];

    gens->open.seq = last->seq;
    return last->bits;
}

bool
generations_next_sealed(const Generations *gens, uint64_t from, uint64_t end,
                        struct ClusterRun *run)
{
    bool found = false;

    for (unsigned i = 0; i < gens->n_sealed && from < end; i++) {
        struct ClusterRun next;

        if (bitmap_next_run(gens->sealed[i].bits, from, end - from, &next) &&
            next.first < end && (!found || next.first < run->first)) {
            *run = next;
            found = true;
        }
    }
    if (found && run->count > end - run->first) {
        run->count = end - run->first;
    }
    return found;
}

bool
generations_is_clean(const Generations *gens, struct ClusterRun run)
{
    uint64_t end = run.first + run.count;
    bool is_clean = bitmap_next_dirty(gens->open.bits, run.first) >= end;

    for (unsigned i = 0; is_clean && i < gens->n_sealed; i++) {
        is_clean = bitmap_next_dirty(gens->sealed[i].bits, run.first) >= end;
    }
    return is_clean;
}

uint64_t
generations_next_clean(const Generations *gens, struct ClusterRun slice,
                       bool *found)
{
    uint64_t end = slice.first + slice.count;
    uint64_t at = bitmap_next_clean(gens->open.bits, slice.first);

    /* Each of them says: nothing before this one. */
    for (unsigned i = 0; i < gens->n_sealed && at != UINT64_MAX; i++) {
        at = bitmap_next_clean(gens->sealed[i].bits, at);
    }
    *found = false;
    while (at < end) {
        uint64_t word = ~union_word(gens, at >> 6) >> (at & 63);

        if (word) {
            at += (unsigned)__builtin_ctzll(word);
            *found = at < end;
            return at;
        }
        at = (at | 63) + 1;
    }
    return at;
}

void
generations_merge(const Generations *gens, Bitmap *into, struct ClusterRun run)
{
    bitmap_merge_run(into, gens->open.bits, run);
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        bitmap_merge_run(into, gens->sealed[i].bits, run);
    }
}

uint64_t
generations_settled_seq(const Generations *gens)
{
    if (gens->n_sealed) {
        return gens->sealed[0].seq - 1;
    }
    /* What is open counts only once something was marked in it. */
    return gens->open.seq - (bitmap_count(gens->open.bits) != 0);
}

uint64_t
generations_sealed_clusters(const Generations *gens)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < gens->n_sealed; i++) {
        sum += bitmap_count(gens->sealed[i].bits);
    }
    return sum;
}

int64_t
generations_oldest_mark_us(const Generations *gens)
{
    for (unsigned i = 0; i < gens->n_sealed; i++) {
        if (bitmap_count(gens->sealed[i].bits)) {
            return gens->sealed[i].first_mark_us;
        }
    }
    return bitmap_count(gens->open.bits) ? gens->open.first_mark_us : 0;
}
