/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * target-uri.h - what the user wrote as a target, parsed and judged
 *
 * Purpose: a short list of allowed forms, parsed here and not by libnbd, and
 *          rule 28: what may be connected to at all; which of them are one
 *          place.
 * Threads: parse on any; a parsed target is immutable and counted, so that
 *          a connect in progress keeps the one it began with.
 * Shapes:  nbd://HOST[:PORT]/EXPORT
 *          nbds://[USER@]HOST[:PORT]/EXPORT?tls-psk-file=FILE
 *          nbds://HOST[:PORT]/EXPORT?tls-certificates=DIR
 *          nbd+unix:///EXPORT?socket=PATH
 *          nbds+unix://[USER@]/EXPORT?socket=PATH&tls-psk-file=FILE
 *          [ COMMAND ARGS ]   a server that weir starts itself (rule 27)
 *          /PATH              short for [ nbdkit file PATH ]
 * Errors:  gboolean + GError of RELAY_ERROR_TARGET, one line for the user that
 *          repeats no user name and no file's content.
 * Source:  the NBD URI specification; rules 27 and 28.
 */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

enum TargetKind { TARGET_TCP, TARGET_UNIX, TARGET_SERVER };

typedef struct TargetUri {
    enum TargetKind kind;
    bool is_tls;
    char *host, *port; /* TCP */
    char *socket;      /* UNIX: path */
    char *export_name; /* "" for the default one; SERVER: always */
    char *user;        /* of the pre-shared key; NULL: libnbd's default */
    char *psk_file;    /* either this ... */
    char *cert_dir;    /* ... or this, if is_tls */
    char **argv;       /* SERVER: its words */
    atomic_int refs;
} TargetUri;

TargetUri *target_uri_parse(const char *text, GError **error);
TargetUri *target_uri_ref(TargetUri *uri);
void target_uri_unref(TargetUri *uri);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TargetUri, target_uri_unref)

/* May it be connected to? Looks at key files, never at the network. */
gboolean target_uri_check(const TargetUri *uri, gboolean insecure,
                          GError **error);

/* Does clear text to @address stay on this machine? */
bool target_address_is_local(const struct sockaddr *address);

/* target-place.c: where it leads, as far as this machine can tell. Files are
 * looked at, which takes what their file system takes; the network never is. */
/* The file that a server of ours serves, absolute, as it is written; NULL: none,
 * or nobody knows. The caller's. */
char *target_uri_file(const TargetUri *uri);
bool target_uri_is_same(const TargetUri *a, const TargetUri *b);
/* Whatever links it takes; nothing in @dir is looked at. */
bool target_path_is_within(const char *path, const char *dir);
