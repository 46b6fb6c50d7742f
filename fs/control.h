/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.h - the control socket: QMP's wire protocol, both ends
 *
 * Purpose: STORE/control.sock speaks QMP (greeting, qmp_capabilities,
 *          execute/arguments/id, return or error{class,desc}, events with
 *          timestamp). The daemon serves it, the command line is a client.
 * Threads: the main thread's GMainContext.
 * Shapes:  what comes in are JSON values, control-scan.h; one of more than
 *          CONTROL_MESSAGE_MAX bytes ends the connection. What goes out is one
 *          JSON document per line, ASCII, CRLF. Commands of ours are named
 *          weir-*; the table is in control-commands.c, and what all of them take
 *          and give in contrib/docs/qmp.md.
 * Errors:  malformed input is answered with GenericError, an unknown command
 *          with CommandNotFound; a peer of another uid (but root) is cut off.
 * Source:  QEMU's qmp-spec.
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>

#include "arguments.h"

#define CONTROL_MESSAGE_MAX (1 << 20)
#define CONTROL_PEERS_MAX   16
#define CONTROL_CALLS_MAX   16        /* unanswered, per connection */
#define CONTROL_OUT_MAX     (4 << 20) /* a peer that does not read is cut off */
#define CONTROL_TIMEOUT_MS  30000     /* of a call that is answered at once */
/* For negotiating, and from a message's first byte to its last. */
#define CONTROL_PATIENCE_MS 60000

/* An error answer; its code is the exit code for the command line. */
#define CONTROL_ERROR (control_error_quark())
GQuark control_error_quark(void);

typedef struct ControlServer ControlServer;
typedef struct ControlClient ControlClient;
typedef struct ControlCall ControlCall;

/* One command of the table. Answer at once with control_call_return() or
 * control_call_error(), or keep @call and answer later (drain --wait). What the
 * same client says next is only looked at then, unless it may be overtaken. */
struct ControlCommand {
    const char *name;
    void (*run)(ControlCall *call, JsonObject *arguments, gpointer user);
    const struct ArgumentRule
        *rules; /* of its arguments; end with a NULL name */
    bool is_overtaken;
};

/* Of an error: QEMU's classes, as far as anything here is of one. */
enum ControlClass {
    CONTROL_GENERIC,
    CONTROL_COMMAND_NOT_FOUND,
    CONTROL_DEVICE_NOT_FOUND,
    CONTROL_DEVICE_NOT_ACTIVE,
};

/* @tables: of commands, each ends with a NULL name; ends with NULL. */
ControlServer *control_server_new(const char *path,
                                  const struct ControlCommand *const *tables,
                                  gpointer user, GError **error);
void control_server_free(ControlServer *server); /* removes the socket */
void control_server_set_patience(ControlServer *server, guint ms); /* tests */
/* To every client; takes @data (may be NULL). */
void control_server_event(ControlServer *server, const char *event,
                          JsonObject *data);

void control_call_return(ControlCall *call, JsonNode *value); /* takes both */
void control_call_return_object(ControlCall *call,
                                JsonObject *object); /* too */
/* @code: the exit code that the command line should end with. */
void control_call_error(ControlCall *call, int code, const char *desc);
void control_call_error_class(ControlCall *call, enum ControlClass class,
                              int code, const char *desc);
/* Called if the client went away before the answer; the call is freed when
 * @gone returns and must not be answered any more. */
void control_call_on_gone(ControlCall *call, void (*gone)(gpointer user),
                          gpointer user);

/*
 * Client: blocking, for the command line
 */
ControlClient *control_client_open(const char *path, GError **error);
void control_client_free(ControlClient *client);
/* Does the listener run as the user that we are? */
gboolean control_client_is_own(ControlClient *client);
JsonNode *control_client_call(ControlClient *client, const char *command,
                              JsonObject *arguments, GError **error);

/* Called for each event that comes while an answer is waited for; NULL: none is
 * wanted, as at the beginning. */
void control_client_on_event(ControlClient *client,
                             void (*on_event)(gpointer user, const char *event,
                                              JsonObject *data),
                             gpointer user);

/* The two halves of a call, for one that is answered late. send() takes
 * @arguments (may be NULL). */
gboolean control_client_send(ControlClient *client, const char *command,
                             JsonObject *arguments, GError **error);
enum ControlGot { CONTROL_GOT_REPLY, CONTROL_GOT_NOTHING, CONTROL_GOT_ERROR };
/* NOTHING: @timeout_ms passed, or a signal arrived. */
enum ControlGot control_client_receive(ControlClient *client, int timeout_ms,
                                       JsonNode **reply, GError **error);

/* Wait for the daemon to close the connection (umount); FALSE: not yet. */
gboolean control_client_wait_gone(ControlClient *client, int timeout_ms);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ControlClient, control_client_free)
