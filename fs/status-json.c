/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status-json.c - the document itself
 *
 * One function per object of the document. Its promise to whoever parses it:
 * fields may be added, never renamed; sizes are bytes, times are RFC 3339 in
 * UTC, and what is not known is null, never a magic number.
 *
 * consistent{} under policy `cut`: the last whole cut, its instant, and whether
 * the targets are exactly that now. `age_seconds` is how far they lag behind:
 * the age of the cut, 0 while they are it and nothing was written since. What
 * `pinned` names is kept at the far side, by the hook.
 *
 * Under policy `none` the target is a state that the disk had only while
 * nothing at all is dirty. `in_place` says whether that is so now; `time` is
 * when it became so, or, once it is over, the last instant at which it was;
 * `age_seconds` is 0 while in place. There is no cut to name, nothing is pinned.
 */
#include "status.h"

#include "cut-hook.h"

#include <string.h>

/* Names of the file, not of the enum: they may never change. */
static const char *const link_words[RELAY_LINKS] = {
    [RELAY_OFFLINE] = "offline",   [RELAY_CONNECTING] = "connecting",
    [RELAY_CHECKING] = "checking", [RELAY_ONLINE] = "online",
    [RELAY_REFUSED] = "refused",   [RELAY_STOPPED] = "stopped",
};

void
status_set_size(JsonObject *object, const char *name, uint64_t bytes)
{
    json_object_set_int_member(object, name, (gint64)MIN(bytes, INT64_MAX));
}

void
status_set_text(JsonObject *object, const char *name, const char *text)
{
    if (text != NULL && text[0] != '\0') {
        g_autofree char *valid = g_utf8_make_valid(text, -1);

        json_object_set_string_member(object, name, valid);
    } else {
        json_object_set_null_member(object, name);
    }
}

/* An instant of the wall clock; 0 is unknown. */
static void
set_wall_time(JsonObject *object, const char *name, int64_t wall_us)
{
    g_autofree char *text = wall_us > 0 ? cut_time_text(wall_us) : NULL;

    status_set_text(object, name, text);
}

/* A monotonic instant, shown by the wall clock; 0 is unknown. */
static void
set_time(JsonObject *object, const char *name, const struct StatusInput *input,
         int64_t at_us)
{
    set_wall_time(object, name,
                  at_us > 0 ? input->wall_us - (input->now_us - at_us) : 0);
}

/* A cut's number; 0 is none. */
static void
set_cut(JsonObject *object, const char *name, uint64_t number)
{
    if (number > 0) {
        status_set_size(object, name, number);
    } else {
        json_object_set_null_member(object, name);
    }
}

static bool
is_group_dirty(const struct StatusInput *input)
{
    for (unsigned i = 0; i < input->n_disks; i++) {
        if (input->disks[i].is_cut && input->disks[i].map.dirty_clusters > 0) {
            return true;
        }
    }
    return false;
}

static JsonObject *
build_consistent_cut(const struct StatusInput *input)
{
    const struct StoreCuts *held = &input->held;
    JsonObject *object = json_object_new();
    int64_t age_us = MAX(input->wall_us - held->holds_us, 0);

    set_cut(object, "cut", held->holds);
    set_wall_time(object, "time", held->holds_us);
    if (held->holds == 0) {
        json_object_set_null_member(object, "age_seconds");
    } else {
        json_object_set_int_member(object, "age_seconds",
                                   input->in_place && !is_group_dirty(input)
                                       ? 0
                                       : age_us / G_USEC_PER_SEC);
    }
    json_object_set_boolean_member(object, "in_place", input->in_place);
    set_cut(object, "pinned", held->pinned);
    return object;
}

