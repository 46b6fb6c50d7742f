/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-wire.c - what both ends of the control socket share
 *
 * A store may lie deep in a file system, but sun_path has room for 107 bytes.
 * A longer path is reached through the directory: it is opened with O_PATH,
 * and the address becomes /proc/self/fd/N/control.sock.
 *
 * json-glib parses by recursion, without a limit of its own. A long line of
 * opening brackets would run through the stack of the thread that parses it;
 * so they are counted before the parser sees the line, wherever they stand.
 * (What a server is told has been through control-scan.c by then.)
 *
 * The version goes out twice: under "qemu", where QMP's clients look for the
 * triple, and under "weir", which is what the triple is of.
 */
#include "control-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WIRE_OPENERS_MAX 65536

GQuark
control_error_quark(void)
{
    return g_quark_from_static_string("weir-control-error");
}

gboolean
control_wire_address(const char *path, struct sockaddr_un *address, int *dir_fd,
                     GError **error)
{
    g_autofree char *dir = NULL;
    g_autofree char *name = NULL;
    int len;

    *dir_fd = -1;
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (strlen(path) < sizeof(address->sun_path)) {
        memcpy(address->sun_path, path, strlen(path) + 1);
        return TRUE;
    }
    dir = g_path_get_dirname(path);
    name = g_path_get_basename(path);
    *dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir_fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s",
                    dir, g_strerror(errno));
        return FALSE;
    }
    len = g_snprintf(address->sun_path, sizeof(address->sun_path),
                     "/proc/self/fd/%d/%s", *dir_fd, name);
    if (len >= (int)sizeof(address->sun_path)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                    "%s: name too long for a socket", name);
        close(*dir_fd);
        *dir_fd = -1;
        return FALSE;
    }
    return TRUE;
}

static gsize
count_openers(const char *line, gsize len)
{
    gsize count = 0;

    for (gsize i = 0; i < len; i++) {
        count += line[i] == '{' || line[i] == '[';
    }
    return count;
}

JsonNode *
control_wire_parse(const char *line, gsize len, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new_immutable();

    if (!g_utf8_validate(line, (gssize)len, NULL)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "not UTF-8");
        return NULL;
    }
    if (count_openers(line, len) > WIRE_OPENERS_MAX) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "too many brackets");
        return NULL;
    }
    if (!json_parser_load_from_data(parser, line, (gssize)len, error)) {
        return NULL;
    }
    if (json_parser_get_root(parser) == NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "empty");
        return NULL;
    }
    return json_parser_steal_root(parser);
}

/* Whatever is in @text and not ASCII (it stands in strings) as \uXXXX; what is
 * not UTF-8, a file's name maybe, as the sign for that. */
static void
append_ascii(GString *line, const char *text)
{
    while (*text != '\0') {
        gunichar c = g_utf8_get_char_validated(text, -1);
        bool is_bad = c == (gunichar)-1 || c == (gunichar)-2;

        if (is_bad) {
            c = 0xfffd;
        }
        if (c < 0x80) {
            g_string_append_c(line, (char)c);
        } else if (c < 0x10000) {
            g_string_append_printf(line, "\\u%04x", c);
        } else {
            c -= 0x10000;
            g_string_append_printf(line, "\\u%04x\\u%04x", 0xd800 + (c >> 10),
                                   0xdc00 + (c & 0x3ff));
        }
        text = is_bad ? text + 1 : g_utf8_next_char(text);
    }
}

char *
control_wire_line(JsonNode *node, const char *id, gsize *len)
{
    g_autofree char *text = json_to_string(node, FALSE);
    GString *line = g_string_new(NULL);

    if (id != NULL) {
        text[strlen(text) - 1] = '\0'; /* its closing brace */
    }
    append_ascii(line, text);
    if (id != NULL) {
        g_string_append(line, ",\"id\":");
        append_ascii(line, id);
        g_string_append_c(line, '}');
    }
    g_string_append(line, "\r\n");
    *len = line->len;
    return g_string_free(line, FALSE);
}

static JsonObject *
version_triple(void)
{
    JsonObject *triple = json_object_new();
    unsigned major = 0, minor = 0, micro = 0;

    if (sscanf(WEIR_VERSION, "%u.%u.%u", &major, &minor, &micro) == 3) {
        json_object_set_int_member(triple, "major", major);
        json_object_set_int_member(triple, "minor", minor);
        json_object_set_int_member(triple, "micro", micro);
    }
    return triple;
}

JsonObject *
control_wire_version(void)
{
    JsonObject *version = json_object_new();

    json_object_set_object_member(version, "qemu", version_triple());
    json_object_set_object_member(version, "weir", version_triple());
    json_object_set_string_member(version, "package", "weir " WEIR_VERSION);
    return version;
}
