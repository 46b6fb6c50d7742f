/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay as the main thread sees it: a list of disks, and messages. Every
 * call here either posts to the relay's inbox or copies what the relay thread
 * left under a short lock, so that none waits for a target.
 *
 * Disks live as long as the relay, jobs until they are forgotten; one without a
 * target has no core and costs next to nothing. Which disks have a target is
 * known here too, so that the answer to "has it one?" needs no round trip.
 */
#include <errno.h>
#include <signal.h>

#include "loop.h"

#define DEADLINE_US 15000000

Relay *
relay_new(const struct RelayConfig *config, GError **error)
{
    Relay *relay = g_new0(Relay, 1);
    int res = inbox_init(&relay->inbox);

    if (res) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED, "relay: %s",
                    g_strerror(-res));
        g_free(relay);
        return NULL;
    }
    relay->config = *config;
    relay->run_dir = g_strdup(config->run_dir);
    relay->config.run_dir = relay->run_dir;
    if (relay->config.deadline_us <= 0) {
        relay->config.deadline_us = DEADLINE_US;
    }
    relay->max_conns = CLAMP(config->max_conns, 1, RELAY_CONNS);
    pthread_mutex_init(&relay->lock, NULL);
    pthread_cond_init(&relay->ready_cond, NULL);
    relay->disks = g_ptr_array_new();
    return relay;
}

static void
post(Relay *relay, enum RelayMsgKind kind, const struct RelayMsg *content)
{
    struct RelayMsg *msg = g_new(struct RelayMsg, 1);

    *msg = *content;
    msg->msg.kind = kind;
    inbox_post(&relay->inbox, &msg->msg);
}

static RelayDisk *
find_disk(const Relay *relay, const char *name)
{
    for (guint i = 0; i < relay->disks->len; i++) {
        RelayDisk *disk = relay->disks->pdata[i];

        if (!g_strcmp0(disk->name, name)) {
            return disk;
        }
    }
    return NULL;
}

/* The least that no disk has which the main thread knows. */
static unsigned
free_index(const Relay *relay)
{
    unsigned index = 0;

    for (guint i = 0; i < relay->disks->len; i++) {
        const RelayDisk *disk = relay->disks->pdata[i];

        if (disk->index == index) {
            index++;
            i = UINT_MAX; /* all over again */
        }
    }
    return index;
}

/* A target that cannot be parsed is the target's state, not an error here: the
 * store mounts all the same. */
gboolean
relay_add_disk(Relay *relay, const struct RelayDiskConfig *config,
               GError **error)
{
    g_autoptr(GError) why = NULL;
    RelayDisk *disk;

    if (relay->disks->len == RELAY_DISKS || find_disk(relay, config->name)) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED,
                    "%s: is there already, or there are too many",
                    config->name);
        return FALSE;
    }
    disk = relay_disk_new(relay, config, error);
    if (!disk) {
        return FALSE;
    }
    if (config->target) {
        disk->has_target = true;
        disk->uri = target_uri_parse(config->target, &why);
        g_strlcpy(disk->barred, why ? why->message : "", RELAY_TEXT);
    }
    disk->index = free_index(relay);
    g_ptr_array_add(relay->disks, disk);
    post(relay, MSG_ADD, &(struct RelayMsg){.disk = disk});
    return TRUE;
}

gboolean
relay_start(Relay *relay, GError **error)
{
    sigset_t all, before;
    int res;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    res = -pthread_create(&relay->thread, NULL, relay_loop, relay);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!res) {
        pthread_mutex_lock(&relay->lock);
        while (!relay->ready) {
            pthread_cond_wait(&relay->ready_cond, &relay->lock);
        }
        res = relay->ready < 0 ? relay->ready : 0;
        pthread_mutex_unlock(&relay->lock);
        if (res) {
            pthread_join(relay->thread, NULL);
        }
    }
    if (res) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED,
                    "the relay's thread: %s", g_strerror(-res));
        return FALSE;
    }
    relay->is_running = true;
    return TRUE;
}

/* There is no thread that would: those about @disk, or all of them. */
static void
drop_orders(Relay *relay, const RelayDisk *disk)
{
    InboxMsg *next;

    for (InboxMsg *msg = inbox_take(&relay->inbox); msg; msg = next) {
        struct RelayMsg *order = (struct RelayMsg *)msg;

        next = msg->next;
        if (disk && order->disk != disk) {
            inbox_post(&relay->inbox, msg);
        } else {
            target_uri_unref(order->uri);
            g_free(msg);
        }
    }
}

void
relay_stop(Relay *relay, uint64_t epoch)
{
    if (relay->is_running) {
        post(relay, MSG_QUIT, &(struct RelayMsg){0});
        pthread_join(relay->thread, NULL);
        relay->is_running = false;
    }
    for (guint i = 0; epoch && i < relay->disks->len; i++) {
        RelayDisk *disk = relay->disks->pdata[i];

        books_stamp(&disk->books, epoch);
    }
}

void
relay_free(Relay *relay)
{
    if (!relay) {
        return;
    }
    relay_stop(relay, 0);
    drop_orders(relay, NULL);
    g_ptr_array_set_free_func(relay->disks, (GDestroyNotify)relay_disk_free);
    g_ptr_array_unref(relay->disks);
    inbox_deinit(&relay->inbox);
    pthread_cond_destroy(&relay->ready_cond);
    pthread_mutex_destroy(&relay->lock);
    g_free(relay->run_dir);
    g_free(relay);
}

