/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-cli-parse.c - what the command line makes of words
 *
 * Whole commands run in a child each, because their options are variables of
 * the program; what they print goes into a pipe.
 */
#include "fs/cli.h"
#include "fs/mount.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void
test_duration_takes_units_and_sums(void **state)
{
    static const struct {
        const char *text;
        gint64 us;
    } good[] = {{"0", 0},
                {"90", 90000000},
                {"90s", 90000000},
                {"500ms", 500000},
                {"2m30s", 150000000},
                {"1h", G_GINT64_CONSTANT(3600000000)},
                {"1d", G_GINT64_CONSTANT(86400000000)}};
    static const char *const bad[] = {
        "",           "s",    "-1", "1x",  "1h2",
        "1 h",        "1.5h", " 1", "1h ", "99999999999999999999",
        "9999999999d"};
    gint64 us;

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_true(cli_parse_duration(good[i].text, &us));
        assert_int_equal(us, good[i].us);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        if (cli_parse_duration(bad[i], &us)) {
            print_error("taken: '%s'\n", bad[i]);
        }
        assert_false(cli_parse_duration(bad[i], &us));
    }
}

static void
test_mount_options_are_ours_or_fstabs(void **state)
{
    struct MountOptions options;
    static const char *const bad[] = {"bogus",          "uid",
                                      "uid=",           "uid=root",
                                      "uid=-1",         "gid=9x",
                                      "mode=8",         "mode=1777",
                                      "ro=1",           "allow_other=yes",
                                      "nofail=1",       "uid=4294967295",
                                      "snapdir=no",     "transport",
                                      "poll",           "poll=1001",
                                      "poll=-1",        "transport=",
                                      "transport=none", "snapdir"};

    (void)state;
    mount_options_init(&options);
    assert_int_equal(options.uid, geteuid());
    assert_int_equal(options.mode, 0600);
    assert_true(mount_options_parse(
        &options,
        "rw,nofail,_netdev,noauto,user,dev,suid,x-systemd.automount,"
        "comment=mine,,allow_other,uid=64055,gid=108,mode=0660",
        NULL));
    assert_int_equal(options.uid, 64055);
    assert_int_equal(options.gid, 108);
    assert_int_equal(options.mode, 0660);
    assert_true(options.allow_other);
    assert_false(options.is_read_only);
    assert_true(mount_options_parse(&options, "ro", NULL));
    assert_true(options.is_read_only);
    assert_int_equal(options.poll_us, FACE_POLL_US);
    assert_true(mount_options_parse(&options, "poll=0", NULL));
    assert_int_equal(options.poll_us, 0);
    assert_int_equal(options.transport, FACE_TRANSPORT_DEV);
    assert_true(mount_options_parse(&options, "transport=uring", NULL));
    assert_int_equal(options.transport, FACE_TRANSPORT_URING);
    assert_true(mount_options_parse(&options, "transport=auto", NULL));
    assert_int_equal(options.transport, FACE_TRANSPORT_AUTO);
    assert_true(mount_options_parse(&options, "transport=dev", NULL));
    assert_int_equal(options.transport, FACE_TRANSPORT_DEV);
    assert_false(options.shows_snapshots);
    assert_true(mount_options_parse(&options, "snapdir=visible", NULL));
    assert_true(options.shows_snapshots);
    assert_true(mount_options_parse(&options, "snapdir=hidden", NULL));
    assert_false(options.shows_snapshots);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        if (mount_options_parse(&options, bad[i], &error)) {
            print_error("taken: %s\n", bad[i]);
        }
        assert_non_null(error);
        assert_int_equal(error->domain, STORE_ERROR);
        assert_int_equal(error->code, STORE_ERROR_USAGE);
    }
}

static void
test_mountinfo_line_gives_names_unescaped(void **state)
{
    struct MountEntry entry = {0};

    (void)state;
    assert_true(mount_entry_parse(
        "62 27 0:40 / /mnt/my\\040vm\\134x rw,nosuid shared:3 master:1 - "
        "fuse.weir /srv/a\\011b rw,user_id=0",
        &entry));
    assert_string_equal(entry.dir, "/mnt/my vm\\x");
    assert_string_equal(entry.fstype, MOUNT_FSTYPE);
    assert_string_equal(entry.source, "/srv/a\tb");
    mount_entry_clear(&entry);
    assert_false(mount_entry_parse("", &entry));
    assert_false(mount_entry_parse("1 2 3 4 5 6 -", &entry));
    assert_false(mount_entry_parse("1 2 3 4 5 6 - fuse", &entry));
}

static void
test_root_is_a_mount_and_nowhere_is_not(void **state)
{
    struct MountEntry entry;

    (void)state;
    assert_true(mount_find_dir("/", &entry));
    mount_entry_clear(&entry);
    assert_false(mount_find_dir("/no/such/dir", &entry));
    assert_false(mount_find_store("/no/such/store", &entry));
}

/*
 * Whole commands
 */