static JsonObject *
build_cuts(const struct StatusInput *input)
{
    const struct CutsFigures *cuts = &input->cuts;
    JsonObject *object = json_object_new();

    status_set_text(object, "state",
                    input->is_cut && input->is_served
                        ? cuts_state_name(cuts->state)
                        : NULL);
    set_cut(object, "advancing", input->held.advancing);
    status_set_text(object, "snapshot", cuts->snapshot);
    status_set_size(object, "snapshots_pending", cuts->snapshots_pending);
    status_set_text(object, "waits_for", cuts->waits_for);
    status_set_size(object, "whole", cuts->whole);
    status_set_size(object, "degraded", cuts->degraded);
    return object;
}

static JsonObject *
build_hook(const struct StatusInput *input)
{
    const struct CutsFigures *cuts = &input->cuts;
    JsonObject *object = json_object_new();

    json_object_set_boolean_member(object, "running", cuts->is_hook_running);
    json_object_set_int_member(object, "failures", cuts->hook_failures);
    status_set_text(object, "error", cuts->hook_error);
    status_set_text(object, "before_degrade_error", cuts->before_error);
    return object;
}

static JsonObject *
build_consistent(const struct StatusInput *input,
                 const struct StatusTracker *tracker)
{
    JsonObject *object = json_object_new();
    int64_t since = tracker != NULL ? tracker->clean_since_us : 0;
    int64_t whole = tracker != NULL ? tracker->whole_us : 0;

    json_object_set_null_member(object, "cut");
    set_time(object, "time", input, since != 0 ? since : whole);
    if (since != 0) {
        json_object_set_int_member(object, "age_seconds", 0);
    } else if (whole != 0) {
        json_object_set_int_member(object, "age_seconds",
                                   (input->now_us - whole) / G_USEC_PER_SEC);
    } else {
        json_object_set_null_member(object, "age_seconds");
    }
    json_object_set_boolean_member(object, "in_place", since != 0);
    json_object_set_null_member(object, "pinned");
    return object;
}

static JsonObject *
build_buffer(const struct StatusInput *input)
{
    JsonObject *object = json_object_new();
    uint64_t used = input->snapshot_bytes, aside = input->snapshot_bytes;

    for (unsigned i = 0; i < input->n_disks; i++) {
        used += input->disks[i].used_bytes;
        aside += input->disks[i].aside_bytes;
    }
    status_set_size(object, "used_bytes", used);
    status_set_size(object, "limit_bytes", used + input->host_free_bytes);
    status_set_size(object, "cow_bytes", aside);
    if (input->aside_limit_bytes) {
        status_set_size(object, "cow_limit_bytes", input->aside_limit_bytes);
    } else {
        json_object_set_null_member(object, "cow_limit_bytes");
    }
    return object;
}

/* How they are made; the list says which there are. */
static JsonObject *
build_snapshotting(const struct StatusInput *input)
{
    const struct SnapshotsFigures *snapshots = &input->snapshots;
    JsonObject *object = json_object_new();

    json_object_set_boolean_member(object, "busy", snapshots->is_busy);
    status_set_text(object, "hook_error", snapshots->hook_error);
    json_object_set_int_member(object, "every_seconds",
                               input->snapshot_every_s);
    json_object_set_int_member(object, "keep", input->snapshot_keep);
    set_time(object, "next_time", input, snapshots->next_us);
    status_set_text(object, "error", snapshots->error);
    return object;
}

static JsonObject *
build_rates(const struct StatusRates *rates)
{
    JsonObject *object = json_object_new();

    if (!rates->is_known) {
        json_object_set_null_member(object, "guest_write_bps");
        json_object_set_null_member(object, "dirty_bps");
        json_object_set_null_member(object, "upload_bps");
        return object;
    }
    status_set_size(object, "guest_write_bps", rates->written_bps);
    status_set_size(object, "dirty_bps", rates->dirty_bps);
    status_set_size(object, "upload_bps", rates->upload_bps);
    return object;
}

static const char *
target_state(const struct StatusDisk *disk)
{
    if (disk->target == NULL) {
        return "none";
    }
    return disk->has_relay ? link_words[disk->relay.core.link] : "stopped";
}

