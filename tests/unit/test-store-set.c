/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-set.c - settings and growing: kept, refused, and what they dirty
 */
#include "tests/lib/fault-io.h"
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <unistd.h>

static void
test_settings_are_kept(void **state)
{
    static const char *const pairs[][2] = {
        {"bwlimit", "08:00,1M 20:00,off"},
        {"insecure", "yes"},
        {"max-connections", "16"},
        {"target-unflushed", "yes"},
        {"request-deadline", "120"},
        {"target-accept", "overwrite"},
        {"policy", "none"},
        {"cut-interval", "86400"},
        {"buffer-size", "20G"},
        {"on-cut", "zfs snapshot t@$WEIR_CUT"},
        {"on-freeze", "virsh domfsfreeze vm1"},
        {"on-thaw", "virsh domfsthaw vm1"},
        {"snapshot-every", "90m"},
        {"snapshot-keep", "0"},
        {"full-wait", "0"},
        {"before-degrade", "sync; true"},
        {"group", "no"},
    };
    Store *store = fixture_open(*state, 0);

    for (unsigned i = 0; i < G_N_ELEMENTS(pairs); i++) {
        assert_true(store_set(store, NULL, pairs[i][0], pairs[i][1], NULL));
    }
    store_free(store);
    store = fixture_open(*state, 0);
    assert_string_equal(store->settings.bwlimit, "08:00,1M 20:00,off");
    assert_true(store->settings.insecure);
    assert_true(store->settings.accept_unflushed);
    assert_int_equal(store->settings.max_connections, 16);
    assert_int_equal(store->settings.request_deadline_s, 120);
    assert_int_equal(store->disks[0]->accept, ACCEPT_OVERWRITE);
    assert_int_equal(store->settings.policy, STORE_POLICY_NONE);
    assert_int_equal(store->settings.cut_interval_s, 86400);
    assert_int_equal(store->settings.buffer_bytes, UINT64_C(20) << 30);
    assert_string_equal(store->settings.on_cut, "zfs snapshot t@$WEIR_CUT");
    assert_string_equal(store->settings.on_freeze, "virsh domfsfreeze vm1");
    assert_string_equal(store->settings.on_thaw, "virsh domfsthaw vm1");
    assert_int_equal(store->settings.snapshot_every_s, 5400);
    assert_int_equal(store->settings.snapshot_keep, 0);
    assert_int_equal(store->settings.full_wait_s, 0);
    assert_string_equal(store->settings.before_degrade, "sync; true");
    assert_true(store->disks[0]->is_alone);
    assert_true(store_set(store, NULL, "on-freeze", "none", NULL));
    assert_null(store->settings.on_freeze);
    assert_true(store_set(store, NULL, "snapshot-every", "off", NULL));
    assert_int_equal(store->settings.snapshot_every_s, 0);
    assert_true(store_set(store, NULL, "on-cut", "none", NULL));
    assert_null(store->settings.on_cut);
    assert_true(store_set(store, NULL, "bwlimit", "off", NULL));
    assert_null(store->settings.bwlimit);
    assert_true(store_set(store, NULL, "insecure", "no", NULL));
    assert_false(store->settings.insecure);
    store_free(store);
}

