/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conf.c - weir.conf as a struct, and back
 *
 * The file is a GKeyFile, because people read and edit it. GKeyFile by itself
 * forgives too much for a file that says which target is overwritten:
 *
 *   group twice        merged into one          refused here, by name
 *   key twice          the last one wins        refused here, by name
 *   unknown group/key  ignored                  refused here, by name
 *   NUL byte           ends the text            refused here
 *   "1x" as a number   depends on the getter    numbers are parsed here
 *
 * A misspelled key thus never means "the default". Strings are read and
 * written with the string getters, whose escapes (\s \n \t \r \\) round trip;
 * ';' has a meaning in lists only, and the one list here, `features`, holds
 * plain words.
 *
 * Formats: `version` counts changes that every program must know; `features`
 * names single ones that a program must know before it opens the store. This
 * program knows version 1 and no feature. What is merely new and harmless
 * does not belong into weir.conf, as older programs refuse unknown keys.
 */
#include "conf-private.h"

#include <string.h>
#include <sys/random.h>

static const char *const weir_keys[] = {"version", "uuid", "next-disk-id",
                                        "features", NULL};
static const char *const disk_keys[] = {
    "id", "size", "cluster-size", "target", "target-accept", "group", NULL};

static const char *const accept_names[] = {
    [ACCEPT_EMPTY] = "empty",
    [ACCEPT_OVERWRITE] = "overwrite",
    [ACCEPT_SAME] = "same",
};

bool
conf_accept_parse(const char *text, enum TargetAccept *accept)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(accept_names); i++) {
        if (!strcmp(text, accept_names[i])) {
            *accept = (enum TargetAccept)i;
            return true;
        }
    }
    return false;
}

const char *
conf_accept_name(enum TargetAccept accept)
{
    assert(accept < G_N_ELEMENTS(accept_names));
    return accept_names[accept];
}

bool
conf_bool_parse(const char *text, bool *value)
{
    *value = !strcmp(text, "yes");
    return *value || !strcmp(text, "no");
}

bool
conf_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(text, 10, min, max, &number, NULL)) {
        return false;
    }
    *value = number;
    return true;
}

void
conf_error(GError **error, const char *group, const char *what)
{
    g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                "weir.conf, [%s]: %s: correct it by hand, or put back a copy "
                "of the file",
                group, what);
}

/*
 * check_repeats() - refuse what GKeyFile would merge
 *
 * A line's group or key, as GKeyFile splits it, is remembered under
 * "[group]key".
 */
