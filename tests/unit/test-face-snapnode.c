/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MNT/.snapshots: what there is. Names and lists, also while they change, the
 * attributes of everything, and where two snapshots differ.
 */
#include "snapnode-rig.h"

#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER UINT64_C(65536)

static void
test_root_hides_snapshots_unless_asked(void **state)
{
    FakeSession *session = *state;

    assert_list(session, 1, "./../vda.raw ");
    assert_true(walk(session, ".snapshots"));
    session->shows_snapshots = true;
    fake_session_restart(session);
    assert_list(session, 1, "./../.snapshots/vda.raw ");
}

static void
test_tree_has_what_there_is(void **state)
{
    FakeSession *session = *state;

    assert_list(session, walk(session, ".snapshots"), "./../");
    assert_false(walk(session, ".snapshots/latest"));
    assert_false(walk(session, ".snapshots/uploaded"));
    fake_session_snapshot(session, "mon");
    fake_session_snapshot(session, "tue");
    fake_session_snapshot(session, "wed");
    assert_list(session, walk(session, ".snapshots"),
                "./../latest@mon/tue/wed/");
    assert_list(session, walk(session, ".snapshots/tue"),
                "./../info.json changed-since/vda.raw ");
    assert_list(session, walk(session, ".snapshots/mon/changed-since"),
                "./../");
    assert_list(session, walk(session, ".snapshots/wed/changed-since"),
                "./../mon/tue/");
    assert_list(session, walk(session, ".snapshots/wed/changed-since/tue"),
                "./../vda.raw ");
    /* Younger ones are found, itself is not. */
    assert_list(session, walk(session, ".snapshots/mon/changed-since/wed"),
                "./../vda.raw ");
    assert_false(walk(session, ".snapshots/mon/changed-since/mon"));
    assert_false(walk(session, ".snapshots/thu"));
    assert_false(walk(session, ".snapshots/mon/vdb.raw"));
    assert_false(walk(session, ".snapshots/mon/latest"));
    assert_int_equal(
        lookup(session, walk(session, ".snapshots/mon/vda.raw"), "mon"),
        -ENOENT);
}

static void
test_names_that_are_none_are_not_found(void **state)
{
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots");
    g_autofree char *long_name = g_strnfill(1024, 'a');
    const char *const bad[] = {"..",      ".",   "",      "../vda.raw",
                               "mon/",    "/",   ".weir", long_name,
                               "vda.raw", "MON", "mon ",  "\xff\xfe"};

    fake_session_snapshot(session, "mon");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_int_equal(lookup(session, top, bad[i]), -ENOENT);
        assert_int_equal(call_name(session, FUSE_RMDIR, top, bad[i]), -ENOENT);
    }
    /* Not one name, or not ended. */
    assert_int_equal(fake_call(session, FUSE_LOOKUP, top, "mon\0x", 6),
                     -EINVAL);
    assert_int_equal(fake_call(session, FUSE_LOOKUP, top, "mon", 3), -EINVAL);
    assert_int_equal(fake_call(session, FUSE_RMDIR, top, "mon", 3), -EINVAL);
    assert_true(walk(session, ".snapshots/mon"));
}

static void
test_files_have_the_attributes_of_the_instant(void **state)
{
    FakeSession *session = *state;
    uint64_t id = fake_session_snapshot(session, "mon");
    struct fuse_attr_out out;
    uint64_t node;

    node = walk(session, ".snapshots/mon/vda.raw");
    assert_true(node == (UINT64_C(9) << 56 | UINT64_C(1) << 40 | id));
    assert_int_equal(getattr(session, node, &out), 0);
    assert_int_equal(out.attr_valid, 0);
    assert_int_equal(out.attr.mode, S_IFREG | 0400);
    assert_int_equal(out.attr.uid, 11);
    assert_int_equal(out.attr.size, FAKE_DISK_BYTES);
    assert_int_equal(out.attr.blocks, 8);
    assert_int_equal(out.attr.mtime, 1);
    assert_int_equal(out.attr.mtimensec, 500000000);
    /* Who may read the disk may read it. */
    session->disk.attr.mode = 0664;
    session->disk.attr.uid = 64055;
    assert_int_equal(getattr(session, node, &out), 0);
    assert_int_equal(out.attr.mode, S_IFREG | 0444);
    assert_int_equal(out.attr.uid, 64055);

    assert_int_equal(getattr(session, walk(session, ".snapshots"), &out), 0);
    assert_int_equal(out.attr.mode, S_IFDIR | 0700);
    assert_int_equal(getattr(session, walk(session, ".snapshots/mon"), &out),
                     0);
    assert_int_equal(out.attr.mode, S_IFDIR | 0500);
    assert_int_equal(out.attr.mtime, 1);
    /* Its size is that of its text. */
    assert_int_equal(
        getattr(session, walk(session, ".snapshots/mon/info.json"), &out), 0);
    assert_int_equal(entry.attr.size, 9);
    assert_int_equal(out.attr.size, 9);
    assert_int_equal(out.attr.mode, S_IFREG | 0400);
}

