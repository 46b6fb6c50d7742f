/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-private.h - what the files of the store share with each other
 *
 * Purpose: the steps that opening, creating, removing and checking a store
 *          are made of.
 * Threads: the main thread.
 * Units:   bytes.
 * Errors:  gboolean + GError of STORE_ERROR, one line each: what, why, what
 *          to do.
 */
#pragma once

#include "bitmap/intent.h"
#include "conf.h"
#include "state.h"
#include "store.h"

#define STORE_CONF      "weir.conf"
#define STORE_LOCK      "lock"
#define STORE_STATE     "state"
#define STORE_SOCKET    "control.sock"
#define STORE_RESERVE   "reserve"
#define STORE_SPARE     "state.spare" /* for the next state */
#define STORE_RAW       "disk.raw"
#define STORE_DIRTY     "dirty"
#define STORE_COW       "cow"         /* has a name for an instant only */
#define STORE_SUMS      "remote-sums" /* the relay's */
#define STORE_SENT      "sent-log"    /* likewise */
#define STORE_SNAPSHOTS "snapshots"   /* a directory */
#define STORE_POINTS    "points"      /* of a disk, likewise */
#define STORE_BITMAPS   "bitmaps"     /* likewise */
#define STORE_JOBS      "jobs"        /* likewise, of directories: a job's */
#define STORE_JOB       "job"         /* in one of these */
#define STORE_JOB_SPARE "job.spare"   /* likewise */
#define STORE_JOB_LEFT  "left"        /* likewise */
#define STORE_NEW       ".new-"       /* a disk that is being made */
#define STORE_OLD       ".old-"       /* a disk that is being removed */
#define STORE_FILE_MAX  (4u << 20)    /* weir.conf, state */
#define STORE_BLOCK     4096          /* disk.raw's size is a multiple of it */
#define STORE_DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Size of disk.raw for a disk of @size_bytes. */
static inline uint64_t
store_raw_bytes(uint64_t size_bytes)
{
    return (size_bytes + STORE_BLOCK - 1) & ~(uint64_t)(STORE_BLOCK - 1);
}

/* @code of STORE_ERROR, with ": <errno in words>" behind the text; FAILED for
 * lack of room is FULL. */
void store_set_errno(GError **error, enum StoreError code, int err,
                     const char *format, ...) G_GNUC_PRINTF(4, 5);

