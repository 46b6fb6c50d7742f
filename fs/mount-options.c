/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount-options.c - what may follow -o
 *
 * The same command serves a person and fstab (through mount.fuse3, type
 * fuse.weir). fstab's lines carry words for mount(8), systemd and others; they
 * are passed over, since refusing them would keep a host from booting. All
 * else that is not ours is refused: an option that is silently ignored is a
 * promise that is silently broken.
 */
#include "mount.h"
#include "store.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Words that others act on, or that are so anyway. */
static const char *const passed_over[] = {
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "async",
    "sync",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "diratime",
    "nodiratime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "default_permissions",
};

void
mount_options_init(struct MountOptions *options)
{
    memset(options, 0, sizeof(*options));
    options->uid = geteuid();
    options->gid = getegid();
    options->mode = 0600;
    options->poll_us = FACE_POLL_US;
}

static gboolean
parse_number(const char *word, const char *value, unsigned base, guint64 max,
             guint64 *number, GError **error)
{
    if (value != NULL &&
        g_ascii_string_to_unsigned(value, base, 0, max, number, NULL)) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "option %s: wants a number (%s=%s)", word, word,
                base == 8 ? "0660" : "1000");
    return FALSE;
}

/* One of @names, by its place among them. */
static gboolean
parse_choice(const char *word, const char *value, const char *const *names,
             unsigned *choice, GError **error)
{
    g_autofree char *all = NULL;

    for (unsigned i = 0; value != NULL && names[i] != NULL; i++) {
        if (strcmp(value, names[i]) == 0) {
            *choice = i;
            return TRUE;
        }
    }
    all = g_strjoinv(" or ", (char **)names);
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE, "option %s: wants %s",
                word, all);
    return FALSE;
}

static gboolean
parse_transport(struct MountOptions *options, const char *value, GError **error)
{
    static const char *const names[] = {
        [FACE_TRANSPORT_DEV] = "dev",
        [FACE_TRANSPORT_URING] = "uring",
        [FACE_TRANSPORT_AUTO] = "auto",
        NULL,
    };
    unsigned choice = options->transport;
    gboolean ok = parse_choice("transport", value, names, &choice, error);

    options->transport = (enum FaceTransport)choice;
    return ok;
}

static gboolean
parse_snapdir(struct MountOptions *options, const char *value, GError **error)
{
    static const char *const names[] = {"hidden", "visible", NULL};
    unsigned choice = options->shows_snapshots;
    gboolean ok = parse_choice("snapdir", value, names, &choice, error);

    options->shows_snapshots = choice;
    return ok;
}

static gboolean
parse_word(struct MountOptions *options, const char *word, const char *value,
           GError **error)
{
    guint64 number = 0;

    if (strcmp(word, "uid") == 0) {
        gboolean ok =
            parse_number(word, value, 10, UINT32_MAX - 1, &number, error);

        options->uid = (uid_t)number;
        return ok;
    }
    if (strcmp(word, "gid") == 0) {
        gboolean ok =
            parse_number(word, value, 10, UINT32_MAX - 1, &number, error);

        options->gid = (gid_t)number;
        return ok;
    }
    if (strcmp(word, "mode") == 0) {
        gboolean ok = parse_number(word, value, 8, 0777, &number, error);

        options->mode = (mode_t)number;
        return ok;
    }
    if (strcmp(word, "poll") == 0) {
        gboolean ok =
            parse_number(word, value, 10, FACE_POLL_US_MAX, &number, error);

        options->poll_us = (unsigned)number;
        return ok;
    }
    if (strcmp(word, "transport") == 0) {
        return parse_transport(options, value, error);
    }
    if (strcmp(word, "snapdir") == 0) {
        return parse_snapdir(options, value, error);
    }
    if (strcmp(word, "allow_other") == 0 && value == NULL) {
        options->allow_other = true;
        return TRUE;
    }
    if (strcmp(word, "ro") == 0 && value == NULL) {
        options->is_read_only = true;
        return TRUE;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(passed_over); i++) {
        if (strcmp(word, passed_over[i]) == 0 && value == NULL) {
            return TRUE;
        }
    }
    if (g_str_has_prefix(word, "x-") || strcmp(word, "comment") == 0) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "option %s: unknown; try allow_other, uid=, gid=, mode=, ro, "
                "snapdir=, transport=, poll=",
                word);
    return FALSE;
}

gboolean
mount_options_parse(struct MountOptions *options, const char *text,
                    GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);

    for (char **word = words; *word != NULL; word++) {
        char *value = strchr(*word, '=');

        if (**word == '\0') {
            continue;
        }
        if (value != NULL) {
            *value++ = '\0';
        }
        if (!parse_word(options, *word, value, error)) {
            return FALSE;
        }
    }
    return TRUE;
}