static void
test_nodes_of_what_is_gone_are_not_found(void **state)
{
    FakeSession *session = *state;
    uint64_t mon = fake_session_snapshot(session, "mon");
    const char *const paths[] = {".snapshots/mon",
                                 ".snapshots/mon/vda.raw",
                                 ".snapshots/mon/info.json",
                                 ".snapshots/mon/changed-since",
                                 ".snapshots/tue/changed-since/mon",
                                 ".snapshots/tue/changed-since/mon/vda.raw"};
    uint64_t nodes[G_N_ELEMENTS(paths)];
    struct fuse_read_in in = {.size = 4096};
    struct fuse_attr_out attr;
    struct fuse_open_out out;

    fake_session_snapshot(session, "tue");
    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        assert_true(nodes[i] = walk(session, paths[i]));
        assert_int_equal(getattr(session, nodes[i], &attr), 0);
    }
    snapshot_list_remove(session->store.snapshots, mon);
    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        assert_int_equal(getattr(session, nodes[i], &attr), -ENOENT);
        assert_int_equal(open_node(session, nodes[i], O_RDONLY, &out), -ENOENT);
    }
    assert_int_equal(
        fake_call(session, FUSE_READDIR, nodes[0], &in, sizeof(in)), -ENOENT);
    /* Numbers that nobody was ever given. */
    for (uint64_t kind = 0; kind < 256; kind++) {
        static const uint64_t ids[] = {0,
                                       9,
                                       2 | 2 << 20,
                                       9 << 20 | 2,
                                       UINT64_C(7) << 40 | 2,
                                       (UINT64_C(1) << 56) - 1};

        for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
            uint64_t node = kind << 56 | ids[i];

            if (i > 0 || (kind > 7 && kind != 14)) { /* .bitmaps */
                assert_int_equal(getattr(session, node, &attr), -ENOENT);
                assert_int_not_equal(open_node(session, node, 0, &out), 0);
            }
        }
    }
}

/* What is on the list when the reading begins and stays is read once, whatever
 * comes and goes meanwhile. */
static void
test_list_that_changes_is_read_on(void **state)
{
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots"), offset = 0;
    g_autoptr(GString) names = g_string_new(NULL);
    g_auto(GStrv) read = NULL;
    char name[16];
    unsigned round = 0;

    for (unsigned i = 1; i <= 300; i++) {
        snprintf(name, sizeof(name), "s%u", i);
        assert_int_equal(fake_session_snapshot(session, name), i);
    }
    while (read_dir(session, top, 300, &offset, names)) {
        /* One that may have been read goes, one that was not, and one comes. */
        round++;
        snapshot_list_remove(session->store.snapshots, round * 2);
        snapshot_list_remove(session->store.snapshots, 300 - round * 2);
        if (round < 5) {
            fake_session_snapshot(session, round % 2 ? "new1" : "new2");
        }
    }
    assert_true(round > 20);
    read = g_strsplit_set(names->str, "/@", -1);
    for (unsigned i = 1; i <= 300; i += 2) {
        unsigned times = 0;

        snprintf(name, sizeof(name), "s%u", i);
        for (char **one = read; *one; one++) {
            times += strcmp(*one, name) == 0;
        }
        assert_int_equal(times, 1);
    }
    assert_true(g_strv_contains((const char *const *)read, "new2"));
}

/*
 * What differs
 */
static Point *
add_point(FakeSession *session, uint64_t id)
{
    Point *point = point_new(id, session->disk.size_bytes, 16, -1, -1);

    points_add(session->disk.points, point);
    points_set_live(session->disk.points, id, true);
    return point;
}

static uint64_t
blocks_of(FakeSession *session, const char *path)
{
    struct fuse_attr_out out;
    uint64_t node = walk(session, path);

    assert_true(node);
    assert_int_equal(getattr(session, node, &out), 0);
    assert_int_equal(out.attr.blocks, entry.attr.blocks);
    return out.attr.blocks;
}

