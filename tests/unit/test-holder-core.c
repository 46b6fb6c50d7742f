/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The holder's decisions, without a holder: what is read out of a message, and
 * what follows the end of a daemon. Wait statuses are put together as the
 * kernel does it: a code in the second byte, a signal in the first.
 */
#include "fs/holder-core.h"

#include "tests/lib/test.h"

#include <signal.h>
#include <string.h>
#include <sys/param.h>

#define EXITED(code) ((code) << 8)
#define SECOND       INT64_C(1000000)

static void
parse(const char *text, struct HolderMessage *message)
{
    holder_message_parse(text, strlen(text), message);
}

static void
test_message_is_read_line_by_line(void **state)
{
    struct HolderMessage message;

    (void)state;
    parse("READY=1\nSTATUS=idle, 0 B to upload\nEXTEND_TIMEOUT_USEC=3",
          &message);
    assert_true(message.is_ready);
    assert_true(message.has_words);
    assert_string_equal(message.words, "idle, 0 B to upload");
    assert_false(message.is_store || message.is_forget);

    parse("FDSTORE=1\nFDNAME=fuse\n", &message);
    assert_true(message.is_store);
    assert_string_equal(message.name, "fuse");
    assert_false(message.is_ready || message.has_words);

    parse("FDSTOREREMOVE=1\nFDNAME=memo", &message);
    assert_true(message.is_forget && !message.is_store);
    assert_string_equal(message.name, "memo");
}

static void
test_odd_messages_ask_for_nothing(void **state)
{
    static const char *const odd[] = {
        "",
        "\n\n",
        "READY=0",
        "READY=11",
        "READY",
        "=1",
        "XREADY=1",
        "FDSTORE=1",             /* no name */
        "FDSTORE=1\nFDNAME=",    /* likewise */
        "FDSTORE=1\nFDNAME=a:b", /* would be two in LISTEN_FDNAMES */
        "FDSTOREREMOVE=1",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        struct HolderMessage message;

        parse(odd[i], &message);
        assert_false(message.is_ready || message.is_store || message.is_forget);
    }
}

static void
test_long_values_are_cut_and_ended(void **state)
{
    struct HolderMessage message;
    char text[4096];

    (void)state;
    memset(text, 'x', sizeof(text));
    memcpy(text, "STATUS=", 7);
    holder_message_parse(text, sizeof(text), &message);
    assert_int_equal(strlen(message.words), HOLDER_WORDS_MAX);
    memcpy(text, "FDNAME=", 7);
    holder_message_parse(text, sizeof(text), &message);
    assert_int_equal(strlen(message.name), HOLDER_NAME_MAX);
}

static void
test_first_daemon_that_is_never_ready_ends_it(void **state)
{
    struct HolderCore core = {0};
    struct HolderNext next;

    (void)state;
    holder_core_started(&core);
    next = holder_core_ended(&core, EXITED(3), true, SECOND);
    assert_int_equal(next.verdict, HOLDER_END);
    assert_int_equal(next.exit_code, 3);
    next = holder_core_ended(&core, SIGKILL, true, SECOND);
    assert_int_equal(next.verdict, HOLDER_END);
    assert_int_equal(next.exit_code, 1);
}

