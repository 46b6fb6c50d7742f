/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * face-copies.h - old content on its way to where it is kept
 *
 * Purpose: what face-aside.c, face-spill.c and face-points.c have in each disk
 *          that the face serves, and a storage request of the ring.
 * Threads: the fs thread's, but for messages that are on their way.
 * Units:   bytes; clusters where it says so.
 */
#pragma once

#include "bitmap/point-file.h"
#include "face.h"

typedef struct FaceIo FaceIo;
typedef struct FaceDisk FaceDisk;

/* One storage request on the ring. */
struct FaceIo {
    StoreReq store;
    unsigned fixed; /* its file's place among the ring's own, 0: none */
    Face *face;
    void (*done)(FaceIo *io, int res);
};

/* Somebody who overwrites what a cut may owe or a snapshot needs, see
 * face-aside.c. */
typedef struct FaceAsideWait FaceAsideWait;
struct FaceAsideWait {
    FaceAsideWait *next;
    uint64_t offset, len; /* bytes to be written */
    int error;            /* -errno: it cannot be kept */
    int64_t starved_us;   /* since when there is no room for it; 0: there is */
    bool is_hasty;        /* it holds others up: it does not wait long */
    int64_t slowed_us;    /* no copy is begun for it before; 0: at once */
    /* 0: it is kept, or no longer needed. Else -errno: not to be written. */
    void (*go_on)(FaceAsideWait *wait, int error);
};

/* Copies that are being made, and written to their file. */
#define FACE_ASIDE_OPS 32
#define FACE_SPILLS    8
typedef struct FaceAsideOp {
    InboxMsg msg; /* granted */
    FaceIo io;
    RangeHold hold;
    FaceDisk *disk; /* NULL: free */
    uint64_t cluster;
    void *buffer;
    uint64_t done; /* bytes of it that are read */
    unsigned life; /* of the cut that it is for */
    bool is_for_cut;
    bool is_zero;             /* what was read */
    Point *point;             /* that it is for, too, or NULL; in use */
    struct FaceAsideOp *next; /* of FacePoints */
} FaceAsideOp;
struct FaceSpill {
    FaceIo io;
    FaceDisk *disk; /* NULL: free */
    const void *buffer;
    unsigned life;
};
typedef struct FaceAside {
    FaceAsideOp ops[FACE_ASIDE_OPS];
    struct FaceSpill spills[FACE_SPILLS];
    FaceAsideWait *waiting, *waiting_tail;
    unsigned n_copying, n_spilling;
    uint64_t seq;  /* generation of the cut, or of the last one */
    unsigned life; /* changes when a cut begins or ends */
    bool is_old;   /* the file has copies of an earlier cut ... */
    bool is_emptying;
    FaceIo empty;
    int error;         /* why it was given up, until the main thread is told */
    int64_t retry_us;  /* who is starved is not tried again before */
    uint64_t ahead_at; /* who needs this cluster next goes on in sequence ... */
    unsigned in_order; /* ... as so many did before */
} FaceAside;

/* Copies on their way into the files of a point, see face-points.c. */
typedef struct FacePoints {
    FaceAsideOp *written;    /* data is in its file; the next commit's */
    FaceAsideOp *committing; /* the one under way has these, of one point ... */
    Point *point;            /* ... which is in use; NULL: none is under way */
    uint64_t next_page;
    unsigned n_pages; /* that were written and not synced */
    int error;        /* first one, -errno */
    FaceIo io;
    struct BitmapFilePage *page;
} FacePoints;
