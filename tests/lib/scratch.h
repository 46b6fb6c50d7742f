/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * scratch.h - a directory of its own for a test
 *
 * Purpose: real directories on a file system with O_DIRECT, under $TMPDIR or
 *          /var/tmp. Where all that a disk's file can be asked is needed, which a
 *          tmpfs has not: on a disk, under $WEIR_TEST_DIR or /var/tmp.
 * Errors:  a test without its directory ends the program.
 */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline int
scratch_remove_cb(const char *path, const struct stat *st, int type,
                  struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline char *
scratch_under(const char *variable)
{
    const char *base = getenv(variable);
    char *path;

    if (asprintf(&path, "%s/weir-test-XXXXXX", base ? base : "/var/tmp") < 0 ||
        !mkdtemp(path)) {
        perror("mkdtemp");
        abort();
    }
    return path;
}

/* malloc'd path of a new, empty directory. */
static inline char *
scratch_new(void)
{
    return scratch_under("TMPDIR");
}

/* The same, never in memory. */
static inline char *
scratch_on_disk(void)
{
    return scratch_under("WEIR_TEST_DIR");
}

static inline void
scratch_free(char *path)
{
    nftw(path, scratch_remove_cb, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}
