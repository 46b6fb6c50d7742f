/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon.c - one store at work: built, run, unwound
 *
 * Threads, and what each waits in:
 *
 *   main    GMainContext: signals, control socket, the news of the others
 *   fs      io_uring: /dev/fuse and the store's files        (face.c)
 *   relay   io_uring: the store's files, NBD, timers         (relay.h)
 *   keeper  a timer; may block in a sync                     (keeper.h)
 *   reaper  something to do; may block in the file system    (snapshots.h)
 *
 * Built in this order, unwound in the reverse one:
 *
 *   store (lock, bitmaps) -> mount point looked at -> relay, jobs -> control socket
 *   -> mount -> face -> store marked unclean -> both threads started -> cuts
 *   -> snapshots -> jobs go on -> ready
 *
 * The store says "unclean" on disk before the first guest write or upload can
 * happen, and "clean" after the last one; whatever ends this process in
 * between leaves "unclean" behind.
 *
 * The end comes from outside: somebody unmounts, the kernel closes the
 * connection, the face says so (FACE_NOTE_ENDED). SIGTERM only unmounts, on a
 * thread of its own, because the main thread must not wait for its own mount;
 * if it is in use, the mount is detached and served until its last user is
 * gone. Nothing here waits for the target, but for a third of a second in
 * which uploads under way may still be answered: what is not uploaded is in
 * the bitmap, and goes on at the next start.
 *
 * A daemon that follows another one under the same mount (takeover.c) does not
 * mount, and if it fails leaves what is mounted alone.
 *
 * Without a mount point the same thing drains a store at rest: no mount, no
 * face, and the end is that what was dirty at the start is settled.
 */
#include "control-commands.h"
#include "notify.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define STOP_GRACE_US (300 * 1000)
#define STOP_LOOK_US  (5 * 1000)
#define STOP_EXTEND   "EXTEND_TIMEOUT_USEC=30000000"

/*
 * Looking
 */
static void
say_state(Daemon *daemon, enum StoreState state)
{
    bool is_new = !daemon->has_state || state != daemon->last_state;
    JsonObject *data;

    if (daemon->is_stopping) {
        notify_send(STOP_EXTEND);
    }
    if (is_new ||
        daemon->input.now_us - daemon->notified_us > 10 * G_USEC_PER_SEC) {
        g_autofree char *size =
            status_size((double)status_dirty_bytes(&daemon->input));

        notify_send("STATUS=%s, %s to upload", store_state_name(state), size);
        daemon->notified_us = daemon->input.now_us;
    }
    if (is_new && daemon->control != NULL) {
        data = json_object_new();
        json_object_set_string_member(data, "state", store_state_name(state));
        control_server_event(daemon->control, "WEIR_STATE_CHANGE", data);
    }
    daemon->last_state = state;
    daemon->has_state = true;
}

void
daemon_look(Daemon *daemon)
{
    store_look_at_room(daemon->store);
    status_gather(daemon->store, daemon->relay, daemon->face,
                  daemon->config->mountpoint, &daemon->input);
    if (daemon->cuts != NULL) {
        cuts_figures(daemon->cuts, &daemon->input.cuts);
    }
    if (daemon->snapshots != NULL) {
        snapshots_figures(daemon->snapshots, &daemon->input.snapshots);
    }
    daemon->input.jobs = daemon->jobs;
    daemon->input.is_paused = daemon->is_paused;
    daemon->input.restarts = daemon->takeover.memo.restarts;
    daemon->input.takeover = takeover_word(&daemon->takeover);
    status_tracker_update(&daemon->tracker, &daemon->input);
}

static gboolean
tick_cb(gpointer data)
{
    Daemon *daemon = data;

    daemon_look(daemon);
    say_state(daemon, status_state(&daemon->input, &daemon->tracker));
    daemon_look_at_room(daemon);
    daemon_advance(daemon);
    return G_SOURCE_CONTINUE;
}

void
daemon_advance(Daemon *daemon)
{
    /* A face that leaves is not asked for a cut any more. */
    if (daemon->cuts != NULL && !daemon->is_handing_over) {
        cuts_look(daemon->cuts);
    }
    if (daemon->snapshots != NULL) {
        snapshots_look(daemon->snapshots);
    }
    if (daemon->jobs != NULL) {
        jobs_look(daemon->jobs);
    }
    ticket_look_all(daemon);
}

static gboolean
progress_cb(gpointer data)
{
    Daemon *daemon = data;
    g_autoptr(JsonObject) status = NULL;

    daemon_look(daemon);
    status = status_build(&daemon->input, &daemon->tracker);
    daemon->config->progress(status, daemon->config->user);
    return G_SOURCE_CONTINUE;
}

/*
 * Ending
 */
