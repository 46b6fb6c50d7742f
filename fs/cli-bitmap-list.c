/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-bitmap-list.c - bitmap list
 *
 * The members of a bitmap are those of QEMU's BlockDirtyInfo, and a few of ours:
 * from a daemon they come by weir-bitmap-list, at rest from the store, by the
 * same function.
 */
#include "cli-bitmap.h"
#include "status.h"
#include "store-bitmaps.h"

#include <stdio.h>
#include <string.h>

#define WIDTH  80 /* of a line, unless a name needs more */
#define BESIDE 46 /* the columns behind the name */

static gboolean as_json;

const GOptionEntry cli_bitmap_list_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &as_json, "for programs", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static JsonObject *
list_at_rest(const CliBitmaps *from)
{
    JsonObject *answer = json_object_new();
    JsonArray *disks = json_array_new();

    for (unsigned i = 0; i < from->store->n_disks; i++) {
        Disk *disk = from->store->disks[i];
        JsonObject *entry;

        if (from->name == NULL || strcmp(disk->name, from->name) == 0) {
            entry = json_object_new();
            json_object_set_string_member(entry, "name", disk->name);
            json_object_set_array_member(entry, "bitmaps",
                                         store_bitmaps_json(disk));
            json_array_add_object_element(disks, entry);
        }
    }
    json_object_set_array_member(answer, "disks", disks);
    return answer;
}

static bool
flag(JsonObject *bitmap, const char *name)
{
    return json_object_get_boolean_member_with_default(bitmap, name, FALSE);
}

static void
print_bitmap(const char *disk, JsonObject *bitmap, size_t width)
{
    const char *own =
        json_object_get_string_member_with_default(bitmap, "name", NULL);
    /* A frozen one's successor, which has none. */
    g_autofree char *name = own != NULL ? g_strdup_printf("%s/%s", disk, own)
                                        : g_strdup("  since then");
    g_autofree char *grain =
        status_size((double)json_object_get_int_member(bitmap, "granularity"));
    g_autofree char *dirty =
        status_size((double)json_object_get_int_member(bitmap, "count"));

    if (strlen(name) > width) {
        printf("%s\n", name);
        *name = '\0';
    }
    printf("%-*s  %8s  %9s  %s%s%s\n", (int)width, name, grain, dirty,
           flag(bitmap, "recording") ? "recording" : "disabled",
           flag(bitmap, "busy") ? ", a job has it" : "",
           flag(bitmap, "persistent") ? "" : ", transient");
}

static void
print_table(JsonArray *disks)
{
    size_t width = strlen("BITMAP");
    guint n = 0;

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);
        JsonArray *bitmaps = json_object_get_array_member(disk, "bitmaps");

        for (guint j = 0; j < json_array_get_length(bitmaps); j++, n++) {
            const char *name = json_object_get_string_member_with_default(
                json_array_get_object_element(bitmaps, j), "name", "");

            width = MAX(
                width, strlen(name) + 1 +
                           strlen(json_object_get_string_member(disk, "name")));
        }
    }
    width = MIN(width, WIDTH - BESIDE);
    if (n > 0) {
        printf("%-*s  %8s  %9s  STATE\n", (int)width, "BITMAP", "GRAIN",
               "DIRTY");
    }
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);
        JsonArray *bitmaps = json_object_get_array_member(disk, "bitmaps");

        for (guint j = 0; j < json_array_get_length(bitmaps); j++) {
            print_bitmap(json_object_get_string_member(disk, "name"),
                         json_array_get_object_element(bitmaps, j), width);
        }
    }
}

int
cli_bitmap_list(int argc, char **argv)
{
    g_autoptr(JsonObject) answer = NULL;
    CliBitmaps from;
    GError *error = NULL;
    gboolean ok =
        cli_bitmaps_open(&from, argv[0], FALSE, STORE_OPEN_READ, &error);

    (void)argc;
    if (ok) {
        answer = from.client != NULL
                     ? cli_bitmaps_call(&from, "weir-bitmap-list",
                                        json_object_new(), &error)
                     : list_at_rest(&from);
    }
    if (!cli_bitmaps_close(&from, answer != NULL, &error)) {
        return cli_fail_error("bitmap list", error);
    }
    if (as_json) {
        cli_print_json(answer);
    } else {
        print_table(json_object_get_array_member(answer, "disks"));
    }
    return CLI_OK;
}
