/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each op that changes something makes an entry, performs, and ends it; a
 * request of a ring makes its entry when it is prepared (the kernel sees it
 * later, if at all before a crash) and ends it when its result comes by (the
 * kernel was done before). So an entry's life in the log is never shorter
 * than it was in truth, and whoever builds crash states from it never calls
 * something durable that need not have been.
 *
 * Reads, seeks and closes change nothing and are not written down.
 */
#include "record-io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

static RecordIo *
self_of(StoreIo *io)
{
    return (RecordIo *)io;
}

static StoreIo *
inner(StoreIo *io)
{
    return self_of(io)->inner;
}

static uint32_t
node_of(RecordIo *record, int fd)
{
    struct stat st;
    int failed = fstat(fd, &st);

    assert(!failed);
    record_log_lock(record->log);
    uint32_t node = record_log_node_locked(record->log, &st, false);
    record_log_unlock(record->log);
    return node;
}

static bool
ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), end_len = strlen(end);

    return len >= end_len && !strcmp(name + len - end_len, end);
}

/* What this sync is written down as. */
static enum RecordKind
sync_kind(RecordIo *record, int fd)
{
    const RecordNode *node = record->log->nodes[node_of(record, fd)];
    const char *name = node->is_dir ? "." : node->name;

    return record->forget && ends_with(name, record->forget) ? RECORD_MARK
                                                             : RECORD_SYNC;
}

static void
end_on(RecordIo *record, RecordEntry *entry, int fd, int result)
{
    struct stat st;

    record_log_lock(record->log);
    if (!fstat(fd, &st)) {
        entry->mtime = st.st_mtim;
    }
    record_log_end_locked(record->log, entry, result);
    record_log_unlock(record->log);
}

/* An op on @fd that @call performs, as an entry of the log. */
#define RECORDED(io, kind, fd, offset, len, data, call)             \
    ({                                                              \
        RecordIo *rec_ = self_of(io);                               \
        RecordEntry *entry_ = record_log_begin(                     \
            rec_->log, kind, node_of(rec_, fd), offset, len, data); \
        int r_ = (int)(call);                                       \
        end_on(rec_, entry_, fd, r_);                               \
        r_;                                                         \
    })

/* @name in @dir is a new node: an entry of its directory. */
static void
note_link(RecordIo *record, int dirfd, const char *name)
{
    struct stat st, dir;
    RecordLog *log = record->log;
    int failed = fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW);

    failed |= fstat(dirfd, &dir);
    assert(!failed);
    record_log_lock(log);
    uint32_t parent = record_log_node_locked(log, &dir, false);
    uint32_t child = record_log_node_locked(log, &st, true);
    RecordEntry *entry =
        record_log_begin_locked(log, RECORD_LINK, parent, 0, 0, NULL);

    entry->other = child;
    record_name(entry->name, name);
    record_name(log->nodes[child]->name, name);
    record_log_end_locked(log, entry, 0);
    record_log_unlock(log);
}

static int
record_open(StoreIo *io, int dirfd, const char *name, int flags, mode_t mode)
{
    RecordIo *record = self_of(io);
    struct stat st;
    bool is_new;
    int fd;

    is_new =
        flags & O_CREAT && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0;
    fd = inner(io)->ops->open(inner(io), dirfd, name, flags, mode);
    if (fd < 0) {
        return fd;
    }
    if (is_new) {
        note_link(record, dirfd, name);
    } else if (flags & O_TRUNC) {
        RecordEntry *entry = record_log_begin(record->log, RECORD_SIZE,
                                              node_of(record, fd), 0, 0, NULL);
        end_on(record, entry, fd, 0);
    }
    return fd;
}

static int
record_close(StoreIo *io, int fd)
{
    return inner(io)->ops->close(inner(io), fd);
}

static int
record_mkdir(StoreIo *io, int dirfd, const char *name, mode_t mode)
{
    int r;

    r = inner(io)->ops->mkdir(inner(io), dirfd, name, mode);
    if (r == 0) {
        note_link(self_of(io), dirfd, name);
    }
    return r;
}

static ssize_t
record_pread(StoreIo *io, int fd, void *buf, size_t len, uint64_t offset)
{
    return inner(io)->ops->pread(inner(io), fd, buf, len, offset);
}

static ssize_t
record_pwrite(StoreIo *io, int fd, const void *buf, size_t len, uint64_t offset)
{
    return RECORDED(io, RECORD_WRITE, fd, offset, len, buf,
                    inner(io)->ops->pwrite(inner(io), fd, buf, len, offset));
}

static int
record_fdatasync(StoreIo *io, int fd)
{
    return RECORDED(io, sync_kind(self_of(io), fd), fd, 0, 0, NULL,
                    inner(io)->ops->fdatasync(inner(io), fd));
}

static int
record_fsync(StoreIo *io, int fd)
{
    return RECORDED(
        io, RECORD_SYNC, fd, 0, 0, NULL,
        (entry_->is_durable = true, inner(io)->ops->fsync(inner(io), fd)));
}

static int
record_ftruncate(StoreIo *io, int fd, uint64_t size)
{
    return RECORDED(io, RECORD_SIZE, fd, 0, size, NULL,
                    inner(io)->ops->ftruncate(inner(io), fd, size));
}

