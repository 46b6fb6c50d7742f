/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli.h - the command line: a table of subcommands
 *
 * Purpose: what a subcommand is, and what the files of subcommands share.
 * Threads: main, before any other exists (mount forks).
 * Errors:  a command returns its exit code; whoever returns one that is not 0
 *          has said why, on one line on stderr: what: why; what to do.
 */
#pragma once

#include "control.h"
#include "store.h"

#include <glib.h>

enum CliExit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NO = 2, /* of `is` */
    CLI_BUSY = 3,
    CLI_DAMAGED = 4,
    CLI_TARGET = 5,
    CLI_TIMEOUT = 124,
    CLI_INTERRUPTED = 130,
};

struct CliCommand {
    const char *name;
    const char *synopsis; /* behind the name */
    const char *summary;  /* one line */
    const GOptionEntry *options;
    const char *codes;   /* exit codes, beyond 0 and 1 */
    const char *example; /* lines */
    int min_args, max_args;
    int usage_code;                    /* 0: CLI_USAGE */
    int (*run)(int argc, char **argv); /* what is left beside the options */
    /* A group: what follows its name is one of these, whose names begin with
     * the group's ("snapshot create"); of the rest only the summary counts. */
    const struct CliCommand *subs;
};

int cli_main(int argc, char **argv);
const struct CliCommand *cli_find(const char *name);
/* @word is the last one of its name. */
const struct CliCommand *cli_find_sub(const struct CliCommand *group,
                                      const char *word);
const char *cli_last_word(const struct CliCommand *command);

/* One file each. */
extern const struct CliCommand cli_store_commands[];    /* cli-store.c */
extern const struct CliCommand cli_mount_commands[];    /* cli-mount.c */
extern const struct CliCommand cli_status_commands[];   /* cli-status.c */
extern const struct CliCommand cli_drain_commands[];    /* cli-drain.c */
extern const struct CliCommand cli_verify_commands[];   /* cli-verify.c */
extern const struct CliCommand cli_upgrade_commands[];  /* cli-upgrade.c */
extern const struct CliCommand cli_snapshot_group[];    /* cli-snapshot.c */
extern const struct CliCommand cli_rollback_commands[]; /* cli-rollback.c */
extern const struct CliCommand cli_bitmap_group[];      /* cli-bitmap.c */
extern const struct CliCommand cli_backup_commands[];   /* cli-backup.c */
extern const struct CliCommand cli_job_group[];         /* cli-job.c */

/* cli-help.c */
void cli_help_all(void);
void cli_help_command(const struct CliCommand *command);
void cli_help_group(const struct CliCommand *group);
void cli_list_commands(void);
void cli_list_options(const struct CliCommand *command);

/* cli-common.c */
/* "weir: " and one line; returns @code. */
int cli_fail(int code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Takes @error; its code. */
int cli_fail_error(const char *what, GError *error);

/* "1h", "90s", "500ms", "2m30s", plain seconds; false on anything else. */
bool cli_parse_duration(const char *text, gint64 *us);

/* STORE, or where it is mounted: the store's absolute path. */
char *cli_store_path(const char *address);
/* The same, of STORE/vda or MNT/vda too: then *@disk is its name, else NULL. */
char *cli_split_address(const char *address, char **disk);
/* ... where a disk is wanted; whether there is such a store is not looked at. */
char *cli_split_disk(const char *address, char **disk, GError **error);
/* A connection to the daemon of @store, or to the one that is just about to
 * follow it; NULL: none is at work. */
ControlClient *cli_connect(const char *store);
/* A call that is answered when others have had their time: before a snapshot hooks
 * run, and the guest may have to be frozen. NOTHING: the user had no patience, and
 * what was asked for may be done all the same. Takes @arguments. */
enum ControlGot cli_call_patiently(ControlClient *client, const char *command,
                                   JsonObject *arguments, JsonNode **reply,
                                   GError **error);
/* status.json, from the daemon or from the store at rest. */
JsonObject *cli_status(const char *store, GError **error);
/* Is the store's lock taken by somebody? */
bool cli_is_locked(const char *store);

void cli_print_json(JsonObject *object);

/* For a command that starts servers: they do not get our stderr. */
void cli_keep_stderr(void);

/* SIGINT, SIGTERM and SIGUSR1 as flags, for commands that wait. */
void cli_catch_signals(void);
bool cli_was_interrupted(void);
bool cli_was_asked(void); /* SIGUSR1, since the last question */

/* Progress of something that waits: a bar on a tty, sparse lines elsewhere. */
typedef struct CliProgress CliProgress;
CliProgress *cli_progress_new(void);
void cli_progress_show(CliProgress *progress, JsonObject *status);
/* The same of something else: a bar of 38 columns, and words. */
void cli_progress_say(CliProgress *progress, const char *bar, const char *line);
void
cli_progress_break(CliProgress *progress);     /* something else is said next */
void cli_progress_free(CliProgress *progress); /* ends the line */

/* weir drain --wait against a daemon, also for umount --drain. */
int cli_drain_wait(const char *store, ControlClient *client, gint64 timeout_us);
