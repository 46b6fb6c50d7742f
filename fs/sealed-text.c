/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sealed-text.c - text that is whole, or is not believed
 *
 * The text is a GKeyFile only to be readable; nobody is to edit it. Numbers are
 * strict all the same: what passes the checksum was written by a weir, but
 * maybe by one with a bug.
 */
#include "sealed-text.h"

#include "conf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define BLOCK         4096
#define CHECKSUM_LINE "# checksum "
#define CHECKSUM_LEN  (sizeof(CHECKSUM_LINE) - 1 + 16 + 1)

static void
format_checksum(const char *text, size_t len, char line[CHECKSUM_LEN + 1])
{
    snprintf(line, CHECKSUM_LEN + 1, CHECKSUM_LINE "%016" PRIx64 "\n",
             (uint64_t)XXH3_64bits(text, len));
}

char *
sealed_text_format(GKeyFile *file, size_t *len)
{
    g_autofree char *body = g_key_file_to_data(file, NULL, NULL);
    GString *text = g_string_new(body);
    char line[CHECKSUM_LEN + 1];

    while ((text->len + CHECKSUM_LEN) % BLOCK != 0) {
        g_string_append_c(text, '\n');
    }
    format_checksum(text->str, text->len, line);
    g_string_append(text, line);
    *len = text->len;
    return g_string_free(text, FALSE);
}

const char *
sealed_text_parse(const char *text, size_t len, GKeyFile *file)
{
    char line[CHECKSUM_LEN + 1];

    if (len < CHECKSUM_LEN) {
        return "it is cut short";
    }
    format_checksum(text, len - CHECKSUM_LEN, line);
    if (memcmp(text + len - CHECKSUM_LEN, line, CHECKSUM_LEN)) {
        return "its checksum is wrong";
    }
    if (!g_key_file_load_from_data(file, text, len - CHECKSUM_LEN,
                                   G_KEY_FILE_NONE, NULL)) {
        return "it cannot be parsed";
    }
    return NULL;
}

bool
sealed_text_number(GKeyFile *file, const char *group, const char *key,
                   uint64_t max, uint64_t *value)
{
    g_autofree char *text = g_key_file_get_string(file, group, key, NULL);

    return text && conf_number_parse(text, 0, max, value);
}

bool
sealed_text_later_number(GKeyFile *file, const char *group, const char *key,
                         uint64_t max, uint64_t *value)
{
    return !g_key_file_has_key(file, group, key, NULL) ||
           sealed_text_number(file, group, key, max, value);
}

bool
sealed_text_bool(GKeyFile *file, const char *group, const char *key,
                 bool *value)
{
    g_autofree char *text = g_key_file_get_string(file, group, key, NULL);

    return text && conf_bool_parse(text, value);
}

void
sealed_text_set_bool(GKeyFile *file, const char *group, const char *key,
                     bool value)
{
    g_key_file_set_string(file, group, key, value ? "yes" : "no");
}

bool
sealed_text_uuid(GKeyFile *file, const char *group, uint8_t uuid[16])
{
    g_autofree char *text = g_key_file_get_string(file, group, "uuid", NULL);
    bool is_good = text && strlen(text) == 32;

    for (unsigned i = 0; is_good && i < 32; i++) {
        int digit = g_ascii_xdigit_value(text[i]);

        is_good = digit >= 0;
        uuid[i / 2] = (uint8_t)(uuid[i / 2] << 4 | (digit & 15));
    }
    return is_good;
}

void
sealed_text_set_uuid(GKeyFile *file, const char *group, const uint8_t uuid[16])
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (unsigned i = 0; i < 16; i++) {
        g_string_append_printf(text, "%02x", uuid[i]);
    }
    g_key_file_set_string(file, group, "uuid", text->str);
}
