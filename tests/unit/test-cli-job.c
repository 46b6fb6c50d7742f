/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is said of a job: its line, its bar, and the table, out of what the socket
 * may say of it.
 */
#include "fs/cli-job.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static JsonObject *
parse(const char *text)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    assert_non_null(node);
    return json_node_dup_object(node);
}

static void
test_line_says_what_is_known(void **state)
{
    static const struct {
        const char *job, *line;
    } cases[] = {
        {"{'status': 'created', 'len': 0, 'offset': 0}", "created"},
        {"{'status': 'running', 'len': 4194304, 'offset': 1048576}",
         "running, 1 MiB of 4 MiB"},
        {"{'status': 'running', 'len': 4194304, 'offset': 1048576,"
         " 'upload_bps': 1048576, 'target_state': 'online'}",
         "running, 1 MiB of 4 MiB, ~3 s at 1 MiB/s"},
        {"{'status': 'ready', 'len': 4194304, 'offset': 4194304,"
         " 'upload_bps': 1024, 'target_state': 'offline'}",
         "ready, 4 MiB of 4 MiB at 1 KiB/s, target offline"},
        {"{'status': 'concluded', 'len': 1024, 'offset': 1024,"
         " 'upload_bps': null, 'target_state': 'stopped'}",
         "concluded, 1 KiB of 1 KiB"},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdelimit(g_strdup(cases[i].job), "'", '"');
        g_autoptr(JsonObject) job = parse(text);
        g_autofree char *line = cli_job_line(job);

        assert_string_equal(line, cases[i].line);
    }
}

static void
test_bar_is_full_at_the_end_only(void **state)
{
    static const struct {
        const char *job, *bar;
    } cases[] = {
        {"{\"len\": 0, \"offset\": 0, \"status\": \"created\"}",
         "[-----------]       "},
        {"{\"len\": 100, \"offset\": 0}", "[-----------]   0.0%"},
        {"{\"len\": 100, \"offset\": 50}", "[#####------]  50.0%"},
        {"{\"len\": 1000000, \"offset\": 999999}", "[##########-]  99.9%"},
        {"{\"len\": 100, \"offset\": 100}", "[###########] 100.0%"},
        /* More was written than it knew of. */
        {"{\"len\": 100, \"offset\": 120}", "[###########] 100.0%"},
        {"{\"len\": 0, \"offset\": 0, \"status\": \"concluded\"}",
         "[###########] 100.0%"},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonObject) job = parse(cases[i].job);
        g_autofree char *bar = cli_job_bar(job, 20);

        assert_string_equal(bar, cases[i].bar);
    }
}

/* What cli_job_table() prints of @jobs. */
static char *
table_of(const char *jobs)
{
    g_autoptr(JsonNode) node = json_from_string(jobs, NULL);
    FILE *file = tmpfile();
    int kept = dup(STDOUT_FILENO);
    char *text = g_malloc0(8192);

    assert_non_null(node);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    cli_job_table(json_node_get_array(node));
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    rewind(file);
    text[fread(text, 1, 8191, file)] = '\0';
    fclose(file);
    return text;
}

static void
test_table_has_80_columns_and_cuts_nothing(void **state)
{
    g_autofree char *text = table_of(
        "[{\"device\": \"backup-vda\", \"disk\": \"vda\", \"len\": 4194304,"
        "  \"offset\": 1048576, \"status\": \"running\","
        "  \"target_state\": \"connecting\", \"target_error\":"
        "  \"connect: Connection refused, and what else there is to be said "
        "about that, so that it takes more than one line of the table\"},"
        " {\"device\": \"a-name-that-is-longer-than-its-column\","
        "  \"disk\": \"a-disk-with-a-name\", \"len\": 0, \"offset\": 0,"
        "  \"status\": \"concluded\", \"error\": \"No space left\"}]");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    (void)state;
    for (char **line = lines; *line != NULL; line++) {
        assert_true(strlen(*line) <= 80);
        assert_false(g_str_has_suffix(*line, " "));
    }
    assert_non_null(strstr(text, "\na-name-that-is-longer-than-its-column\n"));
    assert_non_null(strstr(text, "\n    No space left\n"));
    assert_non_null(strstr(text, "of the table\n"));
    assert_non_null(strstr(text, "target"));
    g_free(text);
    text = table_of("[]");
    assert_string_equal(text, "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_says_what_is_known),
        cmocka_unit_test(test_bar_is_full_at_the_end_only),
        cmocka_unit_test(test_table_has_80_columns_and_cuts_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
