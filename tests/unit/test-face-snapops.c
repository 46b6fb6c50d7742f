/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MNT/.snapshots: what can be done there. Making and deleting, following links,
 * opening and reading; and all that is refused.
 */
#include "snapnode-rig.h"

#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define RESENT  (UINT64_C(1) << 63)
#define DIOINFO 0x800c581e

static void
test_info_is_read(void **state)
{
    FakeSession *session = *state;
    struct fuse_open_out out;
    struct fuse_read_in in = {.size = 100};
    uint64_t node;

    fake_session_snapshot(session, "mon");
    fake_session_snapshot(session, "tue");
    node = walk(session, ".snapshots/tue/info.json");
    assert_int_equal(open_node(session, node, O_RDONLY, &out), 0);
    in.fh = out.fh;
    assert_int_equal(fake_call(session, FUSE_READ, node, &in, sizeof(in)), 0);
    assert_int_equal(session->reply_len, 9);
    assert_memory_equal(session->reply, "{info 2}\n", 9);
    /* Another daemon's handle. */
    in.fh = 4711;
    assert_int_equal(fake_call(session, FUSE_READ, node, &in, sizeof(in)), 0);
    assert_int_equal(session->reply_len, 9);
    session->snapshot_error = -EIO;
    assert_int_equal(open_node(session, node, O_RDONLY, &out), -EIO);
    assert_int_equal(
        lookup(session, walk(session, ".snapshots/tue"), "info.json"), -EIO);
}

static void
test_links_lead_to_newest_and_uploaded(void **state)
{
    FakeSession *session = *state;
    uint64_t mon = fake_session_snapshot(session, "mon");
    uint64_t link;
    Snapshot snapshot;

    fake_session_snapshot(session, "tuesday");
    link = walk(session, ".snapshots/latest");
    assert_int_equal(entry.attr.mode, S_IFLNK | 0777);
    assert_int_equal(entry.attr.size, 7);
    assert_int_equal(fake_call(session, FUSE_READLINK, link, NULL, 0), 0);
    assert_int_equal(session->reply_len, 7);
    assert_memory_equal(session->reply, "tuesday", 7);
    assert_false(walk(session, ".snapshots/uploaded"));

    assert_true(snapshot_list_get(session->store.snapshots, mon, &snapshot));
    snapshot.cut = 5;
    snapshot_list_put(session->store.snapshots, &snapshot);
    assert_list(session, walk(session, ".snapshots"),
                "./../latest@uploaded@mon/tuesday/");
    link = walk(session, ".snapshots/uploaded");
    assert_int_equal(entry.attr.mtime, 1);
    assert_int_equal(fake_call(session, FUSE_READLINK, link, NULL, 0), 0);
    assert_memory_equal(session->reply, "mon", 3);
    snapshot_list_remove(session->store.snapshots, mon);
    assert_int_equal(fake_call(session, FUSE_READLINK, link, NULL, 0), -ENOENT);
    assert_int_equal(fake_call(session, FUSE_READLINK, 1, NULL, 0), -ENOENT);
}

static void
test_mkdir_and_rmdir_make_and_delete(void **state)
{
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots"), node;

    assert_int_equal(mkdir_name(session, "mon"), 0);
    assert_int_equal(entry.attr.mode, S_IFDIR | 0500);
    assert_int_equal(entry.entry_valid, 0);
    node = entry.nodeid;
    assert_true(walk(session, ".snapshots/mon") == node);
    assert_int_equal(mkdir_name(session, "mon"), -EEXIST);
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "mon"), 0);
    assert_false(walk(session, ".snapshots/mon"));
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "mon"), -ENOENT);
    /* The same name again is another one. */
    assert_int_equal(mkdir_name(session, "mon"), 0);
    assert_false(entry.nodeid == node);
    /* What the main thread says. */
    session->snapshot_error = -ENOSPC;
    assert_int_equal(mkdir_name(session, "tue"), -ENOSPC);
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "mon"), -ENOSPC);
}

static void
test_bad_names_are_not_made(void **state)
{
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots");
    g_autofree char *just = g_strnfill(STORE_NAME_MAX, 'a');
    g_autofree char *over = g_strnfill(STORE_NAME_MAX + 1, 'a');
    static const char *const bad[] = {"",     ".",   "..",  ".hidden",  "a/b",
                                      "../a", "a b", "a\n", "\xc3\xa4", "*"};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_int_equal(mkdir_name(session, bad[i]), -EINVAL);
    }
    assert_int_equal(mkdir_name(session, over), -ENAMETOOLONG);
    assert_int_equal(mkdir_name(session, "latest"), -EEXIST);
    assert_int_equal(mkdir_name(session, "uploaded"), -EEXIST);
    assert_int_equal(make_dir(session, top, "a\0b", 4), -EINVAL);
    assert_int_equal(make_dir(session, top, "ab", 2), -EINVAL);
    assert_int_equal(make_dir(session, top, "", 0), -EINVAL);
    assert_int_equal(snapshot_list_count(session->store.snapshots), 0);
    assert_int_equal(mkdir_name(session, just), 0);
}

