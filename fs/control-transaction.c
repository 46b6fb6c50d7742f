/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-transaction.c - several changes at one instant, all of them or none
 *
 *   transaction  actions[{type, data}], [properties{completion-mode}]
 *
 *   1  every action is looked at: shapes, disks, names,       nothing was done
 *      targets of jobs
 *   2  what the guest writes from here on is recorded for the jobs (job-gap.h)
 *   3  between two requests of the guest, and while no checkpoint looks: the
 *      bitmaps are changed, one action after the other; the first that fails
 *      takes all of them back
 *   4  what they are now becomes durable
 *   5  the jobs begin, at one instant of their own (jobs.h), or none of them
 *   6  if they cannot, the bitmaps are taken back, durably, once the jobs have let
 *      go of them
 *
 * Later actions see what earlier ones did: a bitmap may be added, filled from
 * others, and be what a backup copies. So it is in 3 that bitmaps are merged, and
 * the guest's requests wait for that, as in QEMU, which stops all I/O for a
 * transaction: 4 ms for a disk of 1 TiB with grains of 64 KiB, 60 ms with grains
 * of 4 KiB. Nothing else in 3 takes time, and no file is looked at. While 5 is under way, which may take a
 * sync and a hook's time, nobody else changes a bitmap or begins a job; a second
 * transaction is refused.
 *
 * What a crash between 4 and 6 leaves is what 4 made durable: bitmaps changed, no
 * job. In 4 each disk is saved by itself (store-bitmaps-save.c): a crash may leave
 * those of one disk changed and not yet those of the next, and what was to be
 * cleared with what it had; each mark is in one of them. The client was not
 * answered.
 *
 * completion-mode is the jobs': with "grouped" one that fails, or is cancelled,
 * takes the others along.
 */
#include "control-commands.h"

#include "bitmap-order.h"
#include "store-bitmaps.h"

#include <string.h>

#define ACTIONS_MAX 1024
#define LET_GO_MS   10 /* and look again */

enum ActionKind { ACTION_ABORT, ACTION_BITMAP, ACTION_JOB };

static const struct ActionType {
    const char *name;
    enum ActionKind kind;
    int what; /* enum BitmapVerb, enum JobKind */
    const struct ArgumentRule *rules;
} types[] = {
    {"block-dirty-bitmap-add", ACTION_BITMAP, BITMAP_ADD, bitmap_add_rules},
    {"block-dirty-bitmap-remove", ACTION_BITMAP, BITMAP_REMOVE,
     bitmap_name_rules},
    {"block-dirty-bitmap-clear", ACTION_BITMAP, BITMAP_CLEAR,
     bitmap_name_rules},
    {"block-dirty-bitmap-enable", ACTION_BITMAP, BITMAP_ENABLE,
     bitmap_name_rules},
    {"block-dirty-bitmap-disable", ACTION_BITMAP, BITMAP_DISABLE,
     bitmap_name_rules},
    {"block-dirty-bitmap-merge", ACTION_BITMAP, BITMAP_MERGE,
     bitmap_merge_rules},
    {"blockdev-backup", ACTION_JOB, JOB_BACKUP, job_backup_rules},
    {"blockdev-mirror", ACTION_JOB, JOB_MIRROR, job_mirror_rules},
    {"abort", ACTION_ABORT, 0, NULL},
};

struct Action {
    const struct ActionType *type;
    JsonObject *data; /* borrowed, of the command */
    BitmapOrder order;
    uint64_t id;  /* of a bitmap that is added */
    JobSpec spec; /* until it is one of the transaction's */
};

/* Of a bitmap before the first action that is about it. */
struct Before {
    Disk *disk;
    const char *name; /* borrowed, of an order */
    NamedUndo *undo;
};

struct Transaction {
    Daemon *daemon;
    ControlCall *call;
    bool is_grouped;
    struct Action *actions;
    guint n_actions;
    guint n_done;                     /* actions, of all */
    GArray *specs;                    /* JobSpec */
    GArray *before;                   /* struct Before */
    bool is_touched[STORE_DISKS_MAX]; /* by Disk.index: its bitmaps */
    GError *error;
    guint retry;
};

