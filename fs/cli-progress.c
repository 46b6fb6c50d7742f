/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-progress.c - how far something is that waits
 *
 * On a terminal: one line, redrawn, with a bar. Elsewhere (a unit's log, cron)
 * a line now and then: at most every 60 seconds, or WEIR_PROGRESS_INTERVAL
 * seconds. SIGUSR1 asks for a line at once, as with dd and qemu-img. All of it
 * goes to stderr: stdout belongs to results.
 */
#include "cli.h"
#include "status.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INTERVAL_S 60
#define BAR        38 /* columns */

struct CliProgress {
    bool is_tty;
    bool is_drawn;
    gint64 interval_us;
    gint64 said_us;
};

CliProgress *
cli_progress_new(void)
{
    CliProgress *progress = g_new0(CliProgress, 1);
    const char *interval = g_getenv("WEIR_PROGRESS_INTERVAL");
    guint64 seconds = INTERVAL_S;

    if (interval != NULL) {
        g_ascii_string_to_unsigned(interval, 10, 1, 86400, &seconds, NULL);
    }
    progress->is_tty = isatty(fileno(stderr));
    progress->interval_us = (gint64)seconds * G_USEC_PER_SEC;
    progress->said_us = g_get_monotonic_time();
    return progress;
}

static unsigned
columns(void)
{
    struct winsize size;

    if (ioctl(fileno(stderr), TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) {
        return MIN(size.ws_col, 120u);
    }
    return 80;
}

void
cli_progress_break(CliProgress *progress)
{
    if (progress->is_drawn) {
        fprintf(stderr, "\r\033[K");
    }
    progress->is_drawn = false;
}

void
cli_progress_say(CliProgress *progress, const char *bar, const char *line)
{
    gint64 now = g_get_monotonic_time();

    if (progress->is_tty) {
        unsigned room = columns() - BAR - 3;

        fprintf(stderr, "\r%s  %.*s\033[K", bar, (int)room, line);
        fflush(stderr);
        progress->is_drawn = true;
    }
    if (cli_was_asked() || (!progress->is_tty &&
                            now - progress->said_us >= progress->interval_us)) {
        cli_progress_break(progress);
        fprintf(stderr, "%s\n", line);
        progress->said_us = now;
    }
}

void
cli_progress_show(CliProgress *progress, JsonObject *status)
{
    g_autofree char *line = status_drain_line(status);
    g_autofree char *bar = status_bar(status, BAR);

    cli_progress_say(progress, bar, line);
}

void
cli_progress_free(CliProgress *progress)
{
    cli_progress_break(progress);
    g_free(progress);
}
