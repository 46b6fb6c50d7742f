/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapmount-plan.c - which programs, with which arguments
 *
 * By libguestfs (guestmount): the image is a disk of a small VM, whose kernel
 * reads what the guest wrote. It is read-only there; a journal is replayed in
 * an overlay that libguestfs throws away. With an overlay of our own the file
 * systems are writable within the VM, and what is shown is not.
 *
 * By the host's kernel: a loop device over the part of the image. It is
 * read-only, so no journal can be replayed:
 *
 *   ext2, ext3, ext4    ro,noload
 *   xfs                 ro,norecovery,nouuid     the disk's own may be mounted
 *   btrfs               ro,rescue=nologreplay
 *   others              ro
 *
 * With an overlay (a qcow2 image over the snapshot, shown as a raw file by
 * qemu-storage-daemon) the loop device is writable, the mount is ro, and the
 * journal is replayed into what is thrown away.
 *
 * Every path is absolute, so none can pass for an option. Where it is part of a
 * longer argument it is in JSON.
 */
#include "snapmount.h"

#include <json-glib/json-glib.h>
#include <string.h>

#define SECTOR 512

static char **
words(const char *first, ...)
{
    GPtrArray *all = g_ptr_array_new();
    va_list args;

    va_start(args, first);
    for (const char *word = first; word; word = va_arg(args, const char *)) {
        g_ptr_array_add(all, g_strdup(word));
    }
    va_end(args);
    g_ptr_array_add(all, NULL);
    return (char **)g_ptr_array_free(all, FALSE);
}

/*
 * The overlay
 */
char **
snapmount_plan_overlay(const struct SnapMount *ask, const char *work)
{
    g_autofree char *overlay = g_build_filename(work, "disk.qcow2", NULL);

    return words("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                 ask->image, overlay, NULL);
}

static char *
to_text(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return json_to_string(node, FALSE);
}

char **
snapmount_plan_export(const char *work)
{
    g_autofree char *overlay = g_build_filename(work, "disk.qcow2", NULL);
    g_autofree char *raw = g_build_filename(work, "raw", NULL);
    JsonObject *file = json_object_new(), *disk = json_object_new();
    JsonObject *to = json_object_new();
    g_autofree char *disk_text = NULL;
    g_autofree char *to_text_ = NULL;

    json_object_set_string_member(file, "driver", "file");
    json_object_set_string_member(file, "filename", overlay);
    json_object_set_string_member(disk, "driver", "qcow2");
    json_object_set_string_member(disk, "node-name", "disk");
    json_object_set_object_member(disk, "file", file);
    json_object_set_string_member(to, "type", "fuse");
    json_object_set_string_member(to, "id", "raw");
    json_object_set_string_member(to, "node-name", "disk");
    json_object_set_string_member(to, "mountpoint", raw);
    json_object_set_boolean_member(to, "writable", TRUE);
    disk_text = to_text(disk);
    to_text_ = to_text(to);
    return words("qemu-storage-daemon", "--blockdev", disk_text, "--export",
                 to_text_, "--daemonize", NULL);
}

/*
 * By libguestfs
 */
char **
snapmount_plan_guest(const struct SnapMount *ask, const char *work,
                     const char *device)
{
    g_autofree char *overlay = g_build_filename(work, "disk.qcow2", NULL);
    g_autofree char *pid = g_build_filename(work, "pid", NULL);
    const char *how = device ? "-m" : "-i"; /* and pid tells whose it is */
    bool has_overlay = ask->has_overlay;
    GPtrArray *all = g_ptr_array_new();
    const char *list[] = {"guestmount",
                          has_overlay ? "--rw" : "--ro",
                          has_overlay ? "--format=qcow2" : "--format=raw",
                          "-a",
                          has_overlay ? overlay : ask->image,
                          "-o",
                          "ro",
                          "--pid-file",
                          pid,
                          how};

    for (unsigned i = 0; i < G_N_ELEMENTS(list); i++) {
        g_ptr_array_add(all, g_strdup(list[i]));
    }
    if (device) {
        g_ptr_array_add(all, g_strdup(device));
    }
    g_ptr_array_add(all, g_strdup(ask->dir));
    g_ptr_array_add(all, NULL);
    return (char **)g_ptr_array_free(all, FALSE);
}

char **
snapmount_plan_list(const struct SnapMount *ask, const char *work)
{
    g_autofree char *overlay = g_build_filename(work, "disk.qcow2", NULL);

    return words("virt-filesystems",
                 ask->has_overlay ? "--format=qcow2" : "--format=raw", "-a",
                 ask->has_overlay ? overlay : ask->image, "--filesystems",
                 NULL);
}

char *
snapmount_choose_device(const char *text, GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(GString) names = g_string_new(NULL);
    const char *found = NULL;
    unsigned count = 0;

    for (char **line = lines; *line; line++) {
        if (**line) {
            g_string_append_printf(names, "%s%s", count ? ", " : "", *line);
            found = *line;
            count++;
        }
    }
    if (count == 1) {
        return g_strdup(found);
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                count ? "no operating system was found, and there are %u file "
                        "systems: choose one with --partition (%s)"
                      : "no file system was found (%u)%s",
                count, names->str);
    return NULL;
}

/*
 * By the kernel
 */
char **
snapmount_plan_parts(const struct SnapMount *ask)
{
    return words("partx", "--noheadings", "--raw", "--output",
                 "NR,START,SECTORS", ask->image, NULL);
}

GArray *
snapmount_parse_parts(const char *text)
{
    GArray *parts = g_array_new(FALSE, TRUE, sizeof(struct SnapPart));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line; line++) {
        g_auto(GStrv) fields = g_strsplit(g_strstrip(*line), " ", -1);
        guint64 number, start, count;

        if (g_strv_length(fields) == 3 &&
            g_ascii_string_to_unsigned(fields[0], 10, 1, 999, &number, NULL) &&
            g_ascii_string_to_unsigned(fields[1], 10, 1, INT64_MAX / SECTOR,
                                       &start, NULL) &&
            g_ascii_string_to_unsigned(fields[2], 10, 1, INT64_MAX / SECTOR,
                                       &count, NULL)) {
            struct SnapPart part = {.number = (unsigned)number,
                                    .offset = start * SECTOR,
                                    .size = count * SECTOR};

            g_array_append_val(parts, part);
        }
    }
    return parts;
}

