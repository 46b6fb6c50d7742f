/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-target-place.c - one place, however it is written
 */
#include "relay/target-uri.h"

#include "relay/relay.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <sys/stat.h>

/* In here: dir/file, hard (the same), link -> dir, loop -> loop, other; "@" in
 * the tables stands for it. */
static char *home;

static char *
at_home(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "@", -1);

    return g_strjoinv(home, parts);
}

static void
put(const char *path)
{
    g_autofree char *whole = at_home(path);

    assert_true(g_file_set_contents(whole, "x", 1, NULL));
}

static int
setup(void **state)
{
    g_autofree char *dir = NULL, *file = NULL, *hard = NULL, *to = NULL;
    g_autofree char *loop = NULL;

    (void)state;
    home = scratch_new();
    dir = at_home("@/dir");
    file = at_home("@/dir/file");
    hard = at_home("@/hard");
    to = at_home("@/link");
    loop = at_home("@/loop");
    assert_int_equal(mkdir(dir, 0700), 0);
    put("@/dir/file");
    put("@/other");
    assert_int_equal(link(file, hard), 0);
    assert_int_equal(symlink("./dir/../dir", to), 0);
    assert_int_equal(symlink("loop", loop), 0);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    scratch_free(home);
    return 0;
}

static void
test_one_place_has_many_names(void **state)
{
    static const struct {
        const char *one, *other;
        bool is_same;
    } rows[] = {
        /* files */
        {"@/dir/file", "@/dir/file", true},
        {"@/dir/file", "@/link/file", true},
        {"@/dir/file", "@//dir/./../dir/file", true},
        {"@/dir/file", "@/hard", true},
        {"@/dir/file", "@/other", false},
        {"@/dir/new", "@/link/new", true},
        {"@/dir/new", "@/new", false},
        {"@/loop/a", "@/loop/a", true},
        {"@/dir/file", "[ nbdkit file @/link/file ]", true},
        {"@/dir/file", "[ nbdkit -v file cache=none file=@/hard ]", true},
        {"@/dir/file", "[ /usr/sbin/nbdkit file file=@/link/../dir/file ]",
         true},
        {"@/dir/file", "[ nbdkit --filter=offset file @/dir/file offset=1M ]",
         false},
        {"@/dir/file", "[ qemu-nbd @/dir/file ]", false},
        {"@/dir/file", "[ nbdkit file ]", false},
        /* hosts */
        {"nbd://h/x", "nbd://h:10809/x", true},
        {"nbd://h/x", "nbd://H./x", true},
        {"nbd://h/x", "nbds://h/x?tls-psk-file=/k", true},
        {"nbd://h/x", "nbd://h/%78", true},
        {"nbd://h/x", "nbd://h/y", false},
        {"nbd://h/x", "nbd://h", false},
        {"nbd://h/x", "nbd://h:10810/x", false},
        {"nbd://h/x", "nbd://i/x", false},
        {"nbd://localhost/x", "nbd://127.0.0.1/x", true},
        {"nbd://localhost/x", "nbd://[::1]/x", true},
        {"nbd://[::1]/x", "nbd://[0:0::1]/x", true},
        {"nbd://10.0.0.1/x", "nbd://[::ffff:10.0.0.1]/x", true},
        {"nbd://127.0.0.1/x", "nbd://127.0.0.2/x", false},
        /* sockets */
        {"nbd+unix:///x?socket=@/hard", "nbd+unix:///x?socket=@/link/file",
         true},
        {"nbd+unix:///x?socket=@/hard", "nbd+unix:///y?socket=@/hard", false},
        {"nbd+unix:///x?socket=@/hard", "nbd+unix:///x?socket=@/other", false},
        {"nbd+unix:///x?socket=@/hard", "nbd://localhost/x", false},
        /* servers */
        {"[ nbdkit memory 1G ]", "[  'nbdkit' memory 1G ]", true},
        {"[ nbdkit memory 1G ]", "[ nbdkit memory 2G ]", false},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *one = at_home(rows[i].one);
        g_autofree char *other = at_home(rows[i].other);

        print_message("%s, %s\n", rows[i].one, rows[i].other);
        assert_int_equal(relay_target_is_same(one, other), rows[i].is_same);
        assert_int_equal(relay_target_is_same(other, one), rows[i].is_same);
    }
}

static void
test_links_lead_into_a_directory(void **state)
{
    static const struct {
        const char *target;
        bool is_within;
    } rows[] = {
        {"@/dir/file", true},
        {"@/dir", true},
        {"@/link/none/there", true},
        {"@/link", true},
        {"[ nbdkit file @/link/file ]", true},
        {"@/dir2/file", false},
        {"@/dir/../other", false},
        {"[ nbdkit file @/dir/../other ]", false},
        {"@/hard", false},
        {"@/loop/file", false},
        {"nbd://localhost/x", false},
        {"nbd+unix:///x?socket=@/dir/file", false},
        {"", false},
    };
    g_autofree char *dir = at_home("@/dir");

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *target = at_home(rows[i].target);

        print_message("%s\n", rows[i].target);
        assert_int_equal(relay_target_is_within(target, dir),
                         rows[i].is_within);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_place_has_many_names),
        cmocka_unit_test(test_links_lead_into_a_directory),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