static void
test_bad_settings_change_nothing(void **state)
{
    static const struct {
        const char *key, *value, *named;
        bool of_disk;
        int code;
    } cases[] = {
        {"colour", "red", "max-connections", false, 2},
        {"full-wait", "5m", "from 0 to 3600", false, 2},
        {"full-wait", "3601", "from 0 to 3600", false, 2},
        {"full-wait", "1", "whole store", true, 2},
        {"snapshot-every", "1", "30m, 1h or 1d", false, 2},
        {"snapshot-every", "0h", "30m, 1h or 1d", false, 2},
        {"snapshot-every", "1hm", "30m, 1h or 1d", false, 2},
        {"snapshot-every", "-1h", "30m, 1h or 1d", false, 2},
        {"snapshot-every", "367d", "30m, 1h or 1d", false, 2},
        {"snapshot-every", "99999999999d", "30m, 1h or 1d", false, 2},
        {"snapshot-keep", "all", "from 0 to", false, 2},
        {"cut-interval", "0", "86400", false, 2},
        {"cut-interval", "86401", "86400", false, 2},
        {"cut-interval", "10", "whole store", true, 2},
        {"policy", "journal", "cut or none", false, 2},
        {"buffer-size", "20X", "a size", false, 2},
        {"group", "maybe", "yes or no", true, 2},
        {"bwlimit", "fast", "fast", false, 2},
        {"bwlimit", "1M", "whole store", true, 2},
        {"insecure", "maybe", "maybe", false, 2},
        {"target-unflushed", "", "yes or no", false, 2},
        {"max-connections", "0", "16", false, 2},
        {"max-connections", "17", "16", false, 2},
        {"request-deadline", "-1", "3600", false, 2},
        {"target-accept", "yes", "overwrite", true, 2},
        {"target", "gopher://x/y", "gopher", true, 5},
        {"target", "nbd:x", "URI", true, 5},
        {"target", "", "empty", true, 5},
        {"target", "/dev/null", "/dev/null", true, 5},
    };
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->path, STORE_CONF, NULL);
    Store *store = fixture_open(fixture, 0);
    char *before, *after;

    assert_true(g_file_get_contents(path, &before, NULL, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Disk *disk = cases[i].of_disk ? store->disks[0] : NULL;
        GError *error = NULL;

        if (store_set(store, disk, cases[i].key, cases[i].value, &error) ||
            !strstr(error->message, cases[i].named)) {
            fail_msg("case %u: %s", i, error ? error->message : "taken");
        }
        assert_int_equal(take_code(&error), cases[i].code);
    }
    assert_true(g_file_get_contents(path, &after, NULL, NULL));
    assert_string_equal(before, after);
    assert_string_equal(store->disks[0]->target, TARGET);
    store_free(store);
    g_free(before);
    g_free(after);
    g_free(path);
}

static void
test_new_target_dirties_everything(void **state)
{
    struct StoreFixture *fixture = *state;
    char *far = g_build_filename(fixture->dir, "far.raw", NULL);
    struct stat st;
    Store *store;
    Disk *disk;

    fixture_serve(fixture, 0);
    store = fixture_open(fixture, 0);
    disk = store_disk(store, "vda");
    disk->accept = ACCEPT_OVERWRITE;
    assert_true(store_set(store, NULL, "target", TARGET, NULL));
    assert_int_equal(dirty_clusters(disk), 0); /* the same one */
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    assert_int_equal(disk->accept, ACCEPT_OVERWRITE);

    assert_true(store_set(store, disk, "target", far, NULL));
    assert_int_equal(dirty_clusters(disk), DISK_CLUSTERS);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_int_equal(disk->accept, ACCEPT_EMPTY);
    assert_int_equal(stat(far, &st), 0);
    assert_int_equal(st.st_size, DISK_CLUSTERS * CLUSTER);
    assert_true(store_close_clean(store, NULL));
    store_free(store);

    store = fixture_open(fixture, 0);
    disk = store_disk(store, "vda");
    assert_true(store->was_clean);
    assert_string_equal(disk->target, far);
    assert_int_equal(dirty_clusters(disk), DISK_CLUSTERS);
    assert_int_equal(disk->contact, CONTACT_NONE);
    assert_true(store_set(store, disk, "target", "none", NULL));
    assert_null(disk->target);
    store_free(store);
    store = fixture_open(fixture, 0);
    assert_null(store->disks[0]->target);
    store_free(store);
    g_free(far);
}

static void
test_target_of_several_disks_needs_a_name(void **state)
{
    GError *error = NULL;
    Store *store;

    fixture_create(*state, "vdb", NULL);
    store = fixture_open(*state, 0);
    assert_false(store_set(store, NULL, "target", "nbd://localhost/y", &error));
    assert_int_equal(take_code(&error), 2);
    assert_true(store_set(store, store_disk(store, "vdb"), "target",
                          "nbd://localhost/y", NULL));
    assert_string_equal(store_disk(store, "vda")->target, TARGET);
    assert_true(store_set(store, NULL, "target-accept", "same", NULL));
    assert_int_equal(store_disk(store, "vda")->accept, ACCEPT_SAME);
    assert_int_equal(store_disk(store, "vdb")->accept, ACCEPT_SAME);
    store_free(store);
}

