/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job.c - the states of a job, and what may be asked of it in each
 *
 *   created -> running <-> paused
 *              running -> ready <-> standby          a mirror that is in sync
 *              running, ready -> waiting             it has done its work, and
 *                                                    waits for those of its group
 *              waiting -> pending                    ... for the user, if so asked
 *              pending -> concluded -> null          it is over; nobody asks for
 *                                                    it any more
 *   created, running, ready, waiting, pending -> aborting -> concluded
 *
 * They are QEMU's, and so are the verbs, so that what drives QEMU's jobs finds
 * its way here. A job that stands (paused, standby) goes on before it does
 * anything else: who is cancelled there is running, or ready, first.
 */
#include "job.h"

#include <string.h>

#define BIT(status) (1u << (status))

static const char *const status_names[] = {
    [JOB_UNDEFINED] = "undefined", [JOB_CREATED] = "created",
    [JOB_RUNNING] = "running",     [JOB_PAUSED] = "paused",
    [JOB_READY] = "ready",         [JOB_STANDBY] = "standby",
    [JOB_WAITING] = "waiting",     [JOB_PENDING] = "pending",
    [JOB_ABORTING] = "aborting",   [JOB_CONCLUDED] = "concluded",
    [JOB_NULL] = "null",
};
static const char *const verb_names[] = {
    [JOB_VERB_CANCEL] = "cancel",     [JOB_VERB_PAUSE] = "pause",
    [JOB_VERB_RESUME] = "resume",     [JOB_VERB_SET_SPEED] = "set-speed",
    [JOB_VERB_COMPLETE] = "complete", [JOB_VERB_FINALIZE] = "finalize",
    [JOB_VERB_DISMISS] = "dismiss",   [JOB_VERB_CHANGE] = "change",
};
static const char *const kind_names[] = {
    [JOB_BACKUP] = "backup",
    [JOB_MIRROR] = "mirror",
};
static const char *const sync_names[] = {
    [JOB_FULL] = "full",     [JOB_TOP] = "top",
    [JOB_NONE] = "none",     [JOB_INCREMENTAL] = "incremental",
    [JOB_BITMAP] = "bitmap", [JOB_DIFFERENTIAL] = "differential",
};
static const char *const mode_names[] = {
    [JOB_ON_SUCCESS] = "on-success",
    [JOB_NEVER] = "never",
    [JOB_ALWAYS] = "always",
};
static const char *const action_names[] = {
    [JOB_REPORT] = "report",
    [JOB_IGNORE] = "ignore",
    [JOB_ENOSPC] = "enospc",
    [JOB_STOP] = "stop",
};

/* What it may become, by what it is. */
static const unsigned transitions[JOB_STATUSES] = {
    [JOB_UNDEFINED] = BIT(JOB_CREATED),
    [JOB_CREATED] = BIT(JOB_RUNNING) | BIT(JOB_ABORTING) | BIT(JOB_NULL),
    [JOB_RUNNING] =
        BIT(JOB_PAUSED) | BIT(JOB_READY) | BIT(JOB_WAITING) | BIT(JOB_ABORTING),
    [JOB_PAUSED] = BIT(JOB_RUNNING),
    [JOB_READY] = BIT(JOB_STANDBY) | BIT(JOB_WAITING) | BIT(JOB_ABORTING),
    [JOB_STANDBY] = BIT(JOB_READY),
    [JOB_WAITING] = BIT(JOB_PENDING) | BIT(JOB_ABORTING),
    [JOB_PENDING] = BIT(JOB_ABORTING) | BIT(JOB_CONCLUDED),
    [JOB_ABORTING] = BIT(JOB_ABORTING) | BIT(JOB_CONCLUDED),
    [JOB_CONCLUDED] = BIT(JOB_NULL),
    [JOB_NULL] = 0,
};

#define AT_WORK                                                               \
    (BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) | \
     BIT(JOB_STANDBY))

/* In which it may be asked for. */
static const unsigned verbs[JOB_VERBS] = {
    [JOB_VERB_CANCEL] = AT_WORK | BIT(JOB_WAITING) | BIT(JOB_PENDING),
    [JOB_VERB_PAUSE] = AT_WORK,
    [JOB_VERB_RESUME] = AT_WORK,
    [JOB_VERB_SET_SPEED] = AT_WORK,
    [JOB_VERB_COMPLETE] = BIT(JOB_READY) | BIT(JOB_STANDBY),
    [JOB_VERB_FINALIZE] = BIT(JOB_PENDING),
    [JOB_VERB_DISMISS] = BIT(JOB_CONCLUDED),
    [JOB_VERB_CHANGE] = AT_WORK,
};

