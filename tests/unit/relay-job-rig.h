/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * relay-job-rig.h - a job of the rig's first disk, to the file of the second
 *
 * Purpose: what the tests of jobs at a real relay share. There is one at a time.
 * Threads: the test's main thread.
 * Errors:  asserted; what never comes fails the test.
 */
#pragma once

#include "relay-rig.h"

#define NAME "job/1"

struct Job {
    DiskMap *map;
    struct RelayDiskConfig config; /* may be changed before it is added */
};

extern struct Job job;

int job_setup(void **state);
int job_teardown(void **state);

/* With a map of its own, in which nothing is dirty. */
void job_new(unsigned cluster_bits, const char *target);
void job_add(void);
void job_mark(uint64_t offset, uint64_t len);
struct RelayFigures job_figures(void);
uint64_t job_left(void); /* clusters */
bool job_is_copied(void);
bool job_is_online(void);
/* Until it has ended; its figures stay. */
void job_end(void);
/* What it borrowed is gone at once, so that a late look at it is seen; its files,
 * too, or not. */
void job_forget(void);
void job_leave(void);

char *job_image(const char *path);
void job_assert_target(const char *want, uint64_t from, uint64_t to);
void job_blank_target(void);
