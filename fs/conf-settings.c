/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conf-settings.c - the group [store] of weir.conf: what `weir set` changes
 *
 * Every key may be absent, and then its default is in force. Most are written
 * only when they are not the default, because older programs refuse what they
 * do not know: a store stays theirs until somebody wants what they cannot do.
 *
 * Commands are kept as given; what there is none of is NULL in memory and
 * absent in the file.
 */
#include "conf-private.h"

#include <string.h>

const char *const conf_settings_keys[] = {
    "bwlimit",          "max-connections", "insecure",       "target-unflushed",
    "request-deadline", "policy",          "cut-interval",   "buffer-size",
    "on-cut",           "on-freeze",       "on-thaw",        "snapshot-every",
    "snapshot-keep",    "full-wait",       "before-degrade", NULL};

static const char *const policy_names[] = {
    [STORE_POLICY_CUT] = "cut",
    [STORE_POLICY_NONE] = "none",
};

/* Of durations, the largest first. */
static const struct {
    char name;
    unsigned seconds;
} units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};

bool
conf_policy_parse(const char *text, enum StorePolicy *policy)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(policy_names); i++) {
        if (!strcmp(text, policy_names[i])) {
            *policy = (enum StorePolicy)i;
            return true;
        }
    }
    return false;
}

bool
conf_every_parse(const char *text, unsigned *seconds)
{
    size_t digits = strspn(text, "0123456789");
    g_autofree char *number = g_strndup(text, digits);
    const char *unit = text + digits;
    uint64_t count;

    if (!strcmp(text, "0") || !strcmp(text, "off")) {
        *seconds = 0;
        return true;
    }
    if (!conf_number_parse(number, 1, CONF_SNAPSHOT_EVERY_MAX, &count)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(units); i++) {
        if (*unit == units[i].name && !unit[1] &&
            count <= CONF_SNAPSHOT_EVERY_MAX / units[i].seconds) {
            *seconds = (unsigned)count * units[i].seconds;
            return true;
        }
    }
    return false;
}

char *
conf_every_name(unsigned seconds)
{
    for (unsigned i = 0; seconds && i < G_N_ELEMENTS(units); i++) {
        if (seconds % units[i].seconds == 0) {
            return g_strdup_printf("%u%c", seconds / units[i].seconds,
                                   units[i].name);
        }
    }
    return g_strdup("0");
}

void
conf_default_settings(struct StoreSettings *settings)
{
    *settings = (struct StoreSettings){
        .max_connections = CONF_CONNECTIONS,
        .request_deadline_s = CONF_REQUEST_DEADLINE,
        .cut_interval_s = CONF_CUT_INTERVAL,
        .snapshot_keep = CONF_SNAPSHOT_KEEP,
        .full_wait_s = CONF_FULL_WAIT,
    };
}

void
conf_clear_settings(struct StoreSettings *settings)
{
    g_clear_pointer(&settings->bwlimit, g_free);
    g_clear_pointer(&settings->on_cut, g_free);
    g_clear_pointer(&settings->on_freeze, g_free);
    g_clear_pointer(&settings->on_thaw, g_free);
    g_clear_pointer(&settings->before_degrade, g_free);
}

void
conf_move_settings(struct Conf *conf, struct StoreSettings *settings)
{
    *settings = conf->settings;
    conf_default_settings(&conf->settings);
}

/* As it is if the key is absent. */
static gboolean
get_count(GKeyFile *file, const char *key, uint64_t min, uint64_t max,
          unsigned *value, GError **error)
{
    uint64_t number;

    if (!g_key_file_has_key(file, "store", key, NULL)) {
        return TRUE;
    }
    if (!conf_get_number(file, "store", key, min, max, &number, error)) {
        return FALSE;
    }
    *value = (unsigned)number;
    return TRUE;
}

/* What says how the store is cut. */
static gboolean
parse_cuts(GKeyFile *file, struct StoreSettings *settings, GError **error)
{
    g_autofree char *policy = NULL;
    g_autofree char *room = NULL;
    uint64_t bytes = 0;

    if (!conf_get_string(file, "store", "policy", &policy, error) ||
        !conf_get_string(file, "store", "buffer-size", &room, error) ||
        !conf_get_string(file, "store", "on-cut", &settings->on_cut, error)) {
        return FALSE;
    }
    if (policy && !conf_policy_parse(policy, &settings->policy)) {
        conf_error(error, "store", "policy is neither cut nor none");
        return FALSE;
    }
    if (room && !store_parse_size(room, &bytes)) {
        conf_error(error, "store", "buffer-size is not a size");
        return FALSE;
    }
    settings->buffer_bytes = bytes;
    return get_count(file, "cut-interval", 1, CONF_CUT_INTERVAL_MAX,
                     &settings->cut_interval_s, error);
}

