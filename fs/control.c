/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.c - the control socket's serving end
 *
 * One listening socket, a handful of peers, all in the main context. A peer
 * is a non-blocking socket with a buffer for the line that is arriving and
 * one for the answers that it has not taken yet; nothing here ever waits.
 *
 *   accept -> greeting -> qmp_capabilities -> commands ... -> end of file
 *
 * A command is looked up in the owner's table and gets a ControlCall, which
 * it answers at once or keeps (drain with wait). The answers of kept calls go
 * out when they come, so they may overtake each other: the id tells.
 *
 * What can go wrong, and what happens then:
 *   not JSON, not an object     GenericError, the connection lives
 *   command before negotiation  CommandNotFound, as QEMU says it
 *   a line over the limit       there is no way to resynchronise: cut off
 *   a peer that never reads     cut off when too much waits for it
 *   a peer that goes away       its kept calls hear of it through on_gone
 *
 * A peer is not freed under the feet of the code that is talking to it: it is
 * doomed first, and buried by a source of its own.
 *
 * The socket is 0600 from birth (umask around bind), and the peer's uid is
 * checked besides, since permission bits of sockets are no promise.
 */
#include "control.h"

#include "control-wire.h"

#include <errno.h>
#include <glib-unix.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct ControlPeer {
    ControlServer *server;
    int fd;
    guint in_source, out_source;
    GString *in, *out;
    GPtrArray *calls; /* unanswered ControlCall, borrowed */
    bool is_negotiated;
    bool is_doomed;
} ControlPeer;

struct ControlServer {
    char *path;
    int fd;
    guint source, burial;
    const struct ControlCommand *commands; /* ends with a NULL name */
    gpointer user;
    GPtrArray *peers;
};

struct ControlCall {
    ControlPeer *peer; /* NULL: gone */
    JsonNode *id;      /* or NULL */
    void (*gone)(gpointer user);
    gpointer user;
};

/*
 * Peers
 */
static void
call_free(ControlCall *call)
{
    g_clear_pointer(&call->id, json_node_unref);
    g_free(call);
}

static void
peer_free(gpointer data)
{
    ControlPeer *peer = data;

    g_clear_handle_id(&peer->in_source, g_source_remove);
    g_clear_handle_id(&peer->out_source, g_source_remove);
    for (guint i = 0; i < peer->calls->len; i++) {
        ControlCall *call = peer->calls->pdata[i];

        call->peer = NULL;
        if (call->gone != NULL) {
            call->gone(call->user);
            call_free(call);
        }
    }
    g_ptr_array_unref(peer->calls);
    close(peer->fd);
    g_string_free(peer->in, TRUE);
    g_string_free(peer->out, TRUE);
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

/* Takes @root. */
static void
peer_send(ControlPeer *peer, JsonObject *root)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *line = NULL;
    gsize len;

    json_node_take_object(node, root);
    if (peer->is_doomed) {
        return;
    }
    line = control_wire_line(node, &len);
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

/*
 * Answers
 */
static void
call_answer(ControlCall *call, const char *member, JsonNode *value)
{
    if (call->peer != NULL) {
        JsonObject *root = json_object_new();

        json_object_set_member(root, member, value);
        if (call->id != NULL) {
            json_object_set_member(root, "id", json_node_ref(call->id));
        }
        g_ptr_array_remove_fast(call->peer->calls, call);
        peer_send(call->peer, root);
    } else {
        json_node_unref(value);
    }
    call_free(call);
}

void
control_call_return(ControlCall *call, JsonNode *value)
{
    call_answer(call, "return", value);
}

static JsonNode *
object_node(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return node;
}

void
control_call_return_object(ControlCall *call, JsonObject *object)
{
    control_call_return(call, object_node(object));
}

static void
call_error_class(ControlCall *call, const char *class, int code,
                 const char *desc)
{
    JsonObject *error = json_object_new();

    json_object_set_string_member(error, "class", class);
    json_object_set_string_member(error, "desc", desc);
    json_object_set_int_member(error, "exit-code", code);
    call_answer(call, "error", object_node(error));
}

void
control_call_error(ControlCall *call, int code, const char *desc)
{
    call_error_class(call, "GenericError", code, desc);
}

void
control_call_on_gone(ControlCall *call, void (*gone)(gpointer user),
                     gpointer user)
{
    call->gone = gone;
    call->user = user;
}

/*
 * Requests
 */
static JsonNode *
command_names(const ControlServer *server)
{
    static const char *const own[] = {"qmp_capabilities", "query-version",
                                      "query-commands"};
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);
    JsonArray *list = json_array_new();

    for (guint i = 0; i < G_N_ELEMENTS(own); i++) {
        JsonObject *entry = json_object_new();

        json_object_set_string_member(entry, "name", own[i]);
        json_array_add_object_element(list, entry);
    }
    for (const struct ControlCommand *c = server->commands; c->name; c++) {
        JsonObject *entry = json_object_new();

        json_object_set_string_member(entry, "name", c->name);
        json_array_add_object_element(list, entry);
    }
    json_node_take_array(node, list);
    return node;
}

