/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control-fuzz.c - sessions that were spoiled on their way
 *
 * A valid session is spoiled in one or a few places (bytes changed, left out,
 * doubled, put in, pieces swapped), sent in pieces of any size to a real server,
 * and closed by a control character and a message that is whole. Whatever
 * happens:
 *
 *   - the server lives, and the last message is executed and answered
 *   - what is executed was there: for each run of the command there is a place
 *     in what was sent where a JSON object begins and ends that says just that,
 *     and no two runs share one
 *
 * The judge of the second has its own way of finding them: it tries every
 * opening brace as a begin, and json-glib on what reaches to its match.
 */
#include "control-rig.h"

#include "tests/lib/seed.h"

#define ROUNDS 1500

static uint64_t first_seed;
static GPtrArray *ran; /* the arguments' text, of each run */

static void
run_note(ControlCall *call, JsonObject *arguments, gpointer user)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    (void)user;
    json_node_set_object(node, arguments);
    g_ptr_array_add(ran, json_to_string(node, FALSE));
    json_node_unref(node);
    control_call_return_object(call, json_object_new());
}

static const struct ControlCommand note_commands[] = {
    {"note", run_note, NULL, false},
    {NULL, NULL, NULL, false},
};
static const struct ControlCommand *const note_tables[] = {note_commands, NULL};

static int
fuzz_setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->dir = g_dir_make_tmp("weir-control-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "control.sock", NULL);
    f->server = control_server_new(f->path, note_tables, f, NULL);
    ran = g_ptr_array_new_with_free_func(g_free);
    *state = f;
    return f->server == NULL;
}

static int
fuzz_teardown(void **state)
{
    g_ptr_array_unref(ran);
    return teardown(state);
}

/*
 * Sessions
 */
static GString *
valid_session(Seed *seed)
{
    static const char *const shapes[] = {
        "{\"execute\":\"note\",\"arguments\":{\"n\":%u}}\r\n",
        "{'execute': 'note',\n 'arguments': {'n': %u, 's': 'a\\'b'},\n"
        " 'id': [1, {}]}\n",
        "{\"id\":1.5,\"execute\":\"note\",\"arguments\":{\"n\":%u,\"t\":"
        "{\"execute\":\"note\",\"arguments\":{\"n\":-1}}}}",
        "{\"execute\":\"note\",\"arguments\":{\"n\":%u,\"s\":"
        "\"{\\\"execute\\\":\\\"note\\\"}\\u00e9\"}} ",
        "{\"execute\":\"unknown\",\"arguments\":{\"n\":%u}}\n",
    };
    GString *session = g_string_new(NULL);
    unsigned count = 1 + (unsigned)seed_below(seed, 6);

    for (unsigned i = 0; i < count; i++) {
        const char *shape = shapes[seed_below(seed, G_N_ELEMENTS(shapes))];
        g_auto(GStrv) halves = g_strsplit(shape, "%u", 2);

        g_string_append_printf(session, "%s%u%s", halves[0], i, halves[1]);
    }
    return session;
}

static void
spoil(Seed *seed, GString *session)
{
    static const char nasty[] = "{}[]:,\"'\\\n\r\t\0\x01\xff 0-e.";
    gsize at = seed_below(seed, session->len);
    gsize len = 1 + seed_below(seed, MIN(session->len - at, 40));
    gsize to = seed_below(seed, session->len + 1);
    g_autofree char *piece = g_memdup2(session->str + at, len);
    char c = nasty[seed_below(seed, sizeof(nasty) - 1)];

    switch (seed_below(seed, 6)) {
    case 0:
        session->str[at] = (char)seed_below(seed, 256);
        break;
    case 1:
        session->str[at] = c;
        break;
    case 2:
        g_string_erase(session, (gssize)at, (gssize)len);
        break;
    case 3:
        g_string_insert_len(session, (gssize)to, piece, (gssize)len);
        break;
    case 4:
        g_string_insert_len(session, (gssize)to, &c, 1);
        break;
    case 5:
        g_string_truncate(session, at);
        break;
    default:
        break;
    }
}

/*
 * The judge
 */

/* Behind the match of the brace at @at; 0: there is none. */
static gsize
match_end(const GString *text, gsize at)
{
    unsigned depth = 0;
    char quote = '\0';

    for (gsize i = at; i < text->len; i++) {
        char c = text->str[i];

        if (quote != '\0') {
            i += c == '\\';
            quote = c == quote ? '\0' : quote;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && --depth == 0) {
            return i + 1;
        }
    }
    return 0;
}

/* Could a message begin here? Not as the value of a member, or of a list, that
 * begins on the same line. */
static bool
is_fresh(const GString *text, gsize at)
{
    /* memchr(), as hostile input has zero bytes, too */
    while (at > 0 && memchr(" \t\r", text->str[at - 1], 3) != NULL) {
        at--;
    }
    return at == 0 || memchr(":,[", text->str[at - 1], 3) == NULL;
}