void
daemon_end(Daemon *daemon, int exit_code)
{
    daemon->exit_code = exit_code;
    daemon->is_stopping = true;
    g_main_loop_quit(daemon->loop);
}

static gpointer
unmount_thread(gpointer data)
{
    g_autofree char *dir = data;
    int result = mount_take_down(dir, false);

    if (result == -EBUSY) {
        g_message("%s: in use: detached, and served until its last user is "
                  "gone",
                  dir);
        result = mount_take_down(dir, true);
    }
    if (result < 0) {
        g_warning("%s: cannot be unmounted: %s", dir, g_strerror(-result));
    }
    return NULL;
}

void
daemon_stop(Daemon *daemon)
{
    const char *dir = daemon->config->mountpoint;

    if (dir == NULL) {
        daemon_end(daemon, EXIT_INTERRUPTED);
        return;
    }
    daemon->is_stopping = true;
    notify_send("STOPPING=1");
    /* Else it is detached already, or somebody mounted over it: serve on. */
    if (mount_is_at(daemon->store->path, dir, mount_fd(daemon->mount))) {
        g_thread_unref(g_thread_new("unmount", unmount_thread, g_strdup(dir)));
    }
}

static gboolean
signal_cb(gpointer data)
{
    daemon_stop(data);
    return G_SOURCE_CONTINUE;
}

static gboolean
timeout_cb(gpointer data)
{
    Daemon *daemon = data;

    daemon->timeout_source = 0;
    daemon_end(daemon, EXIT_TIMEOUT);
    return G_SOURCE_REMOVE;
}

void
daemon_pause(Daemon *daemon, bool is_paused)
{
    daemon->is_paused = is_paused;
    takeover_set_paused(&daemon->takeover, is_paused);
    relay_pause(daemon->relay, is_paused);
    g_message("the relay is %s", is_paused ? "paused" : "resumed");
}

/*
 * Building
 */
static gboolean
build_relay(Daemon *daemon, GError **error)
{
    Store *store = daemon->store;
    struct RelayConfig config = {
        .io = store->io,
        .run_dir = store->path,
        .lock_fd = store->lock_fd,
        .max_conns = store->settings.max_connections,
        .deadline_us = store->settings.request_deadline_s * G_USEC_PER_SEC,
        .notify = daemon_relay_news,
        .user = daemon,
    };
    struct RateTable table;
    char why[RELAY_TEXT];

    daemon->relay = relay_new(&config, error);
    if (daemon->relay == NULL) {
        return FALSE;
    }
    if (store->settings.bwlimit != NULL &&
        rate_table_parse(store->settings.bwlimit, &table, why, sizeof(why))) {
        relay_set_bwlimit(daemon->relay, &table);
    }
    /* Disks without a target as well: they may get one. */
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!store_relay_disk(store, store->disks[i], daemon->relay, error)) {
            return FALSE;
        }
    }
    daemon_jobs_build(daemon);
    return TRUE;
}

/* With a ring nothing is kept, so it is better known before: a mount that was
 * made without one, or a kernel that does not offer it, has none. */
static enum FaceTransport
choose_transport(Daemon *daemon)
{
    enum FaceTransport wanted = daemon->config->options.transport;
    const char *why =
        daemon->inherited_fd >= 0 ? "the mount was there before"
        : !face_uring_is_offered()
            ? "the kernel does not offer it (Linux 6.14, and Y in "
              "/sys/module/fuse/parameters/enable_uring)"
            : NULL;

    if (wanted == FACE_TRANSPORT_DEV || why == NULL) {
        return wanted;
    }
    if (wanted == FACE_TRANSPORT_URING) {
        g_message("transport=uring: %s; serving through /dev/fuse instead",
                  why);
    }
    return FACE_TRANSPORT_DEV;
}

static gboolean
build_mount(Daemon *daemon, GError **error)
{
    const struct DaemonConfig *config = daemon->config;
    const char *store = daemon->store->path;

    if (daemon->inherited_fd >= 0) {
        daemon->mount =
            mount_adopt(store, config->mountpoint, daemon->inherited_fd);
        return TRUE;
    }
    daemon->mount =
        mount_new(store, config->mountpoint, &config->options, error);
    if (daemon->mount == NULL) {
        return FALSE;
    }
    takeover_keep(&daemon->takeover, mount_fd(daemon->mount));
    return TRUE;
}