static void
test_changed_file_has_blocks_where_they_differ(void **state)
{
    FakeSession session;
    Points *points;
    Point *mon, *tue;

    (void)state;
    /* The last cluster is a part of one. */
    fake_session_init(&session, NULL, 100 * CLUSTER - 512, 512);
    points = session.disk.points;
    mon = add_point(&session, fake_session_snapshot(&session, "mon"));
    points_keep(points, mon, (struct ClusterRun){3, 2});
    points_keep(points, mon, (struct ClusterRun){99, 1});
    tue = add_point(&session, fake_session_snapshot(&session, "tue"));
    points_keep(points, tue, (struct ClusterRun){4, 4});
    add_point(&session, fake_session_snapshot(&session, "wed"));

    assert_int_equal(blocks_of(&session, ".snapshots/tue/changed-since/mon/"
                                         "vda.raw"),
                     3 * 128 - 1);
    assert_int_equal(entry.attr.size, 100 * CLUSTER - 512);
    assert_int_equal(blocks_of(&session, ".snapshots/mon/changed-since/tue/"
                                         "vda.raw"),
                     3 * 128 - 1);
    assert_int_equal(blocks_of(&session, ".snapshots/wed/changed-since/tue/"
                                         "vda.raw"),
                     4 * 128);
    assert_int_equal(blocks_of(&session, ".snapshots/wed/changed-since/mon/"
                                         "vda.raw"),
                     6 * 128 - 1);
    fake_session_deinit(&session);
}

/* More runs than are counted at a time. */
static void
test_many_changes_are_counted(void **state)
{
    FakeSession session;
    Point *mon;

    (void)state;
    fake_session_init(&session, NULL, 10000 * CLUSTER, 512);
    mon = add_point(&session, fake_session_snapshot(&session, "mon"));
    for (uint64_t i = 0; i < 10000; i += 2) {
        points_keep(session.disk.points, mon, (struct ClusterRun){i, 1});
    }
    add_point(&session, fake_session_snapshot(&session, "tue"));
    assert_int_equal(blocks_of(&session, ".snapshots/tue/changed-since/mon/"
                                         "vda.raw"),
                     5000 * 128);
    fake_session_deinit(&session);
}

static void
set_size(FakeSession *session, uint64_t id, uint64_t size_bytes)
{
    Snapshot snapshot;

    assert_true(snapshot_list_get(session->store.snapshots, id, &snapshot));
    snapshot.disks[0].size_bytes = size_bytes;
    snapshot_list_put(session->store.snapshots, &snapshot);
}

static void
test_what_a_disk_grew_by_differs(void **state)
{
    FakeSession session;
    Point *mon;

    (void)state;
    fake_session_init(&session, NULL, 100 * CLUSTER, 512);
    mon = add_point(&session, fake_session_snapshot(&session, "mon"));
    points_keep(session.disk.points, mon, (struct ClusterRun){0, 1});
    add_point(&session, fake_session_snapshot(&session, "tue"));
    set_size(&session, 1, 90 * CLUSTER);
    assert_int_equal(blocks_of(&session, ".snapshots/tue/changed-since/mon/"
                                         "vda.raw"),
                     11 * 128);
    assert_int_equal(blocks_of(&session, ".snapshots/mon/changed-since/tue/"
                                         "vda.raw"),
                     128);
    assert_int_equal(entry.attr.size, 90 * CLUSTER);
    fake_session_deinit(&session);
}

/* A disk that is younger than a snapshot is not in it. */
static void
test_only_disks_of_the_record_are_there(void **state)
{
    FakeSession *session = *state;
    Snapshot snapshot;
    uint64_t mon = fake_session_snapshot(session, "mon");

    fake_session_snapshot(session, "tue");
    assert_true(snapshot_list_get(session->store.snapshots, mon, &snapshot));
    snapshot.disks[0].id = 2; /* of one that was removed since */
    snapshot_list_put(session->store.snapshots, &snapshot);
    assert_list(session, walk(session, ".snapshots/mon"),
                "./../info.json changed-since/");
    assert_false(walk(session, ".snapshots/mon/vda.raw"));
    assert_list(session, walk(session, ".snapshots/tue/changed-since/mon"),
                "./../");
    assert_false(walk(session, ".snapshots/tue/changed-since/mon/vda.raw"));
}

#define with_session(test)                                    \
    cmocka_unit_test_setup_teardown(test, fake_session_setup, \
                                    fake_session_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        with_session(test_root_hides_snapshots_unless_asked),
        with_session(test_tree_has_what_there_is),
        with_session(test_names_that_are_none_are_not_found),
        with_session(test_files_have_the_attributes_of_the_instant),
        with_session(test_nodes_of_what_is_gone_are_not_found),
        with_session(test_list_that_changes_is_read_on),
        cmocka_unit_test(test_changed_file_has_blocks_where_they_differ),
        cmocka_unit_test(test_many_changes_are_counted),
        cmocka_unit_test(test_what_a_disk_grew_by_differs),
        with_session(test_only_disks_of_the_record_are_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
