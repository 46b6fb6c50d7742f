/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-jobs.c - the commands about jobs
 *
 *   blockdev-backup, blockdev-mirror            see job-spec.c
 *   job-pause, -resume, -cancel, -complete, -finalize, -dismiss     id
 *   block-job-cancel      device, [force]
 *   block-job-set-speed   device, speed
 *   block-job-pause, -resume, -complete, device; -finalize, -dismiss, id
 *                                               QEMU's older names
 *   query-jobs, query-block-jobs
 *
 * A job is answered for when it runs, durably: that may take the sync of a
 * snapshot, and a hook's time. What the same client says next waits for it. If
 * the client goes away meanwhile, the job begins all the same.
 */
#include "control-commands.h"

gboolean
control_has_jobs(const Daemon *daemon, GError **error)
{
    if (daemon->jobs == NULL || daemon->snapshots == NULL ||
        daemon->is_stopping || daemon->is_handing_over) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "the daemon is about to end: try again");
        return FALSE;
    }
    return TRUE;
}

gboolean
control_check_job(const Daemon *daemon, const JobSpec *spec, GError **error)
{
    if (!job_spec_check_place(daemon->store, daemon->config->mountpoint, spec,
                              error)) {
        return FALSE;
    }
    if (jobs_has(daemon->jobs, spec->id)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "Job ID '%s' already in use", spec->id);
        return FALSE;
    }
    return TRUE;
}

static void
begun_cb(void *user, const GError *error)
{
    control_answer(user, error == NULL,
                   error != NULL ? g_error_copy(error) : NULL);
}

static void
begin(ControlCall *call, JsonObject *arguments, Daemon *daemon,
      enum JobKind kind)
{
    GError *error = NULL;
    JobSpec spec;

    if (!control_has_jobs(daemon, &error) ||
        control_is_amid_transaction(daemon, &error) ||
        !job_spec_parse(daemon->store, kind, arguments, &spec, &error)) {
        control_answer_error(call, error);
        return;
    }
    if (!job_spec_check_bitmap(&spec, &error) ||
        !control_check_job(daemon, &spec, &error)) {
        job_spec_clear(&spec);
        control_answer_error(call, error);
        return;
    }
    jobs_start(daemon->jobs, &spec, 1, false, begun_cb, call);
}

static void
run_backup(ControlCall *call, JsonObject *arguments, gpointer user)
{
    begin(call, arguments, user, JOB_BACKUP);
}

static void
run_mirror(ControlCall *call, JsonObject *arguments, gpointer user)
{
    begin(call, arguments, user, JOB_MIRROR);
}

/*
 * Verbs
 */
typedef gboolean (*Verb)(Jobs *jobs, const char *id, GError **error);

/* By the name of a job, or, as QEMU's older commands have it, of the device that
 * it is at work on, which is the same name; their errors are others. */
static void
run_verb(ControlCall *call, Daemon *daemon, JsonObject *arguments, Verb verb)
{
    const char *device = argument_string(arguments, "device");
    const char *id = device != NULL ? device : argument_string(arguments, "id");
    GError *error = NULL;
    gboolean ok = jobs_has(daemon->jobs, id);

    if (!ok) {
        if (device != NULL) {
            g_set_error(&error, DEVICE_ERROR, DEVICE_ERROR_NOT_ACTIVE,
                        "Block job '%s' not found", id);
        } else {
            g_set_error(&error, STORE_ERROR, STORE_ERROR_FAILED,
                        "Job not found");
        }
    }
    ok = ok && verb(daemon->jobs, id, &error);
    control_answer(call, ok, error);
}

static gboolean
cancel(Jobs *jobs, const char *id, GError **error)
{
    return jobs_cancel(jobs, id, false, error);
}

static gboolean
cancel_soft(Jobs *jobs, const char *id, GError **error)
{
    return jobs_cancel(jobs, id, true, error);
}

#define RUN(NAME, VERB)                                                       \
    static void NAME(ControlCall *call, JsonObject *arguments, gpointer user) \
    {                                                                         \
        run_verb(call, user, arguments, VERB);                                \
    }
RUN(run_pause, jobs_pause)
RUN(run_resume, jobs_resume)
RUN(run_cancel, cancel)
RUN(run_complete, jobs_complete)
RUN(run_finalize, jobs_finalize)
RUN(run_dismiss, jobs_dismiss)

static void
run_block_cancel(ControlCall *call, JsonObject *arguments, gpointer user)
{
    run_verb(call, user, arguments,
             argument_bool(arguments, "force", false) ? cancel : cancel_soft);
}

static void
run_set_speed(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    const char *id = argument_string(arguments, "device");
    gint64 speed = json_object_get_int_member(arguments, "speed");
    GError *error = NULL;
    gboolean ok = FALSE;

    if (!jobs_has(daemon->jobs, id)) {
        g_set_error(&error, DEVICE_ERROR, DEVICE_ERROR_NOT_ACTIVE,
                    "Block job '%s' not found", id);
    } else if (speed < 0) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Parameter 'speed' expects a non-negative value");
    } else {
        ok = jobs_set_speed(daemon->jobs, id, (uint64_t)speed, &error);
    }
    control_answer(call, ok, error);
}

/*
 * Looking
 */
static void
answer_list(ControlCall *call, Daemon *daemon,
            JsonArray *(*list)(const Jobs *jobs))
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, list(daemon->jobs));
    control_call_return(call, node);
}

static void
run_query(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    answer_list(call, user, jobs_query);
}

static void
run_query_block(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    answer_list(call, user, jobs_query_block);
}

/*
 * The table
 */
static const struct ArgumentRule no_rules[] = {{NULL, 0, false}};
static const struct ArgumentRule id_rules[] = {
    {"id", ARGUMENT_STRING, true},
    {NULL, 0, false},
};
static const struct ArgumentRule device_rules[] = {
    {"device", ARGUMENT_STRING, true},
    {NULL, 0, false},
};
static const struct ArgumentRule cancel_rules[] = {
    {"device", ARGUMENT_STRING, true},
    {"force", ARGUMENT_BOOL, false},
    {NULL, 0, false},
};
static const struct ArgumentRule speed_rules[] = {
    {"device", ARGUMENT_STRING, true},
    {"speed", ARGUMENT_INT, true},
    {NULL, 0, false},
};

const struct ControlCommand control_job_commands[] = {
    {"blockdev-backup", run_backup, job_backup_rules, false},
    {"blockdev-mirror", run_mirror, job_mirror_rules, false},
    {"job-pause", run_pause, id_rules, false},
    {"job-resume", run_resume, id_rules, false},
    {"job-cancel", run_cancel, id_rules, false},
    {"job-complete", run_complete, id_rules, false},
    {"job-finalize", run_finalize, id_rules, false},
    {"job-dismiss", run_dismiss, id_rules, false},
    {"block-job-cancel", run_block_cancel, cancel_rules, false},
    {"block-job-set-speed", run_set_speed, speed_rules, false},
    {"block-job-pause", run_pause, device_rules, false},
    {"block-job-resume", run_resume, device_rules, false},
    {"block-job-complete", run_complete, device_rules, false},
    {"block-job-finalize", run_finalize, id_rules, false},
    {"block-job-dismiss", run_dismiss, id_rules, false},
    {"query-jobs", run_query, no_rules, false},
    {"query-block-jobs", run_query_block, no_rules, false},
    {NULL, NULL, NULL, false},
};
