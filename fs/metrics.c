/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * metrics.c - the same figures for Prometheus
 *
 * MNT/.weir/metrics, `weir metrics` (to be written into node_exporter's
 * textfile directory by a timer) and the control socket's weir-metrics give
 * this text. Names follow prometheus.io: one prefix, base units, _total on
 * counters; all samples of one name stand together under its HELP and TYPE.
 *
 * Counters begin at zero with each start of the daemon, as counters may.
 * Samples that are not known are left out: Prometheus has no null, and a zero
 * would be a lie that pages nobody.
 */
#include "status.h"

typedef struct Metrics {
    GString *text;
    const struct StatusInput *input;
    char *store; /* escaped */
} Metrics;

/* A label's value: backslash, quote and line end are escaped. */
static char *
label_escape(const char *value)
{
    GString *text = g_string_new(NULL);

    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\n') {
            g_string_append(text, "\\n");
            continue;
        }
        if (*c == '\\' || *c == '"') {
            g_string_append_c(text, '\\');
        }
        g_string_append_c(text, *c);
    }
    return g_string_free(text, FALSE);
}

static void
put_head(Metrics *m, const char *name, const char *type, const char *help)
{
    g_string_append_printf(m->text, "# HELP weir_%s %s\n# TYPE weir_%s %s\n",
                           name, help, name, type);
}

static void
put_store(Metrics *m, const char *name, const char *type, const char *help,
          double value)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    put_head(m, name, type, help);
    g_string_append_printf(
        m->text, "weir_%s{instance_name=\"%s\"} %s\n", name, m->store,
        g_ascii_formatd(number, sizeof(number), "%.15g", value));
}

/* One name, a sample per disk; @value says false if it is not known. */
static void
put_disks(Metrics *m, const char *name, const char *type, const char *help,
          gboolean (*value)(const struct StatusInput *input,
                            const struct StatusDisk *disk, double *result))
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    put_head(m, name, type, help);
    for (unsigned i = 0; i < m->input->n_disks; i++) {
        const struct StatusDisk *disk = &m->input->disks[i];
        double result;

        if (value(m->input, disk, &result)) {
            g_ascii_formatd(number, sizeof(number), "%.15g", result);
            g_string_append_printf(
                m->text, "weir_%s{instance_name=\"%s\",disk=\"%s\"} %s\n", name,
                m->store, disk->name, number);
        }
    }
}

/*
 * One value of one disk
 */
#define DISK_VALUE(NAME, KNOWN, EXPRESSION)                             \
    static gboolean NAME(const struct StatusInput *input,               \
                         const struct StatusDisk *disk, double *result) \
    {                                                                   \
        (void)input;                                                    \
        *result = (double)(EXPRESSION);                                 \
        return (KNOWN);                                                 \
    }

#define OWES   (disk->target != NULL)
#define RELAYS (disk->target != NULL && disk->has_relay)

DISK_VALUE(disk_size, TRUE, disk->size_bytes)
DISK_VALUE(disk_used, TRUE, disk->used_bytes)
DISK_VALUE(disk_frozen, TRUE, disk->is_frozen)
DISK_VALUE(disk_hot, OWES && input->is_served, disk->map.hot_extents)
DISK_VALUE(disk_dirty, OWES,
           MIN(disk->map.dirty_clusters << disk->cluster_bits,
               disk->size_bytes))
DISK_VALUE(disk_age, OWES && input->is_served,
           disk->map.oldest_mark_us > 0
               ? (double)(input->now_us - disk->map.oldest_mark_us) / 1e6
               : 0)
DISK_VALUE(disk_up, RELAYS, disk->relay.core.link == RELAY_ONLINE)
DISK_VALUE(disk_inflight, RELAYS, disk->relay.core.inflight_bytes)
DISK_VALUE(disk_doubt, RELAYS,
           MIN(disk->relay.core.doubt_clusters, disk->map.dirty_clusters)
               << disk->cluster_bits)
DISK_VALUE(disk_sent, RELAYS, disk->relay.core.sent_bytes)
DISK_VALUE(disk_ahead, RELAYS, disk->relay.core.ahead_bytes)
DISK_VALUE(disk_settled, RELAYS, disk->relay.core.settled_bytes)
DISK_VALUE(disk_saved, RELAYS,
           disk->relay.core.equal_bytes + disk->relay.core.zeroed_bytes +
               disk->relay.core.skipped_bytes)
DISK_VALUE(disk_skipped, RELAYS, disk->relay.core.skipped_bytes)
DISK_VALUE(disk_commits, RELAYS, disk->relay.core.log_commits)
DISK_VALUE(disk_recovering, RELAYS, disk->relay.core.is_recovering)
DISK_VALUE(disk_reconnects, RELAYS, disk->relay.core.losses)
DISK_VALUE(disk_errors, RELAYS, disk->relay.core.errors)
DISK_VALUE(disk_flushes, RELAYS, disk->relay.core.flushes)

