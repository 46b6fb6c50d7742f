/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * holder-core.c - what the holder decides
 *
 * The daemon has ended; the first line that applies:
 *
 *   it was never ready, and none before it      end with its code: the mount
 *                                               failed, its words say why
 *   exit code 0                                 end with 0: unmounted
 *   the connection is gone                      end: nobody waits for anything
 *   handed over, having been ready              start the next one at once
 *   code 3, not having been ready               it was too early: somebody
 *                                               had the store's lock for a
 *                                               moment; again in a while
 *   killed, or failed                           a death: start the next one,
 *                                               or give up
 *
 * The first death is followed by a start at once: a guest is waiting. If that
 * one does not last either, pauses grow, and with the sixth it is over: the
 * guest is better off with an error than with a disk that never answers. A run
 * that lasted forgives what was before it.
 *
 *   death   1   2      3     4     5     6
 *   delay   0  50 ms  0.2 s 0.8 s 3.2 s  give up
 *
 * One that was too early is no death, and its guest's disk is sound: it is
 * tried for as long as it takes, with the same pauses and no end.
 */
#include "holder-core.h"

#include <string.h>
#include <sys/wait.h>

#define FIRST_DELAY_MS 50
#define DELAYS         4 /* the last is repeated */

/* Copies at most @room - 1 bytes, and ends them. */
static void
copy_text(char *to, size_t room, const char *from, size_t len)
{
    size_t n = len < room - 1 ? len : room - 1;

    memcpy(to, from, n);
    to[n] = '\0';
}

/* Does the line begin with @key? Then the rest is its value. */
static const char *
value_of(const char *line, size_t len, const char *key, size_t *value_len)
{
    size_t key_len = strlen(key);

    if (len < key_len || memcmp(line, key, key_len) != 0) {
        return NULL;
    }
    *value_len = len - key_len;
    return line + key_len;
}

/* Is the line that, and nothing else? */
static bool
is_line(const char *line, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(line, text, len) == 0;
}

static void
parse_line(const char *line, size_t len, struct HolderMessage *message)
{
    const char *value;
    size_t n = 0;

    if (is_line(line, len, "READY=1")) {
        message->is_ready = true;
    } else if (is_line(line, len, "FDSTORE=1")) {
        message->is_store = true;
    } else if (is_line(line, len, "FDSTOREREMOVE=1")) {
        message->is_forget = true;
    } else if ((value = value_of(line, len, "FDNAME=", &n)) != NULL) {
        copy_text(message->name, sizeof(message->name), value, n);
    } else if ((value = value_of(line, len, "STATUS=", &n)) != NULL) {
        message->has_words = true;
        copy_text(message->words, sizeof(message->words), value, n);
    }
}

void
holder_message_parse(const char *text, size_t len,
                     struct HolderMessage *message)
{
    const char *end = text + len;

    memset(message, 0, sizeof(*message));
    while (text < end) {
        const char *line_end = memchr(text, '\n', (size_t)(end - text));

        if (line_end == NULL) {
            line_end = end;
        }
        parse_line(text, (size_t)(line_end - text), message);
        text = line_end + 1;
    }
    /* A colon parts the names in LISTEN_FDNAMES. */
    if (message->name[0] == '\0' || strchr(message->name, ':') != NULL) {
        message->is_store = message->is_forget = false;
    }
}

void
holder_core_started(struct HolderCore *core)
{
    core->is_ready = false;
}

void
holder_core_ready(struct HolderCore *core, int64_t now_us)
{
    core->is_ready = core->was_ready = true;
    core->refusals = 0;
    core->ready_us = now_us;
}

static struct HolderNext
end_with(enum HolderVerdict verdict, int exit_code)
{
    return (struct HolderNext){.verdict = verdict, .exit_code = exit_code};
}

/* Before the @n-th start of a row that began with an immediate one. */
static unsigned
delay_ms(unsigned n)
{
    return FIRST_DELAY_MS << 2 * (n < DELAYS ? n : DELAYS - 1);
}

static struct HolderNext
count_death(struct HolderCore *core, int64_t now_us)
{
    struct HolderNext next = {.verdict = HOLDER_RESTART};

    if ((core->is_ready && now_us - core->ready_us >= HOLDER_LASTED_US) ||
        now_us - core->first_death_us > HOLDER_DEATHS_WITHIN_US) {
        core->deaths = 0;
    }
    if (core->deaths++ == 0) {
        core->first_death_us = now_us;
        return next;
    }
    if (core->deaths >= HOLDER_DEATHS) {
        return end_with(HOLDER_GIVE_UP, 1);
    }
    next.delay_ms = delay_ms(core->deaths - 2);
    return next;
}

static struct HolderNext
count_refusal(struct HolderCore *core)
{
    return (struct HolderNext){.verdict = HOLDER_RESTART,
                               .delay_ms = delay_ms(core->refusals++)};
}

struct HolderNext
holder_core_ended(struct HolderCore *core, int status, bool is_connected,
                  int64_t now_us)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    bool has_handed_over = core->is_ready && code == HOLDER_HAND_OVER;

    if (!core->was_ready || code == 0) {
        return end_with(HOLDER_END, code);
    }
    if (!is_connected) {
        return end_with(HOLDER_END, has_handed_over ? 0 : code);
    }
    if (has_handed_over) {
        return (struct HolderNext){.verdict = HOLDER_RESTART};
    }
    if (!core->is_ready && code == HOLDER_REFUSED) {
        return count_refusal(core);
    }
    return count_death(core, now_us);
}
