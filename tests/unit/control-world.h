/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-world.h - QEMU's commands over the socket, with a real store
 *
 * Purpose: the daemon's tables are served over a store that is open and tracked;
 *          no face, no relay. Jobs are real as well, but whoever they ask is not:
 *          a snapshot is made, refused or kept waiting as the test says, and what
 *          the relay is given is only looked at. Nothing takes time.
 * Threads: the test's.
 */
#pragma once

#include "control-rig.h"

#include "fs/control-commands.h"
#include "fs/store-bitmaps.h"
#include "tests/lib/store-fixture.h"

struct World {
    Fixture rig; /* first; its server and path */
    struct StoreFixture *store_fixture;
    struct DaemonConfig config;
    Daemon daemon;
    Disk *disk;
    Peer peer;
};

/* What the jobs' surroundings do, and have seen. */
static struct Fake {
    bool refuses_snapshots, refuses_jobs, waits;
    unsigned snapshots, jobs;
    SnapshotsDone done;
    void *user;
    uint64_t dirty_clusters; /* of the last job's map */
} fake;

static inline gboolean
fake_add(Relay *relay, const struct RelayDiskConfig *config, GError **error)
{
    struct DiskMapFigures figures;

    (void)relay;
    if (fake.refuses_jobs) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_TARGET, "no such target");
        return FALSE;
    }
    disk_map_figures(config->map, &figures);
    fake.dirty_clusters = figures.dirty_clusters;
    fake.jobs++;
    return TRUE;
}

static inline gboolean
fake_figures(Relay *relay, const char *job, struct RelayFigures *figures)
{
    (void)relay;
    (void)job;
    *figures = (struct RelayFigures){0};
    return TRUE;
}

static inline void
fake_bool(Relay *relay, const char *job, gboolean flag)
{
    (void)relay;
    (void)job;
    (void)flag;
}

static inline void
fake_speed(Relay *relay, const char *job, uint64_t bps)
{
    (void)relay;
    (void)job;
    (void)bps;
}

static inline void
fake_allow(Relay *relay, const char *job, uint64_t seq, uint64_t snapshot)
{
    (void)relay;
    (void)job;
    (void)seq;
    (void)snapshot;
}

static inline void
fake_hurry(Relay *relay)
{
    (void)relay;
}

static inline void
fake_plain(Relay *relay, const char *job)
{
    (void)relay;
    (void)job;
}

static inline void
fake_answer(void)
{
    GError *error = NULL;
    Snapshot snapshot = {.id = 1};

    if (fake.refuses_snapshots) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_FULL, "no room");
    }
    fake.done(fake.user, error == NULL ? &snapshot : NULL, error);
    g_clear_error(&error);
}

static inline void
fake_snapshot(Snapshots *snapshots, const char *name, const char *reason,
              SnapshotsDone done, void *user)
{
    (void)snapshots;
    (void)name;
    assert_string_equal(reason, "job");
    fake.snapshots++;
    fake.done = done;
    fake.user = user;
    if (!fake.waits) {
        fake_answer();
    }
}

static inline gboolean
fake_drop(Snapshots *snapshots, uint64_t id, GError **error)
{
    (void)snapshots;
    (void)id;
    (void)error;
    return TRUE;
}

static const struct JobsOps fake_ops = {
    .add = fake_add,
    .figures = fake_figures,
    .pause = fake_bool,
    .set_speed = fake_speed,
    .set_cut = fake_bool,
    .allow = fake_allow,
    .hurry = fake_hurry,
    .proceed = fake_plain,
    .end = fake_plain,
    .forget = fake_plain,
    .snapshot = fake_snapshot,
    .drop = fake_drop,
    .now_us = g_get_monotonic_time,
};

static inline void
no_event(void *user, const char *name, JsonObject *data)
{
    (void)user;
    (void)name;
    json_object_unref(data);
}

