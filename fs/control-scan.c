/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-scan.c - where a message of QMP ends, and that it is JSON
 *
 * A message is a JSON value; it may be spread over lines, and several may be in
 * one. So its end is found by what it is, and each byte is looked at with the
 * whole grammar in mind: a message with a flaw is refused at the first byte that
 * cannot be, and not when its brackets happen to match again, hundreds of
 * messages later.
 *
 *   START --"{"--> first KEY or "}" --key--> ":" --> VALUE --> "," or "}"
 *     |                                                              |
 *     +----"["--> first VALUE or "]" -----------> "," or "]" --------+--> START
 *
 * json-glib makes the tree, but it is no judge: it takes comments, octal
 * numbers, assignments, wraps large integers round, ends strings at a NUL, and
 * recurses as deep as it is told to. Here only JSON passes, and QEMU's one
 * extension, strings in single quotes. The text is rewritten on its way: all
 * strings in double quotes, escapes resolved but for those that must stay.
 *
 * After a flaw the rest of the line is skipped. A control character ends
 * whatever is there (a client that lost its thread begins anew with one); so
 * does any byte that cannot be, 0xff for one, behind the next end of line.
 *
 * What bounds the work: bytes of a message, its depth, and how many values it
 * has, each of which costs json-glib many times its size.
 */
#include "control-scan.h"

#include <math.h>
#include <string.h>

enum Expect {
    EXPECT_START,
    EXPECT_KEY_OR_END,
    EXPECT_KEY,
    EXPECT_COLON,
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END,
    EXPECT_COMMA_OR_END,
};

enum Within {
    WITHIN_NOTHING,
    WITHIN_STRING,
    WITHIN_ESCAPE, /* behind a backslash */
    WITHIN_UNICODE,
    WITHIN_WORD,
    WITHIN_FLAW, /* skipping */
};

struct ControlScan {
    gsize bytes_max;
    GString *text;
    gsize bytes; /* of this message, as they came */
    enum Expect expect;
    enum Within within;
    char open[CONTROL_DEPTH_MAX];
    guint depth;
    guint values, members;
    gsize begin; /* of this string or word in the text */
    char quote;
    guint digits; /* of \uXXXX, so far */
    gunichar code, high;
    bool is_id; /* the value that comes next is of "id" */
    gsize id_at, id_len;
    bool is_over;  /* the next feed begins anew */
    bool is_reset; /* nothing but control characters since a flaw */
    const char *flaw;
};

ControlScan *
control_scan_new(gsize bytes_max)
{
    ControlScan *scan = g_new0(ControlScan, 1);

    scan->bytes_max = bytes_max;
    scan->text = g_string_new(NULL);
    return scan;
}

void
control_scan_free(ControlScan *scan)
{
    if (scan != NULL) {
        g_string_free(scan->text, TRUE);
        g_free(scan);
    }
}

static void
scan_begin(ControlScan *scan)
{
    g_string_truncate(scan->text, 0);
    scan->bytes = 0;
    scan->expect = EXPECT_START;
    scan->within = WITHIN_NOTHING;
    scan->depth = 0;
    scan->values = scan->members = 0;
    scan->is_id = false;
    scan->id_at = scan->id_len = 0;
    scan->is_over = false;
    scan->flaw = NULL;
}

/* False, and skipping from here on: the byte is looked at again as one of what
 * is skipped. */
static bool
scan_refuse(ControlScan *scan, const char *flaw)
{
    scan->flaw = flaw;
    scan->within = WITHIN_FLAW;
    g_string_truncate(scan->text, 0);
    return false;
}

/*
 * The grammar
 */

/* A value of any kind begins here. */
static bool
scan_value(ControlScan *scan)
{
    if (scan->expect != EXPECT_START && scan->expect != EXPECT_VALUE &&
        scan->expect != EXPECT_VALUE_OR_END) {
        return scan_refuse(scan, "a value where none can be");
    }
    if (++scan->values > CONTROL_VALUES_MAX) {
        return scan_refuse(scan, "too many values");
    }
    if (scan->is_id && scan->depth == 1) {
        scan->id_at = scan->text->len;
    }
    return true;
}

