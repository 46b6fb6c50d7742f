/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-snapmount.c - snapshot mount, snapshot umount
 *
 * A snapshot is read through the mount of its store, where each of its disks is
 * a file; so the store has to be mounted for as long as the files within are
 * looked at.
 */
#include "cli-snapmount.h"

#include "mount.h"
#include "snapmount.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    gboolean is_kernel, has_overlay;
    char *disk, *partition;
} options;

const GOptionEntry cli_snapshot_mount_entries[] = {
    {"disk", 0, 0, G_OPTION_ARG_STRING, &options.disk,
     "which one, if the snapshot has several", "NAME"},
    {"partition", 0, 0, G_OPTION_ARG_STRING, &options.partition,
     "which one: /dev/sda1; with --kernel its number", "PART"},
    {"kernel", 0, 0, G_OPTION_ARG_NONE, &options.is_kernel,
     "by this host's kernel: guests that are trusted", NULL},
    {"overlay", 0, 0, G_OPTION_ARG_NONE, &options.has_overlay,
     "replay journals, into what is thrown away", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

/* Where @store is mounted; NULL, and it is said. */
static char *
find_mount(const char *store, int *code)
{
    struct MountEntry entry;
    char *dir;

    if (!mount_find_living(store, &entry)) {
        *code = cli_fail(CLI_FAILED,
                         "snapshot mount: %s is not mounted: weir mount %s DIR "
                         "first",
                         store, store);
        return NULL;
    }
    dir = g_steal_pointer(&entry.dir);
    mount_entry_clear(&entry);
    return dir;
}

/* The only image in @dir; NULL, and it is said. */
static char *
only_disk(const char *dir, const char *snapshot, int *code)
{
    g_autoptr(GDir) list = g_dir_open(dir, 0, NULL);
    g_autoptr(GString) all = g_string_new(NULL);
    g_autofree char *found = NULL;
    unsigned count = 0;
    const char *name;

    while (list != NULL && (name = g_dir_read_name(list)) != NULL) {
        if (g_str_has_suffix(name, ".raw")) {
            g_free(found);
            found = g_strndup(name, strlen(name) - strlen(".raw"));
            g_string_append_printf(all, "%s%s", count > 0 ? ", " : "", found);
            count++;
        }
    }
    if (list == NULL) {
        *code = cli_fail(CLI_FAILED,
                         "snapshot mount: there is no snapshot %s: weir "
                         "snapshot list has those that there are",
                         snapshot);
    } else if (count != 1) {
        *code = cli_fail(CLI_USAGE,
                         "snapshot mount: %s has %u disks, choose one with "
                         "--disk: %s",
                         snapshot, count, all->str);
    }
    return count == 1 ? g_steal_pointer(&found) : NULL;
}

/* The image of the disk in the snapshot; NULL, and it is said. */
static char *
find_image(const char *store, const char *snapshot, int *code)
{
    g_autofree char *top = find_mount(store, code);
    g_autofree char *dir = NULL;
    g_autofree char *disk = g_strdup(options.disk);
    g_autofree char *file = NULL;
    g_autofree char *image = NULL;

    if (top == NULL) {
        return NULL;
    }
    dir = g_build_filename(top, ".snapshots", snapshot, NULL);
    if (disk == NULL) {
        disk = only_disk(dir, snapshot, code);
    }
    if (disk == NULL) {
        return NULL;
    }
    file = g_strconcat(disk, ".raw", NULL);
    image = g_build_filename(dir, file, NULL);
    if (access(image, R_OK) != 0) {
        *code = cli_fail(CLI_FAILED, "snapshot mount: %s: %s", image,
                         g_strerror(errno));
        return NULL;
    }
    return g_steal_pointer(&image);
}

static int
check_words(const char *snapshot)
{
    const char *part = options.partition;

    if (!store_name_is_valid(snapshot) ||
        (options.disk != NULL && !store_name_is_valid(options.disk))) {
        return cli_fail(CLI_USAGE, "snapshot mount: %s: not a name",
                        store_name_is_valid(snapshot) ? options.disk
                                                      : snapshot);
    }
    if (part != NULL &&
        (*part == '\0' || *part == '-' ||
         part[strspn(part, "abcdefghijklmnopqrstuvwxyz0123456789/_-")] !=
             '\0')) {
        return cli_fail(CLI_USAGE,
                        "snapshot mount: partition %s: wants "
                        "/dev/sda1, or its number",
                        part);
    }
    if (options.is_kernel && geteuid() != 0) {
        return cli_fail(CLI_FAILED, "snapshot mount: --kernel is root's; "
                                    "without it libguestfs does it");
    }
    return CLI_OK;
}

int
cli_snapshot_mount(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autofree char *dir = mount_real_path(argv[2]);
    g_autofree char *image = NULL;
    struct SnapMount ask = {.dir = dir,
                            .partition = options.partition,
                            .is_kernel = options.is_kernel,
                            .has_overlay = options.has_overlay};
    GError *error = NULL;
    int code = check_words(argv[1]);

    (void)argc;
    if (code != CLI_OK) {
        return code;
    }
    image = find_image(store, argv[1], &code);
    if (image == NULL) {
        return code;
    }
    ask.image = image;
    if (ask.is_kernel) {
        fprintf(stderr, "weir: snapshot mount: the kernel of this host reads "
                        "what the guest wrote: for guests that are trusted\n");
    }
    return snapmount_mount(&ask, &error)
               ? CLI_OK
               : cli_fail_error("snapshot mount", error);
}

int
cli_snapshot_umount(int argc, char **argv)
{
    g_autofree char *dir = mount_real_path(argv[0]);
    GError *error = NULL;

    (void)argc;
    return snapmount_umount(dir, &error)
               ? CLI_OK
               : cli_fail_error("snapshot umount", error);
}
