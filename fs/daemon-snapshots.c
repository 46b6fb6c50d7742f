/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon-snapshots.c - the manager of snapshots in a daemon, and .snapshots
 *
 * mkdir and rmdir in MNT/.snapshots come as notes of the face. The fs thread
 * waits for neither: the request is answered when the snapshot is made, or
 * nobody sees it any more. What went wrong is an errno there, so it is told
 * apart here by what can be seen: a name that is no name, or is taken, no room,
 * and else EIO, with the words in the log.
 */
#include "daemon-private.h"

#include <errno.h>
#include <string.h>

/* Somebody made a directory. */
struct Making {
    Daemon *daemon;
    FaceNote *note;
    char *name;
};

static bool
is_held(void *user, uint64_t id)
{
    const Daemon *daemon = user;

    return daemon->cuts != NULL && cuts_holds_snapshot(daemon->cuts, id);
}

void
daemon_snapshots_build(Daemon *daemon)
{
    struct SnapshotsConfig config = {
        .store = daemon->store,
        .face = daemon->face,
        .is_held = is_held,
        .event = daemon_event,
        .user = daemon,
    };

    daemon->snapshots = snapshots_new(&config);
    snapshots_look(daemon->snapshots);
}

static int
errno_of(const Daemon *daemon, const char *name, const GError *error)
{
    if (g_error_matches(error, STORE_ERROR, STORE_ERROR_FULL)) {
        return -ENOSPC;
    }
    if (g_error_matches(error, STORE_ERROR, STORE_ERROR_BUSY)) {
        return -EBUSY;
    }
    if (name != NULL &&
        snapshot_list_find(daemon->store->snapshots, name, NULL)) {
        return -EEXIST;
    }
    if (g_error_matches(error, STORE_ERROR, STORE_ERROR_USAGE)) {
        return -EINVAL;
    }
    return -EIO;
}

static void
made_cb(void *user, const Snapshot *snapshot, const GError *error)
{
    struct Making *making = user;

    (void)snapshot;
    if (error != NULL) {
        making->note->error = errno_of(making->daemon, making->name, error);
        g_message("mkdir .snapshots/%s: %s", making->name, error->message);
    }
    face_answer(making->daemon->face, making->note);
    g_free(making->name);
    g_free(making);
}

static void
create(Daemon *daemon, FaceNote *note)
{
    struct Making *making = g_new0(struct Making, 1);

    making->daemon = daemon;
    making->note = note;
    making->name = g_strdup(note->text);
    note->error = 0;
    snapshots_create(daemon->snapshots, making->name, "mount", made_cb, making);
}

static int delete (Daemon *daemon, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    Snapshot snapshot;

    if (!snapshot_list_get(daemon->store->snapshots, id, &snapshot)) {
        return -ENOENT;
    }
    if (snapshots_delete(daemon->snapshots, snapshot.name, &error)) {
        return 0;
    }
    g_message("rmdir .snapshots/%s: %s", snapshot.name, error->message);
    return errno_of(daemon, NULL, error);
}

static int
tell(Daemon *daemon, FaceNote *note)
{
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    Snapshot snapshot;

    if (!snapshot_list_get(daemon->store->snapshots, note->seq, &snapshot)) {
        return -ENOENT;
    }
    node = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(node, snapshot_json(daemon->store, &snapshot));
    text = json_to_string(node, TRUE);
    note->text = g_strconcat(text, "\n", NULL);
    note->len = strlen(note->text);
    return 0;
}

void
daemon_snapshot_note(Daemon *daemon, FaceNote *note)
{
    if (note->kind == FACE_NOTE_SNAPSHOT_INFO) {
        note->error = tell(daemon, note);
    } else if (daemon->snapshots == NULL) {
        note->error = -EBUSY; /* about to end */
    } else if (note->kind == FACE_NOTE_SNAPSHOT_CREATE) {
        if (store_name_is_valid(note->text)) {
            create(daemon, note);
            return;
        }
        note->error = -EINVAL;
    } else {
        note->error = delete (daemon, note->seq);
    }
    face_answer(daemon->face, note);
}
