/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's side of a FUSE session, played by a test: requests are built
 * byte by byte from <linux/fuse.h>, so that they check our decoding against
 * the kernel's own header. A thread of ours answers the face's notes as the
 * daemon's main thread would.
 */
#include "fake-session.h"

#include "bitmap/intent.h"
#include "fs/store-bitmaps-private.h"
#include "tests/lib/scratch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_MAX ((1u << 20) + 8192)

/* Kinds of our own beside the face's notes. */
#define NOTES_STOP 1000

static void
notify(void *user, FaceNote *note)
{
    FakeSession *session = user;

    note->msg.kind = 0;
    inbox_post(&session->notes, &note->msg);
}

static void
dirtied(void *user)
{
    FakeSession *session = user;

    session->dirtied++;
    if (session->on_dirtied) {
        session->on_dirtied(session->user);
    }
}

uint64_t
fake_session_snapshot(FakeSession *session, const char *name)
{
    Store *store = session->served;
    Snapshot snapshot = {
        .id = ++store->last_snapshot,
        .wall_us = (int64_t)store->last_snapshot * 1500000,
        .n_disks = store->n_disks,
    };

    g_strlcpy(snapshot.name, name, sizeof(snapshot.name));
    for (unsigned i = 0; i < store->n_disks; i++) {
        snapshot.disks[i] = (struct SnapshotDisk){
            store->disks[i]->id, store->disks[i]->size_bytes, 8 * (i + 1)};
    }
    snapshot_list_put(store->snapshots, &snapshot);
    return snapshot.id;
}

static int
take_snapshot_note(FakeSession *session, FaceNote *note)
{
    SnapshotList *list = session->served->snapshots;
    const char *name = note->text;

    if (note->kind == FACE_NOTE_SNAPSHOT_CREATE) {
        if (snapshot_list_find(list, name, NULL)) {
            return -EEXIST;
        }
        fake_session_snapshot(session, name);
        return 0;
    }
    if (!snapshot_list_get(list, note->seq, NULL)) {
        return -ENOENT;
    }
    if (note->kind == FACE_NOTE_SNAPSHOT_DELETE) {
        snapshot_list_remove(list, note->seq);
        return 0;
    }
    note->text = malloc(64);
    note->len =
        (size_t)snprintf(note->text, 64, "{info %u}\n", (unsigned)note->seq);
    return 0;
}

static void
take_note(FakeSession *session, FaceNote *note)
{
    switch (note->kind) {
    case FACE_NOTE_STATUS:
    case FACE_NOTE_METRICS:
        note->text = strdup(note->kind == FACE_NOTE_STATUS ? "{status}\n"
                                                           : "metrics 1\n");
        note->len = strlen(note->text);
        face_answer(session->face, note);
        break;
    case FACE_NOTE_ATTR:
        session->attr_notes++;
        face_answer(session->face, note);
        break;
    case FACE_NOTE_LOG:
        snprintf(session->last_log, sizeof(session->last_log), "%s",
                 note->text);
        session->logs++;
        face_answer(session->face, note);
        break;
    case FACE_NOTE_DEGRADED:
        session->degraded++;
        face_answer(session->face, note);
        break;
    case FACE_NOTE_SNAPSHOT_CREATE:
    case FACE_NOTE_SNAPSHOT_DELETE:
    case FACE_NOTE_SNAPSHOT_INFO:
        note->error = session->snapshot_error;
        if (!note->error) {
            note->error = take_snapshot_note(session, note);
        }
        face_answer(session->face, note);
        break;
    case FACE_NOTE_FROZEN:
        session->frozen++;
        break;
    case FACE_NOTE_ENDED:
        session->ended++;
        break;
    }
}

static void *
notes_run(void *opaque)
{
    FakeSession *session = opaque;
    struct pollfd wait = {session->notes.event_fd, POLLIN, 0};
    bool is_running = true;

    while (is_running) {
        poll(&wait, 1, -1);
        for (InboxMsg *msg = inbox_take(&session->notes), *next; msg;
             msg = next) {
            next = msg->next;
            if (msg->kind == NOTES_STOP) {
                is_running = false;
            } else {
                take_note(session, (FaceNote *)msg);
            }
        }
    }
    return NULL;
}

/* The kernel's end and the face's. */
static void
connect_ends(FakeSession *session)
{
    int pair[2], big = 4 * MESSAGE_MAX;

    assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        if (setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big)) <
            0) {
            setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
        }
    }
    session->fd = pair[0];
    session->face_fd = pair[1];
    session->next_unique = 2;
}

static void
disconnect_ends(FakeSession *session)
{
    close(session->fd);
    close(session->face_fd);
}

