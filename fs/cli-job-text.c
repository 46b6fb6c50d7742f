/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-job-text.c - a job for people
 *
 *   JOB             DISK  PROGRESS             STATUS
 *   backup-vda      vda   [####------]  40.0%  running, 1.2 GiB of 3 GiB, ~3 min
 *                         at 10 MiB/s; nbd://backup/vda: online
 *
 * A job that does not know yet what it has to do shows no percentage, and none
 * shows 100% that is not through. What stands in its way comes last, wrapped and
 * never cut: it says what to do.
 */
#include "cli-job.h"
#include "status.h"

#include <stdio.h>
#include <string.h>

#define WIDTH 80
#define BAR   20

static gint64
get_int(JsonObject *job, const char *name)
{
    return json_object_has_member(job, name) &&
                   !json_object_get_null_member(job, name)
               ? json_object_get_int_member(job, name)
               : -1;
}

static const char *
get_text(JsonObject *job, const char *name)
{
    return json_object_get_string_member_with_default(job, name, NULL);
}

bool
cli_job_is(JsonObject *job, const char *status)
{
    return g_strcmp0(get_text(job, "status"), status) == 0;
}

/* 0 to 1; below 0: not known. */
static double
share_done(JsonObject *job)
{
    gint64 offset = get_int(job, "offset"), len = get_int(job, "len");

    if (len <= 0) {
        bool is_through =
            cli_job_is(job, "concluded") || cli_job_is(job, "ready");

        return len == 0 && is_through ? 1 : -1;
    }
    return MIN((double)offset / (double)len, 1);
}

char *
cli_job_bar(JsonObject *job, unsigned columns)
{
    double share = share_done(job);
    g_autofree char *tail =
        share < 0 ? g_strdup("      ")
                  : g_strdup_printf("%5.1f%%",
                                    share < 1 ? MIN(share * 100, 99.9) : 100.0);
    unsigned width = columns - (unsigned)strlen(tail) - 3;
    unsigned full = (unsigned)(MAX(share, 0) * width);
    g_autofree char *on = g_strnfill(full, '#');
    g_autofree char *off = g_strnfill(width - full, '-');

    return g_strdup_printf("[%s%s] %s", on, off, tail);
}

/* "~3 min at 10 MiB/s", or what of that is known. */
static void
add_rate(GString *line, JsonObject *job)
{
    gint64 rate = get_int(job, "upload_bps");
    gint64 left = get_int(job, "len") - get_int(job, "offset");
    g_autofree char *speed = NULL;
    g_autofree char *time = NULL;

    if (rate <= 0) {
        return;
    }
    speed = status_size((double)rate);
    if (left > 0 && (cli_job_is(job, "running"))) {
        time = status_duration((double)left / (double)rate);
        g_string_append_printf(line, ", ~%s", time);
    }
    g_string_append_printf(line, " at %s/s", speed);
}

char *
cli_job_line(JsonObject *job)
{
    GString *line = g_string_new(get_text(job, "status"));
    gint64 offset = get_int(job, "offset"), len = get_int(job, "len");
    const char *link = get_text(job, "target_state");

    if (len > 0) {
        g_autofree char *done = status_size((double)MAX(offset, 0));
        g_autofree char *all = status_size((double)len);

        g_string_append_printf(line, ", %s of %s", done, all);
    }
    add_rate(line, job);
    if (link != NULL && strcmp(link, "online") != 0 &&
        strcmp(link, "none") != 0 && !cli_job_is(job, "concluded")) {
        g_string_append_printf(line, ", target %s", link);
    }
    return g_string_free(line, FALSE);
}

/*
 * The table
 */

/* @words from column @at on, where the first line is already. */
static void
print_wrapped(const char *words, unsigned at)
{
    g_auto(GStrv) list = g_strsplit_set(words, " \n\r\t", -1);
    size_t column = at;

    for (char **word = list; *word != NULL; word++) {
        if (column > at && column + 1 + strlen(*word) > WIDTH) {
            printf("\n%*s", (int)at, "");
            column = at;
        }
        printf("%s%s", column > at ? " " : "", *word);
        column += strlen(*word) + (column > at);
    }
    printf("\n");
}

static void
print_job(JsonObject *job, size_t id_width, size_t disk_width)
{
    const char *id = get_text(job, "device");
    const char *disk = get_text(job, "disk");
    const char *error = get_text(job, "error");
    const char *flaw = error != NULL ? error : get_text(job, "target_error");
    g_autofree char *bar = cli_job_bar(job, BAR);
    g_autofree char *line = cli_job_line(job);
    unsigned at = (unsigned)(id_width + disk_width) + BAR + 6;

    if (strlen(id) > id_width) {
        printf("%s\n", id);
        id = "";
    }
    printf("%-*s  %-*s  %s  ", (int)id_width, id, (int)disk_width,
           disk != NULL ? disk : "", bar);
    print_wrapped(line, at);
    if (flaw != NULL && *flaw != '\0') {
        printf("    ");
        print_wrapped(flaw, 4);
    }
}

void
cli_job_table(JsonArray *jobs)
{
    size_t id_width = strlen("JOB"), disk_width = strlen("DISK");

    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);
        const char *disk = get_text(job, "disk");

        id_width = MAX(id_width, strlen(get_text(job, "device")));
        disk_width = MAX(disk_width, disk != NULL ? strlen(disk) : 0);
    }
    id_width = MIN(id_width, 20);
    disk_width = MIN(disk_width, 8);
    if (json_array_get_length(jobs) > 0) {
        printf("%-*s  %-*s  %-*s  STATUS\n", (int)id_width, "JOB",
               (int)disk_width, "DISK", BAR, "PROGRESS");
    }
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        print_job(json_array_get_object_element(jobs, i), id_width, disk_width);
    }
}