static void
put_all_disks(Metrics *m)
{
    put_disks(m, "disk_size_bytes", "gauge", "Size of the disk.", disk_size);
    put_disks(m, "disk_used_bytes", "gauge", "Held on this host for the disk.",
              disk_used);
    put_disks(m, "disk_frozen", "gauge",
              "1 if a local sync failed and writes are refused.", disk_frozen);
    put_disks(m, "disk_hot_extents", "gauge",
              "Extents of 4 MiB that a crash would have compared.", disk_hot);
    put_disks(m, "disk_dirty_bytes", "gauge",
              "What the disk's target does not hold.", disk_dirty);
    put_disks(m, "oldest_dirty_age_seconds", "gauge",
              "Age of the oldest write not at the target.", disk_age);
    put_disks(m, "target_up", "gauge", "1 while the target is connected.",
              disk_up);
    put_disks(m, "inflight_bytes", "gauge", "Sent or loading, not settled.",
              disk_inflight);
    put_disks(m, "in_doubt_bytes", "gauge",
              "To be rewritten and read back after a lost connection.",
              disk_doubt);
    put_disks(m, "uploaded_bytes_total", "counter",
              "Payload acknowledged by the target.", disk_sent);
    put_disks(m, "upload_ahead_bytes_total", "counter",
              "Taken before their turn, since the guest overwrote them.",
              disk_ahead);
    put_disks(m, "settled_bytes_total", "counter",
              "Clusters settled at the target, holes included.", disk_settled);
    put_disks(m, "upload_saved_bytes_total", "counter",
              "Not sent as data: equal at the target, or zero.", disk_saved);
    put_disks(m, "upload_skipped_bytes_total", "counter",
              "Not sent: the target is known to hold it.", disk_skipped);
    put_disks(m, "sent_log_writes_total", "counter",
              "Commits of the log of uploads under way.", disk_commits);
    put_disks(m, "recovering", "gauge",
              "1 while what the last end left is compared.", disk_recovering);
    put_disks(m, "target_reconnects_total", "counter", "Connections lost.",
              disk_reconnects);
    put_disks(m, "upload_errors_total", "counter",
              "Requests that the target answered by an error.", disk_errors);
    put_disks(m, "target_flushes_total", "counter", "Flushes acknowledged.",
              disk_flushes);
}

static void
put_cuts(Metrics *m)
{
    const struct StoreCuts *held = &m->input->held;
    const struct CutsFigures *cuts = &m->input->cuts;

    put_store(m, "cut_in_place", "gauge",
              "1 while the targets are exactly the last whole cut.",
              m->input->is_cut && m->input->in_place);
    if (held->holds > 0) {
        put_store(m, "cut", "gauge", "Number of the last whole cut.",
                  (double)held->holds);
        put_store(m, "cut_timestamp_seconds", "gauge", "Its instant.",
                  (double)held->holds_us / 1e6);
    }
    if (held->pinned > 0) {
        put_store(m, "cut_pinned", "gauge",
                  "Number of the last cut whose hook succeeded.",
                  (double)held->pinned);
        put_store(m, "cut_pinned_timestamp_seconds", "gauge", "Its instant.",
                  (double)held->pinned_us / 1e6);
    }
    put_store(m, "cuts_whole_total", "counter", "Cuts that were whole.",
              (double)cuts->whole);
    put_store(m, "cuts_degraded_total", "counter",
              "Cuts that lost old content.", (double)cuts->degraded);
    put_store(m, "hook_running", "gauge", "1 while on-cut runs.",
              cuts->is_hook_running);
    put_store(m, "hook_failures", "gauge", "Failures of on-cut in a row.",
              cuts->hook_failures);
    put_store(m, "hook_failures_total", "counter", "Failures of on-cut.",
              (double)cuts->hook_failed);
}

static void
put_snapshots(Metrics *m)
{
    const struct StatusInput *input = m->input;

    put_store(m, "snapshots", "gauge", "Snapshots kept.", input->n_snapshots);
    put_store(m, "snapshot_bytes", "gauge",
              "Room on this host that old content of snapshots takes.",
              (double)input->snapshot_bytes);
    if (input->last_snapshot_us != 0) {
        put_store(m, "snapshot_last_time_seconds", "gauge",
                  "Instant of the youngest one.",
                  (double)input->last_snapshot_us / 1e6);
    } else {
        put_head(m, "snapshot_last_time_seconds", "gauge",
                 "Instant of the youngest one.");
    }
}

