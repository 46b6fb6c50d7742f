/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One disk of the relay: its core, its target as the user last gave it, and
 * what the world is told about it.
 *
 *   no target --set--> core --(set none)--> stopping --(idle)--> no target
 *                       |  \--(set another)--> core, retargeted
 *
 * A core that stops still has local reads in flight, whose buffers it owns:
 * it is freed when they are back. A target that is set meanwhile waits for
 * that. A disk that ends goes the same way, and no further: when its core is gone,
 * and the ring has nothing left that names it, the main thread hears of it, and
 * this thread does not touch any more what the main thread frees then.
 *
 * Figures are copied for other threads at most every FIGURES_US, and at once
 * when there is news, so that whoever is told about news also sees it.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "loop.h"
#include "thread-role.h"

#define RATE_US           500000  /* while something was sent of late */
#define MEMORY_IDLE_US    5000000 /* then the buffers' pages go back */
#define SETTLE_US         1000000
#define CONNECT_US        10000000
#define BACKOFF_MIN_US    250000
#define BACKOFF_MAX_US    60000000
#define BUFFERS_BYTES     ((size_t)RELAY_OPS * RELAY_OP_BYTES_MAX)
#define SERVER_NAME_BYTES 32

/*
 * Memory
 */

static uint8_t *
map_buffers(void)
{
    void *mem = mmap(NULL, BUFFERS_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mem == MAP_FAILED) {
        return NULL;
    }
    /* A server that is forked has no use for them, and reads that are in
     * flight then need no copy. */
    (void)madvise(mem, BUFFERS_BYTES, MADV_DONTFORK);
    return mem;
}

RelayDisk *
relay_disk_new(Relay *relay, const struct RelayDiskConfig *config,
               GError **error)
{
    RelayDisk *disk = g_new0(RelayDisk, 1);

    disk->relay = relay;
    disk->name = g_strdup(config->name);
    disk->buffers = map_buffers();
    if (!disk->buffers) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED,
                    "%s: no memory for its buffers", config->name);
        relay_disk_free(disk);
        return NULL;
    }
    disk->fd = config->fd;
    disk->map_fd = config->map_fd;
    disk->dio_align = MAX(config->dio_align, 1);
    disk->map = config->map;
    disk->pins = config->job.pins ? config->job.pins : config->map;
    disk->place_bits = disk_map_cluster_bits(disk->pins);
    disk->job = config->job;
    disk->is_paused = config->job.is_paused;
    disk->is_cut = config->is_cut;
    disk->aside = config->aside;
    disk->aside_fd = config->aside_fd;
    disk->points = config->points;
    disk->contact = config->contact;
    disk->is_in_doubt = config->is_in_doubt;
    disk->recovers = config->recovers;
    /* Before the thread has looked for the first time, too: who makes cuts asks
     * at once, and a core that recovers takes what is sealed for its own. */
    disk->figures.core.is_recovering = config->target && config->recovers &&
                                       config->contact == CONTACT_KNOWN &&
                                       !(config->job.is_job && config->is_cut);
    disk->accept = config->accept;
    disk->accept_unflushed = config->accept_unflushed;
    disk->insecure = config->insecure;
    if (!books_open(&disk->books, relay->config.io, config, error)) {
        relay_disk_free(disk);
        return NULL;
    }
    return disk;
}

void
relay_disk_close(RelayDisk *disk)
{
    books_close(&disk->books);
    disk->books = (RelayBooks){0};
    if (disk->buffers) {
        munmap(disk->buffers, BUFFERS_BYTES);
        disk->buffers = NULL;
    }
}

void
relay_disk_free(RelayDisk *disk)
{
    if (disk) {
        relay_disk_close(disk);
        target_uri_unref(disk->uri);
        target_uri_unref(disk->next_uri);
        g_free(disk->name);
        g_free(disk);
    }
}

/*
 * Core and target
 */

