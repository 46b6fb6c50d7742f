/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-client.c - the control socket's calling end, for the command line
 *
 * Blocking, one call at a time: send a line, read lines until the answer with
 * our id is there. Events that arrive meanwhile are passed over, unless somebody
 * asked for them: whoever runs a command wants its answer.
 *
 * A command line must never hang on a daemon that is stopped in a debugger or
 * swapped out for good, so each wait has an end. Only a call that is answered
 * late by its nature (drain with wait) waits on, in steps: receive() returns
 * NOTHING after its time and after each signal, and the caller looks at its
 * clock, its flags and its progress line before the next step.
 */
#include "control-wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX (8 << 20)

struct ControlClient {
    int fd;
    gint64 id; /* of the last call */
    GString *in;
    void (*on_event)(gpointer user, const char *event, JsonObject *data);
    gpointer user;
};

static gboolean
client_fail(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", what,
                g_strerror(errno));
    return FALSE;
}

/* The next line, NULL when there is none within the time (*@got says why). */
static JsonNode *
client_line(ControlClient *client, int timeout_ms, enum ControlGot *got,
            GError **error)
{
    gint64 deadline =
        g_get_monotonic_time() + timeout_ms * G_GINT64_CONSTANT(1000);
    char *end;

    *got = CONTROL_GOT_ERROR;
    while ((end = memchr(client->in->str, '\n', client->in->len)) == NULL) {
        struct pollfd wait = {.fd = client->fd, .events = POLLIN};
        gint64 left = (deadline - g_get_monotonic_time() + 999) / 1000;
        char block[16384];
        ssize_t n;

        if (poll(&wait, 1, left > 0 ? (int)left : 0) <= 0) {
            *got = CONTROL_GOT_NOTHING;
            return NULL;
        }
        n = recv(client->fd, block, sizeof(block), 0);
        if (n <= 0 || client->in->len > ANSWER_MAX) {
            errno = n == 0 ? ECONNRESET : n > 0 ? EMSGSIZE : errno;
            client_fail(error, "the daemon ended the conversation");
            return NULL;
        }
        g_string_append_len(client->in, block, n);
    }
    *got = CONTROL_GOT_REPLY;
    return control_wire_parse(client->in->str, (gsize)(end - client->in->str),
                              error);
}

static JsonObject *
client_document(ControlClient *client, int timeout_ms, enum ControlGot *got,
                GError **error)
{
    g_autoptr(JsonNode) node = client_line(client, timeout_ms, got, error);
    char *end = memchr(client->in->str, '\n', client->in->len);

    if (*got != CONTROL_GOT_REPLY) {
        return NULL;
    }
    g_string_erase(client->in, 0, end - client->in->str + 1);
    if (node == NULL || !JSON_NODE_HOLDS_OBJECT(node)) {
        g_clear_error(error);
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "the daemon's answer makes no sense");
        *got = CONTROL_GOT_ERROR;
        return NULL;
    }
    return json_node_dup_object(node);
}

gboolean
control_client_send(ControlClient *client, const char *command,
                    JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *root = json_object_new();
    g_autofree char *line = NULL;
    gsize len, done = 0;

    json_object_set_string_member(root, "execute", command);
    if (arguments != NULL) {
        json_object_set_object_member(root, "arguments", arguments);
    }
    json_object_set_int_member(root, "id", ++client->id);
    json_node_take_object(node, root);
    line = control_wire_line(node, NULL, &len);
    while (done < len) {
        ssize_t n = send(client->fd, line + done, len - done, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR) {
            return client_fail(error, command);
        }
        done += n > 0 ? (gsize)n : 0;
    }
    return TRUE;
}

/* An error answer as a GError. */
static void
client_refused(JsonObject *answer, GError **error)
{
    JsonNode *node = json_object_get_member(answer, "error");
    JsonObject *flaw =
        JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : answer;

    g_set_error_literal(
        error, CONTROL_ERROR,
        (int)json_object_get_int_member_with_default(flaw, "exit-code", 1),
        json_object_get_string_member_with_default(flaw, "desc",
                                                   "refused without a reason"));
}