static void
free_face(FakeSession *session)
{
    InboxMsg last = {.kind = NOTES_STOP};

    if (session->face) {
        face_free(session->face);
    }
    session->face = NULL;
    inbox_post(&session->notes, &last);
    pthread_join(session->notes_thread, NULL);
    inbox_deinit(&session->notes);
}

static bool
start_face(FakeSession *session)
{
    GError *error = NULL;
    struct FaceConfig config = {
        .store = session->served,
        .fuse_fd = session->face_fd,
        .uid = 11,
        .gid = 12,
        .mode = 0600,
        .read_only = session->is_read_only,
        .shows_snapshots = session->shows_snapshots,
        .notify = notify,
        .dirtied = dirtied,
        .user = session,
    };

    assert(inbox_init(&session->notes) == 0);
    assert(!pthread_create(&session->notes_thread, NULL, notes_run, session));
    session->face = face_new(&config);
    if (face_start(session->face, &error)) {
        return true;
    }
    g_clear_error(&error);
    free_face(session);
    return false;
}

static bool
start(FakeSession *session)
{
    bool is_started;

    connect_ends(session);
    is_started = start_face(session);
    if (!is_started) {
        disconnect_ends(session);
    }
    return is_started;
}

static void
stop(FakeSession *session)
{
    unsigned ended = session->ended;

    /* What the kernel does at umount; then the face comes to rest. */
    fake_send(session, FUSE_DESTROY, 0, NULL, 0, NULL, 0);
    while (session->ended == ended) {
        struct pollfd drain = {session->fd, POLLIN, 0};

        if (poll(&drain, 1, 1) > 0) {
            int error;

            fake_reply(session, &error);
        }
    }
    free_face(session);
    disconnect_ends(session);
}

static void
start_surely(FakeSession *session)
{
    bool is_started = start(session);

    assert(is_started);
    (void)is_started;
}

