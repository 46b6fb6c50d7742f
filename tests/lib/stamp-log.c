/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log is one mapping. What it says of a sector only ever errs to the safe
 * side: "issued" is written before the request is sent and "acked" and
 * "synced" after its answer, so that a writer that is killed between any two
 * instructions leaves bounds that hold.
 */
#include "stamp.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MAGIC UINT64_C(0x31676f6c706d6174) /* "tamplog1" */

int
stamp_log_create(const char *path, uint64_t disk, uint64_t sectors)
{
    StampHeader header = {.magic = LOG_MAGIC,
                          .disk = disk,
                          .sectors = sectors,
                          .next_sequence = 1};
    off_t length = (off_t)(sizeof(header) + sectors * sizeof(StampEntry));
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int error = 0;

    if (fd < 0) {
        return -errno;
    }
    if (ftruncate(fd, length) || pwrite(fd, &header, sizeof(header), 0) < 0) {
        error = -errno;
    }
    close(fd);
    return error;
}

int
stamp_log_open(StampLog *log, const char *path)
{
    struct stat st = {0};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int error = 0;

    *log = (StampLog){0};
    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) || (size_t)st.st_size < sizeof(StampHeader)) {
        close(fd);
        return -EINVAL;
    }
    log->length_bytes = (size_t)st.st_size;
    log->header = mmap(NULL, log->length_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED, fd, 0);
    if (log->header == MAP_FAILED) {
        error = -errno;
        log->header = NULL;
    }
    close(fd);
    if (error) {
        return error;
    }
    log->entries = (StampEntry *)(log->header + 1);
    if (log->header->magic != LOG_MAGIC ||
        log->header->sectors !=
            (log->length_bytes - sizeof(StampHeader)) / sizeof(StampEntry)) {
        stamp_log_close(log);
        return -EINVAL;
    }
    return 0;
}

void
stamp_log_close(StampLog *log)
{
    if (log->header) {
        munmap(log->header, log->length_bytes);
    }
    *log = (StampLog){0};
}

uint64_t
stamp_issue(StampLog *log, unsigned slot_index, enum StampOp op, uint64_t first,
            uint64_t count)
{
    StampSlot *slot = &log->header->slots[slot_index];
    uint64_t sequence = atomic_fetch_add(&log->header->next_sequence, 1);

    assert(slot_index < STAMP_WORKERS && slot->op == STAMP_IDLE);
    assert(first + count <= log->header->sectors);
    for (uint64_t i = first; i < first + count; i++) {
        log->entries[i].issued = sequence;
        if (op == STAMP_DISCARD) {
            log->entries[i].zeroing = sequence;
        }
    }
    slot->sequence = sequence;
    slot->first = first;
    slot->count = count;
    slot->op = op;
    return sequence;
}

void
stamp_answer(StampLog *log, unsigned slot_index, bool succeeded)
{
    StampSlot *slot = &log->header->slots[slot_index];

    assert(slot->op != STAMP_IDLE);
    if (succeeded) {
        for (uint64_t i = 0; i < slot->count; i++) {
            log->entries[slot->first + i].acked = slot->sequence;
        }
    }
    slot->op = STAMP_IDLE;
}

void
stamp_synced(StampLog *log, uint64_t first, uint64_t count, uint64_t sequence)
{
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t known = log->entries[i].synced;

        /* Two fsyncs may return in either order. */
        while (known < sequence &&
               !atomic_compare_exchange_weak(&log->entries[i].synced, &known,
                                             sequence)) {
        }
    }
}
