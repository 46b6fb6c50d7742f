/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job-spec.c - from the arguments of blockdev-backup and blockdev-mirror to an
 * order that makes sense, or to words that say why it does not
 *
 * Nothing is changed here: whatever is refused leaves no trace. The rules about
 * bitmaps are QEMU's for a backup, in the order in which it looks:
 *
 *   sync          without a bitmap   with one, and bitmap-mode
 *                                    none       on-success  always  never
 *   full, top     a mode: refused    refused    yes         yes     refused
 *   none          a mode: refused    refused    refused     refused refused
 *   bitmap        refused            refused    yes         yes     yes
 *   incremental   refused            yes        yes         refused refused
 *
 * and for a mirror, where QEMU has none:
 *
 *   full, top,    a mode: refused    refused, whatever the mode
 *   none
 *   incremental   refused            yes        yes         refused refused
 *   differential  refused            yes        refused     refused yes
 *
 * What QEMU has for its guests to wait for a target, or to break when they do,
 * is refused: nobody waits here. Of its other options some are no more than
 * advice (x-perf), which is not needed; those that promise something that does
 * not happen are refused unless they say "no".
 */
#include "arguments.h"
#include "job.h"
#include "relay/relay.h"

#include <string.h>

#define GRAIN_LEAST 512
#define GRAIN_MOST  (64 << 20)

/* What both take. */
/* clang-format off */
#define JOB_RULES                                 \
    {"device", ARGUMENT_STRING, true},            \
    {"target", ARGUMENT_STRING, true},            \
    {"sync", ARGUMENT_STRING, true},              \
    {"job-id", ARGUMENT_STRING, false},           \
    {"speed", ARGUMENT_INT, false},               \
    {"bitmap", ARGUMENT_STRING, false},           \
    {"bitmap-mode", ARGUMENT_STRING, false},      \
    {"on-source-error", ARGUMENT_STRING, false},  \
    {"on-target-error", ARGUMENT_STRING, false},  \
    {"auto-finalize", ARGUMENT_BOOL, false},      \
    {"auto-dismiss", ARGUMENT_BOOL, false},       \
    {"filter-node-name", ARGUMENT_STRING, false}, \
    {"granularity", ARGUMENT_SIZE, false},        \
    {"buf-size", ARGUMENT_INT, false},            \
    {"unmap", ARGUMENT_BOOL, false},              \
    {"target-is-zero", ARGUMENT_BOOL, false},     \
    {"target-accept", ARGUMENT_STRING, false},    \
    {"exact-size", ARGUMENT_BOOL, false}
/* clang-format on */

const struct ArgumentRule job_backup_rules[] = {
    JOB_RULES,
    {"compress", ARGUMENT_BOOL, false},
    {"discard-source", ARGUMENT_BOOL, false},
    {"on-cbw-error", ARGUMENT_STRING, false},
    {"cbw-timeout", ARGUMENT_INT, false},
    {"x-perf", ARGUMENT_OBJECT, false},
    {NULL, 0, false},
};

const struct ArgumentRule job_mirror_rules[] = {
    JOB_RULES,
    {"replaces", ARGUMENT_STRING, false},
    {"copy-mode", ARGUMENT_STRING, false},
    {NULL, 0, false},
};

#define REFUSE(...) \
    (g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE, __VA_ARGS__), FALSE)

/*
 * What is not supported
 */
static const struct Unsupported {
    const char *name;
    const char *harmless; /* a text that asks for nothing; NULL: none */
    const char *why;
} unsupported[] = {
    {"on-cbw-error", NULL,
     "no write of the guest waits for a job's target, so there is nothing to "
     "break"},
    {"cbw-timeout", NULL,
     "no write of the guest waits for a job's target, so there is nothing to "
     "time out"},
    {"copy-mode", "background",
     "no write of the guest waits for a job's target; job-complete brings the "
     "mirror to one instant of the disk all the same"},
    {"compress", NULL, "let the target's server compress what it stores"},
    {"discard-source", NULL,
     "the source is the disk itself; what is kept aside for a job goes when it "
     "is over"},
    {"filter-node-name", NULL, "a job puts no node above the disk"},
    {"replaces", NULL, "the disk stays with its store when a mirror completes"},
};

