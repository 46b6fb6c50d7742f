/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts-pin.c - the hook of a whole cut, until it has succeeded
 *
 * The far side is at the cut and stays there: no cut begins before the hook is
 * through. Its failure is shown, and it is tried again for ever; the user mends
 * the command, or takes the setting away, and both count at once. It may run
 * more than once for one cut: when the daemon ended in the middle of it, or the
 * state could not be saved after it.
 */
#include "cuts-private.h"

#include <string.h>

#define BACKOFF_MIN_US G_USEC_PER_SEC
#define BACKOFF_MAX_US (60 * G_USEC_PER_SEC)

JsonObject *
cuts_number_object(uint64_t number)
{
    JsonObject *object = json_object_new();

    json_object_set_int_member(object, "cut", (gint64)number);
    return object;
}

JsonObject *
cuts_object(const Cuts *cuts)
{
    JsonObject *object = cuts_number_object(cuts->number);

    if (cuts->cut.snapshot != 0) {
        json_object_set_string_member(object, "snapshot", cuts->snapshot_name);
    } else {
        json_object_set_null_member(object, "snapshot");
    }
    return object;
}

void
cuts_tell(Cuts *cuts, const char *name, JsonObject *data)
{
    cuts->config.event(cuts->config.user, name, data);
}

static char *
names_of_cut(const Cuts *cuts)
{
    GString *names = g_string_new(NULL);

    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        g_string_append_printf(names, "%s%s", i > 0 ? " " : "",
                               cuts->cut.disks[i]->name);
    }
    return g_string_free(names, FALSE);
}

static void
clear_failures(Cuts *cuts)
{
    cuts->failures = 0;
    cuts->retry_us = 0;
    cuts->error[0] = '\0';
}

void
cuts_run_hook(Cuts *cuts, const char *command)
{
    g_autofree char *names = names_of_cut(cuts);

    cut_hook_run(
        cuts->hook,
        &(struct CutHookRun){
            .command = command,
            .cut = cuts->number,
            .wall_us = cuts->cut.wall_us,
            .store = cuts->config.store->path,
            .disks = names,
            .snapshot = cuts->cut.snapshot != 0 ? cuts->snapshot_name : NULL,
        });
}

void
cuts_step_hook(Cuts *cuts, int64_t now_us)
{
    const Store *store = cuts->config.store;

    /* One that hangs is in nobody's way once the user has another, or none. */
    if (cut_hook_is_running(cuts->hook) &&
        cut_hook_is(cuts->hook, store->settings.on_cut)) {
        return;
    }
    cut_hook_stop(cuts->hook);
    if (!store->settings.on_cut) {
        clear_failures(cuts);
        cuts->state = CUTS_REST;
        return;
    }
    if (now_us < cuts->retry_us) {
        return;
    }
    cuts_run_hook(cuts, store->settings.on_cut);
}

static void
hook_failed(Cuts *cuts, const char *words)
{
    int64_t delay_us = BACKOFF_MIN_US << MIN(cuts->failures, 6);
    JsonObject *data = cuts_number_object(cuts->number);

    if (strcmp(words, cuts->error) != 0) {
        g_warning("on-cut, cut %" G_GUINT64_FORMAT ": %s; tried again",
                  cuts->number, words);
    }
    cuts->failures++;
    cuts->failed++;
    cuts->retry_us = cuts->config.ops->now_us() + MIN(delay_us, BACKOFF_MAX_US);
    g_strlcpy(cuts->error, words, sizeof(cuts->error));
    json_object_set_int_member(data, "failures", cuts->failures);
    json_object_set_string_member(data, "error", words);
    cuts_tell(cuts, "WEIR_HOOK_FAILED", data);
}

void
cuts_hook_cb(void *user, const char *words)
{
    Cuts *cuts = user;

    if (cuts->state == CUTS_BEFORE) {
        cuts_before_done(cuts, words);
    } else if (words) {
        hook_failed(cuts, words);
    } else {
        clear_failures(cuts);
        cuts->state = CUTS_PINNED;
    }
    cuts_look(cuts);
}

void
cuts_step_pinned(Cuts *cuts, int64_t now_us)
{
    struct StoreCuts next = cuts->config.store->cuts;

    (void)now_us;
    next.pinned = cuts->number;
    next.pinned_us = cuts->cut.wall_us;
    if (cuts_keep(cuts, &next)) {
        cuts->state = CUTS_REST;
    }
}
