/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * handover.c - leave the mount to another daemon, on purpose (weir upgrade)
 *
 *   weir-upgrade     answered at once: the rest ends the conversation
 *     relay paused   and its jobs; uploads under way get a moment to be answered;
 *                    the guest is served meanwhile. No snapshot is made any
 *                    more, and a guest that is frozen for one is thawed
 *     face leaves    takes nothing more, answers what it has taken; the
 *                    guest's pause begins
 *     memo           says that nothing is unanswered
 *     daemon ends    closes the store cleanly, with exact bitmaps, and exits
 *                    with a code that has the keeper start the next one
 *
 * Nothing of the guest's is in flight when the daemon goes, so this works with
 * kernels that cannot send requests again. If the store cannot be closed
 * cleanly the daemon ends with that error, and is followed all the same: by
 * one that recovers, like after a crash.
 */
#include "daemon-private.h"

#include "holder-core.h"

#include <errno.h>
#include <poll.h>

#define GRACE_US (300 * 1000)
#define THAW_US  (10 * G_USEC_PER_SEC)
#define LOOK_MS  5

/* Somebody unmounted meanwhile: there is nothing to hand over. */
static bool
is_unmounted(Daemon *daemon)
{
    struct pollfd look = {.fd = mount_fd(daemon->mount)};

    return poll(&look, 1, 0) > 0 && (look.revents & POLLERR) != 0;
}

void
handover_finish(Daemon *daemon)
{
    if (is_unmounted(daemon)) {
        daemon_end(daemon, 0);
        return;
    }
    takeover_leave(&daemon->takeover);
    daemon_end(daemon, HOLDER_HAND_OVER);
}

static gboolean
leave_cb(gpointer data)
{
    Daemon *daemon = data;

    gint64 waited_us = g_get_monotonic_time() - daemon->handover_us;

    if ((!daemon_is_quiet(daemon) && waited_us < GRACE_US) ||
        (!snapshots_is_quiet(daemon->snapshots) && waited_us < THAW_US)) {
        return G_SOURCE_CONTINUE;
    }
    daemon->handover_source = 0;
    face_leave(daemon->face);
    return G_SOURCE_REMOVE;
}

void
handover_begin(Daemon *daemon, ControlCall *call)
{
    if (daemon->face == NULL || daemon->is_stopping ||
        daemon->is_handing_over) {
        control_call_error(
            call, 3,
            daemon->face == NULL
                ? "the store is being drained, not mounted: wait for that"
                : "this daemon is about to end already");
        return;
    }
    if (!takeover_is_kept(&daemon->takeover)) {
        control_call_error(
            call, 1,
            "nobody keeps the connection of this mount (weir mount without "
            "-f does, and weir@.service): umount it and mount it again, with "
            "its guest shut down");
        return;
    }
    daemon->is_handing_over = true;
    daemon->handover_us = g_get_monotonic_time();
    g_message("hands over to the next daemon");
    control_call_return_object(call, json_object_new());
    relay_pause(daemon->relay, TRUE);
    daemon_jobs_stop(daemon);
    snapshots_stop(daemon->snapshots);
    daemon->handover_source = g_timeout_add(LOOK_MS, leave_cb, daemon);
}
