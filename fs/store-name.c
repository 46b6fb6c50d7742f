/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-name.c - names, sizes, addresses and errors of stores
 *
 * STORE is a directory, STORE/vda a disk of it. An address is split at its
 * last slash; the store's part is resolved once, here, so that a symbolic
 * link may lead to a store. Beneath the store no link is followed (rule 36).
 *
 * A disk's name becomes a directory beside the store's own files, so the
 * names of those are taken. Which files weir keeps is said here and nowhere
 * else: what it makes anew, deletes, or takes for nobody's, goes by this.
 */
#include "bitmap/intent.h"
#include "store-private.h"
#include "zero-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

G_DEFINE_QUARK(weir_store_error, store_error)

int
store_exit_code(const GError *error)
{
    static const int codes[] = {
        [STORE_ERROR_FAILED] = 1, [STORE_ERROR_USAGE] = 2,
        [STORE_ERROR_BUSY] = 3,   [STORE_ERROR_DAMAGED] = 4,
        [STORE_ERROR_TARGET] = 5, [STORE_ERROR_FULL] = 1,
    };

    if (error->domain != STORE_ERROR || error->code < 0 ||
        error->code >= (int)G_N_ELEMENTS(codes)) {
        return 1;
    }
    return codes[error->code];
}

void
store_set_errno(GError **error, enum StoreError code, int err,
                const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    err = abs(err);
    if (code == STORE_ERROR_FAILED && (err == ENOSPC || err == EDQUOT)) {
        code = STORE_ERROR_FULL;
    }
    g_set_error(
        error, STORE_ERROR, (int)code, "%s: %s%s", text, g_strerror(err),
        err == EMFILE ? "; raise the limit (ulimit -n, LimitNOFILE=)" : "");
}

bool
store_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= STORE_NAME_MAX && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz"
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789._-") == len;
}

bool
store_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGTP";
    size_t digits = strspn(text, "0123456789");
    g_autofree char *number = g_strndup(text, digits);
    const char *suffix = text + digits;
    unsigned shift = 0;
    guint64 value;

    if (*suffix) {
        const char *found = strchr(suffixes, g_ascii_toupper(*suffix));

        if (!found || suffix[1]) {
            return false;
        }
        shift = 10 * (unsigned)(found - suffixes + 1);
    }
    if (!g_ascii_string_to_unsigned(number, 10, 0, UINT64_MAX >> shift, &value,
                                    NULL)) {
        return false;
    }
    *bytes = value << shift;
    return true;
}

/* @path without links, or as much of it as exists: the last component may be
 * missing. */
static char *
resolve_store(const char *path, GError **error)
{
    g_autofree char *plain = g_canonicalize_filename(path, NULL);
    g_autofree char *parent = g_path_get_dirname(plain);
    g_autofree char *base = g_path_get_basename(plain);
    char *real = realpath(plain, NULL);
    char *resolved = g_strdup(real);

    if (!real && errno == ENOENT) {
        real = realpath(parent, NULL);
        resolved = real ? g_build_filename(real, base, NULL) : NULL;
    }
    if (!real) {
        store_set_errno(error, STORE_ERROR_FAILED, errno,
                        "%s cannot be reached", plain);
    }
    free(real);
    return resolved;
}

gboolean
store_split_address(const char *address, char **store, char **disk,
                    GError **error)
{
    g_autofree char *copy = g_strdup(address);
    size_t len = strlen(copy);
    char *slash;
    const char *name;

    while (len > 1 && copy[len - 1] == '/') {
        copy[--len] = '\0';
    }
    slash = strrchr(copy, '/');
    name = slash ? slash + 1 : copy;
    if (!store_name_is_valid(name)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "'%s' does not name a disk of a store: write STORE/vda, "
                    "where vda is up to %d of A-Z a-z 0-9 . _ - and begins "
                    "with no dot",
                    address, STORE_NAME_MAX);
        return FALSE;
    }
    *disk = g_strdup(name);
    if (slash == copy) {
        slash[1] = '\0';
    } else if (slash) {
        slash[0] = '\0';
    }
    *store = resolve_store(slash ? copy : ".", error);
    if (!*store) {
        g_clear_pointer(disk, g_free);
        return FALSE;
    }
    return TRUE;
}

bool
store_is_socket(int dir_fd, const char *name)
{
    struct stat st;

    return !fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) &&
           S_ISSOCK(st.st_mode);
}

void
store_private_umask(void)
{
    umask(0077);
}

bool
store_is_own_file(const char *name)
{
    static const char *const own[] = {
        STORE_CONF,    STORE_LOCK,  STORE_STATE,     STORE_SOCKET,
        STORE_RESERVE, STORE_SPARE, STORE_SNAPSHOTS, NULL};

    return g_strv_contains(own, name);
}

bool
store_is_disk_file(const char *name)
{
    static const char *const own[] = {STORE_RAW,  STORE_DIRTY,  INTENT_FILE,
                                      ZERO_FILE,  STORE_SUMS,   STORE_SENT,
                                      STORE_COW,  STORE_POINTS, STORE_BITMAPS,
                                      STORE_JOBS, NULL};

    return g_strv_contains(own, name);
}

bool
store_is_leftover(const char *name)
{
    return g_str_has_suffix(name, ".tmp") ||
           g_str_has_prefix(name, STORE_NEW) ||
           g_str_has_prefix(name, STORE_OLD);
}