bool
control_is_amid_transaction(const Daemon *daemon, GError **error)
{
    if (daemon->transaction == NULL) {
        return false;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                "a transaction is under way: try again when it is answered");
    return true;
}

/*
 * Its end
 */
static void
transaction_free(struct Transaction *it)
{
    for (guint i = 0; i < it->n_actions; i++) {
        bitmap_order_clear(&it->actions[i].order);
        job_spec_clear(&it->actions[i].spec);
        if (it->actions[i].data != NULL) {
            json_object_unref(it->actions[i].data);
        }
    }
    for (guint i = 0; i < it->before->len; i++) {
        named_undo_free(g_array_index(it->before, struct Before, i).undo);
    }
    g_clear_handle_id(&it->retry, g_source_remove);
    g_clear_error(&it->error);
    g_clear_pointer(&it->specs, g_array_unref);
    g_array_unref(it->before);
    g_free(it->actions);
    g_free(it);
}

static void
answer(struct Transaction *it)
{
    GError *error = g_steal_pointer(&it->error);
    ControlCall *call = it->call;

    if (it->daemon->transaction == it) {
        it->daemon->transaction = NULL;
    }
    transaction_free(it);
    control_answer(call, error == NULL, error);
}

/* With the checkpoint_lock. One that was added goes first: it may have the name of
 * one that was removed. */
static void
undo_all(struct Transaction *it)
{
    for (guint i = it->n_done; i > 0; i--) {
        const struct Action *action = &it->actions[i - 1];
        const BitmapOrder *order = &action->order;
        struct NamedFigures figures;

        if (action->id != 0 &&
            named_get(order->disk->bitmaps, action->id, &figures)) {
            (void)named_remove(order->disk->bitmaps, order->name);
        }
    }
    for (guint i = 0; i < it->before->len; i++) {
        named_undo_run(g_array_index(it->before, struct Before, i).undo);
    }
    g_array_set_size(it->before, 0);
}

static gboolean
save_all(struct Transaction *it, GError **error)
{
    const Store *store = it->daemon->store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        if (it->is_touched[i] &&
            !store_bitmaps_save(it->daemon->store, store->disks[i], error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/* As before, at one instant for checkpoints, too. What cannot be saved now the
 * next one saves. */
static void
take_back(struct Transaction *it)
{
    GMutex *lock = &it->daemon->store->checkpoint_lock;
    g_autoptr(GError) error = NULL;

    g_mutex_lock(lock);
    undo_all(it);
    g_mutex_unlock(lock);
    if (!save_all(it, &error)) {
        g_warning("a transaction was taken back, which cannot be kept yet: %s",
                  error->message);
    }
    answer(it);
}

/* The daemon ends: whoever waits is told, and what can be is taken back. */
void
control_transaction_stop(Daemon *daemon)
{
    struct Transaction *it = daemon->transaction;

    if (it != NULL) {
        if (it->error == NULL) {
            g_set_error(&it->error, STORE_ERROR, STORE_ERROR_FAILED,
                        "the daemon is stopping");
        }
        take_back(it);
    }
}

/*
 * 1
 */
static const struct ActionType *
find_type(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

/* All of it but for its bitmap: key files and the target's path may be on a file
 * system that takes its time. */
static gboolean
parse_job(struct Transaction *it, struct Action *action, GError **error)
{
    JobSpec *spec = &action->spec;

    if (!control_has_jobs(it->daemon, error) ||
        !job_spec_parse(it->daemon->store, (enum JobKind)action->type->what,
                        action->data, spec, error) ||
        !control_check_job(it->daemon, spec, error)) {
        return FALSE;
    }
    if (spec->bitmap != NULL) {
        spec->gap = job_gap_new(spec->disk->map);
        if (spec->gap == NULL) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "no memory");
            return FALSE;
        }
    }
    return TRUE;
}

/* What takes back whatever is done with it. The copy that this keeps takes its
 * time, so it is made here, where the guest does not wait. */
static gboolean
remember(struct Transaction *it, const BitmapOrder *order, GError **error)
{
    struct Before before = {.disk = order->disk, .name = order->name};

    for (guint i = 0; i < it->before->len; i++) {
        const struct Before *other =
            &g_array_index(it->before, struct Before, i);

        if (other->disk == order->disk &&
            strcmp(other->name, order->name) == 0) {
            return TRUE;
        }
    }
    before.undo = named_undo_new(order->disk->bitmaps, order->name);
    if (before.undo == NULL) {
        store_bitmap_set_error(error, NAMED_NO_MEMORY, order->disk,
                               order->name);
        return FALSE;
    }
    g_array_append_val(it->before, before);
    return TRUE;
}

static gboolean
parse_bitmap(struct Transaction *it, struct Action *action, GError **error)
{
    enum BitmapVerb verb = (enum BitmapVerb)action->type->what;
    Store *store = it->daemon->store;
    int64_t id;

    if (!bitmap_order_parse(store, verb, action->data, &action->order, error) ||
        !remember(it, &action->order, error)) {
        return FALSE;
    }
    it->is_touched[action->order.disk->index] = true;
    if (verb == BITMAP_ADD) {
        id = store_bitmap_next_id(store);
        if (id < 0) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                        "no bitmap can be added: the log says why");
            return FALSE;
        }
        action->id = (uint64_t)id;
    }
    return TRUE;
}

