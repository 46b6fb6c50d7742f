/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount-table.c - what is mounted where
 *
 * A mount of ours has the type fuse.weir and the store's absolute path as its
 * source, so /proc/self/mountinfo leads from a mount point to the store and
 * back. The file is the kernel's own table: reading it sends no request to any
 * file system, and it tells the truth about dead mounts as well. Only whether a
 * mount is dead it does not tell: for that the mount itself is asked (mount.c).
 *
 * Fields are separated by blanks; blanks, tabs, line ends and backslashes in
 * names come as \ooo. Mounts may be stacked: the last line of a directory is
 * the one that is seen.
 */
#include "mount.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_DEVICE   2 /* of a line, from 0 */
#define FIELD_DIR      4
#define FIELD_OPTIONAL 6 /* any number of these, then "-" */

void
mount_entry_clear(struct MountEntry *entry)
{
    g_clear_pointer(&entry->dir, g_free);
    g_clear_pointer(&entry->source, g_free);
    g_clear_pointer(&entry->fstype, g_free);
    g_clear_pointer(&entry->device, g_free);
}

static char *
unescape(const char *field)
{
    GString *text = g_string_new(NULL);

    while (*field != '\0') {
        if (field[0] == '\\' && field[1] >= '0' && field[1] <= '3' &&
            field[2] >= '0' && field[2] <= '7' && field[3] >= '0' &&
            field[3] <= '7') {
            g_string_append_c(text,
                              (char)((field[1] - '0') * 64 +
                                     (field[2] - '0') * 8 + (field[3] - '0')));
            field += 4;
        } else {
            g_string_append_c(text, *field++);
        }
    }
    return g_string_free(text, FALSE);
}

bool
mount_entry_parse(const char *line, struct MountEntry *entry)
{
    g_auto(GStrv) fields = g_strsplit(line, " ", -1);
    guint n = g_strv_length(fields);
    guint dash = FIELD_OPTIONAL;

    while (dash < n && strcmp(fields[dash], "-") != 0) {
        dash++;
    }
    if (dash + 2 >= n) {
        return false;
    }
    entry->device = g_strdup(fields[FIELD_DEVICE]);
    entry->dir = unescape(fields[FIELD_DIR]);
    entry->fstype = unescape(fields[dash + 1]);
    entry->source = unescape(fields[dash + 2]);
    return true;
}

/* The last entry that @want likes. */
static bool
find(bool (*want)(const struct MountEntry *entry, const char *what),
     const char *what, struct MountEntry *found)
{
    g_autofree char *table = NULL;
    g_auto(GStrv) lines = NULL;

    memset(found, 0, sizeof(*found));
    if (!g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(table, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        struct MountEntry entry = {0};

        if (mount_entry_parse(*line, &entry) && want(&entry, what)) {
            mount_entry_clear(found);
            *found = entry;
        } else {
            mount_entry_clear(&entry);
        }
    }
    return found->dir != NULL;
}

static bool
is_at(const struct MountEntry *entry, const char *dir)
{
    return strcmp(entry->dir, dir) == 0;
}

static bool
is_of(const struct MountEntry *entry, const char *store)
{
    return strcmp(entry->fstype, MOUNT_FSTYPE) == 0 &&
           strcmp(entry->source, store) == 0;
}

bool
mount_find_dir(const char *dir, struct MountEntry *entry)
{
    return find(is_at, dir, entry);
}

bool
mount_find_store(const char *store, struct MountEntry *entry)
{
    return find(is_of, store, entry);
}

static bool
is_living_of(const struct MountEntry *entry, const char *store)
{
    return is_of(entry, store) && !mount_is_dead(entry->dir);
}

bool
mount_find_living(const char *store, struct MountEntry *entry)
{
    return find(is_living_of, store, entry);
}

/*
 * mount_real_path() - absolute, without links
 *
 * The last component may be a mount whose daemon is dead (ENOTCONN) or a name
 * that does not exist: then its parent is resolved, and the name is kept.
 */
char *
mount_real_path(const char *path)
{
    g_autofree char *whole = g_canonicalize_filename(path, NULL);
    g_autofree char *dir = g_path_get_dirname(whole);
    g_autofree char *base = g_path_get_basename(whole);
    char *real = realpath(whole, NULL);
    char *result;

    if (real == NULL) {
        real = realpath(dir, NULL);
        result =
            real != NULL ? g_build_filename(real, base, NULL) : g_strdup(whole);
    } else {
        result = g_strdup(real);
    }
    free(real);
    return result;
}
