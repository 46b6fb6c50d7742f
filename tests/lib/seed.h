/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * seed.h - random numbers that can be had again
 *
 * Purpose: a test's seed comes from argv[1] or else from the clock, and is
 *          printed, so that a run that failed can be repeated.
 * Threads: a Seed belongs to one thread.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct Seed {
    uint64_t state;
} Seed;

/* splitmix64 */
static inline uint64_t
seed_next(Seed *seed)
{
    uint64_t z = seed->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 .. @n - 1 */
static inline uint64_t
seed_below(Seed *seed, uint64_t n)
{
    return seed_next(seed) % n;
}

static inline uint64_t
seed_from_args(int argc, char **argv)
{
    uint64_t seed;

    if (argc > 1) {
        seed = strtoull(argv[1], NULL, 0);
    } else {
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        seed = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    }
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}
