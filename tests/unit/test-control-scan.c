/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control-scan.c - where messages end, and what is none
 *
 * Each case is fed in one go and byte by byte: it must make no difference.
 * What is found is written down as one line: messages as they come out, "!" for
 * a flaw, "..." if something has begun and is not complete.
 */
#include "fs/control-scan.h"
#include "tests/lib/test.h"

#include <string.h>

#define BYTES_MAX 1000

static char *
scan_in_steps(const char *in, gsize len, gsize step)
{
    g_autoptr(ControlScan) scan = control_scan_new(BYTES_MAX);
    GString *out = g_string_new(NULL);
    gsize at = 0, used, text_len;

    while (at < len) {
        gsize most = MIN(step, len - at);
        enum ControlFound found = control_scan_feed(scan, in + at, most, &used);

        assert_true(used <= most);
        at += used;
        if (found == CONTROL_FOUND_MESSAGE) {
            const char *text = control_scan_text(scan, &text_len);

            assert_int_equal(strlen(text), text_len);
            g_string_append(out, text);
        } else if (found == CONTROL_FOUND_FLAW) {
            assert_non_null(control_scan_flaw(scan));
            g_string_append(out, "!");
        } else if (found == CONTROL_FOUND_TOO_LONG) {
            g_string_append(out, "long");
            return g_string_free(out, FALSE);
        } else {
            assert_int_equal(used, most);
        }
    }
    if (control_scan_is_amid(scan)) {
        g_string_append(out, "...");
    }
    return g_string_free(out, FALSE);
}

static void
assert_scanned_bytes(const char *in, gsize len, const char *wanted)
{
    for (gsize step = 1; step <= 7; step++) {
        g_autofree char *got =
            scan_in_steps(in, len, step == 7 ? MAX(len, 1) : step);

        if (strcmp(got, wanted) != 0) {
            fail_msg("%s: found %s, not %s", in, got, wanted);
        }
    }
}

static void
assert_scanned(const char *in, const char *wanted)
{
    assert_scanned_bytes(in, strlen(in), wanted);
}

static void
test_values_of_every_kind_pass(void **state)
{
    (void)state;
    assert_scanned("{}", "{}");
    assert_scanned("[ ]\n", "[]");
    assert_scanned("{\"a\": [1, -2.5e+3, true, false, null, \"x\"]}",
                   "{\"a\":[1,-2.5e+3,true,false,null,\"x\"]}");
    assert_scanned("17 ", "17");
    assert_scanned("-0\n", "-0");
    assert_scanned("\"text\"", "\"text\"");
    assert_scanned("9223372036854775807 -9223372036854775808 ",
                   "9223372036854775807-9223372036854775808");
}

static void
test_values_may_span_lines_and_share_one(void **state)
{
    (void)state;
    assert_scanned("{\r\n  \"a\":\n\t1\n}\n", "{\"a\":1}");
    assert_scanned("{}{}[] {\"a\":1}\n", "{}{}[]{\"a\":1}");
    assert_scanned("1{}2\n", "1{}2");
    assert_scanned("\n\n \t\r\n", "");
}

static void
test_what_has_begun_is_awaited(void **state)
{
    (void)state;
    assert_scanned("{\"a\":\n\n", "...");
    assert_scanned("{} [", "{}...");
    assert_scanned("12", "...");
    assert_scanned("'", "...");
}

static void
test_strings_come_out_in_double_quotes(void **state)
{
    (void)state;
    assert_scanned("{'a': 'b'}", "{\"a\":\"b\"}");
    assert_scanned("'say \"hi\"'", "\"say \\\"hi\\\"\"");
    assert_scanned("\"it's\"", "\"it's\"");
    assert_scanned("'it\\'s \\\"'", "\"it's \\\"\"");
    assert_scanned("\"\\/\\b\\f\\n\\r\\t\\\\\"",
                   "\"/\\u0008\\u000c\\u000a\\u000d\\u0009\\\\\"");
    assert_scanned("\"\\u00e9\\u20AC\\ud83d\\ude00\"", "\"é€😀\"");
    assert_scanned("\"\\u0022\\u005c\\u001f\"", "\"\\\"\\\\\\u001f\"");
    assert_scanned("\"é€😀\"", "\"é€😀\"");
}

static void
test_what_is_no_json_is_refused_and_the_line_skipped(void **state)
{
    static const char *const bad[] = {
        "nonsense",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "[1,]",
        "[,]",
        "[1 2]",
        "{1:2}",
        "{a:1}",
        "}",
        "]",
        ":",
        ",",
        "{\"a\":1:2}",
        "{\"a\",1}",
        "// comment",
        "/* c */ {}",
        "# comment",
        "010 ",
        "0x10 ",
        "1. ",
        ".5 ",
        "+1 ",
        "1e ",
        "1e+ ",
        "- ",
        "--1 ",
        "NaN ",
        "Infinity ",
        "tru ",
        "True ",
        "1e400 ",
        "9223372036854775808 ",
        "18446744073709551616 ",
        "\"a\nb\"",
        "\"\\q\"",
        "\"\\u12g4\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ude00\"",
        "\"\\ud800x\"",
        "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"",
        "\"\xff\"",
        "\"\xc3\"",
        "\"\xed\xa0\x80\"",
        "\"\xc0\x80\"",
        "\xc3\xa9",
        "\x7f",
        "%",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "var x = {}",
        "[1;2]",
        "(1)",
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        /* More of it on the same line makes no more of it. */
        g_autofree char *in = g_strconcat(bad[i], " {} }{\n{'ok':1}", NULL);
        g_autofree char *got = scan_in_steps(in, strlen(in), 1000);

        /* A string that ends with its line is refused there, and what follows
         * it is the next one. */
        if (strcmp(got, "!{\"ok\":1}") != 0 && strstr(bad[i], "\n") == NULL) {
            fail_msg("%s: found %s", bad[i], got);
        }
        assert_int_equal(got[0], '!');
        assert_non_null(strstr(got, "{\"ok\":1}"));
    }
    assert_scanned("{\"a\n{'ok':1}", "!{\"ok\":1}");
    assert_scanned("nonsense\n", "!");
}

