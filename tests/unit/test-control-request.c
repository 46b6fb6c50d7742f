/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control-request.c - what is said over the control socket, and how it is
 * answered
 */
#include "control-rig.h"

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
test_message_over_the_limit_ends_the_connection(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);
    g_autofree char *line = g_strnfill(CONTROL_MESSAGE_MAX + 2, ' ');

    line[0] = '[';
    assert_error(&peer, line, "GenericError");
    assert_null(peer_read(&peer));
    peer_close(&peer);
}

static void
test_large_message_arrives(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);
    g_autofree char *text = g_strnfill(CONTROL_MESSAGE_MAX - 100, 'x');
    g_autofree char *line = g_strdup_printf(
        "{\"execute\":\"echo\",\"arguments\":{\"text\":\"%s\"}}", text);

    peer_write(&peer, line);
    assert_echo(&peer, text);
    peer_close(&peer);
}

static void
test_messages_span_lines_and_share_them(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    peer_write(&peer, "{\n'execute':\r\n\t'echo',\n\n'arguments':"
                      "{'text':\n'one'}}{\"execute\":\"echo\"} {'execute':"
                      "'echo','arguments':{'text':'three'}}");
    assert_echo(&peer, "one");
    assert_echo(&peer, "nothing");
    assert_echo(&peer, "three");
    peer_close(&peer);
}

static void
test_control_character_begins_anew(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    assert_error(&peer, "{\"execute\":\"refuse\", \"id\x01", "GenericError");
    peer_write(&peer, "\x01\x02{\"execute\":\"echo\"}");
    assert_echo(&peer, "nothing");
    peer_close(&peer);
}

static void
test_id_is_the_text_that_came_and_all_is_ascii(void **state)
{
    static const char *const ids[][2] = {
        {"1.10", "1.10"},
        {"1E2", "1E2"},
        {"-0", "-0"},
        {"\"\\u00e9 \xe2\x82\xac\"", "\"\\u00e9 \\u20ac\""},
        {"{\"a\": [ ] }", "{\"a\":[]}"},
        {"null", "null"},
    };
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *request = g_strdup_printf(
            "{\"id\":%s,\"execute\":\"echo\",\"arguments\":{\"text\":"
            "\"\xf0\x9f\x98\x80\"}}",
            ids[i][0]);
        g_autofree char *wanted = g_strdup_printf(
            "{\"return\":\"\\ud83d\\ude00\",\"id\":%s}\r\n", ids[i][1]);
        g_autofree char *got = NULL;

        peer_write(&peer, request);
        got = peer_read_text(&peer);
        assert_string_equal(got, wanted);
    }
    peer_close(&peer);
}

static void
test_capabilities_that_there_are_not(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_connect(f->path);

    json_object_unref(peer_read(&peer));
    assert_desc(&peer,
                "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}",
                "GenericError", "Capability oob not available");
    assert_desc(
        &peer, "{'execute':'qmp_capabilities','arguments':{'enable':[1]}}",
        "GenericError", "Invalid parameter type for 'enable', expected: array");
    assert_desc(&peer,
                "{'execute':'qmp_capabilities','arguments':{'disable':[]}}",
                "GenericError", "Parameter 'disable' is unexpected");
    assert_error(&peer, "{'execute':'echo'}", "CommandNotFound");
    peer_write(&peer,
               "{'execute':'qmp_capabilities','arguments':{'enable':[]}}");
    json_object_unref(peer_read(&peer));
    peer_write(&peer, "{'execute':'echo'}");
    assert_echo(&peer, "nothing");
    assert_desc(&peer, "{'execute':'qmp_capabilities'}", "CommandNotFound",
                "Capabilities negotiation is already complete, command "
                "ignored");
    peer_close(&peer);
}

static void
test_errors_say_what_is_wrong(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    assert_desc(&peer, "{'exec-oob':'echo'}", "GenericError",
                "QMP input member 'exec-oob' is unexpected: commands out of "
                "band are not offered, use 'execute'");
    assert_desc(&peer, "{'execute':'echo','id':1,'execute':'refuse'}",
                "GenericError", "JSON parse error, duplicate key");
    assert_desc(&peer, "{'execute':'echo','arguments':{'text':1}}",
                "GenericError",
                "Invalid parameter type for 'text', expected: string");
    assert_desc(&peer, "{'execute':'echo','arguments':{'txt':'1'}}",
                "GenericError", "Parameter 'txt' is unexpected");
    assert_desc(&peer, "{'execute':'nix'}", "CommandNotFound",
                "The command nix has not been found");
    peer_close(&peer);
}

static void
test_what_comes_next_waits_for_the_answer(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);
    g_autofree char *much = g_strnfill(200000, ' ');

    peer_write(&peer, "{'execute':'keep'}{'execute':'echo'}");
    await_kept(f, &peer);
    /* Some of it stays in the socket; the rest comes when it is its turn. */
    (void)send(peer.fd, much, 100000, MSG_DONTWAIT);
    for (unsigned i = 0; i < 100; i++) {
        peer_turn(&peer);
    }
    assert_int_equal(peer.in->len, 0);
    control_call_return(g_steal_pointer(&f->kept), text_node("first"));
    assert_echo(&peer, "first");
    assert_echo(&peer, "nothing");
    peer_write(&peer, much);
    peer_write(&peer, "{'execute':'echo','arguments':{'text':'third'}}");
    assert_echo(&peer, "third");
    peer_close(&peer);
}

static void
test_what_may_be_overtaken_is(void **state)
{
    Fixture *f = *state;
    Peer peer = peer_negotiated(f->path);

    peer_write(&peer, "{'execute':'linger'}{'execute':'echo'}");
    assert_echo(&peer, "nothing");
    control_call_return(g_steal_pointer(&f->kept), text_node("late"));
    assert_echo(&peer, "late");
    peer_close(&peer);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_commands_wait_for_negotiation),
        TEST(test_id_of_any_type_comes_back),
        TEST(test_malformed_input_is_answered_and_survived),
        TEST(test_brackets_without_end_are_refused),
        TEST(test_message_over_the_limit_ends_the_connection),
        TEST(test_large_message_arrives),
        TEST(test_messages_span_lines_and_share_them),
        TEST(test_control_character_begins_anew),
        TEST(test_id_is_the_text_that_came_and_all_is_ascii),
        TEST(test_capabilities_that_there_are_not),
        TEST(test_errors_say_what_is_wrong),
        TEST(test_what_comes_next_waits_for_the_answer),
        TEST(test_what_may_be_overtaken_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
