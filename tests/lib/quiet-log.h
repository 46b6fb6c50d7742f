/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* For g_log_set_writer_func(): what a store says of damage that a test made. */
static inline GLogWriterOutput
quiet_log(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer user)
{
    (void)level;
    (void)fields;
    (void)n;
    (void)user;
    return G_LOG_WRITER_HANDLED;
}
