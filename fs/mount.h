/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount.h - mounting, unmounting, and what is mounted where
 *
 * Purpose: one FUSE mount whose /dev/fuse descriptor is ours; finding the
 *          store behind a mount point and the other way round.
 * Threads: mount_take_down() may be called by any; the rest is main's.
 * Shapes:  the table is /proc/self/mountinfo: reading it asks no file system
 *          anything, so it answers with every mount hung.
 * Errors:  gboolean + GError of STORE_ERROR.
 */
#pragma once

#include "face.h"

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#define MOUNT_FSTYPE "fuse.weir"

struct MountOptions {
    bool allow_other;
    bool is_read_only;
    bool shows_snapshots;
    uid_t uid;
    gid_t gid;
    mode_t mode;
    enum FaceTransport transport;
    unsigned poll_us;
};

/* Defaults, before any -o. */
void mount_options_init(struct MountOptions *options);
/* One -o argument, "k=v,k,...": ours, and those of fstab that are nobody's
 * business here. */
gboolean mount_options_parse(struct MountOptions *options, const char *text,
                             GError **error);

/*
 * The table of mounts
 */
struct MountEntry {
    char *dir, *source, *fstype;
    char *device; /* "0:46": of FUSE, the connection's number is the second */
};
void mount_entry_clear(struct MountEntry *entry);
/* The topmost mount at @dir (absolute, no links). */
bool mount_find_dir(const char *dir, struct MountEntry *entry);
/* Where the store is mounted, by its absolute path. */
bool mount_find_store(const char *store, struct MountEntry *entry);
/* The same, but not one that is dead: a daemon is there, or the next one is
 * expected. Asks the mount; takes up to a second if it does not answer. */
bool mount_find_living(const char *store, struct MountEntry *entry);
/* One line of mountinfo; false if it makes no sense. For tests, too. */
bool mount_entry_parse(const char *line, struct MountEntry *entry);
/* Absolute and without links, even if a dead mount stands there. */
char *mount_real_path(const char *path);

/*
 * Ours
 */
typedef struct Mount Mount;

/* Is @dir a place to mount at? A dead mount of ours is taken away by itself.*/
gboolean mount_check_dir(const char *dir, GError **error);
Mount *mount_new(const char *store, const char *dir,
                 const struct MountOptions *options, GError **error);
/* Is what stands at @dir the store's mount whose connection is @fd? */
bool mount_is_at(const char *store, const char *dir, int fd);
/* The connection of a daemon before us; takes @fd. */
Mount *mount_adopt(const char *store, const char *dir, int fd);
int mount_fd(const Mount *mount);
void mount_free(Mount *mount); /* closes; what is mounted stays */

/* Nobody serves what is mounted at @dir and nobody will: its connection has
 * ended. Takes up to a second if it has not, and does not answer. */
bool mount_is_dead(const char *dir);
/* End the connection, so that whoever waits gets an error; take it away. */
void mount_abort(const char *dir);
/* 0, or -errno: -EBUSY if somebody uses it and not @lazy. */
int mount_take_down(const char *dir, bool lazy);