static void
peer_run(ControlPeer *peer, ControlCall *call, const char *name,
         JsonObject *arguments)
{
    g_autofree char *words = NULL;

    if (strcmp(name, "qmp_capabilities") == 0 && !peer->is_negotiated) {
        peer->is_negotiated = true;
        control_call_return_object(call, json_object_new());
        return;
    }
    if (!peer->is_negotiated) {
        call_error_class(call, "CommandNotFound", 1,
                         "Expecting capabilities negotiation with "
                         "'qmp_capabilities'");
        return;
    }
    if (strcmp(name, "query-version") == 0) {
        control_call_return_object(call, control_wire_version());
        return;
    }
    if (strcmp(name, "query-commands") == 0) {
        control_call_return(call, command_names(peer->server));
        return;
    }
    for (const struct ControlCommand *c = peer->server->commands; c->name;
         c++) {
        if (strcmp(name, c->name) == 0) {
            c->run(call, arguments, peer->server->user);
            return;
        }
    }
    words = g_strdup_printf("The command %s has not been found", name);
    call_error_class(call, "CommandNotFound", 1, words);
}

/* What is wrong with the shape of @root, in words, or NULL. */
static char *
request_flaw(JsonNode *root)
{
    g_autoptr(GList) members = NULL;
    JsonObject *request;
    JsonNode *execute, *arguments;

    if (!JSON_NODE_HOLDS_OBJECT(root)) {
        return g_strdup("QMP input must be a JSON object");
    }
    request = json_node_get_object(root);
    members = json_object_get_members(request);
    for (GList *l = members; l != NULL; l = l->next) {
        if (strcmp(l->data, "execute") != 0 &&
            strcmp(l->data, "arguments") != 0 && strcmp(l->data, "id") != 0) {
            return g_strdup_printf("QMP input member '%s' is unexpected",
                                   (const char *)l->data);
        }
    }
    execute = json_object_get_member(request, "execute");
    if (execute == NULL || json_node_get_value_type(execute) != G_TYPE_STRING) {
        return g_strdup("QMP input lacks member 'execute' (a string)");
    }
    arguments = json_object_get_member(request, "arguments");
    if (arguments != NULL && !JSON_NODE_HOLDS_OBJECT(arguments)) {
        return g_strdup("QMP input member 'arguments' must be an object");
    }
    return NULL;
}

static void
peer_line(ControlPeer *peer, const char *line, gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) root = control_wire_parse(line, len, &error);
    g_autoptr(JsonObject) none = json_object_new();
    g_autofree char *flaw = NULL;
    ControlCall *call = g_new0(ControlCall, 1);
    JsonObject *request = NULL;

    call->peer = peer;
    g_ptr_array_add(peer->calls, call);
    if (root == NULL) {
        flaw = g_strdup_printf("JSON parse error: %s", error->message);
    } else {
        if (JSON_NODE_HOLDS_OBJECT(root)) {
            request = json_node_get_object(root);
        }
        if (request != NULL && json_object_has_member(request, "id")) {
            call->id = json_node_copy(json_object_get_member(request, "id"));
        }
        flaw = request_flaw(root);
    }
    if (flaw == NULL && peer->calls->len > CONTROL_CALLS_MAX) {
        flaw = g_strdup("too many unanswered commands on this connection");
    }
    if (flaw != NULL) {
        control_call_error(call, 1, flaw);
        return;
    }
    peer_run(peer, call, json_object_get_string_member(request, "execute"),
             json_object_has_member(request, "arguments")
                 ? json_object_get_object_member(request, "arguments")
                 : none);
}

/* Every whole line in the buffer. */
static void
peer_lines(ControlPeer *peer)
{
    char *end;

    while (!peer->is_doomed &&
           (end = memchr(peer->in->str, '\n', peer->in->len)) != NULL) {
        gsize len = (gsize)(end - peer->in->str);
        g_autofree char *line = g_strndup(peer->in->str, len);

        g_string_erase(peer->in, 0, (gssize)len + 1);
        if (len > CONTROL_LINE_MAX) {
            peer_doom(peer);
        } else if (strspn(line, " \t\r") < len) {
            peer_line(peer, line, len);
        }
    }
    if (peer->in->len > CONTROL_LINE_MAX) {
        peer_doom(peer);
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
        peer_lines(peer);
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
    peer->in_source = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR,
                                    peer_readable_cb, peer);
    g_ptr_array_add(server->peers, peer);

    json_object_set_object_member(qmp, "version", control_wire_version());
    json_object_set_array_member(qmp, "capabilities", json_array_new());
    json_object_set_object_member(root, "QMP", qmp);
    peer_send(peer, root);
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
control_server_new(const char *path, const struct ControlCommand *commands,
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
    server->commands = commands;
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
    g_autoptr(JsonNode) node = data != NULL ? object_node(data) : NULL;

    for (guint i = 0; i < server->peers->len; i++) {
        ControlPeer *peer = server->peers->pdata[i];

        if (peer->is_negotiated) {
            peer_send(peer, event_new(event, node));
        }
    }
}
