/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * judge-internal.h - what the files of the judge share
 *
 * Purpose: judge.c goes through a state's life, judge-checks.c says what must
 *          hold at its stations.
 * Threads: the test's.
 * Units:   bytes, clusters.
 * Errors:  false, and the words in Judge.why.
 */
#pragma once

#include "judge.h"

static inline uint8_t *
cluster_of(const Judge *judge, uint8_t *image, uint64_t index)
{
    return image + (index << judge->cluster_bits);
}

static inline uint64_t
cluster_bytes(const Judge *judge)
{
    return UINT64_C(1) << judge->cluster_bits;
}

/* False, always. */
bool judge_refuse(Judge *judge, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool judge_check_oracle(Judge *judge);
bool judge_check_clean(Judge *judge, Disk *disk, const char *when);
/* What is believed of the target is true of all that it may become. */
bool judge_check_sums(Judge *judge, const Life *life);
bool judge_check_equal(Judge *judge, const char *when);
