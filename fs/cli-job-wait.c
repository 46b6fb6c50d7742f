/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-job-wait.c - finding jobs, and following some until they are over
 *
 * A job that a command starts and waits for is kept by the daemon until it is
 * dismissed (auto-dismiss=false): so its end cannot be missed, whatever happens to
 * the connection. Of others the event tells, if it comes while somebody listens: so
 * they are completed over the connection that is listened to, and one connection is
 * listened to for all of them. The
 * daemon may be replaced, or die and be followed by another one: the job goes on
 * there, and so does the waiting.
 *
 * Who waits sees the end, says it, and dismisses the job. Who is interrupted
 * leaves it at work, and says how to look after it.
 */
#include "cli-job.h"

#include <stdio.h>
#include <string.h>

#define STEP_US (250 * G_TIME_SPAN_MILLISECOND)

ControlClient *
cli_job_connect(const char *command, const char *store)
{
    ControlClient *client = cli_connect(store);

    if (client == NULL) {
        cli_fail(
            CLI_FAILED,
            "%s: %s is not mounted, and jobs are at work only while it is; "
            "weir mount it first",
            command, store);
    }
    return client;
}

/*
 * Finding
 */

static void
add_member_cb(JsonObject *from, const char *name, JsonNode *value,
              gpointer user)
{
    JsonObject *job = user;

    (void)from;
    if (!json_object_has_member(job, name)) {
        json_object_set_member(job, name, json_node_copy(value));
    }
}

/* Each job gets the members that it lacks of the one with its id. */
static void
add_members(JsonArray *jobs, JsonArray *others)
{
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);
        const char *id = json_object_get_string_member(job, "device");

        for (guint j = 0; j < json_array_get_length(others); j++) {
            JsonObject *other = json_array_get_object_element(others, j);

            if (g_strcmp0(json_object_get_string_member_with_default(
                              other, "id", NULL),
                          id) == 0 &&
                g_strcmp0(json_object_get_string_member_with_default(
                              other, "type", NULL),
                          "relay") != 0) {
                json_object_foreach_member(other, add_member_cb, job);
            }
        }
    }
}

JsonArray *
cli_jobs(ControlClient *client, GError **error)
{
    g_autoptr(JsonNode) block =
        control_client_call(client, "query-block-jobs", NULL, error);
    g_autoptr(JsonNode) plain =
        block != NULL ? control_client_call(client, "query-jobs", NULL, error)
                      : NULL;
    g_autoptr(JsonNode) status =
        plain != NULL ? control_client_call(client, "weir-status", NULL, error)
                      : NULL;
    JsonArray *jobs;

    if (status == NULL) {
        return NULL;
    }
    jobs = json_array_ref(json_node_get_array(block));
    add_members(jobs, json_node_get_array(plain));
    add_members(jobs, json_object_get_array_member(json_node_get_object(status),
                                                   "jobs"));
    return jobs;
}

JsonObject *
cli_job_find(JsonArray *jobs, const char *id)
{
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);

        if (strcmp(json_object_get_string_member(job, "device"), id) == 0) {
            return job;
        }
    }
    return NULL;
}

JsonObject *
cli_job_get(ControlClient *client, const char *id, GError **error)
{
    g_autoptr(JsonArray) jobs = cli_jobs(client, error);
    JsonObject *job = jobs != NULL ? cli_job_find(jobs, id) : NULL;

    return job != NULL ? json_object_ref(job) : NULL;
}

gboolean
cli_job_call(ControlClient *client, const char *command, JsonObject *arguments,
             GError **error)
{
    g_autoptr(JsonNode) reply =
        control_client_call(client, command, arguments, error);

    return reply != NULL;
}

gboolean
cli_job_verb(ControlClient *client, const char *command, const char *id,
             GError **error)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "id", id);
    return cli_job_call(client, command, arguments, error);
}

/*
 * Following
 */
struct Followed {
    const char *id;
    int code; /* -1: it goes on */
    bool is_completing;
    bool has_said; /* that it stands */

    /* as its last event tells */
    bool is_over, is_cancelled;
    char *error; /* NULL: none */
};

struct Wait {
    const char *command, *store;
    enum CliJobUntil until;
    ControlClient *client;
    CliProgress *progress;
    struct Followed *jobs;
    unsigned count;
};

