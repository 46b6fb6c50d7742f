/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-commands.c - the table of our own commands
 *
 *   weir-ping                                 who is there: pid, version, ...
 *   weir-status                               status.json
 *   weir-metrics                              {"text": ...}
 *   weir-drain   [wait]                       {}: begun, or settled with wait
 *   weir-verify  [disk] [repair] [rate]       what was found, when it is
 *   weir-pause, weir-resume                   {}: the relay, not the guest
 *   weir-set     settings{KEY: VALUE} [disk]  {}: live, and kept
 *   weir-resize  disk, size-bytes             {}: grow
 *   weir-upgrade                              {}: begun; another daemon follows
 *   weir-snapshot-...                         see control-snapshots.c
 *   weir-bitmap-...                           see control-bitmaps.c, -import.c
 *   QEMU's                                    see control-jobs.c, -query.c,
 *                                             -schema.c, -transaction.c
 *
 * Each runs on the main thread and is answered at once, but for what takes as
 * long as others take: a drain that waits, a verification, a new snapshot, an
 * import, the begin of jobs, and a transaction with one of them keep their calls.
 * A setting is first checked and kept by the store, then handed to the relay: what
 * is in weir.conf is what is in force.
 */
#include "control-commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
answer_empty(ControlCall *call)
{
    control_call_return_object(call, json_object_new());
}

void
control_answer_error(ControlCall *call, GError *error)
{
    enum ControlClass class = error->domain != DEVICE_ERROR ? CONTROL_GENERIC
                              : error->code == DEVICE_ERROR_NOT_FOUND
                                  ? CONTROL_DEVICE_NOT_FOUND
                                  : CONTROL_DEVICE_NOT_ACTIVE;

    control_call_error_class(call, class, host_exit_code(error),
                             error->message);
    g_error_free(error);
}

void
control_answer(ControlCall *call, gboolean ok, GError *error)
{
    if (ok) {
        answer_empty(call);
    } else {
        control_answer_error(call, error);
    }
}