static void
test_nothing_inside_a_flaw_comes_out(void **state)
{
    (void)state;
    assert_scanned("{\"x\": bad {\"execute\":\"y\"} }\n", "!");
    assert_scanned("[nil, {\"execute\":\"y\"}]{}\n{}", "!{}");
    /* A bracket is missing: the next message cannot be a part of it. */
    assert_scanned("{\"execute\":\"a\"\n{\"execute\":\"b\"}\n{'c':1}",
                   "!{\"c\":1}");
}

static void
test_control_characters_begin_anew(void **state)
{
    (void)state;
    assert_scanned("{\"a\":\x01{}", "!{}");
    assert_scanned("{\"a\":\"b\x1b{}", "!{}");
    assert_scanned("bad\x01{}", "!{}");
    assert_scanned("{\"a\":\x01\x02 \x03\n\x04{}", "!{}");
    assert_scanned("{}\x01[]", "{}![]");
    assert_scanned("\xff\n{}", "!{}");
    assert_scanned_bytes("[1\0{}", 5, "!{}");
}

static void
test_bounds_hold(void **state)
{
    g_autofree char *deep = g_strnfill(CONTROL_DEPTH_MAX, '[');
    g_autofree char *ends = g_strnfill(CONTROL_DEPTH_MAX, ']');
    g_autofree char *most = g_strconcat(deep, ends, NULL);
    g_autofree char *more = g_strconcat("[", deep, ends, "]\n", NULL);
    g_autofree char *spaces = g_strnfill(3 * BYTES_MAX, ' ');
    g_autofree char *within = g_strconcat("[", spaces, NULL);
    g_autofree char *digits = g_strnfill(CONTROL_WORD_MAX + 1, '1');
    g_autofree char *number = g_strconcat(digits, "\n", NULL);
    g_autofree char *letters = g_strnfill(BYTES_MAX + 1, 'x');
    g_autofree char *string = g_strconcat("\"", letters, NULL);

    (void)state;
    assert_scanned(most, most);
    assert_scanned(more, "!");
    assert_scanned(spaces, "");
    assert_scanned(within, "long");
    assert_scanned(string, "long");
    assert_scanned(letters, "!long");
    assert_scanned(number, "!");
}

static void
test_values_are_counted(void **state)
{
    g_autoptr(ControlScan) scan = control_scan_new(G_MAXSIZE);
    GString *in = g_string_new("[0");
    gsize used;

    (void)state;
    for (guint i = 2; i < CONTROL_VALUES_MAX; i++) {
        g_string_append(in, ",0");
    }
    assert_int_equal(control_scan_feed(scan, in->str, in->len, &used),
                     CONTROL_FOUND_NOTHING);
    assert_int_equal(control_scan_feed(scan, "]", 1, &used),
                     CONTROL_FOUND_MESSAGE);
    g_string_append(in, ",0]");
    assert_int_equal(control_scan_feed(scan, in->str, in->len, &used),
                     CONTROL_FOUND_FLAW);
    g_string_free(in, TRUE);
}

static void
test_the_id_is_found_as_it_came(void **state)
{
    static const struct {
        const char *in, *id;
        guint members;
    } cases[] = {
        {"{\"id\": 1.10, \"execute\":\"x\"}", "1.10", 2},
        {"{'execute':'x','id':{'id':[1, 'a']}}", "{\"id\":[1,\"a\"]}", 3},
        {"{\"execute\":\"x\",\"arguments\":{\"id\":7}}", NULL, 3},
        {"{\"\\u0069d\":\"__qmp#00001\"}", "\"__qmp#00001\"", 1},
        {"{\"a\":1,\"a\":2}", NULL, 2},
        {"[{\"id\":1}]", NULL, 1},
        {"[\"id\",1]", NULL, 0},
        {"{}", NULL, 0},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(ControlScan) scan = control_scan_new(BYTES_MAX);
        gsize used, len;
        const char *id;

        assert_int_equal(
            control_scan_feed(scan, cases[i].in, strlen(cases[i].in), &used),
            CONTROL_FOUND_MESSAGE);
        id = control_scan_id(scan, &len);
        assert_int_equal(id != NULL, cases[i].id != NULL);
        if (id != NULL) {
            g_autofree char *text = g_strndup(id, len);

            assert_string_equal(text, cases[i].id);
        }
        assert_int_equal(control_scan_members(scan), cases[i].members);
    }
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_of_every_kind_pass),
        cmocka_unit_test(test_values_may_span_lines_and_share_one),
        cmocka_unit_test(test_what_has_begun_is_awaited),
        cmocka_unit_test(test_strings_come_out_in_double_quotes),
        cmocka_unit_test(test_what_is_no_json_is_refused_and_the_line_skipped),
        cmocka_unit_test(test_nothing_inside_a_flaw_comes_out),
        cmocka_unit_test(test_control_characters_begin_anew),
        cmocka_unit_test(test_bounds_hold),
        cmocka_unit_test(test_values_are_counted),
        cmocka_unit_test(test_the_id_is_found_as_it_came),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
