/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status-room.c - is there room for old content, and if not, what to do
 *
 *   ample
 *   low     what snapshots keep is LOW of buffer-size, or the host's room is
 *           about to end while there are snapshots; over at LOW_OVER
 *   full    guest writes wait for room, or did in the last seconds, or were
 *           refused then (fs/face-room.c)
 *
 * The guest is told by time and ENOSPC; whoever runs the store by this, with
 * the way out: the oldest snapshots, since what those keep no other one needs,
 * and the setting, if that is what the room ends at.
 */
#include "status.h"

#include "snapshot.h"

#define HINDERED_US  (5 * G_USEC_PER_SEC) /* so long it is shown */
#define LOW          7                    /* of 8 */
#define LOW_OVER     6
#define OLDEST_SHOWN 3

static const char *const room_names[ROOMS] =
    {[ROOM_AMPLE] = "ample", [ROOM_LOW] = "low", [ROOM_FULL] = "full"};

const char *
status_room_name(enum RoomState room)
{
    return room_names[room];
}

static bool
is_above(const struct StatusInput *input, unsigned eighths)
{
    uint64_t limit = input->aside_limit_bytes;

    return limit > 0 && input->snapshot_bytes / eighths >= limit / 8;
}

static bool
is_low(const struct StatusInput *input, const struct StatusTracker *tracker)
{
    return is_above(input, tracker->room == ROOM_AMPLE ? LOW : LOW_OVER) ||
           (input->is_tight &&
            (input->n_snapshots > 0 || input->has_hidden_snapshots));
}

static bool
is_recent(const struct StatusInput *input, int64_t at_us)
{
    return at_us > 0 && input->now_us - at_us < HINDERED_US;
}

bool
status_is_throttled(const struct StatusInput *input,
                    const struct StatusTracker *tracker)
{
    return tracker != NULL &&
           (tracker->room == ROOM_FULL || is_recent(input, tracker->slowed_us));
}

void
status_room_update(struct StatusTracker *tracker,
                   const struct StatusInput *input)
{
    uint64_t hindered = input->face.starvations + input->face.refused;

    if (input->face.starved > 0 || hindered != tracker->hindered) {
        tracker->hindered_us = input->now_us;
    }
    if (input->face.slowed != tracker->slowed) {
        tracker->slowed_us = input->now_us;
    }
    tracker->hindered = hindered;
    tracker->slowed = input->face.slowed;
    tracker->room = is_recent(input, tracker->hindered_us) ? ROOM_FULL
                    : is_low(input, tracker)               ? ROOM_LOW
                                                           : ROOM_AMPLE;
}

JsonObject *
status_room_build(const struct StatusInput *input,
                  const struct StatusTracker *tracker)
{
    JsonObject *object = json_object_new();
    const struct FaceFigures *face = &input->face;

    json_object_set_string_member(
        object, "state",
        status_room_name(tracker != NULL ? tracker->room : ROOM_AMPLE));
    json_object_set_int_member(object, "waiting_writes", (gint64)face->starved);
    json_object_set_int_member(object, "refused_writes", (gint64)face->refused);
    return object;
}

/*
 * In words, from the JSON
 */

/* "a (1.2 GiB), b (300 MiB)"; NULL: none keeps anything. */
static char *
name_oldest(JsonObject *status)
{
    JsonArray *all = json_object_get_array_member(status, "snapshots");
    g_autoptr(GString) text = g_string_new(NULL);
    unsigned shown = 0;

    for (guint i = 0; i < json_array_get_length(all) && shown < OLDEST_SHOWN;
         i++) {
        JsonObject *one = json_array_get_object_element(all, i);
        gint64 bytes =
            json_object_get_int_member_with_default(one, "kept_bytes", 0);
        g_autofree char *size = status_size((double)bytes);

        if (bytes > 0) {
            g_string_append_printf(text, "%s%s (%s)", shown > 0 ? ", " : "",
                                   json_object_get_string_member(one, "name"),
                                   size);
            shown++;
        }
    }
    return shown > 0 ? g_strdup(text->str) : NULL;
}

/* Does the room end at buffer-size, or at the host's? */
static char *
name_limit(JsonObject *status)
{
    JsonObject *buffer = json_object_get_object_member(status, "buffer");
    gint64 limit =
        json_object_get_int_member_with_default(buffer, "cow_limit_bytes", 0);
    gint64 used =
        json_object_get_int_member_with_default(buffer, "cow_bytes", 0);
    g_autofree char *size = status_size((double)limit);

    return limit > 0 && used / LOW_OVER >= limit / 8
               ? g_strdup_printf("raise buffer-size (now %s)", size)
               : g_strdup("make room on this host's file system");
}

/* " or weir job cancel STORE a": jobs that hold an instant keep old content as
 * well. */
static char *
name_jobs(JsonObject *status)
{
    JsonArray *all = json_object_has_member(status, "jobs")
                         ? json_object_get_array_member(status, "jobs")
                         : NULL; /* an older daemon's */
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; all != NULL && i < json_array_get_length(all); i++) {
        JsonObject *job = json_array_get_object_element(all, i);

        if (json_object_get_boolean_member_with_default(
                job, "keeps_old_content", FALSE)) {
            g_string_append_printf(text, "%s%s",
                                   text->len == 0 ? " or weir job cancel STORE "
                                                  : " ",
                                   json_object_get_string_member(job, "id"));
        }
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

char *
status_room_words(JsonObject *status)
{
    JsonObject *room = json_object_has_member(status, "room")
                           ? json_object_get_object_member(status, "room")
                           : NULL; /* an older daemon's */
    const char *state =
        room != NULL ? json_object_get_string_member(room, "state") : "ample";
    g_autofree char *oldest = NULL;
    g_autofree char *limit = NULL;
    g_autofree char *what = NULL;
    g_autofree char *jobs = NULL;

    if (g_str_equal(state, "ample")) {
        return NULL;
    }
    what = g_str_equal(state, "low")
               ? g_strdup("room for old content is about to end")
               : g_strdup_printf(
                     "NO ROOM for old content that snapshots need: "
                     "%" G_GINT64_FORMAT " writes wait, %" G_GINT64_FORMAT
                     " were refused (ENOSPC)",
                     json_object_get_int_member(room, "waiting_writes"),
                     json_object_get_int_member(room, "refused_writes"));
    oldest = name_oldest(status);
    limit = name_limit(status);
    jobs = name_jobs(status);
    return oldest != NULL ? g_strdup_printf(
                                "%s; weir snapshot delete the oldest: %s;%s or "
                                "%s",
                                what, oldest, jobs, limit)
                          : g_strdup_printf("%s; %s%s", what, limit, jobs);
}
