/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue of things that will happen, each with its time: an action of the
 * core is executed, then answered; a zombie of the life before executes. The
 * clock jumps from one to the next, or to the core's own next time, so that a
 * quarantine of a minute takes no time at all.
 *
 * The disk does not change meanwhile: there is no guest. What the core asks to
 * be read is taken from it when it is sent.
 */
#include "life-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define DELAY_US    3000
#define PATIENCE_US (INT64_C(3600) * 1000000)
#define STEPS_MAX   200000
#define SECOND_US   INT64_C(1000000)

static struct Coming *
come(struct Run *run, int64_t after_us)
{
    unsigned i = 0;

    while (i < run->used && run->due_us[i] != INT64_MAX) {
        i++;
    }
    assert(i < QUEUE_MAX);
    run->used = i == run->used ? i + 1 : run->used;
    run->due_us[i] = run->now_us + after_us;
    run->coming[i] =
        (struct Coming){.kind = COMING_ANSWER, .request = BOOKS_REQUESTS};
    return &run->coming[i];
}

static int64_t
delay(struct Run *run)
{
    return 1 + (int64_t)seed_below(&run->seed, DELAY_US);
}

struct Coming *
life_come(struct Run *run)
{
    return come(run, delay(run));
}

/*
 * The two images
 */
