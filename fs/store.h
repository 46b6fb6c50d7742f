/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store.h - a store and its disks, opened and locked
 *
 * Purpose: the directory that belongs to one VM: weir.conf, the lock, the
 *          state, and per disk the buffer (disk.raw) and the dirty bitmap.
 *          Opening takes the lock, reads everything, says whether the last
 *          end was clean, and loads or sets the bitmaps accordingly; closing
 *          writes the checkpoint.
 * Threads: the main thread opens, changes and closes. While a Face runs, the
 *          fs thread reads Disk members; what it may change is said below.
 * Units:   bytes.
 * Shapes:  STORE/weir.conf   GKeyFile: version, uuid, settings, [disk NAME]
 *          STORE/lock        flock'ed while a process owns the store; holds
 *                            the pid as text, for the error message only
 *          STORE/state       GKeyFile, replaced atomically: clean or not,
 *                            checkpoint sequence, per disk: how the target
 *                            was accepted, and the face's attributes
 *          STORE/state.spare what it was before, overwritten by the next one
 *          STORE/reserve     a file of nothing: room for the state when the
 *                            file system is full
 *          STORE/NAME/disk.raw, dirty (bitmap-file.h), intent (intent.h),
 *          zeroes (zero-list.h), remote-sums (relay/sums.h), sent-log
 *          (relay/sent-log.h)
 *          STORE/control.sock
 *          STORE/snapshots, STORE/NAME/points: see snapshot.h
 * Errors:  gboolean + GError of STORE_ERROR; store_exit_code() turns one into
 *          the documented exit code.
 */
#pragma once

#include "bitmap/aside.h"
#include "bitmap/disk-map.h"
#include "bitmap/named.h"
#include "bitmap/points.h"
#include "bitmap/store-io.h"
#include "relay/relay.h"
#include "zero-list.h"

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define STORE_NAME_MAX     64
#define STORE_CLUSTER_BITS 16 /* default: 64 KiB */
#define STORE_DISKS_MAX    64

#define STORE_ERROR (store_error_quark())
GQuark store_error_quark(void);
enum StoreError {
    STORE_ERROR_FAILED,  /* exit 1 */
    STORE_ERROR_USAGE,   /* exit 2 */
    STORE_ERROR_BUSY,    /* exit 3 */
    STORE_ERROR_DAMAGED, /* exit 4 */
    STORE_ERROR_TARGET,  /* exit 5 */
    STORE_ERROR_FULL,    /* exit 1: no room for it on the local disk */
};
int store_exit_code(const GError *error);

/* What chmod, chown and utimes left on MNT/NAME.raw. */
struct DiskAttr {
    mode_t mode; /* permission bits; 0 until somebody set them */
    uid_t uid;   /* (uid_t)-1 until set */
    gid_t gid;
    struct timespec atime, mtime;
};

