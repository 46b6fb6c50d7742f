/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-commands.h - what the files with the socket's commands share
 *
 * Purpose: their tables; control-commands.c puts them together.
 * Threads: main.
 */
#pragma once

#include "daemon-private.h"

#include <stdbool.h>

extern const struct ControlCommand control_bitmap_commands[],
    control_import_commands[], control_job_commands[], control_query_commands[],
    control_schema_commands[], control_transaction_commands[];

/* All that any client may be told of; ends with NULL. */
extern const char *const control_events[];

/* Takes @error, whose domain says of which class it is. */
void control_answer_error(ControlCall *call, GError *error);
/* {}, or @error, which is taken. */
void control_answer(ControlCall *call, gboolean ok, GError *error);

/* Grows it, answers. */
void control_resize(ControlCall *call, Daemon *daemon, Disk *disk,
                    uint64_t size_bytes);

/* Is a transaction under way? Then @error says so: bitmaps are not to be
 * changed. */
bool control_is_amid_transaction(const Daemon *daemon, GError **error);

void control_transaction_stop(Daemon *daemon);

/* Can jobs be begun? Else @error says why not. */
gboolean control_has_jobs(const Daemon *daemon, GError **error);
/* What an order must keep to besides job_spec_parse(). */
gboolean control_check_job(const Daemon *daemon, const JobSpec *spec,
                           GError **error);