/* The first that goes on; NULL: none does. */
static struct Followed *
first_at_work(const struct Wait *wait)
{
    for (unsigned i = 0; i < wait->count; i++) {
        if (wait->jobs[i].code < 0) {
            return &wait->jobs[i];
        }
    }
    return NULL;
}

static void
show(const struct Wait *wait, const struct Followed *one, JsonObject *job)
{
    g_autofree char *line = cli_job_line(job);
    g_autofree char *bar = cli_job_bar(job, 38);
    g_autofree char *named = g_strdup_printf("%s: %s", one->id, line);

    cli_progress_say(wait->progress, bar, wait->count > 1 ? named : line);
}

/* An error has stopped it, and it waits for the user. */
static void
say_if_it_stands(const struct Wait *wait, struct Followed *one, JsonObject *job)
{
    const char *io =
        json_object_get_string_member_with_default(job, "io-status", "ok");
    const char *flaw =
        json_object_get_string_member_with_default(job, "target_error", NULL);
    bool stands = strcmp(io, "ok") != 0;

    if (stands && !one->has_said) {
        cli_progress_break(wait->progress);
        cli_fail(CLI_FAILED,
                 "%s: job %s stands: %s; mend that, then weir job resume %s %s",
                 wait->command, one->id,
                 flaw != NULL && *flaw != '\0' ? flaw
                 : strcmp(io, "nospace") == 0  ? "no room at the target"
                                               : "an error",
                 wait->store, one->id);
    }
    one->has_said = stands;
}

static void
keep_event_cb(gpointer user, const char *event, JsonObject *data)
{
    const struct Wait *wait = user;
    const char *id =
        json_object_get_string_member_with_default(data, "device", NULL);
    bool is_completed = strcmp(event, "BLOCK_JOB_COMPLETED") == 0;
    bool is_cancelled = strcmp(event, "BLOCK_JOB_CANCELLED") == 0;

    for (unsigned i = 0;
         (is_completed || is_cancelled) && id != NULL && i < wait->count; i++) {
        struct Followed *one = &wait->jobs[i];

        if (strcmp(one->id, id) == 0) {
            one->is_over = true;
            one->is_cancelled = is_cancelled;
            g_free(one->error);
            one->error = g_strdup(json_object_get_string_member_with_default(
                data, "error", NULL));
        }
    }
}

static int
say_end(const struct Wait *wait, const struct Followed *one, const char *error,
        bool is_cancelled, bool is_refused)
{
    if (is_cancelled) {
        return cli_fail(CLI_FAILED,
                        "%s: job %s was cancelled: what its target has is not "
                        "to be used",
                        wait->command, one->id);
    }
    if (error != NULL) {
        return cli_fail(is_refused ? CLI_TARGET : CLI_FAILED,
                        "%s: job %s has failed: %s", wait->command, one->id,
                        error);
    }
    printf("job %s is done\n", one->id);
    return CLI_OK;
}

/* What is left of it is taken away. A target that was never accepted has not
 * been written. */
static int
say_concluded(const struct Wait *wait, const struct Followed *one,
              JsonObject *job)
{
    const char *error =
        json_object_get_string_member_with_default(job, "error", NULL);
    bool is_cancelled =
        json_object_get_boolean_member_with_default(job, "cancelled", FALSE);
    bool is_refused = !json_object_get_boolean_member_with_default(
        job, "target_accepted", TRUE);

    (void)cli_job_verb(wait->client, "job-dismiss", one->id, NULL);
    return say_end(wait, one, error, is_cancelled, is_refused);
}

static int
say_gone(const struct Wait *wait, const struct Followed *one)
{
    if (one->is_over) {
        return say_end(wait, one, one->error, one->is_cancelled, false);
    }
    return cli_fail(CLI_FAILED,
                    "%s: job %s is over, and was dismissed meanwhile: how it "
                    "ended is not known",
                    wait->command, one->id);
}

