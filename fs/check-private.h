/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check-private.h - what the files of `weir check` share
 *
 * Purpose: a check under way, and how its findings are told and mended.
 * Threads: the main thread.
 */
#pragma once

#include "store-private.h"

struct Check {
    StoreIo *io;
    char *path;
    int dir_fd, lock_fd;
    bool repairs;
    GString *report;
    unsigned damages; /* told and not mended */
    struct Conf conf;
    struct State state; /* that an opening would go on from */
};

enum CheckFinding {
    CHECK_DAMAGE,
    CHECK_NOTE,
    CHECK_REPAIR,
};

void check_tell(struct Check *check, enum CheckFinding finding,
                const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The damage that was told last is mended, unless @err. */
void check_mended(struct Check *check, int err, const char *what);

/* Names in @fd's directory that @is_known does not know; takes @fd. */
void check_names(struct Check *check, const char *where, int fd,
                 bool (*is_known)(const struct Check *check, const char *name));

/* @name in @fd's directory, which is @where, is left over: told, and deleted. */
void check_leftover(struct Check *check, const char *where, int fd,
                    const char *name);

/* check-snapshots.c: of all disks */
void check_snapshots(struct Check *check);

/* check-bitmaps.c: of @disk, whose directory is @disk_fd */
void check_bitmaps(struct Check *check, const struct ConfDisk *disk,
                   int disk_fd);

/* check-disk.c */
void check_disk(struct Check *check, const struct ConfDisk *disk);
