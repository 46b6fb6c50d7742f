/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log is a list of entries in the order of their beginnings. Every step
 * of an entry's life takes the next tick, so that two things can always be
 * told to have been one after the other, or at the same time:
 *
 *   begin .. end           asked .. answered; a store's call or request
 *   begin .. executed      arrived at the target .. done there
 *   begin .. gone          arrived at the target, dropped before it was done
 *
 * A file is known by its number on the device, so that names may change under
 * it. A number may be given out again once its file is gone: a node that was
 * made anew takes over the number from one that is dead.
 */
#include "record-log.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
record_log_init(RecordLog *log)
{
    *log = (RecordLog){.tick = 0};
    pthread_mutex_init(&log->lock, NULL);
}

void
record_log_deinit(RecordLog *log)
{
    for (size_t i = 0; i < log->count; i++) {
        free(log->entries[i]->data);
        free(log->entries[i]);
    }
    for (size_t i = 0; i < log->n_nodes; i++) {
        free(log->nodes[i]->data);
        free(log->nodes[i]);
    }
    free(log->entries);
    free(log->nodes);
    pthread_mutex_destroy(&log->lock);
    *log = (RecordLog){.tick = 0};
}

void
record_log_lock(RecordLog *log)
{
    pthread_mutex_lock(&log->lock);
}

void
record_log_unlock(RecordLog *log)
{
    pthread_mutex_unlock(&log->lock);
}

static void *
grown(void *list, size_t count, size_t *room)
{
    if (count < *room) {
        return list;
    }
    *room = *room ? 2 * *room : 256;
    list = realloc(list, *room * sizeof(void *));
    assert(list);
    return list;
}

RecordEntry *
record_log_begin_locked(RecordLog *log, enum RecordKind kind, uint32_t node,
                        uint64_t offset, uint64_t len, const void *data)
{
    RecordEntry *entry = malloc(sizeof(*entry));

    assert(entry);
    *entry = (RecordEntry){
        .kind = kind,
        .node = node,
        .other = RECORD_NONE,
        .other_to = RECORD_NONE,
        .begin = ++log->tick,
        .end = RECORD_NEVER,
        .executed = RECORD_NEVER,
        .gone = RECORD_NEVER,
        .offset = offset,
        .len = len,
    };
    if (data) {
        entry->data = malloc(len);
        assert(entry->data);
        memcpy(entry->data, data, len);
    }
    log->entries = grown(log->entries, log->count, &log->room);
    log->entries[log->count++] = entry;
    return entry;
}

RecordEntry *
record_log_begin(RecordLog *log, enum RecordKind kind, uint32_t node,
                 uint64_t offset, uint64_t len, const void *data)
{
    record_log_lock(log);
    RecordEntry *entry =
        record_log_begin_locked(log, kind, node, offset, len, data);
    record_log_unlock(log);
    return entry;
}

void
record_log_end_locked(RecordLog *log, RecordEntry *entry, int result)
{
    assert(entry->end == RECORD_NEVER);
    entry->end = ++log->tick;
    entry->result = result;
}

void
record_log_end(RecordLog *log, RecordEntry *entry, int result)
{
    record_log_lock(log);
    record_log_end_locked(log, entry, result);
    record_log_unlock(log);
}

void
record_log_executed(RecordLog *log, RecordEntry *entry)
{
    record_log_lock(log);
    assert(entry->gone == RECORD_NEVER);
    entry->executed = ++log->tick;
    record_log_unlock(log);
}

void
record_log_gone(RecordLog *log, RecordEntry *entry)
{
    record_log_lock(log);
    assert(entry->executed == RECORD_NEVER);
    entry->gone = ++log->tick;
    record_log_unlock(log);
}

void
record_log_forget(RecordLog *log)
{
    size_t kept = 0;

    record_log_lock(log);
    for (size_t i = 0; i < log->count; i++) {
        RecordEntry *entry = log->entries[i];

        if (entry->end == RECORD_NEVER && entry->gone == RECORD_NEVER) {
            log->entries[kept++] = entry;
        } else {
            free(entry->data);
            free(entry);
        }
    }
    log->count = kept;
    record_log_unlock(log);
}

void
record_name(char to[RECORD_NAME], const char *name)
{
    assert(strlen(name) < RECORD_NAME);
    strcpy(to, name);
}

void
record_log_mark(RecordLog *log, const char *text)
{
    record_log_lock(log);
    RecordEntry *entry =
        record_log_begin_locked(log, RECORD_MARK, RECORD_NONE, 0, 0, NULL);
    record_name(entry->name, text);
    record_log_unlock(log);
}

/*
 * Nodes
 */
static uint32_t
node_new(RecordLog *log, const struct stat *st)
{
    RecordNode *node = malloc(sizeof(*node));

    assert(node);
    *node = (RecordNode){
        .is_dir = S_ISDIR(st->st_mode),
        .device = st->st_dev,
        .inode = st->st_ino,
        .mtime = st->st_mtim,
        .parent = RECORD_NONE,
    };
    log->nodes = grown(log->nodes, log->n_nodes, &log->nodes_room);
    log->nodes[log->n_nodes] = node;
    return (uint32_t)log->n_nodes++;
}

