/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-snapmount.c - which programs are run, and what is made of their words
 */
#include "fs/snapmount.h"
#include "tests/lib/test.h"

#include <string.h>

#define IMAGE "/m n/a,b:c\"d/.snapshots/s/vda.raw"
#define DIR   "/at the/dir;x"
#define WORK  "/run/we,ir/snapmount-1"

static const struct SnapMount plain = {.image = IMAGE, .dir = DIR};
static const struct SnapMount overlaid = {.image = IMAGE,
                                          .dir = DIR,
                                          .has_overlay = true};

/* Takes @argv; words joined by '|', which is in none of them. */
static void
check(char **argv, const char *want)
{
    char *text = g_strjoinv("|", argv);

    assert_string_equal(text, want);
    g_free(text);
    g_strfreev(argv);
}

static void
test_guest_plans(void **unused)
{
    (void)unused;
    check(snapmount_plan_guest(&plain, WORK, NULL),
          "guestmount|--ro|--format=raw|-a|" IMAGE "|-o|ro|--pid-file|" WORK
          "/pid|-i|" DIR);
    check(snapmount_plan_guest(&plain, WORK, "/dev/sda2"),
          "guestmount|--ro|--format=raw|-a|" IMAGE "|-o|ro|--pid-file|" WORK
          "/pid|-m|/dev/sda2|" DIR);
    check(snapmount_plan_guest(&overlaid, WORK, NULL),
          "guestmount|--rw|--format=qcow2|-a|" WORK
          "/disk.qcow2|-o|ro|--pid-file|" WORK "/pid|-i|" DIR);
    check(snapmount_plan_list(&plain, WORK),
          "virt-filesystems|--format=raw|-a|" IMAGE "|--filesystems");
    check(snapmount_plan_umount(DIR, false), "guestunmount|--no-retry|" DIR);
}

static void
test_overlay_plans(void **unused)
{
    (void)unused;
    check(snapmount_plan_overlay(&overlaid, WORK),
          "qemu-img|create|-q|-f|qcow2|-F|raw|-b|" IMAGE "|" WORK
          "/disk.qcow2");
    check(snapmount_plan_export(WORK),
          "qemu-storage-daemon|--blockdev|{\"driver\":\"qcow2\",\"node-name\":"
          "\"disk\",\"file\":{\"driver\":\"file\",\"filename\":\"" WORK
          "/disk.qcow2\"}}|--export|{\"type\":\"fuse\",\"id\":\"raw\","
          "\"node-name\":\"disk\",\"mountpoint\":\"" WORK
          "/raw\",\"writable\":true}|--daemonize");
}

static void
test_kernel_plans(void **unused)
{
    const struct SnapPart whole = {0};
    const struct SnapPart part = {.number = 2, .offset = 4096, .size = 512};

    (void)unused;
    check(snapmount_plan_parts(&plain),
          "partx|--noheadings|--raw|--output|NR,START,SECTORS|" IMAGE);
    check(snapmount_plan_probe(&plain, &whole), "blkid|-p|-o|export|" IMAGE);
    check(snapmount_plan_probe(&plain, &part),
          "blkid|-p|-o|export|-O|4096|-S|512|" IMAGE);
    check(snapmount_plan_loop(&plain, WORK, "/dev/loop7", &whole),
          "losetup|--read-only|/dev/loop7|" IMAGE);
    check(snapmount_plan_loop(&overlaid, WORK, "/dev/loop7", &part),
          "losetup|--offset=4096|--sizelimit=512|/dev/loop7|" WORK "/raw");
    check(snapmount_plan_umount(DIR, true), "umount|" DIR);
    check(snapmount_plan_detach("/dev/loop7"), "losetup|--detach|/dev/loop7");
}

/* Without an overlay no journal is replayed; nothing is ever writable. */
static void
test_mount_options_by_type(void **unused)
{
    static const struct {
        const char *type, *alone, *over;
    } cases[] = {
        {"ext4", "ro,noload", "ro"},
        {"xfs", "ro,norecovery,nouuid", "ro,nouuid"},
        {"btrfs", "ro,rescue=nologreplay", "ro"},
        {"vfat", "ro", "ro"},
    };

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *alone =
            g_strdup_printf("mount|-t|%s|-o|%s,nosuid,nodev|/dev/loop7|" DIR,
                            cases[i].type, cases[i].alone);
        g_autofree char *over =
            g_strdup_printf("mount|-t|%s|-o|%s,nosuid,nodev|/dev/loop7|" DIR,
                            cases[i].type, cases[i].over);

        check(snapmount_plan_mount(&plain, "/dev/loop7", cases[i].type), alone);
        check(snapmount_plan_mount(&overlaid, "/dev/loop7", cases[i].type),
              over);
    }
}