static gboolean
check_repeats(const char *text, GError **error)
{
    g_autoptr(GHashTable) seen =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *group = g_strdup("[]");

    for (char **line = lines; *line; line++) {
        char *stripped = g_strstrip(*line);
        char *equals = strchr(stripped, '=');
        char *name;

        if (stripped[0] == '[') {
            g_free(group);
            group = g_strdup(stripped);
            name = g_strdup(stripped);
        } else if (stripped[0] == '#' || !equals) {
            continue;
        } else {
            *equals = '\0';
            name = g_strconcat(group, g_strchomp(stripped), NULL);
        }
        if (!g_hash_table_add(seen, name)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                        "weir.conf: '%s' is there twice: remove one of the two",
                        stripped);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
check_keys(GKeyFile *file, const char *group, const char *const *known,
           GError **error)
{
    g_auto(GStrv) keys = g_key_file_get_keys(file, group, NULL, NULL);

    for (char **key = keys; key && *key; key++) {
        if (!g_strv_contains(known, *key)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                        "weir.conf, [%s]: unknown key '%s': remove it, or use "
                        "the version of weir that wrote it",
                        group, *key);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
check_groups(GKeyFile *file, GError **error)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);

    for (char **group = groups; *group; group++) {
        const char *const *known;

        if (!strcmp(*group, "weir")) {
            known = weir_keys;
        } else if (!strcmp(*group, "store")) {
            known = conf_settings_keys;
        } else if (g_str_has_prefix(*group, "disk ")) {
            known = disk_keys;
        } else {
            g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                        "weir.conf: unknown group [%s]: remove it, or use the "
                        "version of weir that wrote it",
                        *group);
            return FALSE;
        }
        if (!check_keys(file, *group, known, error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/* A number of @group, or @fallback if the key may be absent and is. */
gboolean
conf_get_number(GKeyFile *file, const char *group, const char *key,
                uint64_t min, uint64_t max, uint64_t *value, GError **error)
{
    g_autofree char *text = g_key_file_get_string(file, group, key, NULL);
    g_autofree char *what = NULL;

    if (text && conf_number_parse(text, min, max, value)) {
        return TRUE;
    }
    what = g_strdup_printf("%s is '%s', not a number from %" G_GUINT64_FORMAT
                           " to %" G_GUINT64_FORMAT,
                           key, text ? text : "", min, max);
    conf_error(error, group, what);
    return FALSE;
}

gboolean
conf_get_bool(GKeyFile *file, const char *group, const char *key, bool *value,
              GError **error)
{
    g_autofree char *text = g_key_file_get_string(file, group, key, NULL);
    g_autofree char *what = NULL;

    if (text && conf_bool_parse(text, value)) {
        return TRUE;
    }
    what = g_strdup_printf("%s is '%s', not yes or no", key, text ? text : "");
    conf_error(error, group, what);
    return FALSE;
}

/* A string that may be absent; NULL with @error set if it cannot be read. */
gboolean
conf_get_string(GKeyFile *file, const char *group, const char *key,
                char **value, GError **error)
{
    g_autoptr(GError) inner = NULL;

    *value = NULL;
    if (!g_key_file_has_key(file, group, key, NULL)) {
        return TRUE;
    }
    *value = g_key_file_get_string(file, group, key, &inner);
    if (inner) { /* and maybe a value, with an escape that is none */
        conf_error(error, group, inner->message);
        g_clear_pointer(value, g_free);
        return FALSE;
    }
    return TRUE;
}

static gboolean
parse_uuid(const char *text, uint8_t uuid[16])
{
    unsigned digits = 0;

    memset(uuid, 0, 16);
    for (; *text; text++) {
        int digit = g_ascii_xdigit_value(*text);

        if (*text == '-') {
            continue;
        }
        if (digit < 0 || digits == 32) {
            return FALSE;
        }
        uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 32;
}

static gboolean
parse_weir(GKeyFile *file, struct Conf *conf, GError **error)
{
    g_autofree char *uuid = g_key_file_get_string(file, "weir", "uuid", NULL);
    g_autofree char *features = NULL;
    uint64_t number;

    if (!conf_get_number(file, "weir", "version", 1, UINT_MAX, &number,
                         error)) {
        return FALSE;
    }
    if (number != CONF_VERSION) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "the store has format %" G_GUINT64_FORMAT
                    ", this weir reads format %d: use a newer weir",
                    number, CONF_VERSION);
        return FALSE;
    }
    if (!conf_get_string(file, "weir", "features", &features, error)) {
        return FALSE;
    }
    if (features && *g_strstrip(features)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "the store needs features that this weir does not have "
                    "(%s): use a newer weir",
                    features);
        return FALSE;
    }
    if (!uuid || !parse_uuid(uuid, conf->uuid)) {
        conf_error(error, "weir", "uuid is missing or not a UUID");
        return FALSE;
    }
    if (!conf_get_number(file, "weir", "next-disk-id", 1, UINT_MAX, &number,
                         error)) {
        return FALSE;
    }
    conf->next_id = (unsigned)number;
    return TRUE;
}

static gboolean
parse_disk_target(GKeyFile *file, const char *group, struct ConfDisk *disk,
                  GError **error)
{
    g_autofree char *accept = NULL;
    bool is_grouped = true;

    if (g_key_file_has_key(file, group, "group", NULL) &&
        !conf_get_bool(file, group, "group", &is_grouped, error)) {
        return FALSE;
    }
    disk->is_alone = !is_grouped;
    if (!conf_get_string(file, group, "target", &disk->target, error) ||
        !conf_get_string(file, group, "target-accept", &accept, error)) {
        return FALSE;
    }
    if (disk->target && !*disk->target) {
        g_clear_pointer(&disk->target, g_free);
    }
    if (accept && !conf_accept_parse(accept, &disk->accept)) {
        conf_error(error, group,
                   "target-accept is neither overwrite, same nor empty");
        return FALSE;
    }
    return TRUE;
}

static gboolean
parse_disk(GKeyFile *file, const char *group, struct Conf *conf, GError **error)
{
    struct ConfDisk *disk = &conf->disks[conf->n_disks];
    const char *name = group + strlen("disk ");
    uint64_t id, cluster;

    if (conf->n_disks == STORE_DISKS_MAX) {
        conf_error(error, group, "a store holds at most 64 disks");
        return FALSE;
    }
    if (!store_name_is_valid(name)) {
        conf_error(error, group, "not the name of a disk");
        return FALSE;
    }
    if (!conf_get_number(file, group, "id", 1, conf->next_id - 1, &id, error) ||
        !conf_get_number(file, group, "size", 512, INT64_MAX - 8191,
                         &disk->size_bytes, error) ||
        !conf_get_number(file, group, "cluster-size",
                         1 << CONF_CLUSTER_BITS_MIN, 1 << CONF_CLUSTER_BITS_MAX,
                         &cluster, error)) {
        return FALSE;
    }
    if (disk->size_bytes % 512 || (cluster & (cluster - 1))) {
        conf_error(error, group,
                   "size is no multiple of 512, or cluster-size no power of 2");
        return FALSE;
    }
    for (unsigned i = 0; i < conf->n_disks; i++) {
        if (conf->disks[i].id == id) {
            conf_error(error, group, "id is another disk's");
            return FALSE;
        }
    }
    g_strlcpy(disk->name, name, sizeof(disk->name));
    disk->id = (unsigned)id;
    disk->cluster_bits = (unsigned)__builtin_ctzll(cluster);
    conf->n_disks++;
    return parse_disk_target(file, group, disk, error);
}

static gboolean
parse_file(GKeyFile *file, struct Conf *conf, GError **error)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);

    if (!parse_weir(file, conf, error) || !check_groups(file, error) ||
        !conf_parse_settings(file, &conf->settings, error)) {
        return FALSE;
    }
    for (char **group = groups; *group; group++) {
        if (g_str_has_prefix(*group, "disk ") &&
            !parse_disk(file, *group, conf, error)) {
            return FALSE;
        }
    }
    return TRUE;
}

void
conf_init(struct Conf *conf)
{
    *conf = (struct Conf){.next_id = 1};
    conf_default_settings(&conf->settings);
    if (getrandom(conf->uuid, sizeof(conf->uuid), 0) != sizeof(conf->uuid)) {
        g_error("no random numbers: %m");
    }
    conf->uuid[6] = (uint8_t)((conf->uuid[6] & 0x0f) | 0x40);
    conf->uuid[8] = (uint8_t)((conf->uuid[8] & 0x3f) | 0x80);
}

void
conf_deinit(struct Conf *conf)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(conf->disks); i++) {
        g_clear_pointer(&conf->disks[i].target, g_free);
    }
    conf_clear_settings(&conf->settings);
    conf->n_disks = 0;
}