/* The piece from @at to @end with all its strings in double quotes. */
static char *
plain(const GString *text, gsize at, gsize end)
{
    GString *piece = g_string_new(NULL);
    char quote = '\0';

    for (gsize i = at; i < end; i++) {
        char c = text->str[i];

        if (c == '\\' && quote != '\0' && i + 1 < end) {
            i++;
            if (text->str[i] != '\'') {
                g_string_append_c(piece, c);
            }
            g_string_append_c(piece, text->str[i]);
        } else if (c == '"' && quote == '\'') {
            g_string_append(piece, "\\\"");
        } else if (quote != '\0') {
            g_string_append_c(piece, c == quote ? '"' : c);
            quote = c == quote ? '\0' : quote;
        } else {
            quote = c == '"' || c == '\'' ? c : '\0';
            g_string_append_c(piece, c == '\'' ? '"' : c);
        }
    }
    return g_string_free(piece, FALSE);
}

/* What the object from @at to @end would have had executed; NULL: nothing. */
static char *
said_at(const GString *text, gsize at, gsize end)
{
    g_autofree char *piece = plain(text, at, end);
    g_autoptr(JsonNode) node = json_from_string(piece, NULL);
    g_autoptr(JsonNode) arguments = NULL;
    JsonObject *object;

    if (node == NULL || !JSON_NODE_HOLDS_OBJECT(node)) {
        return NULL;
    }
    object = json_node_get_object(node);
    if (!json_object_has_member(object, "execute") ||
        json_node_get_value_type(json_object_get_member(object, "execute")) !=
            G_TYPE_STRING ||
        strcmp(json_object_get_string_member(object, "execute"), "note") != 0) {
        return NULL;
    }
    arguments = json_object_dup_member(object, "arguments");
    return arguments != NULL ? json_to_string(arguments, FALSE)
                             : g_strdup("{}");
}

/* Each of what ran has a place of its own. */
static void
judge(const GString *text, uint64_t seed)
{
    g_autoptr(GPtrArray) said = g_ptr_array_new_with_free_func(g_free);

    for (gsize at = 0; at < text->len; at++) {
        gsize end = text->str[at] == '{' && is_fresh(text, at)
                        ? match_end(text, at)
                        : 0;
        char *words = end > 0 ? said_at(text, at, end) : NULL;

        if (words != NULL) {
            g_ptr_array_add(said, words);
        }
    }
    for (guint i = 0; i < ran->len; i++) {
        guint index;

        if (!g_ptr_array_find_with_equal_func(said, ran->pdata[i], g_str_equal,
                                              &index)) {
            fail_msg("seed %llu: nobody said %s in: %s",
                     (unsigned long long)seed, (char *)ran->pdata[i],
                     text->str);
        }
        g_ptr_array_remove_index(said, index);
    }
}

static void
send_in_pieces(Seed *seed, Peer *peer, const GString *text)
{
    for (gsize at = 0; at < text->len;) {
        gsize most = 1 + seed_below(seed, 64), left = text->len - at;
        ssize_t n = send(peer->fd, text->str + at, MIN(most, left),
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            at += (gsize)n;
        }
        assert_true(n > 0 || errno == EAGAIN);
        peer_turn(peer);
        assert_false(peer->is_ended);
    }
}

static void
one_round(Fixture *f, uint64_t number)
{
    static const char last[] =
        "\x01\n{\"execute\":\"note\",\"arguments\":{\"n\":99},\"id\":\"last\"}";
    Seed seed = {number};
    GString *text = valid_session(&seed);
    unsigned count = (unsigned)seed_below(&seed, 4);
    Peer peer = peer_negotiated(f->path);
    bool is_answered = false;

    g_ptr_array_set_size(ran, 0);
    for (unsigned i = 0; i < count && text->len > 0; i++) {
        spoil(&seed, text);
    }
    g_string_append_len(text, last, sizeof(last) - 1);
    send_in_pieces(&seed, &peer, text);
    while (!is_answered) {
        g_autoptr(JsonObject) answer = peer_read(&peer);
        JsonNode *id;

        if (answer == NULL) {
            fail_msg("seed %llu: cut off", (unsigned long long)number);
        }
        id = json_object_get_member(answer, "id");
        is_answered = id != NULL &&
                      json_node_get_value_type(id) == G_TYPE_STRING &&
                      strcmp(json_node_get_string(id), "last") == 0;
        assert_true(!is_answered || json_object_has_member(answer, "return"));
    }
    assert_string_equal(ran->pdata[ran->len - 1], "{\"n\":99}");
    judge(text, number);
    peer_close(&peer);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_string_free(text, TRUE);
}

static void
test_nothing_is_executed_that_was_not_whole(void **state)
{
    for (uint64_t i = 0; i < ROUNDS; i++) {
        one_round(*state, first_seed + i);
    }
}

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_nothing_is_executed_that_was_not_whole, fuzz_setup,
            fuzz_teardown),
    };

    first_seed = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
