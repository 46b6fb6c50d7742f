/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control.c - the control socket's two ends, against each other and
 * against peers that do not keep to the rules
 *
 * What is said over it is test-control-request.c's. The blocking client needs a
 * thread of its own; asserts stay on the main one.
 */
#include "control-rig.h"

#include <fcntl.h>
#include <sys/stat.h>

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
test_slow_ones_are_cut_off(void **state)
{
    Fixture *f = *state;
    Peer quiet, slow, idle;

    control_server_set_patience(f->server, 50);
    quiet = peer_connect(f->path);
    json_object_unref(peer_read(&quiet));
    assert_error(&quiet, "", "GenericError");
    assert_null(peer_read(&quiet));
    idle = peer_negotiated(f->path);
    slow = peer_negotiated(f->path);
    assert_error(&slow, "{\"execute\":", "GenericError");
    assert_null(peer_read(&slow));
    /* Who only listens may. */
    peer_write(&idle, "{'execute':'echo'}");
    assert_echo(&idle, "nothing");
    peer_close(&quiet);
    peer_close(&slow);
    peer_close(&idle);
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

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_greeting_comes_first_and_names_us),
        TEST(test_slow_ones_are_cut_off),
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