/* Who is cut: policy cut, a target, and group=yes. */
static void
test_group_is_what_is_cut(void **state)
{
    Store *store;
    Disk *vda, *vdb;

    fixture_create(*state, "vdb", TARGET);
    store = fixture_open(*state, 0);
    vda = store_disk(store, "vda");
    vdb = store_disk(store, "vdb");
    assert_true(store_is_cut(store, vda) && store_is_cut(store, vdb));
    assert_true(store_set(store, vdb, "group", "no", NULL));
    assert_true(store_is_cut(store, vda) && !store_is_cut(store, vdb));
    assert_true(store_set(store, NULL, "group", "yes", NULL));
    assert_true(store_is_cut(store, vdb));
    assert_true(store_set(store, vdb, "target", "none", NULL));
    assert_false(store_is_cut(store, vdb));
    assert_true(store_set(store, NULL, "policy", "none", NULL));
    assert_false(store_is_cut(store, vda));
    store_free(store);
}

/* What was held is held over a clean end, and no longer once a target may have
 * been written in another way: even if it was so in between only. */
static void
test_cut_is_held_until_something_else_was_sent(void **state)
{
    struct StoreFixture *fixture = *state;
    Store *store = fixture_open(fixture, 0);

    store->disks[0]->contact = CONTACT_KNOWN;
    store->cuts.holds = store->disks[0]->cut = 7;
    assert_true(store_is_in_place(store));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    store = fixture_open(fixture, 0);
    assert_true(store_serve(store, NULL));
    assert_true(store_is_in_place(store));
    store->cuts.advancing = 8;
    assert_false(store_is_in_place(store));
    store->cuts.advancing = 0;
    assert_true(store_close_clean(store, NULL));
    assert_true(store_set(store, NULL, "policy", "none", NULL));
    store_free(store);
    store = fixture_open(fixture, 0);
    assert_true(store_serve(store, NULL));
    assert_true(store_close_clean(store, NULL));
    assert_true(store_set(store, NULL, "policy", "cut", NULL));
    store_free(store);
    store = fixture_open(fixture, 0);
    assert_int_equal(store->cuts.holds, 7);
    assert_false(store_is_in_place(store));
    store->disks[0]->cut = 7;
    assert_true(store_set(store, NULL, "target", "nbd://localhost/y", NULL));
    assert_false(store_is_in_place(store));
    store_free(store);
}

/* The n-th storage call of a new target fails: afterwards it is the old one
 * with its bits, or the new one with all of them. */
static void
test_faults_of_a_new_target_are_safe(void **state)
{
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n++) {
            struct StoreFixture *fixture = *state;
            Store *store = fixture_open(fixture, 0);
            Disk *disk;

            assert_true(store_set(store, NULL, "target", TARGET, NULL));
            store_free(store);
            fixture_serve(fixture, 3 * CLUSTER);

            fault_io_arm(&fault, n, sticky, -ENOSPC);
            store = store_open(&fault.io, fixture->path, 0, NULL);
            if (store) {
                if (store_set(store, NULL, "target", "nbd://localhost/y",
                              NULL)) {
                    (void)store_close_clean(store, NULL);
                }
                store_free(store);
            }
            failed = fault_io_disarm(&fault);
            store = fixture_open(fixture, 0);
            disk = store_disk(store, "vda");
            if (!strcmp(disk->target, TARGET)) {
                assert_true(failed);
                assert_true(dirty_clusters(disk) >= 3);
            } else {
                assert_int_equal(dirty_clusters(disk), DISK_CLUSTERS);
                assert_int_equal(disk->contact, CONTACT_NONE);
            }
            store_free(store);
        }
    }
}

static void
test_resize_grows_and_dirties_the_new_part(void **state)
{
    static const uint64_t bytes = (DISK_CLUSTERS + 1) * CLUSTER + 512;
    struct stat st;
    Store *store;
    Disk *disk;

    fixture_serve(*state, CLUSTER);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_true(store_resize_disk(store, disk, bytes, NULL));
    assert_int_equal(disk->size_bytes, bytes);
    assert_int_equal(dirty_clusters(disk), 3);
    assert_int_equal(fstat(disk->fd, &st), 0);
    assert_int_equal(st.st_size, (DISK_CLUSTERS + 1) * CLUSTER + 4096);
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    disk = store_disk(store, "vda");
    assert_int_equal(disk->size_bytes, bytes);
    assert_int_equal(dirty_clusters(disk), 3);
    assert_int_equal(disk->contact, CONTACT_KNOWN);
    store_free(store);
}

/* A crash after growing, before the clean end: disk.raw has room to the next
 * 4 KiB, so nothing but weir.conf tells that there is more of the disk. */