static void
begin_core(RelayDisk *disk)
{
    Relay *relay = disk->relay;
    struct RelayCoreConfig config = {
        .map = disk->map,
        .bucket = disk->job.is_job ? &disk->bucket : &relay->bucket,
        .contact = disk->contact,
        .accept = disk->accept,
        .accept_unflushed = disk->accept_unflushed,
        .logged = disk->books.logged,
        .is_in_doubt = disk->is_in_doubt,
        .recovers = disk->recovers,
        .is_cut = disk->is_cut,
        .is_job = disk->job.is_job,
        .is_exact = disk->job.is_exact,
        .is_zero = disk->job.is_zero,
        .keeps_zeroes = disk->job.keeps_zeroes,
        .halts = disk->job.halts,
        .window_bytes = disk->job.window_bytes,
        .max_conns = relay->max_conns,
        .settle_us = SETTLE_US,
        .deadline_us = relay->config.deadline_us,
        .connect_deadline_us = CONNECT_US,
        .backoff_min_us = BACKOFF_MIN_US,
        .backoff_max_us = BACKOFF_MAX_US,
    };

    if (getrandom(&config.seed, sizeof(config.seed), 0) !=
        (ssize_t)sizeof(config.seed)) {
        config.seed = (uint64_t)relay->now_us; /* jitter is all it is for */
    }
    disk->core = relay_core_new(&config);
    if (!disk->core) {
        g_error("%s: out of memory", disk->name);
    }
    rate_bucket_set(&disk->bucket, disk->job.bps, relay->now_us);
    relay_core_pause(disk->core, relay_disk_is_paused(disk));
    disk->told_contact = disk->contact;
    disk->told_settled = disk_map_settled_seq(disk->map);
    disk->is_ticked = true;
}

static void
begin_server(RelayDisk *disk)
{
    char name[SERVER_NAME_BYTES];

    if (disk->uri && disk->uri->kind == TARGET_SERVER) {
        g_snprintf(name, sizeof(name), "server-%u.sock",
                   disk->relay->n_servers++);
        disk->server = server_new(disk->relay->run_dir, name, disk->uri->argv);
    }
}

/* It has some time to end by itself; nobody waits for that. */
static void
end_server(RelayDisk *disk)
{
    Relay *relay = disk->relay;

    if (!disk->server) {
        return;
    }
    perform_server_left(disk);
    server_terminate(disk->server);
    g_ptr_array_add(relay->endings, disk->server);
    relay->endings_us = relay->now_us + SERVER_GRACE_US;
    disk->server = NULL;
}

void
relay_disk_begin(RelayDisk *disk)
{
    relay_thread_assert();
    if (disk->uri || disk->barred[0]) {
        begin_server(disk);
        begin_core(disk);
    }
}

static void
take_uri(RelayDisk *disk, TargetUri *uri)
{
    end_server(disk);
    target_uri_unref(disk->uri);
    disk->uri = uri;
    disk->barred[0] = '\0';
    disk->target_size = 0;
    disk->contact = CONTACT_NONE;
    disk->told_contact = CONTACT_NONE;
    disk->target_number = disk->set_number;
    disk->last = (struct RelayCoreFigures){0};
    begin_server(disk);
}

static void
stop_core(RelayDisk *disk)
{
    if (disk->core && !disk->is_stopping) {
        disk->is_stopping = true;
        relay_core_stop(disk->core);
        disk->is_ticked = true;
    }
}

static void
set_target(RelayDisk *disk, TargetUri *uri)
{
    int64_t now_us = disk->relay->now_us;

    if (disk->core && !disk->is_stopping && uri) {
        take_uri(disk, uri);
        relay_core_retarget(disk->core, disk->accept, now_us);
        disk->is_ticked = true;
        return;
    }
    disk_map_mark_all(disk->map, now_us);
    target_uri_unref(disk->next_uri);
    disk->next_uri = uri;
    stop_core(disk);
}

bool
relay_disk_is_busy(const RelayDisk *disk)
{
    return disk->n_local > 0;
}

bool
relay_disk_is_paused(const RelayDisk *disk)
{
    return disk->job.is_job ? disk->is_paused : disk->relay->is_paused;
}

static void
copy_figures(RelayDisk *disk)
{
    struct RelayFigures *figures = &disk->figures;

    rate_meter_update(&disk->meter, disk->last.sent_bytes, disk->relay->now_us);
    pthread_mutex_lock(&disk->relay->lock);
    figures->core = disk->last;
    figures->upload_bps = rate_meter_bps(&disk->meter);
    figures->target_size_bytes = disk->target_size;
    figures->target_number = disk->target_number;
    figures->shared_bytes = disk->shared_bytes;
    pthread_mutex_unlock(&disk->relay->lock);
    disk->is_stale = false;
}

