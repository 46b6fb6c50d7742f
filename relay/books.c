/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two files in which the relay keeps what it knows of a disk's target:
 * remote-sums and sent-log. They are opened before the store says that it is
 * served, and stamped with its new epoch, so that a copy of before that is
 * seen to be one; and again when the relay has ended, with the epoch of the
 * clean end, so that a copy made while it was at work is seen, too.
 *
 *   sent-log       sums        what is believed
 *   -------------- ----------- -----------------------------------------------
 *   sound          sound       the sums, but for what is logged
 *   sound          damaged     no sum
 *   damaged        any         no sum; after an unclean end everything is in
 *                              doubt
 *
 * A disk whose sums cannot be had (no room, I/O errors) is relayed without:
 * everything stays in the sent-log then. Without a sent-log nothing is sent, but
 * the guest is served (rule 23).
 *
 * At work, the core's actions on them:
 *
 *   NOTE     remote-sums is written, or punched    NOTED
 *   LOG      sent-log is written, durably          LOGGED, LOG_FAILED
 *   SYNC     fdatasync of remote-sums              SYNCED
 *   FORGET   all entries are punched, durably;     FORGOTTEN
 *            then a new key is written, durably
 *
 * A load hashes each of its clusters once: the hash is compared with the sum
 * of what the target holds, and is what NOTE writes if the cluster is sent.
 * Sums that cannot be read are unknown.
 */
#include "books.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>

#define ENTRIES_BYTES ((size_t)RELAY_OPS * 2 * BOOKS_OP_BYTES)

/*
 * Opening and ending
 */
static void
say_what(const RelayBooks *books, const char *file, const char *what,
         const char *cost)
{
    if (what) {
        g_warning("%s/%s: %s: %s", books->name, file, what, cost);
    }
}

static int
open_log(RelayBooks *books, const struct RelayDiskConfig *config)
{
    const char *what;
    int r = sent_log_open(&books->log, books->io, config->dir_fd, config->uuid,
                          config->epoch_before, config->epoch,
                          config->is_in_doubt, books->logged, &what);

    say_what(books, SENT_LOG_FILE, what,
             config->is_in_doubt ? "everything counts as uploaded in part"
                                 : "nothing is known of the target's content");
    return r;
}

/* @is_trusted: false if the log cannot say which of them are old. */
static void
open_sums(RelayBooks *books, const struct RelayDiskConfig *config,
          bool is_trusted)
{
    const char *what;
    uint64_t least = is_trusted ? config->epoch_before : UINT64_MAX;
    int r = sums_open(&books->sums, books->io, config->dir_fd, config->uuid,
                      disk_map_cluster_bits(books->map), least, config->epoch,
                      &what);

    if (r < 0 && r != -EBADMSG) {
        what = g_strerror(-r);
    }
    say_what(books, SUMS_FILE, is_trusted ? what : NULL,
             "nothing is known of the target's content");
}

bool
books_open(RelayBooks *books, StoreIo *io, const struct RelayDiskConfig *config,
           GError **error)
{
    int r;

    *books = (RelayBooks){.io = io,
                          .name = g_strdup(config->name),
                          .map = config->map,
                          .sums.fd = -1,
                          .log.fd = -1};
    books->entries = mmap(NULL, ENTRIES_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    books->logged = bitmap_new(disk_map_size_bytes(books->map),
                               disk_map_cluster_bits(books->map));
    if (books->entries == MAP_FAILED || !books->logged) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED,
                    "%s: no memory for its buffers", config->name);
        return false;
    }
    (void)madvise(books->entries, ENTRIES_BYTES, MADV_DONTFORK);
    r = open_log(books, config);
    if (r < 0 && r != -EBADMSG) {
        say_what(books, SENT_LOG_FILE, g_strerror(-r),
                 "nothing is uploaded before the next mount: make room, or "
                 "look at the file system");
        if (config->is_in_doubt) {
            bitmap_set_all(books->logged);
        }
    }
    open_sums(books, config, r == 0);
    return true;
}

void
books_end(RelayBooks *books, const RelayCore *core, bool syncs)
{
    StoreIo *io = books->io;
    bool is_durable = syncs && books->sums.fd >= 0 &&
                      io->ops->fdatasync(io, books->sums.fd) == 0;

    bitmap_clear_all(books->logged);
    if (bitmap_grow(books->logged, disk_map_size_bytes(books->map)) < 0) {
        g_error("%s: out of memory", books->name);
    }
    relay_core_last_log(core, is_durable, books->logged);
}