/* What says how snapshots are made, and what happens when room ends. */
static gboolean
parse_snapshots(GKeyFile *file, struct StoreSettings *settings, GError **error)
{
    g_autofree char *every = NULL;
    unsigned full_wait_s = settings->full_wait_s;

    if (!conf_get_string(file, "store", "on-freeze", &settings->on_freeze,
                         error) ||
        !conf_get_string(file, "store", "on-thaw", &settings->on_thaw, error) ||
        !conf_get_string(file, "store", "before-degrade",
                         &settings->before_degrade, error) ||
        !conf_get_string(file, "store", "snapshot-every", &every, error)) {
        return FALSE;
    }
    if (every && !conf_every_parse(every, &settings->snapshot_every_s)) {
        conf_error(error, "store", "snapshot-every is no time such as 1h");
        return FALSE;
    }
    if (!get_count(file, "snapshot-keep", 0, CONF_SNAPSHOT_KEEP_MAX,
                   &settings->snapshot_keep, error) ||
        !get_count(file, "full-wait", 0, CONF_FULL_WAIT_MAX, &full_wait_s,
                   error)) {
        return FALSE;
    }
    settings->full_wait_s = full_wait_s;
    return TRUE;
}

static gboolean
parse_bwlimit(GKeyFile *file, struct StoreSettings *settings, GError **error)
{
    struct RateTable table;
    char why[128] = "";

    if (!conf_get_string(file, "store", "bwlimit", &settings->bwlimit, error)) {
        return FALSE;
    }
    if (settings->bwlimit &&
        !rate_table_parse(settings->bwlimit, &table, why, sizeof(why))) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "weir.conf, [store]: bwlimit=%s: %s: correct it by hand",
                    settings->bwlimit, why);
        return FALSE;
    }
    return TRUE;
}

gboolean
conf_parse_settings(GKeyFile *file, struct StoreSettings *settings,
                    GError **error)
{
    if (!parse_bwlimit(file, settings, error) ||
        !get_count(file, "max-connections", 1, CONF_CONNECTIONS_MAX,
                   &settings->max_connections, error) ||
        !get_count(file, "request-deadline", 1, CONF_REQUEST_DEADLINE_MAX,
                   &settings->request_deadline_s, error)) {
        return FALSE;
    }
    if (g_key_file_has_key(file, "store", "insecure", NULL) &&
        !conf_get_bool(file, "store", "insecure", &settings->insecure, error)) {
        return FALSE;
    }
    if (g_key_file_has_key(file, "store", "target-unflushed", NULL) &&
        !conf_get_bool(file, "store", "target-unflushed",
                       &settings->accept_unflushed, error)) {
        return FALSE;
    }
    return parse_cuts(file, settings, error) &&
           parse_snapshots(file, settings, error);
}

/* Of what has a default that older programs live by. */
static void
format_count(GKeyFile *file, const char *key, unsigned value, unsigned usual)
{
    if (value != usual) {
        g_key_file_set_uint64(file, "store", key, value);
    }
}

static void
format_text(GKeyFile *file, const char *key, const char *value)
{
    if (value) {
        g_key_file_set_string(file, "store", key, value);
    }
}

static void
format_cuts(GKeyFile *file, const struct StoreSettings *settings)
{
    if (settings->policy != STORE_POLICY_CUT) {
        g_key_file_set_string(file, "store", "policy",
                              policy_names[settings->policy]);
    }
    format_count(file, "cut-interval", settings->cut_interval_s,
                 CONF_CUT_INTERVAL);
    if (settings->buffer_bytes) {
        g_key_file_set_uint64(file, "store", "buffer-size",
                              settings->buffer_bytes);
    }
    format_text(file, "on-cut", settings->on_cut);
}

static void
format_snapshots(GKeyFile *file, const struct StoreSettings *settings)
{
    g_autofree char *every = conf_every_name(settings->snapshot_every_s);

    format_text(file, "on-freeze", settings->on_freeze);
    format_text(file, "on-thaw", settings->on_thaw);
    format_text(file, "snapshot-every",
                settings->snapshot_every_s ? every : NULL);
    format_count(file, "snapshot-keep", settings->snapshot_keep,
                 CONF_SNAPSHOT_KEEP);
    format_count(file, "full-wait", settings->full_wait_s, CONF_FULL_WAIT);
    format_text(file, "before-degrade", settings->before_degrade);
}

void
conf_format_settings(GKeyFile *file, const struct StoreSettings *settings)
{
    format_text(file, "bwlimit", settings->bwlimit);
    g_key_file_set_uint64(file, "store", "max-connections",
                          settings->max_connections);
    g_key_file_set_string(file, "store", "insecure",
                          settings->insecure ? "yes" : "no");
    g_key_file_set_string(file, "store", "target-unflushed",
                          settings->accept_unflushed ? "yes" : "no");
    g_key_file_set_uint64(file, "store", "request-deadline",
                          settings->request_deadline_s);
    format_cuts(file, settings);
    format_snapshots(file, settings);
}