uint32_t
record_log_node_locked(RecordLog *log, const struct stat *st, bool is_new)
{
    for (uint32_t i = (uint32_t)log->n_nodes; i-- > 0;) {
        RecordNode *node = log->nodes[i];

        if (node->is_dead || node->inode != st->st_ino ||
            node->device != st->st_dev) {
            continue;
        }
        if (!is_new) {
            return i;
        }
        node->is_dead = true;
    }
    return node_new(log, st);
}

/* What is in the file, without its holes. */
static uint8_t *
load_data(int fd, uint64_t size)
{
    uint8_t *data = calloc(1, size + 1);
    off_t at = lseek(fd, 0, SEEK_DATA);

    assert(data);
    while (at >= 0 && (uint64_t)at < size) {
        off_t end = lseek(fd, at, SEEK_HOLE);
        ssize_t n = pread(fd, data + at, (size_t)(end - at), at);

        assert(n == end - at);
        at = lseek(fd, end, SEEK_DATA);
    }
    return data;
}

static void
attach(RecordLog *log, int fd, uint32_t self)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;

    assert(dir);
    while ((entry = readdir(dir))) {
        struct stat st;

        if (entry->d_name[0] == '.' &&
            (!entry->d_name[1] || !strcmp(entry->d_name, ".."))) {
            continue;
        }
        int child = openat(fd, entry->d_name, O_RDONLY | O_CLOEXEC);

        if (child < 0) {
            assert(errno == ENXIO); /* a socket */
            continue;
        }
        int failed = fstat(child, &st);
        uint32_t index = node_new(log, &st);
        RecordNode *node = log->nodes[index];

        assert(!failed);
        node->parent = self;
        record_name(node->name, entry->d_name);
        if (node->is_dir) {
            attach(log, child, index);
        } else {
            node->size = (uint64_t)st.st_size;
            node->data = load_data(child, node->size);
            close(child);
        }
    }
    closedir(dir);
}

void
record_log_attach(RecordLog *log, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    int failed = fd < 0 || fstat(fd, &st);

    assert(!failed && !log->n_nodes);
    record_log_lock(log);
    attach(log, fd, node_new(log, &st));
    record_log_unlock(log);
}

uint64_t
record_log_room(const RecordLog *log, uint32_t node)
{
    uint64_t room = log->nodes[node]->size;

    for (size_t i = 0; i < log->count; i++) {
        const RecordEntry *entry = log->entries[i];

        if (entry->kind <= RECORD_SIZE && entry->node == node) {
            uint64_t end = entry->offset + entry->len;

            room = entry->kind != RECORD_ZERO && end > room ? end : room;
        }
    }
    return room;
}

/*
 * Files: the structs as they are, for the same program on the same machine
 */
struct Head {
    char magic[8];
    uint64_t sizes; /* of the structs, a weak version number */
    uint64_t count, n_nodes, tick;
};

static const struct Head head_template = {.magic = "WEIRLOG1",
                                          .sizes = sizeof(RecordEntry) << 16 |
                                                   sizeof(RecordNode)};

static void
put(FILE *file, const void *what, size_t size, const void *data, uint64_t len)
{
    fwrite(what, size, 1, file);
    if (data) {
        fwrite(data, 1, len, file);
    }
}

bool
record_log_save(const RecordLog *log, const char *path)
{
    FILE *file = fopen(path, "we");
    struct Head head = head_template;

    if (!file) {
        return false;
    }
    head.count = log->count;
    head.n_nodes = log->n_nodes;
    head.tick = log->tick;
    fwrite(&head, sizeof(head), 1, file);
    for (size_t i = 0; i < log->n_nodes; i++) {
        const RecordNode *node = log->nodes[i];

        put(file, node, sizeof(*node), node->data, node->size);
    }
    for (size_t i = 0; i < log->count; i++) {
        const RecordEntry *entry = log->entries[i];

        put(file, entry, sizeof(*entry), entry->data, entry->len);
    }
    return fclose(file) == 0;
}

/* The pointer at *@data said only whether there was any. */
static bool
get(FILE *file, uint8_t **data, uint64_t len)
{
    if (!*data) {
        return true;
    }
    *data = malloc(len + 1);
    assert(*data);
    return fread(*data, 1, len, file) == len;
}

static bool
load(RecordLog *log, FILE *file)
{
    struct Head head;

    if (fread(&head, sizeof(head), 1, file) != 1 ||
        memcmp(head.magic, head_template.magic, sizeof(head.magic)) != 0 ||
        head.sizes != head_template.sizes) {
        return false;
    }
    log->tick = head.tick;
    for (; log->n_nodes < head.n_nodes; log->n_nodes++) {
        RecordNode *node = malloc(sizeof(*node));

        log->nodes = grown(log->nodes, log->n_nodes, &log->nodes_room);
        log->nodes[log->n_nodes] = node;
        if (fread(node, sizeof(*node), 1, file) != 1 ||
            !get(file, &node->data, node->size)) {
            return false;
        }
    }
    for (; log->count < head.count; log->count++) {
        RecordEntry *entry = malloc(sizeof(*entry));

        log->entries = grown(log->entries, log->count, &log->room);
        log->entries[log->count] = entry;
        if (fread(entry, sizeof(*entry), 1, file) != 1 ||
            !get(file, &entry->data, entry->len)) {
            return false;
        }
    }
    return true;
}

bool
record_log_load(RecordLog *log, const char *path)
{
    FILE *file = fopen(path, "re");

    if (!file) {
        return false;
    }
    record_log_init(log);
    bool is_good = load(log, file);
    fclose(file);
    return is_good;
}