struct Said {
    int code;
    char text[2][8192]; /* stdout, stderr */
};

static void
run(const char *const *words, struct Said *said)
{
    int out[2], err[2], status;
    char *argv[16] = {(char *)"weir"};
    int argc = 1;
    pid_t pid;

    while (words[argc - 1] != NULL) {
        argv[argc] = g_strdup(words[argc - 1]);
        argc++;
    }
    assert_int_equal(pipe(out) | pipe(err), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        status = cli_main(argc, argv);
        fflush(NULL);
        _exit(status);
    }
    close(out[1]);
    close(err[1]);
    for (unsigned i = 0; i < 2; i++) {
        int fd = i == 0 ? out[0] : err[0];
        size_t len = 0;
        ssize_t n;

        while ((n = read(fd, said->text[i] + len,
                         sizeof(said->text[i]) - 1 - len)) > 0) {
            len += (size_t)n;
        }
        said->text[i][len] = '\0';
        close(fd);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    said->code = WEXITSTATUS(status);
    for (int i = 1; i < argc; i++) {
        g_free(argv[i]);
    }
}

static void
test_bad_usage_is_one_line_and_its_code(void **state)
{
    static const struct {
        int code;
        const char *words[8];
    } cases[] = {
        {2, {NULL}},
        {2, {"bogus", NULL}},
        {2, {"snapshot", NULL}},
        {2, {"snapshot", "bogus", "/nowhere", NULL}},
        {2, {"snapshot", "create", NULL}},
        {2, {"snapshot", "create", "/nowhere", "../x", NULL}},
        {2, {"snapshot", "create", "/nowhere", "a", "b", NULL}},
        {2, {"snapshot", "delete", "/nowhere", NULL}},
        {2, {"snapshot", "list", "/nowhere", "--extents", NULL}},
        {2, {"snapshot", "diff", "/nowhere", NULL}},
        {2, {"snapshot", "diff", "/nowhere", "a", "b", "c", NULL}},
        {2, {"help", "snapshot", "bogus", NULL}},
        {1, {"snapshot", "create", "/nowhere", "a", NULL}},
        {1, {"snapshot", "list", "/nowhere", NULL}},
        {1, {"snapshot", "delete", "/nowhere", "a", NULL}},
        {1, {"snapshot", "diff", "/nowhere", "a", NULL}},
        {2, {"bitmap", NULL}},
        {2, {"bitmap", "bogus", NULL}},
        {2, {"bitmap", "add", "/nowhere/vda", NULL}},
        {2,
         {"bitmap", "add", "/nowhere/vda", "b", "--granularity", "3K", NULL}},
        {2,
         {"bitmap", "add", "/nowhere/vda", "b", "--granularity", "4G", NULL}},
        {2, {"bitmap", "merge", "/nowhere/vda", "b", NULL}},
        {2, {"bitmap", "import", "/nowhere/vda", "b", NULL}},
        {1, {"bitmap", "add", "/nowhere/vda", "b", NULL}},
        {1, {"bitmap", "clear", "/nowhere/vda", "b", NULL}},
        {1, {"bitmap", "merge", "/nowhere/vda", "b", "c", NULL}},
        {1, {"bitmap", "list", "/nowhere", NULL}},
        {1, {"bitmap", "export", "/nowhere/vda", "b", NULL}},
        {2, {"backup", "/nowhere/vda", "--sync", "full", NULL}},
        {2, {"backup", "/nowhere/vda", "--to", "/x", NULL}},
        {2, {"mirror", "/nowhere/vda", "--bitmap-mode", "never", NULL}},
        {1, {"backup", "/nowhere/vda", "--sync", "full", "--to", "/x", NULL}},
        {1, {"mirror", "/nowhere/vda", "--sync", "full", "--to", "/x", NULL}},
        {2, {"job", "pause", "/nowhere", NULL}},
        {2, {"job", "set-speed", "/nowhere", "j", "fast", NULL}},
        {1, {"job", "list", "/nowhere", NULL}},
        {1, {"job", "cancel", "/nowhere", "j", "--soft", NULL}},
        {1, {"job", "complete", "/nowhere", "j", "--wait", NULL}},
        {2, {"help", "bogus", NULL}},
        {2, {"status", "--bogus", NULL}},
        {2, {"status", "a", "b", NULL}},
        {2, {"status", "--watch", NULL}},
        {2, {"create", NULL}},
        {2, {"create", "/nowhere/s/vda", NULL}},
        {2, {"create", "/nowhere/s/vda", "--size", "1Z", NULL}},
        {2, {"create", "/nowhere/s/vda", "--size", "0", NULL}},
        {2, {"create", "/nowhere/s/vda", "--size", "-5G", NULL}},
        {2, {"create", "/nowhere/s/vda", "--size", "99999999999P", NULL}},
        {2, {"create", "/nowhere/s/vda", "--size", "1G", "--from", "/x", NULL}},
        {2,
         {"create", "/nowhere/s/vda", "--size", "1G", "--cluster-size", "3K",
          NULL}},
        {2, {"mount", "/nowhere", NULL}},
        {2, {"mount", "/nowhere", "/nowhere/m", "-o", "bogus", NULL}},
        {2, {"/nowhere", "/nowhere/m", "-o", "bogus", NULL}},
        {2, {"drain", "/nowhere", "--timeout", "soon", NULL}},
        {2, {"drain", "/nowhere", "--timeout", "0", NULL}},
        {2, {"set", "/nowhere", NULL}},
        {2, {"set", "/nowhere", "bwlimit", NULL}},
        {2, {"set", "/nowhere", "=8M", NULL}},
        {2, {"resize", "/nowhere/vda", "much", NULL}},
        {1, {"is", NULL}},
        {1, {"is", "clean", NULL}},
        {1, {"is", "happy", "/nowhere", NULL}},
        {1, {"is", "--bogus", "clean", "/nowhere", NULL}},
        {1, {"is", "clean", "/nowhere", NULL}},
        {1, {"status", "/nowhere", NULL}},
        {1, {"metrics", "/nowhere", NULL}},
        {1, {"drain", "/nowhere", NULL}},
        {1, {"pause", "/nowhere", NULL}},
        {1, {"umount", "/nowhere", NULL}},
        /* Without -f it would be this program that is run as the daemon. */
        {1, {"mount", "-f", "/nowhere", "/nowhere/m", NULL}},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct Said said;
        char *end;

        run(cases[i].words, &said);
        end = strchr(said.text[1], '\n');
        if (said.code != cases[i].code || said.text[0][0] != '\0' ||
            end == NULL || end[1] != '\0') {
            print_error("case %u: exit %d: %s%s\n", i, said.code, said.text[0],
                        said.text[1]);
        }
        assert_int_equal(said.code, cases[i].code);
        assert_string_equal(said.text[0], "");
        assert_true(g_str_has_prefix(said.text[1], "weir: "));
        assert_true(end != NULL && end[1] == '\0');
    }
}

/* @sub: of the group @name, or NULL. */
static void
check_help(const char *name, const char *sub)
{
    struct Said help, same;

    run(sub ? (const char *[]){name, sub, "--help", NULL}
            : (const char *[]){name, "--help", NULL},
        &help);
    run((const char *[]){"help", name, sub, NULL}, &same);
    assert_int_equal(help.code, 0);
    assert_string_equal(help.text[0], same.text[0]);
    assert_string_equal(help.text[1], "");
    assert_non_null(strstr(help.text[0], "Usage: weir "));
    assert_non_null(strstr(help.text[0], "\nOptions:\n"));
    assert_non_null(strstr(help.text[0], "\nExit codes:\n"));
    assert_non_null(strstr(help.text[0], "\nExample:\n  weir "));
    for (char *c = help.text[0], *end; *c != '\0'; c = end + 1) {
        end = strchr(c, '\n');
        assert_non_null(end);
        assert_true(end - c <= 80);
    }
}

/* Those of the program, or of @group; their number. */
static unsigned
check_all_help(const char *group)
{
    g_auto(GStrv) names = NULL;
    unsigned count = 0;
    struct Said list;

    run(group ? (const char *[]){group, "--commands", NULL}
              : (const char *[]){"--commands", NULL},
        &list);
    assert_int_equal(list.code, 0);
    names = g_strsplit(g_strstrip(list.text[0]), "\n", -1);
    for (char **name = names; *name != NULL; name++) {
        const struct CliCommand *command = group ? NULL : cli_find(*name);

        if (strcmp(*name, "help") == 0) {
            continue;
        }
        if (command != NULL && command->subs != NULL) {
            count += check_all_help(*name);
        } else {
            check_help(group ? group : *name, group ? *name : NULL);
            count++;
        }
    }
    return count;
}

static void
test_every_command_has_its_help(void **state)
{
    struct Said help, same;

    (void)state;
    assert_int_equal(check_all_help(NULL), 41);
    run((const char *[]){"snapshot", "--help", NULL}, &help);
    run((const char *[]){"help", "snapshot", NULL}, &same);
    assert_int_equal(help.code, 0);
    assert_string_equal(help.text[0], same.text[0]);
    assert_non_null(strstr(help.text[0], "\n  create    "));
}

static void
test_version_is_told(void **state)
{
    struct Said said;

    (void)state;
    run((const char *[]){"--version", NULL}, &said);
    assert_int_equal(said.code, 0);
    assert_string_equal(said.text[0], "weir " WEIR_VERSION "\n");
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_duration_takes_units_and_sums),
        cmocka_unit_test(test_mount_options_are_ours_or_fstabs),
        cmocka_unit_test(test_mountinfo_line_gives_names_unescaped),
        cmocka_unit_test(test_root_is_a_mount_and_nowhere_is_not),
        cmocka_unit_test(test_bad_usage_is_one_line_and_its_code),
        cmocka_unit_test(test_every_command_has_its_help),
        cmocka_unit_test(test_version_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