const char *
daemon_text_argument(JsonObject *arguments, const char *name)
{
    JsonNode *node = json_object_get_member(arguments, name);

    return node != NULL && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static void
run_ping(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    const struct Takeover *takeover = &daemon->takeover;
    JsonObject *object = json_object_new();

    (void)arguments;
    json_object_set_int_member(object, "pid", getpid());
    json_object_set_string_member(object, "version", WEIR_VERSION);
    json_object_set_string_member(object, "program", takeover->program);
    json_object_set_int_member(object, "holder", takeover->holder);
    json_object_set_int_member(object, "pause_us", takeover->pause_us);
    control_call_return_object(call, object);
}

static void
run_status(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;

    (void)arguments;
    daemon_look(daemon);
    control_call_return_object(call,
                               status_build(&daemon->input, &daemon->tracker));
}

static void
run_metrics(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonObject *object = json_object_new();
    g_autofree char *text = NULL;

    (void)arguments;
    daemon_look(daemon);
    text = metrics_text(&daemon->input, &daemon->tracker);
    json_object_set_string_member(object, "text", text);
    control_call_return_object(call, object);
}

static void
run_drain(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonNode *wait = json_object_get_member(arguments, "wait");

    if (wait != NULL && json_node_get_value_type(wait) == G_TYPE_BOOLEAN &&
        json_node_get_boolean(wait)) {
        drain_begin(daemon, call);
        return;
    }
    if (daemon->cuts != NULL) {
        (void)cuts_hurry(daemon->cuts);
        cuts_look(daemon->cuts);
    }
    relay_hurry(daemon->relay);
    answer_empty(call);
}

static void
run_verify(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    gint64 rate = json_object_get_int_member_with_default(arguments, "rate", 0);
    struct VerifyOrder order = {
        .disk = daemon_text_argument(arguments, "disk"),
        .repairs = json_object_get_boolean_member_with_default(arguments,
                                                               "repair", FALSE),
        .bytes_per_second = rate > 0 ? (guint64)rate : 0,
    };

    if (order.disk != NULL && store_disk(daemon->store, order.disk) == NULL) {
        control_call_error(call, 1, "the store has no disk of that name");
        return;
    }
    verify_begin(daemon, call, &order);
}

static void
set_pause(ControlCall *call, Daemon *daemon, gboolean pause)
{
    daemon_pause(daemon, pause);
    answer_empty(call);
}

static void
run_pause(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    set_pause(call, user, TRUE);
}

static void
run_resume(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    set_pause(call, user, FALSE);
}

/*
 * Settings
 */
/* @is_said: target-accept itself was set, which is the user's word about the
 * target that is there now; no other setting is. */
static void
apply_accept(Daemon *daemon, Disk *disk, bool is_said)
{
    const struct StoreSettings *settings = &daemon->store->settings;

    if (disk->target != NULL) {
        relay_set_accept(daemon->relay, disk->name, disk->accept,
                         settings->accept_unflushed, settings->insecure);
        if (is_said) {
            relay_trust(daemon->relay, disk->name);
        }
    }
}

static void
apply_bwlimit(Daemon *daemon)
{
    const char *text = daemon->store->settings.bwlimit;
    struct RateTable table;
    char why[RELAY_TEXT];

    if (rate_table_parse(text != NULL ? text : "off", &table, why,
                         sizeof(why))) {
        relay_set_bwlimit(daemon->relay, &table);
    }
}

/* What the store has just taken, handed to the relay. @disk: NULL is all. */
static void
apply_setting(Daemon *daemon, Disk *disk, const char *key)
{
    Store *store = daemon->store;

    if (strcmp(key, "bwlimit") == 0) {
        apply_bwlimit(daemon);
    }
    if (strcmp(key, "max-connections") == 0) {
        relay_set_max_conns(daemon->relay, store->settings.max_connections);
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (disk == NULL || store->disks[i] == disk) {
            apply_accept(daemon, store->disks[i],
                         strcmp(key, "target-accept") == 0);
        }
    }
}

/* The disk whose target this will change; with one disk its name may be left
 * out. The store refuses the rest. */
static Disk *
target_disk(Daemon *daemon, Disk *disk)
{
    return disk == NULL && daemon->store->n_disks == 1 ? daemon->store->disks[0]
                                                       : disk;
}

/* Requests of a job may still execute where the disk is to go. */
static gboolean
check_doubt(const Daemon *daemon, const char *target, GError **error)
{
    int64_t wait_us =
        daemon->jobs != NULL ? jobs_doubt_us(daemon->jobs, target) : 0;

    if (wait_us > 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "target %s: requests of a job that has ended may still "
                    "execute there: try again in %d s",
                    target, (int)(wait_us / G_USEC_PER_SEC) + 1);
    }
    return wait_us == 0;
}

/* ... and those of the disk where it was. */
static void
leave_doubt(Daemon *daemon, const Disk *disk, const char *target)
{
    struct RelayFigures figures;

    if (target != NULL && daemon->jobs != NULL &&
        relay_figures(daemon->relay, disk->name, &figures) &&
        (!figures.is_current || figures.core.unanswered > 0 ||
         figures.core.doubt_clusters > 0)) {
        jobs_doubt_target(daemon->jobs, target);
    }
}

static gboolean
set_target(Daemon *daemon, Disk *disk, const char *value, GError **error)
{
    Disk *changed = target_disk(daemon, disk);
    g_autofree char *before =
        changed != NULL ? g_strdup(changed->target) : NULL;
    const char *id = strcmp(value, "none") != 0 && daemon->jobs != NULL
                         ? jobs_of_target(daemon->jobs, value)
                         : NULL;

    if (id != NULL) {
        return job_refuse_target(value, id, error);
    }
    if (!check_doubt(daemon, value, error)) {
        return FALSE;
    }
    if (!store_set(daemon->store, disk, "target", value, error)) {
        return FALSE;
    }
    /* The same one again is no other target: nothing gets dirty. */
    if (changed == NULL || g_strcmp0(before, changed->target) == 0) {
        return TRUE;
    }
    leave_doubt(daemon, changed, before);
    status_tracker_retarget(&daemon->tracker, changed->index);
    if (daemon->cuts != NULL) {
        cuts_retargeted(daemon->cuts, changed);
    }
    return relay_set_target(daemon->relay, changed->name, changed->target,
                            error);
}