static gboolean
build_face(Daemon *daemon, GError **error)
{
    const struct DaemonConfig *config = daemon->config;
    struct FaceConfig face = {
        .store = daemon->store,
        .uid = config->options.uid,
        .gid = config->options.gid,
        .mode = config->options.mode,
        .read_only = config->options.is_read_only,
        .shows_snapshots = config->options.shows_snapshots,
        .poll_us = config->options.poll_us,
        .notify = daemon_face_note,
        .dirtied = daemon_dirtied,
        .user = daemon,
    };

    if (config->mountpoint == NULL) {
        return TRUE;
    }
    face.transport = choose_transport(daemon);
    if (face.transport != FACE_TRANSPORT_DEV) {
        takeover_forgo(&daemon->takeover);
    }
    if (!build_mount(daemon, error)) {
        return FALSE;
    }
    face.fuse_fd = mount_fd(daemon->mount);
    daemon->face = face_new(&face);
    return TRUE;
}

static gboolean
build_store(Daemon *daemon, GError **error)
{
    const struct DaemonConfig *config = daemon->config;

    daemon->store = store_open(
        store_io_kernel(), config->store,
        daemon->takeover.fuse_fd >= 0 ? STORE_OPEN_MOUNTED : 0, error);
    if (daemon->store == NULL) {
        return FALSE;
    }
    if (daemon->store->n_disks == 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s: has no disk; weir create %s/vda --size 20G",
                    config->store, config->store);
        return FALSE;
    }
    if (config->mountpoint == NULL) {
        return TRUE;
    }
    return takeover_attach(&daemon->takeover, daemon->store, config->mountpoint,
                           &daemon->inherited_fd, error) &&
           (daemon->inherited_fd >= 0 ||
            mount_check_dir(config->mountpoint, error));
}

/* Without a face, discards that the last one accepted are kept over the start
 * of the serve, and then carried out. */
static gboolean
for_zeroes(Daemon *daemon, int (*work)(Store *, Disk *), GError **error)
{
    Store *store = daemon->store;

    for (unsigned i = 0; daemon->face == NULL && i < store->n_disks; i++) {
        int res = work(store, store->disks[i]);

        if (res < 0) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                        "%s/%s: discarded ranges cannot be punched: %s; mount "
                        "the store and drain it there",
                        store->path, store->disks[i]->name, g_strerror(-res));
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
start_face(Daemon *daemon, GError **error)
{
    if (daemon->takeover.memo.is_paused) {
        daemon_pause(daemon, true);
    }
    if (daemon->face == NULL) {
        return TRUE;
    }
    takeover_serving(&daemon->takeover);
    return face_start(daemon->face, error);
}

static void
hear(void *user)
{
    daemon_news_take(user);
}

void
daemon_event(void *user, const char *name, JsonObject *data)
{
    Daemon *daemon = user;

    control_server_event(daemon->control, name, data);
}

/* Who only verifies leaves the far side at the cut that it is. */
static void
build_cuts(Daemon *daemon)
{
    struct CutsConfig config = {
        .store = daemon->store,
        .relay = daemon->relay,
        .face = daemon->face,
        .hear = hear,
        .event = daemon_event,
        .user = daemon,
    };

    if (daemon->config->verified == NULL) {
        daemon->cuts = cuts_new(&config);
        cuts_look(daemon->cuts);
    }
}

static gboolean
daemon_build(Daemon *daemon, GError **error)
{
    g_autofree char *socket = NULL;

    if (!build_store(daemon, error) || !daemon_news_init(daemon, error) ||
        !build_relay(daemon, error)) {
        return FALSE;
    }
    store_make_room(daemon->store);
    socket = g_build_filename(daemon->store->path, "control.sock", NULL);
    daemon->control =
        control_server_new(socket, daemon_commands, daemon, error);
    return daemon->control != NULL && build_face(daemon, error) &&
           for_zeroes(daemon, store_zeroes_renew, error) &&
           store_serve(daemon->store, error) &&
           for_zeroes(daemon, store_zeroes_settle, error) &&
           relay_start(daemon->relay, error) && start_face(daemon, error) &&
           (daemon->keeper = keeper_new(daemon->store, daemon->face,
                                        KEEPER_PERIOD_US)) != NULL;
}

/*
 * Unwinding
 */

/* Uploads without an answer may still execute at the target when the next
 * process is at work; it must know. */
bool
daemon_is_quiet(Daemon *daemon)
{
    bool is_quiet = true;

    for (unsigned i = 0; i < daemon->store->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];
        struct RelayFigures figures;

        if (!relay_figures(daemon->relay, disk->name, &figures)) {
            continue;
        }
        disk->all_in_doubt = !figures.is_current || !figures.core.is_paused ||
                             figures.core.unanswered > 0 ||
                             figures.core.doubt_clusters > 0;
        is_quiet = is_quiet && !disk->all_in_doubt;
    }
    return daemon_jobs_are_quiet(daemon) && is_quiet;
}

/* Nothing new is sent, and what is on its way gets a moment to be answered:
 * that saves the next start a quarantine. A target that does not answer is not
 * waited for. */