void
control_client_on_event(ControlClient *client,
                        void (*on_event)(gpointer user, const char *event,
                                         JsonObject *data),
                        gpointer user)
{
    client->on_event = on_event;
    client->user = user;
}

static void
tell_event(ControlClient *client, JsonObject *answer)
{
    const char *event =
        json_object_get_string_member_with_default(answer, "event", NULL);
    JsonNode *data = json_object_get_member(answer, "data");

    if (event != NULL && data != NULL && JSON_NODE_HOLDS_OBJECT(data) &&
        client->on_event != NULL) {
        client->on_event(client->user, event, json_node_get_object(data));
    }
}

enum ControlGot
control_client_receive(ControlClient *client, int timeout_ms, JsonNode **reply,
                       GError **error)
{
    enum ControlGot got;

    for (;;) {
        g_autoptr(JsonObject) answer =
            client_document(client, timeout_ms, &got, error);

        if (answer == NULL) {
            return got;
        }
        if (json_object_get_int_member_with_default(answer, "id", -1) !=
            client->id) {
            tell_event(client, answer);
            continue;
        }
        if (json_object_has_member(answer, "error")) {
            client_refused(answer, error);
            return CONTROL_GOT_ERROR;
        }
        *reply = json_object_dup_member(answer, "return");
        if (*reply == NULL) {
            *reply = json_node_new(JSON_NODE_NULL);
        }
        return CONTROL_GOT_REPLY;
    }
}

JsonNode *
control_client_call(ControlClient *client, const char *command,
                    JsonObject *arguments, GError **error)
{
    gint64 deadline =
        g_get_monotonic_time() + CONTROL_TIMEOUT_MS * G_GINT64_CONSTANT(1000);
    JsonNode *reply = NULL;

    if (!control_client_send(client, command, arguments, error)) {
        return NULL;
    }
    for (;;) {
        gint64 left = (deadline - g_get_monotonic_time()) / 1000;
        enum ControlGot got = control_client_receive(
            client, left > 0 ? (int)left : 0, &reply, error);

        if (got != CONTROL_GOT_NOTHING) {
            return got == CONTROL_GOT_REPLY ? reply : NULL;
        }
        if (left <= 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT,
                        "the daemon does not answer");
            return NULL;
        }
    }
}

static gboolean
client_connect(ControlClient *client, const char *path, GError **error)
{
    struct sockaddr_un address;
    gboolean is_connected;
    int dir_fd;

    if (!control_wire_address(path, &address, &dir_fd, error)) {
        return FALSE;
    }
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    is_connected =
        client->fd >= 0 &&
        connect(client->fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    if (!is_connected) {
        client_fail(error, path);
    }
    if (dir_fd >= 0) {
        close(dir_fd);
    }
    return is_connected;
}

ControlClient *
control_client_open(const char *path, GError **error)
{
    g_autoptr(ControlClient) client = g_new0(ControlClient, 1);
    g_autoptr(JsonObject) greeting = NULL;
    g_autoptr(JsonNode) reply = NULL;
    enum ControlGot got;

    client->fd = -1;
    client->in = g_string_new(NULL);
    if (!client_connect(client, path, error)) {
        return NULL;
    }
    greeting = client_document(client, CONTROL_TIMEOUT_MS, &got, error);
    if (greeting == NULL || !json_object_has_member(greeting, "QMP")) {
        if (error != NULL && *error == NULL) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT,
                        "%s: no greeting", path);
        }
        return NULL;
    }
    reply = control_client_call(client, "qmp_capabilities", NULL, error);
    return reply != NULL ? g_steal_pointer(&client) : NULL;
}

gboolean
control_client_is_own(ControlClient *client)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           peer.uid == geteuid();
}

gboolean
control_client_wait_gone(ControlClient *client, int timeout_ms)
{
    struct pollfd wait = {.fd = client->fd, .events = POLLIN};
    char block[4096];

    if (poll(&wait, 1, timeout_ms) <= 0) {
        return FALSE;
    }
    return recv(client->fd, block, sizeof(block), 0) <= 0;
}

void
control_client_free(ControlClient *client)
{
    if (client == NULL) {
        return;
    }
    if (client->fd >= 0) {
        close(client->fd);
    }
    g_string_free(client->in, TRUE);
    g_free(client);
}
