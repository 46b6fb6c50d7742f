/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-hooks.c - the guest is frozen for an instant, and thawed
 *
 * on-freeze has ten seconds; then it is told to end, and killed a second later.
 * on-thaw is the command that was set when the freeze began, whatever is set
 * since: who takes the settings away leaves no guest frozen. It runs when
 * on-freeze was tried, however that ended, and is tried three times if need be.
 * When the daemon ends in the middle it is begun, and listened to for a moment.
 *
 * snapshots.c has the table of states.
 */
#include "snapshots-private.h"

#include <signal.h>

#define FREEZE_US     (10 * G_USEC_PER_SEC)
#define ENDING_US     G_USEC_PER_SEC
#define THAW_US       (60 * G_USEC_PER_SEC)
#define THAW_RETRY_US G_USEC_PER_SEC
#define THAWS_MAX     3
#define LEAVE_MS      2000 /* a thaw, when the daemon ends */

static void
hook_failed(Snapshots *snapshots, const char *hook, const char *words,
            const char *then)
{
    JsonObject *data = json_object_new();

    g_warning("%s, snapshot %s: %s; %s", hook, snapshots->name, words, then);
    g_snprintf(snapshots->hook_error, sizeof(snapshots->hook_error), "%s: %s",
               hook, words);
    json_object_set_string_member(data, "snapshot", snapshots->name);
    json_object_set_string_member(data, "hook", hook);
    json_object_set_string_member(data, "error", words);
    snapshots_tell(snapshots, "WEIR_HOOK_FAILED", data);
}

static void
run_hook(Snapshots *snapshots, CutHook *hook, const char *command,
         int64_t limit_us)
{
    const Store *store = snapshots->config.store;
    g_autoptr(GString) names = g_string_new(NULL);

    for (unsigned i = 0; i < store->n_disks; i++) {
        g_string_append_printf(names, "%s%s", i > 0 ? " " : "",
                               store->disks[i]->name);
    }
    snapshots->deadline_us = snapshots->ops->now_us() + limit_us;
    cut_hook_run(hook, &(struct CutHookRun){.command = command,
                                            .store = store->path,
                                            .disks = names->str,
                                            .snapshot = snapshots->name});
}

static void
run_thaw(Snapshots *snapshots)
{
    snapshots->thaws++;
    snapshots->retry_us = 0;
    run_hook(snapshots, snapshots->thaw, snapshots->thaw_command, THAW_US);
}

/* If the freeze hook was tried, what it may have done is undone. */
void
snapshots_thaw(Snapshots *snapshots)
{
    snapshots->thaws = 0;
    if (snapshots->thaw_command) {
        snapshots->state = SNAPSHOTS_THAW;
        run_thaw(snapshots);
    } else {
        snapshots->state = SNAPSHOTS_REST;
    }
}

static void
end_thaw(Snapshots *snapshots)
{
    g_clear_pointer(&snapshots->thaw_command, g_free);
    snapshots->state = SNAPSHOTS_REST;
    snapshots_begin_waiting(snapshots);
}

static void
thaw_failed(Snapshots *snapshots, const char *words)
{
    bool is_last = snapshots->thaws == THAWS_MAX;

    hook_failed(snapshots, "on-thaw", words,
                is_last ? "given up: is the guest still frozen?"
                        : "tried again");
    if (is_last) {
        end_thaw(snapshots);
    } else {
        snapshots->retry_us = snapshots->ops->now_us() + THAW_RETRY_US;
    }
}

static void
thaw_cb(void *user, const char *words)
{
    Snapshots *snapshots = user;

    if (words) {
        thaw_failed(snapshots, words);
    } else {
        end_thaw(snapshots);
    }
}

static void
look_thaw(Snapshots *snapshots, int64_t now_us)
{
    if (cut_hook_is_running(snapshots->thaw)) {
        if (now_us >= snapshots->deadline_us) {
            cut_hook_stop(snapshots->thaw);
            thaw_failed(snapshots, "stopped after 60 s");
        }
    } else if (now_us >= snapshots->retry_us) {
        run_thaw(snapshots);
    }
}

static void
freeze_cb(void *user, const char *words)
{
    Snapshots *snapshots = user;

    if (words || snapshots->state == SNAPSHOTS_ENDING) {
        hook_failed(snapshots, "on-freeze",
                    snapshots->state == SNAPSHOTS_ENDING ? "stopped after 10 s"
                                                         : words,
                    "the snapshot is made all the same");
    } else {
        snapshots->is_frozen = true;
        snapshots->hook_error[0] = '\0';
    }
    snapshots_begin_instant(snapshots);
}

static void
look_freeze(Snapshots *snapshots, int64_t now_us)
{
    if (now_us < snapshots->deadline_us) {
        return;
    }
    if (snapshots->state == SNAPSHOTS_FREEZE) {
        snapshots->state = SNAPSHOTS_ENDING;
        snapshots->deadline_us = now_us + ENDING_US;
        cut_hook_signal(snapshots->freeze, SIGTERM);
        return;
    }
    cut_hook_signal(snapshots->freeze, SIGKILL);
    cut_hook_stop(snapshots->freeze);
    freeze_cb(snapshots, NULL);
}

bool
snapshots_freeze(Snapshots *snapshots)
{
    const struct StoreSettings *settings = &snapshots->config.store->settings;

    snapshots->is_frozen = false;
    if (!settings->on_freeze) {
        snapshots->hook_error[0] = '\0';
        return false;
    }
    snapshots->state = SNAPSHOTS_FREEZE;
    snapshots->thaw_command = g_strdup(settings->on_thaw);
    run_hook(snapshots, snapshots->freeze, settings->on_freeze, FREEZE_US);
    return true;
}

void
snapshots_look_hooks(Snapshots *snapshots)
{
    int64_t now_us = snapshots->ops->now_us();

    switch (snapshots->state) {
    case SNAPSHOTS_FREEZE:
    case SNAPSHOTS_ENDING:
        look_freeze(snapshots, now_us);
        break;
    case SNAPSHOTS_THAW:
        look_thaw(snapshots, now_us);
        break;
    case SNAPSHOTS_REST:
    case SNAPSHOTS_DISCARDS:
    case SNAPSHOTS_INSTANT:
    case SNAPSHOTS_STATES:
        break;
    }
}

void
snapshots_hooks_init(Snapshots *snapshots)
{
    snapshots->freeze = cut_hook_new(freeze_cb, snapshots);
    snapshots->thaw = cut_hook_new(thaw_cb, snapshots);
}

void
snapshots_hooks_deinit(Snapshots *snapshots)
{
    if (snapshots->state == SNAPSHOTS_THAW &&
        !cut_hook_is_running(snapshots->thaw)) {
        run_thaw(snapshots);
    }
    cut_hook_free(snapshots->freeze);
    cut_hook_leave(snapshots->thaw, LEAVE_MS);
    g_free(snapshots->thaw_command);
}