static gboolean
set_one(Daemon *daemon, Disk *disk, const char *key, JsonNode *value,
        GError **error)
{
    if (json_node_get_value_type(value) != G_TYPE_STRING) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "%s: its value must be a string", key);
        return FALSE;
    }
    if (strcmp(key, "target") == 0) {
        if (!set_target(daemon, disk, json_node_get_string(value), error)) {
            return FALSE;
        }
    } else if (!store_set(daemon->store, disk, key, json_node_get_string(value),
                          error)) {
        return FALSE;
    } else {
        apply_setting(daemon, disk, key);
    }
    g_message("set %s", key);
    return TRUE;
}

static void
run_set(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonNode *settings = json_object_get_member(arguments, "settings");
    const char *name = daemon_text_argument(arguments, "disk");
    Disk *disk = name != NULL ? store_disk(daemon->store, name) : NULL;
    g_autoptr(GList) keys = NULL;
    GError *error = NULL;

    if (settings == NULL || !JSON_NODE_HOLDS_OBJECT(settings)) {
        control_call_error(call, 2, "wants settings: an object of strings");
        return;
    }
    if (name != NULL && disk == NULL) {
        control_call_error(call, 1, "the store has no disk of that name");
        return;
    }
    keys = json_object_get_members(json_node_get_object(settings));
    for (GList *l = keys; l != NULL; l = l->next) {
        JsonNode *value =
            json_object_get_member(json_node_get_object(settings), l->data);

        if (!set_one(daemon, disk, l->data, value, &error)) {
            control_answer_error(call, error);
            return;
        }
    }
    daemon_advance(daemon);
    answer_empty(call);
}

/*
 * Growing
 */
struct Growth {
    Store *store;
    Disk *disk;
    uint64_t size_bytes;
    GError *error;
};

/* On the fs thread, with no write of the disk in flight. */
static void
grow_cb(void *user)
{
    struct Growth *growth = user;

    store_resize_disk(growth->store, growth->disk, growth->size_bytes,
                      &growth->error);
}

/* Would the target hold it? In words if not. */
static char *
target_flaw(Daemon *daemon, Disk *disk, uint64_t size_bytes)
{
    struct RelayFigures figures;

    if (disk->target == NULL ||
        !relay_figures(daemon->relay, disk->name, &figures)) {
        return NULL;
    }
    if (figures.target_size_bytes == 0) {
        return g_strdup_printf("%s: the target's size is not known while it "
                               "is not connected; try again when it is",
                               disk->name);
    }
    if (figures.target_size_bytes < size_bytes) {
        g_autofree char *size = status_size((double)figures.target_size_bytes);

        return g_strdup_printf("%s: the target has only %s (%" G_GUINT64_FORMAT
                               " bytes); grow it first",
                               disk->name, size, figures.target_size_bytes);
    }
    return NULL;
}

/* Answers if it is not. */
static bool
is_resizable(ControlCall *call, Daemon *daemon, const Disk *disk)
{
    const char *job = jobs_of_disk(daemon->jobs, disk);
    g_autofree char *words = NULL;

    if (job != NULL) {
        words = g_strdup_printf("%s: job %s is at work on it: cancel that, or "
                                "wait for its end",
                                disk->name, job);
        control_call_error(call, 3, words);
    }
    return job == NULL;
}