/* What waited for a stopped core to be idle. */
static void
follow_up(RelayDisk *disk)
{
    if (disk->core && disk->is_stopping && !relay_disk_is_busy(disk)) {
        struct RelayCoreFigures last;

        relay_core_figures(disk->core, &last);
        /* What has ended is not of much use to a later life: others need not
         * wait for its sums. */
        relay_disk_end(disk, !disk->is_ending);
        if (disk->is_ending) {
            end_server(disk);
            disk->last = last;
            disk->meter = (RateMeter){0};
            copy_figures(disk);
            return;
        }
        take_uri(disk, NULL);
        disk->is_stopping = false;
        disk->is_in_doubt = last.doubt_clusters > 0;
        disk->recovers = false;
    }
    if (!disk->core && disk->next_uri) {
        take_uri(disk, g_steal_pointer(&disk->next_uri));
        begin_core(disk);
    }
}

/* No local I/O is in flight. */
void
relay_disk_end(RelayDisk *disk, bool syncs)
{
    relay_thread_assert();
    assert(!relay_disk_is_busy(disk));
    perform_drop_all(disk);
    perform_share_left(disk);
    if (disk->core) {
        books_end(&disk->books, disk->core, syncs);
    }
    relay_core_free(disk->core);
    disk->core = NULL;
    free(disk->actions.list);
    disk->actions = (struct RelayActions){0};
    g_clear_pointer(&disk->events, g_free);
    disk->events_head = disk->events_count = disk->events_room = 0;
}

static void
core_message(RelayDisk *disk, const struct RelayMsg *msg)
{
    switch ((enum RelayMsgKind)msg->msg.kind) {
    case MSG_PAUSE:
    case MSG_PAUSE_JOB:
        relay_core_pause(disk->core, relay_disk_is_paused(disk));
        break;
    case MSG_SPEED:
        rate_bucket_set(&disk->bucket, disk->job.bps, disk->relay->now_us);
        break;
    case MSG_PROCEED:
        relay_core_proceed(disk->core);
        break;
    case MSG_CONNS:
    case MSG_ACCEPT:
        relay_core_set(disk->core, disk->relay->max_conns, disk->accept,
                       disk->accept_unflushed);
        break;
    case MSG_TRUST:
        relay_core_trust(disk->core);
        break;
    case MSG_HURRY:
        relay_core_hurry(disk->core);
        break;
    case MSG_CONTACT_KEPT:
        relay_core_contact_kept(disk->core);
        break;
    case MSG_VERIFY:
        relay_core_verify(disk->core, msg->is_on, msg->bps);
        break;
    case MSG_CUT:
        relay_core_set_cut(disk->core, msg->is_on);
        break;
    case MSG_ALLOW:
        relay_core_allow(disk->core, msg->seq);
        break;
    case MSG_BWLIMIT:
    case MSG_QUIT:
    case MSG_ADD:
    case MSG_END:
    case MSG_FORGET:
    case MSG_TARGET:
    case MSG_PINNED:
    case MSG_MAPPED:
    case MSG_CONNECTED:
        break;
    }
    disk->is_ticked = true;
}

void
relay_disk_message(RelayDisk *disk, struct RelayMsg *msg)
{
    relay_thread_assert();
    if (msg->msg.kind == MSG_TARGET) {
        disk->set_number = msg->number;
        set_target(disk, g_steal_pointer(&msg->uri));
        return;
    }
    if (msg->msg.kind == MSG_END) {
        disk->is_ending = true;
        target_uri_unref(g_steal_pointer(&disk->next_uri));
        stop_core(disk);
        return;
    }
    if (msg->msg.kind == MSG_PAUSE_JOB) {
        disk->is_paused = msg->is_on;
    }
    if (msg->msg.kind == MSG_SPEED) {
        disk->job.bps = msg->bps;
    }
    if (msg->msg.kind == MSG_CUT) {
        disk->is_cut = msg->is_on;
        disk->snapshot = 0;
    }
    if (msg->msg.kind == MSG_ALLOW) {
        disk->snapshot = msg->snapshot;
        disk->snapshot_seq = msg->seq;
    }
    if (msg->msg.kind == MSG_ACCEPT) {
        disk->accept = msg->accept;
        disk->accept_unflushed = msg->is_on;
        disk->insecure = msg->insecure;
    }
    if (disk->core && !disk->is_stopping) {
        core_message(disk, msg);
    }
}

/*
 * Steps
 */

static void
step(RelayDisk *disk, const struct RelayEvent *event)
{
    relay_core_step(disk->core, disk->relay->now_us, event, &disk->actions);
}

/* What the guest has just overwritten, and of what the old content is in memory,
 * may go first. */
static void
give_hints(RelayDisk *disk)
{
    uint64_t cluster;

    while (relay_core_wants_hint(disk->core) &&
           aside_next_put(disk->aside, &disk->aside_mark, &cluster)) {
        relay_core_hint(disk->core, cluster);
        disk->is_ticked = true;
    }
}