/* What the relay itself counts. */
static void
add_relay(JsonObject *object, const struct StatusDisk *disk)
{
    const struct RelayCoreFigures *core = &disk->relay.core;

    if (disk->relay.target_size_bytes != 0) {
        status_set_size(object, "target_size_bytes",
                        disk->relay.target_size_bytes);
    } else {
        json_object_set_null_member(object, "target_size_bytes");
    }
    json_object_set_int_member(object, "connections", core->conns);
    status_set_size(object, "inflight_bytes", core->inflight_bytes);
    /* After an unclean end the relay counts all of the disk. */
    status_set_size(object, "in_doubt_bytes",
                    MIN(MIN(core->doubt_clusters, disk->map.dirty_clusters)
                            << disk->cluster_bits,
                        disk->size_bytes));
    status_set_size(object, "sent_bytes", core->sent_bytes);
    status_set_size(object, "zeroed_bytes", core->zeroed_bytes);
    status_set_size(object, "equal_bytes", core->equal_bytes);
    status_set_size(object, "skipped_bytes", core->skipped_bytes);
    json_object_set_boolean_member(object, "recovering", core->is_recovering);
    status_set_size(object, "settled_bytes", core->settled_bytes);
    status_set_size(object, "upload_bps", disk->relay.upload_bps);
}

static JsonObject *
build_disk(const struct StatusInput *input, const struct StatusDisk *disk)
{
    JsonObject *object = json_object_new();

    json_object_set_string_member(object, "name", disk->name);
    status_set_size(object, "size_bytes", disk->size_bytes);
    status_set_text(object, "target", disk->target);
    json_object_set_string_member(object, "target_state", target_state(disk));
    status_set_text(object, "target_error",
                    disk->has_relay ? disk->relay.core.error : NULL);
    status_set_size(
        object, "dirty_bytes",
        MIN(disk->map.dirty_clusters << disk->cluster_bits, disk->size_bytes));
    status_set_size(
        object, "sealed_bytes",
        MIN(disk->map.sealed_clusters << disk->cluster_bits, disk->size_bytes));
    status_set_size(object, "cluster_bytes", UINT64_C(1) << disk->cluster_bits);
    status_set_size(object, "used_bytes", disk->used_bytes);
    set_time(object, "oldest_unreplicated_time", input,
             disk->target != NULL && input->is_served ? disk->map.oldest_mark_us
                                                      : 0);
    json_object_set_boolean_member(object, "group", disk->is_cut);
    json_object_set_boolean_member(object, "frozen", disk->is_frozen);
    status_set_size(object, "hot_extents", disk->map.hot_extents);
    if (disk->has_relay) {
        add_relay(object, disk);
    }
    return object;
}

static void
add_jobs(JsonArray *all, const Jobs *jobs)
{
    g_autoptr(JsonArray) own = jobs_status(jobs);

    for (guint i = 0; i < json_array_get_length(own); i++) {
        json_array_add_element(all, json_array_dup_element(own, i));
    }
}

/* The permanent relay of each disk, then backups and mirrors; `status` in QEMU's
 * words. */
static JsonArray *
build_jobs(const struct StatusInput *input)
{
    JsonArray *jobs = json_array_new();

    for (unsigned i = 0; i < input->n_disks; i++) {
        const struct StatusDisk *disk = &input->disks[i];
        JsonObject *job;

        if (disk->target == NULL || !disk->has_relay) {
            continue;
        }
        job = json_object_new();
        json_object_set_string_member(job, "id", disk->name);
        json_object_set_string_member(job, "type", "relay");
        json_object_set_string_member(job, "disk", disk->name);
        json_object_set_string_member(job, "status",
                                      input->is_paused ? "paused"
                                      : disk->map.dirty_clusters == 0
                                          ? "ready"
                                          : "running");
        status_set_size(job, "remaining_bytes",
                        disk->map.dirty_clusters << disk->cluster_bits);
        status_set_size(job, "done_bytes", disk->relay.core.settled_bytes);
        json_array_add_object_element(jobs, job);
    }
    if (input->jobs != NULL) {
        add_jobs(jobs, input->jobs);
    }
    return jobs;
}

