/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the next daemon believes of the one before: a memo that is of this very
 * store, and no other. The connection is /dev/null here; nothing is asked of it,
 * since the kernel is taken for one that cannot send again.
 */
#include "fs/takeover.h"

#include "tests/lib/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DIR "/no/such/dir"

static const struct TakeoverMemo some_memo = {
    .magic = "weirmemo",
    .version = 2,
    .restarts = 3,
    .left_us = 1234,
    .is_paused = 1,
    .uuid = "a store's uuid.",
};

/* As after takeover_init(), with what a keeper has passed on. */
static struct Takeover
passed_on(const struct TakeoverMemo *memo, size_t len, bool has_connection)
{
    struct Takeover takeover = {.memo_fd = -1, .fuse_fd = -1};

    if (memo != NULL) {
        takeover.memo_fd = memfd_create("memo", MFD_CLOEXEC);
        assert_int_equal(write(takeover.memo_fd, memo, len), len);
    }
    if (has_connection) {
        takeover.fuse_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        assert_true(takeover.fuse_fd >= 0);
    }
    return takeover;
}

static Store
store_of(const uint8_t uuid[16])
{
    Store store = {.path = (char *)"/no/such/store"};

    memcpy(store.uuid, uuid, 16);
    return store;
}

static void
test_own_memo_is_believed(void **state)
{
    struct Takeover takeover = passed_on(&some_memo, sizeof(some_memo), true);
    Store store = store_of(some_memo.uuid);
    int fd;

    (void)state;
    assert_true(takeover_attach(&takeover, &store, DIR, &fd, NULL));
    assert_true(fd >= 0);
    assert_true(takeover.is_successor);
    assert_int_equal(takeover.memo.restarts, 4);
    assert_int_equal(takeover.memo.is_paused, 1);
    close(fd);
    takeover_deinit(&takeover);
}

/* @memo does not make the connection this store's. */
static void
assert_refused(const struct TakeoverMemo *memo, size_t len, const char *word)
{
    struct Takeover takeover = passed_on(memo, len, true);
    Store store = store_of(some_memo.uuid);
    GError *error = NULL;
    int fd;

    assert_false(takeover_attach(&takeover, &store, DIR, &fd, &error));
    assert_int_equal(fd, -1);
    assert_false(takeover.is_successor);
    assert_non_null(strstr(error->message, word));
    /* Another try would meet the same: not "busy". */
    assert_int_equal(error->code, STORE_ERROR_FAILED);
    g_error_free(error);
    takeover_deinit(&takeover);
}

static void
test_no_other_store_gets_the_guest(void **state)
{
    struct TakeoverMemo memo = some_memo;

    (void)state;
    memo.uuid[15] ^= 1;
    assert_refused(&memo, sizeof(memo), "another store's");
}

static void
test_without_a_memo_nobody_gets_the_guest(void **state)
{
    struct TakeoverMemo memo = some_memo;

    (void)state;
    assert_refused(NULL, 0, "without a memo");
    assert_refused(&memo, sizeof(memo) - 1, "without a memo");
    memo.version++;
    assert_refused(&memo, sizeof(memo), "without a memo");
    memo = some_memo;
    memo.magic[0] ^= 1;
    assert_refused(&memo, sizeof(memo), "without a memo");
}

/* The mount has ended, and the keeper has kept the memo alone. */
static void
test_another_stores_memo_says_nothing(void **state)
{
    struct TakeoverMemo memo = some_memo;
    Store store = store_of(some_memo.uuid);
    struct Takeover takeover;
    int fd;

    (void)state;
    memo.uuid[0] ^= 1;
    takeover = passed_on(&memo, sizeof(memo), false);
    assert_true(takeover_attach(&takeover, &store, DIR, &fd, NULL));
    assert_int_equal(fd, -1);
    assert_false(takeover.is_successor);
    assert_int_equal(takeover.memo.restarts, 0);
    assert_int_equal(takeover.memo.is_paused, 0);
    assert_int_equal(takeover.memo.left_us, 0);
    assert_memory_equal(takeover.memo.uuid, store.uuid, 16);
    takeover_deinit(&takeover);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_memo_is_believed),
        cmocka_unit_test(test_no_other_store_gets_the_guest),
        cmocka_unit_test(test_without_a_memo_nobody_gets_the_guest),
        cmocka_unit_test(test_another_stores_memo_says_nothing),
    };

    setenv("WEIR_DEBUG", "no-resend", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