char **
snapmount_plan_probe(const struct SnapMount *ask, const struct SnapPart *part)
{
    g_autofree char *offset =
        g_strdup_printf("%" G_GUINT64_FORMAT, part->offset);
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, part->size);

    if (part->number == 0) {
        return words("blkid", "-p", "-o", "export", ask->image, NULL);
    }
    return words("blkid", "-p", "-o", "export", "-O", offset, "-S", size,
                 ask->image, NULL);
}

/* It goes to mount -t: a name, and nothing else. */
static bool
is_type(const char *type)
{
    size_t len = strspn(type, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return len > 0 && len < sizeof(((struct SnapPart *)0)->type) &&
           type[len] == '\0';
}

void
snapmount_parse_probe(const char *text, struct SnapPart *part)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    bool is_filesystem = false;

    part->type[0] = '\0';
    for (char **line = lines; *line; line++) {
        if (!strcmp(*line, "USAGE=filesystem")) {
            is_filesystem = true;
        }
        if (g_str_has_prefix(*line, "TYPE=") && is_type(*line + 5)) {
            g_strlcpy(part->type, *line + 5, sizeof(part->type));
        }
    }
    if (!is_filesystem) {
        part->type[0] = '\0';
    }
}

/* "1", "p1", "/dev/sda1": 1; 0 for anything else. */
static unsigned
number_of(const char *partition)
{
    size_t len = strlen(partition);
    guint64 number = 0;

    while (len > 0 && g_ascii_isdigit(partition[len - 1])) {
        len--;
    }
    (void)g_ascii_string_to_unsigned(partition + len, 10, 1, 999, &number,
                                     NULL);
    return (unsigned)number;
}

int
snapmount_choose_part(const struct SnapPart *parts, unsigned count,
                      const char *partition, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);
    unsigned wanted = partition ? number_of(partition) : 0, found = 0;
    int last = -1;

    for (unsigned i = 0; i < count; i++) {
        if (!parts[i].type[0]) {
            continue;
        }
        if (partition && parts[i].number == wanted) {
            return (int)i;
        }
        g_string_append_printf(names, "%s%u %s", found ? ", " : "",
                               parts[i].number, parts[i].type);
        last = (int)i;
        found++;
    }
    if (found == 1 && !partition) {
        return last;
    }
    if (!found) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "no file system was found that the kernel can mount as it "
                    "is; without --kernel, LVM and others are tried");
    } else {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    partition ? "no file system in partition %s; there are: %s"
                              : "%sseveral file systems: choose one with "
                                "--partition NUMBER: %s",
                    partition ? partition : "", names->str);
    }
    return -1;
}

char **
snapmount_plan_loop(const struct SnapMount *ask, const char *work,
                    const char *loop, const struct SnapPart *part)
{
    g_autofree char *raw = g_build_filename(work, "raw", NULL);
    g_autofree char *offset =
        g_strdup_printf("--offset=%" G_GUINT64_FORMAT, part->offset);
    g_autofree char *size =
        g_strdup_printf("--sizelimit=%" G_GUINT64_FORMAT, part->size);
    const char *list[] = {"losetup",
                          ask->has_overlay ? NULL : "--read-only",
                          part->number ? offset : NULL,
                          part->number ? size : NULL,
                          loop,
                          ask->has_overlay ? raw : ask->image};
    GPtrArray *all = g_ptr_array_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(list); i++) {
        if (list[i]) {
            g_ptr_array_add(all, g_strdup(list[i]));
        }
    }
    g_ptr_array_add(all, NULL);
    return (char **)g_ptr_array_free(all, FALSE);
}

static const struct {
    const char *type, *read_only, *overlaid;
} mount_options[] = {
    {"ext2", "ro,noload", "ro"},
    {"ext3", "ro,noload", "ro"},
    {"ext4", "ro,noload", "ro"},
    {"xfs", "ro,norecovery,nouuid", "ro,nouuid"},
    {"btrfs", "ro,rescue=nologreplay", "ro"},
};

char **
snapmount_plan_mount(const struct SnapMount *ask, const char *loop,
                     const char *type)
{
    g_autofree char *options = NULL;
    const char *how = "ro";

    for (unsigned i = 0; i < G_N_ELEMENTS(mount_options); i++) {
        if (!strcmp(type, mount_options[i].type)) {
            how = ask->has_overlay ? mount_options[i].overlaid
                                   : mount_options[i].read_only;
        }
    }
    options = g_strconcat(how, ",nosuid,nodev", NULL);
    return words("mount", "-t", type, "-o", options, loop, ask->dir, NULL);
}

char **
snapmount_plan_umount(const char *dir, bool is_kernel)
{
    return is_kernel ? words("umount", dir, NULL)
                     : words("guestunmount", "--no-retry", dir, NULL);
}

char **
snapmount_plan_detach(const char *loop)
{
    return words("losetup", "--detach", loop, NULL);
}