static void
test_resize_then_crash_keeps_the_new_part_dirty(void **state)
{
    uint64_t bytes = DISK_CLUSTERS * CLUSTER + 512;
    Store *store = fixture_open(*state, 0);

    assert_true(store_resize_disk(store, store->disks[0], bytes, NULL));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
    fixture_serve(*state, 0);
    store = fixture_open(*state, 0);
    assert_int_equal(dirty_clusters(store->disks[0]), 0);
    assert_true(store_resize_disk(store, store->disks[0], bytes + 512, NULL));
    store_free(store);
    store = fixture_open(*state, 0);
    assert_int_equal(store->disks[0]->size_bytes, bytes + 512);
    assert_int_equal(dirty_clusters(store->disks[0]), 1);
    assert_false(disk_map_is_clean(store->disks[0]->map, bytes, 512));
    store_free(store);
}

static void
test_resize_refuses_what_cannot_be(void **state)
{
    struct StoreFixture *fixture = *state;
    Store *store = fixture_open(fixture, 0);
    Disk *disk = store_disk(store, "vda");
    char *far = g_build_filename(fixture->dir, "far.raw", NULL);
    GError *error = NULL;

    assert_false(store_resize_disk(store, disk, CLUSTER, &error));
    assert_int_equal(take_code(&error), 2);
    assert_false(store_resize_disk(store, disk, 999 * CLUSTER + 1, &error));
    assert_int_equal(take_code(&error), 2);
    assert_false(store_resize_disk(store, disk, UINT64_C(1) << 62, &error));
    assert_int_equal(take_code(&error), 2);
    assert_true(
        store_resize_disk(store, disk, DISK_CLUSTERS * CLUSTER, &error));
    assert_true(store_set(store, NULL, "target", far, NULL));
    assert_false(store_resize_disk(store, disk, 999 * CLUSTER, &error));
    assert_int_equal(take_code(&error), 5);
    assert_int_equal(truncate(far, (off_t)(999 * CLUSTER)), 0);
    assert_true(store_resize_disk(store, disk, 999 * CLUSTER, &error));
    store_free(store);
    g_free(far);
}

/* Growing with the n-th call failing: the disk has one of the two sizes, and
 * whatever is new of it is dirty. */
static void
test_faults_of_resize_are_safe(void **state)
{
    uint64_t before = DISK_CLUSTERS * CLUSTER;
    FaultIo fault;

    fault_io_init(&fault, store_io_kernel());
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        unsigned failed = 1;

        for (unsigned n = 1; failed; n++) {
            uint64_t after = before + 5 * CLUSTER;
            Store *store;
            Disk *disk;

            fixture_serve(*state, CLUSTER);
            fault_io_arm(&fault, n, sticky, -EIO);
            store = store_open(&fault.io, ((struct StoreFixture *)*state)->path,
                               0, NULL);
            if (store) {
                if (store_resize_disk(store, store->disks[0], after, NULL)) {
                    (void)store_close_clean(store, NULL);
                } else {
                    assert_int_equal(store->disks[0]->size_bytes, before);
                }
                store_free(store);
            }
            failed = fault_io_disarm(&fault);
            store = fixture_open(*state, 0);
            disk = store->disks[0];
            assert_false(disk_map_is_clean(disk->map, 0, 1));
            if (disk->size_bytes == after) {
                assert_true(dirty_clusters(disk) >= 6);
                assert_false(disk_map_is_clean(disk->map, before, 1));
                before = after;
            } else {
                assert_int_equal(disk->size_bytes, before);
            }
            store_free(store);
        }
    }
}

int
main(void)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_settings_are_kept),
        WITH_STORE(test_bad_settings_change_nothing),
        WITH_STORE(test_new_target_dirties_everything),
        WITH_STORE(test_target_of_several_disks_needs_a_name),
        WITH_STORE(test_group_is_what_is_cut),
        WITH_STORE(test_cut_is_held_until_something_else_was_sent),
        WITH_STORE(test_faults_of_a_new_target_are_safe),
        WITH_STORE(test_resize_grows_and_dirties_the_new_part),
        WITH_STORE(test_resize_then_crash_keeps_the_new_part_dirty),
        WITH_STORE(test_resize_refuses_what_cannot_be),
        WITH_STORE(test_faults_of_resize_are_safe),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
