/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status-text.c - status.json for people: 80 columns, the answer first
 *
 *   vm1  2 disks  DRAINING  12.3 GiB to upload, ~41 min at 5.1 MiB/s
 *     oldest not at the target: 01:02:03 (38 min ago)
 *     guest writes 1.2 MiB/s   buffer 18.0 of 100 GiB (18%)   throttled no
 *     3 snapshots keep 1.2 GiB   last: daily of 00:00:01 (62 min ago)
 *     vda  20 GiB  12.3 GiB to upload  online  nbds://backup/vm1
 *     job j0  backup of vda  running  40%, 6.1 GiB to copy  online  nbds://b/x
 *
 * The first line answers "is it all there, and if not, when will it be?". It
 * is made to fit into 80 columns by shortening the name of the store, never
 * the answer. Lines below it give way in the target's address, which is what
 * the reader knows anyway.
 *
 * Everything is computed from the JSON document: the command line receives
 * nothing else, and a person must not read anything that a program cannot.
 */
#include "status.h"

#include <string.h>

static gint64
get_int(JsonObject *object, const char *name)
{
    return json_object_get_int_member_with_default(object, name, 0);
}

static const char *
get_text(JsonObject *object, const char *name)
{
    return json_object_get_string_member_with_default(object, name, NULL);
}

static gboolean
is_known(JsonObject *object, const char *name)
{
    return json_object_has_member(object, name) &&
           !json_object_get_null_member(object, name);
}

static JsonObject *
get_object(JsonObject *object, const char *name)
{
    return json_object_get_object_member(object, name);
}

char *
status_size(double bytes)
{
    static const char *const units[] = {"B",   "KiB", "MiB", "GiB",
                                        "TiB", "PiB", "EiB"};
    unsigned unit = 0;

    while (bytes >= 1023.5 && unit + 1 < G_N_ELEMENTS(units)) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0 || bytes >= 99.95 || bytes == (double)(gint64)bytes) {
        return g_strdup_printf("%.0f %s", bytes, units[unit]);
    }
    return g_strdup_printf("%.1f %s", bytes, units[unit]);
}

char *
status_duration(double seconds)
{
    if (seconds < 90) {
        return g_strdup_printf("%.0f s", seconds);
    }
    if (seconds < 90 * 60) {
        return g_strdup_printf("%.0f min", seconds / 60);
    }
    if (seconds < 48 * 3600) {
        return g_strdup_printf("%.1f h", seconds / 3600);
    }
    return g_strdup_printf("%.0f days", seconds / 86400);
}

/* "01:02:03 (38 min ago)" by the local clock, with the date if it is old. */
static char *
instant(JsonObject *status, const char *stamp)
{
    g_autoptr(GDateTime) when = g_date_time_new_from_iso8601(stamp, NULL);
    const char *now_text = get_text(status, "time");
    g_autoptr(GDateTime) now =
        now_text != NULL ? g_date_time_new_from_iso8601(now_text, NULL)
                         : g_date_time_new_now_utc();
    g_autoptr(GDateTime) local = NULL;
    g_autofree char *clock = NULL;
    g_autofree char *ago = NULL;
    double seconds;

    if (when == NULL || now == NULL) {
        return g_strdup(stamp);
    }
    seconds = (double)g_date_time_difference(now, when) / 1e6;
    local = g_date_time_to_local(when);
    clock = g_date_time_format(local,
                               seconds < 20 * 3600 ? "%H:%M:%S" : "%F %H:%M");
    ago = status_duration(MAX(seconds, 0));
    return g_strdup_printf("%s (%s ago)", clock, ago);
}

/* What is still to do, in words. */
static char *
to_upload(JsonObject *status)
{
    gint64 dirty = get_int(status, "dirty_bytes");
    JsonObject *rates = get_object(status, "rates");
    g_autofree char *size = status_size((double)dirty);
    g_autofree char *rate = NULL;
    g_autofree char *eta = NULL;

    if (dirty == 0) {
        return g_strdup("all at the target");
    }
    rate = status_size((double)get_int(rates, "upload_bps"));
    if (is_known(status, "eta_seconds")) {
        eta = status_duration((double)get_int(status, "eta_seconds"));
        return g_strdup_printf("%s to upload, ~%s at %s/s", size, eta, rate);
    }
    if (json_object_get_boolean_member(status, "diverging")) {
        return g_strdup_printf("%s to upload, growing (%s/s)", size, rate);
    }
    if (get_int(rates, "upload_bps") > 0) {
        return g_strdup_printf("%s to upload at %s/s", size, rate);
    }
    return g_strdup_printf("%s to upload", size);
}