/*
 * conf_parse() - the text of weir.conf
 * @conf: filled in; conf_deinit() it, also after a failure
 *
 * The format's version is looked at before anything that may be unknown, so
 * that a newer store is called that and not damaged.
 */
gboolean
conf_parse(const char *text, size_t len, struct Conf *conf, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autofree char *copy = g_strndup(text, len);
    g_autoptr(GError) inner = NULL;

    conf_init(conf);
    if (strlen(copy) != len) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "weir.conf holds NUL bytes: put back a copy of the file");
        return FALSE;
    }
    if (!g_key_file_load_from_data(file, copy, len, G_KEY_FILE_NONE, &inner)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "weir.conf cannot be read (%s): correct it by hand, or put "
                    "back a copy of the file",
                    inner->message);
        return FALSE;
    }
    return check_repeats(copy, error) && parse_file(file, conf, error);
}

static void
format_disk(GKeyFile *file, const struct ConfDisk *disk)
{
    g_autofree char *group = g_strconcat("disk ", disk->name, NULL);

    g_key_file_set_uint64(file, group, "id", disk->id);
    g_key_file_set_uint64(file, group, "size", disk->size_bytes);
    g_key_file_set_uint64(file, group, "cluster-size",
                          UINT64_C(1) << disk->cluster_bits);
    if (disk->target) {
        g_key_file_set_string(file, group, "target", disk->target);
    }
    if (disk->accept != ACCEPT_EMPTY) {
        g_key_file_set_string(file, group, "target-accept",
                              conf_accept_name(disk->accept));
    }
    if (disk->is_alone) {
        g_key_file_set_string(file, group, "group", "no");
    }
}

char *
conf_format(const struct Conf *conf)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GString) uuid = g_string_new(NULL);

    for (unsigned i = 0; i < sizeof(conf->uuid); i++) {
        g_string_append_printf(uuid,
                               i >= 4 && i <= 10 && !(i & 1) ? "-%02x" : "%02x",
                               conf->uuid[i]);
    }
    g_key_file_set_uint64(file, "weir", "version", CONF_VERSION);
    g_key_file_set_string(file, "weir", "uuid", uuid->str);
    g_key_file_set_uint64(file, "weir", "next-disk-id", conf->next_id);
    conf_format_settings(file, &conf->settings);
    for (unsigned i = 0; i < conf->n_disks; i++) {
        format_disk(file, &conf->disks[i]);
    }
    return g_key_file_to_data(file, NULL, NULL);
}
