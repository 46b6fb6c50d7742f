/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conf-private.h - what the files about weir.conf share
 *
 * Purpose: values of a key file, or what is wrong with them, in words; and the
 *          group [store], which is conf-settings.c's.
 * Threads: any; pure functions.
 */
#pragma once

#include "conf.h"

/* conf.c */
void conf_error(GError **error, const char *group, const char *what);
/* The key must be there. */
gboolean conf_get_number(GKeyFile *file, const char *group, const char *key,
                         uint64_t min, uint64_t max, uint64_t *value,
                         GError **error);
gboolean conf_get_bool(GKeyFile *file, const char *group, const char *key,
                       bool *value, GError **error);
/* NULL in @value if it is not there. */
gboolean conf_get_string(GKeyFile *file, const char *group, const char *key,
                         char **value, GError **error);

/* conf-settings.c */
extern const char *const conf_settings_keys[]; /* NULL at the end */
void conf_default_settings(struct StoreSettings *settings);
gboolean conf_parse_settings(GKeyFile *file, struct StoreSettings *settings,
                             GError **error);
void conf_format_settings(GKeyFile *file, const struct StoreSettings *settings);
