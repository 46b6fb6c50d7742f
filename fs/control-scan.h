/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-scan.h - where a message of QMP ends, and that it is JSON
 *
 * Purpose: takes bytes as they arrive and finds complete JSON values in them,
 *          strictly, in bounds of size, depth and number; what it hands out is
 *          plain JSON, whatever of QEMU's dialect came in.
 * Threads: none of its own.
 * Shapes:  any number of values one after the other, in any number of lines.
 * Errors:  said once, in words; then it goes on behind the end of the line, or
 *          behind a control character.
 * Source:  RFC 8259; QEMU's qmp-spec and json-lexer.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

#define CONTROL_DEPTH_MAX  64
#define CONTROL_VALUES_MAX 65536
#define CONTROL_WORD_MAX   64 /* a number, true, false, null */

typedef struct ControlScan ControlScan;

enum ControlFound {
    CONTROL_FOUND_NOTHING, /* all is taken, more is needed */
    CONTROL_FOUND_MESSAGE, /* see control_scan_text() */
    CONTROL_FOUND_FLAW,    /* see control_scan_flaw() */
    CONTROL_FOUND_TOO_LONG,
};

ControlScan *control_scan_new(gsize bytes_max);
void control_scan_free(ControlScan *scan);

/* Takes bytes of @data up to the first thing that is found; @used: how many. */
enum ControlFound control_scan_feed(ControlScan *scan, const char *data,
                                    gsize len, gsize *used);

/* Until the next feed: */
const char *control_scan_text(const ControlScan *scan, gsize *len);
/* How many members its objects have, with those that are there twice. */
guint control_scan_members(const ControlScan *scan);
/* The member "id" of the outermost object, as it is in the text; NULL: none. */
const char *control_scan_id(const ControlScan *scan, gsize *len);
const char *control_scan_flaw(const ControlScan *scan);

/* Has some message begun that is not complete? */
bool control_scan_is_amid(const ControlScan *scan);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ControlScan, control_scan_free)