typedef struct Disk {
    /* set at opening */
    char name[STORE_NAME_MAX + 1];
    unsigned id;    /* part of inode numbers: in weir.conf, never reused */
    unsigned index; /* in Store.disks */
    unsigned cluster_bits;
    int dir_fd;
    int fd;     /* disk.raw, read and write, O_DIRECT */
    int map_fd; /* disk.raw, read and write, page cache: lseek, odd fallocate */
    uint32_t offset_align, mem_align; /* of O_DIRECT on fd */
    DiskMap *map;
    Aside *aside;          /* what a cut owes, see bitmap/aside.h */
    int aside_fd;          /* its file, which has no name; -1: none */
    Points *points;        /* of its snapshots, see snapshot.h */
    NamedBitmaps *bitmaps; /* see store-bitmaps.h */
    GPtrArray *bits; /* StoreBits, borrowed; guarded by the checkpoint_lock */
    struct BitmapsKept *kept; /* of their files; likewise */
    bool is_overwritten;      /* at rest, and maps of jobs did not record it */
    /* The store's own. `dirty` holds this run's past; `intent` says what is
     * hot, which is in hot until the map takes it. */
    bool has_checkpoint;
    bool is_tracked; /* set by store_serve() */
    bool is_intent_sound;
    Bitmap *hot;

    /* changed by the fs thread (resize), read by any */
    _Atomic uint64_t size_bytes;
    /* Once the face runs the fs thread alone changes it, with the lock held, and
     * may read it without; main copies it with the lock held, at any time. */
    pthread_mutex_t attr_lock;
    struct DiskAttr attr;
    atomic_bool is_frozen; /* a local sync failed: no more writes (rule 20) */
    /* On the zero list (rule 25), which the fs thread changes: they read as zero,
     * and until they are punched the target may be sent what was there, so they
     * are owed whatever the map says. And how often the last one of them went. */
    _Atomic uint64_t unpunched_bytes;
    _Atomic unsigned times_punched;
    /* Of the last checkpoint of this disk that is durable. */
    _Atomic uint64_t checkpoint_sequence;

    /* main thread */
    char *target;  /* NULL: none */
    bool is_alone; /* group=no: not part of the store's cuts */
    uint64_t cut;  /* that its target was made equal to, and not written
                      otherwise since; 0: none */
    enum TargetAccept accept;
    enum TargetContact contact;
    enum TargetContact saved_contact; /* in the state on disk */
    /* After opening: the last end was not clean, so what is dirty is more than
     * what differs; the relay compares before it sends. */
    bool recovers;
    /* After opening: uploads of an earlier process may still execute at the
     * target (unclean end). Before store_close_clean(): whether uploads of
     * this one may (the relay had some unanswered, or in doubt); kept in the
     * state for the next opening. */
    bool all_in_doubt;
} Disk;

enum StorePolicy {
    STORE_POLICY_CUT,  /* the far side goes from cut to cut */
    STORE_POLICY_NONE, /* the newest content, as it comes */
};

/* weir.conf's [store] group; `weir set` changes it. */
struct StoreSettings {
    enum StorePolicy policy;
    unsigned cut_interval_s; /* at least, from one cut to the next */
    char *on_cut;            /* for /bin/sh; NULL: none */
    char *bwlimit;           /* as given; NULL: none */
    unsigned max_connections;
    bool insecure;
    bool accept_unflushed;         /* target-unflushed=yes */
    _Atomic uint64_t buffer_bytes; /* for old content, all disks; 0: none */
    unsigned request_deadline_s;   /* 15; quarantine is four times that */
    char *on_freeze, *on_thaw;     /* around a snapshot's instant; NULL: none */
    unsigned snapshot_every_s;     /* 0: none are made by themselves */
    unsigned snapshot_keep;        /* ... and so many are kept; 0: all */
    _Atomic unsigned full_wait_s;  /* a write waits for room, before ENOSPC */
    char *before_degrade;          /* for /bin/sh; NULL: none */
};

/* What the far side is, in numbers of cuts; kept in the state. Numbers count up
 * from 1 and are never used twice; an instant is of the wall clock. */
struct StoreCuts {
    uint64_t holds;     /* the last whole cut; 0: there was none */
    int64_t holds_us;   /* ... its instant */
    uint64_t advancing; /* a cut that may have been sent in part since, or 0:
                           the targets are what `holds` says */
    uint64_t pinned;    /* the last one whose hook has succeeded; 0: none */
    int64_t pinned_us;
    uint64_t past; /* ids of snapshots up to this one are as old as `holds`, or
                      older: none of them is brought to the targets any more */
};