static void
add_totals(JsonObject *root, const struct StatusInput *input)
{
    uint64_t sealed = 0, inflight = 0;
    int64_t oldest = 0;

    for (unsigned i = 0; i < input->n_disks; i++) {
        const struct StatusDisk *disk = &input->disks[i];
        int64_t mark = disk->map.oldest_mark_us;

        if (disk->target == NULL) {
            continue;
        }
        sealed += MIN(disk->map.sealed_clusters << disk->cluster_bits,
                      disk->size_bytes);
        inflight += disk->relay.core.inflight_bytes;
        if (mark > 0 && (oldest == 0 || mark < oldest)) {
            oldest = mark;
        }
    }
    /* At rest the bitmap was just read: its marks are as old as the look. */
    set_time(root, "oldest_unreplicated_time", input,
             input->is_served ? oldest : 0);
    status_set_size(root, "dirty_bytes", status_dirty_bytes(input));
    status_set_size(root, "sealed_bytes", sealed);
    status_set_size(root, "inflight_bytes", inflight);
}

JsonObject *
status_build(const struct StatusInput *input,
             const struct StatusTracker *tracker)
{
    JsonObject *root = json_object_new();
    JsonArray *disks = json_array_new();
    struct StatusRates rates;

    status_rates(input, tracker, &rates);
    json_object_set_int_member(root, "schema_version", STATUS_SCHEMA_VERSION);
    status_set_text(root, "store", input->store);
    json_object_set_boolean_member(root, "mounted", input->mountpoint != NULL);
    status_set_text(root, "mountpoint", input->mountpoint);
    json_object_set_int_member(root, "restarts", input->restarts);
    json_object_set_string_member(
        root, "takeover", input->takeover != NULL ? input->takeover : "none");
    status_set_text(root, "transport",
                    input->mountpoint == NULL ? NULL
                    : input->face.is_uring    ? "uring"
                                              : "dev");
    set_time(root, "time", input, input->now_us);
    json_object_set_string_member(
        root, "state", store_state_name(status_state(input, tracker)));
    json_object_set_object_member(root, "consistent",
                                  input->is_cut
                                      ? build_consistent_cut(input)
                                      : build_consistent(input, tracker));
    json_object_set_object_member(root, "cuts", build_cuts(input));
    json_object_set_object_member(root, "hook", build_hook(input));
    add_totals(root, input);
    json_object_set_object_member(root, "buffer", build_buffer(input));
    json_object_set_object_member(root, "rates", build_rates(&rates));
    if (rates.has_eta) {
        status_set_size(root, "eta_seconds", rates.eta_seconds);
    } else {
        json_object_set_null_member(root, "eta_seconds");
    }
    json_object_set_boolean_member(root, "diverging", rates.is_diverging);
    json_object_set_boolean_member(root, "throttled",
                                   status_is_throttled(input, tracker));
    json_object_set_object_member(root, "room",
                                  status_room_build(input, tracker));
    for (unsigned i = 0; i < input->n_disks; i++) {
        json_array_add_object_element(disks,
                                      build_disk(input, &input->disks[i]));
    }
    json_object_set_array_member(root, "disks", disks);
    json_object_set_array_member(root, "jobs", build_jobs(input));
    json_object_set_object_member(root, "snapshotting",
                                  build_snapshotting(input));
    json_object_set_array_member(root, "snapshots",
                                 input->of != NULL ? snapshots_json(input->of)
                                                   : json_array_new());
    return root;
}

char *
status_json(const struct StatusInput *input,
            const struct StatusTracker *tracker)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;

    json_node_take_object(node, status_build(input, tracker));
    text = json_to_string(node, TRUE);
    return g_strconcat(text, "\n", NULL);
}
