/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel asks about names, see snapnode-rig.h.
 */
#include "snapnode-rig.h"

#include "tests/lib/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fuse_entry_out entry;

static int
keep_entry(FakeSession *session, int error)
{
    if (!error) {
        assert_int_equal(session->reply_len, sizeof(entry));
        memcpy(&entry, session->reply, sizeof(entry));
    }
    return error;
}

int
lookup(FakeSession *session, uint64_t parent, const char *name)
{
    return keep_entry(session, fake_call(session, FUSE_LOOKUP, parent, name,
                                         strlen(name) + 1));
}

uint64_t
walk(FakeSession *session, const char *path)
{
    g_auto(GStrv) names = g_strsplit(path, "/", -1);
    uint64_t node = 1;

    for (char **name = names; *name; name++) {
        int error = lookup(session, node, *name);

        if (error) {
            assert_int_equal(error, -ENOENT);
            return 0;
        }
        /* Asked for each time. */
        assert_int_equal(entry.entry_valid, 0);
        assert_int_equal(entry.attr_valid, 0);
        assert_int_equal(entry.attr.ino, entry.nodeid);
        node = entry.nodeid;
    }
    return node;
}

int
make_dir(FakeSession *session, uint64_t parent, const char *name, size_t len)
{
    struct fuse_mkdir_in in = {.mode = 0755};
    uint64_t unique =
        fake_send(session, FUSE_MKDIR, parent, &in, sizeof(in), name, len);
    int error;

    assert_true(fake_reply(session, &error) == unique);
    return keep_entry(session, error);
}

int
mkdir_name(FakeSession *session, const char *name)
{
    return make_dir(session, walk(session, ".snapshots"), name,
                    strlen(name) + 1);
}

int
call_name(FakeSession *session, uint32_t opcode, uint64_t parent,
          const char *name)
{
    return fake_call(session, opcode, parent, name, strlen(name) + 1);
}

int
open_node(FakeSession *session, uint64_t node, int flags,
          struct fuse_open_out *out)
{
    struct fuse_open_in in = {.flags = (uint32_t)flags};
    int error = fake_call(session, FUSE_OPEN, node, &in, sizeof(in));

    if (!error) {
        memcpy(out, session->reply, sizeof(*out));
    }
    return error;
}

int
getattr(FakeSession *session, uint64_t node, struct fuse_attr_out *out)
{
    int error =
        fake_call(session, FUSE_GETATTR, node, &(struct fuse_getattr_in){0},
                  sizeof(struct fuse_getattr_in));

    if (!error) {
        memcpy(out, session->reply, sizeof(*out));
    }
    return error;
}

unsigned
read_dir(FakeSession *session, uint64_t node, uint32_t size, uint64_t *offset,
         GString *names)
{
    struct fuse_read_in in = {.offset = *offset, .size = size};
    unsigned count = 0;

    assert_int_equal(fake_call(session, FUSE_READDIR, node, &in, sizeof(in)),
                     0);
    for (size_t at = 0; at < session->reply_len; count++) {
        struct fuse_dirent *dirent = (void *)(session->reply + at);

        g_string_append_len(names, dirent->name, dirent->namelen);
        g_string_append_c(names, dirent->type == S_IFDIR >> 12   ? '/'
                                 : dirent->type == S_IFLNK >> 12 ? '@'
                                                                 : ' ');
        *offset = dirent->off;
        at += FUSE_DIRENT_SIZE(dirent);
    }
    return count;
}

void
assert_list(FakeSession *session, uint64_t node, const char *expected)
{
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t offset = 0;

    while (read_dir(session, node, 200, &offset, names)) {
    }
    assert_string_equal(names->str, expected);
}