/* A line for the log; nothing for a store opened to read. */
void store_say(const Store *store, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* A file of nothing, for a state that finds no room: made if it is not there
 * in full, given up (false: there is none). */
void store_reserve_keep(Store *store);
bool store_reserve_give(Store *store);

/* Room for all that a file of @clusters bits may get, so that a full disk cannot
 * refuse a page of it. Where that is not to be had it is not insisted on. */
void store_reserve_bits(StoreIo *io, int dir_fd, const char *name,
                        uint64_t clusters, bool is_indexed);

/* Everything that this process makes from now on is private (rule 36). */
void store_private_umask(void);

/* The store's lock: an fd, or -1. Waits a little for a lock whose owner is
 * dead (rule 6). Busy, too, if a mount of it waits for its next daemon. */
int store_lock_take(StoreIo *io, int dir_fd, const char *path, GError **error);
/* For that daemon: waits a little for owners that live as well. */
int store_lock_take_over(StoreIo *io, int dir_fd, const char *path,
                         GError **error);
/* Take the lock of @fd, LOCK_EX or LOCK_SH, waiting as above: 0, -EWOULDBLOCK,
 * or another -errno. */
int store_lock_wait(StoreIo *io, int fd, int how);
/* With the lock: does no mount wait for its next daemon? Else busy. */
gboolean store_lock_check_gap(const char *path, GError **error);
/* Our pid into the lock file. */
void store_lock_sign(StoreIo *io, int lock_fd);

/* weir.conf of the store in @dir_fd. */
gboolean store_load_conf(StoreIo *io, int dir_fd, const char *path,
                         struct Conf *conf, GError **error);
gboolean store_save_conf_in(StoreIo *io, int dir_fd, const char *path,
                            const struct Conf *conf, GError **error);
/* The state to go on from: the file's, or, if that cannot be believed (*@why:
 * in words, else NULL), one of which only the targets' sums know more. 0, or
 * -ENOMEM with @state empty. */
int store_find_state(StoreIo *io, int dir_fd, const struct Conf *conf,
                     struct State *state, const char **why);
/* Replace the state. 0 or -errno. */
int store_put_state(StoreIo *io, int dir_fd, const struct State *state);
/* What an open store would have as weir.conf; borrows the strings. */
void store_to_conf(const Store *store, struct Conf *conf);

/* Open the disk's directory and files. */
Disk *store_disk_open(Store *store, const struct ConfDisk *conf, unsigned flags,
                      GError **error);
void store_disk_free(StoreIo *io, Disk *disk);
/* Is it the name of a file that weir keeps in a store's directory, in a disk's?
 * Of something that it makes or deletes there, and was interrupted in? */
bool store_is_own_file(const char *name);
bool store_is_disk_file(const char *name);
bool store_is_leftover(const char *name);
/* Load or set the bitmap. */
gboolean store_disk_load(Store *store, Disk *disk, const struct State *state,
                         GError **error);
/* After an opening: what is on the zero list is dirty. */
void store_zeroes_recover(Store *store, Disk *disk);
/* store-track.c */
/* After an unclean end: the hot extents are dirty; they are kept for
 * store_track_begin(). @sequence: of the checkpoint found. 0 or -ENOMEM. */
int store_track_recover(Store *store, Disk *disk, uint64_t sequence);
/* The extents that are hot for a file of checkpoint @sequence; NULL: no memory. */
Bitmap *store_track_hot(Store *store, const Disk *disk, uint64_t sequence,
                        struct IntentReport *report);
/* As store_checkpoint_map(), @rest: the error of what that leaves out, or 0. */
int store_track_checkpoint(Store *store, Disk *disk, int *rest);
/* Checkpoint and intent file for this serve, durable; then the map tracks. */
int store_track_begin(Store *store, Disk *disk);
/* Before the map grows. 0 or -errno. */
int store_track_grow(Store *store, Disk *disk, uint64_t size_bytes);

/* What sent-log and remote-sums must be of. Before the first contact nothing
 * was sent, and nothing is missing. */
static inline uint64_t
store_books_epoch(enum TargetContact contact, uint64_t epoch_before)
{
    return contact == CONTACT_NONE ? 0 : epoch_before;
}

/* store-bitmaps.c */
/* As a checkpoint, but for the map's own bits; for the end of a serve, or of what
 * changed a store at rest. 0 or -errno. */
int store_bitmaps_checkpoint(Store *store, Disk *disk);
/* For a clean end, after one that was not done: of a serve, files that it could not
 * write are deleted. 0 or -errno: the end must not be a clean one. */
int store_bitmaps_abandon(Store *store, Disk *disk);
/* What the last save could not write, for a message; with the checkpoint_lock, or
 * when nobody else saves. */
const char *store_bitmaps_unsaved(const Disk *disk);
/* What files that record must at least be of, to have it all. Any thread. */
uint64_t store_bitmaps_sequence(const Disk *disk);
/* At the begin of a serve: files that the list does not speak of are deleted, the
 * others have room. */
void store_bitmaps_tidy(Store *store, Disk *disk);

/* store-aside.c */
/* With O_DIRECT, where the file system knows that; files are made 0600. */
int store_open_direct(StoreIo *io, int dir_fd, const char *name, int flags);
gboolean store_aside_open(Store *store, Disk *disk, GError **error);

/* Identity of disk.raw, to see at opening whether somebody else wrote it. */
int store_raw_stamp(int fd, struct RawStamp *stamp);
/* @is_rolling: a rollback was at work on it, and may have written. */
bool store_raw_is_same(const struct RawStamp *now, const struct RawStamp *then,
                       bool is_rolling);

/* Delete the files of directory @name that weir knows, then itself, if nothing
 * else is in it. @path is for the message. 0 or -errno. */
int store_delete_directory(StoreIo *io, int dir_fd, const char *path,
                           const char *name);

/* In a store at rest such a one is left over. */
bool store_is_socket(int dir_fd, const char *name);

/* Is @size_bytes something a disk can be? */
gboolean store_check_size(uint64_t size_bytes, unsigned cluster_bits,
                          GError **error);
/* ftruncate, with the words for what does not fit. */
gboolean store_raw_resize(StoreIo *io, int fd, uint64_t size_bytes,
                          GError **error);