static gboolean
check_unsupported(JsonObject *arguments, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(unsupported); i++) {
        const struct Unsupported *it = &unsupported[i];
        JsonNode *node = json_object_get_member(arguments, it->name);
        const char *text = NULL;

        if (node == NULL) {
            continue;
        }
        if (json_node_get_value_type(node) == G_TYPE_STRING) {
            text = json_node_get_string(node);
        }
        if (json_node_get_value_type(node) == G_TYPE_BOOLEAN &&
            !json_node_get_boolean(node)) {
            continue;
        }
        if (it->harmless == NULL || g_strcmp0(text, it->harmless) != 0) {
            return REFUSE("Parameter '%s'%s%s%s is not supported: %s", it->name,
                          text != NULL ? "='" : "", text != NULL ? text : "",
                          text != NULL ? "'" : "", it->why);
        }
    }
    return TRUE;
}

/*
 * Names
 */
static gboolean
refuse_value(const char *name, const char *text, GError **error)
{
    return REFUSE("Parameter '%s' does not accept value '%s'", name, text);
}

static gboolean
parse_on_error(JsonObject *arguments, const char *name, enum JobOnError *action,
               GError **error)
{
    const char *text = argument_string(arguments, name);

    if (text == NULL) {
        *action = JOB_REPORT;
        return TRUE;
    }
    /* QEMU's word for what the guest's device has; jobs have enospc then. */
    if (strcmp(text, "auto") == 0) {
        *action = JOB_ENOSPC;
        return TRUE;
    }
    return job_on_error_parse(text, action) ? TRUE
                                            : refuse_value(name, text, error);
}

static gboolean
parse_sync(JsonObject *arguments, JobSpec *spec, GError **error)
{
    const char *text = argument_string(arguments, "sync");

    if (!job_sync_parse(text, &spec->sync)) {
        return refuse_value("sync", text, error);
    }
    if (spec->kind == JOB_MIRROR && spec->sync == JOB_BITMAP) {
        return REFUSE("Sync mode 'bitmap' not supported: a mirror has "
                      "'incremental' and 'differential'");
    }
    if (spec->kind == JOB_BACKUP && spec->sync == JOB_DIFFERENTIAL) {
        return REFUSE("Sync mode 'differential' not supported: a backup has "
                      "'bitmap' with bitmap-mode 'never'");
    }
    return TRUE;
}

static gboolean
parse_accept(JsonObject *arguments, JobSpec *spec, GError **error)
{
    static const char *const names[] = {
        [ACCEPT_EMPTY] = "empty",
        [ACCEPT_OVERWRITE] = "overwrite",
        [ACCEPT_SAME] = "same",
    };
    const char *text = argument_string(arguments, "target-accept");

    if (text == NULL) {
        spec->accept = spec->sync == JOB_FULL || spec->sync == JOB_TOP
                           ? ACCEPT_EMPTY
                           : ACCEPT_OVERWRITE;
        return TRUE;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            spec->accept = (enum TargetAccept)i;
            return TRUE;
        }
    }
    return refuse_value("target-accept", text, error);
}

static gboolean
parse_id(JsonObject *arguments, JobSpec *spec, GError **error)
{
    const char *id = argument_string(arguments, "job-id");

    spec->id = g_strdup(id != NULL ? id : spec->disk->name);
    if (!job_id_is_valid(spec->id)) {
        return REFUSE("Invalid job ID '%s'", spec->id);
    }
    return TRUE;
}

/*
 * Numbers
 */
