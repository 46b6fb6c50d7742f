/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * arguments.h - what a command of QMP takes: a table, and who holds to it
 *
 * Purpose: members of the right types, none missing, none that nobody knows;
 *          so that a command meets only what it can read without a look.
 * Threads: any; no state.
 * Errors:  STORE_ERROR_USAGE, DEVICE_ERROR, in QEMU's words.
 * Source:  QEMU's qapi/qobject-input-visitor.
 */
#pragma once

#include "store.h"

#include <json-glib/json-glib.h>
#include <stdbool.h>

/* Of QEMU's classes of errors those that are about what somebody named. */
#define DEVICE_ERROR (device_error_quark())
GQuark device_error_quark(void);
enum DeviceError {
    DEVICE_ERROR_NOT_FOUND,
    DEVICE_ERROR_NOT_ACTIVE, /* it is no job at work */
};

enum ArgumentKind {
    ARGUMENT_STRING,
    ARGUMENT_INT,
    ARGUMENT_SIZE, /* an integer, not negative */
    ARGUMENT_BOOL,
    ARGUMENT_OBJECT,
    ARGUMENT_ARRAY,
    ARGUMENT_STRINGS, /* an array of them */
};

struct ArgumentRule {
    const char *name; /* NULL: the end of the table */
    enum ArgumentKind kind;
    bool is_needed;
};

gboolean arguments_check(JsonObject *arguments,
                         const struct ArgumentRule *rules, GError **error);

/* Of what was checked. */
const char *argument_string(JsonObject *arguments,
                            const char *name);                  /* or NULL */
guint64 argument_size(JsonObject *arguments, const char *name); /* or 0 */
bool argument_bool(JsonObject *arguments, const char *name, bool otherwise);
/* The disk that member @name names; NULL: there is none. */
Disk *argument_disk(JsonObject *arguments, const char *name, Store *store,
                    GError **error);