static inline int
world_setup(void **state)
{
    static char snapshots; /* fake_snapshot() has no use for it */
    struct World *w = g_new0(struct World, 1);
    Daemon *daemon = &w->daemon;
    struct JobsConfig jobs = {.ops = &fake_ops, .event = no_event};

    fake = (struct Fake){0};
    fixture_setup((void **)&w->store_fixture);
    w->config.mountpoint = "/mnt/nowhere";
    daemon->config = &w->config;
    daemon->store = fixture_open(w->store_fixture, 0);
    w->disk = store_disk(daemon->store, "vda");
    jobs.store = daemon->store;
    daemon->snapshots = (Snapshots *)(void *)&snapshots;
    daemon->jobs = jobs_new(&jobs);
    assert_true(store_serve(daemon->store, NULL));
    jobs_begin(daemon->jobs, daemon->snapshots);
    daemon->tickets = g_ptr_array_new();
    w->rig.path = g_build_filename(w->store_fixture->dir, "sock", NULL);
    w->rig.server =
        control_server_new(w->rig.path, daemon_commands, daemon, NULL);
    w->peer = peer_negotiated(w->rig.path);
    *state = w;
    return w->rig.server == NULL;
}

static inline int
world_teardown(void **state)
{
    struct World *w = *state;

    peer_close(&w->peer);
    jobs_stop(w->daemon.jobs);
    control_transaction_stop(&w->daemon);
    control_server_free(w->rig.server);
    jobs_free(w->daemon.jobs);
    store_free(w->daemon.store);
    g_ptr_array_unref(w->daemon.tickets);
    fixture_teardown((void **)&w->store_fixture);
    g_free(w->rig.path);
    g_free(w);
    return 0;
}

/*
 * Asking. Requests are in single quotes.
 */
static inline char *
request(const char *command, const char *arguments)
{
    return g_strdup_printf("{'execute':'%s','arguments':{%s}}", command,
                           arguments);
}

static inline JsonNode *
ask(struct World *w, const char *command, const char *arguments)
{
    g_autofree char *text = request(command, arguments);
    g_autoptr(JsonObject) answer = NULL;

    peer_write(&w->peer, text);
    answer = peer_read(&w->peer);
    assert_non_null(answer);
    if (json_object_has_member(answer, "error")) {
        fail_msg("%s: %s", text,
                 json_object_get_string_member(
                     json_object_get_object_member(answer, "error"), "desc"));
    }
    return json_node_ref(json_object_get_member(answer, "return"));
}

static inline void
tell(struct World *w, const char *command, const char *arguments)
{
    json_node_unref(ask(w, command, arguments));
}

static inline void
refused(struct World *w, const char *command, const char *arguments,
        const char *class, const char *words)
{
    g_autofree char *text = request(command, arguments);

    assert_desc(&w->peer, text, class, words);
}

#define GENERIC "GenericError"

/* "name granularity count flags", of all; flags: recording, Busy, persistent */
static inline char *
bitmaps(struct World *w)
{
    GString *text = g_string_new(NULL);
    struct NamedFigures f;

    for (unsigned i = 0; named_at(w->disk->bitmaps, i, &f); i++) {
        g_string_append_printf(text, "%s%s %u %u %s%s%s", i > 0 ? ", " : "",
                               f.name, 1u << f.grain_bits,
                               (unsigned)(f.count_bytes >> f.grain_bits),
                               f.is_enabled ? "r" : "-", f.is_busy ? "B" : "-",
                               f.is_persistent ? "p" : "-");
    }
    return g_string_free(text, FALSE);
}

static inline void
assert_bitmaps(struct World *w, const char *wanted)
{
    g_autofree char *found = bitmaps(w);

    assert_string_equal(found, wanted);
}

static inline void
write_clusters(struct World *w, unsigned first, unsigned count)
{
    disk_map_changed(w->disk->map, first * CLUSTER, count * CLUSTER, 1);
}

#undef TEST
#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, world_setup, world_teardown)