static void
test_parts_are_parsed(void **unused)
{
    GArray *parts = snapmount_parse_parts("1 2048 100\n"
                                          "junk\n"
                                          "2 x 5\n"
                                          "3 18446744073709551615 5\n"
                                          "14 4096 1\n");
    struct SnapPart *part = (struct SnapPart *)(void *)parts->data;

    (void)unused;
    assert_int_equal(parts->len, 2);
    assert_int_equal(part[0].number, 1);
    assert_int_equal(part[0].offset, 2048 * 512);
    assert_int_equal(part[0].size, 100 * 512);
    assert_int_equal(part[1].number, 14);
    g_array_unref(parts);
}

/* What a guest has put there must not become an option of ours. */
static void
test_probes_are_parsed(void **unused)
{
    static const struct {
        const char *text, *type;
    } cases[] = {
        {"DEVNAME=x\nTYPE=ext4\nUSAGE=filesystem\n", "ext4"},
        {"USAGE=filesystem\nTYPE=ext4", "ext4"},
        {"TYPE=LVM2_member\nUSAGE=raid\n", ""},
        {"TYPE=swap\nUSAGE=other\n", ""},
        {"TYPE=ext4\n", ""},
        {"LABEL=TYPE=xfs\nUSAGE=filesystem\n", ""},
        {"TYPE=-oexec\nUSAGE=filesystem\n", ""},
        {"TYPE=fuse.sh\nUSAGE=filesystem\n", ""},
        {"", ""},
    };

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct SnapPart part = {.type = "old"};

        snapmount_parse_probe(cases[i].text, &part);
        assert_string_equal(part.type, cases[i].type);
    }
}

static void
test_a_part_is_chosen(void **unused)
{
    const struct SnapPart one[] = {{1, 0, 0, ""}, {2, 0, 0, "xfs"}};
    const struct SnapPart two[] = {{1, 0, 0, "ext4"}, {2, 0, 0, "xfs"}};
    static const struct {
        const char *partition;
        int of_one, of_two;
    } cases[] = {
        {NULL, 1, -1}, {"2", 1, 1},   {"/dev/sda1", -1, 0}, {"/dev/sda2", 1, 1},
        {"p2", 1, 1},  {"3", -1, -1}, {"sda", -1, -1},      {"", -1, -1},
    };

    (void)unused;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;

        assert_int_equal(
            snapmount_choose_part(one, 2, cases[i].partition, &error),
            cases[i].of_one);
        assert_int_equal(error != NULL, cases[i].of_one < 0);
        g_clear_error(&error);
        assert_int_equal(
            snapmount_choose_part(two, 2, cases[i].partition, &error),
            cases[i].of_two);
        if (cases[i].of_two < 0) {
            assert_non_null(strstr(error->message, "1 ext4, 2 xfs"));
        }
        g_clear_error(&error);
    }
}

static void
test_a_device_is_chosen(void **unused)
{
    GError *error = NULL;
    char *device = snapmount_choose_device("/dev/sda\n", &error);

    (void)unused;
    assert_string_equal(device, "/dev/sda");
    g_free(device);
    assert_null(snapmount_choose_device("/dev/sda1\n/dev/sda2\n", &error));
    assert_non_null(strstr(error->message, "/dev/sda1, /dev/sda2"));
    g_clear_error(&error);
    assert_null(snapmount_choose_device("\n", &error));
    assert_non_null(error);
    g_clear_error(&error);
}

/* Output and the reason of a failure, without a shell in between. */
static void
test_programs_are_run_as_they_are(void **unused)
{
    char *says[] = {(char *)"printf", (char *)"%s", (char *)"$(x);`y` z", NULL};
    char *fails[] = {(char *)"ls", (char *)"/nonexistent/x", NULL};
    char *missing[] = {(char *)"no-such-program-here", NULL};
    GError *error = NULL;
    char *output = NULL;

    (void)unused;
    assert_true(snapmount_run(says, "x", &output, &error));
    assert_string_equal(output, "$(x);`y` z");
    g_free(output);
    assert_false(snapmount_run(fails, "x", NULL, &error));
    assert_true(g_str_has_prefix(error->message, "ls: "));
    assert_null(strchr(error->message, '\n'));
    g_clear_error(&error);
    assert_false(snapmount_run(missing, "the package", NULL, &error));
    assert_non_null(strstr(error->message, "install the package"));
    g_clear_error(&error);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guest_plans),
        cmocka_unit_test(test_overlay_plans),
        cmocka_unit_test(test_kernel_plans),
        cmocka_unit_test(test_mount_options_by_type),
        cmocka_unit_test(test_parts_are_parsed),
        cmocka_unit_test(test_probes_are_parsed),
        cmocka_unit_test(test_a_part_is_chosen),
        cmocka_unit_test(test_a_device_is_chosen),
        cmocka_unit_test(test_programs_are_run_as_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