/* @member of each job's entry in status.json; without jobs only the head. */
static void
put_jobs(Metrics *m, JsonArray *jobs, const char *name, const char *help,
         const char *member)
{
    put_head(m, name, "gauge", help);
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);

        g_string_append_printf(
            m->text,
            "weir_%s{instance_name=\"%s\",job=\"%s\",type=\"%s\",disk=\"%s\","
            "status=\"%s\"} %" G_GINT64_FORMAT "\n",
            name, m->store, json_object_get_string_member(job, "id"),
            json_object_get_string_member(job, "type"),
            json_object_get_string_member(job, "disk"),
            json_object_get_string_member(job, "status"),
            json_object_get_int_member(job, member));
    }
}

static void
put_all_jobs(Metrics *m)
{
    const Jobs *of = m->input->jobs;
    g_autoptr(JsonArray) jobs = of != NULL ? jobs_status(of) : json_array_new();

    put_jobs(m, jobs, "job_remaining_bytes", "What a job has still to copy.",
             "remaining_bytes");
    put_jobs(m, jobs, "job_done_bytes", "What it has copied.", "done_bytes");
    put_jobs(m, jobs, "job_upload_bytes_per_second", "How fast it does.",
             "upload_bps");
}

static void
put_guest(Metrics *m)
{
    const struct FaceFigures *face = &m->input->face;

    put_store(m, "guest_read_bytes_total", "counter", "Read by the guest.",
              (double)face->read_bytes);
    put_store(m, "guest_written_bytes_total", "counter",
              "Written by the guest.", (double)face->written_bytes);
    put_store(m, "guest_syncs_total", "counter", "Syncs by the guest.",
              (double)face->sync_requests);
    put_store(m, "guest_errors_total", "counter",
              "I/O errors given to the guest.", (double)face->errors);
    put_store(m, "guest_inflight_requests", "gauge",
              "Requests being worked on.", (double)face->inflight);
    put_store(m, "intent_writes_total", "counter",
              "Pages of intent files written; none for hot writes.",
              (double)face->intent_writes);
    put_store(m, "aside_clusters_total", "counter",
              "Clusters kept aside before a write, for a cut.",
              (double)face->aside_clusters);
    put_store(m, "aside_waits_total", "counter",
              "Times that no buffer was free for one.",
              (double)face->aside_waits);
    put_store(m, "checkpoints_total", "counter",
              "Dirty bitmaps saved while they are in use.",
              (double)m->input->checkpoints);
    put_store(m, "guest_throttled_seconds_total", "counter",
              "Time that writes waited for room for old content, or were "
              "slowed down before.",
              (double)face->throttled_us / 1e6);
    put_store(m, "guest_waiting_writes", "gauge",
              "Writes that wait for room for old content.",
              (double)face->starved);
    put_store(m, "guest_refused_writes_total", "counter",
              "Writes that got ENOSPC for want of it.", (double)face->refused);
}

char *
metrics_text(const struct StatusInput *input,
             const struct StatusTracker *tracker)
{
    Metrics m = {.text = g_string_new(NULL), .input = input};
    int64_t whole = tracker != NULL ? tracker->whole_us : 0;
    uint64_t used = input->snapshot_bytes;

    m.store = label_escape(input->store);
    for (unsigned i = 0; i < input->n_disks; i++) {
        used += input->disks[i].used_bytes;
    }
    put_head(&m, "build_info", "gauge", "The version, as a label.");
    g_string_append(m.text,
                    "weir_build_info{version=\"" WEIR_VERSION "\"} 1\n");
    put_store(&m, "up", "gauge", "1 while a daemon serves the store.",
              input->is_served);
    put_store(&m, "mounted", "gauge", "1 while the store is mounted.",
              input->mountpoint != NULL);
    put_store(&m, "restarts", "gauge",
              "Daemons that this mount has had before.", input->restarts);
    put_store(&m, "dirty_bytes", "gauge", "What the targets do not hold.",
              (double)status_dirty_bytes(input));
    put_store(&m, "buffer_capacity_bytes", "gauge",
              "Room for the buffers on this host.",
              (double)(used + input->host_free_bytes));
    put_store(&m, "buffer_free_bytes", "gauge", "Free room for the buffers.",
              (double)input->host_free_bytes);
    if (whole != 0) {
        put_store(&m, "last_clean_timestamp_seconds", "gauge",
                  "When the targets last held everything.",
                  (double)(input->wall_us - (input->now_us - whole)) / 1e6);
    }
    put_snapshots(&m);
    put_cuts(&m);
    put_guest(&m);
    put_all_disks(&m);
    put_all_jobs(&m);
    g_free(m.store);
    return g_string_free(m.text, FALSE);
}