static void
test_what_follows_an_end(void **state)
{
    static const struct {
        int status;
        bool is_connected;
        enum HolderVerdict verdict;
        int code;
    } cases[] = {
        {EXITED(0), true, HOLDER_END, 0},
        {EXITED(0), false, HOLDER_END, 0},
        {EXITED(1), false, HOLDER_END, 1},
        {SIGKILL, false, HOLDER_END, 1},
        {EXITED(HOLDER_HAND_OVER), false, HOLDER_END, 0},
        {EXITED(HOLDER_HAND_OVER), true, HOLDER_RESTART, 0},
        {EXITED(1), true, HOLDER_RESTART, 0},
        {SIGSEGV, true, HOLDER_RESTART, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct HolderCore core = {0};
        struct HolderNext next;

        holder_core_started(&core);
        holder_core_ready(&core, SECOND);
        next = holder_core_ended(&core, cases[i].status, cases[i].is_connected,
                                 SECOND + 1);
        assert_int_equal(next.verdict, cases[i].verdict);
        assert_int_equal(next.exit_code, cases[i].code);
        assert_int_equal(next.delay_ms, 0);
    }
}

/* @lasts_us: how long each daemon serves; -1: it never gets ready. */
static struct HolderNext
die(struct HolderCore *core, int64_t *now_us, int64_t lasts_us)
{
    struct HolderNext next;

    holder_core_started(core);
    if (lasts_us >= 0) {
        holder_core_ready(core, *now_us);
        *now_us += lasts_us;
    }
    next = holder_core_ended(core, SIGKILL, true, *now_us);
    *now_us += next.delay_ms * INT64_C(1000);
    return next;
}

static void
test_deaths_in_a_row_end_in_giving_up(void **state)
{
    static const unsigned delays[] = {0, 50, 200, 800, 3200};
    struct HolderCore core = {0};
    int64_t now_us = SECOND;
    struct HolderNext next;

    (void)state;
    for (unsigned i = 0; i < HOLDER_DEATHS - 1; i++) {
        next = die(&core, &now_us, i == 0 ? 0 : i % 2 ? -1 : 1000);
        assert_int_equal(next.verdict, HOLDER_RESTART);
        assert_int_equal(next.delay_ms, delays[i]);
    }
    next = die(&core, &now_us, -1);
    assert_int_equal(next.verdict, HOLDER_GIVE_UP);
    assert_int_equal(next.exit_code, 1);
}

static void
test_a_run_that_lasted_forgives(void **state)
{
    struct HolderCore core = {0};
    int64_t now_us = SECOND;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(die(&core, &now_us, 1000).verdict, HOLDER_RESTART);
        assert_int_equal(die(&core, &now_us, -1).verdict, HOLDER_RESTART);
        assert_int_equal(die(&core, &now_us, HOLDER_LASTED_US).delay_ms, 0);
    }
}

static void
test_rare_deaths_do_not_add_up(void **state)
{
    struct HolderCore core = {0};
    int64_t now_us = SECOND;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(die(&core, &now_us, 0).verdict, HOLDER_RESTART);
        now_us += HOLDER_DEATHS_WITHIN_US / 3;
    }
}

static void
test_handovers_are_no_deaths(void **state)
{
    struct HolderCore core = {0};

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        holder_core_started(&core);
        holder_core_ready(&core, SECOND);
        assert_int_equal(
            holder_core_ended(&core, EXITED(HOLDER_HAND_OVER), true, SECOND)
                .verdict,
            HOLDER_RESTART);
    }
    assert_int_equal(core.deaths, 0);
    /* Said by one that was not ready, it is a failure like any other. */
    holder_core_started(&core);
    holder_core_ended(&core, EXITED(HOLDER_HAND_OVER), true, SECOND);
    assert_int_equal(core.deaths, 1);
}

static void
test_too_early_is_no_death(void **state)
{
    static const unsigned delays[] = {50, 200, 800, 3200, 3200, 3200};
    struct HolderCore core = {0};
    int64_t now_us = SECOND;

    (void)state;
    assert_int_equal(die(&core, &now_us, 0).verdict, HOLDER_RESTART);
    for (unsigned i = 0; i < 10 * HOLDER_DEATHS; i++) {
        struct HolderNext next;

        holder_core_started(&core);
        next = holder_core_ended(&core, EXITED(HOLDER_REFUSED), true, now_us++);
        assert_int_equal(next.verdict, HOLDER_RESTART);
        assert_int_equal(next.delay_ms, delays[MIN(i, 5)]);
    }
    assert_int_equal(core.deaths, 1);
    /* A connection that is gone is waited for by nobody. */
    holder_core_started(&core);
    assert_int_equal(
        holder_core_ended(&core, EXITED(HOLDER_REFUSED), false, now_us).verdict,
        HOLDER_END);
    /* One that serves begins anew, and the code of one that did is a death. */
    holder_core_started(&core);
    holder_core_ready(&core, now_us);
    holder_core_ended(&core, EXITED(HOLDER_REFUSED), true, now_us);
    assert_int_equal(core.deaths, 2);
    holder_core_started(&core);
    assert_int_equal(
        holder_core_ended(&core, EXITED(HOLDER_REFUSED), true, now_us).delay_ms,
        delays[0]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_message_is_read_line_by_line),
        cmocka_unit_test(test_odd_messages_ask_for_nothing),
        cmocka_unit_test(test_long_values_are_cut_and_ended),
        cmocka_unit_test(test_first_daemon_that_is_never_ready_ends_it),
        cmocka_unit_test(test_what_follows_an_end),
        cmocka_unit_test(test_deaths_in_a_row_end_in_giving_up),
        cmocka_unit_test(test_a_run_that_lasted_forgives),
        cmocka_unit_test(test_rare_deaths_do_not_add_up),
        cmocka_unit_test(test_handovers_are_no_deaths),
        cmocka_unit_test(test_too_early_is_no_death),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
