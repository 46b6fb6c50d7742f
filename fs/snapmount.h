/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapmount.h - the files inside a snapshot, mounted read-only
 *
 * Purpose: what is run to mount the file systems of an image in the mount, and
 *          to undo it: by libguestfs, in a small VM, or by the kernel of this
 *          host. The plan is apart from running it.
 * Threads: main. Blocks.
 * Units:   bytes.
 * Shapes:  RUN/snapmount-HASH/memo    what is to be undone, GKeyFile; flock'ed
 *                                     while somebody works on it
 *          RUN/snapmount-HASH/disk.qcow2, raw     with --overlay
 *          RUN/snapmount-HASH/pid                 of guestmount
 *          HASH is of the directory that is mounted at; RUN is /run/weir, or
 *          $XDG_RUNTIME_DIR/weir of who is not root.
 * Errors:  gboolean + GError of STORE_ERROR.
 */
#pragma once

#include "store.h"

struct SnapMount {
    const char *image;     /* absolute */
    const char *dir;       /* absolute, without links */
    const char *partition; /* /dev/sda1, or 1; NULL: the only one */
    bool is_kernel;
    bool has_overlay;
};

/* A place in the image that may hold a file system. */
struct SnapPart {
    unsigned number; /* 0: all of the image */
    uint64_t offset, size;
    char type[32]; /* as blkid calls it; "": none that can be mounted */
};

/*
 * The plan (snapmount-plan.c): arguments, NULL-terminated; nothing of them is
 * ever seen by a shell. @work is RUN/snapmount-HASH.
 */
char **snapmount_plan_overlay(const struct SnapMount *ask, const char *work);
char **snapmount_plan_export(const char *work);
/* @device NULL: what an inspection of the guest finds. */
char **snapmount_plan_guest(const struct SnapMount *ask, const char *work,
                            const char *device);
char **snapmount_plan_list(const struct SnapMount *ask, const char *work);
char **snapmount_plan_parts(const struct SnapMount *ask);
char **snapmount_plan_probe(const struct SnapMount *ask,
                            const struct SnapPart *part);
char **snapmount_plan_loop(const struct SnapMount *ask, const char *work,
                           const char *loop, const struct SnapPart *part);
char **snapmount_plan_mount(const struct SnapMount *ask, const char *loop,
                            const char *type);
char **snapmount_plan_umount(const char *dir, bool is_kernel);
char **snapmount_plan_detach(const char *loop);

/* What the programs say: partx, and blkid of one part. */
GArray *snapmount_parse_parts(const char *text);
void snapmount_parse_probe(const char *text, struct SnapPart *part);
/* The only one, or that of @partition; -1 with @error: the words say which there
 * are. */
int snapmount_choose_part(const struct SnapPart *parts, unsigned count,
                          const char *partition, GError **error);
/* Likewise, of what virt-filesystems has listed. */
char *snapmount_choose_device(const char *text, GError **error);

/*
 * Doing it (snapmount.c)
 */
gboolean snapmount_mount(const struct SnapMount *ask, GError **error);
/* Also what is left of a mount that was interrupted. */
gboolean snapmount_umount(const char *dir, GError **error);

/*
 * Running, and what is to be undone (snapmount-run.c)
 */

/* Its standard output, and the words of its standard error in @error. @what
 * says what to install if it is not there. */
gboolean snapmount_run(char **argv, const char *what, char **output,
                       GError **error);

struct SnapMemo {
    char *work; /* the directory */
    int fd;     /* the file, locked */
    bool is_found;
    GKeyFile *file;
};
/* @makes: or begin one; else there must be one. Busy if somebody works on it. */
gboolean snapmount_memo_open(struct SnapMemo *memo, const char *dir, bool makes,
                             GError **error);
/* Before it is done. */
gboolean snapmount_memo_set(struct SnapMemo *memo, const char *key,
                            const char *value, GError **error);
char *snapmount_memo_get(const struct SnapMemo *memo, const char *key);
/* All of it is undone. */
void snapmount_memo_remove(struct SnapMemo *memo);
void snapmount_memo_close(struct SnapMemo *memo);
