/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapnode-rig.h - the mount's names, asked for as the kernel does
 *
 * Purpose: look-ups, lists and what changes names, over a fake session.
 * Threads: the test's.
 * Errors:  0 or -errno, as the kernel gets it; what cannot be is asserted.
 */
#pragma once

#include "tests/lib/fake-session.h"

extern struct fuse_entry_out entry; /* of the last lookup(), make_dir() */

int lookup(FakeSession *session, uint64_t parent, const char *name);
/* Component by component from the root; the node, or 0: there is none. What is
 * on the way has no time-out. */
uint64_t walk(FakeSession *session, const char *path);
/* @len bytes of name, its NUL among them; in .snapshots. */
int make_dir(FakeSession *session, uint64_t parent, const char *name,
             size_t len);
int mkdir_name(FakeSession *session, const char *name);
/* Of whatever has nothing but a name. */
int call_name(FakeSession *session, uint32_t opcode, uint64_t parent,
              const char *name);
int open_node(FakeSession *session, uint64_t node, int flags,
              struct fuse_open_out *out);
int getattr(FakeSession *session, uint64_t node, struct fuse_attr_out *out);

/* One READDIR from *@offset on, its names appended to @names, each with what it
 * is: a slash, @, or nothing; how many there were. */
unsigned read_dir(FakeSession *session, uint64_t node, uint32_t size,
                  uint64_t *offset, GString *names);
/* All of a directory is this, in that form. */
void assert_list(FakeSession *session, uint64_t node, const char *expected);