static void
scan_value_done(ControlScan *scan)
{
    if (scan->is_id && scan->depth == 1) {
        scan->id_len = scan->text->len - scan->id_at;
        scan->is_id = false;
    }
    scan->expect = scan->depth == 0 ? EXPECT_START : EXPECT_COMMA_OR_END;
    scan->is_over = scan->depth == 0;
}

static bool
scan_open(ControlScan *scan, char bracket)
{
    if (!scan_value(scan)) {
        return false;
    }
    if (scan->depth == CONTROL_DEPTH_MAX) {
        return scan_refuse(scan, "nested too deeply");
    }
    scan->open[scan->depth++] = bracket;
    scan->expect = bracket == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
    g_string_append_c(scan->text, bracket);
    return true;
}

static bool
scan_close(ControlScan *scan, char bracket)
{
    bool is_object = scan->depth > 0 && scan->open[scan->depth - 1] == '{';
    bool is_end = scan->expect == EXPECT_COMMA_OR_END ||
                  scan->expect == EXPECT_KEY_OR_END ||
                  scan->expect == EXPECT_VALUE_OR_END;

    if (!is_end || is_object != (bracket == '}')) {
        return scan_refuse(scan, "a bracket where none can be");
    }
    scan->depth--;
    g_string_append_c(scan->text, bracket);
    scan_value_done(scan);
    return true;
}

static bool
scan_colon(ControlScan *scan)
{
    if (scan->expect != EXPECT_COLON) {
        return scan_refuse(scan, "a colon where none can be");
    }
    g_string_append_c(scan->text, ':');
    scan->expect = EXPECT_VALUE;
    return true;
}

static bool
scan_comma(ControlScan *scan)
{
    if (scan->expect != EXPECT_COMMA_OR_END) {
        return scan_refuse(scan, "a comma where none can be");
    }
    g_string_append_c(scan->text, ',');
    scan->expect =
        scan->open[scan->depth - 1] == '{' ? EXPECT_KEY : EXPECT_VALUE;
    return true;
}

/*
 * Strings
 */
static bool
scan_is_key(const ControlScan *scan)
{
    return scan->expect == EXPECT_KEY || scan->expect == EXPECT_KEY_OR_END;
}

static bool
scan_quote(ControlScan *scan, char quote)
{
    if (!scan_is_key(scan) && !scan_value(scan)) {
        return false;
    }
    scan->within = WITHIN_STRING;
    scan->quote = quote;
    scan->high = 0;
    scan->begin = scan->text->len;
    g_string_append_c(scan->text, '"');
    return true;
}

static bool
scan_string_done(ControlScan *scan)
{
    const char *string = scan->text->str + scan->begin;
    gsize len = scan->text->len - scan->begin;

    if (!g_utf8_validate(string, (gssize)len, NULL)) {
        return scan_refuse(scan, "a string is not UTF-8");
    }
    g_string_append_c(scan->text, '"');
    scan->within = WITHIN_NOTHING;
    if (!scan_is_key(scan)) {
        scan_value_done(scan);
        return true;
    }
    scan->members++;
    if (scan->depth == 1) {
        scan->is_id = len == 3 && memcmp(string, "\"id", len) == 0;
    }
    scan->expect = EXPECT_COLON;
    return true;
}

/* What a string has, as text. */
static void
scan_append(ControlScan *scan, gunichar c)
{
    if (c == '"' || c == '\\') {
        g_string_append_c(scan->text, '\\');
        g_string_append_c(scan->text, (char)c);
    } else if (c < 0x20) {
        g_string_append_printf(scan->text, "\\u%04x", c);
    } else {
        g_string_append_unichar(scan->text, c);
    }
}

