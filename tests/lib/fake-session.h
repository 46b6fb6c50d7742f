/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fake-session.h - a face with a test in the kernel's place
 *
 * Purpose: a SOCK_SEQPACKET pair stands for /dev/fuse: one message is one
 *          request or one reply, as there. The test speaks the kernel's side
 *          of the protocol to a real Face over a real file. No root, no mount.
 * Threads: the test's own; notes of the face are answered by a small thread.
 * Shapes:  a store that a test has opened; or one with one disk "vda", id 1,
 *          64 KiB clusters, in a temporary directory that is removed at the
 *          end.
 * Errors:  whatever cannot happen is asserted (with assert, not cmocka's, so
 *          that it may be used on any thread).
 */
#pragma once

#include "fs/face.h"
#include "fs/snapshot.h"

#include <linux/fuse.h>

typedef struct FakeSession {
    Store store; /* of fake_session_init() ... */
    Disk disk;   /* ... with this disk */
    Store *served;
    void (*on_dirtied)(void *user); /* or NULL; the face's thread */
    void *user;
    Face *face;
    int fd; /* the kernel's end */
    int face_fd;
    char *dir;
    uint64_t next_unique;
    pthread_t notes_thread;
    Inbox notes;
    atomic_uint logs, attr_notes, dirtied, frozen, degraded, ended;
    atomic_int snapshot_error; /* what notes of snapshots are answered with */
    bool shows_snapshots;      /* of the next face */
    bool is_read_only;
    char last_log[400];   /* notes thread; read it after logs went up */
    unsigned char *reply; /* of the last fake_reply(): body behind the header */
    size_t reply_len;
} FakeSession;

#define FAKE_INO(id)  (UINT64_C(1) << 56 | (uint64_t)(id) << 40)
#define FAKE_DISK_INO FAKE_INO(1)

/* @io NULL: the kernel's. @offset_align: 512, or 4096 to act as a 4Kn disk. */
void fake_session_init(FakeSession *session, StoreIo *io, uint64_t size_bytes,
                       unsigned offset_align);
void fake_session_deinit(FakeSession *session);
/* For cmocka: a session of its own, over the kernel's storage. */
#define FAKE_DISK_BYTES (UINT64_C(64) << 20)
int fake_session_setup(void **state);
int fake_session_teardown(void **state);
/* The face of an opened store that is served already; its first disk has the
 * id 1. The store stays the caller's. False: it did not start. */
bool fake_session_begin(FakeSession *session, Store *store,
                        void (*on_dirtied)(void *user), void *user);
void fake_session_end(FakeSession *session);
/* Stop the face and start another one over the same files. */
void fake_session_restart(FakeSession *session);
/* The same with hot extents tracked from now on, all cold; epoch 1. */
void fake_session_track(FakeSession *session);

/* The face takes no more requests, answers what it has, and goes; another one
 * goes on with the same session. */
void fake_session_leave(FakeSession *session);
void fake_session_follow(FakeSession *session);

/* What becomes of a note of the mount, with the disk as it is: the list has one
 * more. Returns its id. */
uint64_t fake_session_snapshot(FakeSession *session, const char *name);

/* Send a request; returns its number. */
uint64_t fake_send(FakeSession *session, uint32_t opcode, uint64_t node,
                   const void *arg, size_t arg_len, const void *data,
                   size_t data_len);
/* Wait for the next reply, of any request: its number; *@error as the kernel
 * gets it (0 or -errno). */
uint64_t fake_reply(FakeSession *session, int *error);
/* Send one and wait for its reply: 0 or -errno. */
int fake_call(FakeSession *session, uint32_t opcode, uint64_t node,
              const void *arg, size_t arg_len);

/* What the kernel does for read(2) and so on of vda.raw: count or -errno. */
ssize_t fake_read(FakeSession *session, void *buf, size_t len, uint64_t offset);
ssize_t fake_write(FakeSession *session, const void *buf, size_t len,
                   uint64_t offset);
int fake_fsync(FakeSession *session);
int fake_fallocate(FakeSession *session, int mode, uint64_t offset,
                   uint64_t len);
int64_t fake_lseek(FakeSession *session, uint64_t offset, int whence);