void
fake_session_init(FakeSession *session, StoreIo *io, uint64_t size_bytes,
                  unsigned offset_align)
{
    Disk *disk = &session->disk;

    *session = (FakeSession){0};
    session->dir = scratch_on_disk();
    strcpy(disk->name, "vda");
    disk->id = 1;
    disk->cluster_bits = 16;
    disk->dir_fd = open(session->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    disk->fd = openat(disk->dir_fd, "disk.raw",
                      O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (disk->fd < 0) { /* tmpfs */
        disk->fd = openat(disk->dir_fd, "disk.raw",
                          O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    disk->map_fd = openat(disk->dir_fd, "disk.raw", O_RDWR | O_CLOEXEC);
    assert(disk->fd >= 0 && disk->map_fd >= 0);
    assert(ftruncate(disk->fd, (off_t)((size_bytes + 4095) & ~4095ull)) == 0);
    disk->offset_align = offset_align;
    disk->mem_align = 512;
    disk->map = disk_map_new(size_bytes, 16);
    disk->points = points_new();
    disk->bitmaps = named_bitmaps_new(disk->map);
    disk->bits = g_ptr_array_new();
    disk->kept = bitmaps_kept_new();
    disk->size_bytes = size_bytes;
    disk->attr.uid = (uid_t)-1;
    disk->attr.gid = (gid_t)-1;
    session->store = (Store){
        .io = io ? io : store_io_kernel(),
        .path = session->dir,
        .dir_fd = disk->dir_fd,
        .lock_fd = disk->map_fd,
        .disks = {disk},
        .n_disks = 1,
        .snapshots = snapshot_list_new(),
    };
    session->served = &session->store;
    session->reply = malloc(MESSAGE_MAX);
    start_surely(session);
}

bool
fake_session_begin(FakeSession *session, Store *store,
                   void (*on_dirtied)(void *user), void *user)
{
    *session = (FakeSession){
        .served = store,
        .on_dirtied = on_dirtied,
        .user = user,
        .reply = malloc(MESSAGE_MAX),
    };
    if (!start(session)) {
        free(session->reply);
        return false;
    }
    return true;
}

void
fake_session_end(FakeSession *session)
{
    stop(session);
    free(session->reply);
}

void
fake_session_restart(FakeSession *session)
{
    stop(session);
    start_surely(session);
}

void
fake_session_track(FakeSession *session)
{
    struct IntentMark mark = {.epoch = 1};
    Bitmap *hot = bitmap_new(session->disk.size_bytes, INTENT_EXTENT_BITS);
    int res;

    stop(session);
    session->store.epoch = 1;
    session->disk.is_tracked = true;
    res = intent_save(store_io_kernel(), session->disk.dir_fd, hot, &mark);
    assert(res == 0);
    res = disk_map_track(session->disk.map, hot);
    assert(res == 0);
    start_surely(session);
}

void
fake_session_leave(FakeSession *session)
{
    unsigned ended = session->ended;

    face_leave(session->face);
    while (session->ended == ended) {
        poll(NULL, 0, 1);
    }
    free_face(session);
}

void
fake_session_follow(FakeSession *session)
{
    bool is_started = start_face(session);

    assert(is_started);
    (void)is_started;
}

void
fake_session_deinit(FakeSession *session)
{
    stop(session);
    scratch_free(session->dir);
    close(session->disk.fd);
    close(session->disk.map_fd);
    close(session->disk.dir_fd);
    named_bitmaps_free(session->disk.bitmaps);
    bitmaps_kept_free(session->store.io, session->disk.kept);
    g_ptr_array_unref(session->disk.bits);
    disk_map_free(session->disk.map);
    points_free(session->disk.points);
    snapshot_list_free(session->store.snapshots);
    free(session->reply);
}

int
fake_session_setup(void **state)
{
    FakeSession *session = malloc(sizeof(*session));

    fake_session_init(session, NULL, FAKE_DISK_BYTES, 512);
    *state = session;
    return 0;
}

int
fake_session_teardown(void **state)
{
    fake_session_deinit(*state);
    free(*state);
    return 0;
}

uint64_t
fake_send(FakeSession *session, uint32_t opcode, uint64_t node, const void *arg,
          size_t arg_len, const void *data, size_t data_len)
{
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + arg_len + data_len),
        .opcode = opcode,
        .unique = session->next_unique,
        .nodeid = node,
    };
    struct iovec iov[3] = {
        {&in, sizeof(in)}, {(void *)arg, arg_len}, {(void *)data, data_len}};
    ssize_t n = writev(session->fd, iov, 3);

    assert(n == (ssize_t)in.len);
    (void)n;
    session->next_unique += 2;
    return in.unique;
}

uint64_t
fake_reply(FakeSession *session, int *error)
{
    struct fuse_out_header out;
    struct iovec iov[2] = {{&out, sizeof(out)}, {session->reply, MESSAGE_MAX}};
    ssize_t n = readv(session->fd, iov, 2);

    assert(n >= (ssize_t)sizeof(out) && out.len == (size_t)n);
    session->reply_len = (size_t)n - sizeof(out);
    *error = out.error;
    return out.unique;
}

static int
wait_for(FakeSession *session, uint64_t unique)
{
    uint64_t got;
    int error;

    got = fake_reply(session, &error);
    assert(got == unique);
    (void)got;
    (void)unique;
    return error;
}

int
fake_call(FakeSession *session, uint32_t opcode, uint64_t node, const void *arg,
          size_t arg_len)
{
    return wait_for(session,
                    fake_send(session, opcode, node, arg, arg_len, NULL, 0));
}

ssize_t
fake_read(FakeSession *session, void *buf, size_t len, uint64_t offset)
{
    struct fuse_read_in in = {.offset = offset, .size = (uint32_t)len};
    int error = fake_call(session, FUSE_READ, FAKE_DISK_INO, &in, sizeof(in));

    if (error) {
        return error;
    }
    assert(session->reply_len <= len);
    memcpy(buf, session->reply, session->reply_len);
    return (ssize_t)session->reply_len;
}

ssize_t
fake_write(FakeSession *session, const void *buf, size_t len, uint64_t offset)
{
    struct fuse_write_in in = {.offset = offset, .size = (uint32_t)len};
    struct fuse_write_out out;
    int error = wait_for(session, fake_send(session, FUSE_WRITE, FAKE_DISK_INO,
                                            &in, sizeof(in), buf, len));

    if (error) {
        return error;
    }
    memcpy(&out, session->reply, sizeof(out));
    return out.size;
}

int
fake_fsync(FakeSession *session)
{
    struct fuse_fsync_in in = {.fsync_flags = 1};

    return fake_call(session, FUSE_FSYNC, FAKE_DISK_INO, &in, sizeof(in));
}

int
fake_fallocate(FakeSession *session, int mode, uint64_t offset, uint64_t len)
{
    struct fuse_fallocate_in in = {
        .offset = offset, .length = len, .mode = (uint32_t)mode};

    return fake_call(session, FUSE_FALLOCATE, FAKE_DISK_INO, &in, sizeof(in));
}

int64_t
fake_lseek(FakeSession *session, uint64_t offset, int whence)
{
    struct fuse_lseek_in in = {.offset = offset, .whence = (uint32_t)whence};
    struct fuse_lseek_out out;
    int error = fake_call(session, FUSE_LSEEK, FAKE_DISK_INO, &in, sizeof(in));

    if (error) {
        return error;
    }
    memcpy(&out, session->reply, sizeof(out));
    return (int64_t)out.offset;
}
