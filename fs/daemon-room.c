/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon-room.c - says once when room for old content is low, full, and back
 *
 * What waits for room in the face tries again by itself; but not discards that
 * were given up for want of it, nor those that failed for another reason: once
 * a second, since no cut and no snapshot can be made before they are punched.
 */
#include "daemon-private.h"

static const char *const events[ROOMS] = {[ROOM_AMPLE] = "WEIR_ROOM_BACK",
                                          [ROOM_LOW] = "WEIR_ROOM_LOW",
                                          [ROOM_FULL] = "WEIR_ROOM_FULL"};

static void
tell(Daemon *daemon, enum RoomState room)
{
    g_autoptr(JsonObject) status =
        status_build(&daemon->input, &daemon->tracker);
    g_autofree char *words = status_room_words(status);
    JsonObject *data = status_room_build(&daemon->input, &daemon->tracker);
    JsonObject *buffer = json_object_get_object_member(status, "buffer");

    json_object_set_member(data, "cow_bytes",
                           json_object_dup_member(buffer, "cow_bytes"));
    json_object_set_member(data, "cow_limit_bytes",
                           json_object_dup_member(buffer, "cow_limit_bytes"));
    json_object_set_int_member(data, "host_free_bytes",
                               (gint64)daemon->input.host_free_bytes);
    daemon_event(daemon, events[room], data);
    if (words != NULL) {
        g_warning("%s", words);
    } else {
        g_message("there is room for old content again");
    }
}

void
daemon_look_at_room(Daemon *daemon)
{
    enum RoomState room = daemon->tracker.room;

    if (room != daemon->last_room) {
        daemon->last_room = room;
        tell(daemon, room);
    }
    for (unsigned i = 0; daemon->face != NULL && i < daemon->store->n_disks;
         i++) {
        if (atomic_load(&daemon->store->disks[i]->unpunched_bytes) > 0) {
            face_hurry(daemon->face);
        }
    }
}
