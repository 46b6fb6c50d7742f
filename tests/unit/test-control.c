/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control.c - the control socket's two ends, against each other and
 * against peers that do not keep to the rules
 *
 * The server runs in the test thread's main context. A raw peer is a plain
 * socket in the same thread: what it expects is awaited by running the context
 * until it is there. The blocking client needs a thread of its own; asserts
 * stay on the main one.
 */
#include "fs/control.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct Fixture {
    char *dir, *path;
    ControlServer *server;
    ControlCall *kept;
    unsigned gone;
} Fixture;

static JsonNode *
text_node(const char *text)
{
    JsonNode *node = json_node_new(JSON_NODE_VALUE);

    json_node_set_string(node, text);
    return node;
}

static void
run_echo(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)user;
    control_call_return(call,
                        text_node(json_object_get_string_member_with_default(
                            arguments, "text", "nothing")));
}

static void
run_refuse(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    (void)user;
    control_call_error(call, 5, "no: it is foreign");
}

static void
kept_gone(gpointer user)
{
    Fixture *f = user;

    f->kept = NULL;
    f->gone++;
}

static void
run_keep(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Fixture *f = user;

    (void)arguments;
    f->kept = call;
    control_call_on_gone(call, kept_gone, f);
}

static const struct ControlCommand commands[] = {{"echo", run_echo},
                                                 {"refuse", run_refuse},
                                                 {"keep", run_keep},
                                                 {NULL, NULL}};

static int
setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->dir = g_dir_make_tmp("weir-control-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "control.sock", NULL);
    f->server = control_server_new(f->path, commands, f, NULL);
    *state = f;
    return f->server == NULL;
}

static int
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

static void
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
static JsonObject *
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

static void
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

static Peer
peer_connect(const char *path)
{
    Peer peer = {.fd = socket(AF_UNIX, SOCK_STREAM, 0), .in = g_string_new("")};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    assert_int_equal(
        connect(peer.fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return peer;
}

static void
peer_close(Peer *peer)
{
    close(peer->fd);
    g_string_free(peer->in, TRUE);
}

static Peer
peer_negotiated(const char *path)
{
    Peer peer = peer_connect(path);

    json_object_unref(peer_read(&peer));
    peer_write(&peer, "{\"execute\":\"qmp_capabilities\"}\n");
    json_object_unref(peer_read(&peer));
    return peer;
}

static void
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

/*
 * Tests
 */
static void
test_greeting_comes_first_and_names_us(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_connect(f->path);
    g_autoptr(JsonObject) greeting = peer_read(&peer);
    JsonObject *qmp = json_object_get_object_member(greeting, "QMP");
    JsonObject *version = json_object_get_object_member(qmp, "version");

    assert_string_equal(json_object_get_string_member(version, "package"),
                        "weir " WEIR_VERSION);
    assert_true(json_object_has_member(qmp, "capabilities"));
    peer_close(&peer);
}

static void
test_commands_wait_for_negotiation(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_connect(f->path);

    json_object_unref(peer_read(&peer));
    assert_error(&peer, "{\"execute\":\"echo\"}\n", "CommandNotFound");
    peer_write(&peer, "{\"execute\":\"qmp_capabilities\",\"id\":7}\n");
    g_autoptr(JsonObject) answer = peer_read(&peer);
    assert_true(json_object_has_member(answer, "return"));
    assert_int_equal(json_object_get_int_member(answer, "id"), 7);
    /* Once is enough. */
    assert_error(&peer, "{\"execute\":\"qmp_capabilities\"}\n",
                 "CommandNotFound");
    peer_close(&peer);
}

static void
test_id_of_any_type_comes_back(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    peer_write(&peer,
               "{\"execute\":\"echo\",\"arguments\":{\"text\":\"a\\\"b\"},"
               "\"id\":{\"x\":[1,null]}}\r\n");
    g_autoptr(JsonObject) answer = peer_read(&peer);
    JsonObject *id = json_object_get_object_member(answer, "id");

    assert_string_equal(json_object_get_string_member(answer, "return"),
                        "a\"b");
    assert_int_equal(
        json_array_get_length(json_object_get_array_member(id, "x")), 2);
    peer_close(&peer);
}

static void
test_malformed_input_is_answered_and_survived(void **state)
{
    static const char *const bad[] = {
        "nonsense\n",
        "{\n",
        "[]\n",
        "17\n",
        "{}\n",
        "{\"execute\":5}\n",
        "{\"execute\":{}}\n",
        "{\"execute\":null}\n",
        "{\"execute\":\"echo\",\"arguments\":[]}\n",
        "{\"execute\":\"echo\",\"surprise\":1}\n",
        "\xff\xfe\n",
        "{\"execute\":\"ec\\u0000ho\"} trailing\n",
    };
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_error(&peer, bad[i], "GenericError");
    }
    assert_error(&peer, "{\"execute\":\"quit\"}\n", "CommandNotFound");
    assert_false(peer.is_ended);
    peer_close(&peer);
}

static void
test_brackets_without_end_are_refused(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);
    g_autofree char *line = g_strnfill(60000, '[');

    line[59999] = '\n';
    assert_error(&peer, line, "GenericError");
    peer_close(&peer);
}

static void
test_line_over_the_limit_ends_the_connection(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);
    g_autofree char *line = g_strnfill(CONTROL_LINE_MAX + 2, ' ');

    peer_write(&peer, line);
    assert_null(peer_read(&peer));
    peer_close(&peer);
}

