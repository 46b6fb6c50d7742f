/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-private.h - what the files behind store-bitmaps.h share
 *
 * Purpose: the list of a disk's persistent bitmaps, what is known of their
 *          files, and the steps that loading and saving them are made of.
 * Threads: after the opening the checkpoint_lock guards struct BitmapsKept.
 * Units:   bytes.
 * Shapes:  store-bitmaps-list.c has the list's.
 * Errors:  0 or -errno; what is wrong with a file, in words.
 */
#pragma once

#include "bitmap/bitmap-file.h"
#include "store-bitmaps.h"
#include "store-private.h"

#define STORE_BITMAPS_LIST "list"
#define STORE_BITMAPS_MAX  (4u << 20)            /* bytes of the list */
#define STORE_BITMAP_NAME  32                    /* of a file, with its NUL */
#define STORE_BITS_NAME    (STORE_NAME_MAX + 32) /* below the disk's directory */

/* A persistent bitmap, as the list says. */
struct ListedBitmap {
    uint64_t id;
    char name[NAMED_NAME_MAX + 1];
    unsigned grain_bits;
    bool is_enabled;
    bool is_busy;      /* its successor is in the other one of its two files */
    unsigned slot;     /* which of them is its own */
    uint64_t sequence; /* its own file is at least of this one, while nothing
                           is recorded in it */
};

/* ... and what is known of its files. */
struct KeptBitmap {
    struct ListedBitmap listed;
    bool is_saved;       /* as of the version, and of this size of the disk */
    uint64_t version;    /* NamedFigures.version */
    uint64_t size_bytes; /* of the disk */
    bool has_file[2];    /* that was read or written: it is built upon */
};

/* Of an opening: what is believed of what was recorded. */
enum BitmapsTrust {
    BITMAPS_LOST,  /* nothing: anything may have been written since */
    BITMAPS_HOT,   /* the files and the extents that are hot for them */
    BITMAPS_EXACT, /* the files */
};

/* What the last save could not write: it is there as of before. */
struct UnsavedFile {
    char name[STORE_BITS_NAME];
    bool is_bits; /* without it all that it is of counts as changed */
    int err;      /* -EPROTONOSUPPORT: a newer weir's, which stays */
};

typedef struct BitmapsKept {
    enum BitmapsTrust trust;
    _Atomic uint64_t sequence; /* that what records must be of */
    int dir_fd;                /* STORE/NAME/bitmaps; -1: there is none */
    GArray *bitmaps;           /* KeptBitmap: as the list on disk has them */
    GArray *gone;    /* uint64_t: ids, whose files are to be deleted */
    bool is_unsure;  /* a write of the list failed: it may be that one */
    bool is_foreign; /* a newer weir's, or unreadable: it is not replaced */
    bool is_damaged; /* ... it is, but its files stay */
    GArray *unsaved; /* struct UnsavedFile: of the last save */
    bool has_said;   /* ... and of one before, to the log */
    uint64_t run;    /* sequence of the last save */
} BitmapsKept;

/* What there is to record was saved as of @sequence. Files that were not there to
 * be saved are older, and of no use any more, if the disk may have been written
 * since they were. */
void bitmaps_kept_raise(const Store *store, const Disk *disk,
                        uint64_t sequence);
/* Of a checkpoint, with its lock: why not all is saved is said once, until all of
 * it is. */
void bitmaps_say_unsaved(const Store *store, Disk *disk, int err);
BitmapsKept *bitmaps_kept_new(void);
void bitmaps_kept_free(StoreIo *io, BitmapsKept *kept);

/*
 * store-bitmaps-list.c
 */
char *bitmaps_list_format(GArray *bitmaps, const uint8_t uuid[16],
                          unsigned disk_id, size_t *len);
/* NULL, or what is wrong; @bitmaps gets KeptBitmaps, of which only what is
 * listed is set. */
const char *bitmaps_list_parse(const char *text, size_t len,
                               const uint8_t uuid[16], unsigned disk_id,
                               GArray *bitmaps, bool *is_foreign);