typedef struct Store {
    StoreIo *io;
    char *path; /* absolute */
    int dir_fd;
    int lock_fd;
    uint8_t uuid[16];
    unsigned next_id; /* of the next disk to be made */
    struct StoreSettings settings;
    Disk *disks[STORE_DISKS_MAX];
    unsigned n_disks;
    bool is_read_only;        /* STORE_OPEN_READ */
    bool was_clean;           /* before this opening */
    bool is_served;           /* marked unclean on disk: a daemon is at work */
    atomic_bool is_tight;     /* the host's room is about to end ... */
    _Atomic unsigned squeeze; /* ... and so much of the rest is gone, of 1000 */
    atomic_bool is_reaping;   /* room of deleted snapshots is given back */
    GMutex round_lock;      /* one checkpoint at a time, on any thread; first */
    GMutex checkpoint_lock; /* one save of bitmaps at a time, likewise; not
                                 over a sync of disk.raw */
    _Atomic uint64_t sequence;    /* of the last checkpoint that was begun */
    _Atomic uint64_t checkpoints; /* made in this run */
    /* Epochs count the serves that began from a clean state, and their clean
     * ends. What a file of the store says of the target, of hot extents or of
     * zeroes is believed if its epoch is at least epoch_before: that of the
     * last serve or of its end, 0 if there was none or nobody knows. Files are
     * written with epoch: that of this serve, the same one after an unclean
     * end. Both are set at opening. */
    uint64_t epoch, epoch_before;
    uint64_t saved_epoch, saved_before; /* the state's on disk; store.c's own */
    struct StoreCuts cuts;              /* main thread; of cuts.h */
    struct SnapshotList *snapshots;     /* see snapshot.h */
    uint64_t last_snapshot;             /* largest id that was ever given */
    /* What the state says of it, while served: more, so that it need not be
     * saved for each. */
    uint64_t saved_snapshot;
    struct SnapshotFiles *snapshot_files; /* of store-snapshots.c */
    uint64_t rollback; /* id of the snapshot that the disks are on their way to,
                          see rollback.h; 0: none */
    uint64_t last_bitmap, saved_bitmap; /* as those of snapshots */
} Store;

/* What files are written with last, before store_close_clean(). */
static inline uint64_t
store_end_epoch(const Store *store)
{
    return store->epoch + 1;
}

enum StoreOpenFlags {
    STORE_OPEN_READ = 1,     /* without the lock, for status of a store at rest:
                            bitmaps are loaded, nothing is ever written */
    STORE_OPEN_MOUNTED = 2,  /* to go on with the mount that there is of it;
                               else such a store is busy */
    STORE_OPEN_ROLLBACK = 4, /* to begin a rollback, or to finish one that was
                            interrupted; else such a store is refused */
};

/* Open; takes the lock unless STORE_OPEN_READ. Errors: not a store, busy
 * (names the pid), damaged conf, a newer format. Unless STORE_OPEN_READ the
 * process's umask is 0077 afterwards. */
Store *store_open(StoreIo *io, const char *path, unsigned flags,
                  GError **error);
/* Before a serve makes its sockets, on a file system that may be full. */
void store_make_room(Store *store);
/* While it is served, now and then: sets is_tight. */
void store_look_at_room(Store *store);
/* Before the first guest write or upload: the state says "unclean" until
 * store_close_clean(). All disks are tracked from here on, unless their metadata
 * cannot be written, which is said and costs a comparison of all of the disk
 * after a crash, and makes its bitmaps all dirty. */
gboolean store_serve(Store *store, GError **error);
/* Durable: data, then bitmaps, then state "clean" (rule 3). */
gboolean store_close_clean(Store *store, GError **error);
void store_free(Store *store); /* closes; what is not clean stays unclean */

Disk *store_disk(Store *store, const char *name);
/* The map's figures, for whoever asks what is owed: dirty_clusters is 0 only if
 * no discard is unpunched either. */
void store_disk_figures(Disk *disk, struct DiskMapFigures *figures);
/* Is @disk one of those that are cut together? */
bool store_is_cut(const Store *store, const Disk *disk);
/* Are the targets of all of them exactly the cut that is held? */
bool store_is_in_place(const Store *store);
gboolean store_save_conf(Store *store, GError **error);
/* While served: contact and attributes; stays "unclean". */
gboolean store_save_state(Store *store, GError **error);
/* What is dirty in the disk's map, its bitmaps and its StoreBits now becomes what
 * is found after a crash, together with the hot extents. Any one thread; blocks
 * for a sync of disk.raw, which if it fails freezes the disk. 0, or -errno if it
 * is not so of all of them. */