static const struct ArgumentRule action_rules[] = {
    {"type", ARGUMENT_STRING, true},
    {"data", ARGUMENT_OBJECT, false},
    {NULL, 0, false},
};
static const struct ArgumentRule abort_rules[] = {{NULL, 0, false}};

static gboolean
parse_action(struct Transaction *it, struct Action *action, JsonNode *node,
             GError **error)
{
    JsonObject *object;

    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Invalid parameter type for 'actions', expected: object");
        return FALSE;
    }
    object = json_node_get_object(node);
    if (!arguments_check(object, action_rules, error)) {
        return FALSE;
    }
    action->type = find_type(argument_string(object, "type"));
    if (action->type == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Parameter 'type' does not accept value '%s'",
                    argument_string(object, "type"));
        return FALSE;
    }
    action->data =
        json_object_has_member(object, "data")
            ? json_object_ref(json_object_get_object_member(object, "data"))
            : json_object_new();
    if (!arguments_check(action->data,
                         action->type->kind == ACTION_ABORT
                             ? abort_rules
                             : action->type->rules,
                         error)) {
        return FALSE;
    }
    return action->type->kind == ACTION_JOB ? parse_job(it, action, error)
           : action->type->kind == ACTION_BITMAP
               ? parse_bitmap(it, action, error)
               : TRUE;
}

static const struct ArgumentRule properties_rules[] = {
    {"completion-mode", ARGUMENT_STRING, false},
    {NULL, 0, false},
};

static gboolean
parse_properties(struct Transaction *it, JsonObject *arguments, GError **error)
{
    JsonObject *properties;
    const char *mode;

    if (!json_object_has_member(arguments, "properties")) {
        return TRUE;
    }
    properties = json_object_get_object_member(arguments, "properties");
    if (!arguments_check(properties, properties_rules, error)) {
        return FALSE;
    }
    mode = argument_string(properties, "completion-mode");
    it->is_grouped = mode != NULL && strcmp(mode, "grouped") == 0;
    if (mode != NULL && !it->is_grouped && strcmp(mode, "individual") != 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "Parameter 'completion-mode' does not accept value '%s'",
                    mode);
        return FALSE;
    }
    return TRUE;
}

