/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One session, one face after the other: what the first leaves is served by
 * the second, requests that are sent again are answered by the number that
 * they came with, and handles of the first never mean something else.
 */
#include "tests/lib/fake-session.h"

#include "tests/lib/test.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define RESENT     (UINT64_C(1) << 63)
#define STATUS_INO (UINT64_C(3) << 56)

static void
test_resent_request_is_answered_by_its_number(void **state)
{
    FakeSession *session = *state;
    char out[4096], in[4096];
    uint64_t again;

    memset(out, 'a', sizeof(out));
    assert_int_equal(fake_write(session, out, sizeof(out), 8192), 4096);
    fake_session_leave(session);
    fake_session_follow(session);
    /* As if the answer to that had never been given. */
    again = session->next_unique;
    session->next_unique |= RESENT;
    assert_int_equal(fake_write(session, out, sizeof(out), 8192), 4096);
    assert_int_equal(fake_fsync(session), 0);
    assert_int_equal(fake_fallocate(session, 0x10, 1 << 20, 4096), 0);
    assert_true(session->next_unique > (again | RESENT));
    assert_int_equal(fake_read(session, in, sizeof(in), 8192), 4096);
    assert_memory_equal(in, out, sizeof(in));
}

static bool
has_reply(FakeSession *session)
{
    struct pollfd look = {session->fd, POLLIN, 0};

    return poll(&look, 1, 0) > 0;
}

static void
test_what_comes_after_leaving_waits_for_the_next(void **state)
{
    FakeSession *session = *state;
    uint64_t unique;
    int error;

    fake_session_leave(session);
    unique = fake_send(session, FUSE_GETATTR, FAKE_DISK_INO,
                       &(struct fuse_getattr_in){0},
                       sizeof(struct fuse_getattr_in), NULL, 0);
    assert_false(has_reply(session));
    fake_session_follow(session);
    assert_true(fake_reply(session, &error) == unique);
    assert_int_equal(error, 0);
}

static void
test_what_was_taken_is_answered_before_leaving(void **state)
{
    FakeSession *session = *state;
    enum { WRITES = 24 };
    static char block[256 << 10];
    struct fuse_write_in in = {.size = sizeof(block)};

    /* Some are taken, the rest waits: all are answered in the end. */
    for (unsigned i = 0; i < WRITES; i++) {
        in.offset = (uint64_t)i * sizeof(block);
        fake_send(session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in), block,
                  sizeof(block));
        if (i == WRITES / 2) {
            fake_session_leave(session);
        }
    }
    fake_session_follow(session);
    for (unsigned i = 0; i < WRITES; i++) {
        int error;

        fake_reply(session, &error);
        assert_int_equal(error, 0);
    }
}

static uint64_t
open_status(FakeSession *session)
{
    struct fuse_open_out out;

    assert_int_equal(fake_call(session, FUSE_OPEN, STATUS_INO,
                               &(struct fuse_open_in){0},
                               sizeof(struct fuse_open_in)),
                     0);
    memcpy(&out, session->reply, sizeof(out));
    return out.fh;
}

static void
test_old_handle_is_regenerated_or_refused(void **state)
{
    FakeSession *session = *state;
    struct fuse_read_in in = {.size = 100};
    uint64_t old, new;

    old = open_status(session);
    fake_session_leave(session);
    fake_session_follow(session);
    new = open_status(session);
    assert_true(new != old);
    /* Half of one document and half of another is none. */
    in.fh = old;
    in.offset = 4;
    assert_int_equal(fake_call(session, FUSE_READ, STATUS_INO, &in, sizeof(in)),
                     -EIO);
    in.offset = 0;
    assert_int_equal(fake_call(session, FUSE_READ, STATUS_INO, &in, sizeof(in)),
                     0);
    assert_int_equal(session->reply_len, 9);
    /* Its release takes nothing from the new one. */
    assert_int_equal(fake_call(session, FUSE_RELEASE, STATUS_INO,
                               &(struct fuse_release_in){.fh = old},
                               sizeof(struct fuse_release_in)),
                     0);
    in.fh = new;
    in.offset = 4;
    assert_int_equal(fake_call(session, FUSE_READ, STATUS_INO, &in, sizeof(in)),
                     0);
    assert_int_equal(session->reply_len, 5);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_resent_request_is_answered_by_its_number, fake_session_setup,
            fake_session_teardown),
        cmocka_unit_test_setup_teardown(
            test_what_comes_after_leaving_waits_for_the_next,
            fake_session_setup, fake_session_teardown),
        cmocka_unit_test_setup_teardown(
            test_what_was_taken_is_answered_before_leaving, fake_session_setup,
            fake_session_teardown),
        cmocka_unit_test_setup_teardown(
            test_old_handle_is_regenerated_or_refused, fake_session_setup,
            fake_session_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
