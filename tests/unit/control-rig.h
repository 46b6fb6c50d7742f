/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-rig.h - a control server in the test's thread, and peers of it
 *
 * Purpose: what the tests of the control socket's serving end share. The server
 *          runs in the test thread's main context. A raw peer is a plain socket
 *          in the same thread: what it expects is awaited by running the context
 *          until it is there.
 * Threads: the test's.
 */
#pragma once

#include "fs/control.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct Fixture {
    char *dir, *path;
    ControlServer *server;
    ControlCall *kept;
    unsigned gone;
} Fixture;

static inline JsonNode *
text_node(const char *text)
{
    JsonNode *node = json_node_new(JSON_NODE_VALUE);

    json_node_set_string(node, text);
    return node;
}

static inline void
run_echo(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)user;
    control_call_return(call,
                        text_node(json_object_get_string_member_with_default(
                            arguments, "text", "nothing")));
}

static inline void
run_refuse(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    (void)user;
    control_call_error(call, 5, "no: it is foreign");
}

static inline void
kept_gone(gpointer user)
{
    Fixture *f = user;

    f->kept = NULL;
    f->gone++;
}

static inline void
run_keep(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Fixture *f = user;

    (void)arguments;
    f->kept = call;
    control_call_on_gone(call, kept_gone, f);
}

static const struct ArgumentRule echo_rules[] = {
    {"text", ARGUMENT_STRING, false},
    {NULL, 0, false},
};
static const struct ControlCommand rig_commands[] = {
    {"echo", run_echo, echo_rules, false},
    {"refuse", run_refuse, NULL, false},
    {"keep", run_keep, NULL, false},
    {"linger", run_keep, NULL, true},
    {NULL, NULL, NULL, false},
};
static const struct ControlCommand *const commands[] = {rig_commands, NULL};

static inline int
setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->dir = g_dir_make_tmp("weir-control-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "control.sock", NULL);
    f->server = control_server_new(f->path, commands, f, NULL);
    *state = f;
    return f->server == NULL;
}

static inline int
teardown(void **state)
{
    Fixture *f = *state;

    control_server_free(f->server);
    rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
    g_free(f);
    return 0;
}

/*
 * A raw peer
 */
typedef struct Peer {
    int fd;
    GString *in;
    bool is_ended;
} Peer;

static inline void
peer_turn(Peer *peer)
{
    char block[4096];
    ssize_t n;

    g_main_context_iteration(NULL, FALSE);
    n = recv(peer->fd, block, sizeof(block), MSG_DONTWAIT);
    if (n > 0) {
        g_string_append_len(peer->in, block, n);
    } else if (n == 0 || errno != EAGAIN) {
        peer->is_ended = true;
    }
}

/* The next line as an object; NULL if the connection ended. */
static inline JsonObject *
peer_read(Peer *peer)
{
    g_autoptr(JsonNode) node = NULL;
    char *end;

    while ((end = strchr(peer->in->str, '\n')) == NULL) {
        if (peer->is_ended) {
            return NULL;
        }
        peer_turn(peer);
    }
    *end = '\0';
    node = json_from_string(peer->in->str, NULL);
    g_string_erase(peer->in, 0, end - peer->in->str + 1);
    assert_non_null(node);
    return json_node_dup_object(node);
}

static inline void
peer_write(Peer *peer, const char *text)
{
    gsize len = strlen(text), done = 0;

    while (done < len) {
        ssize_t n = send(peer->fd, text + done, len - done,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            done += (gsize)n;
        } else if (errno != EAGAIN) {
            return;
        }
        peer_turn(peer);
    }
}

static inline Peer
peer_connect(const char *path)
{
    Peer peer = {.fd = socket(AF_UNIX, SOCK_STREAM, 0), .in = g_string_new("")};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    assert_int_equal(
        connect(peer.fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return peer;
}

static inline void
peer_close(Peer *peer)
{
    close(peer->fd);
    g_string_free(peer->in, TRUE);
}

static inline Peer
peer_negotiated(const char *path)
{
    Peer peer = peer_connect(path);

    json_object_unref(peer_read(&peer));
    peer_write(&peer, "{\"execute\":\"qmp_capabilities\"}\n");
    json_object_unref(peer_read(&peer));
    return peer;
}

static inline void
assert_error(Peer *peer, const char *request, const char *class)
{
    g_autoptr(JsonObject) answer = NULL;

    peer_write(peer, request);
    answer = peer_read(peer);
    assert_non_null(answer);
    assert_true(json_object_has_member(answer, "error"));
    assert_string_equal(
        json_object_get_string_member(
            json_object_get_object_member(answer, "error"), "class"),
        class);
}

/* The next line as it is. */
static inline char *
peer_read_text(Peer *peer)
{
    char *end, *text;

    while ((end = strchr(peer->in->str, '\n')) == NULL) {
        assert_false(peer->is_ended);
        peer_turn(peer);
    }
    text = g_strndup(peer->in->str, (gsize)(end - peer->in->str) + 1);
    g_string_erase(peer->in, 0, end - peer->in->str + 1);
    return text;
}

static inline void
assert_echo(Peer *peer, const char *text)
{
    g_autoptr(JsonObject) answer = peer_read(peer);

    assert_non_null(answer);
    assert_string_equal(json_object_get_string_member(answer, "return"), text);
}

static inline void
assert_desc(Peer *peer, const char *request, const char *class,
            const char *desc)
{
    g_autoptr(JsonObject) answer = NULL;
    JsonObject *error;

    peer_write(peer, request);
    answer = peer_read(peer);
    assert_non_null(answer);
    assert_true(json_object_has_member(answer, "error"));
    error = json_object_get_object_member(answer, "error");
    assert_string_equal(json_object_get_string_member(error, "class"), class);
    assert_string_equal(json_object_get_string_member(error, "desc"), desc);
}

static inline void
await_kept(Fixture *f, Peer *peer)
{
    while (f->kept == NULL) {
        peer_turn(peer);
    }
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)