static gboolean
parse_numbers(JsonObject *arguments, JobSpec *spec, GError **error)
{
    gint64 speed =
        json_object_get_int_member_with_default(arguments, "speed", 0);
    gint64 buffer =
        json_object_get_int_member_with_default(arguments, "buf-size", 0);

    spec->granularity = argument_size(arguments, "granularity");
    if (speed < 0) {
        return REFUSE("Parameter 'speed' expects a non-negative value");
    }
    if (buffer < 0) {
        return REFUSE("Parameter 'buf-size' expects a non-negative value");
    }
    if (spec->granularity != 0 &&
        (spec->granularity < GRAIN_LEAST || spec->granularity > GRAIN_MOST)) {
        return REFUSE("Parameter 'granularity' expects a value in range "
                      "[512B, 64MB]");
    }
    if ((spec->granularity & (spec->granularity - 1)) != 0) {
        return REFUSE("Parameter 'granularity' expects a power of 2");
    }
    spec->speed_bps = (uint64_t)speed;
    spec->buf_bytes = (uint64_t)buffer;
    return TRUE;
}

/*
 * The target
 */
static gboolean
parse_target(const Store *store, JsonObject *arguments, JobSpec *spec,
             GError **error)
{
    const char *text = argument_string(arguments, "target");

    if (text[0] != '/' && text[0] != '[' && strstr(text, "://") == NULL) {
        return REFUSE("target '%s': wants a URI, '[ command ]', or an absolute "
                      "path",
                      text);
    }
    spec->target = g_strdup(text);
    return relay_target_check(text, store->settings.insecure, error);
}

gboolean
job_spec_check_place(const Store *store, const char *mountpoint,
                     const JobSpec *spec, GError **error)
{
    const char *target = spec->target;

    /* First, since nothing that the daemon serves may be looked at by it. */
    if (mountpoint != NULL && relay_target_is_within(target, mountpoint)) {
        return REFUSE("Source and target cannot be the same: %s is in the "
                      "mount",
                      target);
    }
    if (relay_target_is_within(target, store->path)) {
        return REFUSE("Source and target cannot be the same: %s is a part of "
                      "the store",
                      target);
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (relay_target_is_file(target, store->disks[i]->map_fd)) {
            return REFUSE("Source and target cannot be the same: %s is the "
                          "image of disk %s",
                          target, store->disks[i]->name);
        }
    }
    return TRUE;
}

/*
 * The bitmap
 */
static gboolean
parse_mode(JsonObject *arguments, JobSpec *spec, GError **error)
{
    const char *text = argument_string(arguments, "bitmap-mode");

    spec->has_mode = text != NULL;
    return text == NULL || job_mode_parse(text, &spec->mode)
               ? TRUE
               : refuse_value("bitmap-mode", text, error);
}

/* Of a sync that has a mode of its own. */
static gboolean
imply_mode(JobSpec *spec, enum JobBitmapMode mode, GError **error)
{
    if (spec->has_mode && spec->mode != mode) {
        return REFUSE("Bitmap sync mode must be '%s' when using sync mode '%s'",
                      job_mode_name(mode), job_sync_name(spec->sync));
    }
    spec->has_mode = true;
    spec->mode = mode;
    return TRUE;
}

static bool
wants_bitmap(const JobSpec *spec)
{
    return spec->sync == JOB_INCREMENTAL || spec->sync == JOB_BITMAP ||
           spec->sync == JOB_DIFFERENTIAL;
}

/* What both have in common, before the bitmap is looked at. */
static gboolean
check_sync_and_mode(JobSpec *spec, GError **error)
{
    if (wants_bitmap(spec) && spec->bitmap == NULL) {
        return REFUSE("must provide a valid bitmap name for '%s' sync mode",
                      job_sync_name(spec->sync));
    }
    if (spec->sync == JOB_INCREMENTAL) {
        return imply_mode(spec, JOB_ON_SUCCESS, error);
    }
    if (spec->sync == JOB_DIFFERENTIAL) {
        return imply_mode(spec, JOB_NEVER, error);
    }
    return TRUE;
}