void
control_resize(ControlCall *call, Daemon *daemon, Disk *disk,
               uint64_t size_bytes)
{
    struct Growth growth = {
        .store = daemon->store, .disk = disk, .size_bytes = size_bytes};
    g_autofree char *flaw = NULL;

    if (!is_resizable(call, daemon, disk)) {
        return;
    }
    flaw = target_flaw(daemon, disk, size_bytes);
    if (flaw != NULL) {
        control_call_error(call, EXIT_TARGET, flaw);
        return;
    }
    if (daemon->face != NULL) {
        face_quiesce(daemon->face, disk, grow_cb, &growth);
    } else {
        grow_cb(&growth);
    }
    if (growth.error != NULL) {
        control_answer_error(call, growth.error);
        return;
    }
    relay_wake(daemon->relay);
    answer_empty(call);
}

static void
run_resize(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    Disk *disk = store_disk(daemon->store, argument_string(arguments, "disk"));
    uint64_t size = argument_size(arguments, "size-bytes");

    if (disk == NULL || size == 0) {
        control_call_error(call, disk == NULL ? 1 : 2,
                           disk == NULL ? "the store has no disk of that name"
                                        : "wants size-bytes");
        return;
    }
    control_resize(call, daemon, disk, size);
}

static void
run_upgrade(ControlCall *call, JsonObject *arguments, gpointer user)
{
    (void)arguments;
    handover_begin(user, call);
}

/*
 * The table
 */
static const struct ArgumentRule no_rules[] = {{NULL, 0, false}};
static const struct ArgumentRule drain_rules[] = {
    {"wait", ARGUMENT_BOOL, false},
    {NULL, 0, false},
};
static const struct ArgumentRule verify_rules[] = {
    {"disk", ARGUMENT_STRING, false},
    {"repair", ARGUMENT_BOOL, false},
    {"rate", ARGUMENT_SIZE, false},
    {NULL, 0, false},
};
static const struct ArgumentRule set_rules[] = {
    {"settings", ARGUMENT_OBJECT, true},
    {"disk", ARGUMENT_STRING, false},
    {NULL, 0, false},
};
static const struct ArgumentRule resize_rules[] = {
    {"disk", ARGUMENT_STRING, true},
    {"size-bytes", ARGUMENT_SIZE, true},
    {NULL, 0, false},
};
static const struct ArgumentRule create_rules[] = {
    {"name", ARGUMENT_STRING, false},
    {NULL, 0, false},
};
static const struct ArgumentRule delete_rules[] = {
    {"name", ARGUMENT_STRING, true},
    {NULL, 0, false},
};
static const struct ArgumentRule diff_rules[] = {
    {"from", ARGUMENT_STRING, true},  {"to", ARGUMENT_STRING, false},
    {"disk", ARGUMENT_STRING, false}, {"extents", ARGUMENT_BOOL, false},
    {"start", ARGUMENT_SIZE, false},  {NULL, 0, false},
};

static const struct ControlCommand own_commands[] = {
    {"weir-ping", run_ping, no_rules, false},
    {"weir-status", run_status, no_rules, false},
    {"weir-metrics", run_metrics, no_rules, false},
    {"weir-drain", run_drain, drain_rules, true},
    {"weir-verify", run_verify, verify_rules, true},
    {"weir-pause", run_pause, no_rules, false},
    {"weir-resume", run_resume, no_rules, false},
    {"weir-set", run_set, set_rules, false},
    {"weir-resize", run_resize, resize_rules, false},
    {"weir-upgrade", run_upgrade, no_rules, false},
    {"weir-snapshot-create", control_snapshot_create, create_rules, true},
    {"weir-snapshot-delete", control_snapshot_delete, delete_rules, false},
    {"weir-snapshot-list", control_snapshot_list, no_rules, false},
    {"weir-snapshot-diff", control_snapshot_diff, diff_rules, false},
    {NULL, NULL, NULL, false},
};

const struct ControlCommand *const daemon_commands[] = {
    own_commands,
    control_bitmap_commands,
    control_import_commands,
    control_job_commands,
    control_query_commands,
    control_schema_commands,
    control_transaction_commands,
    NULL,
};
