/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon.h - one store at work: built, run, unwound
 *
 * Purpose: what `weir mount` is when it is up, and `weir drain` of a store
 *          that is not mounted.
 * Threads: main. The fs and the relay thread are started and joined here.
 * Errors:  GError with the exit code of store_exit_code().
 */
#pragma once

#include "mount.h"

#include <json-glib/json-glib.h>

#define EXIT_INTERRUPTED 130
#define EXIT_TIMEOUT     124
#define EXIT_TARGET      5

struct VerifyOrder {
    const char *disk; /* NULL: all that have a target */
    bool repairs;
    guint64 bytes_per_second; /* 0: no limit */
};

struct DaemonConfig {
    const char *store;      /* absolute */
    const char *mountpoint; /* absolute; NULL: no mount */
    struct MountOptions options;

    /* Without a mount: until what is dirty at the start is settled. */
    gint64 timeout_us; /* 0: none */
    /* Instead of that, if it is set: compare, and say what was found. */
    void (*verified)(JsonObject *result, gpointer user);
    struct VerifyOrder verify;
    /* Called about four times a second; may be NULL. */
    void (*progress)(JsonObject *status, gpointer user);
    gpointer user; /* of both */
};

/* Returns the exit code; if it is not 0, @error may be set. */
int daemon_run(const struct DaemonConfig *config, GError **error);