static void
test_late_answer_finds_its_caller(void **state)
{
    Fixture *f = *state;
    Peer one = peer_negotiated(f->path);
    Peer two = peer_negotiated(f->path);
    g_autoptr(JsonObject) answer = NULL;
    g_autoptr(JsonObject) event = NULL;
    JsonObject *data = json_object_new();

    peer_write(&one, "{\"execute\":\"keep\",\"id\":1}\n");
    peer_write(&two, "{\"execute\":\"echo\",\"id\":2}\n");
    answer = peer_read(&two);
    assert_int_equal(json_object_get_int_member(answer, "id"), 2);
    while (f->kept == NULL) {
        peer_turn(&one);
    }
    json_object_set_string_member(data, "state", "idle");
    control_server_event(f->server, "WEIR_STATE_CHANGE", data);
    control_call_return(f->kept, text_node("done"));
    event = peer_read(&one);
    assert_string_equal(json_object_get_string_member(event, "event"),
                        "WEIR_STATE_CHANGE");
    assert_true(json_object_has_member(event, "timestamp"));
    json_object_unref(g_steal_pointer(&answer));
    answer = peer_read(&one);
    assert_string_equal(json_object_get_string_member(answer, "return"),
                        "done");
    assert_int_equal(json_object_get_int_member(answer, "id"), 1);
    peer_close(&one);
    peer_close(&two);
}

static void
test_kept_call_hears_that_its_caller_left(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    peer_write(&peer, "{\"execute\":\"keep\"}\n");
    while (f->kept == NULL) {
        peer_turn(&peer);
    }
    peer_close(&peer);
    while (f->gone == 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    assert_null(f->kept);
}

static void
test_seventeenth_peer_is_turned_away(void **state)
{
    Fixture *f = *state;
    Peer peers[CONTROL_PEERS_MAX];
    Peer late;

    for (unsigned i = 0; i < CONTROL_PEERS_MAX; i++) {
        peers[i] = peer_negotiated(f->path);
    }
    late = peer_connect(f->path);
    assert_null(peer_read(&late));
    peer_close(&late);
    peer_close(&peers[0]);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    late = peer_negotiated(f->path);
    peer_close(&late);
    for (unsigned i = 1; i < CONTROL_PEERS_MAX; i++) {
        peer_close(&peers[i]);
    }
}

static void
test_socket_is_private_and_goes_with_the_server(void **state)
{
    Fixture *f = *state;
    struct stat st;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    control_server_free(g_steal_pointer(&f->server));
    assert_int_equal(stat(f->path, &st), -1);
}

/*
 * The blocking client, in a thread
 */
struct ClientRun {
    const char *path;
    char *answer;
    int code;
    bool is_nothing;
    gint is_over; /* atomic */
};

static gpointer
client_thread(gpointer data)
{
    struct ClientRun *run = data;
    g_autoptr(ControlClient) client = control_client_open(run->path, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(JsonNode) none = NULL;
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "text", "hello");
    if (client != NULL) {
        reply = control_client_call(client, "echo", arguments, NULL);
        run->answer = reply != NULL ? json_node_dup_string(reply) : NULL;
        none = control_client_call(client, "refuse", NULL, &error);
        run->code =
            error != NULL && error->domain == CONTROL_ERROR ? error->code : -1;
        run->is_nothing = control_client_send(client, "keep", NULL, NULL) &&
                          control_client_receive(client, 1, &none, NULL) ==
                              CONTROL_GOT_NOTHING;
    }
    g_atomic_int_set(&run->is_over, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void
client_against(Fixture *f, const char *path)
{
    struct ClientRun run = {.path = path};
    GThread *thread = g_thread_new("client", client_thread, &run);

    (void)f;
    while (!g_atomic_int_get(&run.is_over)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_thread_join(thread);
    assert_non_null(run.answer);
    assert_string_equal(run.answer, "hello");
    assert_int_equal(run.code, 5);
    assert_true(run.is_nothing);
    g_free(run.answer);
}

static void
test_client_calls_and_learns_the_exit_code(void **state)
{
    Fixture *f = *state;

    client_against(f, f->path);
}

static void
test_path_longer_than_an_address_works(void **state)
{
    Fixture *f = *state;
    g_autofree char *name = g_strnfill(150, 'd');
    g_autofree char *dir = g_build_filename(f->dir, name, NULL);
    g_autofree char *path = g_build_filename(dir, "control.sock", NULL);
    ControlServer *server;

    assert_int_equal(mkdir(dir, 0700), 0);
    server = control_server_new(path, commands, f, NULL);
    assert_non_null(server);
    client_against(f, path);
    control_server_free(server);
    assert_int_equal(access(path, F_OK), -1);
    rmdir(dir);
}

static void
test_client_of_nobody_fails_at_once(void **state)
{
    Fixture *f = *state;
    g_autofree char *path = g_build_filename(f->dir, "nobody", NULL);
    g_autoptr(GError) error = NULL;

    assert_null(control_client_open(path, &error));
    assert_non_null(error);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_greeting_comes_first_and_names_us),
        TEST(test_commands_wait_for_negotiation),
        TEST(test_id_of_any_type_comes_back),
        TEST(test_malformed_input_is_answered_and_survived),
        TEST(test_brackets_without_end_are_refused),
        TEST(test_line_over_the_limit_ends_the_connection),
        TEST(test_late_answer_finds_its_caller),
        TEST(test_kept_call_hears_that_its_caller_left),
        TEST(test_seventeenth_peer_is_turned_away),
        TEST(test_socket_is_private_and_goes_with_the_server),
        TEST(test_client_calls_and_learns_the_exit_code),
        TEST(test_path_longer_than_an_address_works),
        TEST(test_client_of_nobody_fails_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
