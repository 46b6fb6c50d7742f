/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-wire.h - what both ends of the control socket share
 *
 * Purpose: socket addresses of any length, JSON lines, the depth check.
 * Threads: any; no state.
 * Shapes:  a line is one JSON document and ends with "\r\n".
 * Errors:  GError of G_IO_ERROR.
 */
#pragma once

#include "control.h"

#include <sys/un.h>

/* The address of @path. A path that does not fit into sun_path is reached
 * through /proc/self/fd/N of its directory: *@dir_fd (-1 otherwise) must stay
 * open until bind or connect is done; the caller closes it. */
gboolean control_wire_address(const char *path, struct sockaddr_un *address,
                              int *dir_fd, GError **error);

/* The document of one line, or NULL with words in @error. */
JsonNode *control_wire_parse(const char *line, gsize len, GError **error);

/* The object @node (borrowed) as a line with its end, all ASCII; with "id" as its
 * last member, if that (JSON text) is not NULL. */
char *control_wire_line(JsonNode *node, const char *id, gsize *len);

/* {"qemu": {...}, "weir": {...}, "package": "weir 0.1.0"} */
JsonObject *control_wire_version(void);
