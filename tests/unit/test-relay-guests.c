/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-relay-guests.c - how much of its disk's time a guest is left
 */
#include "relay/core-internal.h"
#include "relay/loop.h"

#include "tests/lib/test.h"

#define CLUSTER UINT64_C(65536)
#define READERS 2

struct Rig {
    Relay relay;
    RelayDisk disks[READERS];
    RateBucket bucket;
};

/* Relays that read one guest's disk, and rest now: the first one for its target,
 * the others for jobs of it. */
static int
setup(void **state)
{
    struct Rig *rig = g_new0(struct Rig, 1);
    DiskMap *map = disk_map_new(16 * CLUSTER, 16);

    relay_guests_init(&rig->relay);
    rig->relay.now_us = G_USEC_PER_SEC;
    for (unsigned i = 0; i < READERS; i++) {
        RelayDisk *disk = &rig->disks[i];

        disk->relay = &rig->relay;
        disk->pins = map;
        disk->core = relay_core_new(&(struct RelayCoreConfig){
            .map = map, .bucket = &rig->bucket, .max_conns = 1});
        disk->core->load_rest_us = INT64_MAX;
        relay_guests_join(&rig->relay, disk);
        rig->relay.disks_now[rig->relay.n_disks++] = disk;
    }
    *state = rig;
    return 0;
}

static int
teardown(void **state)
{
    struct Rig *rig = *state;
    DiskMap *map = rig->disks[0].pins;

    for (unsigned i = 0; i < READERS; i++) {
        relay_guests_leave(&rig->relay, &rig->disks[i]);
        relay_core_free(rig->disks[i].core);
    }
    relay_guests_deinit(&rig->relay);
    disk_map_free(map);
    g_free(rig);
    return 0;
}

/* One part of so many is the first core's, after a guest that asked @rate times a
 * second for half a second. */
static unsigned
parts_at(struct Rig *rig, unsigned rate)
{
    for (unsigned ms = 0; ms < 500; ms++) {
        rig->relay.now_us += 1000;
        rig->relay.guest_requests +=
            ((ms + 1) * rate) / 1000 - ms * rate / 1000;
        relay_guests_look(&rig->relay);
    }
    return rig->disks[0].core->yields;
}

static void
test_a_busy_guest_is_left_more(void **state)
{
    struct Rig *rig = *state;
    unsigned last = 4;

    rig->disks[1].core->load_rest_us = 0; /* it does not read */
    assert_int_equal(parts_at(rig, 0), 0);
    assert_int_equal(parts_at(rig, 50), 4);
    for (unsigned rate = 500; rate <= 5000; rate += 500) {
        unsigned parts = parts_at(rig, rate);

        assert_in_range(parts, last, 12);
        last = parts;
    }
    assert_int_equal(last, 12);
    assert_int_equal(parts_at(rig, 100000), 12);
    /* And all is ours again when it is silent. */
    assert_int_equal(parts_at(rig, 0), 0);
}

static void
test_who_reads_shares_what_one_would_have(void **state)
{
    struct Rig *rig = *state;

    assert_int_equal(parts_at(rig, 50), 4 * READERS);
    assert_int_equal(parts_at(rig, 9000), 12 * READERS);
    assert_int_equal(rig->disks[1].core->yields, 12 * READERS);
    rig->disks[1].core->load_rest_us = 0;
    assert_int_equal(parts_at(rig, 9000), 12);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_busy_guest_is_left_more, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_who_reads_shares_what_one_would_have, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
