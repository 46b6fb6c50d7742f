/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot-record.c - what is remembered of a snapshot, as text and back
 *
 *   [snapshot]   version, uuid of the store, id, name, reason
 *                time         of the instant, in microseconds
 *                frozen       the guest's file systems were
 *                cut          that brought exactly this to the targets, whole
 *   [disk ID]    size, blocks, as they were then
 *
 * in the form of sealed-text.h. A record of another store, or of another
 * snapshot than its file's name says, is as good as damaged; the second is for
 * the caller to see.
 */
#include "conf.h"
#include "sealed-text.h"
#include "snapshot.h"

#include <string.h>

#define RECORD_VERSION 1
#define GROUP          "snapshot"
#define DISK           "disk "

static bool
parse_word(GKeyFile *file, const char *key, char *to, size_t room)
{
    g_autofree char *text = g_key_file_get_string(file, GROUP, key, NULL);

    return text && store_name_is_valid(text) &&
           g_strlcpy(to, text, room) < room;
}

static bool
parse_disk(GKeyFile *file, const char *group, struct SnapshotDisk *disk)
{
    uint64_t id;

    if (!conf_number_parse(group + strlen(DISK), 1, UINT_MAX, &id)) {
        return false;
    }
    disk->id = (unsigned)id;
    return sealed_text_number(file, group, "size", INT64_MAX,
                              &disk->size_bytes) &&
           disk->size_bytes &&
           sealed_text_number(file, group, "blocks", INT64_MAX, &disk->blocks);
}

static bool
parse_own(GKeyFile *file, Snapshot *snapshot)
{
    uint64_t wall_us;

    if (!sealed_text_number(file, GROUP, "id", SNAPSHOT_ID_MAX,
                            &snapshot->id) ||
        !snapshot->id ||
        !parse_word(file, "name", snapshot->name, sizeof(snapshot->name)) ||
        !parse_word(file, "reason", snapshot->reason,
                    sizeof(snapshot->reason)) ||
        !sealed_text_number(file, GROUP, "time", INT64_MAX, &wall_us) ||
        !sealed_text_bool(file, GROUP, "frozen", &snapshot->is_frozen) ||
        !sealed_text_later_number(file, GROUP, "cut", INT64_MAX,
                                  &snapshot->cut)) {
        return false;
    }
    snapshot->wall_us = (int64_t)wall_us;
    return true;
}

static const char *
parse_file(GKeyFile *file, const uint8_t uuid[16], Snapshot *snapshot)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    uint8_t found[16];
    uint64_t version;

    if (!sealed_text_number(file, GROUP, "version", UINT_MAX, &version) ||
        version != RECORD_VERSION) {
        return "another version wrote it";
    }
    if (!sealed_text_uuid(file, GROUP, found) ||
        memcmp(found, uuid, sizeof(found)) != 0) {
        return "it is another store's";
    }
    if (!parse_own(file, snapshot)) {
        return "a value is missing or malformed";
    }
    for (char **group = groups; *group; group++) {
        if (!g_str_has_prefix(*group, DISK)) {
            continue;
        }
        if (snapshot->n_disks == STORE_DISKS_MAX ||
            !parse_disk(file, *group, &snapshot->disks[snapshot->n_disks])) {
            return "a value of a disk is missing or malformed";
        }
        snapshot->n_disks++;
    }
    return NULL;
}

const char *
snapshot_parse(const char *text, size_t len, const uint8_t uuid[16],
               Snapshot *snapshot)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    const char *why = sealed_text_parse(text, len, file);

    *snapshot = (Snapshot){0};
    if (!why) {
        why = parse_file(file, uuid, snapshot);
    }
    if (why) {
        *snapshot = (Snapshot){0};
    }
    return why;
}

char *
snapshot_format(const Snapshot *snapshot, const uint8_t uuid[16], size_t *len)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_key_file_set_uint64(file, GROUP, "version", RECORD_VERSION);
    sealed_text_set_uuid(file, GROUP, uuid);
    g_key_file_set_uint64(file, GROUP, "id", snapshot->id);
    g_key_file_set_string(file, GROUP, "name", snapshot->name);
    g_key_file_set_string(file, GROUP, "reason", snapshot->reason);
    g_key_file_set_int64(file, GROUP, "time", snapshot->wall_us);
    sealed_text_set_bool(file, GROUP, "frozen", snapshot->is_frozen);
    if (snapshot->cut) {
        g_key_file_set_uint64(file, GROUP, "cut", snapshot->cut);
    }
    for (unsigned i = 0; i < snapshot->n_disks; i++) {
        const struct SnapshotDisk *disk = &snapshot->disks[i];
        g_autofree char *group = g_strdup_printf(DISK "%u", disk->id);

        g_key_file_set_uint64(file, group, "size", disk->size_bytes);
        g_key_file_set_uint64(file, group, "blocks", disk->blocks);
    }
    return sealed_text_format(file, len);
}