void
relay_wake(Relay *relay)
{
    atomic_fetch_add_explicit(&relay->guest_requests, 1, memory_order_relaxed);
    if (atomic_load_explicit(&relay->is_waiting_for_dirt,
                             memory_order_relaxed) &&
        atomic_exchange(&relay->is_waiting_for_dirt, false)) {
        inbox_kick(&relay->inbox);
    }
}

void
relay_pause(Relay *relay, gboolean pause)
{
    post(relay, MSG_PAUSE, &(struct RelayMsg){.is_on = pause});
}

void
relay_pause_job(Relay *relay, const char *name, gboolean pause)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_PAUSE_JOB,
             &(struct RelayMsg){.disk = disk, .is_on = pause});
    }
}

void
relay_set_speed(Relay *relay, const char *name, uint64_t bps)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_SPEED, &(struct RelayMsg){.disk = disk, .bps = bps});
    }
}

void
relay_proceed(Relay *relay, const char *name)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_PROCEED, &(struct RelayMsg){.disk = disk});
    }
}

void
relay_end_disk(Relay *relay, const char *name)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_END, &(struct RelayMsg){.disk = disk});
    }
}

/*
 * What is in flight names a disk by its index (the ring, the mapper, connects) or
 * by its address (orders, pins). When an index is given to another disk, or the
 * memory is, nothing of the old one may come in any more:
 *
 *   reads, books, maps, pins   counted in n_local, 0 before ENDED is told
 *   polls                      counted in n_polls, the same
 *   results of connects        in the inbox before the connect was dropped, which
 *                              was before ENDED: taken before this order is
 *   orders                     nobody finds the disk by its name from here on, so
 *                              that this is the last one
 *   the next disk's ADD        is behind this order, like all about that disk
 *
 * From ENDED on the relay's thread touches nothing of it but the struct itself,
 * which it frees; so map, points, fds and files are the caller's again at once.
 */
void
relay_forget_disk(Relay *relay, const char *name)
{
    RelayDisk *disk = find_disk(relay, name);
    bool has_ended;

    if (!disk) {
        return;
    }
    g_ptr_array_remove(relay->disks, disk);
    if (!relay->is_running) {
        drop_orders(relay, disk);
        relay_disk_free(disk);
        return;
    }
    pthread_mutex_lock(&relay->lock);
    has_ended = disk->has_ended;
    pthread_mutex_unlock(&relay->lock);
    assert(has_ended);
    relay_disk_close(disk);
    post(relay, MSG_FORGET, &(struct RelayMsg){.disk = disk});
}

void
relay_set_bwlimit(Relay *relay, const struct RateTable *table)
{
    post(relay, MSG_BWLIMIT, &(struct RelayMsg){.table = *table});
}

void
relay_set_max_conns(Relay *relay, unsigned max_conns)
{
    post(relay, MSG_CONNS,
         &(struct RelayMsg){.number = CLAMP(max_conns, 1, RELAY_CONNS)});
}

void
relay_set_accept(Relay *relay, const char *name, enum TargetAccept accept,
                 gboolean accept_unflushed, gboolean insecure)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_ACCEPT,
             &(struct RelayMsg){.disk = disk,
                                .accept = accept,
                                .is_on = accept_unflushed,
                                .insecure = insecure});
    }
}

void
relay_trust(Relay *relay, const char *name)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_TRUST, &(struct RelayMsg){.disk = disk});
    }
}

gboolean
relay_set_target(Relay *relay, const char *name, const char *target,
                 GError **error)
{
    RelayDisk *disk = find_disk(relay, name);
    TargetUri *uri = NULL;

    if (!disk) {
        g_set_error(error, RELAY_ERROR, RELAY_ERROR_FAILED, "%s: no such disk",
                    name);
        return FALSE;
    }
    if (target) {
        uri = target_uri_parse(target, error);
        if (!uri) {
            return FALSE;
        }
    }
    disk->has_target = target != NULL;
    disk->targets_set++;
    post(relay, MSG_TARGET,
         &(struct RelayMsg){
             .disk = disk, .uri = uri, .number = disk->targets_set});
    return TRUE;
}

void
relay_contact_kept(Relay *relay, const char *name)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_CONTACT_KEPT, &(struct RelayMsg){.disk = disk});
    }
}

void
relay_verify(Relay *relay, const char *name, gboolean repairs, uint64_t bps)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_VERIFY,
             &(struct RelayMsg){.disk = disk, .is_on = repairs, .bps = bps});
    }
}

void
relay_set_cut(Relay *relay, const char *name, gboolean is_cut)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(relay, MSG_CUT, &(struct RelayMsg){.disk = disk, .is_on = is_cut});
    }
}

void
relay_allow(Relay *relay, const char *name, uint64_t seq, uint64_t snapshot)
{
    RelayDisk *disk = find_disk(relay, name);

    if (disk) {
        post(
            relay, MSG_ALLOW,
            &(struct RelayMsg){.disk = disk, .seq = seq, .snapshot = snapshot});
    }
}

void
relay_hurry(Relay *relay)
{
    post(relay, MSG_HURRY, &(struct RelayMsg){0});
}

gboolean
relay_figures(Relay *relay, const char *name, struct RelayFigures *figures)
{
    RelayDisk *disk = find_disk(relay, name);

    if (!disk || !disk->has_target) {
        return FALSE;
    }
    pthread_mutex_lock(&relay->lock);
    *figures = disk->figures;
    pthread_mutex_unlock(&relay->lock);
    figures->is_current = figures->target_number == disk->targets_set;
    return TRUE;
}

uint64_t
relay_bwlimit(Relay *relay)
{
    return atomic_load(&relay->bwlimit_bps);
}
