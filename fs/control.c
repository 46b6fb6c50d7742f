/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.c - the control socket's serving end
 *
 * One listening socket, a handful of peers, all in the main context. A peer
 * is a non-blocking socket with a buffer for what was said and waits, and one
 * for the answers that it has not taken yet; nothing here ever waits.
 *
 *   accept -> greeting -> qmp_capabilities -> commands ... -> end of file
 *
 * What arrives goes through a scanner, which finds whole messages in it
 * (control-scan.h), and each of them to control-request.c. While a command is
 * unanswered that what comes next may not overtake, the rest waits; if that gets
 * long nothing more is read.
 *
 * What can go wrong, and what happens then:
 *   not JSON, not an object     GenericError, the connection lives
 *   command before negotiation  CommandNotFound, as QEMU says it
 *   a message over the limit    GenericError, and it is cut off
 *   a message that does not end, or no negotiation, for too long
 *                               GenericError, and it is cut off
 *   a peer that never reads     cut off when too much waits for it
 *   a peer that goes away       its kept calls hear of it through on_gone
 *
 * A peer is not freed under the feet of the code that is talking to it: it is
 * doomed first, and buried by a source of its own.
 *
 * The socket is 0600 from birth (umask around bind), and the peer's uid is
 * checked besides, since permission bits of sockets are no promise.
 */
#include "control-private.h"

#include "control-wire.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAITING_MAX (64 * 1024) /* nothing more is read */

/*
 * Peers
 */
static gboolean peer_readable_cb(gint fd, GIOCondition condition,
                                 gpointer data);

static void
peer_free(gpointer data)
{
    ControlPeer *peer = data;

    g_clear_handle_id(&peer->in_source, g_source_remove);
    g_clear_handle_id(&peer->out_source, g_source_remove);
    g_clear_handle_id(&peer->feed_source, g_source_remove);
    g_clear_handle_id(&peer->patience_source, g_source_remove);
    for (guint i = 0; i < peer->calls->len; i++) {
        ControlCall *call = peer->calls->pdata[i];

        call->peer = NULL;
        if (call->gone != NULL) {
            call->gone(call->user);
            control_call_free(call);
        }
    }
    g_ptr_array_unref(peer->calls);
    close(peer->fd);
    g_string_free(peer->in, TRUE);
    g_string_free(peer->out, TRUE);
    control_scan_free(peer->scan);
    g_free(peer);
}

static gboolean
server_bury_cb(gpointer data)
{
    ControlServer *server = data;
    guint i = 0;

    server->burial = 0;
    while (i < server->peers->len) {
        ControlPeer *peer = server->peers->pdata[i];

        if (peer->is_doomed) {
            g_ptr_array_remove_index_fast(server->peers, i);
        } else {
            i++;
        }
    }
    return G_SOURCE_REMOVE;
}

static void
peer_doom(ControlPeer *peer)
{
    ControlServer *server = peer->server;

    peer->is_doomed = true;
    if (server->burial == 0) {
        server->burial =
            g_idle_add_full(G_PRIORITY_HIGH, server_bury_cb, server, NULL);
    }
}

/* Hand the kernel what it takes. False: not all of it. */
static bool
peer_flush(ControlPeer *peer)
{
    while (peer->out->len > 0 && !peer->is_doomed) {
        ssize_t n = send(peer->fd, peer->out->str, peer->out->len,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return false;
        }
        if (n < 0) {
            peer_doom(peer);
            break;
        }
        g_string_erase(peer->out, 0, n);
    }
    return true;
}

static gboolean
peer_writable_cb(gint fd, GIOCondition condition, gpointer data)
{
    ControlPeer *peer = data;

    (void)fd;
    (void)condition;
    if (!peer_flush(peer)) {
        return G_SOURCE_CONTINUE;
    }
    peer->out_source = 0;
    return G_SOURCE_REMOVE;
}

void
peer_send(ControlPeer *peer, JsonObject *root, const char *id)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *line = NULL;
    gsize len;

    json_node_take_object(node, root);
    if (peer->is_doomed) {
        return;
    }
    line = control_wire_line(node, id, &len);
    if (peer->out->len + len > CONTROL_OUT_MAX) {
        peer_doom(peer);
        return;
    }
    g_string_append_len(peer->out, line, (gssize)len);
    if (!peer_flush(peer) && peer->out_source == 0) {
        peer->out_source =
            g_unix_fd_add(peer->fd, G_IO_OUT, peer_writable_cb, peer);
    }
}