void
books_stamp(RelayBooks *books, uint64_t epoch)
{
    int r = 0;

    if (books->log.fd >= 0) {
        r = sent_log_stamp(&books->log, books->logged, epoch);
    }
    if (r == 0 && books->sums.fd >= 0) {
        r = sums_stamp(&books->sums, epoch);
    }
    if (r < 0) {
        g_warning("%s: what is known of its target cannot be kept: %s",
                  books->name, g_strerror(-r));
    }
}

void
books_close(RelayBooks *books)
{
    if (!books->io) {
        return;
    }
    sent_log_close(&books->log);
    if (books->sums.fd >= 0) {
        sums_close(&books->sums);
    }
    if (books->entries && books->entries != MAP_FAILED) {
        munmap(books->entries, ENTRIES_BYTES);
    }
    bitmap_free(books->logged);
    g_free(books->name);
}

/*
 * Steps
 */
static struct BooksStep
answer(enum RelayEventKind kind, int error)
{
    return (struct BooksStep){.event = {.kind = kind, .error = error},
                              .request = BOOKS_REQUESTS};
}

static struct BooksStep
ask(RelayBooks *books, enum BooksRequest request, const StoreReq *req)
{
    books->requests[request] = *req;
    return (struct BooksStep){.request = request};
}

/*
 * Loads
 */
uint8_t *
books_known(const RelayBooks *books, unsigned op, uint64_t at)
{
    uint64_t cluster = at >> disk_map_cluster_bits(books->map);

    return books->entries + (size_t)op * 2 * BOOKS_OP_BYTES +
           cluster * SUMS_BYTES;
}

static uint8_t *
loaded_entries(const RelayBooks *books, unsigned op)
{
    return books_known(books, op, 0) + BOOKS_OP_BYTES;
}

static struct ClusterRun
run_of(const RelayBooks *books, const struct RelayAction *action)
{
    return run_outward(action->offset, action->len,
                       disk_map_cluster_bits(books->map));
}

bool
books_load(RelayBooks *books, const struct RelayAction *load, StoreReq *req)
{
    struct ClusterRun run = run_of(books, load);

    *req = (StoreReq){
        .op = STORE_READ,
        .fd = books->sums.fd,
        .buf = books_known(books, load->op, 0),
        .offset = sums_offset(run),
        .len = run.count * SUMS_BYTES,
    };
    memset(req->buf, 0, req->len);
    return req->fd >= 0;
}

/* What is behind the end of the file, or cannot be read, is unknown. */
void
books_loaded(StoreReq *req, int res)
{
    size_t whole = res > 0 ? (size_t)res / SUMS_BYTES * SUMS_BYTES : 0;

    memset((uint8_t *)req->buf + whole, 0, req->len - whole);
}