static void
test_sent_again_is_answered_as_done(void **state)
{
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots");

    assert_int_equal(mkdir_name(session, "mon"), 0);
    session->next_unique |= RESENT;
    assert_int_equal(make_dir(session, top, "mon", 4), 0);
    assert_int_equal(make_dir(session, top, "latest", 7), -EEXIST);
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "mon"), 0);
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "mon"), 0);
    assert_int_equal(make_dir(session, top, "mon", 4), 0);
}

static int
set_attr(FakeSession *session, uint64_t node, uint32_t valid)
{
    struct fuse_setattr_in in = {.valid = valid, .mode = 0777};

    return fake_call(session, FUSE_SETATTR, node, &in, sizeof(in));
}

static void
test_nothing_else_can_be_changed(void **state)
{
    static const uint32_t changes[] = {FUSE_CREATE, FUSE_MKNOD,   FUSE_UNLINK,
                                       FUSE_RENAME, FUSE_RENAME2, FUSE_LINK,
                                       FUSE_SYMLINK};
    FakeSession *session = *state;
    uint64_t top = walk(session, ".snapshots"), file, dir;
    struct fuse_open_out out;

    fake_session_snapshot(session, "mon");
    fake_session_snapshot(session, "tue");
    dir = walk(session, ".snapshots/mon");
    file = walk(session, ".snapshots/mon/vda.raw");
    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        assert_int_equal(call_name(session, changes[i], 1, "x"), -EPERM);
        assert_int_equal(call_name(session, changes[i], top, "x"), -EPERM);
        assert_int_equal(call_name(session, changes[i], dir, "x"), -EROFS);
    }
    assert_int_equal(make_dir(session, 1, "x", 2), -EPERM);
    assert_int_equal(make_dir(session, dir, "x", 2), -EPERM);
    assert_int_equal(call_name(session, FUSE_RMDIR, 1, ".snapshots"), -EPERM);
    assert_int_equal(call_name(session, FUSE_RMDIR, dir, "changed-since"),
                     -EPERM);
    assert_int_equal(call_name(session, FUSE_RMDIR, top, "latest"), -ENOTDIR);

    assert_int_equal(set_attr(session, file, FATTR_MODE), -EROFS);
    assert_int_equal(set_attr(session, file, FATTR_SIZE), -EROFS);
    assert_int_equal(set_attr(session, dir, FATTR_MTIME), -EROFS);
    assert_int_equal(set_attr(session, top, FATTR_UID), -EPERM);
    assert_int_equal(
        set_attr(session, walk(session, ".snapshots/latest"), FATTR_MODE),
        -EPERM);
    assert_int_equal(open_node(session, file, O_RDWR, &out), -EROFS);
    assert_int_equal(open_node(session, file, O_WRONLY, &out), -EROFS);
    assert_int_equal(open_node(session,
                               walk(session, ".snapshots/mon/info.json"),
                               O_RDWR, &out),
                     -EROFS);
}

static void
test_mount_that_is_read_only_makes_none(void **state)
{
    FakeSession *session = *state;

    fake_session_snapshot(session, "mon");
    session->is_read_only = true;
    fake_session_restart(session);
    assert_int_equal(mkdir_name(session, "tue"), -EROFS);
    assert_int_equal(
        call_name(session, FUSE_RMDIR, walk(session, ".snapshots"), "mon"),
        -EROFS);
}

static void
test_snapshot_file_is_opened_to_be_cached(void **state)
{
    struct fuse_ioctl_in in = {.cmd = DIOINFO, .out_size = 12};
    FakeSession *session = *state;
    struct fuse_open_out out;
    uint64_t file;

    fake_session_snapshot(session, "mon");
    file = walk(session, ".snapshots/mon/vda.raw");
    assert_int_equal(open_node(session, file, O_RDONLY | O_DIRECT, &out), 0);
    assert_int_equal(out.open_flags, FOPEN_KEEP_CACHE);
    assert_int_equal(out.fh, 0); /* any process can go on with it */
    assert_int_equal(fake_call(session, FUSE_IOCTL, file, &in, sizeof(in)), 0);
    assert_int_equal(fake_call(session, FUSE_FSYNC, file,
                               &(struct fuse_fsync_in){0},
                               sizeof(struct fuse_fsync_in)),
                     0);
}

#define with_session(test)                                    \
    cmocka_unit_test_setup_teardown(test, fake_session_setup, \
                                    fake_session_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        with_session(test_info_is_read),
        with_session(test_links_lead_to_newest_and_uploaded),
        with_session(test_mkdir_and_rmdir_make_and_delete),
        with_session(test_bad_names_are_not_made),
        with_session(test_sent_again_is_answered_as_done),
        with_session(test_nothing_else_can_be_changed),
        with_session(test_mount_that_is_read_only_makes_none),
        with_session(test_snapshot_file_is_opened_to_be_cached),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