/* That of the directory @dir_fd; no list is an empty one. */
const char *bitmaps_list_load(StoreIo *io, int dir_fd, const uint8_t uuid[16],
                              unsigned disk_id, GArray *bitmaps,
                              bool *is_foreign);
/* Is @name a file of one of them? */
bool bitmaps_list_needs(GArray *bitmaps, const char *name);
/* "5.bits", "5.new", for slot 0 and 1; and back: 0: it is something else. */
void bitmaps_file_name(char name[STORE_BITMAP_NAME], uint64_t id,
                       unsigned slot);
uint64_t bitmaps_file_id(const char *name);

/*
 * store-bitmaps-load.c
 */

/* The file of @listed in @slot into @bits, all clean at the call. @least: the
 * sequence that it must be of, else all of it is dirty. NULL, or what is wrong;
 * report->sequence is 0 if nothing of it can be built upon. */
const char *bitmaps_file_load(StoreIo *io, int dir_fd, const uint8_t uuid[16],
                              const struct ListedBitmap *listed, unsigned slot,
                              uint64_t least, Bitmap *bits,
                              struct BitmapFileReport *report);
/* Is what is written recorded in the file in @slot of @listed? */
static inline bool
bitmaps_records_in(const struct ListedBitmap *listed, unsigned slot)
{
    return listed->is_enabled && (slot == listed->slot) != listed->is_busy;
}

/* What it must be of. @sequence: of the last checkpoint. */
uint64_t bitmaps_file_least(const struct ListedBitmap *listed, unsigned slot,
                            uint64_t sequence);

/*
 * store-bitmaps-take.c: with the checkpoint_lock
 */

/* One persistent bitmap, to be saved. */
struct SavedBitmap {
    struct NamedFigures figures;
    struct KeptBitmap was; /* id 0: it is new */
    struct KeptBitmap now; /* as it will be kept */
    Bitmap *bits, *successor;
    bool saves_bits, saves_successor;
    Bitmap *wide; /* what it had, too: for step 1 */
};

/* A map of a job as it was. */
struct BitsCopy {
    char file[STORE_BITS_NAME];
    StoreBits *of; /* which may be gone meanwhile, and another one be there */
    Bitmap *bits;
};

typedef struct BitmapsSaving {
    Store *store;
    Disk *disk;
    bool is_checkpoint;
    uint64_t size_bytes; /* of the disk */
    GArray *items;       /* in the order of the list */
    unsigned changes;
    GArray *copies; /* struct BitsCopy */
} BitmapsSaving;

/* Copies of the StoreBits; of before a sync of disk.raw, if that is to be synced.
 * NULL: no memory. */
GArray *bits_copies_new(Disk *disk);
/* What is to be saved of a disk. @copies: it is a checkpoint, of all that records
 * and of these, which it takes; else (NULL) of what was changed in another way.
 * NULL with 0 in @err: there is nothing to do. */
BitmapsSaving *bitmaps_saving_new(Store *store, Disk *disk, GArray *copies,
                                  int *err);
void bitmaps_saving_free(BitmapsSaving *saving);
bool bitmaps_saving_has(const BitmapsSaving *saving, uint64_t id);
/* Is the list to be another one? */
bool bitmaps_saving_lists(const BitmapsSaving *saving);
const struct KeptBitmap *bitmaps_kept_find(const BitmapsKept *kept,
                                           uint64_t id);

/*
 * store-bitmaps-save.c: likewise
 */

/* Durable when 0 comes back. @sequence: one that was taken for it. On error each
 * file has what it had, or this; kept->unsaved names some that it kept from it.
 */
int bitmaps_saving_run(BitmapsSaving *saving, uint64_t sequence);
/* What the last save could not write is deleted, durably, so that nobody takes it
 * for what there is. -EBUSY: it was more than files of bits, or no serve ends. */
int bitmaps_delete_unsaved(Store *store, Disk *disk);

/* The directory that @file, below the disk's, is in, and its name there. An fd or
 * -errno. */
int bits_open_dir(StoreIo *io, const Disk *disk, const char *file,
                  const char **name);