static bool
is_all_zero(const uint8_t *data, size_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

static void
set_bit(uint64_t *words, unsigned i, bool is_set)
{
    words[i / 64] |= (uint64_t)is_set << i % 64;
}

void
books_look(const RelayBooks *books, uint64_t offset, uint64_t len,
           const uint8_t *data, struct RelayEvent *event)
{
    unsigned cluster_bits = disk_map_cluster_bits(books->map);
    uint64_t cluster = UINT64_C(1) << cluster_bits;
    uint64_t first = offset >> cluster_bits;
    unsigned i = 0;

    for (uint64_t at = 0; at < len; at += cluster, i++) {
        size_t part = MIN(cluster, len - at);
        const uint8_t *known = books_known(books, event->op, at);
        uint8_t *entry = loaded_entries(books, event->op) + i * SUMS_BYTES;

        sums_hash(&books->sums, first + i, data + at, part, entry);
        set_bit(event->zero, i, is_all_zero(data + at, part));
        set_bit(event->known, i, sums_is_known(known));
        set_bit(event->equal, i, !memcmp(known, entry, SUMS_BYTES));
    }
}

/*
 * Notes
 */
static struct BooksStep
noted(unsigned op, int error)
{
    struct BooksStep step = answer(RELAY_NOTED, error);

    step.event.op = op;
    return step;
}

static struct BooksStep
begin_note(RelayBooks *books, const struct RelayAction *action)
{
    struct ClusterRun run = run_of(books, action);

    if (books->sums.fd < 0) {
        return noted(action->op, EIO);
    }
    books->n_notes++;
    return ask(books, BOOKS_NOTE + action->op,
               &(StoreReq){
                   .op = action->is_zero_run ? STORE_FALLOCATE : STORE_WRITE,
                   .fd = books->sums.fd,
                   .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   .buf = loaded_entries(books, action->op),
                   .offset = sums_offset(run),
                   .len = run.count * SUMS_BYTES,
               });
}

/*
 * The log
 */
static struct BooksStep
log_failed(int error, const char *words)
{
    struct BooksStep step = answer(RELAY_LOG_FAILED, error);

    g_strlcpy(step.event.text, words, RELAY_TEXT);
    return step;
}

static struct BooksStep
begin_commit(RelayBooks *books, const Bitmap *logged)
{
    uint64_t offset;
    size_t len;

    if (books->log.fd < 0) {
        return log_failed(EIO, "it could not be opened");
    }
    len = sent_log_encode(&books->log, logged, &offset);
    return ask(books, BOOKS_COMMIT,
               &(StoreReq){
                   .op = STORE_WRITE_SYNC,
                   .fd = books->log.fd,
                   .buf = books->log.slot,
                   .offset = offset,
                   .len = len,
               });
}

static struct BooksStep
committed(RelayBooks *books, int res)
{
    int error = res < 0 ? -res : ENOSPC;

    if (res >= 0 && (uint64_t)res == books->requests[BOOKS_COMMIT].len) {
        return answer(RELAY_LOGGED, 0);
    }
    sent_log_failed(&books->log);
    return log_failed(error, g_strerror(error));
}

/*
 * All sums
 */
static struct BooksStep
begin_sync(RelayBooks *books)
{
    if (books->sums.fd < 0) {
        return answer(RELAY_SYNCED, EIO);
    }
    return ask(books, BOOKS_SYNC,
               &(StoreReq){.op = STORE_FDATASYNC, .fd = books->sums.fd});
}

static struct BooksStep
forget_step(RelayBooks *books)
{
    const StoreReq steps[] = {
        [FORGET_PUNCH] = {.op = STORE_FALLOCATE,
                          .fd = books->sums.fd,
                          .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          .offset = SUMS_AT,
                          .len = disk_map_clusters(books->map) * SUMS_BYTES},
        [FORGET_SYNC] = {.op = STORE_FDATASYNC, .fd = books->sums.fd},
        [FORGET_KEY] = {.op = STORE_WRITE_SYNC,
                        .fd = books->sums.fd,
                        .buf = &books->sums.header,
                        .len = sizeof(books->sums.header)},
    };

    return ask(books, BOOKS_FORGET, &steps[books->forget_step]);
}

/* Notes that are under way would write sums of the old key behind our back. */
static struct BooksStep
begin_forget(RelayBooks *books)
{
    if (books->sums.fd < 0) {
        return answer(RELAY_FORGOTTEN, 0);
    }
    books->forget_waits = books->n_notes > 0;
    if (books->forget_waits) {
        return (struct BooksStep){.request = BOOKS_REQUESTS};
    }
    books->forget_step = FORGET_PUNCH;
    return forget_step(books);
}

static struct BooksStep
forget_done(RelayBooks *books, int res)
{
    bool is_last = books->forget_step == FORGET_KEY;
    int wanted = is_last ? (int)sizeof(books->sums.header) : 0;
    int error = res < 0 ? -res : res == wanted ? 0 : EIO;

    if (!error && !is_last) {
        books->forget_step++;
        error =
            books->forget_step == FORGET_KEY ? -sums_make_key(&books->sums) : 0;
        if (!error) {
            return forget_step(books);
        }
    }
    return answer(RELAY_FORGOTTEN, error);
}

static struct BooksStep
note_done(RelayBooks *books, unsigned op, int res)
{
    const StoreReq *req = &books->requests[BOOKS_NOTE + op];
    uint64_t wanted = req->op == STORE_WRITE ? req->len : 0;
    struct BooksStep step = noted(op, res < 0                   ? -res
                                      : (uint64_t)res == wanted ? 0
                                                                : EIO);

    books->n_notes--;
    if (books->forget_waits && !books->n_notes) {
        step.request = begin_forget(books).request;
    }
    return step;
}

/*
 * All of them
 */
struct BooksStep
books_begin(RelayBooks *books, const struct RelayAction *action,
            const Bitmap *logged)
{
    if (action->kind == RELAY_NOTE) {
        return begin_note(books, action);
    }
    if (action->kind == RELAY_LOG) {
        return begin_commit(books, logged);
    }
    if (action->kind == RELAY_SYNC) {
        return begin_sync(books);
    }
    assert(action->kind == RELAY_FORGET);
    return begin_forget(books);
}

struct BooksStep
books_done(RelayBooks *books, enum BooksRequest request, int res)
{
    if (request < BOOKS_COMMIT) {
        return note_done(books, request - BOOKS_NOTE, res);
    }
    if (request == BOOKS_COMMIT) {
        return committed(books, res);
    }
    if (request == BOOKS_SYNC) {
        return answer(RELAY_SYNCED, -res);
    }
    assert(request == BOOKS_FORGET);
    return forget_done(books, res);
}