static gboolean
has_any_target(JsonObject *status)
{
    JsonArray *disks = json_object_get_array_member(status, "disks");

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        if (is_known(json_array_get_object_element(disks, i), "target")) {
            return TRUE;
        }
    }
    return FALSE;
}

static char *
answer(JsonObject *status)
{
    g_autofree char *what = has_any_target(status)
                                ? to_upload(status)
                                : g_strdup("no target: nothing to upload");

    return json_object_get_boolean_member(status, "throttled")
               ? g_strconcat("writes wait for room; ", what, NULL)
               : g_steal_pointer(&what);
}

static char *
first_line(JsonObject *status, unsigned columns)
{
    JsonArray *disks = json_object_get_array_member(status, "disks");
    guint n = json_array_get_length(disks);
    g_autofree char *name = g_path_get_basename(get_text(status, "store"));
    g_autofree char *state = g_ascii_strup(get_text(status, "state"), -1);
    g_autofree char *what = answer(status);
    g_autofree char *rest = g_strdup_printf(
        "  %u disk%s  %s  %s%s", n, n == 1 ? "" : "s", state, what,
        json_object_get_boolean_member(status, "mounted") ? ""
                                                          : ", not mounted");
    gsize room = columns > strlen(rest) ? columns - strlen(rest) : 1;

    if (strlen(name) > room) {
        name[room] = '\0';
    }
    return g_strconcat(name, rest, NULL);
}

/* Add @line, cut at @columns. */
static void
add_line(GString *text, const char *line, unsigned columns)
{
    if (g_utf8_strlen(line, -1) > (glong)columns) {
        g_autofree char *head = g_utf8_substring(line, 0, columns - 3);

        g_string_append_printf(text, "%s...\n", head);
    } else {
        g_string_append_printf(text, "%s\n", line);
    }
}

/* The way out stands at the end of an error: it is wrapped, never cut. */
static void
add_wrapped(GString *text, const char *words, unsigned columns)
{
    g_auto(GStrv) list = g_strsplit_set(words, " \n\r\t", -1);
    g_autoptr(GString) line = g_string_new("   ");

    for (char **word = list; *word != NULL; word++) {
        if (line->len > 3 && line->len + 1 + strlen(*word) > columns) {
            add_line(text, line->str, columns);
            g_string_assign(line, "   ");
        }
        g_string_append_printf(line, " %s", *word);
    }
    add_line(text, line->str, columns);
}

static void
add_disk(GString *text, JsonObject *disk, unsigned columns)
{
    g_autofree char *size = status_size((double)get_int(disk, "size_bytes"));
    g_autofree char *dirty = status_size((double)get_int(disk, "dirty_bytes"));
    const char *target = get_text(disk, "target");
    const char *flaw = get_text(disk, "target_error");
    g_autofree char *line = NULL;

    if (target == NULL) {
        line = g_strdup_printf("  %s  %s  no target", get_text(disk, "name"),
                               size);
    } else {
        line = g_strdup_printf("  %s  %s  %s to upload  %s  %s",
                               get_text(disk, "name"), size, dirty,
                               get_text(disk, "target_state"), target);
    }
    add_line(text, line, columns);
    if (json_object_get_boolean_member(disk, "frozen")) {
        add_line(text,
                 "    FROZEN: the local disk failed a sync; writes are refused",
                 columns);
    }
    if (get_int(disk, "in_doubt_bytes") > 0) {
        g_autofree char *doubt =
            status_size((double)get_int(disk, "in_doubt_bytes"));
        g_autofree char *words = g_strdup_printf(
            "    %s in doubt after a lost connection: sent again soon", doubt);

        add_line(text, words, columns);
    }
    if (flaw != NULL) {
        add_wrapped(text, flaw, columns);
    }
}

