/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-bitmap.h - the commands of the group `weir bitmap`
 *
 * Purpose: who is asked about the bitmaps of a disk, and what cli-bitmap.c's
 *          table has from other files.
 * Threads: main.
 * Errors:  gboolean + GError; see cli.h for those of commands.
 */
#pragma once

#include "cli.h"

/* The daemon, or the store at rest. */
typedef struct CliBitmaps {
    char *path; /* of the store */
    char *name; /* of the disk; NULL: all of them */
    ControlClient *client;
    Store *store; /* if there is no daemon ... */
    Disk *disk;   /* ... and one disk was named */
} CliBitmaps;

/* @address: STORE/DISK, or STORE unless @wants_disk; @flags: of store_open(). */
gboolean cli_bitmaps_open(CliBitmaps *bitmaps, const char *address,
                          gboolean wants_disk, unsigned flags, GError **error);
/* A store at rest is closed as it is now, if @ok. Keeps the first error. */
gboolean cli_bitmaps_close(CliBitmaps *bitmaps, gboolean ok, GError **error);
/* The daemon's answer; takes @arguments, and adds the disk. */
JsonObject *cli_bitmaps_call(const CliBitmaps *bitmaps, const char *command,
                             JsonObject *arguments, GError **error);
gboolean cli_bitmaps_add(const CliBitmaps *bitmaps, const char *name,
                         unsigned grain_bits, bool is_persistent,
                         bool is_disabled, GError **error);
/* "64K" as a logarithm; NULL: that of QEMU. False, and it is said. */
bool cli_bitmap_grain(const char *command, const char *text, unsigned *bits);

/* cli-bitmap-list.c */
extern const GOptionEntry cli_bitmap_list_entries[];
int cli_bitmap_list(int argc, char **argv);

/* cli-bitmap-data.c */
extern const GOptionEntry cli_bitmap_export_entries[];
int cli_bitmap_export(int argc, char **argv);
extern const GOptionEntry cli_bitmap_import_entries[];
int cli_bitmap_import(int argc, char **argv);
