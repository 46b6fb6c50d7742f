/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sealed-text.h - small files of weir's own: a GKeyFile under a checksum
 *
 * Purpose: what is common to the state and the records of snapshots: the last
 *          line says whether the text is whole, and values are read strictly.
 * Threads: any; pure functions.
 * Shapes:  filled up with empty lines to a multiple of 4096 bytes, so that its
 *          length seldom changes (store_io_swap()); the last line is
 *          "# checksum XXXXXXXXXXXXXXXX", the XXH3 of every byte before it, in
 *          hex.
 * Errors:  false, or in words what is wrong.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

char *sealed_text_format(GKeyFile *file, size_t *len);
/* NULL, or what is wrong; @file is a new one. */
const char *sealed_text_parse(const char *text, size_t len, GKeyFile *file);

bool sealed_text_number(GKeyFile *file, const char *group, const char *key,
                        uint64_t max, uint64_t *value);
/* One that files of earlier versions lack; @value stays as it is then. */
bool sealed_text_later_number(GKeyFile *file, const char *group,
                              const char *key, uint64_t max, uint64_t *value);
bool sealed_text_bool(GKeyFile *file, const char *group, const char *key,
                      bool *value);
void sealed_text_set_bool(GKeyFile *file, const char *group, const char *key,
                          bool value);
bool sealed_text_uuid(GKeyFile *file, const char *group, uint8_t uuid[16]);
void sealed_text_set_uuid(GKeyFile *file, const char *group,
                          const uint8_t uuid[16]);