/* It is told why, if it reads. */
static void
peer_cut_off(ControlPeer *peer, const char *why)
{
    control_request_refuse(peer, why);
    peer_doom(peer);
}

/*
 * What a peer says
 */
static gboolean
patience_cb(gpointer data)
{
    ControlPeer *peer = data;

    peer->patience_source = 0;
    peer_cut_off(peer,
                 peer->is_negotiated
                     ? "a message that does not end: the connection is "
                       "closed"
                     : "nothing was negotiated: the connection is closed");
    return G_SOURCE_REMOVE;
}

/* The clock runs from the first byte of a message, and from the greeting. */
static void
peer_watch(ControlPeer *peer)
{
    bool is_due = !peer->is_doomed &&
                  (!peer->is_negotiated || control_scan_is_amid(peer->scan));

    if (!is_due) {
        g_clear_handle_id(&peer->patience_source, g_source_remove);
    } else if (peer->patience_source == 0) {
        peer->patience_source =
            g_timeout_add(peer->server->patience_ms, patience_cb, peer);
    }
}

static void
peer_found(ControlPeer *peer, enum ControlFound found)
{
    switch (found) {
    case CONTROL_FOUND_NOTHING:
        return;
    case CONTROL_FOUND_MESSAGE:
        /* Its time is over; what comes next has one of its own. */
        if (peer->is_negotiated) {
            g_clear_handle_id(&peer->patience_source, g_source_remove);
        }
        control_request_take(peer);
        return;
    case CONTROL_FOUND_FLAW:
        control_request_refuse(peer, control_scan_flaw(peer->scan));
        return;
    case CONTROL_FOUND_TOO_LONG:
        peer_cut_off(peer, "a message that is too long: the connection is "
                           "closed");
        return;
    }
}

/* Reading goes on, or rests. */
static void
peer_listen(ControlPeer *peer)
{
    if (peer->in->len > WAITING_MAX) {
        g_clear_handle_id(&peer->in_source, g_source_remove);
    } else if (peer->in_source == 0) {
        peer->in_source = g_unix_fd_add(peer->fd, G_IO_IN | G_IO_HUP | G_IO_ERR,
                                        peer_readable_cb, peer);
    }
}

/* What was said and may be looked at now. */
static void
peer_feed(ControlPeer *peer)
{
    gsize at = 0, used;

    while (!peer->is_doomed && peer->ordered == 0 && at < peer->in->len) {
        enum ControlFound found = control_scan_feed(
            peer->scan, peer->in->str + at, peer->in->len - at, &used);

        at += used;
        peer_found(peer, found);
    }
    g_string_erase(peer->in, 0, (gssize)at);
    peer_watch(peer);
    peer_listen(peer);
}

static gboolean
peer_feed_cb(gpointer data)
{
    ControlPeer *peer = data;

    peer->feed_source = 0;
    peer_feed(peer);
    return G_SOURCE_REMOVE;
}

void
peer_resume(ControlPeer *peer)
{
    if (peer->feed_source == 0 && peer->ordered == 0 && peer->in->len > 0) {
        peer->feed_source =
            g_idle_add_full(G_PRIORITY_DEFAULT, peer_feed_cb, peer, NULL);
    }
}

static gboolean
peer_readable_cb(gint fd, GIOCondition condition, gpointer data)
{
    ControlPeer *peer = data;
    char block[4096];
    ssize_t n;

    (void)condition;
    if (peer->is_doomed) {
        return G_SOURCE_CONTINUE;
    }
    n = recv(fd, block, sizeof(block), MSG_DONTWAIT);
    if (n > 0) {
        g_string_append_len(peer->in, block, n);
        peer_feed(peer);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        peer_doom(peer);
    }
    return G_SOURCE_CONTINUE;
}

/*
 * The server
 */
