/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * range.h - byte ranges, cluster runs, and the arithmetic between them
 *
 * Purpose: the one place where offset and length are added, and where bytes
 *          become clusters. A range comes from the guest, a file or the
 *          network; nobody else adds the two numbers up.
 * Threads: any; pure functions.
 * Units:   offsets and lengths in bytes, runs in clusters.
 * Shapes:  cluster = bytes >> cluster_bits; the last one may be partial.
 * Errors:  false for a range that wraps or leaves its limit.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

/* A run of clusters: @count of them, from @first on. */
struct ClusterRun {
    uint64_t first;
    uint64_t count;
};

/* *@end = @offset + @len, if that does not wrap and is at most @limit. */
static inline bool
range_end(uint64_t offset, uint64_t len, uint64_t limit, uint64_t *end)
{
    return !__builtin_add_overflow(offset, len, end) && *end <= limit;
}

static inline bool
ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && (a < b ? b - a < a_len : a - b < b_len);
}

/* Smallest number of clusters that covers @bytes. */
static inline uint64_t
clusters_for(uint64_t bytes, unsigned cluster_bits)
{
    uint64_t mask = (UINT64_C(1) << cluster_bits) - 1;

    return (bytes >> cluster_bits) + ((bytes & mask) != 0);
}

/*
 * run_outward() - every cluster that the range touches (for setting)
 * The caller has checked the range with range_end().
 */
static inline struct ClusterRun
run_outward(uint64_t offset, uint64_t len, unsigned cluster_bits)
{
    uint64_t first = offset >> cluster_bits;

    assert(offset + len >= offset);
    if (!len) {
        return (struct ClusterRun){first, 0};
    }
    return (struct ClusterRun){first, clusters_for(offset + len, cluster_bits) -
                                          first};
}

/*
 * run_inward() - every cluster that the range covers wholly (for clearing)
 * @size: size of the disk; a range that reaches it covers a partial last
 *        cluster wholly.
 */
static inline struct ClusterRun
run_inward(uint64_t offset, uint64_t len, uint64_t size, unsigned cluster_bits)
{
    uint64_t first = clusters_for(offset, cluster_bits);
    uint64_t end = (offset + len == size) ? clusters_for(size, cluster_bits)
                                          : (offset + len) >> cluster_bits;

    assert(offset + len >= offset && offset + len <= size);
    return (struct ClusterRun){first, end > first ? end - first : 0};
}