static void
add_flow(GString *text, JsonObject *status, unsigned columns)
{
    JsonObject *buffer = get_object(status, "buffer");
    JsonObject *rates = get_object(status, "rates");
    gint64 used = get_int(buffer, "used_bytes");
    gint64 limit = get_int(buffer, "limit_bytes");
    g_autofree char *used_text = status_size((double)used);
    g_autofree char *limit_text = status_size((double)limit);
    g_autofree char *guest =
        status_size((double)get_int(rates, "guest_write_bps"));
    bool is_throttled = json_object_get_boolean_member(status, "throttled");
    g_autofree char *flow =
        is_known(rates, "guest_write_bps")
            ? g_strdup_printf("   guest writes %s/s   throttled %s", guest,
                              is_throttled ? "yes" : "no")
            : g_strdup("");
    g_autofree char *line = g_strdup_printf(
        "  buffer %s of %s (%.0f%%)%s", used_text, limit_text,
        limit > 0 ? 100.0 * (double)used / (double)limit : 0.0, flow);

    add_line(text, line, columns);
}

/* Under policy cut: what the targets are, and what could be had of them. */
static void
add_cut(GString *text, JsonObject *status, unsigned columns)
{
    JsonObject *consistent = get_object(status, "consistent");
    gint64 cut = get_int(consistent, "cut");
    gint64 pinned = get_int(consistent, "pinned");
    g_autofree char *when = instant(status, get_text(consistent, "time"));
    g_autofree char *kept =
        pinned == 0 ? g_strdup("")
        : pinned == cut
            ? g_strdup(", pinned")
            : g_strdup_printf(", pinned is %" G_GINT64_FORMAT, pinned);
    g_autofree char *line =
        g_strdup_printf("  %s cut %" G_GINT64_FORMAT " of %s%s",
                        json_object_get_boolean_member(consistent, "in_place")
                            ? "target is"
                            : "target is between cuts; last whole:",
                        cut, when, kept);

    add_line(text, line, columns);
}

/* Why there is no next cut. */
static void
add_obstacles(GString *text, JsonObject *status, unsigned columns)
{
    JsonObject *hook = get_object(status, "hook");
    const char *waits_for = get_text(get_object(status, "cuts"), "waits_for");

    if (waits_for != NULL) {
        g_autofree char *words = g_strdup_printf(
            "no cut while the target of %s is away; weir set STORE/%s group=no "
            "goes on without it",
            waits_for, waits_for);

        add_wrapped(text, words, columns);
    }
    if (get_int(hook, "failures") > 0) {
        g_autofree char *words = g_strdup_printf(
            "on-cut FAILED, %" G_GINT64_FORMAT
            " times in a row, nothing is sent until it succeeds: %s",
            get_int(hook, "failures"), get_text(hook, "error"));

        add_wrapped(text, words, columns);
    }
    if (get_text(hook, "before_degrade_error") != NULL) {
        g_autofree char *words =
            g_strdup_printf("before-degrade FAILED, cuts go on: %s",
                            get_text(hook, "before_degrade_error"));

        add_wrapped(text, words, columns);
    }
}

static void
add_snapshot_failures(GString *text, JsonObject *status, unsigned columns)
{
    JsonObject *how = json_object_has_member(status, "snapshotting")
                          ? get_object(status, "snapshotting")
                          : NULL; /* an older daemon's */
    const char *flaw = how != NULL ? get_text(how, "error") : NULL;
    const char *hook = how != NULL ? get_text(how, "hook_error") : NULL;

    if (flaw != NULL) {
        g_autofree char *words =
            g_strdup_printf("snapshot-every FAILED, tried again when the next "
                            "one is due: %s",
                            flaw);

        add_wrapped(text, words, columns);
    }
    if (hook != NULL) {
        g_autofree char *words = g_strdup_printf("hook FAILED: %s", hook);

        add_wrapped(text, words, columns);
    }
}

static void
add_snapshots(GString *text, JsonObject *status, unsigned columns)
{
    JsonArray *all = json_object_get_array_member(status, "snapshots");
    guint n = json_array_get_length(all);
    g_autofree char *size = NULL;
    g_autofree char *when = NULL;
    g_autofree char *line = NULL;
    JsonObject *last = NULL;
    double bytes = 0;

    for (guint i = 0; i < n; i++) {
        last = json_array_get_object_element(all, i);
        bytes += (double)get_int(last, "kept_bytes");
    }
    if (last != NULL) {
        size = status_size(bytes);
        when = is_known(last, "time") ? instant(status, get_text(last, "time"))
                                      : g_strdup("an unknown time");
        line = g_strdup_printf("  %u snapshot%s %s   last: %s of %s", n,
                               n == 1 ? " keeps" : "s keep", size,
                               get_text(last, "name"), when);
        add_line(text, line, columns);
    }
    add_snapshot_failures(text, status, columns);
}

