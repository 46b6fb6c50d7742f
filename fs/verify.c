/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * verify.c - the targets compared with what they should hold
 *
 * The relay walks over each disk; a ticket here waits until the walks of all
 * disks that it asked for have reached their ends, and then says what was
 * found. A target that is refused ends it; one that is away is waited for. A
 * walk that somebody else begins on the same disk ends ours early: both then
 * get what that one finds.
 *
 * Tickets are looked at once a second, and when the relay has news.
 */
#include "daemon-private.h"

struct Verification {
    Daemon *daemon;
    ControlCall *call; /* NULL: the command itself waits */
    bool repairs;
    unsigned n_disks;
    struct {
        bool is_wanted;
        unsigned done; /* walks that had ended before */
    } disks[STORE_DISKS_MAX];
};

static bool
disk_figures(Verification *v, unsigned i, struct RelayFigures *figures)
{
    return v->disks[i].is_wanted &&
           relay_figures(v->daemon->relay, v->daemon->store->disks[i]->name,
                         figures);
}

static JsonObject *
build_result(Verification *v)
{
    JsonObject *result = json_object_new();
    JsonArray *disks = json_array_new();
    gint64 differing = 0;

    for (unsigned i = 0; i < v->n_disks; i++) {
        struct RelayFigures figures;
        JsonObject *disk;

        if (!disk_figures(v, i, &figures)) {
            continue;
        }
        disk = json_object_new();
        json_object_set_string_member(disk, "name",
                                      v->daemon->store->disks[i]->name);
        json_object_set_int_member(disk, "compared_bytes",
                                   (gint64)figures.core.verify.compared_bytes);
        json_object_set_int_member(disk, "dirty_bytes",
                                   (gint64)figures.core.verify.passed_bytes);
        json_object_set_int_member(disk, "differing_clusters",
                                   (gint64)figures.core.verify.other_clusters);
        differing += (gint64)figures.core.verify.other_clusters;
        json_array_add_object_element(disks, disk);
    }
    json_object_set_int_member(result, "differing_clusters", differing);
    json_object_set_boolean_member(result, "repaired",
                                   v->repairs && differing > 0);
    json_object_set_array_member(result, "disks", disks);
    return result;
}

static void
finish(Verification *v, int code, const char *words)
{
    Daemon *daemon = v->daemon;
    JsonObject *result = words == NULL ? build_result(v) : NULL;

    g_ptr_array_remove_fast(daemon->verifications, v);
    if (v->call != NULL && words != NULL) {
        control_call_error(v->call, code, words);
    } else if (v->call != NULL) {
        control_call_return_object(v->call, result);
    } else {
        if (words != NULL && daemon->error == NULL) {
            g_set_error_literal(&daemon->error, CONTROL_ERROR, code, words);
        } else if (result != NULL) {
            daemon->config->verified(result, daemon->config->user);
            json_object_unref(result);
        }
        daemon_end(daemon, code);
    }
    g_free(v);
}

static void
check(Verification *v)
{
    bool is_done = true;

    for (unsigned i = 0; i < v->n_disks; i++) {
        struct RelayFigures figures;

        if (!disk_figures(v, i, &figures)) {
            continue;
        }
        if (figures.core.link == RELAY_REFUSED) {
            g_autofree char *words = g_strdup_printf(
                "%s: the target is refused: %s",
                v->daemon->store->disks[i]->name, figures.core.error);

            finish(v, EXIT_TARGET, words);
            return;
        }
        is_done = is_done && figures.core.verify.done != v->disks[i].done;
    }
    if (is_done) {
        finish(v, 0, NULL);
    }
}

void
verify_check_all(Daemon *daemon)
{
    for (guint i = daemon->verifications->len; i > 0; i--) {
        check(daemon->verifications->pdata[i - 1]);
    }
}

static void
gone_cb(gpointer user)
{
    Verification *v = user;

    g_ptr_array_remove_fast(v->daemon->verifications, v);
    g_free(v);
}

void
verify_begin(Daemon *daemon, ControlCall *call, const struct VerifyOrder *order)
{
    Verification *v = g_new0(Verification, 1);

    v->daemon = daemon;
    v->call = call;
    v->repairs = order->repairs;
    v->n_disks = daemon->store->n_disks;
    for (unsigned i = 0; i < v->n_disks; i++) {
        Disk *disk = daemon->store->disks[i];
        struct RelayFigures figures;

        if ((order->disk != NULL && strcmp(order->disk, disk->name) != 0) ||
            !relay_figures(daemon->relay, disk->name, &figures)) {
            continue;
        }
        v->disks[i].is_wanted = true;
        v->disks[i].done = figures.core.verify.done;
        relay_verify(daemon->relay, disk->name, order->repairs,
                     order->bytes_per_second);
    }
    g_ptr_array_add(daemon->verifications, v);
    if (call != NULL) {
        control_call_on_gone(call, gone_cb, v);
    }
}

void
verify_forget_all(Daemon *daemon)
{
    while (daemon->verifications->len > 0) {
        Verification *v = daemon->verifications->pdata[0];

        if (v->call != NULL) {
            finish(v, 1, "the daemon is stopping");
        } else {
            gone_cb(v);
        }
    }
}
