/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * image.c - an existing image as the first content of a disk
 *
 * A reflink takes no time and no room, where source and store are on one file
 * system that knows it (xfs, btrfs). Elsewhere the bytes are copied, 1 MiB at
 * a time; what the source calls a hole is skipped, and what reads as zeroes
 * is not written, so that a sparse image stays one and a block device, which
 * knows no holes, becomes one.
 *
 * Only raw images are disks. The other formats are told by their magic
 * numbers and refused, as a guest would otherwise be given their headers for
 * a partition table. The source is only read; that nobody writes it meanwhile
 * is up to the user.
 */
#include "image.h"

#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define IMAGE_CHUNK (1u << 20)
#define IMAGE_BLOCK 4096u /* zeroes are looked for in units of this */

/* First bytes of images that are not raw; none holds a NUL that matters. */
static const struct {
    const char *format;
    unsigned offset;
    const char *magic;
} foreign[] = {
    {"qcow2", 0, "QFI\xfb"},
    {"vmdk", 0, "KDMV"},
    {"vmdk", 0, "COWD"},
    {"vmdk", 0, "# Disk DescriptorFile"},
    {"vhdx", 0, "vhdxfile"},
    {"vpc", 0, "conectix"},
    {"vdi", 64, "\x7f\x10\xda\xbe"},
    {"qed", 0, "QED"},
    {"parallels", 0, "WithoutFreeSp"},
    {"parallels", 0, "WithouFreSpacExt"},
};

static const char *
foreign_format(const char *head)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(foreign); i++) {
        if (!memcmp(head + foreign[i].offset, foreign[i].magic,
                    strlen(foreign[i].magic))) {
            return foreign[i].format;
        }
    }
    return NULL;
}

/* Size of a file or a block device, 0 for what is neither. */
static uint64_t
image_size(int fd)
{
    struct stat st;
    uint64_t size = 0;

    if (fstat(fd, &st)) {
        return 0;
    }
    if (S_ISBLK(st.st_mode)) {
        return ioctl(fd, BLKGETSIZE64, &size) ? 0 : size;
    }
    return S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

int
image_open(const char *path, uint64_t *size_bytes, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char head[512] = "";
    const char *format;

    if (fd < 0) {
        store_set_errno(error, STORE_ERROR_USAGE, errno,
                        "image %s cannot be opened", path);
        return -1;
    }
    *size_bytes = image_size(fd);
    if (*size_bytes == 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "image %s is empty, or no file and no block device", path);
        close(fd);
        return -1;
    }
    if (pread(fd, head, sizeof(head), 0) < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "image %s cannot be read", path);
        close(fd);
        return -1;
    }
    format = foreign_format(head);
    if (format) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "image %s is %s, not raw: convert it first, with qemu-img "
                    "convert -O raw %s IMAGE.raw",
                    path, format, path);
        close(fd);
        return -1;
    }
    return fd;
}

bool
image_is_zero(const char *data, size_t len)
{
    return data[0] == 0 && !memcmp(data, data + 1, len - 1);
}

/* Write what is not zero of @data. */
static int
copy_chunk(StoreIo *io, int to, const char *data, size_t len, uint64_t offset)
{
    size_t at = 0;

    while (at < len) {
        size_t block = MIN(IMAGE_BLOCK, len - at);
        size_t run = 0;
        ssize_t written;

        if (image_is_zero(data + at, block)) {
            at += block;
            continue;
        }
        while (at + run < len && !image_is_zero(data + at + run, block)) {
            run += block;
            block = MIN(IMAGE_BLOCK, len - at - run);
        }
        written = io->ops->pwrite(io, to, data + at, run, offset + at);
        if (written < 0) {
            return (int)written;
        }
        at += run;
    }
    return 0;
}

/* The data from @offset on, up to @end. */
static int
copy_extent(StoreIo *io, int from, int to, uint64_t offset, uint64_t end)
{
    g_autofree char *buffer = g_malloc(IMAGE_CHUNK);

    while (offset < end) {
        size_t len = (size_t)MIN(IMAGE_CHUNK, end - offset);
        ssize_t got = pread(from, buffer, len, (off_t)offset);
        int err;

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -ENODATA;
        }
        err = copy_chunk(io, to, buffer, (size_t)got, offset);
        if (err) {
            return err;
        }
        offset += (uint64_t)got;
    }
    return 0;
}

static int
copy_sparse(StoreIo *io, int from, int to, uint64_t size_bytes)
{
    uint64_t offset = 0;
    int err = 0;

    while (!err && offset < size_bytes) {
        off_t data = lseek(from, (off_t)offset, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO) {
            return 0;
        }
        if (data < 0) { /* no such thing as holes here */
            return copy_extent(io, from, to, offset, size_bytes);
        }
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0 || (uint64_t)hole > size_bytes) {
            hole = (off_t)size_bytes;
        }
        err = copy_extent(io, from, to, (uint64_t)data, (uint64_t)hole);
        offset = (uint64_t)hole;
    }
    return err;
}

gboolean
image_copy(StoreIo *io, int from, int to, uint64_t size_bytes, GError **error)
{
    int err;

    if (!ioctl(to, FICLONE, from)) {
        return TRUE;
    }
    err = copy_sparse(io, from, to, size_bytes);
    if (err == -ENODATA) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "the image became shorter while it was copied: is it in "
                    "use?");
    } else if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "the image cannot be copied");
    }
    return err == 0;
}
