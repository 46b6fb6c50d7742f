/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-qmp-doc.c - contrib/docs/qmp.md and the tables say the same
 *
 *   test-qmp-doc PATH-OF-QMP.MD
 *
 * Under "## Commands" each "### a, b" is about commands; the first column of the
 * table below it has their arguments in backquotes, a `?` behind those that may be
 * left out. Under "## Events" the first column has events. Each command, argument
 * and event of the tables must be there, and none besides.
 */
#include "fs/control-commands.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <string.h>

static char **lines;

/* The lines from "## TITLE" to the next of that kind. */
static GPtrArray *
part(const char *title)
{
    g_autofree char *head = g_strconcat("## ", title, NULL);
    GPtrArray *found = g_ptr_array_new();
    bool is_within = false;

    for (char **line = lines; *line != NULL; line++) {
        if (g_str_has_prefix(*line, "## ")) {
            is_within = strcmp(*line, head) == 0;
        } else if (is_within) {
            g_ptr_array_add(found, *line);
        }
    }
    if (found->len == 0) {
        fail_msg("no part \"%s\"", title);
    }
    return found;
}

/* What is in backquotes in the first column. */
static void
add_names(GPtrArray *names, const char *row)
{
    g_auto(GStrv) columns = g_strsplit(row, "|", 3);
    g_auto(GStrv) pieces = NULL;

    if (row[0] != '|') {
        return;
    }
    pieces = g_strsplit(columns[1], "`", -1);
    for (guint i = 0; i + 1 < g_strv_length(pieces); i++) {
        if (i % 2 == 1) {
            g_ptr_array_add(names, g_strdup(pieces[i]));
        }
    }
}

static bool
take(GPtrArray *names, const char *name)
{
    guint index;

    if (!g_ptr_array_find_with_equal_func(names, name, g_str_equal, &index)) {
        return false;
    }
    g_ptr_array_remove_index(names, index);
    return true;
}

static void
assert_none_left(GPtrArray *names, const char *where)
{
    if (names->len > 0) {
        fail_msg("%s: %s is described, and there is none", where,
                 (char *)names->pdata[0]);
    }
}

/* The arguments that the section about @command has; NULL: there is none. */
static GPtrArray *
described(GPtrArray *commands, const char *command)
{
    GPtrArray *names = NULL;

    for (guint i = 0; i < commands->len; i++) {
        const char *line = commands->pdata[i];

        if (g_str_has_prefix(line, "### ")) {
            g_auto(GStrv) heads = g_strsplit(line + strlen("### "), ", ", -1);

            if (names != NULL) {
                break;
            }
            if (g_strv_contains((const char *const *)heads, command)) {
                names = g_ptr_array_new_with_free_func(g_free);
            }
        } else if (names != NULL) {
            add_names(names, line);
        }
    }
    return names;
}

static void
check_command(GPtrArray *commands, const char *name,
              const struct ArgumentRule *rules)
{
    g_autoptr(GPtrArray) names = described(commands, name);

    if (names == NULL) {
        fail_msg("%s is not described", name);
    }
    for (; rules != NULL && rules->name != NULL; rules++) {
        g_autofree char *text =
            g_strconcat(rules->name, rules->is_needed ? "" : "?", NULL);

        if (!take(names, text)) {
            fail_msg("%s: argument %s is not described", name, text);
        }
    }
    assert_none_left(names, name);
}

static const char *const own_names[] = {"qmp_capabilities", "query-version",
                                        "query-commands"};

static void
test_commands_are_described(void **state)
{
    static const struct ArgumentRule enable_rules[] = {
        {"enable", ARGUMENT_STRINGS, false},
        {NULL, 0, false},
    };
    g_autoptr(GPtrArray) commands = part("Commands");

    (void)state;
    for (guint i = 0; i < G_N_ELEMENTS(own_names); i++) {
        check_command(commands, own_names[i], i == 0 ? enable_rules : NULL);
    }
    for (guint i = 0; daemon_commands[i] != NULL; i++) {
        for (const struct ControlCommand *c = daemon_commands[i]; c->name;
             c++) {
            assert_non_null(c->rules);
            check_command(commands, c->name, c->rules);
        }
    }
}

static bool
is_command(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(own_names); i++) {
        if (strcmp(own_names[i], name) == 0) {
            return true;
        }
    }
    for (guint i = 0; daemon_commands[i] != NULL; i++) {
        for (const struct ControlCommand *c = daemon_commands[i]; c->name;
             c++) {
            if (strcmp(c->name, name) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void
test_no_other_command_is_described(void **state)
{
    g_autoptr(GPtrArray) commands = part("Commands");

    (void)state;
    for (guint i = 0; i < commands->len; i++) {
        const char *line = commands->pdata[i];
        g_auto(GStrv) heads = NULL;

        if (!g_str_has_prefix(line, "### ")) {
            continue;
        }
        heads = g_strsplit(line + strlen("### "), ", ", -1);
        for (guint j = 0; heads[j] != NULL; j++) {
            if (!is_command(heads[j])) {
                fail_msg("%s is described, and there is none", heads[j]);
            }
        }
    }
}

static void
test_events_are_described(void **state)
{
    g_autoptr(GPtrArray) events = part("Events");
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    (void)state;
    for (guint i = 0; i < events->len; i++) {
        add_names(names, events->pdata[i]);
    }
    for (guint i = 0; control_events[i] != NULL; i++) {
        if (!take(names, control_events[i])) {
            fail_msg("event %s is not described", control_events[i]);
        }
    }
    assert_none_left(names, "events");
}

int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands_are_described),
        cmocka_unit_test(test_no_other_command_is_described),
        cmocka_unit_test(test_events_are_described),
    };
    g_autofree char *text = NULL;
    int result;

    if (argc != 2 || !g_file_get_contents(argv[1], &text, NULL, NULL)) {
        fprintf(stderr, "usage: test-qmp-doc QMP.MD\n");
        return 2;
    }
    lines = g_strsplit(text, "\n", -1);
    result = cmocka_run_group_tests(tests, NULL, NULL);
    g_strfreev(lines);
    return result;
}