static bool
scan_string(ControlScan *scan, char c)
{
    if (scan->high != 0 && c != '\\') {
        return scan_refuse(scan, "half a surrogate pair");
    }
    if (c == scan->quote) {
        return scan_string_done(scan);
    }
    if ((guchar)c < 0x20) {
        return scan_refuse(scan, "a control character in a string");
    }
    if (c == '\\') {
        scan->within = WITHIN_ESCAPE;
    } else if (c == '"') {
        g_string_append(scan->text, "\\\"");
    } else {
        g_string_append_c(scan->text, c); /* maybe a part of one */
    }
    return true;
}

static bool
scan_escape(ControlScan *scan, char c)
{
    static const char names[] = "\"'\\/bfnrt";
    static const char meant[] = "\"'\\/\b\f\n\r\t";
    const char *at;

    if (c == 'u') {
        scan->within = WITHIN_UNICODE;
        scan->code = 0;
        scan->digits = 0;
        return true;
    }
    at = c != '\0' ? strchr(names, c) : NULL;
    if (at == NULL || scan->high != 0) {
        return scan_refuse(scan, "an escape that there is not");
    }
    scan_append(scan, (guchar)meant[at - names]);
    scan->within = WITHIN_STRING;
    return true;
}

static bool
scan_unicode(ControlScan *scan, char c)
{
    if (!g_ascii_isxdigit(c)) {
        return scan_refuse(scan, "an escape that there is not");
    }
    scan->code = scan->code << 4 | (gunichar)g_ascii_xdigit_value(c);
    if (++scan->digits < 4) {
        return true;
    }
    scan->within = WITHIN_STRING;
    if (scan->code == 0) {
        return scan_refuse(scan, "a NUL in a string");
    }
    if ((scan->code & 0xfc00) == 0xd800 && scan->high == 0) {
        scan->high = scan->code;
        return true;
    }
    if (((scan->code & 0xfc00) == 0xdc00) != (scan->high != 0)) {
        return scan_refuse(scan, "half a surrogate pair");
    }
    scan_append(scan, scan->high == 0 ? scan->code
                                      : 0x10000 + ((scan->high & 0x3ff) << 10) +
                                            (scan->code & 0x3ff));
    scan->high = 0;
    return true;
}

/*
 * Numbers, true, false, null
 */
static const char *
skip_digits(const char *word)
{
    return word + strspn(word, "0123456789");
}

/* [-] int [frac] [exp]; *@is_whole: neither of the latter. */
static bool
is_number(const char *word, bool *is_whole)
{
    const char *at = word[0] == '-' ? word + 1 : word;
    const char *end = skip_digits(at);

    *is_whole = true;
    if (end == at || (at[0] == '0' && end > at + 1)) {
        return false;
    }
    if (end[0] == '.') {
        *is_whole = false;
        at = end + 1;
        end = skip_digits(at);
        if (end == at) {
            return false;
        }
    }
    if (end[0] == 'e' || end[0] == 'E') {
        *is_whole = false;
        at = end + 1;
        at += at[0] == '+' || at[0] == '-';
        end = skip_digits(at);
        if (end == at) {
            return false;
        }
    }
    return end[0] == '\0';
}

static bool
scan_word_done(ControlScan *scan)
{
    const char *word = scan->text->str + scan->begin;
    bool is_whole;

    scan->within = WITHIN_NOTHING;
    if (strcmp(word, "true") != 0 && strcmp(word, "false") != 0 &&
        strcmp(word, "null") != 0) {
        if (!is_number(word, &is_whole)) {
            return scan_refuse(scan, "a word that is no JSON");
        }
        if (is_whole ? !g_ascii_string_to_signed(word, 10, G_MININT64,
                                                 G_MAXINT64, NULL, NULL)
                     : !isfinite(g_ascii_strtod(word, NULL))) {
            return scan_refuse(scan, "a number that is too large");
        }
    }
    scan_value_done(scan);
    return true;
}

static bool
is_of_word(char c)
{
    return g_ascii_isalnum(c) || c == '-' || c == '+' || c == '.' || c == '_';
}