static void
wind_down(Daemon *daemon)
{
    gint64 end_us = g_get_monotonic_time() + STOP_GRACE_US;

    relay_pause(daemon->relay, TRUE);
    while (!daemon_is_quiet(daemon) && g_get_monotonic_time() < end_us) {
        g_usleep(STOP_LOOK_US);
    }
    jobs_keep(daemon->jobs);
}

static void
daemon_unwind(Daemon *daemon, bool was_up, GError **error)
{
    g_clear_pointer(&daemon->keeper, keeper_free);
    daemon_jobs_stop(daemon);
    g_clear_pointer(&daemon->snapshots, snapshots_free);
    g_clear_pointer(&daemon->cuts, cuts_free);
    control_transaction_stop(daemon);
    if (was_up) {
        daemon_news_take(daemon);
        wind_down(daemon);
    }
    if (daemon->control != NULL) {
        ticket_forget_all(daemon);
    }
    if (daemon->relay != NULL) {
        relay_stop(daemon->relay, was_up ? store_end_epoch(daemon->store) : 0);
    }
    if (!was_up && daemon->mount != NULL && daemon->inherited_fd < 0) {
        takeover_forget(&daemon->takeover);
        mount_take_down(daemon->config->mountpoint, true);
    }
    g_clear_pointer(&daemon->face, face_free);
    g_clear_pointer(&daemon->relay, relay_free); /* the face wakes it */
    g_clear_pointer(&daemon->mount, mount_free);
    if (was_up && !store_close_clean(daemon->store, error)) {
        daemon->exit_code = host_exit_code(*error);
    }
    g_clear_pointer(&daemon->jobs, jobs_free); /* their maps were in that */
    daemon_news_deinit(daemon);
    g_clear_pointer(&daemon->control, control_server_free);
    g_clear_pointer(&daemon->store, store_free);
}

/*
 * Running
 */
static void
daemon_watch(Daemon *daemon)
{
    const struct DaemonConfig *config = daemon->config;

    daemon->term_source = g_unix_signal_add(SIGTERM, signal_cb, daemon);
    daemon->int_source = g_unix_signal_add(SIGINT, signal_cb, daemon);
    daemon->tick_source = g_timeout_add_seconds(1, tick_cb, daemon);
    if (config->progress != NULL) {
        daemon->progress_source = g_timeout_add(250, progress_cb, daemon);
    }
    if (config->timeout_us > 0) {
        daemon->timeout_source =
            g_timeout_add((guint)MIN(config->timeout_us / 1000, G_MAXUINT),
                          timeout_cb, daemon);
    }
}

static void
daemon_unwatch(Daemon *daemon)
{
    g_clear_handle_id(&daemon->term_source, g_source_remove);
    g_clear_handle_id(&daemon->int_source, g_source_remove);
    g_clear_handle_id(&daemon->tick_source, g_source_remove);
    g_clear_handle_id(&daemon->progress_source, g_source_remove);
    g_clear_handle_id(&daemon->timeout_source, g_source_remove);
    g_clear_handle_id(&daemon->handover_source, g_source_remove);
}

int
daemon_run(const struct DaemonConfig *config, GError **error)
{
    Daemon *daemon = g_new0(Daemon, 1);
    bool was_up;
    int code;

    daemon->config = config;
    daemon->loop = g_main_loop_new(NULL, FALSE);
    daemon->tickets = g_ptr_array_new();
    takeover_init(&daemon->takeover);
    daemon->inherited_fd = -1;
    host_prepare();
    was_up = daemon_build(daemon, &daemon->error);
    if (was_up) {
        build_cuts(daemon);
        daemon_snapshots_build(daemon);
        daemon_jobs_begin(daemon);
        daemon_watch(daemon);
        daemon_look(daemon);
        notify_send("READY=1");
        if (config->verified != NULL) {
            relay_pause(daemon->relay, !config->verify.repairs);
            verify_begin(daemon, NULL, &config->verify);
        } else if (config->mountpoint == NULL) {
            drain_begin(daemon, NULL);
        }
        if (!daemon->is_stopping) {
            g_main_loop_run(daemon->loop);
        }
        daemon_unwatch(daemon);
    } else {
        daemon->exit_code = EXIT_FAILURE;
    }
    daemon_unwind(daemon, was_up,
                  daemon->error == NULL ? &daemon->error : NULL);
    code = daemon->exit_code;
    if (daemon->error != NULL) {
        g_propagate_error(error, daemon->error);
    }
    takeover_deinit(&daemon->takeover);
    g_ptr_array_unref(daemon->tickets);
    g_main_loop_unref(daemon->loop);
    g_free(daemon);
    return code;
}