int store_checkpoint(Store *store, Disk *disk);
/* ... if it is not so of the map. Of another one, which is said, all counts as
 * changed after a crash. */
int store_checkpoint_map(Store *store, Disk *disk);
/* For who writes a tracked disk without a face: the range is hot, durably.
 * Blocks. 0 or -errno. */
int store_heat(Store *store, Disk *disk, uint64_t offset, uint64_t len);

/* ... and of any disk: what the youngest snapshot needs of what is overwritten
 * next is kept, durably. @runs are in order, and apart. Blocks. 0 or -errno. */
int store_keep(Store *store, Disk *disk, const struct ClusterRun *runs,
               unsigned count);

/* For a store that is served without a face, before store_serve(): what the last
 * one left on the zero list stays there. Blocks. 0 or -errno. */
int store_zeroes_renew(Store *store, Disk *disk);
/* ... and after it: that is punched. */
int store_zeroes_settle(Store *store, Disk *disk);
/* What is on the list, of a store that no face serves. 0 or -errno. */
int store_zeroes_get(Store *store, Disk *disk, ZeroList *list);
/* Punch @list, durably; what snapshots need of it is kept before. Nobody else
 * writes the disk. Blocks. 0 or -errno. */
int store_zeroes_punch(Store *store, Disk *disk, const ZeroList *list);
/* The list is this one now. */
void store_zeroes_changed(Disk *disk, const ZeroList *list);
/* What the record in @fd says is on the list: it is dirty, and unpunched. False:
 * the record is lost. */
bool store_zeroes_load(Store *store, Disk *disk, int fd, ZeroList *list,
                       uint64_t *sequence);

/* Names of stores, disks: [A-Za-z0-9._-]{1,64}, no leading dot (rule 36). */
bool store_name_is_valid(const char *name);
/* "20G" to bytes; binary suffixes K M G T P; false on anything else. */
bool store_parse_size(const char *text, uint64_t *bytes);

/* Split "STORE/vda" into an absolute store path and a disk name. */
gboolean store_split_address(const char *address, char **store, char **disk,
                             GError **error);

/* The relay is to upload @disk, as the store found it. */
struct RelayDiskConfig store_relay_config(const Store *store, const Disk *disk);
gboolean store_relay_disk(Store *store, Disk *disk, Relay *relay,
                          GError **error);

/*
 * Offline work (each takes the lock itself)
 */
struct StoreCreate {
    const char *address; /* STORE/vda */
    uint64_t size_bytes; /* or 0 with from */
    const char *from;    /* raw image to seed from, or NULL */
    const char *target;  /* or NULL */
    unsigned cluster_bits;
    bool insecure;
};
gboolean store_create_disk(StoreIo *io, const struct StoreCreate *create,
                           GError **error);
gboolean store_remove(StoreIo *io, const char *address, gboolean discard,
                      GError **error);
/* Grow disk.raw, the bitmap and weir.conf; also called by the daemon, which
 * has the fs thread parked for it. */
gboolean store_resize_disk(Store *store, Disk *disk, uint64_t size_bytes,
                           GError **error);

/* A target that is a relative path, as seen from here: whoever passes one on
 * to another process does this first. "none" and URIs stay as they are. */
char *store_target_absolute(const char *text);

/* One setting of `weir set`; checked, kept in memory and weir.conf. @disk is
 * NULL for the store's own settings or all disks. A new target ends what was
 * said of the old one (target-accept), so it is set before that. A store that
 * is not served is to be ended with store_close_clean() after this and after
 * store_resize_disk(). */
gboolean store_set(Store *store, Disk *disk, const char *key, const char *value,
                   GError **error);

/* `weir check`: every structure of a store at rest. @report gets lines.
 * @repairs: mend what can be mended without loss; the verdict is about what
 * is left then. */
enum StoreVerdict { STORE_SOUND, STORE_DAMAGED };
gboolean store_check(StoreIo *io, const char *path, bool repairs,
                     GString *report, enum StoreVerdict *verdict,
                     GError **error);
