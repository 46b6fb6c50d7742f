/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-rollback.c - rollback
 *
 * Works on a store at rest, whose lock it takes. How far it is goes to stderr,
 * and only to a terminal: it is copying within this host.
 */
#include "cli.h"

#include "rollback.h"

#include <stdio.h>
#include <unistd.h>

static void
show_progress(void *user, uint64_t done_bytes, uint64_t all_bytes)
{
    bool *is_drawn = user;
    g_autofree char *size =
        g_format_size_full(all_bytes, G_FORMAT_SIZE_IEC_UNITS);

    if (isatty(fileno(stderr))) {
        fprintf(stderr, "\r%3u %% of %s\033[K",
                all_bytes > 0 ? (unsigned)(done_bytes * 100 / all_bytes) : 100,
                size);
        fflush(stderr);
        *is_drawn = true;
    }
}

static void
say(void *user, const char *line)
{
    (void)user;
    printf("%s\n", line);
    fflush(stdout);
}

static int
run_rollback(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    bool is_drawn = false;
    struct Rollback rollback = {
        .path = store,
        .name = argv[1],
        .progress = show_progress,
        .say = say,
        .user = &is_drawn,
    };
    GError *error = NULL;
    gboolean ok = store_rollback(store_io_kernel(), &rollback, &error);

    (void)argc;
    if (is_drawn) {
        fprintf(stderr, "\r\033[K");
    }
    if (!ok) {
        return cli_fail_error("rollback", error);
    }
    printf("the disks are what they were in %s\n", argv[1]);
    return CLI_OK;
}

const struct CliCommand cli_rollback_commands[] = {
    {.name = "rollback",
     .synopsis = "STORE SNAPSHOT",
     .summary = "Make the disks a snapshot again; what they were is kept as "
                "one.",
     .codes = "  0 done   1 failed, or interrupted: run it again   2 usage\n"
              "  3 store in use: umount it first   4 store or snapshot "
              "damaged\n",
     .example = "  weir umount /mnt/vm1 && weir rollback /srv/weir/vm1 "
                "before-upgrade\n",
     .min_args = 2,
     .max_args = 2,
     .run = run_rollback},
    {0},
};
