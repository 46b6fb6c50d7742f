/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon-private.h - what the daemon's files share
 *
 * Purpose: the one object that ties store, relay, face, mount and control
 *          socket together.
 * Threads: main; only daemon_dirtied(), daemon_face_note() and
 *          daemon_relay_news() run on others, and only post.
 */
#pragma once

#include "control.h"
#include "cuts.h"
#include "daemon.h"
#include "host.h"
#include "jobs.h"
#include "keeper.h"
#include "snapshots.h"
#include "status.h"
#include "takeover.h"

typedef struct Daemon Daemon;
typedef struct Ticket Ticket;

struct Daemon {
    const struct DaemonConfig *config;
    Store *store;
    Relay *relay;
    struct Takeover takeover;
    int inherited_fd; /* the connection of the daemon before us, or -1 */
    Mount *mount;
    Face *face;
    Cuts *cuts; /* NULL: not built yet, gone already, or nothing is to be cut */
    Snapshots *snapshots; /* NULL: not built yet, or gone already */
    Jobs *jobs;           /* likewise */
    Keeper *keeper;
    ControlServer *control;
    GMainLoop *loop;

    Inbox inbox; /* face notes and relay news */
    guint inbox_source, tick_source, progress_source, timeout_source;
    guint term_source, int_source;

    struct StatusInput input; /* of the last look */
    struct StatusTracker tracker;
    enum StoreState last_state;
    enum RoomState last_room; /* that was told */
    bool has_state;
    gint64 notified_us;

    struct Transaction *transaction; /* under way; NULL: none */
    GPtrArray *tickets; /* drains and verifications that are waited for */
    bool is_paused;     /* the user said so */
    bool is_stopping;
    bool is_handing_over;
    gint64 handover_us; /* since when */
    guint handover_source;
    int exit_code;
    GError *error; /* what to say with it */
};

/* daemon.c */
void daemon_look(Daemon *daemon); /* figures into input and tracker */
void daemon_stop(Daemon *daemon); /* unmount, or end if there is no mount */
void daemon_end(Daemon *daemon, int exit_code);
/* No upload is unanswered, as far as the relay has told. */
bool daemon_is_quiet(Daemon *daemon);
void daemon_pause(Daemon *daemon, bool is_paused); /* the user says so */
/* What the news, a setting or the time may have made possible: cuts, snapshots,
 * drains, verifications. */
void daemon_advance(Daemon *daemon);
/* For every client of the control socket; takes @data; @user is the daemon. */
void daemon_event(void *user, const char *name, JsonObject *data);

/* daemon-room.c */
void
daemon_look_at_room(Daemon *daemon); /* behind daemon_look(), each second */

/* daemon-news.c */
enum DaemonMsg { DAEMON_MSG_FACE, DAEMON_MSG_RELAY };
gboolean daemon_news_init(Daemon *daemon, GError **error);
void daemon_news_take(Daemon *daemon);
void daemon_news_deinit(Daemon *daemon);
void daemon_face_note(void *user, FaceNote *note);
void daemon_relay_news(void *user, const char *disk, enum RelayNews news);
void daemon_dirtied(void *user);

/* ticket.c: the first member of what is waited for, from g_new0() */
struct Ticket {
    void (*look)(Ticket *ticket); /* ends it, if it is over */
    void (*forget)(
        Ticket *ticket); /* before it is freed; NULL: nothing to do */
    Daemon *daemon;
    ControlCall *call; /* NULL: the daemon exists for this only */
};
void ticket_open(Ticket *ticket, Daemon *daemon, ControlCall *call);
/* Either ends and frees it; @result is taken. */
void ticket_done(Ticket *ticket, JsonObject *result);
void ticket_fail(Ticket *ticket, int code, const char *words);
void ticket_look_all(Daemon *daemon);
void ticket_forget_all(Daemon *daemon); /* the daemon is stopping */

/* drain.c: what is dirty now, until it is settled */
/* @call is answered when it is done, or by an error; NULL: the daemon ends. */
void drain_begin(Daemon *daemon, ControlCall *call);

/* verify.c: @call is answered when all is compared; NULL: the daemon ends. */
void verify_begin(Daemon *daemon, ControlCall *call,
                  const struct VerifyOrder *order);

/* handover.c: to another daemon, on purpose */
void handover_begin(Daemon *daemon, ControlCall *call);
void handover_finish(Daemon *daemon); /* the face has left */

/* daemon-snapshots.c */
void daemon_snapshots_build(Daemon *daemon);
/* FACE_NOTE_SNAPSHOT_...: answers it, at once or when it is done. */
void daemon_snapshot_note(Daemon *daemon, FaceNote *note);

/* daemon-jobs.c */
void daemon_jobs_build(Daemon *daemon); /* there is a relay, not started */
void daemon_jobs_begin(Daemon *daemon); /* snapshots can be made */
void daemon_jobs_stop(Daemon *daemon);
bool daemon_jobs_are_quiet(Daemon *daemon);
bool daemon_jobs_take(Daemon *daemon, const char *name, enum RelayNews news);

/* control-snapshots.c */
void control_snapshot_create(ControlCall *call, JsonObject *arguments,
                             gpointer user);
void control_snapshot_delete(ControlCall *call, JsonObject *arguments,
                             gpointer user);
void control_snapshot_list(ControlCall *call, JsonObject *arguments,
                           gpointer user);
void control_snapshot_diff(ControlCall *call, JsonObject *arguments,
                           gpointer user);

/* control-commands.c */
/* A member of the arguments that must be a string; NULL if it is not there. */
const char *daemon_text_argument(JsonObject *arguments, const char *name);
extern const struct ControlCommand *const daemon_commands[];