void
relay_disk_pump(RelayDisk *disk)
{
    bool is_moving = disk->core != NULL;

    if (is_moving && disk->aside && !disk->job.is_job) {
        give_hints(disk);
    }
    while (is_moving) {
        is_moving = false;
        perform_collect(disk);
        for (; disk->events_head < disk->events_count; is_moving = true) {
            step(disk, &disk->events[disk->events_head++]);
        }
        if (disk->is_ticked ||
            relay_core_next_us(disk->core) <= disk->relay->now_us) {
            disk->is_ticked = false;
            step(disk, NULL);
        }
        for (size_t i = 0; i < disk->actions.count; i++) {
            perform_action(disk, &disk->actions.list[i]);
            is_moving = true;
        }
        disk->actions.count = 0;
    }
    follow_up(disk);
}

/*
 * Figures and news
 */

static void
tell(RelayDisk *disk, enum RelayNews news)
{
    const struct RelayConfig *config = &disk->relay->config;

    if (config->notify) {
        config->notify(config->user, disk->name, news);
    }
}

/* The last touch of what is not the relay's own. */
static void
tell_end(RelayDisk *disk)
{
    if (disk->is_ending && !disk->has_ended && !disk->n_polls) {
        assert(!relay_disk_is_busy(disk) && !disk->core);
        pthread_mutex_lock(&disk->relay->lock);
        disk->has_ended = true;
        pthread_mutex_unlock(&disk->relay->lock);
        tell(disk, RELAY_NEWS_ENDED);
    }
}

/* Comparisons hold buffers, too, and count as nothing in flight. */
static bool
needs_no_memory(const RelayDisk *disk)
{
    return disk->has_memory && relay_core_is_idle(disk->core) &&
           !relay_disk_is_busy(disk);
}

static void
give_memory_back(RelayDisk *disk)
{
    if (needs_no_memory(disk) &&
        disk->relay->now_us >= disk->memory_us + MEMORY_IDLE_US) {
        perform_share_left(disk);
        (void)madvise(disk->buffers, BUFFERS_BYTES, MADV_DONTNEED);
        disk->has_memory = false;
    }
}

/*
 * relay_disk_look() - compare with what was told, and tell what is new
 * @is_due: it is time to copy the figures anyway.
 */
void
relay_disk_look(RelayDisk *disk, bool is_due)
{
    struct RelayCoreFigures now = {0}; /* compared with its padding */
    uint64_t settled;
    bool is_link_news, is_contact_news, is_settled_news, is_end_news;
    bool is_halt_news;

    if (!disk->core) {
        tell_end(disk);
        return;
    }
    relay_core_figures(disk->core, &now);
    settled = disk_map_settled_seq(disk->map);
    is_link_news =
        now.link != disk->last.link || strcmp(now.error, disk->last.error) != 0;
    is_contact_news =
        now.contact == CONTACT_KNOWN && disk->told_contact != CONTACT_KNOWN;
    is_settled_news = settled != disk->told_settled;
    /* Who ends the relay pauses it and waits for these. */
    is_end_news = now.is_paused && (!disk->last.is_paused ||
                                    now.unanswered != disk->last.unanswered);
    is_halt_news = now.halt.count != disk->last.halt.count;
    disk->is_stale |= memcmp(&now, &disk->last, sizeof(now)) != 0;
    disk->last = now;
    disk->told_contact = now.contact;
    disk->told_settled = settled;
    if (is_due || is_link_news || is_contact_news || is_settled_news ||
        is_end_news || is_halt_news) {
        copy_figures(disk);
    }
    if (is_link_news) {
        tell(disk, RELAY_NEWS_LINK);
    }
    if (is_contact_news) {
        tell(disk, RELAY_NEWS_CONTACT);
    }
    if (is_settled_news) {
        tell(disk, RELAY_NEWS_SETTLED);
    }
    if (is_halt_news) {
        tell(disk, RELAY_NEWS_HALTED);
    }
    give_memory_back(disk);
}

int64_t
relay_disk_next_us(const RelayDisk *disk)
{
    int64_t next;

    if (!disk->core) {
        return INT64_MAX;
    }
    next = MIN(relay_core_next_us(disk->core), perform_next_us(disk));
    if (needs_no_memory(disk)) {
        next = MIN(next, disk->memory_us + MEMORY_IDLE_US);
    }
    if (disk->is_stale || rate_meter_bps(&disk->meter)) {
        next = MIN(next, disk->relay->figures_us + RATE_US);
    }
    return next;
}
