/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recording server, asked by libnbd: what it is told is in the log and in
 * the image; a lost connection's writes come later or never.
 */
#include "tests/lib/record-target.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <libnbd.h>
#include <string.h>

#define SIZE 65536

struct Fixture {
    char *dir, *socket;
    RecordLog log;
    RecordTarget *target;
    struct nbd_handle *nbd;
};

static int
setup(void **state)
{
    struct Fixture *fixture = calloc(1, sizeof(*fixture));

    fixture->dir = scratch_new();
    assert_true(asprintf(&fixture->socket, "%s/sock", fixture->dir) > 0);
    record_log_init(&fixture->log);
    fixture->target = record_target_start(
        &(struct RecordTargetConfig){.log = &fixture->log,
                                     .socket = fixture->socket,
                                     .size_bytes = SIZE,
                                     .seed = 1,
                                     .can_zero = true,
                                     .delay_us = 1000,
                                     .zombie_us = 1000,
                                     .zombie_per_mille = 1000});
    fixture->nbd = nbd_create();
    assert_int_equal(nbd_connect_unix(fixture->nbd, fixture->socket), 0);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *fixture = *state;

    nbd_close(fixture->nbd);
    record_target_free(fixture->target);
    record_log_deinit(&fixture->log);
    free(fixture->socket);
    scratch_free(fixture->dir);
    free(fixture);
    return 0;
}

static void
test_requests_are_in_log_and_image(void **state)
{
    struct Fixture *fixture = *state;
    struct nbd_handle *nbd = fixture->nbd;
    char data[512], back[512];

    memset(data, 'a', sizeof(data));
    assert_int_equal(nbd_get_size(nbd), SIZE);
    assert_int_equal(nbd_can_multi_conn(nbd), 0);
    assert_int_equal(nbd_pwrite(nbd, data, 512, 1024, 0), 0);
    assert_int_equal(nbd_pread(nbd, back, 512, 1024, 0), 0);
    assert_memory_equal(data, back, 512);
    assert_int_equal(nbd_zero(nbd, 256, 1024, 0), 0);
    assert_int_equal(nbd_flush(nbd, 0), 0);
    const uint8_t *image = record_target_image(fixture->target);

    assert_int_equal(image[1024 + 255], 0);
    assert_int_equal(image[1024 + 256], 'a');
    assert_int_equal(fixture->log.count, 3);
    const RecordEntry *write = fixture->log.entries[0];
    const RecordEntry *zero = fixture->log.entries[1];
    const RecordEntry *flush = fixture->log.entries[2];

    assert_int_equal(write->kind, RECORD_SEND);
    assert_memory_equal(write->data, data, 512);
    assert_true(write->begin < write->executed && write->executed < write->end);
    assert_true(write->end < zero->begin && !zero->data);
    assert_int_equal(flush->kind, RECORD_FLUSH);
    assert_int_equal(flush->node, write->node); /* no multi-conn: its own */
}

static void
test_lost_write_is_a_zombie(void **state)
{
    struct Fixture *fixture = *state;
    char data[512] = "zombie";

    record_target_hold(fixture->target, true);
    assert_true(
        nbd_aio_pwrite(fixture->nbd, data, 512, 0, NBD_NULL_COMPLETION, 0) > 0);
    while (record_target_figures(fixture->target).sends == 0) {
        nbd_poll(fixture->nbd, 1);
    }
    record_target_drop(fixture->target);
    while (!nbd_aio_is_dead(fixture->nbd) && !nbd_aio_is_closed(fixture->nbd)) {
        nbd_poll(fixture->nbd, 1);
    }
    record_target_settle(fixture->target);
    const RecordEntry *write = fixture->log.entries[0];

    assert_true(write->executed != RECORD_NEVER && write->end == RECORD_NEVER);
    assert_memory_equal(record_target_image(fixture->target), data, 512);
    assert_int_equal(record_target_figures(fixture->target).executed_zombies,
                     1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_requests_are_in_log_and_image,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_write_is_a_zombie, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
