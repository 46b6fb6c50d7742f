/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The beginning and the end of a walk; and the target's side of it.
 *
 * At the target a write is first on its way, then executed (reads see it),
 * then covered by a flush: durable. What is on its way may execute later, or
 * never; what is executed may be lost. All that matters to a judge is which
 * values a sector may come to hold: the durable one, and those of the sends in
 * the list.
 */
#include "states-internal.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAW_NAME  "disk.raw"
#define LOCK_NAME "lock"

static void
note(CrashStates *states, uint64_t tick, RecordEntry *entry, int what)
{
    if (tick != RECORD_NEVER) {
        assert(tick <= states->log->tick);
        states->events[tick].entry = entry;
        states->events[tick].what = what;
    }
}

static void
order_events(CrashStates *states)
{
    const RecordLog *log = states->log;

    states->events = calloc(log->tick + 1, sizeof(*states->events));
    assert(states->events);
    for (size_t i = 0; i < log->count; i++) {
        RecordEntry *entry = log->entries[i];

        note(states, entry->begin, entry, EVENT_BEGIN);
        note(states, entry->end, entry, EVENT_END);
        note(states, entry->executed, entry, EVENT_EXECUTED);
        note(states, entry->gone, entry, EVENT_GONE);
    }
}

/* In the directory of the states, under a name that no store has. */
static void
open_raw(CrashStates *states, struct CrashFile *file)
{
    struct stat st;
    char *path;
    int failed = asprintf(&path, "%s/" CRASH_RAW, states->dir) < 0;

    file->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    failed |= file->fd < 0 || ftruncate(file->fd, (off_t)file->room) ||
              fstat(file->fd, &st);
    assert(!failed);
    states->raw_inode = st.st_ino;
    file->now =
        mmap(NULL, file->room, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    assert(file->now != MAP_FAILED);
    free(path);
}

static bool
is_raw(const RecordLog *log, uint32_t node)
{
    return !log->nodes[node]->is_dir &&
           !strcmp(log->nodes[node]->name, RAW_NAME);
}

/* The content as attached goes in like a durable write. */
static void
open_file(CrashStates *states, uint32_t node)
{
    const RecordNode *of = states->log->nodes[node];
    struct CrashFile *file = &states->files[node];
    RecordEntry first = {.kind = RECORD_WRITE,
                         .node = node,
                         .len = of->size,
                         .result = (int)of->size,
                         .data = of->data};

    file->node = node;
    file->fd = -1;
    if (!strcmp(of->name, LOCK_NAME)) {
        states->lock = node;
    }
    if (of->is_dir) {
        return;
    }
    file->room = (record_log_room(states->log, node) + SECTOR_BYTES) &
                 ~(uint64_t)(SECTOR_BYTES - 1);
    file->base = calloc(1, file->room);
    if (is_raw(states->log, node)) {
        states->raw = file;
        open_raw(states, file);
    } else {
        file->now = calloc(1, file->room);
    }
    assert(file->base && file->now);
    file->base_mtime = of->mtime;
    if (of->data) {
        crash_apply(states, &(struct CrashUnit){&first, NULL}, true, FATE_KEPT,
                    0);
    }
    if (of->parent != RECORD_NONE) {
        crash_set_name(&states->base_names, of->parent, of->name, node);
    }
}

/* @data NULL: zeroes. */
static void
put_target(CrashStates *states, uint64_t offset, uint64_t len,
           const uint8_t *data)
{
    states->is_target_new = true;
    for (uint64_t at = 0; at < len;) {
        uint64_t part = crash_part_len(offset + at, offset + len);
        uint64_t number = (offset + at) / SECTOR_BYTES;
        uint8_t *sector = states->target + number * SECTOR_BYTES;
        uint64_t before = crash_sector_hash(sector, number);

        if (data) {
            memcpy(states->target + offset + at, data + at, part);
        } else if (before) {
            memset(states->target + offset + at, 0, part);
        }
        states->target_hash ^= before ^ crash_sector_hash(sector, number);
        at += part;
    }
}

void
crash_states_init(CrashStates *states, const RecordLog *log,
                  const struct CrashBegin *begin)
{
    *states = (CrashStates){
        .log = log,
        .dir = begin->dir,
        .seed = begin->seed,
        .target_bytes = begin->target_bytes,
        .oracle = begin->oracle,
        .lock = RECORD_NONE,
    };
    order_events(states);
    states->files = calloc(log->n_nodes, sizeof(*states->files));
    states->target = calloc(1, begin->target_bytes);
    assert(states->files && states->target);
    for (uint32_t i = 0; i < log->n_nodes; i++) {
        const RecordNode *node = log->nodes[i];

        open_file(states, i);
        if (node->is_dir && node->parent != RECORD_NONE) {
            crash_set_name(&states->base_names, node->parent, node->name, i);
        }
    }
    if (begin->target) {
        put_target(states, 0, begin->target_bytes, begin->target);
    }
    crash_states_undo(states);
}

void
crash_states_deinit(CrashStates *states)
{
    crash_states_undo(states);
    for (uint32_t i = 0; i < states->log->n_nodes; i++) {
        struct CrashFile *file = &states->files[i];

        free(file->base);
        if (file->fd >= 0) {
            munmap(file->now, file->room);
            close(file->fd);
        } else {
            free(file->now);
        }
    }
    for (size_t i = 0; i < states->n_units; i++) {
        free(states->units[i].dead);
    }
    for (size_t i = 0; i < states->n_sends; i++) {
        free(states->sends[i].dead);
    }
    free(states->events);
    free(states->files);
    free(states->units);
    free(states->fates);
    free(states->undo);
    free(states->base_names.list);
    free(states->now_names.list);
    free(states->target);
    free(states->sends);
}

/*
 * The target
 */
static void
drop_send(CrashStates *states, size_t index)
{
    free(states->sends[index].dead);
    memmove(states->sends + index, states->sends + index + 1,
            (states->n_sends - index - 1) * sizeof(*states->sends));
    states->n_sends--;
}

bool
crash_unit_run(const struct CrashUnit *unit, uint64_t from, uint64_t *offset,
               uint64_t *len)
{
    const RecordEntry *entry = unit->entry;
    uint64_t end = entry->offset + entry->len;
    uint64_t first = entry->offset / SECTOR_BYTES;
    uint64_t at = from;

    if (!unit->dead) {
        *offset = from;
        *len = from < end ? end - from : 0;
        return from < end;
    }
#define IS_DEAD(byte)                                   \
    (unit->dead[((byte) / SECTOR_BYTES - first) / 8] >> \
         ((byte) / SECTOR_BYTES - first) % 8 &          \
     1)
    while (at < end && IS_DEAD(at)) {
        at += crash_part_len(at, end);
    }
    *offset = at;
    while (at < end && !IS_DEAD(at)) {
        at += crash_part_len(at, end);
    }
#undef IS_DEAD
    *len = at - *offset;
    return *len > 0;
}

/* It is durable: what was executed before it cannot come back over it. */
static void
settle_send(CrashStates *states, size_t index)
{
    struct CrashUnit send = states->sends[index];
    const RecordEntry *entry = send.entry;
    uint64_t offset, len;

    for (uint64_t at = entry->offset; crash_unit_run(&send, at, &offset, &len);
         at = offset + len) {
        put_target(states, offset, len,
                   entry->data ? entry->data + (offset - entry->offset) : NULL);
    }
    for (size_t i = 0; i < states->n_sends; i++) {
        if (states->sends[i].entry->executed < entry->executed) {
            crash_kill_sectors(&states->sends[i], entry);
        }
    }
    drop_send(states, index);
}

static void
flushed(CrashStates *states, const RecordEntry *flush)
{
    for (size_t i = 0; i < states->n_sends;) {
        const RecordEntry *entry = states->sends[i].entry;

        if (entry->executed < flush->executed &&
            (flush->node == RECORD_NONE || flush->node == entry->node)) {
            settle_send(states, i);
        } else {
            i++;
        }
    }
}

static void
sent(CrashStates *states, const struct CrashEvent *event)
{
    size_t i = 0;

    if (event->what == EVENT_BEGIN) {
        if (states->n_sends == states->sends_room) {
            states->sends_room =
                states->sends_room ? 2 * states->sends_room : 64;
            states->sends = realloc(states->sends, states->sends_room *
                                                       sizeof(*states->sends));
            assert(states->sends);
        }
        states->sends[states->n_sends++] =
            (struct CrashUnit){event->entry, NULL};
        return;
    }
    while (i < states->n_sends && states->sends[i].entry != event->entry) {
        i++;
    }
    if (i == states->n_sends || event->what == EVENT_END) {
        return;
    }
    if (event->what == EVENT_GONE) {
        drop_send(states, i);
    } else if (event->entry->is_durable) {
        settle_send(states, i);
    } else {
        /* Executed: the list is in the order of execution. */
        struct CrashUnit send = states->sends[i];

        states->sends[i].dead = NULL;
        drop_send(states, i);
        states->sends[states->n_sends++] = send;
    }
}

void
crash_target_event(CrashStates *states, const struct CrashEvent *event)
{
    if (event->entry->kind == RECORD_SEND) {
        sent(states, event);
    } else if (event->what == EVENT_EXECUTED) {
        flushed(states, event->entry);
    }
}

/*
 * For people
 */
static const char *const kind_names[RECORD_KINDS] = {
    "write",    "zero",   "grow", "size",  "sync",  "link",       "rename",
    "exchange", "unlink", "send", "flush", "guest", "guest sync", "mark"};
static const char *const fate_names[] = {"lost", "kept", "torn"};

void
crash_states_print(const CrashStates *states)
{
    for (size_t i = 0; i < states->log->count; i++) {
        const RecordEntry *entry = states->log->entries[i];

        if (entry->kind == RECORD_MARK && entry->begin <= states->tick) {
            printf("  tick %llu: %s\n", (unsigned long long)entry->begin,
                   entry->name);
        }
    }
    for (size_t i = 0; i < states->n_units; i++) {
        const RecordEntry *entry = states->units[i].entry;

        printf("  %s: %s of %s%s%s, %llu + %llu, ticks %llu .. %lld\n",
               states->fates ? fate_names[states->fates[i]] : "?",
               kind_names[entry->kind], states->log->nodes[entry->node]->name,
               entry->name[0] ? " " : "", entry->name,
               (unsigned long long)entry->offset,
               (unsigned long long)entry->len, (unsigned long long)entry->begin,
               (long long)entry->end);
    }
    for (size_t i = 0; i < states->n_sends; i++) {
        const RecordEntry *entry = states->sends[i].entry;

        printf("  target: %llu + %llu %s, ticks %llu .. %lld\n",
               (unsigned long long)entry->offset,
               (unsigned long long)entry->len,
               entry->executed <= states->tick ? "executed" : "on its way",
               (unsigned long long)entry->begin, (long long)entry->executed);
    }
}