/* @job NULL: it is not there. -1: it goes on. */
static int
look(const struct Wait *wait, struct Followed *one, JsonObject *job)
{
    bool is_news =
        job == NULL || cli_job_is(job, "concluded") || cli_job_is(job, "ready");
    GError *error = NULL;

    if (is_news) {
        cli_progress_break(wait->progress);
    }
    if (job == NULL) {
        return say_gone(wait, one);
    }
    if (cli_job_is(job, "concluded")) {
        return say_concluded(wait, one, job);
    }
    if (cli_job_is(job, "ready") && wait->until == CLI_JOB_READY) {
        printf("job %s is ready: the target follows the disk\n", one->id);
        return CLI_OK;
    }
    if (cli_job_is(job, "ready") && wait->until == CLI_JOB_COMPLETE &&
        !one->is_completing) {
        one->is_completing = true;
        if (!cli_job_verb(wait->client, "job-complete", one->id, &error)) {
            return cli_fail_error(wait->command, error);
        }
    }
    say_if_it_stands(wait, one, job);
    if (one == first_at_work(wait)) {
        show(wait, one, job);
    }
    return -1;
}

/* False: there is no daemon any more. It may just be replaced. */
static bool
connect_again(struct Wait *wait)
{
    control_client_free(wait->client);
    wait->client = cli_connect(wait->store);
    if (wait->client == NULL && !cli_was_interrupted()) {
        cli_fail(CLI_FAILED,
                 "%s: the daemon has ended; job %s goes on when the store is "
                 "mounted again",
                 wait->command, first_at_work(wait)->id);
        return false;
    }
    if (wait->client != NULL) {
        control_client_on_event(wait->client, keep_event_cb, wait);
    }
    return true;
}

static bool
step(struct Wait *wait)
{
    g_autoptr(JsonArray) jobs = NULL;

    jobs = cli_jobs(wait->client, NULL);
    if (jobs == NULL) {
        return connect_again(wait);
    }
    for (unsigned i = 0; i < wait->count; i++) {
        struct Followed *one = &wait->jobs[i];

        if (one->code < 0) {
            one->code = look(wait, one, cli_job_find(jobs, one->id));
        }
    }
    return true;
}

/* CLI_OK, or that one was refused. */
static int
complete_all(struct Wait *wait)
{
    GError *error = NULL;

    for (unsigned i = 0; i < wait->count; i++) {
        if (!cli_job_verb(wait->client, "job-complete", wait->jobs[i].id,
                          &error)) {
            return cli_fail_error(wait->command, error);
        }
    }
    return CLI_OK;
}

static int
follow(struct Wait *wait)
{
    const struct Followed *one;
    int code = CLI_OK;

    while (first_at_work(wait) != NULL && !cli_was_interrupted()) {
        if (!step(wait)) {
            return CLI_FAILED;
        }
        if (first_at_work(wait) != NULL) {
            g_usleep(STEP_US); /* until a signal, or the next look */
        }
    }
    one = first_at_work(wait);
    if (one != NULL) {
        cli_progress_break(wait->progress);
        return cli_fail(CLI_INTERRUPTED,
                        "%s: interrupted; job %s goes on: weir job list %s "
                        "shows it, weir job cancel %s %s ends it",
                        wait->command, one->id, wait->store, wait->store,
                        one->id);
    }
    for (unsigned i = 0; i < wait->count && code == CLI_OK; i++) {
        code = wait->jobs[i].code;
    }
    return code;
}

int
cli_job_wait(const char *command, const char *store, char *const *ids,
             unsigned count, enum CliJobUntil until)
{
    struct Wait wait = {.command = command,
                        .store = store,
                        .until = until,
                        .client = cli_job_connect(command, store),
                        .jobs = g_new0(struct Followed, count),
                        .count = count};
    int code = wait.client != NULL ? CLI_OK : CLI_FAILED;

    for (unsigned i = 0; i < count; i++) {
        wait.jobs[i] = (struct Followed){.id = ids[i], .code = -1};
    }
    if (wait.client != NULL) {
        control_client_on_event(wait.client, keep_event_cb, &wait);
    }
    if (code == CLI_OK && until == CLI_JOB_COMPLETED) {
        code = complete_all(&wait);
    }
    if (code == CLI_OK) {
        wait.progress = cli_progress_new();
        code = follow(&wait);
        cli_progress_free(wait.progress);
    }
    for (unsigned i = 0; i < count; i++) {
        g_free(wait.jobs[i].error);
    }
    g_free(wait.jobs);
    g_clear_pointer(&wait.client, control_client_free);
    return code;
}