bool
job_may_become(enum JobStatus from, enum JobStatus to)
{
    return (transitions[from] & BIT(to)) != 0;
}

bool
job_takes(enum JobStatus status, enum JobVerb verb)
{
    return (verbs[verb] & BIT(status)) != 0;
}

/*
 * Names
 */
const char *
job_status_name(enum JobStatus status)
{
    return status_names[status];
}

const char *
job_verb_name(enum JobVerb verb)
{
    return verb_names[verb];
}

const char *
job_kind_name(enum JobKind kind)
{
    return kind_names[kind];
}

const char *
job_sync_name(enum JobSync sync)
{
    return sync_names[sync];
}

const char *
job_mode_name(enum JobBitmapMode mode)
{
    return mode_names[mode];
}

const char *
job_on_error_name(enum JobOnError action)
{
    return action_names[action];
}

/* The place of @text in @names; @count: it is not there. */
static unsigned
find_name(const char *const *names, unsigned count, const char *text)
{
    unsigned at = 0;

    while (at < count && strcmp(names[at], text) != 0) {
        at++;
    }
    return at;
}

bool
job_status_parse(const char *text, enum JobStatus *status)
{
    unsigned at = find_name(status_names, G_N_ELEMENTS(status_names), text);

    *status = (enum JobStatus)at;
    return at < G_N_ELEMENTS(status_names);
}

bool
job_kind_parse(const char *text, enum JobKind *kind)
{
    unsigned at = find_name(kind_names, G_N_ELEMENTS(kind_names), text);

    *kind = (enum JobKind)at;
    return at < G_N_ELEMENTS(kind_names);
}

bool
job_sync_parse(const char *text, enum JobSync *sync)
{
    unsigned at = find_name(sync_names, G_N_ELEMENTS(sync_names), text);

    *sync = (enum JobSync)at;
    return at < G_N_ELEMENTS(sync_names);
}

bool
job_mode_parse(const char *text, enum JobBitmapMode *mode)
{
    unsigned at = find_name(mode_names, G_N_ELEMENTS(mode_names), text);

    *mode = (enum JobBitmapMode)at;
    return at < G_N_ELEMENTS(mode_names);
}

bool
job_on_error_parse(const char *text, enum JobOnError *action)
{
    unsigned at = find_name(action_names, G_N_ELEMENTS(action_names), text);

    *action = (enum JobOnError)at;
    return at < G_N_ELEMENTS(action_names);
}

bool
job_id_is_valid(const char *id)
{
    static const char chars[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789-._";
    size_t len = strlen(id);

    return len <= JOB_ID_MAX && g_ascii_isalpha(id[0]) &&
           strspn(id, chars) == len;
}

/*
 * The bitmap in the end
 *
 *                          success        else
 *   backup on-success      NEW            OLD
 *          never           OLD            OLD
 *          always          NEW            REST
 *   mirror incremental     NEW            OLD
 *          differential    OLD            OLD
 *
 * Whatever else a job may do with a bitmap leaves it as it was, and what was
 * written since.
 */
enum NamedEnd
job_bitmap_end(const JobSpec *spec, bool is_success)
{
    if (spec->kind == JOB_MIRROR) {
        return spec->sync == JOB_INCREMENTAL && is_success ? NAMED_NEW
                                                           : NAMED_OLD;
    }
    /* An alias, with or without the mode said. */
    if (spec->sync == JOB_INCREMENTAL || spec->mode == JOB_ON_SUCCESS) {
        return is_success ? NAMED_NEW : NAMED_OLD;
    }
    if (spec->mode == JOB_ALWAYS) {
        return is_success ? NAMED_NEW : NAMED_REST;
    }
    return NAMED_OLD;
}

void
job_spec_clear(JobSpec *spec)
{
    g_free(spec->id);
    g_free(spec->target);
    g_free(spec->bitmap);
    job_gap_free(spec->gap);
    *spec = (JobSpec){0};
}
