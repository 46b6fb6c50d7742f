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
cli_progress_show(CliProgress *progress, JsonObject *status)
{
    gint64 now = g_get_monotonic_time();
    g_autofree char *line = status_drain_line(status);

    if (progress->is_tty) {
        g_autofree char *bar = status_bar(status, 38);
        unsigned room = columns() - 41;

        fprintf(stderr, "\r%s  %.*s\033[K", bar, (int)room, line);
        fflush(stderr);
        progress->is_drawn = true;
    }
    if (cli_was_asked() || (!progress->is_tty &&
                            now - progress->said_us >= progress->interval_us)) {
        fprintf(stderr, "%s%s\n", progress->is_drawn ? "\r\033[K" : "", line);
        progress->said_us = now;
    }
}

void
cli_progress_free(CliProgress *progress)
{
    if (progress->is_drawn) {
        fprintf(stderr, "\r\033[K");
    }
    g_free(progress);
}