static enum RecordKind
fallocate_kind(int mode)
{
    return mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ? RECORD_ZERO
                                                                : RECORD_GROW;
}

static int
record_fallocate(StoreIo *io, int fd, int mode, uint64_t offset, uint64_t len)
{
    return RECORDED(
        io, fallocate_kind(mode), fd, offset, len, NULL,
        inner(io)->ops->fallocate(inner(io), fd, mode, offset, len));
}

/* Which node a name is, before the call that takes the name away. */
static RecordEntry *
begin_named(RecordIo *record, enum RecordKind kind, int dirfd, const char *name)
{
    struct stat st, dir;
    RecordLog *log = record->log;
    RecordEntry *entry;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) || fstat(dirfd, &dir)) {
        return NULL;
    }
    record_log_lock(log);
    uint32_t parent = record_log_node_locked(log, &dir, false);
    uint32_t node = record_log_node_locked(log, &st, false);
    entry = record_log_begin_locked(log, kind, parent, 0, 0, NULL);
    entry->other = node;
    record_name(entry->name, name);
    record_log_unlock(log);
    return entry;
}

static int
record_rename(StoreIo *io, int dirfd, const char *from, const char *to)
{
    RecordIo *record = self_of(io);
    RecordEntry *entry;
    int r;

    entry = begin_named(record, RECORD_RENAME, dirfd, from);
    r = inner(io)->ops->rename(inner(io), dirfd, from, to);
    if (entry) {
        record_name(entry->name_to, to);
        end_on(record, entry, dirfd, r);
    }
    return r;
}

static int
record_exchange(StoreIo *io, int dirfd, const char *a, const char *b)
{
    RecordIo *record = self_of(io);
    RecordEntry *entry;
    struct stat st;
    int r;

    /* Of two that are there: else nothing happens. */
    entry = fstatat(dirfd, b, &st, AT_SYMLINK_NOFOLLOW)
                ? NULL
                : begin_named(record, RECORD_EXCHANGE, dirfd, a);
    if (entry) {
        record_log_lock(record->log);
        entry->other_to = record_log_node_locked(record->log, &st, false);
        record_log_unlock(record->log);
    }
    r = inner(io)->ops->exchange(inner(io), dirfd, a, b);
    if (entry) {
        record_name(entry->name_to, b);
        end_on(record, entry, dirfd, r);
    }
    return r;
}

static int
record_unlink(StoreIo *io, int dirfd, const char *name, int flags)
{
    RecordIo *record = self_of(io);
    RecordEntry *entry;
    int r;

    entry = begin_named(record, RECORD_UNLINK, dirfd, name);
    r = inner(io)->ops->unlink(inner(io), dirfd, name, flags);
    if (entry) {
        end_on(record, entry, dirfd, r);
    }
    return r;
}

static off_t
record_lseek(StoreIo *io, int fd, off_t offset, int whence)
{
    return inner(io)->ops->lseek(inner(io), fd, offset, whence);
}

static void
record_prep(StoreIo *io, struct io_uring_sqe *sqe, const StoreReq *req)
{
    RecordIo *record = self_of(io);
    enum RecordKind kind = RECORD_WRITE;
    bool has_data = req->op == STORE_WRITE || req->op == STORE_WRITE_SYNC;

    inner(io)->ops->prep(inner(io), sqe, req);
    if (req->op == STORE_READ) {
        return;
    }
    if (req->op == STORE_FDATASYNC) {
        kind = sync_kind(record, req->fd);
    } else if (req->op == STORE_FALLOCATE) {
        kind = fallocate_kind(req->mode);
    }
    RecordEntry *entry = record_log_begin(
        record->log, kind, node_of(record, req->fd),
        req->op == STORE_FDATASYNC ? 0 : req->offset,
        req->op == STORE_FDATASYNC ? 0 : req->len, has_data ? req->buf : NULL);
    entry->is_durable = req->op == STORE_WRITE_SYNC &&
                        sync_kind(record, req->fd) == RECORD_SYNC;
    entry->key = req;
}

static int
record_done(StoreIo *io, const StoreReq *req, int res)
{
    RecordIo *record = self_of(io);
    RecordLog *log = record->log;
    RecordEntry *entry = NULL;

    res = inner(io)->ops->done(inner(io), req, res);
    if (req->op == STORE_READ) {
        return res;
    }
    record_log_lock(log);
    for (size_t i = log->count; i-- > 0 && !entry;) {
        if (log->entries[i]->key == req) {
            entry = log->entries[i];
            entry->key = NULL;
        }
    }
    record_log_unlock(log);
    assert(entry);
    end_on(record, entry, req->fd, res);
    return res;
}

static const struct StoreIoOps record_ops = {
    .open = record_open,
    .close = record_close,
    .mkdir = record_mkdir,
    .pread = record_pread,
    .pwrite = record_pwrite,
    .fdatasync = record_fdatasync,
    .fsync = record_fsync,
    .ftruncate = record_ftruncate,
    .fallocate = record_fallocate,
    .rename = record_rename,
    .exchange = record_exchange,
    .unlink = record_unlink,
    .lseek = record_lseek,
    .prep = record_prep,
    .done = record_done,
};

void
record_io_init(RecordIo *record, StoreIo *inner_io, RecordLog *log)
{
    *record = (RecordIo){.io = {&record_ops}, .inner = inner_io, .log = log};
}
