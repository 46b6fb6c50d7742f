/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-job.h - jobs, as the command line sees them
 *
 * Purpose: what the commands about jobs share: finding them, following some until
 *          they are over, and saying how each ended.
 * Threads: main.
 * Shapes:  a job is an object with the members of query-block-jobs, those of
 *          query-jobs that it lacks, and those of status.json's jobs[].
 * Errors:  see cli.h.
 */
#pragma once

#include "cli.h"

/* The daemon of @store; NULL, and it is said on behalf of @command: none is. */
ControlClient *cli_job_connect(const char *command, const char *store);
/* All of them, oldest first; NULL: @error. */
JsonArray *cli_jobs(ControlClient *client, GError **error);
/* Borrowed; NULL: it is not among them. */
JsonObject *cli_job_find(JsonArray *jobs, const char *id);
/* NULL and no error: there is none of that name. */
JsonObject *cli_job_get(ControlClient *client, const char *id, GError **error);
/* A verb of QMP's; @arguments is taken. */
gboolean cli_job_call(ControlClient *client, const char *command,
                      JsonObject *arguments, GError **error);
gboolean cli_job_verb(ControlClient *client, const char *command,
                      const char *id, GError **error);

/* When is it enough? */
enum CliJobUntil {
    CLI_JOB_READY,     /* a mirror's target is like the disk, or it is over */
    CLI_JOB_COMPLETE,  /* ... then it is completed, and is over */
    CLI_JOB_COMPLETED, /* it is completed at once, or refuses to, and is over */
    CLI_JOB_OVER,
};
/* Progress meanwhile; at the end of each one line, and a job that is over is
 * dismissed. The exit code: of the first in the list that is not CLI_OK. */
int cli_job_wait(const char *command, const char *store, char *const *ids,
                 unsigned count, enum CliJobUntil until);

/* cli-job-text.c: the words */
/* "running, 1.2 of 3 GiB, ~2 min at 10 MiB/s". */
char *cli_job_line(JsonObject *job);
/* "[####------]  40.0%" */
char *cli_job_bar(JsonObject *job, unsigned columns);
void cli_job_table(JsonArray *jobs);
bool cli_job_is(JsonObject *job, const char *status);
