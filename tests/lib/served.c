/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon does around a face and a relay:
 *
 *   begin    open -> relay built -> state "unclean" -> relay, face started
 *   stop     news -> relay paused until quiet -> relay, face gone
 *   close    either state "clean" or, as after a crash, nothing more
 */
#include "served.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>

#define GRACE_US   300000
#define LOOK_MS    2
#define BUSY_LOOKS 2500

void
served_init(Served *served)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&served->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&served->is_told, &attr);
    pthread_condattr_destroy(&attr);
}

void
served_deinit(Served *served)
{
    pthread_cond_destroy(&served->is_told);
    pthread_mutex_destroy(&served->lock);
}

/*
 * The relay's news
 */
static void
relay_news(void *user, const char *disk, enum RelayNews news)
{
    Served *served = user;

    (void)disk;
    pthread_mutex_lock(&served->lock);
    served->has_contact |= news == RELAY_NEWS_CONTACT;
    served->has_news = true;
    pthread_cond_signal(&served->is_told);
    pthread_mutex_unlock(&served->lock);
}

static void
dirtied(void *user)
{
    relay_wake(((Served *)user)->relay);
}

void
served_news(Served *served)
{
    Store *store = served->store;
    bool is_kept, has_contact;

    pthread_mutex_lock(&served->lock);
    has_contact = served->has_contact;
    served->has_contact = false;
    pthread_mutex_unlock(&served->lock);
    for (unsigned i = 0; has_contact && i < store->n_disks; i++) {
        struct RelayFigures figures;

        if (relay_figures(served->relay, store->disks[i]->name, &figures)) {
            store->disks[i]->contact = figures.core.contact;
        }
    }
    is_kept = has_contact && store_save_state(store, NULL);
    for (unsigned i = 0; is_kept && i < store->n_disks; i++) {
        relay_contact_kept(served->relay, store->disks[i]->name);
    }
}

void
served_wait(Served *served, int64_t patience_us)
{
    int64_t end_us = g_get_monotonic_time() + patience_us;
    struct timespec end = {end_us / 1000000, end_us % 1000000 * 1000};
    int res = 0;

    pthread_mutex_lock(&served->lock);
    while (!served->has_news && !res) {
        res = pthread_cond_timedwait(&served->is_told, &served->lock, &end);
    }
    served->has_news = false;
    pthread_mutex_unlock(&served->lock);
    served_news(served);
}

/*
 * A life
 */
static bool
begin_relay(Served *served, GError **error)
{
    struct RelayConfig config = {
        .io = served->store->io,
        .run_dir = served->store->path,
        .lock_fd = served->store->lock_fd,
        .max_conns = served->store->settings.max_connections,
        .deadline_us = served->deadline_us,
        .notify = relay_news,
        .user = served,
    };
    bool is_good;

    served->relay = relay_new(&config, error);
    is_good = served->relay != NULL;
    for (unsigned i = 0; is_good && i < served->store->n_disks; i++) {
        is_good = store_relay_disk(served->store, served->store->disks[i],
                                   served->relay, error);
    }
    if (is_good && served->prepare) {
        served->prepare(served);
    }
    return is_good;
}

/* The rings of the life before, which hold the lock, may still be on their
 * way out; and their process lives: it is this one. */
static Store *
open_when_free(Served *served, GError **error)
{
    Store *store = NULL;

    for (unsigned i = 0; !store && i < BUSY_LOOKS; i++) {
        g_clear_error(error);
        store = store_open(served->io, served->path, 0, error);
        if (store || !g_error_matches(*error, STORE_ERROR, STORE_ERROR_BUSY)) {
            break;
        }
        poll(NULL, 0, LOOK_MS);
    }
    return store;
}

bool
served_begin(Served *served)
{
    GError *error = NULL;

    served->has_contact = served->has_news = false;
    served->store = open_when_free(served, &error);
    if (!served->store || !begin_relay(served, &error) ||
        !store_serve(served->store, &error) ||
        !relay_start(served->relay, &error)) {
        snprintf(served->why, sizeof(served->why), "%s", error->message);
        g_clear_error(&error);
        g_clear_pointer(&served->relay, relay_free);
        g_clear_pointer(&served->store, store_free);
        return false;
    }
    if (!fake_session_begin(&served->session, served->store, dirtied, served)) {
        snprintf(served->why, sizeof(served->why), "the face does not start");
        g_clear_pointer(&served->relay, relay_free);
        g_clear_pointer(&served->store, store_free);
        return false;
    }
    served->keeper =
        keeper_new(served->store, served->session.face, served->keeper_us);
    return true;
}

/* As the daemon does, so that the next life knows what may still come. */
static bool
is_quiet(Served *served)
{
    bool all_quiet = true;

    for (unsigned i = 0; i < served->store->n_disks; i++) {
        Disk *disk = served->store->disks[i];
        struct RelayFigures figures;

        if (relay_figures(served->relay, disk->name, &figures)) {
            disk->all_in_doubt =
                !figures.is_current || !figures.core.is_paused ||
                figures.core.unanswered > 0 || figures.core.doubt_clusters > 0;
            all_quiet &= !disk->all_in_doubt;
        }
    }
    return all_quiet;
}

void
served_stop(Served *served, bool is_clean)
{
    int64_t end_us = g_get_monotonic_time() + GRACE_US;

    if (is_clean) {
        served_news(served);
        relay_pause(served->relay, TRUE);
        while (!is_quiet(served) && g_get_monotonic_time() < end_us) {
            poll(NULL, 0, LOOK_MS);
        }
    }
    g_clear_pointer(&served->keeper, keeper_free);
    relay_stop(served->relay, is_clean ? store_end_epoch(served->store) : 0);
    /* The face wakes it as long as it punches. */
    fake_session_end(&served->session);
    g_clear_pointer(&served->relay, relay_free);
}

void
served_close(Served *served, bool is_clean)
{
    if (is_clean) {
        (void)store_close_clean(served->store, NULL);
    }
    g_clear_pointer(&served->store, store_free);
}
