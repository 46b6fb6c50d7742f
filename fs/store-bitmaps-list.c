/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-bitmaps-list.c - which persistent bitmaps a disk has
 *
 *   [bitmaps]     version, uuid of the store, disk: its id in weir.conf
 *   [bitmap ID]   name, grain-bits, enabled, busy, successor
 *                 slot       0: its own bits are in ID.bits and its successor's
 *                            in ID.new; 1: the other way round
 *                 sequence   of a checkpoint: its own file is of that or a
 *                            later one. Says nothing while it records: then
 *                            the state and the intent file say what it has to
 *                            be of.
 *
 * in the form of sealed-text.h, in the order in which they were added. The list
 * is replaced as a whole, and is what makes a change of more than one file true
 * (store-bitmaps-save.c).
 */
#include "store-bitmaps-private.h"

#include "sealed-text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_VERSION 1
#define GROUP        "bitmaps"
#define BITMAP       "bitmap "

static const char *const suffixes[] = {".bits", ".new"};

void
bitmaps_file_name(char name[STORE_BITMAP_NAME], uint64_t id, unsigned slot)
{
    g_snprintf(name, STORE_BITMAP_NAME, "%" G_GUINT64_FORMAT "%s", id,
               suffixes[slot]);
}

uint64_t
bitmaps_file_id(const char *name)
{
    for (unsigned slot = 0; slot < G_N_ELEMENTS(suffixes); slot++) {
        size_t len = strlen(name), suffix_len = strlen(suffixes[slot]);
        g_autofree char *number = NULL;
        uint64_t id;

        if (g_str_has_suffix(name, suffixes[slot])) {
            number = g_strndup(name, len - suffix_len);
            return conf_number_parse(number, 1, NAMED_ID_MAX, &id) ? id : 0;
        }
    }
    return 0;
}

char *
bitmaps_list_format(GArray *bitmaps, const uint8_t uuid[16], unsigned disk_id,
                    size_t *len)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_key_file_set_uint64(file, GROUP, "version", LIST_VERSION);
    sealed_text_set_uuid(file, GROUP, uuid);
    g_key_file_set_uint64(file, GROUP, "disk", disk_id);
    for (guint i = 0; i < bitmaps->len; i++) {
        const struct ListedBitmap *listed =
            &g_array_index(bitmaps, struct KeptBitmap, i).listed;
        g_autofree char *group =
            g_strdup_printf(BITMAP "%" G_GUINT64_FORMAT, listed->id);

        g_key_file_set_string(file, group, "name", listed->name);
        g_key_file_set_uint64(file, group, "grain-bits", listed->grain_bits);
        sealed_text_set_bool(file, group, "enabled", listed->is_enabled);
        sealed_text_set_bool(file, group, "busy", listed->is_busy);
        sealed_text_set_bool(file, group, "successor", listed->is_busy);
        g_key_file_set_uint64(file, group, "slot", listed->slot);
        g_key_file_set_uint64(file, group, "sequence", listed->sequence);
    }
    return sealed_text_format(file, len);
}

static bool
parse_bitmap(GKeyFile *file, const char *group, struct ListedBitmap *listed)
{
    g_autofree char *name = g_key_file_get_string(file, group, "name", NULL);
    uint64_t bits, slot;
    bool has_successor;

    if (!conf_number_parse(group + strlen(BITMAP), 1, NAMED_ID_MAX,
                           &listed->id) ||
        !name || !store_name_is_valid(name) ||
        !sealed_text_number(file, group, "grain-bits", NAMED_GRAIN_MOST,
                            &bits) ||
        bits < NAMED_GRAIN_LEAST ||
        !sealed_text_bool(file, group, "enabled", &listed->is_enabled) ||
        !sealed_text_bool(file, group, "busy", &listed->is_busy) ||
        !sealed_text_bool(file, group, "successor", &has_successor) ||
        !sealed_text_number(file, group, "slot", 1, &slot) ||
        !sealed_text_number(file, group, "sequence", UINT64_MAX,
                            &listed->sequence)) {
        return false;
    }
    g_strlcpy(listed->name, name, sizeof(listed->name));
    listed->grain_bits = (unsigned)bits;
    listed->slot = (unsigned)slot;
    return !has_successor || listed->is_busy;
}

static bool
is_known(GArray *bitmaps, const struct ListedBitmap *listed)
{
    for (guint i = 0; i < bitmaps->len; i++) {
        const struct ListedBitmap *other =
            &g_array_index(bitmaps, struct KeptBitmap, i).listed;

        if (other->id == listed->id || !strcmp(other->name, listed->name)) {
            return true;
        }
    }
    return false;
}

static const char *
parse_file(GKeyFile *file, const uint8_t uuid[16], unsigned disk_id,
           GArray *bitmaps, bool *is_foreign)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    uint64_t version = 0, disk;
    uint8_t found[16];

    if (!sealed_text_number(file, GROUP, "version", UINT_MAX, &version) ||
        version != LIST_VERSION) {
        *is_foreign = version > LIST_VERSION;
        return "another version wrote it";
    }
    if (!sealed_text_uuid(file, GROUP, found) ||
        memcmp(found, uuid, sizeof(found)) != 0 ||
        !sealed_text_number(file, GROUP, "disk", UINT_MAX, &disk) ||
        disk != disk_id) {
        return "it is another disk's";
    }
    for (char **group = groups; *group; group++) {
        struct KeptBitmap kept = {0};

        if (!g_str_has_prefix(*group, BITMAP)) {
            continue;
        }
        if (!parse_bitmap(file, *group, &kept.listed) ||
            is_known(bitmaps, &kept.listed)) {
            return "a value of a bitmap is missing or malformed";
        }
        g_array_append_val(bitmaps, kept);
    }
    return NULL;
}

const char *
bitmaps_list_parse(const char *text, size_t len, const uint8_t uuid[16],
                   unsigned disk_id, GArray *bitmaps, bool *is_foreign)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    const char *why = sealed_text_parse(text, len, file);

    *is_foreign = false;
    if (!why) {
        why = parse_file(file, uuid, disk_id, bitmaps, is_foreign);
    }
    if (why) {
        g_array_set_size(bitmaps, 0);
    }
    return why;
}

const char *
bitmaps_list_load(StoreIo *io, int dir_fd, const uint8_t uuid[16],
                  unsigned disk_id, GArray *bitmaps, bool *is_foreign)
{
    char *text = NULL;
    size_t len;
    const char *why;
    int err = store_io_load(io, dir_fd, STORE_BITMAPS_LIST, STORE_BITMAPS_MAX,
                            &text, &len);

    *is_foreign = err && err != -ENOENT;
    if (err) {
        return err == -ENOENT ? NULL : g_strerror(-err);
    }
    why = bitmaps_list_parse(text, len, uuid, disk_id, bitmaps, is_foreign);
    free(text);
    return why;
}

bool
bitmaps_list_needs(GArray *bitmaps, const char *name)
{
    for (guint i = 0; i < bitmaps->len; i++) {
        const struct ListedBitmap *listed =
            &g_array_index(bitmaps, struct KeptBitmap, i).listed;
        char own[STORE_BITMAP_NAME], other[STORE_BITMAP_NAME];

        bitmaps_file_name(own, listed->id, listed->slot);
        bitmaps_file_name(other, listed->id, !listed->slot);
        if (!strcmp(name, own) || (listed->is_busy && !strcmp(name, other))) {
            return true;
        }
    }
    return false;
}