static bool
is_zero(const uint8_t *data, uint64_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

static void
put(struct Run *run, uint64_t offset, uint64_t len, const uint8_t *data)
{
    Life *life = run->life;

    for (uint64_t at = 0; at < len;) {
        uint64_t number = (offset + at) / run->cluster;
        uint64_t part =
            MIN((number + 1) * run->cluster, offset + len) - (offset + at);
        uint8_t *to = life->target + offset + at;

        if (!life->touched[number]) {
            assert(!data || is_zero(data + at, part));
        } else if (data) {
            memcpy(to, data + at, part);
            life->changed[number] = true;
        } else {
            memset(to, 0, part);
            life->changed[number] = true;
        }
        at += part;
    }
}

static bool
is_equal(struct Run *run, const struct RelayAction *action)
{
    const Life *life = run->life;
    uint64_t end = action->offset + action->len;

    for (uint64_t at = action->offset; at < end;) {
        uint64_t number = at / run->cluster;
        uint64_t part = MIN((number + 1) * run->cluster, end) - at;

        if (action->is_sum) {
            if (!sums_match(&life->books.sums, at, life->target + at, part,
                            books_known(&life->books, action->op,
                                        action->buf_offset))) {
                return false;
            }
        } else if (life->touched[number] &&
                   (action->is_zero_run ? !is_zero(life->target + at, part)
                                        : memcmp(life->target + at,
                                                 life->raw + at, part) != 0)) {
            return false;
        }
        at += part;
    }
    return true;
}

static bool
reads_as_hole(struct Run *run, uint64_t offset)
{
    uint64_t number = offset / run->cluster;

    return !run->life->touched[number] ||
           is_zero(run->life->raw + offset, run->cluster);
}

/*
 * Answers
 */
static void
answer_map(struct Run *run, const struct RelayAction *action)
{
    struct Coming *coming = life_come(run);
    bool is_hole = reads_as_hole(run, action->offset);
    uint64_t len = run->cluster;

    while (len < action->len &&
           reads_as_hole(run, action->offset + len) == is_hole) {
        len += run->cluster;
    }
    coming->event = (struct RelayEvent){.kind = RELAY_MAPPED,
                                        .op = action->op,
                                        .len = MIN(len, action->len),
                                        .is_hole = is_hole};
}

static void
answer_connect(struct Run *run, const struct RelayAction *action)
{
    struct Coming *coming = life_come(run);

    run->is_up[action->conn] = true;
    run->epochs[action->conn] = action->epoch;
    coming->event = (struct RelayEvent){
        .kind = RELAY_LINK_UP,
        .conn = action->conn,
        .epoch = action->epoch,
        .caps = {.size_bytes = run->life->disk->size_bytes,
                 .can_flush = true,
                 .can_fua = true,
                 .can_zero = true,
                 .can_multi_conn = true,
                 .min_block = 1,
                 .max_payload = 32u << 20},
    };
}

static bool
is_of_conn(enum RelayEventKind kind)
{
    return kind == RELAY_ACKED || kind == RELAY_FLUSHED ||
           kind == RELAY_COMPARED || kind == RELAY_LINK_UP;
}

static void
forget_conn(struct Run *run, unsigned conn)
{
    for (unsigned i = 0; i < run->used; i++) {
        const struct Coming *coming = &run->coming[i];

        if (run->due_us[i] != INT64_MAX && coming->kind != COMING_ZOMBIE &&
            is_of_conn(coming->event.kind) && coming->event.conn == conn) {
            run->due_us[i] = INT64_MAX;
        }
    }
    run->is_up[conn] = false;
}

static void
answer_later(struct Run *run, const struct RelayAction *action)
{
    RecordLog *log = run->life->log;
    struct Coming *coming = life_come(run);

    coming->kind = COMING_EXECUTION;
    coming->action = *action;
    coming->event = (struct RelayEvent){
        .conn = action->conn, .epoch = action->epoch, .op = action->op};
    if (action->kind == RELAY_SEND_COMPARE) {
        coming->event.kind = RELAY_COMPARED;
    } else if (action->kind == RELAY_SEND_FLUSH) {
        coming->event.kind = RELAY_FLUSHED;
        coming->entry =
            record_log_begin(log, RECORD_FLUSH, RECORD_NONE, 0, 0, NULL);
    } else {
        bool is_data = action->kind == RELAY_SEND_DATA;

        coming->event.kind = RELAY_ACKED;
        coming->event.len = action->len;
        coming->entry = record_log_begin(
            log, RECORD_SEND, action->conn, action->offset, action->len,
            is_data ? run->life->raw + action->offset : NULL);
        coming->entry->is_durable = action->is_fua;
    }
}

static void
perform(struct Run *run, const struct RelayAction *action)
{
    switch (action->kind) {
    case RELAY_CONNECT:
        answer_connect(run, action);
        break;
    case RELAY_DISCONNECT:
        forget_conn(run, action->conn);
        break;
    case RELAY_MAP:
        answer_map(run, action);
        break;
    case RELAY_LOAD:
        life_answer_load(run, action);
        break;
    case RELAY_SEND_DATA:
    case RELAY_SEND_ZERO:
    case RELAY_SEND_TRIM:
    case RELAY_SEND_COMPARE:
    case RELAY_SEND_FLUSH:
        answer_later(run, action);
        break;
    case RELAY_LOG:
    case RELAY_NOTE:
    case RELAY_SYNC:
    case RELAY_FORGET:
        life_begin_books(run, action);
        break;
    case RELAY_SEND_STATUS:
    case RELAY_ACTION_KINDS:
        assert(!"no block status was offered");
    }
}

static void
step(struct Run *run, const struct RelayEvent *event)
{
    Life *life = run->life;
    struct RelayCoreFigures figures;
    size_t done = 0;

    life->steps++;
    relay_core_step(run->core, run->now_us, event, &run->actions);
    while (done < run->actions.count) {
        struct RelayAction action = run->actions.list[done++];

        perform(run, &action);
    }
    run->actions.count = 0;
    relay_core_figures(run->core, &figures);
    if (figures.contact == CONTACT_KNOWN && !run->is_kept) {
        run->is_kept = true;
        life->disk->contact = CONTACT_KNOWN;
        if (store_save_state(life->store, NULL)) {
            relay_core_contact_kept(run->core);
            step(run, NULL);
        }
    }
}

static void
execute(struct Run *run, struct Coming *coming)
{
    const struct RelayAction *action = &coming->action;

    if (coming->request != BOOKS_REQUESTS) {
        life_execute_books(run, coming);
    } else if (action->kind == RELAY_SEND_COMPARE) {
        coming->event.is_equal = is_equal(run, action);
    } else if (action->kind != RELAY_SEND_FLUSH) {
        put(run, action->offset, action->len, coming->entry->data);
    }
    if (coming->entry) {
        record_log_executed(run->life->log, coming->entry);
    }
}

static void
happens(struct Run *run, unsigned index)
{
    struct Coming *coming = &run->coming[index];

    switch (coming->kind) {
    case COMING_EXECUTION:
        execute(run, coming);
        coming->kind = COMING_ANSWER;
        run->due_us[index] = run->now_us + delay(run);
        break;
    case COMING_ANSWER: {
        struct Coming now = *coming;

        if (now.entry) {
            record_log_end(run->life->log, now.entry, 0);
        }
        run->due_us[index] = INT64_MAX;
        if (now.request != BOOKS_REQUESTS) {
            life_books_done(run, &now);
        } else {
            step(run, &now.event);
        }
        break;
    }
    case COMING_ZOMBIE:
        run->due_us[index] = INT64_MAX;
        put(run, coming->zombie->offset, coming->zombie->len,
            coming->zombie->data);
        if (coming->entry) {
            record_log_executed(run->life->log, coming->entry);
        }
        run->zombies--;
        break;
    }
}

static bool
is_done(const struct Run *run)
{
    struct DiskMapFigures figures;

    disk_map_figures(run->life->disk->map, &figures);
    return !figures.dirty_clusters && !run->zombies;
}

static bool
turn(struct Run *run)
{
    int64_t due_us = relay_core_next_us(run->core);
    unsigned next = 0;

    for (unsigned i = 1; i < run->used; i++) {
        next = run->due_us[i] < run->due_us[next] ? i : next;
    }
    if (!run->used || run->due_us[next] > due_us) {
        if (due_us == INT64_MAX) {
            return false;
        }
        run->now_us = MAX(due_us, run->now_us + 1);
        step(run, NULL);
    } else if (run->due_us[next] == INT64_MAX) {
        return false;
    } else {
        run->now_us = MAX(run->due_us[next], run->now_us);
        happens(run, next);
    }
    return true;
}

static void
begin(struct Run *run)
{
    Life *life = run->life;
    Disk *disk = life->disk;
    struct RelayCoreConfig config = {
        .map = disk->map,
        .bucket = &run->bucket,
        .seed = life->seed,
        .contact = disk->contact,
        .accept = life->is_told_overwrite ? ACCEPT_OVERWRITE : disk->accept,
        .logged = life->books.logged,
        .is_in_doubt = disk->all_in_doubt,
        .recovers = disk->recovers,
        .max_conns = 2,
        .settle_us = SECOND_US,
        .deadline_us = 15 * SECOND_US,
        .connect_deadline_us = 10 * SECOND_US,
        .backoff_min_us = SECOND_US / 4,
        .backoff_max_us = 60 * SECOND_US,
    };

    for (size_t i = 0; i < life->n_zombies; i++) {
        const struct LifeZombie *zombie = &life->zombies[i];
        struct Coming *coming = come(run, zombie->after_us);

        coming->kind = COMING_ZOMBIE;
        coming->zombie = zombie->entry;
        coming->entry = record_log_begin(
            life->log, RECORD_SEND, RECORD_NONE - 1, zombie->entry->offset,
            zombie->entry->len, zombie->entry->data);
        run->zombies++;
    }
    run->is_kept = disk->contact == CONTACT_KNOWN;
    run->core = relay_core_new(&config);
    assert(run->core);
    if (run->is_kept) {
        relay_core_contact_kept(run->core);
    }
    relay_core_hurry(run->core);
    step(run, NULL);
}

static bool
drain(struct Run *run)
{
    Life *life = run->life;
    struct RelayCoreFigures figures;

    begin(run);
    while (!is_done(run)) {
        bool is_late = run->now_us > run->begin_us + PATIENCE_US ||
                       life->steps > STEPS_MAX;

        if (is_late || !turn(run)) {
            struct DiskMapFigures map;

            relay_core_figures(run->core, &figures);
            disk_map_figures(life->disk->map, &map);
            snprintf(life->why, sizeof(life->why),
                     "%llu clusters are dirty and nothing happens: %s, %s",
                     (unsigned long long)map.dirty_clusters,
                     relay_link_name(figures.link), figures.error);
            return false;
        }
    }
    relay_core_figures(run->core, &figures);
    life->disk->all_in_doubt = figures.unanswered || figures.doubt_clusters;
    return true;
}

bool
life_run(Life *life)
{
    struct Run *run = calloc(1, sizeof(*run));
    bool is_good;

    assert(run);
    run->life = life;
    run->seed.state = life->seed;
    run->now_us = run->begin_us = g_get_monotonic_time();
    run->cluster = UINT64_C(1) << life->disk->cluster_bits;
    run->coming = malloc(QUEUE_MAX * sizeof(*run->coming));
    assert(run->coming);
    is_good = drain(run);
    life_end_books(run);
    relay_core_free(run->core);
    free(run->actions.list);
    free(run->coming);
    free(run);
    if (is_good && !store_close_clean(life->store, NULL)) {
        snprintf(life->why, sizeof(life->why), "cannot be closed cleanly");
        is_good = false;
    }
    return is_good;
}
