/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-target.c - a target as the user writes it, before it is kept
 *
 *   nbd://HOST/EXPORT, nbds://, nbd+unix://, nbds+unix://   an NBD server
 *   [ COMMAND ... ]                                         one we start
 *   PATH                                                    short for
 *                                                           [ nbdkit file PATH ]
 *
 * What the relay can make of it is the relay's to say. Here is what concerns
 * the store: a path has to be absolute, as the daemon's working directory is
 * another one; it must not lead into the store, whose files would overwrite
 * each other; and a file that is there has to hold the disk.
 *
 * weir.conf is UTF-8 and one line per key: a target that is not is refused.
 */
#include "store-target.h"

#include "relay/relay.h"
#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A scheme has its colon before any slash, so "nbd:x" is a URI gone wrong and
 * no file. */
bool
store_target_is_path(const char *text)
{
    return text[0] != '[' && text[strcspn(text, ":/")] != ':';
}

char *
store_target_absolute(const char *text)
{
    return *text && strcmp(text, "none") && store_target_is_path(text)
               ? g_canonicalize_filename(text, NULL)
               : g_strdup(text);
}

static gboolean
refuse(GError **error, const char *text, const char *why)
{
    g_set_error(error, STORE_ERROR, STORE_ERROR_TARGET, "target %s: %s", text,
                why);
    return FALSE;
}

static gboolean
check_text(const char *text, GError **error)
{
    if (!g_utf8_validate(text, -1, NULL)) {
        return refuse(error, "(not UTF-8)",
                      "weir.conf holds UTF-8 only: write it in UTF-8, or with "
                      "%XX");
    }
    for (const char *at = text; *at; at++) {
        if (g_ascii_iscntrl(*at)) {
            return refuse(error, "(with control characters)",
                          "it has to be one line of printable characters");
        }
    }
    return *text ? TRUE : refuse(error, "''", "it is empty");
}

/* A file or device that is there already. */
static gboolean
check_existing(struct StoreTarget *target, const struct stat *st,
               GError **error)
{
    g_autofree char *why = NULL;
    uint64_t size = (uint64_t)st->st_size;

    if (S_ISBLK(st->st_mode)) {
        int fd = open(target->text, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size)) {
            store_set_errno(error, STORE_ERROR_TARGET, errno,
                            "target %s cannot be looked at", target->text);
            if (fd >= 0) {
                close(fd);
            }
            return FALSE;
        }
        close(fd);
    } else if (!S_ISREG(st->st_mode)) {
        return refuse(error, target->text,
                      "it is no file and no block device: name one of those, "
                      "or an NBD URI");
    }
    if (size >= target->size_bytes) {
        return TRUE;
    }
    why = g_strdup_printf("it has %" G_GUINT64_FORMAT
                          " bytes, the disk has %" G_GUINT64_FORMAT
                          ": make it larger first",
                          size, target->size_bytes);
    return refuse(error, target->text, why);
}

static gboolean
prepare_path(struct StoreTarget *target, const char *store, GError **error)
{
    struct stat st;

    if (relay_target_is_within(target->text, store)) {
        return refuse(error, target->text,
                      "it lies in the store itself: put it elsewhere, best on "
                      "another disk");
    }
    if (!stat(target->text, &st)) {
        return check_existing(target, &st, error);
    }
    if (errno != ENOENT) {
        store_set_errno(error, STORE_ERROR_TARGET, errno,
                        "target %s cannot be looked at", target->text);
        return FALSE;
    }
    target->path = g_strdup(target->text);
    return TRUE;
}

gboolean
store_target_prepare(struct StoreTarget *target, const char *text,
                     const char *store, uint64_t size_bytes, gboolean insecure,
                     GError **error)
{
    g_autoptr(GError) inner = NULL;

    *target = (struct StoreTarget){.size_bytes = size_bytes};
    if (!check_text(text, error)) {
        return FALSE;
    }
    target->text = store_target_absolute(text);
    if (store_target_is_path(text) && !prepare_path(target, store, error)) {
        return FALSE;
    }
    if (!relay_target_check(target->text, insecure, &inner)) {
        g_set_error_literal(error, STORE_ERROR, STORE_ERROR_TARGET,
                            inner->message);
        return FALSE;
    }
    return TRUE;
}

gboolean
store_target_is_free(const Store *store, const Disk *disk, const char *text,
                     GError **error)
{
    g_autofree char *target = store_target_absolute(text);

    for (unsigned i = 0; i < store->n_disks; i++) {
        const Disk *other = store->disks[i];

        if (other != disk && other->target &&
            relay_target_is_same(other->target, target)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                        "target %s: it is disk %s's: each disk needs one of "
                        "its own",
                        target, other->name);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
store_target_make(struct StoreTarget *target, GError **error)
{
    int fd;

    if (!target->path) {
        return TRUE;
    }
    fd = open(target->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        store_set_errno(error, STORE_ERROR_TARGET, errno,
                        "target %s cannot be made", target->path);
        return FALSE;
    }
    target->is_made = true;
    if (ftruncate(fd, (off_t)target->size_bytes) || fsync(fd)) {
        store_set_errno(error, STORE_ERROR_TARGET, errno,
                        "target %s cannot be made %" G_GUINT64_FORMAT
                        " bytes large",
                        target->path, target->size_bytes);
        close(fd);
        store_target_unmake(target);
        return FALSE;
    }
    close(fd);
    return TRUE;
}

void
store_target_unmake(struct StoreTarget *target)
{
    if (target->is_made) {
        unlink(target->path);
        target->is_made = false;
    }
}

void
store_target_deinit(struct StoreTarget *target)
{
    g_clear_pointer(&target->text, g_free);
    g_clear_pointer(&target->path, g_free);
}