static gboolean
parse(struct Transaction *it, JsonObject *arguments, GError **error)
{
    JsonArray *actions = json_object_get_array_member(arguments, "actions");
    guint count = json_array_get_length(actions);

    if (count > ACTIONS_MAX) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "more than %d actions", ACTIONS_MAX);
        return FALSE;
    }
    if (!parse_properties(it, arguments, error)) {
        return FALSE;
    }
    it->actions = g_new0(struct Action, count);
    while (it->n_actions < count) {
        guint i = it->n_actions++;

        if (!parse_action(it, &it->actions[i],
                          json_array_get_element(actions, i), error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/*
 * 3, between two requests
 */
/* Its bitmap is looked at as it is at its place among the actions. */
static gboolean
do_job(struct Transaction *it, struct Action *action, GError **error)
{
    if (!job_spec_check_bitmap(&action->spec, error)) {
        return FALSE;
    }
    g_array_append_val(it->specs, action->spec);
    action->spec = (JobSpec){0};
    return TRUE;
}

static gboolean
do_action(struct Transaction *it, struct Action *action, GError **error)
{
    switch (action->type->kind) {
    case ACTION_BITMAP:
        return bitmap_order_apply(&action->order, action->id, error);
    case ACTION_JOB:
        return do_job(it, action, error);
    case ACTION_ABORT:
        break;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                "Transaction aborted using Abort action");
    return FALSE;
}

static void
step_cb(void *user)
{
    struct Transaction *it = user;

    while (it->n_done < it->n_actions &&
           do_action(it, &it->actions[it->n_done], &it->error)) {
        it->n_done++;
    }
    if (it->error != NULL) {
        undo_all(it);
    }
}

/*
 * 4 to 6
 */
static bool
are_let_go(const struct Transaction *it)
{
    struct NamedFigures figures;

    for (guint i = 0; i < it->n_actions; i++) {
        const BitmapOrder *order = &it->actions[i].order;

        if (order->name != NULL &&
            named_find(order->disk->bitmaps, order->name, &figures) &&
            figures.is_busy) {
            return false;
        }
    }
    return true;
}

static gboolean
let_go_cb(gpointer user)
{
    struct Transaction *it = user;

    if (!are_let_go(it)) {
        return G_SOURCE_CONTINUE;
    }
    it->retry = 0;
    take_back(it);
    return G_SOURCE_REMOVE;
}

static void
begun_cb(void *user, const GError *error)
{
    struct Transaction *it = user;

    if (error == NULL) {
        answer(it);
        return;
    }
    it->error = g_error_copy(error);
    if (are_let_go(it)) {
        take_back(it);
    } else {
        it->retry = g_timeout_add(LET_GO_MS, let_go_cb, it);
    }
}

/* Which may be over, and @it with it, when this returns. */
static void
begin_jobs(struct Transaction *it)
{
    g_autoptr(GArray) specs = g_steal_pointer(&it->specs);

    it->daemon->transaction = it;
    jobs_start(it->daemon->jobs, (JobSpec *)(void *)specs->data, specs->len,
               it->is_grouped, begun_cb, it);
}

static void
carry_out(struct Transaction *it)
{
    Daemon *daemon = it->daemon;
    GMutex *lock = &daemon->store->checkpoint_lock;

    g_mutex_lock(lock);
    if (daemon->face != NULL) {
        face_between(daemon->face, step_cb, it);
    } else {
        step_cb(it);
    }
    g_mutex_unlock(lock);
    if (it->error != NULL) {
        answer(it);
    } else if (!save_all(it, &it->error)) {
        take_back(it);
    } else if (it->specs->len == 0) {
        answer(it);
    } else {
        begin_jobs(it);
    }
}

static void
run(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    GError *error = NULL;
    struct Transaction *it;

    if (control_is_amid_transaction(daemon, &error)) {
        control_answer_error(call, error);
        return;
    }
    it = g_new0(struct Transaction, 1);
    it->daemon = daemon;
    it->call = call;
    it->specs = g_array_new(FALSE, FALSE, sizeof(JobSpec));
    g_array_set_clear_func(it->specs, (GDestroyNotify)job_spec_clear);
    it->before = g_array_new(FALSE, FALSE, sizeof(struct Before));
    if (!parse(it, arguments, &it->error)) {
        answer(it);
        return;
    }
    carry_out(it);
}

static const struct ArgumentRule rules[] = {
    {"actions", ARGUMENT_ARRAY, true},
    {"properties", ARGUMENT_OBJECT, false},
    {NULL, 0, false},
};

const struct ControlCommand control_transaction_commands[] = {
    {"transaction", run, rules, false},
    {NULL, NULL, NULL, false},
};