static void
server_greet(ControlServer *server, int fd)
{
    ControlPeer *peer = g_new0(ControlPeer, 1);
    JsonObject *root = json_object_new();
    JsonObject *qmp = json_object_new();

    peer->server = server;
    peer->fd = fd;
    peer->in = g_string_new(NULL);
    peer->out = g_string_new(NULL);
    peer->calls = g_ptr_array_new();
    peer->scan = control_scan_new(CONTROL_MESSAGE_MAX);
    peer_listen(peer);
    peer_watch(peer);
    g_ptr_array_add(server->peers, peer);

    json_object_set_object_member(qmp, "version", control_wire_version());
    json_object_set_array_member(qmp, "capabilities", json_array_new());
    json_object_set_object_member(root, "QMP", qmp);
    peer_send(peer, root, NULL);
}

static bool
is_welcome(int fd)
{
    struct ucred who;
    socklen_t len = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
           (who.uid == 0 || who.uid == geteuid());
}

static gboolean
server_accept_cb(gint fd, GIOCondition condition, gpointer data)
{
    ControlServer *server = data;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)condition;
    if (peer < 0) {
        return G_SOURCE_CONTINUE;
    }
    if (!is_welcome(peer) || server->peers->len >= CONTROL_PEERS_MAX) {
        close(peer);
        return G_SOURCE_CONTINUE;
    }
    server_greet(server, peer);
    return G_SOURCE_CONTINUE;
}

static int
server_listen(const char *path, GError **error)
{
    struct sockaddr_un address;
    mode_t mask;
    int fd, dir_fd, result;

    if (!control_wire_address(path, &address, &dir_fd, error)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The caller holds the store's lock: whoever made it is gone. */
    unlink(address.sun_path);
    mask = umask(0177);
    result = bind(fd, (struct sockaddr *)&address, sizeof(address));
    if (result == 0) {
        result = listen(fd, CONTROL_PEERS_MAX);
    }
    if (result < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s",
                    path, g_strerror(errno));
        close(fd);
        fd = -1;
    }
    umask(mask);
    if (dir_fd >= 0) {
        close(dir_fd);
    }
    return fd;
}

ControlServer *
control_server_new(const char *path, const struct ControlCommand *const *tables,
                   gpointer user, GError **error)
{
    ControlServer *server;
    int fd = server_listen(path, error);

    if (fd < 0) {
        return NULL;
    }
    server = g_new0(ControlServer, 1);
    server->path = g_strdup(path);
    server->fd = fd;
    server->patience_ms = CONTROL_PATIENCE_MS;
    server->tables = tables;
    server->user = user;
    server->peers = g_ptr_array_new_with_free_func(peer_free);
    server->source = g_unix_fd_add(fd, G_IO_IN, server_accept_cb, server);
    return server;
}

void
control_server_free(ControlServer *server)
{
    if (server == NULL) {
        return;
    }
    g_clear_handle_id(&server->source, g_source_remove);
    g_clear_handle_id(&server->burial, g_source_remove);
    unlink(server->path);
    close(server->fd);
    g_ptr_array_unref(server->peers);
    g_free(server->path);
    g_free(server);
}

void
control_server_set_patience(ControlServer *server, guint ms)
{
    server->patience_ms = ms;
}

static JsonObject *
event_new(const char *event, JsonNode *data)
{
    JsonObject *root = json_object_new();
    JsonObject *stamp = json_object_new();
    gint64 now = g_get_real_time();

    json_object_set_int_member(stamp, "seconds", now / G_USEC_PER_SEC);
    json_object_set_int_member(stamp, "microseconds", now % G_USEC_PER_SEC);
    json_object_set_string_member(root, "event", event);
    if (data != NULL) {
        json_object_set_member(root, "data", json_node_ref(data));
    }
    json_object_set_object_member(root, "timestamp", stamp);
    return root;
}

void
control_server_event(ControlServer *server, const char *event, JsonObject *data)
{
    g_autoptr(JsonNode) node = NULL;

    if (data != NULL) {
        node = json_node_new(JSON_NODE_OBJECT);
        json_node_take_object(node, data);
    }
    for (guint i = 0; i < server->peers->len; i++) {
        ControlPeer *peer = server->peers->pdata[i];

        if (peer->is_negotiated) {
            peer_send(peer, event_new(event, node), NULL);
        }
    }
}