/*
 * One byte
 */

/* Of what is neither in a string nor in a word. */
static bool
scan_between(ControlScan *scan, char c)
{
    switch (c) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return true;
    case '{':
    case '[':
        return scan_open(scan, c);
    case '}':
    case ']':
        return scan_close(scan, c);
    case ':':
        return scan_colon(scan);
    case ',':
        return scan_comma(scan);
    case '"':
    case '\'':
        return scan_quote(scan, c);
    default:
        break;
    }
    if (!is_of_word(c)) {
        return scan_refuse(scan, "a byte that is no JSON");
    }
    if (!scan_value(scan)) {
        return false;
    }
    scan->within = WITHIN_WORD;
    scan->begin = scan->text->len;
    g_string_append_c(scan->text, c);
    return true;
}

static bool
scan_word(ControlScan *scan, char c)
{
    if (scan->text->len - scan->begin == CONTROL_WORD_MAX) {
        return scan_refuse(scan, "a word that is no JSON");
    }
    g_string_append_c(scan->text, c);
    return true;
}

static bool
is_reset(char c)
{
    return (guchar)c < 0x20 && c != '\t' && c != '\r' && c != '\n';
}

static void
scan_skip(ControlScan *scan, char c)
{
    scan->bytes++;
    if (c == '\n' || is_reset(c)) {
        scan_begin(scan);
        scan->is_reset = true;
    }
}

/* False: a flaw; @c is not taken then. *@is_taken: false if a word ended before
 * it. */
static bool
scan_byte(ControlScan *scan, char c, bool *is_taken)
{
    if (is_reset(c)) {
        return scan_refuse(scan, "a control character");
    }
    switch (scan->within) {
    case WITHIN_STRING:
        return scan_string(scan, c);
    case WITHIN_ESCAPE:
        return scan_escape(scan, c);
    case WITHIN_UNICODE:
        return scan_unicode(scan, c);
    case WITHIN_WORD:
        if (is_of_word(c)) {
            return scan_word(scan, c);
        }
        *is_taken = false;
        return scan_word_done(scan);
    case WITHIN_NOTHING:
    case WITHIN_FLAW:
        break;
    }
    return scan_between(scan, c);
}

enum ControlFound
control_scan_feed(ControlScan *scan, const char *data, gsize len, gsize *used)
{
    bool is_taken;

    if (scan->is_over) {
        scan_begin(scan);
    }
    for (*used = 0; *used < len; *used += is_taken) {
        char c = data[*used];

        is_taken = true;
        if (scan->within == WITHIN_FLAW) {
            scan_skip(scan, c);
        } else if (!scan->is_reset || !is_reset(c)) {
            scan->is_reset = scan->is_reset && g_ascii_isspace(c);
            if (!scan_byte(scan, c, &is_taken)) {
                return CONTROL_FOUND_FLAW;
            }
            if (scan->is_over) {
                *used += is_taken;
                return CONTROL_FOUND_MESSAGE;
            }
            scan->bytes += control_scan_is_amid(scan);
        }
        if (scan->bytes > scan->bytes_max) {
            return CONTROL_FOUND_TOO_LONG;
        }
    }
    return CONTROL_FOUND_NOTHING;
}

const char *
control_scan_text(const ControlScan *scan, gsize *len)
{
    *len = scan->text->len;
    return scan->text->str;
}

guint
control_scan_members(const ControlScan *scan)
{
    return scan->members;
}

const char *
control_scan_id(const ControlScan *scan, gsize *len)
{
    *len = scan->id_len;
    return scan->id_len > 0 ? scan->text->str + scan->id_at : NULL;
}

const char *
control_scan_flaw(const ControlScan *scan)
{
    return scan->flaw;
}

bool
control_scan_is_amid(const ControlScan *scan)
{
    return !scan->is_over &&
           (scan->depth > 0 || scan->within != WITHIN_NOTHING);
}
