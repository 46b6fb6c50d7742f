/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-snapshots.c - the commands about snapshots
 *
 *   weir-snapshot-create [name]                the snapshot, when it is made
 *   weir-snapshot-delete name                  {}: nobody sees it any more
 *   weir-snapshot-list                         {snapshots: [...]}
 *   weir-snapshot-diff   from [to] [disk] [extents] [start]
 *                                              see snapshots_diff()
 *
 * Creating waits for its turn, and for the hook that freezes the guest; a
 * caller that goes away meanwhile is only not told.
 */
#include "daemon-private.h"

struct Creation {
    Daemon *daemon;
    ControlCall *call;
};

/* Before they are there, and when the daemon ends. */
static bool
is_refused(Daemon *daemon, ControlCall *call)
{
    if (daemon->snapshots == NULL) {
        control_call_error(call, 3, "the daemon is about to end: try again");
        return true;
    }
    return false;
}

static void
made_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    g_autofree struct Creation *creation = user;

    if (error != NULL) {
        control_call_error(creation->call, host_exit_code(error),
                           error->message);
    } else {
        control_call_return_object(
            creation->call, snapshot_json(creation->daemon->store, snapshot));
    }
}

void
control_snapshot_create(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    const char *name = daemon_text_argument(arguments, "name");
    struct Creation *creation;

    if (name != NULL && !store_name_is_valid(name)) {
        control_call_error(call, 2, "name is not one that a snapshot can have");
        return;
    }
    if (is_refused(daemon, call)) {
        return;
    }
    creation = g_new0(struct Creation, 1);
    creation->daemon = daemon;
    creation->call = call;
    snapshots_create(daemon->snapshots, name, "user", made_cb, creation);
}

void
control_snapshot_delete(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    const char *name = daemon_text_argument(arguments, "name");
    g_autoptr(GError) error = NULL;

    if (name == NULL) {
        control_call_error(call, 2, "wants name");
        return;
    }
    if (is_refused(daemon, call)) {
        return;
    }
    if (!snapshots_delete(daemon->snapshots, name, &error)) {
        control_call_error(call, host_exit_code(error), error->message);
        return;
    }
    control_call_return_object(call, json_object_new());
}

void
control_snapshot_list(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    JsonObject *answer = json_object_new();

    (void)arguments;
    json_object_set_array_member(answer, "snapshots",
                                 snapshots_json(daemon->store));
    control_call_return_object(call, answer);
}

void
control_snapshot_diff(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    gint64 start =
        json_object_get_int_member_with_default(arguments, "start", 0);
    struct SnapshotsDiff diff = {
        .from = daemon_text_argument(arguments, "from"),
        .to = daemon_text_argument(arguments, "to"),
        .disk = daemon_text_argument(arguments, "disk"),
        .has_extents = json_object_get_boolean_member_with_default(
            arguments, "extents", FALSE),
        .start = start > 0 ? (uint64_t)start : 0,
    };
    g_autoptr(GError) error = NULL;
    JsonObject *answer;

    if (diff.from == NULL) {
        control_call_error(call, 2, "wants from: the name of a snapshot");
        return;
    }
    answer = snapshots_diff(daemon->store, &diff, &error);
    if (answer == NULL) {
        control_call_error(call, host_exit_code(error), error->message);
        return;
    }
    control_call_return_object(call, answer);
}
