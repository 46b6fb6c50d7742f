/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-job.c - job list, pause, resume, cancel, complete, finalize, dismiss,
 * set-speed
 *
 * All of them are QMP's commands to the daemon: without one there are jobs that
 * go on at the next mount, but nobody who could be asked.
 */
#include "cli-job.h"

#include <stdio.h>
#include <string.h>

static gboolean as_json;
static struct {
    gboolean soft, wait;
} options;

static const GOptionEntry list_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &as_json, "for programs", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static const GOptionEntry cancel_entries[] = {
    {"soft", 0, 0, G_OPTION_ARG_NONE, &options.soft,
     "a mirror that is ready ends in sync", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static const GOptionEntry complete_entries[] = {
    {"wait", 0, 0, G_OPTION_ARG_NONE, &options.wait, "until it is over", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* Those that are named, in the order of the list; NULL: one of them is not there,
 * which is said. */
static JsonArray *
choose(JsonArray *all, int count, char **ids)
{
    g_autoptr(JsonArray) chosen = json_array_new();

    for (int i = 0; i < count; i++) {
        if (cli_job_find(all, ids[i]) == NULL) {
            cli_fail(CLI_FAILED, "job list: there is no job %s", ids[i]);
            return NULL;
        }
    }
    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *job = json_array_get_object_element(all, i);
        const char *id = json_object_get_string_member(job, "device");
        bool is_wanted = count == 0;

        for (int j = 0; j < count; j++) {
            is_wanted = is_wanted || strcmp(ids[j], id) == 0;
        }
        if (is_wanted) {
            json_array_add_object_element(chosen, json_object_ref(job));
        }
    }
    return g_steal_pointer(&chosen);
}

static int
run_list(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_job_connect("job list", store);
    g_autoptr(JsonObject) answer = NULL;
    g_autoptr(JsonArray) all = NULL;
    g_autoptr(JsonArray) jobs = NULL;
    GError *error = NULL;

    if (client == NULL) {
        return CLI_FAILED;
    }
    all = cli_jobs(client, &error);
    if (all == NULL) {
        return cli_fail_error("job list", error);
    }
    jobs = choose(all, argc - 1, argv + 1);
    if (jobs == NULL) {
        return CLI_FAILED;
    }
    if (as_json) {
        answer = json_object_new();
        json_object_set_array_member(answer, "jobs", json_array_ref(jobs));
        cli_print_json(answer);
    } else {
        cli_job_table(jobs);
    }
    return CLI_OK;
}

/* The same to each of the jobs named. */
static int
run_verb(const char *name, const char *command, int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_job_connect(name, store);
    GError *error = NULL;

    if (client == NULL) {
        return CLI_FAILED;
    }
    for (int i = 1; i < argc; i++) {
        if (!cli_job_verb(client, command, argv[i], &error)) {
            return cli_fail_error(name, error);
        }
    }
    return CLI_OK;
}

static int
run_pause(int argc, char **argv)
{
    return run_verb("job pause", "job-pause", argc, argv);
}

static int
run_resume(int argc, char **argv)
{
    return run_verb("job resume", "job-resume", argc, argv);
}

static int
run_finalize(int argc, char **argv)
{
    return run_verb("job finalize", "job-finalize", argc, argv);
}

static int
run_dismiss(int argc, char **argv)
{
    return run_verb("job dismiss", "job-dismiss", argc, argv);
}

/* What block-job-cancel does without force. */
static int
cancel_softly(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = cli_job_connect("job cancel", store);
    GError *error = NULL;

    for (int i = 1; client != NULL && i < argc; i++) {
        JsonObject *arguments = json_object_new();

        json_object_set_string_member(arguments, "device", argv[i]);
        json_object_set_boolean_member(arguments, "force", FALSE);
        if (!cli_job_call(client, "block-job-cancel", arguments, &error)) {
            return cli_fail_error("job cancel", error);
        }
    }
    return client != NULL ? CLI_OK : CLI_FAILED;
}

static int
run_cancel(int argc, char **argv)
{
    return options.soft ? cancel_softly(argc, argv)
                        : run_verb("job cancel", "job-cancel", argc, argv);
}

static int
run_complete(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);

    if (!options.wait) {
        return run_verb("job complete", "job-complete", argc, argv);
    }
    cli_catch_signals();
    return cli_job_wait("job complete", store, argv + 1, (unsigned)argc - 1,
                        CLI_JOB_COMPLETED);
}

static int
run_set_speed(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(ControlClient) client = NULL;
    JsonObject *arguments;
    GError *error = NULL;
    guint64 bps;

    (void)argc;
    if (!store_parse_size(argv[2], &bps) || bps > G_MAXINT64) {
        return cli_fail(CLI_USAGE,
                        "job set-speed: %s: wants bytes a second, as in 10M; 0 "
                        "for no limit",
                        argv[2]);
    }
    client = cli_job_connect("job set-speed", store);
    if (client == NULL) {
        return CLI_FAILED;
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "device", argv[1]);
    json_object_set_int_member(arguments, "speed", (gint64)bps);
    return cli_job_call(client, "block-job-set-speed", arguments, &error)
               ? CLI_OK
               : cli_fail_error("job set-speed", error);
}

#define CODES "  0 done   1 failed, or not mounted   2 usage\n"

static const struct CliCommand commands[] = {
    {.name = "job list",
     .synopsis = "STORE [JOB ...] [--json]",
     .summary = "Which there are, and how far they are.",
     .options = list_entries,
     .codes = "  0 shown   1 failed, not mounted, or no such job   2 usage\n",
     .example = "  weir job list /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = -1,
     .run = run_list},
    {.name = "job pause",
     .synopsis = "STORE JOB ...",
     .summary = "Nothing more is sent until it is resumed.",
     .codes = CODES,
     .example = "  weir job pause /srv/weir/vm1 backup-vda\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_pause},
    {.name = "job resume",
     .synopsis = "STORE JOB ...",
     .summary = "It goes on, also after an error that has stopped it.",
     .codes = CODES,
     .example = "  weir job resume /srv/weir/vm1 backup-vda\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_resume},
    {.name = "job cancel",
     .synopsis = "STORE JOB ... [--soft]",
     .summary = "End it now, whatever its target does.",
     .options = cancel_entries,
     .codes = CODES,
     .example = "  weir job cancel /srv/weir/vm1 backup-vda\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_cancel},
    {.name = "job complete",
     .synopsis = "STORE JOB ... [--wait]",
     .summary = "End a mirror that is ready: its target is this instant.",
     .options = complete_entries,
     .codes = "  0 asked for, or with --wait: done   1 failed, or not mounted\n"
              "  2 usage   130 interrupted\n",
     .example = "  weir job complete /srv/weir/vm1 mirror-vda --wait\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_complete},
    {.name = "job finalize",
     .synopsis = "STORE JOB ...",
     .summary = "For those that wait for it (auto-finalize=false).",
     .codes = CODES,
     .example = "  weir job finalize /srv/weir/vm1 job0\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_finalize},
    {.name = "job dismiss",
     .synopsis = "STORE JOB ...",
     .summary = "Forget one that is over.",
     .codes = CODES,
     .example = "  weir job dismiss /srv/weir/vm1 backup-vda\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_dismiss},
    {.name = "job set-speed",
     .synopsis = "STORE JOB SPEED",
     .summary = "Bytes a second at most, as in 10M; 0: no limit.",
     .codes = CODES,
     .example = "  weir job set-speed /srv/weir/vm1 backup-vda 10M\n",
     .min_args = 3,
     .max_args = 3,
     .run = run_set_speed},
    {0},
};

const struct CliCommand cli_job_group[] = {
    {.name = "job",
     .summary = "Backups and mirrors at work.",
     .subs = commands},
    {0},
};