static gboolean
check_use(const JobSpec *spec, GError **error)
{
    if (spec->kind == JOB_MIRROR) {
        return wants_bitmap(spec)
                   ? TRUE
                   : REFUSE("a bitmap has no meaningful effect on a mirror "
                            "with sync mode '%s': 'incremental' and "
                            "'differential' use one",
                            job_sync_name(spec->sync));
    }
    if (spec->sync == JOB_NONE) {
        return REFUSE("sync mode 'none' does not produce meaningful bitmap "
                      "outputs");
    }
    if (spec->mode == JOB_NEVER && spec->sync != JOB_BITMAP) {
        return REFUSE("Bitmap sync mode 'never' has no meaningful effect when "
                      "combined with sync mode '%s'",
                      job_sync_name(spec->sync));
    }
    return TRUE;
}

gboolean
job_spec_check_bitmap(const JobSpec *spec, GError **error)
{
    struct NamedFigures figures;

    if (spec->bitmap == NULL) {
        return TRUE;
    }
    if (!named_find(spec->disk->bitmaps, spec->bitmap, &figures)) {
        return REFUSE("Bitmap '%s' could not be found", spec->bitmap);
    }
    if (spec->kind == JOB_BACKUP && !spec->has_mode) {
        return REFUSE("Bitmap sync mode must be given when providing a bitmap");
    }
    if (figures.is_busy) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "Bitmap '%s' is currently in use by another operation and "
                    "cannot be used",
                    spec->bitmap);
        return FALSE;
    }
    if (!check_use(spec, error)) {
        return FALSE;
    }
    if (spec->granularity != 0) {
        return REFUSE("Granularity and bitmap cannot both be set: the job has "
                      "the bitmap's");
    }
    return TRUE;
}

static gboolean
parse_bitmap(JsonObject *arguments, JobSpec *spec, GError **error)
{
    spec->bitmap = g_strdup(argument_string(arguments, "bitmap"));
    if (!parse_mode(arguments, spec, error) ||
        !check_sync_and_mode(spec, error)) {
        return FALSE;
    }
    if (spec->bitmap == NULL && spec->has_mode) {
        return REFUSE("Cannot specify bitmap sync mode without a bitmap");
    }
    return TRUE;
}

/*
 * All of it
 */
static gboolean
parse_all(Store *store, JsonObject *arguments, JobSpec *spec, GError **error)
{
    spec->disk = argument_disk(arguments, "device", store, error);
    if (spec->disk == NULL) {
        return FALSE;
    }
    spec->waits_to_finalize = !argument_bool(arguments, "auto-finalize", true);
    spec->waits_to_dismiss = !argument_bool(arguments, "auto-dismiss", true);
    spec->is_target_zero = argument_bool(arguments, "target-is-zero", false);
    spec->keeps_zeroes = !argument_bool(arguments, "unmap", true);
    spec->is_exact = argument_bool(arguments, "exact-size", true);
    return check_unsupported(arguments, error) &&
           parse_id(arguments, spec, error) &&
           parse_sync(arguments, spec, error) &&
           parse_on_error(arguments, "on-source-error", &spec->on_source,
                          error) &&
           parse_on_error(arguments, "on-target-error", &spec->on_target,
                          error) &&
           parse_accept(arguments, spec, error) &&
           parse_numbers(arguments, spec, error) &&
           parse_bitmap(arguments, spec, error) &&
           parse_target(store, arguments, spec, error);
}

gboolean
job_spec_parse(Store *store, enum JobKind kind, JsonObject *arguments,
               JobSpec *spec, GError **error)
{
    *spec = (JobSpec){.kind = kind};
    if (arguments_check(
            arguments, kind == JOB_BACKUP ? job_backup_rules : job_mirror_rules,
            error) &&
        parse_all(store, arguments, spec, error)) {
        return TRUE;
    }
    job_spec_clear(spec);
    return FALSE;
}
