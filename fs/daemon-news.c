/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon-news.c - what the other two threads tell the main thread
 *
 * Neither the fs thread nor the relay thread may wait, so both only post:
 * the face its notes (it owns them, and gets most of them back with an
 * answer), the relay a letter per piece of news. The main thread polls the
 * inbox's eventfd and does here what may take a moment: saving the state,
 * composing a status, writing a log line.
 *
 *   fs thread    -- FaceNote -->  inbox  -- main: answer --> face_answer()
 *   relay thread -- letter ---->  inbox  -- main: state, cuts, jobs, drains
 *
 * What follows from the news is looked at when all that was there is taken:
 * the verdict on a cut needs to have heard what came before it, and takes the
 * news itself for that, from within the look.
 */
#include "daemon-private.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>

struct Letter {
    InboxMsg msg;
    enum RelayNews news;
    char disk[JOBS_NAME_MAX + 1]; /* or the name that a job has there */
};

/*
 * On other threads
 */
void
daemon_face_note(void *user, FaceNote *note)
{
    Daemon *daemon = user;

    note->msg.kind = DAEMON_MSG_FACE;
    inbox_post(&daemon->inbox, &note->msg);
}

void
daemon_relay_news(void *user, const char *disk, enum RelayNews news)
{
    Daemon *daemon = user;
    struct Letter *letter = g_new0(struct Letter, 1);

    letter->msg.kind = DAEMON_MSG_RELAY;
    letter->news = news;
    g_strlcpy(letter->disk, disk, sizeof(letter->disk));
    inbox_post(&daemon->inbox, &letter->msg);
}

void
daemon_dirtied(void *user)
{
    Daemon *daemon = user;

    relay_wake(daemon->relay);
}

/*
 * On the main thread
 */
static int
save_state(Daemon *daemon)
{
    g_autoptr(GError) error = NULL;

    if (store_save_state(daemon->store, &error)) {
        return 0;
    }
    g_warning("the state cannot be kept: %s", error->message);
    return -EIO;
}

static void
take_note(Daemon *daemon, FaceNote *note)
{
    switch (note->kind) {
    case FACE_NOTE_STATUS:
        daemon_look(daemon);
        note->text = status_json(&daemon->input, &daemon->tracker);
        note->len = strlen(note->text);
        break;
    case FACE_NOTE_METRICS:
        daemon_look(daemon);
        note->text = metrics_text(&daemon->input, &daemon->tracker);
        note->len = strlen(note->text);
        break;
    case FACE_NOTE_ATTR:
        note->error = save_state(daemon);
        break;
    case FACE_NOTE_LOG:
        g_message("%s", note->text);
        break;
    case FACE_NOTE_FROZEN:
        g_critical("%s: a sync of the local disk failed: writes are refused "
                   "until it is checked (weir umount, weir check)",
                   note->disk->name);
        return;
    case FACE_NOTE_DEGRADED:
        if (daemon->cuts != NULL) {
            cuts_degraded(daemon->cuts, note->disk, note->seq, note->error);
        }
        break;
    case FACE_NOTE_SNAPSHOT_CREATE:
    case FACE_NOTE_SNAPSHOT_DELETE:
    case FACE_NOTE_SNAPSHOT_INFO:
        daemon_snapshot_note(daemon, note);
        return;
    case FACE_NOTE_ENDED:
        if (daemon->is_handing_over) {
            handover_finish(daemon);
            return;
        }
        g_message("%s: unmounted", daemon->config->mountpoint);
        daemon_end(daemon, 0);
        return;
    }
    face_answer(daemon->face, note);
}

static void
take_contact(Daemon *daemon, Disk *disk)
{
    struct RelayFigures figures;

    /* News of a target that was replaced since say nothing of its successor:
     * that would be written without a look. */
    if (!relay_figures(daemon->relay, disk->name, &figures) ||
        !figures.is_current) {
        return;
    }
    disk->contact = figures.core.contact;
    if (daemon->cuts != NULL) {
        cuts_recontacted(daemon->cuts, disk);
    }
    if (save_state(daemon) == 0) {
        relay_contact_kept(daemon->relay, disk->name);
    }
}

static void
take_link(Daemon *daemon, Disk *disk)
{
    struct RelayFigures figures;

    if (relay_figures(daemon->relay, disk->name, &figures)) {
        g_message(
            "%s: target %s%s%s", disk->name, relay_link_name(figures.core.link),
            figures.core.error[0] != '\0' ? ": " : "", figures.core.error);
    }
}

static void
take_letter(Daemon *daemon, struct Letter *letter)
{
    Disk *disk = store_disk(daemon->store, letter->disk);

    if (!daemon_jobs_take(daemon, letter->disk, letter->news) && disk != NULL) {
        switch (letter->news) {
        case RELAY_NEWS_LINK:
            take_link(daemon, disk);
            break;
        case RELAY_NEWS_CONTACT:
            take_contact(daemon, disk);
            break;
        case RELAY_NEWS_SETTLED:
        case RELAY_NEWS_HALTED:
        case RELAY_NEWS_ENDED:
            break;
        }
    }
    g_free(letter);
}

void
daemon_news_take(Daemon *daemon)
{
    InboxMsg *msg = inbox_take(&daemon->inbox);

    while (msg != NULL) {
        InboxMsg *next = msg->next;

        if (msg->kind == DAEMON_MSG_FACE) {
            take_note(daemon, (FaceNote *)msg);
        } else {
            take_letter(daemon, (struct Letter *)msg);
        }
        msg = next;
    }
    daemon_advance(daemon);
}

static gboolean
inbox_cb(gint fd, GIOCondition condition, gpointer data)
{
    (void)fd;
    (void)condition;
    daemon_news_take(data);
    return G_SOURCE_CONTINUE;
}

gboolean
daemon_news_init(Daemon *daemon, GError **error)
{
    int err = inbox_init(&daemon->inbox);

    if (err < 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "eventfd: %s",
                    g_strerror(-err));
        return FALSE;
    }
    daemon->inbox_source =
        g_unix_fd_add(daemon->inbox.event_fd, G_IO_IN, inbox_cb, daemon);
    return TRUE;
}

/* Both threads are gone; what they said last is of no use any more. */
void
daemon_news_deinit(Daemon *daemon)
{
    InboxMsg *msg;

    if (daemon->inbox_source == 0) {
        return;
    }
    g_clear_handle_id(&daemon->inbox_source, g_source_remove);
    msg = inbox_take(&daemon->inbox);
    while (msg != NULL) {
        InboxMsg *next = msg->next;

        if (msg->kind == DAEMON_MSG_RELAY) {
            g_free((struct Letter *)msg);
        }
        msg = next;
    }
    inbox_deinit(&daemon->inbox);
}