static void
add_age(GString *text, JsonObject *status, unsigned columns)
{
    JsonObject *consistent = get_object(status, "consistent");
    const char *oldest = get_text(status, "oldest_unreplicated_time");
    const char *whole = get_text(consistent, "time");
    g_autofree char *when = NULL;
    g_autofree char *line = NULL;

    if (is_known(consistent, "cut")) {
        add_cut(text, status, columns);
    } else if (json_object_get_boolean_member(consistent, "in_place")) {
        when = instant(status, whole);
        line = g_strdup_printf("  target complete since %s", when);
    } else if (whole != NULL) {
        when = instant(status, whole);
        line = g_strdup_printf("  target was last complete at %s", when);
    } else if (oldest != NULL) {
        when = instant(status, oldest);
        line = g_strdup_printf("  oldest not at the target: %s", when);
    }
    if (line != NULL) {
        add_line(text, line, columns);
    }
}

/* Backups and mirrors; the relays are told of with their disks. */
static void
add_jobs(GString *text, JsonObject *status, unsigned columns)
{
    JsonArray *jobs = json_object_get_array_member(status, "jobs");

    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);
        double done = (double)get_int(job, "done_bytes");
        double total = done + (double)get_int(job, "remaining_bytes");
        const char *flaw = get_text(job, "error");
        g_autofree char *left = NULL;
        g_autofree char *line = NULL;

        if (strcmp(get_text(job, "type"), "relay") == 0) {
            continue;
        }
        left = status_size(total - done);
        line = g_strdup_printf(
            "  job %s  %s of %s  %s  %.0f%%, %s to copy  %s  %s",
            get_text(job, "id"), get_text(job, "type"), get_text(job, "disk"),
            get_text(job, "status"), total > 0 ? 100 * done / total : 100, left,
            get_text(job, "target_state"), get_text(job, "target"));
        add_line(text, line, columns);
        flaw = flaw != NULL ? flaw : get_text(job, "target_error");
        if (flaw != NULL) {
            add_wrapped(text, flaw, columns);
        }
    }
}

char *
status_text(JsonObject *status, unsigned columns)
{
    GString *text = g_string_new(NULL);
    JsonArray *disks = json_object_get_array_member(status, "disks");
    g_autofree char *head = first_line(status, columns);
    g_autofree char *room = status_room_words(status);

    add_line(text, head, columns);
    if (room != NULL) {
        add_wrapped(text, room, columns);
    }
    add_age(text, status, columns);
    add_obstacles(text, status, columns);
    add_flow(text, status, columns);
    add_snapshots(text, status, columns);
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        add_disk(text, json_array_get_object_element(disks, i), columns);
    }
    add_jobs(text, status, columns);
    return g_string_free(text, FALSE);
}

/* The share of all disks with a target that the targets hold. */
static double
share_done(JsonObject *status)
{
    JsonArray *disks = json_object_get_array_member(status, "disks");
    double size = 0, dirty = 0;

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);

        if (is_known(disk, "target")) {
            size += (double)get_int(disk, "size_bytes");
            dirty += (double)get_int(disk, "dirty_bytes");
        }
    }
    return size > 0 ? 1 - dirty / size : 1;
}

char *
status_bar(JsonObject *status, unsigned columns)
{
    double share = share_done(status);
    /* Never "100%" while something is missing. */
    g_autofree char *tail = g_strdup_printf(
        "  %.1f%% at the target", share < 1 ? MIN(share * 100, 99.9) : 100.0);
    unsigned width = columns - (unsigned)strlen(tail) - 2;
    unsigned full = (unsigned)(share * width);
    g_autofree char *on = g_strnfill(full, '#');
    g_autofree char *off = g_strnfill(width - full, '-');

    return g_strdup_printf("[%s%s]%s", on, off, tail);
}

char *
status_drain_line(JsonObject *status)
{
    g_autofree char *what = answer(status);

    return g_strdup_printf("%s, %s", get_text(status, "state"), what);
}
